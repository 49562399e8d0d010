"""Read and write TIFF stacks: plain ones, ImageJ's and OME's.

tifffile reads the container and its axes; the voxel size comes from the metadata of ImageJ or OME,
or from the resolution tags.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files.atomic import replace_file
from l2gnet_core.files.compression import MOST_COMPRESSION
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.tiff_size import voxel_size
from l2gnet_core.files.values import brightness, plain_values
from l2gnet_core.scans.volume import Grid, Volume, default_affine

_CLASSIC_LIMIT = 4 << 30

_log = logging.getLogger("tifffile")
# tifffile logs each oddity; without a handler, Python would print it to stderr.
_log.addHandler(logging.NullHandler())


class _Complaints(logging.Handler):
    """What tifffile logs in this thread about missing pages, which it then leaves out.

    Messages about single tags (a colour profile, a comment) are ignored: the scan is usable.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.thread == self._thread and not message.startswith("<TiffTag"):
            self.found.append(message)

    def __enter__(self) -> _Complaints:
        _log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        _log.removeHandler(self)


@dataclass(frozen=True)
class TiffSource:
    """What a writer needs to store a mask as its image is.

    axes: as stored, such as "YX" or "TZYX". ome: is it an OME-TIFF?
    """

    axes: str
    ome: bool


def read(path: Path, mask: bool = False) -> tuple[Volume, LabelText]:
    """Read a scan and the label text it may carry; see l2gnet_core.files.read_volume."""
    warnings: list[str] = []
    with _told_if_damaged(path), _Complaints() as complaints, tifffile.TiffFile(path) as tif:
        series = _series(path, tif, warnings)
        axes, stored = series.axes, series.asarray()
        # tifffile does not raise for missing pages, but returns fewer of them.
        if complaints.found or stored.shape != series.shape or not stored.size:
            raise InputError(
                f"{path.name} is cut short or damaged: not all of its voxels are there; "
                "copy or export it again."
            )
        spacing, unit_stated, between_stated = voxel_size(tif, series, warnings)
        text = _label_text(tif)
        ome = bool(tif.is_ome)
    data, kept = _scan_axes(path.name, axes, stored, warnings, mask)
    affine, oriented = _affine(text, spacing)
    volume = Volume(
        plain_values(path.name, np.ascontiguousarray(data), warnings, mask),
        affine=affine,
        units="mm" if unit_stated else "pixel",
        stored_axes=(0, 1, 2),
        oriented=oriented,
        # For several slices, a warning tells which distance is assumed.
        thickness_stated=between_stated or data.shape[-3] > 1,
        source=TiffSource(kept, ome),
        warnings=tuple(warnings),
    )
    return volume, text


def label_text(path: Path) -> LabelText:
    """The label text alone; see l2gnet_core.files.read_label_text."""
    with _told_if_damaged(path), tifffile.TiffFile(path) as tif:
        return _label_text(tif)


@contextmanager
def _told_if_damaged(path: Path) -> Iterator[None]:
    """Turn errors of tifffile into InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # tifffile raises many kinds for a damaged file
        # For Zstandard it imports a module of Python's that is new in 3.14.
        if "imagecodecs" in str(error) or isinstance(error, ModuleNotFoundError):
            raise InputError(
                f"{path.name} is compressed in a way that needs one more package: "
                "run pip install imagecodecs, or save it uncompressed."
            ) from error
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise InputError(
            f"{path.name} is damaged or not a TIFF file ({reason}): copy or export it again."
        ) from error


def _series(path: Path, tif: tifffile.TiffFile, warnings: list[str]) -> tifffile.TiffPageSeries:
    """The first image of the file. Raises InputError if the file is too short for its voxels."""
    if not tif.series:
        raise InputError(f"{path.name} holds no image: export it again.")
    series = tif.series[0]
    size = path.stat().st_size
    claimed = int(series.size) * (series.dtype.itemsize if series.dtype is not None else 1)
    if claimed > max(64 << 20, size * MOST_COMPRESSION) or claimed <= 0:
        raise InputError(
            f"{path.name} claims {claimed:,} bytes of voxels {series.shape} and holds {size:,} "
            "bytes in all: it is cut short or damaged."
        )
    end = 0
    if series.dataoffset is not None:
        end = series.dataoffset + claimed
    else:
        for page in series.pages:
            if page is not None and len(page.dataoffsets):
                end = max(end, *map(sum, zip(page.dataoffsets, page.databytecounts, strict=False)))
    if end > size:
        raise InputError(
            f"{path.name} is cut short: its voxels end at byte {end:,}, the file at byte {size:,}; "
            "copy or export it again."
        )
    if len(tif.series) > 1:
        warnings.append(f"{path.name} holds {len(tif.series)} images; the first one is read.")
    return series


def _scan_axes(
    name: str, axes: str, stored: npt.NDArray[Any], warnings: list[str], mask: bool
) -> tuple[npt.NDArray[Any], str]:
    """The voxels as (z, y, x) or (t, z, y, x), and the letters of the axes that they keep.

    Raises InputError for other axes, and for a mask in colours, which are not label numbers.
    """
    if "S" in axes:
        samples = np.moveaxis(stored, axes.index("S"), 0)
        axes = axes.replace("S", "")
        if mask and len(samples) >= 3:
            if not all(np.array_equal(samples[0], other) for other in samples[1:3]):
                raise InputError(
                    f"{name} is a colour image where label numbers are expected: save it with one "
                    "whole number a voxel."
                )
            stored = samples[0]
        elif len(samples) >= 3:
            stored = brightness(samples)
            warnings.append(f"{name} is a colour image; its brightness is shown and segmented.")
        else:
            stored = samples[0]
            warnings.append(f"{name} has {len(samples)} values a voxel; the first one is read.")
    if "C" in axes:
        channels = np.moveaxis(stored, axes.index("C"), 0)
        axes = axes.replace("C", "")
        stored = channels[0]
        if len(channels) > 1:
            warnings.append(f"{name} has {len(channels)} channels; the first one is read.")
    # By number, because several axes may have the same letter.
    lone = [n for n, a in enumerate(axes) if a not in "TZYX" and stored.shape[n] == 1]
    stored = stored.squeeze(tuple(lone))
    axes = "".join(letter for n, letter in enumerate(axes) if n not in lone)
    depth = [letter for letter in axes if letter not in "TYX"]
    if not {"Y", "X"} <= set(axes) or len(depth) > 1 or len(set(axes)) != len(axes):
        raise InputError(
            f"{name} has the axes {axes} {stored.shape} where a stack (z, y, x) or a time series "
            "(t, z, y, x) is expected: export one of its images."
        )
    order = ("T" if "T" in axes else "") + "".join(depth) + "YX"
    data = stored.transpose([axes.index(letter) for letter in order])
    if not depth:
        data = np.expand_dims(data, -3)
    return data, order.replace("".join(depth), "Z") if depth else order


def _label_text(tif: tifffile.TiffFile) -> LabelText:
    found = None
    if tif.imagej_metadata:
        found = LabelText.from_json(str(tif.imagej_metadata.get("Info", "")))
    elif tif.ome_metadata:
        try:
            image = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]
            image = image[0] if isinstance(image, list) else image
            found = LabelText.from_json(str(image.get("Description", "")))
        except Exception:  # noqa: BLE001 – a mask with odd XML is usable without its names
            found = None
    return found or LabelText()


def _affine(
    text: LabelText, spacing: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], bool]:
    """The affine (4, 4) that our own masks carry, and whether it was stated by a file; the default
    affine and False if there is none or it contradicts the voxel size."""
    try:
        carried = np.array(text.extra.get("affine"), dtype=np.float64)
        if carried.shape == (4, 4) and np.allclose(
            np.linalg.norm(carried[:3, :3], axis=0)[::-1], spacing, rtol=1e-3
        ):
            return carried, text.extra.get("oriented") is True
    except (TypeError, ValueError):
        pass
    return default_affine(spacing), False


def write(path: Path, labels: npt.NDArray[Any], like: Volume | Grid, text: LabelText) -> None:
    """Write a mask (z,y,x) or (t,z,y,x), read it back and compare; see
    l2gnet_core.files.write_labels.

    It is an ImageJ stack, or OME if the image or the suffix is; uncompressed, as ImageJ needs it.
    """
    source = like.source if isinstance(like.source, TiffSource) else None
    axes = "TZYX"[-labels.ndim :]
    stored = labels
    if source is not None and "Z" not in source.axes:
        stored, axes = labels.squeeze(-3), axes.replace("Z", "")
    if not np.allclose(like.affine, default_affine(like.spacing)):
        extra = {"affine": like.affine.tolist(), "oriented": like.oriented}
        text = replace(text, extra=extra)
    ome = ".ome." in path.name.lower() or (source is not None and source.ome)
    options = _options(like, axes, text, ome or labels.nbytes > _CLASSIC_LIMIT * 0.95)

    def write_to(file: BinaryIO) -> None:
        tifffile.imwrite(file, stored, photometric="minisblack", **options)

    def check(written: Path) -> None:
        again, _ = read(written)
        if not (
            np.array_equal(again.data, labels)
            and again.units == like.units
            and (like.units == "pixel" or np.allclose(again.spacing, like.spacing, rtol=1e-5))
        ):
            raise OutputError(f"{path} did not read back as it was written: check the disk.")

    replace_file(path, ".ome.tif" if options.get("ome") else ".tif", write_to, check)


def _options(like: Volume | Grid, axes: str, text: LabelText, ome: bool) -> dict[str, Any]:
    z, y, x = like.spacing
    metadata: dict[str, Any] = {"axes": axes}
    if ome:
        metadata["Description"] = text.to_json()
        if like.units == "mm":
            for letter, size in (("X", x), ("Y", y), ("Z", z)):
                metadata[f"PhysicalSize{letter}"] = size
                metadata[f"PhysicalSize{letter}Unit"] = "mm"
        return {"ome": True, "metadata": metadata}
    metadata["Info"] = text.to_json()
    if like.units == "pixel":
        return {"imagej": True, "metadata": metadata}
    metadata |= {"spacing": z, "unit": "mm"}
    return {"imagej": True, "metadata": metadata, "resolution": (1 / x, 1 / y)}
