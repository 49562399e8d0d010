"""Runs the model again, in Inspect, on frames whose trace is not kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QProgressBar, QPushButton

from l2gnet_core.errors import InputError
from napari_l2gnet.annotating.learning import Task
from napari_l2gnet.annotating.tasks import annotation_of, application
from napari_l2gnet.inspect.inspection import Inspection
from napari_l2gnet.inspect.look_again import look_again
from napari_l2gnet.inspect.state import InspectState
from napari_l2gnet.jobs.session import shared_session
from napari_l2gnet.jobs.worker import LatestJob
from napari_l2gnet.masks.layer import MaskLayer


class LookingAgain(QObject):
    """Offers to run the model again, and runs it frame by frame; finished frames can be inspected
    meanwhile."""

    #: A run has begun or failed, or its first frame is done: the frame on screen is to be read.
    changed = Signal()

    def __init__(
        self,
        state: InspectState,
        button: QPushButton,
        bar: QProgressBar,
        show_message: Callable[..., None],
    ) -> None:
        super().__init__(button)
        self.jobs = LatestJob(self)
        self._state, self._button, self._bar = state, button, bar
        self._show_message = show_message
        self._frames_left = 0
        button.clicked.connect(self._start)
        self.jobs.progress.connect(self._on_progress)
        self.jobs.failed.connect(self._on_failed)

    def offer(self, mask: MaskLayer, inspection: Inspection) -> str:
        """Offer to look again for an inspection without a trace; returns why there is none."""
        if not any(frame == inspection.frame for frame, _ in mask.segmentation.predicted):
            return "Press Segment first: no slice is segmented here yet."
        if self.jobs.busy:
            return f"{inspection.refusal} The model is being run again."
        self._button.show()
        return (
            f"{inspection.refusal} Press Look again to run the model once more; the mask does not "
            "change."
        )

    def withdraw(self) -> None:
        """Hide the offer."""
        self._button.hide()

    def cancel(self) -> None:
        """Stop the run; what is finished is kept."""
        self.jobs.cancel()

    def _start(self) -> None:
        """Run the version of the model that the mask shows: on the frame on screen, then on other
        frames without a trace."""
        if self._state.layers is None:
            return
        mask = self._state.layers.mask
        annotation, segmentation = annotation_of(mask), mask.segmentation
        if annotation.job:
            self._show_message(f"Wait until this is done: {annotation.job.lower()}.")
            return
        frames = {frame for frame, _ in segmentation.predicted}
        frames = {frame for frame in frames if Inspection(segmentation, frame).forgotten}
        try:
            self._look_on(mask, application(mask, annotation.version), frames)
        except InputError as error:
            self._show_message(str(error), bad=True)
            return
        self.changed.emit()

    def _look_on(self, mask: MaskLayer, task: Task, frames: set[int]) -> None:
        """Look at the frame that is nearest to the one on screen, then at the others."""
        annotation, segmentation = task.annotation, mask.segmentation
        # A run keeps a trace itself, and another version has another one.
        if not frames or annotation.job or annotation.version is not task.version:
            return
        here, index = mask.place
        frame = min(frames, key=lambda frame: (abs(frame - here), frame))
        self._frames_left = len(frames) - 1

        def take(trace: Any) -> None:
            # A run may have kept a trace meanwhile, or another version may have answered.
            if annotation.version is task.version:
                old = segmentation.traces.get(frame)
                if old is None or not old.seen.any():
                    segmentation.traces[frame] = trace
            self._look_on(mask, task, frames - {frame})
            if self._state.inspection is None:
                self.changed.emit()
            # The slices to check can be ranked now.
            mask.layer.refresh()

        self.jobs.run(look_again(shared_session(), replace(task, here=(frame, index))), take)

    def _on_progress(self, text: str) -> None:
        left = self._frames_left
        more = f" · {left} frame{'s' * (left != 1)} left" if left else ""
        self._bar.setFormat(text + more)

    def _on_failed(self, text: str) -> None:
        # First, because reading clears the message.
        self.changed.emit()
        self._show_message(text, bad=True)
