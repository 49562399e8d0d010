"""Datasets: who is a patient, what is refused, and the slices that training gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from l2gnet_core.data import load_frames, open_dataset
from l2gnet_core.errors import InputError
from l2gnet_core.labels import LabelSet


def patients(dataset) -> dict[str, str]:
    return {case.name: case.patient for case in dataset.cases}


def test_frames_of_one_examination_are_one_patient(make_dataset):
    names = ["patient001_frame01", "patient001_frame12", "patient002_frame01", "a_ED", "a_ES"]
    found = patients(open_dataset(make_dataset(names)))
    assert found["patient001_frame01"] == found["patient001_frame12"] == "patient001"
    assert found["patient002_frame01"] == "patient002"
    assert found["a_ED"] == found["a_ES"] == "a"


@pytest.mark.parametrize(
    "names",
    [
        ["hippocampus_001", "hippocampus_003"],
        # Names that end like a frame without being one: "t1", "es", "ed".
        ["patient1", "patient2"],
        ["patient_1", "patient_2"],
        ["subject-01", "subject-02"],
        ["Fred", "Frede"],
        ["set001", "set002"],
    ],
)
def test_different_patients_stay_different(make_dataset, names):
    dataset = open_dataset(make_dataset(names))
    assert patients(dataset) == {name: name for name in names}
    assert dataset.patients == sorted(names)


def test_one_scan_under_two_names_is_one_patient(make_dataset):
    found = patients(open_dataset(make_dataset(["a", "b", "c"], seeds=[0, 1, 0])))
    assert found["a"] == found["c"] != found["b"]


def test_patients_joined_by_a_chain_of_scans_are_one(make_dataset):
    # a-d, b-c and c-d share scans, so all four are one person however the chain is walked.
    names = ["a", "b", "c_frame01", "c_frame02", "d_frame01", "d_frame02", "e"]
    found = patients(open_dataset(make_dataset(names, seeds=[0, 1, 1, 2, 0, 2, 9])))
    assert len({found[name] for name in names[:-1]}) == 1
    assert found["e"] == "e"


def test_names_of_structures_come_from_dataset_json(make_dataset):
    folder = make_dataset(
        ["a"], settings={"labels": {"background": 0, "RV": 1, "LV": 2}, "description": "Hearts"}
    )
    dataset = open_dataset(folder)
    assert dataset.labels.names == {1: "RV", 2: "LV"}
    assert dataset.description == "Hearts"
    (folder / "dataset.json").unlink()
    assert open_dataset(folder).labels.names == {1: "structure 1", 2: "structure 2"}


def test_what_desktops_leave_in_folders_is_no_scan(make_dataset):
    folder = make_dataset(["a", "b"])
    (folder / "images" / ".DS_Store").write_bytes(b"x")
    (folder / "images" / "._a.nii.gz").write_bytes(b"x")
    (folder / "images" / "readme.txt").write_text("x")
    assert [case.name for case in open_dataset(folder).cases] == ["a", "b"]


def test_datasets_that_cannot_be_used_are_refused(make_dataset, tmp_path, one_sentence):
    def refused(folder: Path, says: str) -> None:
        with pytest.raises(InputError, match=says) as error:
            open_dataset(folder)
        one_sentence(error.value)

    refused(tmp_path / "nowhere", "'images' and 'labels'")
    folder = make_dataset(["a", "b"])
    (folder / "labels" / "b.nii.gz").unlink()
    refused(folder, r"b\.nii\.gz has none")
    (folder / "images" / "b.nii.gz").unlink()
    for text in ('{"labels": ', '{"labels": ["RV"]}', '{"labels": {"0": "background"}}', "[]"):
        (folder / "dataset.json").write_text(text)
        refused(folder, r"dataset\.json")
    (folder / "dataset.json").unlink()
    (folder / "images" / "a.nii.gz").unlink()
    refused(folder, "empty")


LABELS = LabelSet.from_names({1: "one", 2: "two"})


def test_a_case_comes_as_slices_of_classes(make_dataset, save_scan):
    folder = make_dataset(["a"])
    labels = np.zeros((2, 9, 11), np.uint16)
    labels[0, 3], labels[1, 4] = 20, 300
    save_scan(folder / "labels" / "a.nii.gz", labels)
    dataset = open_dataset(folder)
    (case,) = load_frames(dataset.cases[0], dataset.labels, "through-plane")
    assert case.image.shape == case.classes.shape == (2, 9, 11)
    assert case.image.dtype == torch.float16
    assert case.classes.dtype == torch.uint8
    assert (case.image >= 0).all()
    assert (case.image <= 1).all()
    # Ids 20 and 300 are classes 1 and 2: the network knows no gaps.
    assert (case.classes[0, 3] == 1).all()
    assert (case.classes[1, 4] == 2).all()


@pytest.mark.parametrize(("rule", "shape"), [("axial", (4, 6, 8)), ("sagittal", (8, 4, 6))])
def test_slices_lie_along_the_axis_of_the_rule(make_dataset, save_scan, rule, shape):
    folder = make_dataset(["a"])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 6, 8)).astype(np.uint8)
    save_scan(folder / "images" / "a.nii.gz", labels.astype(np.int16))
    save_scan(folder / "labels" / "a.nii.gz", labels)
    (case,) = load_frames(open_dataset(folder).cases[0], LABELS, rule)
    assert case.classes.shape == shape
    axis = {"axial": 0, "sagittal": 2}[rule]
    assert np.array_equal(case.classes.numpy(), np.moveaxis(labels, axis, 0))


def test_each_frame_of_a_time_series_is_scaled_by_itself(make_dataset, save_scan):
    folder = make_dataset(["a"])
    series = np.random.default_rng(0).integers(0, 3, (3, 2, 9, 11)).astype(np.uint8)
    save_scan(
        folder / "images" / "a.nii.gz", series * np.array([1, 5, 90], np.uint8)[:, None, None, None]
    )
    save_scan(folder / "labels" / "a.nii.gz", series)
    frames = load_frames(open_dataset(folder).cases[0], LABELS, "through-plane")
    assert np.array_equal(torch.stack([frame.classes for frame in frames]), series)
    for frame in frames:
        assert np.array_equal(frame.image.unique(), [0, 0.5, 1])


def test_cases_that_do_not_fit_are_refused(make_dataset, save_scan, one_sentence):
    folder = make_dataset(["a"])
    (case,) = open_dataset(folder).cases
    with pytest.raises(InputError, match=r"ids \[1\].*\[2\]") as error:
        load_frames(case, LabelSet.from_names({1: "one"}), "through-plane")
    one_sentence(error.value)
    save_scan(folder / "labels" / "a.nii.gz", np.zeros((2, 9, 10), np.uint8))
    with pytest.raises(InputError, match="shape") as error:
        load_frames(case, LABELS, "through-plane")
    one_sentence(error.value)
