"""The organs of a mask to choose from, to add and to edit."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Signal

from l2gnet_core.errors import InputError
from l2gnet_core.labels import Label, LabelSet
from napari_l2gnet.annotation import Annotation
from napari_l2gnet.correct_form import CorrectForm
from napari_l2gnet.mask_layer import MaskLayer
from napari_l2gnet.organ_dialog import OrganDialog
from napari_l2gnet.organs import LARGEST_ID, free_id, new_color, with_organ


class OrganBar(QObject):
    """Keeps the list of organs true to a mask, and does what its buttons say."""

    chosen = Signal()
    said = Signal(str)
    refused = Signal(object)

    def __init__(self, form: CorrectForm) -> None:
        super().__init__(form)
        self._form = form
        self._mask: MaskLayer | None = None
        self._annotation: Annotation | None = None
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
        shown = LabelSet(tuple(Label(one.id, one.name, colors[one.id][0]) for one in labels))
        ids = list(labels.names)
        chosen = form.organ.currentData() if form.organ.count() else next(iter(ids), None)
        # Who paints with the background or with an unknown id has not chosen another organ.
        if chosen is not None and mask.layer.selected_label in ids:
            chosen = mask.layer.selected_label
        form.show_organs(shown, chosen)

    def _on_chosen(self) -> None:
        if self._mask is not None and self._form.organ.currentData() is not None:
            self._mask.layer.selected_label = self._form.organ.currentData()
        self.chosen.emit()

    def _ask_new(self) -> None:
        if self._mask is None:
            return
        labels = self._mask.segmentation.card.labels
        dialog = OrganDialog(
            Label(free_id(labels), "", new_color(labels)), LARGEST_ID, True, self._form
        )
        dialog.accepted.connect(lambda: self.put(dialog.organ, new=True))
        dialog.open()

    def _ask(self) -> None:
        id = self._form.organ.currentData()
        if self._mask is None or id is None:
            return
        name = self._mask.segmentation.card.labels.names[id]
        organ = Label(id, name, self._mask.colors()[id][0])
        dialog = OrganDialog(organ, LARGEST_ID, False, self._form)
        dialog.accepted.connect(lambda: self.put(dialog.organ))
        dialog.open()

    def put(self, organ: Label, new: bool = False) -> None:
        """Add an organ, or change the one that has its id; paint with it from now on."""
        mask, annotation = self._mask, self._annotation
        if mask is None or annotation is None:
            return
        labels = mask.segmentation.card.labels
        try:
            if new and organ.id in labels.names:
                raise InputError(
                    f"Expected an id that is free, but {organ.id} is the {labels.names[organ.id]}; "
                    "choose another."
                )
            mask.relabel(with_organ(labels, organ))
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
