"""Datasets on disk: cases, patients, the split between them, and slices ready for training."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2gnet_core.card import ModelCard
from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, read_volume, scans_in, stem_of
from l2gnet_core.labels import LabelSet
from l2gnet_core.preprocess import intensity_window, normalise, resized, resized_classes
from l2gnet_core.slice_view import SliceView, slice_view
from l2gnet_core.volume import HEADERS_ROUND, Volume, distance_apart, slicing_axis

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


@dataclass(frozen=True)
class Layout:
    """Where a dataset keeps scans and labels, and what a scan's name has that its labels' lack."""

    images: str
    labels: str
    channel: str = ""


#: The plain one, and nnU-Net's (Isensee et al., Nature Methods 2021) for one channel.
LAYOUTS = (Layout("images", "labels"), Layout("imagesTr", "labelsTr", "_0000"))


def find_layout(folder: Path) -> Layout:
    """The layout of a dataset folder. Raises InputError if it has none that is known."""
    for layout in LAYOUTS:
        if (folder / layout.images).is_dir() and (folder / layout.labels).is_dir():
            return layout
    raise InputError(
        f"Expected a dataset folder with 'images' and 'labels' inside (or nnU-Net's 'imagesTr' and "
        f"'labelsTr'), but {folder} has neither; put scans and label files of the same name into "
        "these two folders."
    )


def pair_scans(folder: Path, layout: Layout) -> tuple[list[Case], list[str]]:
    """Cases, and a sentence for every file that has no partner."""
    images, labels = folder / layout.images, folder / layout.labels
    label_files = {stem_of(path): path for path in scans_in(labels)}
    cases, problems = [], []
    for path in scans_in(images):
        name = stem_of(path)
        if layout.channel:
            name, channel = name[: -len(layout.channel)], name[-len(layout.channel) :]
            if channel != layout.channel:
                problems.append(
                    f"Expected scans of one channel (names that end in {layout.channel}), but "
                    f"{path.name} is of another; take the other channels out."
                )
                continue
        if name not in label_files:
            problems.append(
                f"Expected labels for every scan, but {path.name} has none in {labels}; "
                "add the file or take the scan out."
            )
            continue
        cases.append(Case(name, _FRAME.sub("", name), path, label_files.pop(name)))
    problems += [
        f"Expected a scan for every label file, but {path.name} has none in {images}; "
        "add the scan or take the labels out."
        for path in label_files.values()
    ]
    return cases, problems


def open_dataset(folder: Path) -> Dataset:
    """Read `images/` + `labels/` or nnU-Net's `imagesTr/` + `labelsTr/`, with a `dataset.json`
    that names the structures ({"labels": {"name": id}}) where there is one.

    Raises InputError if the folder holds no such pair of folders or a file lacks its partner.
    """
    layout = find_layout(folder)
    if not scans_in(folder / layout.images):
        raise InputError(
            f"Expected scans in {folder / layout.images}, but it is empty; put NIfTI files there."
        )
    cases, problems = pair_scans(folder, layout)
    if problems:
        raise InputError(problems[0])
    names, description = read_settings(folder / "dataset.json")
    if not names:
        found = {int(i) for case in cases for i in np.unique(read_labels(case.labels).volume.data)}
        names = {id: f"structure {id}" for id in sorted(found - {0})}
    ids = sorted(names.keys() - {0})
    if not 0 < len(ids) < 255 or not 0 < ids[0] <= ids[-1] <= 65535:
        raise InputError(
            f"Expected 1 to 254 structures with ids from 1 to 65535 in {folder}, but there are "
            f"{len(ids)}; correct the labels or dataset.json."
        )
    return Dataset(tuple(join_same_patients(cases)), LabelSet.from_names(names), description)


def read_settings(file: Path) -> tuple[dict[int, str], str]:
    """Structure names by id and the description that dataset.json gives; nothing without one.

    Labels may be written name → id, or id → name as in the Medical Segmentation Decathlon.
    Raises InputError for a file that cannot be read so.
    """
    if not file.is_file():
        return {}, ""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        names = {}
        for key, value in settings.get("labels", {}).items():
            id, name = (key, value) if str(key).isdigit() else (value, key)
            names[int(id)] = str(name)
        return names, str(settings.get("description", ""))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f'Expected {{"labels": {{"name": id, …}}}} in {file}, but it cannot be read so; '
            "correct the file or take it away."
        ) from error


def join_same_patients(cases: Iterable[Case]) -> list[Case]:
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
    """Neighbouring slices of one frame: image (n,H,W) float16 in [0,1], classes (n,H,W) uint8.

    `step` is how many slices one neighbour that the network sees is from the next.
    """

    image: Tensor
    classes: Tensor
    step: int = 1

    @cached_property
    def _holds(self) -> Tensor:
        """(n, 256) bool: which class has a voxel in which slice."""
        flat = self.classes.flatten(1).long()
        return torch.zeros(len(flat), 256, dtype=torch.bool).scatter_(1, flat, True)

    @cached_property
    def structures(self) -> list[int]:
        """Classes that are somewhere in this frame, background left out."""
        return [c for c in torch.nonzero(self._holds.any(0)).flatten().tolist() if c]

    def slices_with(self, structure: int) -> list[int]:
        """Indices of the slices that hold a voxel of a class."""
        found: list[int] = torch.nonzero(self._holds[:, structure]).flatten().tolist()
        return found


def median_spacing(cases: Sequence[Case], card: ModelCard) -> tuple[float, float, float]:
    """The distance between slices, rows and columns in mm at which a model best learns from cases.

    Rows and columns get the finer of their two medians: with square pixels a turned slice is a
    slice. Raises InputError if a scan does not say its voxel size.
    """
    found = []
    for case in cases:
        volume = read_volume(case.image)
        _check_voxel_size(case, volume)
        found.append([volume.spacing[axis] for axis in _view(case, volume, card).axes])
    between, rows, columns = (float(size) for size in np.median(found, axis=0))
    return between, min(rows, columns), min(rows, columns)


def _check_voxel_size(case: Case, volume: Volume) -> None:
    if volume.units != "mm":
        raise InputError(
            f"Expected scans with a voxel size, to resample them to a common one, but "
            f"{case.image.name} has none; write it into the header, or train without --resample."
        )


def _view(case: Case, volume: Volume, card: ModelCard) -> SliceView:
    """How the model will see a training scan."""
    if card.oriented and not volume.oriented:
        raise InputError(
            f"Expected scans that say where right, front and top are, to learn left from right, "
            f"but {case.image.name} does not; write it into the header, or train without "
            "--oriented."
        )
    if card.spacing is not None:
        _check_voxel_size(case, volume)
    return slice_view(card, volume, slicing_axis(volume, card.slicing))


def load_frames(case: Case, card: ModelCard) -> list[TrainingCase]:
    """Read one case, frame by frame and as inference sees it with a model of this card; label ids
    become class indices in the order of the card's labels.

    Raises InputError if scan and labels differ in shape, the labels hold an unknown id, or the
    scan does not say the orientation or voxel size that the model needs.
    """
    labels = card.labels
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
    lookup = np.full(max([int(truth.data.max()), *labels.names]) + 1, 255, np.uint8)
    lookup[[0, *labels.names]] = np.arange(len(labels) + 1)
    classes = lookup[truth.data]
    if (classes == 255).any():
        unknown = sorted(set(np.unique(truth.data).tolist()) - {0, *labels.names})
        raise InputError(
            f"Expected label ids {sorted(labels.names)} in {case.name}, but found {unknown}; "
            "name them in dataset.json or take them out."
        )

    view, frames = _view(case, volume, card), []
    for scan, truth_classes in zip(
        volume.frames, classes.reshape(-1, *classes.shape[-3:]), strict=True
    ):
        slices = view.stack(scan)
        image = np.ascontiguousarray(normalise(slices, intensity_window(slices)))
        truth_slices = np.ascontiguousarray(view.stack(truth_classes))
        frames.append(
            TrainingCase(
                resized(torch.from_numpy(image)[None], view.size)[0].half(),
                resized_classes(torch.from_numpy(truth_slices), view.size),
                view.step,
            )
        )
    return frames
