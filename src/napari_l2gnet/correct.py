"""The Correct & fine-tune widget: controls and connections; what they do is in `correct_run`."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import napari
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QFileDialog

from l2gnet_core.catalog import user_folder
from l2gnet_core.errors import InputError
from l2gnet_core.labels import Label
from napari_l2gnet.annotation import Annotation, Version, renamed, same_names
from napari_l2gnet.correct_form import (
    ACCEPT_KEY,
    FLIP_KEY,
    NEXT_KEY,
    PROJECT,
    CorrectForm,
)
from napari_l2gnet.correct_run import CorrectRun, accept, drop_proposal, flip
from napari_l2gnet.doubts import doubtful_slices
from napari_l2gnet.layers import volume_of
from napari_l2gnet.learning import Moment, Task, TaughtScan
from napari_l2gnet.mask_layer import IMAGE_KEY, MODEL_KEY, MaskLayer
from napari_l2gnet.organ_dialog import OrganDialog
from napari_l2gnet.orientation import as_given
from napari_l2gnet.preview import BEFORE
from napari_l2gnet.segmentation import Place
from napari_l2gnet.session import Session, shared_session
from napari_l2gnet.slice_queue import Row
from napari_l2gnet.worker import Job

#: Milliseconds without news after which slices are ranked again.
_QUIET = 700


class CorrectWidget(CorrectForm):
    """Review slices, correct them, teach the model, look at what it makes of it, accept it."""

    #: How a job ended: "finished", "cancelled" or "failed". Everything is drawn by then.
    run_ended = Signal(str)
    #: What a fine-tuning needs is imported.
    ready = Signal()

    def __init__(self, napari_viewer: napari.Viewer, session: Session | None = None) -> None:
        super().__init__(napari_viewer)
        self.viewer = napari_viewer
        self.session = session or shared_session()
        self.mask: MaskLayer | None = None
        self._run: CorrectRun | None = None
        self._ranking: Job | None = None
        self._ranked: Any = None
        self._text, self._bad = "", False
        #: Where the queue was followed to.
        self._walked: Place | None = None
        # What a person paints is looked for in quiet moments, a few slices at a time.
        self._looking = QTimer(self, interval=0)
        self._looking.timeout.connect(self._look)
        self._rank_soon = QTimer(self, interval=_QUIET, singleShot=True)
        self._rank_soon.timeout.connect(self._rank)
        self._keys: dict[str, Any] = {}
        self._connect()
        self._import()
        self._follow()

    def _connect(self) -> None:
        self.layer.chosen.connect(self._follow)
        self.queue.go_to.connect(self.go_to)
        self.accept_slice.clicked.connect(self.accept_this_slice)
        self.next_slice.clicked.connect(self.go_to_next)
        self.organ.currentIndexChanged.connect(self._on_organ)
        self.add_organ.clicked.connect(self._ask_new_organ)
        self.edit_organ.clicked.connect(self._ask_organ)
        self.interpolate.clicked.connect(self.interpolate_organ)
        self.start.clicked.connect(self.fine_tune)
        self.cancel.clicked.connect(self.cancel_run)
        self.kind.currentIndexChanged.connect(self._update_controls)
        self.accept.clicked.connect(self.accept_proposal)
        self.discard.clicked.connect(self.discard_proposal)
        for mode, button in self.view_buttons.items():
            button.clicked.connect(lambda _=False, mode=mode: self.show_view(mode))
        self.version.activated.connect(self.go_to_version)
        self.roll_back.clicked.connect(self.roll_back_version)
        self.save.clicked.connect(self._ask_save)
        self.load.clicked.connect(self._ask_load)
        self.viewer.dims.events.current_step.connect(self._on_moved)
        self.viewer.layers.events.removed.connect(self._on_removed)
        actions = {
            ACCEPT_KEY: self.accept_this_slice,
            NEXT_KEY: self.go_to_next,
            FLIP_KEY: self.flip_view,
        }
        for key, action in actions.items():
            self._keys[key] = _on_key(action)
            self.viewer.bind_key(key, self._keys[key], overwrite=True)

    def closeEvent(self, event: Any) -> None:
        """Stop what is under way and let go of the viewer's events."""
        if self._run is not None:
            self._run.abandon()
            self._run = None
        self._let_go()
        self._looking.stop()
        self._rank_soon.stop()
        self.layer.disconnect_layers()
        self.curve.disconnect_viewer()
        self.viewer.dims.events.current_step.disconnect(self._on_moved)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for key, action in self._keys.items():
            # Another widget of this viewer may have taken the key over.
            bound = [k for k, function in self.viewer.keymap.items() if function is action]
            if bound:
                self.viewer.bind_key(key, None)
        super().closeEvent(event)

    def _import(self) -> None:
        """Import what a fine-tuning needs while nobody waits for it."""

        def imports() -> Generator[None, None, None]:
            import pyqtgraph  # noqa: F401

            yield
            import scipy.ndimage  # noqa: F401
            import torch  # noqa: F401

            yield

        job = Job(imports(), self)
        job.finished.connect(self.curve.prepare)
        job.finished.connect(self.ready)
        job.start()

    # ------------------------------------------------------------------ the mask and its truth

    @property
    def annotation(self) -> Annotation | None:
        """How far the chosen mask is."""
        if self.mask is None or not self.mask.connected:
            return None
        return _annotation_of(self.mask)

    @property
    def running(self) -> bool:
        """Is a job of this widget under way?"""
        return self._run is not None

    def _follow(self) -> None:
        """Another mask is chosen."""
        self._let_go()
        layer = self.layer.layer
        self.mask = None if layer is None else MaskLayer(self.viewer, layer)
        self._ranked = None
        annotation = self.annotation
        if self.mask is not None and annotation is not None:
            events = self.mask.layer.events
            events.set_data.connect(self._on_painted)
            events.features.connect(self._show_organs)
            events.colormap.connect(self._show_organs)
            events.selected_label.connect(self._show_organs)
            annotation.changed.connect(self._on_changed)
            annotation.may_be_edited()
            self._looking.start()
            self._rank_soon.start()
        self._say("")
        self._show_organs()
        self._show_all()

    def _let_go(self) -> None:
        if self.mask is None:
            return
        events, annotation = self.mask.layer.events, _annotation_of(self.mask)
        events.set_data.disconnect(self._on_painted)
        for event in (events.features, events.colormap, events.selected_label):
            event.disconnect(self._show_organs)
        annotation.changed.disconnect(self._on_changed, missing_ok=True)
        self.mask = None

    def _on_painted(self, _: Any = None) -> None:
        # napari tells of a redraw, not of what changed (undo tells nothing else).
        if self.annotation is not None:
            self.annotation.may_be_edited()
        self._looking.start()
        self._rank_soon.start()

    def _look(self) -> None:
        """Look for edits, and bring the preview up to date, for a few milliseconds."""
        annotation = self.annotation
        if annotation is None:
            self._looking.stop()
            self._show_all()
            return
        done = annotation.look_for_edits(seconds=0.005)
        if annotation.preview is not None:
            done = annotation.preview.update_some(seconds=0.005) and done
        if done:
            self._looking.stop()
            # Undo may have gone back to another version, and taken reviews along.
            self._show_all()

    def _on_changed(self, what: str) -> None:
        if what == "organs":
            self._show_organs()
        if what == "proposal":
            self._looking.start()
        self._show_all()

    def _on_moved(self, _: Any = None) -> None:
        if self.mask is None:
            return
        self.queue.show_here(self.mask.place)
        self._show_accepted()
        if (
            self._run is not None
            and self._run.task is not None
            and self._run.mask.layer is self.mask.layer
        ):
            self._run.task.here = self.mask.place

    def _on_removed(self, event: Any) -> None:
        if self._run is not None and event.value is self._run.mask.layer:
            self.cancel_run()

    # ------------------------------------------------------------------ state → controls

    def _show_all(self) -> None:
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None:
            self.queue.show_rows([], None)
            self.reviewed.setRange(0, 1)
            self.reviewed.setValue(0)
            self.reviewed.setFormat("Nothing to review")
            self.show_versions([], -1)
        else:
            segmentation = annotation.segmentation
            count, total = len(segmentation.reviewed), len(segmentation.places)
            self.reviewed.setRange(0, total)
            self.reviewed.setValue(count)
            self.reviewed.setFormat(f"Reviewed {count} / {total}")
            self.queue.show_series(len(segmentation.shown) > 1)
            self.queue.show_rows([self._row(place) for place in annotation.queue], mask.place)
            self.show_versions(
                [_described(version, annotation) for version in annotation.versions],
                segmentation.version,
            )
            self.show_mode(annotation.preview.mode if annotation.preview else BEFORE)
        self._show_accepted()
        self._update_controls()

    def _row(self, place: Place) -> Row:
        assert self.annotation is not None
        segmentation = self.annotation.segmentation
        series = len(segmentation.shown) > 1
        name = f"{place[0]} · {place[1]}" if series else str(place[1])
        state = "edited" if place in self.annotation.edited else "–"
        if place in segmentation.reviewed:
            state = "✓ reviewed"
        return Row(place, name, self.annotation.why(place), state)

    def _show_accepted(self) -> None:
        annotation = self.annotation
        accepted = (
            annotation is not None
            and self.mask is not None
            and self.mask.place in annotation.segmentation.reviewed
        )
        self.accept_slice.setText("Take back ✓" if accepted else "Accept slice")

    def _show_organs(self, _: Any = None) -> None:
        annotation = self.annotation
        if annotation is None or self.mask is None:
            self.organ.clear()
            return
        colors = self.mask.colors()
        labels = annotation.segmentation.card.labels
        shown = [Label(one.id, one.name, colors[one.id][0]) for one in labels]
        if not (self.organ.currentData() is None and self.organ.count()):
            self.show_organs(shown, self.mask.layer.selected_label)
        else:  # "all organs" stays chosen
            self.show_organs(shown, -1)
            self.organ.blockSignals(True)
            self.organ.setCurrentIndex(self.organ.count() - 1)
            self.organ.blockSignals(False)

    def _update_controls(self, _: Any = None) -> None:
        """Enable what can be done now; everything disabled says why."""
        annotation = self.annotation
        none = "" if annotation else "Segment a scan first, in the widget Segment."
        if self.mask is not None and annotation is None:
            none = "The data of this mask were replaced and fit its scan no more: segment again."
        busy = f"{annotation.job}: cancel it first." if annotation and annotation.job else ""
        if not busy and self.running:
            busy = "Another mask's job is under way: cancel it first."
        taught = len(self._taught())
        nothing = "" if taught else "Correct a slice first: paint on it, or accept it."
        self.allow(self.layer, none)
        for control in (self.accept_slice, self.next_slice, self.queue, self.organ):
            self.allow(control, none)
        for control in (self.add_organ, self.load, self.interpolate):
            self.allow(control, none or busy)
        all_organs = "" if self.organ.currentData() is not None else "Choose one organ first."
        self.allow(self.edit_organ, none or busy or all_organs)
        for control in (self.kind, self.seconds, self.painted):
            self.allow(control, none or busy)
        self.start.setText(f"Fine-tune on {taught} slice{'s' * (taught != 1)}")
        self.allow(self.start, none or busy or nothing)
        self.allow(self.cancel, "" if self.running else "Nothing is running.")
        self.bar.setVisible(self.running)
        proposal = annotation.proposal if annotation else None
        self.proposal.setVisible(proposal is not None and bool(proposal.done))
        unfinished = "" if proposal and proposal.complete else "It is not finished yet."
        self.allow(self.accept, unfinished or busy)
        self.allow(self.discard, busy)
        waiting = "Accept or discard the preview first." if proposal else ""
        self.allow(self.version, none or busy or waiting)
        first = annotation is None or annotation.segmentation.version == 0
        original = "This is the original version." if first else ""
        self.allow(self.roll_back, none or busy or waiting or original)
        self.allow(self.save, none or busy or original)
        if self._text:
            self.show_message(self._text, self._bad)
        else:
            self.show_message(none)

    def _say(self, text: str, bad: bool = False) -> None:
        self._text, self._bad = text, bad
        self.show_message(text, bad)

    def _refuse(self, error: Exception) -> None:
        """Say what is wrong in the widget and as napari does."""
        self._say(str(error), bad=True)
        show_error(str(error))

    # ------------------------------------------------------------------ the queue

    def _rank(self) -> None:
        """Find out in a thread which slices to check first, once nothing changes any more."""
        annotation = self.annotation
        if annotation is None or self._ranking is not None or self.running:
            return
        segmentation = annotation.segmentation
        state = (annotation, id(segmentation.looks), len(segmentation.finished))
        if state == self._ranked:
            return
        if self._ranked is None or self._ranked[-1] != state[-1]:
            # A segmentation may be under way: wait until it brings nothing more.
            self._ranked = (None, 0, state[-1])
            self._rank_soon.start()
            return
        self._ranked = state
        if not segmentation.looks:
            return
        self._ranking = Job(doubtful_slices(segmentation), self)

        def take(doubts: Any) -> None:
            if doubts:
                annotation.rank(dict(doubts))

        def end(_: Any = None) -> None:
            self._ranking = None

        self._ranking.yielded.connect(take)
        self._ranking.finished.connect(end)
        self._ranking.cancelled.connect(end)
        # Without a ranking the slices stay in their own order.
        self._ranking.failed.connect(end)
        self._ranking.start()

    def go_to(self, place: Place) -> None:
        """Show a slice."""
        if self.mask is not None:
            self._walked = place
            self.mask.go_to_place(place)
            self.viewer.layers.selection.active = self.mask.layer

    def accept_this_slice(self) -> None:
        """The slice on screen is right as it is; again: not so."""
        annotation = self.annotation
        if annotation is not None and self.mask is not None:
            place = self.mask.place
            accepted = place not in annotation.segmentation.reviewed
            annotation.review(place, accepted)
            if annotation.preview is not None:
                annotation.preview.update_here()

    def go_to_next(self) -> None:
        """Show the next slice to review."""
        annotation = self.annotation
        if annotation is None or self.mask is None:
            return
        # Who comes from elsewhere begins at the top.
        here = self.mask.place
        place = annotation.next_place(here if here == self._walked else None)
        if place is None:
            self._say("All slices are reviewed.")
        else:
            self.go_to(place)

    # ------------------------------------------------------------------ organs

    def _on_organ(self) -> None:
        if self.mask is not None and self.organ.currentData() is not None:
            self.mask.layer.selected_label = self.organ.currentData()
        self._update_controls()

    def _ask_new_organ(self) -> None:
        annotation = self.annotation
        if annotation is None:
            return
        id = annotation.free_id()
        dialog = OrganDialog(Label(id, "", annotation.new_color(id)), 65534, True, self)
        dialog.accepted.connect(lambda: self.put_organ(dialog.organ, new=True))
        dialog.open()

    def _ask_organ(self) -> None:
        id = self.organ.currentData()
        if self.annotation is None or self.mask is None or id is None:
            return
        name = self.annotation.segmentation.card.labels.names[id]
        organ = Label(id, name, self.mask.colors()[id][0])
        dialog = OrganDialog(organ, 65534, False, self)
        dialog.accepted.connect(lambda: self.put_organ(dialog.organ))
        dialog.open()

    def put_organ(self, organ: Label, new: bool = False) -> None:
        """Add an organ, or change the one that has its id; paint with it from now on."""
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None:
            return
        try:
            taken = annotation.segmentation.card.labels.names.get(organ.id)
            if new and taken:
                raise InputError(
                    f"Expected an id that is free, but {organ.id} is the {taken}; choose another."
                )
            mask.relabel(annotation.with_organ(organ))
        except InputError as error:
            self._refuse(error)
            return
        self._say(f"Paint the {organ.name} in a few slices, then fine-tune." if new else "")
        mask.layer.selected_label = organ.id
        self.organ.setCurrentIndex(max(0, self.organ.findData(organ.id)))
        annotation.tell_organs()

    def interpolate_organ(self) -> None:
        """Fill in the chosen organ between the slices that a person painted or accepted."""
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None or annotation.job:
            return
        frame, organ = mask.place[0], self.organ.currentData()
        try:
            slices = annotation.between(frame, organ)
        except InputError as error:
            self._refuse(error)
            return
        self._new_run(mask, annotation).interpolate(frame, slices, organ)

    # ------------------------------------------------------------------ fine-tuning

    def _masks(self) -> list[MaskLayer]:
        """The mask on screen, and for a project the others in the viewer that teach its model."""
        if self.mask is None:
            return []
        masks = [self.mask]
        if self.kind.currentData() == PROJECT:
            model = self.mask.layer.metadata[MODEL_KEY]
            for layer in self.viewer.layers:
                if layer is not self.mask.layer and layer.metadata.get(MODEL_KEY) == model:
                    other = MaskLayer(self.viewer, layer)
                    if other.connected and _annotation_of(other).taught:
                        masks.append(other)
        return masks

    def _taught(self) -> list[Place]:
        return [place for mask in self._masks() for place in _annotation_of(mask).taught]

    def fine_tune(self) -> None:
        """What the button does; the outcome comes with `run_ended`."""
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None or annotation.job or self.running:
            return
        try:
            task = self._task(annotation.version, self._masks(), learn=True)
        except InputError as error:
            self._refuse(error)
            return
        self.curve.clear()
        self.curve.show()
        self._say("")
        self._new_run(mask, annotation).learn(task)

    def _task(self, version: Version, masks: list[MaskLayer], learn: bool = False) -> Task:
        """What a job needs. Raises InputError where a scan cannot be read, or masks disagree."""
        complete = bool(self.painted.currentData())
        annotations = [_annotation_of(mask) for mask in masks]
        scans = [
            TaughtScan(
                _scan_of(mask), mask.segmentation, annotation.lessons(complete) if learn else []
            )
            for mask, annotation in zip(masks, annotations, strict=True)
        ]
        return Task(
            annotations[0],
            version,
            scans,
            masks[0].place,
            self.kind.currentData(),
            float(self.seconds.value()),
            names=same_names(annotations),
            others=annotations[1:],
        )

    def cancel_run(self) -> None:
        """Stop the job; everything stays as it was."""
        if self._run is not None:
            self._run.cancel()
            self.bar.setFormat("Cancelling")

    def _new_run(self, mask: MaskLayer, annotation: Annotation) -> CorrectRun:
        self._run = CorrectRun(self.session, mask, annotation, self)
        self._run.stepped.connect(self._on_step)
        self._run.ended.connect(self._on_end)
        self.bar.setValue(0)
        self.bar.setFormat("")
        return self._run

    def _on_step(self, moment: Moment) -> None:
        self.bar.setValue(round(1000 * moment.done))
        self.bar.setFormat(str(moment))
        if moment.loss is not None or moment.dice is not None:
            self.curve.add(moment.step, moment.loss, moment.dice)
        if moment.verdict is not None:
            self._say(self._run.text if self._run else "")

    def _on_end(self, outcome: str, text: str) -> None:
        if self._run is None:
            return
        self._run.deleteLater()
        self._run = None
        self._say(text, bad=outcome == "failed")
        self._show_all()
        self._looking.start()
        self._rank_soon.start()
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
        name = annotation.version.name
        self._say(f"{name} accepted: {changed:,} voxels changed; Ctrl-Z takes it back.")
        self._show_all()

    def discard_proposal(self) -> None:
        """Drop the proposal."""
        if self.annotation is not None:
            drop_proposal(self.annotation)
            self._say("Discarded: the mask is as it was.")

    def go_to_version(self, number: int) -> None:
        """Take the answer of a version into the mask, as one step."""
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None or annotation.job:
            return
        if number == annotation.segmentation.version:
            return
        try:
            task = self._task(annotation.versions[number], [mask])
        except InputError as error:
            self._refuse(error)
            self._show_all()
            return
        self._new_run(mask, annotation).apply(task, number)

    def roll_back_version(self) -> None:
        """Go back to the version that this one began with."""
        if self.annotation is not None and self.annotation.segmentation.version:
            self.go_to_version(self.annotation.version.parent)

    def _ask_save(self) -> None:
        annotation = self.annotation
        if annotation is None or annotation.version.model is None:
            return
        name = annotation.version.model.card.name
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the model", str(user_folder() / f"{name}.safetensors"), _FILTER
        )
        if path:
            self.save_version(Path(path))

    def save_version(self, path: Path) -> None:
        """Save the model of the version that the mask shows."""
        annotation = self.annotation
        if annotation is None or annotation.version.model is None:
            return
        model = annotation.version.model
        try:
            self.session.save(renamed(model, annotation.card_labels(model)), path)
        except InputError as error:
            self._refuse(error)
            return
        self._say(f"Saved as {path.stem}.")

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load a model", str(user_folder()), _FILTER)
        if path:
            self.load_version(Path(path))

    def load_version(self, path: Path) -> None:
        """Segment this scan with a saved model, as a new version."""
        annotation, mask = self.annotation, self.mask
        if annotation is None or mask is None or annotation.job:
            return
        from l2gnet_core.checkpoint import read_card

        try:
            mask.relabel(annotation.with_organs_of(read_card(path).labels))
            version = Version(path.stem, "file", annotation.segmentation.version, path=path)
            number = annotation.add_version(version)
            annotation.tell_organs()
        except InputError as error:
            self._refuse(error)
            return
        self.go_to_version(number)


_FILTER = "Models (*.safetensors)"


def _annotation_of(mask: MaskLayer) -> Annotation:
    metadata = mask.layer.metadata
    return Annotation.of(metadata, mask.segmentation, metadata[MODEL_KEY])


def _scan_of(mask: MaskLayer) -> Any:
    """The scan of a mask, lying as its file or a person says."""
    image = mask.layer.metadata[IMAGE_KEY]
    return as_given(image, volume_of(image))


def _described(version: Version, annotation: Annotation) -> str:
    """A version in a list."""
    if version.kind == "original":
        return f"original · {annotation.model}"
    kinds = {"scan": "this scan", "project": "project", "file": "loaded"}
    words = [version.name, kinds[version.kind]]
    if version.verdict is not None and version.verdict.evidence.dice.before:
        before, after = version.verdict.evidence.dice.means()
        words.append(f"{after - before:+.3f} Dice")
    return " · ".join(words)


def _on_key(action: Any) -> Any:
    def pressed(_: Any) -> None:
        action()

    return pressed
