"""The voxel size that a TIFF file states, in mm."""

from __future__ import annotations

import math
from typing import Any

import tifffile

_MM = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimetre": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "um": 1e-3,
    "µm": 1e-3,  # micro sign
    "μm": 1e-3,  # Greek mu
    "\\u00b5m": 1e-3,  # as ImageJ escapes it
    "micron": 1e-3,
    "microns": 1e-3,
    "micrometer": 1e-3,
    "nm": 1e-6,
    "inch": 25.4,
    "in": 25.4,
    "å": 1e-7,
    "pm": 1e-9,
}
_INCH, _CM = 2, 3
# Resolutions of paper and screens, which programs write when they do not know the voxel size.
_PRINT_DPI = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 400, 600, 1200, 2400)
# One pixel per inch, or per millimetre: the default of programs that are given no resolution.
_NO_DPI = (1, 25.4)

Size = tuple[float, float, float]


def voxel_size(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, warnings: list[str]
) -> tuple[Size, bool, bool]:
    """The voxel size (z, y, x) in mm; whether it is stated, (1, 1, 1) if not; whether the distance
    between slices is stated.

    If only that distance is not stated, it is assumed to be the pixel size. Adds to warnings.
    """
    name = tif.filename
    if tif.is_ome and tif.ome_metadata:
        found = _ome_size(tif.ome_metadata)
    elif tif.is_imagej and tif.imagej_metadata is not None:
        found = _imagej_size(tif.imagej_metadata, series)
    else:
        found = _tag_size(series)
    if found is None or not all(1e-7 < s < 1e4 for s in found[1:] if s is not None):
        return (1.0, 1.0, 1.0), False, False
    z, y, x = found
    between = True
    if z is None or not 1e-7 < z < 1e4:
        between = False
        z = x
        if any(letter in "ZIQ" for letter in series.axes):
            warnings.append(
                f"{name} does not state the distance between its slices; it is taken to be the "
                f"pixel size, {x:.4g} mm."
            )
    return (z, y, x), True, between


def _ome_size(xml: str) -> tuple[float | None, float, float] | None:
    try:
        image = tifffile.xml2dict(xml)["OME"]["Image"]
        pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
        sizes = []
        for letter in "ZYX":
            unit = str(pixels.get(f"PhysicalSize{letter}Unit", "µm")).lower()
            size = pixels.get(f"PhysicalSize{letter}")
            sizes.append(None if size is None else float(size) * _MM[unit])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None
    z, y, x = sizes
    return None if y is None or x is None else (z, y, x)


def _imagej_size(
    metadata: dict[str, Any], series: tifffile.TiffPageSeries
) -> tuple[float | None, float, float] | None:
    factor = _MM.get(str(metadata.get("unit", "")).strip().lower())
    per_unit = _resolution(series)
    if factor is None or per_unit is None:
        return None
    x, y = per_unit
    # Fiji keeps the print resolution of a plain file.
    if factor in (_MM["inch"], _MM["cm"]) and _of_print(per_unit, factor, _PRINT_DPI):
        return None
    spacing = metadata.get("spacing")
    z = abs(float(spacing)) * factor if isinstance(spacing, int | float) and spacing else None
    return z, factor / y, factor / x


def _tag_size(series: tifffile.TiffPageSeries) -> tuple[None, float, float] | None:
    """The size (None, y, x) by the resolution tags, unless these look like a print resolution."""
    per_unit = _resolution(series)
    tag = series.keyframe.tags.get("ResolutionUnit")
    unit = int(tag.value) if tag is not None else 0
    if per_unit is None or unit not in (_INCH, _CM):
        return None
    x, y = per_unit
    factor = _MM["inch"] if unit == _INCH else _MM["cm"]
    if _of_print(per_unit, factor, (*_NO_DPI, *_PRINT_DPI)):
        return None
    return None, factor / y, factor / x


def _of_print(per_unit: tuple[float, float], factor: float, resolutions: tuple[float, ...]) -> bool:
    """Is x or y of `per_unit`, pixels per unit of `factor` mm, one of `resolutions` in dpi?"""
    return any(
        math.isclose(r * 25.4 / factor, dpi, rel_tol=0.015) for r in per_unit for dpi in resolutions
    )


def _resolution(series: tifffile.TiffPageSeries) -> tuple[float, float] | None:
    """Pixels per unit, (x, y); None where the tags are missing or not plausible."""
    values = []
    for key in ("XResolution", "YResolution"):
        tag = series.keyframe.tags.get(key)
        if tag is None:
            return None
        try:
            numerator, denominator = tag.value
            value = numerator / denominator
        except (TypeError, ValueError, ZeroDivisionError):
            return None
        if not (math.isfinite(value) and value > 0):
            return None
        values.append(value)
    x, y = values
    return (x, y) if 1e-4 < x / y < 1e4 else None
