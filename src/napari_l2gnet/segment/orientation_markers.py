"""Draws R, L, A, P, S, I at the edges of the canvas, so that nobody paints the wrong side, and
turns scans upright."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import napari
import numpy as np
from napari.components.overlays import TextOverlay
from napari.layers import Image, Layer

from l2gnet_core.errors import InputError
from napari_l2gnet.masks.layer import IMAGE_KEY, SEGMENTATION_KEY
from napari_l2gnet.scans.layers import VIEW_KEY, active_layer, lies, volume_of
from napari_l2gnet.scans.orientation import as_given

OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
_PLACES = {
    "l2gnet_left": "middle_left",
    "l2gnet_right": "middle_right",
    "l2gnet_top": "top_center",
    "l2gnet_bottom": "bottom_center",
}


class EdgeLetters:
    """Keeps the letters up to date with the view and the scan that a person works on.

    That scan is the active layer, or the one of the active mask, else the only visible one.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        self._layer: Image | None = None
        self._turned: Callable[[], Image | None] = lambda: None
        self._codes: tuple[str, str, str] | None = None
        self._overlays = {}
        for key, place in _PLACES.items():
            # On a box, so that a letter over bright fat is legible.
            overlay = TextOverlay(position=place, font_size=13, box=True, visible=False)
            self._overlays[key] = viewer.canvas.overlays.setdefault(key, overlay)
        for event in self._events():
            event.connect(self.draw)
        for layer in viewer.layers:
            layer.events.visible.connect(self.draw)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)

    def _events(self) -> tuple[Any, ...]:
        dims, camera = self._viewer.dims.events, self._viewer.scene.camera.events
        active = self._viewer.layers.selection.events.active
        grid = self._viewer.canvas.grid.events.enabled
        return dims.order, dims.ndisplay, dims.ndim, camera.orientation, active, grid

    def _on_inserted(self, event: Any) -> None:
        event.value.events.visible.connect(self.draw)
        self.draw()

    def _on_removed(self, event: Any) -> None:
        event.value.events.visible.disconnect(self.draw)
        self.draw()

    def _scan(self) -> Image | None:
        """The scan that the letters are about; None if it is not visible or not clear."""
        layers = self._viewer.layers
        scans = [one for one in layers if isinstance(one, Image) and VIEW_KEY not in one.metadata]
        active = active_layer(self._viewer)
        if active is not None and VIEW_KEY in active.metadata:
            _, drawn_of = active.metadata[VIEW_KEY]
            masks = (one for one in layers if one.metadata.get(SEGMENTATION_KEY) is drawn_of)
            active = next(masks, active)
        scan = active if active in scans else None
        if active is not None and scan is None:
            scan = active.metadata.get(IMAGE_KEY)
        if active is not None and scan is not None:
            # A mask lies on its scan, even if the scan is hidden.
            return scan if scan in scans and (scan.visible or active.visible) else None
        seen = [one for one in scans if one.visible]
        return seen[0] if len(seen) == 1 else None

    def _turn_up(self, letters: dict[str, str]) -> None:
        assert self._layer is not None
        if self._turned() is self._layer:
            return
        # A weak reference: a deleted scan must leave memory.
        self._turned = weakref.ref(self._layer)
        if lies(letters["l2gnet_bottom"], letters["l2gnet_right"]):
            self._viewer.dims.transpose()

    def disconnect(self) -> None:
        """Clear the letters and disconnect from the viewer."""
        for event in self._events():
            event.disconnect(self.draw)
        layers = self._viewer.layers
        layers.events.inserted.disconnect(self._on_inserted)
        layers.events.removed.disconnect(self._on_removed)
        for layer in layers:
            layer.events.visible.disconnect(self.draw)
        self._layer = self._codes = None
        self._show(None)

    def draw(self, _: Any = None) -> None:
        """Show the directions of the current scan.

        A scan that would lie on its side, because its file has rows and columns exchanged, is
        turned upright when it becomes the current one; a person may turn it again.
        """
        self._layer = self._scan()
        self._codes = None if self._layer is None else _codes_of(self._layer)
        letters = self.letters()
        if letters is not None:
            self._turn_up(letters)
            letters = self.letters()
        self._show(letters)

    def _show(self, letters: dict[str, str] | None) -> None:
        for key, overlay in self._overlays.items():
            overlay.visible = letters is not None
            overlay.text = letters[key] if letters else ""

    def letters(self) -> dict[str, str] | None:
        """The letter of each edge of the canvas; None if they are unknown, in the 3-D view, or if
        layers lie side by side."""
        layer, codes, dims = self._layer, self._codes, self._viewer.dims
        side_by_side = self._viewer.canvas.grid.enabled
        if layer is None or codes is None or dims.ndisplay != 2 or side_by_side:
            return None
        axes = [axis - dims.ndim for axis in dims.displayed]
        if min(axes) < -min(3, layer.ndim):
            return None
        down, right = (_grows_to(layer, codes, axis) for axis in axes)
        _, vertical, horizontal = (str(o) for o in self._viewer.scene.camera.orientation)
        if vertical == "up":
            down = OPPOSITE[down]
        if horizontal == "left":
            right = OPPOSITE[right]
        edges = (OPPOSITE[right], right, OPPOSITE[down], down)
        return dict(zip(_PLACES, edges, strict=True))


def _codes_of(scan: Image) -> tuple[str, str, str] | None:
    """The letters that the axes (z,y,x) of a scan's array grow to; None if unknown."""
    try:
        volume = as_given(scan, volume_of(scan))
    except InputError:
        return None
    return volume.axis_codes if volume.oriented else None


def _grows_to(layer: Layer, codes: tuple[str, str, str], axis: int) -> str:
    """The letter that an axis of the world grows to; axis: counted from the last."""
    origin = np.array(layer.data_to_world((0.0,) * layer.ndim))
    # How far each axis of the array goes along the axis of the world; it may be mirrored or turned.
    steps = [
        (np.array(layer.data_to_world(tuple(step))) - origin)[axis] for step in np.eye(layer.ndim)
    ][-3:]
    nearest = int(np.argmax(np.abs(steps))) - len(steps)
    return codes[nearest] if steps[nearest] > 0 else OPPOSITE[codes[nearest]]
