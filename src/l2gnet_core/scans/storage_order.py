"""Masks on a scan's own voxels whose arrays have other axes or hold only a part of the scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from l2gnet_core.scans.volume import HEADERS_ROUND, Grid, Volume, distance_apart


@dataclass(frozen=True)
class Fit:
    """How an array lies on a grid.

    For each axis (z,y,x) of the grid: order, the axis of the array along it; backwards, whether
    that runs backwards; start, the voxel of the grid at which the array begins.
    """

    order: tuple[int, ...] = (0, 1, 2)
    backwards: tuple[bool, ...] = (False, False, False)
    start: tuple[int, ...] = (0, 0, 0)

    def bring(self, data: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The array in the grid's shape, 0 where it has no voxels. Both are (z,y,x), or (t,z,y,x)
        with equally many frames."""
        if self == Fit() and data.shape == shape:
            return data
        first = data.ndim - 3
        turned = data.transpose(*range(first), *(first + axis for axis in self.order))
        turned = np.flip(turned, tuple(first + axis for axis in range(3) if self.backwards[axis]))
        brought = np.zeros(shape, data.dtype)
        z, y, x = (slice(at, at + n) for at, n in zip(self.start, turned.shape[-3:], strict=True))
        brought[..., z, y, x] = turned
        return brought


def fit_on(one: Grid, grid: Grid) -> Fit | None:
    """How the voxels of one grid lie on those of another; None if they do not coincide.

    Both must be oriented and in mm.
    """
    if one.shape[:-3] != grid.shape[:-3]:
        return None
    if np.linalg.matrix_rank(grid.affine) < 4:
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
    # Scans of a study often share origin and voxel size: a smaller mask that begins at the same
    # voxel may belong to another scan, so it does not count as a part of this one.
    part = tuple(counts) == size or any(start)
    return Fit(order, backwards, start) if inside and part else None


def in_order_of(grid: Grid, labels: Volume) -> Volume:
    """Labels in the storage order of their scan: axes are swapped and flipped, nothing resampled.

    Labels are returned unchanged if they have that order already, lie elsewhere, hold a part of
    the scan, or if one of the two is not oriented or not in mm.
    """
    if not all(one.oriented and one.units == "mm" for one in (grid, labels)):
        return labels
    fit = fit_on(labels.grid, grid)
    if fit is None or fit == Fit() or sorted(labels.shape[-3:]) != sorted(grid.shape[-3:]):
        return labels
    return grid.volume(fit.bring(labels.data, grid.shape), labels.warnings)
