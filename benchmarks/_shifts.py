"""The fixed suite of shifted domains on which `annotation_effort.py` tunes and tests.

The suite was written down before anything was tuned to it. A domain is a model together with scans
unlike its training scans. Tuning and test scans are of different patients, and the model has seen
none of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from _changes import CHANGES, changed
from _studies import SHARED, STUDIES
from numpy.typing import NDArray

from l2gnet_core.datasets.cases import Patients, ScanFiles
from l2gnet_core.datasets.loading import Dataset, open_dataset
from l2gnet_core.datasets.split import Split, split_patients
from l2gnet_core.files import LabelFile, read_volume
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.catalog import find_model
from l2gnet_core.models.checkpoint import read_card
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid, Volume, slicing_axis

Part = Literal["tuning", "test"]
Array = NDArray[np.generic]
#: A scan counts if the model's mean Dice on it is in this range: neither lost nor good already.
START = (0.70, 0.88)
#: Patients of ACDC come in blocks of twenty.
GROUPS = ("dilated", "hypertrophic", "infarcted", "normal", "right ventricle")
#: Left out: patient 074 again, labelled by another reader.
AGAIN = "patient076"
#: The label of voxels without a scribble in ACDC.
UNMARKED = 4


@dataclass(frozen=True)
class Base:
    """A model to adapt, or to compare with, trained by `annotation_effort.py prepare`.

    It learns for `steps` steps of eight slices from the frames of `groups` and `phases` (empty:
    all), of the "train" part of a split by patient. `without` is the id of a structure that is
    removed from its labels. It starts from random weights. With a `change`, its scans are changed,
    and it starts from the shipped model with that model's split.
    """

    study: str
    steps: int
    groups: tuple[str, ...] = ()
    phases: tuple[str, ...] = ()
    without: int | None = None
    change: str | None = None
    test: float = 0.3
    tuning: float = 0.15


#: None: the shipped model.
BASES: dict[str, Base | None] = {
    "cardiac-cine": None,
    "dilated-infarcted": Base("acdc", 1500, groups=("dilated", "infarcted")),
    "end-diastole": Base("acdc", 1500, phases=("end-diastole",)),
    "end-systole": Base("acdc", 1500, phases=("end-systole",)),
    "no-right-kidney": Base("chaos-t2", 900, without=2, test=1 / 3),
    "no-spleen": Base("chaos-t2", 900, without=4, test=1 / 3),
    # Trained on changed scans, to see how much of the lost Dice can be regained at all.
    **{f"all-{change}": Base("acdc", 1500, change=change) for change in CHANGES},
}


@dataclass(frozen=True)
class Frame:
    """A scan on disk, by its name, and what its name tells."""

    name: str
    patient: str
    group: str = ""
    phase: str = ""


@dataclass(frozen=True)
class Sample:
    """A frame of a study, changed or as it is."""

    study: str
    frame: Frame
    change: str | None = None

    @property
    def name(self) -> str:
        return f"{self.frame.name}-{self.change}" if self.change else self.frame.name


@dataclass(frozen=True)
class Domain:
    """A model and scans unlike its training scans.

    `scans` are all such scans; `usual` are scans of the kind that `base` learnt from. `single` are
    the scans in which a few slices are corrected, each scan by itself. `organ` is the id of the
    structure to teach, if the domain is about a new organ. `native` is a model that learnt from
    such scans of other patients, if there is one.
    """

    name: str
    base: str
    scans: Mapping[Part, Sequence[Sample]]
    usual: Mapping[Part, Sequence[Sample]]
    single: Mapping[Part, Sequence[Sample]]
    organ: int | None = None
    native: str | None = None


@dataclass(frozen=True, eq=False)
class Scan:
    """A sample, read: scan, truth and scribbles, if there are any, (z,y,x) on a grid."""

    sample: Sample
    scan: Array
    grid: Volume | Grid
    axis: int
    truth: Array
    scribbles: Array | None


def frames(names: Sequence[str]) -> list[Frame]:
    """ACDC's frames from their names: the lower frame number is end-diastole."""
    found, before = [], ""
    for name in sorted(names):
        patient = name.split("_")[0]
        phase = "end-systole" if patient == before else "end-diastole"
        before = patient
        group = GROUPS[(int(patient.removeprefix("patient")) - 1) // 20]
        found.append(Frame(name, patient, group, phase))
    return found


@cache
def study_frames(study: str, data: Path = SHARED) -> tuple[Frame, ...]:
    """All frames of a study, in order of name."""
    folder = data / STUDIES[study].folder / "images"
    names = [file.name.removesuffix(".nii.gz") for file in sorted(folder.glob("*.nii.gz"))]
    if study != "acdc":
        return tuple(Frame(name, name) for name in names)
    return tuple(frames([name for name in names if not name.startswith(AGAIN)]))


def learnt(base: Base, among: Sequence[Frame]) -> tuple[list[Frame], Split]:
    """(frames of the kind that a base learns from, the split of their patients)."""
    own = [
        frame
        for frame in among
        if (not base.groups or frame.group in base.groups)
        and (not base.phases or frame.phase in base.phases)
    ]
    patients = sorted({frame.patient for frame in own})
    return own, split_patients(patients, 0, base.test, base.tuning)


def shifted_split(base: Base, among: Sequence[Frame]) -> tuple[list[Frame], Split]:
    """(frames of the other kind, the split of their patients into tuning and test). A patient whose
    other frames the base knows stays in the part of those frames."""
    own, split = learnt(base, among)
    others = [frame for frame in among if frame not in own]
    if base.phases:
        return others, replace(split, train=())
    strangers = sorted({frame.patient for frame in others})
    return others, split_patients(strangers, 0, 0.75, 0.25)


def by_part(
    study: str, chosen: Sequence[Frame], split: Split, change: str | None = None
) -> dict[Part, list[Sample]]:
    """Samples of the tuning and of the test patients."""
    return {
        part: [Sample(study, f, change) for f in chosen if f.patient in getattr(split, part)]
        for part in ("tuning", "test")
    }


def alternating(chosen: Sequence[Frame], offset: int = 0) -> list[Frame]:
    """One frame of each patient, alternating between the phases."""
    patients = sorted({frame.patient for frame in chosen})
    found = []
    for number, patient in enumerate(patients):
        own = [frame for frame in chosen if frame.patient == patient]
        found.append(own[(number + offset) % len(own)])
    return found


def domains(data: Path = SHARED) -> dict[str, Domain]:
    """The domains of the suite."""
    acdc, abdomen = study_frames("acdc", data), study_frames("chaos-t2", data)
    shipped = shipped_split()
    found = []
    for number, change in enumerate(CHANGES):
        scans = by_part("acdc", acdc, shipped, change)
        # A test frame comes under two of the changes, a tuning frame (there are few) under all.
        single: dict[Part, list[Sample]] = {
            "tuning": by_part("acdc", alternating(acdc, number), shipped, change)["tuning"],
            "test": [
                s
                for i, s in enumerate(scans["test"])
                if number in (i % len(CHANGES), (i + 2) % len(CHANGES))
            ],
        }
        usual = by_part("acdc", acdc, shipped)
        native = f"all-{change}"
        found.append(Domain(change, "cardiac-cine", scans, usual, single, native=native))
    for name, base, native in (
        ("disease", "dilated-infarcted", None),
        ("to end-systole", "end-diastole", "end-systole"),
        ("to end-diastole", "end-systole", "end-diastole"),
    ):
        own, split = learnt(_trained(base), acdc)
        others, apart = shifted_split(_trained(base), acdc)
        scans = by_part("acdc", alternating(others), apart)
        usual = by_part("acdc", own, split)
        found.append(Domain(name, base, scans, usual, scans, native=native))
    for name, base in (("right kidney", "no-right-kidney"), ("spleen", "no-spleen")):
        own, split = learnt(_trained(base), abdomen)
        scans = by_part("chaos-t2", own, split)
        found.append(Domain(name, base, scans, scans, scans, _trained(base).without))
    return {domain.name: domain for domain in found}


def shipped_split() -> Split:
    """The split of patients of the shipped `cardiac-cine`."""
    card = read_card(find_model("cardiac-cine"))
    return Split(**{part: tuple(patients) for part, patients in card.split.items()})


def _trained(name: str) -> Base:
    base = BASES[name]
    assert base is not None
    return base


def read(sample: Sample, card: ModelCard, data: Path = SHARED) -> Scan:
    """Read and change a scan."""
    folder, file = data / STUDIES[sample.study].folder, f"{sample.frame.name}.nii.gz"
    volume = read_volume(folder / "images" / file)
    axis = slicing_axis(volume, card.slicing)
    arrays = [np.asarray(volume.data), _labels(folder / "labels" / file)]
    if (folder / "scribbles").is_dir():
        arrays.append(_labels(folder / "scribbles" / file))
    arrays = _as_sampled(sample, arrays, axis)
    scribbles = arrays[2] if len(arrays) > 2 else None
    return Scan(sample, arrays[0], volume.grid, axis, arrays[1], scribbles)


def _as_sampled(sample: Sample, arrays: Sequence[Array], axis: int) -> list[Array]:
    """Scan, labels and scribbles after the sample's change."""
    if not sample.change:
        return list(arrays)
    seed = zlib.crc32(sample.name.encode())
    stacks = [np.moveaxis(array, axis, 0) for array in arrays]
    stacks = changed(sample.change, stacks, seed, [0, 0, UNMARKED])
    return [np.ascontiguousarray(np.moveaxis(stack, 0, axis)) for stack in stacks]


def _labels(file: Path) -> Array:
    return np.asarray(read_volume(file).data).astype(np.uint8)


@dataclass(frozen=True)
class Without:
    """Files of a scan, with one structure removed from the labels."""

    files: ScanFiles
    structure: int

    @property
    def name(self) -> str:
        return self.files.name

    def read_image(self) -> Volume:
        return self.files.read_image()

    def read_labels(self) -> LabelFile:
        labels = self.files.read_labels()
        volume = labels.volume
        data = np.where(volume.data == self.structure, 0, volume.data).astype(volume.data.dtype)
        return replace(labels, volume=replace(volume, data=data))


@dataclass(frozen=True)
class Changed:
    """Files of a scan, with the change of a sample applied."""

    files: ScanFiles
    sample: Sample

    @property
    def name(self) -> str:
        return self.sample.name

    def read_image(self) -> Volume:
        volume = self.files.read_image()
        scan = _as_sampled(self.sample, [volume.data], self._axis(volume))[0]
        return replace(volume, data=scan)

    def read_labels(self) -> LabelFile:
        labels = self.files.read_labels()
        volume = labels.volume
        # `changed` needs a scan beside the labels; its values do not matter.
        stacks = _as_sampled(self.sample, [volume.data, volume.data], self._axis(volume))
        return replace(labels, volume=replace(volume, data=stacks[1]))

    def _axis(self, volume: Volume) -> int:
        return slicing_axis(volume, STUDIES[self.sample.study].slicing)


def training_dataset(base: Base, data: Path = SHARED) -> tuple[Dataset, Split]:
    """The dataset and split of a base. Its tuning and test patients are both held out as test."""
    study = STUDIES[base.study]
    own, split = learnt(base, study_frames(base.study, data))
    if base.change:
        split = shipped_split()
    dataset = open_dataset(data / study.folder)
    who = {frame.name: frame.patient for frame in own}
    cases = [replace(c, patient=who[c.name]) for c in dataset.cases if c.name in who]
    names = dict(study.names)
    if base.without is not None:
        cases = [replace(case, files=Without(case.files, base.without)) for case in cases]
        del names[base.without]
    if base.change:
        samples = {f.name: Sample(base.study, f, base.change) for f in own}
        cases = [replace(c, files=Changed(c.files, samples[c.name])) for c in cases]
    patients = {case.patient: case.patient for case in cases}
    people = Patients(patients, {})
    # No epoch is picked by tuning patients, which are needed to compare settings later.
    held_out = tuple(sorted((*split.tuning, *split.test)))
    return (
        replace(dataset, cases=tuple(cases), labels=LabelSet.from_names(names), people=people),
        Split(split.train, (), held_out),
    )
