"""Assigns voxels to another organ, in Inspect."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QSignalBlocker, Signal

from napari_l2gnet.annotating.preview import shows_proposal
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.inspect.form import NOTHING, PIECE, InspectForm
from napari_l2gnet.inspect.inspection import Inspection
from napari_l2gnet.inspect.over import Over
from napari_l2gnet.inspect.state import SLICE, InspectState, Look
from napari_l2gnet.jobs.worker import LatestJob
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.napari_history import set_voxels
from napari_l2gnet.widgets.visibility import why_unseen


class Assigning(QObject):
    """Assigns the voxels of a code and an organ to another organ, after a preview."""

    #: Something else can be done now.
    changed = Signal()
    #: What was previewed is no longer what would change.
    dropped = Signal()

    def __init__(
        self,
        state: InspectState,
        form: InspectForm,
        over: Over,
        jobs: LatestJob,
        tell_unseen: Callable[[Callable[[MaskLayer], str]], bool],
    ) -> None:
        super().__init__(form)
        self._state, self._form, self._over, self._jobs = state, form, over, jobs
        self._tell_unseen = tell_unseen
        #: Flat indices into the frame (z,y,x) of the voxels that would change, and their label now.
        self.pending: tuple[NDArray[np.intp], int] | None = None
        #: The search whose result is still wanted.
        self._wanted: object | None = None
        form.preview.clicked.connect(self.preview)
        form.apply.clicked.connect(self.apply)
        form.target.currentIndexChanged.connect(self._on_choice)
        form.extent.currentIndexChanged.connect(self._on_choice)

    def offer(self, inspection: Inspection) -> None:
        """List the organs of this mask."""
        target = self._form.target
        with QSignalBlocker(target):
            target.clear()
            for label, name in zip(inspection.ids, inspection.names, strict=True):
                target.addItem(name, label)
            target.setCurrentIndex(min(1, target.count() - 1))

    def _refuses_unseen(self) -> bool:
        """Say so if the voxels that would change are not seen; returns whether that is so."""
        layers = self._state.layers
        if layers is not None and shows_proposal(annotation_of(layers.mask)):
            self._form.show_message(
                "The preview of fine-tuning is shown, not the mask: accept or discard it, or press "
                "Before."
            )
            return True
        return self._tell_unseen(why_unseen)

    def _on_choice(self) -> None:
        self.drop()
        self.changed.emit()

    def drop(self) -> None:
        """Something else would change now than what is previewed or searched for."""
        shown = self.pending is not None
        self.forget()
        if shown:
            self.dropped.emit()

    def forget(self) -> None:
        """Forget the preview, or the search for it."""
        self.pending = self._wanted = None

    def preview(self) -> None:
        """Light up and count what would change."""
        look, form = self._state.look, self._form
        if look is None or not self._state.codes or self._refuses_unseen():
            return
        inspection, segmentation = look.inspection, look.layers.mask.segmentation
        frame, code = inspection.frame, self._state.codes[0]
        shown, axis = segmentation.shown[frame], segmentation.axis
        voxel = None if self._state.voxel is None else self._state.voxel[1:]
        piece = form.extent.currentData() == PIECE
        if voxel is None:
            shares = inspection.usage(self._state.part).shares(code)
            organ = inspection.ids[shares[0][0]] if shares else 0
        else:
            organ = int(shown[voxel])
        if organ == form.target.currentData():
            form.show_message(_same(form.target.currentText()))
            return
        index = None
        if self._state.of == SLICE:
            index = look.index if voxel is None else voxel[axis]

        def find() -> Generator[Any, None, None]:
            from l2gnet_core.inspect.places import voxels_of_code

            yield "Finding voxels"
            at = voxel if piece else None
            found = voxels_of_code(inspection.trace, shown, code, organ, index, at)
            # Voxels that a person painted or accepted stay, even those of this organ.
            theirs = segmentation.decided()[frame].ravel()[found]
            yield found[~theirs], int(np.count_nonzero(theirs)), organ

        self._wanted = wanted = object()

        def show(found: tuple[NDArray[np.intp], int, int]) -> None:
            if self._wanted is wanted:
                self._show(look, *found)

        self._jobs.run(find(), show)

    def _show(self, look: Look, voxels: NDArray[np.intp], theirs: int, organ: int) -> None:
        inspection, target = look.inspection, self._form.target.currentText()
        names = dict(zip(inspection.ids, inspection.names, strict=True))
        stay = f" {_count(theirs)} that you painted or accepted stay unchanged." if theirs else ""
        if not len(voxels):
            self._form.show_message(f"No voxel would change.{stay}")
            return
        self._over.show(NOTHING)
        look.layers.light_voxels(inspection.frame, voxels)
        self.pending = voxels, organ
        along = np.unravel_index(voxels, inspection.mask.shape)[inspection.source.axis]
        slices = np.unique(along)
        where = f"slice {slices[0]}" if len(slices) == 1 else f"{len(slices)} slices"
        self._form.show_message(
            f"{_count(len(voxels))} would change from {names.get(organ, organ)} to {target}, in "
            f"{where}.{stay}"
        )

    def apply(self) -> None:
        """Make the change as one undoable step."""
        look, form = self._state.look, self._form
        if self.pending is None or look is None or self._refuses_unseen():
            return
        (voxels, organ), layers = self.pending, look.layers
        self.pending = None
        segmentation, layer = layers.mask.segmentation, layers.mask.layer
        shown = segmentation.shown
        flat = voxels + look.inspection.frame * shown[0].size
        # Without voxels that were painted or accepted since the preview.
        flat = flat[(shown.flat[flat] == organ) & ~segmentation.decided().flat[flat]]
        if not len(flat):
            layers.darken()
            form.show_message(
                "No voxel is left to change: all were changed or accepted after the preview."
            )
            self.changed.emit()
            return
        where = np.unravel_index(flat, layer.data.shape)
        set_voxels(layer, where, form.target.currentData())
        layers.darken()
        # Ctrl-Z acts on the selected layer.
        layers.viewer.layers.selection.active = layer
        form.show_message(
            f"Assigned {_count(len(flat))} to {form.target.currentText()}. Ctrl-Z takes it back.",
            holds=segmentation.undo_history.last_step(),
        )
        self.changed.emit()

    def update_controls(self, reason: str, busy: bool) -> None:
        """Enable what can be done now."""
        state, form = self._state, self._form
        no_code = "" if state.codes else "Click a voxel of the mistake first."
        piece = form.extent.currentData() == PIECE
        if not no_code and piece and state.voxel is None:
            no_code = "Click a voxel to choose which piece, or choose everywhere."
        same = ""
        if state.layers is not None and state.voxel is not None:
            now = int(state.layers.mask.segmentation.shown[state.voxel])
            if now == form.target.currentData():
                same = _same(form.target.currentText())
        lost = ""
        if state.layers is not None and not state.layers.mask.connected:
            lost = "The data of the mask's layer were replaced: segment again for a new mask."
        for control in (form.target, form.extent):
            form.allow(control, reason)
        wait = "Wait until the search is done, or cancel it." if busy else ""
        form.allow(form.preview, reason or lost or no_code or same or wait)
        not_shown = "" if self.pending is not None else "Press Preview first."
        form.allow(form.apply, reason or lost or wait or not_shown)


def _same(organ: str) -> str:
    return f"These voxels are {organ} already: choose another organ."


def _count(voxels: int) -> str:
    return f"{voxels:,}".replace(",", "\u202f") + (" voxel" if voxels == 1 else " voxels")
