"""Chooses, adds and edits the organs of a mask."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Signal

from l2gnet_core.errors import InputError
from l2gnet_core.scans.labels import Label, LabelSet, hex_color
from napari_l2gnet.annotating.annotation import Annotation
from napari_l2gnet.annotating.learning import card_of
from napari_l2gnet.correct.form import CorrectForm
from napari_l2gnet.correct.organ_dialog import OrganDialog
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.organs import free_id, new_color, with_organ


class OrganBar(QObject):
    """Keeps the list of organs up to date with a mask, and handles its buttons."""

    chosen = Signal()
    said = Signal(str)
    #: What to say of an organ that was removed, and a function that tells whether it still holds.
    removed = Signal(str, object)
    refused = Signal(object)

    def __init__(self, form: CorrectForm) -> None:
        super().__init__(form)
        self._form = form
        self._mask: MaskLayer | None = None
        self._annotation: Annotation | None = None
        #: The id of the organ that was chosen last; None stands for all.
        self._organ: int | None = None
        form.organ.currentIndexChanged.connect(self._on_chosen)
        form.add_organ.clicked.connect(self._ask_new)
        form.edit_organ.clicked.connect(self._ask)

    def follow(self, mask: MaskLayer | None, annotation: Annotation | None) -> None:
        """Show the organs of this mask from now on."""
        if self._mask is not None:
            for event in self._events(self._mask):
                event.disconnect(self.show)
        self._mask, self._annotation = mask, annotation
        if mask is not None:
            for event in self._events(mask):
                event.connect(self.show)
        self._form.organ.clear()
        self.show()

    def _events(self, mask: MaskLayer) -> list[Any]:
        events = mask.layer.events
        return [events.features, events.colormap, events.selected_label]

    def show(self, _: Any = None) -> None:
        """Draw the list."""
        mask, form = self._mask, self._form
        if mask is None:
            form.organ.clear()
            return
        colors = mask.colors()
        labels = mask.segmentation.card.labels
        shown = [Label(one.id, one.name, colors[one.id][0]) for one in labels]
        ids = list(labels.names)
        if not form.organ.count() or self._organ not in (None, *ids):
            self._organ = next(iter(ids), None)
        # Painting with the background chooses no other organ.
        if self._organ is not None and mask.layer.selected_label in ids:
            self._organ = mask.layer.selected_label
        chosen = self._organ
        if (stray := self.stray) is not None:
            color = hex_color(round(255 * part) for part in mask.layer.get_color(stray)[:3])
            shown.append(Label(stray, f"label {stray} (no organ)", color))
            chosen = stray
        form.show_organs(LabelSet(tuple(shown)), chosen)
        self.chosen.emit()

    @property
    def stray(self) -> int | None:
        """The label that is painted with if no organ has it; else None.

        napari's button for a new label leads to such a label.
        """
        if self._mask is None:
            return None
        label = int(self._mask.layer.selected_label)
        return None if label in (0, *self._mask.segmentation.card.labels.names) else label

    @property
    def hint(self) -> str:
        """What to do if no organ has the label that is painted with; else ""."""
        if self.stray is None:
            return ""
        return f"Label {self.stray} is no organ: press New … to name it, or choose an organ."

    def _on_chosen(self) -> None:
        chosen = self._form.organ.currentData()
        if chosen is None or chosen != self.stray:
            self._organ = chosen
        if self._mask is not None and chosen is not None:
            self._mask.layer.selected_label = chosen
        self.chosen.emit()

    def _ask_new(self) -> None:
        if self._mask is None:
            return
        segmentation = self._mask.segmentation
        labels = segmentation.card.labels
        taken = LabelSet((*labels, *segmentation.undoable_organs))
        id = free_id(taken) if self.stray is None else self.stray
        self._open(Label(id, "", new_color(labels)), new=True)

    def _ask(self) -> None:
        id = self._form.organ.currentData()
        if self._mask is None or id is None:
            return
        name = self._mask.segmentation.card.labels.names[id]
        self._open(Label(id, name, self._mask.colors()[id][0]), new=False)

    def _open(self, organ: Label, new: bool) -> None:
        """Ask for an organ."""
        mask = self._mask
        assert mask is not None
        dialog = OrganDialog(
            organ,
            mask.segmentation.largest_id,
            new,
            lambda one: mask.segmentation.require_fit(_with(mask, one, new)),
            "" if new else self._why_stays(organ.id),
            self._form,
        )
        dialog.removed.connect(lambda: self.remove(organ.id))
        dialog.accepted.connect(lambda: self.put(dialog.organ, new))
        dialog.open()

    def _why_stays(self, id: int) -> str:
        """Why an organ cannot be removed, in a sentence; "" if it can."""
        mask, annotation = self._mask, self._annotation
        assert mask is not None
        assert annotation is not None
        if annotation.proposal is not None:
            return "Accept or discard the preview first."
        try:
            known = card_of(annotation.version, annotation).labels.names
        except InputError as error:
            return str(error)
        name = mask.segmentation.card.labels.names[id]
        return f"The model of this version finds the {name}: it stays." if id in known else ""

    def remove(self, id: int) -> None:
        """Remove an organ that the model of the version on screen does not have."""
        mask, annotation = self._mask, self._annotation
        if mask is None or annotation is None or self._why_stays(id):
            return
        name = mask.segmentation.card.labels.names[id]
        mask.layer.selected_label = next(
            one for one in mask.segmentation.card.labels.names if one != id
        )
        changed = mask.remove_organ(id)
        annotation.changed.emit("organs")
        if changed:
            # Ctrl-Z acts on the selected layer.
            mask.viewer.layers.selection.active = mask.layer
            text = (
                f"Removed the {name}: {changed:,} voxels are background now; Ctrl-Z takes it back."
            )
            self.removed.emit(text, annotation.segmentation.undo_history.last_step())
        else:
            self.said.emit(f"Removed the {name}.")

    def put(self, organ: Label, new: bool = False) -> None:
        """Add an organ, or change the one that has its id; paint with it from now on."""
        mask, annotation = self._mask, self._annotation
        if mask is None or annotation is None:
            return
        try:
            mask.relabel(_with(mask, organ, new))
        except InputError as error:
            self.refused.emit(error)
            return
        mask.layer.selected_label = organ.id
        self._form.organ.setCurrentIndex(max(0, self._form.organ.findData(organ.id)))
        annotation.changed.emit("organs")
        if not new:
            self.said.emit("")
            return
        before = len(annotation.segmentation.reviewed)
        text = f"Paint the {organ.name} in a few slices, then fine-tune."
        if before:
            text += (
                f" Slices that you accepted before ({before}) do not say where it is: paint it "
                "there, too, or accept them again."
            )
        self.said.emit(text)


def _with(mask: MaskLayer, organ: Label, new: bool) -> LabelSet:
    """A mask's organs with a new or a changed one. Raises InputError for a new one whose id is
    taken, and as `with_organ` does."""
    labels = mask.segmentation.card.labels
    if new and organ.id in labels.names:
        raise InputError(
            f"Expected an id that is free, but {organ.id} is the {labels.names[organ.id]}; "
            "choose another."
        )
    return with_organ(labels, organ)
