"""Read NIfTI-1, NIfTI-2 and Analyze files, single or in pairs; write masks as NIfTI.

Source: the NIfTI-1.1 and NIfTI-2 standards (nifti.nimh.nih.gov). nibabel interprets headers; the
bytes are read here, so that a wrong header is found before memory is allocated.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files.atomic import replace_file
from l2gnet_core.files.compression import MOST_DEFLATE
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.nifti_geometry import geometry
from l2gnet_core.files.nifti_header import NiftiSource, mask_header, read_header, voxel_offset
from l2gnet_core.files.values import brightness, plain_values
from l2gnet_core.scans.volume import Grid, Volume, as_read_back

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 16 << 20
# Relative rounding error of values that were computed with a slope and an intercept, float32 both.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
# With steps of this size or more, rounding could turn one label into another.
_LARGE_SLOPE = 0.1
# Masks compress well at any level; above 3 it only takes longer.
_GZIP_LEVEL = 3


def read(path: Path, mask: bool = False) -> tuple[Volume, LabelText]:
    """Read a scan and the label text it may carry; see l2gnet_core.files.read_volume."""
    header_path, image_path = _pair(path)
    with _told_if_damaged(path):
        header, source, text = _header(header_path)
        # In a pair, vox_offset counts from the start of the .img file.
        with _opened(image_path) as stream:
            stored = _voxels(image_path, stream, header, source.shape)

    warnings: list[str] = []
    stored = _real_values(path.name, stored, header, warnings, mask)
    where = geometry(path, header, text, warnings)
    shape = source.shape[:3] + (1,) * (3 - len(source.shape[:3]))
    if math.prod(source.shape) > math.prod(shape):
        shape = (*shape, math.prod(source.shape[3:]))
    volume = Volume(
        stored.reshape(shape, order="F").T,
        affine=where.affine,
        units=where.units,
        stored_axes=(2, 1, 0),
        oriented=where.oriented,
        thickness_stated=where.thickness_stated,
        source=source,
        warnings=tuple(warnings),
    )
    return volume, text


def label_text(path: Path) -> LabelText:
    """The label text alone; see l2gnet_core.files.read_label_text."""
    with _told_if_damaged(path):
        return _header(_pair(path)[0])[2]


def _header(path: Path) -> tuple[Any, NiftiSource, LabelText]:
    with _opened(path) as stream:
        return read_header(path.name, stream.read(540), stream)


@contextmanager
def _told_if_damaged(path: Path) -> Iterator[None]:
    """Turn errors of a damaged gzip stream into InputError."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path.name} is damaged or cut short (its gzip stream breaks off): "
            "copy or export it again."
        ) from error


def _pair(path: Path) -> tuple[Path, Path]:
    """The files of the header and of the voxels: the same one unless the path is half of a pair."""
    name = path.name.lower()
    for mine, other in ((".hdr", ".img"), (".img", ".hdr")):
        for packed in ("", ".gz"):
            if not name.endswith(mine + packed):
                continue
            stem = path.name[: -len(mine + packed)]
            for suffix in (other + packed, other, other + ".gz", (other + packed).upper()):
                partner = path.with_name(stem + suffix)
                if partner.exists():
                    return (path, partner) if mine == ".hdr" else (partner, path)
            raise InputError(
                f"{path.name} is one half of a pair and {stem}{other} is not beside it: "
                "copy both files."
            )
    return path, path


def _opened(path: Path) -> BinaryIO:
    # The first bytes tell, not the name: many files called .nii.gz are not compressed.
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


def _voxels(path: Path, stream: BinaryIO, header: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The stored voxels, flat, in the file's order. Raises InputError, before allocating memory, if
    the file cannot hold them."""
    dtype = header.get_data_dtype()
    offset = voxel_offset(path.name, header)
    claimed = math.prod(shape) * dtype.itemsize
    most = path.stat().st_size * (MOST_DEFLATE if isinstance(stream, gzip.GzipFile) else 1)
    if offset + claimed > most:
        raise InputError(
            f"{path.name} is cut short or its header is wrong: it claims {claimed:,} bytes of "
            f"voxels {shape} and holds {path.stat().st_size:,} bytes in all."
        )
    stream.seek(offset)
    buffer = np.empty(claimed, dtype=np.uint8)
    at = 0
    while at < claimed:
        chunk = stream.read(min(_CHUNK, claimed - at))
        if not chunk:
            raise InputError(
                f"{path.name} is cut short: {at:,} of {claimed:,} bytes of voxels are there; "
                "copy or export it again."
            )
        buffer[at : at + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        at += len(chunk)
    if isinstance(stream, gzip.GzipFile):
        _read_to_end(stream)
    return buffer.view(dtype)


def _read_to_end(stream: gzip.GzipFile) -> None:
    """Read on, because gzip compares the checksum at the end. Raises BadGzipFile if it differs."""
    try:
        while stream.read(_CHUNK):
            pass
    except gzip.BadGzipFile as error:
        # Other bytes may follow the stream; they are not part of the scan.
        if "Not a gzipped file" not in str(error):
            raise


def _real_values(
    name: str, stored: npt.NDArray[Any], header: Any, warnings: list[str], mask: bool
) -> npt.NDArray[Any]:
    """Turn colour into brightness, apply slope and intercept, replace what is not finite."""
    if stored.dtype.names:
        stored = brightness(np.stack([stored[c] for c in ("R", "G", "B")]))
        warnings.append(f"{name} is a colour image; its brightness is shown and segmented.")
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError:
        slope, inter = float(header["scl_slope"]), 0.0
        warnings.append(f"{name} says to add no number to its values; nothing is added.")
    if stored.dtype.kind in "iuf" and slope is not None and (slope, inter or 0) != (1, 0):
        # The 24 bits of float32 are more than any scanner measures.
        kind = np.dtype(np.float64 if stored.dtype.itemsize == 8 else np.float32)
        step = abs(slope) if stored.dtype.kind in "iu" else 0.0
        stored = stored.astype(kind) * kind.type(slope) + kind.type(inter or 0.0)
        if mask and abs(slope) < _LARGE_SLOPE:
            # nibabel stores a mask of floats with a slope if its header says integers.
            whole = np.rint(stored)
            # The step nearest to a label is that label; others lie between labels.
            error = _ROUNDING * (np.abs(stored).max() + abs(inter or 0.0))
            if np.abs(stored - whole).max() <= step / 2 + error:
                stored = whole
    return plain_values(name, stored, warnings, mask)


def write(path: Path, labels: npt.NDArray[Any], like: Volume | Grid, text: LabelText) -> None:
    """Write a mask (z,y,x) or (t,z,y,x), read it back and compare; see
    l2gnet_core.files.write_labels."""
    header, stored_shape = mask_header(like, tuple(labels.shape), labels.dtype, text)
    _write(path, labels, header, stored_shape, text)


def write_map(path: Path, values: npt.NDArray[Any], like: Volume | Grid) -> None:
    """Write numbers other than labels, such as an uncertainty, in the grid of a scan.

    values: (z,y,x), or (t,z,y,x) for several values a voxel, of a dtype that NIfTI has; `like` has
    this shape. path: ends in .nii or .nii.gz. Raises InputError or OutputError.
    """
    values, like = as_read_back(values, like)
    header, stored_shape = mask_header(like, tuple(values.shape), values.dtype, LabelText())
    # Our own reader would take a file with these for a mask.
    header["intent_code"] = 0
    header.extensions.clear()
    header["vox_offset"] = header.single_vox_offset
    _write(path, values, header, stored_shape, LabelText())


def _write(
    path: Path,
    values: npt.NDArray[Any],
    header: Any,
    stored_shape: tuple[int, ...],
    text: LabelText,
) -> None:
    voxels = values.T.reshape(stored_shape, order="F").astype(header.get_data_dtype(), copy=False)

    def write_to(file: BinaryIO) -> None:
        packed = path.name.lower().endswith(".gz")
        # Without name and time in the gzip header, the same mask gives the same bytes.
        stream = (
            cast(BinaryIO, gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0)) if packed else file
        )
        header.write_to(stream)
        # A view of the array's bytes avoids a copy.
        stream.write(np.ascontiguousarray(voxels.T).reshape(-1).view(np.uint8).data)
        if packed:
            stream.close()

    def check(written: Path) -> None:
        again, _ = read(written)
        expected = geometry(written, header, text, []).affine
        # Reading replaces values that are not finite.
        plain = plain_values(path.name, values, [])
        if not (np.array_equal(again.data, plain) and np.array_equal(again.affine, expected)):
            raise OutputError(f"{path} did not read back as it was written: check the disk.")

    replace_file(path, ".nii.gz" if path.name.lower().endswith(".gz") else ".nii", write_to, check)
