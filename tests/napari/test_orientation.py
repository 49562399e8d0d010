"""A scan that does not say its orientation is asked about where the model needs to know."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from gui import PLUGIN, open_scan, run, slow_down
from hypothesis import given
from hypothesis import strategies as st
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QWidget

from l2gnet_core.cli import main
from l2gnet_core.errors import InputError
from l2gnet_core.scans.volume import Grid, parse_orientation
from napari_l2gnet.scans.orientation import as_given, give_orientation, given_orientation
from napari_l2gnet.segment.form import THIS_SLICE

LEFT, RIGHT, TOP, BOTTOM = "l2gnet_left", "l2gnet_right", "l2gnet_top", "l2gnet_bottom"
SHAPE = (6, 48, 40)
VALID = [
    "".join(letters)
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*pairs)
]


def noise() -> np.ndarray:
    """A (z,y,x) scan that no flip or turn maps onto itself."""
    z, y, x = SHAPE
    smooth = np.random.default_rng(0).normal(size=(z, y // 4, x // 4)).repeat(4, 1).repeat(4, 2)
    return ((smooth - smooth.min()) * 300).astype(np.int16)


@pytest.fixture
def tiff(tmp_path: Path) -> Path:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, noise())
    return path


@pytest.fixture
def sided(segment_widget: Callable[[], Any]) -> Callable[[], Any]:
    """Makes a viewer with the docked widget, the oriented model chosen."""

    def make() -> Any:
        viewer, widget = segment_widget()
        widget.model.setCurrentText("sided")
        return viewer, widget

    return make


def answer(widget: Any, letters: str) -> None:
    widget.orientation.lineEdit().setText(letters)


def asked(widget: Any) -> bool:
    hidden = {widget.orientation.isHidden(), widget.orientation_label.isHidden()}
    assert len(hidden) == 1
    return hidden == {False}


def texts(widget: Any) -> str:
    """Everything that the widget says, in tooltips too."""
    parts = [widget, *widget.findChildren(QWidget)]
    said = [part.text() for part in parts if hasattr(part, "text")]
    return "\n".join([*said, *(part.toolTip() for part in parts)])


def test_a_tiff_is_asked_about_before_an_oriented_model_sees_it(
    segment_widget: Any, tiff: Path, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, tiff)
    assert not asked(widget)
    assert widget.start.isEnabled()
    widget.model.setCurrentText("sided")
    assert asked(widget)
    assert widget.orientation.currentText() == ""
    assert widget.orientation.lineEdit().placeholderText() == "Choose…"
    assert not widget.start.isEnabled()
    reason = widget.start.toolTip()
    assert reason.startswith("Choose the orientation first")
    assert reason in widget.message.text()
    assert not widget.message.isHidden()
    # Nothing is guessed meanwhile.
    assert widget.axis.count() == 0
    assert not widget.axis.isEnabled()
    assert widget.letters.letters() is None
    widget.segment()
    assert not widget.running
    assert "--" not in texts(widget)
    answer(widget, "LPS")
    assert widget.start.isEnabled()
    assert widget.start.toolTip() == "Find the organs in the scan"
    assert reason not in widget.message.text()
    assert run(qtbot, widget) == "finished"
    assert widget.current_mask.layer.data.any()
    assert "--" not in texts(widget)
    widget.model.setCurrentText("scribbler")
    assert not asked(widget)


def test_a_whole_scan_is_told_of_if_sides_seem_to_be_exchanged(
    sided: Any, tiff: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "l2gnet_core.segmenting.exchanged_sides.exchanged_sides",
        lambda model, shown, grid, device: iter((None, f"Seen as {''.join(grid.axis_codes)}.")),
    )
    viewer, widget = sided()
    open_scan(viewer, tiff)
    answer(widget, "SPL")
    widget.region.setCurrentIndex(THIS_SLICE)
    assert run(qtbot, widget) == "finished"
    assert "Seen as" not in widget.message.text()
    widget.region.setCurrentIndex(0)
    assert run(qtbot, widget) == "finished"
    assert "Seen as SPL." in widget.message.text()


def test_the_usual_ones_are_offered_in_words(sided: Any, tiff: Path) -> None:
    viewer, widget = sided()
    open_scan(viewer, tiff)
    combo = widget.orientation
    lines = [combo.itemText(row) for row in range(combo.count())]
    assert lines[0] == "SPL  slices → head, rows → back, columns → left (DICOM, ITK)"
    assert all(parse_orientation(line[:3]) == line[:3] for line in lines)
    assert "slices (6), rows (48), columns (40)" in combo.toolTip()
    assert "file is not changed" in combo.toolTip()
    combo.setCurrentIndex(0)
    assert combo.currentText() == "SPL"
    assert widget.start.isEnabled()
    answer(widget, "sa")
    assert not widget.start.isEnabled()
    answer(widget, "sar")
    assert combo.currentText() == "SAR"
    assert widget.start.isEnabled()


def test_the_wheel_answers_nothing(sided: Any, tiff: Path) -> None:
    viewer, widget = sided()
    open_scan(viewer, tiff)
    down = QWheelEvent(
        QPointF(5, 5),
        QPointF(5, 5),
        QPoint(0, -120),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget.orientation, down)
    assert widget.orientation.currentText() == ""


def test_another_answer_is_another_scan_to_the_model(
    sided: Any, tiff: Path, tmp_path: Path, qtbot: Any
) -> None:
    flipped_file = tmp_path / "flipped.tif"
    tifffile.imwrite(flipped_file, noise()[:, :, ::-1])
    viewer, widget = sided()
    scan = open_scan(viewer, tiff)
    answer(widget, "SPL")
    run(qtbot, widget)
    as_left = widget.current_mask.layer
    before = as_left.data.copy()
    answer(widget, "SPR")
    run(qtbot, widget)
    as_right = widget.current_mask.layer
    # Two answers never share a mask, not even one that nobody painted on.
    assert as_right is not as_left
    np.testing.assert_array_equal(as_left.data, before)
    assert (as_right.data != as_left.data).any()
    widget.image.choose(open_scan(viewer, flipped_file))
    answer(widget, "SPL")
    run(qtbot, widget)
    np.testing.assert_array_equal(widget.current_mask.layer.data, as_right.data[:, :, ::-1])
    # To a model without left and right it does not matter what was answered.
    widget.model.setCurrentText("scribbler")
    widget.image.choose(scan)
    run(qtbot, widget)
    unsided = widget.current_mask.layer
    widget.model.setCurrentText("sided")
    answer(widget, "SPL")
    widget.model.setCurrentText("scribbler")
    run(qtbot, widget)
    assert widget.current_mask.layer is unsided


def test_the_mask_is_what_the_command_line_writes(
    sided: Any, tiff: Path, tmp_path: Path, qtbot: Any
) -> None:
    viewer, widget = sided()
    open_scan(viewer, tiff)
    answer(widget, "PSR")
    run(qtbot, widget)
    ours, theirs = tmp_path / "ours.tif", tmp_path / "theirs.tif"
    widget.current_mask.layer.save(str(ours), plugin=PLUGIN)
    main(["segment", str(tiff), "-o", str(theirs), "--model", "sided", "--orientation", "PSR"])
    np.testing.assert_array_equal(tifffile.imread(ours), tifffile.imread(theirs))
    # To the byte: nothing of the answer is written.
    assert ours.read_bytes() == theirs.read_bytes()


def save_nifti(path: Path, codes: str, stated: bool) -> str:
    """A scan with axes that nibabel knows by the codes; returns them as it reports them."""
    ornt = nib.orientations.axcodes2ornt(codes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(ornt):
        affine[int(world), axis] = sign * (1.5, 1.25, 4.0)[axis]
    image = nib.Nifti1Image(noise().T, affine)
    image.set_sform(affine, 1 if stated else 0)
    image.set_qform(affine, 1 if stated else 0)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return "".join(nib.aff2axcodes(affine))


@pytest.mark.parametrize("codes", ["LPS", "RAI", "PIR", "SLA"])
def test_nifti_is_asked_about_only_where_it_does_not_say_and_in_its_own_order(
    sided: Any, tmp_path: Path, qtbot: Any, codes: str
) -> None:
    viewer, widget = sided()
    assert save_nifti(tmp_path / "stated.nii", codes, stated=True) == codes
    open_scan(viewer, tmp_path / "stated.nii")
    assert not asked(widget)
    letters = sorted(widget.letters.letters().values())
    axes = [widget.axis.itemText(row) for row in range(3)]
    assert axes[0].startswith("axial")
    assert axes[0].endswith("(auto)")
    assert run(qtbot, widget) == "finished"
    expected = widget.current_mask.layer.data

    reported = save_nifti(tmp_path / "silent.nii", codes, stated=False)
    silent = open_scan(viewer, tmp_path / "silent.nii")
    widget.image.choose(silent)
    assert asked(widget)
    assert widget.orientation.itemText(0).startswith("LPS  columns → left, rows → back")
    assert "columns (40), rows (48), slices (6)" in widget.orientation.toolTip()
    answer(widget, reported)
    assert [widget.axis.itemText(row) for row in range(3)] == axes
    assert sorted(widget.letters.letters().values()) == letters
    assert run(qtbot, widget) == "finished"
    np.testing.assert_array_equal(widget.current_mask.layer.data, expected)
    widget.current_mask.layer.save(str(tmp_path / "mask.nii"), plugin=PLUGIN)
    mask, scan = nib.load(tmp_path / "mask.nii"), nib.load(tmp_path / "silent.nii")
    assert int(mask.header["sform_code"]) == int(mask.header["qform_code"]) == 0
    np.testing.assert_array_equal(mask.header["pixdim"], scan.header["pixdim"])


def test_the_slicing_axis_follows_the_answer(sided: Any, tiff: Path, qtbot: Any) -> None:
    viewer, widget = sided()
    open_scan(viewer, tiff)
    answer(widget, "SPL")
    assert (widget.axis.currentText(), widget.axis.currentData()) == ("axial, 6 slices (auto)", 0)
    answer(widget, "LIP")
    assert (widget.axis.currentText(), widget.axis.currentData()) == ("axial, 48 slices (auto)", 1)
    assert {widget.axis.itemText(row) for row in (1, 2)} == {
        "sagittal, 6 slices",
        "coronal, 40 slices",
    }
    assert widget.last.maximum() == 47
    widget.region.setCurrentIndex(THIS_SLICE)
    viewer.dims.order = (1, 0, 2)
    assert run(qtbot, widget) == "finished"
    assert len(widget.current_mask.segmentation.finished) == 1
    assert widget.current_mask.segmentation.coverage() == (1, 48)
    answer(widget, "")
    assert widget.axis.count() == 0


def test_the_edges_show_the_answer_at_once(sided: Any, tiff: Path) -> None:
    viewer, widget = sided()
    open_scan(viewer, tiff)
    assert not viewer.canvas.overlays[TOP].visible
    answer(widget, "SPL")
    assert widget.letters.letters() == {LEFT: "R", RIGHT: "L", TOP: "A", BOTTOM: "P"}
    assert viewer.canvas.overlays[TOP].visible
    assert viewer.canvas.overlays[TOP].text == "A"
    answer(widget, "SAR")
    assert widget.letters.letters() == {LEFT: "L", RIGHT: "R", TOP: "P", BOTTOM: "A"}
    # Layers side by side have other edges than the canvas.
    viewer.canvas.grid.enabled = True
    assert not viewer.canvas.overlays[TOP].visible
    viewer.canvas.grid.enabled = False
    assert viewer.canvas.overlays[TOP].visible
    viewer.dims.order = (1, 0, 2)
    assert widget.letters.letters() == {LEFT: "L", RIGHT: "R", TOP: "I", BOTTOM: "S"}
    answer(widget, "SA")
    assert not viewer.canvas.overlays[TOP].visible


def test_the_edges_heed_how_a_layer_is_shown(sided: Any) -> None:
    viewer, widget = sided()
    mirrored = np.diag([1.0, -1, 1, 1])
    layer = viewer.add_image(noise(), affine=mirrored, name="mirrored")
    answer(widget, "SPL")
    assert widget.letters.letters() == {LEFT: "R", RIGHT: "L", TOP: "P", BOTTOM: "A"}
    turned = np.eye(4)[[0, 2, 1, 3]]
    layer.affine = turned
    viewer.dims.order = (0, 1, 2)
    widget.letters.draw()
    assert widget.letters.letters() == {LEFT: "A", RIGHT: "P", TOP: "R", BOTTOM: "L"}
    series = viewer.add_image(np.stack([noise()] * 2), name="series")
    widget.image.choose(series)
    answer(widget, "ILP")
    assert widget.letters.letters() == {LEFT: "R", RIGHT: "L", TOP: "A", BOTTOM: "P"}


def test_a_scan_that_would_lie_on_its_side_is_turned_up_once(
    make_napari_viewer: Callable[..., Any], user_models: Path, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    # As from the menu: what napari gives such a widget are proxies of viewer and layers.
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    widget.model.setCurrentText("sided")
    save_nifti(tmp_path / "lying.nii", "PLS", stated=True)
    lying = open_scan(viewer, tmp_path / "lying.nii")
    upright = {LEFT: "R", RIGHT: "L", TOP: "A", BOTTOM: "P"}
    assert widget.letters.letters() == upright
    assert viewer.dims.order == (0, 2, 1)
    # Whoever turns it has it so, whatever else is chosen.
    stored = np.asarray(lying.affine)
    lying.affine = np.eye(4)[[0, 2, 1, 3]] @ stored
    assert viewer.dims.order == (0, 2, 1)
    lying.affine = stored
    viewer.dims.transpose()
    assert widget.letters.letters() != upright
    widget.model.setCurrentText("scribbler")
    widget.model.setCurrentText("sided")
    assert viewer.dims.order == (0, 1, 2)
    save_nifti(tmp_path / "other.nii", "RAS", stated=True)
    other = open_scan(viewer, tmp_path / "other.nii")
    widget.image.choose(other)
    assert viewer.dims.order == (0, 1, 2)
    assert widget.letters.letters() == upright
    viewer.layers.selection.active = lying
    assert widget.letters.letters() == upright
    viewer.layers.selection.active = other
    assert widget.letters.letters() == upright


def test_a_scan_is_turned_up_when_it_can_be_seen_and_let_go_when_deleted(
    sided: Any, tmp_path: Path
) -> None:
    viewer, widget = sided()
    save_nifti(tmp_path / "lying.nii", "PLS", stated=True)
    viewer.dims.ndisplay = 3
    lying = open_scan(viewer, tmp_path / "lying.nii")
    viewer.dims.ndisplay = 2
    assert widget.letters.letters() == {LEFT: "R", RIGHT: "L", TOP: "A", BOTTOM: "P"}
    assert widget.letters._turned() is lying
    left = weakref.ref(lying.data)
    viewer.layers.remove(lying)
    del lying
    gc.unfreeze()
    gc.collect()
    assert left() is None


def test_a_queue_shows_its_slices_upright(sided: Any, tmp_path: Path, qtbot: Any) -> None:
    viewer, widget = sided()
    save_nifti(tmp_path / "lying.nii", "PLS", stated=True)
    open_scan(viewer, tmp_path / "lying.nii")
    assert run(qtbot, widget) == "finished"
    viewer.dims.order = (1, 0, 2)
    widget.current_mask.go_to_place((0, 2))
    assert viewer.dims.order == (0, 2, 1)


def test_every_storage_order_is_shown_upright(sided: Any, tmp_path: Path) -> None:
    viewer, widget = sided()
    # Each axis along each of the array's; all 48 are the core's tests.
    for codes in ("LPI", "ASR", "ILP"):
        save_nifti(tmp_path / f"{codes}.nii", codes, stated=True)
        widget.image.choose(open_scan(viewer, tmp_path / f"{codes}.nii"))
        shown = widget.letters.letters()
        assert (shown[RIGHT], shown[BOTTOM]) in (("L", "P"), ("L", "I"), ("P", "I")), codes


def test_the_answer_is_kept_with_the_layer(sided: Any, tiff: Path, qtbot: Any) -> None:
    viewer, widget = sided()
    first = open_scan(viewer, tiff)
    answer(widget, "SPL")
    second = viewer.add_image(noise(), name="of another plugin")
    widget.image.choose(second)
    assert asked(widget)
    assert widget.orientation.currentText() == ""
    assert not widget.start.isEnabled()
    answer(widget, "RI")
    assert "not 'RI'" in widget.start.toolTip()
    assert "not &#x27;RI&#x27;" in widget.message.text()
    widget.image.choose(first)
    assert widget.orientation.currentText() == "SPL"
    assert widget.start.isEnabled()
    widget.image.choose(second)
    assert widget.orientation.currentText() == ""
    answer(widget, "ASR")
    widget.model.setCurrentText("scribbler")
    widget.model.setCurrentText("sided")
    assert widget.orientation.currentText() == "ASR"
    # A voxel size set by hand leaves the answer to the same axes of the array.
    second.scale = (3, 2, 1)
    widget.image.choose(first)
    widget.image.choose(second)
    assert widget.orientation.currentText() == "ASR"
    assert run(qtbot, widget) == "finished"
    viewer.layers.remove(second)
    viewer.layers.remove(first)
    assert not asked(widget)


def test_a_voxel_size_set_by_hand_does_not_turn_a_scan_round(sided: Any, tmp_path: Path) -> None:
    viewer, widget = sided()
    # A file that states no size, either: only then does one set by hand count.
    image = nib.Nifti1Image(noise().T, np.eye(4))
    image.set_sform(image.affine, 0)
    nib.save(image, tmp_path / "silent.nii")
    layer = open_scan(viewer, tmp_path / "silent.nii")
    answer(widget, "PIR")
    assert widget.axis.currentText() == "axial, 48 slices (auto)"
    letters = widget.letters.letters()
    layer.scale = (9, 2, 2)
    widget.model.setCurrentText("scribbler")
    widget.model.setCurrentText("sided")
    # Now counted as in any array: slices, rows, columns.
    assert widget.orientation.currentText() == "RIP"
    assert "slices (6), rows (48), columns (40)" in widget.orientation.toolTip()
    assert widget.axis.currentText() == "axial, 48 slices (auto)"
    assert widget.letters.letters() == letters


@pytest.mark.parametrize("shape", [SHAPE[1:], (2, *SHAPE)])
def test_flat_images_and_time_series_are_asked_about_too(
    sided: Any, qtbot: Any, shape: tuple[int, ...]
) -> None:
    viewer, widget = sided()
    viewer.add_image(np.resize(noise(), shape), name="array")
    assert asked(widget)
    answer(widget, "SPL")
    assert widget.letters.letters() == {LEFT: "R", RIGHT: "L", TOP: "A", BOTTOM: "P"}
    assert run(qtbot, widget) == "finished"
    assert widget.current_mask.layer.data.shape == shape


def test_the_question_waits_while_a_run_goes_on(
    sided: Any, tiff: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = sided()
    open_scan(viewer, tiff)
    answer(widget, "SPL")
    tip = widget.orientation.toolTip()
    slow_down(monkeypatch, 0.05)
    with qtbot.waitSignal(widget.run_ended, timeout=20_000):
        widget.start.click()
        assert not widget.orientation.isEnabled()
        assert "run is in progress" in widget.orientation.toolTip()
    assert widget.orientation.isEnabled()
    assert widget.orientation.toolTip() == tip


@given(st.sampled_from(VALID), st.sampled_from([(0, 1, 2), (2, 1, 0)]))
def test_an_answer_says_of_each_axis_what_it_grows_to(
    letters: str, stored_axes: tuple[int, int, int]
) -> None:
    layer: Any = SimpleNamespace(metadata={})
    grid = Grid((4, 5, 6), affine=np.diag([1.0, 2, 3, 1]), stored_axes=stored_axes)
    assert as_given(layer, grid) is grid
    give_orientation(layer, letters, stored_axes)
    assert given_orientation(layer, stored_axes) == letters
    seen = as_given(layer, grid)
    assert seen.oriented
    assert seen.spacing == grid.spacing
    assert "".join(seen.axis_codes[axis] for axis in stored_axes) == letters
    # nibabel counts (x, y, z), the order of NIfTI files.
    known = "".join(nib.aff2axcodes(seen.affine))
    assert known == (letters if stored_axes == (2, 1, 0) else letters[::-1])
    give_orientation(layer, "", stored_axes)
    assert as_given(layer, grid) is grid


@given(st.text("LRPAISxé ", max_size=4) | st.sampled_from(VALID))
def test_only_the_48_orientations_are_taken(text: str) -> None:
    try:
        assert parse_orientation(text) in VALID
    except InputError:
        assert text.strip().upper() not in VALID
