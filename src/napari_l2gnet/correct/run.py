"""A job on a mask's corrections: fine-tuning, another version's answer, or interpolation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QTimer, Signal

from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.annotating import learning
from napari_l2gnet.annotating.annotation import Annotation, Kind, Proposal, Version
from napari_l2gnet.annotating.learning import Task, TaskProgress
from napari_l2gnet.annotating.preview import AFTER, Preview
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
    from l2gnet_core.scans.volume import Volume


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
            answer, answered = as_chosen(
                self.annotation.segmentation, moment.answer, moment.raw, moment.answered
            )
            moment = replace(moment, answer=answer, answered=answered)
            version.raw, version.traces = moment.raw, moment.traces or {}
            version.model, version.tidying = answered.model, answered.tidying
            self._brought = ()
            self._adopt(partial(take_in, self.mask, moment, number), f"Switched to {version.name}")

        version = self.annotation.versions[number]
        if loaded:
            self._loading = version
        steps = learning.apply(self._session, task)
        self._start(f"Switching to {version.name}", steps, self._take_answer, adopt)

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
        self._take_back()
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
