"""Predictions against references, over one pair of files or two folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, scans_in, stem_of
from l2gnet_core.metrics import Agreement, agreement_per_label
from l2gnet_core.volume import HEADERS_ROUND, distance_apart


@dataclass(frozen=True)
class CaseScores:
    """Agreement by structure name for one case."""

    case: str
    structures: dict[str, Agreement]


def pair_files(predictions: Path, references: Path) -> list[tuple[Path, Path]]:
    """Files to compare: the two files, or those of one name in the two folders.

    Raises InputError unless every reference has a prediction.
    """
    if predictions.is_file() and references.is_file():
        return [(predictions, references)]
    if not (predictions.is_dir() and references.is_dir()):
        raise InputError(
            f"Expected two mask files or two folders of them, but got {predictions} and "
            f"{references}; give two of the same kind."
        )
    found = {stem_of(path): path for path in scans_in(predictions)}
    wanted = {stem_of(path): path for path in scans_in(references)}
    missing = [name for name in wanted if name not in found]
    if missing or not wanted:
        lacking = f"no prediction for {missing[0]}" if missing else f"no masks in {references}"
        raise InputError(
            f"Expected a prediction for every reference, but there is {lacking}; "
            "files are matched by name."
        )
    return [(found[name], path) for name, path in wanted.items()]


def evaluate(pairs: list[tuple[Path, Path]], tolerance: float) -> Iterator[CaseScores]:
    """Scores of each pair of files (prediction, reference); tolerance of surface Dice in mm.

    Time series are scored frame by frame, as cases "name[0]", "name[1]", …. Raises InputError if
    a pair differs in shape or in its place in the world.
    """
    for prediction_file, reference_file in pairs:
        prediction, reference = read_labels(prediction_file), read_labels(reference_file)
        a, b = prediction.volume, reference.volume
        if a.data.shape != b.data.shape:
            raise InputError(
                f"Expected masks of one shape, but {prediction_file.name} is {a.data.shape} and "
                f"its reference {b.data.shape}; compare masks on the same grid."
            )
        apart = distance_apart(a, b)
        if apart > HEADERS_ROUND:
            raise InputError(
                f"Expected masks in one place, but the affine of {prediction_file.name} puts it up "
                f"to {apart:.1f} mm from its reference; resample one onto the other's grid."
            )
        names = reference.names or prediction.names
        ids = set(map(int, set(_ids(a.data)) | set(_ids(b.data)))) - {0}
        named = {id: names.get(id, f"label {id}") for id in sorted(ids)}
        frames = list(zip(a.frames, b.frames, strict=True))
        for index, (one, two) in enumerate(frames):
            suffix = f"[{index}]" if len(frames) > 1 else ""
            scores = agreement_per_label(one, two, named, b.spacing, tolerance)
            yield CaseScores(stem_of(reference_file) + suffix, scores)


def _ids(data: Any) -> list[int]:
    import numpy as np

    return [int(value) for value in np.unique(data)]


def summary(cases: list[CaseScores]) -> dict[str, dict[str, float]]:
    """Mean of each measure per structure over the cases that hold it, and over structures."""
    names = list(dict.fromkeys(name for case in cases for name in case.structures))
    table = {
        name: _mean([case.structures[name] for case in cases if name in case.structures])
        for name in names
    }
    if table:
        measures = next(iter(table.values()))
        table["mean"] = {key: fmean(row[key] for row in table.values()) for key in measures}
    return table


def _mean(scores: list[Agreement]) -> dict[str, float]:
    rows = [asdict(score) for score in scores]
    return {key: fmean(row[key] for row in rows) for key in rows[0]}
