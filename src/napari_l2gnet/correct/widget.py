"""The Correct & fine-tune widget: controls and connections.

What they do is in `slice_review`, `organ_bar`, `version_bar`, `run`, `proposals` and `notes`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Generator
from typing import Any
from weakref import ref

import napari
from qtpy.QtCore import Signal

from l2gnet_core.errors import InputError
from napari_l2gnet.annotating.annotation import Annotation
from napari_l2gnet.annotating.preview import BEFORE
from napari_l2gnet.annotating.take_over import why_none
from napari_l2gnet.annotating.task_events import Judged, PreviewFits, Step, TaskEvent
from napari_l2gnet.annotating.tasks import (
    annotation_of,
    application,
    fine_tuning,
    project_masks,
    scan_of,
)
from napari_l2gnet.correct.form import FLIP_KEY, PROJECT, CorrectForm
from napari_l2gnet.correct.notes import CorrectNotes
from napari_l2gnet.correct.organ_bar import OrganBar
from napari_l2gnet.correct.proposals import (
    accept,
    bring_organs,
    drop_proposal,
    flip,
    verdict_message,
)
from napari_l2gnet.correct.run import CorrectRun
from napari_l2gnet.correct.slice_review import SliceReview
from napari_l2gnet.correct.take_over_menu import TakeOverMenu
from napari_l2gnet.correct.version_bar import VersionBar
from napari_l2gnet.jobs import warm_up
from napari_l2gnet.jobs.session import Session, shared_session
from napari_l2gnet.jobs.worker import Job
from napari_l2gnet.masks.duplicates import selected_mask
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.saving.mask_saving import MaskSaving
from napari_l2gnet.widgets.docked import always
from napari_l2gnet.widgets.visibility import why_unseen


class CorrectWidget(CorrectForm):
    """Review and correct slices, fine-tune the model, look at its proposal, accept it."""

    #: How a job ended: "finished", "cancelled" or "failed". Everything is drawn by then.
    run_ended = Signal(str)
    #: What fine-tuning and interpolation need is imported.
    ready = Signal()

    def __init__(self, napari_viewer: napari.Viewer, session: Session | None = None) -> None:
        super().__init__(napari_viewer)
        self.session = session or shared_session()
        self.current_mask: MaskLayer | None = None
        self.review = SliceReview(napari_viewer, self)
        self.organs = OrganBar(self)
        self.versions = VersionBar(self, self.session)
        self.taking_over = TakeOverMenu(self, lambda: self._free)
        self.notes = CorrectNotes(self, lambda: self.organs.hint)
        self.saving = MaskSaving(self.save_mask, lambda: self.current_mask)
        self._run: CorrectRun | None = None
        #: The annotation whose fine-tuning the curve shows.
        self._curve_of: Callable[[], Annotation | None] = lambda: None
        self._choose_selected()
        self._connect()
        self._import()
        self._follow()

    def _connect(self) -> None:
        self.layer.chosen.connect(self._follow)
        self.layer.activated.connect(lambda _: self.review.show_mask(alone=True))
        self.review.looked.connect(self._show_all)
        for one in (self.review, self.taking_over):
            one.said.connect(lambda text, holds: self.notes.say(text, holds=holds))
        for bar in (self.organs, self.versions):
            bar.said.connect(self.notes.say)
        for part in (self.organs, self.versions, self.taking_over):
            part.refused.connect(self.notes.refuse)
        self.organs.chosen.connect(self._update_controls)
        self.organs.removed.connect(lambda text, holds: self.notes.say(text, holds=holds))
        self.interpolate.clicked.connect(self.interpolate_organ)
        self.viewer.layers.events.inserted.connect(self._update_controls)
        self.start.clicked.connect(self.fine_tune)
        self.cancel.clicked.connect(self.cancel_run)
        self.kind.currentIndexChanged.connect(self._update_controls)
        self.accept.clicked.connect(self.accept_proposal)
        self.discard.clicked.connect(self.discard_proposal)
        for mode, button in self.view_buttons.items():
            button.clicked.connect(lambda _=False, mode=mode: self.show_view(mode))
        self.versions.wanted.connect(self.go_to_version)
        self.versions.loaded.connect(lambda number: self.go_to_version(number, loaded=True))
        self.saving.said.connect(self.notes.say)
        self.saving.changed.connect(self._update_controls)
        self.review.bind(FLIP_KEY, self.flip_view)
        self.viewer.dims.events.current_step.connect(self._on_moved)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self.viewer.layers.selection.events.active.connect(self._on_active)

    def let_go(self) -> None:
        """Stop all jobs and disconnect from the viewer."""
        self._importing.cancel()
        if self._run is not None:
            self._run.abandon()
            self._run = None
        self._leave_mask()
        self.review.stop()
        self.layer.disconnect_layers()
        self.curve.disconnect_viewer()
        self.viewer.dims.events.current_step.disconnect(self._on_moved)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.viewer.layers.events.inserted.disconnect(self._update_controls)
        self.viewer.layers.selection.events.active.disconnect(self._on_active)

    def _import(self) -> None:
        """Import what fine-tuning and interpolation need, in the background."""

        def imports() -> Generator[bool | None, None, None]:
            before = len(sys.modules)
            yield from warm_up.fine_tuning()
            yield len(sys.modules) > before

        self._importing = Job(imports(), self)
        self._importing.yielded.connect(self._on_imported)
        self._importing.finished.connect(self.curve.prepare)
        self._importing.finished.connect(self.ready)
        self._importing.start()

    @staticmethod
    def _on_imported(much: bool | None) -> None:
        """Collect garbage once many modules are imported.

        Python would do it later, all at once, and the window would wait amid the first fine-tuning.
        """
        if much:
            gc.collect()

    # ------------------------------------------------------------------ the mask and its annotation

    @property
    def annotation(self) -> Annotation | None:
        """The annotation of the chosen mask; None if there is no mask that can be written to."""
        if self.current_mask is None or not self.current_mask.connected:
            return None
        return annotation_of(self.current_mask)

    @property
    def running(self) -> bool:
        """Is a job of this widget under way?"""
        return self._run is not None

    def _follow(self) -> None:
        """Follow the mask that is chosen now."""
        self._leave_mask()
        layer = self.layer.layer
        self.current_mask = None if layer is None else MaskLayer(self.viewer, layer)
        if (annotation := self.annotation) is not None and self.current_mask is not None:
            annotation.changed.connect(self._show_all)
        self.beware_unsaved(annotation)
        self.notes.follow(self.current_mask)
        self.taking_over.follow(self.current_mask)
        self.review.follow(self.current_mask, annotation)
        self.organs.follow(self.current_mask, annotation)
        self.versions.follow(self.current_mask, annotation)
        self._show_all()

    def _leave_mask(self) -> None:
        if self.current_mask is not None:
            annotation_of(self.current_mask).changed.disconnect(self._show_all, missing_ok=True)
        self.review.follow(None, None)
        self.organs.follow(None, None)
        self.versions.follow(None, None)
        self.taking_over.follow(None)
        self.current_mask = None
        self.notes.follow(None)

    def _on_moved(self, _: Any = None) -> None:
        if self.current_mask is None:
            return
        self.review.show_here()
        run = self._run
        if run is not None and run.task is not None and run.mask.layer is self.current_mask.layer:
            run.task.here = self.current_mask.place

    def tell_again(self) -> None:
        """Drop the message if it does not hold any more."""
        self._update_controls()

    def _on_active(self, _: Any = None) -> None:
        self._choose_selected()
        self._update_controls()

    def _choose_selected(self) -> None:
        """Choose the mask that a person selects to paint on, or that is the original of a copy."""
        mask = selected_mask(self.viewer)
        if mask is not None and mask.layer in self.layer:
            self.layer.choose(mask.layer)

    def _on_removed(self, event: Any) -> None:
        if self._run is not None and event.value is self._run.mask.layer:
            self.cancel_run()
        self._update_controls()

    # ------------------------------------------------------------------ state → controls

    def _show_all(self, what: str = "") -> None:
        """Draw everything; what: the argument of `Annotation.changed`."""
        annotation = self.annotation
        if what == "proposal":
            self.review.look_soon()
        self.review.show()
        self.versions.show()
        preview = annotation.preview if annotation is not None else None
        self.show_mode(preview.mode if preview is not None else BEFORE)
        self._update_controls()

    def _update_controls(self, _: Any = None) -> None:
        """Enable what can be done now; disabled controls say why."""
        annotation = self.annotation
        none = "" if annotation else "Segment a scan first, with the widget Segment."
        if self.current_mask is not None and annotation is None:
            none = (
                "The data of this mask were replaced and no longer match its scan. Segment again."
            )
        busy = ""
        if annotation and annotation.job:
            busy = f"A job is running ({annotation.job}). Cancel it first."
        if not busy and self.running:
            busy = "A job of another mask is running. Cancel it first."
        taught = sum(len(annotation_of(mask).taught) for mask in self._masks())
        nothing = "" if taught else "Correct a slice first: paint on it, or accept it."
        self.allow(self.layer, none)
        for control in (self.accept_slice, self.next_slice, self.queue, self.organ):
            self.allow(control, none)
        self.allow(self.add_organ, none or busy)
        alone = (
            "" if none or self.current_mask is None else why_none(self.viewer, self.current_mask)
        )
        self.allow(self.take_over, none or busy or alone)
        self.allow(self.save_mask, none or busy or self.saving.refusal)
        no_organ = self.organs.hint if self.organ.currentData() == self.organs.stray else ""
        all_organs = "" if self.organ.currentData() is not None else "Choose one organ first."
        self.allow(self.edit_organ, none or busy or all_organs or no_organ)
        self.allow(self.interpolate, none or busy or no_organ)
        for setting in (self.kind, self.seconds, self.painted):
            self.allow(setting, none or busy)
        self.start.setText(f"Fine-tune on {taught} slice{'s' * (taught != 1)}")
        self.allow(self.cancel, "" if self.running else "Nothing is running.")
        self.bar.setVisible(self.running)
        proposal = annotation.proposal if annotation else None
        self.proposal.setVisible(proposal is not None and bool(proposal.done))
        self.show_verdict(verdict_message(proposal.learnt) if proposal and proposal.learnt else "")
        here = annotation is not None and self._curve_of() is annotation
        self.curve.setVisible(here)
        unfinished = "" if proposal and proposal.answer else "The preview is not finished yet."
        self.allow(self.accept, unfinished or busy)
        self.allow(self.discard, busy)
        waiting = "Accept or discard the preview first." if proposal else ""
        for control in (self.version, self.load):
            self.allow(control, none or busy or waiting)
        self.allow(self.start, none or busy or waiting or nothing)
        first = annotation is None or annotation.segmentation.version == 0
        original = "This is the original version." if first else ""
        self.allow(self.roll_back, none or busy or waiting or original)
        self.allow(self.save, none or busy or original)
        self.notes.show_again(none)

    def interpolate_organ(self) -> None:
        """Fill in the chosen organ between the slices that a person painted or accepted."""
        annotation, mask = self.annotation, self.current_mask
        if not self._free or annotation is None or mask is None:
            return
        frame, organ = mask.place[0], self.organ.currentData()
        try:
            slices, volume = annotation.between(frame, organ), scan_of(mask)
        except InputError as error:
            self.notes.refuse(error)
            return
        self._new_run().interpolate(volume, frame, slices, organ)

    # ------------------------------------------------------------------ fine-tuning

    def _masks(self) -> list[MaskLayer]:
        """The mask on screen; for a project, also the other masks that its model learns from."""
        if self.annotation is None or self.current_mask is None:
            return []
        project = self.kind.currentData() == PROJECT
        return project_masks(self.viewer, self.current_mask) if project else [self.current_mask]

    def fine_tune(self) -> None:
        """What the button does; the outcome comes with `run_ended`."""
        if not self._free:
            return
        complete = bool(self.painted.currentData())
        self.notes.say("")
        # Over another scan's picture, the preview would pass for that scan's mask.
        self.review.show_mask(alone=True)
        try:
            task = fine_tuning(
                self._masks(), self.kind.currentData(), float(self.seconds.value()), complete
            )
        except InputError as error:
            self.notes.refuse(error)
            return
        self.curve.clear()
        self._curve_of = ref(task.annotation)
        self._new_run().learn(task)

    def go_to_version(self, number: int, loaded: bool = False) -> None:
        """Take the answer of a version into the mask, as one undoable step.

        loaded: the version was loaded just now, and is dropped if this does not succeed.
        """
        annotation, mask = self.annotation, self.current_mask
        if not self._free or annotation is None or mask is None:
            return
        version = annotation.versions[number]
        brought: tuple[int, ...] = ()
        try:
            task = application(mask, version)
            # A loaded version has already brought its organs, or was refused.
            brought = version.brought if loaded else bring_organs(mask, annotation, version)
        except InputError as error:
            if loaded:
                annotation.versions.pop(number)
            self.notes.refuse(error)
            self._show_all()
            return
        self._new_run().apply(task, number, brought, loaded)

    def cancel_run(self) -> None:
        """Stop the job; everything stays as it was."""
        if self._run is not None:
            self._run.cancel()
            self.bar.setFormat("Cancelling")

    @property
    def _free(self) -> bool:
        """Is there a mask, and no job under way for it or in this widget?"""
        annotation = self.annotation
        return annotation is not None and not annotation.job and not self.running

    def _new_run(self) -> CorrectRun:
        assert self.current_mask is not None
        self._run = CorrectRun(
            self.session, self.current_mask, annotation_of(self.current_mask), self
        )
        self._run.taken.connect(self._on_taken)
        self._run.ended.connect(self._on_end)
        self.bar.setValue(0)
        self.bar.setFormat("")
        return self._run

    def _on_taken(self, event: TaskEvent) -> None:
        match event:
            case Step():
                self.bar.setValue(round(1000 * event.done))
                self.bar.setFormat(str(event))
                if event.loss is not None:
                    self.curve.add_loss(event.step, event.loss)
            case PreviewFits():
                self.curve.add_dice(event.step, event.dice)
            case Judged() if self._run is not None:
                self.notes.say_of(self._run, self._run.text)

    def _on_end(self, outcome: str, text: str) -> None:
        if (run := self._run) is None:
            return
        self._run = None
        self.notes.say_of(run, text, bad=outcome == "failed")
        run.deleteLater()
        if not any(self.curve.points):
            self._curve_of = lambda: None
        self._show_all()
        if self.accept.isEnabled() and run.annotation is self.annotation:
            self.scroll_to(self.accept)
        self.review.look_soon()
        self.run_ended.emit(outcome)

    # ------------------------------------------------------------------ proposals and versions

    def show_view(self, mode: str) -> None:
        """Show the mask, the proposal, or the changes between them."""
        if self.annotation is not None and self.annotation.preview is not None:
            self.annotation.preview.show(mode)

    def flip_view(self) -> None:
        """Switch between before and after."""
        if self.annotation is not None:
            flip(self.annotation)

    def accept_proposal(self) -> None:
        """Take the proposal into the mask as one step, and its model as a version."""
        annotation, mask = self.annotation, self.current_mask
        if annotation is None or mask is None or annotation.job:
            return
        if annotation.proposal is None or annotation.proposal.answer is None:
            return
        if mask.stroke_under_way:
            self.notes.say("Finish the brush stroke first.")
            return
        if unseen := why_unseen(mask):
            self.notes.say(
                f"{unseen}: click a slice in the table, then accept the preview.",
                holds=lambda: why_unseen(mask) == unseen,
            )
            return
        try:
            changed = accept(mask, annotation)
        except InputError as error:
            self.notes.refuse(error)
            return
        self.notes.say(
            f"{annotation.version.name} accepted: {mask.taken_in(changed)}",
            holds=mask.segmentation.undo_history.last_step() if changed else always,
        )
        self._show_all()

    def discard_proposal(self) -> None:
        """Drop the proposal."""
        if self.annotation is not None:
            drop_proposal(self.annotation)
            self.notes.say("Preview discarded. The mask is unchanged.")
