"""Corrected slices left out of learning: which ones, what models make of them, and which mix of old
and new weights that speaks for."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.checkpoint import Model
from l2gnet_core.corrections import Correction, image_numbers
from l2gnet_core.finetune_config import FineTuneConfig
from l2gnet_core.guard import Improvement
from l2gnet_core.predict import SlicePrediction, predict_slices

#: Fewer voxels than these in all corrected slices are no structure that could be lost.
_SPECK = 100
#: For each correction the slices that a run leaves out.
Fold = list[tuple[int, ...]]
#: (overlap, said, true) voxels of each structure, (structures,3); sums give pooled Dice.
Counts = NDArray[np.int64]
#: None is a moment at which whoever drives a check can stop it.
Check = Generator[None, None, Any]


def folds(corrections: Sequence[Correction], config: FineTuneConfig) -> list[Fold]:
    """Which slices are left out together; none where there is but one.

    A project's folds leave out whole images, where there are several: it is for scans to come. In
    one image the same slice of all frames is left out together: the heart in it is the same.
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
    """Counts of a fold's slices together, by a model that did not learn from them."""
    total: Counts = np.zeros((len(model.card.labels.names), 3), np.int64)
    for correction, slices in zip(corrections, fold, strict=True):
        found = yield from slice_counts(model, correction, slices, device)
        total += sum(found.values())
    return total


def slice_counts(model: Model, correction: Correction, slices: Sequence[int], device: str) -> Check:
    """Counts of corrected slices, by slice.

    Unmarked voxels do not count, nor do structures that none of the scan's corrected slices holds:
    nothing is said of them.
    """
    ids = [label.id for label in model.card.labels]
    unknown = [id not in correction.structures for id in ids]
    found: dict[int, Counts] = {}
    for done in answers(model, correction, slices, device):
        if done is not None:
            truth = correction.pictures[correction.slices.index(done.index)]
            said = done.labels
            if correction.unmarked is not None:
                # As a plain number it would wrap around in the few bits of an answer.
                unmarked = np.uint16(correction.unmarked)
                said = np.where(truth == unmarked, unmarked, said)
            found[done.index] = compared(said, truth, ids)
            found[done.index][unknown] = 0
        yield
    return found


def unpainted_answers(model: Model, corrections: Sequence[Correction], device: str) -> Check:
    """What a model says in corrected slices, for each correction (n,H,W), with 0 where somebody
    painted and for structures that are painted in some slice of the scan."""
    found = []
    for correction in corrections:
        if set(model.card.labels.names) <= correction.structures:
            found.append(np.zeros_like(np.stack(correction.pictures)))
            continue
        said: dict[int, NDArray[Any]] = {}
        for done in answers(model, correction, correction.slices, device):
            if done is not None:
                truth = correction.pictures[correction.slices.index(done.index)]
                painted = truth != 0
                if correction.unmarked is not None:
                    painted &= truth != np.uint16(correction.unmarked)
                hidden = painted | np.isin(done.labels, sorted(correction.structures))
                said[done.index] = np.where(hidden, 0, done.labels)
            yield
        found.append(np.stack([said[index] for index in correction.slices]))
    return found


def lost_shares(
    before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]], names: Mapping[int, str]
) -> dict[str, float]:
    """By name of what was there before, but for specks: the share of its voxels that are something
    else after."""
    lost = {}
    for id, name in names.items():
        there = [old == id for old in before]
        count = sum(int(where.sum()) for where in there)
        if count >= _SPECK:
            pairs = zip(there, after, strict=True)
            lost[name] = sum(int((where & (new != id)).sum()) for where, new in pairs) / count
    return lost


def upright(model: Model) -> Model:
    """The same model, predicting from slices as they are alone."""
    return replace(model, card=replace(model.card, views=1))


def answers(
    model: Model, correction: Correction, slices: Sequence[int], device: str
) -> Iterator[SlicePrediction | None]:
    """What a model says of slices of a corrected scan, as `predict_slices` yields it.

    Without turned views: before and after fine-tuning differ as much, in a quarter of the time.
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
    """Which of the models to use, and Dice before and after by name.

    counts: (folds, models, structures, 3), the old model's first; mixes: the share of the new
    weights in each model. What a fold's slices score, they score with the model that the other
    folds speak for: no slice has a say in how it is judged. Of models that are about as good as the
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
