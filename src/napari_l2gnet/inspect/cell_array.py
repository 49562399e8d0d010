"""Arrays that show cells on the scan's voxels, without holding all voxels in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.segmenting.cells import CellGrid


class CellArray:
    """An array (z,y,x), (t,z,y,x) or (y,x) for a napari layer, which reads one slice at a time.

    The voxels of a scan of 512×512×100 would take 100 MB for each map; its cells take a thousandth.

    cells: where they lie. values: a function (frame, index along the slicing axis) → cells (h,w),
    called at each access. Both may be replaced, together.
    shape: of the array; by default that of the scan.
    """

    def __init__(
        self,
        cells: CellGrid,
        dtype: np.dtype[Any],
        values: Callable[[int, int], NDArray[Any]],
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.shape = cells.shape if shape is None else shape
        self.dtype = dtype
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))
        self.cells = cells
        self.values = values

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """As NumPy's, for integers, slices and one ellipsis."""
        cells = self.cells
        picked = [np.array(0)] * (4 - self.ndim) + _picked(key, self.shape)
        frames, *zyx = (np.atleast_1d(p) for p in picked)
        indices = zyx.pop(cells.axis)
        rows, columns = cells.rows[zyx[0]], cells.columns[zyx[1]]
        found = np.empty((len(frames), len(indices), len(rows), len(columns)), self.dtype)
        for frame, of_frame in zip(frames.tolist(), found, strict=True):
            for index, out in zip(indices.tolist(), of_frame, strict=True):
                out[...] = self.values(frame, index).take(columns, 1).take(rows, 0)
        # Margins that the network is not shown have no cells.
        seen_rows, seen_columns = cells.inside
        found[:, :, (zyx[0] < seen_rows.start) | (zyx[0] >= seen_rows.stop)] = 0
        found[..., (zyx[1] < seen_columns.start) | (zyx[1] >= seen_columns.stop)] = 0
        in_order = np.moveaxis(found, 1, 1 + cells.axis)
        return in_order.squeeze(tuple(axis for axis, p in enumerate(picked) if p.ndim == 0))


class OneFrame:
    """An array (t,z,y,x) that is zero except in one frame, without memory for the others."""

    def __init__(self, values: Any, frame: int, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.ndim = shape, values.dtype, 4
        self.size = int(np.prod(shape))
        self._values, self._frame = values, frame

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """As NumPy's, for integers, slices and one ellipsis."""
        time, *rest = _of_axes(key, self.ndim)
        part = np.asarray(self._values[tuple(rest)])
        frames = np.arange(self.shape[0])[time]
        return np.where((frames == self._frame).reshape(frames.shape + (1,) * part.ndim), part, 0)


class Lit:
    """An array like a scan for a napari layer, which reads one slice at a time; it is zero except
    for what is lit, and needs no memory for the rest."""

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.ndim = shape, len(shape)
        self.size = int(np.prod(shape))
        self.darken()

    def darken(self) -> None:
        """Light up nothing."""
        self.light_box((slice(0, 0),) * self.ndim, np.zeros((0,) * self.ndim, self.dtype))

    def light_cells(self, cells: CellGrid, values: Callable[[int, int], NDArray[np.uint8]]) -> None:
        """Light up cells, and nothing else; values: as for `CellArray`."""
        self._lit: CellArray | _InBox = CellArray(cells, self.dtype, values, self.shape)

    def light_box(self, box: tuple[slice, ...], values: NDArray[np.uint8]) -> None:
        """Light up the values of a box that are not zero, and nothing else."""
        self._lit = _InBox(values, box, self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        return self._lit[key]


class _InBox:
    """An array that is zero outside of a box."""

    def __init__(
        self, values: NDArray[np.uint8], box: tuple[slice, ...], shape: tuple[int, ...]
    ) -> None:
        self._values, self._box, self._shape = values, box, shape

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """As NumPy's, for integers, slices and one ellipsis."""
        picked = _picked(key, self._shape)
        found = np.zeros([p.size for p in picked], self._values.dtype)
        into, of = [], []
        for indices, side in zip(map(np.atleast_1d, picked), self._box, strict=True):
            inside = np.flatnonzero((indices >= side.start) & (indices < side.stop))
            into.append(inside)
            of.append(indices[inside] - side.start)
        found[np.ix_(*into)] = self._values[np.ix_(*of)]
        return found.squeeze(tuple(axis for axis, p in enumerate(picked) if p.ndim == 0))


def _picked(key: Any, shape: tuple[int, ...]) -> list[NDArray[np.intp]]:
    """Indices along each axis, or the one index, that a key of integers, slices and one ellipsis
    picks from an array."""
    keys = _of_axes(key, len(shape))
    return [np.asarray(np.arange(n)[k]) for n, k in zip(shape, keys, strict=True)]


def _of_axes(key: Any, axes: int) -> list[Any]:
    """The integer or slice for each axis in a key of integers, slices and one ellipsis."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(k is Ellipsis for k in keys):
        at = next(n for n, k in enumerate(keys) if k is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (axes - len(keys) + 1)
    return keys + [slice(None)] * (axes - len(keys))
