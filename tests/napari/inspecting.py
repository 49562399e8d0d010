"""Scans with made-up looks, and what a person does with the Inspect widget, for the tests of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)

from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.segmenting.trace import SliceTrace, Trace
from napari_l2gnet.inspect.widget import InspectWidget
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.scans.layers import volume_of

NAMES = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
STRIDE = 16


def made_up_trace(
    shape: tuple[int, int, int],
    codes: int,
    references: int | None,
    rng: np.random.Generator,
    zoom: int = 1,
    margin: int = 0,
) -> Trace:
    """A trace with random codes in every cell and random rows of a plan.

    zoom: how many times as large the model is shown slices. margin: voxels at each edge that it is
    not shown.
    """
    from l2gnet_core.segmenting.cells import cell_grid
    from l2gnet_core.segmenting.slice_view import SliceView

    height, width = (side - 2 * margin for side in shape[1:])
    seen, margins = (zoom * height, zoom * width), ((margin, margin),) * 2
    straight = (False, False, False)
    view = SliceView((0, 1, 2), straight, (shape[0], height, width), seen, 1, margins)
    vectors = rng.normal(size=(codes, 8)).astype(np.float32)
    given = None if references is None else rng.normal(size=(references, 8)).astype(np.float32)
    trace = Trace(cell_grid(view, STRIDE), vectors, given)
    for index in range(shape[0]):
        drawn = rng.integers(0, codes, trace.cells.size).astype(np.int16)
        used = rows = None
        if references is not None:
            used = np.unique(drawn)
            rows = rng.random((len(used), references)).astype(np.float32)
            rows /= rows.sum(1, keepdims=True)
        error = rng.random(trace.cells.size).astype(np.float32)
        entropy = rng.random(shape[1:], np.float32).astype(np.float16)
        trace.add(index, SliceTrace(drawn, error, entropy, used, rows))
    return trace


def inspectable(
    viewer: Any,
    shape: tuple[int, int, int] = (4, 64, 80),
    codes: int = 12,
    references: int | None = 8,
    seed: int = 0,
    image: Any = None,
    name: str = "made up",
    **card: Any,
) -> MaskLayer:
    """A scan with a mask of rings, and what a model saw of it."""
    rng = np.random.default_rng(seed)
    if image is None:
        scan = rng.integers(0, 99, shape).astype(np.uint8)
        image = viewer.add_image(scan, name="scan", scale=(8, 1.5, 1.5), units=("mm",) * 3)
    of = ModelCard(name, LabelSet.from_names(NAMES), **card)
    mask = MaskLayer.add(viewer, image, volume_of(image).grid, of, 0)
    y, x = np.ogrid[: shape[1], : shape[2]]
    away = np.hypot(y - shape[1] / 2, x - shape[2] / 2) / min(shape[1:])
    rings = np.select([away < 0.12, away < 0.2, away < 0.3], [3, 2, 1], 0)
    for index in range(shape[0]):
        mask.put((0, index), rings.astype(np.uint8))
    mask.segmentation.traces[0] = made_up_trace(shape, codes, references, rng)
    return mask


def inspect(qtbot: Any, viewer: Any) -> InspectWidget:
    """Dock the widget and wait until it shows what there is."""
    widget = InspectWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Inspect")
    settle(qtbot, widget)
    return widget


def settle(qtbot: Any, widget: InspectWidget) -> None:
    """Wait until nothing is under way."""
    qtbot.wait(10)
    qtbot.waitUntil(lambda: not (widget.jobs.busy or widget.looking.jobs.busy), timeout=60_000)


def world(mask: MaskLayer, *voxel: int) -> tuple[float, ...]:
    """Where a voxel of a mask lies."""
    return tuple(mask.layer.data_to_world(voxel))


def code_map(mask: MaskLayer) -> np.ndarray:
    """The code of every voxel (z,y,x), each cell 16 voxels wide."""
    trace = mask.segmentation.traces[0]
    _, height, width = trace.cells.shape
    return trace.codes.repeat(STRIDE, 1).repeat(STRIDE, 2)[:, :height, :width]


class Mouse:
    """What napari hands to mouse callbacks."""

    def __init__(self, kind: str, position: tuple[float, ...], x: float) -> None:
        self.type, self.position, self.pos = kind, position, np.array([x, 50.0])
        self.button, self.modifiers = 1, ()
        self.is_dragging = kind == "mouse_move"


def click(viewer: Any, position: tuple[float, ...], drag: float = 0) -> None:
    """Press, move a bit, release, as napari's canvas does it."""
    mouse_press_callbacks(viewer, ReadOnlyWrapper(Mouse("mouse_press", position, 50)))
    if drag:
        mouse_move_callbacks(viewer, ReadOnlyWrapper(Mouse("mouse_move", position, 50 + drag)))
    mouse_release_callbacks(viewer, ReadOnlyWrapper(Mouse("mouse_release", position, 50 + drag)))
