"""NRRD and MetaImage files, as 3D Slicer and ITK write them: voxels, place and segment names in.

SimpleITK reads voxels and geometry. The header's own lines say what it does not pass on: whether
the file states a place and a voxel size at all, and the segments of 3D Slicer.
Sources: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/MetaIO; 3D Slicer's documentation of
its segmentation files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from l2gnet_core.errors import InputError, memory_is_short
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.values import brightness, plain_values
from l2gnet_core.labels import hex_color
from l2gnet_core.volume import Volume

# What is wrong comes as an exception; ITK would print it besides.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

#: From ITK's and DICOM's world, x to the left and y to the back, to RAS+.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A header is text before the voxels; a table of segments can be long.
_MOST_HEADER = 4 << 20
_FIELD = re.compile(r"([^:=]+?)\s*(?::=|:|=)\s*(.*)")
# Fields that name the file of the voxels, in NRRD, in any case, and in MetaImage.
_VOXELS_IN = ("data file", "datafile", "elementdatafile")
# Deflate cannot shrink more: a claim beyond that is a lie, not a scan.
_MOST_DEFLATE = 1040
# Millimetres of a unit of length.
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}
# Bytes of a value in MetaImage's terms, without the prefix MET_ and a U for unsigned.
_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}


@dataclass(frozen=True)
class _Segment:
    """A structure of a segmentation of 3D Slicer: voxels of `value` in a layer. given: does the
    file name that number?"""

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
    # Values of a voxel, the last axis here, become frames, the first one.
    several = image.GetNumberOfComponentsPerPixel() > 1
    frames = np.moveaxis(data, -1, 0) if several else data[np.newaxis]
    segments = _segments(header)
    if segments:
        data, segments = _flat(path.name, frames, segments, warnings)
    elif data.dtype == np.uint8 and len(frames) in (3, 4) and not _is_list(header):
        data = brightness(frames)
        warnings.append(f"{path.name} is in colour; it is read as brightness.")
    elif several:
        data = frames
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
    """The fields before the voxels, NRRD's key/value pairs among them, and their size in bytes."""
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
    """A field of a header whose names may be in any case; "" if it is not there."""
    return next((value for field, value in header.items() if field.lower() == name), "")


def _voxel_file(path: Path, header: dict[str, str]) -> Path | None:
    """The file that holds the voxels, itself or another; None where they lie in several."""
    where = next(filter(None, (_field(header, name) for name in _VOXELS_IN)), "LOCAL")
    if where.upper() == "LOCAL":
        return path
    return None if where.startswith("LIST") or "%" in where else path.parent / where


def _require_voxels(path: Path, header: dict[str, str], length: int) -> None:
    """Raise InputError where the file of the voxels is missing, and where a MetaImage's are not all
    there; ITK would print it besides."""
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
    """The file as ITK reads it, once it is sure that its voxels can be there."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        file = _voxel_file(path, header)
        if file is not None:
            claimed = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
            shrunk = 1 if _field(header, "encoding").lower() == "raw" else _MOST_DEFLATE
            if claimed > file.stat().st_size * shrunk:
                raise InputError(
                    f"{path.name} says that it holds {claimed:,} voxels, which do not fit into "
                    f"the size of {file.name}: it is cut short or damaged; copy or export it again."
                )
        image: sitk.Image = reader.Execute()
        return image
    except RuntimeError as error:
        if memory_is_short(error):
            raise MemoryError from error
        raise InputError(
            f"{path.name} is cut short or damaged ({_reason(error)}): copy or export it again."
        ) from error


def _reason(error: RuntimeError) -> str:
    """The last line of what ITK says, which is what went wrong, without where in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"^ITK ERROR:\s*|\w+\(0x[0-9a-f]+\):\s*", "", lines[-1]) if lines else ""
    return text.rstrip(".")[:120] or type(error).__name__


def _affine(image: sitk.Image) -> npt.NDArray[np.float64]:
    """Voxel (x, y, z, 1) → RAS+ mm, of the first three axes; a flat image lies in a plane as thick
    as its pixels are wide."""
    count = min(3, image.GetDimension())
    directions = np.array(image.GetDirection()).reshape((image.GetDimension(),) * 2)
    spacing = np.array([*image.GetSpacing()[:count], image.GetSpacing()[0]][:3])
    affine = np.eye(4)
    affine[:count, :count] = directions[:count, :count]
    affine[:3, :3] *= spacing
    affine[:count, 3] = image.GetOrigin()[:count]
    return np.asarray(LPS_TO_RAS @ affine)


def _unit(name: str, header: dict[str, str]) -> float:
    """Millimetres of the unit of a NRRD file's lengths. Raises InputError for others."""
    text = header.get("space units") or header.get("units") or ""
    units = {one.strip().lower() for one in re.findall(r'"([^"]*)"', text)}
    lengths = {_MM[one] for one in units if one in _MM}
    if len(lengths) > 1:
        raise InputError(f"{name} counts in several units of length ({text}): export it in mm.")
    return lengths.pop() if lengths else 1.0


def _is_list(header: dict[str, str]) -> bool:
    """Are values of a voxel frames of a sequence, not a colour?"""
    return bool({"list", "time"} & set(header.get("kinds", "").lower().split()))


def _states_place(header: dict[str, str]) -> bool:
    """Does the file say how its axes lie in the patient?"""
    space = header.get("space", "").lower()
    names = ("left", "right", "lps", "ras", "las")
    return space.startswith(names) or "TransformMatrix" in header or "Orientation" in header


def _segments(header: dict[str, str]) -> list[_Segment]:
    """What 3D Slicer says of the segments of a .seg.nrrd file."""
    found: list[_Segment] = []
    for key, name in header.items():
        match = re.fullmatch(r"(Segment\d+)_Name", key)
        if not match:
            continue
        value, layer = (header.get(f"{match[1]}_{what}", "") for what in ("LabelValue", "Layer"))
        given = bool(value)
        if not given and not layer:
            # Once each segment had a layer of its own, of zeros and ones.
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
    """Layers of segments that may overlap as one mask: where they do, the later one counts. Ids
    stay, unless two layers use the same one."""
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
