"""Read scans and masks of any format."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from l2gnet_core.errors import InputError
from l2gnet_core.files.formats import (
    DICOM,
    OTHERS,
    SUPPORTED,
    FormatModule,
    format_of,
    stem_of,
    suffix_of,
)
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.values import as_labels
from l2gnet_core.scans.volume import Volume


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A mask and its label text.

    volume: its data is uint8 or uint16, (z, y, x) or (t, z, y, x).
    names, colors: label id → name and → "#rrggbb", as far as the file has them.
    """

    volume: Volume
    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, str] = field(default_factory=dict)


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a scan.

    Returns data in (z, y, x) or (t, z, y, x) and its geometry in mm.
    Raises InputError, one sentence, if it cannot be read.
    """
    return read_any(path)[0]


def read_labels(path: str | os.PathLike[str]) -> LabelFile:
    """Read a mask with the names and colours that it has.

    Raises InputError, also for values other than whole numbers from 0 to 65535.
    """
    volume, text = read_any(path, mask=True)
    labels = as_labels(volume.data, Path(path).name)
    return LabelFile(
        volume.grid.volume(labels, volume.warnings), dict(text.names), dict(text.colors)
    )


def read_any(path: str | os.PathLike[str], mask: bool = False) -> tuple[Volume, LabelText]:
    """Read a scan or a mask, (z, y, x) or (t, z, y, x), and its label text, which may be empty.

    mask: read it as a mask, in which values that are not finite are background.
    Raises InputError, one sentence.
    """
    path = Path(path)
    found = _readable(path)
    try:
        volume, text = found.read(path, mask)
    except MemoryError as error:
        raise InputError(f"{path.name} does not fit into this computer's memory.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    return replace(volume, name=volume.name or stem_of(path)), text


def read_label_text(path: Path) -> LabelText:
    """The label text of a file, without reading its voxels where possible; empty for a scan.

    Raises InputError, one sentence.
    """
    found = _readable(path)
    try:
        return found.label_text(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _readable(path: Path) -> FormatModule:
    """The module that reads a file. Raises InputError if the file is missing, empty, not fetched or
    of another format."""
    found = format_of(path)
    if not path.exists():
        if path.is_symlink():
            raise InputError(
                f"{path} is a link to {os.readlink(path)}, which is not there: fetch that file, or "
                "take the link away."
            )
        raise InputError(f"There is no file {path}.")
    if path.is_dir():
        return DICOM.load()
    if found is None:
        kind, way_out = OTHERS.get(suffix_of(path), ("in a format not known here", "convert it"))
        raise InputError(f"{path.name} is {kind}; scans are read from {SUPPORTED}: {way_out}.")
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror or error}.") from error
    if not start:
        raise InputError(f"{path.name} is empty (0 bytes): copy or export it again.")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path.name} is a Git LFS pointer, not the scan itself: run git lfs pull first."
        )
    return found.load()
