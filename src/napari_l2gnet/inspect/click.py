"""Clicks into the picture, in Inspect: choose the code of a voxel."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject

from napari_l2gnet.widgets.visibility import why_all_unseen

if TYPE_CHECKING:
    from napari_l2gnet.inspect.widget import InspectWidget

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

    def __init__(self, widget: InspectWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        widget.viewer.mouse_drag_callbacks.append(self._on_mouse)
        widget.click.toggled.connect(self.lay_tools_down)

    def let_go(self) -> None:
        """Disconnect from the mouse."""
        self._widget.viewer.mouse_drag_callbacks.remove(self._on_mouse)

    def lay_tools_down(self, looking: bool) -> None:
        """Leave the painting mode when clicks are to choose codes."""
        if looking and self._widget.state.layers is not None:
            self._widget.state.layers.mask.layer.mode = "pan_zoom"

    def look_at(self, position: Sequence[float]) -> None:
        """Choose the code at a position in the world, as a click does."""
        widget = self._widget
        if (
            widget.state.layers is None
            or widget.state.inspection is None
            or not widget.state.is_current
        ):
            return
        if widget.tell_unseen(why_all_unseen):
            return
        voxel = widget.state.layers.mask.voxel_at(position)
        if voxel is None or voxel[0] != widget.state.inspection.frame:
            return
        if not widget.state.inspection.trace.cells.sees(voxel[1:]):
            widget.show_message(
                "There is no code here: empty margins of scans are not shown to the model."
            )
            return
        code = widget.state.inspection.code_at(voxel[1:])
        if code is None:
            widget.show_message("This slice is not segmented: the model has not seen it.")
            return
        widget.choose([code], voxel)

    def _on_mouse(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Choose a code at a click, unless it drags or paints."""
        widget, active = self._widget, viewer.layers.selection.active
        mode = str(getattr(active, "mode", "pan_zoom"))
        if (
            not (widget.click.isChecked() and widget.click.isEnabled())
            or event.button != 1
            or event.modifiers
            or (widget.state.is_aside and mode != "pan_zoom")
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
            if widget.state.layers is not None and active is widget.state.layers.mask.layer:
                tool = _TOOLS.get(mode, "A tool is on.")
                widget.show_message(f"{tool} Press 6, then click to look.")
        elif viewer.dims.ndisplay == 2:
            self.look_at(event.position)
        else:
            widget.show_message(
                "Codes can be clicked in the 2-D view only: press 2D/3D at the bottom left."
            )
