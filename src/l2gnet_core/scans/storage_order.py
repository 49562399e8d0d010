"""Masks on a scan's own voxels whose arrays have other axes, or begin and end elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from l2gnet_core.errors import InputError
from l2gnet_core.scans.volume import HEADERS_ROUND, Grid, Volume, distance_apart


@dataclass(frozen=True)
class Fit:
    """How an array lies on a grid.

    For each axis (z,y,x) of the grid: order, the axis of the array along it; backwards, whether
    that runs backwards; start, the voxel of the grid at which the array begins, negative
    before the grid's first one.
    """

    order: tuple[int, ...] = (0, 1, 2)
    backwards: tuple[bool, ...] = (False, False, False)
    start: tuple[int, ...] = (0, 0, 0)

    @property
    def turned(self) -> bool:
        """Has the array other axes than the grid, or backward ones?"""
        return (self.order, self.backwards) != (Fit.order, Fit.backwards)

    def leaves_out(self, one: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Has the grid voxels that an array of the shape `one` does not have?"""
        return any(
            at > 0 or at + one[axis - 3] < size
            for at, axis, size in zip(self.start, self.order, shape[-3:], strict=True)
        )

    def bring(
        self, data: npt.NDArray[Any], shape: tuple[int, ...], name: str = "the mask"
    ) -> npt.NDArray[Any]:
        """The array in the grid's shape, 0 where it has no voxels. Both are (z,y,x), or (t,z,y,x)
        with equally many frames.

        name: of the array, for messages. Raises InputError if it has labels outside the grid.
        """
        if self == Fit() and data.shape == shape:
            return data
        first = data.ndim - 3
        turned = data.transpose(*range(first), *(first + axis for axis in self.order))
        turned = np.flip(turned, tuple(first + axis for axis in range(3) if self.backwards[axis]))
        brought = np.zeros(shape, data.dtype)
        begins = [max(at, 0) for at in self.start]
        ends = [
            min(at + n, size)
            for at, n, size in zip(self.start, turned.shape[-3:], shape[-3:], strict=True)
        ]
        z, y, x = (slice(begin, end) for begin, end in zip(begins, ends, strict=True))
        w, v, u = (
            slice(begin - at, end - at)
            for begin, end, at in zip(begins, ends, self.start, strict=True)
        )
        kept = turned[..., w, v, u]
        if outside := np.count_nonzero(turned) - np.count_nonzero(kept):
            raise InputError(
                f"Expected labels inside the scan, but {outside} labelled voxels of {name} lie "
                "outside it; cut them away, or take the labels of this scan."
            )
        brought[..., z, y, x] = kept
        return brought


def fit_on(one: Grid, grid: Grid) -> Fit | None:
    """How the voxels of one grid lie on those of another; None if none coincide, or if one of the
    two is not oriented or not in mm."""
    if not all(each.oriented and each.units == "mm" for each in (one, grid)):
        return None
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
    meet = all(at < m and at + n > 0 for at, n, m in zip(start, counts, size, strict=True))
    # Scans of a study often share origin and voxel size: a mask of another size that begins at the
    # same voxel may belong to another scan, and one of the same size that begins at another voxel
    # has a wrong header: neither counts as one of this scan.
    own = any(start) == (tuple(counts) != size)
    return Fit(order, backwards, start) if meet and own else None


def in_order_of(grid: Grid, labels: Volume) -> Volume:
    """Labels on the voxels of their scan: axes are swapped and flipped, what labels leave out is
    background, and what they have around the scan is cut away; nothing is resampled.

    Labels are returned unchanged if they have the scan's voxels already, lie elsewhere, or if one
    of the two is not oriented or not in mm. Raises InputError for labels outside the scan.
    """
    fit = fit_on(labels.grid, grid)
    if fit is None or fit == Fit():
        return labels
    brought = fit.bring(labels.data, grid.shape, labels.name or "the mask")
    return grid.volume(brought, labels.warnings)


def on_one_grid(one: Volume, other: Volume) -> tuple[Volume, Volume]:
    """Two masks on the smallest grid that holds both, in the storage order of the second; they are
    background where only the other has voxels. Unchanged where `in_order_of` would not change the
    first."""
    fit = fit_on(one.grid, other.grid)
    if fit is None or fit == Fit():
        return one, other
    size = other.shape[-3:]
    ends = [at + one.shape[axis - 3] for at, axis in zip(fit.start, fit.order, strict=True)]
    first = [min(at, 0) for at in fit.start]
    shape = [max(end, n) - at for end, n, at in zip(ends, size, first, strict=True)]
    affine = other.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first[::-1]
    grid = replace(other.grid, affine=affine, shape=(*other.shape[:-3], *shape))
    begin = Fit(start=tuple(-at for at in first))
    moved = replace(fit, start=tuple(np.add(fit.start, begin.start).tolist()))
    return (
        grid.volume(moved.bring(one.data, grid.shape), one.warnings),
        grid.volume(begin.bring(other.data, grid.shape), other.warnings),
    )
