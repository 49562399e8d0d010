"""Geometry of NIfTI and Analyze files in mm: which of a header's statements counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError
from nibabel.spm2analyze import Spm2AnalyzeHeader

from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.scans.volume import Geometry, NoSizeStated

_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}


def geometry(path: Path, header: Any, text: LabelText, warnings: list[str]) -> Geometry:
    """Where voxels lie, in mm, by a header that has its voxel sizes as stored. Adds to warnings.

    The sform counts before the qform, the qform before the bare voxel sizes, as in nibabel. Forms
    that are singular or not finite are ignored. The units are pixels if sizes are missing that are
    needed.
    """
    name = path.name
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    missing = ~np.isfinite(sizes) | (sizes == 0)
    # As in nibabel, a missing size counts as 1, and a negative one without its sign.
    header = header.copy()
    header["pixdim"][1:4] = np.where(missing, 1.0, sizes)
    if isinstance(header, Spm2AnalyzeHeader):
        affine, counts = _analyze_affine(path, header, warnings)
        unit = None
    else:
        unit = int(header["xyzt_units"]) & 7
        affine, counts = _nifti_affine(name, header, _MM.get(unit, 1.0), warnings)
        if unit in _UNIT_NAMES:
            warnings.append(
                f"{name} is measured in {_UNIT_NAMES[unit]}; it is shown in millimetres."
            )
    # Only the sform and SPM's .mat file hold voxel sizes of their own.
    if counts in ("sform", "mat"):
        missing[:] = False
    # An axis of one voxel may be one that the image does not have.
    flat = np.array((*header.get_data_shape()[:3], 1, 1)[:3]) == 1
    if unsized := bool((missing & ~flat).any()):
        sentence = f"{name} states no voxel size: it counts in pixels, without mL."
        warnings.append(NoSizeStated(sentence))
    # Many writers leave out the unit and mean mm. Without unit, position and voxel size, the file
    # states nothing physical.
    unstated = unit == 0 and not counts and set(np.abs(np.diag(affine)[:3])) == {1.0}
    pixels = unsized or unstated or text.extra.get("units") == "pixel"
    return Geometry(
        affine=affine,
        units="pixel" if pixels else "mm",
        oriented=bool(counts) and text.extra.get("oriented") is not False,
        thickness_stated=not (missing & flat).any(),
    )


def _nifti_affine(
    name: str, header: Any, unit_mm: float, warnings: list[str]
) -> tuple[npt.NDArray[np.float64], str]:
    """The affine in mm, and which form it is of: "sform", "qform" or ""."""
    to_mm = np.diag([unit_mm] * 3 + [1.0])
    stated: dict[str, npt.NDArray[np.float64]] = {}
    for kind, code, get in (
        ("sform", int(header["sform_code"]), header.get_sform),
        ("qform", int(header["qform_code"]), header.get_qform),
    ):
        if code <= 0:
            continue
        try:
            affine = np.asarray(get(), dtype=np.float64)
        except (HeaderDataError, ValueError, np.linalg.LinAlgError):
            affine = np.zeros((4, 4))
        if _usable(affine):
            stated[kind] = to_mm @ affine
        else:
            warnings.append(f"The {kind} of {name} is not a valid position and is passed over.")
    if len(stated) == 2:
        _compare(name, stated["sform"], stated["qform"], header.get_data_shape(), warnings)
    for kind, affine in stated.items():
        return affine, kind
    return to_mm @ _bare_affine(header), ""


def _usable(affine: npt.NDArray[np.float64]) -> bool:
    if not np.isfinite(affine).all():
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() <= 0:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3)


def _bare_affine(header: Any) -> npt.NDArray[np.float64]:
    """nibabel's affine for a header without a position."""
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    shape = (*header.get_data_shape()[:3], 1, 1)[:3]
    linear = np.diag(sizes * (-1.0 if header.default_x_flip else 1.0, 1.0, 1.0))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, -linear @ ((np.array(shape) - 1) / 2)
    return affine


def _compare(
    name: str,
    sform: npt.NDArray[np.float64],
    qform: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    warnings: list[str],
) -> None:
    size = np.array((*shape[:3], 1, 1)[:3], dtype=np.float64)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in size))).reshape(3, -1)
    apart = np.abs((sform - qform)[:3] @ np.vstack([corners, np.ones(8)])).max()
    smallest = np.linalg.norm(sform[:3, :3], axis=0).min()
    if apart > 0.5 * smallest:
        warnings.append(
            f"{name} states two positions that differ by up to {apart:.3g} mm; the sform counts, "
            "not the qform."
        )


def _analyze_affine(
    path: Path, header: Any, warnings: list[str]
) -> tuple[npt.NDArray[np.float64], str]:
    """The affine in mm, and "mat" if it is of SPM's file, else ""."""
    stated = _spm_mat(path)
    if stated is not None and _usable(stated):
        return stated, "mat"
    warnings.append(
        f"{path.name} is in Analyze format, which does not say which side is right; it is taken "
        "as stored right to left."
    )
    return _bare_affine(header), ""


def _spm_mat(path: Path) -> npt.NDArray[np.float64] | None:
    """The affine that SPM stores in a .mat file beside an Analyze pair; None without one."""
    mat = path.with_name(path.name[: path.name.lower().rindex(".")] + ".mat")
    if not mat.is_file():
        return None
    try:
        from scipy.io import loadmat

        content = loadmat(str(mat))
        # SPM counts voxels from 1. "M" lacks the left-right flip of Analyze, "mat" has it.
        from_one = np.asarray(content["mat"] if "mat" in content else content["M"], dtype=float)
        if "mat" not in content:
            from_one = np.diag([-1.0, 1, 1, 1]) @ from_one
        to_one = np.eye(4)
        to_one[:3, 3] = 1
        return np.asarray(from_one.reshape(4, 4) @ to_one, dtype=np.float64)
    except Exception:  # noqa: BLE001 – scipy raises many kinds; the scan is usable without
        return None
