"""Read NRRD and MetaImage files, as 3D Slicer and ITK write them.

SimpleITK reads voxels and geometry. We parse the header's lines for what SimpleITK does not pass
on: whether the file states an orientation and a voxel size at all, and the segments of 3D Slicer.
Sources: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/MetaIO; 3D Slicer's documentation of
its segmentation files.
"""

from __future__ import annotations

import locale
import math
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from l2gnet_core.errors import InputError, memory_is_short
from l2gnet_core.files.compression import MOST_DEFLATE
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.quiet import quiet_itk
from l2gnet_core.files.values import brightness, plain_values
from l2gnet_core.scans.labels import hex_color
from l2gnet_core.scans.volume import LPS_TO_RAS, Volume

# Most bytes of a header, which is text before the voxels; a table of segments can be long.
_MOST_HEADER = 4 << 20
_FIELD = re.compile(r"([^:=]+?)\s*(?::=|:|=)\s*(.*)")
# Fields that name the file of the voxels, in lower case: two of NRRD, one of MetaImage.
_VOXELS_IN = ("data file", "datafile", "elementdatafile")
# Millimetres of a unit of length.
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}
# Bytes of MetaImage's types, without the prefix MET_ and the U of unsigned ones.
_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}

_locale_lock = threading.Lock()


@dataclass(frozen=True)
class _Segment:
    """A structure of a 3D Slicer segmentation: the voxels of `value` in a layer. given: does the
    file state this value?"""

    value: int
    given: bool
    layer: int
    name: str
    color: str | None


def read(path: Path, mask: bool = False) -> tuple[Volume, LabelText]:
    """Read a scan and the label text it may carry; see l2gnet_core.files.read_volume."""
    header, length = _header(path)
    _require_voxels(path, header, length)
    image = _image(path, header)
    warnings: list[str] = []
    data = sitk.GetArrayFromImage(image)
    # The values of a voxel come last.
    several = image.GetNumberOfComponentsPerPixel() > 1
    frames = np.moveaxis(data, -1, 0) if several else data[np.newaxis]
    segments = _segments(header)
    if segments:
        data, segments = _flat(path.name, frames, segments, warnings)
    elif data.dtype == np.uint8 and len(frames) in (3, 4) and not _is_list(header):
        data = brightness(frames)
        warnings.append(f"{path.name} is in colour; it is read as brightness.")
    elif several and _is_list(header):
        data = frames
    elif several:
        data = frames[0]
        warnings.append(f"{path.name} has {len(frames)} values a voxel; the first one is read.")
    flat = image.GetDimension() == 2
    if flat:
        data = np.expand_dims(data, -3)
    if data.ndim == 4 and len(data) == 1:
        data = data[0]
    if data.ndim > 4:
        raise InputError(
            f"{path.name} holds an array of {data.ndim} axes where a scan (x, y, z) or a time "
            "series (x, y, z, t) is expected: extract one of them."
        )
    stated = ("space directions", "spacings", "ElementSpacing", "ElementSize")
    sized = any("nan" not in header.get(name, "nan").lower() for name in stated)
    unit = _unit(path.name, header)
    volume = Volume(
        plain_values(path.name, data, warnings, mask),
        affine=np.diag([unit, unit, unit, 1.0]) @ _affine(image),
        units="mm" if sized else "pixel",
        stored_axes=(2, 1, 0),
        oriented=_states_place(header),
        thickness_stated=not flat,
        warnings=tuple(warnings),
    )
    return volume, _text(segments)


def label_text(path: Path) -> LabelText:
    """The label text alone; see l2gnet_core.files.read_label_text."""
    return _text(_segments(_header(path)[0]))


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields, including NRRD's key/value pairs, and its size in bytes."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while stream.tell() < _MOST_HEADER:
            line = stream.readline(_MOST_HEADER).decode("utf-8", "replace").strip()
            if not line:
                break
            field = _FIELD.match(line)
            if field:
                fields[field[1]] = field[2]
            if "ElementDataFile" in fields:
                break
        return fields, stream.tell()


def _field(header: dict[str, str], name: str) -> str:
    """A field by its name in lower case, whatever its case in the file; "" if missing."""
    return next((value for field, value in header.items() if field.lower() == name), "")


def _voxel_file(path: Path, header: dict[str, str]) -> Path | None:
    """The file that holds the voxels, `path` itself or another; None if there are several."""
    where = next(filter(None, (_field(header, name) for name in _VOXELS_IN)), "LOCAL")
    if where.upper() == "LOCAL":
        return path
    return None if where.startswith("LIST") or "%" in where else path.parent / where


def _require_voxels(path: Path, header: dict[str, str], length: int) -> None:
    """Raise InputError if the voxels' file is missing, or too short for a MetaImage's voxels; ITK
    would print that."""
    file = _voxel_file(path, header)
    if file is None:
        return
    if not file.is_file():
        raise InputError(
            f"{path.name} keeps its voxels in {file.name}, which is missing: copy both."
        )
    kind = header.get("ElementType", "").removeprefix("MET_").removeprefix("U")
    shape = [header.get("DimSize", ""), header.get("ElementNumberOfChannels", "1")]
    needed = _BYTES.get(kind, 0) * math.prod(map(int, re.findall(r"\d+", " ".join(shape))))
    if header.get("CompressedData", "").lower() == "true":
        needed = int((re.findall(r"\d+", header.get("CompressedDataSize", "")) or [0])[0])
    there = file.stat().st_size - length * (file == path)
    if there < needed:
        raise InputError(
            f"{path.name} is cut short: its voxels are {needed:,} bytes, and {there:,} are there; "
            "copy or export it again."
        )


def _image(path: Path, header: dict[str, str]) -> sitk.Image:
    """The image as ITK reads it, after a check that the file can hold its voxels."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk(), _utf8_names():
            reader.ReadImageInformation()
            _require_plausible(path, header, reader)
            image: sitk.Image = reader.Execute()
            return image
    except RuntimeError as error:
        if memory_is_short(error):
            raise MemoryError from error
        raise InputError(
            f"{path.name} is cut short or damaged ({_reason(error)}): copy or export it again."
        ) from error


@contextmanager
def _utf8_names() -> Iterator[None]:
    """Let ITK open files whose names or folders are not ASCII on Windows, as of a user Müller.

    ITK hands names in UTF-8 to the C runtime, which takes them for the system's code page
    (github.com/InsightSoftwareConsortium/ITK/issues/6739), unless the locale says UTF-8. Windows 10
    knows that since version 1803 ("UTF-8 support" in Microsoft's reference of setlocale).
    """
    if sys.platform != "win32":
        yield
        return
    # The locale is the whole process's.
    with _locale_lock:
        before = locale.setlocale(locale.LC_CTYPE)
        with suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, ".UTF-8")
        try:
            yield
        finally:
            locale.setlocale(locale.LC_CTYPE, before)


def _require_plausible(path: Path, header: dict[str, str], reader: sitk.ImageFileReader) -> None:
    """Raise InputError where the file is too small for the voxels that its header claims."""
    file = _voxel_file(path, header)
    if file is None:
        return
    claimed = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    shrunk = 1 if _field(header, "encoding").lower() == "raw" else MOST_DEFLATE
    if claimed > file.stat().st_size * shrunk:
        raise InputError(
            f"{path.name} says that it holds {claimed:,} voxels, which do not fit into "
            f"the size of {file.name}: it is cut short or damaged; copy or export it again."
        )


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, which tells the fault, without the place in ITK's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"^ITK ERROR:\s*|\w+\(0x[0-9a-f]+\):\s*", "", lines[-1]) if lines else ""
    return text.rstrip(".")[:120] or type(error).__name__


def _affine(image: sitk.Image) -> npt.NDArray[np.float64]:
    """Affine (4, 4) of the first three axes, voxel (x, y, z, 1) → RAS+ mm; the slice of a flat
    image is as thick as its pixels are wide."""
    count = min(3, image.GetDimension())
    directions = np.array(image.GetDirection()).reshape((image.GetDimension(),) * 2)
    spacing = np.array([*image.GetSpacing()[:count], image.GetSpacing()[0]][:3])
    affine = np.eye(4)
    affine[:count, :count] = directions[:count, :count]
    affine[:3, :3] *= spacing
    affine[:count, 3] = image.GetOrigin()[:count]
    return np.asarray(LPS_TO_RAS @ affine)


def _unit(name: str, header: dict[str, str]) -> float:
    """How many mm the length unit of a NRRD file has, 1 if not stated. Raises InputError for
    several units."""
    text = header.get("space units") or header.get("units") or ""
    units = {one.strip().lower() for one in re.findall(r'"([^"]*)"', text)}
    lengths = {_MM[one] for one in units if one in _MM}
    if len(lengths) > 1:
        raise InputError(f"{name} counts in several units of length ({text}): export it in mm.")
    return lengths.pop() if lengths else 1.0


def _is_list(header: dict[str, str]) -> bool:
    """Are the values of a voxel frames of a sequence, rather than a colour or a vector?"""
    return bool({"list", "time"} & set(header.get("kinds", "").lower().split()))


def _states_place(header: dict[str, str]) -> bool:
    """Does the file state its orientation in the patient?"""
    space = header.get("space", "").lower()
    names = ("left", "right", "lps", "ras", "las")
    return space.startswith(names) or "TransformMatrix" in header or "Orientation" in header


def _segments(header: dict[str, str]) -> list[_Segment]:
    """The segments that 3D Slicer lists in the header of a .seg.nrrd file."""
    found: list[_Segment] = []
    for key, name in header.items():
        match = re.fullmatch(r"(Segment\d+)_Name", key)
        if not match:
            continue
        value, layer = (header.get(f"{match[1]}_{what}", "") for what in ("LabelValue", "Layer"))
        given = bool(value)
        if not given and not layer:
            # Older files have a layer of zeros and ones for each segment.
            value, layer = "1", str(len(found))
        if value.isdecimal():
            color = _color(header.get(f"{match[1]}_Color", ""))
            of_layer = int(layer) if layer.isdecimal() else 0
            found.append(_Segment(int(value), given, of_layer, name, color))
    return found


def _color(text: str) -> str | None:
    """ "0.5 0.68 0.5" as "#80ad80"."""
    try:
        red, green, blue = (round(255 * min(1.0, max(0.0, float(part)))) for part in text.split())
    except ValueError:
        return None
    return hex_color((red, green, blue))


def _flat(
    name: str, layers: npt.NDArray[Any], segments: list[_Segment], warnings: list[str]
) -> tuple[npt.NDArray[Any], list[_Segment]]:
    """Merge layers (n,z,y,x) of segments into one mask (z,y,x) and the segments with their ids in
    it. Where segments overlap, the later one counts. Ids stay unless several segments share one."""
    if len(layers) == 1:
        return layers[0], segments
    mask = np.zeros(layers.shape[1:], np.uint16)
    kept: list[_Segment] = []
    hidden = 0
    for segment in segments:
        used = {other.value for other in kept}
        free = next(n for n in (segment.value, *range(1, 65536)) if n not in used)
        where = layers[min(segment.layer, len(layers) - 1)] == segment.value
        hidden += int(np.count_nonzero(mask[where]))
        mask[where] = free
        kept.append(replace(segment, value=free))
    if hidden:
        warnings.append(
            f"{name} holds segments that overlap, in {hidden:,} voxels; there the later one of "
            "them counts."
        )
    if any(a.given and a.value != b.value for a, b in zip(segments, kept, strict=True)):
        warnings.append(f"{name} uses the same number for several segments; they got free ones.")
    return mask, kept


def _text(segments: list[_Segment]) -> LabelText:
    return LabelText(
        {one.value: one.name for one in segments},
        {one.value: one.color for one in segments if one.color},
        is_mask=bool(segments),
    )
