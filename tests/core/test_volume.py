"""Geometry of volumes: spacing, directions, slicing axis."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2gnet_core.errors import InputError
from l2gnet_core.scans.volume import Grid, Volume, default_affine, distance_apart, slicing_axis

ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]
sizes = st.floats(0.1, 20.0)


def oriented_affine(codes: str, spacing_xyz=(1.0, 2.0, 3.0)) -> np.ndarray:
    """RAS+ affine of an image stored as codes say, by nibabel."""
    to_ras = nib.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(to_ras):
        affine[int(world), axis] = sign * spacing_xyz[axis]
    affine[:, 3] = (10, -20, 30, 1)
    return affine


def volume(affine, shape=(4, 5, 6), **kwargs) -> Volume:
    return Volume(np.zeros(shape, np.float32), affine=affine, **kwargs)


def test_grids_are_compared_as_far_as_they_tell():
    stated = {"units": "mm", "oriented": True}
    here = volume(np.eye(4), **stated)
    moved = oriented_affine("RAS", (1, 1, 1))
    assert distance_apart(here, volume(moved, **stated)) == pytest.approx(np.hypot(22.36, 30), 1e-3)
    # Tools that copy a scan without orientation write an origin of their own.
    lost = volume(default_affine((1, 1, 1)), units="mm")
    assert distance_apart(lost, volume(moved, **stated)) == 0
    assert distance_apart(lost, volume(np.diag([1, 1, 2, 1]), units="mm")) == pytest.approx(3)
    assert distance_apart(here, volume(moved, oriented=True)) == 0


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_spacing_and_codes_follow_the_reversed_axes(codes):
    v = volume(oriented_affine(codes))
    assert v.spacing == pytest.approx((3.0, 2.0, 1.0))
    assert v.axis_codes == nib.aff2axcodes(v.affine)[::-1]
    assert v.voxel_volume_ml == pytest.approx(0.006)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize(("rule", "pair"), [("axial", "IS"), ("coronal", "PA"), ("sagittal", "LR")])
def test_anatomical_slicing_axis(codes, rule, pair):
    v = volume(oriented_affine(codes))
    stored = next(i for i, letter in enumerate(codes) if letter in pair)
    assert slicing_axis(v, rule) == 2 - stored
    # The same axis by its index in a stored NIfTI array.
    nifti = volume(oriented_affine(codes), stored_axes=(2, 1, 0))
    assert slicing_axis(nifti, "through-plane", override=stored) == slicing_axis(v, rule)


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((10, 1.5, 1.5), 0),
        ((1, 1, 5), 2),
        ((1, 5, 1), 1),
        ((1, 1, 1), 0),
        ((1, 1.4, 1), 0),
        ((1, 1.5, 1), 1),
        ((3, 3, 1), 0),
        ((1, 3, 2.5), 0),
    ],
)
def test_through_plane_is_the_coarsest_by_half_else_the_slowest(spacing, axis):
    assert slicing_axis(volume(default_affine(spacing)), "through-plane") == axis


@given(st.permutations(range(3)), sizes, st.floats(1.51, 8))
def test_through_plane_follows_the_coarsest_axis(order, fine, ratio):
    spacing = [fine, fine, fine * ratio]
    permuted = tuple(spacing[i] for i in order)
    assert slicing_axis(volume(default_affine(permuted)), "through-plane") == order.index(2)


def test_a_single_slice_is_sliced_along_its_thickness():
    assert slicing_axis(volume(default_affine((1, 1, 9)), shape=(1, 8, 8)), "through-plane") == 0


@pytest.mark.parametrize(("rule", "override"), [("diagonal", None), ("axial", 3), ("axial", -1)])
def test_senseless_slicing_is_an_input_error(rule, override):
    with pytest.raises(InputError, match="slicing axis"):
        slicing_axis(volume(np.eye(4)), rule, override)


def test_frames_of_scans_and_series():
    scan = volume(np.eye(4))
    assert [f.shape for f in scan.frames] == [(4, 5, 6)]
    series = volume(np.eye(4), shape=(3, 4, 5, 6))
    assert [f.shape for f in series.frames] == [(4, 5, 6)] * 3


def test_grid_keeps_everything_but_the_voxels():
    v = volume(np.eye(4), units="mm", name="heart", oriented=True, source=("anything",))
    grid = v.grid
    assert grid.shape == v.shape
    assert not hasattr(grid, "data")
    again = grid.volume(v.data)
    assert (again.units, again.name, again.oriented, again.source) == (
        "mm",
        "heart",
        True,
        ("anything",),
    )
    with pytest.raises(InputError, match="shape"):
        grid.volume(np.zeros((1, 2, 3)))


@pytest.mark.parametrize("shape", [(5, 6), (1, 2, 3, 4, 5), (0, 4, 4)])
def test_senseless_shapes_are_input_errors(shape):
    with pytest.raises(InputError, match="axes"):
        Grid(shape)


def test_senseless_affines_are_input_errors():
    with pytest.raises(InputError, match="affine"):
        volume(np.full((4, 4), np.nan))


def test_axes_without_a_direction_of_their_own_have_no_letters(one_sentence):
    for singular in (np.diag([1.0, 1, 0, 1]), np.diag([0.0, 0, 0, 1])):
        with pytest.raises(InputError, match="gives fewer") as error:
            _ = volume(singular).axis_codes
        one_sentence(error.value)
