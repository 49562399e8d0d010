"""What a project knows beside its slices: scan, grid, model, organs, what is reviewed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.card import ModelCard
from l2gnet_core.cleanup import CleanUp
from l2gnet_core.labels import Label, LabelSet
from l2gnet_core.project.scans import ScanId, grid_from_json, grid_to_json
from l2gnet_core.volume import Grid

SliceKey = tuple[int, int]  # (frame, index along the slicing axis)


@dataclass(frozen=True)
class ModelId:
    """Which model: the name on its card, and its hash (`l2gnet_core.weights.model_hash`)."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class SliceState:
    """One slice of a mask (H,W), its axes as the scan stores them: the labels shown, where they are
    a person's choice, and what the model says."""

    labels: NDArray[Any]
    by_person: NDArray[np.bool_]
    raw: NDArray[Any]


@dataclass(frozen=True)
class ProjectState:
    """All of a project but slices and history.

    orientation: letters that a person gave for a scan that does not say its own, in the file's
    order. card: of the model whose answer is shown; model: which weights, None before a first run.
    labels: organs with the names and colours on screen. finished, reviewed, touched: slices.
    unreviewed_organs: reviewed slices, each with the id of an organ that came after their review.
    unsettled: slices in which not all may be as the history has it, since that, or they, are yet to
    be saved.
    """

    scan: ScanId
    grid: Grid
    orientation: str
    axis: int
    card: ModelCard
    model: ModelId | None
    labels: LabelSet
    clean_up: CleanUp
    finished: frozenset[SliceKey] = frozenset()
    reviewed: frozenset[SliceKey] = frozenset()
    touched: frozenset[SliceKey] = frozenset()
    unreviewed_organs: frozenset[tuple[SliceKey, int]] = frozenset()
    unsettled: frozenset[SliceKey] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back; of the card everything but who trained it."""
        return {
            "scan": asdict(self.scan),
            "grid": grid_to_json(self.grid),
            "orientation": self.orientation,
            "axis": self.axis,
            "card": without_patients(self.card).to_json(),
            "model": None if self.model is None else asdict(self.model),
            "labels": [asdict(label) for label in self.labels],
            "clean_up": asdict(self.clean_up),
            "finished": places_to_json(self.finished),
            "reviewed": places_to_json(self.reviewed),
            "touched": places_to_json(self.touched),
            "unsaid": [[*place, label] for place, label in self.unreviewed_organs],
            "unsettled": places_to_json(self.unsettled),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ProjectState:
        """Inverse of `to_json`."""
        return cls(
            scan=ScanId(**values["scan"]),
            grid=grid_from_json(values["grid"]),
            orientation=str(values["orientation"]),
            axis=int(values["axis"]),
            card=ModelCard.from_json(values["card"]),
            model=None if values["model"] is None else ModelId(**values["model"]),
            labels=LabelSet(tuple(Label(**label) for label in values["labels"])),
            clean_up=CleanUp.from_json(values["clean_up"]),
            **{name: frozenset(places_from_json(values[name])) for name in _PLACES},
            # Projects of before do not tell.
            unreviewed_organs=frozenset(
                ((int(frame), int(index)), int(label))
                for frame, index, label in values.get("unsaid", ())
            ),
            unsettled=frozenset(places_from_json(values.get("unsettled", ()))),
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t,z,y,x) of the mask."""
        z, y, x = self.grid.shape[-3:]
        return (self.grid.shape[0] if len(self.grid.shape) == 4 else 1, z, y, x)


_PLACES = ("finished", "reviewed", "touched")


def without_patients(card: ModelCard) -> ModelCard:
    """A card without the names of the patients that a user's own model learnt from."""
    return replace(card, split={})


def places_to_json(places: Iterable[SliceKey]) -> list[list[int]]:
    """Slices as pairs of numbers."""
    return [[int(frame), int(index)] for frame, index in places]


def places_from_json(values: Iterable[Iterable[int]]) -> list[SliceKey]:
    """Inverse of `places_to_json`."""
    return [(int(frame), int(index)) for frame, index in values]


def slice_of(array: NDArray[Any], place: SliceKey, axis: int) -> NDArray[Any]:
    """The view that an array (t,z,y,x) has of a slice."""
    view: NDArray[Any] = np.moveaxis(array[place[0]], axis, 0)[place[1]]
    return view
