"""Predictions against references, over one pair of files or two folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from l2gnet_core.cases import FIRST_CHANNEL, some
from l2gnet_core.errors import InputError
from l2gnet_core.files import LabelFile, by_stem, read_labels, scans_in, stem_of
from l2gnet_core.labels import plain
from l2gnet_core.metrics import Agreement, agreement_per_label
from l2gnet_core.storage_order import in_order_of
from l2gnet_core.volume import HEADERS_ROUND, Volume, distance_apart

#: What the mean over structures is called among them.
MEAN = "mean"
#: Ids that one mask alone may have before it is asked whether it is one: of few it may well be that
#: the other has none.
_MOST_ALONE = 10


@dataclass(frozen=True)
class CaseScores:
    """Agreement by structure name for one case; distances are in `unit`, "mm" or "pixel". warnings:
    what reading the two files had to say."""

    case: str
    structures: dict[str, Agreement]
    unit: str
    warnings: tuple[str, ...] = ()


def pair_files(predictions: Path, references: Path) -> list[tuple[Path, Path]]:
    """Files to compare: the two files, or those of one name in the two folders.

    Raises InputError unless both are there, and every reference has a prediction, and only one.
    """
    for path in (predictions, references):
        if not path.exists():
            raise InputError(f"There is no file or folder {path}.")
    if predictions.is_file() and references.is_file():
        return [(predictions, references)]
    if not (predictions.is_dir() and references.is_dir()):
        raise InputError(
            f"Expected two mask files or two folders of them, but got {predictions} and "
            f"{references}; give two of the same kind."
        )
    found, wanted = _matched(predictions, references)
    missing = [name for name in wanted if name not in found]
    if missing or not wanted:
        lacking = f"no prediction for {missing[0]}" if missing else f"no masks in {references}"
        raise InputError(
            f"Expected a prediction for every reference, but there is {lacking}; "
            "files are matched by name."
        )
    return [(found[name], path) for name, path in wanted.items()]


def without_reference(predictions: Path, references: Path) -> list[str]:
    """Predictions, by name, that `pair_files` leaves out."""
    if not predictions.is_dir():
        return []
    found, wanted = _matched(predictions, references)
    return sorted(found.keys() - wanted.keys())


def _matched(predictions: Path, references: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Files of the two folders by name, those that belong together by the same."""
    found, wanted = _one_each(predictions), _one_each(references)
    for name in wanted.keys() - found.keys():
        # nnU-Net numbers its images, and so masks called like them, by channel; its labels not.
        if name + FIRST_CHANNEL in found:
            found[name] = found.pop(name + FIRST_CHANNEL)
    return found, wanted


def _one_each(folder: Path) -> dict[str, Path]:
    """The masks of a folder by stem. Raises InputError for two of one stem."""
    found, clashes = by_stem(scans_in(folder))
    for first, other in clashes:
        raise InputError(
            f"Expected one mask of each name in {folder}, but there are {first.name} and "
            f"{other.name}; take one of them away."
        )
    return found


def evaluate(pairs: list[tuple[Path, Path]], tolerance: float) -> Iterator[CaseScores]:
    """Scores of each pair of files (prediction, reference); tolerance of surface Dice in mm, or in
    pixels where neither file says how large its voxels are.

    Time series are scored frame by frame, as cases "name[0]", "name[1]", …. The two may be stored
    along other axes, or backwards. Raises InputError if a pair differs in shape or in its place in
    the world.
    """
    for prediction_file, reference_file in pairs:
        prediction, reference = read_labels(prediction_file), read_labels(reference_file)
        b = reference.volume
        a = in_order_of(b.grid, prediction.volume)
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
        _require_same_names(prediction_file, prediction.names, reference.names)
        mine, theirs = _ids(a.data), _ids(b.data)
        ids = sorted(mine | theirs)
        odd = [
            *_differing_names(prediction.names, reference.names, ids),
            *_ids_of_a_scan("prediction", prediction, mine - theirs, len(mine)),
            *_ids_of_a_scan("reference", reference, theirs - mine, len(theirs)),
        ]
        a = replace(a, warnings=(*a.warnings, *odd))
        yield from scored(stem_of(reference_file), a, b, _named(names, ids), tolerance)


def scored(
    case: str, prediction: Volume, reference: Volume, names: Mapping[int, str], tolerance: float
) -> Iterator[CaseScores]:
    """Scores of masks on one grid for the structures in `names`, frame by frame: of a series as
    cases "case[0]", "case[1]", …; tolerance of surface Dice as in `evaluate`."""
    # A TIFF may not say what its reference does.
    sized = reference if reference.units == "mm" or prediction.units != "mm" else prediction
    names = {id: f"{name} ({id})" if name == MEAN else name for id, name in names.items()}
    warnings = [*prediction.warnings, *reference.warnings]
    if sized.units != "mm":
        warnings.append("no voxel size is given: distances are in pixels")
    frames = list(zip(prediction.frames, reference.frames, strict=True))
    for index, (one, two) in enumerate(frames):
        suffix = f"[{index}]" if len(frames) > 1 else ""
        scores = agreement_per_label(one, two, names, sized.spacing, tolerance)
        told = tuple(warnings if index == 0 else ())
        yield CaseScores(case + suffix, scores, sized.units, told)


def _require_same_names(file: Path, mine: Mapping[int, str], theirs: Mapping[int, str]) -> None:
    """Raise InputError if a structure has one id in the prediction and another in the reference."""
    for id, name in mine.items():
        others = [other for other, its in theirs.items() if its.casefold() == name.casefold()]
        if others and id not in others:
            raise InputError(
                f"Expected structures with the same ids in both masks, but {name} is {id} in "
                f"{file.name} and {others[0]} in its reference; give it one id in both."
            )


def _differing_names(
    mine: Mapping[int, str], theirs: Mapping[int, str], ids: Sequence[int]
) -> list[str]:
    """A sentence where structures of one id have other names in the prediction (mine) than in the
    reference."""
    differing = [
        f"{id} is {mine[id]} in the prediction and {theirs[id]} in the reference"
        for id in ids
        if id in mine and id in theirs and plain(mine[id]) != plain(theirs[id])
    ]
    return [f"scored by id, though the names differ: {some(differing)}"] if differing else []


def _ids_of_a_scan(what: str, mask: LabelFile, alone: set[int], count: int) -> list[str]:
    """A sentence where most ids of a mask, `alone` among `count`, are not in the other one, and it
    names none: intensities of 8 bits pass for labels."""
    if mask.names or len(alone) <= max(_MOST_ALONE, count / 2):
        return []
    return [
        f"{len(alone)} of the {count} ids in the {what} are in it alone, and it names none: if it "
        "is a scan, give its mask"
    ]


def _named(names: Mapping[int, str], ids: Sequence[int]) -> dict[int, str]:
    """Names by id, each once: of two structures with one name, the one score would hide the
    other's."""
    plain = {id: names.get(id, f"label {id}") for id in ids}
    often = Counter(plain.values())
    return {id: f"{name} ({id})" if often[name] > 1 else name for id, name in plain.items()}


def _ids(data: Any) -> set[int]:
    """Those that are not background."""
    import numpy as np

    return {int(value) for value in np.unique(data)} - {0}


def summary(cases: list[CaseScores]) -> dict[str, dict[str, float]]:
    """Mean of each measure per structure over the cases that hold it, and over structures."""
    names = list(dict.fromkeys(name for case in cases for name in case.structures))
    table = {
        name: _mean([case.structures[name] for case in cases if name in case.structures])
        for name in names
    }
    if table:
        measures = next(iter(table.values()))
        table[MEAN] = {key: fmean(row[key] for row in table.values()) for key in measures}
    return table


def _mean(scores: list[Agreement]) -> dict[str, float]:
    rows = [asdict(score) for score in scores]
    return {key: fmean(row[key] for row in rows) for key in rows[0]}
