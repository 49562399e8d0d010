"""Score predictions against references: a pair of files, or two folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from l2gnet_core.datasets.cases import FIRST_CHANNEL
from l2gnet_core.errors import InputError
from l2gnet_core.files import (
    LabelFile,
    but_for_case,
    by_stem,
    read_labels,
    scans_in,
    stem_of,
)
from l2gnet_core.scans.labels import is_automatic, may_be_a_scan, plain, some
from l2gnet_core.scans.storage_order import fit_on, on_one_grid
from l2gnet_core.scans.volume import HEADERS_ROUND, Volume, distance_apart
from l2gnet_core.scores.metrics import Agreement, agreement_per_label

#: Name of the mean over structures in a table of structures.
MEAN = "mean"


@dataclass(frozen=True)
class CaseScores:
    """Agreement by structure name for one case. unit: of distances, "mm" or "pixel". warnings: of
    reading and comparing the two files."""

    case: str
    structures: dict[str, Agreement]
    unit: str
    warnings: tuple[str, ...] = ()


def pair_files(predictions: Path, references: Path) -> list[tuple[Path, Path]]:
    """Pairs (prediction, reference): the two files, or files of equal names in the two folders.

    Raises InputError for missing paths, and unless each reference has exactly one prediction.
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
        if missing and (other := but_for_case(missing[0], found)):
            lacking += f" ({other} differs in upper and lower case)"
        raise InputError(
            f"Expected a prediction for every reference, but there is {lacking}; "
            "files are matched by name."
        )
    return [(found[name], path) for name, path in wanted.items()]


def without_reference(predictions: Path, references: Path) -> list[str]:
    """Names of predictions without a reference, which `pair_files` leaves out."""
    if not predictions.is_dir():
        return []
    found, wanted = _matched(predictions, references)
    return sorted(found.keys() - wanted.keys())


def _matched(predictions: Path, references: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Predictions and references by name; files that belong together have the same name."""
    found, wanted = _one_each(predictions), _one_each(references)
    for name in wanted.keys() - found.keys():
        # nnU-Net appends a channel to the names of images, and so of masks named after them, but
        # not to those of labels.
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


def evaluate(
    pairs: list[tuple[Path, Path]], tolerance: float, shared: bool = False
) -> Iterator[CaseScores]:
    """Score pairs of files (prediction, reference), which may differ in storage order, or in which
    part of a scan they hold.

    tolerance: of the surface Dice in mm, or in pixels if neither file states a voxel size. Time
    series are scored frame by frame, as cases "name[0]", "name[1]", …. shared: match structures by
    name, and score only those that both files of a pair name. Raises InputError if the masks of a
    pair differ in shape or place, have one structure under different ids or, with `shared`, name no
    structure that both have.
    """
    for prediction_file, reference_file in pairs:
        prediction, reference = read_labels(prediction_file), read_labels(reference_file)
        left_out: list[str] = []
        if shared:
            prediction, reference, left_out = _shared(
                prediction, prediction_file.name, reference, reference_file.name
            )
        a, b = on_one_grid(prediction.volume, reference.volume)
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
            *left_out,
            *_parts({"prediction": prediction.volume, "reference": reference.volume}),
            *_differing_names(prediction.names, reference.names, ids),
            *_ids_of_a_scan("prediction", prediction, mine, theirs),
            *_ids_of_a_scan("reference", reference, theirs, mine),
        ]
        a = replace(a, warnings=(*a.warnings, *odd))
        yield from scored(stem_of(reference_file), a, b, _named(names, ids), tolerance)


def scored(
    case: str, prediction: Volume, reference: Volume, names: Mapping[int, str], tolerance: float
) -> Iterator[CaseScores]:
    """Score two masks on one grid, (z,y,x) or (t,z,y,x), for the structures in `names` by id.

    Frames of a series are cases "case[0]", "case[1]", …. tolerance: as in `evaluate`.
    """
    # One of the two, such as a TIFF, may lack the voxel size.
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


def _parts(masks: Mapping[str, Volume]) -> list[str]:
    """A sentence for each of two masks, by what they are called, that holds only a part of the
    other's grid."""
    said = []
    for (what, one), (whole, other) in permutations(masks.items(), 2):
        if (fit := fit_on(one.grid, other.grid)) and fit.leaves_out(one.shape, other.shape):
            said.append(
                f"the {what} holds a part of the {whole}'s grid: the rest counts as background"
            )
    return said


def _require_same_names(file: Path, mine: Mapping[int, str], theirs: Mapping[int, str]) -> None:
    """Raise InputError if a structure has one id in the prediction and another in the reference."""
    for id, name in mine.items():
        others = [other for other, its in theirs.items() if plain(its) == plain(name)]
        if others and id not in others:
            raise InputError(
                f"Expected structures with the same ids in both masks, but {name} is {id} in "
                f"{file.name} and {others[0]} in its reference; give it one id in both, or match "
                "organs by name with --shared-organs."
            )


def _shared(
    mine: LabelFile, my_file: str, theirs: LabelFile, their_file: str
) -> tuple[LabelFile, LabelFile, list[str]]:
    """A prediction (mine) and its reference with the structures that both name alone, under the
    first id that the reference has for each, and a sentence on the others that they hold.

    Raises InputError if there are none.
    """
    ids: dict[str, int] = {}
    for id, name in sorted(theirs.names.items()):
        ids.setdefault(plain(name), id)
    common = ids.keys() & {plain(name) for name in mine.names.values()}
    common = {name for name in common if not is_automatic(name)}
    if not common:
        raise InputError(
            f"Expected masks that name an organ that both have, but {my_file} names "
            f"{some(list(mine.names.values())) or 'none'} and {their_file} "
            f"{some(list(theirs.names.values())) or 'none'}; call it by one name in both."
        )
    kept, others = [], []
    for file in (mine, theirs):
        table = np.zeros(65536, np.uint16)
        for id, name in file.names.items():
            if plain(name) in common:
                table[id] = ids[plain(name)]
        found = np.unique(file.volume.data)
        others += [file.names.get(id, f"id {id}") for id in found[table[found] == 0].tolist() if id]
        data = table[file.volume.data]
        volume = file.volume.grid.volume(data, file.volume.warnings)
        names = {ids[name]: theirs.names[ids[name]] for name in common}
        kept.append(replace(file, volume=volume, names=names))
    told = f"{some(list(dict.fromkeys(others)))}: not scored, as only one of the masks names them"
    return kept[0], kept[1], [told] if others else []


def _differing_names(
    mine: Mapping[int, str], theirs: Mapping[int, str], ids: Sequence[int]
) -> list[str]:
    """A sentence if the prediction (mine) and the reference name an id differently; else none."""
    differing = [
        f"{id} is {mine[id]} in the prediction and {theirs[id]} in the reference"
        for id in ids
        if id in mine and id in theirs and plain(mine[id]) != plain(theirs[id])
    ]
    return [f"scored by id, though the names differ: {some(differing)}"] if differing else []


def _ids_of_a_scan(what: str, mask: LabelFile, ids: set[int], others: set[int]) -> list[str]:
    """A sentence if a mask without names may be a scan; others: the ids in the other mask."""
    if mask.names or not may_be_a_scan(ids, others):
        return []
    return [
        f"{len(ids - others)} of the {len(ids)} ids in the {what} are in it alone, and it names "
        "none: if it is a scan, give its mask"
    ]


def _named(names: Mapping[int, str], ids: Sequence[int]) -> dict[int, str]:
    """Unique names by id, because scores are kept by name."""
    plain = {id: names.get(id, f"label {id}") for id in ids}
    often = Counter(plain.values())
    return {id: f"{name} ({id})" if often[name] > 1 else name for id, name in plain.items()}


def _ids(data: Any) -> set[int]:
    """All ids but that of background."""
    return {int(value) for value in np.unique(data)} - {0}


def summary(cases: list[CaseScores]) -> dict[str, dict[str, float]]:
    """Mean of each measure by structure, over the cases that have it; and over structures, as
    `MEAN`."""
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
