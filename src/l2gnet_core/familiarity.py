"""Does a model know scans like these at all? Else there is nothing that it should stay near to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.checkpoint import Model
from l2gnet_core.corrections import Correction
from l2gnet_core.cross_validation import Check, answers

#: Dice of all structures as one, in corrected slices, and of what is painted in these with the
#: answers in the slices beside them, which hold much the same: corrected slices are the worst of a
#: scan, others may well be right. Of 50 scans changed as other scanners would one is below the
#: first (0.33), none below 0.25 in the second; with light and dark exchanged or fat bright eight of
#: eleven are below both.
_DICE, _DICE_BESIDE = 0.4, 0.15


def hardly_known(model: Model, corrections: Sequence[Correction], device: str) -> Check:
    """Does a model find next to nothing where structures are painted, there and in the slices
    beside? Names do not count: whoever calls all organs by others has not met another scan.

    False where corrected slices have no others beside them, or hold nothing.
    """
    here, beside = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for correction in corrections:
        painted = dict(zip(correction.slices, correction.pictures, strict=True))
        places = {at for index in painted for at in (index - 1, index, index + 1)}
        count = correction.scan.shape[correction.axis]
        for done in answers(model, correction, sorted(places & set(range(count))), device):
            if done is not None and done.index in painted:
                here += _counts(done.labels, painted[done.index], correction)
            elif done is not None:
                for index in {done.index - 1, done.index + 1} & painted.keys():
                    beside += _counts(done.labels, painted[index], correction)
            yield
    return bool(beside[2]) and _dice(here) < _DICE and _dice(beside) < _DICE_BESIDE


def _counts(
    said: NDArray[np.generic], picture: NDArray[np.generic], correction: Correction
) -> NDArray[np.int64]:
    """(overlap, said, true) pixels of the structures that the corrected slices hold."""
    ids = sorted(correction.structures)
    a, b = np.isin(said, ids), np.isin(picture, ids)
    if correction.unmarked is not None:
        a &= picture != np.uint16(correction.unmarked)
    return np.array([(a & b).sum(), a.sum(), b.sum()], np.int64)


def _dice(counts: NDArray[np.int64]) -> float:
    overlap, said, true = counts.tolist()
    return float(2 * overlap / max(1, said + true))
