"""Which DICOM files form one scan, according to their headers."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2gnet_core.errors import InputError
from l2gnet_core.files.dicom_files import is_dicom
from l2gnet_core.files.dicom_header import DicomFile, Plane, dicom_header_of

# Levels of folders below the named one: patient, study, series, and one to spare.
_DEEPEST = 4
# Rounding: difference of direction cosines, and share of a pixel's size.
_ALIKE = 0.01


@dataclass(frozen=True, eq=False)
class Series:
    """Images that form one scan.

    title: number and description of the series, as the scanner's console lists it, else a file's
    name. alone: is there no other series in its folder? shape: rows and columns. planes: unordered.
    unread: files beside it that may be damaged slices, and links to missing files.
    """

    title: str
    alone: bool
    shape: tuple[int, int]
    planes: tuple[Plane, ...]
    unread: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, sorted by name."""
        return tuple(sorted({plane.path for plane in self.planes}))

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.planes[0].path.parent

    @property
    def name(self) -> str:
        """What the scan is called: its folder's name, or its title if others lie there too."""
        return (self.alone and self.folder.resolve().name) or self.title


def series_below(folder: Path) -> list[Series]:
    """The series of a folder and of its subfolders."""
    found: list[Series] = []
    for place, folders, _ in os.walk(folder, followlinks=True):
        deep = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(n for n in folders if not n.startswith(".")) if deep < _DEEPEST else []
        found += _series_in(Path(place))
    return found


def scans_below(folder: Path) -> list[Path]:
    """A path for each series of a folder and of its subfolders: the outermost folder that holds
    this series alone, or else one of its files."""
    found = series_below(folder)
    inside = Counter(place for one in found for place in _places(one, folder))
    paths = []
    for one in found:
        alone = [place for place in _places(one, folder) if inside[place] == 1]
        paths.append(alone[0] if alone else one.files[0])
    return sorted(paths)


def _places(series: Series, folder: Path) -> list[Path]:
    """The subfolders of `folder` that hold a series, outermost first; `folder` if none does."""
    parts = series.folder.relative_to(folder).parts
    return [folder.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)] or [folder]


def series_of(path: Path) -> Series:
    """The series that a folder holds, or that a file forms with the files beside it.

    Raises InputError, one sentence.
    """
    if path.is_dir():
        found, what = series_below(path), f"the folder {path}"
        if not found:
            raise InputError(
                f"Expected a scan, but the folder {path} holds no DICOM images; name a file, or "
                "the folder of a DICOM series."
            )
    else:
        found, what = [one for one in _series_in(path.parent, path) if path in one.files], path.name
        if not found:
            raise InputError(_why_none(path))
    if len(found) > 1:
        files = dict.fromkeys(str(one.files[0].relative_to(path.parent)) for one in found)
        some = ", ".join(list(files)[:5]) + (", …" if len(files) > 5 else "")
        way_out = f"name a file of the one to read ({some})"
        if len(files) == 1:
            way_out = "it is a localizer, perhaps; name a file of another series"
        raise InputError(
            f"Expected one scan, but {what} holds {len(found)} DICOM series; {way_out}."
        )
    return found[0]


def _series_in(folder: Path, named: Path | None = None) -> list[Series]:
    """The series among the files of one folder. Of several copies of an image, the named file is
    taken, or else the first by name."""
    groups: list[tuple[Any, DicomFile, list[Plane]]] = []
    unread: list[Path] = []
    seen = set()
    for path in sorted(folder.iterdir(), key=lambda path: (path != named, _natural(path.name))):
        if path.name.startswith(".") and path != named:
            continue
        if not path.is_file():
            if path.is_symlink() and not path.exists():
                unread.append(path)  # it may not be fetched yet
            continue
        file = dicom_header_of(path)
        if file is None or file.no_scan:
            # An empty file may be a failed copy.
            if file.cut if file else is_dicom(path) or not path.stat().st_size:
                unread.append(path)
            continue
        # The UID alone does not identify an image: careless converters give all slices one.
        first = file.planes[0]
        place = () if first.position is None else tuple(first.position)
        copy = (file.uid, place, first.order)
        if file.uid and copy in seen:
            continue
        seen.add(copy)
        # A file of many frames is a scan of its own.
        own = path if len(file.planes) > 1 else None
        for plane in file.planes:
            key = (file.series, file.shape, file.kinds, own)
            for other, _, members in groups:
                if other == key and _one_stack(members[0], plane):
                    members.append(plane)
                    break
            else:
                groups.append((key, file, [plane]))
    titles = Counter(first.title for _, first, _ in groups)
    return [
        Series(
            # Images of different kinds can share a number and description.
            title=" ".join([first.title, *(first.kinds if titles[first.title] > 1 else ())]),
            alone=len(groups) == 1,
            shape=first.shape,
            planes=tuple(planes),
            unread=tuple(unread),
        )
        for _, first, planes in groups
    ]


def _natural(name: str) -> list[tuple[str, int]]:
    """Sorts IM2 before IM10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _one_stack(a: Plane, b: Plane) -> bool:
    """Can two planes be slices of one scan, by direction and pixel size?"""
    if a.along is None or b.along is None:
        turned = a.along is not b.along
    else:
        turned = bool(np.abs(a.along - b.along).max() > _ALIKE)
    return not turned and np.allclose(a.pixel, b.pixel, rtol=_ALIKE)


def _why_none(path: Path) -> str:
    """Why a file is part of no series, as a sentence."""
    file = dicom_header_of(path)
    if file is None:
        return f"{path.name} is cut short, damaged or not a DICOM file: copy or export it again."
    return f"{path.name} {file.no_scan}."
