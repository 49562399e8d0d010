"""Planted faults: each is reported with its own sentence, and none is trained on silently."""

from __future__ import annotations

import json
import re
import shutil
from itertools import chain, permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from lightning_fabric.utilities.rank_zero import rank_zero_only

from l2gnet_core.cli import main
from l2gnet_core.datasets.cases import Finding
from l2gnet_core.datasets.check import Survey, grouped_messages
from l2gnet_core.datasets.loading import open_dataset
from l2gnet_core.datasets.settings import read_settings
from l2gnet_core.datasets.split import read_split
from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, write_labels
from l2gnet_core.scans.fingerprint import order_free_fingerprint

ACDC = Path(__file__).parents[3] / "shared" / "data" / "acdc"


@pytest.fixture
def dataset(tmp_path, save_scan) -> Path:
    """Four patients without faults, of 3 slices each."""
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
    survey = Survey(folder)
    for _ in survey.examine():
        pass
    return [(finding.kind, finding.sentence) for finding in survey.findings]


def replace_file(path: Path, data: np.ndarray | None = None, affine=None) -> None:
    """Write a scan again with other voxels or another header."""
    stored = nib.load(path)
    voxels = np.asarray(stored.dataobj) if data is None else data.transpose()
    image = nib.Nifti1Image(voxels, stored.affine if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def other_shape(folder: Path) -> None:
    replace_file(folder / "labels" / "patient1.nii.gz", np.zeros((3, 20, 20), np.uint8))


def elsewhere(folder: Path) -> None:
    affine = nib.load(folder / "labels" / "patient1.nii.gz").affine.copy()
    affine[:3, 3] += 5
    replace_file(folder / "labels" / "patient1.nii.gz", affine=affine)


def mirrored(folder: Path) -> None:
    affine = nib.load(folder / "labels" / "patient1.nii.gz").affine @ np.diag([-1, 1, 1, 1])
    replace_file(folder / "labels" / "patient1.nii.gz", affine=affine)


def name_labels(folder: Path, patient: int, **names: int) -> None:
    """Write a label file again that names its structures itself."""
    path = folder / "labels" / f"patient{patient}.nii.gz"
    stored = read_labels(path).volume
    write_labels(path, stored.data, stored.grid, {id: name for name, id in names.items()})


def names_under_other_ids(folder: Path) -> None:
    name_labels(folder, 0, one=1, two=2)
    name_labels(folder, 1, TWO=1, one=2)


def names_under_several_ids(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    names_under_other_ids(folder)


def ids_under_several_names(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    name_labels(folder, 0, one=1, two=2)
    name_labels(folder, 1, one=1, second=2)


def unknown_ids(folder: Path) -> None:
    replace_file(folder / "labels" / "patient1.nii.gz", np.full((3, 20, 24), 7, np.uint8))


def fractions(folder: Path) -> None:
    replace_file(folder / "labels" / "patient1.nii.gz", np.full((3, 20, 24), 0.5, np.float32))


def no_label_file(folder: Path) -> None:
    (folder / "labels" / "patient1.nii.gz").unlink()


def labels_in_capitals(folder: Path) -> None:
    file = folder / "labels" / "patient1.nii.gz"
    file.rename(file.with_name("Patient1.nii.gz"))


def no_scan(folder: Path) -> None:
    (folder / "images" / "patient1.nii.gz").unlink()


def two_of_a_name(folder: Path) -> None:
    nib.save(nib.load(folder / "labels" / "patient1.nii.gz"), folder / "labels" / "patient1.nii")


def no_bytes(folder: Path) -> None:
    (folder / "images" / "patient1.nii.gz").write_bytes(b"")


def links_that_lead_nowhere(folder: Path) -> None:
    for part in ("images", "labels"):
        path = folder / part / "patient1.nii.gz"
        path.unlink()
        path.symlink_to(folder / "not_fetched" / path.name)


def half_the_bytes(folder: Path) -> None:
    path = folder / "images" / "patient1.nii.gz"
    path.write_bytes(path.read_bytes()[:500])


def one_intensity(folder: Path) -> None:
    replace_file(folder / "images" / "patient1.nii.gz", np.full((3, 20, 24), 5, np.int16))


def nothing_finite(folder: Path) -> None:
    replace_file(folder / "images" / "patient1.nii.gz", np.full((3, 20, 24), np.nan, np.float32))


def frames_without_labels(folder: Path) -> None:
    series = np.random.default_rng(1).integers(0, 900, (5, 3, 20, 24)).astype(np.int16)
    replace_file(folder / "images" / "patient1.nii.gz", series)


def too_many_structures(folder: Path) -> None:
    (folder / "dataset.json").write_text(
        json.dumps({"labels": {f"part {n}": n for n in range(1, 300)}})
    )


def a_scan_for_labels(folder: Path) -> None:
    scan = np.asarray(nib.load(folder / "images" / "patient1.nii.gz").dataobj).T
    replace_file(folder / "labels" / "patient1.nii.gz", np.clip(scan, 0, 99).astype(np.uint8))


def labels_for_a_scan(folder: Path) -> None:
    shutil.copy(folder / "labels" / "patient1.nii.gz", folder / "images" / "patient1.nii.gz")


def nothing_labelled(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        replace_file(path, np.zeros((3, 20, 24), np.uint8))


def an_id_below_zero(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"labels": {"one": 1, "two": 2, "three": -1}}')


def a_structure_as_background(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"labels": {"air": 0, "one": 1, "two": 2}}')


def an_id_too_large(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"labels": {"one": 1, "two": 2, "three": 70000}}')


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (other_shape, r"shape \(3, 20, 24\).*\(3, 20, 20\)"),
        (elsewhere, "8.7 mm apart"),
        (mirrored, "mm apart"),
        (names_under_other_ids, "TWO is 2 in dataset.json and 1 in the labels; give it one id"),
        (
            names_under_several_ids,
            r"one is 1 \(patient0\) and 2 \(patient1\); give it one",
        ),
        (
            ids_under_several_names,
            r"2 is two \(patient0\) and second \(patient1\); give it",
        ),
        (unknown_ids, "ids 7 are not in dataset.json"),
        (a_scan_for_labels, r"ids \d+, \d+, \d+ and \d+ more are not in dataset.json"),
        (labels_for_a_scan, "both hold the same values"),
        (nothing_labelled, "no label file holds 1 one, 2 two"),
        (an_id_below_zero, "ids from 1 to 65535, but that of three is -1"),
        (
            a_structure_as_background,
            "that of air is 0; call id 0 background, or give air an id from 1",
        ),
        (an_id_too_large, "ids from 1 to 65535, but that of three is 70000"),
        (fractions, "holds fractions"),
        (no_label_file, "labels for every scan, but patient1.nii.gz has none"),
        (labels_in_capitals, "patient1.nii.gz and Patient1.nii.gz differ in upper and lower case"),
        (no_scan, "scan for every label file, but patient1.nii.gz has none"),
        (two_of_a_name, "one file of a name.*patient1.nii and patient1.nii.gz"),
        (no_bytes, "empty"),
        (links_that_lead_nowhere, "images/patient1.nii.gz is a link to .*, which is not there"),
        (half_the_bytes, "damaged or cut short"),
        (one_intensity, "one intensity"),
        (nothing_finite, "one intensity"),
        (frames_without_labels, "each of the scan's 5 frames"),
        (too_many_structures, "1 to 254 structures"),
    ],
)
def test_an_error_is_told_and_stops_training(dataset, tmp_path, plant, says, one_sentence, capsys):
    plant(dataset)
    errors = [sentence for kind, sentence in findings(dataset) if kind == "error"]
    assert sum(bool(re.search(says, sentence)) for sentence in errors) == 1
    for sentence in errors:
        one_sentence(ValueError(sentence))
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(dataset), "-o", str(tmp_path / "run"), "--epochs", "1"])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(says, line)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(dataset)])
    assert stopped.value.code == 2
    assert re.search(says, capsys.readouterr().out)


def empty_labels(folder: Path) -> None:
    replace_file(folder / "labels" / "patient1.nii.gz", np.zeros((3, 20, 24), np.uint8))


def a_structure_that_none_has(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"labels": {"one": 1, "two": 2, "three": 3}}')


def one_scan_under_two_names(folder: Path) -> None:
    for part in ("images", "labels"):
        shutil.copy(folder / part / "patient1.nii.gz", folder / part / "patient3.nii.gz")


def one_scan_read_twice(folder: Path) -> None:
    shutil.copy(folder / "images" / "patient1.nii.gz", folder / "images" / "patient3.nii.gz")
    labels = np.zeros((3, 20, 24), np.uint8)
    labels[1, 5:11, 5:12], labels[1, 12:15, 5:12] = 1, 2
    replace_file(folder / "labels" / "patient3.nii.gz", labels)


def one_scan_as_two_frames(folder: Path) -> None:
    for part in ("images", "labels"):
        path = folder / part / "patient1.nii.gz"
        shutil.copy(path, folder / part / "patient1_frame02.nii.gz")


def ten_times_the_spacing(folder: Path) -> None:
    for part in ("images", "labels"):
        path = folder / part / "patient1.nii.gz"
        replace_file(path, affine=nib.load(path).affine @ np.diag([10, 10, 10, 1]))


def no_voxel_size(folder: Path) -> None:
    for part in ("images", "labels"):
        path = folder / part / "patient1.nii.gz"
        data = np.asarray(nib.load(path).dataobj).transpose()
        tifffile.imwrite(path.with_name("patient1.tif"), data, photometric="minisblack")
        path.unlink()


def another_orientation(folder: Path) -> None:
    for part in ("images", "labels"):
        path = folder / part / "patient1.nii.gz"
        replace_file(path, affine=nib.load(path).affine @ np.diag([-1, -1, 1, 1]))


def one_time_series(folder: Path) -> None:
    for part in ("images", "labels"):
        path = folder / part / "patient1.nii.gz"
        data = np.asarray(nib.load(path).dataobj).transpose()
        replace_file(path, np.stack([data, data + (part == "images")]))


def some_voxels_not_finite(folder: Path) -> None:
    data = np.random.default_rng(1).random((3, 20, 24)).astype(np.float32)
    data[0, 0, :5] = np.nan
    replace_file(folder / "images" / "patient1.nii.gz", data)


def labels_in_an_empty_margin(folder: Path) -> None:
    for kind in ("images", "labels"):
        path = folder / kind / "patient1.nii.gz"
        stored = np.asarray(nib.load(path).dataobj).transpose()
        padded = np.pad(stored, [(0, 0), (0, 60), (0, 0)])
        if kind == "labels":
            padded[1, 70:72, 3:6] = 1
        replace_file(path, padded)


def nnunet_with_two_channels(folder: Path) -> None:
    to_nnunet(folder)
    settings = folder / "dataset.json"
    settings.write_text(settings.read_text().replace('"0": "MRI"', '"0": "T1", "1": "T2"'))


def a_scan_for_unnamed_labels(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    a_scan_for_labels(folder)


def two_patients(folder: Path) -> None:
    for part in ("images", "labels"):
        for patient in (2, 3):
            (folder / part / f"patient{patient}.nii.gz").unlink()


WARNINGS = [
    (empty_labels, "labels are empty"),
    (a_structure_that_none_has, "No label file holds 3 three"),
    (one_scan_under_two_names, "patient1 and patient3 share .* the same labels"),
    (one_scan_read_twice, "patient1 and patient3 share .* different labels .* read twice"),
    (one_scan_as_two_frames, "patient1 = patient1_frame02: identical scans with the same labels"),
    (ten_times_the_spacing, "Voxels of 15×15×80 mm where 1.5×1.5×8 are usual"),
    (no_voxel_size, r"voxel size: 3 in mm, 1 without \(patient1\)"),
    (another_orientation, r"different orientations: 3 RAS, 1 LPS \(patient1\)"),
    (one_time_series, r"3 a single frame, 1 a time series \(patient1\)"),
    (some_voxels_not_finite, "5 voxels that are not finite"),
    (labels_in_an_empty_margin, r"6 of \d+ labelled voxels lie in rows or columns at the edge"),
    (nnunet_with_two_channels, r"2 channels \(T1, T2\), but a model sees one"),
    (a_scan_for_unnamed_labels, r"up to \d+ in the labels of patient1: if these are scans"),
    (two_patients, "at least 3 patients"),
]


@pytest.mark.parametrize(("plant", "says"), WARNINGS)
def test_what_may_be_meant_is_a_warning_of_its_own(dataset, plant, says, one_sentence):
    plant(dataset)
    found = findings(dataset)
    assert {kind for kind, _ in found} == {"warning"}
    [sentence] = [sentence for _, sentence in found if re.search(says, sentence)]
    one_sentence(ValueError(sentence))
    assert [other for _, other in WARNINGS if re.search(other, sentence)] == [says]
    open_dataset(dataset)


def test_a_scan_is_known_in_every_order_in_which_it_may_be_stored():
    rng = np.random.default_rng(0)
    scan, labels = rng.integers(0, 3, (4, 5, 6)), rng.integers(0, 2, (4, 5, 6))
    known = {order_free_fingerprint(scan), order_free_fingerprint(scan, labels)}
    assert len(known) == 2
    for axes, steps in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned = tuple(slice(None, None, step) for step in steps)
        for kind in (np.int16, np.float64):
            again = scan.astype(kind).transpose(axes)[turned]
            marks = labels.transpose(axes)[turned]
            assert order_free_fingerprint(again) in known
            assert order_free_fingerprint(np.ascontiguousarray(again), marks) in known
    others = [scan + 1, scan.reshape(4, 6, 5), rng.permuted(scan), scan[:, ::-1]]
    assert not known & {order_free_fingerprint(other) for other in others[:3]}
    assert order_free_fingerprint(others[3], labels) not in known
    assert order_free_fingerprint(scan * -0.0) == order_free_fingerprint(scan * 0)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (0, 2, 1)])
def test_a_voxel_size_is_as_usual_whatever_the_axes(dataset, axes):
    for part in ("images", "labels"):
        path = dataset / part / "patient1.nii.gz"
        nib.save(nib.load(path).as_reoriented([[axis, 1] for axis in axes]), path)
    assert not [sentence for _, sentence in findings(dataset) if "usual" in sentence]


@pytest.mark.parametrize("turned", [False, True])
def test_a_scan_that_is_stored_otherwise_is_of_the_same_patient(dataset, turned):
    for part in ("images", "labels"):
        stored = nib.load(dataset / part / "patient1.nii.gz").as_reoriented(
            [[2, -1], [0, 1], [1, -1]]
        )
        if turned and part == "labels":
            stored = nib.Nifti1Image(np.asarray(stored.dataobj)[::-1], stored.affine)
        nib.save(stored, dataset / part / "patient3.nii.gz")
    said = [sentence for kind, sentence in findings(dataset) if "identical" in sentence]
    labels = "different" if turned else "the same"
    assert len(said) == 1
    assert f"patient1 and patient3 share identical scans with {labels} labels" in said[0]
    assert open_dataset(dataset).patients == ["patient0", "patient1", "patient2"]


def test_a_frame_of_anothers_series_is_of_the_same_patient(dataset):
    blank = np.zeros((3, 20, 24))
    for part in ("images", "labels"):
        one, two = (
            np.asarray(nib.load(dataset / part / f"patient{n}.nii.gz").dataobj).T for n in (1, 2)
        )
        # Empty frames are equal for all patients.
        replace_file(dataset / part / "patient1.nii.gz", np.stack([one, two, blank]))
        replace_file(dataset / part / "patient3.nii.gz", np.stack([one + 1, blank]))
    survey = Survey(dataset)
    assert len(list(survey.examine())) == 4
    assert survey.patients.names["patient2"] == "patient1"
    assert survey.patients.names["patient3"] == "patient3"
    [told] = [one.sentence for one in survey.findings if "identical" in one.sentence]
    assert "patient1 and patient2 share" in told
    assert "the same labels (patient1 = patient2 in some frames)" in told


def test_training_says_the_warnings_before_it_goes_on(dataset, tmp_path, capsys):
    one_scan_read_twice(dataset)
    empty_labels(dataset)
    (dataset / "dataset.json").write_text('{"labels": {"anterior": 1, "posterior": 2}}')
    run = tmp_path / "run"
    main(["train", str(dataset), "-o", str(run), "--epochs", "1", "--preset", "tiny"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    direction = "warning: anterior and posterior differ by a direction"
    assert lines[2].startswith(direction)
    main(["check", str(dataset)])
    assert direction in capsys.readouterr().out
    assert lines[0] == "warning: patient1: The labels are empty: background everywhere."
    assert "patient1 and patient3 share identical scans" in lines[1]
    # The two are one patient, also in the split.
    split = json.loads((run / "split.json").read_text())
    assert sorted(chain(*split.values())) == ["patient0", "patient1", "patient2"]

    # Both check and train refuse a split that separates them.
    split = {"train": ["patient0", "patient1"], "tuning": ["patient2"], "test": ["patient3"]}
    (run / "split.json").write_text(json.dumps(split))
    for command in (
        ["check", str(dataset), "--split", str(run)],
        ["train", str(dataset), "-o", str(run), "--epochs", "1", "--preset", "tiny", "--resume"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 2
        said = "".join(capsys.readouterr())
        assert "patient1 in train and patient3 in test share an identical scan" in said


@pytest.mark.parametrize(("rank", "lines"), [(0, 1), (1, 0)])
def test_of_several_processes_one_says_the_warnings(
    dataset, tmp_path, capsys, monkeypatch, rank, lines
):
    empty_labels(dataset)
    monkeypatch.setattr(rank_zero_only, "rank", rank)  # Fabric sets it.
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr("l2gnet_core.training.run.train_dataset", lambda *_, **__: (_ for _ in ()))
    main(["train", str(dataset), "-o", str(tmp_path / "run"), "--devices", "2", "--device", "cpu"])
    assert capsys.readouterr().err.count("The labels are empty") == lines


def test_a_sound_dataset_has_nothing_to_find(dataset, capsys):
    assert findings(dataset) == []
    main(["check", str(dataset)])
    out, err = capsys.readouterr()
    assert out == "4 scans of 4 patients: 0 errors, 0 warnings, 0 notes\n"
    assert err == ""


@pytest.mark.parametrize(
    "name", ["Background", " BG", "0 background", "Clear Label", "Hintergrund"]
)
def test_background_may_have_a_name(dataset, name):
    names = {name: 0, "one": 1, "two": 2}
    (dataset / "dataset.json").write_text(json.dumps({"labels": names}))
    assert findings(dataset) == []


def test_without_names_structures_go_by_their_ids(dataset, capsys):
    (dataset / "dataset.json").unlink()
    [(kind, sentence)] = findings(dataset)
    assert (kind, "structures 1, 2:" in sentence) == ("note", True)
    main(["check", str(dataset), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["cases"], report["patients"]) == (4, 4)
    assert [finding["kind"] for finding in report["findings"]] == ["note"]


def test_without_settings_structures_have_the_names_of_label_files(dataset):
    (dataset / "dataset.json").unlink()
    name_labels(dataset, 0, Liver=1, nowhere=7)
    name_labels(dataset, 2, liver=1)
    assert open_dataset(dataset).labels.names == {1: "Liver", 2: "structure 2"}
    named, silent, unnamed = findings(dataset)
    assert named == ("note", "No dataset.json is there: label files name 1 Liver.")
    assert silent[0] == "warning"
    assert "The labels of patient1" in silent[1]
    assert unnamed[0] == "note"
    assert "the structures 2:" in unnamed[1]


def test_settings_decide_where_label_files_have_names_of_their_own(dataset):
    name_labels(dataset, 0, first=1, Two=2)
    name_labels(dataset, 1, Segment_1=1, one=5)
    assert findings(dataset) == []
    assert open_dataset(dataset).labels.names == {1: "one", 2: "two"}


def test_a_fault_of_every_scan_is_told_of_the_first_few(dataset, capsys):
    for index, path in enumerate(sorted((dataset / "labels").iterdir())):
        affine = nib.load(path).affine.copy()
        affine[:3, 3] += 5 + index
        replace_file(path, affine=affine)
    with pytest.raises(SystemExit):
        main(["check", str(dataset)])
    *lines, last, total = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert last == "error: the same of 1 more: patient3."
    assert total.endswith("4 errors, 0 warnings, 0 notes")


def test_faults_are_alike_by_their_code_alone():
    ids = [
        Finding("error", f"p{n}", f"Label ids {list(range(n))}.", "unknown ids") for n in range(5)
    ]
    whole = [Finding("warning", "", f"Scans {n} are odd.") for n in range(5)]
    other = Finding("warning", "p9", "Label ids [].", "unknown ids")
    assert list(grouped_messages([*ids, *whole, other], most=2)) == [
        "error: p0: Label ids [].",
        "error: p1: Label ids [0].",
        "error: the same of 3 more: p2, p3, p4.",
        *(f"warning: Scans {n} are odd." for n in range(5)),
        "warning: p9: Label ids [].",
    ]


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


def to_nnunet(dataset: Path, channel: str = "_0000") -> None:
    (dataset / "labels").rename(dataset / "labelsTr")
    (dataset / "images").rename(dataset / "imagesTr")
    for path in (dataset / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", f"{channel}.nii")))
    (dataset / "dataset.json").write_text(
        '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "one": 1, "two": 2}}'
    )


@pytest.mark.parametrize("channel", ["_0000", ""])  # names in the Decathlon have no channels
def test_nnunets_layout(dataset, channel):
    to_nnunet(dataset, channel)
    assert findings(dataset) == []
    opened = open_dataset(dataset)
    assert [case.name for case in opened.cases] == [f"patient{i}" for i in range(4)]
    assert opened.labels.names == {1: "one", 2: "two"}


def test_voxels_that_nobody_labelled_are_not_learnt_as_a_structure(dataset):
    to_nnunet(dataset)
    settings = dataset / "dataset.json"
    settings.write_text(settings.read_text().replace("two", "ignore"))
    assert {kind for kind, _ in findings(dataset)} == {"error"}
    assert all("nobody labelled" in sentence for _, sentence in findings(dataset))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ('{"liver": 1, "spleen": 1}', "liver and spleen are both 1;"),
        ('{"1": "liver", "01": "spleen"}', "liver and spleen are both 1;"),
        ('{"liver": 1, "liver": 2}', '"liver" comes twice;'),
        ('{"liver": 1.7}', "that of liver is 1.7;"),
        ('{"liver": true}', "that of liver is true;"),
        ('{"liver": "one"}', 'that of liver is "one";'),
        ('{"liver": null}', "that of liver is null;"),
        (
            '{"Liver": 1, "liver": 2}',
            "Liver and liver differ in case, spaces or underscores",
        ),
        (
            '{"1": "liver", "2": "liver"}',
            "liver and liver differ in case, spaces or underscores",
        ),
        (
            '{"liver": 1, "liver ": 2}',
            "liver and liver differ in case, spaces or underscores",
        ),
        ('{"": 1, "liver": 2}', "that of 1 is empty;"),
        ('{"1": " "}', 'that of "1" is empty;'),
        ('{"whole": [1, 2], "core": 2}', "whole is a region of several, as nnU-Net"),
    ],
)
def test_each_structure_has_an_id_and_a_name_of_its_own(tmp_path, one_sentence, labels, says):
    (tmp_path / "dataset.json").write_text(f'{{"labels": {labels}}}')
    with pytest.raises(InputError, match=re.escape(says)) as error:
        read_settings(tmp_path / "dataset.json")
    one_sentence(error.value)


@pytest.mark.parametrize(
    "labels",
    ['{"liver": 1}', '{"1": "liver"}', '{"liver": "1"}', '{" liver\\n": 1}', '{"liver": [1]}'],
)
def test_ids_may_stand_on_either_side(tmp_path, labels):
    (tmp_path / "dataset.json").write_text(f'{{"labels": {labels}}}')
    assert read_settings(tmp_path / "dataset.json").names == {1: "liver"}


def test_settings_that_are_none_are_refused(tmp_path, one_sentence):
    for text in ("[]", "{", '{"labels": []}', '{"labels": ' + "[" * 100_000):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(InputError, match="it cannot be read so") as error:
            read_settings(tmp_path / "dataset.json")
        one_sentence(error.value)


def test_names_at_the_end_of_a_link_that_leads_nowhere_are_not_none(tmp_path, one_sentence):
    file = tmp_path / "dataset.json"
    file.symlink_to(tmp_path / "not_fetched.json")
    with pytest.raises(InputError, match="cannot be read so") as error:
        read_settings(file)
    one_sentence(error.value)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"liver": 1}}', encoding="utf-8-sig")
    assert read_settings(tmp_path / "dataset.json").names == {1: "liver"}
    split = {"train": ["a"], "tuning": [], "test": ["b"]}
    (tmp_path / "split.json").write_text(json.dumps(split), encoding="utf-8-sig")
    assert read_split(tmp_path) == split


def test_nnunets_test_cases_are_held_out_and_other_channels_refused(dataset):
    to_nnunet(dataset)
    for part, name in (("images", "patient3_0000.nii.gz"), ("labels", "patient3.nii.gz")):
        (dataset / f"{part}Ts").mkdir()
        (dataset / f"{part}Tr" / name).rename(dataset / f"{part}Ts" / name)
    assert findings(dataset) == []
    assert open_dataset(dataset).people.held_out == {"patient3": "test"}
    images = dataset / "imagesTr"
    shutil.copy(images / "patient1_0000.nii.gz", images / "patient1_0001.nii.gz")
    [(kind, sentence)] = findings(dataset)
    assert (kind, "one channel" in sentence) == ("error", True)


def test_a_series_folder_beside_files_is_said(dataset):
    (dataset / "images" / "patient1.nii.gz").unlink()
    (dataset / "images" / "patient1").mkdir()
    [(kind, sentence)] = findings(dataset)
    assert (kind, "patient1 is a folder beside files" in sentence) == ("error", True)


def test_scans_that_cannot_be_read_are_patients_too(dataset):
    for number in range(3):
        (dataset / "images" / f"patient{number}.nii.gz").write_bytes(b"nothing")
    assert not [sentence for _, sentence in findings(dataset) if "at least 3" in sentence]
    (dataset / "images" / "patient3.nii.gz").write_bytes(b"nothing")
    assert {kind for kind, _ in findings(dataset)} == {"error"}


def test_a_file_that_is_no_split_is_not_to_be_deleted(tmp_path, one_sentence):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="name a run folder or its split") as error:
        read_split(tmp_path / "notes.txt")
    one_sentence(error.value)


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match="Expected a dataset folder"):
        Survey(tmp_path)
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(InputError, match="but there is no 'labelsTr'; put files"):
        Survey(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file, but that is a file;"):
        Survey(tmp_path / "file")
    with pytest.raises(InputError, match="nowhere, but there is no such folder;"):
        Survey(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("inside", "says"),
    [
        ([".DS_Store"], r"but it is empty; put scans there"),
        (["a.png", "b.png", "notes.txt"], r"files that are not read as scans \(.png, .txt\);"),
        (["p1/scan.nii.gz", "p2/scan.nii.gz"], r"holds folders alone \(p1, p2\), none of them a"),
    ],
)
def test_what_is_there_instead_of_scans_is_said(tmp_path, one_sentence, inside, says):
    (tmp_path / "labels").mkdir()
    for name in inside:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    with pytest.raises(InputError, match=says) as error:
        Survey(tmp_path)
    one_sentence(error.value)


@pytest.mark.shared
@pytest.mark.skipif(not ACDC.is_dir(), reason="needs the shared data")
def test_the_patient_of_acdc_who_was_read_twice(tmp_path):
    for path in ACDC.glob("[il]*/patient07*"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).symlink_to(path)
    told = findings(tmp_path)
    [warning] = [sentence for kind, sentence in told if kind != "note"]
    assert warning.startswith("patient074 and patient076 share identical scans with different")
