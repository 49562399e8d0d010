"""DICOM series opened in the window: dropped files and folders become layers."""

from types import SimpleNamespace

import numpy as np
import pytest
from dicom_files import save_series
from napari.utils.notifications import notification_manager
from pydicom.uid import generate_uid
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from l2gnet_core.errors import InputError
from l2gnet_core.files.dicom_series import series_below
from napari_l2gnet import reader
from napari_l2gnet.masks.layer import IMAGE_KEY
from napari_l2gnet.reader import get_reader
from napari_l2gnet.saving.mask_saving import MaskSaving
from napari_l2gnet.scans.series_dialog import SeriesDialog

VOXELS = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.int16)


@pytest.fixture
def in_window(qtbot):
    """What a call gives while the event loop runs, as it does for a person."""

    def run(call):
        results = []
        QTimer.singleShot(0, lambda: results.append(call()))
        qtbot.waitUntil(lambda: bool(results))
        return results[0]

    return run


@pytest.fixture
def study(tmp_path):
    """A folder of two series, the first of them the larger."""
    save_series(tmp_path / "study" / "a", VOXELS)
    scout = {"SeriesInstanceUID": generate_uid(), "SeriesDescription": "scout"}
    save_series(tmp_path / "study" / "b", VOXELS[:2], **scout)
    return tmp_path / "study"


def read(path):
    return get_reader(path)(path)


def test_files_dropped_at_once_are_one_layer(tmp_path, in_window, monkeypatch):
    files = [str(path) for path in save_series(tmp_path / "s", VOXELS)]

    def drop():
        for file in files:
            yield read(file)
            # As napari does to show how far it is.
            QApplication.processEvents()

    found = in_window(lambda: list(drop()))
    assert np.array_equal(found[0][0][0], VOXELS)
    assert found[1:] == [[(None,)]] * 4
    assert found[0][0][1]["name"] == "s"
    # Opened once more it is a layer once more; as a stack it is one, too.
    monkeypatch.setattr(reader, "_ONE_DROP", 0)
    assert len(in_window(lambda: read(files[0]))[0]) == 3
    assert len(in_window(lambda: read(files))) == 1
    assert len(read(files)) == 1


def test_a_folder_of_several_series_asks(study, in_window, monkeypatch):
    seen = []

    def choose(dialog, rows, accepted):
        seen.append([one.name for one in dialog.chosen])
        dialog.list.clearSelection()
        for row in rows:
            dialog.list.topLevelItem(row).setSelected(True)
        return accepted

    monkeypatch.setattr(SeriesDialog, "exec", lambda d: choose(d, (0, 1), True))
    both = in_window(lambda: read(str(study)))
    assert [(layer[1]["name"], len(layer[0])) for layer in both] == [
        ("3 soft tissue", 5),
        ("3 scout", 2),
    ]
    assert seen == [["a"]]
    monkeypatch.setattr(SeriesDialog, "exec", lambda d: choose(d, (1,), True))
    assert [layer[1]["name"] for layer in in_window(lambda: read(str(study)))] == ["3 scout"]
    monkeypatch.setattr(SeriesDialog, "exec", lambda d: choose(d, (1,), False))
    assert in_window(lambda: read(str(study))) == [(None,)]
    with pytest.raises(InputError, match="holds 2 DICOM series"):
        read(str(study))


def test_the_dialog_opens_nothing_that_is_not_chosen(study, qtbot):
    dialog = SeriesDialog(study, series_below(study), None)
    qtbot.addWidget(dialog)
    first = dialog.list.topLevelItem(0)
    assert [first.text(k) for k in range(4)] == ["3 soft tissue", "5", "7 × 6", "a"]
    assert dialog.open_button.isEnabled()
    dialog.list.clearSelection()
    assert not dialog.open_button.isEnabled()
    assert dialog.open_button.toolTip() == "Choose a series first"


def test_masks_are_suggested_beside_the_folder_of_the_slices(study):
    for path in (study / "a", study / "a" / "IM0000"):
        image = SimpleNamespace(name="3 T1/T2", source=SimpleNamespace(path=str(path)))
        mask = SimpleNamespace(layer=SimpleNamespace(metadata={IMAGE_KEY: image}))
        saving = SimpleNamespace(_folder=None)
        assert MaskSaving.suggested(saving, mask) == study / "3 T1_T2_mask.nii.gz"


def test_a_folder_without_dicom_says_so(tmp_path, in_window, make_napari_viewer):
    make_napari_viewer()
    notification_manager.records.clear()
    assert in_window(lambda: read(str(tmp_path))) == [(None,)]
    assert "holds no DICOM images" in notification_manager.records[0].message
