"""Cells shown on the scan's voxels, slice by slice, without ever holding all voxels in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.inspect.cells import CellGrid


class CellArray:
    """An array (z,y,x), or (t,z,y,x), or (y,x), of which a napari layer asks one slice at a time.

    A scan of 512×512×100 voxels would take 100 MB for each map; its cells take a thousandth.

    cells: where they lie. values: the cells (h,w) of a frame and an index along the slicing axis,
    asked for each time. Both may be set anew, together.
    shape: of the array, that of the scan by default.
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
        """What NumPy would return for integers, slices, and one ellipsis."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(k is Ellipsis for k in keys):
            at = next(n for n, k in enumerate(keys) if k is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        cells, missing = self.cells, 4 - self.ndim
        whole = (1,) * missing + self.shape
        picked = [np.arange(n)[k] for n, k in zip(whole, [0] * missing + keys, strict=True)]
        frames, *zyx = (np.atleast_1d(p) for p in picked)
        indices = zyx.pop(cells.axis)
        rows, columns = cells.rows[zyx[0]], cells.columns[zyx[1]]
        found = np.empty((len(frames), len(indices), len(rows), len(columns)), self.dtype)
        for frame, of_frame in zip(frames.tolist(), found, strict=True):
            for index, out in zip(indices.tolist(), of_frame, strict=True):
                out[...] = self.values(frame, index).take(columns, 1).take(rows, 0)
        # Margins that the network does not see have no cells.
        seen_rows, seen_columns = cells.inside
        found[:, :, (zyx[0] < seen_rows.start) | (zyx[0] >= seen_rows.stop)] = 0
        found[..., (zyx[1] < seen_columns.start) | (zyx[1] >= seen_columns.stop)] = 0
        in_order = np.moveaxis(found, 1, 1 + cells.axis)
        return in_order.squeeze(tuple(axis for axis, p in enumerate(picked) if p.ndim == 0))


class OneFrame:
    """An array (t,z,y,x) that is zero but for one frame, without memory for the others."""

    def __init__(self, values: Any, frame: int, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.ndim = shape, values.dtype, 4
        self.size = int(np.prod(shape))
        self._values, self._frame = values, frame

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        time, *rest = key if isinstance(key, tuple) else (key,)
        part = np.asarray(self._values[tuple(rest)])
        frames = np.arange(self.shape[0])[time]
        return np.where((frames == self._frame).reshape(frames.shape + (1,) * part.ndim), part, 0)
