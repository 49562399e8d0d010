"""Agreement of a segmentation with a reference: Dice, HD95, surface Dice.

HD95 is the larger of the two directed 95th percentiles of distances; surface Dice follows Nikolov
et al. (2018). Both are computed over surface voxels, as in MONAI (Cardoso et al., 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from l2gnet_core.scans.bounding_box import bounding_box


@dataclass(frozen=True)
class Agreement:
    """Scores of one structure: dice and surface_dice from 0 to 1, hd95 in the unit of spacing."""

    dice: float
    hd95: float
    surface_dice: float


def dice_per_class(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Dice of each class but background, over all voxels; NaN for a class that neither has.

    predicted, truth: class indices, of one shape. classes: their number, background included.
    Returns (classes − 1,) float.
    """
    scores = []
    for index in range(1, classes):
        a, b = predicted == index, truth == index
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return torch.stack(scores)


def agreement(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing: tuple[float, ...],
    tolerance: float,
) -> Agreement | None:
    """Agreement of two masks of one structure, both (z,y,x) or (y,x).

    spacing: of each axis, in mm. tolerance: of the surface Dice, in mm. Returns None if both masks
    are empty; if one is, Dice is 0 and HD95 the image's diagonal. A single slice (one axis of
    length 1) is scored in its plane.
    """
    if truth.ndim == 3 and truth.shape.count(1) == 1:
        # In 3D all voxels of a single slice are surface, because they touch the outside.
        axis = truth.shape.index(1)
        predicted, truth = predicted.squeeze(axis), truth.squeeze(axis)
        spacing = (*spacing[:axis], *spacing[axis + 1 :])
    if not predicted.any() and not truth.any():
        return None
    if not predicted.any() or not truth.any():
        sides = [n * s for n, s in zip(truth.shape, spacing, strict=True)]
        return Agreement(0.0, math.hypot(*sides), 0.0)
    overlap = 2 * int((predicted & truth).sum()) / (int(predicted.sum()) + int(truth.sum()))
    # Distances are computed in the box around both masks only: whole scans take seconds.
    box = bounding_box(predicted | truth)
    assert box is not None
    a, b = _surface(predicted[box]), _surface(truth[box])
    there = ndimage.distance_transform_edt(~b, sampling=spacing)[a]
    back = ndimage.distance_transform_edt(~a, sampling=spacing)[b]
    hd95 = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    # Headers hold float32, in which a distance of 2 mm may be 2.00000004 mm.
    within = tolerance * (1 + 1e-5)
    near = np.count_nonzero(there <= within) + np.count_nonzero(back <= within)
    return Agreement(overlap, float(hd95), near / (len(there) + len(back)))


def agreement_per_label(
    predicted: NDArray[Any],
    truth: NDArray[Any],
    names: Mapping[int, str],
    spacing: tuple[float, ...],
    tolerance: float,
) -> dict[str, Agreement]:
    """`agreement`, by name, of each structure in `names` (id → name) that one of the masks has.

    predicted, truth: label ids, both (z,y,x) or (y,x). spacing, tolerance: in mm.
    """
    found = {
        name: agreement(predicted == id, truth == id, spacing, tolerance)
        for id, name in names.items()
    }
    return {name: scores for name, scores in found.items() if scores is not None}


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask that share a face with its outside or with the array's border."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask))
