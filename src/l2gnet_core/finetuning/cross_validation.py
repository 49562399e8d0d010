"""Corrected slices left out of learning: which ones, how models score on them, and which mix of old
and new weights is best by that."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.finetuning.config import FineTuneConfig
from l2gnet_core.finetuning.guard import Improvement
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.segmenting.corrections import Correction, image_numbers
from l2gnet_core.segmenting.predict import SlicePrediction, predict_slices

#: A structure with fewer voxels than this in all corrected slices does not count as lost.
_SPECK = 100
#: For each correction the slices that a run leaves out.
Fold = list[tuple[int, ...]]
#: (overlap, said, true) voxels of each structure, (structures,3); sums give pooled Dice.
Counts = NDArray[np.int64]
#: Yields None wherever the caller may stop it; returns its result.
Check = Generator[None, None, Any]


def folds(corrections: Sequence[Correction], config: FineTuneConfig) -> list[Fold]:
    """Which slices are left out together; no folds if there is a single slice.

    With several images, a project's folds leave out whole ones, since its model is for further
    scans. The same slice of all frames of an image is left out together, because it shows the same
    anatomy.
    """
    pairs = [(i, s) for i, correction in enumerate(corrections) for s in correction.slices]
    images = image_numbers(corrections)
    whole = config.kind == "project" and len(set(images)) > 1
    parts = [(images[i], -1 if whole else s) for i, s in pairs]
    numbers = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    units = [numbers[part] for part in parts]
    count = min(config.folds, len(numbers))
    if count < 2:
        return []

    def left_out(scan: int, fold: int) -> tuple[int, ...]:
        numbered = zip(pairs, units, strict=True)
        return tuple(s for (i, s), unit in numbered if i == scan and unit % count == fold)

    return [[left_out(scan, fold) for scan in range(len(corrections))] for fold in range(count)]


def left_out_counts(
    model: Model, corrections: Sequence[Correction], fold: Fold, device: str
) -> Check:
    """Counts of a fold's slices, added up, by a model that did not learn from them."""
    total: Counts = np.zeros((len(model.card.labels.names), 3), np.int64)
    for correction, slices in zip(corrections, fold, strict=True):
        found = yield from slice_counts(model, correction, slices, device)
        total += sum(found.values())
    return total


def slice_counts(model: Model, correction: Correction, slices: Sequence[int], device: str) -> Check:
    """Counts (`answer_counts`) of corrected slices, by slice."""
    ids = [label.id for label in model.card.labels]
    found: dict[int, Counts] = {}
    for done in answers(model, correction, slices, device):
        if done is not None:
            found[done.index] = answer_counts(done.labels, correction, done.index, ids)
        yield
    return found


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


def unpainted_answers(model: Model, corrections: Sequence[Correction], device: str) -> Check:
    """A model's answers in the corrected slices of each correction, (n,H,W); 0 where somebody
    painted, and for structures that somebody checked in any corrected slice of the scan."""
    found = []
    for correction in corrections:
        checked = sorted(correction.checked_structures)
        if set(model.card.labels.names) <= set(checked):
            found.append(np.zeros_like(np.stack(correction.pictures)))
            continue
        said: dict[int, NDArray[Any]] = {}
        for done in answers(model, correction, correction.slices, device):
            if done is not None:
                truth = correction.picture(done.index)
                painted = truth != 0
                if correction.unmarked is not None:
                    painted &= truth != np.uint16(correction.unmarked)
                if done.index in correction.checked:
                    painted &= np.isin(truth, list(correction.checked[done.index]))
                hidden = painted | np.isin(done.labels, checked)
                said[done.index] = np.where(hidden, 0, done.labels)
            yield
        found.append(np.stack([said[index] for index in correction.slices]))
    return found


def lost_shares(
    before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]], names: Mapping[int, str]
) -> dict[str, float]:
    """By name, for structures with at least `_SPECK` voxels before: the share of these voxels that
    are something else after."""
    lost = {}
    for id, name in names.items():
        there = [old == id for old in before]
        count = sum(int(where.sum()) for where in there)
        if count >= _SPECK:
            pairs = zip(there, after, strict=True)
            lost[name] = sum(int((where & (new != id)).sum()) for where, new in pairs) / count
    return lost


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


def best_mix(
    counts: Counts, mixes: Sequence[float], config: FineTuneConfig, names: Sequence[str]
) -> tuple[int, Improvement]:
    """The index of the model to use, and Dice before and after by name.

    counts: (folds, models, structures, 3), the old model's first. mixes: the share of the new
    weights in each model. Each fold is scored with the model that is best on the other folds, so
    that no slice influences how it is judged. Among models within `config.mix_tolerance` of the
    best, the one nearest to the cautious mix is taken: a few slices cannot tell them apart.
    """

    def best(some: Counts) -> int:
        means = np.array([mean_dice(one) for one in some.sum(0)])
        good: list[int] = np.flatnonzero(means >= means.max() - config.mix_tolerance).tolist()
        return min(good, key=lambda index: abs(mixes[index] - config.cautious_mix))

    before = counts[:, 0]
    chosen = [best(np.delete(counts, index, 0)) for index in range(len(counts))]
    after = counts[np.arange(len(counts)), chosen]
    pairs = zip(before, after, strict=True)
    dice = Improvement(
        pooled_dice(before.sum(0), names),
        pooled_dice(after.sum(0), names),
        tuple((mean_dice(old), mean_dice(new)) for old, new in pairs),
    )
    return best(counts), dice
