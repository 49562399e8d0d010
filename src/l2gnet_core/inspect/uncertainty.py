"""Where a model is unsure, from what it saw, and which slices to check first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.inspect.look import Look

#: How far from a structure's border, in pixels, mistakes are looked for when slices are ranked.
BORDER = 5
#: Added to the size of the structures in a slice, as a share of their median size in the scan: the
#: least doubt about an empty slice is not to outweigh everything.
FLOOR = 0.02
#: Pixels up to which distances to borders tell anything; beyond, they count as that.
FAR = 10
#: Chance that a voxel near a border is wrong, by logistic regression on the log odds of its softmax
#: entropy, clipped to `SURE`, on its disagreement with the neighbouring slices, and on its distance
#: to the next border, as a share of `FAR`, and that squared: doubt at a border is usual, the same
#: doubt away from any is not.
OF_ENTROPY, OF_NEIGHBOURS, OF_DISTANCE, OF_SQUARE, VOXEL_OFFSET = 0.68, 3.41, -1.80, 3.12, -1.70
SURE = 0.002
#: Expected loss of Dice in a slice, by the same on the logarithm of its share of wrong voxels, to
#: which `FLOOR` is added, and on how badly its structures overlap those of the neighbouring slices.
OF_SHARE, OF_OVERLAP, SLICE_OFFSET = 1.22, 1.61, -0.01
#: What slices lack to full overlap where no neighbour can tell: the mean over the true labels of
#: the training patients of `cardiac-cine`.
USUAL_OVERLAP = 0.30
# These were fitted by `python benchmarks/inspection.py fit`, for `cardiac-cine` on patients that
# were not tested on.


def plan_entropy(look: Look) -> NDArray[np.float32]:
    """(n,h,w): entropy of each token's row of the plan, 0 (all mass to one reference) to 1 (alike
    to all). Raises InputError for a model without transport."""
    rows = look.plans
    logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    by_code = -(rows * logs).sum(2) / math.log(max(2, rows.shape[2]))
    slices = np.arange(len(look.codes))[:, None, None]
    return np.where(look.seen[:, None, None], by_code[slices, look.codes], np.float32(0))


def border_distances(slices: NDArray[np.generic]) -> NDArray[np.float32]:
    """(n,H,W): pixels from each pixel of a mask (n,H,W) to the next border in its slice, ½ to
    `FAR`; `FAR` where there is none."""
    from scipy import ndimage

    distances = np.full(slices.shape, FAR, np.float32)
    for borders, out in zip(_borders(slices), distances, strict=True):
        if found := ndimage.find_objects(borders.view(np.uint8)):
            # Most of a slice is far from anything, and left alone.
            box = tuple(slice(max(0, side.start - FAR), side.stop + FAR) for side in found[0])
            from_pixels = ndimage.distance_transform_edt(~borders[box])
            out[box] = np.minimum(from_pixels + 0.5, FAR)
    return distances


def disagreement(
    slices: NDArray[np.generic],
    distances: NDArray[np.float32],
    seen: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """(n,H,W): how clearly the (one or two) neighbouring slices make a voxel another structure
    than its own slice does. 0: it lies `FAR` pixels inside the same in them; 1: as far inside
    another; ½: at their border. Where none can tell, they are taken to agree.

    slices: of a mask, (n,H,W). distances: its `border_distances`. seen: (n,), slices that hold an
    answer; all of them by default.
    """
    count = len(slices)
    tells = np.ones(count, bool) if seen is None else seen
    found = np.zeros(slices.shape, np.float32)
    for index, out in enumerate(found):
        beside = [one for one in (index - 1, index + 1) if 0 <= one < count and tells[one]]
        for one in beside or [index]:
            against = slices[one] != slices[index]
            out += np.where(against, distances[one], -distances[one]) / max(1, len(beside))
    found /= 2 * FAR
    found += 0.5
    return found


def uncertainty_maps(look: Look, mask: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """Every kind of doubt there is, each on the voxels (z,y,x) and in its own unit.

    mask: the model's answer (z,y,x). "combined": the chance to be wrong, see `chance_of_mistake`,
    0 in slices that were not seen. "softmax": entropy of the class probabilities, 0 to 1.
    "neighbours": see `disagreement`. "quantisation": mean squared distance between token and code.
    "plan", with transport only: entropy of the token's row of the plan, 0 to 1.
    """
    axis, on_scan = look.cells.axis, look.cells.on_scan
    slices, softmax = np.moveaxis(mask, axis, 0), look.entropy.astype(np.float32)
    distances = border_distances(slices)
    neighbours = disagreement(slices, distances, look.seen)
    chance = chance_of_mistake(softmax, neighbours, distances)
    chance[~look.seen] = 0
    for values in (chance, neighbours):
        look.cells.without_margins(values)
    in_slices = {"combined": chance, "softmax": softmax, "neighbours": neighbours}
    maps = {name: np.moveaxis(values, 0, axis) for name, values in in_slices.items()}
    maps["quantisation"] = on_scan(look.error)
    if look.plan_rows is not None:
        maps["plan"] = on_scan(plan_entropy(look))
    return maps


def chance_of_mistake(
    softmax: NDArray[np.float32],
    neighbours: NDArray[np.float32],
    distances: NDArray[np.float32],
) -> NDArray[np.float32]:
    """The chance (n,H,W), 0 to 1, that a voxel near a border is wrong.

    softmax: entropy of the class probabilities. neighbours: `disagreement`. distances:
    `border_distances`. With these known, quantisation error and plan entropy tell nothing more
    about mistakes. A chance in earnest for models as sure of themselves as `cardiac-cine` is; for
    others its order is what counts.
    """
    sure = np.clip(softmax, SURE, 1 - SURE)
    away = distances / np.float32(FAR)
    odds = (
        OF_ENTROPY * np.log(sure / (1 - sure))
        + OF_NEIGHBOURS * neighbours
        + (OF_DISTANCE + OF_SQUARE * away) * away
    )
    return np.asarray(_chance(odds + VOXEL_OFFSET), np.float32)


def _chance(odds: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-odds)))


@dataclass(frozen=True)
class SliceDoubt:
    """A slice by its index along the slicing axis, the expected error – what Dice, mean over its
    structures, lacks to 1 – and how many voxels near borders are expected to be wrong."""

    index: int
    expected: float
    voxels: float


def near_borders(slices: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(n,H,W): what lies within `BORDER` pixels of a border in a slice of a mask (n,H,W) or in one
    of its neighbours, so that a structure that ends too early is noticed, too."""
    from scipy import ndimage

    near: NDArray[np.bool_] = ndimage.maximum_filter(
        _borders(slices), (3, 2 * BORDER + 1, 2 * BORDER + 1)
    )
    return near


def _borders(slices: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(n,H,W): pixels beside one of another structure in their slice."""
    borders = np.zeros(slices.shape, bool)
    across = slices[:, 1:] != slices[:, :-1]
    along = slices[:, :, 1:] != slices[:, :, :-1]
    borders[:, 1:] |= across
    borders[:, :-1] |= across
    borders[:, :, 1:] |= along
    borders[:, :, :-1] |= along
    return borders


def ranked_slices(
    uncertainty: NDArray[np.floating],
    mask: NDArray[np.generic],
    axis: int,
    seen: NDArray[np.bool_] | None = None,
) -> list[SliceDoubt]:
    """All slices, the one with most voxels to put right first.

    uncertainty, mask: (z,y,x), the first the "combined" of `uncertainty_maps`. seen: (n,), which
    slices the model has answered; all of them by default. What counts is uncertainty near borders
    (`near_borders`). By expected error instead, small slices would come first, in which little is
    to be won. Slices far from anything found, which have no borders, come last: those next to it
    first, or those in the middle where nothing is found at all.
    """
    slices, doubts = np.moveaxis(mask, axis, 0), np.moveaxis(uncertainty, axis, 0)
    zones = near_borders(slices)
    wrong = np.array(
        [doubt[zone].sum(dtype=np.float64) for doubt, zone in zip(doubts, zones, strict=True)]
    )
    odds = (
        OF_SHARE * np.log(wrong_share(wrong, slices) + FLOOR)
        + OF_OVERLAP * lacking_overlap(slices, seen)
        + SLICE_OFFSET
    )
    numbers = zip(_chance(odds).tolist(), wrong.tolist(), strict=True)
    found = [SliceDoubt(index, *of_slice) for index, of_slice in enumerate(numbers)]
    held = np.flatnonzero(slices.any((1, 2)))
    if not len(held):
        held = np.array([(len(slices) - 1) / 2])
    return sorted(found, key=lambda one: (-one.voxels, np.abs(held - one.index).min()))


def wrong_share(wrong: NDArray[np.floating], slices: NDArray[np.generic]) -> NDArray[np.floating]:
    """(n,), 0 to 1: wrong voxels (n,) over them and the structures in slices (n,H,W)."""
    sizes = np.count_nonzero(slices, axis=(1, 2))
    floor = FLOOR * float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
    return np.asarray(wrong / (wrong + sizes + floor))


def lacking_overlap(
    slices: NDArray[np.generic], seen: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """(n,): what the structures that a slice or one of its neighbours has lack to full overlap:
    mean of 1 − Dice, each with the neighbour it overlaps better. Zero where there are none.

    seen: (n,), slices that hold an answer. Those beside none have `USUAL_OVERLAP`.
    """
    labels = np.unique(slices)
    labels = labels[labels != 0]
    dice = np.zeros((len(slices), 2, len(labels)))
    present = np.zeros((len(slices), len(labels)), bool)
    for number, label in enumerate(labels):
        own = slices == label
        sizes = np.count_nonzero(own, axis=(1, 2))
        both = np.count_nonzero(own[1:] & own[:-1], axis=(1, 2))
        dice[1:, 0, number] = dice[:-1, 1, number] = both / np.maximum(sizes[1:] + sizes[:-1], 1)
        has = sizes > 0
        present[:, number] = has
        present[1:, number] |= has[:-1]
        present[:-1, number] |= has[1:]
    lacking = 1 - 2 * dice.max(1)
    found = (lacking * present).sum(1) / np.maximum(present.sum(1), 1)
    beside = np.zeros(len(slices) + 2, bool)
    beside[1:-1] = True if seen is None else seen
    alone = ~(beside[:-2] | beside[2:]) & present.any(1)
    return np.asarray(np.where(alone, USUAL_OVERLAP, found))
