"""Finds what scripts write into a mask: such writes raise no event."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.project.state import SliceKey
from napari_l2gnet.masks.segmentation import Segmentation


class ScriptWatch:
    """Compares what a mask shows with what it showed before, plane by plane in memory order.

    as_saved: the labels that the mask shows at first are saved already; otherwise it was empty.
    """

    def __init__(self, segmentation: Segmentation, as_saved: bool) -> None:
        self._segmentation = segmentation
        shown = segmentation.shown
        # np.zeros takes neither time nor memory until it is written to; zeros_like does.
        self._last = shown.copy() if as_saved else np.zeros(shown.shape, shown.dtype)
        self._next_plane = 0

    def check(self, seconds: float) -> None:
        """Compare for about `seconds`, and mark the slices that have changed."""
        until, segmentation = time.perf_counter() + seconds, self._segmentation
        shown, axis = segmentation.shown, segmentation.axis
        # The mask may have got another array since.
        if self._last.dtype != shown.dtype:
            self._last = shown.copy()
        for _ in range(shown.shape[0] * shown.shape[1]):
            plane = divmod(self._next_plane, shown.shape[1])
            self._next_plane = (self._next_plane + 1) % (shown.shape[0] * shown.shape[1])
            other = shown[plane] != self._last[plane]
            if other.any():
                self._last[plane] = shown[plane]
                # The layer reports strokes itself.
                by_person = segmentation.by_person_in(plane)
                by_script = other & by_person & ~segmentation.stroked[plane]
                segmentation.answered |= _places(other, plane, axis)
                if by_script.any():
                    segmentation.note_edits(_places(by_script, plane, axis))
            if time.perf_counter() >= until:
                break


def _places(where: NDArray[np.bool_], plane: SliceKey, axis: int) -> set[SliceKey]:
    """The slices that hold the marked voxels of a plane (y,x). plane: its frame and z."""
    if axis == 0:
        return {plane} if where.any() else set()
    return {(plane[0], int(index)) for index in np.flatnonzero(where.any(2 - axis))}
