"""Shapes between annotated slices, against known geometry."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core.errors import InputError
from l2gnet_core.interpolation.shapes import _signed, interpolate_slices

Y, X = np.mgrid[0:65, 0:65] - 32.0


def disc(radius: float, row: float = 0.0) -> np.ndarray:
    return (np.hypot(Y - row, X) < radius).astype(np.uint8)


def between(first: np.ndarray, last: np.ndarray, count: int = 9) -> np.ndarray:
    """Interpolated slices; slices without annotations hold garbage that must not be read."""
    labels = np.full((count, *first.shape), 77, np.uint8)
    labels[0], labels[-1] = first, last
    return interpolate_slices(labels, [0, count - 1])


def test_a_cone_between_two_discs():
    mask = between(disc(8), disc(24))
    for index, slice in enumerate(mask):
        assert slice.sum() == pytest.approx(np.pi * (8 + 2 * index) ** 2, rel=0.05)


def test_a_structure_that_one_neighbour_lacks_ends_halfway():
    mask = between(disc(16), disc(0), 9)
    areas = mask.sum((1, 2))
    assert (np.diff(areas[:5].astype(int)) < 0).all()
    # At 3/8 of the way, the border is where 5/8 of the depth is 3/8 of the largest one, 16.
    assert areas[3] == pytest.approx(np.pi * (16 - 16 * 3 / 5) ** 2, rel=0.1)
    assert not mask[4:].any()


def test_a_ring_stays_closed_around_what_it_encloses():
    ring = np.where(disc(8), 2, disc(14))
    larger = np.where(disc(16, row=3), 2, disc(24, row=3))
    for slice in between(ring, larger):
        # Between the two structures there is no background.
        inside = np.flatnonzero(slice[32])
        assert (np.diff(inside) == 1).all()
        assert {1, 2} == set(np.unique(slice)) - {0}


def test_beyond_the_annotated_slices_nothing_is_guessed():
    labels = np.stack([disc(9)] * 7)
    mask = interpolate_slices(labels, [5, 2])
    assert not mask[:2].any()
    assert not mask[6:].any()
    assert np.array_equal(mask[2:6], labels[2:6])


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(0, 2), st.integers(0, 99))
def test_annotated_slices_stay_and_the_way_back_is_the_same(data, axis, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (6, 7, 8)).astype(np.uint8)
    count = labels.shape[axis]
    slices = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4, unique=True))
    mask = interpolate_slices(labels, slices, axis)
    assert mask.dtype == labels.dtype
    assert np.array_equal(mask.take(slices, axis), labels.take(slices, axis))
    garbage = np.full_like(labels, 9)
    places = [np.s_[:]] * 3
    places[axis] = slices
    garbage[tuple(places)] = labels[tuple(places)]
    assert np.array_equal(interpolate_slices(garbage, slices, axis), mask)
    back = interpolate_slices(np.flip(labels, axis), [count - 1 - s for s in slices], axis)
    # If two structures are equally likely, the order may decide.
    assert np.mean(np.flip(back, axis) > 0) == np.mean(mask > 0)


def test_distances_are_those_of_simpleitk():
    shape = disc(13) | disc(6, row=20)
    image = sitk.GetImageFromArray(shape)
    image.SetSpacing((1.5, 2.0))
    theirs = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
    )
    ours = _signed(shape > 0, (2.0, 1.5))
    # ITK's border lies on the outermost pixels inside, ours between these and the others.
    away = np.abs(ours) > 3
    assert np.abs(ours - sitk.GetArrayFromImage(theirs))[away].max() < 2.0
    assert np.array_equal(ours > 0, shape > 0)


@pytest.mark.parametrize("slices", [[], [3], [-1]])
def test_slices_that_are_not_there_are_refused(slices, one_sentence):
    with pytest.raises(InputError) as caught:
        interpolate_slices(np.zeros((3, 4, 4), np.uint8), slices)
    one_sentence(caught.value)
