"""Volumes as napari layers and back: transforms, names, colours.

Array axes stay as the file stores them and nothing is ever resampled. A scan that is aligned with
the patient's axes lies in the patient's own space, (S, P, L) in mm: napari draws the second axis
down and the third to the right, so that back is down and the patient's left is on the right, as
radiologists see it. napari slices only along array axes; a scan whose axes are turned or tilted is
therefore shown in its own grid, mirrored where needed to come as near to that view as it can.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import napari
import numpy as np
import numpy.typing as npt

from l2gnet_core.errors import InputError
from l2gnet_core.files.values import plain_values
from l2gnet_core.preprocessing.intensities import intensity_window, is_ct
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import AXIS_LETTERS, Grid, Volume
from l2gnet_core.segmenting.suitability import NoVoxelSize

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from napari.types import LayerDataTuple

# In Hounsfield units, as radiologists look at the neck and the abdomen.
_SOFT_TISSUE = (-160.0, 240.0)

#: Metadata key of the grid of a layer's file.
GRID_KEY = "l2gnet_volume"
LABELS_KEY = "l2gnet_labels"
#: Metadata key of layers that a widget draws over a scan; they are not offered as scans or masks.
VIEW_KEY = "l2gnet_view"

# RAS+ (x, y, z) → napari's world here, (S, P, L).
_RAS_TO_WORLD = np.array([[0.0, 0, 1], [0, -1, 0], [-1, 0, 0]])
_WORLD = ("S", "P", "L")
_DOWN_OR_RIGHT = "LPI"
_OPPOSITE = {one: other for pair in AXIS_LETTERS for one, other in (pair, pair[::-1])}
# Below this tilt (radians) the far corner of a scan 500 voxels wide moves by half a voxel.
_ALIGNED = 1e-3


def lies(down: str, right: str) -> bool:
    """Does a picture lie on its side for a radiologist, with rows and columns exchanged?

    down, right: the letters that its axes grow to.
    """
    rows, columns = (
        next(n for n, pair in enumerate(AXIS_LETTERS) if c in pair) for c in (down, right)
    )
    return rows < columns


def display_of(grid: Grid | Volume) -> dict[str, Any]:
    """The transform that shows a grid as the module's docstring says.

    Returns scale, affine, units and axis_labels, as napari's layers take them. A scan shown in its
    own grid may be the patient's mirror image in napari's 3-D view; slices never are.
    """
    linear = _RAS_TO_WORLD @ grid.affine[:3, :3][:, ::-1]  # columns: array axes z, y, x
    sizes = np.linalg.norm(linear, axis=0)
    directions = linear / sizes
    aligned = bool(np.abs(directions - np.diag(np.diag(directions))).max() < _ALIGNED)
    if aligned:
        signs = np.sign(np.diag(directions))
        offset = _RAS_TO_WORLD @ grid.affine[:3, 3]
        labels = _WORLD
    else:
        codes = grid.axis_codes
        signs = np.array([1.0, *(1.0 if c in _DOWN_OR_RIGHT else -1.0 for c in codes[1:])])
        offset = np.where(signs < 0, (np.array(grid.shape[-3:]) - 1) * sizes, 0.0)
        labels = tuple(
            code if sign > 0 else _OPPOSITE[code] for code, sign in zip(codes, signs, strict=True)
        )
        if np.sort(np.abs(directions), axis=0)[1].max() >= _ALIGNED:
            # No plain letters: each axis is only near to one of the patient's.
            labels = tuple(f"≈{label}" for label in labels)
    if not grid.oriented:
        labels = ("z", "y", "x")
    n = len(grid.shape)
    affine = np.eye(n + 1)
    affine[n - 3 : n, n - 3 : n] = np.diag(signs)
    affine[n - 3 : n, n] = offset
    time = n - 3
    return {
        "scale": (1.0,) * time + tuple(float(s) for s in sizes),
        "affine": affine,
        "units": ("pixel",) * time + (grid.units,) * 3,
        "axis_labels": ("time",) * time + labels,
    }


def to_layer_data(
    volume: Volume,
    kind: Literal["image", "labels"] = "image",
    names: Mapping[int, str] | None = None,
    colors: Mapping[int, str] | None = None,
) -> LayerDataTuple:
    """A volume as napari's (data, arguments, layer type).

    names, colors: of a mask's labels, id → name, id → "#rrggbb". A mask of floats is an image.
    The layer's metadata carries the volume's grid, without its voxels.
    """
    grid = volume.grid
    arguments: dict[str, Any] = {
        "name": volume.name or kind,
        **display_of(grid),
        "metadata": {GRID_KEY: grid},
    }
    if kind == "labels":
        arguments |= label_arguments(names or {}, colors or {})
    if kind == "labels" or names:
        arguments["metadata"][LABELS_KEY] = dict(names or {})
    else:
        arguments |= _contrast_of(volume)
    return volume.data, arguments, kind


def _contrast_of(volume: Volume) -> dict[str, Any]:
    """Contrast limits where napari's own would not do; {} elsewhere.

    napari takes the lowest and the highest value, which show a CT and scans with bright specks in
    nearly one grey. For bytes it takes 0 to 255: masks that open as images would be black.
    """
    scan = volume.data[len(volume.data) // 2] if volume.data.ndim == 4 else volume.data
    if is_ct(scan):
        return {"contrast_limits": _SOFT_TISSUE}
    low, high = intensity_window(scan)
    least, most = scan.min(), scan.max()
    if low < high < most / 2:
        return {"contrast_limits": (low, high)}
    if scan.dtype == np.uint8 and least < most < 128:
        return {"contrast_limits": (float(least), float(most))}
    return {}


def label_arguments(names: Mapping[int, str], colors: Mapping[int, str]) -> dict[str, Any]:
    """features (names in the status bar) and colormap of a Labels layer; {} if nothing is known.

    Named structures without a colour get the palette's, so that they look alike everywhere.
    """
    if not names and not colors:
        return {}
    import pandas as pd
    from napari.utils.colormaps import DirectLabelColormap

    everything = {**{label: f"label {label}" for label in colors}, **names}
    labels = LabelSet.from_names(everything, colors)
    features = pd.DataFrame(
        {"index": [0, *labels.names], "name": ["background", *labels.names.values()]}
    )
    color_dict: dict[int | None, str] = {None: "white", 0: "transparent"}
    color_dict.update(labels.colors)
    return {"features": features, "colormap": DirectLabelColormap(color_dict=color_dict)}


def lie_on_each_other(one: Any, other: Any) -> bool:
    """Are the voxels of two layers at the same places?"""
    return one.data.shape == other.data.shape and all(
        np.allclose(one.data_to_world(corner), other.data_to_world(corner))
        for corner in ((0,) * one.ndim, one.data.shape)
    )


def file_of(image: Image) -> Path | None:
    """The file or folder that an image was opened from; None if there is none."""
    return Path(image.source.path) if image.source.path else None


def filed_grid(layer: Layer) -> Grid | None:
    """The grid of a layer's file if it is oriented and the layer was not moved since; else None.

    Tilted scans can be compared only by it, because each is shown in its own grid.
    """
    grid, given = layer.metadata.get(GRID_KEY), transform_of(layer)
    if not isinstance(grid, Grid) or not grid.oriented or grid.units != "mm":
        return None
    shape = tuple(int(n) for n in layer.data.shape)
    if grid.shape != shape or not _fits(grid, shape, given):
        return None
    shown = display_of(grid)
    filed = shown["affine"] @ np.diag([*shown["scale"], 1.0])
    return grid if np.allclose(filed, _matrix(layer.ndim, given), atol=1e-3) else None


def transform_of(layer: Layer) -> dict[str, Any]:
    """The whole transform of a layer as arguments for another layer that lies exactly on it."""
    return {
        "scale": np.array(layer.scale),
        "translate": np.array(layer.translate),
        "rotate": np.array(layer.rotate),
        "shear": np.array(layer.shear),
        "affine": np.array(layer.affine.affine_matrix),
        "units": tuple(layer.units),
        "axis_labels": tuple(layer.axis_labels),
    }


def lies_as(one: Layer, other: Layer) -> bool:
    """Do two layers of as many axes lie the same way, in the same units?"""
    mine, its = transform_of(one), transform_of(other)
    matrices = (_matrix(one.ndim, mine), _matrix(other.ndim, its))
    return bool(mine["units"] == its["units"] and np.allclose(*matrices))


def lay_on(layer: Layer, other: Layer) -> None:
    """Give a layer the transform of another one."""
    for key, value in transform_of(other).items():
        setattr(layer, key, value)


def stay_on(layer: Layer, other: Layer) -> None:
    """From now on, move a layer along with the other one that it lies on."""
    # A weak reference: the layer may be deleted before the other one.
    known = weakref.ref(layer)

    def move(event: Any) -> None:
        # Another plugin may have given the other layer data with other axes.
        if (along := known()) is not None and along.ndim == event.source.ndim:
            setattr(along, event.type, getattr(event.source, event.type))

    for key in transform_of(other):
        getattr(other.events, key).connect(move)


def volume_of(layer: Image | Labels) -> Volume:
    """The scan or mask that a napari layer shows.

    Lazy data (dask, zarr) stays lazy; of a pyramid, the finest level is taken. The grid is that of
    `grid_of`. Raises InputError for colour images, and for data without 2 to 4 axes.
    """
    if getattr(layer, "rgb", False):
        raise InputError(
            f'The layer "{layer.name}" is a colour image, but a scan with one value per voxel is '
            "expected: split its channels first."
        )
    data = layer.data[0] if layer.multiscale else layer.data
    shape = tuple(int(n) for n in data.shape)
    grid = grid_of(shape, transform_of(layer), layer.name, layer.metadata)
    if shape != grid.shape:
        data = np.asarray(data).reshape(grid.shape)
    return grid.volume(data)


def frame_of(scan: Volume, frame: int, warnings: list[str] | None = None) -> npt.NDArray[Any]:
    """Read one frame (z,y,x) of a scan (z,y,x) or (t,z,y,x).

    warnings: receives sentences about its values. Raises InputError for values that are no numbers.
    """
    one = np.asarray(scan.data[frame] if scan.data.ndim == 4 else scan.data)
    return plain_values("The scan", one, [] if warnings is None else warnings)


def grid_of(
    shape: tuple[int, ...],
    transform: Mapping[str, Any],
    name: str,
    metadata: Mapping[str, Any],
) -> Grid:
    """The grid of a layer's array: that of its file, in its metadata, if it fits, else that of a
    layer in the viewer with voxels at the same places, else that of the transform.

    A voxel size that the file states counts whatever was set in napari since.

    shape: of the layer's array, 2 to 4 axes; a flat image becomes (1, y, x).
    transform: as from transform_of, or a layer's saved state.
    """
    carried = metadata.get(GRID_KEY)
    if isinstance(carried, Volume):
        carried = carried.grid
    if isinstance(carried, Grid) and _fits(carried, shape, transform):
        return carried
    if (found := _shared_grid(shape, transform)) is not None:
        return replace(found, name=name)
    if not 2 <= len(shape) <= 4:
        raise InputError(
            f'The layer "{name}" has {len(shape)} axes, but 2 to 4 are expected, '
            "(y, x) to (time, z, y, x): choose one of its images first."
        )
    affine, units, oriented = _geometry(len(shape), transform)
    full = shape if len(shape) > 2 else (1, *shape)
    thick = len(shape) > 2
    return Grid(
        full, affine=affine, units=units, name=name, oriented=oriented, thickness_stated=thick
    )


def layer_message(text: str, layer: Layer | None) -> str:
    """A warning as it is about a layer.

    A layer may lack a voxel size although no file does: an array, or data of another shape than
    the file's. The warning then names the layer, not the file.
    """
    if layer is None or not isinstance(text, NoVoxelSize):
        return text
    if getattr(layer.metadata.get(GRID_KEY), "units", "") == "pixel":
        return text
    return (
        f"The layer's units are pixels: {text.consequence} Set the layer's scale, and its units = "
        '"mm", in napari\'s console.'
    )


def _shared_grid(shape: tuple[int, ...], transform: Mapping[str, Any]) -> Grid | None:
    """The grid of a layer in the viewer with voxels at the same places; None if there is none."""
    viewer, size = napari.current_viewer(), min(3, len(shape))
    for layer in viewer.layers if viewer is not None else ():
        other, grid = transform_of(layer), layer.metadata.get(GRID_KEY)
        if (
            isinstance(grid, Grid)
            and layer.ndim == len(shape)
            and _fits(grid, shape, other)
            and _mm(other["units"], size) == _mm(transform.get("units"), size)
            and np.allclose(_matrix(layer.ndim, other), _matrix(layer.ndim, transform))
        ):
            return grid
    return None


def _fits(grid: Grid, shape: tuple[int, ...], transform: Mapping[str, Any]) -> bool:
    if grid.shape != shape and grid.shape != (1, *shape):
        return False
    if grid.units == "mm":
        return True
    # A voxel size set in napari counts more than a file that states none.
    size = min(3, len(shape))
    scale = np.asarray(transform["scale"], dtype=float)[-size:]
    unset = _mm(transform.get("units"), size) is None
    return bool(unset and np.allclose(scale, grid.spacing[-size:], rtol=1e-4))


def _matrix(ndim: int, transform: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """A whole transform, array → world, as one matrix."""
    from napari.utils.transforms import Affine

    parts = {key: transform[key] for key in ("scale", "translate", "rotate", "shear")}
    affine = np.asarray(transform["affine"], dtype=np.float64)
    return np.asarray(affine @ Affine(**parts, ndim=ndim).affine_matrix)


def _geometry(
    ndim: int, transform: Mapping[str, Any]
) -> tuple[npt.NDArray[np.float64], Literal["mm", "pixel"], bool]:
    """Affine, units, oriented from any layer's transform."""
    whole = _matrix(ndim, transform)
    size = min(3, ndim)
    matrix = np.eye(4)  # array (z, y, x) → world
    matrix[3 - size : 3, 3 - size : 3] = whole[ndim - size : ndim, ndim - size : ndim]
    matrix[3 - size : 3, 3] = whole[ndim - size : ndim, ndim]
    factors = _mm(transform.get("units"), size)
    units: Literal["mm", "pixel"] = "mm" if factors is not None else "pixel"
    if factors is not None:
        # The slices of a flat image have no thickness; its pixel size stands in.
        matrix[3 - size : 3] *= np.array(factors)[:, None]
        if size == 2:
            matrix[0, 0] = np.linalg.norm(matrix[:3, 2])
    # Other labels belong to a scan shown in its own grid: they do not say its place.
    oriented = tuple(str(label) for label in transform.get("axis_labels") or ())[-3:] == _WORLD
    affine = np.eye(4)
    affine[:3, :3] = (_RAS_TO_WORLD.T @ matrix[:3, :3])[:, ::-1]
    affine[:3, 3] = _RAS_TO_WORLD.T @ matrix[:3, 3]
    return affine, units, oriented


def _mm(units: Any, size: int) -> list[float] | None:
    """mm per unit for each of the last axes; None if one of the units is no length."""
    import pint

    factors = []
    for unit in tuple(units or ())[-size:]:
        try:
            quantity = pint.application_registry.get().Quantity(1.0, str(unit))
            factors.append(float(quantity.to("mm").magnitude))
        except (pint.DimensionalityError, pint.UndefinedUnitError):
            return None
    return factors if len(factors) == size else None


def axis_name(volume: Volume, axis: int) -> str:
    """The name of an axis of (z,y,x) for a person, with its number of slices."""
    plane = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal"}.get(
        volume.axis_codes[axis], "sagittal"
    )
    name = plane if volume.oriented else "zyx"[axis]
    count = volume.shape[-3:][axis]
    return f"{name}, {count} slice{'s' * (count != 1)}"


def active_layer(viewer: napari.Viewer) -> Layer | None:
    """The active layer itself: to plugins, napari gives a new proxy of it at each access."""
    active = viewer.layers.selection.active
    return next((layer for layer in viewer.layers if layer == active), None)


def slice_axes(dims: Any, axis: int) -> tuple[int, int]:
    """The two axes of the viewer that slices lie along; axis: of (z,y,x), across the slices."""
    one, other = (dims.ndim - 3 + along for along in range(3) if along != axis)
    return one, other


def draw(layer: Layer, visible: bool) -> None:
    """Show or hide a layer."""
    # Setting the same value again would draw everything again.
    if layer.visible != visible:
        layer.visible = visible


def is_cut(layer: Layer, dims: Any) -> bool:
    """Do the viewer's sliders lie within a layer? Layers may lie far apart."""
    index = np.rint(layer.world_to_data(dims.point[-layer.ndim :]))
    shape = layer.data[0].shape if layer.multiscale else layer.data.shape
    sliced = [axis - dims.ndim + layer.ndim for axis in dims.not_displayed]
    return all(0 <= index[axis] < shape[axis] for axis in sliced if axis >= 0)


def shown_index(layer: Layer, point: tuple[float, ...]) -> tuple[int, ...]:
    """The array index of a layer at a place in the world, such as viewer.dims.point.

    For a mirrored layer, the slider's step is not the index.
    """
    index = np.rint(layer.world_to_data(point[-layer.ndim :])).astype(int)
    shape = layer.data[0].shape if layer.multiscale else layer.data.shape
    return tuple(int(i) for i in np.clip(index, 0, np.array(shape[: layer.ndim]) - 1))
