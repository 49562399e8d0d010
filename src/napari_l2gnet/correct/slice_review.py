"""Reviewing the slices of a mask: the table of slices, edits, doubts, and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import napari
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QTimer, Signal

from l2gnet_core.project.state import SliceKey
from napari_l2gnet.annotating.annotation import Annotation
from napari_l2gnet.annotating.doubts import doubtful_slices
from napari_l2gnet.annotating.preview import shows_proposal
from napari_l2gnet.correct.form import ACCEPT_KEY, NEXT_KEY, CorrectForm
from napari_l2gnet.correct.slice_queue import Row
from napari_l2gnet.jobs.worker import Job
from napari_l2gnet.masks.duplicates import copy_over
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.napari_history import painting_events
from napari_l2gnet.widgets.visibility import bring_into_view, hidden_message, why_unseen

#: Milliseconds without news after which slices are ranked again.
_QUIET = 700


class SliceReview(QObject):
    """Keeps the table of slices in step with an annotation, and handles its buttons and keys."""

    #: All edits have been found, and the preview is up to date.
    looked = Signal()
    #: A sentence, and a function that tells whether it still holds.
    said = Signal(str, object)

    def __init__(self, viewer: napari.Viewer, form: CorrectForm) -> None:
        super().__init__(form)
        self.mask: MaskLayer | None = None
        self.annotation: Annotation | None = None
        self._viewer = viewer
        self._form = form
        self._ranking: Job | None = None
        self._ranked: Any = None
        #: The slice that the person last went to through the queue.
        self._walked: SliceKey | None = None
        # Edits are looked for while the window is idle, a few slices at a time.
        self._looking = QTimer(self, interval=0)
        self._looking.timeout.connect(self._look)
        self._rank_soon = QTimer(self, interval=_QUIET, singleShot=True)
        self._rank_soon.timeout.connect(self._rank)
        self._keys: dict[str, Callable[[Any], None]] = {}
        form.queue.go_to.connect(self.go_to)
        form.accept_slice.clicked.connect(self.accept_slice)
        form.next_slice.clicked.connect(self.go_to_next)
        self.bind(ACCEPT_KEY, self.accept_slice)
        self.bind(NEXT_KEY, self.go_to_next)

    def bind(self, key: str, action: Callable[[], None]) -> None:
        """Bind a key of the viewer to an action, until `stop`."""

        def pressed(_: Any) -> None:
            action()

        self._keys[key] = pressed
        self._viewer.bind_key(key, pressed, overwrite=True)

    def stop(self) -> None:
        """Let go of the mask and of the keys."""
        self.follow(None, None)
        self._looking.stop()
        self._rank_soon.stop()
        for key, action in self._keys.items():
            # Another widget of this viewer may have bound the key since.
            if action in self._viewer.keymap.values():
                self._viewer.bind_key(key, None)

    def follow(self, mask: MaskLayer | None, annotation: Annotation | None) -> None:
        """Show the slices of this mask from now on."""
        if self.mask is not None:
            for event in painting_events(self.mask.layer):
                event.disconnect(self._on_painted)
        if self._ranking is not None:
            # It would go on through all slices, and keep the mask and its traces in memory.
            self._ranking.cancel()
            self._ranking = None
        self.mask, self.annotation, self._ranked = mask, annotation, None
        if mask is not None:
            for event in painting_events(mask.layer):
                event.connect(self._on_painted)
            self._on_painted()

    def look_soon(self) -> None:
        """Bring everything up to date while the window is idle."""
        self._looking.start()
        self._rank_soon.start()

    def _on_painted(self, _: Any = None) -> None:
        # napari reports a redraw, but not always what has changed.
        if self.annotation is not None:
            self.annotation.may_be_edited()
        self.look_soon()

    def _look(self) -> None:
        """Look for edits, and bring the preview up to date, for a few milliseconds."""
        annotation, done = self.annotation, True
        if annotation is not None and self.mask is not None and self.mask.connected:
            done = annotation.look_for_edits(seconds=0.005)
            if annotation.preview is not None:
                done = annotation.preview.update_some(seconds=0.005) and done
        if done:
            self._looking.stop()
            if annotation is not None:
                self._tell_invalidated(annotation)
            self.looked.emit()

    def _tell_invalidated(self, annotation: Annotation) -> None:
        """Say which accepted slices were changed out of sight, or by undo or redo."""
        segmentation = annotation.segmentation
        reviews = segmentation.reviews
        invalidated, reviews.invalidated = reviews.invalidated, {}
        if not invalidated:
            return
        annotation.changed.emit("reviewed")
        names = ", ".join(annotation.name_of(place) for place in sorted(invalidated))
        how = " and ".join(sorted(set(invalidated.values())))
        if len(invalidated) == 1:
            text = f"The accepted slice {names} was changed by {how}. Check it again."
        else:
            text = f"The accepted slices {names} were changed by {how}. Check them again."
        edits = segmentation.edits
        self._say(
            text,
            lambda: (
                segmentation.edits == edits and not segmentation.reviewed.issuperset(invalidated)
            ),
        )

    # ------------------------------------------------------------------ which slices first

    def _rank(self) -> None:
        """Rank the slices in a thread, once nothing changes any more."""
        annotation = self.annotation
        if annotation is None or self._ranking is not None or annotation.job:
            return
        segmentation = annotation.segmentation
        seen = tuple(map(id, segmentation.traces.values()))
        state = (annotation, seen, len(segmentation.finished))
        if state == self._ranked:
            return
        if self._ranked is None or self._ranked[-1] != state[-1]:
            # A segmentation may be under way: wait until it is finished.
            self._ranked = (None, (), state[-1])
            self._rank_soon.start()
            return
        self._ranked = state
        if not segmentation.traces:
            return
        job = self._ranking = Job(doubtful_slices(segmentation), self)

        def take(doubts: Any) -> None:
            if doubts:
                annotation.rank(doubts)

        def end(_: Any = None) -> None:
            # The ranking of another mask may be under way by now.
            if self._ranking is job:
                self._ranking = None
            job.deleteLater()

        job.yielded.connect(take)
        # Without a ranking the slices stay in their own order.
        for ended in (job.finished, job.cancelled, job.failed):
            ended.connect(end)
        job.start()

    # ------------------------------------------------------------------ what is shown

    def show(self) -> None:
        """Draw the queue, and how many slices are reviewed."""
        annotation, mask, form = self.annotation, self.mask, self._form
        if annotation is None or mask is None or not mask.connected:
            form.queue.show_rows([], None)
            form.show_reviewed(0, 0)
        else:
            segmentation = annotation.segmentation
            form.show_reviewed(len(segmentation.reviewed), len(segmentation.places))
            form.queue.show_series(len(segmentation.shown) > 1)
            form.queue.show_rows([self._row(annotation, p) for p in annotation.queue], mask.place)
        self.show_here()

    def show_here(self) -> None:
        """Draw what depends on the slice on screen."""
        annotation, mask = self.annotation, self.mask
        accepted = False
        if annotation is not None and mask is not None and mask.connected:
            self._form.queue.show_here(mask.place)
            accepted = mask.place in annotation.segmentation.reviewed
        self._form.accept_slice.setText("Undo accept" if accepted else "Accept slice")

    def _row(self, annotation: Annotation, place: SliceKey) -> Row:
        state = "edited" if place in annotation.edited else "–"
        if place in annotation.segmentation.reviewed:
            state = "✓ reviewed"
        return Row(place, annotation.name_of(place), annotation.why(place), state)

    # ------------------------------------------------------------------ buttons and keys

    def go_to(self, place: SliceKey) -> None:
        """Show a slice, ready to be painted on."""
        if self.mask is not None:
            self._walked = place
            self.mask.go_to_place(place)
            self.show_mask()

    def show_mask(self, alone: bool = False) -> None:
        """Bring the mask into view, ready to be painted on. alone: as in `bring_into_view`."""
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None:
            return
        hidden = bring_into_view(mask, alone)
        self._viewer.layers.selection.active = mask.layer
        if hidden:
            place = mask.place
            self._say(hidden_message(mask, hidden), lambda: mask.place == place)

    def accept_slice(self) -> None:
        """Accept the slice on screen, or take that back."""
        annotation, mask = self.annotation, self.mask
        if annotation is not None and mask is not None and mask.connected:
            if refusal := self.refusal:
                self._say(refusal, lambda: self.refusal == refusal)
                return
            annotation.review(mask.place, mask.place not in annotation.segmentation.reviewed)
            mask.name_coverage()
            if annotation.preview is not None:
                annotation.preview.repaint()
            if not self._form.in_front:
                show_info(_review_message(annotation, mask.place))

    def _say(self, text: str, holds: Callable[[], bool]) -> None:
        """Say something in the widget, or as napari does if another tab hides it."""
        self.said.emit(text, holds)
        if not self._form.in_front:
            show_info(text)

    @property
    def refusal(self) -> str:
        """Why the slice on screen cannot be accepted, in a sentence; "" if it can."""
        annotation, mask = self.annotation, self.mask
        if mask is not None and mask.connected and (problem := mask.off_screen):
            return f"{problem}: click a slice in the table, then accept it."
        if annotation is not None and shows_proposal(annotation):
            # The person sees the preview, but would accept the mask below it.
            return (
                "You see the preview, not the mask: accept or discard the preview, or press "
                "Before, then accept the slice."
            )
        if mask is not None and mask.connected and (unseen := why_unseen(mask)):
            return f"{unseen}: click a slice in the table, then accept it."
        if mask is not None and mask.connected and (copy := copy_over(mask)):
            # The person sees the copy, but would accept the mask below it.
            return (
                f'"{copy}", an unsaved copy, lies over "{mask.layer.name}": click a slice in the '
                "table, then accept it."
            )
        return ""

    def go_to_next(self) -> None:
        """Show the next slice to review."""
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None or not mask.connected:
            return
        # From a slice that was not reached through the queue, begin at its top.
        here = mask.place
        place = annotation.next_place(here if here == self._walked else None)
        if place is None:
            self._say("All slices are reviewed.", self._all_reviewed)
        else:
            self.go_to(place)

    def _all_reviewed(self) -> bool:
        return self.annotation is not None and self.annotation.next_place(None) is None


def _review_message(annotation: Annotation, place: SliceKey) -> str:
    """A sentence that a slice was accepted, or that this was taken back."""
    segmentation, (frame, index) = annotation.segmentation, place
    of = f"Frame {frame}, slice {index}" if len(segmentation.shown) > 1 else f"Slice {index}"
    accepted = place in segmentation.reviewed
    done = (
        f"is accepted. Press {ACCEPT_KEY} again to undo." if accepted else "is no longer accepted."
    )
    return f"{of} {done}"
