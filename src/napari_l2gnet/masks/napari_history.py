"""All that reads or replaces internals of napari's Labels layers, as of napari 0.9.

Methods are replaced on the one layer that shows a mask. A subclass of Labels could override them,
but napari looks up the help in its status bar by the very class Labels, and the layer's icon,
copies and files by the name of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from numpy.typing import ArrayLike, NDArray

from l2gnet_core.project.state import SliceKey

if TYPE_CHECKING:
    from napari_l2gnet.masks.layer import MaskLayer


def painting_events(layer: Labels) -> tuple[Any, Any]:
    """The events of a layer after which something may have been painted: `paint` ends a stroke,
    which redraws only the part that it touched; undo and scripts only redraw everything."""
    return layer.events.paint, layer.events.set_data


def is_stroke_under_way(layer: Labels) -> bool:
    """Is a brush drawing? A write in the meantime would become part of its stroke."""
    return bool(layer._block_history)  # noqa: SLF001 – napari tells it nowhere else


def set_voxels(layer: Labels, where: tuple[NDArray[np.intp], ...], labels: ArrayLike) -> None:
    """Set voxels of a layer as one step that undo takes back; where: an index for each axis.

    As `Labels.data_setitem`, which raises IndexError in a hidden layer: it also redraws what is on
    screen, and napari does not keep that of hidden layers up to date.
    """
    if not layer.visible:
        layer.set_view_slice()
    layer.data_setitem(where, labels)


def report_edits(mask: MaskLayer) -> None:
    """Report strokes on a mask's layer, their undo and redo, and new data to its segmentation."""
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
            mask.name_coverage()

    def replaced(_: Any) -> None:
        if isinstance(layer.data, np.ndarray):
            segmentation.replace(layer.data)

    def editable(_: Any) -> None:
        if not layer.editable:
            history.clear()  # as the layer does

    def then(replay: Callable[[], None], tell: Callable[[], tuple[int, ...]]) -> Callable[[], None]:
        def replay_and_tell() -> None:
            replay()
            # First: reviews that are restored cover the organs of the mask.
            mask.bring_back_organs()
            for organ in tell():
                mask.take_out(organ)
            # An answer that is undone may have been the first one of some slices.
            mask.name_coverage()
            layer.refresh()
            if not layer.visible:
                layer.events.set_data()  # which a hidden layer does not draw, nor tell of

        return replay_and_tell

    layer.events.paint.connect(painted)
    layer.events.editable.connect(editable)
    layer.events.data.connect(replaced)
    # napari has no events for undo and redo, and their effects cannot be told apart.
    layer.undo = then(layer.undo, history.undone)
    layer.redo = then(layer.redo, history.redone)


def allow_no_direction(layer: Labels) -> None:
    """Let a layer be asked for its value in 3-D without a view direction.

    napari does so where a layer becomes active below a pointer that rests, and Labels with names of
    labels then raise TypeError.
    """
    value_at = layer.get_value

    def get_value(position: Any, *, view_direction: Any = None, **more: Any) -> Any:
        # napari passes None as an array.
        if np.ndim(view_direction) == 0:
            view_direction = None
        return value_at(position, view_direction=view_direction, **more)

    layer.get_value = get_value


def _changes(
    atoms: Sequence[tuple[Any, ...]], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[Any]]:
    """The voxels (flat indices, each once) of one item of napari's history, and their labels before
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
        # Each once and in order already, as in one fill: sorting a whole scan takes half a minute.
        return everywhere, first, last
    # For a voxel that was changed twice: its first label before, and its last label after.
    unique, at = np.unique(everywhere, return_index=True)
    _, from_the_end = np.unique(everywhere[::-1], return_index=True)
    return unique, first[at], last[::-1][from_the_end]


def _inside(
    box: Sequence[slice], mask: NDArray[np.bool_], shape: tuple[int, ...]
) -> NDArray[np.intp]:
    """Voxels (flat indices, in order) of an array where the mask of a box in it is true."""
    # By whole planes: converting the three indices of every voxel takes seconds for a large fill.
    start, stop, _ = box[0].indices(shape[0])
    planes = np.zeros((stop - start, *shape[1:]), bool)
    planes[(slice(None), *box[1:])] = mask
    return np.flatnonzero(planes) + start * int(np.prod(shape[1:]))
