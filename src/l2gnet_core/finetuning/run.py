"""Fine-tuning on a person's corrections.

It changes a copy of the model. The codebook is fixed, weights are pulled towards the old ones, the
old model's answers are learnt again on other slices, and old and new weights are mixed. At the end
a guard compares old and new on slices that were left out of learning. See docs/finetuning.md.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError, memory_is_short
from l2gnet_core.finetuning.appearance_search import AppearanceSearch, seen_as
from l2gnet_core.finetuning.config import SCAN, FineTuneConfig, unconstrained
from l2gnet_core.finetuning.correction_views import CorrectedScan, OldAnswer
from l2gnet_core.finetuning.cross_validation import best_mix, left_out_counts
from l2gnet_core.finetuning.familiarity import hardly_known
from l2gnet_core.finetuning.folds import Fold, folds
from l2gnet_core.finetuning.guard import Evidence, Improvement, Verdict, code_distance, judged
from l2gnet_core.finetuning.learner import Clock, Learner, LearningStep, Pace
from l2gnet_core.finetuning.lost_structures import lost_shares, unpainted_answers
from l2gnet_core.finetuning.new_structures import taught_labels, with_room_for
from l2gnet_core.finetuning.old_answers import beside_marks, old_answers, only_mistakes
from l2gnet_core.finetuning.overlap import Counts
from l2gnet_core.finetuning.rehearsal import KNOWN, heart_dice
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.models.weights import mixed_model, model_hash
from l2gnet_core.network.device import choose_device
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.preprocessing.scan_kind import KindAppearance, ScanKind
from l2gnet_core.relay import Result, Stoppable, relayed
from l2gnet_core.scans.fingerprint import SCANS, fingerprints
from l2gnet_core.segmenting.corrections import Correction, image_numbers, informative

#: Shares of the main run after which a preview is shown.
_PREVIEWS = (0.15, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class FineTuneResult:
    """The model to use from now on: the new one or, if the verdict is against it, the old one.

    steps: of all runs. seconds: of all runs and checks, on `device`. pace: repeats it exactly.
    """

    model: Model
    verdict: Verdict
    steps: int
    seconds: float
    pace: Pace
    device: str


@dataclass(frozen=True)
class FineTuneProgress:
    """Progress of a fine-tuning. Stopping here changes nothing.

    step: steps so far, in all runs. done: from 0 to 1. loss: of the step just made, None during
    checks. preview: a cautious mix to look at, not yet judged by the guard; None unless it is new.
    result: None except in the last progress.
    """

    step: int
    done: float
    seconds: float
    seconds_left: float | None
    loss: float | None = None
    preview: Model | None = None
    result: FineTuneResult | None = None


Moments = Generator[FineTuneProgress, None, Result]


@dataclass(frozen=True)
class _Knowledge:
    """What a model knows apart from the corrections: mean Dice on a drawn heart, distance of its
    codes' frequencies from those in training (None where it has none), and its answers for
    structures that nobody painted (`unpainted_answers`)."""

    heart: float | None
    codes: float | None
    unpainted: list[NDArray[Any]]


def finetune(
    model: Model,
    corrections: Sequence[Correction],
    config: FineTuneConfig = SCAN,
    device: str = "cpu",
    pace: Pace | None = None,
) -> Iterator[FineTuneProgress]:
    """Fine-tune a copy of a model on corrected slices; the last progress holds the result.

    Ids that the model does not have become new structures; the model's own structures all stay.
    With `config.steps`, or with the `pace` of an earlier result, the same seed gives the same
    weights on a CPU. `device` is as in `l2gnet_core.network.device.choose_device`; if the GPU's
    memory does not suffice, fine-tuning starts again on the CPU.

    Raises InputError for corrections that cannot be used, for names of structures that are not new,
    for a device that does not exist, and if memory does not suffice.
    """
    device, _ = choose_device(device)
    corrections = informative(corrections, erased=config.keeps_unmarked)
    try:
        yield from _FineTuning(model, corrections, config, device, pace).run()
        return
    except (MemoryError, RuntimeError) as error:
        if not memory_is_short(error):
            raise
        if device == "cpu":
            raise InputError(
                "Expected enough memory to learn in, but there is too little for slices of this "
                "size; close other programs."
            ) from error
    # Outside the handler: the exception's traceback would keep tensors on the GPU.
    yield from finetune(model, corrections, config, "cpu", pace)


class _FineTuning:
    """One fine-tuning: the main run, then the runs and checks of the guard."""

    def __init__(
        self,
        model: Model,
        corrections: Sequence[Correction],
        config: FineTuneConfig,
        device: str,
        pace: Pace | None,
    ) -> None:
        labels = taught_labels(model.card.labels, corrections, config.names)
        self.model = model
        shown = {correction.appearance_in(model.card) for correction in corrections}
        self.one_appearance = len(shown) == 1
        #: The appearance in which the old model is shown these scans. If they have several, each
        #: scan keeps its own.
        self.own = shown.pop() if self.one_appearance else model.card.appearance
        if self.one_appearance:
            model = seen_as(model, self.own)
        self.base, self.new = with_room_for(model, labels)
        self.base.network.to(device)
        self.corrections = corrections
        #: For each correction what its slices teach beside their marks.
        self.beside: list[dict[int, OldAnswer]] = [{} for _ in corrections]
        #: One correction of each image.
        self.images = list(dict(zip(image_numbers(corrections), corrections, strict=True)).values())
        self.config = config
        self.device = device
        self.folds = folds(corrections, config)
        self.clock = Clock(config, len(self.folds), pace)
        self.learner = Learner(self.base, self.new, config, device)
        # With the old model: new structures do not tell how a scan should look.
        self.search = AppearanceSearch(
            model, corrections, device, self.clock.search_is_over, zooms=config.kind == "scan"
        )
        self.step = 0
        #: Does the old model hardly know these scans?
        self.anew = False
        self._nothing: Fold = [() for _ in corrections]
        self._scans: dict[Appearance, list[CorrectedScan]] = {}

    def run(self) -> Iterator[FineTuneProgress]:
        """All runs and checks, in the order in which there is something to look at soonest."""
        said = yield from self._checked(old_answers(self.base, self.corrections, self.device))
        pairs = zip(self.corrections, said, strict=True)
        self.search.silent = [only_mistakes(*pair) for pair in pairs]
        appearance, *without = yield from self._appearances()
        base = self._base_in(appearance)
        if self._changed(appearance):
            yield self._progress(0.0, preview=base)
        if (yield from self._hardly_known(base)):
            self.config, self.anew = unconstrained(self.config), True
            self.learner = Learner(self.base, self.new, self.config, self.device)
        elif self.config.keeps_unmarked and not any(self.new):
            # Of new structures the old model says that they are background.
            if self._changed(appearance):
                said = yield from self._checked(old_answers(base, self.corrections, self.device))
            self.beside = [beside_marks(*pair) for pair in zip(self.corrections, said, strict=True)]
        learnt = yield from self._learnt(0, base, self._seen(appearance, self._nothing))
        began = self.clock.seconds
        before = yield from self._knowledge(self.base)
        memory = self.clock.seconds - began
        # Mix 0 in a new appearance is a candidate; in the old one it would be the old model.
        mixes = (0.0, *self.config.mixes) if self.config.adapts_appearance else self.config.mixes
        counts = yield from self._cross_validated(mixes, without, memory)
        mix, dice = self.config.cautious_mix, Improvement({}, {})
        if counts:
            names = [label.name for label in self.base.card.labels]
            which, dice = best_mix(np.array(counts), (0.0, *mixes), self.config, names)
            if which == 0:
                base = self.base
            mix = (0.0, *mixes)[which]
        model = mixed_model(base, learnt, mix)
        evidence = yield from self._evidence(model, mix, dice, before)
        known = [label.name for label in self.model.card.labels]
        verdict = judged(self.config.limits, evidence, known)
        result = FineTuneResult(
            model=self._named(model, verdict) if verdict.kept else self.model,
            verdict=verdict,
            steps=self.step,
            seconds=self.clock.seconds,
            pace=self.clock.pace,
            device=self.device,
        )
        yield FineTuneProgress(self.step, 1.0, result.seconds, 0.0, result=result)

    def _knowledge(self, model: Model) -> Moments[_Knowledge]:
        """A model's `_Knowledge`."""
        heart = yield from self._checked(heart_dice(model, self.device))
        codes = yield from self._checked(self._code_distance(model))
        return _Knowledge(heart, codes, (yield from self._unpainted(model)))

    def _cross_validated(
        self, mixes: Sequence[float], appearances: Sequence[Appearance], memory: float
    ) -> Moments[list[list[Counts]]]:
        """Counts (`left_out_counts`) of each fold, by the old model and by each mix of it with what
        the fold's test run learns.

        appearances: in which the test runs are shown the scans. memory: seconds that it takes to
        find out what a model knows apart from the corrections.
        """
        began, before = self.clock.seconds, []
        for fold in self.folds:
            before.append((yield from self._left_out(self.base, fold)))
        per_fold = (self.clock.seconds - began) / max(1, len(before)) * len(mixes)
        self.clock.reserved = memory + per_fold * len(before)
        counts = []
        for run, (fold, appearance) in enumerate(zip(self.folds, appearances, strict=True), 1):
            seen = self._base_in(appearance)
            new = yield from self._learnt(run, seen, self._seen(seen.card.appearance, fold))
            after = [before[run - 1]]
            for mix in mixes:
                same = mix == 0 and not self._changed(seen.card.appearance)
                model = mixed_model(seen, new, mix)
                after.append(after[0] if same else (yield from self._left_out(model, fold)))
            counts.append(after)
            self.clock.reserved -= per_fold
        return counts

    def _evidence(
        self, model: Model, mix: float, dice: Improvement, before: _Knowledge
    ) -> Moments[Evidence]:
        """What the guard is told of a new model beside the old one."""
        changed = self._changed(model.card.appearance)
        heart, codes, lost = before.heart, before.codes, {}
        if mix:
            heart = yield from self._checked(heart_dice(model, self.device))
        if mix or changed:
            codes = yield from self._checked(self._code_distance(model))
            now = yield from self._unpainted(model)
            lost = lost_shares(before.unpainted, now, self.model.card.labels.names)
        knew_heart = before.heart is not None and before.heart >= KNOWN
        return Evidence(
            mix=mix,
            slices=sum(len(correction.slices) for correction in self.corrections),
            dice=dice,
            heart=_pair(before.heart, heart) if knew_heart else None,
            codes=_pair(before.codes, codes),
            appearance=model.card.appearance if changed else None,
            lost=lost,
            alike=self.config.kind == "project",
            anew=self.anew,
            partly=any(one.partly_labelled for one in self.corrections),
        )

    def _hardly_known(self, base: Model) -> Moments[bool]:
        if not self.config.learns_anew or any(self.new):
            return False
        return (yield from self._checked(hardly_known(base, self.corrections, self.device)))

    def _search(self) -> Stoppable[tuple[Appearance, ...]]:
        """The appearances for all runs: those that the search finds, or the old one.

        For a project there is a search only if its scans are of one narrow kind, by which further
        scans of that kind can be recognised. A single scan does not tell how much its kind varies.
        """
        adapts = self.one_appearance
        if self.config.kind == "project":
            adapts = adapts and len(self.images) > 1 and self._kind.narrow
        if adapts:
            return (yield from self.search.agreed(self.folds))
        return (self.own,) * (1 + len(self.folds))

    @cached_property
    def _kind(self) -> ScanKind:
        """The kind of scan that these are."""
        return ScanKind.of([correction.profile(self.model.card) for correction in self.images])

    def _base_in(self, appearance: Appearance) -> Model:
        """The base model, shown these scans in an appearance."""
        return seen_as(self.base, appearance) if self._changed(appearance) else self.base

    def _changed(self, appearance: Appearance) -> bool:
        """Does an appearance differ from the old model's?"""
        return appearance != self.own

    def _appearances(self) -> Moments[tuple[Appearance, ...]]:
        """The appearances in which the runs are shown the scans, the main run's first."""
        if not self.config.adapts_appearance:
            return (self.own,) * (1 + len(self.folds))
        return (yield from self._checked(self.clock.searched(self._search())))

    def _learnt(
        self, run: int, base: Model, scans: Sequence[CorrectedScan]
    ) -> Moments[SegmentationNetwork]:
        """The network at the end of a run; the main run, number 0, yields previews."""
        due = list(_PREVIEWS) if run == 0 else []

        def told(step: LearningStep) -> FineTuneProgress:
            self.step += 1
            preview = None
            if due and step.done >= due[0]:
                due[:] = [share for share in due if share > step.done]
                preview = mixed_model(base, step.network, self.config.cautious_mix)
            return self._progress(step.done, step.loss, preview)

        return relayed(self.learner.learn(run, scans, self.clock), told)

    def _seen(self, appearance: Appearance, fold: Fold) -> list[CorrectedScan]:
        """The scans in an appearance, without the slices that a fold leaves out."""
        if appearance not in self._scans:
            card = self._base_in(appearance).card
            # Scans can be large: keep those of one appearance at a time.
            self._scans = {}
            pairs = zip(self.corrections, self.beside, strict=True)
            self._scans[appearance] = [CorrectedScan.of(one, card, old) for one, old in pairs]
        kept = [
            [k for k, index in enumerate(correction.slices) if index not in slices]
            for correction, slices in zip(self.corrections, fold, strict=True)
        ]
        scans = zip(self._scans[appearance], kept, strict=True)
        left = [scan.only(some) for scan, some in scans if some]
        return [scan for scan in left if scan.teaches] or left

    def _left_out(self, model: Model, fold: Fold) -> Moments[Counts]:
        return self._checked(left_out_counts(model, self.corrections, fold, self.device))

    def _checked(self, check: Stoppable[Result]) -> Moments[Result]:
        """The result of a check, with a progress at each of its pauses."""
        return relayed(check, lambda _: self._progress(1.0 if self.step else 0.0))

    def _unpainted(self, model: Model) -> Moments[list[NDArray[Any]]]:
        """A model's answers for structures that nobody painted; empty if the limits allow any."""
        if self.config.limits.most_lost >= 1:
            return []
        return (yield from self._checked(unpainted_answers(model, self.corrections, self.device)))

    def _code_distance(self, model: Model) -> Stoppable[float | None]:
        scans = self._seen(model.card.appearance, self._nothing)
        return code_distance(model.network, scans)

    def _progress(
        self, done: float, loss: float | None = None, preview: Model | None = None
    ) -> FineTuneProgress:
        share, left = self.clock.overall(done)
        seconds = self.clock.seconds
        return FineTuneProgress(self.step, share, seconds, left, loss=loss, preview=preview)

    def _shown(self, card: ModelCard) -> ModelCard:
        """A new model's card with the appearance in which it is shown scans.

        A model for one scan is shown every scan in the appearance that was found. A project's model
        is shown only scans of the same kind in it, and others as before.
        """
        old, found = self.model.card, card.appearance
        if not self._changed(found):
            return replace(card, appearance=old.appearance, kinds=old.kinds)
        if self.config.kind == "scan":
            return card
        kinds = (KindAppearance(self._kind, found), *old.kinds)
        return replace(card, appearance=old.appearance, kinds=kinds)

    def _named(self, model: Model, verdict: Verdict) -> Model:
        """The new model with its card, which tells where it comes from. Scans are recorded by
        fingerprints, which do not identify patients."""
        old = self.model.card
        model = replace(model, card=self._shown(model.card))
        settings = asdict(self.config)
        del settings["names"]  # The card's labels have them.
        entry = {
            "parent": old.name,
            "parent_sha256": model_hash(self.model),
            "scans": len(self.images),
            SCANS: sorted({mark for one in self.corrections for mark in fingerprints(one.scan)}),
            "steps": self.step,
            "settings": settings,
            "verdict": verdict.to_json(),
        }
        weakness = (
            "Fine-tuned to a single scan: for this one, not for others."
            if self.config.kind == "scan"
            else "Fine-tuned: how well it does on the patients it was tested on is not known."
        )
        card = replace(
            model.card,
            name=f"{old.name.split('+')[0]}+{model_hash(model)[:8]}",
            scores={},
            clean_up=old.clean_up.sparing(set(model.card.labels.names) - set(old.labels.names)),
            weaknesses=(*(text for text in old.weaknesses if text != weakness), weakness),
            history=(*old.history, entry),
        )
        return replace(model, card=card)


def _pair(before: float | None, after: float | None) -> tuple[float, float] | None:
    return None if before is None or after is None else (before, after)
