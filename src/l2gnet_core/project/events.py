"""What can be done to a mask: everything that `replay` needs to do it again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.cleanup import CleanUp, tidy, tidy_around
from l2gnet_core.project.state import SliceKey, SliceState, slice_of

if TYPE_CHECKING:
    from l2gnet_core.checkpoint import Model
    from l2gnet_core.corrections import Correction
    from l2gnet_core.finetune import FineTuneResult
    from l2gnet_core.finetune_config import FineTuneConfig


@dataclass(frozen=True, eq=False)
class Tidying:
    """How answers were tidied, and the slices that a person had painted on by then, on which that
    depends."""

    choices: CleanUp
    painted: Mapping[SliceKey, SliceState] = field(default_factory=dict)

    def tidied(self, raw: NDArray[Any], axis: int) -> Iterator[tuple[SliceKey, NDArray[Any]]]:
        """Each slice of a mask (t,z,y,x), tidied."""
        for frame, mask in enumerate(raw):
            painted = {index: one for (at, index), one in self.painted.items() if at == frame}
            if self.choices.largest_piece:
                tidied = self._tidied_frame(mask, axis, painted)
                for index, picture in enumerate(np.moveaxis(tidied, axis, 0)):
                    yield (frame, index), picture
            else:  # no slice depends on another one
                for index, seen in enumerate(np.moveaxis(mask, axis, 0)):
                    alone = {0: painted[index]} if index in painted else {}
                    yield (frame, index), self._tidied_frame(seen[np.newaxis], 0, alone)[0]

    def _tidied_frame(
        self, mask: NDArray[Any], axis: int, slices: Mapping[int, SliceState]
    ) -> NDArray[Any]:
        """A mask (z,y,x), tidied around what is painted in slices, by their index."""
        if not slices:
            return tidy(mask, axis, self.choices)
        labels, painted = np.zeros(mask.shape, np.uint16), np.zeros(mask.shape, bool)
        for index, one in slices.items():
            np.moveaxis(labels, axis, 0)[index] = one.labels
            np.moveaxis(painted, axis, 0)[index] = one.by_person
        return tidy_around(mask, axis, self.choices, labels, painted)

    def whole(self, raw: NDArray[Any], axis: int) -> NDArray[Any]:
        """A mask (t,z,y,x), tidied."""
        answer = np.empty_like(raw)
        for place, picture in self.tidied(raw, axis):
            slice_of(answer, place, axis)[...] = picture
        return answer


@dataclass(frozen=True, eq=False)
class Answered:
    """A model's answer came into the mask, under what a person decided.

    what: "segmented" by a run, "accepted" after a fine-tuning or from a file, or "rolled back" to
    another version. places: in the order of segmenting. remembered: it is the answer that the model
    gave last, segmented no more: of all places. spared: those that kept the answer that they had,
    as reviewed ones do. tidying: of all places, before those were spared; None for the answer as it
    is. undoable: does anything change that is shown? Else there is nothing to undo. filled: slices
    that keep what was interpolated of organs that the model hardly knows, as with `Interpolated`.
    goes_on: these slices are of the same run as those that were segmented last.
    """

    what: Literal["segmented", "accepted", "rolled back"]
    model: Model
    places: Sequence[SliceKey]
    tidying: Tidying | None = None
    spared: Collection[SliceKey] = ()
    device: str = "cpu"
    remembered: bool = False
    undoable: bool = True
    filled: Mapping[SliceKey, SliceState] = field(default_factory=dict)
    goes_on: bool = False


@dataclass(frozen=True, eq=False)
class Interpolated:
    """Answers that no model gave came into slices, with the raw ones from then on, all copied;
    `by_person` is not used. undoable: as with `Answered`."""

    slices: Mapping[SliceKey, SliceState]
    undoable: bool = True


@dataclass(frozen=True, eq=False)
class Found:
    """What there was of slices that a crash had left unsettled, as with `Interpolated`."""

    slices: Mapping[SliceKey, SliceState]


@dataclass(frozen=True, eq=False)
class Tidied:
    """The answers of some slices were tidied, or shown untidied again, by a choice. tidying: None
    if these are more slices of the last one. undoable: it is one step, that changes what is shown.
    """

    tidying: Tidying | None
    places: Sequence[SliceKey]
    undoable: bool = False


@dataclass(frozen=True)
class Stepped:
    """The last answer that was accepted, rolled back to, interpolated or tidied in one step was
    undone, or redone."""

    what: Literal["undone", "redone"]


@dataclass(frozen=True)
class Reviewed:
    """A person vouches for slices from now on, or no more."""

    places: Sequence[SliceKey]
    reviewed: bool


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A model was fine-tuned; whether the result was kept is in it."""

    parent: Model
    corrections: Sequence[Correction]
    config: FineTuneConfig
    result: FineTuneResult
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Discarded:
    """A fine-tuned model was looked at and not accepted."""

    model: Model


Event: TypeAlias = (
    Answered | Interpolated | Found | Tidied | Stepped | Reviewed | FineTuned | Discarded
)
