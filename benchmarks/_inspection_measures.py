"""How well doubts predict mistakes, on one volume with true labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean

import numpy as np
from _inspection_scans import Array, Seen
from _planted import planted
from numpy.typing import NDArray
from scipy.stats import rankdata

from l2gnet_core.inspect.similar import find_similar
from l2gnet_core.inspect.uncertainty import (
    near_borders,
    ranked_slices,
    uncertainty_maps,
    wrong_share,
)

RANDOM_ORDERS = 200


def all_near_borders(mask: Array) -> NDArray[np.bool_]:
    """(n,H,W): `near_borders` of every slice of a mask (n,H,W)."""
    return np.stack([near_borders(mask, index) for index in range(len(mask))])


def judged(mask: Array, truth: Array) -> NDArray[np.bool_]:
    """Voxels within 5 pixels of a predicted or true border, each in its own slice."""
    both = np.stack([mask, truth])
    zone = [[near_borders(one[None], 0) for one in slices] for slices in both]
    return np.any(zone, axis=0)


def area_under_roc(values: Array, wrong: Array) -> float:
    """The chance that a wrong voxel has a higher value than a right one; ties count half."""
    positives = int(wrong.sum())
    negatives = wrong.size - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(values)[wrong].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))


def slice_dice(mask: Array, truth: Array, labels: Sequence[int]) -> list[float]:
    """Mean Dice per slice, over the structures in either mask; nan for a slice without any."""
    found = []
    for one, other in zip(mask, truth, strict=True):
        pairs = [(one == label, other == label) for label in labels]
        scores = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs if a.any() or b.any()]
        found.append(float(np.mean(scores)) if scores else float("nan"))
    return found


class Correcting:
    """Mean Dice of a volume while its slices are corrected one by one."""

    def __init__(self, mask: Array, truth: Array, labels: Sequence[int]) -> None:
        def count(which: Callable[[int], Array]) -> NDArray[np.int64]:
            return np.stack([which(label).sum((1, 2)) for label in labels], 1)

        self.both = count(lambda label: (mask == label) & (truth == label))
        self.said = count(lambda label: mask == label)
        self.true = count(lambda label: truth == label)

    def dice(self, corrected: Sequence[int]) -> float:
        right = np.zeros(len(self.both), bool)
        right[list(corrected)] = True
        both = np.where(right[:, None], self.true, self.both).sum(0)
        total = np.where(right[:, None], self.true, self.said).sum(0) + self.true.sum(0)
        return float((2 * both[total > 0] / total[total > 0]).mean())

    def gap(self, order: Sequence[int]) -> float:
        """Area between 1 and the curve of Dice, over the share of slices corrected."""
        scores = [self.dice(order[:count]) for count in range(len(order) + 1)]
        return 1 - float(np.mean([(a + b) / 2 for a, b in pairwise(scores)]))

    def uniform(self) -> list[int]:
        """The middle one of the slices with structures in the answer, then always the one farthest
        from the earlier ones; slices without structures come last."""
        held = np.flatnonzero(self.said.any(1)).tolist()
        order, left = held[len(held) // 2 : len(held) // 2 + 1], held
        while left := [index for index in left if index not in order]:
            order.append(max(left, key=lambda i: min(abs(i - done) for done in order)))
        return [*order, *(index for index in range(len(self.said)) if index not in order)]

    def oracle(self) -> list[int]:
        """Always the slice that raises Dice most, by the truth."""
        order: list[int] = []
        while left := [index for index in range(len(self.said)) if index not in order]:
            order.append(max(left, key=lambda index: self.dice([*order, index])))
        return order


def found_again(one: Seen) -> dict[str, list[float]]:
    """By planted mistake: [share found, voxels held].

    Suggested regions count best first, as long as they hold at most three times as many voxels as
    the mistake has in the other slices. "Share found" is the share of the mistake's voxels in these
    regions. "Voxels held" is the size of the regions, as a multiple of the mistake's.
    """
    found = {}
    for name, wrong in planted(one.mask).items():
        mistake = wrong != one.mask
        sizes = mistake.sum((1, 2))
        hit = sorted(np.flatnonzero(sizes), key=lambda index: sizes[index])
        if len(hit) < 2:
            continue
        middling = hit[len(hit) // 2]
        marked = np.zeros(mistake.shape, bool)
        marked[middling] = mistake[middling]
        others = mistake & ~marked
        total, caught, held = int(others.sum()), 0, 0
        for region in find_similar(one.trace, wrong, marked, one.scan):
            size = int(region.voxels.sum())
            if held + size > 3 * total:
                break
            held += size
            caught += int(others[region.box][region.voxels].sum())
        found[name] = [round(caught / total, 4), round(held / total, 3)]
    return found


def scores(one: Seen, labels: Sequence[int]) -> dict:
    """All measures of a volume."""
    maps = uncertainty_maps(one.trace, one.mask)
    zone = judged(one.mask, one.truth)
    wrong = (one.mask != one.truth)[zone]
    near = all_near_borders(one.mask)
    predicted, orders = {}, {}
    for name, values in maps.items():
        amounts = (values * near).sum((1, 2), dtype=np.float64)
        if name == "combined":
            ranking = ranked_slices(one.trace, one.mask)
            expected = {doubt.index: doubt.expected for doubt in ranking}
            predicted[name] = [1 - expected[index] for index in range(len(near))]
            orders["ours"] = [doubt.index for doubt in ranking]
            orders["worst Dice"] = sorted(expected, key=lambda index: -expected[index])
        else:
            # Maps have different units (quantisation error is a distance).
            amounts /= max(1e-9, float(np.percentile(values, 99)))
            predicted[name] = (1 - wrong_share(amounts, one.mask)).tolist()
        if name == "softmax":
            orders[name] = np.argsort(-amounts, kind="stable").tolist()
    correcting = Correcting(one.mask, one.truth, labels)
    orders |= {"uniform": correcting.uniform(), "oracle": correcting.oracle()}
    gaps = {name: correcting.gap(order) for name, order in orders.items()}
    rng = np.random.default_rng(0)
    by_chance = [correcting.gap(rng.permutation(len(near)).tolist()) for _ in range(RANDOM_ORDERS)]
    return {
        "patient": one.patient,
        "way": one.way,
        "auc": {name: area_under_roc(values[zone], wrong) for name, values in maps.items()},
        "dice": slice_dice(one.mask, one.truth, labels),
        "predicted": predicted,
        "gap": {**gaps, "random": fmean(by_chance)},
        "similar": found_again(one) if one.way == "clean" else {},
    }
