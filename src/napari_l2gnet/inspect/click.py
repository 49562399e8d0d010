"""Clicks into the picture, in Inspect: choose the code of a voxel."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QPushButton

from napari_l2gnet.inspect.inspection import NOT_SEGMENTED
from napari_l2gnet.inspect.state import InspectState
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.widgets.visibility import why_all_unseen

#: What a click does in the modes of the mask that paint.
_TOOLS = {
    "paint": "The brush is on: a click paints.",
    "erase": "The eraser is on: a click erases.",
    "fill": "The bucket is on: a click fills.",
    "pick": "The picker is on: a click picks an organ.",
    "polygon": "The polygon is on: a click draws.",
}
#: Pixels that the mouse may move between press and release of a click.
CLICK_SLOP = 4


class Clicks(QObject):
    """Handles clicks on the canvas, unless they drag or paint."""

    #: A code, and the voxel (frame,z,y,x) that was clicked.
    picked = Signal(int, tuple)

    def __init__(
        self,
        state: InspectState,
        viewer: napari.Viewer,
        button: QPushButton,
        show_message: Callable[..., None],
        tell_unseen: Callable[[Callable[[MaskLayer], str]], bool],
    ) -> None:
        super().__init__(button)
        self._state, self._viewer, self._button = state, viewer, button
        self._show_message, self._tell_unseen = show_message, tell_unseen
        viewer.mouse_drag_callbacks.append(self._on_mouse)
        button.toggled.connect(self.lay_tools_down)

    def let_go(self) -> None:
        """Disconnect from the mouse."""
        self._viewer.mouse_drag_callbacks.remove(self._on_mouse)

    def lay_tools_down(self, looking: bool) -> None:
        """Leave the painting mode when clicks are to choose codes."""
        if looking and self._state.layers is not None:
            self._state.layers.mask.layer.mode = "pan_zoom"

    def look_at(self, position: Sequence[float]) -> None:
        """Choose the code at a position in the world, as a click does."""
        look = self._state.look
        if look is None or not self._state.is_current or self._tell_unseen(why_all_unseen):
            return
        voxel = look.layers.mask.voxel_at(position)
        if voxel is None or voxel[0] != look.inspection.frame:
            return
        if not look.inspection.trace.cells.sees(voxel[1:]):
            self._show_message(
                "There is no code here: empty margins of scans are not shown to the model."
            )
            return
        code = look.inspection.code_at(voxel[1:])
        if code is None:
            self._show_message(NOT_SEGMENTED)
            return
        self.picked.emit(code, voxel)

    def _on_mouse(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Choose a code at a click, unless it drags or paints."""
        active = viewer.layers.selection.active
        mode = str(getattr(active, "mode", "pan_zoom"))
        if (
            not (self._button.isChecked() and self._button.isEnabled())
            or event.button != 1
            or event.modifiers
            or (self._state.is_aside and mode != "pan_zoom")
        ):
            return
        pressed = np.array(event.pos)
        yield
        while event.type == "mouse_move":
            if np.abs(np.array(event.pos) - pressed).max() > CLICK_SLOP:
                return
            yield
        if mode != "pan_zoom":
            # In the layer of marks, a click is meant to paint.
            layers = self._state.layers
            if layers is not None and active is layers.mask.layer:
                tool = _TOOLS.get(mode, "A tool is on.")
                self._show_message(f"{tool} Press 6, then click to look.")
        elif viewer.dims.ndisplay == 2:
            self.look_at(event.position)
        else:
            self._show_message(
                "Codes can be clicked in the 2-D view only: press 2D/3D at the bottom left."
            )
