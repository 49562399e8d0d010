"""Which scans a folder holds."""

from __future__ import annotations

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
    """Scans of a folder by name: files that can be read, one of each pair of header and voxels, and
    no hidden ones (macOS: ._scan.nii). Where there are no others, those of the DICOM series in it
    or in its folders: of each the folder, if it holds no other, or else one of its files. Links
    that lead nowhere are among them, for reading them says so: a scan that was not fetched is not
    to be passed over.

    Errors: InputError where both lie side by side, for a mask among slices is no scan.
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
        return scans
    # Not before it is needed, as the modules of all formats.
    from l2gnet_core.files.dicom_series import scans_below

    series = scans_below(folder)
    if all(folder in path.parents and path.is_dir() for path in series):
        # Else they are slices.
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
