"""Models compared on slices left out of learning: which mix of old and new weights is best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from l2gnet_core.finetuning.config import FineTuneConfig
from l2gnet_core.finetuning.folds import Fold
from l2gnet_core.finetuning.guard import Improvement
from l2gnet_core.finetuning.overlap import Counts, mean_dice, pooled_dice, slice_counts
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.relay import Stoppable
from l2gnet_core.segmenting.corrections import Correction


def left_out_counts(
    model: Model, corrections: Sequence[Correction], fold: Fold, device: str
) -> Stoppable[Counts]:
    """Counts of a fold's slices, added up, by a model that did not learn from them."""
    total: Counts = np.zeros((len(model.card.labels.names), 3), np.int64)
    for correction, slices in zip(corrections, fold, strict=True):
        found = yield from slice_counts(model, correction, slices, device)
        total += sum(found.values())
    return total


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
