"""A search for the appearance in which a model scores best on corrected slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.finetuning.folds import Fold
from l2gnet_core.finetuning.lost_structures import SPECK, unpainted
from l2gnet_core.finetuning.overlap import Counts, answer_counts, answers, mean_dice
from l2gnet_core.finetuning.slice_consistency import unsteadiness
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.preprocessing.appearance import Appearance, steps_from
from l2gnet_core.relay import Stoppable
from l2gnet_core.segmenting.corrections import Correction

#: Mean Dice at which the search ends: for one scan, and for several, as uncorrected ones may look
#: worse to the model.
_GOOD, _GOOD_SEVERAL = 0.9, 0.95
#: Least rise of the mean Dice by a step, and by all steps together on slices that took no part in
#: the choice: for one scan, and for several, which are stronger evidence.
_LEAST_RISE, _LEAST_RISE_SEVERAL = 0.02, 0.01
#: Largest fall of the Dice that is allowed in any slice or, with several scans, in any scan.
_MOST_FALL = 0.05
#: By which share a structure that nobody painted may shrink.
_MOST_LOST = 0.3
#: With a single corrected slice: least rise of its Dice. In any case: least Dice after the search,
#: because any step may raise that of a model that knows next to nothing of the scan.
_LEAST_ALONE, _LEAST_DICE = 0.1, 0.5
#: By how much structures must change less from slice to slice, and in how many scans this is
#: measured at most.
_LEAST_STEADIED, _MOST_STEADIED = 0.01, 3
#: Most steps from the model's own appearance; most slices of a scan, and most scans, to judge by.
_MOST_STEPS, _MOST_SLICES, _MOST_SCANS = 3, 5, 5

#: The number of a correction, and the index of a slice.
Judge = tuple[int, int]


class AppearanceSearch:
    """Searches on the same corrected slices; scores of slices are computed once and kept."""

    def __init__(
        self,
        model: Model,
        corrections: Sequence[Correction],
        device: str,
        time_is_up: Callable[[], bool] = lambda: False,
        zooms: bool = True,
        silent: Sequence[set[int]] | None = None,
    ) -> None:
        """zooms: may slices be magnified, too? Not for further scans: the size of organs depends on
        the patient, not on the scanner. silent: for each correction the slices that cannot judge;
        None if all can."""
        self._model = model
        self._zooms = zooms
        self._own = model.card.appearance
        self._names = model.card.labels.names
        self._corrections = corrections
        several = len(corrections) > 1
        self._good = _GOOD_SEVERAL if several else _GOOD
        self._least_rise = _LEAST_RISE_SEVERAL if several else _LEAST_RISE
        self._device = device
        self._time_is_up = time_is_up
        self._counts: dict[tuple[Appearance, Judge], Counts] = {}
        # Voxels of each structure outside of what somebody painted.
        self._unpainted: dict[tuple[Appearance, Judge], NDArray[np.int64]] = {}
        self._silent = silent or [set() for _ in corrections]

    def agreed(self, folds: Sequence[Fold]) -> Stoppable[tuple[Appearance, ...]]:
        """The best appearance by all corrected slices, then the best without each fold's slices.

        All are the model's own unless the latter score better on the slices that they left out, and
        the first makes structures steadier from slice to slice. When time is up, the best so far
        count. New structures take no part.
        """
        runs = 1 + len(folds)
        known = set(self._names)
        if not any(known & correction.structures for correction in self._corrections):
            return (self._own,) * runs
        nothing: Fold = [() for _ in self._corrections]
        everywhere = self._judges(nothing)
        if not everywhere:
            return (self._own,) * runs
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

    def best(self, left_out: Fold) -> Stoppable[Appearance]:
        """The best appearance by the corrected slices that are not left out; the model's own unless
        another is clearly better."""
        judges = self._judges(left_out)
        best = self._own
        if not judges:
            return best
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
                    # A step that makes it worse now will hardly help later.
                    worse.add(name)
                elif (
                    dice >= top + self._least_rise
                    and (yield from self._spares(one, best, judges))
                    and (yield from self._keeps(one, judges))
                ):
                    better[one] = dice
            if not better:
                return best
            best = max(better, key=lambda one: better[one])
            top = better[best]
        return best

    def _judges(self, left_out: Fold) -> list[Judge]:
        """Some of the corrected slices that can judge and are not left out."""
        scans = [
            [(i, s) for s in correction.slices if s not in left_out[i] and s not in silent]
            for i, (correction, silent) in enumerate(
                zip(self._corrections, self._silent, strict=True)
            )
        ]
        few = _evenly([scan for scan in scans if scan], _MOST_SCANS)
        return [judge for scan in few for judge in _evenly(scan, _MOST_SLICES)]

    def _judged(self, appearance: Appearance, judges: Sequence[Judge]) -> Stoppable[list[Counts]]:
        """Counts of each slice."""
        model = seen_as(self._model, appearance)
        for i, correction in enumerate(self._corrections):
            missing = [s for j, s in judges if j == i and (appearance, (i, s)) not in self._counts]
            for done in answers(model, correction, missing, self._device):
                if done is not None:
                    key = appearance, (i, done.index)
                    ids = list(self._names)
                    self._counts[key] = answer_counts(done.labels, correction, done.index, ids)
                    rest = unpainted(done.labels, correction, done.index)
                    self._unpainted[key] = np.array([np.count_nonzero(rest == id) for id in ids])
                yield
        return [self._counts[appearance, judge] for judge in judges]

    def _dice(self, appearance: Appearance, judges: Sequence[Judge]) -> Stoppable[float]:
        return mean_dice(np.sum((yield from self._judged(appearance, judges)), axis=0))

    def _spares(
        self, one: Appearance, other: Appearance, judges: Sequence[Judge]
    ) -> Stoppable[bool]:
        """Is no slice or, with several scans, no scan much worse in one appearance than in the
        other?"""
        new = np.array((yield from self._judged(one, judges)))
        old = np.array((yield from self._judged(other, judges)))
        groups = np.array([i if len(self._corrections) > 1 else s for i, s in judges])
        pooled = ((new[groups == g].sum(0), old[groups == g].sum(0)) for g in np.unique(groups))
        return all(mean_dice(a) >= mean_dice(b) - _MOST_FALL for a, b in pooled)

    def _keeps(self, appearance: Appearance, judges: Sequence[Judge]) -> Stoppable[bool]:
        """Does the model find about as much of each structure that nobody painted? Not in the same
        place, since in the old appearance it may have been wrong."""
        yield from self._judged(self._own, judges)
        old, new = (
            np.sum([self._unpainted[seen, one] for one in judges], axis=0)
            for seen in (self._own, appearance)
        )
        return bool((new >= (1 - _MOST_LOST) * old)[old >= SPECK].all())

    def _steadies(self, appearance: Appearance) -> Stoppable[bool]:
        """Do structures change less from slice to slice in whole scans? Scans that are corrected
        throughout have no other slices to ask about."""
        partly = [
            one
            for one in self._corrections
            if one.structures and len(one.slices) < one.scan.shape[one.axis]
        ]
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
    """At most `most` of them, evenly spaced."""
    count = min(len(some), most)
    return [some[int((place + 0.5) / count * len(some))] for place in range(count)]


def seen_as(model: Model, appearance: Appearance) -> Model:
    """The same model, shown all scans in one appearance."""
    return replace(model, card=replace(model.card, appearance=appearance, kinds=()))
