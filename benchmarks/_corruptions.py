"""Five ways to make a scan worse than the training scans, each at one fixed strength.

All work on slices (n,H,W) in [0,1]; `rotation` turns the labels too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.augmentation.sampling import TrainingCase

Array = NDArray[np.float32]
_SEED = 0


def noise(image: Array) -> Array:
    """Gaussian noise, σ 0.12 of the scan's range."""
    return image + np.random.default_rng(_SEED).normal(0, 0.12, image.shape)


def blur(image: Array) -> Array:
    """Gaussian blur in plane, σ 2 pixels."""
    return ndimage.gaussian_filter(image, (0, 2, 2))


def bias_field(image: Array) -> Array:
    """A smooth gain between about 0.4 and 2.5 over the slice."""
    coarse = np.random.default_rng(_SEED).normal(0, 0.6, (3, 3))
    zoom = (image.shape[1] / 3, image.shape[2] / 3)
    field = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
    return image * np.exp(field)[: image.shape[1], : image.shape[2]]


def contrast(image: Array) -> Array:
    """Gamma 2.2: dark tissue becomes darker still."""
    return image.clip(0, 1) ** 2.2


def rotation(image: Array, order: int = 1) -> Array:
    """45 degrees in plane."""
    return ndimage.rotate(image, 45, axes=(1, 2), reshape=False, order=order)


CORRUPTIONS: dict[str, Callable[[Array], Array]] = {
    f.__name__.replace("_", " "): f for f in (noise, blur, bias_field, contrast, rotation)
}


def corrupted(frame: TrainingCase, name: str) -> TrainingCase:
    """The frame after one of `CORRUPTIONS`."""
    image = CORRUPTIONS[name](frame.image.numpy().astype(np.float32)).clip(0, 1)
    classes = frame.classes
    if name == "rotation":
        classes = torch.from_numpy(rotation(classes.numpy(), order=0))
    return TrainingCase(torch.from_numpy(image).half(), classes, frame.step)
