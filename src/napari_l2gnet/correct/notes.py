"""What the Correct & fine-tune widget says under its buttons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from napari.utils.notifications import show_error

from napari_l2gnet.annotating.annotation import Annotation
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.correct.form import CorrectForm
from napari_l2gnet.correct.run import CorrectRun
from napari_l2gnet.masks.duplicates import unsaved_copy
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.widgets.docked import always
from napari_l2gnet.widgets.visibility import why_beside


@dataclass(frozen=True)
class _Note:
    """A sentence about a mask, for as long as it holds."""

    text: str = ""
    bad: bool = False
    holds: Callable[[], bool] = always


class CorrectNotes:
    """Says what happened to the mask on screen, and keeps that for when the mask is chosen again.

    hint: what to know about the chosen organ, in a sentence or "".
    """

    def __init__(self, form: CorrectForm, hint: Callable[[], str]) -> None:
        self._form = form
        self._hint = hint
        self._mask: MaskLayer | None = None
        self._note = _Note()
        #: The last note about each mask.
        self._notes: WeakKeyDictionary[Annotation, _Note] = WeakKeyDictionary()

    @property
    def _annotation(self) -> Annotation | None:
        mask = self._mask
        return None if mask is None or not mask.connected else annotation_of(mask)

    def follow(self, mask: MaskLayer | None) -> None:
        """Say from now on what there is to say about this mask."""
        self._mask = mask
        annotation = self._annotation
        self._note = _Note() if annotation is None else self._notes.get(annotation, _Note())

    def say(self, text: str, bad: bool = False, holds: Callable[[], bool] = always) -> None:
        """Say something about the mask while it holds."""
        self._note = _Note(text, bad, holds)
        if (annotation := self._annotation) is not None:
            self._notes[annotation] = self._note
        self._show()

    def say_of(self, run: CorrectRun, text: str, bad: bool = False) -> None:
        """Say the outcome of a run whenever its mask is on screen; beside another mask now, with
        the name of the run's mask."""
        # A verdict (`run.text`) is shown with its proposal.
        waits = run.annotation.proposal is not None and bool(run.text)
        note = self._notes[run.annotation] = _Note("" if waits else text, bad, run.stands)
        here = run.annotation is self._annotation
        self._note = note if here else _Note(f"{run.mask.layer.name}: {text}", bad)
        self._show()

    def refuse(self, error: Exception) -> None:
        """Say what is wrong until the mask is edited, and in a notification of napari."""
        annotation = self._annotation
        segmentation = None if annotation is None else annotation.segmentation
        edits = None if segmentation is None else segmentation.edits
        self.say(str(error), True, lambda: segmentation is None or segmentation.edits == edits)
        show_error(str(error))

    def show_again(self, otherwise: str) -> None:
        """Show the note if it still holds; otherwise: what to say if there is none."""
        if not self._note.holds():
            self.say("")
        self._show(otherwise)

    def _show(self, otherwise: str = "") -> None:
        mask, form = self._mask, self._form
        beside = "" if mask is None or self._annotation is None else why_beside(mask)
        if beside:
            beside += ": click a slice in the table to align it again."
        hints = [one for one in (beside, self._hint(), unsaved_copy(form.viewer)) if one]
        form.show_message(self._note.text or otherwise, self._note.bad, hints)
