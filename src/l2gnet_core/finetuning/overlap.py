"""A model's answers in corrected slices, and how well they overlap with what a person says there:
counts of voxels, and Dice from their sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.models.checkpoint import Model
from l2gnet_core.relay import Stoppable
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import SlicePrediction, predict_slices

#: (overlap, said, true) voxels of each structure, (structures,3); sums give pooled Dice.
Counts = NDArray[np.int64]


def upright(model: Model) -> Model:
    """The same model without averaging over turned or mirrored views."""
    return replace(model, card=replace(model.card, views=1))


def answers(
    model: Model, correction: Correction, slices: Sequence[int], device: str
) -> Iterator[SlicePrediction | None]:
    """A model's answers for slices of a corrected scan, as `predict_slices` yields them.

    Without turned views, which take four times as long and tell no more about the difference
    between two models.
    """
    return predict_slices(
        upright(model),
        correction.scan,
        correction.grid,
        correction.axis,
        order=slices,
        device=device,
        field=correction.field(model.card),
    )


def labels_said(
    model: Model, correction: Correction, slices: Sequence[int], device: str
) -> Stoppable[dict[int, NDArray[Any]]]:
    """The labels (H,W) of a model's `answers`, by slice, in the order of `slices`."""
    found: dict[int, NDArray[Any]] = {}
    for done in answers(model, correction, slices, device):
        if done is not None:
            found[done.index] = done.labels
        yield
    return found


def compared(said: NDArray[Any], truth: NDArray[Any], ids: Sequence[int]) -> Counts:
    """Counts of one slice."""
    pairs = [(said == id, truth == id) for id in ids]
    return np.array([[(a & b).sum(), a.sum(), b.sum()] for a, b in pairs], np.int64)


def pooled_dice(counts: Counts, names: Sequence[str]) -> dict[str, float]:
    """Dice by name; structures absent from the truth are left out."""
    return {
        name: float(2 * overlap / (said + true))
        for name, (overlap, said, true) in zip(names, counts, strict=True)
        if true
    }


def mean_dice(counts: Counts) -> float:
    """Mean of pooled Dice over the structures that the truth holds; 0 if there are none."""
    scores = pooled_dice(counts, list(map(str, range(len(counts))))).values()
    return sum(scores) / max(1, len(scores))


def slice_counts(
    model: Model, correction: Correction, slices: Sequence[int], device: str
) -> Stoppable[dict[int, Counts]]:
    """Counts (`answer_counts`) of corrected slices, by slice."""
    ids = [label.id for label in model.card.labels]
    said = yield from labels_said(model, correction, slices, device)
    return {index: answer_counts(labels, correction, index, ids) for index, labels in said.items()}


def answer_counts(
    said: NDArray[Any], correction: Correction, index: int, ids: Sequence[int]
) -> Counts:
    """Counts of an answer (H,W) by the labels of the corrected slice `index`.

    Unmarked voxels do not count. Structures that none of the scan's corrected slices holds do not
    count either, nor do those that nobody checked in the slice: nobody said where they are.
    """
    truth = correction.picture(index)
    if correction.unmarked is not None:
        # A plain number could wrap around in the 8 bits of an answer.
        unmarked = np.uint16(correction.unmarked)
        said = np.where(truth == unmarked, unmarked, said)
    counts = compared(said, truth, ids)
    checked = correction.structures.intersection(correction.checked.get(index, ids))
    counts[~np.isin(ids, list(checked))] = 0
    return counts
