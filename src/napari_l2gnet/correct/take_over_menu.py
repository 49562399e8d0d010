"""The menu of other masks, in Correct & fine-tune, whose labels can be taken over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from napari.layers import Image, Labels
from qtpy.QtCore import QObject, Signal

from l2gnet_core.errors import InputError
from napari_l2gnet.annotating.take_over import candidates, take_over
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

    def _take(self, layer: Labels | Image) -> None:
        """Take another mask's labels where they differ, as if they were painted."""
        mask = self._mask
        if mask is None or not mask.connected or not self._is_free():
            return
        try:
            taken = take_over(mask, layer)
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
        if layer.data.size < mask.layer.data.size:
            text += f" What {layer.name} leaves out of the scan counts as its background."
        self.said.emit(text, mask.segmentation.undo_history.last_step())
