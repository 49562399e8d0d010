"""The scan of a project: its hashes, its grid, and its voxels in a file."""

from __future__ import annotations

import base64
import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files.atomic import replace_file
from l2gnet_core.files.nifti_header import NiftiSource, without_text
from l2gnet_core.files.values import plain_values
from l2gnet_core.scans.volume import Grid, Volume, oriented_as


@dataclass(frozen=True)
class ScanId:
    """SHA-256 of a scan, in hexadecimal. voxels: of the voxels. scan: of voxels and affine."""

    voxels: str
    scan: str


def plain_frames(volume: Volume) -> list[NDArray[Any]]:
    """The frames (z,y,x) as models see them; copied only where values must change."""
    return [np.ascontiguousarray(plain_values("The scan", f, [])) for f in volume.frames]


def identify(volume: Volume) -> ScanId:
    """Hashes that identify a scan, whatever its file name. Raises InputError if its values are not
    real numbers."""
    frames = plain_frames(volume)
    digest = hashlib.sha256(f"{frames[0].dtype.str} {volume.shape}".encode())
    for frame in frames:
        digest.update(frame.data)
    voxels = digest.hexdigest()
    return ScanId(voxels, hashlib.sha256(voxels.encode() + volume.affine.tobytes()).hexdigest())


def save_voxels(path: Path, volume: Volume) -> None:
    """Write a scan's voxels, atomically and frame by frame. Raises OutputError."""
    frames = plain_frames(volume)
    header = {"descr": frames[0].dtype.str, "fortran_order": False, "shape": volume.shape}

    def write(file: BinaryIO) -> None:
        np.lib.format.write_array_header_2_0(file, header)
        for frame in frames:
            file.write(frame.data)

    def check(file: Path) -> None:
        if np.load(file, mmap_mode="r", allow_pickle=False).shape != volume.shape:
            raise OutputError(f"{path} did not read back as it was written.")

    replace_file(path, ".npy", write, check)


def load_voxels(path: Path, known: str) -> NDArray[Any]:
    """Read the voxels, (z,y,x) or (t,z,y,x), that `save_voxels` wrote. known: their
    `ScanId.voxels`. Raises InputError if the file is missing or damaged."""
    try:
        with path.open("rb") as file:
            voxels: NDArray[Any] = np.load(file, allow_pickle=False)
        if identify(Volume(voxels)).voxels != known:
            raise ValueError
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"Expected the voxels of the project's scan in {path}, but they are missing or "
            "damaged; restore the project folder from a copy."
        ) from error
    return voxels


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name to a compressed .npz, atomically. Raises OutputError."""

    def write(file: BinaryIO) -> None:
        # np.savez_compressed takes three times as long, and masks get only a little smaller.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)

    def check(file: Path) -> None:
        again = load_arrays(file)
        if any(not np.array_equal(again[name], array) for name, array in arrays.items()):
            raise OutputError(f"{path} did not read back as it was written: check the disk.")

    replace_file(path, ".npz", write, check)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_arrays` wrote; nothing is unpickled. Raises InputError if it is damaged."""
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"Expected arrays of a project in {path}, but the file is missing or damaged; restore "
            "the project folder from a copy."
        ) from error


def grid_to_json(grid: Grid) -> dict[str, Any]:
    """Plain values that `grid_from_json` reads back, without the grid's name and the text of the
    file's header, which may name the patient."""
    values = {
        "shape": list(grid.shape),
        "affine": grid.affine.tolist(),
        "units": grid.units,
        "stored_axes": list(grid.stored_axes),
        "oriented": grid.oriented,
        "thickness_stated": grid.thickness_stated,
    }
    if isinstance(grid.source, NiftiSource) and grid.source.header is not None:
        source = without_text(grid.source)
        assert source.header is not None
        values["nifti"] = {
            "header": base64.b64encode(source.header).decode("ascii"),
            "endianness": source.endianness,
            "version": source.version,
            "shape": list(source.shape),
        }
    return values


def grid_from_json(values: Mapping[str, Any]) -> Grid:
    """Inverse of `grid_to_json`."""
    source, (a, b, c) = None, values["stored_axes"]
    if nifti := values.get("nifti"):
        header = base64.b64decode(nifti["header"])
        source = NiftiSource(header, nifti["endianness"], nifti["version"], tuple(nifti["shape"]))
    return Grid(
        tuple(values["shape"]),
        affine=np.array(values["affine"]),
        units=values["units"],
        stored_axes=(a, b, c),
        oriented=bool(values["oriented"]),
        thickness_stated=bool(values["thickness_stated"]),
        source=source,
    )


def seen_grid(grid: Grid, orientation: str) -> Grid:
    """A grid as models see it, with the user's `orientation` if the file does not state one."""
    return oriented_as(grid, orientation) if orientation and not grid.oriented else grid


def unnamed(grid: Volume | Grid) -> Grid:
    """The grid of a scan without its name and the file's header."""
    plain = grid.grid if isinstance(grid, Volume) else grid
    return replace(plain, name="", source=None)
