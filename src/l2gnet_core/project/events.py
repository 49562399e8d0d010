"""What can be done to a mask, with all that `replay` needs to repeat it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.project.state import SliceKey, SliceState, slice_of
from l2gnet_core.scans.cleanup import CleanUp, tidy, tidy_around

if TYPE_CHECKING:
    from l2gnet_core.finetuning.config import FineTuneConfig
    from l2gnet_core.finetuning.run import FineTuneResult
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.segmenting.corrections import Correction


@dataclass(frozen=True, eq=False)
class Tidying:
    """How answers were tidied. painted: slices that a person had painted on by then, because the
    result depends on them."""

    choices: CleanUp
    painted: Mapping[SliceKey, SliceState] = field(default_factory=dict)

    def tidied(self, raw: NDArray[Any], axis: int) -> Iterator[tuple[SliceKey, NDArray[Any]]]:
        """Each slice of a tidied mask (t,z,y,x), by its key."""
        for frame, mask in enumerate(raw):
            painted = {index: one for (at, index), one in self.painted.items() if at == frame}
            if self.choices.largest_piece:
                tidied = self._tidied_frame(mask, axis, painted)
                for index, picture in enumerate(np.moveaxis(tidied, axis, 0)):
                    yield (frame, index), picture
            else:  # slices do not depend on each other
                for index, seen in enumerate(np.moveaxis(mask, axis, 0)):
                    alone = {0: painted[index]} if index in painted else {}
                    yield (frame, index), self._tidied_frame(seen[np.newaxis], 0, alone)[0]

    def _tidied_frame(
        self, mask: NDArray[Any], axis: int, slices: Mapping[int, SliceState]
    ) -> NDArray[Any]:
        """A mask (z,y,x), tidied around what is painted. slices: by index."""
        if not slices:
            return tidy(mask, axis, self.choices)
        labels, painted = np.zeros(mask.shape, np.uint16), np.zeros(mask.shape, bool)
        for index, one in slices.items():
            np.moveaxis(labels, axis, 0)[index] = one.labels
            np.moveaxis(painted, axis, 0)[index] = one.by_person
        return tidy_around(mask, axis, self.choices, labels, painted)

    def whole(self, raw: NDArray[Any], axis: int) -> NDArray[Any]:
        """A tidied copy of a mask (t,z,y,x)."""
        answer = np.empty_like(raw)
        for place, picture in self.tidied(raw, axis):
            slice_of(answer, place, axis)[...] = picture
        return answer


@dataclass(frozen=True, eq=False)
class Answered:
    """A model's answer was taken into the mask, below what a person painted.

    what: "segmented" by a run, "accepted" after a fine-tuning or from a file, or "rolled back" to
        another version.
    places: slices in the order of segmenting.
    tidying: of all places, before some are spared; None for an untidied answer.
    spared: slices that keep the answer that they show, such as reviewed ones; the raw one is taken
        in.
    remembered: the answer is the model's last one, for all slices, without segmenting again.
    undoable: did what is shown change? If not, there is nothing to undo.
    filled: slices that keep interpolated labels of organs that the model hardly knows, as in
        `Interpolated`.
    goes_on: these slices belong to the same run as the slices segmented last.
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
    """Interpolated labels were taken into slices as answers.

    slices: copies of the new labels and raw answers; `by_person` is not used. undoable: as in
    `Answered`.
    """

    slices: Mapping[SliceKey, SliceState]
    undoable: bool = True


@dataclass(frozen=True, eq=False)
class Found:
    """The content found after a crash in slices that it left unsettled, as in `Interpolated`."""

    slices: Mapping[SliceKey, SliceState]


@dataclass(frozen=True, eq=False)
class Tidied:
    """The user changed how the answers of some slices are tidied.

    tidying: None for further slices of the last `Tidied`. undoable: is this a step that can be
    undone, because what is shown changes?
    """

    tidying: Tidying | None
    places: Sequence[SliceKey]
    undoable: bool = False


@dataclass(frozen=True)
class Stepped:
    """The last undoable change (accepted, rolled back, interpolated, tidied) was undone or
    redone."""

    what: Literal["undone", "redone"]


@dataclass(frozen=True)
class Reviewed:
    """A person marked slices as reviewed, or removed that mark."""

    places: Sequence[SliceKey]
    reviewed: bool


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A model was fine-tuned. result: says whether the new model was kept."""

    parent: Model
    corrections: Sequence[Correction]
    config: FineTuneConfig
    result: FineTuneResult
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Discarded:
    """A fine-tuned model was previewed and not accepted."""

    model: Model


Event: TypeAlias = (
    Answered | Interpolated | Found | Tidied | Stepped | Reviewed | FineTuned | Discarded
)
