"""Which files are DICOM files, told without pydicom, which other formats need not import."""

from __future__ import annotations

from pathlib import Path

#: Many DICOM files have no suffix at all.
SUFFIXES = (".dcm", ".dicom", ".ima")
_MAGIC_AT, _MAGIC = 128, b"DICM"


def is_dicom(path: Path) -> bool:
    """Is a file DICOM by its suffix, or by its first bytes?"""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False
