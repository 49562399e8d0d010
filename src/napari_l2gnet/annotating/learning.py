"""Fine-tuning on a mask's corrections, step by step and with previews. Without Qt.

Every generator here is meant for a thread of its own, can be stopped at each yield, and writes
nothing into the mask: the GUI's thread takes in the events that it yields.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.catalog import find_model
from l2gnet_core.project.events import Answered, FineTuned, Tidying
from l2gnet_core.project.state import SliceKey
from l2gnet_core.relay import Result, relayed
from l2gnet_core.scans.labels import plain
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.annotating.annotation import Annotation, Lesson, Version
from napari_l2gnet.annotating.task_events import (
    Answer,
    Filled,
    Judged,
    PreviewBegins,
    PreviewFits,
    SliceShown,
    Step,
    TaskEvent,
    as_steps,
)
from napari_l2gnet.jobs.segment_places import ScanFrames, segment_places
from napari_l2gnet.jobs.session import Session
from napari_l2gnet.masks.organs import UNMARKED
from napari_l2gnet.masks.segmentation import Segmentation

if TYPE_CHECKING:
    from l2gnet_core.finetuning.config import FineTuneConfig
    from l2gnet_core.finetuning.run import Phase
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.segmenting.corrections import Correction
    from l2gnet_core.segmenting.trace import Trace

#: At most so many slices measure how well a preview fits the corrections.
_SLICES_FOR_DICE = 3
#: Share of the progress bar for segmenting the scan after a fine-tuning, if the time that takes is
#: unknown.
_SHARE_OF_SEGMENTING = 0.2


@dataclass(frozen=True)
class TaughtScan:
    """A scan and a person's corrections of its frames."""

    volume: Volume
    segmentation: Segmentation
    lessons: Sequence[Lesson]


@dataclass
class Task:
    """What to learn: from which scans, the first of which is on screen, and from which version on.

    here: the slice on screen, which may change during the task. seconds: to learn for. names: of
    organs, by id. others: the annotations of the other scans.
    """

    annotation: Annotation
    version: Version
    scans: Sequence[TaughtScan]
    here: SliceKey
    kind: Literal["scan", "project"] = "scan"
    seconds: float = 20.0
    names: Mapping[int, str] = field(default_factory=dict)
    others: Sequence[Annotation] = ()


TaskSteps = Generator[TaskEvent, None, Result]


def learn(session: Session, task: Task) -> TaskSteps[None]:
    """Fine-tune, with previews of the slice on screen. If the guard keeps the new model, it then
    segments the whole scan. Yields the answer last, or a verdict against the model."""
    yield Step("Loading the model")
    from l2gnet_core.finetuning.run import finetune
    from l2gnet_core.network.device import choose_device
    from l2gnet_core.segmenting.corrections import informative

    device, _ = choose_device()
    model = model_of(session, task.version, task.annotation, device)
    scan = ScanFrames(task.scans[0].volume, task.scans[0].segmentation.axis)
    corrections = []
    for number, taught in enumerate(task.scans):
        of = scan if number == 0 else ScanFrames(taught.volume, taught.segmentation.axis)
        for lesson in taught.lessons:
            yield Step("Reading the scan")
            corrections.append(_correction(of, lesson, number))
    corrections = informative(corrections)
    config = _config(task, model, corrections)
    own = [correction for correction in corrections if correction.grid is scan.volume]
    doing: dict[Phase, str] = {
        "preparing": "Looking at the scan" if len(task.scans) == 1 else "Looking at the scans",
        "searching": f"Trying brightness and {'size' if config.kind == 'scan' else 'smoothness'}",
        "learning": "Learning",
        "test run": "Checking on slices left out",
        "checking": "Checking the new model",
    }
    preview: Model | None = None
    shown: set[SliceKey] = set()
    segmentation = task.scans[0].segmentation
    each = segmentation.slice_seconds
    # A model that is kept then segments the scan; 0 seconds if the time that takes is unknown.
    segmenting = 0.0 if each is None else each * len(segmentation.places)
    known = task.seconds / (task.seconds + segmenting)
    share, then = (known, "") if segmenting else (1 - _SHARE_OF_SEGMENTING, "segmenting")
    for progress in finetune(model, corrections, config, device):
        step = Step(
            doing[progress.phase],
            share * progress.done,
            None if progress.seconds_left is None else progress.seconds_left + segmenting,
            then,
            progress.step,
            # That of test runs is of other models.
            progress.loss if progress.phase == "learning" else None,
        )
        if progress.preview is not None:
            preview, shown = progress.preview, set()
            yield PreviewBegins()
        yield step
        if preview is None or progress.result is not None:
            continue
        # Also after a step without a new preview: another slice may be on screen by now.
        if (here := task.here) not in shown:
            shown.add(here)
            yield from _predicted(preview, scan, here[0], [here[1]], device, step)
        if progress.preview is not None:
            yield from _fit(preview, own, device, step)
    result = progress.result
    assert result is not None
    learnt = FineTuned(model, corrections, config, result, result.device)
    if not result.verdict.kept:
        yield Step("Kept the old model", 1.0)
        yield Judged(learnt)
        return
    yield Step("Segmenting", share, segmenting)
    yield Judged(learnt)
    yield from _segmented(result.model, scan, task, "accepted", device, share)


def apply(session: Session, task: Task) -> TaskSteps[None]:
    """Get the answer of a version of the model, from memory or by segmenting the scan."""
    version, segmentation = task.version, task.scans[0].segmentation
    yield Step("Loading the model")
    from l2gnet_core.network.device import choose_device

    device, _ = choose_device()
    model = model_of(session, version, task.annotation, device)
    if version.raw is not None:
        answered = Answered("rolled back", model, (), device=device, remembered=True)
        # Tidied as before: later strokes stay a person's, and must not change other slices.
        yield from _tidied(segmentation, version.raw, answered, version.traces, version.tidying)
        return
    scan = ScanFrames(task.scans[0].volume, segmentation.axis)
    # A version from a file is new; the others gave answers before.
    what: Literal["accepted", "rolled back"] = "rolled back"
    if version.kind == "file" and version.model is None:
        what = "accepted"
    yield from _segmented(model, scan, task, what, device)


def interpolate(
    annotation: Annotation,
    volume: Volume,
    frame: int,
    slices: Sequence[int],
    organ: int | None,
) -> TaskSteps[None]:
    """Fill in an organ (None: all) between slices of a frame. Yields the filled slices last."""
    yield Step("Interpolating")
    segmentation = annotation.segmentation
    scan = ScanFrames(volume, segmentation.axis).frame(frame)
    filling = annotation.interpolating(scan, frame, slices, organ)
    labels = yield from as_steps("Interpolating", filling)
    stack = np.moveaxis(labels, segmentation.axis, 0)
    between = [index for index in range(slices[0], slices[-1]) if index not in slices]
    yield Step("Done", 1.0)
    yield Filled({(frame, index): stack[index] for index in between})


def model_of(session: Session, version: Version, annotation: Annotation, device: str) -> Model:
    """The model of a version, from memory or its file. Raises InputError if it cannot be found."""
    if (model := _in_memory(version, annotation)) is not None:
        return model
    return session.load(version.path or find_model(annotation.model), device)


def card_of(version: Version, annotation: Annotation) -> ModelCard:
    """The card of a version's model. Raises InputError if it cannot be found."""
    from l2gnet_core.models.checkpoint import read_card

    if (model := _in_memory(version, annotation)) is not None:
        return model.card
    return read_card(version.path or find_model(annotation.model))


def _in_memory(version: Version, annotation: Annotation) -> Model | None:
    from l2gnet_core.models.checkpoint import Model

    answered = annotation.segmentation.model
    # The file of the original may have been overwritten since.
    if version is annotation.version and version.kind == "original" and isinstance(answered, Model):
        return answered
    return version.model


def tidied(
    segmentation: Segmentation,
    raw: NDArray[Any],
    answered: Answered,
    before: Tidying | None = None,
) -> tuple[NDArray[Any], Answered]:
    """A model's raw answer (t,z,y,x), tidied as chosen for the mask, and the completed `answered`.

    before: how the answer was tidied earlier; used again if the choices are the same.
    """
    if not segmentation.clean_up:
        return raw, replace(answered, tidying=None)
    tidying = before
    if tidying is None or tidying.choices != segmentation.clean_up:
        tidying = Tidying(segmentation.clean_up, segmentation.painted())
    return tidying.whole(raw, segmentation.axis), replace(answered, tidying=tidying)


def _correction(scan: ScanFrames, lesson: Lesson, number: int) -> Correction:
    from l2gnet_core.segmenting.corrections import Correction

    return Correction(
        scan.frame(lesson.frame),
        scan.volume,
        scan.axis,
        lesson.labels,
        lesson.slices,
        unmarked=UNMARKED,
        weights=lesson.weights,
        image=number,
        checked=lesson.checked,
    )


def _config(task: Task, model: Model, corrections: Sequence[Correction]) -> FineTuneConfig:
    from l2gnet_core.finetuning.config import settings

    taught = set().union(*(correction.structures for correction in corrections))
    known = model.card.labels.names
    new = taught - set(known)
    # A new organ may have the old name of a renamed one. The model keeps its own names, by which it
    # is checked on drawn hearts, and names such an organ by its id until it is saved.
    taken = {plain(name) for name in known.values()}
    names = {id: name for id, name in task.names.items() if id in new and plain(name) not in taken}
    usual = settings(task.kind == "project", bool(new))
    return replace(usual, seconds=task.seconds, names=names)


def _predicted(
    model: Model,
    scan: ScanFrames,
    frame: int,
    order: Sequence[int],
    device: str,
    step: Step,
) -> TaskSteps[None]:
    from l2gnet_core.segmenting.predict import predict_slices

    pixels, field = scan.frame(frame), scan.field(frame, model.card)
    for result in predict_slices(model, pixels, scan.volume, scan.axis, order, device, field=field):
        if result is None:
            yield step
        else:
            yield SliceShown((frame, result.index), result.labels)


def _fit(
    model: Model, corrections: Sequence[Correction], device: str, step: Step
) -> TaskSteps[None]:
    """Yield how well a preview fits some of the slices that it learns from, if any counts."""
    from l2gnet_core.finetuning.cross_validation import left_out_counts
    from l2gnet_core.finetuning.overlap import pooled_dice

    some = [correction.slices[:_SLICES_FOR_DICE] for correction in corrections[:1]]
    check = left_out_counts(model, corrections[:1], some, device)
    counts = yield from relayed(check, lambda _: step)
    dice = pooled_dice(counts, [label.name for label in model.card.labels])
    if dice:
        yield PreviewFits(step.step, sum(dice.values()) / len(dice))


def _segmented(
    model: Model,
    scan: ScanFrames,
    task: Task,
    what: Literal["accepted", "rolled back"],
    device: str,
    begun: float = 0.0,
) -> TaskSteps[None]:
    """Segment the whole scan, outward from the slice on screen, and tidy it as chosen for the mask.
    begun: the share of the task that is done already."""
    from l2gnet_core.segmenting.predict import outward

    segmentation = task.scans[0].segmentation
    count, total = segmentation.shown.shape[1 + scan.axis], len(segmentation.places)
    raw = np.zeros_like(segmentation.raw)
    traces: dict[int, Trace] = {}
    places: list[SliceKey] = []
    # Lazy: each frame begins at the slice that is on screen by then.
    order = (
        (frame, outward(task.here[1], count))
        for frame in outward(task.here[0], len(segmentation.shown))
    )
    for step in segment_places(
        model, scan, order, total, device, slice_seconds=segmentation.slice_seconds
    ):
        if step.trace is not None:
            traces[step.frame] = step.trace
        if step.place is not None:
            places.append(step.place)
            segmentation.slice_of(raw, step.place)[...] = step.labels
            if step.slice_trace is not None:
                traces[step.frame].add(step.place[1], step.slice_trace)
        yield Step("Segmenting", begun + (1 - begun) * step.done / total, step.seconds_left)
        if step.place is not None and step.labels is not None:
            yield SliceShown(step.place, step.labels, step.slice_seconds)
    answered = Answered(what, model, places, device=device)
    yield from _tidied(segmentation, raw, answered, traces)


def _tidied(
    segmentation: Segmentation,
    raw: NDArray[Any],
    answered: Answered,
    traces: dict[int, Trace],
    before: Tidying | None = None,
) -> TaskSteps[None]:
    """Yield a model's answer, tidied as chosen for the mask. before: as in `tidied`."""
    yield Step("Tidying", 1.0)
    labels, answered = tidied(segmentation, raw, answered, before)
    yield Step("Done", 1.0)
    yield Answer(raw, labels, answered, traces)
