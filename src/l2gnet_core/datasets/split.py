"""Split patients into those that a model learns from, is tuned on and is tested on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np
import torch

from l2gnet_core.datasets.cases import PARTS, Case, Part, Patients
from l2gnet_core.errors import InputError
from l2gnet_core.models.checkpoint import SPLIT_FILE
from l2gnet_core.scans.labels import some

if TYPE_CHECKING:
    from l2gnet_core.datasets.loading import Dataset


@dataclass(frozen=True)
class Split:
    """Patients to learn from, to tune on and to test on; no patient is in two parts."""

    train: tuple[str, ...]
    tuning: tuple[str, ...]
    test: tuple[str, ...]

    def cases(self, dataset: Dataset, part: Part) -> list[Case]:
        """The dataset's cases in one part of the split."""
        patients = set(getattr(self, part))
        return [case for case in dataset.cases if case.patient in patients]


def split_patients(
    patients: Sequence[str],
    seed: int,
    test: float,
    tuning: float,
    held_out: Mapping[str, Part] | None = None,
) -> Split:
    """Split patients at random, spread evenly over the sorted list.

    Studies often number patients by disease or site, so one patient is drawn from each stretch of
    the list. test, tuning: shares of the patients; with three patients or more, each part gets at
    least one. held_out: patients whose part is given; such a part gets no others. Raises InputError
    for shares that are negative or together more than 1.
    """
    if test < 0 or tuning < 0 or test + tuning > 1 + 1e-9:
        raise InputError(
            f"Expected shares of the patients, 1 together at most, but got {test:g} to test on and "
            f"{tuning:g} to tune on; give smaller ones."
        )
    held_out = held_out or {}
    generator = torch.Generator().manual_seed(seed)
    free = sorted(set(patients) - held_out.keys())

    def take(part: Part, share: float, pool: list[str]) -> list[str]:
        given = sorted(patient for patient, where in held_out.items() if where == part)
        if given:
            return given
        least = int(len(patients) >= 3 and len(pool) > 1)
        # The pool may be smaller: rounding gives two patients for each of two halves of three.
        count = min(max(least, round(share * len(free))), len(pool))
        edges = np.linspace(0, len(pool), count + 1).round().astype(int)
        return [
            pool[int(torch.randint(int(a), int(b), (), generator=generator))]
            for a, b in pairwise(edges)
        ]

    test_part = take("test", test, free)
    rest = [patient for patient in free if patient not in set(test_part)]
    tuning_part = take("tuning", tuning, rest)
    train_part = [patient for patient in rest if patient not in set(tuning_part)]
    return Split(tuple(train_part), tuple(tuning_part), tuple(test_part))


def read_split(file: Path) -> dict[Part, list[str]]:
    """Names of patients by part, from a run folder or its split.json. They need not fit a dataset;
    see `checked_split`.

    Raises InputError for a missing file and for one of another form.
    """
    file = file / SPLIT_FILE if file.is_dir() else file
    try:
        # Some editors on Windows write a byte order mark.
        parts = json.loads(file.read_text(encoding="utf-8-sig"))
        if parts.keys() != set(PARTS) or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in parts.values()
        ):
            raise ValueError
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"Expected lists of the patients of train, tuning and test in {file}, but it cannot be "
            "read so; name a run folder or its split.json, or correct that."
        ) from error
    # Scans are called by names of the form NFC; see `l2gnet_core.files.stem_of`.
    return {part: [normalize("NFC", name) for name in parts[part]] for part in PARTS}


def checked_split(parts: Mapping[Part, Sequence[str]], patients: Patients, source: str) -> Split:
    """The split with these names of patients by part; source: where they are from, for messages.

    Raises InputError unless each patient is in one part, and in the one that the dataset's own
    folders say.
    """
    for problem in split_problems(parts, patients, source):
        raise InputError(problem)
    return Split(
        **{
            part: tuple(dict.fromkeys(patients.names[patients.known(name)] for name in names))
            for part, names in parts.items()
        }
    )


def split_problems(
    parts: Mapping[Part, Sequence[str]], patients: Patients, source: str
) -> Iterator[str]:
    """A sentence for each reason why a split does not fit the patients of a dataset."""
    parts = {part: list(map(patients.known, listed)) for part, listed in parts.items()}
    names = patients.names
    placed: dict[str, tuple[str, Part]] = {}
    for part, listed in parts.items():
        for name in listed:
            if name not in names:
                continue
            first, where = placed.setdefault(names[name], (name, part))
            if where != part and first == name:
                yield (
                    f"Expected each patient in one part of {source}, but {name} is in {where} and "
                    f"in {part}; take it out of one."
                )
            elif where != part:
                yield (
                    f"Expected each patient in one part of {source}, but {first} in {where} and "
                    f"{name} in {part} share an identical scan; put both into one part."
                )
            own = patients.held_out.get(names[name], part)
            if own != part:
                yield (
                    f"Expected {name} in {own}, where the dataset's own folders put this patient, "
                    f"but {source} has {name} in {part}; move it."
                )
    missing = sorted({name for listed in parts.values() for name in listed} - names.keys())
    if missing:
        yield (
            f"Expected the patients of {source} in the dataset, but {some(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; use the dataset that it was made for."
        )
    left_out = sorted(set(names.values()) - placed.keys())
    if left_out:
        yield (
            f"Expected every patient of the dataset in {source}, but {some(left_out)} "
            f"{'is' if len(left_out) == 1 else 'are'} in no part; add them."
        )
    if not parts["train"]:
        yield f"Expected patients to learn from in {source}, but train is empty; move some there."
