"""Systematic mistakes, planted into masks of hearts: renamed parts and leaked regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.generic]
RIGHT, MYOCARDIUM, LEFT = 1, 2, 3


def planted(mask: Array) -> dict[str, Array]:
    """One mask (n,H,W) for each kind of mistake, with that mistake in all slices.

    Lengths are shares of the radius of a disc with the area of myocardium and left ventricle.
    """
    radius = np.sqrt(np.isin(mask, (MYOCARDIUM, LEFT)).sum((1, 2)).clip(1) / np.pi)[:, None, None]
    from_right, from_wall = (_distance(mask == label) / radius for label in (RIGHT, MYOCARDIUM))
    above, left = _sides(mask == LEFT)
    background = mask == 0
    parts = {
        "septum named right ventricle": ((mask == MYOCARDIUM) & (from_right <= 0.35), RIGHT),
        "half the left ventricle named myocardium": ((mask == LEFT) & left, MYOCARDIUM),
        "upper myocardium named left ventricle": ((mask == MYOCARDIUM) & above, LEFT),
        "right ventricle named left ventricle": (mask == RIGHT, LEFT),
        "right ventricle leaks": (background & (from_right <= 0.3) & (from_wall > 0.3), RIGHT),
        "myocardium leaks": (background & (from_wall <= 0.3) & (from_right > 0.5), MYOCARDIUM),
    }
    return {name: np.where(where, label, mask) for name, (where, label) in parts.items()}


def _distance(structure: Array) -> NDArray[np.float64]:
    """Distance in pixels to the structure in the same slice; infinite in slices without it."""
    return np.stack(
        [
            ndimage.distance_transform_edt(~one) if one.any() else np.full(one.shape, np.inf)
            for one in structure
        ]
    )


def _sides(structure: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(above, left of) the structure's centre in each slice; empty in slices without it."""
    above, left = np.zeros((2, *structure.shape), bool)
    for index, one in enumerate(structure):
        if one.any():
            row, column = np.argwhere(one).mean(0)
            above[index, : int(np.ceil(row))] = True
            left[index, :, : int(np.ceil(column))] = True
    return above, left
