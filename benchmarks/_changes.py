"""What another scanner does to a scan: contrast, resolution, noise, bias, orientation.

All work on slices (n,H,W) in [0,1], at the one strength in `CHANGES`. The strengths were chosen by
the start Dice of the shipped model on its tuning patients alone (`annotation_effort.py start`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.preprocessing.intensities import intensity_window, normalise

Array = NDArray[np.generic]
Images = NDArray[np.float32]


def contrast(image: Images, gamma: float, rng: Generator) -> Images:
    """Dark tissue becomes darker still."""
    return image**gamma


def noise(image: Images, sigma: float, rng: Generator) -> Images:
    """Rician noise, as in magnitude images; sigma is a share of the scan's range."""
    real, imaginary = rng.normal(0, sigma, (2, *image.shape))
    return np.hypot(image + real, imaginary)


def resolution(image: Images, factor: float, rng: Generator) -> Images:
    """In-plane pixels made wider by a factor, then interpolated back as scanners do."""
    # The standard deviation of a box of that width.
    smooth = ndimage.gaussian_filter(image, (0, factor / 12**0.5, factor / 12**0.5))
    small = ndimage.zoom(
        smooth, (1, 1 / factor, 1 / factor), order=1, grid_mode=True, mode="nearest"
    )
    back = (1, image.shape[1] / small.shape[1], image.shape[2] / small.shape[2])
    return ndimage.zoom(small, back, order=1, grid_mode=True, mode="nearest")


def bias(image: Images, strength: float, rng: Generator) -> Images:
    """A surface coil: brighter towards one side, by exp(±strength) from end to end."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape[1:]), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    return image * np.exp(strength * (np.cos(angle) * rows + np.sin(angle) * columns))


def orientation(image: Array, zoom: float, order: int, outside: int) -> Array:
    """Turned by 45 degrees in plane, the stack upside down, in a field of view that shows
    everything `zoom` times as large."""
    turn = np.array([[1, -1], [1, 1]]) / 2**0.5 / zoom
    centre = (np.array(image.shape[1:]) - 1) / 2
    slices = [
        ndimage.affine_transform(
            one, turn, centre - turn @ centre, order=order, mode="constant", cval=outside
        )
        for one in image[::-1]
    ]
    return np.stack(slices)


_LOOKS: dict[str, Callable[[Images, float, Generator], Images]] = {
    f.__name__: f for f in (contrast, noise, resolution, bias)
}
#: Strength of each change.
CHANGES: dict[str, float] = {
    "contrast": 2.6,
    "resolution": 4.5,
    "noise": 0.12,
    "bias": 2.0,
    "orientation": 0.5,
}


def changed(
    name: str,
    stacks: Sequence[Array],
    seed: int,
    outside: Sequence[int],
    strength: float | None = None,
) -> list[Array]:
    """The scan (n,H,W) and its labels (n,H,W) after one of `CHANGES`.

    outside: the value of voxels that the scan does not reach.
    """
    strength = CHANGES[name] if strength is None else strength
    scan, *labels = stacks
    image = normalise(scan, intensity_window(scan))
    if name != "orientation":
        other = _LOOKS[name](image, strength, np.random.default_rng(seed))
        return [other.astype(np.float32), *labels]
    return [
        orientation(stack, strength, order, value)
        for stack, order, value in zip((image, *labels), (1, 0, 0), outside, strict=False)
    ]
