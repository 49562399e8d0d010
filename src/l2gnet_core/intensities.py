"""Which stored intensities are dark, which are bright, and what of a CT is air.

Without torch: cards and datasets are read without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Percentiles of all slices that become 0 and 1. Bright outliers (fat, flow, metal) and the
#: scanner's arbitrary gain would otherwise set the scale.
PERCENTILES = (1.0, 99.0)
#: In Hounsfield units no CT measures less (air is −1000). Scanners write lower values, −2000 or
#: −3024, where they saw nothing at all: outside of the circle that they reconstruct.
LOWEST_OF_CT = -1024.0
#: Air and its noise lie below, lung and tissue above.
_AIR_OF_CT = -800.0
#: Tissue and bone lie above, lung and air below.
TISSUE_OF_CT = -300.0
#: Hounsfield units of fat, muscle, blood and organs, and the share of the tissue in a CT that
#: measures so little; 0.85 to 0.97 in the CTs at hand, up to 0.61 in MR stored with values as low.
_SOFT, _SHARE_SOFT = 200.0, 0.7
#: Air is less than this, and so is most of what is no tissue.
_LUNG_OF_CT = -700.0
#: Voxels that are enough to tell what a scan holds.
_ENOUGH = 2_000_000
#: Where soft tissue lies in Hounsfield units; what readers of abdomens look at.
SOFT_TISSUE_OF_CT = (-160.0, 240.0)
#: Of other scans noise is faint, a share of the window, and a pixel's is next to unlike its
#: neighbour's. Settled on the training scans at hand, of which hardly a line goes and no label;
#: dark tissue correlates by 0.8 and more, noise that a scanner has interpolated by up to 0.65.
_FAINT, _LIKE_ITS_NEIGHBOUR = 0.2, 0.7
#: The share of an empty line that may be brighter.
_SPECKS = 0.001


def intensity_window(scan: NDArray[Any], at_most: int = _ENOUGH) -> tuple[float, float]:
    """The two values of a 3-D scan that become 0 and 1. What a CT scanner writes where it saw
    nothing is no darker than air.

    Read off an evenly spaced subset of about `at_most` voxels, so that large scans stay quick.
    """
    some = _sample(scan, at_most)
    low, high = np.percentile(some, PERCENTILES)
    # Values as low as these are many and alike, give or take what resampling makes of them.
    if low < LOWEST_OF_CT and _is_ct(some) and low - some.min() < 1:
        low = LOWEST_OF_CT
    return float(low), float(high)


def is_ct(scan: NDArray[Any], at_most: int = _ENOUGH) -> bool:
    """Does a scan hold air and mostly soft tissue in Hounsfield units?

    MR that was scaled or shifted below zero has low values, too, but not so many where soft tissue
    lies. A CT that is stored with 1024 added is hard to tell from MR, and counts as none.
    """
    return _is_ct(_sample(scan, at_most))


def _is_ct(values: NDArray[Any]) -> bool:
    # Most scans are done here, and quickly.
    if values.dtype.kind in "bu" or not values.min() < TISSUE_OF_CT:
        return False
    low, high = np.percentile(values, PERCENTILES)
    if not low < TISSUE_OF_CT < high:
        return False
    tissue = values > TISSUE_OF_CT
    air = np.count_nonzero(values < _LUNG_OF_CT)
    soft = np.count_nonzero(tissue & (values > -_SOFT) & (values < _SOFT))
    count = np.count_nonzero(tissue)
    return bool(2 * air >= values.size - count and soft >= _SHARE_SOFT * count)


def _sample(scan: NDArray[Any], at_most: int) -> NDArray[Any]:
    """About `at_most` evenly spaced voxels."""
    # An odd step does not lock onto the columns of images whose width is even.
    step = max(1, scan.size // at_most) | 1
    # Not ravel(): it copies all of a scan that is seen the other way round.
    some: NDArray[Any] = scan.flat[::step]
    return some


def is_empty(lines: NDArray[Any], window: tuple[float, float], ct: bool) -> bool:
    """Do lines of pixels (n,W), one of each slice, hold nothing but the air of a CT, or faint noise
    without a pattern? `window` is that of the scan, `ct` is what `is_ct` says of it."""
    low, high = window
    most = _AIR_OF_CT if ct else low + _FAINT * (high - low)
    if not high > low or np.count_nonzero(lines > most) > _SPECKS * lines.size:
        return False
    return ct or _without_pattern((lines - low) / (high - low))


def cells_of_tissue(stack: NDArray[Any], side: int) -> NDArray[np.bool_]:
    """Which cells of side × side pixels of a CT (n,H,W) in Hounsfield units hold no air, (n,h,w).
    Pixels that fill no cell are left out."""
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
        # Large numbers may differ by less than float32 can tell.
        scaled = ((array - np.float64(low)) / (high - low)).astype(np.float32)
    return np.clip(scaled, 0, 1, out=scaled)
