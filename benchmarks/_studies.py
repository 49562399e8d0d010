"""The datasets of `accuracy.py`: their structures and how networks see their slices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from l2gnet_core.augmentation.sampling import TrainingCase
from l2gnet_core.augmentation.views import Augmentation, keeping_sides
from l2gnet_core.datasets.cases import Part
from l2gnet_core.datasets.loading import Dataset, load_frames, median_spacing, open_dataset
from l2gnet_core.datasets.split import PARTS, Split, split_patients
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.training.run import RESAMPLED_SCALE

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Study:
    """One dataset.

    Every architecture trains for `steps` steps, with `seeds` seeds. `size` is the width of training
    views in pixels. `oriented`, `resampled` and `pixel` (mm) are as in `l2gnet train`. If the voxel
    size is not real, distances are in pixels."""

    folder: str
    names: dict[int, str]
    steps: int
    seeds: int = 1
    size: int = 160
    slicing: str = "through-plane"
    oriented: bool = False
    resampled: bool = False
    pixel: float | None = None

    @property
    def unit(self) -> str:
        """The unit of in-plane distances."""
        return "mm" if self.resampled else "pixels"


STUDIES = {
    "acdc": Study(
        "acdc", {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}, steps=1500, seeds=3
    ),
    "chaos-t2": Study(
        "chaos_t2",
        {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"},
        steps=1500,
        slicing="axial",
        oriented=True,
    ),
    "openkbp": Study(
        "openkbp_hn",
        {
            1: "brainstem",
            2: "spinal cord",
            3: "right parotid",
            4: "left parotid",
            5: "oesophagus",
            6: "larynx",
            7: "mandible",
        },
        # After 1,000 steps the plain body and AttnUNet have found next to nothing.
        steps=4000,
        seeds=2,
        size=96,
        slicing="axial",
        oriented=True,
        resampled=True,
        # At the scans' own 4.7 mm pixels, small organs were never found.
        pixel=2.3,
    ),
    "hippocampus": Study(
        "hippocampus",
        {1: "anterior hippocampus", 2: "posterior hippocampus"},
        steps=4000,
        size=48,
        slicing="sagittal",
        oriented=True,
        resampled=True,
    ),
}


@dataclass(frozen=True)
class Material:
    """A study, read: the frames of each part with their patients, and how views are drawn."""

    card: ModelCard
    augmentation: Augmentation
    train: list[TrainingCase]
    tuning: list[tuple[str, TrainingCase]]
    test: list[tuple[str, TrainingCase]]


def read(study: Study, data: Path) -> Material:
    """Read a study's scans. The split depends on the dataset alone: every architecture and every
    seed is tested on the same patients."""
    dataset = open_dataset(data / study.folder)
    dataset = replace(dataset, labels=LabelSet.from_names(study.names))
    split = split_patients(dataset.patients, seed=0, test=0.25, tuning=0.0625)
    card = ModelCard(
        name=study.folder,
        labels=dataset.labels,
        slicing=study.slicing,
        oriented=study.oriented,
        views=1,
        split={part: list(getattr(split, part)) for part in PARTS},
    )
    if study.resampled:
        seen = median_spacing(split.cases(dataset, "train"), card, study.pixel)
        card = replace(card, spacing=seen)
    how = Augmentation(size=study.size)
    if study.oriented:
        how = keeping_sides(how, card)
    if study.resampled:
        how = replace(how, scale=RESAMPLED_SCALE)
    return Material(
        card,
        how,
        [frame for _, frame in _frames(dataset, split, "train", card)],
        _frames(dataset, split, "tuning", card),
        _frames(dataset, split, "test", card),
    )


def _frames(
    dataset: Dataset, split: Split, part: Part, card: ModelCard
) -> list[tuple[str, TrainingCase]]:
    return [
        (case.patient, frame)
        for case in split.cases(dataset, part)
        for frame in load_frames(case, card)
    ]
