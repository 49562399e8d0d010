"""The state of a project besides its slices: scan, grid, model, organs, reviewed slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.models.card import ModelCard
from l2gnet_core.project.scans import ScanId, grid_from_json, grid_to_json
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import Label, LabelSet
from l2gnet_core.scans.volume import Grid

SliceKey = tuple[int, int]  # (frame, index along the slicing axis)


@dataclass(frozen=True)
class ModelId:
    """A model's name on its card, and its hash (`l2gnet_core.models.weights.model_hash`)."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class SliceState:
    """One slice of a mask; arrays are (H,W), their axes in the scan's storage order.

    labels: as shown. by_person: where labels are painted. raw: the model's untidied answer.
    """

    labels: NDArray[Any]
    by_person: NDArray[np.bool_]
    raw: NDArray[Any]


@dataclass(frozen=True)
class ProjectState:
    """A project without its slices and history.

    orientation: letters that the user gave to a scan without orientation, in the file's order.
    axis: of (z,y,x), along which slices lie.
    card, model: of the model whose answer is shown; model is None before the first run.
    labels: organs with the names and colours on screen.
    finished, reviewed, touched: slices that have an answer, are reviewed, are painted on.
    unreviewed_organs: (reviewed slice, id of an organ that was added after its review).
    unsettled: slices that may differ from the history, because one of the two is not yet saved.
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
        """Plain values that `from_json` reads back; the card is without its patients."""
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
            unreviewed_organs=frozenset(
                ((int(frame), int(index)), int(label)) for frame, index, label in values["unsaid"]
            ),
            unsettled=frozenset(places_from_json(values["unsettled"])),
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t,z,y,x) of the mask."""
        z, y, x = self.grid.shape[-3:]
        return (self.grid.shape[0] if len(self.grid.shape) == 4 else 1, z, y, x)

    @property
    def on_disk(self) -> frozenset[SliceKey]:
        """The slices that have a file, also after a crash."""
        return self.finished | self.reviewed | (self.touched - self.unsettled)


_PLACES = ("finished", "reviewed", "touched")


def without_patients(card: ModelCard) -> ModelCard:
    """A card without the names of the patients whom the model learnt from."""
    return replace(card, split={})


def places_to_json(places: Iterable[SliceKey]) -> list[list[int]]:
    """Slices as pairs of numbers."""
    return [[int(frame), int(index)] for frame, index in places]


def places_from_json(values: Iterable[Iterable[int]]) -> list[SliceKey]:
    """Inverse of `places_to_json`."""
    return [(int(frame), int(index)) for frame, index in values]


def slice_of(array: NDArray[Any], place: SliceKey, axis: int) -> NDArray[Any]:
    """A view of one slice (H,W) of an array (t,z,y,x); axis: of (z,y,x)."""
    view: NDArray[Any] = np.moveaxis(array[place[0]], axis, 0)[place[1]]
    return view
