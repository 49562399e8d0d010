"""Array files of TransUNet, SSL4MIS and MT-UNet: what is read, and what is refused."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2gnet_core.cli import main
from l2gnet_core.datasets.cases import find_cases
from l2gnet_core.datasets.check import Survey
from l2gnet_core.datasets.loading import load_frames, open_dataset
from l2gnet_core.datasets.split import split_patients
from l2gnet_core.errors import InputError
from l2gnet_core.files.arrays import ArrayFiles, read_array, scan_of
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import MODEL_FILE, read_card


def drawn(seed: int, slices: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.random((slices, 16, 20)).astype(np.float32)
    return image, rng.integers(0, 3, image.shape).astype(np.float32)  # labels too are float there


def save_h5(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip" if array.ndim else None)
    return path


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


@pytest.fixture
def synapse(tmp_path) -> Path:
    """Four patients in slices to learn from, two whole to test on."""
    for case in (5, 6, 7, 9):
        for number, (image, label) in enumerate(zip(*drawn(case), strict=True)):
            name = f"case{case:04}_slice{number:03}.npz"
            save_npz(tmp_path / "train_npz" / name, image=image, label=label)
    for case in (1, 2):
        image, label = drawn(case)
        save_h5(tmp_path / "test_vol_h5" / f"case{case:04}.npy.h5", image=image, label=label)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("case0005_slice000\n")
    (tmp_path / "dataset.json").write_text('{"labels": {"aorta": 1, "gallbladder": 2}}')
    return tmp_path


def findings(folder: Path) -> list[tuple[str, str]]:
    survey = Survey(folder)
    for _ in survey.examine():
        pass
    return [(finding.kind, finding.sentence) for finding in survey.findings]


@pytest.mark.parametrize(
    ("file", "scan"),
    [
        ("case0005_slice012.npz", ("case0005", 12)),
        ("case0001.npy.h5", ("case0001", None)),
        ("patient001_frame01_slice_1.h5", ("patient001_frame01", 1)),
        ("patient001_frame01.h5", ("patient001_frame01", None)),
        ("case_001_sliceED_0.npz", ("case_001_ED", 0)),
        ("case_002_volume_ES.npz", ("case_002_ES", None)),
    ],
)
def test_names_tell_scan_and_slice(file, scan):
    assert scan_of(Path(file)) == scan


def test_slices_become_scans_and_test_volumes_stay_for_testing(synapse):
    assert findings(synapse) == []
    dataset = open_dataset(synapse)
    assert [case.name for case in dataset.cases] == [f"case000{n}" for n in (1, 2, 5, 6, 7, 9)]
    assert dataset.patients == [f"case000{n}" for n in (1, 2, 5, 6, 7, 9)]
    for seed in range(10):
        split = split_patients(dataset.patients, seed, 0.2, 0.1, dataset.people.held_out)
        assert split.test == ("case0001", "case0002")
        assert len(split.tuning) == 1
        assert len(split.train) == 3
    for case in dataset.cases:
        image, label = drawn(int(case.name[-1]))
        scan, truth = case.read()
        assert np.array_equal(scan.data, image)
        assert np.array_equal(truth.volume.data, label)
        assert truth.volume.data.dtype == np.uint8
        assert (scan.units, scan.oriented, scan.stored_axes) == ("pixel", False, (0, 1, 2))
        (frame,) = load_frames(case, ModelCard("m", dataset.labels))
        assert np.array_equal(frame.classes, label)


def test_training_learns_from_slices_and_leaves_the_volumes_alone(synapse, tmp_path, capsys):
    run = tmp_path / "run"
    main(["train", str(synapse), "-o", str(run), "--epochs", "1", "--preset", "tiny"])
    out, err = capsys.readouterr()
    assert err == ""
    assert "steps" in out
    card = read_card(run / MODEL_FILE)
    assert card.labels.names == {1: "aorta", 2: "gallbladder"}
    assert card.split["test"] == ["case0001", "case0002"]


def test_more_than_ten_slices_come_in_the_order_of_their_numbers(tmp_path):
    image, label = drawn(0, slices=12)
    for number in range(12):
        name = f"patient001_frame01_slice_{number}.h5"  # "10" sorts before "2"
        save_h5(tmp_path / name, image=image[number], label=label[number])
    ((case,), problems) = find_cases(tmp_path)
    assert problems == []
    assert (case.name, case.patient) == ("patient001_frame01", "patient001")
    assert np.array_equal(case.read()[0].data, image)


def test_scans_that_are_there_whole_and_in_slices_count_once(tmp_path):
    # SSL4MIS stores slices of all scans, and the same scans whole.
    for patient in (1, 2, 3):
        for frame in (1, 9):
            image, label = drawn(10 * patient + frame)
            name = f"patient{patient:03}_frame{frame:02}"
            whole = tmp_path / "ACDC_training_volumes" / f"{name}.h5"
            save_h5(whole, image=image, label=label, scribble=label)
            for number in range(len(image)):
                file = tmp_path / "ACDC_training_slices" / f"{name}_slice_{number + 1}.h5"
                save_h5(file, image=image[number], label=label[number])
    dataset = open_dataset(tmp_path)
    assert len(dataset.cases) == 6
    assert dataset.patients == ["patient001", "patient002", "patient003"]
    assert dataset.people.held_out == {}
    assert not any(case.files.sliced for case in dataset.cases)
    notes = [sentence for kind, sentence in findings(tmp_path) if kind == "note"]
    assert any("whole and in slices" in sentence for sentence in notes)


def test_mt_unets_folders_name_all_three_parts(tmp_path):
    for patient, part in enumerate(("train", "train", "valid", "test")):
        image, label = drawn(patient)
        name = f"case_{patient:03}"
        if part == "test":
            save_npz(tmp_path / part / f"{name}_volume_ED.npz", img=image, label=label)
            continue
        for number in range(len(image)):
            file = tmp_path / part / f"{name}_sliceED_{number}.npz"
            save_npz(file, img=image[number], label=label[number])
    dataset = open_dataset(tmp_path)
    split = split_patients(dataset.patients, 0, 0.2, 0.1, dataset.people.held_out)
    assert (split.train, split.tuning) == (("case_000", "case_001"), ("case_002",))
    assert split.test == ("case_003",)


def test_a_patient_to_learn_from_and_to_test_on_is_refused(synapse, one_sentence):
    image, label = drawn(6)
    save_h5(synapse / "test_vol_h5" / "case0006.npy.h5", image=image * 0.5, label=label)
    with pytest.raises(InputError, match=r"train_npz/case0006.*test_vol_h5/case0006|test_vol.*tra"):
        open_dataset(synapse)
    (synapse / "test_vol_h5" / "case0006.npy.h5").unlink()
    # The same scan under another name, in another file format and type of number.
    save_h5(
        synapse / "test_vol_h5" / "case0099.npy.h5", image=image.astype(np.float64), label=label
    )
    with pytest.raises(InputError, match="identical scans") as error:
        open_dataset(synapse)
    one_sentence(error.value)


def test_nothing_to_learn_from_is_refused(synapse):
    for path in (synapse / "train_npz").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="nobody to learn from"):
        open_dataset(synapse)


def test_missing_slices_and_doubled_scans_are_told(synapse, one_sentence):
    (synapse / "train_npz" / "case0005_slice001.npz").unlink()
    [(kind, sentence)] = findings(synapse)
    assert kind == "warning"
    assert "train_npz/case0005 go from 0 to 2" in sentence
    image, label = drawn(1)
    save_npz(synapse / "test_vol_h5" / "case0001.npz", image=image, label=label)
    with pytest.raises(InputError, match="one scan of a name") as error:
        open_dataset(synapse)
    one_sentence(error.value)


class Harmful:
    def __reduce__(self):
        return (Path("unpickled").touch, ())


def other(path: Path, name: str, array: np.ndarray) -> None:
    """Replace one of the arrays of a file."""
    arrays = {"image": drawn(0)[0][0], "label": drawn(0)[1][0], name: array}
    save_npz(path, **arrays)


def plain_npy(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4)))
    path.write_bytes(buffer.getvalue())


def zipped_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("image", "hello")
        file.writestr("label", "hello")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "damaged"),
        (lambda path: path.write_text("no zip"), "damaged"),
        (lambda path: path.write_bytes(pickle.dumps({"image": Harmful()})), "damaged"),
        (plain_npy, "array 'image'"),
        (zipped_text, "a slice"),
        (lambda path: np.savez(path, picture=np.zeros((16, 20))), "'image'.*picture"),
        (lambda path: np.savez(path, image=np.zeros((16, 20))), "'label'.*image"),
        (lambda path: other(path, "image", np.array([[Harmful()]], object)), "damaged"),
        (lambda path: other(path, "image", np.full((16, 20), "a")), "where numbers are expected"),
        (lambda path: other(path, "image", np.zeros((16, 20, 3))), r"a slice.*\(16, 20, 3\)"),
        (lambda path: other(path, "image", np.zeros((8, 20))), r"one shape.*\(8, 20\)"),
        (lambda path: other(path, "label", np.zeros((16, 8))), r"one shape.*\(16, 8\)"),
        (lambda path: other(path, "label", np.full((16, 20), 0.5)), "fractions"),
        (lambda path: other(path, "label", np.full((16, 20), -1)), "label numbers"),
        (lambda path: other(path, "label", np.full((16, 20), 9)), "ids 9 "),
        (lambda path: path.rename(path.with_name("case0005_slice2.npz")), "there twice"),
    ],
)
def test_damaged_slices_are_told_in_one_sentence(
    synapse, damage, says, tmp_path, monkeypatch, one_sentence
):
    monkeypatch.chdir(tmp_path)
    damage(synapse / "train_npz" / "case0005_slice001.npz")
    [(_, sentence)] = findings(synapse)
    one_sentence(ValueError(sentence))
    assert "case0005" in sentence or "ids" in sentence
    assert re.search(says, sentence)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"img": np.zeros(3)}, r"a scan.*\(3,\)"),
        ({"image": np.array(b"text")}, "Expected|numbers"),
        ({"image": np.zeros((0, 3, 3))}, r"a scan.*\(0, 3, 3\)"),
        ({"volume": np.zeros((2, 3, 3))}, "array 'image'.*volume"),
        ({}, "holds nothing"),
    ],
)
def test_volumes_that_are_none_are_told(tmp_path, arrays, says, one_sentence):
    files = ArrayFiles((save_h5(tmp_path / "case1.h5", **arrays),))
    with pytest.raises(InputError, match=says) as error:
        files.read_image()
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("shape", "doubted"), [((12, 12, 5), True), ((5, 12, 12), False), ((12, 12, 12), False)]
)
def test_slices_that_seem_to_come_last_are_doubted(tmp_path, shape, doubted, one_sentence):
    save_h5(tmp_path / "case1.h5", image=np.random.default_rng(0).random(shape))
    warnings = ArrayFiles((tmp_path / "case1.h5",)).read_image().warnings
    assert bool(warnings) == doubted
    for warning in warnings:
        assert "transpose it" in warning
        one_sentence(warning)


def test_groups_broken_links_and_made_up_voxels_in_h5_are_told(tmp_path, one_sentence):
    def refused(says: str) -> None:
        with pytest.raises(InputError, match=says) as error:
            ArrayFiles((tmp_path / "a.h5",)).read_image()
        one_sentence(error.value)

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("image")
    refused("array 'image'")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = h5py.SoftLink("/nowhere")
    refused("array 'image'")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        # The header claims half a terabyte.
        file.create_dataset("image", (8000, 8000, 2000), "float32", chunks=(1, 100, 100))
    refused("damaged")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = h5py.Empty("float32")
    refused("a scan")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_random_damage_never_ends_in_a_traceback(tmp_path, data):
    image, label = drawn(0)
    suffix = data.draw(st.sampled_from([".npz", ".h5"]))
    save = save_npz if suffix == ".npz" else save_h5
    path = save(tmp_path / f"case1{suffix}", image=image, label=label)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(InputError):  # some damage cannot be detected
        read_array(path, ("image",))
