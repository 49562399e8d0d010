"""The constants of `l2gnet_core.inspect.uncertainty`, fitted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from _corruptions import CORRUPTIONS
from _inspection_measures import area_under_roc, judged, slice_dice
from _inspection_scans import WAYS, Array, Seen, frames, seen

from l2gnet_core.checkpoint import Model
from l2gnet_core.inspect.uncertainty import (
    FLOOR,
    SURE,
    combined,
    lacking_overlap,
    near_borders,
    uncertainty_maps,
    wrong_share,
)

#: Voxels of a volume that the fit sees.
SAMPLE = 3000


def logistic(inputs: Array, targets: Array, ridge: float = 1e-6) -> Array:
    """Weights, the offset last, of a logistic regression; targets may be shares."""
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (chance - targets) / len(targets) + ridge * weights
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs / len(targets)
        weights -= np.linalg.solve(curve + ridge * np.eye(len(weights)), slope)
    return weights


def voxel_inputs(maps: dict[str, Array], zone: Array, names: Sequence[str]) -> Array:
    """What `combined` reads, and on request the other maps, by their scan's mean and spread."""
    sure = np.clip(maps["softmax"][zone], SURE, 1 - SURE)
    columns = [np.log(sure / (1 - sure))]
    for name in names:
        values = maps[name][zone].astype(float)
        scaled = (values - maps[name].mean()) / max(1e-9, float(maps[name].std()))
        columns.append(values if name == "neighbours" else scaled)
    return np.stack(columns, 1)


def material(model: Model, data: Path, cache: Path | None) -> Iterator[Seen]:
    """What weights are fitted on. Training patients only made worse: as they are, the model has
    learnt them and is too sure of itself."""
    for part, ways in (("tuning", WAYS), ("train", tuple(CORRUPTIONS))):
        for file in frames(model, data, part):
            for way in ways:
                yield seen(model, file, way, cache)


def fit(model: Model, data: Path, cache: Path | None) -> None:
    """Print the constants, and what the other maps would add on tuning patients left out."""
    labels = list(model.card.labels.names)
    rng = np.random.default_rng(0)
    kinds = {"as it is": ["neighbours"], "with cells": ["neighbours", "quantisation", "plan"]}
    tuning = set(model.card.split["tuning"])
    volumes = []
    for one in material(model, data, cache):
        maps = uncertainty_maps(one.look, one.mask)
        zone = judged(one.mask, one.truth)
        wrong = (one.mask != one.truth)[zone]
        some = rng.choice(len(wrong), min(SAMPLE, len(wrong)), replace=False)
        inputs = {kind: voxel_inputs(maps, zone, names) for kind, names in kinds.items()}
        volumes.append((one, inputs, wrong, some))
    for kind in kinds:
        weights = np.round(fit_voxels(volumes, kind), 2)
        print(f"voxels, {kind}: {weights.tolist()}")
        gains = defaultdict(list)
        for patient in tuning:
            weights = fit_voxels([v for v in volumes if v[0].patient != patient], kind)
            for one, inputs, wrong, _ in volumes:
                if one.patient == patient:
                    odds = inputs[kind] @ weights[:-1]
                    gain = area_under_roc(odds, wrong) - area_under_roc(inputs[kind][:, 0], wrong)
                    gains["clean" if one.way == "clean" else "made worse"].append(gain)
        print(
            "  area gained, patients left out:", {k: round(fmean(v), 4) for k, v in gains.items()}
        )
    inputs, targets = [], []
    for one, *_ in volumes:
        near = near_borders(one.mask)
        # Of a slice amid empty ones nothing is known to go by.
        there = near.any((1, 2))
        chance = combined(uncertainty_maps(one.look, one.mask))
        share = wrong_share((chance * near).sum((1, 2), dtype=np.float64), one.mask)
        columns = np.stack([np.log(share + FLOOR), lacking_overlap(one.mask)], 1)
        inputs.append(columns[there])
        # A slice rightly left empty lacks nothing.
        dice = np.nan_to_num(slice_dice(one.mask, one.truth, labels), nan=1.0)
        targets.append(1 - dice[there])
    weights = logistic(np.concatenate(inputs), np.concatenate(targets))
    print(f"slices: {np.round(weights, 2).tolist()}")


def fit_voxels(volumes: list[tuple], kind: str) -> Array:
    return logistic(
        np.concatenate([inputs[kind][some] for _, inputs, _, some in volumes]),
        np.concatenate([wrong[some] for _, _, wrong, some in volumes]),
    )
