"""What a model has said where nobody marked anything, in slices that are labelled in part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.finetuning.cross_validation import Check, answers
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.segmenting.corrections import Correction

#: How much an unmarked voxel counts, where a marked one of its slice counts 1: in slices with
#: scribbles, and in those whose marks are mostly mistakes of the model. Scribbles of ACDC's
#: annotators teach less from a tenth on; strokes on mistakes harm other slices below a quarter.
_WEIGHT, _WEIGHT_OF_MISTAKES = 0.05, 0.25
#: Pixels around a mistake within which the old answer is not trusted either.
_DISPUTED = 6


def with_old_answers(model: Model, correction: Correction, device: str) -> Check:
    """The correction, with the model's answers at a small weight in the unmarked voxels of slices
    that are labelled in part; `correction` itself if there are none.

    People mark what is wrong. Learnt alone, a few strokes on mistakes change everything else, too.
    """
    if not correction.partly_labelled:
        return correction
    unmarked = correction.unmarked
    # np.zeros costs no memory for slices that are not written to.
    labels, weights = (np.zeros(correction.scan.shape, kind) for kind in (np.uint16, np.float32))
    into, weighing = (np.moveaxis(array, correction.axis, 0) for array in (labels, weights))
    pictures = dict(zip(correction.slices, correction.pictures, strict=True))
    for (index, picture), weight in zip(pictures.items(), correction.picture_weights, strict=True):
        into[index], weighing[index] = picture, weight
    for done in answers(model, correction, sorted(correction.partly_labelled), device):
        if done is not None:
            picture, weight = pictures[done.index], weighing[done.index]
            open_ = (picture == unmarked) & ~_disputed(picture, done.labels, unmarked)
            into[done.index][open_] = done.labels[open_]
            share = _WEIGHT_OF_MISTAKES if _mistaken(picture, done.labels, unmarked) else _WEIGHT
            weight[open_] = share * weight[picture != unmarked].mean()
        yield
    return correction.with_labels(labels, weights)


def only_mistakes(model: Model, correction: Correction, device: str) -> Check:
    """The slices labelled in part where the model is wrong in most marked voxels.

    Whatever changes the answers there looks better, so that such slices cannot tell how a scan
    should be shown.
    """
    found = set()
    pictures = dict(zip(correction.slices, correction.pictures, strict=True))
    for done in answers(model, correction, sorted(correction.partly_labelled), device):
        if done is not None and _mistaken(pictures[done.index], done.labels, correction.unmarked):
            found.add(done.index)
        yield
    return found


def _mistaken(
    picture: NDArray[np.generic], said: NDArray[np.generic], unmarked: int | None
) -> bool:
    """Is the answer wrong in most marked pixels?"""
    return bool((said == picture)[picture != unmarked].mean() < 0.5)


def _disputed(
    picture: NDArray[np.generic], said: NDArray[np.generic], unmarked: int | None
) -> NDArray[np.bool_]:
    """Pixels near marks that contradict the answer."""
    wrong: NDArray[np.bool_] = (picture != unmarked) & (picture != said)
    if not wrong.any():
        return wrong
    return np.asarray(ndimage.distance_transform_edt(~wrong) <= _DISPUTED)
