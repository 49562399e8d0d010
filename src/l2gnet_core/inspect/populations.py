"""How far apart two scans are by the codes they use, and a scan from all that a model learnt from.

The distance is that of exact optimal transport between two histograms of codes (Flamary et al.,
"POT: Python Optimal Transport", JMLR 2021): the least total way over which one is turned into the
other, where the way between two codes is the Euclidean distance of their vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.card import CodeStatistics
from l2gnet_core.inspect.codes import code_counts
from l2gnet_core.inspect.trace import Trace

#: Distances of training scans that a card keeps at most, evenly spread over all of them.
KEPT_DISTANCES = 41


def histogram_distance(
    one: NDArray[np.generic],
    other: NDArray[np.generic],
    vectors: NDArray[np.floating],
    other_vectors: NDArray[np.floating] | None = None,
) -> float:
    """Optimal transport distance between two histograms of codes, whatever their totals.

    one, other: (K,) counts, neither all zero. vectors: (K,d), the codebook; other_vectors that of
    `other` where it is another one, as after fine-tuning. The unit is the mean distance between two
    different codes of `vectors`. With `cardiac-cine`, two phases of a heart lie about 0.03 apart,
    two patients 0.12, and a scan from codes drawn by chance 0.21.
    """
    # Half a second that starting the command need not wait for.
    import ot

    target = vectors if other_vectors is None else other_vectors
    used, used_other = np.flatnonzero(one), np.flatnonzero(other)
    share, share_other = (
        np.asarray(counts, np.float64)[kept] / np.sum(counts, dtype=np.float64)
        for counts, kept in ((one, used), (other, used_other))
    )
    cost = _distances(vectors[used], target[used_other])
    moved = float(ot.emd2(share, share_other, cost, numItermax=10_000_000))
    count = len(vectors)
    unit = _distances(vectors, vectors).sum() / max(1, count * (count - 1))
    # Rounding may leave a trace below zero.
    return max(0.0, moved) / float(unit) if unit > 0 else 0.0


def _distances(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(one.astype(np.float64), other.astype(np.float64)))


def code_statistics(
    scans: Sequence[tuple[str, NDArray[np.integer]]], vectors: NDArray[np.floating]
) -> CodeStatistics:
    """What a card keeps of its training scans, given as (patient, counts (K,)): counts of all
    together, and how far each scan is from all other patients'."""
    by_patient: dict[str, NDArray[np.integer]] = {}
    for patient, counts in scans:
        by_patient[patient] = by_patient.get(patient, np.zeros_like(counts)) + counts
    total = np.sum(list(by_patient.values()), axis=0)
    apart = sorted(
        histogram_distance(counts, total - by_patient[patient], vectors)
        for patient, counts in scans
        if counts.any() and (total - by_patient[patient]).any()
    )
    if len(apart) > KEPT_DISTANCES:
        apart = np.quantile(apart, np.linspace(0, 1, KEPT_DISTANCES)).tolist()
    return CodeStatistics(
        tuple(int(count) for count in total), tuple(round(float(d), 5) for d in apart)
    )


@dataclass(frozen=True)
class Unlikeness:
    """How far a scan is from what a model learnt from (see `histogram_distance`), and the share of
    training scans, in percent, that are nearer to the other patients'; None if the card keeps
    none."""

    distance: float
    percentile: float | None


def unlikeness(trace: Trace, known: CodeStatistics) -> Unlikeness:
    """Compare a scan to a model's training scans; all slices should have been seen: a part of a
    scan uses other codes than a whole one."""
    counts = np.array(known.counts)
    distance = histogram_distance(code_counts(trace), counts, trace.vectors)
    if not known.distances:
        return Unlikeness(distance, None)
    nearer = np.searchsorted(known.distances, distance) / len(known.distances)
    return Unlikeness(distance, 100 * float(nearer))
