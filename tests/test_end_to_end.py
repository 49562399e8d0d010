"""The shipped commands with the shipped weights, from a scan to a mask on disk."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel as nib
import numpy as np

from l2gnet_core.models.catalog import BUNDLED_FOLDER, models
from l2gnet_core.scans.phantom import cardiac_cine, cardiac_phantom

NAMES = ["right ventricle", "myocardium", "left ventricle"]


def l2gnet(*arguments: Any) -> str:
    command = [sys.executable, "-m", "l2gnet_core", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_phantom_is_segmented_and_scored(tmp_path: Path) -> None:
    phantom = cardiac_phantom(1, phase=1)
    affine = np.diag([*phantom.spacing[:0:-1], 2 * phantom.spacing[0], 1.0])
    for folder, array in (("scans", phantom.image), ("truth", phantom.labels)):
        (tmp_path / folder).mkdir()
        # Every other slice, from base to apex, takes half the time; the demo has both phases.
        nib.save(nib.Nifti1Image(array[::2].T, affine), tmp_path / folder / "heart.nii.gz")
    told = json.loads(l2gnet("segment", tmp_path / "scans", "-o", tmp_path / "masks", "--json"))
    assert told["model"] == "cardiac-cine"
    assert [label["name"] for label in told["images"][0]["labels"]] == NAMES
    assert not any(image["warnings"] for image in told["images"])
    scores = json.loads(l2gnet("evaluate", tmp_path / "masks", tmp_path / "truth", "--json"))
    assert list(scores["overall"]) == [*NAMES, "mean"]
    assert scores["overall"]["mean"]["dice"] >= 0.85


def test_the_demo_leaves_a_picture_a_mask_and_a_table(tmp_path: Path, qapp: Any) -> None:
    # qapp: the display that pytest-xvfb starts is there by then.
    l2gnet("demo", "--headless", tmp_path)
    mask = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj).T
    truth = cardiac_cine(0, frames=2).labels
    assert mask.shape == truth.shape
    dice = [
        2 * ((mask == i) & (truth == i)).sum() / ((mask == i).sum() + (truth == i).sum())
        for i in (1, 2, 3)
    ]
    assert fmean(dice) >= 0.8
    with (tmp_path / "organs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["organ"] for row in rows] == NAMES
    assert all(float(row["mL"]) > 10 for row in rows)
    from imageio.v3 import improps

    assert improps(tmp_path / "screenshot.png").shape[:2] == (900, 1400)


#: Test patients of each bundled model, and whether it tells left from right.
BUNDLED = {"abdomen-mr": (3, True), "cardiac-cine": (16, False), "head-neck-ct": (7, True)}


def test_the_bundled_models_have_whole_cards() -> None:
    bundled = [entry for entry in models() if entry.bundled]
    assert [entry.name for entry in bundled] == list(BUNDLED)
    for entry in bundled:
        card = entry.card
        assert entry.path.parent == BUNDLED_FOLDER
        assert entry.path.stat().st_size <= 12e6
        assert card.summary
        assert card.data
        assert card.weaknesses
        assert "research use only" in card.licence.lower()
        parts = [set(card.split[part]) for part in ("train", "tuning", "test")]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert (len(card.split["test"]), card.oriented) == BUNDLED[entry.name]
        assert card.scores.keys() == set(card.labels.names.values())


def test_the_command_line_needs_no_window() -> None:
    # make check proves it with the wheel in an empty environment; this says so sooner.
    hide = "import sys; sys.modules.update(napari=None, qtpy=None, magicgui=None)"
    code = f"{hide}; from l2gnet_core.cli import main; main(['models'])"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
