"""The Correct & fine-tune widget: controls and connections.

What they do is in `slice_review`, `organ_bar`, `version_bar`, `correct_run` and `proposals`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import napari
from napari.layers import Image, Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import Signal

from l2gnet_core.errors import InputError
from napari_l2gnet.annotation import Annotation
from napari_l2gnet.autosave import keep_again
from napari_l2gnet.correct_form import FLIP_KEY, PROJECT, CorrectForm
from napari_l2gnet.correct_run import CorrectRun
from napari_l2gnet.docked import always
from napari_l2gnet.duplicates import unsaved_copy
from napari_l2gnet.learning import TaskProgress
from napari_l2gnet.mask_layer import MaskLayer
from napari_l2gnet.mask_saving import MaskSaving
from napari_l2gnet.organ_bar import OrganBar
from napari_l2gnet.preview import BEFORE
from napari_l2gnet.proposals import accept, bring_organs, drop_proposal, flip, verdict_message
from napari_l2gnet.session import Session, shared_session
from napari_l2gnet.slice_review import SliceReview
from napari_l2gnet.take_over import candidates, take_over, why_none
from napari_l2gnet.tasks import (
    annotation_of,
    application,
    fine_tuning,
    project_masks,
    scan_of,
)
from napari_l2gnet.version_bar import VersionBar
from napari_l2gnet.visibility import why_beside
from napari_l2gnet.worker import Job


@dataclass(frozen=True)
class _Note:
    """What there is to say of a mask, for as long as it holds."""

    text: str = ""
    bad: bool = False
    holds: Callable[[], bool] = always


class CorrectWidget(CorrectForm):
    """Review slices, correct them, teach the model, look at what it makes of it, accept it."""

    #: How a job ended: "finished", "cancelled" or "failed". Everything is drawn by then.
    run_ended = Signal(str)
    #: What fine-tuning and interpolation need is imported.
    ready = Signal()

    def __init__(self, napari_viewer: napari.Viewer, session: Session | None = None) -> None:
        super().__init__(napari_viewer)
        self.session = session or shared_session()
        self.mask: MaskLayer | None = None
        self.review = SliceReview(napari_viewer, self)
        self.organs = OrganBar(self)
        self.versions = VersionBar(self, self.session)
        self.saving = MaskSaving(self.save_mask, lambda: self.mask)
        self._run: CorrectRun | None = None
        self._note = _Note()
        #: What was said of each mask last: it is said again once that is gone back to.
        self._notes: WeakKeyDictionary[Annotation, _Note] = WeakKeyDictionary()
        #: Whose fine-tuning the curve is of.
        self._curve_of: Callable[[], Annotation | None] = lambda: None
        self._connect()
        self._import()
        self._follow()

    def _connect(self) -> None:
        self.layer.chosen.connect(self._follow)
        self.layer.activated.connect(lambda _: self.review.show_mask(alone=True))
        self.review.looked.connect(self._show_all)
        self.review.said.connect(lambda text, holds: self._say(text, holds=holds))
        self.organs.chosen.connect(self._update_controls)
        self.organs.removed.connect(lambda text, holds: self._say(text, holds=holds))
        self.interpolate.clicked.connect(self.interpolate_organ)
        self.masks.aboutToShow.connect(self._list_masks)
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
        for bar in (self.organs, self.versions):
            bar.said.connect(self._say)
            bar.refused.connect(self._refuse)
        self.saving.said.connect(self._say)
        self.saving.changed.connect(self._update_controls)
        self.review.bind(FLIP_KEY, self.flip_view)
        self.viewer.dims.events.current_step.connect(self._on_moved)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self.viewer.layers.selection.events.active.connect(self._on_active)

    def let_go(self) -> None:
        """Stop what is under way and let go of the viewer's events."""
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
        """Import what fine-tuning and interpolation need while nobody waits for it."""

        def imports() -> Generator[bool | None, None, None]:
            before = len(sys.modules)
            import pyqtgraph  # noqa: F401

            yield
            import scipy.ndimage  # noqa: F401
            import torch

            yield
            # For interpolation.
            import sklearn.ensemble  # noqa: F401

            yield
            import l2gnet_core.finetune  # noqa: F401

            yield
            # The first step of an optimiser imports more than all that.
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]).step()
            yield len(sys.modules) > before

        self._importing = Job(imports(), self)
        self._importing.yielded.connect(self._on_imported)
        self._importing.finished.connect(self.curve.prepare)
        self._importing.finished.connect(self.ready)
        self._importing.start()

    @staticmethod
    def _on_imported(much: bool | None) -> None:
        """Look now through what has been imported: Python does so after some time, all at once, and
        the window would wait amid the first fine-tuning."""
        if much:
            gc.collect()

    # ------------------------------------------------------------------ the mask and its truth

    @property
    def annotation(self) -> Annotation | None:
        """How far the chosen mask is; None if there is none that can be written to."""
        if self.mask is None or not self.mask.connected:
            return None
        return annotation_of(self.mask)

    @property
    def running(self) -> bool:
        """Is a job of this widget under way?"""
        return self._run is not None

    def _follow(self) -> None:
        """Another mask is chosen."""
        self._leave_mask()
        layer = self.layer.layer
        self.mask = None if layer is None else MaskLayer(self.viewer, layer)
        if (annotation := self.annotation) is not None and self.mask is not None:
            annotation.changed.connect(self._show_all)
            keep_again(self.mask, self)
        self.beware_unsaved(annotation)
        self.review.follow(self.mask, annotation)
        self.organs.follow(self.mask, annotation)
        self.versions.follow(self.mask, annotation)
        self._note = _Note() if annotation is None else self._notes.get(annotation, _Note())
        self._show_all()

    def _leave_mask(self) -> None:
        if self.mask is not None:
            annotation_of(self.mask).changed.disconnect(self._show_all, missing_ok=True)
        self.review.follow(None, None)
        self.organs.follow(None, None)
        self.versions.follow(None, None)
        self.mask = None

    def _on_moved(self, _: Any = None) -> None:
        if self.mask is None:
            return
        self.review.show_here()
        run = self._run
        if run is not None and run.task is not None and run.mask.layer is self.mask.layer:
            run.task.here = self.mask.place

    def tell_again(self) -> None:
        """Say no more what does not hold."""
        self._update_controls()

    def _on_active(self, event: Any) -> None:
        # The mask that a person paints on is the one that they correct.
        if event.value is not self.layer.layer and event.value in self.layer:
            self.layer.choose(event.value)
        self._update_controls()

    def _on_removed(self, event: Any) -> None:
        if self._run is not None and event.value is self._run.mask.layer:
            self.cancel_run()
        self._update_controls()

    # ------------------------------------------------------------------ state → controls

    def _show_all(self, what: str = "") -> None:
        """Draw everything; what: as `Annotation.changed` tells of it."""
        annotation = self.annotation
        if what == "proposal":
            self.review.look_soon()
        self.review.show()
        self.versions.show()
        preview = annotation.preview if annotation is not None else None
        self.show_mode(preview.mode if preview is not None else BEFORE)
        self._update_controls()

    def _update_controls(self, _: Any = None) -> None:
        """Enable what can be done now; everything disabled says why."""
        annotation = self.annotation
        none = "" if annotation else "Segment a scan first, in the widget Segment."
        if self.mask is not None and annotation is None:
            none = "The data of this mask were replaced and fit its scan no more: segment again."
        busy = f"{annotation.job}: cancel it first." if annotation and annotation.job else ""
        if not busy and self.running:
            busy = "Another mask's job is under way: cancel it first."
        taught = sum(len(annotation_of(mask).taught) for mask in self._masks())
        nothing = "" if taught else "Correct a slice first: paint on it, or accept it."
        self.allow(self.layer, none)
        for control in (self.accept_slice, self.next_slice, self.queue, self.organ):
            self.allow(control, none)
        self.allow(self.add_organ, none or busy)
        alone = "" if none or self.mask is None else why_none(self.viewer, self.mask)
        self.allow(self.take_over, none or busy or alone)
        self.allow(self.save_mask, none or busy or self.saving.refusal)
        no_organ = self.organs.hint if self.organ.currentData() == self.organs.stray else ""
        all_organs = "" if self.organ.currentData() is not None else "Choose one organ first."
        self.allow(self.edit_organ, none or busy or all_organs or no_organ)
        self.allow(self.interpolate, none or busy or no_organ)
        for control in (self.kind, self.seconds, self.painted):
            self.allow(control, none or busy)
        self.start.setText(f"Fine-tune on {taught} slice{'s' * (taught != 1)}")
        self.allow(self.cancel, "" if self.running else "Nothing is running.")
        self.bar.setVisible(self.running)
        proposal = annotation.proposal if annotation else None
        self.proposal.setVisible(proposal is not None and bool(proposal.done))
        self.show_verdict(verdict_message(proposal.learnt) if proposal and proposal.learnt else "")
        here = annotation is not None and self._curve_of() is annotation
        self.curve.setVisible(here)
        unfinished = "" if proposal and proposal.complete else "It is not finished yet."
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
        if not self._note.holds():
            self._say("")
        self._show_note(none)

    def _say(self, text: str, bad: bool = False, holds: Callable[[], bool] = always) -> None:
        """Say something of the mask, until it does not hold any more."""
        self._note = _Note(text, bad, holds)
        if self.annotation is not None:
            self._notes[self.annotation] = self._note
        self._show_note()

    def _say_of(self, run: CorrectRun, text: str, bad: bool = False) -> None:
        """Say what came of a job to whoever looks at its mask, now or later, and beside another one
        with that mask's name."""
        # A verdict is shown with its proposal.
        waits = run.annotation.proposal is not None and text == run.text
        note = self._notes[run.annotation] = _Note("" if waits else text, bad, run.stands)
        here = run.annotation is self.annotation
        self._note = note if here else _Note(f"{run.mask.layer.name}: {text}", bad)
        self._show_note()

    def _show_note(self, otherwise: str = "") -> None:
        beside = "" if self.annotation is None or self.mask is None else why_beside(self.mask)
        if beside:
            beside += ": click a slice in the table, and it does again."
        hints = [one for one in (beside, self.organs.hint, unsaved_copy(self.viewer)) if one]
        self.show_message(self._note.text or otherwise, self._note.bad, hints)

    def _refuse(self, error: Exception) -> None:
        """Say what is wrong in the widget, until the mask is changed, and as napari does."""
        segmentation = None if self.annotation is None else self.annotation.segmentation
        edits = None if segmentation is None else segmentation.edits
        self._say(str(error), True, lambda: segmentation is None or segmentation.edits == edits)
        show_error(str(error))

    def interpolate_organ(self) -> None:
        """Fill in the chosen organ between the slices that a person painted or accepted."""
        annotation, mask = self.annotation, self.mask
        if not self._free or annotation is None or mask is None:
            return
        frame, organ = mask.place[0], self.organ.currentData()
        try:
            slices, volume = annotation.between(frame, organ), scan_of(mask)
        except InputError as error:
            self._refuse(error)
            return
        self._new_run().interpolate(volume, frame, slices, organ)

    def _list_masks(self) -> None:
        """Offer the masks there are."""
        self.masks.clear()
        for layer in candidates(self.viewer, self.mask) if self.mask is not None else ():
            self.masks.addAction(layer.name, partial(self.take_over_mask, layer))

    def take_over_mask(self, layer: Labels | Image) -> None:
        """Take another mask's labels as painted where they differ."""
        mask = self.mask
        if not self._free or mask is None or not mask.connected:
            return
        try:
            voxels, slices = take_over(mask, layer)
        except InputError as error:
            self._refuse(error)
            return
        if voxels:
            # Ctrl-Z is of the layer that is selected, and what is seen is the mask.
            self.viewer.layers.selection.active = mask.layer
            layer.visible = False
            part = layer.data.size < mask.layer.data.size
            self._say(
                f"{voxels:,} voxels in {slices} slice{'s' * (slices != 1)} are as in "
                f"{layer.name} now, and count as painted by you; Ctrl-Z takes them back."
                + " What it leaves out of the scan is background."
                * part,
                holds=mask.segmentation.undo_history.last_step(),
            )
        else:
            self._say(f"{layer.name} says the same as this mask.")

    # ------------------------------------------------------------------ fine-tuning

    def _masks(self) -> list[MaskLayer]:
        """The mask on screen, and for a project the others that teach its model."""
        if self.annotation is None or self.mask is None:
            return []
        project = self.kind.currentData() == PROJECT
        return project_masks(self.viewer, self.mask) if project else [self.mask]

    def fine_tune(self) -> None:
        """What the button does; the outcome comes with `run_ended`."""
        if not self._free:
            return
        complete = bool(self.painted.currentData())
        try:
            task = fine_tuning(
                self._masks(), self.kind.currentData(), float(self.seconds.value()), complete
            )
        except InputError as error:
            self._refuse(error)
            return
        self.curve.clear()
        self._curve_of = ref(task.annotation)
        self._say("")
        self._new_run().learn(task)

    def go_to_version(self, number: int, loaded: bool = False) -> None:
        """Take the answer of a version into the mask, as one step; one that was just `loaded` goes
        again where that does not come to its end."""
        annotation, mask = self.annotation, self.mask
        if not self._free or annotation is None or mask is None:
            return
        version, brought = annotation.versions[number], ()
        try:
            task = application(mask, version)
            # One that is loaded has brought them already, or was refused.
            brought = version.brought if loaded else bring_organs(mask, annotation, version)
        except InputError as error:
            if loaded:
                annotation.versions.pop(number)
            self._refuse(error)
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
        """Is there a mask, and nothing under way for it or here?"""
        annotation = self.annotation
        return annotation is not None and not annotation.job and not self.running

    def _new_run(self) -> CorrectRun:
        assert self.mask is not None
        self._run = CorrectRun(self.session, self.mask, annotation_of(self.mask), self)
        self._run.stepped.connect(self._on_step)
        self._run.ended.connect(self._on_end)
        self.bar.setValue(0)
        self.bar.setFormat("")
        return self._run

    def _on_step(self, moment: TaskProgress) -> None:
        self.bar.setValue(round(1000 * moment.done))
        self.bar.setFormat(str(moment))
        if moment.loss is not None or moment.dice is not None:
            self.curve.add(moment.step, moment.loss, moment.dice)
        if moment.learnt is not None and self._run is not None:
            self._say_of(self._run, self._run.text)

    def _on_end(self, outcome: str, text: str) -> None:
        if (run := self._run) is None:
            return
        self._run = None
        self._say_of(run, text, bad=outcome == "failed")
        run.deleteLater()
        if not any(self.curve.points):
            self._curve_of = lambda: None
        self._show_all()
        self.review.look_soon()
        self.run_ended.emit(outcome)

    # ------------------------------------------------------------------ proposals and versions

    def show_view(self, mode: str) -> None:
        """Show the mask, the proposal, or what changes."""
        if self.annotation is not None and self.annotation.preview is not None:
            self.annotation.preview.show(mode)

    def flip_view(self) -> None:
        """Go to and fro between before and after."""
        if self.annotation is not None:
            flip(self.annotation)

    def accept_proposal(self) -> None:
        """Take the proposal into the mask as one step, and its model as a version."""
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None or annotation.job:
            return
        if annotation.proposal is None or not annotation.proposal.complete:
            return
        if mask.stroke_under_way:
            self._say("Finish the stroke first.")
            return
        changed = accept(mask, annotation)
        self._say(
            f"{annotation.version.name} accepted: {mask.taken_in(changed)}",
            holds=mask.segmentation.undo_history.last_step() if changed else always,
        )
        self._show_all()

    def discard_proposal(self) -> None:
        """Drop the proposal."""
        if self.annotation is not None:
            drop_proposal(self.annotation)
            self._say("Discarded: the mask is as it was.")
