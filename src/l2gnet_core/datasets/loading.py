"""Datasets ready for training: cases, patients and structures, and the reading of scans."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from l2gnet_core.augmentation.sampling import TrainingCase
from l2gnet_core.datasets.cases import Case, Patients
from l2gnet_core.datasets.check import Survey
from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.images import resized, resized_classes
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import HEADERS_ROUND, Grid, Volume, distance_apart, slicing_axis
from l2gnet_core.segmenting.slice_view import SliceView, slice_view


@dataclass(frozen=True)
class Dataset:
    """A dataset without errors.

    cases: sorted by name. labels: the structures that are named. people: the patients. held: label
    ids by patient. fingerprints: of all frames (see `l2gnet_core.scans.fingerprint`), by patient.
    """

    cases: tuple[Case, ...]
    labels: LabelSet
    description: str
    people: Patients
    held: Mapping[str, set[int]]
    fingerprints: Mapping[str, set[str]]

    @property
    def patients(self) -> list[str]:
        """All patients, sorted."""
        return sorted({case.patient for case in self.cases})

    def labels_of(self, patients: Iterable[str]) -> LabelSet:
        """The structures that at least one of these patients has."""
        held = set[int]().union(*(self.held[patient] for patient in patients))
        return LabelSet(tuple(label for label in self.labels if label.id in held))


def open_dataset(folder: Path) -> Dataset:
    """Examine and open a dataset folder; see `Survey` and `dataset_of`. Raises InputError."""
    survey = Survey(folder)
    for _ in survey.examine():
        pass
    return dataset_of(survey)


def dataset_of(survey: Survey) -> Dataset:
    """The dataset of a survey that is complete.

    Raises InputError for the first of its errors, so that no training starts on a faulty dataset.
    """
    for finding in survey.errors[:1]:
        where = f"{finding.case}: " if finding.case else ""
        more = len(survey.errors) - 1
        rest = f" (1 of {more + 1} errors that `l2gnet check` lists)" if more else ""
        raise InputError(f"{where}{finding.sentence.removesuffix('.')}{rest}.")
    patients = survey.patients
    return Dataset(
        cases=tuple(replace(case, patient=patients.names[case.patient]) for case in survey.cases),
        labels=LabelSet.from_names(survey.names),
        description=survey.description,
        people=patients,
        held=survey.held,
        fingerprints=survey.fingerprints,
    )


def median_spacing(
    cases: Sequence[Case], card: ModelCard, pixel: float | None = None
) -> tuple[float, float, float]:
    """The median distance between slices, rows and columns of cases, in mm, for resampling.

    Rows and columns get `pixel` (mm), or else the finer of their two medians, because augmentation
    turns slices, for which pixels must be square. Raises InputError for a scan without voxel size.
    """
    found = []
    for case in cases:
        grid = case.grid or case.files.read_image().grid
        _check_voxel_size(case, grid)
        found.append([grid.spacing[axis] for axis in _view(case, grid, card).axes])
    between, rows, columns = (float(size) for size in np.median(found, axis=0))
    side = pixel or min(rows, columns)
    return between, side, side


def _check_voxel_size(case: Case, grid: Volume | Grid) -> None:
    if grid.units != "mm":
        raise InputError(
            f"Expected scans with a voxel size, to resample them to a common one, but "
            f"{case.files.name} has none; write it into the header, or train without --resample."
        )


def _view(
    case: Case, grid: Volume | Grid, card: ModelCard, scan: NDArray[Any] | None = None
) -> SliceView:
    """How the model sees a frame (z,y,x) of a training scan; without `scan`, margins are kept.

    Raises InputError if the file does not state the orientation or voxel size that it needs.
    """
    if card.oriented and not grid.oriented:
        raise InputError(
            f"Expected scans that say where right, front and top are, to learn left from right, "
            f"but {case.files.name} does not; write it into the header, or train without "
            "--oriented."
        )
    if card.spacing is not None:
        _check_voxel_size(case, grid)
    return slice_view(card, grid, slicing_axis(grid, card.slicing), scan)


def load_frames(case: Case, card: ModelCard, left_out: Collection[int] = ()) -> list[TrainingCase]:
    """Read the frames of one case as a model of this card sees them at inference.

    Label ids become class indices in the order of the card's labels; ids in `left_out` become
    background. Raises InputError if scan and labels differ in shape or place, the labels hold an
    unknown id, or the scan does not state the orientation or voxel size that the model needs.
    """
    labels = card.labels
    volume, stored = case.read()
    truth = stored.volume
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
    lookup = np.full(max([int(truth.data.max()), *labels.names, *left_out]) + 1, 255, np.uint8)
    lookup[[0, *labels.names]] = np.arange(len(labels) + 1)
    lookup[list(left_out)] = 0
    classes = lookup[truth.data]
    if (classes == 255).any():
        unknown = sorted(set(np.unique(truth.data).tolist()) - {0, *labels.names})
        raise InputError(
            f"Expected label ids {sorted(labels.names)} in {case.name}, but found {unknown}; "
            "name them in dataset.json or take them out."
        )

    frames = []
    for scan, truth_classes in zip(
        volume.frames, classes.reshape(-1, *classes.shape[-3:]), strict=True
    ):
        view = _view(case, volume, card, scan)
        slices = view.stack(scan)
        image = np.ascontiguousarray(normalise(slices, intensity_window(slices)))
        # A copy: of a single slice, ascontiguousarray keeps a stack that runs backwards, which
        # PyTorch does not take.
        truth_slices = view.stack(truth_classes).copy()
        frames.append(
            TrainingCase(
                resized(torch.from_numpy(image)[None], view.size)[0].half(),
                resized_classes(torch.from_numpy(truth_slices), view.size),
                view.step,
            )
        )
    return frames
