"""The menu of other masks, in Correct & fine-tune, whose labels can be taken over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from napari.layers import Image, Labels
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QMessageBox, QWidget

from l2gnet_core.errors import InputError
from l2gnet_core.scans.labels import some
from napari_l2gnet.annotating.take_over import OtherOrgans, candidates, take_over
from napari_l2gnet.correct.form import CorrectForm
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.widgets.docked import always


class TakeOverMenu(QObject):
    """Lists the masks that can be taken over, and takes over the one that is chosen.

    is_free: tells whether the mask may be written to.
    """

    #: A sentence, and a function that tells whether it still holds.
    said = Signal(str, object)
    #: The InputError of a mask that cannot be taken over.
    refused = Signal(object)

    def __init__(self, form: CorrectForm, is_free: Callable[[], bool]) -> None:
        super().__init__(form)
        self._form = form
        self._viewer = form.viewer
        self._menu = form.masks
        self._is_free = is_free
        self._mask: MaskLayer | None = None
        self._menu.aboutToShow.connect(self._list)

    def follow(self, mask: MaskLayer | None) -> None:
        """Take over into this mask from now on."""
        self._mask = mask

    def _list(self) -> None:
        self._menu.clear()
        for layer in candidates(self._viewer, self._mask) if self._mask is not None else ():
            self._menu.addAction(layer.name, partial(self._take, layer))

    def _take(self, layer: Labels | Image, only_shared: bool = False) -> None:
        """Take another mask's labels where they differ, as if they were painted."""
        mask = self._mask
        if mask is None or not mask.connected or not self._is_free():
            return
        try:
            taken = take_over(mask, layer, only_shared)
        except OtherOrgans as apart:
            if _only_shared(layer.name, apart, self._form):
                self._take(layer, only_shared=True)
            return
        except InputError as error:
            self.refused.emit(error)
            return
        kept = f" This mask keeps its other organs: {', '.join(taken.kept)}." if taken.kept else ""
        if not taken.voxels:
            self.said.emit(f"{layer.name} says the same as this mask.{kept}", always)
            return
        # Ctrl-Z acts on the selected layer; the other mask would hide this one.
        self._viewer.layers.selection.active = mask.layer
        layer.visible = False
        text = (
            f"{taken.voxels:,} voxels in {taken.slices} slice{'s' * (taken.slices != 1)} are as in "
            f"{layer.name} now, and count as painted by you; Ctrl-Z takes them back.{kept}"
        )
        if taken.part:
            text += f" What {layer.name} leaves out of the scan counts as its background."
        self.said.emit(text, mask.segmentation.undo_history.last_step())


def _only_shared(name: str, apart: OtherOrgans, parent: QWidget) -> bool:
    """Ask whether to take over the shared organs alone."""
    count = len(apart.shared)
    one = f"the organ that both masks have, {apart.shared[0]}"
    several = f"the {count} organs that both masks have: {', '.join(apart.shared)}"
    box = QMessageBox(parent)
    box.setIcon(QMessageBox.Icon.Question)
    box.setWindowTitle("Take over a mask")
    box.setText(f"Take over {one if count == 1 else several}?")
    box.setInformativeText(
        f"{name} also has {some(apart.others)}. This mask becomes background there. To take over "
        "any of them too, cancel, and first add it with New … under the same name."
    )
    take = box.addButton("Take over", QMessageBox.ButtonRole.AcceptRole)
    cancel = box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(take)
    box.setEscapeButton(cancel)
    box.exec()
    return box.clickedButton() is take
