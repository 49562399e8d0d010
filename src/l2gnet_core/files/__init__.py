"""Reading scans and masks, writing masks: one small module a format, found by the file's suffix.

A format module offers `read(path, mask) -> (Volume, LabelText)`, `label_text(path) -> LabelText`
and, if it writes masks, `write(path, labels, like, text) -> None`; adding one is a line in FORMATS.
DICOM, whose files often have no suffix, is also told by how they begin, and a folder of a series
stands for a scan.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from l2gnet_core.errors import InputError
from l2gnet_core.files import dicom_files
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.volume import Grid, Volume, as_read_back

__all__ = [
    "DICOM",
    "FORMATS",
    "LabelFile",
    "LabelText",
    "format_of",
    "is_supported",
    "read_any",
    "read_label_text",
    "read_labels",
    "read_volume",
    "scans_in",
    "stem_of",
    "suffix_of",
    "write_labels",
]


class _FormatModule(Protocol):
    def read(self, path: Path, mask: bool) -> tuple[Volume, LabelText]: ...

    def label_text(self, path: Path) -> LabelText: ...

    def write(
        self, path: Path, labels: npt.NDArray[Any], like: Volume | Grid, text: LabelText
    ) -> None: ...


@dataclass(frozen=True)
class Format:
    """A file format: its suffixes, the module that knows it, which suffixes can be written."""

    name: str
    module: str
    suffixes: tuple[str, ...]
    writes: tuple[str, ...] = ()

    def load(self) -> _FormatModule:
        """Import the module only now: nibabel and tifffile cost time the command line may spare."""
        return cast(_FormatModule, import_module(self.module))


DICOM = Format("DICOM", "l2gnet_core.files.dicom", dicom_files.SUFFIXES)
FORMATS = (
    Format(
        "NIfTI",
        "l2gnet_core.files.nifti",
        (".nii.gz", ".nii", ".hdr.gz", ".img.gz", ".hdr", ".img"),
        (".nii.gz", ".nii"),
    ),
    Format(
        "TIFF",
        "l2gnet_core.files.tiff",
        (".ome.tiff", ".ome.tif", ".tiff", ".tif"),
        (".ome.tiff", ".ome.tif", ".tiff", ".tif"),
    ),
    DICOM,
    Format(
        "NRRD and MetaImage",
        "l2gnet_core.files.itk",
        (".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd"),
    ),
    Format(
        "FreeSurfer, AFNI, MINC and PAR/REC",
        "l2gnet_core.files.neuroimaging",
        (".mgz", ".mgh", ".head", ".brik", ".brik.gz", ".mnc", ".par", ".rec"),
    ),
)

#: Suffixes of masks that can be written.
WRITABLE = tuple(suffix for format in FORMATS for suffix in format.writes)

# What people will try, and what gets them on: formats that are not read.
_OTHERS = {
    ".seg": ("a segmentation file of another tool", "export it as NIfTI"),
    ".gii": ("a surface (GIFTI) file", "open the volume it was made from"),
    ".npz": ("an array file of a training dataset", "save the scan as NIfTI"),
    ".h5": ("an array file of a training dataset", "save the scan as NIfTI"),
    ".npy.h5": ("an array file of a training dataset", "save the scan as NIfTI"),
    ".hdf5": ("an array file of a training dataset", "save the scan as NIfTI"),
    ".png": ("a picture", "save it as TIFF"),
    ".jpg": ("a picture", "save it as TIFF"),
    ".jpeg": ("a picture", "save it as TIFF"),
}

# Suffixes of files that hold a header alone, and of those with the voxels that belong to one.
_HEADERS = (".hdr", ".hdr.gz", ".head", ".par")
_VOXELS = (".img", ".img.gz", ".brik", ".brik.gz", ".rec")

_KNOWN = (*(suffix for format in FORMATS for suffix in format.suffixes), *_OTHERS)

SUPPORTED = "NIfTI (.nii, .nii.gz), DICOM, NRRD, MetaImage (.mha), TIFF and neuroimaging files"


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A mask as a file gives it.

    volume: its data is uint8 or uint16, (z, y, x) or (t, z, y, x).
    names, colors: label id → name and → "#rrggbb", as far as the file carries them.
    """

    volume: Volume
    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, str] = field(default_factory=dict)


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The whole known suffix of a path in lower case (".nii.gz"), else the last one, or ""."""
    name = Path(path).name.lower()
    fitting = [s for s in _KNOWN if name.endswith(s) and name != s]
    return max(fitting, key=len) if fitting else Path(name).suffix


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a scan.

    Returns data in (z, y, x) or (t, z, y, x) and its geometry in mm.
    Errors: InputError, one sentence, for whatever cannot be read.
    """
    return read_any(path)[0]


def read_labels(path: str | os.PathLike[str]) -> LabelFile:
    """Read a mask with the names and colours it carries.

    Errors: InputError where values are not whole numbers between 0 and 65535.
    """
    volume, text = read_any(path, mask=True)
    labels = as_labels(volume.data, Path(path).name)
    return LabelFile(
        volume.grid.volume(labels, volume.warnings), dict(text.names), dict(text.colors)
    )


def write_labels(
    path: str | os.PathLike[str],
    labels: npt.NDArray[Any],
    like: Volume | Grid,
    label_names: Mapping[int, str] | None = None,
    colors: Mapping[int, str] | None = None,
) -> Path:
    """Write a mask into the grid of the scan it belongs to, read it back and compare.

    labels: whole numbers 0…65535 in like's shape; stored as uint8, or uint16 for ids above 255.
    label_names, colors: id → name, id → "#rrggbb"; they travel in the file.
    Returns the path written. The suffix chooses the format. A file already there is replaced
    only by a complete, checked one.
    Errors: InputError for what cannot be written, OutputError where writing failed.
    """
    path = Path(path)
    found = format_of(path)
    if found is None or suffix_of(path) not in found.writes:
        writable = ", ".join(s for f in FORMATS for s in f.writes)
        raise InputError(f"A mask is saved as one of {writable}, not as {path.name}.")
    if tuple(labels.shape) != like.shape:
        raise InputError(
            f"A mask for {like.name or 'this scan'} has the shape {like.shape}, "
            f"not {tuple(labels.shape)}."
        )
    text = LabelText.of(label_names, colors)
    labels, like = as_read_back(as_labels(np.asarray(labels), "The mask"), like)
    found.load().write(path, labels, like, text)
    return path


def as_labels(data: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Whole numbers as uint8, or uint16 where an id is above 255; never renumbered.

    Errors: InputError for fractions, negative or too big ids.
    """
    if data.dtype == np.uint8 or data.dtype == np.bool_:
        return data.astype(np.uint8, copy=False)
    if data.dtype.kind not in "iuf":
        raise InputError(
            f"{what} holds {data.dtype} values where whole label numbers are expected."
        )
    low, high = data.min(), data.max()
    if low < 0 or high > 65535 or not np.isfinite(high):
        raise InputError(
            f"{what} holds values from {low:g} to {high:g} where label numbers from 0 to 65535 "
            "are expected: choose a mask, not a scan."
        )
    if data.dtype.kind == "f" and not np.array_equal(data, np.rint(data)):
        raise InputError(
            f"{what} holds fractions where whole label numbers are expected: "
            "choose a mask, not a scan."
        )
    return data.astype(np.uint8 if high <= 255 else np.uint16, copy=False)


def format_of(path: Path) -> Format | None:
    """The format of a file as its name tells, or its first bytes; a folder's is DICOM."""
    suffix = suffix_of(path)
    known = next((f for f in FORMATS if suffix in f.suffixes), None)
    if path.is_dir() or (known is None and dicom_files.is_dicom(path)):
        return DICOM
    return known


def is_supported(path: str | os.PathLike[str]) -> bool:
    """Can the path be read, as far as its name and its first bytes tell? A folder may hold a DICOM
    series."""
    return format_of(Path(path)) is not None


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
    headers = {stem_of(p) for p in found if suffix_of(p) in _HEADERS}
    scans = sorted(p for p in found if not (suffix_of(p) in _VOXELS and stem_of(p) in headers))
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


def stem_of(path: Path) -> str:
    """The file's name without its whole suffix: how scans, labels and masks are matched, and what a
    scan is called."""
    suffix = suffix_of(path)
    if path.is_dir() or suffix not in _KNOWN:
        # What follows the last dot of a DICOM series' number is none.
        return path.name
    return path.name[: len(path.name) - len(suffix)]


def read_any(path: str | os.PathLike[str], mask: bool = False) -> tuple[Volume, LabelText]:
    """Read a file that may be a scan or a mask, with the label text it may carry; mask: it is one,
    and what is no number in it is background.

    Errors: InputError, one sentence.
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
    """What a file says of its labels, without its voxels: nothing unless it is a mask.

    Errors: InputError, one sentence.
    """
    found = _readable(path)
    try:
        return found.label_text(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _readable(path: Path) -> _FormatModule:
    """The module for a file whose beginning says nothing against it. Errors: InputError."""
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
        kind, way_out = _OTHERS.get(suffix_of(path), ("in a format not known here", "convert it"))
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
