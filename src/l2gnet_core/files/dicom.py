"""DICOM series: the voxels and the geometry of a scan.

pydicom reads headers (l2gnet_core.files.dicom_header). SimpleITK (GDCM) decodes voxels of any
compression and rescales them to real values. Slices are ordered by their position along the image
normal, never by file name or number. Images at one position become frames of a time series.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from l2gnet_core.errors import InputError, memory_is_short
from l2gnet_core.files.dicom_header import Plane
from l2gnet_core.files.dicom_series import Series, series_of
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.quiet import quiet_itk
from l2gnet_core.files.values import brightness, plain_values
from l2gnet_core.scans.volume import LPS_TO_RAS, Volume, default_affine

# Images nearer to each other than both of these, in mm and in pixels, are at one position.
_SAME_PLACE, _SAME_PIXEL = 0.01, 0.1
# Share of the distance between slices by which one may be off before a warning is given.
_UNEVEN = 0.1


def read(path: Path, mask: bool = False) -> tuple[Volume, LabelText]:
    """Read the scan that a file is part of, or that a folder holds; see
    l2gnet_core.files.read_volume."""
    volume = read_series(series_of(path), mask)
    return replace(volume, name=path.resolve().name) if path.is_dir() else volume, LabelText()


def label_text(path: Path) -> LabelText:
    """Empty, because DICOM series are scans. See l2gnet_core.files.read_label_text."""
    series_of(path)
    return LabelText()


def read_series(series: Series, mask: bool = False) -> Volume:
    """The scan of a series, (z,y,x) or (t,z,y,x). Raises InputError, one sentence."""
    warnings: list[str] = []
    frames = _frames(series, warnings)
    data = _voxels(series, frames, warnings)
    slices = frames[0]
    first = slices[0]
    even = _even(series.name, slices, warnings)
    if series.unread:
        more = ", …" if len(series.unread) > 1 else ""
        warnings.append(
            f"{len(series.unread)} of the files beside {series.name} cannot be read "
            f"({series.unread[0].name}{more}): slices may be missing; copy them again."
        )
    stated = first.thickness > 0 or (first.position is not None and len(slices) > 1)
    return Volume(
        plain_values(series.name, data if len(frames) > 1 else data[0], warnings, mask),
        affine=_affine(slices),
        units="mm" if all(first.pixel) else "pixel",
        stored_axes=(0, 1, 2),
        oriented=first.position is not None,
        # Where slices are missing, the size of a voxel is not known.
        thickness_stated=stated and even and not series.unread,
        name=series.name,
        warnings=tuple(warnings),
    )


def _positions(planes: list[Plane]) -> npt.NDArray[np.float64]:
    """Positions of planes, (n, 3), mm in LPS+."""
    return np.array([plane.position for plane in planes])


def _frames(series: Series, warnings: list[str]) -> list[list[Plane]]:
    """The planes of each frame, ordered by position. Adds to warnings."""
    planes = sorted(series.planes, key=lambda plane: plane.order)
    first = planes[0]
    if first.along is None:
        return [planes]
    heights = _positions(planes) @ np.cross(*first.along)
    near = min(_SAME_PLACE, *(size * _SAME_PIXEL for size in first.pixel if size), _SAME_PLACE)
    order = np.argsort(heights, kind="stable")
    starts = np.flatnonzero(np.diff(heights[order], prepend=-np.inf) > near)
    # Images at one position keep their order in time.
    places = [[planes[k] for k in sorted(part)] for part in np.split(order, starts[1:])]
    fewest, most = min(map(len, places)), max(map(len, places))
    if fewest < most:
        warnings.append(
            f"{series.name} has {most} images at some places and {fewest} at others; the first "
            f"{fewest} of each are shown, and may not belong together."
        )
    return [[place[k] for place in places] for k in range(fewest)]


def _even(name: str, slices: list[Plane], warnings: list[str]) -> bool:
    """Are slices evenly spaced on a straight line? Warns if not, and if the line is oblique to
    them."""
    first = slices[0]
    if len(slices) < 3 or first.along is None:
        return True
    places = _positions(slices)
    gaps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    stray = np.linalg.norm(places - np.linspace(places[0], places[-1], len(places)), axis=1).max()
    if stray > _UNEVEN * gaps.mean():
        warnings.append(
            f"{name} has slices {gaps.min():.4g} to {gaps.max():.4g} mm apart, so some may be "
            "missing or of another scan; they are shown as evenly spaced, and volumes cannot be "
            "told in mL."
        )
        return False
    if np.linalg.norm(first.along @ (places[-1] - places[0])) > max(first.pixel):
        warnings.append(
            f"{name} was taken with a tilted gantry: programs that cannot shear (3D Slicer, "
            "ITK-SNAP) show its masks elsewhere."
        )
    return True


def _affine(slices: list[Plane]) -> npt.NDArray[np.float64]:
    """Affine (4, 4), voxel (x, y, z, 1) → RAS+ mm; it shears slices of a tilted gantry."""
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
    """Real values, (t, z, y, x); whole numbers become int16 where they fit."""
    decoded = {path: _decoded(path, series.shape) for path in series.files}
    first = {plane.path: plane for plane in series.planes if plane.frame == 0}
    images = [
        _real(decoded[plane.path][plane.frame], plane, first.get(plane.path, plane))
        for slices in frames
        for plane in slices
    ]
    if any(image.ndim == 3 for image in images):
        warnings.append(f"{series.name} is in colour; it is read as brightness.")
        images = [brightness(np.moveaxis(one, -1, 0)) if one.ndim == 3 else one for one in images]
    if any(plane.has_table for plane in series.planes):
        warnings.append(f"{series.name} has a table of values (Modality LUT); it is left out.")
    data = np.stack(images).reshape(len(frames), -1, *series.shape)
    if data.dtype == np.float64:
        return data.astype(np.float32)
    small, wide = np.iinfo(np.int16), data.dtype.kind in "iu" and data.dtype.itemsize > 2
    if wide and small.min <= data.min() and data.max() <= small.max:
        return data.astype(np.int16)
    return data


def _real(image: npt.NDArray[Any], plane: Plane, first: Plane) -> npt.NDArray[Any]:
    """The real values (y,x) of a plane, from GDCM's.

    GDCM rescales all frames of a file as the first one, and inverts every image that shows its
    lowest value as white; both are corrected here.
    """
    if plane.turned is None and plane.rescale == first.rescale:
        return image
    slope, intercept = first.rescale
    stored = np.rint((image.astype(np.float64) - intercept) / slope)
    if plane.turned is not None:
        stored = plane.turned - stored
    slope, intercept = plane.rescale
    real = stored * slope + intercept
    whole = slope.is_integer() and intercept.is_integer()
    return np.asarray(real.astype(np.int32) if whole else real)


def _decoded(path: Path, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """The images of a file, (frames, y, x), or (frames, y, x, 3) in colour."""
    try:
        with quiet_itk():
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
