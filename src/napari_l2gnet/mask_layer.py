"""A segmentation and the Labels layer that shows it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from l2gnet_core.card import ModelCard
from l2gnet_core.labels import LabelSet
from l2gnet_core.volume import Grid
from napari_l2gnet.layers import (
    GRID_KEY,
    LABELS_KEY,
    grid_of,
    is_cut,
    label_arguments,
    lies,
    shown_index,
    slice_axes,
    stay_on,
    transform_of,
)
from napari_l2gnet.orientation import ORIENTATION_KEY
from napari_l2gnet.segmentation import Segmentation, SliceKey

if TYPE_CHECKING:
    from l2gnet_core.checkpoint import Model
    from l2gnet_core.cleanup import CleanUp
    from l2gnet_core.inspect.trace import Trace
    from napari_l2gnet.undo import Adoption

SEGMENTATION_KEY = "l2gnet_segmentation"
MODEL_KEY = "l2gnet_model"
IMAGE_KEY = "l2gnet_image"
CARD_KEY = "l2gnet_card"
DATA_KEY = "l2gnet_image_data"
#: Of a mask as it is added.
OPACITY = 0.6
_COVERAGE = re.compile(r" \(\d+ of \d+\)")


class MaskLayer:
    """Keeps a `Segmentation` and its layer in step. The layer lies exactly on its image."""

    def __init__(self, viewer: napari.Viewer, layer: Labels) -> None:
        self.viewer = viewer
        self.layer = layer
        self.segmentation: Segmentation = layer.metadata[SEGMENTATION_KEY]

    @classmethod
    def find(
        cls, viewer: napari.Viewer, image: Image | None, model: str | None
    ) -> MaskLayer | None:
        """The newest mask of an image by a model (None: by any) that is still in the viewer."""
        for layer in reversed(viewer.layers):
            if (
                SEGMENTATION_KEY in layer.metadata
                and layer.metadata[IMAGE_KEY] is image
                and model in (None, layer.metadata[MODEL_KEY])
                and (mask := cls(viewer, layer)).connected
            ):
                return mask
        return None

    @classmethod
    def add(
        cls,
        viewer: napari.Viewer,
        image: Image,
        grid: Grid,
        card: ModelCard,
        axis: int,
        begin: Callable[[MaskLayer], None] | None = None,
    ) -> MaskLayer:
        """An empty mask on top of an image. grid: as the image's file has it; begin: as of
        `show`."""
        return cls.show(viewer, image, Segmentation(grid, card, axis), card.labels, begin)

    @classmethod
    def show(
        cls,
        viewer: napari.Viewer,
        image: Image,
        segmentation: Segmentation,
        labels: LabelSet,
        begin: Callable[[MaskLayer], None] | None = None,
    ) -> MaskLayer:
        """A mask that may be begun already, on top of its image, with these names and colours.

        begin: what is done with it before the viewer has it, for whoever hears of a new layer may
        raise anything.
        """
        card = segmentation.card
        shape = (image.data[0] if image.multiscale else image.data).shape
        layer = Labels(
            # A view: what the segmentation takes in is what the layer shows.
            segmentation.shown.reshape(shape),
            name=f"{image.name} · {card.name}",
            opacity=OPACITY,
            metadata={
                GRID_KEY: segmentation.grid,
                LABELS_KEY: labels.names,
                SEGMENTATION_KEY: segmentation,
                MODEL_KEY: card.name,
                CARD_KEY: card,
                IMAGE_KEY: image,
                DATA_KEY: reference(image.data),
                ORIENTATION_KEY: image.metadata.get(ORIENTATION_KEY, ""),
            },
            **transform_of(image),
            **label_arguments(labels.names, labels.colors),
        )
        mask = cls(viewer, layer)
        stay_on(layer, image)
        _tell_edits(mask)
        _bear_no_direction(layer)
        if begin is not None:
            begin(mask)
        viewer.add_layer(layer)
        return mask

    @property
    def connected(self) -> bool:
        """Does the layer draw the segmentation's own array?

        A duplicate carries the same metadata, but nothing is ever written to it; and another plugin
        may have put something into the layer that is no mask of the scan.
        """
        data, shown = self.layer.data, self.segmentation.shown
        return (
            isinstance(data, np.ndarray)
            and data.size == shown.size
            and np.shares_memory(data, shown)
        )

    def can_take(self, image: Image, grid: Grid, card: ModelCard, axis: int) -> bool:
        """May a new run write here: same scan and voxels, grid and place, model, axis and
        orientation, and nothing that a person did or accepted?"""
        mine, its, ours = self.segmentation, transform_of(image), transform_of(self.layer)
        given = self.layer.metadata[ORIENTATION_KEY]
        return (
            mine.grid.shape == grid.shape
            and mine.grid.units == grid.units
            and np.allclose(mine.grid.affine, grid.affine)
            and mine.axis == axis
            # A model file may have been written over: other organs, by the same name.
            and self.layer.metadata[CARD_KEY] == card
            and (not mine.card.oriented or given == image.metadata.get(ORIENTATION_KEY, ""))
            and all(np.array_equal(its[key], ours[key]) for key in its)
            and self.connected
            and self.layer.metadata[DATA_KEY]() is image.data
            and not self.holds_work
        )

    @property
    def holds_work(self) -> bool:
        """Is there anything in it that a person did or accepted?"""
        mine = self.segmentation
        return bool(mine.reviewed) or mine.version != 0 or mine.touched()

    def put(self, place: SliceKey, labels: NDArray[Any]) -> None:
        """Take a predicted slice in and draw it if it is on screen."""
        self.segmentation.put(place, labels)
        if self._on_screen(place):
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)

    def put_tidied(self, place: SliceKey, labels: NDArray[Any]) -> None:
        """Show a tidied slice instead of the raw one."""
        self.segmentation.put_tidied(place, labels)
        if self._on_screen(place):
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)

    @property
    def stroke_under_way(self) -> bool:
        """Is a brush drawing? Whatever is written meanwhile would become part of its stroke."""
        return bool(self.layer._block_history)

    def adopt(
        self,
        answer: NDArray[Any],
        raw: NDArray[Any],
        version: int,
        traces: dict[int, Trace] | None = None,
        completes: Iterable[SliceKey] = (),
        model: Model | None = None,
        clean_up: CleanUp | None = None,
    ) -> int:
        """Show a new answer (t,z,y,x) where no person decided, as one step that can be undone.

        Returns how many voxels change; see `Segmentation.adoption`.
        """
        return self._adopt(
            self.segmentation.undo_history.adoption(
                answer, raw, version, traces, completes, model, clean_up
            )
        )

    def fill(self, slices: Mapping[SliceKey, NDArray[Any]]) -> int:
        """As `adopt`, where the answer is another in some slices alone."""
        return self._adopt(self.segmentation.undo_history.filling(slices))

    def _adopt(self, adoption: Adoption) -> int:
        segmentation, layer = self.segmentation, self.layer
        voxels = adoption.shown.voxels
        if len(voxels):
            segmentation.arriving = adoption
            try:
                layer.data_setitem(np.unravel_index(voxels, layer.data.shape), adoption.shown.after)
            finally:
                segmentation.arriving = None
        else:
            segmentation.undo_history.adopt(adoption)
        segmentation.counts.mark_all()
        self.name_coverage()
        layer.refresh()
        return len(voxels)

    def taken_in(self, changed: int) -> str:
        """What to say of an answer that was adopted, which Ctrl-Z goes to from now on."""
        self.viewer.layers.selection.active = self.layer
        if not changed:
            return "no voxel changed."
        return f"{changed:,} voxels changed; Ctrl-Z takes it back."

    def relabel(self, labels: LabelSet) -> None:
        """Give the mask other organs; those that stay keep the colours they have on screen.

        Raises InputError for ids that do not fit into the mask.
        """
        shown, before = self._colors(), self.segmentation.card.labels
        self.segmentation.relabel(labels)
        colors: dict[Any, Any] = dict(shown)
        for label in labels:
            if before.colors.get(label.id) != label.color:
                colors[label.id] = label.color
        arguments = label_arguments(labels.names, labels.colors)
        self.layer.metadata[LABELS_KEY] = labels.names
        # Its event tells of the change: whoever draws colours knows the organs by then.
        self.layer.features = arguments["features"]
        self.layer.colormap = DirectLabelColormap(color_dict=colors)

    def _on_screen(self, place: SliceKey) -> bool:
        if self.viewer.dims.ndisplay == 3:
            # Redrawing a volume for every slice would stall the window; the end redraws it once.
            return False
        frame, *voxel = self.here
        axis = self.segmentation.axis
        displayed = [d - self.viewer.dims.ndim for d in self.viewer.dims.displayed]
        return (-4 in displayed or frame == place[0]) and (
            axis - 3 in displayed or voxel[axis] == place[1]
        )

    @property
    def here(self) -> tuple[int, int, int, int]:
        """(frame, z, y, x) at the viewer's current point."""
        return self._voxel(shown_index(self.layer, self.viewer.dims.point))

    def voxel_at(self, position: Sequence[float]) -> tuple[int, int, int, int] | None:
        """(frame, z, y, x) at a place in the world; None outside of the scan."""
        layer = self.layer
        index = np.rint(layer.world_to_data(tuple(position)[-layer.ndim :])).astype(int)
        if (index < 0).any() or (index >= layer.data.shape).any():
            return None
        return self._voxel(tuple(int(i) for i in index))

    def _voxel(self, index: tuple[int, ...]) -> tuple[int, int, int, int]:
        frame, z, y, x = (0,) * (4 - len(index)) + index
        return frame, z, y, x

    def voxels(self) -> dict[int, int]:
        """Voxels by label id in the frame on screen."""
        return self.segmentation.counts.in_frame(self.here[0])

    @property
    def grid(self) -> Grid:
        """Where the layer lies now: its scale and units may have been set by hand since."""
        layer = self.layer
        return grid_of(layer.data.shape, transform_of(layer), layer.name, layer.metadata)

    def coverage(self) -> tuple[int, int]:
        """Slices segmented, and slices there are, in the frame on screen."""
        return self.segmentation.coverage(self.here[0])

    def name_coverage(self) -> None:
        """Say in the layer's name that a part of the scan is not segmented, as long as it is so."""
        _name_coverage(self.layer, self.segmentation)

    @property
    def place(self) -> SliceKey:
        """The slice on screen."""
        frame, *voxel = self.here
        return frame, voxel[self.segmentation.axis]

    @property
    def cut_as_sliced(self) -> bool:
        """Does the viewer show one slice of those that the model sees, in 2-D and of one time?"""
        dims = self.viewer.dims
        return set(dims.displayed) == set(slice_axes(dims, self.segmentation.axis))

    @property
    def off_screen(self) -> str:
        """Why no slice of the mask is on screen, in a sentence; "" if one is."""
        if not self.cut_as_sliced:
            return "The viewer cuts the scan another way than the model"
        if not is_cut(self.layer, self.viewer.dims):
            return f'"{self.layer.name}" is not on screen: the sliders are beside it'
        return ""

    def _cut_as_sliced(self) -> None:
        dims = self.viewer.dims
        dims.ndisplay = 2
        if not self.cut_as_sliced:
            rows, columns = slice_axes(dims, self.segmentation.axis)
            grid, first = self.segmentation.grid, dims.ndim - 3
            if grid.oriented and lies(*(grid.axis_codes[axis - first] for axis in (rows, columns))):
                rows, columns = columns, rows
            # As napari has them at first: time, then what the model cuts along.
            across = [axis for axis in range(dims.ndim) if axis not in (rows, columns)]
            dims.order = (*across, rows, columns)

    def go_to_place(self, place: SliceKey) -> None:
        """Show a slice, in 2-D and cut as the model cuts; where it is looked at stays."""
        if not self.cut_as_sliced:
            self._cut_as_sliced()
        index = list(self.here)
        index[0], index[1 + self.segmentation.axis] = place[0], place[1]
        dims, ndim = self.viewer.dims, self.layer.ndim
        point = self.layer.data_to_world(index[-ndim:])
        # Only what slices: the place within the slice is the camera's. At once: each move is drawn.
        axes = [axis for axis in dims.not_displayed if axis >= dims.ndim - ndim]
        if axes:
            dims.set_point(axes, [point[axis - dims.ndim + ndim] for axis in axes])

    def go_to(self, label: int) -> bool:
        """Show the largest slice of an organ in this frame; False if it has none."""
        frame = self.here[0]
        voxel = self.segmentation.go_to(label, frame)
        if voxel is None:
            return False
        self.go_to_voxel(frame, voxel, center=True)
        return True

    def go_to_voxel(self, frame: int, voxel: Sequence[float], center: bool = False) -> None:
        """Show the slices through a voxel (z,y,x); `center` moves the camera there, too."""
        layer, dims = self.layer, self.viewer.dims
        point = layer.data_to_world((frame, *voxel)[-layer.ndim :])
        dims.set_point(range(dims.ndim - layer.ndim, dims.ndim), point)
        if center:
            shown = [dims.point[axis] for axis in dims.displayed]
            self.viewer.scene.camera.center = (0.0,) * (3 - len(shown)) + tuple(shown)

    def colors(self) -> dict[int, tuple[str, bool]]:
        """By label id: an organ's colour as "#rrggbb", and whether it is drawn."""
        colors, drawn = {}, self._colors()
        for label in self.segmentation.card.labels:
            *rgb, alpha = drawn[label.id]
            colors[label.id] = ("#" + "".join(f"{round(255 * c):02x}" for c in rgb), alpha > 0)
        return colors

    def show_organ(self, label: int, shown: bool) -> None:
        """Draw an organ, or do not."""
        self._set_color(label, [*self._colors()[label][:3], float(shown)])

    def color_organ(self, label: int, color: str) -> None:
        """Give an organ another colour; one that is not drawn stays so."""
        rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        self._set_color(label, [*rgb, self._colors()[label][3]])

    def _colors(self) -> dict[int | None, list[float]]:
        """RGBA by label id, as napari's layer controls may have changed them."""
        colormap = self.layer.colormap
        if isinstance(colormap, DirectLabelColormap):
            colors = dict(colormap.color_dict)
        else:  # "auto": napari's own colours, one for each label there could be
            colors = {None: [1.0, 1.0, 1.0, 1.0], 0: [0.0, 0.0, 0.0, 0.0]}
        for label in self.segmentation.card.labels:
            colors.setdefault(label.id, colormap.map(label.id))
        return {label: [float(c) for c in color] for label, color in colors.items()}

    def _set_color(self, label: int, color: list[float]) -> None:
        self.layer.colormap = DirectLabelColormap(color_dict={**self._colors(), label: color})

    def follow(self, on_painted: Callable[..., None], on_colored: Callable[..., None]) -> None:
        """Tell of changes to the mask, and to its organs' colours."""
        for event in painting_events(self.layer):
            event.connect(on_painted)
        self.layer.events.colormap.connect(on_colored)

    def stop(self, on_painted: Callable[..., None], on_colored: Callable[..., None]) -> None:
        """Undo `follow`."""
        for event in painting_events(self.layer):
            event.disconnect(on_painted)
        self.layer.events.colormap.disconnect(on_colored)


def painting_events(layer: Labels) -> tuple[Any, Any]:
    """What tells that something may have been painted. A stroke ends with `paint`, and redraws no
    more than what it touched; undo and scripts tell no more than that all is redrawn."""
    return layer.events.paint, layer.events.set_data


def reference(data: Any) -> Callable[[], Any]:
    """To an array, without keeping it alive where that can be."""
    try:
        return weakref.ref(data)
    except TypeError:
        return lambda: data


def _name_coverage(layer: Labels, segmentation: Segmentation) -> None:
    finished, count = segmentation.coverage()
    whole = _COVERAGE.sub("", layer.name)
    layer.name = whole if finished == count else f"{whole} ({finished} of {count})"


def _tell_edits(mask: MaskLayer) -> None:
    """Let a segmentation know of strokes on its layer, of their undo and redo, and of new data."""
    layer, segmentation = mask.layer, mask.segmentation
    history = segmentation.undo_history

    def painted(event: Any) -> None:
        if segmentation.arriving is not None:
            history.adopt(segmentation.arriving)
            return
        on_screen = {mask.place} if mask.cut_as_sliced else set[SliceKey]()
        reviewed = len(segmentation.reviewed)
        history.stroke(*_changes(event.value, layer.data.shape), on_screen)
        if len(segmentation.reviewed) != reviewed:
            _name_coverage(layer, segmentation)

    def replaced(_: Any) -> None:
        if isinstance(layer.data, np.ndarray):
            segmentation.replace(layer.data)

    def editable(_: Any) -> None:
        if not layer.editable:
            history.clear()  # as the layer does

    def then(replay: Callable[[], None], tell: Callable[[], None]) -> Callable[[], None]:
        def replay_and_tell() -> None:
            replay()
            tell()
            # An answer that is taken back may have been the first of some slices.
            _name_coverage(layer, segmentation)
            layer.refresh()

        return replay_and_tell

    layer.events.paint.connect(painted)
    layer.events.editable.connect(editable)
    layer.events.data.connect(replaced)
    # napari has no event for these two, and their effect may look the same.
    layer.undo = then(layer.undo, history.undone)
    layer.redo = then(layer.redo, history.redone)


def _bear_no_direction(layer: Labels) -> None:
    """Let a layer be asked for a value in 3-D before a mouse told from where: napari asks so of
    whatever becomes active below a pointer that rests, and its Labels with names raise TypeError.
    """
    value_at = layer.get_value

    def get_value(position: Any, *, view_direction: Any = None, **more: Any) -> Any:
        # napari makes an array of None.
        if np.ndim(view_direction) == 0:
            view_direction = None
        return value_at(position, view_direction=view_direction, **more)

    layer.get_value = get_value


def _changes(
    atoms: Sequence[tuple[Any, ...]], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[Any]]:
    """Voxels (flat indices, each once) of one item of napari's history, with their labels before
    and after it."""
    voxels, before, after = [], [], []
    for *where, old, new in atoms:
        if len(where) == 2:  # brush, fill, polygon: a box, and what of it changed
            box, mask = where
            flat = _inside(box, np.ones(np.shape(old), bool) if mask is None else mask, shape)
        else:  # data_setitem: an index for each axis
            flat = np.ravel_multi_index(where[0], shape, mode="wrap").ravel()
        voxels.append(flat)
        before.append(np.ravel(old))
        after.append(np.broadcast_to(np.ravel(new), flat.shape))
    everywhere, first, last = (
        parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in (voxels, before, after)
    )
    if (everywhere[1:] > everywhere[:-1]).all():
        # Each once and in order, as of one fill: sorting a whole scan takes half a minute.
        return everywhere, first, last
    # Of a voxel changed twice: what it was at first, and what it became at last.
    unique, at = np.unique(everywhere, return_index=True)
    _, from_the_end = np.unique(everywhere[::-1], return_index=True)
    return unique, first[at], last[::-1][from_the_end]


def _inside(
    box: Sequence[slice], mask: NDArray[np.bool_], shape: tuple[int, ...]
) -> NDArray[np.intp]:
    """Voxels (flat indices, in order) of an array where the mask of a box in it is true."""
    # In whole planes: to turn three indices of each voxel into one takes seconds for a large fill.
    start, stop, _ = box[0].indices(shape[0])
    planes = np.zeros((stop - start, *shape[1:]), bool)
    planes[(slice(None), *box[1:])] = mask
    return np.flatnonzero(planes) + start * int(np.prod(shape[1:]))
