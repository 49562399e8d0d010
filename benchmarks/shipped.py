"""The shipped `cardiac-cine` through the shipped command, on patients that training never saw.

    python benchmarks/cardiac_cine.py [ACDC_FOLDER] [--json FILE]

Prints Dice of the patients in the card's test split as stored, turned, mirrored and scaled in
plane, HD95 in pixels per slice, seconds per volume, and Dice on ten drawn phantoms. ACDC_FOLDER
holds images/ and labels/; by default the one that lies beside the repository.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.catalog import find_model
from l2gnet_core.checkpoint import read_card
from l2gnet_core.metrics import agreement
from l2gnet_core.phantom import cardiac_phantom

Array = NDArray[np.generic]
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "acdc"


def scaled(factor: float) -> Callable[[Array, int], Array]:
    """In-plane magnification of an array (x,y,z); order 0 for labels, 1 for images."""

    def scale(array: Array, order: int) -> Array:
        return ndimage.zoom(array, (factor, factor, 1), order=order, mode="nearest")

    return scale


VIEWS: dict[str, Callable[[Array, int], Array]] = {
    "as stored": lambda a, _: a,
    "turned 90°": lambda a, _: np.rot90(a, 1),
    "turned 180°": lambda a, _: np.rot90(a, 2),
    "turned 270°": lambda a, _: np.rot90(a, 3),
    "mirrored x": lambda a, _: a[::-1],
    "mirrored y": lambda a, _: a[:, ::-1],
    "scaled 0.7": scaled(0.7),
    "scaled 1.4": scaled(1.4),
}


def cases(data: Path, patients: set[str]) -> list[tuple[str, Array, Array]]:
    """(name, image, labels) of every frame of the patients; arrays (x,y,z)."""
    found = []
    for file in sorted((data / "images").glob("*.nii.gz")):
        if file.name.split("_")[0] in patients:
            pair = [np.asarray(nib.load(data / part / file.name).dataobj) for part in PARTS]
            found.append((file.name, *pair))
    return found


PARTS = ("images", "labels")


def segment(folder: Path, images: dict[str, Array], model: str) -> tuple[dict[str, Array], float]:
    """Masks from `l2gnet segment`, and its seconds per volume once the model is loaded."""
    source, target = folder / "in", folder / "out"
    source.mkdir(parents=True)
    for name, image in images.items():
        nib.save(
            nib.Nifti1Image(np.ascontiguousarray(image), np.diag([1.5, 1.5, 10, 1])), source / name
        )
    command = [sys.executable, "-m", "l2gnet_core", "segment", source, "-o", target, "--json"]
    done = subprocess.run(
        [*map(str, command), "--model", model, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    seconds = fmean(sum(image["seconds"].values()) for image in report["images"])
    return {name: np.asarray(nib.load(target / name).dataobj) for name in images}, seconds


def dice(predicted: Array, truth: Array, ids: list[int]) -> list[float]:
    """Dice of each id over the whole volume; NaN where absent from both."""
    scores = []
    for id in ids:
        a, b = predicted == id, truth == id
        total = a.sum() + b.sum()
        scores.append(2 * (a & b).sum() / total if total else np.nan)
    return scores


def slice_hd95(predicted: Array, truth: Array, id: int) -> list[float]:
    """HD95 in pixels of each slice (last axis) that holds the structure in both masks."""
    a, b = predicted == id, truth == id
    both = np.flatnonzero(a.any((0, 1)) & b.any((0, 1)))
    scores = [agreement(a[..., z], b[..., z], (1.0, 1.0), 1.0) for z in both]
    return [score.hd95 for score in scores if score is not None]


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=BESIDE)
    parser.add_argument("--model", default="cardiac-cine")
    parser.add_argument("--part", default="test", choices=["test", "tuning"])
    parser.add_argument("--views", nargs="*", default=list(VIEWS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    card = read_card(find_model(options.model))
    ids, names = list(card.labels.names), list(card.labels.names.values())
    results: dict[str, dict[str, float]] = {}

    def report(title: str, scores: list[list[float]], **more: float) -> None:
        by_structure = np.nanmean(scores, axis=0)
        results[title] = {**dict(zip(names, by_structure, strict=True)), **more}
        results[title]["mean"] = float(by_structure.mean())
        columns = "  ".join(f"{name} {value:.4f}" for name, value in results[title].items())
        print(f"{title:12}  {columns}", flush=True)

    if options.data.is_dir():
        patients = set(card.split[options.part])
        found = cases(options.data, patients)
        print(f"{len(patients)} patients, {len(found)} volumes of {options.part}")
        for title in options.views:
            view = VIEWS[title]
            with tempfile.TemporaryDirectory() as folder:
                images = {name: view(image, 1) for name, image, _ in found}
                masks, seconds = segment(Path(folder), images, options.model)
            truths = {name: view(truth, 0) for name, _, truth in found}
            report(title, [dice(masks[n], truths[n], ids) for n in masks], seconds=seconds)
            if title == "as stored":
                for id, name in zip(ids, names, strict=True):
                    pixels = [d for n in masks for d in slice_hd95(masks[n], truths[n], id)]
                    results[title][f"HD95 {name}"] = fmean(pixels)
                    print(f"  HD95 {name}: {fmean(pixels):.2f} pixels in {len(pixels)} slices")
    else:
        print(f"{options.data} is not there: only the phantom is measured")
    drawn = {f"phantom{seed}.nii.gz": cardiac_phantom(seed, seed % 2) for seed in range(10)}
    with tempfile.TemporaryDirectory() as folder:
        images = {name: phantom.image.T for name, phantom in drawn.items()}
        masks, seconds = segment(Path(folder), images, options.model)
    report("phantom", [dice(masks[n], p.labels.T, ids) for n, p in drawn.items()], seconds=seconds)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
