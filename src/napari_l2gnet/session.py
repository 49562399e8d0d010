"""What the user is doing, without Qt: models in memory, and segmentations as they come about.

The widgets call these methods and draw what comes back; a script can do the same.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.card import ModelCard
from l2gnet_core.catalog import CatalogEntry, find_model, models
from l2gnet_core.cleanup import CleanUp, tidy
from l2gnet_core.files.values import plain_values
from l2gnet_core.volume import Grid, Volume

if TYPE_CHECKING:
    from l2gnet_core.checkpoint import Model

Place = tuple[int, int]  # (frame, index along the slicing axis)


class Segmentation:
    """A mask in the making: what the model said, what is shown, and which voxels a person touched.

    `shown` (t,z,y,x) is the array that the Labels layer draws; `predicted` what this class last
    put there. Where the two differ a person painted, and no prediction is written there again.
    `raw` is the model's own answer, before any clean-up.
    """

    def __init__(self, grid: Grid, card: ModelCard, axis: int) -> None:
        frames = grid.shape[0] if len(grid.shape) == 4 else 1
        ids = [label.id for label in card.labels]
        dtype = np.uint8 if max(ids) < 256 else np.uint16
        self.grid = grid
        self.card = card
        self.axis = axis
        self.raw = np.zeros((frames, *grid.shape[-3:]), dtype)
        self.predicted = np.zeros_like(self.raw)
        self.shown = np.zeros_like(self.raw)
        self.finished: set[Place] = set()
        self.counts = SliceCounts(self.shown, axis, ids)

    @property
    def places(self) -> list[Place]:
        """Every slice of the scan."""
        frames, count = len(self.shown), self.shown.shape[1 + self.axis]
        return [(frame, index) for frame in range(frames) for index in range(count)]

    def touched(self) -> bool:
        """Did a person change anything?"""
        return not np.array_equal(self.shown, self.predicted)

    def put(self, place: Place, labels: NDArray[Any]) -> None:
        """Take a predicted slice in, leaving alone what a person painted there."""
        self._slice(self.raw, place)[...] = labels
        self._show(place, labels)
        self.finished.add(place)

    def put_tidied(self, place: Place, labels: NDArray[Any]) -> None:
        """Show a tidied slice instead of the raw one, where no person painted."""
        self._show(place, labels)

    def _show(self, place: Place, labels: NDArray[Any]) -> None:
        shown, predicted = self._slice(self.shown, place), self._slice(self.predicted, place)
        untouched = shown == predicted
        np.copyto(shown, labels, where=untouched, casting="unsafe")
        # A voxel a person painted keeps differing from `predicted`, whatever is predicted there:
        # the old value stays unless it happens to be what the person chose.
        np.copyto(predicted, labels, where=untouched | (shown != labels), casting="unsafe")
        self.counts.stale.add(place)

    def _slice(self, array: NDArray[Any], place: Place) -> NDArray[Any]:
        return np.moveaxis(array[place[0]], self.axis, 0)[place[1]]

    def go_to(self, label: int, frame: int) -> tuple[int, int, int] | None:
        """Voxel (z,y,x) at the middle of a structure's largest slice in a frame, if it is there."""
        index = self.counts.largest_slice(label, frame)
        if index is None:
            return None
        inside = np.argwhere(self._slice(self.shown, (frame, index)) == label)
        voxel = [int(v) for v in np.median(inside, axis=0)]
        voxel.insert(self.axis, index)
        return voxel[0], voxel[1], voxel[2]


class SliceCounts:
    """Voxels of each structure in each slice; only `stale` slices are counted again."""

    def __init__(self, masks: NDArray[Any], axis: int, ids: Sequence[int]) -> None:
        self._masks = np.moveaxis(masks, 1 + axis, 1)
        self._ids = list(ids)
        self._counts = np.zeros((*self._masks.shape[:2], len(self._ids)), np.int64)
        self.stale: set[Place] = set()

    def mark_all(self) -> None:
        """Count everything again when `refresh` is next called."""
        self.stale.update(np.ndindex(self._masks.shape[:2]))

    def refresh(self, seconds: float = float("inf")) -> bool:
        """Count stale slices for at most about `seconds`; True when none is left."""
        until = time.perf_counter() + seconds
        while self.stale and time.perf_counter() < until:
            frame, index = self.stale.pop()
            found = np.bincount(self._masks[frame, index].ravel(), minlength=max(self._ids) + 1)
            self._counts[frame, index] = found[self._ids]
        return not self.stale

    def in_frame(self, frame: int) -> dict[int, int]:
        """Voxels by label id in one frame."""
        return dict(zip(self._ids, self._counts[frame].sum(0).tolist(), strict=True))

    def largest_slice(self, label: int, frame: int) -> int | None:
        """The slice in which a structure has most voxels; None if it has none."""
        counts = self._counts[frame, :, self._ids.index(label)]
        return int(counts.argmax()) if counts.any() else None


@dataclass(frozen=True)
class Request:
    """What to segment: which slices of which scan, with which model, and where.

    `places` come in the order they are wanted.
    """

    volume: Volume
    model: str
    places: Sequence[Place]
    axis: int
    device: str = "auto"


@dataclass(frozen=True)
class Step:
    """Progress of a segmentation: a sentence, and what has just come out of it."""

    message: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    place: Place | None = None
    labels: NDArray[Any] | None = None
    tidied: bool = False
    warnings: Sequence[str] = field(default_factory=tuple)


class Session:
    """The models at hand, and those in memory."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Path, str], Model] = {}

    def catalog(self) -> list[CatalogEntry]:
        """The models that can be chosen."""
        return models()

    def segment(self, request: Request) -> Generator[Step, None, None]:
        """Segment, yielding after every slice; meant for a thread of its own.

        Raises InputError for what cannot be segmented.
        """
        yield Step("Loading the model")
        from l2gnet_core.predict import choose_device, predict_slices
        from l2gnet_core.preprocess import intensity_window
        from l2gnet_core.suitability import mismatches

        device, _ = choose_device(request.device)
        model = self._load(find_model(request.model), device)
        total, done = len(request.places), 0
        left: float | None = None
        started = time.perf_counter()
        for frame, indices in _by_frame(request.places).items():
            yield Step("Reading the scan", done, total)
            data = request.volume.data
            warnings: list[str] = []
            # Files are plain already; layers of other plugins may hold anything.
            scan = plain_values(
                "The scan", np.asarray(data[frame] if data.ndim == 4 else data), warnings
            )
            yield Step("Segmenting", done, total, warnings=warnings)
            if frame == request.places[0][0]:
                window = intensity_window(scan)
                yield Step(
                    "Segmenting",
                    total=total,
                    warnings=mismatches(model.card, request.volume, request.axis, window),
                )
            for result in predict_slices(
                model, scan, request.volume, request.axis, indices, device
            ):
                if result is None:
                    yield Step("Segmenting", done, total, left)
                    continue
                done += 1
                left = (time.perf_counter() - started) / done * (total - done)
                yield Step(
                    "Segmenting",
                    done,
                    total,
                    left,
                    (frame, result.index),
                    result.labels,
                    warnings=[result.notice] if result.notice else [],
                )

    def clean(self, segmentation: Segmentation, choices: CleanUp) -> Generator[Step, None, None]:
        """Tidy the raw masks by the choices (none of them: show the raw masks again)."""
        yield Step("Tidying")
        painted = segmentation.shown != segmentation.predicted
        # With the strokes in place: what a person joined to an organ is a piece of it.
        masks = np.where(painted, segmentation.shown, segmentation.raw)
        for frame, mask in enumerate(masks):
            tidied = np.moveaxis(
                tidy(mask, segmentation.axis, choices, painted[frame]), segmentation.axis, 0
            )
            for index, labels in enumerate(tidied):
                yield Step("Tidying", place=(frame, index), labels=labels, tidied=True)

    def _load(self, path: Path, device: str) -> Model:
        from l2gnet_core.checkpoint import load_model

        key = (path.resolve(), device)
        if key not in self._loaded:
            self._loaded[key] = load_model(path, device)
        return self._loaded[key]


def _by_frame(places: Sequence[Place]) -> dict[int, list[int]]:
    """Slice indices by frame, both in the order they are wanted."""
    frames: dict[int, list[int]] = {}
    for frame, index in places:
        frames.setdefault(frame, []).append(index)
    return frames


@cache
def shared_session() -> Session:
    """The one session of this process: two viewers need not load a model twice."""
    return Session()
