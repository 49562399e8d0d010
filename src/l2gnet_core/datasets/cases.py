"""Cases on disk: the layout of a dataset, and which files are a scan and its labels."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from l2gnet_core.errors import InputError
from l2gnet_core.files import (
    LabelFile,
    but_for_case,
    by_stem,
    read_labels,
    read_volume,
    scans_in,
    stem_of,
    suffix_of,
)
from l2gnet_core.files.arrays import ArrayFiles, array_scans
from l2gnet_core.scans.labels import some
from l2gnet_core.scans.storage_order import fit_on, in_order_of
from l2gnet_core.scans.volume import Grid, Volume

_REORDERED = (
    "The labels are stored along other axes than the scan, or backwards, and are put in its order "
    "as their header says, voxel for voxel."
)
_PART = "The labels hold a part of the scan: what they leave out counts as background."

#: What may follow a patient's name in a file name: frames and phases of one examination. The
#: separator is needed: without it, "patient1" and "patient2" would lose "t1" and "t2" and be one.
_OF_ONE_EXAMINATION = r"[_-](frame|phase|time|timepoint|tp|ed|es|t|ses|session|visit)[_-]?\d*"
_FRAME = re.compile(rf"({_OF_ONE_EXAMINATION})+$", re.IGNORECASE)
#: Also days, sides and contrasts, which tell scans of one person apart. They count only after a
#: number, because they may be part of a patient's name, as in "abdomen_scan_01".
_EXAMINATION = re.compile(
    rf"({_OF_ONE_EXAMINATION}"
    r"|[_-](scan|run|pre|post|baseline|follow-?up)[_-]?\d?"
    r"|[_-](19|20)\d\d[_-]?[01]\d[_-]?[0-3]\d"
    r"|[_-](left|right|t[12]w|flair))+$",
    re.IGNORECASE,
)
#: The number of a contrast is not a patient's: "T2_scan_1" is not a scan of a patient "T2".
_CONTRAST = re.compile(r"(^|[_-])t[12]w?(?=[_-]|$)", re.IGNORECASE)
#: The Brain Imaging Data Structure (BIDS) puts the patient before session, run and contrast.
_BIDS = re.compile(r"sub-[a-z0-9]+(?=_|$)", re.IGNORECASE)
_CHANNEL = re.compile(r"_\d{4}$")

Part = Literal["train", "tuning", "test"]
PARTS: tuple[Part, ...] = ("train", "tuning", "test")
#: Names of folders of arrays that hold out scans; others, such as train_npz, are split.
_HELD_OUT: dict[Part, re.Pattern[str]] = {
    "test": re.compile("test", re.IGNORECASE),
    "tuning": re.compile("(^|_)val", re.IGNORECASE),
}


class ScanFiles(Protocol):
    """One scan and its labels, however they are stored."""

    @property
    def name(self) -> str:
        """What messages call the scan."""

    def read_image(self) -> Volume:
        """The scan, (z,y,x) or (t,z,y,x). Raises InputError, one sentence."""

    def read_labels(self) -> LabelFile:
        """The labels on their own grid, with the names that their file gives. Raises InputError,
        one sentence."""


@dataclass(frozen=True)
class FilePair:
    """A scan and its labels, each in a file of its own."""

    image: Path
    labels: Path

    @property
    def name(self) -> str:
        """Folder and file name of the scan."""
        return f"{self.image.parent.name}/{self.image.name}"

    def read_image(self) -> Volume:
        """The scan, (z,y,x) or (t,z,y,x). Raises InputError."""
        return read_volume(self.image)

    def read_labels(self) -> LabelFile:
        """The labels on their own grid, with the names that their file gives. Raises InputError."""
        return read_labels(self.labels)


def patient_in(name: str) -> str:
    """The patient in the name of a scan: "patient001" in "patient001_frame01", "P01" in "P01_post",
    "sub-07" in "sub-07_ses-2_T1w"."""
    subject = _BIDS.match(name)
    if subject:
        return subject[0]
    numbered = _EXAMINATION.sub("", name)
    if re.search(r"\d", _CONTRAST.sub("", numbered)):
        return numbered
    return _FRAME.sub("", name)


@dataclass(frozen=True)
class Case:
    """One scan and its labels.

    patient: all cases of a patient are in one part of a split. part: of the split, if the dataset's
    own folders define it. grid: of the scan; None until it is examined.
    """

    name: str
    patient: str
    files: ScanFiles
    part: Part | None = None
    grid: Grid | None = field(default=None, compare=False, repr=False)

    @classmethod
    def named(cls, name: str, files: ScanFiles, part: Part | None = None) -> Case:
        """A case whose patient is taken from its name."""
        return cls(name, patient_in(name), files, part)

    def read(self) -> tuple[Volume, LabelFile]:
        """The scan and its labels on the scan's voxels. Raises InputError, one sentence."""
        scan, stored = self.files.read_image(), self.files.read_labels()
        labels = in_order_of(scan.grid, stored.volume)
        if fit := fit_on(stored.volume.grid, scan.grid):
            part = fit.leaves_out(stored.volume.shape, scan.shape)
            told = [_REORDERED] * fit.turned + [_PART] * part
            labels = replace(labels, warnings=(*labels.warnings, *told))
        return scan, replace(stored, volume=labels)


@dataclass(frozen=True)
class Patients:
    """The patients of a dataset.

    names: patient by each name that files give them; names that share an identical scan are one
    patient. held_out: part of the split by patient, where the dataset's own folders say it.
    """

    names: Mapping[str, str]
    held_out: Mapping[str, Part]

    def known(self, name: str) -> str:
        """The patient of this name, which may also be that of one of the patient's scans."""
        return name if name in self.names else patient_in(name)


@dataclass(frozen=True)
class Finding:
    """One sentence about a dataset.

    kind: an "error" stops training, a "warning" may be intended, a "note" is good to know.
    case: the scan that the sentence is about; empty if it is about the whole dataset.
    code: the fault of a case, equal for all cases that have it; empty for the whole dataset.
    """

    kind: Literal["error", "warning", "note"]
    case: str
    sentence: str
    code: str = ""


#: What nnU-Net appends to a case's name for its first channel.
FIRST_CHANNEL = "_0000"


@dataclass(frozen=True)
class Layout:
    """Folders of a dataset: of scans, and of labels. channel: a suffix that only the scans' names
    have. part: of the split."""

    images: str
    labels: str
    channel: str = ""
    part: Part | None = None


#: The plain layout, and nnU-Net's (Isensee et al., Nature Methods 2021) for one channel.
LAYOUTS = (
    Layout("images", "labels"),
    Layout("imagesTr", "labelsTr", FIRST_CHANNEL),
    Layout("imagesTs", "labelsTs", FIRST_CHANNEL, "test"),
)


def scan_folders(dataset: Path) -> list[Path]:
    """The folders inside a dataset's that hold its scans and labels; none if it is no folder."""
    named = {name for layout in LAYOUTS for name in (layout.images, layout.labels)}
    inside = [path for path in dataset.iterdir() if path.is_dir()] if dataset.is_dir() else []
    return [path for path in inside if path.name in named or array_scans(path)[0]]


def is_first_channel(case: Case) -> bool:
    """Is the scan in a file that nnU-Net names as the first channel?"""
    files = case.files
    return isinstance(files, FilePair) and stem_of(files.image) == case.name + FIRST_CHANNEL


def find_cases(folder: Path) -> tuple[list[Case], list[Finding]]:
    """The cases of a dataset folder, sorted by name, and what is wrong with its files.

    Raises InputError if the folder has no known layout.
    """
    if not folder.is_dir():
        what = "that is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"Expected a dataset in {folder}, but {what}; name the dataset's folder.")
    cases: list[Case] = []
    findings: list[Finding] = []
    known = [x for x in LAYOUTS if (folder / x.images).is_dir() and (folder / x.labels).is_dir()]
    # Called once for each folder, because it reads all headers of DICOM series.
    scans = [scans_in(folder / layout.images) for layout in known]
    if known and not any(scans):
        raise InputError(_no_scans(folder / known[0].images))
    for layout, files in zip(known, scans, strict=True):
        found, problems = _pairs(folder, layout, files)
        cases += found
        findings += [Finding("error", "", sentence) for sentence in problems]
    if not known:
        cases, findings = _array_cases(folder)
        if not cases:
            _require_both(folder)
            raise InputError(
                f"Expected a dataset folder with 'images' and 'labels' inside (or nnU-Net's "
                f"'imagesTr' and 'labelsTr', or TransUNet's .npz and .h5 files), but {folder} has "
                "none of these; put scans and label files of the same name into these two folders."
            )
    return sorted(cases, key=lambda case: case.name), findings


def _require_both(folder: Path) -> None:
    """Raise InputError if a dataset has a folder for scans but none for labels, or vice versa."""
    for layout in LAYOUTS:
        there = [name for name in (layout.images, layout.labels) if (folder / name).is_dir()]
        for name in {layout.images, layout.labels}.difference(there) if there else ():
            raise InputError(
                f"Expected '{layout.images}' and '{layout.labels}' in {folder}, but there is no "
                f"'{name}'; put files of the same names as in '{there[0]}' there."
            )


def _no_scans(folder: Path) -> str:
    """A sentence about a folder without scans: what it holds instead, and what to do."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = [path.name for path in inside if path.is_dir()]
    kinds = sorted({suffix_of(path) or path.name for path in inside if path.is_file()})
    if kinds:
        there = f"holds files that are not read as scans ({some(kinds)})"
        advice = "save the scans as NIfTI or in another format that is read"
    elif folders:
        there = f"holds folders alone ({some(sorted(folders))}), none of them a DICOM series"
        advice = "put the scans themselves there"
    else:
        there, advice = "is empty", "put scans there"
    return f"Expected scans in {folder}, but it {there}; {advice}."


def _pairs(folder: Path, layout: Layout, scans: list[Path]) -> tuple[list[Case], list[str]]:
    """Cases, and a sentence for each file that has no partner or several."""
    images, labels = folder / layout.images, folder / layout.labels
    scan_files, twice = by_stem(scans)
    label_files, labelled_twice = by_stem(scans_in(labels))
    problems = [
        f"Expected one file of a name in {place}, but there are {first.name} and {other.name}; "
        "take one out."
        for place, clashes in ((images, twice), (labels, labelled_twice))
        for first, other in clashes
    ]
    # Labels that have the very name of a scan are that scan's.
    alone = [x for x in label_files if not {x, x + layout.channel} & scan_files.keys()]
    cases: list[Case] = []
    told: set[str] = set()
    for stem, path in scan_files.items():
        name = stem
        # The Medical Segmentation Decathlon has nnU-Net's folders, but no channel suffixes.
        if layout.channel and stem not in label_files:
            name = stem.removesuffix(layout.channel)
            if name == stem and _CHANNEL.search(stem):
                problems.append(
                    f"Expected scans of one channel (names that end in {layout.channel}), but "
                    f"{path.name} is of another; take the other channels out."
                )
                continue
        if name not in label_files and (other := but_for_case(name, alone)):
            told.add(other)
            problems.append(
                f"Expected labels for every scan under its own name, but {path.name} and "
                f"{label_files[other].name} differ in upper and lower case; rename one of them."
            )
            continue
        if name not in label_files:
            problems.append(
                f"Expected labels for every scan, but {path.name} has none in {labels}; "
                "add the file or take the scan out."
            )
            continue
        cases.append(Case.named(name, FilePair(path, label_files.pop(name)), layout.part))
    for name, path in label_files.items():
        if name in told:
            continue
        # Where there are files, subfolders are not searched for DICOM series.
        if (images / name).is_dir():
            problems.append(
                f"Expected scans of one kind in {images}, but {name} is a folder beside files, "
                "which is not read as a DICOM series there; save it as a file, or all as folders."
            )
            continue
        problems.append(
            f"Expected a scan for every label file, but {path.name} has none in {images}; "
            "add the scan or take the labels out."
        )
    return cases, problems


def _array_cases(folder: Path) -> tuple[list[Case], list[Finding]]:
    """Cases in .npz and .h5 files, in the folder itself or in subfolders named after their part."""
    found: dict[tuple[Part | None, str], list[ArrayFiles]] = defaultdict(list)
    findings: list[Finding] = []
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *inside):
        scans, odd = array_scans(place)
        findings += [Finding("warning", "", sentence) for sentence in odd]
        for name, files in scans.items():
            part = None if place == folder else _part_of(place.name)
            found[part, name] += files
    cases, twice = [], []
    for (part, name), files in found.items():
        # SSL4MIS stores each scan whole and in slices; the whole one is read.
        whole = [scan for scan in files if not scan.sliced] or files
        if len(whole) > 1:
            findings.append(
                Finding(
                    "error",
                    "",
                    f"Expected one scan of a name, but there are {whole[0].paths[0]} and "
                    f"{whole[1].paths[0]}; take one out.",
                )
            )
        elif len(files) > 1:
            twice.append(name)
        cases.append(Case.named(name, whole[0], part))
    if twice:
        findings.append(
            Finding("note", "", f"{some(twice)} are there whole and in slices; the whole are read.")
        )
    return cases, findings


def _part_of(folder: str) -> Part | None:
    return next((part for part, name in _HELD_OUT.items() if name.search(folder)), None)
