"""The `l2gnet` command, as people and scripts meet it."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
import tifffile
from total_segmentator import write_total_segmentator

import l2gnet_core
from l2gnet_core.commands import parts
from l2gnet_core.commands.parts import ProgressBar
from l2gnet_core.commands.training import _row
from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, write_labels
from l2gnet_core.finetuning.config import SCAN
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.models.catalog import find_model, models
from l2gnet_core.models.checkpoint import MODEL_FILE, load_model, save_model
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.phantom import DRAWN, cardiac_phantom
from l2gnet_core.scans.volume import Grid
from l2gnet_core.scores.evaluate import evaluate, summary
from l2gnet_core.training.log import CURVES_FILE
from l2gnet_core.training.loop import Trainer
from l2gnet_core.training.run_folder import CHOICES_FILE, read_choices


def test_segments_one_file_quietly(l2gnet, image, model_file, tmp_path):
    mask = tmp_path / "mask.nii.gz"
    code, out, err = l2gnet("segment", image, "-o", mask, "--model", model_file)
    assert (code, out) == (0, "")
    assert "%" not in err  # no progress bar without a terminal
    stored, written = nib.load(image), nib.load(mask)
    assert written.shape == stored.shape
    assert np.array_equal(written.affine, stored.affine)


def test_json_says_what_was_found(l2gnet, image, model_file, tmp_path):
    mask = tmp_path / "mask.nii.gz"
    code, out, _ = l2gnet(
        "segment", image, "-o", mask, "--model", model_file.parent, "--device", "cpu", "--json"
    )
    report = json.loads(out)
    assert code == 0
    assert (report["model"], report["device"]) == ("tiny", "cpu")
    assert report["load_seconds"] > 0
    (one,) = report["images"]
    assert one["mask"] == str(mask)
    assert [label["name"] for label in one["labels"]] == [
        "right ventricle",
        "myocardium",
        "left ventricle",
    ]
    voxels = np.asarray(nib.load(mask).dataobj)
    for label in one["labels"]:
        assert label["voxels"] == (voxels == label["id"]).sum()
        assert label["volume_ml"] == pytest.approx(label["voxels"] * 0.018, abs=1e-3)
    assert one["seconds"]["segment"] > 0


def test_a_model_is_found_by_name(l2gnet, image, model_file, tmp_path, monkeypatch):
    monkeypatch.setenv("L2GNET_MODELS", str(model_file.parent))
    assert l2gnet("segment", image, "-o", tmp_path / "m.nii", "--model", "model")[0] == 0
    assert (tmp_path / "m.nii").is_file()


def test_several_files_and_a_folder_keep_their_names(
    l2gnet, image, save_scan, scan, model_file, tmp_path
):
    other = save_scan(tmp_path / "in" / "b.nii", scan)
    for number, images in enumerate(([image, other], [image.parent])):
        out = tmp_path / f"out{number}"
        assert l2gnet("segment", *images, "-o", out, "--model", model_file)[0] == 0
        assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "b.nii"]


def test_the_axis_can_be_chosen(l2gnet, image, model_file, tmp_path):
    def segmented(*axis):
        mask = tmp_path / "mask.nii.gz"
        arguments = ("segment", image, "-o", mask, "--model", model_file, "--json", *axis)
        report = json.loads(l2gnet(*arguments)[1])
        return report["images"][0]["slicing_axis"], np.asarray(nib.load(mask).dataobj)

    plain, through_plane = segmented()
    last, same = segmented("--axis", "2")
    first, other = segmented("--axis", "0")
    assert (plain, last, first) == (2, 2, 0)
    assert np.array_equal(through_plane, same)
    assert not np.array_equal(through_plane, other)


def test_letters_say_where_a_silent_scan_lies(l2gnet, refused, scan, make_model, tmp_path):
    model = make_model(oriented=True, slicing="axial")
    save_model(tmp_path / "oriented.safetensors", model.network, model.card)
    stored, silent = scan.transpose(), tmp_path / "silent.nii"
    image = nib.Nifti1Image(stored, None)
    image.header.set_zooms((1.5, 1.5, 8.0))
    nib.save(image, silent)
    nib.save(nib.Nifti1Image(stored, np.diag([-1.5, -1.5, 8, 1])), tmp_path / "told.nii")

    def segmented(name, *more):
        mask = tmp_path / f"mask-{name}"
        model = ("--model", tmp_path / "oriented.safetensors")
        code, _, _ = l2gnet("segment", tmp_path / name, "-o", mask, *model, *more)
        assert code == 0
        return np.asarray(nib.load(mask).dataobj)

    arguments = ("segment", silent, "-o", tmp_path / "m.nii", "--model")
    oriented = tmp_path / "oriented.safetensors"
    assert "--orientation" in refused(*arguments, oriented)
    assert "three letters" in refused(*arguments, oriented, "--orientation", "LPX")
    told = segmented("told.nii")
    assert np.array_equal(segmented("silent.nii", "--orientation", "LPS"), told)
    assert not np.array_equal(segmented("silent.nii", "--orientation", "RPS"), told)
    assert np.array_equal(segmented("told.nii", "--orientation", "LPS"), told)
    more = ("--model", oriented, "--orientation", "RAS")
    assert "says LPS" in refused("segment", tmp_path / "told.nii", "-o", tmp_path / "m.nii", *more)


def test_one_bad_image_does_not_lose_the_others(l2gnet, image, model_file, tmp_path):
    bad = tmp_path / "in" / "bad.nii.gz"
    bad.write_bytes(b"not a scan")
    out = tmp_path / "out"
    code, text, err = l2gnet("segment", image.parent, "-o", out, "--model", model_file, "--json")
    assert code == 2
    assert [path.name for path in out.iterdir()] == ["a.nii.gz"]
    assert "bad.nii.gz" in err
    assert "1 of 2" in err
    assert "Traceback" not in err
    good, failed = json.loads(text)["images"]
    assert good["labels"]
    assert set(failed) == {"image", "error"}
    code, text, alone = l2gnet("segment", bad, "-o", out, "--model", model_file, "--json")
    assert (code, json.loads(text)["images"]) == (2, [failed])
    assert alone == f"l2gnet: {failed['error']}\n"
    # Without a bar, one line for each image.
    lines = [line for line in err.splitlines() if line.startswith("Segmenting")]
    assert lines == ["Segmenting 1 of 2: a.nii.gz", "Segmenting 2 of 2: bad.nii.gz"]
    bad.unlink()
    bad.symlink_to(tmp_path / "not_fetched.nii.gz")
    for given in ([image.parent], [bad, image]):
        code, _, err = l2gnet("segment", *given, "-o", out, "--model", model_file)
        assert code == 2
        assert f"{bad} is a link to {tmp_path}/not_fetched.nii.gz, which is not there" in err
        assert "1 of 2" in err


def test_a_folder_that_is_interrupted_tells_what_is_done(
    l2gnet, image, save_scan, scan, model_file, tmp_path, monkeypatch
):
    def written(mask, *arguments):
        if mask.name == "b.nii.gz":
            raise KeyboardInterrupt
        write_labels(mask, *arguments)

    monkeypatch.setattr("l2gnet_core.segmenting.files.write_labels", written)
    save_scan(image.parent / "b.nii.gz", scan)
    arguments = ("segment", image.parent, "-o", tmp_path / "out", "--model", model_file)
    code, text, err = l2gnet(*arguments, "--json")
    assert (code, err.splitlines()[-1]) == (130, "l2gnet: stopped")
    assert [one["image"] for one in json.loads(text)["images"]] == [str(image)]
    assert l2gnet(*arguments)[:2] == (130, "")


def test_one_scan_too_large_for_memory_does_not_lose_the_others(
    l2gnet, refused, image, save_scan, scan, model_file, tmp_path, monkeypatch
):
    def written(mask, *arguments):
        if mask.name == "a.nii.gz":
            raise MemoryError("Unable to allocate 7.7 GiB")
        write_labels(mask, *arguments)

    monkeypatch.setattr("l2gnet_core.segmenting.files.write_labels", written)
    save_scan(image.parent / "b.nii.gz", scan)
    out = tmp_path / "out"
    code, _, err = l2gnet("segment", image.parent, "-o", out, "--model", model_file)
    assert (code, [path.name for path in out.iterdir()]) == (2, ["b.nii.gz"])
    assert "Expected enough memory for a.nii.gz, but" in err
    assert "1 of 2" in err
    says = refused("segment", image, "-o", out, "--model", model_file)
    assert "enough memory" in says
    # PyTorch raises a RuntimeError with its own wording.
    failing = Mock(side_effect=RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    monkeypatch.setattr("l2gnet_core.inspect.report.inspect_file", failing)
    says = refused("inspect", image, "-o", tmp_path / "look", "--model", model_file)
    assert "enough memory" in says


def test_bad_input_ends_with_two_and_one_line(
    refused, image, save_scan, scan, model_file, tmp_path, make_model
):
    model = ("--model", model_file)
    mask = tmp_path / "mask.nii.gz"
    text = tmp_path / "in" / "notes.txt"
    text.write_text("hello")
    empty = tmp_path / "empty.nii.gz"
    empty.touch()
    same_name = save_scan(tmp_path / "other" / "a.nii.gz", scan)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model_file.read_bytes()[:-40])
    assert "nothing.nii" in refused("segment", tmp_path / "nothing.nii", "-o", mask, *model)
    assert "notes.txt" in refused("segment", text, "-o", mask, *model)
    assert "empty" in refused("segment", empty, "-o", mask, *model)
    assert "choose another output" in refused("segment", image, "-o", image, *model)
    assert "choose another output" in refused("segment", image, "-o", image.parent, *model)
    assert "different" in refused("segment", image, same_name, "-o", tmp_path / "out", *model)
    assert "folder" in refused("segment", image, same_name, "-o", mask, *model)
    assert "mask.png" in refused("segment", image, "-o", tmp_path / "mask.png", *model)
    assert "liver" in refused("segment", image, "-o", mask, "--model", "liver")
    assert "weights" in refused("segment", image, "-o", mask, "--model", damaged)
    assert "notes.txt" in refused("segment", image, "-o", mask, "--model", text)
    # Refused before anything is computed.
    assert "can be written to" in refused("segment", image, "-o", text / "mask.nii.gz", *model)
    assert not mask.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing command"),
        (["paint"], "No such command"),
        (["segment"], "Missing argument"),
        (["segment", "a.nii"], "Missing option"),
        (["segment", "a.nii", "-o", "b.nii", "--axis", "3"], "--axis"),
        (["segment", "a.nii", "-o", "b.nii", "--device", "tpu"], "--device"),
        (["segment", "a.nii", "-o", "b.nii", "--sharp"], "--sharp"),
        (["evaluate", "a.nii"], "a.nii alone"),
        (["evaluate", "a.nii", "b.nii", "--model", "run"], "got both"),
        (["evaluate", "a.nii", "b.nii", "--part", "test"], "--part together with --model"),
        (["evaluate", "a", "--model", "run", "--shared-organs"], "but got --model"),
        (["evaluate", "a.nii", "b.nii", "--tolerance", "0"], "tolerance"),
        (["evaluate", "a.nii", "b.nii", "--tolerance", "nan"], "nan is not a finite number"),
        (["evaluate", "a.nii", "b.nii", "--tolerance", "inf"], "inf is not a finite number"),
        (["evaluate", "a.nii", "b.nii"], "a.nii"),
        (["train", "nowhere", "-o", "run", "--minutes", "1", "--epochs", "1"], "one of them"),
        (["train", "nowhere", "-o", "run"], "nowhere"),
        (["train", "nowhere", "-o", "run", "--epochs", "0"], "--epochs"),
        (["train", "nowhere", "-o", "run", "--minutes", "nan"], "--minutes"),
        (["train", "nowhere", "-o", "run", "--seed", str(2**63)], "--seed"),
        (["train", "nowhere", "-o", "run", "--resume"], "leave out --resume to begin one"),
        (["segment", "", "-o", "masks"], "the argument is empty"),
        (["segment", "a.nii", "-o", ""], "the argument is empty"),
        (["segment", "a.nii", "-o", "b.nii", "--model", ""], "the argument is empty"),
        (["train", "nowhere", "-o", "run", "--from", ""], "the argument is empty"),
        (["replay", "", "-o", "out"], "the argument is empty"),
        (["evaluate", "", "b.nii"], "the argument is empty"),
        (["check", "nowhere"], "nowhere"),
        (["check", "nowhere", "--split", "split.json"], "split.json"),
    ],
)
def test_bad_arguments_end_with_two_and_one_line(refused, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_said(refused, image, model_file, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = ("segment", image, "-o", tmp_path / "m.nii", "--model", model_file)
    assert "choose cpu" in refused(*arguments, "--device", "cuda")


@pytest.fixture
def two_folders(save_scan, tmp_path):
    """Masks of two cases: one perfect, one of which half is missing."""
    truth = np.zeros((2, 20, 20), np.uint8)
    truth[:, 5:15, 5:15] = 1
    half = truth.copy()
    half[0] = 0
    for name, predicted in (("a", truth), ("b", half)):
        save_scan(tmp_path / "predictions" / f"{name}.nii.gz", predicted)
        save_scan(tmp_path / "references" / f"{name}.nii.gz", truth)
    return tmp_path / "predictions", tmp_path / "references"


def test_evaluate_prints_a_table(l2gnet, two_folders):
    code, out, err = l2gnet("evaluate", *two_folders)
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert "Dice" in head
    assert "HD95 mm" in head
    assert "surface Dice 2 mm" in head
    cells = [row.split() for row in rows]
    assert [row[0] for row in cells] == ["a", "b", "all", "all"]
    assert cells[0][-3:] == ["1.0000", "0.00", "1.0000"]
    assert cells[1][-3] == "0.6667"
    assert cells[-1][:3] == ["all", "mean", "0.8333"]


def test_evaluate_prints_json(l2gnet, two_folders):
    code, out, err = l2gnet("evaluate", *two_folders, "--json", "--tolerance", "3")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["tolerance_mm"] == 3
    assert set(result["cases"]) == {"a", "b"}
    scores = result["cases"]["b"]["label 1"]
    assert scores["dice"] == pytest.approx(2 / 3)
    assert scores["hd95"] == pytest.approx(8)  # the missing slice is next to one that is there
    assert result["overall"]["mean"]["dice"] == pytest.approx(5 / 6)


def test_evaluate_refuses_what_cannot_be_compared(refused, two_folders, save_scan):
    predictions, references = two_folders
    small = save_scan(predictions / "small.nii", np.zeros((2, 20, 19), np.uint8))
    assert "shape" in refused("evaluate", small, references / "a.nii.gz")
    (predictions / "b.nii.gz").rename(predictions / "B.nii.gz")
    told = refused("evaluate", predictions, references)
    assert "no prediction for b (B differs in upper and lower case)" in told
    (predictions / "B.nii.gz").unlink()
    assert "no prediction for b;" in refused("evaluate", predictions, references)


def test_evaluate_says_what_it_leaves_out_and_what_is_odd(
    l2gnet, refused, two_folders, save_scan, tmp_path
):
    predictions, references = two_folders
    (references / "b.nii.gz").unlink()
    code, out, err = l2gnet("evaluate", predictions, references)
    assert code == 0
    assert "1 predictions have no reference, as b." in err
    save_scan(predictions / "a.nii", np.zeros((2, 20, 20), np.uint8))
    assert "a.nii and a.nii.gz" in refused("evaluate", predictions, references)
    # NaN in a mask is background, not its lowest label.
    truth = np.asarray(nib.load(references / "a.nii.gz").dataobj)
    holes = np.where(truth == 0, np.nan, truth).astype(np.float32)
    affine = nib.load(references / "a.nii.gz").affine
    nib.save(nib.Nifti1Image(holes, affine), tmp_path / "holes.nii.gz")
    pair = (tmp_path / "holes.nii.gz", references / "a.nii.gz")
    code, out, err = l2gnet("evaluate", *pair, "--json")
    assert json.loads(out)["overall"]["label 1"]["dice"] == 1
    assert "they count as background" in err


def test_evaluate_says_where_names_differ(l2gnet, tmp_path):
    mask = np.zeros((2, 20, 20), np.uint8)
    mask[:, 5:9], mask[:, 12:15] = 1, 2
    like, names = Grid(mask.shape, units="mm"), {1: "Left Ventricle", 2: "myocardium"}
    for case, others in (("a", {1: "left ventricle", 2: "liver"}), ("b", {1: "spleen"})):
        write_labels(_new(tmp_path / "mine" / f"{case}.nii"), mask, like, names)
        write_labels(_new(tmp_path / "its" / f"{case}.nii"), mask, like, others)
    told = l2gnet("evaluate", tmp_path / "mine", tmp_path / "its")[2].splitlines()
    differ = "scored by id, though the names differ"
    assert told[0] == (f"a: {differ}: 2 is myocardium in the prediction and liver in the reference")
    assert f"b: {differ}: 1 is Left Ventricle in the prediction and spleen in" in told[1]


def test_evaluate_scores_the_organs_that_both_masks_name(l2gnet, refused, tmp_path):
    heart = cardiac_phantom(0, shape=(6, 64, 64)).labels
    affine = np.diag([1.5, 1.5, 8, 1])
    like = Grid(heart.shape, affine=affine, units="mm", oriented=True)
    mine, total = tmp_path / "mine.nii.gz", tmp_path / "total.nii.gz"
    write_labels(mine, heart, like, {id: name for name, id in DRAWN.items()} | {4: "cyst"})
    write_total_segmentator(total, heart, affine)
    for pair in ((total, mine), (mine, total)):
        told = refused("evaluate", *pair)
        assert "in both, or match organs by name with --shared-organs." in told
        code, out, err = l2gnet("evaluate", *pair, "--json", "--shared-organs")
        assert code == 0, err
        dice = {name: scores["dice"] for name, scores in json.loads(out)["overall"].items()}
        assert len(dice) == 4
        assert set(dice.values()) == {1}
        assert "spleen, liver, stomach: not scored, as only one of the masks names them" in err
    write_labels(mine, heart, like, {1: "brain"})
    assert "total.nii.gz spleen, kidney_right, kidney_left and 17 more; call it" in refused(
        "evaluate", mine, total, "--shared-organs"
    )


def test_evaluate_says_where_a_scan_passes_for_a_mask(l2gnet, two_folders, save_scan, tmp_path):
    mask = two_folders[1] / "a.nii.gz"
    drawn = np.arange(2 * 20 * 20).reshape(2, 20, 20) % 250
    scan = save_scan(tmp_path / "scan.nii", drawn.astype(np.uint8))
    told = "248 of the 249 ids in the {} are in it alone, and it names none"
    assert told.format("prediction") in l2gnet("evaluate", scan, mask)[2]
    assert told.format("reference") in l2gnet("evaluate", mask, scan)[2]
    assert l2gnet("evaluate", *two_folders)[2] == ""


def _new(path):
    path.parent.mkdir(exist_ok=True)
    return path


def test_evaluate_says_where_nothing_is_labelled(l2gnet, two_folders, save_scan):
    for folder in two_folders:
        save_scan(folder / "b.nii.gz", np.zeros((2, 20, 20), np.uint8))
    told = "b: nothing is labelled in either mask.\n"
    assert l2gnet("evaluate", *two_folders)[::2] == (0, told)
    files = [folder / "b.nii.gz" for folder in two_folders]
    code, out, err = l2gnet("evaluate", *files, "--json")
    assert (code, json.loads(out)["overall"], err) == (0, {}, told)


def test_evaluate_knows_pixels_from_millimetres(l2gnet, two_folders, tmp_path):
    _, references = two_folders
    truth = np.asarray(nib.load(references / "a.nii.gz").dataobj).T.astype(np.uint8)
    moved = np.roll(truth, 3, 2)
    spaced = {
        "imagej": True,
        "resolution": (0.5, 0.5),
        "metadata": {"axes": "ZYX", "unit": "mm", "spacing": 4},
    }
    for name, mask, sizes in (("plain", truth, {}), ("moved", moved, {}), ("sized", truth, spaced)):
        tifffile.imwrite(tmp_path / f"{name}.tif", mask, photometric="minisblack", **sizes)
    files = {name: tmp_path / f"{name}.tif" for name in ("plain", "moved", "sized")}
    _, out, err = l2gnet("evaluate", files["moved"], files["plain"], "--json")
    found = json.loads(out)
    assert (found["unit"], found["overall"]["mean"]["hd95"]) == ("pixel", 3)
    assert "distances are in pixels" in err
    assert "HD95 pixels" in l2gnet("evaluate", files["moved"], files["plain"])[1]
    # If one of the two files states a voxel size, it holds for both.
    for pair in ((files["moved"], files["sized"]), (files["sized"], files["moved"])):
        _, out, err = l2gnet("evaluate", *pair, "--json")
        found = json.loads(out)
        assert (found["unit"], found["overall"]["mean"]["hd95"]) == ("mm", pytest.approx(6))
        assert err == ""


def test_masks_of_images_that_are_numbered_by_channel_are_found(l2gnet, two_folders):
    predictions, references = two_folders
    for name in ("a", "b"):
        (predictions / f"{name}.nii.gz").rename(predictions / f"{name}_0000.nii.gz")
    code, out, err = l2gnet("evaluate", predictions, references, "--json")
    assert (code, err) == (0, "")
    assert set(json.loads(out)["cases"]) == {"a", "b"}


def test_names_that_look_the_same_are_one(l2gnet, two_folders):
    for folder, form in zip(two_folders, ("NFC", "NFD"), strict=True):
        (folder / "a.nii.gz").rename(folder / normalize(form, "ä.nii.gz"))
    code, out, err = l2gnet("evaluate", *two_folders, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["cases"].keys() == {"ä", "b"}


def test_structures_with_other_ids_are_not_compared(tmp_path):
    mask = np.ones((1, 4, 4), np.uint8)
    for name, names in (("a", {1: "Left kidney", 2: "spleen"}), ("b", {1: "liver", 2: "kidney"})):
        write_labels(tmp_path / f"{name}.nii.gz", mask, Grid(mask.shape), names)
    write_labels(tmp_path / "c.nii.gz", mask, Grid(mask.shape), {1: "Spleen", 2: "left kidney"})

    def compared(one: str, other: str) -> list[str]:
        files = (tmp_path / f"{one}.nii.gz", tmp_path / f"{other}.nii.gz")
        return [name for case in evaluate([files], 2.0) for name in case.structures]

    with pytest.raises(InputError, match=r"Left kidney is 1 in a\.nii\.gz and 2 in its reference"):
        compared("a", "c")
    # Different names for one id are only reported.
    assert compared("a", "b") == ["liver"]


def test_structures_of_one_name_are_scored_each(tmp_path):
    mask = np.zeros((2, 20, 20), np.uint8)
    mask[:, 2:6, 2:6], mask[:, 10:15, 10:15] = 1, 2
    names = {1: "kidney", 2: "kidney"}
    for name, data in (("a", mask), ("b", np.where(mask == 2, 0, mask))):
        write_labels(tmp_path / f"{name}.nii.gz", data, Grid(mask.shape), names)
    (case,) = evaluate([(tmp_path / "b.nii.gz", tmp_path / "a.nii.gz")], 2.0)
    assert {name: one.dice for name, one in case.structures.items()} == {
        "kidney (1)": 1,
        "kidney (2)": 0,
    }


def test_a_structure_called_mean_does_not_hide_the_mean(tmp_path):
    mask = np.ones((1, 4, 8), np.uint8)
    mask[..., 4:] = 2
    for name, data in (("a", mask), ("b", np.where(mask == 2, 0, mask))):
        write_labels(tmp_path / f"{name}.nii", data, Grid(mask.shape), {1: "mean", 2: "liver"})
    overall = summary(list(evaluate([(tmp_path / "b.nii", tmp_path / "a.nii")], 2.0)))
    assert {name: row["dice"] for name, row in overall.items()} == {
        "mean (1)": 1,
        "liver": 0,
        "mean": 0.5,
    }


def save_changed(file: Path, changed: Path) -> None:
    """Save a model with another card."""
    model = load_model(file)
    save_model(changed, model.network, replace(model.card, views=4))


def test_run_folders_and_overrides_among_the_users_models(
    l2gnet, model_file, tmp_path, monkeypatch
):
    folder = tmp_path / "mine"
    (folder / "run").mkdir(parents=True)
    shutil.copy(model_file, folder / "run" / MODEL_FILE)
    shutil.copy(model_file, folder / "cardiac-cine.safetensors")
    monkeypatch.setenv("L2GNET_MODELS", str(folder))
    assert find_model("run") == folder / "run" / MODEL_FILE
    assert find_model("cardiac-cine") == folder / "cardiac-cine.safetensors"
    # Its name is the file's, whatever its card says.
    assert {entry.name for entry in models()} == {entry.card.name for entry in models()}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    shutil.copy(model_file, tmp_path / "run" / MODEL_FILE)
    # A copy is the same model.
    assert find_model("run") == folder / "run" / MODEL_FILE
    save_changed(model_file, tmp_path / "run" / MODEL_FILE)
    with pytest.raises(InputError, match=r"one in the folder here; write \./run for"):
        find_model("run")
    assert find_model("./run").samefile(tmp_path / "run" / MODEL_FILE)
    monkeypatch.chdir(folder)
    assert find_model("run") == folder / "run" / MODEL_FILE
    _, out, err = l2gnet("models")
    place = f"cardiac-cine is {folder / 'cardiac-cine.safetensors'}, in place of the bundled model"
    assert err == f"warning: {place} of that name.\n"
    assert out.count("cardiac-cine") == 1
    assert "cardiac-cine (yours)" in out
    assert "run (yours)" in out


def test_a_model_in_place_of_a_bundled_one_is_told(
    l2gnet, image, model_file, tmp_path, monkeypatch
):
    mine = model_file.rename(model_file.parent / "cardiac-cine.safetensors")
    monkeypatch.setenv("L2GNET_MODELS", str(mine.parent))
    code, _, err = l2gnet("segment", image, "-o", tmp_path / "m.nii")
    assert code == 0
    assert f"warning: cardiac-cine is {mine}, in place of the bundled model" in err
    assert l2gnet("segment", image, "-o", tmp_path / "m.nii", "--model", mine)[2].find("place") < 0
    # If the user's model cannot be read, the bundled one is not taken silently.
    mine.write_bytes(b"nonsense")
    code, _, err = l2gnet("segment", image, "-o", tmp_path / "m.nii")
    assert (code, f"{mine} is not one" in err) == (2, True)
    assert f"{mine} is not one" in l2gnet("models")[2]


def test_two_models_of_one_name_are_asked_about(l2gnet, refused, model_file, tmp_path, monkeypatch):
    folder = model_file.parent
    (folder / "run").mkdir()
    run = shutil.copy(model_file, folder / "run" / MODEL_FILE)
    file = shutil.copy(model_file, folder / "run.safetensors")
    monkeypatch.setenv("L2GNET_MODELS", str(folder))
    assert find_model("run") == file  # copies of one model
    save_changed(file, run)
    scan, mask = tmp_path / "a.nii", tmp_path / "m.nii"
    scan.touch()
    says = refused("segment", scan, "-o", mask, "--model", "run")
    assert f"but there are {file} and {run}; give the path" in says
    assert f"but there are {file} and {run}; give the path" in l2gnet("models")[2]
    assert find_model(str(run)) == run


def test_a_closed_stderr_does_not_stop_it(run_python, image, model_file, tmp_path):
    code = (
        "import sys; sys.stderr = None\n"
        "from l2gnet_core.cli import main\n"
        f"main(['segment', {str(image)!r}, '-o', {str(tmp_path / 'm.nii')!r}, "
        f"'--model', {str(model_file)!r}])"
    )
    assert run_python("-c", code).returncode == 0
    assert (tmp_path / "m.nii").is_file()


def test_the_example_in_the_docs_runs(make_model, scan):
    from l2gnet_core.inspect.uncertainty import uncertainty_maps

    docs = Path(__file__).parents[2] / "docs" / "inspect.md"
    example = docs.read_text().split("## In Python")[1].split("```python")[1].split("```")[0]
    start, rest = example.split("\nlit = ")
    given = {
        "model": make_model(), "scan": scan, "grid": Grid(scan.shape), "axis": 0, "index": 1
    }  # fmt: skip
    exec(start, given)
    marked = np.zeros(scan.shape, bool)
    marked[1, 10:20, 10:20] = True
    trace, mask = given["trace"], given["mask"]
    given |= {"marked": marked, "code": int(trace.codes[1][0, 0])}
    given["doubt"] = uncertainty_maps(trace, mask)["softmax"]
    exec("lit = " + rest, given)
    assert given["lit"].shape == scan.shape


def test_the_example_in_the_readme_runs(model_file, save_scan, tmp_path, monkeypatch):
    readme = Path(__file__).parents[2] / "README.md"
    example = readme.read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (12, 5, 5)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    save_scan(tmp_path / "scan.nii.gz", (60 * labels + rng.normal(0, 5, labels.shape)))
    # The mask is stored in another order than the scan.
    mask = nib.load(save_scan(tmp_path / "corrected.nii.gz", labels))
    other_order = mask.as_reoriented(np.array([(0, -1), (1, 1), (2, 1)]))
    nib.save(other_order, tmp_path / "corrected.nii.gz")
    corrections = []

    def quick(model, given):
        corrections.extend(given)
        return finetune(model, given, replace(SCAN, steps=1, seconds=None))

    monkeypatch.setattr("l2gnet_core.finetuning.run.finetune", quick)
    monkeypatch.setattr(
        "l2gnet_core.models.catalog.find_model", {"cardiac-cine": model_file}.__getitem__
    )
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    (correction,) = corrections
    np.testing.assert_array_equal(correction.pictures, labels[list(correction.slices)])
    assert read_labels(tmp_path / "mask.nii.gz").names[2] == "myocardium"
    assert load_model(tmp_path / "mine.safetensors").card.labels.names[2] == "myocardium"


@pytest.mark.parametrize("name", l2gnet_core.__all__)
def test_the_package_offers_what_its_modules_have(name):
    offered = getattr(l2gnet_core, name)
    assert offered is getattr(sys.modules[offered.__module__], name)
    assert name in dir(l2gnet_core)


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'segment_all'"):
        _ = l2gnet_core.segment_all


def test_a_folder_of_models_that_is_not_there_is_said_once(l2gnet, tmp_path, monkeypatch):
    monkeypatch.setenv("L2GNET_MODELS", str(tmp_path / "nowhere"))
    code, out, err = l2gnet("models")
    assert (code, "cardiac-cine" in out) == (0, True)
    assert re.fullmatch(r"warning: L2GNET_MODELS names .*nowhere, but there is no .*\n", err)
    monkeypatch.setenv("L2GNET_MODELS", str(tmp_path))
    assert l2gnet("models")[2] == ""


def test_models_are_listed(l2gnet, model_file, monkeypatch):
    monkeypatch.setenv("L2GNET_MODELS", str(model_file.parent))
    code, out, _ = l2gnet("models")
    assert code == 0
    assert "model (yours)" in out
    assert "2 myocardium" in out
    # The card's 0.9325, rounded as in the README.
    assert "left ventricle 0.933" in out
    code, out, _ = l2gnet("models", "--json")
    (mine,) = [row for row in json.loads(out) if not row["bundled"]]
    assert mine["name"] == "model"
    assert mine["labels"][0]["name"] == "right ventricle"


def test_trains_a_model_that_segments(l2gnet, refused, save_scan, scan, image, tmp_path):
    for patient in range(3):
        save_scan(tmp_path / "data" / "images" / f"p{patient}.nii.gz", scan + patient)
        labels = (scan > 250).astype(np.uint8)
        save_scan(tmp_path / "data" / "labels" / f"p{patient}.nii.gz", labels)
    arguments = ("train", tmp_path / "data", "-o", tmp_path / "run", "--preset", "tiny")
    how = ("--epochs", "1", "--seed", "3", "--oriented", "--other-scanners")
    code, out, err = l2gnet(*arguments, *how)
    assert (code, err) == (0, "")
    assert "1 steps, Dice" in out
    model = load_model(tmp_path / "run" / MODEL_FILE)
    assert model.card.labels.names == {1: "structure 1"}
    assert model.card.training["settings"]["seed"] == 3
    assert (model.card.slicing, model.card.oriented) == ("axial", True)
    assert model.card.training["augmentation"]["orientation_free"] is False
    assert model.card.training["augmentation"]["recolour"] > 0

    assert "--resume" in refused(*arguments, "--epochs", "1")
    assert "--plane" in refused(*arguments, "--resume", "--plane", "coronal")
    # Options of the run need not be repeated.
    kept = read_choices(tmp_path / "run")
    code, out, _ = l2gnet(*arguments, "--resume", "--batch", "99")
    assert (code, "finished already" in out) == (0, True)
    # Options without effect are not stored.
    assert read_choices(tmp_path / "run") == kept
    mask = tmp_path / "mask.nii.gz"
    assert l2gnet("segment", image, "-o", mask, "--model", tmp_path / "run")[0] == 0


def test_a_run_that_is_interrupted_leaves_its_curves(l2gnet, make_dataset, tmp_path, monkeypatch):
    def interrupted(_bar, _done, note="", *_):
        if "epoch" in note:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "reach", interrupted)
    how = ("--preset", "tiny", "--epochs", "1")
    data = make_dataset(["a", "b", "c"])
    code, _, err = l2gnet("train", data, "-o", tmp_path / "run", *how)
    assert (code, err.splitlines()[-1]) == (130, "l2gnet: stopped")
    assert (tmp_path / "run" / CURVES_FILE).is_file()


def test_what_a_run_was_asked_for_outlives_a_stop_before_its_first_step(
    l2gnet, refused, make_dataset, make_model, tmp_path, monkeypatch
):
    def stopped(*_):
        raise KeyboardInterrupt

    model = make_model(LabelSet.from_names({1: "one", 2: "two"}))
    (tmp_path / "start").mkdir()
    save_model(tmp_path / "start" / MODEL_FILE, model.network, model.card)
    data = make_dataset(["a", "b", "c"])
    arguments = ("train", data, "-o", tmp_path / "run")
    monkeypatch.setattr(Trainer, "run", stopped)
    monkeypatch.chdir(tmp_path)
    how = ("--preset", "tiny", "--epochs", "1", "--seed", "3", "--from", "start")
    code, _, err = l2gnet(*arguments, *how)
    assert code == 130
    assert "tiny does not tell whom it learnt from" in err
    monkeypatch.undo()
    kept = read_choices(tmp_path / "run")
    assert (kept["size"], kept["epochs"], kept["seed"]) == ("tiny", 1, 3)
    assert kept["start"] == str(tmp_path / "start" / MODEL_FILE)
    says = refused("evaluate", data, "--model", tmp_path / "run")
    assert "none before its first epoch ends" in says
    file = tmp_path / "run" / CHOICES_FILE
    for slip, says in (
        ({"size": "large"}, "--preset takes as size"),
        ({"slices": "three"}, "'three' is not one of '1', '3', '5'"),
        ({"minutes": "ten", "epochs": None}, "'ten' is not a valid float"),
        ({"seed": [1]}, "--seed"),
        ({"oriented": {}}, "--oriented"),
    ):
        file.write_text(json.dumps({**kept, **slip}))
        assert says in refused(*arguments, "--resume")
    file.write_text("[" * 100_000)
    assert "settings of the run" in refused(*arguments, "--resume")
    file.write_text(json.dumps({**kept, "batch": None, "aura": "blue"}))
    # Refused options do not replace the stored ones.
    assert "--preset tiny, not small" in refused(*arguments, "--resume", "--preset", "small")
    file.write_text(json.dumps(kept))
    other = shutil.copytree(tmp_path / "start", tmp_path / "other")
    says = refused(*arguments, "--resume", "--from", "cardiac-cine")
    assert f"it began with {kept['start']}, not with cardiac-cine; leave" in says
    says = refused(*arguments, "--resume", "--from", tmp_path / "nowhere")
    assert "name, file or folder" in says
    assert read_choices(tmp_path / "run") == kept
    (tmp_path / "start" / MODEL_FILE).unlink()
    code, out, _ = l2gnet(*arguments, "--resume")
    assert (code, "1 steps, Dice" in out) == (0, True)
    shutil.copy(other / MODEL_FILE, tmp_path / "start")
    # A copy counts as the same model, but its path is not stored.
    how = ("--epochs", "2", "--from", other)
    code, out, _ = l2gnet(*arguments, "--resume", *how)
    assert (code, "2 steps, Dice" in out) == (0, True)
    assert read_choices(tmp_path / "run") == {**kept, "epochs": 2}


def test_a_run_takes_from_the_model_it_begins_with_what_it_must_have(
    l2gnet, refused, make_dataset, make_model, tmp_path, monkeypatch
):
    def never(*_):
        raise AssertionError

    model = make_model(LabelSet.from_names({1: "one", 2: "two"}), in_channels=3)
    start = save_model(tmp_path / "start.safetensors", model.network, model.card)
    arguments = ("train", make_dataset(["a", "b", "c"]), "-o", tmp_path / "run", "--from", start)
    # Before scans are read.
    with monkeypatch.context() as patch:
        patch.setattr("l2gnet_core.datasets.check.Survey.examine", never)
        assert "it has --preset tiny, not small;" in refused(*arguments, "--preset", "small")
        assert "it has --arch l2gnet, not unet;" in refused(*arguments, "--arch", "unet")
        assert "it has --slices 3, not 1;" in refused(*arguments, "--slices", "1")
    assert l2gnet(*arguments, "--epochs", "1", "--slices", "5")[0] == 0
    kept = read_choices(tmp_path / "run")
    assert (kept["arch"], kept["size"], kept["slices"]) == ("l2gnet", "tiny", "5")
    assert load_model(tmp_path / "run").network.config.in_channels == 5
    assert l2gnet(*arguments[:3], tmp_path / "more", *arguments[4:], "--epochs", "1")[0] == 0
    assert load_model(tmp_path / "more").network.config.in_channels == 3


def test_where_nobody_watches_a_line_a_minute_tells_how_far_it_is(capsys, monkeypatch):
    clock = iter([0, 20, 59, 60, 119, 121])
    monkeypatch.setattr(parts, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with ProgressBar(6, "Checking") as bar:
        assert list(bar.follow(iter("abc"))) == ["a", "b", "c"]
        bar.reach(4, "d")
        bar.reach(5, "e")
    assert capsys.readouterr() == ("", "Checking 3 of 6\nChecking 5 of 6: e\n")


def test_where_nobody_watches_ends_of_epochs_are_told(l2gnet, make_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SECONDS_BETWEEN_LINES", 0.0)
    data = make_dataset([f"p{number}" for number in range(6)])
    # 4 patients of 2 slices: 2 steps an epoch.
    how = ("--preset", "tiny", "--arch", "unet", "--epochs", "3", "--batch", "4")
    code, out, err = l2gnet("train", data, "-o", tmp_path / "run", *how)
    assert (code, out.count("\n")) == (0, 1)
    told = [line for line in err.splitlines() if line.startswith("Training")]
    shares = ["33%: epoch 1", "67%: epoch 2", "100%: epoch 3"]
    for line, share in zip(told, shares, strict=True):
        assert re.fullmatch(rf"Training {share}, loss [\d.]+, Dice [\d.]+ [\d.]+", line)


def test_a_score_that_is_none_is_a_dash():
    assert _row((0.5, float("nan"))) == "0.500 –"


def test_a_run_needs_a_folder(refused, make_dataset, monkeypatch):
    data = make_dataset(["a"], settings={})
    # Said before scans are read.
    monkeypatch.setattr(
        "l2gnet_core.datasets.check.Survey.examine", Mock(side_effect=AssertionError)
    )
    inside = data / "dataset.json" / "run"
    assert f"can be written to, but {inside} is none" in refused("train", data, "-o", inside)
    assert "is a file; choose" in refused("train", data, "-o", data / "dataset.json")
    (data / "train_npz").mkdir()
    np.savez(data / "train_npz" / "case1.npz", image=np.zeros((2, 2)))
    for folder in ("images", "labels", "train_npz"):
        told = refused("train", data, "-o", data / folder / "run")
        assert f"another place than that of scans and labels, but {data / folder / 'run'}" in told


def test_the_command_in_a_process_of_its_own(run_python, image, tmp_path):
    # A real process, because capsys does not see the exit code and stderr of a shell.
    code = "import sys; from l2gnet_core.cli import main; main(sys.argv[1:])"
    result = run_python("-c", code, "segment", str(image), "-o", str(image))
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ModuleNotFoundError("No module named 'napari'", name="napari"),
            "'napari' is not installed",
        ),
        # The wording of qtpy.
        (ImportError("No Qt bindings could be found"), "but No Qt bindings could be found; run"),
    ],
)
def test_the_demo_says_what_it_needs(refused, monkeypatch, error, says):
    lacking = SimpleNamespace(import_module=Mock(side_effect=error))
    monkeypatch.setattr("l2gnet_core.cli.importlib", lacking)
    said = refused("demo")
    assert says in said
    assert '`pip install ".[all]"`' in said


def test_a_full_standard_output_is_not_taken_for_a_failed_mask(l2gnet, monkeypatch):
    class Full(io.StringIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    code, _, err = l2gnet("models", "--json")
    assert (code, err) == (
        2, "l2gnet: Standard output cannot be written: No space left on device.\n"
    )  # fmt: skip


def test_it_can_be_stopped_while_it_is_imported(run_python):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["l2gnet"].partition(":")
    # The way in imports nothing that takes time, and Ctrl-C comes while NumPy is imported.
    code = (
        "import sys\n"
        "class Stopped:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stopped())\n"
        f"from {module} import {function}; {function}()"
    )
    result = run_python("-c", code)
    assert (result.returncode, result.stderr) == (130, "l2gnet: stopped\n")


def test_help_is_instant(run_python):
    code = (
        "import sys\nfrom l2gnet_core.cli import main\n"
        "main(['--help'])\n"
        "slow = {'torch', 'napari', 'scipy', 'nibabel', 'qtpy', 'magicgui'}\n"
        "print('IMPORTED', sorted(slow & set(sys.modules)))"
    )
    result = run_python("-c", code)
    assert result.returncode == 0
    assert result.stderr == ""
    assert "IMPORTED []" in result.stdout
    for command in ("segment", "evaluate", "train", "models", "demo"):
        assert command in result.stdout
