"""The split that a run inherits from its first model: no patient learnt from is in test."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from l2gnet_core.augmentation.views import Augmentation
from l2gnet_core.datasets.leakage import inherited_split, require_kept_apart, start_messages
from l2gnet_core.datasets.loading import open_dataset
from l2gnet_core.datasets.split import Split
from l2gnet_core.errors import InputError
from l2gnet_core.files import read_volume
from l2gnet_core.models.checkpoint import SPLIT_FILE, load_model, read_card, save_model
from l2gnet_core.scans.fingerprint import SCANS, fingerprint, fingerprints
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.training.loop import TrainingConfig
from l2gnet_core.training.run import train_dataset
from l2gnet_core.training.run_folder import RunSettings

NAMES = tuple(f"p{number}" for number in range(6))
SPLIT = {"train": [*NAMES[:4]], "tuning": ["p4"], "test": ["p5"]}


@pytest.fixture
def dataset(tmp_path, save_scan) -> Path:
    rng = np.random.default_rng(0)
    for name in NAMES:
        image = rng.integers(1, 900, (2, 32, 32), np.int16)
        save_scan(tmp_path / "data" / "images" / f"{name}.nii.gz", image)
        save_scan(tmp_path / "data" / "labels" / f"{name}.nii.gz", (image > 500).astype(np.uint8))
    return tmp_path / "data"


@pytest.fixture
def model(make_model, tmp_path):
    """Write a model with a history; entries are lists of fingerprints."""

    def write(*history, **card) -> Path:
        labels = LabelSet.from_names({1: "structure 1"})
        entries = tuple({"parent": "x", SCANS: marks} for marks in history)
        made = make_model(labels, **{"split": SPLIT, "history": entries} | card)
        return save_model(tmp_path / "start.safetensors", made.network, made.card)

    return write


def mark(dataset: Path, name: str) -> str:
    return fingerprint(read_volume(dataset / "images" / f"{name}.nii.gz").data)


def split_from(dataset: Path, start: Path) -> Split | None:
    return inherited_split(open_dataset(dataset), start, 0, 0.2, 0.1)


def test_a_fingerprint_is_of_voxels_whatever_their_type():
    scan = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert fingerprint(scan) == fingerprint(scan.astype(np.float64))
    assert fingerprint(scan) == fingerprint(np.asfortranarray(scan))
    assert fingerprint(scan) != fingerprint(scan.reshape(2, 4, 3))
    assert fingerprint(scan) != fingerprint(scan + 1)
    # No warning of numbers beyond float32, which are not all alike.
    scales = (0, 1, 1e39, 2e39, -2e39, 1e305)
    assert len({mark for scale in scales for mark in fingerprints(scan * scale)}) == 2 * len(scales)


def test_whom_a_model_was_fine_tuned_on_is_learned_from(dataset, model):
    split = split_from(dataset, model([mark(dataset, "p5")], ["of a scan elsewhere"]))
    assert split == Split(("p5", *NAMES[:4]), ("p4",), ())


def test_a_scan_is_known_again_in_another_storage_order(dataset, model):
    stored_otherwise = read_volume(dataset / "images" / "p5.nii.gz").data.T[::-1]
    split = split_from(dataset, model(fingerprints(stored_otherwise)))
    assert split == Split(("p5", *NAMES[:4]), ("p4",), ())


def test_a_scan_is_known_again_under_another_name(dataset, model):
    start = model([mark(dataset, "p5")], split={})
    for part in ("images", "labels"):
        (dataset / part / "p5.nii.gz").rename(dataset / part / "new7.nii.gz")
    split = split_from(dataset, start)
    assert split is not None
    assert split.train[0] == "new7"
    assert len(split.test) == len(split.tuning) == 1


def test_a_frame_of_a_series_is_known_again(dataset, model, save_scan):
    series = np.stack([read_volume(dataset / "images" / "p5.nii.gz").data + n for n in (3, 0)])
    for part, data in (("images", series), ("labels", (series > 500).astype(np.uint8))):
        (dataset / part / "p5.nii.gz").unlink()
        save_scan(dataset / part / "p5.nii.gz", data)
    split = split_from(dataset, model([fingerprint(series[1])]))
    assert split is not None
    assert "p5" in split.train


def test_folders_that_keep_a_patient_out_of_training_refuse_such_a_model(
    dataset, model, one_sentence
):
    start = model([mark(dataset, "p5")])
    (dataset / "images").rename(dataset / "imagesTr")
    (dataset / "labels").rename(dataset / "labelsTr")
    for part in ("images", "labels"):
        (dataset / f"{part}Ts").mkdir()
        shutil.move(dataset / f"{part}Tr" / "p5.nii.gz", dataset / f"{part}Ts")
    with pytest.raises(InputError, match="has not learnt from p5") as error:
        split_from(dataset, start)
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("tuning", "test", "says"),
    [
        ("p4", "p5", "p5 in train of .* fine-tuned on scans of this patient"),
        ("p5 p0 p1 p2 p3", "", "p5 in train of .* fine-tuned"),
        ("p4", "p0 p2", "p0, p2 in train of .* has learnt from these patients"),
        ("p1", "", "p1 in train of .* has learnt from this patient"),
        ("p0", "p4", "p0 in train of .* has learnt"),
        ("", "p4", "p4 in train or tuning of .* tuned on this patient"),
        ("", "", None),
        ("p4", "", None),
    ],
)
def test_a_split_that_is_there_keeps_apart_whom_the_model_has_seen(
    dataset, model, one_sentence, tuning, test, says
):
    start, opened = model([mark(dataset, "p5")]), open_dataset(dataset)
    out = {*tuning.split(), *test.split()}
    split = Split(tuple(set(NAMES) - out), tuple(tuning.split()), tuple(test.split()))
    if says is None:
        require_kept_apart(start, opened, split, Path("split.json"))
        return
    with pytest.raises(InputError, match=f"Expected {says}") as error:
        require_kept_apart(start, opened, split, Path("split.json"))
    one_sentence(error.value)


def test_a_split_of_another_run_does_not_test_on_whom_the_model_has_learnt_from(
    dataset, model, tmp_path
):
    folder = tmp_path / "run"
    folder.mkdir()
    written = json.dumps({"train": NAMES[1:], "tuning": [], "test": NAMES[:1]})
    (folder / SPLIT_FILE).write_text(written)
    settings = RunSettings(open_dataset(dataset), folder, preset="tiny", start=model())
    with pytest.raises(InputError, match="Expected p0 in train"):
        list(train_dataset(settings, TrainingConfig(steps=1), Augmentation(size=32)))


def test_who_a_model_was_tuned_on_alone_is_not_tested_on(dataset, model):
    split = split_from(dataset, model(split={"train": ["q"], "tuning": ["p0", "p1"], "test": []}))
    assert split is not None
    assert {"p0", "p1"} <= set(split.tuning)
    # Otherwise nobody would be left to learn from.
    everybody = {"train": ["q"], "tuning": [*NAMES], "test": []}
    assert split_from(dataset, model(split=everybody)) == Split(NAMES, (), ())


def test_who_a_model_was_tested_on_alone_still_is(dataset, model):
    split = split_from(dataset, model(split={"train": ["q"], "tuning": [], "test": ["p0", "p1"]}))
    assert split is not None
    assert {"p0", "p1"} <= set(split.test)


def test_what_a_run_begins_with_is_told(dataset, model):
    opened = open_dataset(dataset)

    def told(*history, **card) -> str:
        start = model(*history, **card)
        split = inherited_split(opened, start, 0, 0.2, 0.1) or Split(NAMES, (), ())
        return " ".join(start_messages(read_card(start), opened, split))

    names = "by their names: p0, p1, p2 and 1 more in train; p4 in tuning; p5 in test. If they"
    assert names in told()
    assert told(["elsewhere"]) == told()
    strangers = told(["elsewhere"], split={"train": ["q1"]})
    assert strangers.startswith("No patient of tiny is in the dataset by name: if one is")
    tuned = told([mark(dataset, "p5")])
    assert "p5 is learned from" in tuned
    assert "p4 in tuning. If they" in tuned
    assert "whom it learnt from" in (nobody := told(split={}))
    assert "by name" not in nobody + tuned


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"train": NAMES, "tuning": [], "test": []}, "in the tuning and the test part of"),
        ({"train": NAMES[1:], "tuning": [], "test": NAMES[:1]}, "in the tuning part of"),
        ({"train": NAMES[1:], "tuning": NAMES[:1], "test": []}, "in the test part of"),
        ({"train": NAMES[2:], "tuning": NAMES[:1], "test": NAMES[1:2]}, None),
    ],
)
def test_a_training_says_at_its_start_that_nobody_is_left_to_tune_or_test_on(
    dataset, tmp_path, one_sentence, split, says
):
    told = []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SPLIT_FILE).write_text(json.dumps(split))
    settings = RunSettings(open_dataset(dataset), tmp_path / "run", preset="tiny")
    training = TrainingConfig(steps=1, batch=2)
    list(train_dataset(settings, training, Augmentation(size=32), tell=told.append))
    if says is None:
        assert told == []
    else:
        (sentence,) = told
        assert says in sentence
        one_sentence(ValueError(sentence))


def test_a_run_hands_the_history_on_after_a_resume_too(dataset, model, tmp_path):
    seen = [mark(dataset, "p5")]
    training = TrainingConfig(steps=2, batch=2, save_every_seconds=0.0)
    settings = RunSettings(open_dataset(dataset), tmp_path / "run", preset="tiny")
    begun = train_dataset(replace(settings, start=model(seen)), training, Augmentation(size=32))
    next(begun)
    begun.close()
    list(train_dataset(replace(settings, resume=True), training, Augmentation(size=32)))
    (entry,) = load_model(tmp_path / "run").card.history
    assert entry[SCANS] == seen
