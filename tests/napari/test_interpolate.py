"""Interpolate between slices: any Labels layer, any axis, one step to undo, nothing overwritten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

import dask.array as da
import numpy as np
import pytest
from gui import PLUGIN, open_scan, run
from qtpy.QtCore import QThreadPool

from l2gnet_core.interpolation.shapes import interpolate_slices
from napari_l2gnet.interpolate import InterpolateWidget


@pytest.fixture
def tool(make_napari_viewer: Callable[..., Any]) -> tuple[Any, InterpolateWidget]:
    """(viewer, the docked widget)."""
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Interpolate between slices")
    return viewer, widget


def painted(shape: tuple[int, ...] = (9, 20, 30)) -> np.ndarray:
    """A square in slice 1 and a larger one in slice 7, and another label in slice 7 alone."""
    labels = np.zeros(shape, np.uint16)
    labels[1, 6:10, 6:12] = 3
    labels[7, 4:14, 4:18] = 3
    labels[7, 15:18, 20:25] = 2
    return labels


def press(qtbot: Any, widget: InterpolateWidget) -> str:
    with qtbot.waitSignal(widget.job.done, timeout=20_000):
        widget.fill.native.click()
    return str(widget.message.value)


def test_slices_between_painted_ones_are_filled_in_one_step_that_can_be_undone(tool, qtbot):
    viewer, widget = tool
    assert not widget.fill.enabled
    assert "paint an organ in two slices" in widget.message.value
    assert "paint an organ in two slices" in widget.fill.native.toolTip()
    assert widget.cancel.native.toolTip() == "Nothing is running."
    before = painted()
    mask = viewer.add_labels(before.copy(), name="mine", scale=(8, 1, 2))
    assert widget.mask.value is mask
    assert widget.fill.enabled
    assert not widget.message.value
    viewer.add_image(np.zeros((9, 20, 30)), scale=(8, 1, 2))  # chosen now, where Ctrl-Z looks

    assert press(qtbot, widget) == (
        'Filled 5 slices of "mine" between 1 and 7. Ctrl-Z undoes this.'
    )
    expected = interpolate_slices(before, [1, 7], 0, (1.0, 2.0))
    assert np.array_equal(mask.data, expected)
    assert (mask.data[4] == 3).any()
    assert viewer.layers.selection.active is mask
    viewer.dims.set_point(0, 32)
    viewer.add_points()
    assert "Ctrl-Z" in widget.message.value
    mask.undo()
    assert np.array_equal(mask.data, before)
    # Nothing is promised that is done already.
    assert not widget.message.value


def test_only_the_selected_label_is_filled_and_others_stay(tool, qtbot):
    viewer, widget = tool
    before = painted()
    before[4] = 5  # a whole slice of another label
    before[4, 8, 8] = 0
    mask = viewer.add_labels(before.copy())
    mask.selected_label = 3
    widget.selected.value = True
    steps: list[Any] = []
    widget.job.yielded.connect(steps.append)
    assert press(qtbot, widget).startswith("Filled 5 slices")
    assert any(step.seconds_left is not None for step in steps[:-1])
    assert (mask.data[before > 0] == before[before > 0]).all()
    assert mask.data[4, 8, 8] == 3
    assert set(np.unique(mask.data[[2, 3, 5, 6]])) == {0, 3}


def test_borders_follow_the_image_that_was_painted_on(tool, qtbot):
    viewer, widget = tool
    y, x = np.mgrid[:40, :40]
    whole = np.stack([np.hypot(y - 20 - 5 * np.sin(z), x - 20) < 8 for z in range(9)])
    scan = viewer.add_image(np.where(whole, 200.0, 50.0), scale=(8, 1, 2))
    viewer.add_image(np.zeros((9, 40, 40)), name="elsewhere", scale=(4, 1, 2))
    viewer.add_image(np.zeros((9, 40, 40, 3)), name="colours", rgb=True)
    before = np.where(np.isin(np.arange(9), [0, 3, 6, 8])[:, None, None], 4 * whole, 0)
    mask = viewer.add_labels(before.astype(np.uint8), scale=(8, 1, 2))
    # Chosen by itself, and no image but one on the same grid is offered.
    assert widget.image.value is scan
    assert set(widget.image.choices) == {scan, None}
    press(qtbot, widget)
    followed = (mask.data[1:8] == 4) == whole[1:8]
    mask.undo()
    assert np.array_equal(mask.data, before)
    widget.image.value = None
    press(qtbot, widget)
    by_shape = (mask.data[1:8] == 4) == whole[1:8]
    assert followed.mean() > by_shape.mean() + 0.02


@pytest.mark.parametrize("axis", [1, 2])
def test_slices_lie_along_the_slider(tool, qtbot, axis):
    viewer, widget = tool
    before = np.moveaxis(painted(), 0, axis)
    mask = viewer.add_labels(before.copy(), scale=(8, 1, 2))
    viewer.dims.order = (axis, *(other for other in range(3) if other != axis))
    press(qtbot, widget)
    across = np.delete([8.0, 1.0, 2.0], axis)
    assert np.array_equal(mask.data, interpolate_slices(before, [1, 7], axis, tuple(across)))


def test_of_a_time_series_the_frame_on_screen_is_filled(tool, qtbot):
    viewer, widget = tool
    before = np.stack([np.zeros((9, 20, 30), np.uint16), painted()])
    mask = viewer.add_labels(before.copy())
    viewer.dims.set_point(0, 0)
    widget.fill.native.click()
    assert widget.message.value == (
        "Expected two annotated slices with others between them, but the mask is annotated in "
        "none; paint another slice."
    )
    viewer.dims.set_point(0, 1)
    press(qtbot, widget)
    assert not mask.data[0].any()
    assert np.array_equal(mask.data[1], interpolate_slices(before[1], [1, 7]))


def test_strokes_made_meanwhile_stay(tool, qtbot):
    viewer, widget = tool
    mask = viewer.add_labels(painted())
    with qtbot.waitSignal(widget.job.done, timeout=20_000):
        widget.fill.native.click()
        mask.data_setitem((np.array([4]), np.array([8]), np.array([8])), 7)
    assert mask.data[4, 8, 8] == 7
    assert (mask.data[4] == 3).any()


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Fillings by an image stop before their last slice until this is set."""
    go_on = threading.Event()

    def slow(*_: Any) -> Generator[tuple[int, int], None, np.ndarray]:
        for done in range(8):
            yield done, 9
        assert go_on.wait(10)
        yield 8, 9
        return np.ones((9, 20, 30), np.uint16)

    monkeypatch.setattr("l2gnet_core.interpolation.guided.guided_slices", slow)
    return go_on


def test_it_tells_how_far_it_is_and_cancel_leaves_the_mask_as_it_was(tool, qtbot, go_on):
    viewer, widget = tool
    viewer.add_image(np.zeros((9, 20, 30)))
    mask = viewer.add_labels(painted(), name="mine")
    before = mask.data.copy()
    assert widget.bar.isHidden()
    assert not widget.cancel.enabled
    widget.fill.native.click()
    assert not widget.bar.isHidden()
    assert not widget.fill.enabled
    assert widget.fill.native.toolTip() == "Wait until the mask is filled in, or cancel that."
    assert widget.cancel.native.toolTip() == "Stop. The mask stays unchanged"
    qtbot.waitUntil(lambda: widget.bar.value() == round(1000 * 7 / 9))
    assert widget.bar.format().startswith("Interpolating")
    widget.cancel.native.click()
    assert widget.message.value == 'Cancelled: "mine" is unchanged. What you painted stays.'
    assert widget.bar.isHidden()
    assert not widget.cancel.enabled
    assert widget.fill.enabled
    go_on.set()
    assert QThreadPool.globalInstance().waitForDone(10_000)
    qtbot.wait(50)
    assert np.array_equal(mask.data, before)
    assert widget.message.value.startswith("Cancelled")
    # Nothing is said of a mask that is not chosen any more.
    widget.mask.value = viewer.add_labels(painted())
    assert not widget.message.value


def test_a_mask_that_is_deleted_meanwhile_is_left_alone(tool, qtbot, go_on):
    viewer, widget = tool
    viewer.add_image(np.zeros((9, 20, 30)))
    viewer.add_labels(painted(), name="other")
    mask = viewer.add_labels(painted())
    widget.mask.value = mask
    widget.fill.native.click()
    # Another mask is chosen, and the list of masks stays as it is.
    widget.mask.value = viewer.layers["other"]
    assert widget.job.busy
    viewer.layers.remove(mask)
    assert not widget.job.busy
    assert not widget.message.value
    go_on.set()
    assert QThreadPool.globalInstance().waitForDone(10_000)
    qtbot.wait(50)
    assert np.array_equal(mask.data, painted())
    assert not widget.message.value


def test_what_cannot_be_interpolated_is_said_in_a_sentence(tool):
    viewer, widget = tool
    mask = viewer.add_labels(painted())
    before = mask.data.copy()
    mask.selected_label = 2
    widget.selected.value = True
    widget.fill.native.click()
    assert "label 2 is annotated in slice 7; paint another slice." in widget.message.value
    mask.selected_label = 0
    widget.fill.native.click()
    assert "0 is the background" in widget.message.value
    widget.selected.value = False
    viewer.dims.ndisplay = 3
    widget.fill.native.click()
    assert "switch to 2-D" in widget.message.value
    viewer.dims.ndisplay = 2
    assert np.array_equal(mask.data, before)
    viewer.layers.clear()
    viewer.add_labels(np.zeros((5, 5), int), name="flat")
    widget.fill.native.click()
    assert '"flat" has 2 axes' in widget.message.value
    viewer.layers.clear()
    viewer.add_labels(da.from_array(before), name="lazy")
    widget.fill.native.click()
    assert '"lazy" is read from disk' in widget.message.value


def test_masks_of_segment_are_left_to_correct(segment_widget, scan_file, qtbot):
    viewer, segment = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, segment)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Interpolate between slices")
    assert widget.mask.value is None
    assert "Correct & fine-tune" in widget.message.value
    own = viewer.add_labels(np.zeros((6, 40, 48), np.uint8), name="own")
    assert widget.mask.choices == (own,)
