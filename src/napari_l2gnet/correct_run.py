"""A job on a mask's corrections: fine-tuning, another version's answer, or interpolation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from l2gnet_core.cleanup import CleanUp
from l2gnet_core.labels import LabelSet
from l2gnet_core.project.events import Answered, Discarded, FineTuned, Interpolated
from l2gnet_core.project.state import SliceKey
from napari_l2gnet import learning
from napari_l2gnet.annotation import Annotation, Kind, Proposal, Version
from napari_l2gnet.learning import Task, TaskProgress, card_of
from napari_l2gnet.mask_layer import MaskLayer
from napari_l2gnet.organs import with_organs_of
from napari_l2gnet.preview import AFTER, BEFORE, Preview
from napari_l2gnet.segmentation import Segmentation
from napari_l2gnet.session import Session
from napari_l2gnet.tasks import annotation_of
from napari_l2gnet.worker import Job

if TYPE_CHECKING:
    from l2gnet_core.volume import Volume

#: Dice of a new organ on slices left out, below which interpolation does better: that reaches 0.8
#: to 0.9 on abdominal organs between five painted slices.
_WELL = 0.8


class CorrectRun(QObject):
    """Computes in a thread. Shows the result beside its mask, or adopts it as one undoable step.

    It stays with that mask while the user looks at another one.
    """

    #: A `TaskProgress`, after it is shown.
    stepped = Signal(object)
    #: "finished", "cancelled" or "failed", and a sentence; emitted after everything is drawn.
    ended = Signal(str, str)

    def __init__(
        self, session: Session, mask: MaskLayer, annotation: Annotation, parent: QObject
    ) -> None:
        super().__init__(parent)
        self.mask = mask
        self.annotation = annotation
        #: The task of a fine-tuning or of another version. `task.here` follows the slice on screen.
        self.task: Task | None = None
        self._session = session
        self._job: Job | None = None
        #: What the guard said.
        self.text = ""
        #: Is the adopted answer still in the mask?
        self.stands: Callable[[], bool] = lambda: True
        self._kind: Kind = "scan"
        self._answer: TaskProgress | None = None
        self._loading: Version | None = None
        self._brought: Sequence[int] = ()
        self._abandoned = False

    def learn(self, task: Task) -> None:
        """Fine-tune; what comes out is proposed."""
        self.task, self._kind = task, task.kind
        drop_proposal(self.annotation)
        self._start(
            "Fine-tuning", learning.learn(self._session, task), self._take_lesson, self._learnt
        )

    def apply(
        self, task: Task, number: int, brought: Sequence[int] = (), loaded: bool = False
    ) -> None:
        """Adopt the answer of a version. If that fails or is cancelled, the organs (ids) that it
        `brought` are removed again, and so is a version that was just `loaded`."""
        self.task, self._brought = task, brought
        drop_proposal(self.annotation)

        def adopt() -> None:
            moment = self._answer
            assert moment is not None
            assert moment.answered is not None
            assert moment.answer is not None
            assert moment.raw is not None
            answer, answered = _as_chosen(
                self.annotation.segmentation, moment.answer, moment.raw, moment.answered
            )
            moment = replace(moment, answer=answer, answered=answered)
            version.raw, version.traces = moment.raw, moment.traces or {}
            version.model, version.tidying = answered.model, answered.tidying
            self._brought = ()
            self._adopt(
                partial(take_in, self.mask, moment, number), f"The mask shows {version.name} now"
            )

        version = self.annotation.versions[number]
        if loaded:
            self._loading = version
        steps = learning.apply(self._session, task)
        self._start(f"Going to {version.name}", steps, self._take_answer, adopt)

    def interpolate(
        self, volume: Volume, frame: int, slices: tuple[int, ...], organ: int | None
    ) -> None:
        """Fill in an organ (None: all) between slices of a frame of the scan."""
        steps = learning.interpolate(self.annotation, volume, frame, slices, organ)

        def adopt() -> None:
            assert self._answer is not None
            self._adopt(partial(fill_in, self.mask, self._answer.filled, organ), "Interpolated")

        self._start("Interpolating", steps, self._take_answer, adopt)

    def cancel(self) -> None:
        """Stop and undo what was begun."""
        if self._job is not None:
            self._job.cancel()

    def abandon(self) -> None:
        """Stop without emitting `ended`, as the widget closes."""
        self._abandoned = True
        self.cancel()
        self._undo_traces()
        self.annotation.tell_job("")

    # ------------------------------------------------------------------ what comes out

    def _start(
        self,
        what: str,
        steps: Generator[TaskProgress, None, None],
        take: Callable[[TaskProgress], None],
        then: Callable[[], None],
    ) -> None:
        self._job = Job(steps, self)
        self._job.yielded.connect(self._note_speed)
        self._job.yielded.connect(take)
        self._job.yielded.connect(self.stepped)
        self._job.finished.connect(then)
        self._job.cancelled.connect(self._cancelled)
        self._job.failed.connect(self._failed)
        self.annotation.tell_job(what)
        self._job.start()

    def _note_speed(self, moment: TaskProgress) -> None:
        if moment.slice_seconds is not None:
            self.annotation.segmentation.slice_seconds = moment.slice_seconds

    def _take_lesson(self, moment: TaskProgress) -> None:
        annotation = self.annotation
        if not self.mask.connected:
            self.cancel()
            return
        if moment.preview and annotation.proposal is None:
            old = annotation.segmentation.raw
            raw = np.zeros(old.shape, old.dtype)
            others = self.task.others if self.task is not None else ()
            annotation.propose(Proposal(self._kind, raw, others=others))
            annotation.preview = Preview(self.mask, annotation)
        if moment.learnt is not None:
            annotation.segmentation.events.append(moment.learnt)
            verdict = moment.learnt.result.verdict
            self.text = verdict_message(moment.learnt)
            if not verdict.kept:
                drop_proposal(self.annotation)
            elif annotation.proposal is not None:
                annotation.proposal.learnt = moment.learnt
                annotation.proposal.weak = weak_organs(moment.learnt)
        proposal = annotation.proposal
        if proposal is None:
            return
        if moment.place is not None:
            assert moment.labels is not None
            first = not proposal.done
            annotation.segmentation.slice_of(proposal.raw, moment.place)[...] = moment.labels
            proposal.done.add(moment.place)
            self._show(moment, first)
        if moment.answer is not None:
            proposal.raw, proposal.answer = moment.raw, moment.answer
            proposal.answered, proposal.traces = moment.answered, moment.traces or {}
            proposal.done.update(annotation.segmentation.places)
            if annotation.preview is not None:
                annotation.preview.update_all()

    def _show(self, moment: TaskProgress, first: bool) -> None:
        preview = self.annotation.preview
        assert preview is not None
        assert moment.place is not None
        if first:
            preview.show(AFTER)
        elif moment.place == self.mask.place:
            preview.repaint()
        else:
            preview.update(moment.place)

    def _learnt(self) -> None:
        self._end("finished", self.text)

    def _take_answer(self, moment: TaskProgress) -> None:
        if moment.answer is not None or moment.filled:
            self._answer = moment

    def _adopt(self, adopt: Callable[[], int], text: str) -> None:
        """Adopt an answer as soon as no stroke is under way. adopt: does it, and returns how many
        voxels change."""
        if not self.mask.connected:
            self._end("failed", "The mask was replaced meanwhile: nothing was written.")
            return
        if self.mask.stroke_under_way:
            # Written now, it would become part of the stroke.
            QTimer.singleShot(50, lambda: self._adopt(adopt, text))
            return
        count = adopt()
        if count:
            self.stands = self.annotation.segmentation.undo_history.last_step()
        self._end("finished", f"{text}: {self.mask.taken_in(count)}")

    def _cancelled(self) -> None:
        if not self._abandoned:
            self._undo_traces()
            self._end("cancelled", "Cancelled: everything is as it was; what you painted stays.")

    def _failed(self, sentence: str) -> None:
        if self._abandoned:
            return
        self._undo_traces()
        show_error(sentence)
        self._end("failed", sentence)

    def _undo_traces(self) -> None:
        drop_proposal(self.annotation)
        if self._loading is not None and self._loading.raw is None:
            self.annotation.versions.remove(self._loading)
        self._take_away(self._brought)

    def _take_away(self, organs: Sequence[int]) -> None:
        """Remove organs (ids) from the mask, except those that a person has painted meanwhile."""
        segmentation = self.annotation.segmentation
        gone = {id for id in organs if not (segmentation.shown == id).any()}
        if gone:
            labels = segmentation.card.labels
            self.mask.relabel(LabelSet(tuple(one for one in labels if one.id not in gone)))
            self.annotation.changed.emit("organs")

    def _end(self, outcome: str, text: str) -> None:
        self.annotation.tell_job("")
        self.ended.emit(outcome, text)


def _as_chosen(
    segmentation: Segmentation, answer: NDArray[Any], raw: NDArray[Any], answered: Answered
) -> tuple[NDArray[Any], Answered]:
    """An answer, tidied again if the choices were changed while it was computed."""
    tidying = answered.tidying
    if (tidying.choices if tidying else CleanUp()) == segmentation.clean_up:
        return answer, answered
    return learning.tidied(segmentation, raw, answered)


def take_in(mask: MaskLayer, moment: TaskProgress, number: int) -> int:
    """Adopt the answer of a version as one undoable step; returns how many voxels change."""
    assert moment.answer is not None
    assert moment.raw is not None
    assert moment.answered is not None
    annotation_of(mask).keep_first_answer()
    segmentation, model = mask.segmentation, moment.answered.model
    changed = mask.adopt(
        moment.answer,
        moment.raw,
        number,
        traces=moment.traces,
        completes=segmentation.places,
        model=model,
    )
    _record(segmentation, moment.answered, changed)
    return changed


def fill_in(mask: MaskLayer, filled: Mapping[SliceKey, NDArray[Any]], organ: int | None) -> int:
    """Adopt an organ (None: all) as interpolation filled it in, as one undoable step; returns how
    many voxels change.

    All else stays as it is now: an answer may have been undone since the interpolation began.
    """
    annotation, segmentation = annotation_of(mask), mask.segmentation
    annotation.keep_first_answer()
    changed = mask.fill(annotation.interpolated(filled, organ))
    segmentation.events.append(Interpolated(segmentation.answers(filled), changed > 0))
    return changed


def accept(mask: MaskLayer, annotation: Annotation) -> int:
    """Adopt a complete proposal as one undoable step, and add its model as a version.

    Returns how many voxels change.
    """
    proposal = annotation.proposal
    assert proposal is not None
    learnt, answer, answered = proposal.learnt, proposal.answer, proposal.answered
    assert learnt is not None
    assert answered is not None
    assert answer is not None
    answer, answered = _as_chosen(annotation.segmentation, answer, proposal.raw, answered)
    answer, raw, filled = _with_filled(annotation, answer, proposal.raw)
    _clear_proposal(annotation)
    annotation.keep_first_answer()

    def version_for(one: Annotation) -> Version:
        parent, result = one.segmentation.version, learnt.result
        return Version(one.next_name(), proposal.kind, parent, result.model, result.verdict)

    version = version_for(annotation)
    version.raw, version.traces, version.tidying = proposal.raw, proposal.traces, answered.tidying
    number = annotation.add_version(version)
    for other in proposal.others:
        other.segmentation.events.append(learnt)
        other.add_version(version_for(other))
    segmentation = annotation.segmentation
    changed = mask.adopt(
        answer,
        raw,
        number,
        traces=proposal.traces,
        completes=segmentation.places,
        model=learnt.result.model,
    )
    answered = replace(answered, filled=segmentation.answers(filled))
    _record(segmentation, answered, changed)
    annotation.changed.emit("versions")
    return changed


def _with_filled(
    annotation: Annotation, answer: NDArray[Any], raw: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], list[SliceKey]]:
    """A proposal, tidied and raw (t,z,y,x), with the organs that its model hardly knows as
    interpolation filled them in; and the slices that hold such organs."""
    segmentation, filled = annotation.segmentation, annotation.filled
    if filled:
        answer, raw = answer.copy(), raw.copy()
    for place in filled:
        labels = segmentation.slice_of(answer, place)
        labels[...] = annotation.with_filled(place, labels)
        # Tidying begins with the raw answer, which must hold the filled-in organs, too.
        segmentation.slice_of(raw, place)[...] = labels
    return answer, raw, filled


def bring_organs(mask: MaskLayer, annotation: Annotation, version: Version) -> tuple[int, ...]:
    """Give a mask the organs of a version's model that it lacks, such as those learnt from another
    mask; returns their ids. Raises InputError."""
    mine = mask.segmentation.card.labels
    theirs = card_of(version, annotation).labels
    new = LabelSet(tuple(one for one in theirs if one.id not in mine.names))
    if new.labels:
        mask.relabel(with_organs_of(mine, new))
        annotation.changed.emit("organs")
    return tuple(new.names)


def _record(segmentation: Segmentation, answered: Answered, changed: int) -> None:
    """Add an adopted answer to the events. changed: how many shown voxels it changed."""
    spared = frozenset(segmentation.reviewed)
    segmentation.events.append(replace(answered, spared=spared, undoable=changed > 0))


def drop_proposal(annotation: Annotation) -> None:
    """Discard the proposal, if there is one, and its preview."""
    if annotation.proposal is not None and annotation.proposal.learnt is not None:
        model = annotation.proposal.learnt.result.model
        annotation.segmentation.events.append(Discarded(model))
    _clear_proposal(annotation)


def _clear_proposal(annotation: Annotation) -> None:
    if annotation.preview is not None:
        annotation.preview.remove()
        annotation.preview = None
    if annotation.proposal is not None:
        annotation.propose(None)


def flip(annotation: Annotation) -> None:
    """Show the proposal if the mask is shown, and else the mask."""
    if annotation.preview is not None:
        annotation.preview.show(AFTER if annotation.preview.mode == BEFORE else BEFORE)


def verdict_message(learnt: FineTuned) -> str:
    """The outcome of a fine-tuning, in plain words."""
    verdict = learnt.result.verdict
    dice = verdict.evidence.dice
    if not verdict.kept or not dice.before:
        return verdict.reason
    (before, after), gain = dice.means(), dice.gain()
    if dice.clear:
        where = "Better on" if gain > 0 else "No worse in most"
        change = f"{gain:+.3f} Dice ({before:.3f} to {after:.3f})"
    else:
        where = "No clear change on"
        change = f"{before:.3f} to {after:.3f} Dice" if gain else f"{before:.3f} Dice"
    sentences = [
        f"{where} slices left out of learning: {change}.",
        "This comes from short test runs, not from the model of this preview, and says little of "
        "other slices.",
        *verdict.evidence.adapted,
        "Look at it, then accept or discard.",
    ]
    names = learnt.result.model.card.labels.names
    weak = [names[id] for id in weak_organs(learnt)]
    if weak and learnt.config.kind == "scan":
        sentences.append(
            f"The {weak[0]} is hardly learnt yet (Dice {dice.after[weak[0]]:.2f}): in this scan "
            "Interpolate between slices fills it in better; what it has filled in stays."
        )
    return " ".join(sentences)


def weak_organs(learnt: FineTuned) -> tuple[int, ...]:
    """Ids of new organs that are learnt so poorly that interpolation does better."""
    dice = learnt.result.verdict.evidence.dice.after
    old, new = (model.card.labels.names for model in (learnt.parent, learnt.result.model))
    weak = (id for id, name in new.items() if id not in old and dice.get(name, 1) < _WELL)
    return tuple(weak)
