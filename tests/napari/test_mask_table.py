"""The table of organs and its mask, in a real viewer: sizes, colours, tidying, new data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
from conftest import NAMES
from gui import open_scan, run, slow_down, told
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from l2gnet_core.scans.labels import Label, LabelSet
from napari_l2gnet.scans.layers import transform_of
from napari_l2gnet.segment.form import THIS_SLICE
from napari_l2gnet.widgets.organ_table import VOLUME, OrganTable


def test_the_table_follows_strokes_and_undo(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer = widget.current_mask.layer

    def true() -> list[int]:
        return [int((layer.data == id).sum()) for id in (1, 2, 3)]

    qtbot.waitUntil(lambda: told(widget) == true())
    before = true()
    layer.data_setitem(tuple(np.indices((1, 10, 10)).reshape(3, -1)), 1)
    assert true() != before
    qtbot.waitUntil(lambda: told(widget) == true())
    layer.undo()
    assert true() == before
    qtbot.waitUntil(lambda: told(widget) == before)
    voxels, ml = told(widget)[0], float(widget.organs.rows()[0][2])
    assert ml == pytest.approx(voxels * 1.4 * 1.4 * 8 / 1000, abs=0.05)


def test_the_table_is_copied_as_spreadsheets_read_it(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    widget.region.setCurrentIndex(THIS_SLICE)
    run(qtbot, widget)
    layer = widget.current_mask.layer
    layer.data_setitem(np.nonzero(layer.data), 1)
    qtbot.waitUntil(lambda: told(widget)[0] > 1000)
    qtbot.keyClick(widget.organs, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    head, *rows, end = QApplication.clipboard().text().split("\n")
    part = " in the 1 of 6 slices that are segmented"
    assert head.split("\t") == ["Organ", f"Voxels{part}", f"mL{part}"]
    organs = [row.split("\t") for row in rows]
    assert [name for name, *_ in organs] == list(NAMES.values())
    assert [int(voxels) for _, voxels, _ in organs] == told(widget)
    assert float(organs[0][2]) == pytest.approx(told(widget)[0] * 1.4 * 1.4 * 8 / 1000, abs=0.05)
    assert end == ""


@pytest.mark.parametrize(
    ("side", "unit", "size"),
    [
        (1.0, "mL", "2.0"),
        (0.1, "mm³", "2.0"),
        (0.0005, "µm³", "250.0"),
        (10.0, "mL", "2\u202f000.0"),
    ],
)
def test_volumes_are_told_in_a_unit_that_leaves_something_of_them(
    qtbot: Any, side: float, unit: str, size: str
) -> None:
    table = OrganTable()
    qtbot.addWidget(table)
    table.show_labels(LabelSet((Label(1, "nucleus", "#ff0000"),)))
    table.show_sizes({1: 2000}, side**3 / 1000, (3, 3))
    assert table.horizontalHeaderItem(VOLUME).text() == unit
    assert table.rows() == [("nucleus", "2\u202f000", size)]


@pytest.mark.parametrize("stated", [False, True])
def test_the_sizes_are_by_the_voxels_of_the_file_or_else_as_they_are_now(
    segment_widget: Any, scan_file: Path, qtbot: Any, stated: bool
) -> None:
    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    if not stated:
        image = viewer.add_image(image.data, scale=(8, 1.4, 1.4), units=("mm",) * 3)
        widget.image.choose(image)
    run(qtbot, widget)
    layer = widget.current_mask.layer
    qtbot.waitUntil(lambda: told(widget)[0] == (layer.data == 1).sum())

    def ml(voxel: float) -> Any:
        return pytest.approx(told(widget)[0] * voxel / 1000, abs=0.05)

    def shown() -> float:
        return float(widget.organs.rows()[0][2].replace("\u202f", ""))

    assert shown() == ml(1.4 * 1.4 * 8)
    layer.scale = (4, 1.4, 1.4)
    note = "is no longer aligned" if stated else "set the same scale and units"
    assert note in widget.coverage.text()
    assert not widget.coverage.isHidden()
    image.scale = (4, 1.4, 1.4)
    assert widget.coverage.isHidden()
    assert shown() == ml(1.4 * 1.4 * (8 if stated else 4))
    image.units = ("cm", "cm", "cm")
    assert shown() == ml(1.4 * 1.4 * (8 if stated else 4 * 1000))


def test_the_table_follows_a_brush_on_the_slice_on_screen(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer = widget.current_mask.layer
    index = widget.current_mask.place[1]
    qtbot.waitUntil(lambda: told(widget)[1] == (layer.data == 2).sum())
    layer.brush_size = 9
    # In a window on screen napari draws no more than the stroke, and tells of no more.
    with layer.events.set_data.blocker():
        layer.paint((index, 12, 12), 2)
    qtbot.waitUntil(lambda: told(widget)[1] == (layer.data == 2).sum())


def test_the_organ_that_is_painted_with_is_the_one_that_is_marked(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer, table = widget.current_mask.layer, widget.organs

    def marked() -> list[int]:
        return [index.row() for index in table.selectionModel().selectedRows()]

    layer.selected_label = 2
    assert marked() == [1]
    layer.selected_label = 9
    assert marked() == []
    table.selectRow(1)
    assert layer.selected_label == 2
    # A click on the row that is marked already: the brush was given something else meanwhile.
    layer.events.selected_label.block()
    layer.selected_label = 3
    layer.events.selected_label.unblock()
    viewer.layers.selection.active = image
    table.cellClicked.emit(1, 1)
    assert layer.selected_label == 2
    assert viewer.layers.selection.active is layer


def test_organs_can_be_hidden_recoloured_and_gone_to(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer = widget.current_mask.layer
    widget.organs.visibility_changed.emit(1, False)
    assert layer.colormap.map(1)[3] == 0
    widget.organs.visibility_changed.emit(1, True)
    widget.organs.color_changed.emit(2, "#ff0000")
    np.testing.assert_allclose(layer.colormap.map(2), [1, 0, 0, 1])
    counts = (layer.data == 2).sum((1, 2))
    widget.organs.go_to.emit(2)
    shown = round(layer.world_to_data(viewer.dims.point)[0])
    assert counts[shown] == counts.max() > 0
    voxel = np.argwhere(layer.data[shown] == 2)[0]
    status = layer.get_status(layer.data_to_world((shown, *voxel)), world=True)
    assert "myocardium" in status["value"]


def ticks(widget: Any) -> list[bool]:
    rows = range(widget.organs.rowCount())
    return [widget.organs.item(row, 0).checkState() == Qt.CheckState.Checked for row in rows]


def drawn_in(widget: Any, row: int) -> str:
    square = widget.organs.item(row, 0).icon().pixmap(12, 12).toImage()
    return str(square.pixelColor(square.rect().center()).name())


def test_each_mask_keeps_its_own_colours_and_hidden_organs(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    first = open_scan(viewer, scan_file)
    run(qtbot, widget)
    mask = widget.current_mask.layer
    widget.organs.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    widget.organs.color_changed.emit(1, "#123456")
    widget.organs.color_changed.emit(2, "#ff0000")
    assert mask.colormap.map(1)[3] == 0
    second = viewer.add_image(first.data // 2, name="second", **transform_of(first))
    widget.image.choose(second)
    assert ticks(widget) == [True, True, True]
    run(qtbot, widget)
    assert ticks(widget) == [True, True, True]
    assert drawn_in(widget, 1) != "#ff0000"
    widget.image.choose(first)
    assert ticks(widget) == [False, True, True]
    assert drawn_in(widget, 1) == "#ff0000"
    widget.organs.item(0, 0).setCheckState(Qt.CheckState.Checked)
    np.testing.assert_allclose(mask.colormap.map(1), [0x12 / 255, 0x34 / 255, 0x56 / 255, 1])
    # A second widget, opened late, shows the same truth.
    widget.organs.item(2, 0).setCheckState(Qt.CheckState.Unchecked)
    other = type(widget)(viewer, widget.session)
    qtbot.addWidget(other)
    other.model.setCurrentText("scribbler")
    other.image.choose(second)
    other.image.choose(first)
    assert ticks(other) == [True, True, False]
    assert drawn_in(other, 1) == "#ff0000"
    other.close()


def test_colours_set_in_naparis_own_controls_reach_the_table(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    from napari.utils.colormaps import DirectLabelColormap, label_colormap

    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer = widget.current_mask.layer
    layer.colormap = DirectLabelColormap(color_dict={None: "white", 0: "transparent", 1: "blue"})
    assert drawn_in(widget, 0) == "#0000ff"
    assert drawn_in(widget, 1) == "#ffffff"
    layer.colormap = label_colormap(49)
    np.testing.assert_allclose(
        [int(drawn_in(widget, 0)[i : i + 2], 16) for i in (1, 3, 5)],
        255 * layer.colormap.map(1)[:3],
        atol=1,
    )
    before = layer.colormap.map(2)
    widget.organs.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    assert layer.colormap.map(1)[3] == 0
    np.testing.assert_allclose(layer.colormap.map(2), before, atol=1e-6)
    assert ticks(widget) == [False, True, True]


def test_tidying_is_remembered_by_mask_and_by_model(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()

    def tidying() -> tuple[bool, bool]:
        return widget.largest.isChecked(), widget.holes.isChecked()

    assert tidying() == (False, False)
    widget.holes.setChecked(True)
    widget.model.setCurrentText("cardiac-cine")
    assert tidying() == (True, False)
    widget.model.setCurrentText("scribbler")
    assert tidying() == (False, True)
    first = open_scan(viewer, scan_file)
    run(qtbot, widget)
    second = viewer.add_image(first.data // 2, name="second", **transform_of(first))
    widget.image.choose(second)
    widget.largest.setChecked(True)
    widget.image.choose(first)
    assert tidying() == (False, True)
    widget.image.choose(second)
    assert tidying() == (True, True)


def test_tidying_can_be_chosen_and_taken_back(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    from scipy import ndimage

    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    raw = widget.current_mask.layer.data.copy()
    with qtbot.waitSignal(widget.run_ended, timeout=10_000):
        widget.largest.setChecked(True)
    tidy = widget.current_mask.layer.data
    for id in (1, 2, 3):
        assert ndimage.label(tidy == id, np.ones((3, 3, 3)))[1] <= 1
        assert (tidy == id).any() == (raw == id).any()
    with qtbot.waitSignal(widget.run_ended, timeout=10_000):
        widget.largest.setChecked(False)
    np.testing.assert_array_equal(widget.current_mask.layer.data, raw)


def test_ctrl_z_takes_back_what_was_tidied_last(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer = widget.current_mask.layer
    layer.data_setitem((np.array([1]), np.array([0]), np.array([0])), 9)
    painted = layer.data.copy()
    with qtbot.waitSignal(widget.run_ended, timeout=10_000):
        widget.largest.setChecked(True)
    tidy = layer.data.copy()
    assert (tidy != painted).any()
    assert layer.data[1, 0, 0] == 9
    changed = (tidy != painted).sum()
    said = f"Tidied: {changed:,} voxels changed. Ctrl-Z undoes this."
    assert widget.message.text().startswith(said)
    segmentation = widget.current_mask.segmentation
    places = set(segmentation.places)
    segmentation.reviewed.update(places)
    layer.undo()
    # Whoever accepted what was tidied is told.
    assert segmentation.reviews.invalidated.keys() == places - segmentation.reviewed
    assert segmentation.reviews.invalidated
    qtbot.waitUntil(lambda: "Tidied" not in widget.message.text())
    np.testing.assert_array_equal(layer.data, painted)
    assert not widget.largest.isChecked()
    assert not widget.current_mask.segmentation.clean_up
    layer.redo()
    np.testing.assert_array_equal(layer.data, tidy)
    assert widget.current_mask.segmentation.reviewed == places
    assert widget.largest.isChecked()
    widget.current_mask.segmentation.reviewed.clear()
    # As do the strokes before and after it.
    layer.data_setitem((np.array([2]), np.array([0]), np.array([0])), 9)
    for _ in range(3):
        layer.undo()
    assert layer.data[1, 0, 0] != 9
    assert not widget.largest.isChecked()
    # What is cancelled has chosen nothing.
    before = layer.data.copy()
    with qtbot.waitSignal(widget.run_ended, timeout=10_000) as ended:
        widget.largest.setChecked(True)
        widget.cancel_run()
    assert ended.args == ["cancelled"]
    assert not widget.largest.isChecked()
    np.testing.assert_array_equal(layer.data, before)


def test_partial_sizes_are_told_by_frame(segment_widget: Any, tmp_path: Path, qtbot: Any) -> None:
    rng = np.random.default_rng(1)
    data = rng.integers(0, 900, (32, 32, 2, 2)).astype(np.int16)
    path = tmp_path / "cine.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([1.4, 1.4, 8, 1])), path)
    viewer, widget = segment_widget()
    open_scan(viewer, path)
    widget.region.setCurrentIndex(THIS_SLICE)
    viewer.dims.set_current_step((0, 1), (0, 0))
    run(qtbot, widget)
    viewer.dims.set_current_step((0, 1), (0, 1))
    run(qtbot, widget)
    layer = widget.current_mask.layer
    qtbot.waitUntil(widget.coverage.isHidden)
    assert layer.name.endswith("(2 of 4)")
    viewer.dims.set_current_step(0, 1)
    assert widget.coverage.text().endswith("0 of 2 slices of this frame are segmented")
    assert not widget.coverage.isHidden()
    layer.name = "my mask"
    run(qtbot, widget)
    assert layer.name == "my mask (3 of 4)"


def test_tidying_keeps_a_stroke_whole(segment_widget: Any, scan_file: Path, qtbot: Any) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer = widget.current_mask.layer
    # Over voxels of every kind, some of which the model already called 3.
    stroke = tuple(np.indices((1, 6, 6)).reshape(3, -1))
    layer.data_setitem(stroke, 3)
    with qtbot.waitSignal(widget.run_ended, timeout=10_000):
        widget.largest.setChecked(True)
    assert (layer.data[stroke] == 3).all()
    with qtbot.waitSignal(widget.run_ended, timeout=10_000):
        widget.largest.setChecked(False)
    assert (layer.data[stroke] == 3).all()


def test_a_duplicated_mask_is_a_backup_that_nothing_writes_to(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    from napari.layers import Labels

    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    run(qtbot, widget)
    mask = widget.current_mask.layer
    backup = Labels(mask.data.copy(), metadata=mask.metadata, **transform_of(mask))
    viewer.add_layer(backup)
    viewer.add_image(np.zeros((4, 20, 20)), name="other")
    widget.image.choose(image)
    assert widget.current_mask.layer is mask


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_the_table_follows_data_that_another_plugin_puts_into_the_layer(
    segment_widget: Any, scan_file: Path, qtbot: Any, dtype: type
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer, predicted = widget.current_mask.layer, widget.current_mask.layer.data.copy()
    new = np.asfortranarray(predicted.astype(dtype))
    new[2] = 3
    new[3, 0, 0] = 200  # an id that the model does not know
    layer.data = new
    qtbot.waitUntil(lambda: told(widget) == [int((new == id).sum()) for id in (1, 2, 3)])
    # Strokes, tidying and undo go on in the plugin's own array, and its labels are kept.
    layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 1)
    layer.undo()
    with qtbot.waitSignal(widget.run_ended, timeout=10_000):
        widget.largest.setChecked(True)
    assert layer.data is new
    assert (new[2] == 3).all()
    assert new[3, 0, 0] == 200
    with qtbot.waitSignal(widget.run_ended, timeout=10_000):
        widget.largest.setChecked(False)
    np.testing.assert_array_equal(new[4:], predicted[4:])
    new[:] = 0
    layer.refresh()
    qtbot.waitUntil(lambda: told(widget) == [0, 0, 0])
    assert run(qtbot, widget) == "finished"
    assert widget.current_mask.layer is not layer
    assert not new.any()


def read_only(data: np.ndarray) -> np.ndarray:
    copy = data.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:3],
        lambda data: np.stack([data, data]),
        lambda data: data.astype(np.int32) - 1,
        read_only,
        lambda data: da.from_array(data),
    ],
    ids=["cropped", "more axes", "negative", "read-only", "lazy"],
)
def test_data_that_is_no_mask_of_the_scan_frees_the_widget_for_a_new_one(
    segment_widget: Any, scan_file: Path, qtbot: Any, change: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    layer = widget.current_mask.layer
    layer.data = change(layer.data)
    qtbot.waitUntil(lambda: widget.current_mask is None)
    assert "Press Segment" in widget.message.text()
    assert widget.organs.toolTip() == "Press Segment first."
    viewer.dims.set_current_step(0, 1)
    assert run(qtbot, widget) == "finished"
    assert widget.current_mask.layer is not layer


@pytest.mark.parametrize("fits", [True, False])
def test_data_replaced_during_a_run(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    slow_down(monkeypatch, 0.1)
    with qtbot.waitSignal(widget.run_ended, timeout=20_000) as ended:
        widget.start.click()
        qtbot.waitUntil(lambda: len(widget.current_mask.segmentation.finished) >= 2)
        layer = widget.current_mask.layer
        new = layer.data.copy() if fits else layer.data[:3].copy()
        layer.data = new
    assert ended.args == ["finished" if fits else "cancelled"]
    assert not fits or all(new[index].any() for index in range(6))
    assert widget.start.isEnabled()
