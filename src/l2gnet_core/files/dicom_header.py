"""What the header of a DICOM file says of its images.

Source: DICOM PS3.3, C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

import warnings as python_warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from l2gnet_core.files.compression import MOST_COMPRESSION
from l2gnet_core.files.dicom_files import is_dicom

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
    "BitsAllocated",
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
# Of squared lengths and of a right angle's cosine: some programs write directions with one digit,
# and rounding changes these by up to 0.18.
_NO_DIRECTION = 0.2
# Transfer syntaxes of uncompressed voxels.
_PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
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


@dataclass(frozen=True)
class DicomFile:
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


def dicom_header_of(path: Path) -> DicomFile | None:
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


def _understood(path: Path, header: Any) -> DicomFile:
    """Raises whatever values do that are not what they should be."""
    shape = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    count = int(header.get("NumberOfFrames") or 1)
    least = _frame_bytes(header, shape)
    # A single one that was cut short is told of when it is read.
    if count < 1 or (count > 1 and count * least > path.stat().st_size):
        raise ValueError("a damaged number: so many frames are not in the file")
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
    return DicomFile(
        uid=str(header.get("SOPInstanceUID") or ""),
        series=str(series),
        # The first two only say whether it is an original.
        kinds=kinds[2:],
        title=" ".join(str(word) for word in words if word) or path.stem,
        shape=shape,
        planes=planes,
        no_scan=next(
            (_NO_SCANS[kind] for kind in (modality, *kinds) if kind in _NO_SCANS), no_scan
        ),
        cut=not all(shape) and modality in (None, *_MEASURED) and path.name.upper() != "DICOMDIR",
    )


def _frame_bytes(header: Any, shape: tuple[int, int]) -> float:
    """What a frame takes in the file at least."""
    size = shape[0] * shape[1] * int(header.get("BitsAllocated") or 1) / 8
    plain = getattr(header.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian) in _PLAIN
    return max(size if plain else size / MOST_COMPRESSION, 1.0)


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
    placed = len(position) == 3 and _are_directions(along)
    pixel = told.numbers("PixelSpacing", "PixelMeasuresSequence")
    measures, values = "PixelMeasuresSequence", "PixelValueTransformationSequence"
    thickness = [told.number(name, measures) for name in ("SpacingBetweenSlices", "SliceThickness")]
    return Plane(
        path,
        frame,
        position=np.array(position) if placed else None,
        along=np.array(along).reshape(2, 3) if placed else None,
        pixel=(pixel[0], pixel[1]) if len(pixel) == 2 else (0.0, 0.0),
        thickness=abs(next(filter(None, thickness), 0.0)),
        order=(
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
        rescale=(
            told.number("RescaleSlope", values) or 1.0,
            told.number("RescaleIntercept", values),
        ),
        turned=_turned(told),
        has_table=bool(told.header.get("ModalityLUTSequence")),
    )


def _are_directions(along: tuple[float, ...]) -> bool:
    """Are these two unit vectors at right angles? Where they are not, as zeros that stand for what
    a program did not know, they are no place for slices."""
    if len(along) != 6:
        return False
    pair = np.array(along).reshape(2, 3)
    return bool(np.abs(pair @ pair.T - np.eye(2)).max() < _NO_DIRECTION)


def _turned(told: _Told) -> float | None:
    """See Plane."""
    greys, modality = (told.header.get(name) for name in ("PhotometricInterpretation", "Modality"))
    if greys != "MONOCHROME1" or modality not in _MEASURED:
        return None
    return -1.0 if told.number("PixelRepresentation") else 2 ** told.number("BitsStored") - 1.0
