"""Does a model know scans like these at all? If not, the new model need not stay near it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.finetuning.cross_validation import Check, answer_counts, answers, mean_dice
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.segmenting.corrections import Correction

#: Limits of the Dice averaged over the painted structures: of the answers in the corrected slices,
#: and of those in the slices beside them, which show much the same. Both must be low, because
#: people correct the worst slices of a scan. Chosen on changed scans of the tuning patients of
#: `cardiac-cine`: those below both gained 0.13 or more by letting go of the old weights (beside: at
#: most 0.25), nearly none of the others did (beside: 0.46 or more, but for one).
_DICE, _DICE_BESIDE = 0.7, 0.35
#: A structure that nobody painted counts as found if the answers have this many voxels of it.
_FOUND = 100


def hardly_known(model: Model, corrections: Sequence[Correction], device: str) -> Check:
    """Does a model find too little of a scan to be worth keeping near?

    Structures that nobody painted, and that the model finds where nobody said what is there, count
    as known: in a scan where one organ of many is painted, the others must not be lost.

    False if no slices lie beside the corrected ones, or if these hold nothing.
    """
    ids = [label.id for label in model.card.labels]
    here, beside = (np.zeros((len(ids), 3), np.int64) for _ in range(2))
    unpainted = np.zeros(len(ids), np.int64)
    for correction in corrections:
        near = {at for index in correction.slices for at in (index - 1, index, index + 1)}
        count = correction.scan.shape[correction.axis]
        for done in answers(model, correction, sorted(near & set(range(count))), device):
            if done is not None and done.index in correction.slices:
                here += answer_counts(done.labels, correction, done.index, ids)
                unpainted += _unpainted(done.labels, correction, done.index, ids)
            elif done is not None:
                for index in {done.index - 1, done.index + 1}.intersection(correction.slices):
                    beside += answer_counts(done.labels, correction, index, ids)
            yield
    if not beside[:, 2].any():
        return False
    painted = np.count_nonzero(here[:, 2])
    others = np.count_nonzero(unpainted[here[:, 2] == 0] >= _FOUND)
    dice = [
        (painted * mean_dice(counts) + others) / (painted + others) for counts in (here, beside)
    ]
    return dice[0] < _DICE and dice[1] < _DICE_BESIDE


def _unpainted(
    said: NDArray[np.generic], correction: Correction, index: int, ids: Sequence[int]
) -> NDArray[np.int64]:
    """Voxels of each structure in an answer (H,W) for a corrected slice, where nobody said whether
    the structure is there."""
    checked = correction.checked.get(index, ids)
    unmarked = correction.pictures[correction.slices.index(index)] == correction.unmarked
    return np.array([((said == id) & (unmarked | (id not in checked))).sum() for id in ids])
