"""What is wrong with a dataset, found before hours are spent on it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from l2gnet_core.data import Case, find_layout, pair_scans, read_settings
from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, read_volume
from l2gnet_core.volume import HEADERS_ROUND, distance_apart


@dataclass(frozen=True)
class Finding:
    """One sentence about a dataset. An "error" would stop or spoil training, a "note" may be
    meant so. `case` is empty where the sentence is about the whole."""

    kind: Literal["error", "note"]
    case: str
    sentence: str


def check_dataset(folder: Path) -> Iterator[Finding | None]:
    """Look at every file of a dataset; yields a None after each case, so that callers can show how
    far it is.

    Raises InputError if the folder is no dataset at all.
    """
    layout = find_layout(folder)
    cases, problems = pair_scans(folder, layout)
    for sentence in problems:
        yield Finding("error", "", sentence)
    names, _ = read_settings(folder / "dataset.json")
    if not names:
        yield Finding(
            "note", "", "There is no dataset.json with names: structures are called by their ids."
        )
    seen: dict[str, list[Case]] = defaultdict(list)
    counts: Counter[int] = Counter()
    for case in cases:
        yield from _check_case(case, names, seen, counts)
        yield None
    yield from _duplicates(seen)
    for id, name in names.items():
        if id and cases and not counts[id]:
            yield Finding("error", "", f"No label file holds {id} {name}: check dataset.json.")
    patients = {case.patient for case in cases}
    if len(patients) < 3:
        yield Finding(
            "error",
            "",
            f"Expected at least 3 patients to learn from, tune on and test on, but there are "
            f"{len(patients)}; add some.",
        )


def _check_case(
    case: Case, names: dict[int, str], seen: dict[str, list[Case]], counts: Counter[int]
) -> Iterator[Finding]:
    try:
        volume, truth = read_volume(case.image), read_labels(case.labels).volume
    except InputError as error:
        yield Finding("error", case.name, str(error))
        return
    for warning in volume.warnings:
        yield Finding("note", case.name, warning)
    pixels = np.ascontiguousarray(volume.data)
    seen[hashlib.sha256(pixels.tobytes()).hexdigest()].append(case)
    if volume.data.shape != truth.data.shape:
        yield Finding(
            "error",
            case.name,
            f"Expected labels of the scan's shape {volume.data.shape}, but they have "
            f"{truth.data.shape}; export them again on the scan's own grid.",
        )
        return
    distance = distance_apart(volume, truth)
    if distance > HEADERS_ROUND:
        yield Finding(
            "error",
            case.name,
            f"Scan and labels lie up to {distance:.1f} mm apart in the world; resample the labels "
            "onto the scan's grid, or correct one of the headers.",
        )
    if pixels.min() == pixels.max():
        yield Finding("error", case.name, "The scan has one intensity everywhere.")
    ids, voxels = np.unique(truth.data, return_counts=True)
    found = dict(zip(ids.tolist(), voxels.tolist(), strict=True))
    counts.update({id: n for id, n in found.items() if id})
    unknown = sorted(set(found) - {0, *names}) if names else []
    if unknown:
        yield Finding(
            "error",
            case.name,
            f"Label ids {unknown} are not in dataset.json; name them there or take them out.",
        )
    if set(found) == {0}:
        yield Finding("note", case.name, "The labels are empty: background everywhere.")


def _duplicates(seen: dict[str, list[Case]]) -> Iterator[Finding]:
    """Identical scans. Under one patient's name they are waste; under two, the split would put one
    patient on two sides if it went by names."""
    for same in seen.values():
        if len(same) < 2:
            continue
        files = " and ".join(case.image.name for case in same)
        if len({case.patient for case in same}) == 1:
            yield Finding("note", same[0].name, f"{files} are the same scan; one is enough.")
        else:
            yield Finding(
                "note",
                same[0].name,
                f"{files} are the same scan under different patients; the split keeps them "
                "together, but take one out unless a second reading is wanted.",
            )
