"""The Segment widget in a real viewer: run, cancel, run again, paint, save."""

from __future__ import annotations

import time
from collections.abc import Generator
from html import unescape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import NAMES, save_untrained
from generators import ended
from gui import PLUGIN, open_scan, run, slow_down
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QTableWidget,
)

from l2gnet_core.models.card import Expectations
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting import slice_view
from napari_l2gnet.inspect.inspection import inspection_of
from napari_l2gnet.jobs.segment_events import SliceSegmented
from napari_l2gnet.jobs.session import Request, Session
from napari_l2gnet.scans.layers import VIEW_KEY, transform_of
from napari_l2gnet.segment.form import RANGE, THIS_SLICE
from napari_l2gnet.segment.what_to_segment import outward, place_shown
from napari_l2gnet.segment.widget import SegmentWidget


def test_a_whole_scan_is_segmented_and_saved_on_its_own_grid(
    segment_widget: Any, scan_file: Path, tmp_path: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    assert run(qtbot, widget) == "finished"
    mask = widget.current_mask.layer
    assert mask.data.shape == image.data.shape
    assert mask.data.any()
    ours, its = transform_of(mask), transform_of(image)
    for key in ours:
        np.testing.assert_array_equal(ours[key], its[key], err_msg=key)
    path = tmp_path / "mask.nii.gz"
    assert mask.save(str(path), plugin=PLUGIN) == [str(path)]
    saved, scan = nib.load(path), nib.load(scan_file)
    assert saved.shape == scan.shape
    np.testing.assert_array_equal(saved.affine, scan.affine)
    assert saved.get_qform(coded=True)[1] == scan.get_qform(coded=True)[1] == 1
    assert saved.get_sform(coded=True)[1] == scan.get_sform(coded=True)[1] == 2
    np.testing.assert_array_equal(np.asarray(saved.dataobj).T, mask.data)


def test_the_mask_is_what_the_command_line_writes(
    segment_widget: Any, scan_file: Path, tmp_path: Path, qtbot: Any, user_models: Path
) -> None:
    from l2gnet_core.cli import main

    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    main(["segment", str(scan_file), "-o", str(tmp_path / "cli.nii"), "--model", "scribbler"])
    written = np.asarray(nib.load(tmp_path / "cli.nii").dataobj).T
    np.testing.assert_array_equal(written, widget.current_mask.layer.data)


def test_cancel_keeps_what_is_finished_and_a_second_run_completes(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    slow_down(monkeypatch, 0.15)
    widget.start.click()
    qtbot.waitUntil(
        lambda: widget.current_mask and len(widget.current_mask.segmentation.finished) >= 2
    )
    asked = time.perf_counter()
    with qtbot.waitSignal(widget.run_ended, timeout=5000) as ended:
        widget.cancel.click()
    assert ended.args == ["cancelled"]
    assert time.perf_counter() - asked < 1
    finished = widget.current_mask.segmentation.finished
    assert 2 <= len(finished) < 6
    kept = widget.current_mask.layer.data.copy()
    assert all(kept[index].any() for _, index in finished)
    # What the model saw of the others was computed with these, but they hold no answer.
    (trace,) = widget.current_mask.segmentation.traces.values()
    assert np.flatnonzero(trace.seen).tolist() == sorted(index for _, index in finished)
    assert f"{len(finished)} of 6 slices are segmented and kept" in widget.message.text()
    layer = widget.current_mask.layer
    told = f"{len(finished)} of 6 slices"
    qtbot.waitUntil(lambda: told in widget.coverage.text() and not widget.coverage.isHidden())
    assert layer.name == f"scan · scribbler ({len(finished)} of 6)"
    for row, (_, voxels, ml) in enumerate(widget.organs.rows()):
        assert voxels.startswith("≥")
        assert ml.startswith("≥")
        assert told in widget.organs.item(row, 3).toolTip()
    with qtbot.waitSignal(widget.run_ended, timeout=20_000) as ended:
        widget.start.click()
        assert widget.bar.format() == ""
    assert ended.args == ["finished"]
    qtbot.waitUntil(lambda: not any("≥" in "".join(row) for row in widget.organs.rows()))
    assert widget.coverage.isHidden()
    assert layer.name == "scan · scribbler"
    # Nobody painted, so the run goes on in the same layer.
    assert widget.current_mask.layer is layer
    assert len(widget.current_mask.segmentation.finished) == 6


def test_the_slice_on_screen_comes_first(segment_widget: Any, scan_file: Path, qtbot: Any) -> None:
    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    viewer.dims.set_point(0, image.data_to_world((4, 0, 0))[0])
    assert place_shown(image, viewer.dims, 0) == (0, 4)
    near_first = [(0, 4), (0, 3), (0, 5), (0, 2), (0, 1), (0, 0)]
    assert widget.choice.places(image, image.data.shape, 0) == near_first
    assert outward((1, 0), 3, range(1, 3)) == [(1, 1), (1, 2), (0, 1), (2, 1), (0, 2), (2, 2)]
    before = viewer.dims.point
    assert run(qtbot, widget) == "finished"
    assert viewer.dims.point == before


def test_one_slice_and_a_range(segment_widget: Any, scan_file: Path, qtbot: Any) -> None:
    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    viewer.dims.set_point(0, image.data_to_world((2, 0, 0))[0])
    widget.region.setCurrentIndex(THIS_SLICE)
    run(qtbot, widget)
    assert widget.current_mask.segmentation.finished == {(0, 2)}
    widget.region.setCurrentIndex(RANGE)
    widget.first.setValue(3)
    widget.last.setValue(4)
    run(qtbot, widget)
    assert widget.current_mask.segmentation.finished == {(0, 2), (0, 3), (0, 4)}
    assert not widget.current_mask.layer.data[[0, 1, 5]].any()


def test_a_painted_mask_is_never_overwritten(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    painted = widget.current_mask.layer
    another = painted.data[2, 5, 6] % 3 + 1
    painted.data_setitem((np.array([2]), np.array([5]), np.array([6])), another)
    copy = painted.data.copy()
    run(qtbot, widget)
    np.testing.assert_array_equal(painted.data, copy)
    assert widget.current_mask.layer is not painted
    assert len(viewer.layers) == 3
    text = unescape(widget.message.text())
    assert '"scan · scribbler" holds your work and is not changed.' in text
    assert 'goes into "scan · scribbler [1]".' in text
    # That one is nobody's yet: there is nothing to say of the next run.
    run(qtbot, widget)
    assert "goes into" not in widget.message.text()


def test_a_model_file_that_is_written_over_gets_a_mask_of_its_own(
    segment_widget: Any, scan_file: Path, user_models: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    first = widget.current_mask
    trace = first.segmentation.traces[0]
    inspection = inspection_of(first, 0)
    inspection.found = ended(inspection.prepare())
    assert inspection.is_current
    # Other weights, the same organs: what was seen by the others' codes is forgotten.
    save_untrained(user_models, "scribbler", 1, expects=widget.card.expects)
    widget.region.setCurrentIndex(THIS_SLICE)
    run(qtbot, widget)
    assert widget.current_mask.layer is first.layer
    again = first.segmentation.traces[0]
    assert again is not trace
    assert again.seen.sum() == 1
    assert not inspection.is_current
    # The same weights once more: what was worked out of the slice is worked out again.
    inspection.found = ended(inspection.prepare())
    run(qtbot, widget)
    assert first.segmentation.traces[0] is again
    assert not inspection.is_current
    save_untrained(user_models, "scribbler", 2, {1: "liver", 2: "spleen"})
    before = first.layer.data.copy()
    run(qtbot, widget)
    assert widget.current_mask.layer is not first.layer
    assert widget.current_mask.segmentation.card.labels.names == {1: "liver", 2: "spleen"}
    np.testing.assert_array_equal(first.layer.data, before)


def test_a_stroke_while_slices_stream_in_stays(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    slow_down(monkeypatch, 0.1)
    widget.start.click()
    stroke = (np.full(9, 5), np.repeat([10, 11, 12], 3), np.tile([10, 11, 12], 3))
    widget.current_mask.layer.data_setitem(stroke, 2)
    qtbot.waitUntil(lambda: not widget.running, timeout=10_000)
    layer = widget.current_mask.layer
    assert (layer.data[stroke] == 2).all()
    assert (0, 5) in widget.current_mask.segmentation.finished
    # Undone, the stroke leaves no hole: all is as if there had been none.
    layer.undo()
    undone = layer.data.copy()
    assert run(qtbot, widget) == "finished"
    assert widget.current_mask.layer is layer
    np.testing.assert_array_equal(layer.data, undone)
    layer.redo()
    assert (layer.data[stroke] == 2).all()


def test_a_time_series_is_segmented_frame_by_frame(
    segment_widget: Any, tmp_path: Path, qtbot: Any
) -> None:
    rng = np.random.default_rng(1)
    data = rng.integers(0, 900, (32, 32, 3, 2)).astype(np.int16)
    path = tmp_path / "cine.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([1.4, 1.4, 8, 1])), path)
    viewer, widget = segment_widget()
    image = open_scan(viewer, path)
    assert image.data.shape == (2, 3, 32, 32)
    viewer.dims.set_current_step(0, 1)
    run(qtbot, widget)
    assert widget.current_mask.layer.data.shape == (2, 3, 32, 32)
    assert len(widget.current_mask.segmentation.finished) == 6
    # Columns by time are no slice of it.
    widget.region.setCurrentIndex(THIS_SLICE)
    viewer.dims.order = (1, 2, 3, 0)
    widget.start.click()
    assert not widget.running
    assert "slices the scan along another axis" in widget.message.text()


def test_a_failing_run_says_so_and_changes_nothing(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    before = widget.current_mask.layer.data.copy()

    def broken(*_: Any, **__: Any) -> Generator[Any, None, None]:
        # napari's own generator workers swallow RuntimeError without a word.
        raise RuntimeError("out of luck")
        yield

    monkeypatch.setattr("l2gnet_core.segmenting.predict.predict_slices", broken)
    monkeypatch.setattr("napari_l2gnet.segment.run.show_error", lambda _: None)
    assert run(qtbot, widget) == "failed"
    assert "out of luck" in widget.message.text()
    np.testing.assert_array_equal(widget.current_mask.layer.data, before)
    assert widget.start.isEnabled()


def test_a_colour_image_is_refused_in_one_sentence(segment_widget: Any) -> None:
    viewer, widget = segment_widget()
    viewer.add_image(np.zeros((20, 20, 3), np.uint8), rgb=True)
    assert "colour image" in widget.message.text()
    assert not widget.start.isEnabled()
    widget.region.setCurrentIndex(THIS_SLICE)
    assert not widget.start.isEnabled()


def test_messages_show_quotes_as_quotes(segment_widget: Any) -> None:
    _, widget = segment_widget()
    widths = []
    for text in ("not 'SP' & \"x\"", "not ’SP’ + ”x”"):
        widget.show_message(text, False, ())
        widget.message.setWordWrap(False)
        widths.append(widget.message.sizeHint().width())
    # Shown as "&#x27;" they would be much longer than quotes that need no escape.
    assert widths[0] == pytest.approx(widths[1], rel=0.2)


def test_warnings_about_an_unfitting_scan(segment_widget: Any, qtbot: Any) -> None:
    viewer, widget = segment_widget()
    ct = np.linspace(-100, 100, 4 * 32 * 32).reshape(4, 32, 32).astype(np.float32)
    ct[:, :10] = -1000
    layer = viewer.add_image(ct, scale=(1, 1, 1), name="ct")
    assert "units are pixels: sizes cannot be checked" in widget.message.text()
    layer.units = "mm"
    assert "The slices are 1 mm apart" in widget.message.text()
    run(qtbot, widget)
    assert "looks like a CT" in widget.message.text()


def test_the_layer_list_follows_renames_and_removals(segment_widget: Any, scan_file: Path) -> None:
    viewer, widget = segment_widget()
    assert not widget.start.isEnabled()
    assert "Open a scan" in widget.start.toolTip()
    image = open_scan(viewer, scan_file)
    other = viewer.add_image(np.zeros((4, 20, 20)), name="other")
    widget.image.choose(image)
    image.name = "renamed"
    viewer.layers.move(0, 2)
    assert widget.image.layer is image
    assert widget.image.currentText() == "renamed"
    viewer.layers.remove(image)
    assert widget.image.layer is other


def disabled(widget: Any) -> dict[Any, str]:
    """Every control that is off, with what its tooltip says."""
    controls = (QAbstractButton, QComboBox, QAbstractSpinBox, QTableWidget)
    return {
        control: control.toolTip()
        for kind in controls
        for control in widget.findChildren(kind)
        # A table has a button of its own in the corner of its headers, never to be seen here.
        if not control.isEnabled() and not isinstance(control.parent(), QTableWidget)
    }


def test_every_disabled_control_says_why(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    widget.region.setCurrentIndex(RANGE)
    off = disabled(widget)
    no_scan = {widget.start, widget.image, widget.axis, widget.region, widget.first, widget.last}
    assert no_scan <= set(off)
    assert all("Open a scan first" in off[control] for control in no_scan)
    assert all(off.values())
    viewer.add_image(np.zeros((20, 20, 3), np.uint8), rgb=True)
    off = disabled(widget)
    assert all("colour image" in off[control] for control in no_scan - {widget.image})
    assert all(off.values())
    widget.image.choose(open_scan(viewer, scan_file))
    off = disabled(widget)
    assert off.pop(widget.cancel) == "Nothing is running."
    assert set(off.values()) == {"Press Segment first."}
    assert widget.organs in off
    item = widget.organs.item(0, 1)
    assert item.toolTip() == "Press Segment first."
    slow_down(monkeypatch, 0.1)
    with qtbot.waitSignal(widget.run_ended, timeout=20_000):
        widget.start.click()
        off = disabled(widget)
        assert set(off.values()) == {"A run is in progress. Cancel it first."}
        assert {*no_scan, widget.model, widget.largest, widget.holes} <= set(off)
        assert "Label 1" in widget.organs.item(0, 1).toolTip()
        assert "Finished slices are kept" in widget.cancel.toolTip()
    assert set(disabled(widget)) == {widget.cancel}
    assert widget.start.toolTip() == "Find the organs in the scan"
    assert "axis along which" in widget.axis.toolTip()


def test_removing_the_mask_during_a_run_ends_it(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    slow_down(monkeypatch, 0.1)
    widget.start.click()
    with qtbot.waitSignal(widget.run_ended, timeout=5000) as ended:
        viewer.layers.remove(widget.current_mask.layer)
    assert ended.args == ["cancelled"]
    assert "Stopped: the mask was deleted." in widget.message.text()
    assert run(qtbot, widget) == "finished"


def test_closing_the_dock_ends_the_run(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    slow_down(monkeypatch, 0.1)
    widget.start.click()
    with qtbot.waitSignal(widget.run_ended, timeout=5000) as ended:
        # As its title bar's button does: no close event comes of it.
        viewer.window.remove_dock_widget(widget)
    assert ended.args == ["cancelled"]
    listening = len(viewer.layers.events.removed.callbacks)
    widget.close()
    assert len(viewer.layers.events.removed.callbacks) == listening


def test_closing_the_viewer_during_a_run_is_safe(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    slow_down(monkeypatch, 0.1)
    widget.start.click()
    qtbot.wait(150)
    viewer.close()
    qtbot.wait(300)


def test_a_run_writes_to_its_own_mask_whatever_is_chosen_meanwhile(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    first = open_scan(viewer, scan_file)
    run(qtbot, widget)
    finished = widget.current_mask.layer
    before = finished.data.copy()
    second = viewer.add_image(first.data[::-1] // 2, name="second", scale=(8, 1.4, 1.4))
    widget.image.choose(second)
    slow_down(monkeypatch, 0.1)
    with qtbot.waitSignal(widget.run_ended, timeout=20_000) as ended:
        widget.start.click()
        other = widget.current_mask.layer
        qtbot.wait(150)
        viewer.layers.remove(second)
        assert widget.image.layer is first
    assert ended.args == ["finished"]
    np.testing.assert_array_equal(finished.data, before)
    assert other.data.any()
    assert not widget.running
    # The finished mask is selected.
    assert widget.current_mask.layer is other
    widget.image.choose(first)
    assert widget.start.isEnabled()


def test_removing_the_only_image_during_a_run_leaves_a_working_widget(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    slow_down(monkeypatch, 0.05)
    with qtbot.waitSignal(widget.run_ended, timeout=20_000):
        widget.start.click()
        viewer.layers.remove(image)
    assert not widget.running
    open_scan(viewer, scan_file)
    assert run(qtbot, widget) == "finished"


def test_the_scan_that_is_opened_or_worked_on_is_the_chosen_one(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    first = open_scan(viewer, scan_file)
    run(qtbot, widget)
    mask = widget.current_mask.layer
    second = viewer.add_image(first.data[:1], name="second", scale=(8, 1.4, 1.4))
    assert widget.image.layer is second
    assert widget.axis.itemText(0).startswith("z, 1 slice ")
    viewer.layers.selection.active = mask
    assert widget.image.layer is first
    assert widget.current_mask.layer is mask
    # What is drawn over a scan is none.
    viewer.add_image(first.data, name="doubt", metadata={VIEW_KEY: ("heat", None)})
    viewer.add_labels(mask.data.copy())
    assert widget.image.layer is first


def test_the_selected_mask_is_followed_though_its_scan_is_deleted(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    first = open_scan(viewer, scan_file)
    run(qtbot, widget)
    mask = widget.current_mask.layer
    widget.model.setCurrentText("sided")
    run(qtbot, widget)
    sided = widget.current_mask.layer
    second = viewer.add_image(first.data // 2, name="second", scale=(8, 1.4, 1.4))
    widget.model.setCurrentText("scribbler")
    run(qtbot, widget)
    other = widget.current_mask.layer
    viewer.layers.remove(first)
    assert (widget.image.layer, widget.current_mask.layer) == (second, other)
    for layer, model in ((mask, "scribbler"), (sided, "sided")):
        viewer.layers.selection.active = layer
        assert widget.current_mask.layer is layer
        assert widget.model.currentText() == model
        assert widget.save_mask.isEnabled()
        # Its scan is not there to be segmented, and no other one is instead.
        second.name = f"the scan of no {model}"
        assert widget.image.layer is None
        assert "was deleted: open it again" in widget.message.text()
        assert "was deleted: open it again" in widget.start.toolTip()
        assert not widget.start.isEnabled()
    assert widget.image.isEnabled()
    before = other.data.copy()
    mask.data_setitem((np.array([1]), np.array([2]), np.array([3])), 1)
    viewer.layers.selection.active = mask
    with qtbot.waitSignal(widget.run_ended, timeout=5000):
        widget.largest.click()
    assert widget.current_mask.layer is mask
    np.testing.assert_array_equal(other.data, before)
    viewer.layers.remove(mask)
    viewer.layers.remove(sided)
    viewer.layers.selection.active = None
    assert widget.current_mask is None
    assert "Choose a scan first" in widget.message.text()
    assert widget.save_mask.toolTip() == "Press Segment first."
    viewer.layers.selection.active = other
    assert (widget.image.layer, widget.current_mask.layer) == (second, other)
    # So if another scan is opened, or this one deleted while its mask is selected.
    third = viewer.add_image(first.data // 3, name="third", scale=(8, 1.4, 1.4))
    viewer.layers.selection.active = other
    viewer.layers.remove(second)
    assert widget.image.layer is None
    assert widget.current_mask.layer is other
    viewer.layers.remove(third)
    assert widget.current_mask.layer is other
    viewer.layers.clear()
    assert "Open a scan first" in widget.message.text()
    assert widget.image.layer is None
    assert viewer.add_image(first.data, name="fourth") is widget.image.layer


def test_the_mask_of_a_scan_that_looks_like_a_mask_is_followed(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    scan = open_scan(viewer, scan_file)
    few = viewer.add_image(scan.data // scan.data.max(), name="few", scale=(8, 1.4, 1.4))
    widget.image.choose(few)
    run(qtbot, widget)
    mask = widget.current_mask.layer
    viewer.layers.selection.active = scan
    run(qtbot, widget)
    viewer.layers.selection.active = mask
    assert (widget.image.layer, widget.current_mask.layer) == (few, mask)


def test_a_scan_that_is_opened_during_a_run_is_chosen_after_it(
    segment_widget: Any, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    ct = np.linspace(-100, 100, 4 * 32 * 32).reshape(4, 32, 32).astype(np.float32)
    ct[:, :10] = -1000
    first = viewer.add_image(ct, name="first", scale=(8, 1, 1), units=("mm",) * 3)
    with qtbot.waitSignal(widget.run_ended, timeout=20_000):
        widget.start.click()
        second = viewer.add_image(ct, name="second", units=("mm",) * 3)
        assert widget.image.layer is first
    assert widget.image.layer is second
    assert widget.current_mask is None
    # What is unusual is said of the one that it is of.
    assert "⚠ The slices are 1 mm apart" in widget.message.text()
    assert "⚠ first · scribbler: The scan looks like a CT" in widget.message.text()
    # A choice by hand stays, whatever runs.
    widget.image.choose(first)
    assert run(qtbot, widget) == "finished"
    assert widget.image.layer is first


def test_what_is_not_found_is_told_without_a_voxel_size(
    segment_widget: Any, user_models: Path, qtbot: Any
) -> None:
    # More organs than are found in a plain image.
    save_untrained(user_models, "many", labels={id: f"organ {id}" for id in range(1, 30)})
    viewer, widget = segment_widget()
    widget.model.setCurrentText("many")
    viewer.add_image(np.ones((2, 32, 32), np.float32), name="plain")
    assert run(qtbot, widget) == "finished"
    assert widget.organs.rows()[0][2] == "–"
    assert "found. The scan may not show" in widget.message.text()


def test_what_is_unusual_about_a_scan_that_is_deleted_is_not_said_of_another(
    segment_widget: Any, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    ct = np.linspace(-100, 100, 4 * 32 * 32).reshape(4, 32, 32).astype(np.float32)
    ct[:, :10] = -1000
    second = viewer.add_image(ct, name="second", units=("mm",) * 3)
    first = viewer.add_image(ct, name="first", scale=(8, 1, 1), units=("mm",) * 3)
    with qtbot.waitSignal(widget.run_ended, timeout=20_000):
        widget.start.click()
        viewer.layers.remove(first)
        assert widget.image.layer is second
        viewer.layers.selection.active = second
    lines = widget.message.text().split("⚠ ")[1:]
    assert [line for line in lines if "1 mm apart" in line] == [lines[0]]
    assert lines[0].startswith("The slices")
    assert any(line.startswith("first · scribbler: The scan looks like a CT") for line in lines)
    assert not any(line.startswith("The scan") for line in lines)


def test_a_mask_that_opens_as_an_image_is_not_taken_for_the_scan(
    segment_widget: Any, scan_file: Path
) -> None:
    viewer, widget = segment_widget()
    scan = open_scan(viewer, scan_file)
    mask = viewer.add_image((scan.data > scan.data.mean()).astype(np.uint8), **transform_of(scan))
    assert viewer.layers.selection.active is mask
    assert widget.image.layer is scan
    assert "looks like a mask" not in widget.message.text()
    widget.image.choose(mask)
    assert "This looks like a mask, not a scan" in widget.message.text()


def test_a_widget_that_is_opened_again_shows_the_newest_mask_or_the_selected_one(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    first = open_scan(viewer, scan_file)
    run(qtbot, widget)
    mask = widget.current_mask.layer
    viewer.add_image(first.data, name="second")
    viewer.layers.selection.active = first
    viewer.window.remove_dock_widget(widget)
    again = SegmentWidget(viewer, widget.session)
    viewer.window.add_dock_widget(again, name="Segment")
    assert again.image.layer is first
    assert again.model.currentText() == "scribbler"
    assert again.current_mask.layer is mask
    again.model.setCurrentText("sided")
    run(qtbot, again)
    assert again.current_mask.layer is not mask
    viewer.layers.selection.active = mask
    viewer.window.remove_dock_widget(again)
    last = SegmentWidget(viewer, widget.session)
    viewer.window.add_dock_widget(last, name="Segment")
    assert last.current_mask.layer is mask


def test_an_image_that_was_moved_gets_a_mask_that_lies_on_it(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    run(qtbot, widget)
    old = widget.current_mask.layer
    image.scale = (10, 2, 2)
    run(qtbot, widget)
    # It has moved along, and is still on the file's grid.
    assert widget.current_mask.layer is old
    viewer.layers.remove(old)
    run(qtbot, widget)
    np.testing.assert_array_equal(widget.current_mask.layer.scale, (10, 2, 2))


def test_not_a_number_in_a_layer_counts_as_its_lowest_value(
    segment_widget: Any, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    data = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    data[0, 0, 0] = np.nan
    viewer.add_image(data, name="holes")
    assert run(qtbot, widget) == "finished"
    assert "not finite" in widget.message.text()
    assert "one intensity" not in widget.message.text()


def test_the_edges_say_which_side_is_which(segment_widget: Any, scan_file: Path) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    left, right, top, bottom = "l2gnet_left", "l2gnet_right", "l2gnet_top", "l2gnet_bottom"
    # As radiologists look at it: the patient's right on the left, front up.
    assert widget.letters.letters() == {left: "R", right: "L", top: "A", bottom: "P"}
    viewer.dims.order = (1, 0, 2)
    assert widget.letters.letters() == {left: "R", right: "L", top: "I", bottom: "S"}
    viewer.scene.camera.orientation2d = ("up", "right")
    assert widget.letters.letters() == {left: "R", right: "L", top: "S", bottom: "I"}
    assert viewer.canvas.overlays[top].text == "S"
    viewer.dims.ndisplay = 3
    assert not viewer.canvas.overlays[top].visible
    viewer.dims.ndisplay = 2
    viewer.add_image(np.zeros((4, 20, 20)), name="nobody knows")
    assert widget.letters.letters() is None


def test_the_edges_are_those_of_the_scan_that_is_worked_on(
    segment_widget: Any, scan_file: Path, tmp_path: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    first = open_scan(viewer, scan_file)
    run(qtbot, widget)
    mask = widget.current_mask.layer
    left, right, top, bottom = "l2gnet_left", "l2gnet_right", "l2gnet_top", "l2gnet_bottom"
    of_first = {left: "R", right: "L", top: "A", bottom: "P"}
    assert widget.letters.letters() == of_first
    data = np.zeros((40, 48, 6), np.int16)
    turned = np.array([[0, 0, 8, 0], [-1.4, 0, 0, 0], [0, -1.4, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(data, turned), tmp_path / "sagittal.nii")
    second = open_scan(viewer, tmp_path / "sagittal.nii")
    of_second = {left: "A", right: "P", top: "S", bottom: "I"}
    assert widget.letters.letters() == of_second
    viewer.layers.selection.active = mask
    assert widget.letters.letters() == of_first
    first.visible = False
    assert widget.letters.letters() == of_first
    mask.visible = False
    assert widget.letters.letters() is None
    # Nothing else says which one: the only one to be seen.
    viewer.layers.selection.clear()
    assert widget.letters.letters() == of_second
    first.visible = True
    assert widget.letters.letters() is None
    viewer.layers.selection.active = first
    assert viewer.canvas.overlays[top].text == "A"
    second.visible = False
    widget.letters.disconnect()
    assert not viewer.canvas.overlays[top].visible


def test_plugin_widget_and_sample_through_the_manifest(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    viewer.open_sample(PLUGIN, "cardiac-phantom")
    assert viewer.layers[0].data.shape == (2, 10, 224, 224)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    assert widget.image.layer is viewer.layers[0]


def test_each_frame_of_a_series_is_checked(
    segment_widget: Any, user_models: Path, tmp_path: Path, qtbot: Any
) -> None:
    usual = dict.fromkeys(NAMES.values(), (500.0, 600.0))
    save_untrained(user_models, "scribbler", expects=Expectations("MR", volumes=usual))
    data = np.random.default_rng(1).integers(0, 900, (32, 32, 3, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([1.4, 1.4, 8, 1])), tmp_path / "cine.nii.gz")
    viewer, widget = segment_widget()
    open_scan(viewer, tmp_path / "cine.nii.gz")
    run(qtbot, widget)
    assert "Frame 0: " in widget.message.text()
    assert "Frame 1: " in widget.message.text()
    assert "2 more warnings like these." in widget.message.text()


def test_what_the_model_saw_is_kept_with_the_mask(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    widget.region.setCurrentIndex(THIS_SLICE)
    run(qtbot, widget)
    segmentation = widget.current_mask.segmentation
    ((frame, here),) = segmentation.finished
    assert np.flatnonzero(segmentation.traces[frame].seen).tolist() == [here]
    widget.region.setCurrentIndex(0)
    run(qtbot, widget)
    assert segmentation.traces[frame].seen.all()


def test_a_scan_is_searched_for_margins_once(
    user_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched, margins = [], slice_view._margins
    monkeypatch.setattr(slice_view, "_margins", lambda one: searched.append(1) or margins(one))
    volume = Grid((3, 24, 24)).volume(np.random.default_rng(0).random((3, 24, 24)))
    events = list(Session().segment(Request(volume, "scribbler", [(0, 1)], 0)))
    (segmented,) = (event for event in events if isinstance(event, SliceSegmented))
    assert segmented.trace is not None
    assert len(searched) == 1


def test_models_that_came_and_went_since_are_known_when_the_list_opens(
    segment_widget: Any, user_models: Path
) -> None:
    _viewer, widget = segment_widget()
    save_untrained(user_models, "trained-since")
    (user_models / "sided.safetensors").unlink()
    assert widget.model.findText("trained-since") == -1
    widget.model.showPopup()
    widget.model.hidePopup()
    assert widget.model.findText("trained-since") >= 0
    assert widget.model.findText("sided") == -1
    assert widget.model.currentText() == "scribbler"
    assert "right ventricle" in widget.card.labels.names.values()
    # The same name, and it knows something else now.
    save_untrained(user_models, "scribbler", labels={5: "tumour"})
    widget.model.showPopup()
    widget.model.hidePopup()
    (user_models / "scribbler.safetensors").rename(user_models / "other.safetensors")
    widget.model.showPopup()
    widget.model.hidePopup()
    assert widget.model.currentText() == "cardiac-cine"
    assert "scribbler no longer exists" in widget.message.text()
    widget.model.setCurrentText("other")
    assert [widget.organs.item(row, 1).text() for row in range(widget.organs.rowCount())] == [
        "tumour"
    ]
