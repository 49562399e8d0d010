"""The Segment widget: controls and connections.

What they do is in `scan_choice`, `run`, `mask_table` and `notes`.
"""

from __future__ import annotations

from typing import Any

import napari
from napari.layers import Image
from qtpy.QtCore import QTimer, Signal

from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.cleanup import CleanUp
from napari_l2gnet.annotating.annotation import Annotation
from napari_l2gnet.annotating.take_over import holds_labels
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.jobs.segment_events import Progress, SegmentEvent, Warned
from napari_l2gnet.jobs.session import Request, Session, shared_session
from napari_l2gnet.masks.duplicates import selected_mask
from napari_l2gnet.masks.layer import CARD_KEY, IMAGE_KEY, MaskLayer
from napari_l2gnet.saving.autosave import KEEPER_KEY, keep, open_projects
from napari_l2gnet.saving.mask_saving import MaskSaving
from napari_l2gnet.saving.resume import Work, shown_again
from napari_l2gnet.scans.layers import active_layer, volume_of
from napari_l2gnet.scans.orientation import as_given, is_asked_for
from napari_l2gnet.segment.card_dialog import CardDialog
from napari_l2gnet.segment.form import RANGE, SegmentForm
from napari_l2gnet.segment.mask_table import MaskTable
from napari_l2gnet.segment.model_combo import ModelCombo
from napari_l2gnet.segment.notes import SegmentNotes
from napari_l2gnet.segment.orientation_markers import EdgeLetters
from napari_l2gnet.segment.run import Run
from napari_l2gnet.segment.scan_choice import ScanChoice
from napari_l2gnet.segment.scan_watch import ScanWatch
from napari_l2gnet.widgets.visibility import bring_into_view, hidden_message


class SegmentWidget(SegmentForm):
    """Choose a scan and a model, press Segment, watch the organs fill in."""

    #: How a run ended: "finished", "cancelled" or "failed". Everything is drawn by then.
    run_ended = Signal(str)
    #: The line on the device is filled in.
    ready = Signal()

    def __init__(self, napari_viewer: napari.Viewer, session: Session | None = None) -> None:
        self.session = session or shared_session()
        super().__init__(napari_viewer, ModelCombo())
        self.letters = EdgeLetters(napari_viewer)
        self.watch = ScanWatch(napari_viewer, self)
        self.table = MaskTable(napari_viewer, self.organs, self.coverage, self)
        self.saving = MaskSaving(self.save_mask, lambda: self.current_mask)
        self._run: Run | None = None
        self._annotation: Annotation | None = None
        # How the user last wanted masks of a model tidied.
        self._tidying: dict[str, CleanUp] = {}
        self.choice = ScanChoice(self)
        self.notes = SegmentNotes(self)
        # Why the slice on screen could not be segmented when that was last asked for.
        self._nowhere = ""
        # Did another layer become the active one during a run?
        self._missed = False
        self._on_active()
        self._begin_with_mask()
        self._connect()
        self._on_scan_or_model()
        self.device.look()

    def _connect(self) -> None:
        self.image.chosen.connect(self._on_scan_or_model)
        self.watch.changed.connect(self._on_scan_changed)
        self.watch.adopted.connect(self._on_adopted)
        self.model.currentIndexChanged.connect(self._on_scan_or_model)
        self.model.opening.connect(self._on_models)
        self.orientation.answered.connect(self._on_scan_or_model)
        self.axis.currentIndexChanged.connect(self._on_axis)
        self.region.currentIndexChanged.connect(self._on_region)
        self.viewer.dims.events.ndisplay.connect(self._on_region)
        self.device.ready.connect(self.ready)
        self.about.clicked.connect(self._show_card)
        self.start.clicked.connect(self.segment)
        self.cancel.clicked.connect(self.cancel_run)
        self.largest.toggled.connect(self._tidy_again)
        self.holes.toggled.connect(self._tidy_again)
        self.organs.go_to.connect(self.go_to)
        self.table.lost.connect(self._on_lost)
        self.saving.said.connect(self.notes.say)
        self.saving.changed.connect(self._update_controls)
        self.offer.resumed.connect(self._on_resumed)
        self.offer.failed.connect(lambda problem: self.notes.say(problem, bad=True))
        self.viewer.layers.events.removed.connect(self._on_removed)
        self.viewer.layers.selection.events.active.connect(self._on_active)
        self.session.models_changed.connect(self._on_models)

    def let_go(self) -> None:
        """Stop the run and disconnect from the viewer."""
        self.device.cancel()
        self.cancel_run()
        self._follow(None)
        self.watch.stop()
        self.table.disconnect_viewer()
        self.image.disconnect_layers()
        self.letters.disconnect()
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.viewer.layers.selection.events.active.disconnect(self._on_active)
        self.viewer.dims.events.ndisplay.disconnect(self._on_region)
        self.session.models_changed.disconnect(self._on_models, missing_ok=True)

    def _begin_with_mask(self) -> None:
        """Choose the model of the selected mask, else of the scan's newest one, so that its table
        is there at once."""
        mask = self._active_mask or MaskLayer.find(self.viewer, self.image.layer, None)
        if mask is not None:
            self._choose_model_of(mask)

    def _choose_model_of(self, mask: MaskLayer) -> None:
        first, card = annotation_of(mask).versions[0], mask.layer.metadata[CARD_KEY]
        self.model.choose(card, first.path)

    def _choose_axis_of(self, mask: MaskLayer) -> None:
        """Go on along the axis of a mask: along another one, a run would begin a mask of its
        own."""
        if (at := self.axis.findData(mask.segmentation.axis)) >= 0:
            self.axis.setCurrentIndex(at)

    def _on_models(self) -> None:
        name, card = self.model.currentText(), self.card
        self.model.refresh()
        if self.model.currentText() != name:
            chosen = self.model.currentText()
            self.notes.say(f"The model {name} no longer exists. {chosen} is chosen now.")
        elif self.card != card:
            self._on_scan_or_model()

    # ------------------------------------------------------------------ state → controls

    @property
    def card(self) -> ModelCard | None:
        """The chosen model's card."""
        return self.model.card

    @property
    def running(self) -> bool:
        """Is a job under way?"""
        return self._run is not None

    @property
    def current_mask(self) -> MaskLayer | None:
        """The mask that the table shows."""
        return self.table.mask

    def _follow(self, mask: MaskLayer | None) -> None:
        """Show a mask's organs and its tidying; without a mask, those that the model has."""
        if self._annotation is not None:
            self._annotation.changed.disconnect(self._on_annotation, missing_ok=True)
            self._annotation.segmentation.choosing.disconnect(self._on_choosing, missing_ok=True)
        self._annotation = None if mask is None else annotation_of(mask)
        if self._annotation is not None:
            self._annotation.changed.connect(self._on_annotation)
            self._annotation.segmentation.choosing.connect(self._on_choosing)
        self.beware_unsaved(self._annotation)
        self.table.follow(mask)
        if mask is not None:
            self.show_choices(mask.segmentation.clean_up)
        elif self.card is not None:
            self.organs.show_labels(self.card.labels)
            self.show_choices(self._tidying.get(self.model.currentText(), self.card.clean_up))

    def _on_choosing(self) -> None:
        """The mask is tidied in another way, perhaps because a step was undone."""
        assert self._annotation is not None
        self.show_choices(self._annotation.segmentation.clean_up)
        self._tidying[self.model.currentText()] = self.choices()
        # Only later is it known whether the step was undone.
        self._look_soon.start()

    def _on_annotation(self, what: str) -> None:
        if what == "job":
            self._update_controls()

    @property
    def _others_job(self) -> str:
        """Why the mask cannot be written to: the job of another widget, in a sentence; or ""."""
        if self.running or self._annotation is None or not self._annotation.job:
            return ""
        return f"A job is running ({self._annotation.job}). Cancel it first."

    def _on_active(self, _: Any = None) -> None:
        """Choose the scan and the mask that a person opens or works on."""
        if self.running:
            self._missed = True
        else:
            self._choose_scan()
            self._follow_active()
        self.tell_again()

    def _choose_scan(self) -> None:
        """Choose the selected scan, or that of the selected mask: none, if that was deleted."""
        active = active_layer(self.viewer)
        scan = active if active is None else active.metadata.get(IMAGE_KEY, active)
        if scan in self.image and (scan is not active or not holds_labels(scan)):
            self.image.choose(scan)
        elif selected_mask(self.viewer) is not None:
            self.image.choose(None)

    def _follow_active(self) -> None:
        """Show the selected mask, so that no other one is tidied or saved."""
        mask, shown = self._active_mask, self.current_mask
        if mask is None or (shown is not None and shown.layer is mask.layer):
            return
        self._choose_model_of(mask)
        self._choose_axis_of(mask)
        self._follow(mask)
        self._update_controls()

    @property
    def _active_mask(self) -> MaskLayer | None:
        """The selected mask, if it is of the chosen scan or, without one, of a deleted scan."""
        mask = selected_mask(self.viewer)
        return mask if mask and self._fits(mask) and not self.choice.unreadable else None

    def _fits(self, mask: MaskLayer, model: str | None = None) -> bool:
        """Is a mask, by a model (None: by any), of the chosen scan or, without one, of a deleted
        scan?"""
        scan, chosen = mask.layer.metadata[IMAGE_KEY], self.image.layer
        fits = scan is chosen or (chosen is None and scan not in self.image)
        return fits and mask.belongs_to(scan, model)

    @property
    def _mask_chosen(self) -> MaskLayer | None:
        """The mask of the chosen scan and model: the selected one, else the one that the table
        shows, else the newest."""
        model = self.model.currentText()
        for mask in (self._active_mask, self.current_mask):
            if mask is not None and self._fits(mask, model):
                return mask
        return MaskLayer.find(self.viewer, self.image.layer, model)

    def _on_scan_changed(self) -> None:
        if not self.running:
            self._on_scan_or_model()

    def _on_adopted(self, scan: Image, masks: list[MaskLayer]) -> None:
        """The scan was opened again: its masks go on with it."""
        if scan is self.image.layer and not self.running:
            self.ask_orientation(None, None)  # the scan may say it now
            self._on_scan_or_model()
            name = masks[-1].layer.name
            self.notes.say(f'"{name}" belongs to this scan and is linked to it again.')

    def _on_scan_or_model(self, _: Any = None) -> None:
        """Another scan, model or orientation: show its axes, its organs and what does not fit."""
        self.notes.clear()
        choice, layer = self.choice, self.image.layer
        choice.read()
        self.offer.look_for(layer, choice.stored, open_projects(self.viewer))
        self.letters.draw()
        self.watch.follow(layer, choice.stored is not None)
        self._follow(None if choice.unreadable else self._mask_chosen)
        if choice.refusal:
            self.notes.say(choice.refusal, bad=choice.unreadable)
            self._update_controls()
        else:
            self._on_axis()

    def _on_axis(self) -> None:
        if self.choice.refusal:
            return
        if (warnings := self.choice.offer_slices()) is not None:
            self.notes.warnings = warnings
        self.notes.say("")
        self._update_controls()

    def _update_controls(self, _: Any = None) -> None:
        """Enable what can be done now; disabled controls say why."""
        busy = "A run is in progress. Cancel it first." if self.running else ""
        writing = busy or self._others_job
        no_scan, no_model = self._no_scan, "" if self.card else "No model is available."
        reason = self.choice.refusal or no_scan or no_model or busy
        self.allow(self.start, reason or writing)
        self.allow(self.image, busy if self.image.count() else no_scan)
        self.allow(self.model, no_model or busy)
        self.allow(self.about, no_model)
        self.allow(self.orientation, busy)
        for control in (self.axis, self.region, self.first, self.last):
            self.allow(control, reason)
        self.allow(self.cancel, "" if self.running else "Nothing is running.")
        for box in (self.largest, self.holes):
            self.allow(box, no_model or writing)
        self.allow(self.save_mask, writing or self.saving.refusal)
        self.organs.allow("" if self.current_mask is not None else "Press Segment first.")
        self.range.setVisible(self.region.currentIndex() == RANGE)
        self.bar.setVisible(self.running)
        if reason and not self.running and not self.message.text():
            self.notes.say(reason)

    @property
    def _no_scan(self) -> str:
        """Why no scan is chosen, in a sentence; "" if one is."""
        if self.image.layer is not None:
            return ""
        if self.current_mask is not None:
            return "The scan of this mask was deleted: open it again to segment it."
        if self.image.count():
            return "Choose a scan first."
        return "Open a scan first: drag its file or DICOM folder into the window."

    def _on_region(self, _: Any = None) -> None:
        if self._nowhere:
            self._nowhere = ""
            self.notes.say("")
        self._update_controls()

    def tell_again(self) -> None:
        """Say the same if it holds, with the warnings that hold now."""
        text, bad, _, holds = self._told
        self.notes.say(text if holds() else "", bad, holds)

    def _show_card(self) -> None:
        if self.card is not None:
            CardDialog(self.card, self).open()

    # ------------------------------------------------------------------ runs

    def segment(self) -> None:
        """What the button does; the outcome comes with `run_ended`."""
        if self.running:
            return
        name = self.model.currentText()
        # A model file may have been overwritten since the list was last open.
        self._on_models()
        layer, model = self.image.layer, self.model.entry
        if layer is None or model is None or self._others_job or model.name != name:
            return
        try:
            stored = volume_of(layer)
        except InputError as error:
            self.notes.say(str(error), bad=True)
            return
        card, volume, axis = model.card, as_given(layer, stored), self.axis.currentData()
        if axis is None or is_asked_for(card, volume):
            self._on_scan_or_model()
            return
        self._nowhere = self.choice.why_nowhere(layer, axis)
        if self._nowhere:
            self.notes.say(self._nowhere, bad=True)
            return
        about, old = "", self.current_mask
        if old is None or not old.can_take(layer, stored.grid, card, axis):
            # The mask keeps the file's grid: an orientation that a person gave is not saved.
            tidying = self.choices().sparing(card.clean_up.spared)

            def begin(mask: MaskLayer) -> None:
                mask.segmentation.clean_up = tidying
                keep(mask, stored, self)

            mask = MaskLayer.add(self.viewer, layer, stored.grid, card, axis, begin)
            self._follow(mask)
            if old is not None:
                work = "holds your work and " if old.holds_work else ""
                about = (
                    f'"{old.layer.name}" {work}is not changed. The result of this run goes into '
                    f'"{mask.layer.name}".'
                )
        assert self.current_mask is not None
        # Over another scan's picture, the organs would pass for those of that scan.
        hidden = hidden_message(self.current_mask, bring_into_view(self.current_mask, alone=True))
        about = f"{about} {hidden}".strip()
        request = Request(
            volume,
            str(model.path),
            self.choice.places(layer, volume.shape, axis),
            axis,
            traces=self.current_mask.segmentation.traces,
        )
        self.notes.clear()
        self.notes.say(about)
        self.bar.setRange(0, len(request.places))
        self._new_run(about).segment(request)

    def cancel_run(self) -> None:
        """Stop the run; what is finished stays."""
        if self._run is not None:
            self._run.cancel()
            self.bar.setFormat("Cancelling")

    def _on_resumed(self, work: Work, layer: Image) -> None:
        """Show saved work as a mask of its own."""
        mask = shown_again(work, self.viewer, layer, self)
        if mask is None:
            work.folder.release()
            return  # the scan was deleted meanwhile
        self.model.choose(work.state.card, work.versions[0].path)
        self._on_scan_or_model()
        self._choose_axis_of(mask)
        self._follow(mask)
        hidden = hidden_message(mask, bring_into_view(mask, alone=True))
        self.notes.say(f"{work.problem} {hidden}".strip(), bad=bool(work.problem))
        self._update_controls()

    def _new_run(self, about: str = "") -> Run:
        """A run, not yet started, that writes to the current mask."""
        assert self.current_mask is not None
        self._run = Run(self.session, self.current_mask, self, about)
        self._missed = False
        self._run.stepped.connect(self._on_step)
        self._run.ended.connect(self._on_end)
        self.table.running = True
        self.bar.setValue(0)
        self.bar.setFormat("")
        self._update_controls()
        return self._run

    def _on_step(self, event: SegmentEvent) -> None:
        match event:
            case Progress():
                self.bar.setValue(event.done)
                self.bar.setFormat(str(event))
            case Warned(sentences) if self._run is not None:
                self.notes.take_warnings(self._run, sentences)
        self.table.count_soon()

    def _on_end(self, outcome: str, text: str) -> None:
        assert self._run is not None
        run, self._run = self._run, None
        self.table.running = False
        if self._missed:
            self._on_active()
        self.notes.take_end(run, text, bad=outcome == "failed")
        run.deleteLater()
        if self._annotation is not None:
            # A cancelled run has not changed the tidying: show it as it is.
            self._on_choosing()
        self._update_controls()
        self.table.count_all()
        self.run_ended.emit(outcome)

    def _tidy_again(self) -> None:
        """A tick was changed: tidy the current mask so."""
        self._tidying[self.model.currentText()] = self.choices()
        if self.current_mask is not None:
            segmentation = self.current_mask.segmentation
            choices = self.choices().sparing(segmentation.clean_up.spared)
            if segmentation.finished and not self.running:
                self._new_run().choose(choices)
            else:
                segmentation.clean_up = choices

    def _on_removed(self, event: Any) -> None:
        if self._run is not None and event.value is self._run.mask.layer:
            self.cancel_run()
        mask = selected_mask(self.viewer)
        if mask is not None and event.value is mask.layer.metadata[IMAGE_KEY]:
            # Another scan has taken its place in the list.
            self._on_active()
        if self.current_mask is not None and event.value is self.current_mask.layer:
            self._follow(self._mask_chosen)
            self._update_controls()
            # A warning about a copy of the mask may not hold any more.
            self.tell_again()
        if self.image.layer is None and not self.running:
            # There may be another reason for that now.
            self.notes.say("")
            self._update_controls()
        if KEEPER_KEY in event.value.metadata:
            # A mask deleted by mistake can be resumed once its project is released.
            QTimer.singleShot(0, self._offer_again)

    def _offer_again(self) -> None:
        layer = self.image.layer
        if layer is None:
            return
        try:
            self.offer.look_for(layer, volume_of(layer), open_projects(self.viewer), again=True)
        except InputError:
            self.offer.look_for(layer, None, (), again=True)

    def _on_lost(self) -> None:
        assert self.current_mask is not None
        text = (
            f'The data of "{self.current_mask.layer.name}" were replaced and no longer match the '
            "scan."
        )
        self._follow(self._mask_chosen)
        self.notes.say(f"{text} Press Segment for a new mask.", bad=True)
        self._update_controls()

    def go_to(self, label: int) -> None:
        """Show an organ's largest slice."""
        if self.current_mask is not None and not self.current_mask.go_to(label):
            self.notes.say("This organ is not in the mask.")
