"""Which scans a folder holds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from l2gnet_core.errors import InputError
from l2gnet_core.files.formats import (
    DICOM,
    HEADER_SUFFIXES,
    VOXEL_SUFFIXES,
    format_of,
    stem_of,
    suffix_of,
)


def scans_in(folder: Path) -> list[Path]:
    """The scans of a folder, sorted by name.

    These are the files that can be read, except hidden ones (macOS: ._scan.nii); of a pair of
    header and voxels, the header. If there are none, they are the DICOM series in the folder and
    its subfolders: for each its folder, if that holds no other, or else one of its files. Links to
    missing files are included: reading them raises, so that no scan is left out silently.

    Raises InputError where DICOM images lie beside other scans or in a folder beside them: one may
    be a mask, or another form of the other.
    """
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    broken = [path for path in inside if path.is_symlink() and not path.exists()]
    files = [*broken, *(path for path in inside if path.is_file())]
    formats = {path: format_of(path) for path in files}
    found = [path for path, known in formats.items() if known not in (None, DICOM)]
    headers = {stem_of(p) for p in found if suffix_of(p) in HEADER_SUFFIXES}
    scans = sorted(
        p for p in found if not (suffix_of(p) in VOXEL_SUFFIXES and stem_of(p) in headers)
    )
    if scans and DICOM in formats.values():
        raise InputError(
            f"Expected scans of one kind, but {folder} holds DICOM images and {scans[0].name} "
            "beside them; move one of them to another folder."
        )
    if scans:
        for below in sorted(path for path in inside if path.is_dir()):
            # Not `iterdir`, which raises for a folder that may not be read.
            names = next(os.walk(below), ("", [], []))[2]
            if any(format_of(below / name) is DICOM for name in names):
                raise InputError(
                    f"Expected scans of one kind, but {folder} holds {scans[0].name}, and DICOM "
                    f"images in {below.name}; move one of them, or name each scan."
                )
        return scans
    # As with all formats, its module is imported only when needed.
    from l2gnet_core.files.dicom_series import scans_below

    series = scans_below(folder)
    if all(folder in path.parents and path.is_dir() for path in series):
        # Beside loose DICOM slices, a broken link is one of the slices.
        series += [path for path in broken if not suffix_of(path) or formats[path] is not None]
    return sorted(series)


def by_stem(paths: Iterable[Path]) -> tuple[dict[str, Path], list[tuple[Path, Path]]]:
    """Files by `stem_of`, the first of each, and (first, other) for each stem that comes again."""
    files: dict[str, Path] = {}
    clashes = []
    for path in paths:
        first = files.setdefault(stem_of(path), path)
        if first is not path:
            clashes.append((first, path))
    return files, clashes


def but_for_case(name: str, names: Iterable[str]) -> str | None:
    """The first of some names that differs from a name in upper and lower case alone."""
    return next((one for one in names if one.casefold() == name.casefold()), None)
