"""Does a model know scans like these at all? If not, the new model need not stay near it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.finetuning.overlap import answer_counts, answers, compared, labels_said, mean_dice
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.relay import Stoppable
from l2gnet_core.segmenting.corrections import Correction

#: Limits of the Dice averaged over the painted structures: of the answers in the corrected slices,
#: and of those in the slices beside them, which show much the same. Both must be low, because
#: people correct the worst slices of a scan. Chosen on 49 changed scans of the tuning patients of
#: `cardiac-cine`: the fifteen below both gained 0.06 to 0.55 by letting go of the old weights; six
#: of the others lost 0.07 or more by it, and one gained as much.
_DICE, _DICE_BESIDE = 0.7, 0.35
#: Both limits are met on a scan that a model knows well, too, if all that was corrected are tips of
#: organs. The model knows a scan after all if, up to _REACH slices from the corrected ones, its
#: answers have at least this Dice with one another in neighbouring slices, and corrected slices
#: hold on average less than this share of the voxels in its fullest answer. Chosen on 118 changed
#: scans of tuning and training patients, corrected in eight ways: of the 273 cases below both
#: limits, it holds in all 43 in which the untouched slices have a Dice above 0.5, and in 5 of the
#: 217 in which they have less than 0.35.
_CONTINUITY, _TIP, _REACH = 0.45, 0.6, 6
#: A structure that nobody painted counts as found if the answers have this many voxels of it.
_FOUND = 100


def hardly_known(model: Model, corrections: Sequence[Correction], device: str) -> Stoppable[bool]:
    """Does a model find too little of a scan to be worth keeping near?

    Only completely labelled slices tell: strokes lie where a model is wrong, however good it is
    elsewhere. Structures that the model finds there and nobody painted count as known, so that they
    are not lost where one organ of many is painted. False without such slices, without slices
    beside them, if they hold nothing, or if they hold little of what the model finds around them.
    """
    ids = [label.id for label in model.card.labels]
    here, beside = (np.zeros((len(ids), 3), np.int64) for _ in range(2))
    found = np.zeros(len(ids), np.int64)
    for correction in corrections:
        complete = set(correction.slices) - correction.partly_labelled
        near = {at for index in complete for at in (index - 1, index, index + 1)}
        count = correction.scan.shape[correction.axis]
        for done in answers(model, correction, sorted(near & set(range(count))), device):
            if done is not None and done.index in complete:
                here += answer_counts(done.labels, correction, done.index, ids)
                found += [np.count_nonzero(done.labels == id) for id in ids]
            elif done is not None:
                for index in {done.index - 1, done.index + 1} & complete:
                    beside += answer_counts(done.labels, correction, index, ids)
            yield
    if not beside[:, 2].any():
        return False
    painted = here[:, 2] > 0
    known = np.count_nonzero(found[~painted] >= _FOUND)
    judged = np.count_nonzero(painted)
    dice = [(judged * mean_dice(one) + known) / (judged + known) for one in (here, beside)]
    if dice[0] >= _DICE or dice[1] >= _DICE_BESIDE:
        return False
    return not (yield from _has_tips_of_what_is_known(model, corrections, painted, device))


def _has_tips_of_what_is_known(
    model: Model, corrections: Sequence[Correction], painted: NDArray[np.bool_], device: str
) -> Stoppable[bool]:
    """Do the corrected slices hold little of what the model finds around them from slice to slice?

    painted: (structures,).
    """
    ids = [label.id for label in model.card.labels]
    counts = np.zeros((len(ids), 3), np.int64)
    found, corrected = [0], list[int]()
    for correction in corrections:
        complete = set(correction.slices) - correction.partly_labelled
        near = {at for index in complete for at in range(index - _REACH, index + _REACH + 1)}
        count = correction.scan.shape[correction.axis]
        slices = sorted(near & set(range(count)))
        said = yield from labels_said(model, correction, slices, device)
        for index in said.keys() & {at - 1 for at in said}:
            counts += compared(said[index], said[index + 1], ids)
        found += [int(np.isin(labels, ids).sum()) for labels in said.values()]
        corrected += [int(np.isin(correction.picture(at), ids).sum()) for at in complete]
    overlap, voxels = counts[:, 0], counts[:, 1] + counts[:, 2]
    judged = painted | (voxels > 0)
    continuity = (2 * overlap / np.maximum(voxels, 1))[judged].mean()
    return bool(continuity >= _CONTINUITY and np.mean(corrected) < _TIP * max(found))
