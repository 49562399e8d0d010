"""Cases on disk: which layout a dataset has, and which files are one scan and its labels."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from l2gnet_core.array_files import ArrayFiles, array_scans
from l2gnet_core.errors import InputError
from l2gnet_core.files import by_stem, read_labels, read_volume, scans_in, suffix_of
from l2gnet_core.storage_order import in_order_of
from l2gnet_core.volume import Grid, Volume

_REORDERED = (
    "The labels are stored along other axes than the scan, or backwards, and are put in its order "
    "as their header says, voxel for voxel."
)

#: What may follow a patient's identity in a file name: frames and phases of one examination. Only
#: after a separator, lest "patient1" and "patient2" lose their "t1" and "t2" and become one.
_OF_ONE_EXAMINATION = r"[_-](frame|phase|time|timepoint|tp|ed|es|t|ses|session|visit)[_-]?\d*"
_FRAME = re.compile(rf"({_OF_ONE_EXAMINATION})+$", re.IGNORECASE)
#: Besides, what else tells scans of one person apart: days, sides, contrasts. These words may also
#: be of a name without its number, as in "abdomen_scan_01": they count behind a number only.
_EXAMINATION = re.compile(
    rf"({_OF_ONE_EXAMINATION}"
    r"|[_-](scan|run|pre|post|baseline|follow-?up)[_-]?\d?"
    r"|[_-](19|20)\d\d[_-]?[01]\d[_-]?[0-3]\d"
    r"|[_-](left|right|t[12]w|flair))+$",
    re.IGNORECASE,
)
#: Its number is not a patient's: "T2_scan_1" is no scan of a patient "T2".
_CONTRAST = re.compile(r"(^|[_-])t[12]w?(?=[_-]|$)", re.IGNORECASE)
#: The Brain Imaging Data Structure names the patient first, then session, run and contrast.
_BIDS = re.compile(r"sub-[a-z0-9]+(?=_|$)", re.IGNORECASE)
_CHANNEL = re.compile(r"_\d{4}$")

Part = Literal["train", "tuning", "test"]
PARTS: tuple[Part, ...] = ("train", "tuning", "test")
#: Folders of arrays whose scans are held out; train_npz and the like are free to be split.
_HELD_OUT: dict[Part, re.Pattern[str]] = {
    "test": re.compile("test", re.IGNORECASE),
    "tuning": re.compile("(^|_)val", re.IGNORECASE),
}


class ScanFiles(Protocol):
    """One scan and its labels, however they are stored; `name` is what messages call them."""

    @property
    def name(self) -> str: ...

    def read_image(self) -> Volume: ...

    def read_labels(self) -> Volume: ...


@dataclass(frozen=True)
class FilePair:
    """A scan and its labels, each in a file of its own."""

    image: Path
    labels: Path

    @property
    def name(self) -> str:
        """Folder and file of the scan."""
        return f"{self.image.parent.name}/{self.image.name}"

    def read_image(self) -> Volume:
        """The scan. Errors: InputError."""
        return read_volume(self.image)

    def read_labels(self) -> Volume:
        """The labels. Errors: InputError."""
        return read_labels(self.labels).volume


def patient_in(name: str) -> str:
    """The patient that a name tells: "patient001_frame01" is of "patient001", "P01_post" of "P01",
    "sub-07_ses-2_T1w" of "sub-07"."""
    subject = _BIDS.match(name)
    if subject:
        return subject[0]
    numbered = _EXAMINATION.sub("", name)
    if re.search(r"\d", _CONTRAST.sub("", numbered)):
        return numbered
    return _FRAME.sub("", name)


@dataclass(frozen=True)
class Case:
    """One scan and its labels; cases of one `patient` never end up on two sides of a split.

    `part` is where the dataset's own folders put the case, None where they leave it open. `grid` is
    the scan's, once it was examined.
    """

    name: str
    patient: str
    files: ScanFiles
    part: Part | None = None
    grid: Grid | None = field(default=None, compare=False, repr=False)

    @classmethod
    def named(cls, name: str, files: ScanFiles, part: Part | None = None) -> Case:
        """A case whose patient its name tells."""
        return cls(name, patient_in(name), files, part)

    def read(self) -> tuple[Volume, Volume]:
        """The scan and its labels, these in its storage order. Errors: InputError, one sentence."""
        scan, stored = self.files.read_image(), self.files.read_labels()
        labels = in_order_of(scan.grid, stored)
        if labels is not stored:
            labels = replace(labels, warnings=(*labels.warnings, _REORDERED))
        return scan, labels


@dataclass(frozen=True)
class Patients:
    """Who is in a dataset.

    `names` maps each name that files give a patient to that patient: two names that share an
    identical scan are one patient. `held_out` is the part that the dataset's own folders put a
    patient into, for those of whom they say so.
    """

    names: Mapping[str, str]
    held_out: Mapping[str, Part]

    def known(self, name: str) -> str:
        """A name that an earlier version may have given a patient, as it is now."""
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


#: What nnU-Net adds to a case's name for its first channel.
FIRST_CHANNEL = "_0000"


@dataclass(frozen=True)
class Layout:
    """Where a dataset keeps scans and labels, what a scan's name has that its labels' lack, and
    which part of the split it is."""

    images: str
    labels: str
    channel: str = ""
    part: Part | None = None


#: The plain one, and nnU-Net's (Isensee et al., Nature Methods 2021) for one channel.
LAYOUTS = (
    Layout("images", "labels"),
    Layout("imagesTr", "labelsTr", FIRST_CHANNEL),
    Layout("imagesTs", "labelsTs", FIRST_CHANNEL, "test"),
)


def find_cases(folder: Path) -> tuple[list[Case], list[Finding]]:
    """The cases of a dataset folder in the order of their names, and what is wrong with its files.

    Raises InputError if the folder has no layout that is known.
    """
    if not folder.is_dir():
        what = "that is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"Expected a dataset in {folder}, but {what}; name the dataset's folder.")
    cases: list[Case] = []
    findings: list[Finding] = []
    known = [x for x in LAYOUTS if (folder / x.images).is_dir() and (folder / x.labels).is_dir()]
    # Once: of DICOM series all headers are read for it.
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
    """Raise InputError for a folder that has scans' folder alone, or labels'."""
    for layout in LAYOUTS:
        there = [name for name in (layout.images, layout.labels) if (folder / name).is_dir()]
        for name in {layout.images, layout.labels}.difference(there) if there else ():
            raise InputError(
                f"Expected '{layout.images}' and '{layout.labels}' in {folder}, but there is no "
                f"'{name}'; put files of the same names as in '{there[0]}' there."
            )


def _no_scans(folder: Path) -> str:
    """What to say of a folder for scans that has none: what is there instead, and what to do."""
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
    """Cases, and a sentence for every file that has no partner or more than one."""
    images, labels = folder / layout.images, folder / layout.labels
    scan_files, twice = by_stem(scans)
    label_files, labelled_twice = by_stem(scans_in(labels))
    problems = [
        f"Expected one file of a name in {place}, but there are {first.name} and {other.name}; "
        "take one out."
        for place, clashes in ((images, twice), (labels, labelled_twice))
        for first, other in clashes
    ]
    cases = []
    for stem, path in scan_files.items():
        name = stem
        # The Medical Segmentation Decathlon has nnU-Net's folders without its channels.
        if layout.channel and stem not in label_files:
            name = stem.removesuffix(layout.channel)
            if name == stem and _CHANNEL.search(stem):
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
        cases.append(Case.named(name, FilePair(path, label_files.pop(name)), layout.part))
    for name, path in label_files.items():
        # Beside files, folders are not looked into.
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
    """Scans in .npz and .h5 files, in the folder itself or in folders named after their part."""
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
        # SSL4MIS stores each scan whole and in slices.
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


def some(names: list[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
