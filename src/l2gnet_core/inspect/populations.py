"""The distance between scans by the codes they use, and of a scan from a model's training scans.

It is the cost of exact optimal transport between two histograms of codes (computed by Flamary et
al., "POT: Python Optimal Transport", JMLR 2021); moving mass between two codes costs the Euclidean
distance of their vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.inspect.codes import code_counts
from l2gnet_core.models.card import CodeStatistics
from l2gnet_core.segmenting.trace import Trace

#: Quantiles of the distances of training scans that a card keeps, at most.
KEPT_DISTANCES = 41
#: Percent of the training scans that must be nearer to the others than a scan that is warned about.
LARGE = 97.5


def histogram_distance(
    one: NDArray[np.generic],
    other: NDArray[np.generic],
    vectors: NDArray[np.floating],
    other_vectors: NDArray[np.floating] | None = None,
) -> float:
    """Optimal transport distance between two histograms of codes, whatever their totals.

    one, other: (K,), counts, neither all zero. vectors: (K,d), the codebook. other_vectors: that of
    `other`, if it differs, as after fine-tuning. The unit is the mean distance between two
    different codes of `vectors`. With `cardiac-cine`, the distance is about 0.03 between two phases
    of a heart, 0.12 between two patients, and 0.21 between a scan and random codes.
    """
    # Imported here, since it takes half a second.
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
    # Rounding errors may give a negative number.
    return max(0.0, moved) / float(unit) if unit > 0 else 0.0


def _distances(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(one.astype(np.float64), other.astype(np.float64)))


def code_statistics(
    scans: Sequence[tuple[str, NDArray[np.integer]]], vectors: NDArray[np.floating]
) -> CodeStatistics:
    """What a card keeps of its training scans, given as (patient, counts (K,)): the counts of all
    scans, and the distance of each scan from those of all other patients."""
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
    """The distance of a scan from a model's training scans (see `histogram_distance`), and the
    percentage of training scans that are nearer to those of the other patients; None if the card
    has no distances."""

    distance: float
    percentile: float | None

    @property
    def is_large(self) -> bool:
        """Is the scan farther than nearly all training scans, so that a person should know?"""
        return self.percentile is not None and self.percentile >= LARGE


def unlikeness(trace: Trace, known: CodeStatistics) -> Unlikeness:
    """Compare a scan with a model's training scans. All its slices should have been seen, since a
    part of a scan uses other codes than the whole."""
    counts = np.array(known.counts)
    distance = histogram_distance(code_counts(trace), counts, trace.vectors)
    if not known.distances:
        return Unlikeness(distance, None)
    nearer = np.searchsorted(known.distances, distance) / len(known.distances)
    return Unlikeness(distance, 100 * float(nearer))
