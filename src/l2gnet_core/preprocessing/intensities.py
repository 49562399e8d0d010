"""Which stored intensities are dark, which are bright, and what is air in a CT.

Must not import torch: cards and datasets are read without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Percentiles of a scan that become 0 and 1: the scale of a scanner is arbitrary, and minimum and
#: maximum would depend on outliers (fat, flow, metal).
PERCENTILES = (1.0, 99.0)
#: Lowest measured value of a CT in Hounsfield units (air is −1000). Scanners write lower values,
#: −2000 or −3024, outside of the circle that they reconstruct.
LOWEST_OF_CT = -1024.0
#: Hounsfield units: air and its noise lie below, lung and tissue above.
_AIR_OF_CT = -800.0
#: Hounsfield units: tissue and bone lie above, lung and air below.
TISSUE_OF_CT = -300.0
#: Fat, muscle, blood and organs lie within so many Hounsfield units of water, and make up this
#: share of a CT's tissue at least: 0.85 to 0.97 in the CTs at hand, and at most 0.61 in MR that was
#: scaled into the same range.
_SOFT, _SHARE_SOFT = 200.0, 0.7
#: Hounsfield units: at least half of the voxels below tissue are darker than this.
_LUNG_OF_CT = -700.0
#: Voxels of a scan that statistics are taken from.
_ENOUGH = 2_000_000
#: Soft tissue in Hounsfield units: the window in which abdomens are read.
SOFT_TISSUE_OF_CT = (-160.0, 240.0)
#: In other scans than CT, air is noise: darker than this share of the window, and with a lower
#: correlation between neighbouring pixels than this. Dark tissue correlates by 0.8 and more, noise
#: that a scanner has interpolated by up to 0.65. Settled on our training scans, which lose hardly a
#: line by it, and no labelled voxel.
_FAINT, _LIKE_ITS_NEIGHBOUR = 0.2, 0.7
#: Share of an empty line's pixels that may be brighter.
_SPECKS = 0.001


def intensity_window(scan: NDArray[Any]) -> tuple[float, float]:
    """The two values of a 3-D scan that become 0 and 1. In a CT, values below those of air, which
    stand for "not measured", do not lower the window.

    Percentiles of large scans are those of evenly spaced voxels, so that they stay quick.
    """
    some = _sample(scan)
    low, high = np.percentile(some, PERCENTILES)
    # "Not measured" is one value in many voxels, changed by less than 1 in resampling.
    if low < LOWEST_OF_CT and _is_ct(some) and low - some.min() < 1:
        low = LOWEST_OF_CT
    return float(low), float(high)


def is_ct(scan: NDArray[Any]) -> bool:
    """Does a scan hold air and mostly soft tissue in Hounsfield units?

    MR that was scaled or shifted below zero has fewer values near those of soft tissue. A CT stored
    with 1024 added is not recognised: it is hard to tell from MR.
    """
    return _is_ct(_sample(scan))


def _is_ct(values: NDArray[Any]) -> bool:
    # Quick answer for most scans: they hold no low values.
    if values.dtype.kind in "bu" or not values.min() < TISSUE_OF_CT:
        return False
    low, high = np.percentile(values, PERCENTILES)
    if not low < TISSUE_OF_CT < high:
        return False
    tissue = values > TISSUE_OF_CT
    count = np.count_nonzero(tissue)
    soft = np.count_nonzero(tissue & (values > -_SOFT) & (values < _SOFT))
    dark = np.count_nonzero(values < _LUNG_OF_CT)
    return bool(2 * dark >= values.size - count and soft >= _SHARE_SOFT * count)


def _sample(scan: NDArray[Any]) -> NDArray[Any]:
    """About `_ENOUGH` evenly spaced voxels, or all if there are fewer."""
    # With an even step, images of even width would be sampled in some columns only.
    step = max(1, scan.size // _ENOUGH) | 1
    # Not ravel(), which copies a whole scan that is flipped or transposed.
    some: NDArray[Any] = scan.flat[::step]
    return some


def is_empty(lines: NDArray[Any], window: tuple[float, float], ct: bool) -> bool:
    """Do lines of pixels (n,W), one from each slice, hold only the air of a CT, or faint noise
    without a pattern? window: that of the scan. ct: what `is_ct` says of it."""
    low, high = window
    most = _AIR_OF_CT if ct else low + _FAINT * (high - low)
    if not high > low or np.count_nonzero(lines > most) > _SPECKS * lines.size:
        return False
    return ct or _without_pattern((lines - low) / (high - low))


def cells_of_tissue(stack: NDArray[Any], side: int) -> NDArray[np.bool_]:
    """(n,h,w): which cells of side × side pixels of a CT (n,H,W) in Hounsfield units hold tissue
    throughout. Pixels at the end that do not fill a cell are left out."""
    count, height, width = stack.shape
    height, width = height // side, width // side
    tissue = np.asarray(stack[:, : height * side, : width * side] > TISSUE_OF_CT)
    return np.asarray(tissue.reshape(count, height, side, width, side).all((2, 4)))


def _without_pattern(values: NDArray[np.floating]) -> bool:
    values = values - values.mean(1, keepdims=True)
    alike = float((values[:, 1:] * values[:, :-1]).sum())
    return alike < _LIKE_ITS_NEIGHBOUR * float(np.square(values).sum())


def normalise(array: NDArray[Any], window: tuple[float, float]) -> NDArray[np.float32]:
    """Map `window` to [0, 1] and clip; a constant scan becomes zeros."""
    low, high = window
    if not high > low:
        return np.zeros(array.shape, np.float32)
    if array.dtype.itemsize <= 2 or array.dtype == np.float32:
        scaled = (array.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    else:
        # Large numbers may differ by less than the precision of float32.
        scaled = ((array - np.float64(low)) / (high - low)).astype(np.float32)
    return np.clip(scaled, 0, 1, out=scaled)
