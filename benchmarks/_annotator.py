"""The simulated annotator: it chooses the slices to correct next, and scores the other slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.finetuning.overlap import compared
from l2gnet_core.inspect.uncertainty import ranked_slices
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.scans.volume import Grid, Volume
from l2gnet_core.segmenting.predict import segment
from l2gnet_core.segmenting.slice_view import field_of
from l2gnet_core.segmenting.trace import empty_trace

Array = NDArray[np.generic]
#: Slices corrected after each round.
ROUNDS = (1, 3, 5)
#: The fewest slices that must stay untouched, to judge by.
FEWEST_UNTOUCHED = 2

Named = TypeVar("Named")


def rounds(slices: int, wanted: Sequence[int] = ROUNDS) -> list[int]:
    """How many slices of a scan are corrected after each round. Rounds that would leave fewer than
    `FEWEST_UNTOUCHED` are skipped."""
    return [count for count in wanted if count <= slices - FEWEST_UNTOUCHED]


def chosen(corrected: Sequence[int], proposed: Sequence[int], count: int) -> list[int]:
    """The slices corrected after a round: the earlier ones, then those that the queue proposes."""
    more = [index for index in proposed if index not in corrected]
    return [*corrected, *more[: count - len(corrected)]]


def evenly(held: Sequence[int], count: int, ends: bool = False) -> list[int]:
    """Pick `count` of the slices that hold a structure: the middles of `count` equal runs, or with
    `ends` evenly from the first to the last."""
    count = min(count, len(held))
    shares = np.linspace(0, 1, count) if ends else (np.arange(count) + 0.5) / count
    # Rounding half up: rounding half to even could pick a slice twice.
    places = np.floor(shares * (len(held) - 1) + 0.5).astype(int)
    return sorted({held[place] for place in places.tolist()})


def holding(truth: Array, axis: int, ids: Sequence[int]) -> list[int]:
    """Slices that hold one of the structures."""
    stack = np.moveaxis(truth, axis, 0)
    return np.flatnonzero(np.isin(stack, list(ids)).any((1, 2))).tolist()


def dice(
    said: Array,
    truth: Array,
    axis: int,
    names: Mapping[int, str],
    without: Sequence[int] = (),
) -> dict[str, float]:
    """Dice of each structure, pooled over all slices except `without`. A structure that is absent
    from both masks is skipped."""
    rest = [index for index in range(truth.shape[axis]) if index not in without]
    a, b = (np.take(array, rest, axis) for array in (said, truth))
    counts = compared(a, b, list(names))
    return {
        name: float(2 * overlap / (one + other))
        for name, (overlap, one, other) in zip(names.values(), counts.tolist(), strict=True)
        if one + other
    }


def mean(scores: Mapping[str, float]) -> float:
    """Mean Dice over structures."""
    return fmean(scores.values()) if scores else float("nan")


def recovered(start: float, after: float, usual: float) -> float:
    """The share of the gap to in-domain Dice that is closed."""
    return (after - start) / (usual - start)


def taught_and_judged(
    patients: Mapping[Named, str], count: int = 5
) -> tuple[list[Named], list[Named]]:
    """(volumes to correct in whole, spread over the patients; the volumes of all other patients).

    patients: the patient of each volume. One volume of each of `count` patients is taught. With
    too few patients for that, half of them teach, with several volumes each.
    """
    everyone = sorted(set(patients.values()))
    few = min(count, max(1, len(everyone) // 2))
    teachers = set(evenly(range(len(everyone)), few))
    teaching = [everyone[place] for place in sorted(teachers)]
    of = {name: [volume for volume, who in patients.items() if who == name] for name in teaching}
    taught: list[Named] = []
    for turn in range(max(map(len, of.values()))):
        # Alternate between the first and the last frame, so that both phases are taught.
        taught += [of[name][(turn + place) % len(of[name])] for place, name in enumerate(teaching)
                   if turn < len(of[name])]  # fmt: skip
    return taught[:count], [volume for volume, who in patients.items() if who not in teaching]


def doubted(model: Model, scan: Array, grid: Volume | Grid, axis: int) -> tuple[Array, list[int]]:
    """The mask of a scan by a model, untidied, and its slices in the order of the queue."""
    field = field_of(model.card, grid, axis, scan)
    trace = empty_trace(model, grid, axis, field)
    mask = segment(model, scan, grid, axis, field=field, trace=trace)
    return mask, [doubt.index for doubt in ranked_slices(trace, mask)]
