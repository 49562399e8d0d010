"""Shows a proposal beside the mask: the new answer, or what it would change."""

from __future__ import annotations

import time
from typing import Any

import napari
import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QApplication

from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.labels import OVER
from napari_l2gnet.annotating.annotation import Annotation
from napari_l2gnet.masks.layer import OPACITY, MaskLayer
from napari_l2gnet.scans.layers import draw, stay_on, transform_of

PREVIEW_KEY = "l2gnet_preview"
BEFORE, AFTER, CHANGES = "before", "after", "changes"
#: Milliseconds without a movement after which a person counts as resting.
_REST = 500


def shows_proposal(annotation: Annotation) -> bool:
    """Is the proposal on screen instead of the mask?"""
    return annotation.preview is not None and annotation.preview.mode == AFTER


class Preview:
    """Draws the proposal of an annotation in layers of its own, until it is accepted or dropped.

    While the proposal is shown, the mask stays the active layer with opacity 0, so that a person
    can go on painting; the preview shows the strokes, too.
    """

    def __init__(self, mask: MaskLayer, annotation: Annotation) -> None:
        self.mask = mask
        self.annotation = annotation
        self.mode = BEFORE
        self._opacity = float(mask.layer.opacity)
        self._layers: dict[str, Labels] = {}
        self._stale: set[SliceKey] = set()
        events = mask.layer.events
        for event in (events.set_data, events.labels_update):
            event.connect(self.repaint)
        events.colormap.connect(self._recolor)
        mask.viewer.dims.events.current_step.connect(self.repaint)
        mask.viewer.layers.events.removed.connect(self._on_removed)

    def show(self, mode: str) -> None:
        """Show the mask (`BEFORE`), the proposal instead (`AFTER`), or what changes (`CHANGES`)."""
        if self.mode == AFTER != mode and self.mask.layer.opacity == 0:
            self.mask.layer.opacity = self._opacity
        elif mode == AFTER != self.mode:
            self._opacity = float(self.mask.layer.opacity) or OPACITY
        self.mode = mode
        if mode != BEFORE and mode not in self._layers:
            self._add(mode)
        self.draw()
        if mode == AFTER:
            self._layers[AFTER].opacity = self._opacity
            self.mask.layer.opacity = 0.0
        self.repaint()
        self.annotation.changed.emit("proposal")

    def draw(self) -> None:
        """Make the layer of the current mode visible, and no other one."""
        for name, layer in self._layers.items():
            draw(layer, name == self.mode)

    def remove(self) -> None:
        """Hide the layers now, and remove them soon."""
        events, viewer = self.mask.layer.events, self.mask.viewer
        for event in (events.set_data, events.labels_update):
            event.disconnect(self.repaint)
        events.colormap.disconnect(self._recolor)
        viewer.dims.events.current_step.disconnect(self.repaint)
        viewer.layers.events.removed.disconnect(self._on_removed)
        if self.mode == AFTER and self.mask.layer.opacity == 0:
            self.mask.layer.opacity = self._opacity
        self.mode = BEFORE
        self.draw()
        layers, self._layers = self._layers, {}
        _remove_at_rest(viewer, list(layers.values()))

    def _drop(self) -> None:
        if self.annotation.preview is self:
            self.remove()
            self.annotation.preview = None
            self.annotation.propose(None)

    def update(self, place: SliceKey) -> None:
        """Bring a slice up to date with the proposal and the mask."""
        proposal = self.annotation.proposal
        if proposal is None or place not in proposal.done:
            return
        answer = proposal.raw if proposal.answer is None else proposal.answer.tidied
        segmentation = self.mask.segmentation
        after = self.annotation.merged(place, answer)
        if AFTER in self._layers:
            segmentation.slice_of(self._array(AFTER), place)[...] = after
        if CHANGES in self._layers:
            before = segmentation.slice_of(segmentation.shown, place)
            segmentation.slice_of(self._array(CHANGES), place)[...] = after != before

    def update_all(self) -> None:
        """Update all slices: the one on screen now, the others in `update_some`."""
        self._stale.update(self.mask.segmentation.places)
        self.repaint()

    def update_some(self, seconds: float = float("inf")) -> bool:
        """Update stale slices for at most about `seconds`; True when none is left."""
        until = time.perf_counter() + seconds
        while self._stale and time.perf_counter() < until:
            self.update(self._stale.pop())
            if not self._stale:
                self._refresh()
        return not self._stale

    def _add(self, mode: str) -> None:
        segmentation, mask = self.mask.segmentation, self.mask.layer
        if mode == AFTER:
            data, name = segmentation.shown.astype(segmentation.raw.dtype), "preview"
            colormap: Any = mask.colormap
        else:
            data, name = np.zeros(segmentation.shown.shape, np.uint8), "changes"
            colormap = DirectLabelColormap(
                color_dict={None: "transparent", 0: "transparent", 1: OVER}
            )
        layer = Labels(
            data.reshape(mask.data.shape),
            name=f"{mask.name} · {name}",
            opacity=OPACITY,
            colormap=colormap,
            metadata={PREVIEW_KEY: segmentation},
            **transform_of(mask),
        )
        stay_on(layer, mask)
        layer.editable = False
        layers = self.mask.viewer.layers
        top = max(layers.index(one) for one in (mask, *self._layers.values()))
        self._layers[mode] = layer
        self._stale.update(segmentation.places)
        # The mask stays the active layer, so that painting goes on.
        active = layers.selection.active
        # Not on top of all: another scan may have been opened meanwhile, and lies over the mask.
        layers.insert(top + 1, layer)
        layers.selection.active = active

    def _array(self, mode: str) -> Any:
        return self._layers[mode].data.reshape(self.mask.segmentation.shown.shape)

    def repaint(self, _: Any = None) -> None:
        """Bring the slice on screen up to date and draw it."""
        if self.mode != BEFORE and self.mask.connected:
            self.update(self.mask.place)
            self._refresh()

    def _refresh(self) -> None:
        if self.mode in self._layers:
            self._layers[self.mode].refresh(thumbnail=False, highlight=False, extent=False)

    def _recolor(self, _: Any = None) -> None:
        if AFTER in self._layers:
            self._layers[AFTER].colormap = self.mask.layer.colormap

    def _on_removed(self, event: Any) -> None:
        if event.value is self.mask.layer:
            # No mask is left to accept the proposal into. Later, as other listeners to the removal
            # come first.
            QTimer.singleShot(0, lambda: self._drop())
        for mode, layer in list(self._layers.items()):
            if event.value is layer:
                del self._layers[mode]
                if self.mode == mode:
                    self.show(BEFORE)


def _remove_at_rest(viewer: napari.Viewer, layers: list[Labels], before: Any = None) -> None:
    """Remove layers once the person rests: napari takes half a second for that, which would stop
    scrolling and painting. before: where pointer and sliders were."""
    pressed = QApplication.mouseButtons() != Qt.MouseButton.NoButton
    here = QCursor.pos(), viewer.dims.current_step
    if pressed or here != before:
        QTimer.singleShot(_REST, lambda: _remove_at_rest(viewer, layers, here))
        return
    left = [layer for layer in layers if layer in viewer.layers]
    if left:
        # In one batch: napari collects garbage after each removal, which takes longest.
        with viewer.layers.batched_update():
            for layer in left:
                viewer.layers.remove(layer)
