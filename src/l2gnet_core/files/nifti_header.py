"""Read NIfTI headers (shape, offset of the voxels, label text) and make those of masks."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
from nibabel.nifti1 import Nifti1Extension, Nifti1Extensions, Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError
from nibabel.spm2analyze import Spm2AnalyzeHeader

from l2gnet_core.errors import InputError
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.scans.labels import hex_color
from l2gnet_core.scans.volume import Geometry

_MOST_EXTENSION = 16 << 20
_COMMENT = 6
_LABEL_INTENT = 1002

# nibabel logs each oddity that it mends to stderr; what matters to the user is in our warnings.
_quiet = logging.getLogger(__name__)
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True)
class NiftiSource:
    """What a writer needs to give a mask the grid of its image.

    header: the bytes of the file's header; None for Analyze, whose grid NIfTI cannot copy.
    endianness: "<" or ">". version: 1 or 2; 0 for Analyze.
    shape: the stored shape (x, y, …), with the axes of length 1 that the volume drops.
    """

    header: bytes | None
    endianness: str
    version: int
    shape: tuple[int, ...]


def read_header(name: str, raw: bytes, stream: BinaryIO) -> tuple[Any, NiftiSource, LabelText]:
    """The header object (mended, voxel sizes as stored), its source and the label text.

    raw: the file's first 540 bytes. stream: at the byte after them. Raises InputError.
    """
    kinds: dict[bytes, tuple[type[Any], int]] = {
        b"n+1\0": (Nifti1Header, 1),
        b"ni1\0": (Nifti1PairHeader, 1),
        b"n+2\0": (Nifti2Header, 2),
        b"ni2\0": (Nifti2PairHeader, 2),
    }
    if raw[4:8] in kinds and len(raw) >= 540:
        kind, version = kinds[raw[4:8]]
        size = 540
    elif raw[344:348] in kinds:
        kind, version = kinds[raw[344:348]]
        size = 348
    elif len(raw) >= 348 and 348 in (
        int.from_bytes(raw[:4], "little"),
        int.from_bytes(raw[:4], "big"),
    ):
        kind, version, size = Spm2AnalyzeHeader, 0, 348
    elif len(raw) < 348:
        raise InputError(
            f"{name} holds {len(raw)} bytes where a NIfTI header needs 348: it is cut short or "
            "not a NIfTI file."
        )
    else:
        raise InputError(f"{name} is not a NIfTI file, whatever its name says: check its origin.")
    try:
        header = kind(raw[:size], check=False)
        endianness = str(header.endianness)
        _mend(header)
        shape = tuple(int(n) for n in header.get_data_shape())
        intent = int(header["intent_code"]) if version else 0
        header.get_data_dtype()
    except (HeaderDataError, ValueError, KeyError, OverflowError) as error:
        raise InputError(
            f"{name} has a damaged NIfTI header ({_sentence(error)}): export it again."
        ) from error
    if 3000 <= intent < 3100:
        raise InputError(
            f"{name} is a CIFTI file (surfaces or connectivity) where a scan of voxels is "
            "expected: open the volume it was made from."
        )
    _check_stored_shape(name, shape)
    source = NiftiSource(raw[:size] if version else None, endianness, version, shape)
    text = LabelText(is_mask=intent == _LABEL_INTENT)
    if kind in (Nifti1Header, Nifti2Header):
        offset = voxel_offset(name, header)
        rest = raw[size:] + stream.read(max(0, min(offset, _MOST_EXTENSION) - len(raw)))
        text = _label_text(rest[: offset - size], endianness) or text
    return header, source, text


def _mend(header: Any) -> None:
    """Let nibabel mend a header, except for its voxel sizes: nibabel sets missing ones to 1, and
    drops the signs of negative ones, which turn the image in ITK."""
    sizes = header["pixdim"][1:4].copy()
    header.check_fix(logger=_quiet, error_level=40)
    header["pixdim"][1:4] = sizes


def _sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _check_stored_shape(name: str, shape: tuple[int, ...]) -> None:
    if not shape or min(shape) < 1:
        raise InputError(f"{name} has the shape {shape}, which holds no voxels: export it again.")
    more = [n for n in shape[3:] if n > 1]
    if len(more) > 1 or (len(shape) > 4 and more and shape[3] == 1):
        raise InputError(
            f"{name} has the shape {shape}, several values a voxel, where a scan (x, y, z) or a "
            "time series (x, y, z, t) is expected: extract one of them."
        )


def voxel_offset(name: str, header: Any) -> int:
    """The byte at which the voxels begin. Raises InputError if that is not a number."""
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < 0:
        raise InputError(f"{name} says its voxels begin at byte {offset}: export it again.")
    # Some programs write 0 for "after the header"; in a pair, 0 is the first byte.
    paired = name.lower().removesuffix(".gz").endswith((".hdr", ".img"))
    if getattr(header, "is_single", False) and not paired:
        return max(int(offset), int(header.single_vox_offset))
    return int(offset)


def _label_text(block: bytes, endianness: str) -> LabelText | None:
    """The label text among header extensions; None if there is none or they are malformed."""
    if block[:1] in (b"", b"\0"):
        return None
    order = "little" if endianness == "<" else "big"
    at = 4
    while at + 8 <= len(block):
        size = int.from_bytes(block[at : at + 4], order)  # type: ignore[arg-type]
        if size < 16 or at + size > len(block):
            break
        # Whatever their code: TotalSegmentator marks Caret's labels as to be ignored.
        content = block[at + 8 : at + size].rstrip(b"\0")
        text = LabelText.from_json(content) or _caret_labels(content)
        if text is not None:
            return text
        at += size
    return None


def _caret_labels(content: bytes) -> LabelText | None:
    """The table of labels that Connectome Workbench and TotalSegmentator write; None for any other
    text, and for Caret's text about volumes that are no masks."""
    if b"<CaretExtension" not in content:
        return None
    try:
        volume = ElementTree.fromstring(content).find("VolumeInformation")
        if volume is None or volume.findtext("VolumeType", "").strip() != "Label":
            return None
        names, colors = {}, {}
        for label in volume.iter("Label"):
            id, name = int(label.attrib["Key"]), (label.text or "").strip()
            if id > 0 and name:  # 0 is Workbench's "???", what is not labelled
                names[id] = name
                shares = [float(label.attrib[one]) for one in ("Red", "Green", "Blue")]
                colors[id] = hex_color(round(255 * min(max(share, 0), 1)) for share in shares)
    except (ElementTree.ParseError, LookupError, ValueError):
        return None
    return LabelText(names, colors, is_mask=True)


def _same_space(source: Any, shape: tuple[int, ...]) -> bool:
    """Do a NIfTI image and a volume (…,z,y,x) have one grid? A frame of a series has that of the
    series; a part of a scan has another."""
    if not isinstance(source, NiftiSource) or source.header is None:
        return False
    return (*source.shape, 1, 1)[:3] == shape[:-4:-1]


def mask_header(
    like: Geometry, shape: tuple[int, ...], dtype: np.dtype[Any], text: LabelText
) -> tuple[Any, tuple[int, ...]]:
    """The header of a mask in the grid of `like`, and the stored shape (x, y, …) of its voxels.

    For a NIfTI image it is a copy of the image's header: version, byte order, qform, sform, codes
    and units stay as they are, except for what nibabel mends. Scaling, display range, description,
    names and extensions are removed, because they may name the patient. For other images it is a
    new header that states the affine as qform and as sform.
    shape: of the volume, (z, y, x) or (t, z, y, x).
    """
    source = like.source
    stored_shape = shape[::-1]
    if isinstance(source, NiftiSource) and math.prod(source.shape) == math.prod(shape):
        stored_shape = source.shape
    if _same_space(source, shape):
        kind: type[Any] = Nifti1Header if source.version == 1 else Nifti2Header
        header = kind(source.header, source.endianness, check=False)
        header["magic"] = kind.single_magic
        if stored_shape != source.shape:
            header.set_data_shape(stored_shape)
    else:
        big = max(shape) > 32767
        header = Nifti2Header() if big else Nifti1Header()
        header.set_data_shape(stored_shape)
        # Code 1 is scanner coordinates; code 2, "aligned", means that no file stated them.
        code = 1 if like.oriented else 2
        header.set_sform(like.affine, code)
        header.set_qform(like.affine, code, strip_shears=True)
        header.set_xyzt_units("mm" if like.units == "mm" else "unknown", "unknown")
        text = replace(text, extra={"units": like.units, "oriented": like.oriented})
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["cal_min"] = header["cal_max"] = 0.0
    _clear_text(header)
    header["intent_code"] = _LABEL_INTENT
    for name in ("intent_p1", "intent_p2", "intent_p3", "extents", "glmin", "glmax"):
        if name in header:
            header[name] = 0
    content = text.to_json().encode("ascii")
    header.extensions = Nifti1Extensions([Nifti1Extension(_COMMENT, content)])
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    # Mend it as on reading, so that other programs, too, show the mask where we show the image.
    _mend(header)
    return header, stored_shape


def without_text(source: NiftiSource) -> NiftiSource:
    """The same grid without the header's text, which may name the patient."""
    if source.header is None:
        return source
    kind: type[Any] = Nifti1Header if source.version == 1 else Nifti2Header
    header = kind(source.header, source.endianness, check=False)
    _clear_text(header)
    return replace(source, header=header.binaryblock)


def _clear_text(header: Any) -> None:
    for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        if name in header:
            header[name] = b""
