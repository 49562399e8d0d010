"""A mask in the making, without Qt: the model's answer, a person's strokes, and what is counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.card import ModelCard
from l2gnet_core.volume import Grid

if TYPE_CHECKING:
    from l2gnet_core.inspect.look import Look

Place = tuple[int, int]  # (frame, index along the slicing axis)

#: Strokes that can be undone: as many as napari's Labels layers keep.
UNDO_LIMIT = 100


@dataclass(frozen=True)
class Stroke:
    """Voxels (flat indices) a person changed in one undoable step, and their labels before and
    after it. Where `free` is true the model's answer was shown before."""

    voxels: NDArray[np.intp]
    before: NDArray[Any]
    after: NDArray[Any]
    free: NDArray[np.bool_]


class Segmentation:
    """A mask in the making: what the model said, what is shown, and which voxels are a person's.

    All arrays are (t,z,y,x). `shown` is what the Labels layer draws and a person paints on. `raw`
    is the model's own answer; `answer` the one to show where no person decided, raw or tidied.
    `stroked` marks voxels under strokes that are not undone. Scripts write without a stroke: where
    `shown` is not what was `known` of it, a person decided too. No answer is ever written there.
    """

    def __init__(self, grid: Grid, card: ModelCard, axis: int) -> None:
        frames = grid.shape[0] if len(grid.shape) == 4 else 1
        ids = [label.id for label in card.labels]
        dtype = np.uint8 if max(ids) < 256 else np.uint16
        self.grid = grid
        self.card = card
        self.axis = axis
        self.raw = np.zeros((frames, *grid.shape[-3:]), dtype)
        self.answer = np.zeros_like(self.raw)
        self.known = np.zeros_like(self.raw)
        self.shown = np.zeros_like(self.raw)
        self.stroked = np.zeros(self.raw.shape, bool)
        self.finished: set[Place] = set()
        #: What the model saw of each frame, where it has codes.
        self.looks: dict[int, Look] = {}
        #: Slices that a person has looked at and vouches for.
        self.reviewed: set[Place] = set()
        #: How the user wants this mask tidied.
        self.clean_up = card.clean_up
        self.counts = SliceCounts(self.shown, axis, ids)
        self._strokes: deque[Stroke] = deque(maxlen=UNDO_LIMIT)
        self._undone: deque[Stroke] = deque(maxlen=UNDO_LIMIT)

    @property
    def places(self) -> list[Place]:
        """Every slice of the scan."""
        frames, count = len(self.shown), self.shown.shape[1 + self.axis]
        return [(frame, index) for frame in range(frames) for index in range(count)]

    def coverage(self, frame: int | None = None) -> tuple[int, int]:
        """How many slices are segmented, and how many there are: of one frame, or of all."""
        places = [place for place in self.places if frame in (None, place[0])]
        return len(self.finished.intersection(places)), len(places)

    def by_person(self) -> NDArray[np.bool_]:
        """Voxels (t,z,y,x) whose label a person chose."""
        return self.stroked | (self.shown != self.known)

    def touched(self) -> bool:
        """Did a person change anything that is not undone?"""
        return bool(self.by_person().any())

    # ------------------------------------------------------------------ the model's answer

    def put(self, place: Place, labels: NDArray[Any]) -> None:
        """Take a predicted slice in, leaving alone what a person painted there."""
        self._slice(self.raw, place)[...] = labels
        self.put_tidied(place, labels)
        self.finished.add(place)

    def put_tidied(self, place: Place, labels: NDArray[Any]) -> None:
        """Show a tidied slice instead of the raw one, where no person painted."""
        self._slice(self.answer, place)[...] = labels
        self._show(place)
        self.counts.stale.add(place)

    def _show(self, place: Place) -> None:
        """Show the answer where no person decided."""
        shown, known, answer, stroked = (
            self._slice(array, place)
            for array in (self.shown, self.known, self.answer, self.stroked)
        )
        # A stroke under way is not announced yet, but has changed `shown` already.
        free = ~stroked & (shown == known)
        np.copyto(shown, answer, where=free, casting="unsafe")
        np.copyto(known, answer, where=free, casting="unsafe")

    def _slice(self, array: NDArray[Any], place: Place) -> NDArray[Any]:
        return np.moveaxis(array[place[0]], self.axis, 0)[place[1]]

    # ------------------------------------------------------------------ a person's strokes

    def stroke(self, voxels: NDArray[np.intp], before: NDArray[Any], after: NDArray[Any]) -> None:
        """A person has changed voxels (flat indices, each once) in one undoable step.

        before, after: their labels. They need not be in `shown` yet: the layer tells of some
        strokes a moment before it makes them.
        """
        free = ~self.stroked.flat[voxels] & (self.known.flat[voxels] == before)
        self.stroked.flat[voxels] = True
        self._strokes.append(Stroke(voxels, before, after, free))
        self._undone.clear()

    def undone(self) -> None:
        """The last stroke was undone in `shown`: what lay under it is the model's again.

        The layer restores what it showed before the stroke; the answer may be a newer one.
        """
        if not self._strokes or self._differs(self._strokes[-1].voxels, self._strokes[-1].before):
            return  # the layer had nothing left to undo
        stroke = self._strokes.pop()
        self._undone.append(stroke)
        free = stroke.voxels[stroke.free]
        self.stroked.flat[free] = False
        self.shown.flat[free] = self.known.flat[free] = self.answer.flat[free]

    def redone(self) -> None:
        """The last undone stroke was made again in `shown`."""
        if not self._undone or self._differs(self._undone[-1].voxels, self._undone[-1].after):
            return
        stroke = self._undone.pop()
        self._strokes.append(stroke)
        self.stroked.flat[stroke.voxels] = True

    def forget_strokes(self) -> None:
        """Nothing can be undone any more; what was painted stays a person's."""
        self._strokes.clear()
        self._undone.clear()

    def _differs(self, voxels: NDArray[np.intp], labels: NDArray[Any]) -> bool:
        return not np.array_equal(self.shown.flat[voxels], labels)

    def replace(self, labels: NDArray[Any]) -> bool:
        """Another array is shown from now on; what in it is not as known is a person's.

        labels: of any number of axes. False, and nothing changes, if it is no mask of this scan or
        cannot be written to.
        """
        fits = (
            labels.squeeze().shape == self.shown.squeeze().shape
            and labels.flags.writeable
            and np.can_cast(self.raw.dtype, labels.dtype)
            and labels.min() >= 0
            and labels.max() <= np.iinfo(np.uint16).max
        )
        if fits:
            self.shown = labels.reshape(self.shown.shape)
            self.counts = SliceCounts(self.shown, self.axis, [one.id for one in self.card.labels])
            self.counts.mark_all()
        return fits

    # ------------------------------------------------------------------ sizes and places

    def count(self, seconds: float = float("inf")) -> bool:
        """Count what is stale for at most about `seconds`; True when nothing is left."""
        until = time.perf_counter() + seconds
        while self.counts.stale and time.perf_counter() < until:
            place = self.counts.stale.pop()
            # A stroke that was broken off in the middle leaves what was there before an answer.
            self._show(place)
            self.counts.count(place)
        return not self.counts.stale

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
    """Voxels of each structure in each slice; `stale` slices are to be counted again."""

    def __init__(self, masks: NDArray[Any], axis: int, ids: Sequence[int]) -> None:
        self._masks = np.moveaxis(masks, 1 + axis, 1)
        self._ids = list(ids)
        self._counts = np.zeros((*self._masks.shape[:2], len(self._ids)), np.int64)
        self.stale: set[Place] = set()

    def mark_all(self) -> None:
        """Every slice may have changed."""
        self.stale.update(np.ndindex(self._masks.shape[:2]))

    def count(self, place: Place) -> None:
        """Count one slice again."""
        labels, top = self._masks[place].ravel(), max(self._ids)
        if labels.dtype.itemsize > 2:
            # Arrays of other plugins: bincount needs as much room as the largest id.
            labels = labels[(labels >= 0) & (labels <= top)].astype(np.intp)
        self._counts[place] = np.bincount(labels, minlength=top + 1)[self._ids]

    def in_frame(self, frame: int) -> dict[int, int]:
        """Voxels by label id in one frame."""
        return dict(zip(self._ids, self._counts[frame].sum(0).tolist(), strict=True))

    def largest_slice(self, label: int, frame: int) -> int | None:
        """The slice in which a structure has most voxels; None if it has none."""
        counts = self._counts[frame, :, self._ids.index(label)]
        return int(counts.argmax()) if counts.any() else None
