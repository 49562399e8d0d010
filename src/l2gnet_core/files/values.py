"""Convert voxel values of any file: to real, finite numbers in native byte order, or labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from l2gnet_core.errors import InputError


def brightness(colors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Luma of red, green, blue, (3 or more, …) → (…) float32, with the weights of ITU-R BT.601."""
    red, green, blue = (channel.astype(np.float32) for channel in colors[:3])
    return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue, dtype=np.float32)


def plain_values(
    name: str, data: npt.NDArray[Any], warnings: list[str], mask: bool = False
) -> npt.NDArray[Any]:
    """Integers as they are, bool as uint8, floats as float32 or float64; all in native byte order.

    NaN and infinities become the lowest value, or 0 in a mask; a sentence is then added to
    warnings. Shapes stay. Raises InputError for complex numbers and all that is not a real number.
    """
    if data.dtype.kind == "c":
        raise InputError(f"{name} holds complex numbers: export the magnitude image.")
    if data.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {data.dtype} values where numbers are expected.")
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    if data.dtype.kind != "f":
        return data
    if data.dtype.itemsize not in (4, 8):
        data = data.astype(np.float64 if data.dtype.itemsize > 8 else np.float32)
    finite = np.isfinite(data)
    if finite.all():
        return data
    count = int(data.size - np.count_nonzero(finite))
    lowest = data.dtype.type(0) if mask or count == data.size else data[finite].min()
    what = "background" if mask else f"its lowest value, {lowest:g}"
    warnings.append(
        f"{name} holds {count:,} voxels that are not finite numbers; they count as {what}."
    )
    return np.where(finite, data, lowest)


def as_labels(data: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Label ids as uint8, or uint16 if one is above 255; shapes and ids stay.

    Raises InputError for fractions, and for ids below 0 or above 65535.
    """
    if data.dtype == np.uint8 or data.dtype == np.bool_:
        return data.astype(np.uint8, copy=False)
    if data.dtype.kind not in "iuf":
        raise InputError(
            f"{what} holds {data.dtype} values where whole label numbers are expected."
        )
    low, high = data.min(), data.max()
    if low < 0 or high > 65535 or not np.isfinite(high):
        raise InputError(
            f"{what} holds values from {low:g} to {high:g} where label numbers from 0 to 65535 "
            "are expected: choose a mask, not a scan."
        )
    if data.dtype.kind == "f" and not np.array_equal(data, np.rint(data)):
        raise InputError(
            f"{what} holds fractions where whole label numbers are expected: "
            "choose a mask, not a scan."
        )
    return data.astype(np.uint8 if high <= 255 else np.uint16, copy=False)
