"""The appearance in which a model does best on corrected slices, found step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from l2gnet_core.appearance import Appearance, steps_from
from l2gnet_core.checkpoint import Model
from l2gnet_core.corrections import Correction
from l2gnet_core.cross_validation import Check, Counts, Fold, mean_dice, slice_counts
from l2gnet_core.slice_consistency import unsteadiness

#: Mean Dice from which on scans look to the model as they should: one scan, and several, of which
#: some may look worse to it than those that were corrected.
_GOOD, _GOOD_SEVERAL = 0.9, 0.95
#: By how much a step, and all steps together on slices that had no say, must raise the mean Dice,
#: in one scan and in several, which tell more; and by how much it may fall in a single slice, or
#: of several scans in a single scan: among many slices one always falls.
_LEAST_RISE, _LEAST_RISE_SEVERAL, _MOST_FALL = 0.02, 0.01, 0.05
#: By how much it must rise on a single slice, where there are no others; and what it must then be:
#: of a model that knows next to nothing of a scan any step may raise it.
_LEAST_ALONE, _LEAST_DICE = 0.1, 0.5
#: By how much less structures must change from slice to slice, in how many scans at most.
_LEAST_STEADIED, _MOST_STEADIED = 0.01, 3
#: Steps away from the model's own appearance, and slices to judge by, at most, for each of so many
#: scans.
_MOST_STEPS, _MOST_SLICES, _MOST_SCANS = 3, 5, 5

#: The number of a correction, and the index of a slice.
Judge = tuple[int, int]


class AppearanceSearch:
    """Searches on the same corrected slices; what is found out about one is found out once."""

    def __init__(
        self,
        model: Model,
        corrections: Sequence[Correction],
        device: str,
        time_is_up: Callable[[], bool] = lambda: False,
        zooms: bool = True,
    ) -> None:
        """zooms: may slices be magnified, too? How large organs are is no matter of the scanner's:
        not for scans to come."""
        self._model = model
        self._zooms = zooms
        self._own = model.card.appearance
        self._corrections = corrections
        several = len(corrections) > 1
        self._good = _GOOD_SEVERAL if several else _GOOD
        self._least_rise = _LEAST_RISE_SEVERAL if several else _LEAST_RISE
        self._device = device
        self._time_is_up = time_is_up
        self._counts: dict[tuple[Appearance, Judge], Counts] = {}

    def agreed(self, folds: Sequence[Fold]) -> Check:
        """The best appearance by all corrected slices, then the best without each of the folds: the
        model's own, unless the latter do better on what they left out, and the first leads the
        model astray nowhere else.

        When time is up, it is what was found so far. New structures have no say.
        """
        runs = 1 + len(folds)
        known = set(self._model.card.labels.names)
        if not any(known & correction.structures for correction in self._corrections):
            return (self._own,) * runs
        nothing: Fold = [() for _ in self._corrections]
        everywhere = self._judges(nothing)
        best = yield from self.best(nothing)
        if best == self._own:
            return (self._own,) * runs
        before = yield from self._dice(self._own, everywhere)
        if folds:
            found, counts = [best], []
            for fold in folds:
                found.append((yield from self.best(fold)))
                left_out = [(i, s) for i, s in everywhere if s in fold[i]]
                counts += yield from self._judged(found[-1], left_out)
            after = mean_dice(np.sum(counts, axis=0))
        else:
            found, after = [best], (yield from self._dice(best, everywhere))
        rise = self._least_rise if folds else _LEAST_ALONE
        good = after >= max(before + rise, _LEAST_DICE) and (yield from self._steadies(best))
        return tuple(found) if good else (self._own,) * runs

    def best(self, left_out: Fold) -> Check:
        """The best appearance by the corrected slices that are not left out; the model's own, if
        none is clearly better."""
        judges = self._judges(left_out)
        best = self._own
        top = yield from self._dice(best, judges)
        worse: set[str] = set()
        for _ in range(_MOST_STEPS):
            if top >= self._good:
                return best
            better: dict[Appearance, float] = {}
            for name, one in steps_from(best).items():
                if one.zoom != best.zoom and not self._zooms:
                    continue
                if name in worse or self._time_is_up():
                    continue
                dice = yield from self._dice(one, judges)
                if dice < top:
                    # What makes it worse now will hardly help a step further.
                    worse.add(name)
                elif dice >= top + self._least_rise and (
                    yield from self._spares(one, best, judges)
                ):
                    better[one] = dice
            if not better:
                return best
            best = max(better, key=lambda one: better[one])
            top = better[best]
        return best

    def _judges(self, left_out: Fold) -> list[Judge]:
        """Some of the corrected slices that are not left out."""
        scans = [
            [(i, s) for s in correction.slices if s not in left_out[i]]
            for i, correction in enumerate(self._corrections)
        ]
        few = _evenly([scan for scan in scans if scan], _MOST_SCANS)
        return [judge for scan in few for judge in _evenly(scan, _MOST_SLICES)]

    def _judged(self, appearance: Appearance, judges: Sequence[Judge]) -> Check:
        """Counts of each slice."""
        model = seen_as(self._model, appearance)
        for i, correction in enumerate(self._corrections):
            missing = [s for j, s in judges if j == i and (appearance, (i, s)) not in self._counts]
            if missing:
                found = yield from slice_counts(model, correction, missing, self._device)
                self._counts.update({(appearance, (i, s)): one for s, one in found.items()})
        return [self._counts[appearance, judge] for judge in judges]

    def _dice(self, appearance: Appearance, judges: Sequence[Judge]) -> Check:
        return mean_dice(np.sum((yield from self._judged(appearance, judges)), axis=0))

    def _spares(self, one: Appearance, other: Appearance, judges: Sequence[Judge]) -> Check:
        """Does no slice, or of several scans no scan, lose much to the other appearance?"""
        new = np.array((yield from self._judged(one, judges)))
        old = np.array((yield from self._judged(other, judges)))
        groups = np.array([i if len(self._corrections) > 1 else s for i, s in judges])
        pooled = ((new[groups == g].sum(0), old[groups == g].sum(0)) for g in np.unique(groups))
        return all(mean_dice(a) >= mean_dice(b) - _MOST_FALL for a, b in pooled)

    def _steadies(self, appearance: Appearance) -> Check:
        """Do structures change less from slice to slice, all over the scans? Scans that are
        corrected throughout leave nothing to ask: they have judged."""
        partly = [c for c in self._corrections if len(c.slices) < c.scan.shape[c.axis]]
        if not partly:
            return True
        partly = partly[:: -(-len(partly) // _MOST_STEADIED)]
        before = after = 0.0
        for correction in partly:
            before += yield from unsteadiness(self._model, correction, self._device)
            shown = seen_as(self._model, appearance)
            after += yield from unsteadiness(shown, correction, self._device)
        return after < before - _LEAST_STEADIED * len(partly)


def _evenly(some: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, from all over."""
    count = min(len(some), most)
    return [some[int((place + 0.5) / count * len(some))] for place in range(count)]


def seen_as(model: Model, appearance: Appearance) -> Model:
    """The same weights, shown all scans in one appearance."""
    return replace(model, card=replace(model.card, appearance=appearance, kinds=()))
