"""Changes of single voxels that can be undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.project.state import SliceKey, slice_of


@dataclass(frozen=True, eq=False)
class ArrayDelta:
    """Voxels (flat indices) of an array, and their labels before and after a change."""

    voxels: NDArray[np.intp]
    before: NDArray[Any]
    after: NDArray[Any]

    @classmethod
    def between(
        cls,
        old: NDArray[Any],
        new: NDArray[Any],
        where: Callable[[tuple[int, ...]], NDArray[np.bool_]] | None = None,
    ) -> ArrayDelta:
        """The difference between two arrays (t,z,y,x).

        where: gives for a plane, by (frame, z), a mask (y,x) of voxels to compare; None: all.
        """
        voxels, before, after = [np.empty(0, np.intp)], [old[:0].ravel()], [old[:0].ravel()]
        # Plane by plane, which is ten times as fast as temporary arrays of a large scan's size.
        for number, plane in enumerate(np.ndindex(*old.shape[:2])):
            other = old[plane] != new[plane]
            if not other.any():
                continue
            if where is not None:
                other &= where(plane)
            voxels.append(np.flatnonzero(other) + number * other.size)
            before.append(old[plane][other])
            after.append(new[plane][other].astype(old.dtype))
        return cls(np.concatenate(voxels), np.concatenate(before), np.concatenate(after))

    @classmethod
    def of_slices(
        cls, array: NDArray[Any], slices: Mapping[SliceKey, NDArray[Any]], axis: int
    ) -> ArrayDelta:
        """The difference between an array (t,z,y,x) and new slices along an axis of (z,y,x)."""
        voxels, before, after = [np.empty(0, np.intp)], [array[:0].ravel()], [array[:0].ravel()]
        for (frame, index), new in slices.items():
            old = slice_of(array, (frame, index), axis)
            other = old != new
            where = list(np.nonzero(other))
            where.insert(axis, np.full(len(where[0]), index))
            within = np.ravel_multi_index(tuple(where), array.shape[1:])
            voxels.append(within + frame * array[frame].size)
            before.append(old[other])
            after.append(new[other].astype(array.dtype))
        return cls(np.concatenate(voxels), np.concatenate(before), np.concatenate(after))

    def into(self, array: NDArray[Any], back: bool = False) -> None:
        """Apply the change to an array (t,z,y,x) in place, or undo it; other voxels stay."""
        np.put(array, self.voxels, self.before if back else self.after)
