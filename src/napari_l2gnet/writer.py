"""napari's writers: a Labels layer becomes a mask on its scan's own grid."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Image

from l2gnet_core import files
from l2gnet_core.errors import InputError
from l2gnet_core.files.dicom_files import is_dicom
from l2gnet_core.files.nifti import write_map
from l2gnet_core.scans.labels import hex_color
from l2gnet_core.scans.volume import Grid
from napari_l2gnet.scans.file_suffix import ended
from napari_l2gnet.scans.layers import LABELS_KEY, file_of, grid_of

#: Characters that some file systems refuse in a name.
_NOT_IN_NAMES = re.compile(r'[\\/:*?"<>|\x00-\x1f]+')


class SaveError(RuntimeError):
    """A mask was not saved; the message is the sentence to show.

    Not a ValueError: napari takes those from writers as "no plugin for this file" and goes silent.
    """


def write_nifti(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one Labels layer as NIfTI or TIFF, by the path's suffix; without one, as .nii.gz.

    The grid is the scan's if the layer carries it or lies on the scan, else that of the layer's
    transform. Returns the path written. Raises SaveError with one sentence.
    """
    return _write_labels(path, data, attributes, ".nii.gz")


def write_tiff(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """As `write_nifti`, but as .tif without a suffix."""
    return _write_labels(path, data, attributes, ".tif")


def _write_labels(path: str, data: Any, attributes: dict[str, Any], suffix: str) -> list[str]:
    viewer = napari.current_viewer()
    layers = viewer.layers if viewer is not None else ()
    # A mask's metadata hold its scan, of which the layer may be deleted.
    held = (attributes.get("metadata") or {}).values()
    try:
        file = destination(Path(path), suffix, [*layers, *held])
        return [str(write_mask(file, data, attributes))]
    except InputError as error:
        raise SaveError(str(error)) from error


def destination(path: Path, suffix: str, scans: Iterable[Any]) -> Path:
    """The file to write a mask to: the path, with `suffix` if it has none.

    scans: the images among these may not be replaced. Raises InputError if that would replace the
    file of one of them, or a file that a person was not asked about.
    """
    # Writing refuses the suffixes of other kinds of files.
    if files.suffix_of(path) not in files.SUFFIXES:
        path = ended(path, files.WRITABLE, suffix)
    if _is_scan(path, [file_of(one) for one in scans if isinstance(one, Image)]):
        raise InputError(
            f"Expected a new file for the mask, but {path.name} is a scan; choose another name."
        )
    return path


def _is_scan(path: Path, opened: Iterable[Path | None]) -> bool:
    """Is a path one of the files that scans were opened from, or a link to one?"""
    if not os.path.isfile(path):
        return False
    # Of a DICOM series, only the folder or one of the files is known.
    return is_dicom(Path(os.path.realpath(path))) or any(
        # Not by name: on some disks, case does not matter.
        file is not None and os.path.exists(file) and os.path.samefile(path, file)
        for file in opened
    )


def write_mask(path: Path, data: Any, attributes: Mapping[str, Any]) -> Path:
    """As `write_nifti`, but writes to this very path, and raises InputError with one sentence."""
    array, grid = _on_grid(data, attributes)
    names = _names(attributes)
    colors = _colors(attributes.get("colormap"), names)
    return files.write_labels(path, array, grid, names, colors)


def write_layers(path: str, layers: Sequence[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write Labels and Image layers into a new folder, one NIfTI file each; returns the files.

    napari's own folder of TIFFs would lose where voxels lie in the patient. Colour images are left
    to napari, as NIfTI does not suit them. Raises SaveError, after saving all that can be saved.
    """
    # The name of a file gives a folder of that name, without the suffix.
    folder = Path(re.sub(r"\.nii(\.gz)?$", "", path, flags=re.IGNORECASE))
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise SaveError(
            f"Expected a new or an empty folder for {len(layers)} layers, but {folder} holds "
            "something already; choose another name."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(
            f"{folder} cannot be created: {error.strerror}; choose another folder."
        ) from error
    written: list[str] = []
    failed: list[str] = []
    for data, attributes, kind in layers:
        color = bool(attributes.get("rgb"))
        file = _free(folder, attributes.get("name") or kind, ".tif" if color else ".nii.gz")
        write = write_nifti if kind == "labels" else _write_color if color else _write_image
        # One layer that cannot be saved must not prevent the others from being saved.
        try:
            written += write(str(file), data, attributes)
        except SaveError as error:
            failed.append(str(error))
    if failed:
        raise SaveError(f"{len(written)} of {len(layers)} layers are saved. {' '.join(failed)}")
    return written


def _on_grid(data: Any, attributes: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], Grid]:
    """A layer's voxels, and the grid that they lie on, of the same shape."""
    array = np.asarray(data[0] if attributes.get("multiscale") else data)
    grid = grid_of(
        array.shape, attributes, attributes.get("name", ""), attributes.get("metadata") or {}
    )
    return array.reshape(grid.shape), grid


def _write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    try:
        array, grid = _on_grid(data, attributes)
        if array.dtype == np.bool_ or array.dtype == np.float16:
            array = array.astype(np.uint8 if array.dtype == np.bool_ else np.float32)
        write_map(Path(path), array, grid)
    except InputError as error:
        raise SaveError(str(error)) from error
    return [path]


def _write_color(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a colour image as napari does."""
    from napari_builtins.io import napari_write_image

    napari_write_image(path, data, attributes)
    return [path]


def _free(folder: Path, name: str, suffix: str) -> Path:
    """A path of that name that does not exist, numbered if needed."""
    stem = _NOT_IN_NAMES.sub("_", name).strip(" .") or "layer"
    taken = {file.name.lower() for file in folder.iterdir()}
    names = (stem, *(f"{stem} {number}" for number in range(2, len(taken) + 3)))
    return next(folder / f"{n}{suffix}" for n in names if f"{n}{suffix}".lower() not in taken)


def _names(attributes: Mapping[str, Any]) -> dict[int, str]:
    """id → name from the layer's features (as napari shows them), else from our metadata."""
    features = attributes.get("features")
    if features is not None and {"index", "name"} <= set(features):
        pairs = zip(features["index"], features["name"], strict=True)
        return {int(index): str(name) for index, name in pairs if int(index) != 0}
    carried = (attributes.get("metadata") or {}).get(LABELS_KEY) or {}
    return {int(index): str(name) for index, name in carried.items() if int(index) != 0}


def _colors(colormap: Any, names: Mapping[int, str]) -> dict[int, str]:
    """id → "#rrggbb" as the layer shows them, for the named labels and those coloured by hand."""
    by_hand = getattr(colormap, "color_dict", None) or {}
    ids = sorted({*names, *(i for i in by_hand if isinstance(i, int | np.integer) and i > 0)})
    if colormap is None or not ids:
        return {}
    rgba = np.atleast_2d(colormap.map(np.array(ids)))
    return {
        int(label): hex_color(round(255 * float(part)) for part in color[:3])
        for label, color in zip(ids, rgba, strict=True)
    }
