"""The cells of the code map on a scan's voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.segmenting.slice_view import SliceView

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class CellGrid:
    """The cells (tokens) of all slices of a scan (z,y,x), and the voxels that each one covers.

    A cell is a block of stride×stride pixels of a slice as the network sees it, after flips,
    resizing and padding; the last cells may reach into the padding. Arrays of cells are (n,h,w):
    slices as they are stored along `axis`, then the two other axes of (z,y,x) in their order.

    axis: the slicing axis. shape: of the scan, (z,y,x). size: (h,w). rows, columns: the cell row
    (column) of every voxel along the first (second) of the other axes; in margins, which the
    network does not see, that of the nearest cell. inside: the rows and columns of voxels without
    margins. pitch: voxels from one cell to the next along z,y,x. start: voxel coordinates (z,y,x)
    of the centre of cell (0,0,0).
    """

    axis: int
    shape: tuple[int, int, int]
    size: tuple[int, int]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    inside: tuple[slice, slice]
    pitch: tuple[float, float, float]
    start: tuple[float, float, float]

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.shape[self.axis]

    def on_slice(self, cells: NDArray[Any], outside: int = 0) -> NDArray[Any]:
        """Values (h,w) of one slice's cells on its pixels (H,W), as the scan stores them; `outside`
        in the margins."""
        return self.without_margins(cells.take(self.columns, 1).take(self.rows, 0), outside)

    def on_scan(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Values (n,h,w) of cells on the voxels (z,y,x), 0 in the margins."""
        # Columns first, so that the larger copy is of whole rows.
        slices = cells.take(self.columns, 2).take(self.rows, 1)
        return np.moveaxis(self.without_margins(slices), 0, self.axis)

    def without_margins(self, values: NDArray[Any], outside: int = 0) -> NDArray[Any]:
        """Values (…,H,W) of the pixels of slices, with `outside` written into their margins, in
        place."""
        rows, columns = self.inside
        for margin in (np.s_[: rows.start], np.s_[rows.stop :]):
            values[..., margin, :] = outside
        for margin in (np.s_[: columns.start], np.s_[columns.stop :]):
            values[..., margin] = outside
        return values

    def in_scan_order(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Cells (n,h,w) with their axes in the order (z,y,x), one array element for each cell; they
        lie on the scan's voxels at `pitch` and `start`."""
        return np.moveaxis(cells, 0, self.axis)

    def at(self, voxel: tuple[int, int, int]) -> tuple[int, int, int]:
        """The cell (slice, row, column) that covers a voxel (z,y,x)."""
        across = [voxel[axis] for axis in range(3) if axis != self.axis]
        return voxel[self.axis], int(self.rows[across[0]]), int(self.columns[across[1]])

    def sees(self, voxel: tuple[int, int, int]) -> bool:
        """Does the network see a voxel (z,y,x)? Not if it lies in a margin."""
        across = [voxel[axis] for axis in range(3) if axis != self.axis]
        return all(of.start <= at < of.stop for at, of in zip(across, self.inside, strict=True))

    def fits(self, other: CellGrid) -> bool:
        """Do the cells of another grid cover the same voxels of a slice?"""
        alike = np.array_equal(self.rows, other.rows) and np.array_equal(
            self.columns, other.columns
        )
        return self.axis == other.axis and self.inside == other.inside and alike

    def box(self, index: int, rows: slice, columns: slice) -> Box:
        """The voxels (z,y,x) that a rectangle of one slice's cells covers, as slices."""
        across = []
        for of, inside, wanted in zip(
            (self.rows, self.columns), self.inside, (rows, columns), strict=True
        ):
            ends = inside.start + np.searchsorted(of[inside], (wanted.start, wanted.stop))
            across.append(slice(*ends.tolist()))
        across.insert(self.axis, slice(index, index + 1))
        return across[0], across[1], across[2]

    def counts(self, mask: NDArray[Any], ids: list[int]) -> NDArray[np.int32]:
        """(n,h,w,len(ids)): for each cell, the number of its voxels with each of the ids in mask
        (z,y,x), without margins."""
        place = np.full(max([int(mask.max(initial=0)), *ids]) + 1, len(ids))
        place[ids] = np.arange(len(ids))
        bins = len(ids) + 1
        h, w = self.size
        rows, columns = self.inside
        cell = (self.rows[rows, None] * w + self.columns[columns]) * bins
        found = np.empty((self.count, h, w, bins), np.int32)
        for one, out in zip(np.moveaxis(mask, self.axis, 0), found, strict=True):
            counted = np.bincount((cell + place[one[self.inside]]).ravel(), minlength=out.size)
            out[...] = counted.reshape(out.shape)
        return found[..., :-1]

    def affine(self, of_scan: NDArray[np.float64]) -> NDArray[np.float64]:
        """(4,4), from cell (x,y,z) to RAS+ mm, given the affine of the scan's voxels."""
        to_voxels = np.diag([*self.pitch[::-1], 1.0])
        to_voxels[:3, 3] = self.start[::-1]
        return np.asarray(of_scan @ to_voxels)


def cell_grid(view: SliceView, stride: int) -> CellGrid:
    """The cells of a network of a stride that sees a scan through a view."""
    shape, pitch, start = [0, 0, 0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    shape[view.axes[0]] = view.shape[0]
    size, of_voxels, inside = [], [], []
    for axis in sorted(view.axes[1:]):
        at = view.axes.index(axis)
        pixels, seen, (before, after) = view.shape[at], view.size[at - 1], view.margins[at - 1]
        cells = -(-seen // stride)
        # The cell of a pixel by its centre, (p + ½) / pixels; in integers, so exact.
        of_voxel = (2 * np.arange(pixels) + 1) * seen // (2 * pixels * stride)
        shape[axis], pitch[axis] = before + pixels + after, stride * pixels / seen
        start[axis] = (pitch[axis] - 1) / 2
        if view.flipped[at]:
            of_voxel = cells - 1 - of_voxel[::-1]
            start[axis] = pixels - 1 - start[axis] - (cells - 1) * pitch[axis]
            before, after = after, before
        of_voxel = np.pad(of_voxel, (before, after), "edge")
        start[axis] += before
        inside.append(slice(before, before + pixels))
        size.append(cells)
        of_voxels.append(of_voxel.astype(np.intp))
    return CellGrid(
        axis=view.axes[0],
        shape=(shape[0], shape[1], shape[2]),
        size=(size[0], size[1]),
        rows=of_voxels[0],
        columns=of_voxels[1],
        inside=(inside[0], inside[1]),
        pitch=(pitch[0], pitch[1], pitch[2]),
        start=(start[0], start[1], start[2]),
    )
