"""A job on a mask's corrections: fine-tuning, another version's answer, or interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.annotating import learning
from napari_l2gnet.annotating.annotation import Annotation, Proposal, Version
from napari_l2gnet.annotating.learning import Task, TaskSteps
from napari_l2gnet.annotating.preview import AFTER, Preview
from napari_l2gnet.annotating.task_events import (
    Answer,
    Filled,
    Judged,
    PreviewBegins,
    SliceShown,
    TaskEvent,
)
from napari_l2gnet.correct.proposals import (
    as_chosen,
    drop_proposal,
    fill_in,
    take_in,
    verdict_message,
    weak_organs,
)
from napari_l2gnet.jobs.session import Session
from napari_l2gnet.jobs.worker import Job
from napari_l2gnet.masks.layer import MaskLayer

if TYPE_CHECKING:
    from l2gnet_core.project.events import FineTuned
    from l2gnet_core.scans.volume import Volume


class CorrectRun(QObject):
    """Computes in a thread. Shows the result beside its mask, or adopts it as one undoable step.

    It stays with that mask while the user looks at another one.
    """

    #: A `TaskEvent`, after it is taken in.
    taken = Signal(object)
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
        #: Adopts what the task has handed over.
        self._adoption: Callable[[], None] | None = None
        self._loading: Version | None = None
        self._brought: tuple[int, ...] = ()
        self._abandoned = False

    def learn(self, task: Task) -> None:
        """Fine-tune; what comes out is proposed."""
        self.task = task
        drop_proposal(self.annotation)
        steps = learning.learn(self._session, task)
        self._start("Fine-tuning", steps, partial(self._take_lesson, task))

    def apply(
        self, task: Task, number: int, brought: tuple[int, ...] = (), loaded: bool = False
    ) -> None:
        """Adopt the answer of a version. If that fails or is cancelled, the organs (ids) that it
        `brought` are removed again, and so is a version that was just `loaded`."""
        self.task, self._brought = task, brought
        drop_proposal(self.annotation)

        def take(event: TaskEvent) -> None:
            if isinstance(event, Answer):
                self._adoption = partial(self._adopt_version, event, version, number)

        version = self.annotation.versions[number]
        if loaded:
            self._loading = version
        self._start(f"Switching to {version.name}", learning.apply(self._session, task), take)

    def interpolate(
        self, volume: Volume, frame: int, slices: tuple[int, ...], organ: int | None
    ) -> None:
        """Fill in an organ (None: all) between slices of a frame of the scan."""

        def take(event: TaskEvent) -> None:
            if isinstance(event, Filled):
                adopt = partial(fill_in, self.mask, event.slices, organ)
                self._adoption = partial(self._adopt, adopt, "Interpolated")

        steps = learning.interpolate(self.annotation, volume, frame, slices, organ)
        self._start("Interpolating", steps, take)

    def cancel(self) -> None:
        """Stop and undo what was begun."""
        if self._job is not None:
            self._job.cancel()

    def abandon(self) -> None:
        """Stop without emitting `ended`, as the widget closes."""
        self._abandoned = True
        self.cancel()
        self._take_back()
        self.annotation.tell_job("")

    # ------------------------------------------------------------------ what comes out

    def _start(
        self,
        what: str,
        steps: TaskSteps[None],
        take: Callable[[TaskEvent], None],
    ) -> None:
        self._job = Job(steps, self)
        self._job.yielded.connect(self._note_speed)
        self._job.yielded.connect(take)
        self._job.yielded.connect(self.taken)
        self._job.finished.connect(self._finish)
        self._job.cancelled.connect(self._cancelled)
        self._job.failed.connect(self._failed)
        self.annotation.tell_job(what)
        self._job.start()

    def _note_speed(self, event: TaskEvent) -> None:
        if isinstance(event, SliceShown) and event.slice_seconds is not None:
            self.annotation.segmentation.slice_seconds = event.slice_seconds

    def _take_lesson(self, task: Task, event: TaskEvent) -> None:
        if not self.mask.connected:
            self.cancel()
            return
        match event:
            case PreviewBegins() if self.annotation.proposal is None:
                old = self.annotation.segmentation.raw
                raw = np.zeros(old.shape, old.dtype)
                self.annotation.propose(Proposal(task.kind, raw, others=task.others))
                self.annotation.preview = Preview(self.mask, self.annotation)
            case SliceShown(place, labels):
                self._show(place, labels)
            case Judged(learnt):
                self._take_verdict(learnt)
            case Answer() if (proposal := self.annotation.proposal) is not None:
                proposal.raw, proposal.answer = event.raw, event
                proposal.done.update(self.annotation.segmentation.places)
                if self.annotation.preview is not None:
                    self.annotation.preview.update_all()

    def _take_verdict(self, learnt: FineTuned) -> None:
        annotation = self.annotation
        annotation.segmentation.events.append(learnt)
        self.text = verdict_message(learnt)
        if not learnt.result.verdict.kept:
            drop_proposal(annotation)
        elif annotation.proposal is not None:
            annotation.proposal.learnt = learnt
            annotation.proposal.weak = weak_organs(learnt)

    def _show(self, place: SliceKey, labels: NDArray[Any]) -> None:
        """Take a slice into the proposal. The first one is shown instead of the mask."""
        proposal, preview = self.annotation.proposal, self.annotation.preview
        if proposal is None or preview is None:
            return
        first = not proposal.done
        self.annotation.segmentation.slice_of(proposal.raw, place)[...] = labels
        proposal.done.add(place)
        if first:
            preview.show(AFTER)
        elif place == self.mask.place:
            preview.repaint()
        else:
            preview.update(place)

    def _adopt_version(self, answer: Answer, version: Version, number: int) -> None:
        answer = as_chosen(self.annotation.segmentation, answer)
        version.raw, version.traces = answer.raw, answer.traces
        version.model, version.tidying = answer.answered.model, answer.answered.tidying
        brought, self._brought = self._brought, ()
        adopt = partial(take_in, self.mask, answer, number, brought)
        self._adopt(adopt, f"Switched to {version.name}")

    def _finish(self) -> None:
        # Not kept: it holds a whole answer.
        adoption, self._adoption = self._adoption, None
        if adoption is None:
            self._end("finished", self.text)
        else:
            adoption()

    def _adopt(self, adopt: Callable[[], int], text: str) -> None:
        """Adopt an answer as soon as no stroke is under way. adopt: does it, and returns how many
        voxels change."""
        if not self.mask.connected:
            self._end("failed", "The mask was replaced during the job. Nothing was changed.")
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
            self._take_back()
            self._end(
                "cancelled", "Cancelled: mask and model are unchanged. What you painted stays."
            )

    def _failed(self, sentence: str) -> None:
        if self._abandoned:
            return
        self._take_back()
        show_error(sentence)
        self._end("failed", sentence)

    def _take_back(self) -> None:
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
