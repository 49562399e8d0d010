"""Three corrected slices of a scan unlike the training scans: what happens to the other slices.

    python benchmarks/finetuning.py [--steps N | --seconds S] [--patients N] [--threads N]
        [--shifts NAME …] [--part tuning | test] [--marks slices | strokes | scribbles]

The model is `cardiac-cine`. The scans are of patients in its card's tuning part (or, to report, its
test part), one frame each. They are as stored, made darker and noisier in two strengths, or shown
with light and dark exchanged or with black blood, which the model does not know at all. Three
evenly spaced slices that hold a structure are corrected with the true labels. Dice is pooled over
all other slices and averaged over the structures. Predictions are those of `l2gnet segment`,
without tidying. The rivals are the model as it is, naive fine-tuning of all weights, the same with
the weights half mixed with the old ones, and shape interpolation between the corrected slices.

With strokes, only the middles of the two largest mistakes of each slice are marked, with scribbles
what ACDC's annotators drew, in the three slices that the queue proposes first. The rival learns
from the marks alone, as ours does but for the old answers around them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from _annotator import doubted, holding
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.files import read_labels, read_volume
from l2gnet_core.finetuning.config import SCAN, FineTuneConfig
from l2gnet_core.finetuning.guard import Limits
from l2gnet_core.finetuning.overlap import compared, pooled_dice
from l2gnet_core.finetuning.run import FineTuneResult, finetune
from l2gnet_core.interpolation.shapes import interpolate_slices
from l2gnet_core.models.catalog import find_model
from l2gnet_core.models.checkpoint import Model, load_model
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.volume import Volume, slicing_axis
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import segment

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "acdc"
UNGUARDED = Limits(-1, 1, 1, 1, 1)
#: The label of voxels of which nothing is said.
UNMARKED = 255
Array = NDArray[np.generic]


def shifted(image: Array, gamma: float, noise: float) -> Array:
    """Darker and noisier."""
    darker = image**gamma
    return darker + np.random.default_rng(0).normal(0, noise, image.shape).astype(np.float32)


#: Changes of intensities in [0,1]: gamma, and the noise's σ as a share of the range. When light and
#: dark are exchanged, air stays dark.
SHIFTS: dict[str, Callable[[Array], Array]] = {
    "none": lambda image: image,
    "some": partial(shifted, gamma=1.6, noise=0.05),
    "much": partial(shifted, gamma=2.2, noise=0.08),
    "exchanged": lambda image: np.interp(image, (0, 0.08, 0.15, 1), (0, 0, 0.95, 0.05)),
    "black blood": lambda image: np.interp(
        image, (0, 0.1, 0.25, 0.5, 0.7, 1), (0, 0.15, 0.5, 0.35, 0.1, 0.05)
    ),
}


def variants(config: FineTuneConfig, marks: str) -> dict[str, FineTuneConfig]:
    """Guarded fine-tuning and its rivals, by name."""
    if marks != "slices":
        return {"guarded": config, "marks alone": replace(config, keeps_unmarked=False)}
    alone = replace(config, adapts_appearance=False, learns_anew=False, folds=0, limits=UNGUARDED)
    naive = replace(alone, pull=0.0, replay=0, cautious_mix=1.0)
    return {"guarded": config, "naive": naive, "naive, half": replace(naive, cautious_mix=0.5)}


def dice(said: Array, truth: Array, axis: int, slices: list[int], names: dict[int, str]) -> float:
    """Mean Dice of the structures, pooled over slices."""
    a, b = (np.take(array, slices, axis) for array in (said, truth))
    return fmean(pooled_dice(compared(a, b, list(names)), list(names.values())).values())


def tuned(model: Model, correction: Correction, config: FineTuneConfig) -> FineTuneResult:
    """The result of a whole fine-tuning."""
    *_, last = finetune(model, [correction], config)
    return last.result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shifts", nargs="*", choices=SHIFTS, default=list(SHIFTS))
    parser.add_argument("--part", choices=["tuning", "test"], default="tuning")
    parser.add_argument("--marks", choices=["slices", "strokes", "scribbles"], default="slices")
    parser.add_argument("--data", type=Path, default=BESIDE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    limit = {"steps": options.steps, "seconds": None if options.steps else options.seconds}
    model = load_model(find_model("cardiac-cine"))
    config = replace(SCAN, **limit)
    for patient in model.card.split[options.part][: options.patients]:
        file = min((options.data / "images").glob(f"{patient}_*"))
        volume = read_volume(file)
        truth = read_labels(options.data / "labels" / file.name).volume.data
        image = normalise(volume.data, intensity_window(volume.data))
        for name in options.shifts:
            print(f"{patient}, {name}")
            scan = np.asarray(SHIFTS[name](image), np.float32)
            scribbles = None
            if options.marks == "scribbles":
                drawn = read_volume(options.data / "scribbles" / file.name).data
                scribbles = np.where(drawn == 4, UNMARKED, drawn).astype(np.uint8)
            compare(model, volume, truth, scan, config, options.marks, scribbles)


def corrected(
    model: Model, scan: Array, volume: Volume, truth: Array, marks: str, scribbles: Array | None
) -> Correction | None:
    """What the annotator corrects or marks; None if no structure is marked."""
    axis = slicing_axis(volume, model.card.slicing)
    if marks == "slices":
        ids = list(model.card.labels.names)
        held = np.array(holding(truth, axis, ids))
        middles = np.round(np.quantile(range(len(held)), (1 / 6, 1 / 2, 5 / 6))).astype(int)
        slices = held[middles].tolist()
        return Correction(
            scan, volume, axis, truth, tuple(slices), checked=dict.fromkeys(slices, ids)
        )
    said, proposed = doubted(model, scan, volume, axis)
    labels = strokes(said, truth, axis, proposed[:3]) if scribbles is None else scribbles
    marked = [i for i in proposed[:3] if (np.take(labels, i, axis) != UNMARKED).any()]
    correction = Correction(scan, volume, axis, labels, tuple(marked), UNMARKED) if marked else None
    return correction if correction is not None and correction.structures else None


def strokes(said: Array, truth: Array, axis: int, slices: Sequence[int]) -> Array:
    """The true labels in the middles of the two largest mistakes of each slice."""
    labels = np.full(truth.shape, UNMARKED, np.uint8)
    for index in slices:
        one, other = (np.take(array, index, axis) for array in (said, truth))
        mistakes, _ = ndimage.label(one != other)
        for largest in np.argsort(-np.bincount(mistakes.ravel())[1:])[:2] + 1:
            whole = mistakes == largest
            middle = ndimage.binary_erosion(whole)
            where = middle if middle.any() else whole
            np.moveaxis(labels, axis, 0)[index][where] = other[where]
    return labels


def compare(
    model: Model,
    volume: Volume,
    truth: Array,
    scan: Array,
    config: FineTuneConfig,
    marks: str,
    scribbles: Array | None,
) -> None:
    """Print the Dice of the untouched slices, and the seconds."""
    names = model.card.labels.names
    correction = corrected(model, scan, volume, truth, marks, scribbles)
    if correction is None:
        print("  no structure is marked")
        return
    axis = correction.axis
    others = [i for i in range(scan.shape[axis]) if i not in correction.slices]

    def score(said: Array) -> str:
        return f"{dice(said, truth, axis, others, names):.4f}"

    print(f"  slices {correction.slices} of {scan.shape[axis]}")
    print(f"  as it is       {score(segment(model, scan, volume, axis))}")
    if marks == "slices":
        print(f"  interpolation  {score(interpolate_slices(truth, correction.slices, axis))}")
    for name, variant in variants(config, marks).items():
        result = tuned(model, correction, variant)
        found = score(segment(result.model, scan, volume, axis))
        print(f"  {name:14} {found}  {result.seconds:5.1f} s", flush=True)
        if variant is config:
            evidence = result.verdict.evidence
            print(f"    {result.verdict.reason}")
            print(f"    mix {evidence.mix}, heart {evidence.heart}, codes {evidence.codes}")


if __name__ == "__main__":
    main()
