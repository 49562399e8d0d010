"""Compare the cases of a dataset: duplicates, odd ones, structures that no case has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from l2gnet_core.datasets.cases import Case, Finding, Patients
from l2gnet_core.scans.labels import plain, some
from l2gnet_core.scans.volume import Grid

#: A voxel size is odd if it differs from the usual one by more than this factor. Datasets do mix
#: slices of 1 and 3 mm; confusing centimetres with millimetres is a factor of 10.
_ODD_SIZE = 5.0
#: What datasets call id 0, besides names with the word background in them.
_BACKGROUND = {
    *("bg", "clear label", "exterior", "hintergrund", "none", "nothing", "other", "outside"),
    *("rest", "unknown", "unlabeled", "unlabelled", "void"),
}


@dataclass(frozen=True)
class Examined:
    """What is kept of a case after reading it.

    voxels: number of voxels by label id. names: those that the label file itself gives such ids.
    fingerprints: of the scan's frames, except frames of a single intensity, which are equal for all
    patients. frame_hashes: order-free fingerprints of these frames, so that a scan is known in
    whichever order it is stored. label_hashes: the same of frames with their labels.
    """

    case: Case
    grid: Grid
    voxels: Mapping[int, int]
    names: Mapping[int, str]
    fingerprints: tuple[str, ...]
    frame_hashes: tuple[str, ...]
    label_hashes: tuple[str, ...]


def compare(
    examined: list[Examined], names: Mapping[int, str], patients: Patients
) -> Iterator[Finding]:
    """Findings about several cases at once. names: structure by id."""
    yield from _duplicates(examined)
    yield from _patients(examined, patients)
    yield from _structures(examined, names)
    yield from _odd_grids(examined)


def names_in_files(examined: Sequence[Examined]) -> tuple[dict[int, str], list[Finding]]:
    """Structure by id, as far as label files name them, and an error for each name of several ids
    and each id of several names."""
    ids: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    called: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    spelt: dict[str, str] = {}
    for one in examined:
        for id, name in one.names.items():
            # Two files may write one name differently.
            name = spelt.setdefault(plain(name), name)
            ids[name][id].append(one.case.name)
            called[id][name].append(one.case.name)
    told = [
        f"Expected structures with the same ids in all label files, but {name} is "
        f"{_where(cases)}; give it one id in all."
        for name, cases in ids.items()
        if len(cases) > 1
    ]
    told += [
        f"Expected structures with the same names in all label files, but {id} is "
        f"{_where(cases)}; give it one name in all, or name the structures in dataset.json."
        for id, cases in called.items()
        # Names that are exchanged have been told.
        if len(cases) > 1 and all(len(ids[name]) == 1 for name in cases)
    ]
    names = {id: next(iter(cases)) for id, cases in called.items()}
    return names, [Finding("error", "", sentence) for sentence in told]


def _where(cases: Mapping[Any, list[str]]) -> str:
    """Ids or names with the cases that have them, as text."""
    return " and ".join(f"{one} ({some(names)})" for one, names in cases.items())


def same_patients(cases: Iterable[Case], examined: Iterable[Examined]) -> dict[str, str]:
    """Patient by each name: names that share an identical scan or frame are one patient, so that
    they stay in one part of a split."""
    identity = {case.patient: case.patient for case in cases}
    owner: dict[str, str] = {}
    for one in examined:
        patient = one.case.patient
        for frame in one.frame_hashes:
            # Names that were joined with one of the two before are joined with both.
            kept, other = sorted((identity[owner.setdefault(frame, patient)], identity[patient]))
            if kept != other:
                identity = {name: kept if who == other else who for name, who in identity.items()}
    return identity


def _duplicates(examined: list[Examined]) -> Iterator[Finding]:
    """Identical scans or frames: one finding for each set of patients who share them."""
    frames: dict[str, dict[int, str]] = defaultdict(dict)
    for number, one in enumerate(examined):
        for frame, labels in zip(one.frame_hashes, one.label_hashes, strict=True):
            frames[frame][number] = labels
    # For each group of cases that share a frame: do their labels of it differ?
    groups: dict[tuple[int, ...], bool] = defaultdict(bool)
    for labels_of in frames.values():
        if len(labels_of) > 1:
            groups[tuple(labels_of)] |= len({*labels_of.values()}) > 1
    shared: dict[tuple[str, ...], list[tuple[int, ...]]] = defaultdict(list)
    for group in groups:
        shared[tuple(sorted({examined[number].case.patient for number in group}))].append(group)
    for people, same in shared.items():
        scans = some([_same([examined[number] for number in group]) for group in same])
        differ = any(groups[group] for group in same)
        if len(people) == 1:
            advice = (
                "they contradict each other: keep the right ones" if differ else "one is enough"
            )
            labels = "different" if differ else "the same"
            yield Finding(
                "warning", "", f"{scans}: identical scans with {labels} labels; {advice}."
            )
        elif differ:
            yield Finding(
                "warning",
                "",
                f"{' and '.join(people)} share identical scans with different labels ({scans}), as "
                "if one patient was read twice; the split keeps them together, but take one out "
                "unless a second reading is wanted.",
            )
        else:
            yield Finding(
                "warning",
                "",
                f"{' and '.join(people)} share identical scans with the same labels ({scans}); the "
                "split keeps them together, but take one out.",
            )


def _same(group: list[Examined]) -> str:
    """The names of scans that share a frame, as text."""
    part = "" if len({one.frame_hashes for one in group}) == 1 else " in some frames"
    return f"{' = '.join(one.case.name for one in group)}{part}"


def _patients(examined: list[Examined], patients: Patients) -> Iterator[Finding]:
    """Too few patients to split, or patients whom the dataset's own folders put in two parts."""
    by_patient: dict[str, dict[str | None, Case]] = defaultdict(dict)
    for one in examined:
        by_patient[patients.names[one.case.patient]].setdefault(one.case.part, one.case)
    for parts in by_patient.values():
        for first, second in [*combinations(parts.values(), 2)][:1]:
            same = "of one patient" if first.patient == second.patient else "identical scans"
            yield Finding(
                "error",
                "",
                f"Expected patients to learn from and to test on apart, but {first.files.name} and "
                f"{second.files.name} are {same}; take one out.",
            )
    # Patients whose scans cannot be read count, too.
    count = len(set(patients.names.values()))
    if by_patient and all(None not in parts for parts in by_patient.values()):
        yield Finding("error", "", "There is nobody to learn from: all are kept for testing.")
    elif by_patient and count < 3:
        yield Finding(
            "warning",
            "",
            f"Expected at least 3 patients to learn from, tune on and test on, but there "
            f"{'is' if count == 1 else 'are'} {count}; all are learned from.",
        )


def _structures(examined: list[Examined], names: Mapping[int, str]) -> Iterator[Finding]:
    ids = sorted(names.keys() - {0})
    if not examined:
        return
    if not 0 < len(ids) < 255:
        yield Finding(
            "error",
            "",
            f"Expected 1 to 254 structures, but there are {len(ids)}; correct the labels or "
            "dataset.json.",
        )
    for id, name in sorted(names.items()):
        if not 0 < id <= 65535 and not (id == 0 and _is_background(name)):
            advice = (
                "correct the labels or dataset.json"
                if id
                else f"call id 0 background, or give {name} an id from 1"
            )
            yield Finding(
                "error", "", f"Expected ids from 1 to 65535, but that of {name} is {id}; {advice}."
            )
    found = Counter(id for one in examined for id in one.voxels)
    missing = [f"{id} {names[id]}" for id in ids if not found[id]]
    if missing and not any(found[id] for id in ids):
        yield Finding(
            "error",
            "",
            f"Expected labels of what dataset.json names, but no label file holds {some(missing)}; "
            "correct the labels or dataset.json.",
        )
    elif missing:
        yield Finding(
            "warning",
            "",
            f"No label file holds {some(missing)}: no model will have "
            f"{'it' if len(missing) == 1 else 'them'}; check dataset.json.",
        )


def _is_background(name: str) -> bool:
    return "background" in plain(name) or plain(name) in _BACKGROUND


def _odd_grids(examined: list[Examined]) -> Iterator[Finding]:
    """Scans that are stored unlike the others, for example after a mistake in converting."""

    def mixed(what: str, kinds: Iterable[str], advice: str) -> Iterator[Finding]:
        cases: dict[str, list[str]] = defaultdict(list)
        for one, kind in zip(examined, kinds, strict=True):
            cases[kind].append(one.case.name)
        usual, *others = sorted(cases, key=lambda kind: -len(cases[kind])) or [""]
        if others:
            told = [f"{len(cases[kind])} {kind} ({some(cases[kind])})" for kind in others]
            counts = ", ".join([f"{len(cases[usual])} {usual}", *told])
            yield Finding("warning", "", f"{what}: {counts}; {advice}.")

    grids = [one.grid for one in examined]
    yield from mixed(
        "Only some scans are time series",
        ("a time series" if len(grid.shape) == 4 else "a single frame" for grid in grids),
        "every frame is learned from",
    )
    yield from mixed(
        "Only some scans give a voxel size",
        ("in mm" if grid.units == "mm" else "without" for grid in grids),
        "check that the others are of the same size",
    )
    yield from mixed(
        "Scans are stored in different orientations",
        ("".join(grid.axis_codes[::-1]) if grid.oriented else "unstated" for grid in grids),
        "check that their headers are right",
    )
    measured = [one for one in examined if one.grid.units == "mm"]
    if len(measured) < 3:  # of two different sizes, neither is the usual one
        return
    # The largest size first, mostly that between slices: scans may be stored along other axes.
    sizes = [np.sort(one.grid.spacing)[::-1] for one in measured]
    usual = np.median(sizes, axis=0)
    for one, spacing in zip(measured, sizes, strict=True):
        if (spacing > _ODD_SIZE * usual).any() or (_ODD_SIZE * spacing < usual).any():
            yield Finding(
                "warning",
                one.case.name,
                f"Voxels of {_size(spacing)} mm where {_size(usual)} are usual here; "
                "check the header.",
                "odd voxel size",
            )


def _size(spacing: Iterable[float]) -> str:
    """A size (z,y,x) as the text x×y×z."""
    return "×".join(f"{value:.3g}" for value in [*spacing][::-1])
