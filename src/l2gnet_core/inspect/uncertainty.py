"""Where a model is unsure, computed from its trace, and which slices to check first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.scans.bounding_box import bounding_box
from l2gnet_core.scans.phantom import DRAWN
from l2gnet_core.segmenting.trace import Trace

#: Pixels around a structure's border in which mistakes are expected when slices are ranked.
BORDER = 5
#: Added to the size of the structures in a slice, as a share of their median size in the scan, so
#: that a little doubt about an empty slice does not outweigh everything.
FLOOR = 0.02
#: Distances to borders are clipped to this many pixels; larger ones tell nothing more.
FAR = 10

# `python benchmarks/inspection.py fit` printed the weights below, for `cardiac-cine`; no test
# patient took part (docs/benchmarks.md, "Doubts and mistakes").

#: Weights of a logistic regression for the chance that a voxel near a border is wrong: of the log
#: odds of its softmax entropy (clipped to `SURE`), of its disagreement with the neighbouring
#: slices, of its distance to the next border as a share of `FAR`, and of that squared. The distance
#: matters because doubt is usual at a border and unusual elsewhere.
OF_ENTROPY, OF_NEIGHBOURS, OF_DISTANCE, OF_SQUARE, VOXEL_OFFSET = 0.68, 3.41, -1.80, 3.12, -1.70
SURE = 0.002
#: Weights of a logistic regression for the loss of Dice in a slice: of the logarithm of its share
#: of wrong voxels plus `FLOOR`, and of the overlap with the neighbouring slices that it lacks.
OF_SHARE, OF_OVERLAP, SLICE_OFFSET = 1.22, 1.61, -0.01
#: The overlap that a slice is taken to lack if it has no neighbour to compare with: the mean over
#: the true labels of the training patients of `cardiac-cine`.
USUAL_OVERLAP = 0.30


def plan_entropy(trace: Trace) -> NDArray[np.float32]:
    """(n,h,w): entropy of each token's row of the plan, 0 (all mass to one reference) to 1 (equal
    mass to all); 0 in slices not seen. Raises InputError for a model without transport."""
    rows = trace.plans
    logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    by_code = -(rows * logs).sum(2) / math.log(max(2, rows.shape[2]))
    slices = np.arange(len(trace.codes))[:, None, None]
    return np.where(trace.seen[:, None, None], by_code[slices, trace.codes], np.float32(0))


def border_distances(slices: NDArray[np.generic]) -> NDArray[np.float32]:
    """(n,H,W): distance in pixels from each pixel of a mask (n,H,W) to the next border in its
    slice, ½ to `FAR`; `FAR` if there is none."""
    from scipy import ndimage

    distances = np.full(slices.shape, FAR, np.float32)
    for one, out in zip(slices, distances, strict=True):
        borders = _borders(one)
        if (box := bounding_box(borders, FAR)) is not None:
            from_pixels = ndimage.distance_transform_edt(~borders[box])
            out[box] = np.minimum(from_pixels + 0.5, FAR)
    return distances


def disagreement(
    index: int,
    slices: NDArray[np.generic],
    distances: NDArray[np.float32] | Mapping[int, NDArray[np.float32]],
    seen: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """(H,W): disagreement of slice `index` with its (one or two) neighbouring slices, 0 to 1.

    0 if a voxel lies `FAR` pixels inside the same structure in the neighbours, ½ if it lies at a
    border there, 1 if it lies `FAR` pixels inside another structure. Without a neighbour that has
    been seen, the slice is compared with itself.

    slices: of a mask, (n,H,W). distances: the `border_distances` of this slice and of its
    neighbours. seen: (n,), slices that hold an answer.
    """
    beside = [one for one in (index - 1, index + 1) if 0 <= one < len(slices) and seen[one]]
    found = np.zeros(slices.shape[1:], np.float32)
    for one in beside or [index]:
        against = slices[one] != slices[index]
        found += np.where(against, distances[one], -distances[one]) / max(1, len(beside))
    found /= 2 * FAR
    found += 0.5
    return found


def kinds_of_doubt(trace: Trace) -> list[str]:
    """The kinds of `uncertainty_maps` that a trace allows."""
    kinds = ["combined", "softmax", "neighbours", "quantisation"]
    return kinds if trace.plan_rows is None else [*kinds, "plan"]


def uncertainty_maps(
    trace: Trace, mask: NDArray[np.generic], kinds: Collection[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Maps (z,y,x) of kinds of doubt, of all by default, each in its own unit. A map takes twice as
    much memory as a scan of int16.

    mask: the model's answer (z,y,x). "combined": the chance to be wrong, see `chance_of_mistake`;
    0 in slices not seen. "softmax": entropy of the class probabilities, 0 to 1. "neighbours": see
    `disagreement`. "quantisation": mean squared distance per channel between token and code.
    "plan", with transport only: entropy of the token's row of the plan, 0 to 1.
    """
    kinds = kinds_of_doubt(trace) if kinds is None else kinds
    found = {kind: np.empty(trace.entropy.shape, np.float32) for kind in kinds}
    for index, of_slice in enumerate(slice_maps(trace, mask, kinds)):
        for kind, values in of_slice.items():
            found[kind][index] = values
    return {kind: np.moveaxis(values, 0, trace.cells.axis) for kind, values in found.items()}


def slice_maps(
    trace: Trace,
    mask: NDArray[np.generic],
    kinds: Collection[str],
    indices: Iterable[int] | None = None,
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Kinds of doubt of one slice (H,W) after the other: all maps of a large scan take gigabytes,
    and the caller may stop at any slice.

    mask: the model's answer (z,y,x). kinds: see `uncertainty_maps`. indices: of the slices; all of
    them by default. Raises InputError for "plan" with a model without transport.
    """
    slices, seen = np.moveaxis(mask, trace.cells.axis, 0), trace.seen
    cells = {"quantisation": trace.error} if "quantisation" in kinds else {}
    if "plan" in kinds:
        cells["plan"] = plan_entropy(trace)
    distances: dict[int, NDArray[np.float32]] = {}
    for index in range(len(slices)) if indices is None else indices:
        found = {}
        softmax = trace.entropy[index].astype(np.float32)
        if "combined" in kinds or "neighbours" in kinds:
            # Distances of three slices are kept, so that in stored order each is computed once.
            near = range(max(0, index - 1), min(index + 2, len(slices)))
            distances = {one: distances[one] for one in near if one in distances}
            for one in near:
                if one not in distances:
                    distances[one] = border_distances(slices[one : one + 1])[0]
            neighbours = disagreement(index, slices, distances, seen)
            if "combined" in kinds:
                chance = chance_of_mistake(softmax, neighbours, distances[index])
                if not seen[index]:
                    chance[...] = 0
                found["combined"] = trace.cells.without_margins(chance)
            if "neighbours" in kinds:
                found["neighbours"] = trace.cells.without_margins(neighbours)
        if "softmax" in kinds:
            found["softmax"] = softmax
        for kind, values in cells.items():
            found[kind] = trace.cells.on_slice(values[index])
        yield found


def chance_of_mistake(
    softmax: NDArray[np.float32],
    neighbours: NDArray[np.float32],
    distances: NDArray[np.float32],
) -> NDArray[np.float32]:
    """The chance (…,H,W), 0 to 1, that a voxel near a border is wrong.

    softmax: entropy of the class probabilities. neighbours: `disagreement`. distances:
    `border_distances`. Quantisation error and plan entropy add nothing to these. Although fitted to
    `cardiac-cine`, the sum of chances holds for other models: on the test patients of `abdomen-mr`
    it was 0.85 times the number of wrong voxels, on those of `head-neck-ct` 1.15 times.
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
    """How doubtful a slice is.

    index: along the slicing axis. expected: 1 − the expected Dice, mean over its structures (see
    `expects_dice`). voxels: expected number of wrong voxels near borders.
    """

    index: int
    expected: float
    voxels: float


def expects_dice(names: Collection[str]) -> bool:
    """Is the expected error of slices valid for a model of these structures? Only for hearts, to
    which it was fitted: test slices of `abdomen-mr` with an expected Dice of 0.33 had 0.03, and the
    best of `head-neck-ct` was 0.0. The order of slices is valid for other models, too."""
    return set(names) == set(DRAWN)


def near_borders(slices: NDArray[np.generic], index: int) -> NDArray[np.bool_]:
    """(H,W): pixels within `BORDER` pixels of a border in slice `index` of a mask (n,H,W) or in a
    neighbouring slice. The neighbours count so that a structure that ends too early is noticed."""
    from scipy import ndimage

    borders = np.zeros(slices.shape[1:], bool)
    for one in slices[max(0, index - 1) : index + 2]:
        borders |= _borders(one)
    if (box := bounding_box(borders, BORDER)) is not None:
        borders[box] = ndimage.maximum_filter(borders[box], 2 * BORDER + 1)
    return borders


def _borders(mask: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(H,W): pixels of a slice beside one of another structure."""
    borders = np.zeros(mask.shape, bool)
    across = mask[1:] != mask[:-1]
    along = mask[:, 1:] != mask[:, :-1]
    borders[1:] |= across
    borders[:-1] |= across
    borders[:, 1:] |= along
    borders[:, :-1] |= along
    return borders


def ranked_slices(trace: Trace, mask: NDArray[np.generic]) -> list[SliceDoubt]:
    """All slices of a scan, the one with most voxels to correct first.

    mask: the model's answer (z,y,x). Needs no map of the whole scan.
    """
    slices = np.moveaxis(mask, trace.cells.axis, 0)
    wrong = [
        expected_wrong(maps["combined"], near_borders(slices, index))
        for index, maps in enumerate(slice_maps(trace, mask, ["combined"]))
    ]
    return ranked_by(np.array(wrong), slices, trace.seen)


def expected_wrong(doubt: NDArray[np.floating], near: NDArray[np.bool_]) -> float:
    """Expected number of wrong voxels of a slice: the sum of its "combined" doubt (H,W) near
    borders. near: (H,W), its `near_borders`."""
    return float(doubt[near].sum(dtype=np.float64))


def ranked_by(
    wrong: NDArray[np.float64],
    slices: NDArray[np.generic],
    seen: NDArray[np.bool_] | None = None,
) -> list[SliceDoubt]:
    """All slices of a mask (n,H,W), the one with most `expected_wrong` voxels (n,) first.

    seen: (n,), which slices the model has answered; all of them by default. The order is not that
    of the expected error: small slices would come first, where there is little to gain. Slices
    without borders, far from any structure, come last: those nearest to one first; in a mask
    without structures, those nearest to the middle.
    """
    odds = (
        OF_SHARE * np.log(wrong_share(wrong, slices) + FLOOR)
        + OF_OVERLAP * lacking_overlap(slices, seen)
        + SLICE_OFFSET
    )
    numbers = zip(_chance(odds).tolist(), wrong.tolist(), strict=True)
    found = [SliceDoubt(index, *of_slice) for index, of_slice in enumerate(numbers)]
    held = np.flatnonzero([one.any() for one in slices])
    if not len(held):
        held = np.array([(len(slices) - 1) / 2])
    return sorted(found, key=lambda one: (-one.voxels, np.abs(held - one.index).min()))


def wrong_share(wrong: NDArray[np.floating], slices: NDArray[np.generic]) -> NDArray[np.floating]:
    """(n,), 0 to 1: wrong voxels (n,) over the sum of them and of the voxels of structures in
    slices (n,H,W)."""
    sizes = np.array([np.count_nonzero(one) for one in slices])
    floor = FLOOR * float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
    return np.asarray(wrong / (wrong + sizes + floor))


def lacking_overlap(
    slices: NDArray[np.generic], seen: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """(n,): 1 − Dice of a slice's structures with those of the neighbouring slice that they overlap
    better, mean over the structures of the slice and its neighbours; 0 if there are none.

    seen: (n,), slices that hold an answer; all by default. Slices without a neighbour that has been
    seen get `USUAL_OVERLAP`.
    """
    own = [_sizes(one) for one in slices]
    shared = [_sizes(one[one == other]) for one, other in pairwise(slices)]
    labels = sorted(set().union(*own))
    sizes = np.zeros((len(slices), len(labels)), np.int64)
    both = np.zeros((len(slices) - 1, len(labels)), np.int64)
    for counts, into in ((own, sizes), (shared, both)):
        for one, row in zip(counts, into, strict=True):
            row[:] = [one.get(label, 0) for label in labels]
    dice = np.zeros((len(slices), 2, len(labels)))
    dice[1:, 0] = dice[:-1, 1] = both / np.maximum(sizes[1:] + sizes[:-1], 1)
    present = sizes > 0
    present[1:] |= sizes[:-1] > 0
    present[:-1] |= sizes[1:] > 0
    lacking = 1 - 2 * dice.max(1)
    found = (lacking * present).sum(1) / np.maximum(present.sum(1), 1)
    beside = np.zeros(len(slices) + 2, bool)
    beside[1:-1] = True if seen is None else seen
    alone = ~(beside[:-2] | beside[2:]) & present.any(1)
    return np.asarray(np.where(alone, USUAL_OVERLAP, found))


def _sizes(mask: NDArray[np.generic]) -> dict[Any, int]:
    """Number of pixels of each structure."""
    labels, counts = np.unique(mask[mask != 0], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))
