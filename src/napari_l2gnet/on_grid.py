"""Masks on a scan's own voxels, though their arrays run along other axes or hold a part of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from l2gnet_core.volume import HEADERS_ROUND, distance_apart
from napari_l2gnet.layers import filed_grid, lie_on_each_other


@dataclass(frozen=True)
class Fit:
    """How an array lies on a grid, for each axis (z,y,x) of that: which axis of the array runs
    along it, whether backwards, and at which voxel it begins."""

    order: tuple[int, ...] = (0, 1, 2)
    backwards: tuple[bool, ...] = (False, False, False)
    start: tuple[int, ...] = (0, 0, 0)

    def bring(self, data: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The array in the grid's shape: 0 where it has no voxels. Both (z,y,x), or (t,z,y,x) of as
        many frames."""
        if self == Fit() and data.shape == shape:
            return data
        first = data.ndim - 3
        turned = data.transpose(*range(first), *(first + axis for axis in self.order))
        turned = np.flip(turned, [first + axis for axis in range(3) if self.backwards[axis]])
        brought = np.zeros(shape, data.dtype)
        part = [slice(at, at + n) for at, n in zip(self.start, turned.shape[-3:], strict=True)]
        brought[(..., *part)] = turned
        return brought


def fit_of(layer: Any, onto: Any) -> Fit | None:
    """How a layer's voxels lie on those of another; None if they are no voxels of its grid.

    By what their files say where both say it, else only for the same shape at the same place.
    """
    one, grid = filed_grid(layer), filed_grid(onto)
    if one is None or grid is None:
        return Fit() if lie_on_each_other(layer, onto) else None
    if one.shape[:-3] != grid.shape[:-3]:
        return None
    whole = np.rint(np.linalg.inv(grid.affine) @ one.affine)
    steps = whole[:3, :3][::-1, ::-1]  # rows: the grid's axes z, y, x; columns: the array's
    if not all((np.abs(steps).sum(axis) == 1).all() for axis in (0, 1)):
        return None
    apart = distance_apart(one, replace(one, affine=grid.affine @ whole))
    if apart > min(HEADERS_ROUND, min(grid.spacing) / 4):
        return None
    order = tuple(int(axis) for axis in np.abs(steps).argmax(1))
    backwards = tuple(bool(row.sum() < 0) for row in steps)
    counts = [one.shape[-3:][axis] for axis in order]
    start = tuple(
        int(at) - (count - 1 if back else 0)
        for at, count, back in zip(whole[:3, 3][::-1], counts, backwards, strict=True)
    )
    size = grid.shape[-3:]
    inside = all(at >= 0 and at + n <= m for at, n, m in zip(start, counts, size, strict=True))
    # Scans of a study often begin at one place and have voxels of one size: that another mask
    # begins where this scan does makes it no part of it.
    part = tuple(counts) == size or any(start)
    return Fit(order, backwards, start) if inside and part else None
