"""What the Inspect widget draws over the scan: code map, lit voxels, one heat map, marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from napari_l2gnet.inspect.cell_array import CellArray, Lit, OneFrame
from napari_l2gnet.inspect.colors import code_arguments, codes_of, colors_of, features_of
from napari_l2gnet.inspect.inspection import Inspection
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.napari_history import allow_no_direction
from napari_l2gnet.scans.layers import GRID_KEY, VIEW_KEY, draw, stay_on, transform_of

if TYPE_CHECKING:
    from l2gnet_core.inspect.similar import Region
    from l2gnet_core.segmenting.cells import Box

CODES_OF_KEY = "l2gnet_codes_of"
#: Layers that come and go with the widget; marks belong to a person and stay.
_VIEWS = ("codes", "heat", "lit")
#: What lit voxels stand for, by value.
CODE, OTHER_CODE, PLACE, CHANGE = 1, 2, 3, 4
_LIT = {
    CODE: ("#ffe14d", "the chosen code"),
    OTHER_CODE: ("#4dd2ff", "the second code"),
    PLACE: ("#ff5cd6", "a place to look at"),
    CHANGE: ("#ff5cd6", "would change"),
}
#: Low values are transparent, so that the scan below stays legible.
_GLOW = [
    [0.30, 0.05, 0.40, 0.0],
    [0.60, 0.10, 0.40, 0.35],
    [0.95, 0.40, 0.10, 0.50],
    [1.00, 0.95, 0.50, 0.60],
]
#: The smallest difference between the limits of a heat map.
_LEAST_RANGE = 0.01


class InspectLayers:
    """The layers of one mask. Each lies exactly on it and is made when it is first needed; the user
    may delete any of them at any time."""

    def __init__(self, viewer: napari.Viewer, mask: MaskLayer) -> None:
        self.viewer = viewer
        self.mask = mask
        # A widget that was closed may have left something lit.
        self.darken()
        self._contour: int | None = None
        self._outlined = self._aside = False
        #: Is a layer being added? It is then the active one for a moment.
        self.inserting = False
        #: Layers to show again once the widget is seen.
        self._to_show: set[str] = set()

    # ------------------------------------------------------------------ layers

    def outline(self, on: bool) -> None:
        """Draw the mask as outlines, or as it was before."""
        self._outlined, layer = on, self.mask.layer
        on = on and not self._aside
        if on and self._contour is None:
            self._contour = layer.contour
            layer.contour = max(2, layer.contour)
        elif not on and self._contour is not None:
            layer.contour, self._contour = self._contour, None

    def set_aside(self, aside: bool) -> None:
        """Hide all layers while the widget is out of sight or has nothing to show.

        Out of sight, the widget offers no control to hide them.
        """
        if aside == self._aside:
            return
        if aside:
            found = {view: self.find(view) for view in _VIEWS}
            self._to_show = {view for view, layer in found.items() if layer and layer.visible}
        self._aside = aside
        self.outline(self._outlined)
        for view in set(self._to_show):
            if (layer := self.find(view)) is not None:
                draw(layer, not aside)

    def _set_visible(self, view: str, visible: bool) -> None:
        (self._to_show.add if visible else self._to_show.discard)(view)
        layer = self.find(view)
        if layer is not None:
            draw(layer, visible and not self._aside)

    def find(self, view: str) -> Layer | None:
        """The layer of one view; None if there is none."""
        for layer in self.viewer.layers:
            name, of = layer.metadata.get(VIEW_KEY, ("", None))
            if name == view and of is self.mask.segmentation:
                return layer
        return None

    def remove(self) -> None:
        """Remove all layers except the one with a person's marks."""
        if self.mask.layer in self.viewer.layers:
            self._remove()
        else:
            # The user may be deleting these layers with the mask: remove what is left afterwards.
            # A lambda, as Qt holds a bound method weakly and nothing else holds this object.
            QTimer.singleShot(0, lambda: self._remove())

    def _remove(self) -> None:
        layers = self.viewer.layers
        found = [(layer, layer.metadata.get(VIEW_KEY, ("", None))) for layer in layers]
        of_this = self.mask.segmentation
        mine = [one for one, (name, of) in found if of is of_this and name != "marks"]
        if not mine:
            return
        # All at once: napari collects garbage after each removal, which takes longest.
        with layers.batched_update():
            for layer in mine:
                # Listeners to a removal may have removed the next layer already.
                if layer in layers:
                    layers.remove(layer)

    def _insert(self, view: str, layer: Layer, above: int) -> Layer:
        """Add a layer `above` places above the mask; the selection stays."""
        layers = self.viewer.layers
        layer.metadata[VIEW_KEY] = (view, self.mask.segmentation)
        layer.metadata[GRID_KEY] = self.mask.layer.metadata.get(GRID_KEY)
        stay_on(layer, self.mask.layer)
        if isinstance(layer, Labels):
            allow_no_direction(layer)
        active = layers.selection.active
        at = layers.index(self.mask.layer) + above if self.mask.layer in layers else len(layers)
        self.inserting = True
        try:
            layers.insert(min(at, len(layers)), layer)
            if active is not None:
                layers.selection.active = active
        finally:
            self.inserting = False
        return layer

    @property
    def _codes_name(self) -> str:
        return f"code map · {self.mask.layer.name}"

    def show_codes(self, inspection: Inspection, name: str = "") -> Labels:
        """The code map, made when it is first asked for.

        name: for the code map of something compared with this mask, whose cells lie on the same
        place.
        """
        layer, name = self.find("codes"), name or self._codes_name
        if layer is not None and layer.metadata[CODES_OF_KEY] is not inspection.source:
            layer.name = name
            self._renew_codes(layer, inspection)
            layer.refresh(thumbnail=False, highlight=False, extent=False)
        if layer is None:
            layer = Labels(
                self._cells(inspection, np.dtype(np.uint16), codes_of(inspection)),
                name=name,
                opacity=0.55,
                **transform_of(self.mask.layer),
                **code_arguments(inspection),
            )
            layer.metadata[CODES_OF_KEY] = inspection.source
            # A computed array cannot be painted on.
            layer.editable = False
            layer = self._insert("codes", layer, 0)
        self._set_visible("codes", True)
        return layer

    def show_heat(
        self, name: str, inspection: Inspection, values: Any, limits: tuple[float, float]
    ) -> Image:
        """The heat map: values as a function (frame, index) → cells (h,w), or an array (z,y,x)."""
        layer = self.find("heat")
        cells = callable(values)
        if not cells:
            values = self._in_frame(inspection, values)
        elif layer is None or not isinstance(layer.data, CellArray):
            values = self._cells(inspection, np.dtype(np.float32), values)
        # napari replaces narrower limits by its own and keeps those for the next slice.
        limits = (limits[0], max(limits[1], limits[0] + _LEAST_RANGE))
        if layer is None:
            from napari.utils.colormaps import Colormap

            layer = Image(
                values,
                name=name,
                rgb=False,
                multiscale=False,
                colormap=Colormap(_GLOW, name="l2gnet glow"),
                contrast_limits=limits,
                blending="translucent_no_depth",
                interpolation2d="nearest",
                **transform_of(self.mask.layer),
            )
            # Above the mask, because doubt lies at its outlines.
            layer = self._insert("heat", layer, 1)
        else:
            layer.name = name
            # The next drawing is scaled by these limits.
            layer.contrast_limits_range = limits
            layer.contrast_limits = limits
            if cells and isinstance(layer.data, CellArray):
                # Setting new data takes ten times as long as new values in the same array.
                layer.data.cells, layer.data.values = inspection.trace.cells, values
                layer.refresh(thumbnail=False, highlight=False, extent=False)
            else:
                layer.data = values
        self._set_visible("heat", True)
        return layer

    def renew(self, inspection: Inspection) -> None:
        """Show the codes of another frame, or of more of it, if codes are shown; light up
        nothing."""
        self.darken()
        codes = self.find("codes")
        if codes is not None:
            # Slices were added, or another version of the model answered, since it was made.
            if codes.metadata[CODES_OF_KEY] is not inspection.source:
                codes.name = self._codes_name
            self._renew_codes(codes, inspection)

    def make_next(self, inspection: Inspection) -> bool:
        """Make one of the layers that a click lights up, so that the first click is fast.

        One at a time, because each takes a while. Returns whether there is another one to make.
        """
        if self.find("lit") is None:
            self._lit()
            return True
        if inspection.has_plans and self.find("heat") is None:
            size = inspection.trace.cells.size
            nothing = np.zeros(size, np.float32)
            self.show_heat("sources", inspection, lambda frame, index: nothing, (0, 1))
            self._set_visible("heat", False)
        return False

    @staticmethod
    def _renew_codes(layer: Layer, inspection: Inspection) -> None:
        layer.metadata[CODES_OF_KEY] = inspection.source
        layer.data.cells, layer.data.values = inspection.trace.cells, codes_of(inspection)
        for name, value in code_arguments(inspection).items():
            setattr(layer, name, value)

    def show_only(self, view: str) -> None:
        """Show either the code map, the heat map or neither: one would hide the other."""
        for other in ("codes", "heat"):
            if self.find(other) is not None:
                self._set_visible(other, other == view)

    def marks(self) -> Labels:
        """The layer to mark mistakes in, selected and ready to paint."""
        layer = self.find("marks")
        if layer is None:
            layer = Labels(
                np.zeros(self.mask.layer.data.shape, np.uint8),
                name=f"mistakes · {self.mask.layer.name}",
                colormap=colors_of({1: "#ff5cd6"}),
                **transform_of(self.mask.layer),
            )
            layer = self._insert("marks", layer, len(self.viewer.layers))
        draw(layer, True)
        layer.selected_label = 1
        layer.brush_size = 10
        self.viewer.layers.selection.active = layer
        layer.mode = "paint"
        return layer

    # ------------------------------------------------------------------ light

    def light_cells(self, frame: int, inspection: Inspection, codes: Sequence[int]) -> None:
        """Light up all voxels of one or two codes in a frame."""
        of_codes = inspection.trace.codes
        cells = np.zeros(of_codes.shape, np.uint8)
        for value, code in zip((CODE, OTHER_CODE), codes, strict=False):
            cells[of_codes == code] = value
        nothing = np.zeros_like(cells[0])
        lit: Lit = self._lit().data
        lit.light_cells(
            inspection.trace.cells, lambda of, index: cells[index] if of == frame else nothing
        )
        self._show_lit()

    def light_region(self, frame: int, region: Region) -> None:
        """Light up a region to look at."""
        self._light_box(frame, region.box, np.where(region.voxels, np.uint8(PLACE), np.uint8(0)))

    def light_voxels(self, frame: int, voxels: NDArray[np.intp]) -> None:
        """Light up voxels (flat indices into the frame, at least one) that would change."""
        where = np.unravel_index(voxels, self.mask.segmentation.shown.shape[1:])
        start = [int(along.min()) for along in where]
        z, y, x = (
            slice(first, int(along.max()) + 1) for first, along in zip(start, where, strict=True)
        )
        values = np.zeros([side.stop - side.start for side in (z, y, x)], np.uint8)
        values[tuple(along - first for first, along in zip(start, where, strict=True))] = CHANGE
        self._light_box(frame, (z, y, x), values)

    def _light_box(self, frame: int, box: Box, values: NDArray[np.uint8]) -> None:
        """Light up values (z,y,x) of a box in a frame."""
        layer = self._lit()
        lit: Lit = layer.data
        # A flat image has no z, a single scan no frames.
        within = (slice(frame, frame + 1), *box)[-layer.ndim :]
        lit.light_box(within, values.reshape((1, *values.shape)[-layer.ndim :]))
        self._show_lit()

    def darken(self) -> None:
        """Light up nothing."""
        if (layer := self.find("lit")) is not None:
            layer.data.darken()
            self._refresh()

    def _show_lit(self) -> None:
        self._set_visible("lit", True)
        self._refresh()

    def _lit(self) -> Labels:
        layer = self.find("lit")
        if layer is None:
            layer = Labels(
                Lit(self.mask.layer.data.shape),
                name=f"highlight · {self.mask.layer.name}",
                opacity=0.9,
                colormap=colors_of({value: color for value, (color, _) in _LIT.items()}),
                features=features_of({value: what for value, (_, what) in _LIT.items()}),
                **transform_of(self.mask.layer),
            )
            # An outline leaves the voxels inside visible.
            layer.contour = 2
            layer.editable = False
            layer = self._insert("lit", layer, 1 if self.find("heat") is None else 2)
        return layer

    def _refresh(self) -> None:
        layer = self.find("lit")
        assert layer is not None
        layer.refresh(thumbnail=False, highlight=False, extent=False)

    # ------------------------------------------------------------------ arrays

    def _cells(self, inspection: Inspection, dtype: np.dtype[Any], values: Any) -> CellArray:
        return CellArray(inspection.trace.cells, dtype, values, self.mask.layer.data.shape)

    def _in_frame(self, inspection: Inspection, values: Any) -> Any:
        """An array (z,y,x) of one frame with the axes of the layer."""
        shape = self.mask.layer.data.shape
        if len(shape) < 4:
            return values if len(shape) == 3 else np.asarray(values).reshape(shape)
        return OneFrame(values, inspection.frame, shape)
