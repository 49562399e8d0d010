"""Numbers of voxels of each structure in each slice of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.project.state import SliceKey


class SliceCounts:
    """Numbers of voxels of each structure in each slice. `stale` slices must be counted again."""

    def __init__(self, masks: NDArray[Any], axis: int, ids: Sequence[int]) -> None:
        self._masks = np.moveaxis(masks, 1 + axis, 1)
        self._ids = list(ids)
        self._counts = np.zeros((*self._masks.shape[:2], len(self._ids)), np.int64)
        self.stale: set[SliceKey] = set()

    def mark_all(self) -> None:
        """Every slice may have changed."""
        self.stale.update(np.ndindex(self._masks.shape[:2]))

    def count(self, place: SliceKey) -> None:
        """Count one slice again."""
        labels, top = self._masks[place].ravel(), max(self._ids)
        if labels.dtype.itemsize > 2:
            # Arrays from other plugins: bincount needs memory in proportion to the largest id.
            labels = labels[(labels >= 0) & (labels <= top)].astype(np.intp)
        self._counts[place] = np.bincount(labels, minlength=top + 1)[self._ids]

    def in_frame(self, frame: int) -> dict[int, int]:
        """Voxels by label id in one frame."""
        return dict(zip(self._ids, self._counts[frame].sum(0).tolist(), strict=True))

    def largest_slice(self, label: int, frame: int) -> int | None:
        """The slice with the most voxels of a structure; None if the frame has none."""
        counts = self._counts[frame, :, self._ids.index(label)]
        return int(counts.argmax()) if counts.any() else None
