"""Datasets ready for training: cases, patients, structures, and slices of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2gnet_core.cases import Case, Patients
from l2gnet_core.dataset_check import Survey
from l2gnet_core.errors import InputError
from l2gnet_core.labels import LabelSet
from l2gnet_core.preprocess import intensity_window, normalise
from l2gnet_core.volume import HEADERS_ROUND, distance_apart, slicing_axis


@dataclass(frozen=True)
class Dataset:
    """Cases in the order of their names, and the structures that their labels hold."""

    cases: tuple[Case, ...]
    labels: LabelSet
    description: str
    people: Patients

    @property
    def patients(self) -> list[str]:
        """Every patient once, in order of name."""
        return sorted({case.patient for case in self.cases})


def open_dataset(folder: Path) -> Dataset:
    """Examine and open a dataset folder; see `Survey` and `dataset_of`."""
    survey = Survey(folder)
    for _ in survey.examine():
        pass
    return dataset_of(survey)


def dataset_of(survey: Survey) -> Dataset:
    """The dataset that was examined.

    Raises InputError for the first of its errors: no fault is trained on unsaid.
    """
    for finding in survey.errors[:1]:
        where = f"{finding.case}: " if finding.case else ""
        more = len(survey.errors) - 1
        rest = f" (1 of {more + 1} errors that `l2gnet check` lists)" if more else ""
        raise InputError(f"{where}{finding.sentence.removesuffix('.')}{rest}.")
    patients = survey.patients
    return Dataset(
        tuple(replace(case, patient=patients.names[case.patient]) for case in survey.cases),
        LabelSet.from_names(survey.names),
        survey.description,
        patients,
    )


@dataclass(frozen=True)
class TrainingCase:
    """Neighbouring slices of one frame: image (n,H,W) float16 in [0,1], classes (n,H,W) uint8."""

    image: Tensor
    classes: Tensor


def load_frames(case: Case, labels: LabelSet, axis_rule: str) -> list[TrainingCase]:
    """Read one case, frame by frame as inference does; label ids become class indices in the order
    of `labels`.

    Raises InputError if scan and labels differ in shape or the labels hold an unknown id.
    """
    volume, truth = case.read()
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

    axis, frames = slicing_axis(volume, axis_rule), []
    for scan, truth_classes in zip(
        volume.frames, classes.reshape(-1, *classes.shape[-3:]), strict=True
    ):
        image = np.moveaxis(normalise(scan, intensity_window(scan)), axis, 0).astype(np.float16)
        truth_slices = np.moveaxis(truth_classes, axis, 0)
        frames.append(
            TrainingCase(
                torch.from_numpy(np.ascontiguousarray(image)),
                torch.from_numpy(np.ascontiguousarray(truth_slices)),
            )
        )
    return frames
