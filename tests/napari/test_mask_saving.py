"""Save mask …: on the scan's own grid, with names and colours, and nothing else replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unicodedata import normalize

import nibabel as nib
import numpy as np
import pytest
from conftest import NAMES
from correcting import propose
from gui import open_scan, run, slow_down
from napari.layers._source import Source
from qtpy.QtWidgets import QFileDialog

from l2gnet_core.files import read_labels, read_volume
from napari_l2gnet.annotating.preview import BEFORE
from napari_l2gnet.masks.layer import IMAGE_KEY


@pytest.fixture
def segmented(segment_widget: Any, scan_file: Path, qtbot: Any) -> Any:
    """A Segment widget with the mask of a scan."""
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    assert run(qtbot, widget) == "finished"
    return widget


def answer(monkeypatch: pytest.MonkeyPatch, path: Path | str, kind: int = 0) -> list[str]:
    """Choose a file and the kind of that number in every dialog; returns what they suggest."""
    asked: list[str] = []

    def choose(_: Any, title: str, suggested: str, kinds: str, likely: str) -> tuple[str, str]:
        asked.append(suggested)
        return str(path), kinds.split(";;")[kind]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    return asked


def save(qtbot: Any, widget: Any) -> str:
    """Press the button; what is said."""
    with qtbot.waitSignal(widget.saving.said, timeout=5000) as said:
        widget.save_mask.click()
    return str(said.args[0])


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii", "mask.tif", "mask.ome.tiff"])
def test_a_saved_mask_lies_on_its_scan_and_knows_its_organs(
    segmented: Any,
    scan_file: Path,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    answer(monkeypatch, tmp_path / name)
    assert save(qtbot, segmented) == f'Saved "scan · scribbler" as {name}.'
    saved, scan = read_labels(tmp_path / name), read_volume(scan_file)
    np.testing.assert_array_equal(saved.volume.data, segmented.current_mask.layer.data)
    assert saved.volume.spacing == pytest.approx(scan.spacing)
    assert saved.names == NAMES
    assert set(saved.colors) == set(NAMES)


def test_an_image_of_one_frame_is_segmented_and_its_mask_saved(
    segment_widget: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = segment_widget()
    pixels = np.random.default_rng(0).random((1, 3, 32, 40), np.float32)
    viewer.add_image(pixels, name="one frame", scale=(1, 8, 2, 2), units=("s", "mm", "mm", "mm"))
    assert run(qtbot, widget) == "finished"
    mask = widget.current_mask.layer.data
    assert mask.shape == (1, 3, 32, 40)
    assert mask.any()
    for name in ("mask.nii.gz", "mask.tif"):
        answer(monkeypatch, tmp_path / name)
        assert save(qtbot, widget) == f'Saved "one frame · scribbler" as {name} in {tmp_path}.'
        np.testing.assert_array_equal(read_labels(tmp_path / name).volume.data, mask[0])
        assert read_volume(tmp_path / name).spacing == pytest.approx((8, 2, 2))


def test_the_file_is_suggested_beside_the_scan_then_where_the_last_one_went(
    segmented: Any, scan_file: Path, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "masks"
    elsewhere.mkdir()
    asked = answer(monkeypatch, elsewhere / "first.nii.gz")
    save(qtbot, segmented)
    save(qtbot, segmented)
    name = scan_file.name.removesuffix(".nii.gz").removesuffix(".nii")
    (beside, then) = map(Path, asked)
    assert beside.parent == scan_file.parent
    assert beside.name.startswith(f"{name}_mask.nii")
    assert then.parent == elsewhere


def test_the_second_patients_mask_is_not_suggested_over_the_first_ones(
    segmented: Any, scan_file: Path, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Scans of many patients often have the same name, each in a folder of its own.
    second, elsewhere = tmp_path / "second" / scan_file.name, tmp_path / "masks"
    elsewhere.mkdir()
    second.parent.mkdir()
    second.write_bytes(scan_file.read_bytes())
    beside = segmented.saving.suggested(segmented.current_mask)
    answer(monkeypatch, beside)
    assert save(qtbot, segmented) == f'Saved "scan · scribbler" as {beside.name}.'
    assert segmented.saving.suggested(segmented.current_mask) == beside
    answer(monkeypatch, elsewhere / beside.name)
    first, viewer = segmented.current_mask, segmented.current_mask.viewer
    open_scan(viewer, second)
    assert run(qtbot, segmented) == "finished"
    own = segmented.saving.suggested(segmented.current_mask)
    assert own == second.parent / beside.name
    assert (
        save(qtbot, segmented) == f'Saved "scan [1] · scribbler" as {beside.name} in {elsewhere}.'
    )
    numbered = elsewhere / beside.name.replace("_mask", "_mask_2")
    assert segmented.saving.suggested(first) == numbered


@pytest.mark.parametrize(("kind", "suffix"), [(0, ".nii.gz"), (1, ".tif")])
def test_a_name_without_a_suffix_gets_the_chosen_kinds(
    segmented: Any,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: int,
    suffix: str,
) -> None:
    # macOS stores accents after their letters.
    name = normalize("NFD", "fälle1.5mm")
    answer(monkeypatch, tmp_path / name, kind)
    save(qtbot, segmented)
    saved = tmp_path / f"{name}{suffix}"
    written = saved.read_bytes()
    assert read_labels(saved).names == NAMES
    segmented.current_mask.layer.data[:] = 0
    # The dialog has asked about a file of another name.
    assert f"{name}{suffix} exists already" in save(qtbot, segmented)
    assert saved.read_bytes() == written


@pytest.mark.parametrize("name", ["case01.nrrd", "case01.seg.nrrd", "case01.mgz", "case01.png"])
def test_a_mask_is_not_written_as_another_kind_of_file(
    segmented: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    answer(monkeypatch, tmp_path / name)
    assert save(qtbot, segmented).startswith("A mask is saved as one of .nii.gz, .nii, ")
    assert not list(tmp_path.glob("case01*"))


def test_the_scan_itself_is_never_replaced(segmented: Any, scan_file: Path, tmp_path: Path) -> None:
    before = scan_file.read_bytes()
    link = tmp_path / "link.nii.gz"
    link.symlink_to(scan_file)
    mask = segmented.current_mask
    said = []
    segmented.saving.said.connect(lambda text, bad: said.append((text, bad)))
    for path in (scan_file, link):
        segmented.saving.save(path)
    # Nor once its layer is deleted.
    mask.viewer.layers.remove(segmented.image.layer)
    assert segmented.current_mask.layer is mask.layer
    segmented.saving.save(scan_file)
    assert said == [
        (
            f"Expected a new file for the mask, but {path.name} is a scan; choose another name.",
            True,
        )
        for path in (scan_file, link, scan_file)
    ]
    assert scan_file.read_bytes() == before


def test_where_nothing_can_be_written_a_sentence_says_so(
    segmented: Any,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, folder = tmp_path / "loop.nii.gz", tmp_path / "fold.nii.gz"
    loop.symlink_to(loop)
    folder.mkdir()
    for path, word in {
        tmp_path / "gone" / "mask.nii.gz": "does not exist",
        loop: "loop.nii.gz is a link that leads back to itself",
        folder: "fold.nii.gz is a folder: give the name",
        tmp_path / ("m" * 250): ".nii.gz cannot be written",
    }.items():
        answer(monkeypatch, path)
        assert word in save(qtbot, segmented)
        assert word in segmented.message.text()
        assert segmented.save_mask.isEnabled()
    assert loop.is_symlink()
    assert not any(folder.iterdir())
    assert not caplog.records


def test_a_name_that_cannot_be_looked_for_is_suggested_all_the_same(
    segmented: Any, scan_file: Path
) -> None:
    mask = segmented.current_mask
    suggested = segmented.saving.suggested(mask)
    suggested.symlink_to(suggested)
    assert segmented.saving.suggested(mask).name == suggested.name.replace("_mask", "_mask_2")
    long = scan_file.with_name(f"{'s' * 240}.nii.gz")
    mask.layer.metadata[IMAGE_KEY]._source = Source(path=str(long))
    assert segmented.saving.suggested(mask).name == f"{'s' * 240}_mask.nii.gz"


def test_a_partial_mask_is_said_to_be_one(
    segment_widget: Any,
    scan_file: Path,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer, widget = segment_widget()
    assert not widget.save_mask.isEnabled()
    open_scan(viewer, scan_file)
    assert not widget.save_mask.isEnabled()
    slow_down(monkeypatch, 0.1)
    widget.start.click()
    qtbot.waitUntil(lambda: bool(widget.current_mask and widget.current_mask.segmentation.finished))
    assert not widget.save_mask.isEnabled()
    with qtbot.waitSignal(widget.run_ended):
        widget.cancel.click()
    answer(monkeypatch, tmp_path / "mask.nii.gz")
    assert "partial" in save(qtbot, widget)


def test_correct_saves_what_was_painted(
    correct_widget: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, widget = correct_widget()
    layer = widget.current_mask.layer
    layer.data_setitem((np.array([1]), np.array([2]), np.array([3])), 1)
    answer(monkeypatch, tmp_path / "mask.nii.gz")
    assert save(qtbot, widget) == 'Saved "scan · scribbler" as mask.nii.gz.'
    assert np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj).T[1, 2, 3] == 1


def test_of_a_preview_on_screen_the_mask_below_is_saved_and_that_is_said(
    segmented: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotation = propose(segmented.current_mask)
    answer(monkeypatch, tmp_path / "mask.nii.gz")
    assert save(qtbot, segmented) == (
        'Saved "scan · scribbler" as mask.nii.gz. The preview on screen is not accepted, so the '
        "mask without it was saved."
    )
    written = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj).T
    np.testing.assert_array_equal(written, segmented.current_mask.layer.data)
    annotation.preview.show(BEFORE)
    assert save(qtbot, segmented) == 'Saved "scan · scribbler" as mask.nii.gz.'


def test_a_deleted_scans_mask_is_saved_and_no_other_patients(
    segmented: Any,
    scan_file: Path,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer, first = segmented.viewer, segmented.current_mask.layer
    scan = segmented.image.layer
    viewer.add_image(scan.data[::-1] // 2, name="other", scale=(8, 1.4, 1.4))
    run(qtbot, segmented)
    viewer.layers.remove(scan)
    viewer.layers.selection.active = first
    asked = answer(monkeypatch, tmp_path / "mask.nii.gz")
    assert save(qtbot, segmented) == 'Saved "scan · scribbler" as mask.nii.gz.'
    assert Path(asked[0]) == scan_file.with_name("scan_mask.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.nii.gz").volume.data, first.data)


def test_the_selected_mask_is_the_one_that_is_saved_and_tidied(
    segment_widget: Any,
    scan_file: Path,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer, widget = segment_widget()
    image = open_scan(viewer, scan_file)
    run(qtbot, widget)
    first = widget.current_mask.layer
    first.data_setitem((np.array([1]), np.array([2]), np.array([3])), 1)
    run(qtbot, widget)
    newest = widget.current_mask.layer
    assert newest is not first
    viewer.layers.selection.active = first
    newest.visible = False
    # What is shown stays while the scan itself is selected, or another layer.
    viewer.layers.selection.active = image
    assert widget.current_mask.layer is first
    answer(monkeypatch, tmp_path / "mask.nii.gz")
    assert save(qtbot, widget) == 'Saved "scan · scribbler" as mask.nii.gz.'
    written = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj).T
    np.testing.assert_array_equal(written, first.data)
    untidied = newest.data.copy()
    with qtbot.waitSignal(widget.run_ended, timeout=5000):
        widget.holes.click()
    np.testing.assert_array_equal(newest.data, untidied)
    assert widget.current_mask.layer is first
    # A mask by another model brings its model.
    widget.model.setCurrentText("sided")
    assert widget.current_mask is None
    viewer.layers.selection.active = newest
    assert widget.model.currentText() == "scribbler"
    assert widget.current_mask.layer is newest
    viewer.layers.remove(newest)
    assert widget.current_mask.layer is first
