"""What a model says where nobody marked anything, in slices that are labelled in part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.finetuning.correction_views import OldAnswer
from l2gnet_core.finetuning.overlap import labels_said
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.relay import Stoppable
from l2gnet_core.segmenting.corrections import Correction

#: How much an unmarked voxel counts, where a marked one of its slice counts 1: in slices with
#: scribbles, and in those whose marks are mostly mistakes of the model. Scribbles of ACDC's
#: annotators teach less from a tenth on; strokes on mistakes harm other slices below a quarter.
_WEIGHT, _WEIGHT_OF_MISTAKES = 0.05, 0.25
#: Pixels around a mistake within which the old answer is not trusted either.
_DISPUTED = 6
#: The most slices whose answers are computed, because they take time from learning.
_MOST_SLICES = 24

#: Answers (H,W) by slice.
Answers = Mapping[int, NDArray[np.generic]]


def old_answers(
    model: Model, corrections: Sequence[Correction], device: str
) -> Stoppable[Sequence[Answers]]:
    """For each correction a model's `Answers` for slices that are labelled in part, evenly spaced
    if there are many."""
    partly = [(n, i) for n, one in enumerate(corrections) for i in sorted(one.partly_labelled)]
    chosen = partly[:: max(1, -(-len(partly) // _MOST_SLICES))]
    found = []
    for number, correction in enumerate(corrections):
        slices = [index for n, index in chosen if n == number]
        found.append((yield from labels_said(model, correction, slices, device)))
    return found


def only_mistakes(correction: Correction, said: Answers) -> set[int]:
    """The slices in which a model is wrong in most marked pixels.

    Whatever changes the answers there looks better, so that such slices cannot tell how a scan
    should be shown.
    """
    return {index for index in said if _mistaken(correction, index, said[index])}


def beside_marks(correction: Correction, said: Answers) -> dict[int, OldAnswer]:
    """What slices that are labelled in part teach beside their marks.

    People mark what is wrong. Learnt alone, a few strokes on mistakes change everything else, too.
    Unmarked pixels of weight 0 stay unknown.
    """
    weights = dict(zip(correction.slices, correction.picture_weights, strict=True))
    found = {}
    for index, labels in said.items():
        picture = correction.picture(index)
        where = (picture == correction.unmarked) & (weights[index] > 0)
        where &= ~_disputed(correction, index, labels)
        erased = labels[(picture == 0) & (picture != correction.unmarked)]
        supervised = {int(id) for id in np.unique(np.concatenate([labels[where], erased]))} - {0}
        mistaken = _mistaken(correction, index, labels)
        weight = _WEIGHT_OF_MISTAKES if mistaken else _WEIGHT
        found[index] = OldAnswer(where, labels, weight, frozenset(supervised))
    return found


def _mistaken(correction: Correction, index: int, said: NDArray[np.generic]) -> bool:
    """Is the answer wrong in most marked pixels? Without those that are background in both: a wide
    brush that erases a speck passes over many."""
    picture = correction.picture(index)
    counts = (picture != correction.unmarked) & ((picture != 0) | (said != 0))
    return bool(counts.any()) and bool((said == picture)[counts].mean() < 0.5)


def _disputed(correction: Correction, index: int, said: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Pixels near marks that contradict the answer."""
    picture = correction.picture(index)
    wrong: NDArray[np.bool_] = (picture != correction.unmarked) & (picture != said)
    if not wrong.any():
        return wrong
    return np.asarray(ndimage.distance_transform_edt(~wrong) <= _DISPUTED)
