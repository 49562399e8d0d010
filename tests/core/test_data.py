"""Datasets: who is a patient, what is refused, and the slices that training gets."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import nibabel as nib
import numpy as np
import pytest
import torch
from test_volume import ORIENTATIONS

from l2gnet_core.datasets.cases import find_cases, patient_in
from l2gnet_core.datasets.check import Survey
from l2gnet_core.datasets.loading import (
    load_frames,
    median_spacing,
    open_dataset,
)
from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet


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
        ["sub-07_ses-1", "sub-07_ses-2"],
        ["sub-07_ses-1_run-2_T1w", "sub-07_ses-2_acq-high_T2w", "sub-07"],
        ["p3_visit1_ED", "p3_visit2_ES"],
        ["p3_session_1", "p3_tp2", "p3_timepoint-3"],
        ["P01_pre", "P01_post", "P01_baseline", "P01_followup", "P01-follow-up2"],
        ["P01_scan1", "P01_scan2", "P01_run1", "P01_run-2_ED"],
        ["P01_20190101", "P01_2020-03-03", "P01_2021_12_31_post_T1w", "P01_T2w", "P01_FLAIR"],
        ["knee-7_left", "knee-7_right", "knee-7_left_visit2"],
    ],
)
def test_examinations_of_one_person_are_one_patient(make_dataset, names):
    assert len(set(patients(open_dataset(make_dataset(names))).values())) == 1


@pytest.mark.parametrize(
    "names",
    [
        ["hippocampus_001", "hippocampus_003"],
        # These names end in "t1", "es" or "ed", but do not name a frame.
        ["patient1", "patient2"],
        ["patient_1", "patient_2"],
        ["subject-01", "subject-02"],
        ["Fred", "Frede"],
        ["set001", "set002"],
        ["sub-01", "sub-02"],
        ["case_0001", "case_0002"],
        # The only number in a name is the patient's.
        ["abdomen_scan_001", "abdomen_scan_002"],
        ["ct_scan1", "ct_scan2"],
        ["scan_20190101", "scan_20200303"],
        ["BraTS20_001", "BraTS20_002"],
        ["site2_scan_11", "site2_scan_12"],
        ["T2_scan_1", "T2_scan_2", "abdomen_T1_scan_1", "abdomen_T1_scan_2"],
        ["heart_left", "heart_right"],
        ["P01_12345678", "P01_22345678"],
        ["case1pre", "case1post"],
    ],
)
def test_different_patients_stay_different(make_dataset, names):
    dataset = open_dataset(make_dataset(names))
    assert patients(dataset) == {name: name for name in names}
    assert dataset.patients == sorted(names)


@pytest.mark.parametrize("form", ["{}{}", "{}_{}", "{}-{}", "p2_{}_{}"])
@pytest.mark.parametrize("word", ["patient", "case", "subject", "t", "scan", "run", "pre", "left"])
def test_a_number_of_three_digits_or_more_is_never_taken_for_an_examination(word, form):
    if form.startswith("p2") and word == "t":
        return  # a time point, as before
    names = [form.format(word, number) for number in ("001", "002", "0001", "0002", "1234")]
    assert [patient_in(name) for name in names] == names


def test_dataset_json_says_whose_a_scan_is(make_dataset):
    whose = {"scan_17": "P01", "x": "P01", "y_frame01": "P02"}
    settings = {"patients": {**whose, "elsewhere": "P03"}}
    folder = make_dataset([*whose, "y_frame02", "z"], settings=settings)
    assert patients(open_dataset(folder)) == {**whose, "y_frame02": "y", "z": "z"}
    (finding,) = [f for f in Survey(folder).findings if "elsewhere" in f.sentence]
    assert finding.kind == "warning"


def test_one_scan_under_two_names_is_one_patient(make_dataset):
    found = patients(open_dataset(make_dataset(["a", "b", "c"], seeds=[0, 1, 0])))
    assert found["a"] == found["c"] != found["b"]


def test_patients_joined_by_a_chain_of_scans_are_one(make_dataset):
    # a-d, b-c and c-d share scans, so all four are one person, in whichever order they are joined.
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


def test_names_that_look_the_same_are_one(make_dataset):
    composed, decomposed = normalize("NFC", "pät_1"), normalize("NFD", "pät_1")
    folder = make_dataset([decomposed, "b"], settings={"patients": {decomposed: "p7"}})
    file = folder / "labels" / f"{decomposed}.nii.gz"
    file.rename(file.with_name(f"{composed}.nii.gz"))
    assert patients(open_dataset(folder)) == {composed: "p7", "b": "b"}


def test_labels_of_a_scan_are_not_taken_for_those_of_another_in_capitals(make_dataset):
    folder = make_dataset(["a", "A"])
    (folder / "images").rename(folder / "imagesTr")
    (folder / "labels").rename(folder / "labelsTr")
    for file in (folder / "imagesTr").iterdir():
        file.rename(file.with_name(f"{file.name[0]}_0000.nii.gz"))
    (folder / "labelsTr" / "A.nii.gz").unlink()
    cases, findings = find_cases(folder)
    assert [case.name for case in cases] == ["a"]
    assert "labels for every scan, but A_0000.nii.gz has none" in findings[0].sentence


def test_structures_whose_names_look_the_same_are_refused(make_dataset):
    names = {normalize("NFC", "Hörnerv"): 1, normalize("NFD", "hörnerv"): 2}
    with pytest.raises(InputError, match="a name of its own for each structure"):
        open_dataset(make_dataset(["a"], settings={"labels": names}))


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

    refused(tmp_path / "nowhere", "no such folder")
    refused(tmp_path, "'images' and 'labels'")
    folder = make_dataset(["a", "b"])
    (folder / "labels" / "b.nii.gz").unlink()
    refused(folder, r"b\.nii\.gz has none")
    (folder / "images" / "b.nii.gz").unlink()
    for text in (
        '{"labels": ',
        '{"labels": ["RV"]}',
        '{"labels": {"0": "background"}}',
        "[]",
        '{"patients": []}',
    ):
        (folder / "dataset.json").write_text(text)
        refused(folder, r"dataset\.json")
    (folder / "dataset.json").unlink()
    (folder / "images" / "a.nii.gz").unlink()
    refused(folder, "empty")


LABELS = LabelSet.from_names({1: "one", 2: "two"})


def card(labels=LABELS, **fields) -> ModelCard:
    return ModelCard(name="m", labels=labels, **fields)


def test_a_case_comes_as_slices_of_classes(make_dataset, save_scan):
    folder = make_dataset(["a"])
    labels = np.zeros((2, 9, 11), np.uint16)
    labels[0, 3], labels[1, 4] = 20, 300
    save_scan(folder / "labels" / "a.nii.gz", labels)
    dataset = open_dataset(folder)
    (case,) = load_frames(dataset.cases[0], card(dataset.labels))
    assert case.image.shape == case.classes.shape == (2, 9, 11)
    assert case.image.dtype == torch.float16
    assert case.classes.dtype == torch.uint8
    assert (case.image >= 0).all()
    assert (case.image <= 1).all()
    # Ids 20 and 300 become classes 1 and 2, because classes have no gaps.
    assert (case.classes[0, 3] == 1).all()
    assert (case.classes[1, 4] == 2).all()


@pytest.mark.parametrize(("rule", "shape"), [("axial", (4, 6, 8)), ("sagittal", (8, 4, 6))])
def test_slices_lie_along_the_axis_of_the_rule(make_dataset, save_scan, rule, shape):
    folder = make_dataset(["a"])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 6, 8)).astype(np.uint8)
    # Oblong pixels would be made square.
    save_scan(folder / "images" / "a.nii.gz", labels.astype(np.int16) + 100, spacing=(1, 1, 1))
    save_scan(folder / "labels" / "a.nii.gz", labels, spacing=(1, 1, 1))
    (case,) = load_frames(open_dataset(folder).cases[0], card(slicing=rule))
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
    (case,) = open_dataset(folder).cases
    frames = load_frames(case, card())
    assert np.array_equal(torch.stack([frame.classes for frame in frames]), series)
    for frame in frames:
        assert np.array_equal(frame.image.unique(), [0, 0.5, 1])


def test_cases_that_do_not_fit_are_refused(make_dataset, save_scan, one_sentence):
    folder = make_dataset(["a"])
    (case,) = open_dataset(folder).cases
    with pytest.raises(InputError, match=r"ids \[1\].*\[2\]") as error:
        load_frames(case, card(LabelSet.from_names({1: "one"})))
    one_sentence(error.value)
    save_scan(folder / "labels" / "a.nii.gz", np.zeros((2, 9, 10), np.uint8))
    with pytest.raises(InputError, match="shape") as error:
        load_frames(case, card())
    one_sentence(error.value)


def test_an_oriented_case_is_one_whatever_its_storage_order(make_dataset, save_scan):
    folder = make_dataset(["a"])
    (case,) = open_dataset(folder).cases
    files = (case.files.image, case.files.labels)
    # Read now, because the files are overwritten below.
    image, labels = (nib.Nifti1Image.from_bytes(nib.load(path).to_bytes()) for path in files)
    sees, found = card(slicing="axial", oriented=True), []
    for codes in ORIENTATIONS:
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
        )
        nib.save(image.as_reoriented(turn), case.files.image)
        nib.save(labels.as_reoriented(turn), case.files.labels)
        (frame,) = load_frames(case, sees)
        found.append(frame)
    # LPS: rows to the back, columns to the left, the stack to the top.
    lps = np.asarray(labels.dataobj).T[:, ::-1, ::-1]
    for frame in found:
        assert np.array_equal(frame.classes, lps)
        assert torch.equal(frame.image, found[0].image)


def test_a_single_slice_is_read_whichever_way_its_stack_runs(make_dataset, save_scan):
    folder = make_dataset(["a"])
    (case,) = open_dataset(folder).cases
    picture = np.arange(80, dtype=np.uint8).reshape(1, 10, 8)
    for above in (5.0, -5.0):
        for path, array in ((case.files.image, picture), (case.files.labels, picture % 2)):
            save_scan(path, array, spacing=(above, -1.5, -1.5))
        (frame,) = load_frames(case, card(slicing="axial", oriented=True))
        assert np.array_equal(frame.classes, picture % 2)


def test_cases_are_resampled_to_the_median_voxel_size(make_dataset, save_scan, monkeypatch):
    folder = make_dataset(["a", "b", "c"])
    y, x = np.mgrid[0:40, 0:60]
    disc = (np.hypot(y - 20, x - 30) < 15).astype(np.uint8)[None].repeat(6, 0)
    spacings = {"a": (2.0, 1.0, 1.0), "b": (4.0, 2.0, 2.0), "c": (8.0, 2.0, 3.0)}
    for name, spacing in spacings.items():
        save_scan(folder / "images" / f"{name}.nii.gz", disc + 100, spacing)
        save_scan(folder / "labels" / f"{name}.nii.gz", disc, spacing)
    cases = open_dataset(folder).cases
    with monkeypatch.context() as patch:
        # All headers were read when the dataset was examined.
        patch.setattr(
            "l2gnet_core.datasets.cases.read_volume", lambda path: pytest.fail(f"{path} is read")
        )
        assert median_spacing(cases, card()) == (4.0, 2.0, 2.0)
        assert median_spacing(cases, card(), pixel=1.5) == (4.0, 1.5, 1.5)
    assert median_spacing(find_cases(folder)[0], card()) == (4.0, 2.0, 2.0)
    sees = card(spacing=(4.0, 2.0, 2.0))
    (a,), (b,), (c,) = (load_frames(case, sees) for case in cases)
    assert (a.image.shape, a.step) == ((6, 20, 30), 2)
    assert (b.image.shape, b.step) == ((6, 40, 60), 1)
    assert (c.image.shape, c.step) == ((6, 40, 90), 1)
    assert np.array_equal(b.classes, disc)
    for case, factor in ((a, 0.25), (c, 1.5)):
        assert case.classes.shape == case.image.shape
        assert case.classes.dtype == torch.uint8
        assert case.image.dtype == torch.float16
        assert case.classes.sum() == pytest.approx(factor * int(disc.sum()), rel=0.05)
        assert ((case.image > 0.5) == (case.classes == 1)).float().mean() > 0.99


def test_training_scans_must_say_what_the_model_needs(make_dataset, one_sentence):
    folder = make_dataset(["a"])
    image = folder / "images" / "a.nii.gz"
    silent = nib.Nifti1Image(np.asarray(nib.load(image).dataobj), None)
    silent.set_sform(None, 0)
    silent.set_qform(None, 0)
    nib.save(silent, image)
    (case,) = open_dataset(folder).cases
    for says, call in (
        ("right, front and top", lambda: load_frames(case, card(slicing="axial", oriented=True))),
        ("voxel size", lambda: load_frames(case, card(spacing=(1.0, 1.0, 1.0)))),
        ("voxel size", lambda: median_spacing([case], card())),
    ):
        with pytest.raises(InputError, match=rf"{says}.*a\.nii\.gz") as error:
            call()
        one_sentence(error.value)
    assert load_frames(case, card())  # but a model that needs neither reads it
