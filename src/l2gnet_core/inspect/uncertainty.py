"""Where a model is unsure, from what it saw, and which slices to check first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.inspect.look import Look

#: How far from a structure's border, in pixels, mistakes are looked for when slices are ranked.
BORDER = 5
#: Added to the size of the structures in a slice, as a share of their median size in the scan: the
#: least doubt about an empty slice is not to outweigh everything.
FLOOR = 0.02
#: Percentiles of a map over a scan that become 0 and 1 where maps are combined.
RANGE = (1.0, 99.0)


def plan_entropy(look: Look) -> NDArray[np.float32]:
    """(n,h,w): entropy of each token's row of the plan, 0 (all mass to one reference) to 1 (alike
    to all). Raises InputError for a model without transport."""
    rows = look.plans
    logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    by_code = -(rows * logs).sum(2) / math.log(max(2, rows.shape[2]))
    slices = np.arange(len(look.codes))[:, None, None]
    return np.where(look.seen[:, None, None], by_code[slices, look.codes], np.float32(0))


def disagreement(mask: NDArray[np.generic], axis: int) -> NDArray[np.float32]:
    """(z,y,x): share of the (one or two) neighbouring slices in which a voxel of the mask is
    another structure. Zero for a single slice."""
    slices = np.moveaxis(mask, axis, 0)
    differs = np.zeros(slices.shape, np.float32)
    between = (slices[1:] != slices[:-1]).astype(np.float32)
    differs[1:] += between
    differs[:-1] += between
    differs[1:-1] /= 2
    return np.moveaxis(differs, 0, axis)


def uncertainty_maps(look: Look, mask: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """Every kind of doubt there is, each on the voxels (z,y,x) and in its own unit.

    mask: the model's answer (z,y,x). "softmax": entropy of the class probabilities, 0 to 1.
    "quantisation": mean squared distance between token and code. "plan", with transport only:
    entropy of the token's row of the plan, 0 to 1. "neighbours": see `disagreement`.
    """
    axis, on_scan = look.cells.axis, look.cells.on_scan
    maps = {
        "softmax": np.moveaxis(look.entropy, 0, axis).astype(np.float32),
        "quantisation": on_scan(look.error),
    }
    if look.plan_rows is not None:
        maps["plan"] = on_scan(plan_entropy(look))
    return {**maps, "neighbours": disagreement(mask, axis)}


def combined(maps: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """One map (z,y,x), 0 to 1: the mean of all maps, each first scaled so that its 1st and 99th
    percentile over the scan become 0 and 1. Maps that are the same everywhere count as zero."""
    total = np.zeros(next(iter(maps.values())).shape, np.float32)
    for values in maps.values():
        low, high = np.percentile(values.ravel()[:: max(1, values.size // 1_000_000) | 1], RANGE)
        if high > low:
            total += np.clip((values - low) / (high - low), 0, 1) / len(maps)
    return total


@dataclass(frozen=True)
class SliceDoubt:
    """A slice by its index along the slicing axis, and its expected error: uncertain voxels near
    borders per voxel of the structures; only its order among slices means something."""

    index: int
    expected: float


def ranked_slices(
    uncertainty: NDArray[np.floating], mask: NDArray[np.generic], axis: int
) -> list[SliceDoubt]:
    """All slices, the one most in need of a check first.

    uncertainty, mask: (z,y,x). What counts is uncertainty within `BORDER` pixels of a border in the
    slice or one of its neighbours, so that a structure that ends too early is noticed, too.
    """
    from scipy import ndimage

    slices, doubts = np.moveaxis(mask, axis, 0), np.moveaxis(uncertainty, axis, 0)
    borders = np.zeros(slices.shape, bool)
    across = slices[:, 1:] != slices[:, :-1]
    along = slices[:, :, 1:] != slices[:, :, :-1]
    borders[:, 1:] |= across
    borders[:, :-1] |= across
    borders[:, :, 1:] |= along
    borders[:, :, :-1] |= along
    near = ndimage.maximum_filter(borders, (3, 2 * BORDER + 1, 2 * BORDER + 1))
    sizes = np.count_nonzero(slices, axis=(1, 2))
    floor = FLOOR * float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
    found = []
    for index, (zone, doubt, size) in enumerate(zip(near, doubts, sizes.tolist(), strict=True)):
        amount = float(doubt[zone].sum(dtype=np.float64))
        found.append(SliceDoubt(index, amount / (amount + size + floor)))
    return sorted(found, key=lambda one: -one.expected)
