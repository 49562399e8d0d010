"""Does a model know scans like these at all? If not, the new model need not stay near it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.finetuning.cross_validation import Check, answers
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.segmenting.corrections import Correction

#: Limits of the Dice of all structures as one: in the corrected slices, and of their labels with
#: the answers in the slices beside them, which show much the same. Both must be low, because people
#: correct the worst slices of a scan. Of 50 scans changed as by other scanners, one is below the
#: first (0.33) and none below 0.25 in the second; of eleven with light and dark exchanged or with
#: bright fat, eight are below both.
_DICE, _DICE_BESIDE = 0.4, 0.15


def hardly_known(model: Model, corrections: Sequence[Correction], device: str) -> Check:
    """Does a model find next to nothing of the painted structures, in the corrected slices and in
    those beside them? It does not matter which structure it calls them.

    False if no slices lie beside the corrected ones, or if these hold nothing.
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
