"""A scan and its geometry: arrays are (z, y, x), affines (x, y, z), as in SimpleITK."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from l2gnet_core.errors import InputError

Units = Literal["mm", "pixel"]
SlicingRule = Literal["through-plane", "axial", "coronal", "sagittal"]

#: The letters of each world axis: towards smaller and towards larger coordinates (RAS+).
AXIS_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
_WORLD_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
#: Largest distance in mm between corners of two grids that count as equal: headers hold float32.
HEADERS_ROUND = 0.1
#: From the world of ITK and DICOM (LPS+: x to the left, y to the back) to RAS+, (4, 4).
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class NoSizeStated(str):
    """A reader's warning that a file states no voxel size."""


def default_affine(
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> npt.NDArray[np.float64]:
    """Affine (4, 4), voxel (x, y, z, 1) → RAS+ mm, of a file that states no orientation.

    It is the identity direction of ITK's LPS+ world with the origin at the first voxel.
    spacing: (z, y, x) mm.
    """
    return np.diag(LPS_TO_RAS.diagonal() * (*spacing[::-1], 1.0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Geometry:
    """Where voxels lie in the world, without the voxels.

    affine: (4, 4) float64, voxel index (x, y, z, 1) → RAS+ mm (nibabel's affine for NIfTI).
    units: "mm" if the file states a physical voxel size, else "pixel".
    stored_axes: stored axis a of the file is axis stored_axes[a] of (z, y, x): (2, 1, 0) for
        NIfTI, (0, 1, 2) for TIFF.
    name: file name without suffixes, for layer names only.
    oriented: does the file state where right, front and top are?
    thickness_stated: False for a flat image without a stated thickness; its spacing along z is then
        its pixel size, and volumes in mL are not known.
    source: what a writer needs to give a mask the file's own grid; opaque, without voxels.

    Raises InputError for an affine that is not (4, 4) or not finite.
    """

    affine: npt.NDArray[np.float64] = field(default_factory=default_affine)
    units: Units = "pixel"
    stored_axes: tuple[int, int, int] = (0, 1, 2)
    name: str = ""
    oriented: bool = False
    thickness_stated: bool = True
    source: Any = None

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise InputError(f"An affine of 4×4 finite numbers is needed, not {affine.tolist()}.")
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (z, y, x) in mm (or in pixels, see units)."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def has_ml(self) -> bool:
        """Is the volume of a voxel known?"""
        return self.units == "mm" and self.thickness_stated

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in mL; meaningful only if `has_ml`."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def axis_codes(self) -> tuple[str, str, str]:
        """The anatomical letter that each of (z, y, x) grows to, the nearest for oblique scans.

        Raises InputError where the affine gives an axis no direction of its own.
        """
        from nibabel.orientations import aff2axcodes

        x, y, z = aff2axcodes(self.affine)
        if None in (x, y, z):
            raise InputError(
                f"Expected three directions of {self.name or 'this scan'}, but its header gives "
                "fewer to its axes; correct the header, or convert the scan anew."
            )
        return z, y, x

    def _geometry(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(Geometry)}


@dataclass(frozen=True, eq=False)
class Grid(Geometry):
    """A Volume without its voxels, as far as a writer of masks needs it.

    shape: (z, y, x), or (t, z, y, x).
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shape(self.shape)

    @property
    def frame(self) -> Grid:
        """The (z, y, x) grid of one frame of a time series; for a scan, the same grid."""
        return replace(self, shape=self.shape[-3:])

    def volume(self, data: Any, warnings: tuple[str, ...] = ()) -> Volume:
        """A volume of an array on this grid. Raises InputError for another shape."""
        if tuple(data.shape) != self.shape:
            raise InputError(
                f"An array of shape {self.shape} belongs to {self.name or 'this scan'}, "
                f"not one of {tuple(data.shape)}."
            )
        return Volume(data, warnings=warnings, **self._geometry())


@dataclass(frozen=True, eq=False)
class Volume(Geometry):
    """A scan: voxels and their geometry.

    data: (z, y, x), or (t, z, y, x) for a time series; NIfTI arrays reversed, TIFF as stored.
        From files it is a NumPy array; from napari it may be lazy (dask, zarr), so use `frames`.
    warnings: sentences for the user about how the file was interpreted.
    """

    data: npt.NDArray[Any]
    warnings: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shape(tuple(self.data.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of data."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def grid(self) -> Grid:
        """This volume's grid, without its voxels."""
        return Grid(self.shape, **self._geometry())

    @property
    def frames(self) -> Iterator[npt.NDArray[Any]]:
        """Each (z, y, x) frame as a NumPy array: one for a scan, t for a time series."""
        if len(self.shape) == 3:
            yield np.asarray(self.data)
            return
        for t in range(self.shape[0]):
            yield np.asarray(self.data[t])


def as_read_back(
    data: npt.NDArray[Any], like: Volume | Grid
) -> tuple[npt.NDArray[Any], Volume | Grid]:
    """An array and its grid as they come back from a file: a series of one frame, (1, z, y, x), is
    read as a scan, (z, y, x)."""
    if len(like.shape) == 4 and like.shape[0] == 1:
        return data[0], (like.grid if isinstance(like, Volume) else like).frame
    return data, like


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InputError(f"A scan has the axes (z, y, x) or (t, z, y, x), none empty, not {shape}.")


def distance_apart(one: Volume | Grid, other: Volume | Grid) -> float:
    """Largest distance in mm between equal corners of two grids of one shape.

    0 if one has no unit. If one does not state its orientation, only voxel sizes are compared,
    because tools that copy such a scan write an origin of their own.
    """
    if not one.units == other.units == "mm":
        return 0.0
    steps = np.array(one.shape[-3:]) - 1
    if not (one.oriented and other.oriented):
        return float(np.linalg.norm(steps * np.subtract(one.spacing, other.spacing)))
    corners = np.array(list(np.ndindex(2, 2, 2))) * steps[::-1]
    moved = np.c_[corners, np.ones(8)] @ (one.affine - other.affine).T
    return float(np.linalg.norm(moved[:, :3], axis=1).max())


GridOrVolume = TypeVar("GridOrVolume", "Grid", "Volume")


def parse_orientation(letters: str) -> str:
    """Three letters in upper case, such as "LPS": one of L/R, one of P/A and one of I/S.

    Raises InputError for anything else.
    """
    given = letters.strip().upper()
    worlds = [i for letter in given for i, pair in enumerate(AXIS_LETTERS) if letter in pair]
    if len(given) != 3 or sorted(worlds) != [0, 1, 2]:
        raise InputError(
            "An orientation has three letters, one of each of L/R, P/A and I/S, such as LPS, "
            f"not {letters!r}."
        )
    return given


def oriented_as(scan: GridOrVolume, letters: str) -> GridOrVolume:
    """Give an orientation to a scan whose file does not state one.

    letters: what each axis of the stored array grows to, in the file's order, as
        nibabel.aff2axcodes reports them. Voxel sizes stay; the first voxel becomes the origin.
    Raises InputError for other letters, and for a scan whose file states another orientation.
    """
    letters = parse_orientation(letters)
    if scan.oriented:
        stated = "".join(scan.axis_codes[axis] for axis in scan.stored_axes)
        if stated != letters:
            raise InputError(
                f"An orientation is given to scans that do not say theirs, but "
                f"{scan.name or 'this scan'} says {stated}, not {letters}: leave it out, or "
                "correct the file's header."
            )
        return scan
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, letter in zip(scan.stored_axes, letters, strict=True):
        world = next(i for i, pair in enumerate(AXIS_LETTERS) if letter in pair)
        sign = 1.0 if letter == AXIS_LETTERS[world][1] else -1.0
        affine[world, 2 - axis] = sign * scan.spacing[axis]
    return replace(scan, affine=affine, oriented=True)


def slicing_axis(
    volume: Volume | Grid, rule: SlicingRule | str, override: int | None = None
) -> int:
    """The axis of (z, y, x) along which the network's slices lie.

    rule: "through-plane" (the axis with the coarsest spacing if it is at least 1.5 times the
        others, else z), or "axial", "coronal", "sagittal", found by the affine.
    override: an axis of the stored array, used in place of the rule.
    Raises InputError for an unknown rule or an axis other than 0, 1, 2.
    """
    if override is not None:
        if override not in (0, 1, 2):
            raise InputError(f"The slicing axis is 0, 1 or 2 of the stored array, not {override}.")
        return volume.stored_axes[override]
    if rule in _WORLD_AXIS:
        wanted = AXIS_LETTERS[_WORLD_AXIS[rule]]
        return next(i for i, letter in enumerate(volume.axis_codes) if letter in wanted)
    if rule != "through-plane":
        known = ", ".join(["through-plane", *_WORLD_AXIS])
        raise InputError(f"The slicing axis is one of {known}, not {rule!r}.")
    single = [axis for axis, size in enumerate(volume.shape[-3:]) if size == 1]
    if len(single) == 1:  # the thickness of a single slice is often not known
        return single[0]
    spacing = volume.spacing
    coarsest = int(np.argmax(spacing))
    others = [s for axis, s in enumerate(spacing) if axis != coarsest]
    # Headers hold float32, in which 1.5 may be 1.4999999.
    return coarsest if spacing[coarsest] >= 1.5 * max(others) * (1 - 1e-5) else 0
