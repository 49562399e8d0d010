"""Fine-tuning on a person's corrections.

It changes a copy of the model. The codebook is fixed, weights are pulled towards the old ones, the
old model's answers are learnt again on other slices, and old and new weights are mixed. At the end
a guard compares old and new on slices that were left out of learning. See docs/finetuning.md.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from l2gnet_core.errors import InputError, memory_is_short
from l2gnet_core.finetuning.config import SCAN, FineTuneConfig
from l2gnet_core.finetuning.cross_validation import best_mix, left_out_counts
from l2gnet_core.finetuning.evidence import evidence_of, old_knowledge
from l2gnet_core.finetuning.folds import Fold
from l2gnet_core.finetuning.guard import Improvement, Verdict, judged
from l2gnet_core.finetuning.learner import Clock, Learner, LearningStep, Pace
from l2gnet_core.finetuning.old_answers import old_answers
from l2gnet_core.finetuning.overlap import Counts
from l2gnet_core.finetuning.plan import LearntScans, Plan, Setup, appearances_of_runs, planned
from l2gnet_core.finetuning.provenance import with_provenance
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.models.weights import mixed_model
from l2gnet_core.network.device import choose_device
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.relay import Result, Stoppable, relayed
from l2gnet_core.segmenting.corrections import Correction, informative

#: What a fine-tuning is doing: looking at the scans, the search for an appearance, the main run, a
#: run without some slices, or a check of a model.
Phase = Literal["preparing", "searching", "learning", "test run", "checking"]
#: Shares of the main run after which a preview is shown.
_PREVIEWS = (0.15, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class FineTuneResult:
    """The model to use from now on: the new one or, if the verdict is against it, the old one.

    all_steps: of all runs. seconds: of all runs and checks, on `device`. pace: repeats it exactly.
    """

    model: Model
    verdict: Verdict
    all_steps: int
    seconds: float
    pace: Pace
    device: str


@dataclass(frozen=True)
class FineTuneProgress:
    """Progress of a fine-tuning. Stopping here changes nothing.

    step: steps so far, in all runs. done: from 0 to 1. loss: of the step just made, None outside of
    runs. preview: a cautious mix to look at, not yet judged by the guard; None unless it is new.
    result: None except in the last progress.
    """

    phase: Phase
    step: int
    done: float
    seconds: float
    seconds_left: float | None
    loss: float | None = None
    preview: Model | None = None
    result: FineTuneResult | None = None


Moments = Generator[FineTuneProgress, None, Result]


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
        yield from _steps(model, corrections, config, device, pace)
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


def _steps(
    model: Model,
    corrections: Sequence[Correction],
    config: FineTuneConfig,
    device: str,
    pace: Pace | None,
) -> Iterator[FineTuneProgress]:
    """All runs and checks, in the order in which there is something to look at soonest."""
    setup = Setup.of(model, corrections, config, device)
    clock = Clock(config, len(setup.folds), pace)
    said = yield from _preparing(old_answers(setup.base, corrections, device), clock)
    search = appearances_of_runs(setup, said, clock)
    appearances = yield from relayed(search, lambda _: _progress("searching", clock, 0.0))
    base = setup.base_in(appearances[0])
    if setup.changes(appearances[0]):
        yield _progress("searching", clock, 0.0, preview=base)
    plan = yield from _preparing(planned(setup, said, appearances), clock)
    scans = LearntScans(plan)
    learner = Learner(setup.base, setup.new, plan.config, device)
    learnt = yield from _main_run(plan, scans, learner, clock)
    began = clock.seconds
    before = yield from _checking(old_knowledge(plan, scans), clock)
    counts = yield from _test_runs(plan, scans, learner, clock, clock.seconds - began)
    mix, dice = plan.config.cautious_mix, Improvement({}, {})
    if counts:
        mixes = (0.0, *plan.mixes)
        names = [label.name for label in setup.base.card.labels]
        which, dice = best_mix(np.array(counts), mixes, plan.config, names)
        if which == 0:
            base = setup.base
        mix = mixes[which]
    new = mixed_model(base, learnt, mix)
    evidence = yield from _checking(evidence_of(new, mix, dice, before, plan, scans), clock)
    known = [label.name for label in model.card.labels]
    verdict = judged(plan.config.limits, evidence, known)
    result = FineTuneResult(
        model=with_provenance(new, plan, verdict, clock.pace.main_steps) if verdict.kept else model,
        verdict=verdict,
        all_steps=clock.steps,
        seconds=clock.seconds,
        pace=clock.pace,
        device=device,
    )
    yield FineTuneProgress("checking", clock.steps, 1.0, result.seconds, 0.0, result=result)


def _main_run(
    plan: Plan, scans: LearntScans, learner: Learner, clock: Clock
) -> Moments[SegmentationNetwork]:
    """The network at the end of the main run, with previews on the way."""
    appearance, due = plan.appearances[0], list(_PREVIEWS)
    base = plan.setup.base_in(appearance)

    def moment(step: LearningStep) -> FineTuneProgress:
        preview = None
        if due and step.done >= due[0]:
            due[:] = [share for share in due if share > step.done]
            preview = mixed_model(base, step.network, plan.config.cautious_mix)
        return _progress("learning", clock, step.done, step.loss, preview)

    return relayed(learner.learn(0, scans.whole(appearance), clock), moment)


def _test_runs(
    plan: Plan, scans: LearntScans, learner: Learner, clock: Clock, memory: float
) -> Moments[list[list[Counts]]]:
    """Counts (`left_out_counts`) of each fold, by the old model and by each mix of it with what the
    fold's test run learns.

    memory: seconds that it takes to find out what a model knows apart from the corrections.
    """
    setup, mixes = plan.setup, plan.mixes

    def left_out(model: Model, fold: Fold) -> Moments[Counts]:
        return _checking(left_out_counts(model, setup.corrections, fold, setup.device), clock)

    def moment(step: LearningStep) -> FineTuneProgress:
        return _progress("test run", clock, step.done, step.loss)

    began, before = clock.seconds, []
    for fold in setup.folds:
        before.append((yield from left_out(setup.base, fold)))
    per_fold = (clock.seconds - began) / max(1, len(before)) * len(mixes)
    clock.reserved = memory + per_fold * len(before)
    counts = []
    triples = zip(setup.folds, plan.appearances[1:], before, strict=True)
    for run, (fold, appearance, old) in enumerate(triples, 1):
        seen = setup.base_in(appearance)
        new = yield from relayed(learner.learn(run, scans.without(fold, appearance), clock), moment)
        after = [old]
        for mix in mixes:
            same = mix == 0 and not setup.changes(appearance)
            model = mixed_model(seen, new, mix)
            after.append(old if same else (yield from left_out(model, fold)))
        counts.append(after)
        clock.reserved -= per_fold
    return counts


def _preparing(check: Stoppable[Result], clock: Clock) -> Moments[Result]:
    """The result of a check before the runs, with a progress at each of its pauses."""
    return relayed(check, lambda _: _progress("preparing", clock, 0.0))


def _checking(check: Stoppable[Result], clock: Clock) -> Moments[Result]:
    """The result of a check after a run, with a progress at each of its pauses."""
    return relayed(check, lambda _: _progress("checking", clock, 1.0))


def _progress(
    phase: Phase,
    clock: Clock,
    done: float,
    loss: float | None = None,
    preview: Model | None = None,
) -> FineTuneProgress:
    """done: the share of the current run that is done."""
    share, left = clock.overall(done)
    return FineTuneProgress(phase, clock.steps, share, clock.seconds, left, loss, preview)
