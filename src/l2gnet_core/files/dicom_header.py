"""What the header of a DICOM file says about its images.

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

# DICOM files that are not scans, by modality or image type, and what to do instead.
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
# Tolerance of squared lengths and of cosines: some programs write directions with one digit, which
# changes these by up to 0.18.
_NO_DIRECTION = 0.2
# Transfer syntaxes of uncompressed voxels.
_PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
#: Modalities whose values are measurements, not greys to be looked at.
_MEASURED = ("CT", "MR", "NM", "PT")


@dataclass(frozen=True, eq=False)
class Plane:
    """One image: a file, or a frame of one.

    position: (3,), of the first pixel, mm in LPS+; None where the file does not say.
    along: (2, 3), orthogonal unit vectors in LPS+ along which columns and rows are counted; None as
        position.
    pixel: height and width, mm; 0 where not stated.
    thickness: from slice to slice, mm; 0 where not stated.
    order: sorts images at one position, earlier ones first.
    rescale: slope and intercept of this frame.
    turned: sum of the lowest and the highest stored number, for measured values whose lowest number
        is shown white; else None.
    has_table: do values go through a table (Modality LUT)?
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
    """What a file's header says.

    uid: of the image (SOP instance). series: UID of its series, or other values that tell it apart.
    kinds: what the image shows (ImageType from the third value on). title: as in `Series`.
    shape: rows and columns, 0 where there is no image. planes: its images. no_scan: why these are
    not of a scan, "" if they are. cut: does the file end before it says what it is?
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
    """What a file's header says; None for a file that is not DICOM or cannot be understood."""
    if not is_dicom(path):
        return None
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            return _understood(path, header)
    except Exception:  # noqa: BLE001 – pydicom raises many kinds for a damaged file
        return None


def _understood(path: Path, header: Any) -> DicomFile:
    """The header's values. May raise any exception if they are malformed."""
    shape = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    count = int(header.get("NumberOfFrames") or 1)
    least = _frame_bytes(header, shape)
    # A single frame that is cut short is reported when its voxels are read.
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
        # A position can only be that of the first frame: those of the others are not stated.
        planes = [replace(plane, position=None, along=None) for plane in planes]
    modality, kinds = header.get("Modality"), tuple(map(str, header.get("ImageType") or ()))
    words = header.get("SeriesNumber"), header.get("SeriesDescription")
    series = header.get("SeriesInstanceUID") or (
        # Careless anonymisation may leave the UID blank.
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
    """The least number of bytes that a frame takes in the file."""
    size = shape[0] * shape[1] * int(header.get("BitsAllocated") or 1) / 8
    plain = getattr(header.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian) in _PLAIN
    return max(size if plain else size / MOST_COMPRESSION, 1.0)


class _Told:
    """What a header says about one frame: in the frame's own functional groups, else in the shared
    ones, else at the top level, as in files of a single image."""

    def __init__(self, header: Any, shared: Any, own: Any) -> None:
        self.header, self._groups = header, (own, shared)

    def numbers(self, name: str, group: str = "") -> tuple[float, ...]:
        """The values of an attribute; () where it is missing, empty or not a number."""
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
        """The first value of an attribute, or 0."""
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
        along=_orthonormal(np.array(along).reshape(2, 3)) if placed else None,
        pixel=(pixel[0], pixel[1]) if len(pixel) == 2 else (0.0, 0.0),
        thickness=abs(next(filter(None, thickness), 0.0)),
        order=(
            told.number("TemporalPositionIndex", "FrameContentSequence"),
            told.number("TemporalPositionIdentifier"),
            told.number("EchoNumbers"),
            # Before the trigger time, which varies from beat to beat.
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
    """Are these six numbers two orthogonal unit vectors? Programs write zeros where they do not
    know the directions."""
    if len(along) != 6:
        return False
    pair = np.array(along).reshape(2, 3)
    return bool(np.abs(pair @ pair.T - np.eye(2)).max() < _NO_DIRECTION)


def _orthonormal(pair: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The two directions (2, 3) without what rounding did to them, in the plane of both: as ITK
    has them, the second one keeps its direction."""
    normal, second = np.cross(*pair), pair[1] / np.linalg.norm(pair[1])
    return np.array([np.cross(second, normal / np.linalg.norm(normal)), second])


def _turned(told: _Told) -> float | None:
    """See `Plane.turned`."""
    greys, modality = (told.header.get(name) for name in ("PhotometricInterpretation", "Modality"))
    if greys != "MONOCHROME1" or modality not in _MEASURED:
        return None
    return -1.0 if told.number("PixelRepresentation") else 2 ** told.number("BitsStored") - 1.0
