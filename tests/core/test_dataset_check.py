"""Planted faults: each gets its own sentence, and none trains silently."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from l2gnet_core.data import load_frames, open_dataset
from l2gnet_core.dataset_check import check_dataset
from l2gnet_core.errors import InputError


@pytest.fixture
def dataset(tmp_path, save_scan) -> Path:
    """Four sound patients of 3 slices."""
    rng = np.random.default_rng(0)
    for patient in range(4):
        labels = np.zeros((3, 20, 24), np.uint8)
        labels[1, 5:10, 5:12], labels[1, 12:15, 5:12] = 1, 2
        name = f"patient{patient}.nii.gz"
        save_scan(tmp_path / "images" / name, rng.integers(0, 900, labels.shape).astype(np.int16))
        save_scan(tmp_path / "labels" / name, labels)
    (tmp_path / "dataset.json").write_text('{"labels": {"one": 1, "two": 2}}')
    return tmp_path


def findings(folder: Path) -> list[tuple[str, str]]:
    return [(f.kind, f.sentence) for f in check_dataset(folder) if f is not None]


def test_a_sound_dataset_has_nothing_to_find(dataset):
    assert findings(dataset) == []


def test_labels_on_another_grid(dataset, save_scan):
    save_scan(dataset / "labels" / "patient1.nii.gz", np.zeros((3, 20, 20), np.uint8))
    [(kind, sentence)] = findings(dataset)
    assert kind == "error"
    assert "(3, 20, 20)" in sentence
    with pytest.raises(InputError, match="shape"):
        load_frames(open_dataset(dataset).cases[1], open_dataset(dataset).labels, "axial")


def test_labels_elsewhere_in_the_world(dataset):
    path = dataset / "labels" / "patient1.nii.gz"
    stored = nib.load(path)
    moved = stored.affine.copy()
    moved[:3, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), moved), path)
    [(kind, sentence)] = findings(dataset)
    assert kind == "error"
    assert "mm apart" in sentence
    with pytest.raises(InputError, match="mm apart"):
        load_frames(open_dataset(dataset).cases[1], open_dataset(dataset).labels, "axial")


def test_unknown_and_missing_ids(dataset, save_scan):
    save_scan(dataset / "labels" / "patient1.nii.gz", np.full((3, 20, 24), 7, np.uint8))
    assert (
        "error",
        "Label ids [7] are not in dataset.json; name them there or take them out.",
    ) in (findings(dataset))
    (dataset / "dataset.json").write_text('{"labels": {"one": 1, "two": 2, "3": 3, "seven": 7}}')
    assert any("No label file holds 3" in sentence for _, sentence in findings(dataset))


def test_empty_labels_and_constant_scans(dataset, save_scan):
    save_scan(dataset / "labels" / "patient1.nii.gz", np.zeros((3, 20, 24), np.uint8))
    save_scan(dataset / "images" / "patient2.nii.gz", np.full((3, 20, 24), 5, np.int16))
    assert findings(dataset) == [
        ("note", "The labels are empty: background everywhere."),
        ("error", "The scan has one intensity everywhere."),
    ]


def test_one_scan_under_two_names(dataset):
    for part in ("images", "labels"):
        content = (dataset / part / "patient1.nii.gz").read_bytes()
        (dataset / part / "patient3.nii.gz").write_bytes(content)
    [(kind, sentence)] = findings(dataset)
    assert kind == "note"
    assert "patient1.nii.gz and patient3.nii.gz are the same scan" in sentence
    patients = {case.name: case.patient for case in open_dataset(dataset).cases}
    assert patients["patient1"] == patients["patient3"]


def test_files_without_a_partner(dataset):
    (dataset / "labels" / "patient0.nii.gz").unlink()
    (dataset / "images" / "patient1.nii.gz").unlink()
    sentences = [sentence for _, sentence in findings(dataset)]
    assert any("Expected labels for every scan" in sentence for sentence in sentences)
    assert any("Expected a scan for every label file" in sentence for sentence in sentences)
    assert any("at least 3 patients" in sentence for sentence in sentences)


def test_an_unreadable_file(dataset):
    (dataset / "images" / "patient1.nii.gz").write_bytes(b"")
    assert any("empty (0 bytes)" in sentence for _, sentence in findings(dataset))


def test_pairs_of_files_are_one_scan(dataset):
    for part in ("images", "labels"):
        for path in sorted((dataset / part).iterdir()):
            stored = nib.load(path)
            pair = nib.Nifti1Pair(np.asarray(stored.dataobj), stored.affine)
            pair.header.set_xyzt_units("mm")
            nib.save(pair, dataset / part / path.name.replace(".nii.gz", ".img"))
            path.unlink()
    assert findings(dataset) == []
    opened = open_dataset(dataset)
    assert [case.name for case in opened.cases] == [f"patient{i}" for i in range(4)]


def test_nnunets_layout(dataset):
    (dataset / "labels").rename(dataset / "labelsTr")
    (dataset / "images").rename(dataset / "imagesTr")
    for path in (dataset / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    (dataset / "dataset.json").write_text(
        '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "one": 1, "two": 2}}'
    )
    assert findings(dataset) == []
    opened = open_dataset(dataset)
    assert [case.name for case in opened.cases] == [f"patient{i}" for i in range(4)]
    assert opened.labels.names == {1: "one", 2: "two"}
    second = dataset / "imagesTr" / "patient1_0001.nii.gz"
    second.write_bytes((dataset / "imagesTr" / "patient1_0000.nii.gz").read_bytes())
    assert any("one channel" in sentence for _, sentence in findings(dataset))


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match="Expected a dataset folder"):
        list(check_dataset(tmp_path))
