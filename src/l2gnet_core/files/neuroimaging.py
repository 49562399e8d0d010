"""Read formats of neuroimaging tools with nibabel: FreeSurfer, AFNI, MINC, Philips PAR/REC."""

from __future__ import annotations

import warnings as python_warnings
from pathlib import Path

import nibabel
import numpy as np
from nibabel.freesurfer.mghformat import MGHImage
from nibabel.minc1 import Minc1Image
from nibabel.spatialimages import SpatialImage

from l2gnet_core.errors import InputError
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.quiet import quiet_logger
from l2gnet_core.files.values import plain_values
from l2gnet_core.scans.volume import Volume


def read(path: Path, mask: bool = False) -> tuple[Volume, LabelText]:
    """Read a scan; see l2gnet_core.files.read_volume."""
    try:
        with quiet_logger("nibabel.global"), python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            # Not mapped: Windows refuses to replace a mapped file, and elsewhere the process dies
            # if such a file is cut short.
            image = nibabel.load(path, mmap=False)
            if not isinstance(image, SpatialImage):
                raise InputError(f"{path.name} holds no voxels: open the volume it was made from.")
            data = np.asanyarray(image.dataobj)
            if data.ndim == 4 and isinstance(image, Minc1Image):
                data = np.moveaxis(data, 0, -1)  # nibabel keeps MINC's order, time first
    except (InputError, MemoryError):
        raise
    except Exception as error:  # nibabel raises many kinds for a damaged file
        reason = str(error).strip().split("\n")[0][:120].rstrip(".") or type(error).__name__
        raise InputError(
            f"{path.name} is cut short, damaged or not what its name says ({reason}): copy or "
            "export it again."
        ) from error
    if data.ndim > 4 and data.shape[4:] == (1,) * (data.ndim - 4):
        data = data.reshape(data.shape[:4])
    if data.ndim not in (3, 4):
        raise InputError(
            f"{path.name} has the shape {data.shape} where a scan (x, y, z) or a time series "
            "(x, y, z, t) is expected: extract one of them."
        )
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    warnings: list[str] = []
    volume = Volume(
        plain_values(path.name, data.T, warnings, mask),
        affine=np.asarray(image.affine),
        units="mm",
        stored_axes=(2, 1, 0),
        oriented=not isinstance(image, MGHImage) or bool(image.header["goodRASFlag"]),
        warnings=tuple(warnings),
    )
    return volume, LabelText()


def label_text(path: Path) -> LabelText:
    """Empty, because these files have no label names. See l2gnet_core.files.read_label_text."""
    read(path)
    return LabelText()
