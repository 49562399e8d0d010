"""Fits the constants of `l2gnet_core.inspect.uncertainty`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from _corruptions import CORRUPTIONS
from _inspection_measures import all_near_borders, area_under_roc, judged, slice_dice
from _inspection_scans import WAYS, Array, Seen, frames, seen

from l2gnet_core.inspect.uncertainty import (
    FAR,
    FLOOR,
    SURE,
    border_distances,
    lacking_overlap,
    uncertainty_maps,
    wrong_share,
)
from l2gnet_core.models.checkpoint import Model

#: The most voxels of a volume that the fit sees.
SAMPLE = 3000


def logistic(inputs: Array, targets: Array, ridge: float = 1e-6) -> Array:
    """Weights of a logistic regression, the offset last; targets are in [0,1]."""
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (chance - targets) / len(targets) + ridge * weights
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs / len(targets)
        weights -= np.linalg.solve(curve + ridge * np.eye(len(weights)), slope)
    return weights


def voxel_inputs(
    maps: dict[str, Array], distances: Array, zone: Array, names: Sequence[str]
) -> Array:
    """The inputs of `chance_of_mistake` in a zone, and further maps by `names`, standardised over
    their scan."""
    sure = np.clip(maps["softmax"][zone], SURE, 1 - SURE)
    away = distances[zone] / FAR
    columns = [np.log(sure / (1 - sure)), maps["neighbours"][zone], away, away**2]
    for name in names:
        values = maps[name][zone].astype(float)
        columns.append((values - maps[name].mean()) / max(1e-9, float(maps[name].std())))
    return np.stack(columns, 1)


def material(model: Model, data: Path, cache: Path | None) -> Iterator[Seen]:
    """The volumes to fit on. Training patients are used only made worse: as they are, the model
    has learnt them and is too sure of itself."""
    for part, ways in (("tuning", WAYS), ("train", tuple(CORRUPTIONS))):
        for file in frames(model, data, part):
            for way in ways:
                yield seen(model, file, way, cache)


@dataclass(frozen=True, eq=False)
class Voxels:
    """The fit's inputs for some voxels, by kind, and which of the voxels are wrong."""

    inputs: dict[str, Array]
    wrong: Array


@dataclass(frozen=True, eq=False)
class Example:
    """A volume, with the voxels to fit on and the voxels that the area under ROC is about."""

    one: Seen
    taught: Voxels
    judged: Voxels


def example(one: Seen, kinds: dict[str, list[str]], rng: np.random.Generator) -> Example:
    maps, distances = uncertainty_maps(one.trace, one.mask), border_distances(one.mask)

    def voxels(zone: Array) -> Voxels:
        inputs = {kind: voxel_inputs(maps, distances, zone, names) for kind, names in kinds.items()}
        return Voxels(inputs, (one.mask != one.truth)[zone])

    # Judged voxels include those near true borders. Fitting on these would leak the truth.
    near = np.flatnonzero(all_near_borders(one.mask))
    taught = np.zeros(one.mask.shape, bool)
    taught.flat[rng.choice(near, min(SAMPLE, len(near)), replace=False)] = True
    return Example(one, voxels(taught), voxels(judged(one.mask, one.truth)))


def fit(model: Model, data: Path, cache: Path | None) -> None:
    """Print the constants, and what the other maps would add on left-out tuning patients."""
    rng = np.random.default_rng(0)
    kinds = {"as it is": [], "with cells": ["quantisation", "plan"]}
    examples = [example(one, kinds, rng) for one in material(model, data, cache)]
    for kind in kinds:
        print(f"voxels, {kind}: {np.round(fit_voxels(examples, kind), 2).tolist()}")
        gains = defaultdict(list)
        for patient in model.card.split["tuning"]:
            weights = fit_voxels([e for e in examples if e.one.patient != patient], kind)
            for left_out in (e for e in examples if e.one.patient == patient):
                inputs, wrong = left_out.judged.inputs[kind], left_out.judged.wrong
                gain = area_under_roc(inputs @ weights[:-1], wrong) - area_under_roc(
                    inputs[:, 0], wrong
                )
                gains["clean" if left_out.one.way == "clean" else "made worse"].append(gain)
        print(
            "  area gained, patients left out:", {k: round(fmean(v), 4) for k, v in gains.items()}
        )
    of_voxels = np.round(fit_voxels(examples, "as it is"), 2)
    weights = fit_slices([e.one for e in examples], of_voxels, list(model.card.labels.names))
    print(f"slices: {np.round(weights, 2).tolist()}")


def fit_voxels(examples: list[Example], kind: str) -> Array:
    return logistic(
        np.concatenate([e.taught.inputs[kind] for e in examples]),
        np.concatenate([e.taught.wrong for e in examples]),
    )


def fit_slices(volumes: list[Seen], of_voxels: Array, labels: list[int]) -> Array:
    inputs, targets = [], []
    for one in volumes:
        near = all_near_borders(one.mask)
        # A slice without a border in it or its neighbours has no inputs.
        there = near.any((1, 2))
        maps = uncertainty_maps(one.trace, one.mask)
        read = voxel_inputs(maps, border_distances(one.mask), near, [])
        chance = np.zeros(near.shape)
        chance[near] = 1 / (1 + np.exp(-(read @ of_voxels[:-1] + of_voxels[-1])))
        share = wrong_share(chance.sum((1, 2)), one.mask)
        columns = np.stack([np.log(share + FLOOR), lacking_overlap(one.mask)], 1)
        inputs.append(columns[there])
        # A slice that is empty in both masks has no error.
        dice = np.nan_to_num(slice_dice(one.mask, one.truth, labels), nan=1.0)
        targets.append(1 - dice[there])
    return logistic(np.concatenate(inputs), np.concatenate(targets))
