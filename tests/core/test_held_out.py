"""`l2gnet evaluate --model`: scores of a user's model on patients whom it has not learnt from."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

from l2gnet_core.files import read_volume
from l2gnet_core.models.checkpoint import save_model
from l2gnet_core.scans.fingerprint import SCANS, fingerprint
from l2gnet_core.scans.labels import LabelSet

NAMES = ("p0", "p1", "p2", "p3", "p4")
SPLIT = {"train": ["p0", "p1"], "tuning": ["p2"], "test": ["p3", "p4"]}
SETTINGS = {"labels": {"rim": 1, "core": 2}}


@pytest.fixture
def model(make_model, tmp_path):
    """Write a model of two structures with more on its card."""

    def write(**card):
        labels = LabelSet.from_names({1: "rim", 2: "core"})
        made = make_model(labels, **{"split": SPLIT} | card)
        return save_model(tmp_path / "model.safetensors", made.network, made.card)

    return write


@pytest.fixture
def dataset(make_dataset):
    return make_dataset(NAMES, settings=SETTINGS)


def of_scan(dataset, *names):
    """A history in which a model was fine-tuned on these scans."""
    marks = [fingerprint(read_volume(dataset / "images" / f"{n}.nii.gz").data) for n in names]
    return ({"parent": "x", SCANS: marks},)


def test_a_model_scores_as_its_masks_do(l2gnet, dataset, model, tmp_path):
    file = model(views=4)
    code, out, err = l2gnet("evaluate", dataset, "--model", file, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told.pop("model"), told.pop("part")) == ("tiny", "test")
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for name in SPLIT["test"]:
            shutil.copy(dataset / part / f"{name}.nii.gz", tmp_path / part)
    assert l2gnet("segment", tmp_path / "images", "-o", tmp_path / "m", "--model", file)[0] == 0
    _, masks, _ = l2gnet("evaluate", tmp_path / "m", tmp_path / "labels", "--json")
    assert told == json.loads(masks)


def test_the_part_is_chosen_and_printed_as_a_table(l2gnet, dataset, model):
    code, out, _ = l2gnet("evaluate", dataset, "--model", model(), "--part", "tuning")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()] == ["case", "p2", "p2", "all", "all", "all"]


def test_test_volumes_of_arrays_are_scored_too(l2gnet, model, tmp_path):
    rng = np.random.default_rng(0)
    image, labels = rng.random((2, 16, 20), np.float32), rng.integers(0, 3, (2, 16, 20))
    (tmp_path / "data" / "train_npz").mkdir(parents=True)
    (tmp_path / "data" / "test_vol_h5").mkdir()
    np.savez(tmp_path / "data" / "train_npz" / "p0_slice000.npz", image=image[0], label=labels[0])
    with h5py.File(tmp_path / "data" / "test_vol_h5" / "p3.npy.h5", "w") as file:
        file["image"], file["label"] = image[::-1], labels
    file = model(split={"train": ["p0"], "tuning": [], "test": ["p3"]})
    code, out, err = l2gnet("evaluate", tmp_path / "data", "--model", file, "--json")
    told = json.loads(out)
    assert (code, told["unit"], list(told["cases"])) == (0, "pixel", ["p3"])
    assert err.count("distances are in pixels") == 1


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ({"split": {}}, "does not; segment the scans"),
        ({"split": {**SPLIT, "test": ["p3", "q8"]}}, "q8 is missing"),
        ({"labels": LabelSet.from_names({1: "rim", 3: "core"})}, "its core is 2, and in the model"),
        ({"labels": LabelSet.from_names({1: "rim", 2: "hub"})}, "2 is hub; give the dataset"),
    ],
)
def test_a_dataset_that_a_model_does_not_know_is_refused(
    refused, dataset, make_model, tmp_path, card, says
):
    labels = LabelSet.from_names({1: "rim", 2: "core"})
    made = make_model(**{"labels": labels, "split": SPLIT} | card)
    file = save_model(tmp_path / "model.safetensors", made.network, made.card)
    assert says in refused("evaluate", dataset, "--model", file)


def test_a_structure_may_go_without_a_name_in_the_dataset(l2gnet, dataset, model):
    (dataset / "dataset.json").unlink()
    _, out, _ = l2gnet("evaluate", dataset, "--model", model(), "--json")
    assert list(json.loads(out)["overall"]) == ["rim", "core", "mean"]


def test_a_scan_that_was_learnt_from_under_another_name_is_refused(refused, make_dataset, model):
    data = make_dataset(NAMES, seeds=(0, 1, 2, 3, 0), settings=SETTINGS)
    assert "an identical scan as p0" in refused("evaluate", data, "--model", model())


def test_whom_a_model_was_fine_tuned_on_is_left_out(l2gnet, refused, dataset, model):
    file = model(history=of_scan(dataset, "p3"))
    code, out, err = l2gnet("evaluate", dataset, "--model", file, "--json")
    assert (code, list(json.loads(out)["cases"])) == (0, ["p4"])
    assert "p3: left out, as tiny was fine-tuned" in err
    file = model(history=of_scan(dataset, "p3", "p4"))
    assert "scans of all of them" in refused("evaluate", dataset, "--model", file)


def test_who_trained_on_everybody_has_nobody_to_score_on(refused, dataset, model):
    file = model(split={"train": list(NAMES), "tuning": [], "test": []})
    assert "its test part is empty;" in refused("evaluate", dataset, "--model", file)


def test_what_the_model_did_not_learn_of_is_not_scored(l2gnet, dataset, model):
    (dataset / "dataset.json").write_text('{"labels": {"rim": 1, "core": 2, "ghost": 3}}')
    code, out, err = l2gnet("evaluate", dataset, "--model", model(), "--json")
    assert (code, set(json.loads(out)["overall"])) == (0, {"rim", "core", "mean"})
    assert "ghost: not scored, as tiny did not learn of it." in err
