"""DICOM series: which files of a folder make one scan, and that scan's voxels and place.

pydicom reads headers, SimpleITK (GDCM) decodes voxels, whatever their compression, and turns them
into real values. Slices are put in order by where they lie, along the normal of the image, never by
file name or number. Images at one place become frames of a time series.
Source: DICOM PS3.3, C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

import os
import warnings as python_warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk

from l2gnet_core.errors import InputError, memory_is_short
from l2gnet_core.files.dicom_files import is_dicom
from l2gnet_core.files.itk import LPS_TO_RAS
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.values import brightness, plain_values
from l2gnet_core.volume import Volume, default_affine

# Folders below the one that is named: patient, study, series, and one to spare.
_DEEPEST = 4
# Difference of direction cosines, from rounding.
_SAME_DIRECTION = 0.01
# Of a millimetre: images nearer than this lie at one place.
_SAME_PLACE = 0.01
# Share of the distance between slices by which one may stray before it is said.
_UNEVEN = 0.1
# Files that are not images in their place, by modality or type of image, and what gets people on.
_NO_SCANS = {
    "SEG": "is a DICOM segmentation: export it as NIfTI",
    "RTSTRUCT": "holds contours (RT structures): export them as a NIfTI mask",
    "MOSAIC": "is a mosaic of slices (Siemens): convert the series with dcm2niix",
}
_TAGS = [
    "AcquisitionNumber",
    "Columns",
    "EchoNumbers",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InstanceNumber",
    "Modality",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PixelSpacing",
    "Rows",
    "SOPInstanceUID",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SharedFunctionalGroupsSequence",
    "SliceThickness",
    "SpacingBetweenSlices",
    "TemporalPositionIdentifier",
    "TriggerTime",
]


@dataclass(frozen=True, eq=False)
class Plane:
    """One image: a file, or a frame of one.

    position, along: mm in LPS+; where the first pixel lies, and the directions, (2, 3), in which
    columns and rows are counted; None where the file does not say. pixel: height and width, mm.
    thickness: mm. All 0 where not said. order: tells images of one place apart.
    """

    path: Path
    frame: int
    position: npt.NDArray[np.float64] | None
    along: npt.NDArray[np.float64] | None
    pixel: tuple[float, float]
    thickness: float
    order: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Series:
    """Images that make one scan.

    title: its number and description, as the scanner's console lists it, or else a file's name.
    alone: is there no other in its folder? shape: rows and columns. planes: in no order.
    """

    title: str
    alone: bool
    shape: tuple[int, int]
    planes: tuple[Plane, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files by name."""
        return tuple(sorted({plane.path for plane in self.planes}))

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.planes[0].path.parent

    @property
    def name(self) -> str:
        """What the scan is called: its folder's name, its title where that holds others too."""
        return (self.alone and self.folder.resolve().name) or self.title


def series_below(folder: Path) -> list[Series]:
    """The series of a folder and of the folders in it."""
    found: list[Series] = []
    for place, folders, _ in os.walk(folder):
        deep = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(n for n in folders if not n.startswith(".")) if deep < _DEEPEST else []
        found += _series_in(Path(place))
    return found


def series_of(path: Path) -> Series:
    """The series that a file is part of, among the files beside it, or that a folder holds.

    Raises InputError, one sentence.
    """
    if not path.is_dir():
        for series in _series_in(path.parent, path):
            if path in series.files:
                return series
        raise InputError(_why_none(path))
    found = series_below(path)
    if not found:
        raise InputError(
            f"Expected a scan, but the folder {path} holds no DICOM images; name a file, or the "
            "folder of a DICOM series."
        )
    if len(found) > 1:
        some = ", ".join(str(one.files[0].relative_to(path)) for one in found[:5])
        raise InputError(
            f"Expected one scan, but the folder {path} holds {len(found)} DICOM series; name a "
            f"file of the one to read ({some}{', …' if len(found) > 5 else ''})."
        )
    return found[0]


def read(path: Path, mask: bool = False) -> tuple[Volume, LabelText]:
    """Read the scan that a file is part of, or that a folder holds; see
    l2gnet_core.files.read_volume."""
    return read_series(series_of(path), mask), LabelText()


def label_text(path: Path) -> LabelText:
    """Nothing: these are scans. See l2gnet_core.files.read_label_text."""
    series_of(path)
    return LabelText()


def read_series(series: Series, mask: bool = False) -> Volume:
    """The scan that a series is. Raises InputError, one sentence."""
    warnings: list[str] = []
    frames = _frames(series, warnings)
    data = _voxels(series, frames, warnings)
    slices = frames[0]
    even = _even(series.name, slices, warnings)
    first = slices[0]
    return Volume(
        plain_values(series.name, data if len(frames) > 1 else data[0], warnings, mask),
        affine=_affine(slices),
        units="mm" if all(first.pixel) else "pixel",
        stored_axes=(0, 1, 2),
        oriented=first.position is not None,
        # Nobody can tell how large a voxel is where slices are missing.
        thickness_stated=even and (len(slices) > 1 or first.thickness > 0),
        name=series.name,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _File:
    """What a file says of itself.

    uid: of its image. series: of that. title: as in Series. shape: rows and columns, 0 where there
    is no image. planes: its images. no_scan: why they are not those of a scan, "" if they are.
    """

    uid: str
    series: str
    title: str
    shape: tuple[int, int]
    planes: list[Plane]
    no_scan: str


def _series_in(folder: Path, named: Path | None = None) -> list[Series]:
    """The series among the files of one folder. Of copies of an image the named file counts, or
    else the first by name."""
    groups: list[tuple[Any, _File, list[Plane]]] = []
    seen = set()
    for path in sorted(folder.iterdir(), key=lambda path: (path != named, path)):
        file = None if path.name.startswith(".") else _file(path)
        if file is None or file.no_scan or (file.uid and file.uid in seen):
            continue
        seen.add(file.uid)
        # A file of many frames is a scan of its own.
        key = (file.series, file.shape, path if len(file.planes) > 1 else None)
        for other, _, members in groups:
            if other == key and _same_direction(members[0], file.planes[0]):
                members += file.planes
                break
        else:
            groups.append((key, file, list(file.planes)))
    return [
        Series(first.title, len(groups) == 1, first.shape, tuple(planes))
        for _, first, planes in groups
    ]


def _same_direction(a: Plane, b: Plane) -> bool:
    if a.along is None or b.along is None:
        return a.along is b.along
    return bool(np.abs(a.along - b.along).max() < _SAME_DIRECTION)


def _file(path: Path) -> _File | None:
    """What a file says of itself, None where it is no DICOM file that can be understood."""
    if not is_dicom(path):
        return None
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            return _understood(path, header)
    except Exception:  # pydicom raises whatever a damaged file leads it into
        return None


def _understood(path: Path, header: Any) -> _File:
    """Raises whatever values do that are not what they should be."""
    shape = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    # No more than there can be in a file: a damaged number may be any.
    count = min(int(header.get("NumberOfFrames") or 1), path.stat().st_size)
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    groups = header.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()] * count
    words = header.get("SeriesNumber"), header.get("SeriesDescription")
    kinds = [header.get("Modality"), *(header.get("ImageType") or ())]
    no_scan = "" if all(shape) else "is a DICOM file without an image: name one of a scan"
    return _File(
        str(header.get("SOPInstanceUID") or ""),
        str(header.get("SeriesInstanceUID") or ""),
        " ".join(str(word) for word in words if word) or path.stem,
        shape,
        [_plane(path, k, _Told(header, shared, group)) for k, group in enumerate(groups)],
        next((_NO_SCANS[kind] for kind in kinds if kind in _NO_SCANS), no_scan),
    )


class _Told:
    """What a header says of one frame: in its own functional groups, in those that all frames
    share, or, as in files of a single image, at the top."""

    def __init__(self, header: Any, shared: Any, own: Any) -> None:
        self._header, self._groups = header, (own, shared)

    def numbers(self, name: str, group: str = "") -> tuple[float, ...]:
        """The values of an attribute, nothing where it is missing or empty."""
        places = [got[0] for one in self._groups if group and (got := one.get(group))]
        for place in (*places, self._header):
            value = place.get(name)
            if value not in (None, ""):
                many = isinstance(value, pydicom.multival.MultiValue)
                return tuple(float(one) for one in (value if many else [value]))
        return ()

    def number(self, name: str, group: str = "") -> float:
        """The first of them, or 0."""
        return (*self.numbers(name, group), 0.0)[0]


def _plane(path: Path, frame: int, told: _Told) -> Plane:
    position = told.numbers("ImagePositionPatient", "PlanePositionSequence")
    along = told.numbers("ImageOrientationPatient", "PlaneOrientationSequence")
    placed = len(position) == 3 and len(along) == 6
    pixel = told.numbers("PixelSpacing", "PixelMeasuresSequence")
    thickness = [
        told.number(name, "PixelMeasuresSequence")
        for name in ("SpacingBetweenSlices", "SliceThickness")
    ]
    return Plane(
        path,
        frame,
        np.array(position) if placed else None,
        np.array(along).reshape(2, 3) if placed else None,
        (pixel[0], pixel[1]) if len(pixel) == 2 else (0.0, 0.0),
        abs(next(filter(None, thickness), 0.0)),
        (
            told.number("TemporalPositionIndex", "FrameContentSequence"),
            told.number("TemporalPositionIdentifier"),
            told.number("EchoNumbers"),
            told.number("TriggerTime"),
            told.number("AcquisitionNumber"),
            told.number("InstanceNumber"),
            frame,
        ),
    )


def _heights(planes: Iterable[Plane]) -> Iterator[float]:
    """How far along the normal of the first of them each plane lies, mm."""
    normal = None
    for plane in planes:
        if plane.position is None or plane.along is None:
            raise AssertionError("only planes that say where they lie have a height")
        if normal is None:
            normal = np.cross(*plane.along)
        yield float(normal @ plane.position)


def _frames(series: Series, warnings: list[str]) -> list[list[Plane]]:
    """The planes of each point in time, those of one by where they lie."""
    planes = sorted(series.planes, key=lambda plane: plane.order)
    if planes[0].position is None:
        return [planes]
    heights = np.array(list(_heights(planes)))
    # Stable: images of one place stay in their order.
    order = np.argsort(np.round(heights / _SAME_PLACE), kind="stable")
    starts = np.flatnonzero(np.diff(heights[order], prepend=-np.inf) > _SAME_PLACE)
    places = [[planes[k] for k in part] for part in np.split(order, starts[1:])]
    fewest, most = min(map(len, places)), max(map(len, places))
    if fewest < most:
        warnings.append(
            f"{series.name} has {most} images at some places and {fewest} at others; the first "
            f"{fewest} of each are shown."
        )
    return [[place[k] for place in places] for k in range(fewest)]


def _even(name: str, slices: list[Plane], warnings: list[str]) -> bool:
    """Do slices lie at equal distances? Adds a sentence where they do not."""
    if len(slices) < 3 or slices[0].position is None:
        return True
    heights = np.array(list(_heights(slices)))
    gaps = np.diff(heights)
    stray = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights))).max()
    if stray <= _UNEVEN * gaps.mean():
        return True
    warnings.append(
        f"{name} has slices {gaps.min():.4g} to {gaps.max():.4g} mm apart, so some may be missing; "
        f"they are shown as evenly spaced, and volumes cannot be told in mL."
    )
    return False


def _affine(slices: list[Plane]) -> npt.NDArray[np.float64]:
    """Voxel (x, y, z, 1) → RAS+ mm; slices of a tilted gantry are sheared against each other."""
    first, last = slices[0], slices[-1]
    height, width = (size or 1.0 for size in first.pixel)
    depth = first.thickness or width
    if first.position is None or first.along is None or last.position is None:
        return default_affine((depth, height, width))
    step = np.cross(*first.along) * depth
    if len(slices) > 1:
        step = (last.position - first.position) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0] = first.along[0] * width
    affine[:3, 1] = first.along[1] * height
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.asarray(LPS_TO_RAS @ affine)


def _voxels(series: Series, frames: list[list[Plane]], warnings: list[str]) -> npt.NDArray[Any]:
    """Real values, (t, z, y, x); whole numbers as int16 where they fit."""
    decoded = {path: _decoded(path, series.shape) for path in series.files}
    images = [decoded[plane.path][plane.frame] for slices in frames for plane in slices]
    if any(image.ndim == 3 for image in images):
        warnings.append(f"{series.name} is in colour; it is read as brightness.")
        images = [brightness(np.moveaxis(one, -1, 0)) if one.ndim == 3 else one for one in images]
    data = np.stack(images).reshape(len(frames), -1, *series.shape)
    if data.dtype == np.float64:
        return data.astype(np.float32)
    small, wide = np.iinfo(np.int16), data.dtype.kind in "iu" and data.dtype.itemsize > 2
    if wide and small.min <= data.min() and data.max() <= small.max:
        return data.astype(np.int16)
    return data


def _decoded(path: Path, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """The images of a file, (frames, y, x), in colour with a last axis more."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        if memory_is_short(error):
            raise MemoryError from error
        raise InputError(
            f"{path.name} is cut short, damaged or compressed in a way that is not known here: "
            "copy it again, or export the series uncompressed."
        ) from error
    data = sitk.GetArrayFromImage(image)
    if image.GetDimension() == 2:
        data = data[np.newaxis]
    if data.shape[1:3] != shape:
        raise InputError(
            f"{path.name} says that it holds images of {shape[0]}×{shape[1]} pixels, but holds "
            f"{data.shape[1]}×{data.shape[2]}: export it again."
        )
    return np.asarray(data)


def _why_none(path: Path) -> str:
    """Why a file is part of no series, as a sentence."""
    file = _file(path)
    if file is None:
        return f"{path.name} is cut short, damaged or not a DICOM file: copy or export it again."
    return f"{path.name} {file.no_scan}."
