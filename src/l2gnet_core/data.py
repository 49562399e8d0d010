"""Datasets on disk: cases, patients, the split between them, and slices ready for training."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2gnet_core.errors import InputError
from l2gnet_core.files import is_supported, read_labels, read_volume, suffix_of
from l2gnet_core.labels import LabelSet
from l2gnet_core.preprocess import intensity_window, normalise
from l2gnet_core.volume import HEADERS_ROUND, distance_apart, slicing_axis

#: What may follow a patient's identity in a file name: frames and phases of one examination. Only
#: after a separator, lest "patient1" and "patient2" lose their "t1" and "t2" and become one.
_FRAME = re.compile(r"[_-](frame|phase|time|ed|es|t)[_-]?\d*$", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One scan and its labels; cases of one `patient` never end up on two sides of a split."""

    name: str
    patient: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Dataset:
    """Cases in the order of their names, and the structures that their labels hold."""

    cases: tuple[Case, ...]
    labels: LabelSet
    description: str = ""

    @property
    def patients(self) -> list[str]:
        """Every patient once, in order of name."""
        return sorted({case.patient for case in self.cases})


def open_dataset(folder: Path) -> Dataset:
    """Read `images/` + `labels/` (+ `dataset.json` with {"labels": {"name": id}}).

    Raises InputError if the folder holds no such pair of folders or a scan lacks its labels.
    """
    images, labels = folder / "images", folder / "labels"
    if not images.is_dir() or not labels.is_dir():
        raise InputError(
            f"Expected a dataset folder with 'images' and 'labels' inside, but {folder} has none; "
            "put scans and label files of the same name into these two folders."
        )
    label_files = {_case_name(path): path for path in _scans(labels)}
    cases = []
    for path in _scans(images):
        name = _case_name(path)
        if name not in label_files:
            raise InputError(
                f"Expected labels for every scan, but {path.name} has none in {labels}; "
                "add the file or take the scan out."
            )
        cases.append(Case(name, _FRAME.sub("", name), path, label_files[name]))
    if not cases:
        raise InputError(f"Expected scans in {images}, but it is empty; put NIfTI files there.")
    names, description = _read_settings(folder / "dataset.json")
    if not names:
        found = {int(i) for case in cases for i in np.unique(read_labels(case.labels).volume.data)}
        names = {id: f"structure {id}" for id in sorted(found - {0})}
    ids = sorted(names.keys() - {0})
    if not 0 < len(ids) < 255 or not 0 < ids[0] <= ids[-1] <= 65535:
        raise InputError(
            f"Expected 1 to 254 structures with ids from 1 to 65535 in {folder}, but there are "
            f"{len(ids)}; correct the labels or dataset.json."
        )
    cases = _join_same_patients(cases)
    return Dataset(tuple(cases), LabelSet.from_names(names), description)


def _read_settings(file: Path) -> tuple[dict[int, str], str]:
    """Structure names by id and the description that dataset.json gives; nothing without one."""
    if not file.is_file():
        return {}, ""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        names = {int(id): str(name) for name, id in settings.get("labels", {}).items()}
        return names, str(settings.get("description", ""))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f'Expected {{"labels": {{"name": id, …}}}} in {file}, but it cannot be read so; '
            "correct the file or take it away."
        ) from error


def _scans(folder: Path) -> list[Path]:
    """Files of the folder that can be read, without what desktops leave there (.DS_Store)."""
    return sorted(p for p in folder.iterdir() if is_supported(p) and not p.name.startswith("."))


def _case_name(path: Path) -> str:
    return path.name[: len(path.name) - len(suffix_of(path))]


def _join_same_patients(cases: Iterable[Case]) -> list[Case]:
    """Give patients that share an identical scan one identity, so that no split parts them."""
    cases = list(cases)
    identity = {case.patient: case.patient for case in cases}
    owner: dict[str, str] = {}
    for case in cases:
        pixels = np.ascontiguousarray(read_volume(case.image).data)
        first = owner.setdefault(hashlib.sha256(pixels.tobytes()).hexdigest(), case.patient)
        # Whoever was joined with one of the two before comes along.
        one, other = sorted((identity[first], identity[case.patient]))
        if one != other:
            identity = {p: one if known == other else known for p, known in identity.items()}
    return [Case(c.name, identity[c.patient], c.image, c.labels) for c in cases]


@dataclass(frozen=True)
class Split:
    """Patients to learn from, to tune on, and to report on; no patient is in two of them."""

    train: tuple[str, ...]
    tuning: tuple[str, ...]
    test: tuple[str, ...]

    def cases(self, dataset: Dataset, part: str) -> list[Case]:
        """The dataset's cases of "train", "tuning" or "test"."""
        patients = set(getattr(self, part))
        return [case for case in dataset.cases if case.patient in patients]


def split_patients(patients: Sequence[str], seed: int, test: float, tuning: float) -> Split:
    """Split by patient, spread evenly over the sorted list.

    Studies often number patients by disease or site; taking one at random out of every run of
    neighbours reaches each block. `test` and `tuning` are shares of the patients; both parts get
    at least one patient whenever there are three or more.
    """
    order = sorted(patients)
    generator = torch.Generator().manual_seed(seed)

    def take(pool: list[str], count: int) -> list[str]:
        edges = np.linspace(0, len(pool), count + 1).round().astype(int)
        picks = [
            int(torch.randint(int(a), int(b), (), generator=generator)) for a, b in pairwise(edges)
        ]
        return [pool[i] for i in picks]

    enough = len(order) >= 3
    test_part = take(order, max(int(enough), round(test * len(order))))
    rest = [p for p in order if p not in set(test_part)]
    tuning_part = take(rest, max(int(enough), round(tuning * len(order))))
    train_part = [p for p in rest if p not in set(tuning_part)]
    return Split(tuple(train_part), tuple(tuning_part), tuple(test_part))


@dataclass(frozen=True)
class TrainingCase:
    """Slices of one scan: image (n,H,W) float16 in [0,1], classes (n,H,W) uint8."""

    image: Tensor
    classes: Tensor


def load_case(case: Case, labels: LabelSet, axis_rule: str) -> TrainingCase:
    """Read one case; label ids become class indices in the order of `labels`.

    Raises InputError if scan and labels differ in shape or the labels hold an unknown id.
    """
    volume, truth = read_volume(case.image), read_labels(case.labels).volume
    if volume.data.shape != truth.data.shape:
        raise InputError(
            f"Expected labels of the scan's shape {volume.data.shape} for {case.name}, but they "
            f"have {truth.data.shape}; export them again on the scan's own grid."
        )
    apart = distance_apart(volume, truth)
    if apart > HEADERS_ROUND:
        raise InputError(
            f"Expected scan and labels of {case.name} in one place, but they lie up to {apart:.1f} "
            "mm apart; resample the labels onto the scan's grid, or correct one of the headers."
        )
    axis = slicing_axis(volume, axis_rule) + volume.data.ndim - 3
    scan = normalise(volume.data, intensity_window(volume.data))
    lookup = np.full(max([int(truth.data.max()), *labels.names]) + 1, 255, np.uint8)
    lookup[[0, *labels.names]] = np.arange(len(labels) + 1)
    classes = lookup[truth.data]
    if (classes == 255).any():
        unknown = sorted(set(np.unique(truth.data).tolist()) - {0, *labels.names})
        raise InputError(
            f"Expected label ids {sorted(labels.names)} in {case.name}, but found {unknown}; "
            "name them in dataset.json or take them out."
        )

    def slices(array: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(array, axis, 0)
        return np.ascontiguousarray(moved).reshape(-1, *moved.shape[-2:])

    return TrainingCase(
        torch.from_numpy(slices(scan).astype(np.float16)), torch.from_numpy(slices(classes))
    )
