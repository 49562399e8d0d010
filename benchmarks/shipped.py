"""Scores a shipped model with the shipped command, on patients that its training never saw.

    python benchmarks/shipped.py [MODEL] [--data FOLDER] [--part tuning] [--json FILE]

Prints Dice of the patients in the card's test split, HD95 in plane per slice, and seconds per
volume. The same scans are also segmented as other scanners might have stored them:

- MRI: with noise around, with darker dark tissue, coarser, with few large pixels, with oblong ones,
  noisier, and brighter towards a surface coil;
- abdomens: as other sequences show them;
- CT: with noisy air, with a marker value outside of the reconstruction circle, and with a table;
- hearts: turned, mirrored and scaled in plane, and ten drawn phantoms.

Models of abdomens also segment an MR and a CT from other hospitals. FOLDER holds images/ and
labels/; the default is a folder beside the repository.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import nibabel as nib
import numpy as np
from _changes import changed
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.datasets.loading import open_dataset
from l2gnet_core.models.catalog import find_model
from l2gnet_core.models.checkpoint import read_card
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.phantom import cardiac_phantom
from l2gnet_core.scans.volume import slicing_axis
from l2gnet_core.scores.metrics import agreement

Array = NDArray[np.generic]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
AS_STORED, FEW_PIXELS, OBLONG_PIXELS = "as stored", "few pixels", "oblong pixels"
#: How many times as many pixels a scan has along x and y in views that say that these are larger.
MATRICES = {FEW_PIXELS: (0.4, 0.4), OBLONG_PIXELS: (0.6, 1.0)}


def scaled(factor: float) -> Callable[[Array, int], Array]:
    """In-plane magnification of an array (x,y,z); order 0 for labels, 1 for images."""

    def scale(array: Array, order: int) -> Array:
        return ndimage.zoom(array, (factor, factor, 1), order=order, mode="nearest")

    return scale


def at_matrix(title: str) -> Callable[[Array, int], Array]:
    """An array (x,y,z) at one of `MATRICES`; pixels average what they cover."""
    factors = (*MATRICES[title], 1.0)
    widths = [0.4 / factor if factor < 1 else 0.0 for factor in factors]

    def resampled(array: Array, order: int) -> Array:
        if order > 0:
            array = ndimage.gaussian_filter(array.astype(np.float32), widths)
        return ndimage.zoom(array, factors, order=order, mode="nearest")

    return resampled


def noise_around(array: Array, order: int) -> Array:
    """A field of view twice as wide, with the faint noise of a magnitude image in it."""
    padding = [(side // 2, side // 2) for side in array.shape[:2]] + [(0, 0)]
    padded = np.pad(array, padding)
    if order == 0:
        return padded
    spread = 0.02 * np.percentile(array, 99)
    noise = np.hypot(*np.random.default_rng(0).normal(0, spread, (2, *padded.shape)))
    inside = np.pad(np.ones(array.shape, bool), padding)
    return np.where(inside, padded, noise).astype(array.dtype)


def noisy_air(array: Array, order: int) -> Array:
    """A stored CT (HU + 1024, air cut off) → Hounsfield units, with noise."""
    if order == 0:
        return array
    noise = np.random.default_rng(0).normal(0, 20, array.shape)
    return np.maximum(array - 1024.0 + noise, -1024).astype(np.int16)


def circle(array: Array, order: int) -> Array:
    """`noisy_air` with −3024 outside of the reconstruction circle, as some scanners store it."""
    if order == 0:
        return array
    places = np.indices(array.shape[:2]) - np.reshape(array.shape[:2], (2, 1, 1)) / 2
    outside = np.hypot(*places) > min(array.shape[:2]) / 2
    return np.where(outside[..., None], -3024, noisy_air(array, order)).astype(np.int16)


def on_table(array: Array, order: int) -> Array:
    """`noisy_air` with a table behind the back: two thin shells with foam between them, 13 pixels
    thick, nearly as wide as the field of view. Rows go to the back."""
    if order == 0:
        return array
    scan = noisy_air(array, order)
    back = np.flatnonzero((scan > -300).any((1, 2)))[-1] + 1
    side = scan.shape[1] // 20
    table = scan[back : back + 13, side:-side]
    table[...] = np.maximum(table, -920)
    table[[0, -1]] = np.maximum(table[[0, -1]], -400)
    return scan


def looking(change: str, strength: float) -> Callable[[Array, int], Array]:
    """A change of `_changes.py`, for arrays (x,y,z)."""

    def look(array: Array, order: int) -> Array:
        if order == 0:
            return array
        stack = changed(change, [np.moveaxis(array, 2, 0)], 0, [0], strength)[0]
        return np.moveaxis(stack, 0, 2)

    return look


def curved(*points: tuple[float, float]) -> Callable[[Array, int], Array]:
    """Another sequence, as a piecewise linear curve through (intensity before, after) in [0,1]."""
    before, after = zip(*points, strict=True)

    def curve(array: Array, order: int) -> Array:
        if order == 0:
            return array
        seen = normalise(array, intensity_window(array))
        return (1000 * np.interp(seen, before, after)).astype(np.int16)

    return curve


VIEWS: dict[str, Callable[[Array, int], Array]] = {
    AS_STORED: lambda a, _: a,
    "turned 90°": lambda a, _: np.rot90(a, 1),
    "turned 180°": lambda a, _: np.rot90(a, 2),
    "turned 270°": lambda a, _: np.rot90(a, 3),
    "mirrored x": lambda a, _: a[::-1],
    "mirrored y": lambda a, _: a[:, ::-1],
    "scaled 0.7": scaled(0.7),
    "scaled 1.4": scaled(1.4),
    "noise around": noise_around,
    "contrast": looking("contrast", 2.2),
    "coarse": looking("resolution", 3.0),
    FEW_PIXELS: at_matrix(FEW_PIXELS),
    OBLONG_PIXELS: at_matrix(OBLONG_PIXELS),
    "noise": looking("noise", 0.08),
    "surface coil": looking("bias", 1.0),
    # Air is dark in all. In the last two, fat is not suppressed; fluid is dark, then bright.
    "exchanged": curved((0, 0), (0.08, 0), (0.15, 0.95), (1, 0.05)),
    "bright fat": curved((0, 0), (0.06, 0.1), (0.12, 0.9), (0.25, 0.6), (0.4, 0.35), (1, 0.1)),
    "fat and fluid": curved((0, 0), (0.06, 0.1), (0.12, 0.9), (0.2, 0.5), (0.3, 0.4), (1, 1)),
    "noisy air": noisy_air,
    "circle": circle,
    "on a table": on_table,
}
#: MR scanners differ in how they show the same tissue.
OF_MR = ("contrast", "coarse", FEW_PIXELS, OBLONG_PIXELS, "noise", "surface coil")
OF_SEQUENCES = ("exchanged", "bright fat", "fat and fluid")
OF_CT = ("noisy air", "circle", "on a table")


@dataclass(frozen=True)
class Sheet:
    """How a model is measured. unit: of distances; pixels if voxel sizes are not real."""

    folder: str
    unit: str
    views: tuple[str, ...] = (AS_STORED,)
    phantom: bool = False


SHEETS = {
    "cardiac-cine": Sheet(
        "acdc",
        "pixels",
        tuple(v for v in VIEWS if v not in OF_CT + OF_SEQUENCES),
        phantom=True,
    ),
    "abdomen-mr": Sheet("chaos_t2", "pixels", (AS_STORED, "noise around", *OF_MR, *OF_SEQUENCES)),
    "head-neck-ct": Sheet("openkbp_hn", "mm", (AS_STORED, *OF_CT)),
}


#: An abdominal MR and a CT from other hospitals, with masks by TotalSegmentator (its ids, by name).
#: They are not truth, but a good model for abdomens should agree with them.
ELSEWHERE = SHARED / "totalsegmentator_sample" / "tests" / "reference_files"
OF_ELSEWHERE = {"MR elsewhere": ("mr_sm", "seg_mr"), "CT elsewhere": ("ct_sm", "seg")}
IDS_ELSEWHERE = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 5}


@dataclass(frozen=True)
class Scan:
    """A scan and its true labels, arrays (x,y,z); `through` is the slicing axis."""

    image: Array
    labels: Array
    affine: Array
    spacing: tuple[float, float, float]
    through: int


def scans_of(data: Path, patients: set[str], slicing: str) -> dict[str, Scan]:
    """All scans of the patients, by file name."""
    found = {}
    for case in open_dataset(data).cases:
        if case.patient in patients:
            volume, truth = case.files.read_image(), case.files.read_labels().volume
            z, y, x = volume.spacing
            found[f"{case.name}.nii.gz"] = Scan(
                volume.data.T,
                truth.data.T,
                volume.affine,
                (x, y, z),
                2 - slicing_axis(volume, slicing),
            )
    return found


def viewed(scan: Scan, title: str) -> Scan:
    """A scan as another scanner might have stored it. `MATRICES` come with larger pixels; what is
    scaled otherwise has the same voxel size."""
    view = VIEWS[title]
    images = view(scan.image, 1), view(scan.labels, 0)
    columns, rows = (1 / factor for factor in MATRICES.get(title, (1.0, 1.0)))
    x, y, z = scan.spacing
    affine = scan.affine @ np.diag([columns, rows, 1, 1])
    return Scan(*images, affine, (columns * x, rows * y, z), scan.through)


def elsewhere(image: str, labels: str, names: dict[int, str]) -> dict[str, Scan]:
    """A scan of `ELSEWHERE`, with its structures under the ids of the model."""
    stored = nib.load(ELSEWHERE / f"example_{image}.nii.gz")
    said = np.asarray(nib.load(ELSEWHERE / f"example_{labels}.nii.gz").dataobj)
    truth = np.zeros(said.shape, np.uint8)
    for id, name in names.items():
        truth[said == IDS_ELSEWHERE[name]] = id
    spacing = tuple(map(float, stored.header.get_zooms()[:3]))
    return {f"{image}.nii.gz": Scan(np.asarray(stored.dataobj), truth, stored.affine, spacing, 2)}


def segment(folder: Path, scans: dict[str, Scan], model: str) -> tuple[dict[str, Array], float]:
    """Masks from `l2gnet segment`, and its seconds per volume once the model is loaded."""
    source, target = folder / "in", folder / "out"
    source.mkdir(parents=True)
    for name, scan in scans.items():
        nib.save(nib.Nifti1Image(np.ascontiguousarray(scan.image), scan.affine), source / name)
    command = [sys.executable, "-m", "l2gnet_core", "segment", source, "-o", target, "--json"]
    done = subprocess.run(
        [*map(str, command), "--model", model, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    seconds = fmean(sum(image["seconds"].values()) for image in report["images"])
    return {name: np.asarray(nib.load(target / name).dataobj) for name in scans}, seconds


def dice(predicted: Array, truth: Array, ids: list[int]) -> list[float]:
    """Dice of each id over the whole volume; NaN where absent from both."""
    scores = []
    for id in ids:
        a, b = predicted == id, truth == id
        total = a.sum() + b.sum()
        scores.append(2 * (a & b).sum() / total if total else np.nan)
    return scores


def slice_hd95(predicted: Array, scan: Scan, id: int, unit: str) -> list[float]:
    """HD95 of each slice that holds the structure in both masks."""
    spacing = list(scan.spacing) if unit == "mm" else [1.0] * 3
    del spacing[scan.through]
    a, b = (np.moveaxis(mask == id, scan.through, 0) for mask in (predicted, scan.labels))
    both = np.flatnonzero(a.any((1, 2)) & b.any((1, 2)))
    scores = [agreement(a[z], b[z], (spacing[0], spacing[1]), 1.0) for z in both]
    return [score.hd95 for score in scores if score is not None]


def drawn() -> dict[str, Scan]:
    """Ten phantoms, alternating between the phases."""
    phantoms = {f"phantom{seed}.nii.gz": cardiac_phantom(seed, seed % 2) for seed in range(10)}
    return {
        name: Scan(p.image.T, p.labels.T, np.diag([1.5, 1.5, 10, 1]), (1.5, 1.5, 10.0), 2)
        for name, p in phantoms.items()
    }


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="cardiac-cine", help="a name, or a run folder")
    parser.add_argument("--as", dest="sheet", choices=SHEETS, help="for what is not shipped yet")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--part", default="test", choices=["test", "tuning"])
    parser.add_argument("--views", nargs="*", choices=VIEWS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sheet = SHEETS[options.sheet or options.model]
    data = options.data or SHARED / sheet.folder
    views = sheet.views if options.views is None else options.views
    card = read_card(find_model(options.model))
    ids, names = list(card.labels.names), list(card.labels.names.values())
    results: dict[str, dict[str, float]] = {}

    def report(title: str, masks: dict[str, Array], scans: dict[str, Scan], seconds: float) -> None:
        scores = np.nanmean([dice(masks[n], scans[n].labels, ids) for n in scans], axis=0)
        results[title] = dict(zip(names, scores, strict=True))
        results[title] |= {"seconds": seconds, "mean": float(scores.mean())}
        columns = "  ".join(f"{name} {value:.4f}" for name, value in results[title].items())
        print(f"{title:12}  {columns}", flush=True)

    def measure(title: str, scans: dict[str, Scan]) -> dict[str, Array]:
        with tempfile.TemporaryDirectory() as folder:
            masks, seconds = segment(Path(folder), scans, options.model)
        report(title, masks, scans, seconds)
        return masks

    if data.is_dir():
        patients = set(card.split[options.part])
        found = scans_of(data, patients, card.slicing)
        print(f"{len(patients)} patients, {len(found)} volumes of {options.part}")
        for title in views:
            masks = measure(title, {name: viewed(scan, title) for name, scan in found.items()})
            for id, name in zip(ids, names, strict=True) if title == AS_STORED else ():
                apart = [d for n in masks for d in slice_hd95(masks[n], found[n], id, sheet.unit)]
                results[title][f"HD95 {name}"] = fmean(apart)
                print(f"  HD95 {name}: {fmean(apart):.2f} {sheet.unit} in {len(apart)} slices")
    else:
        print(f"{data} is not there: its scans are not measured")
    if sheet.phantom:
        measure("phantom", drawn())
    if ELSEWHERE.is_dir() and set(names) == IDS_ELSEWHERE.keys():
        for title, files in OF_ELSEWHERE.items():
            measure(title, elsewhere(*files, card.labels.names))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
