"""Which DICOM files make one scan, by what their headers say.

Source: DICOM PS3.3, C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

import os
import re
import warnings as python_warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from l2gnet_core.errors import InputError
from l2gnet_core.files.dicom_files import is_dicom

# Folders below the one that is named: patient, study, series, and one to spare.
_DEEPEST = 4
# Difference of direction cosines, and share of a pixel's size, from rounding.
_ALIKE = 0.01
# Files that are no images in their place, by modality or type of image, and what gets people on.
_NO_SCANS = {
    "SEG": "is a DICOM segmentation: export it as NIfTI",
    "RTSTRUCT": "holds contours (RT structures): export them as a NIfTI mask",
    "RTDOSE": "holds a radiation dose, not a scan: open the CT that it was planned on",
    "MOSAIC": "is a mosaic of slices (Siemens): convert the series with dcm2niix",
}
_TAGS = [
    "AcquisitionNumber",
    "AcquisitionTime",
    "BitsStored",
    "Columns",
    "ContentTime",
    "EchoNumbers",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InstanceNumber",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PatientID",
    "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SOPInstanceUID",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SharedFunctionalGroupsSequence",
    "SliceThickness",
    "SpacingBetweenSlices",
    "StudyInstanceUID",
    "TemporalPositionIdentifier",
    "TriggerTime",
]
#: Modalities whose values are measurements, not greys to be looked at.
_MEASURED = ("CT", "MR", "NM", "PT")


@dataclass(frozen=True, eq=False)
class Plane:
    """One image: a file, or a frame of one.

    position, along: mm in LPS+; where the first pixel lies, and the directions, (2, 3), in which
    columns and rows are counted; None where the file does not say. pixel: height and width, mm.
    thickness: mm. All 0 where not said. order: tells images of one place apart, earlier ones first.
    rescale: slope and intercept, of this frame. turned: of measured values stored so that white is
    lowest, lowest and highest stored number together; else None. has_table: do values go through a
    table (Modality LUT)?
    """

    path: Path
    frame: int
    position: npt.NDArray[np.float64] | None
    along: npt.NDArray[np.float64] | None
    pixel: tuple[float, float]
    thickness: float
    order: tuple[float, ...]
    rescale: tuple[float, float]
    turned: float | None
    has_table: bool


@dataclass(frozen=True, eq=False)
class Series:
    """Images that make one scan.

    title: its number and description, as the scanner's console lists it, or else a file's name.
    alone: is there no other in its folder? shape: rows and columns. planes: in no order.
    unread: DICOM files beside it that say nothing, damaged slices perhaps.
    """

    title: str
    alone: bool
    shape: tuple[int, int]
    planes: tuple[Plane, ...]
    unread: tuple[Path, ...]

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
    for place, folders, _ in os.walk(folder, followlinks=True):
        deep = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(n for n in folders if not n.startswith(".")) if deep < _DEEPEST else []
        found += _series_in(Path(place))
    return found


def scans_below(folder: Path) -> list[Path]:
    """What stands for each series of a folder and of the folders in it: the outermost folder that
    holds no other, or else one of its files."""
    found = series_below(folder)
    inside = Counter(place for one in found for place in _places(one, folder))
    paths = []
    for one in found:
        alone = [place for place in _places(one, folder) if inside[place] == 1]
        paths.append(alone[0] if alone else one.files[0])
    return sorted(paths)


def _places(series: Series, folder: Path) -> list[Path]:
    """The folders in `folder` that hold a series, the outermost first; itself if none does."""
    parts = series.folder.relative_to(folder).parts
    return [folder.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)] or [folder]


def series_of(path: Path) -> Series:
    """The series that a file is part of, among the files beside it, or that a folder holds.

    Raises InputError, one sentence.
    """
    if path.is_dir():
        found, what = series_below(path), f"the folder {path}"
        if not found:
            raise InputError(
                f"Expected a scan, but the folder {path} holds no DICOM images; name a file, or "
                "the folder of a DICOM series."
            )
    else:
        found, what = [one for one in _series_in(path.parent, path) if path in one.files], path.name
        if not found:
            raise InputError(_why_none(path))
    if len(found) > 1:
        files = dict.fromkeys(str(one.files[0].relative_to(path.parent)) for one in found)
        some = ", ".join(list(files)[:5]) + (", …" if len(files) > 5 else "")
        way_out = f"name a file of the one to read ({some})"
        if len(files) == 1:
            way_out = "it is a localizer, perhaps; name a file of another series"
        raise InputError(
            f"Expected one scan, but {what} holds {len(found)} DICOM series; {way_out}."
        )
    return found[0]


@dataclass(frozen=True)
class _File:
    """What a file says of itself.

    uid: of its image. series: of that. kinds: of the image, what it shows. title: as in Series.
    shape: rows and columns, 0 where there is no image. planes: its images. no_scan: why they are
    not those of a scan, "" if they are. cut: does it end before it says what it is?
    """

    uid: str
    series: str
    kinds: tuple[str, ...]
    title: str
    shape: tuple[int, int]
    planes: list[Plane]
    no_scan: str
    cut: bool


def _series_in(folder: Path, named: Path | None = None) -> list[Series]:
    """The series among the files of one folder. Of copies of an image the named file counts, or
    else the first by name."""
    groups: list[tuple[Any, _File, list[Plane]]] = []
    unread: list[Path] = []
    seen = set()
    for path in sorted(folder.iterdir(), key=lambda path: (path != named, _natural(path.name))):
        if (path.name.startswith(".") and path != named) or not path.is_file():
            continue
        file = _file(path)
        if file is None or file.no_scan:
            # What failed to be copied is empty.
            if file.cut if file else is_dicom(path) or not path.stat().st_size:
                unread.append(path)
            continue
        # Not by the UID alone: careless converters give all slices one.
        first = file.planes[0]
        place = () if first.position is None else tuple(first.position)
        copy = (file.uid, place, first.order)
        if file.uid and copy in seen:
            continue
        seen.add(copy)
        # A file of many frames is a scan of its own.
        own = path if len(file.planes) > 1 else None
        for plane in file.planes:
            key = (file.series, file.shape, file.kinds, own)
            for other, _, members in groups:
                if other == key and _one_stack(members[0], plane):
                    members.append(plane)
                    break
            else:
                groups.append((key, file, [plane]))
    titles = Counter(first.title for _, first, _ in groups)
    return [
        Series(
            # Of one number and description are images that show different things.
            " ".join([first.title, *(first.kinds if titles[first.title] > 1 else ())]),
            len(groups) == 1,
            first.shape,
            tuple(planes),
            tuple(unread),
        )
        for _, first, planes in groups
    ]


def _natural(name: str) -> list[tuple[str, int]]:
    """Sorts IM2 before IM10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _one_stack(a: Plane, b: Plane) -> bool:
    """Can two planes be slices of one scan?"""
    if a.along is None or b.along is None:
        turned = a.along is not b.along
    else:
        turned = bool(np.abs(a.along - b.along).max() > _ALIKE)
    return not turned and np.allclose(a.pixel, b.pixel, rtol=_ALIKE)


def _why_none(path: Path) -> str:
    """Why a file is part of no series, as a sentence."""
    file = _file(path)
    if file is None:
        return f"{path.name} is cut short, damaged or not a DICOM file: copy or export it again."
    return f"{path.name} {file.no_scan}."


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
    own = header.get("PerFrameFunctionalGroupsSequence")
    if own and len(own) != count:
        raise ValueError("frames and their descriptions differ in number")
    planes = [
        _plane(path, frame, _Told(header, shared, own[frame] if own else pydicom.Dataset()))
        for frame in range(count)
    ]
    if count > 1 and not own:
        # Of the first frame, if of any: where the others lie is not said.
        planes = [replace(plane, position=None, along=None) for plane in planes]
    modality, kinds = header.get("Modality"), tuple(map(str, header.get("ImageType") or ()))
    words = header.get("SeriesNumber"), header.get("SeriesDescription")
    series = header.get("SeriesInstanceUID") or (
        # Blank where names were taken out carelessly.
        *(header.get(name) for name in ("StudyInstanceUID", "PatientID", "SeriesNumber")),
    )
    no_scan = "" if all(shape) else "is a DICOM file without an image: name one of a scan"
    return _File(
        str(header.get("SOPInstanceUID") or ""),
        str(series),
        # The first two say that it is an original or not.
        kinds[2:],
        " ".join(str(word) for word in words if word) or path.stem,
        shape,
        planes,
        next((_NO_SCANS[kind] for kind in (modality, *kinds) if kind in _NO_SCANS), no_scan),
        not all(shape) and modality in (None, *_MEASURED) and path.name.upper() != "DICOMDIR",
    )


class _Told:
    """What a header says of one frame: in its own functional groups, in those that all frames
    share, or, as in files of a single image, at the top."""

    def __init__(self, header: Any, shared: Any, own: Any) -> None:
        self.header, self._groups = header, (own, shared)

    def numbers(self, name: str, group: str = "") -> tuple[float, ...]:
        """The values of an attribute, nothing where it is missing, empty or no number."""
        places = [got[0] for one in self._groups if group and (got := one.get(group))]
        for place in (*places, self.header):
            value = place.get(name)
            if value not in (None, ""):
                many = isinstance(value, list | pydicom.multival.MultiValue)
                try:
                    return tuple(float(one) for one in (value if many else [value]))
                except (TypeError, ValueError):
                    continue
        return ()

    def number(self, name: str, group: str = "") -> float:
        """The first of them, or 0."""
        return (*self.numbers(name, group), 0.0)[0]


def _plane(path: Path, frame: int, told: _Told) -> Plane:
    position = told.numbers("ImagePositionPatient", "PlanePositionSequence")
    along = told.numbers("ImageOrientationPatient", "PlaneOrientationSequence")
    placed = len(position) == 3 and len(along) == 6
    pixel = told.numbers("PixelSpacing", "PixelMeasuresSequence")
    measures, values = "PixelMeasuresSequence", "PixelValueTransformationSequence"
    thickness = [told.number(name, measures) for name in ("SpacingBetweenSlices", "SliceThickness")]
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
            # Before the trigger's: that varies from beat to beat where each image is of another.
            told.number("AcquisitionNumber"),
            told.number("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence"),
            told.number("TriggerTime"),
            told.number("InstanceNumber"),
            told.number("AcquisitionTime"),
            told.number("ContentTime"),
            *told.numbers("DimensionIndexValues", "FrameContentSequence"),
            frame,
        ),
        (told.number("RescaleSlope", values) or 1.0, told.number("RescaleIntercept", values)),
        _turned(told),
        bool(told.header.get("ModalityLUTSequence")),
    )


def _turned(told: _Told) -> float | None:
    """See Plane."""
    greys, modality = (told.header.get(name) for name in ("PhotometricInterpretation", "Modality"))
    if greys != "MONOCHROME1" or modality not in _MEASURED:
        return None
    return -1.0 if told.number("PixelRepresentation") else 2 ** told.number("BitsStored") - 1.0
