"""The file formats, recognised by a path's suffix or a file's first bytes.

A format has a module with the functions of `FormatModule` and an entry in FORMATS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast
from unicodedata import normalize

import numpy.typing as npt

from l2gnet_core.files import dicom_files
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.scans.volume import Grid, Volume


class FormatModule(Protocol):
    """The functions of a format's module; `write` only if the format can be written."""

    def read(self, path: Path, mask: bool) -> tuple[Volume, LabelText]:
        """Read a scan or a mask; see `read_any`. Raises InputError, OSError or MemoryError."""

    def label_text(self, path: Path) -> LabelText:
        """The label text alone; see `read_label_text`. Raises InputError or OSError."""

    def write(
        self, path: Path, labels: npt.NDArray[Any], like: Volume | Grid, text: LabelText
    ) -> None:
        """Write a mask in the grid of `like`, read it back and compare.

        labels: uint8 or uint16, (z,y,x) or (t,z,y,x). Raises InputError or OutputError.
        """


@dataclass(frozen=True)
class Format:
    """A file format: the module that reads it, its suffixes, and those that can be written."""

    name: str
    module: str
    suffixes: tuple[str, ...]
    writes: tuple[str, ...] = ()

    def load(self) -> FormatModule:
        """Import the module, not before it is needed: nibabel and tifffile load slowly."""
        return cast(FormatModule, import_module(self.module))


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

#: Formats that are not read although people try: what such a file is, and what to do.
OTHERS = {
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

#: Suffixes of files that hold only a header, and of the files with its voxels.
HEADER_SUFFIXES = (".hdr", ".hdr.gz", ".head", ".par")
VOXEL_SUFFIXES = (".img", ".img.gz", ".brik", ".brik.gz", ".rec")

#: All suffixes that files are known by, also those of files that are not read as scans.
SUFFIXES = (*(suffix for format in FORMATS for suffix in format.suffixes), *OTHERS)

#: What messages list as readable.
SUPPORTED = "NIfTI (.nii, .nii.gz), DICOM, NRRD, MetaImage (.mha), TIFF and neuroimaging files"


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The known suffix of a path in lower case (".nii.gz"), or else what follows its last dot."""
    name = Path(path).name.lower()
    fitting = [s for s in SUFFIXES if name.endswith(s) and name != s]
    return max(fitting, key=len) if fitting else Path(name).suffix


def stem_of(path: Path) -> str:
    """The file's name without its known suffix: scans are called by it, and matched with masks.

    Names that look the same are the same: an accent may be stored as part of its letter, or after
    it, as by macOS (Unicode's forms NFC and NFD); here it is part of the letter.
    """
    suffix = suffix_of(path)
    # The last part of a DICOM UID ("1.2.840") is no suffix.
    bare = path.is_dir() or suffix not in SUFFIXES
    return normalize("NFC", path.name if bare else path.name[: len(path.name) - len(suffix)])


def format_of(path: Path) -> Format | None:
    """The format of a file by its suffix, or else by its first bytes; DICOM for a folder."""
    suffix = suffix_of(path)
    known = next((f for f in FORMATS if suffix in f.suffixes), None)
    if path.is_dir() or (known is None and dicom_files.is_dicom(path)):
        return DICOM
    return known


def is_supported(path: str | os.PathLike[str]) -> bool:
    """Can the path be read, according to its suffix or first bytes? True for each folder, because
    it may hold a DICOM series."""
    return format_of(Path(path)) is not None
