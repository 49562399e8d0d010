"""Tidying of masks: what is removed, what stays, and that ids never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from l2gnet_core.project.events import Tidying
from l2gnet_core.project.state import SliceState
from l2gnet_core.scans.cleanup import CleanUp, fill_holes, keep_largest_component, tidy, tidy_around

quick = settings(max_examples=40, deadline=None)
corners = np.ones((3, 3, 3))
masks = arrays(np.uint8, (3, 6, 7), elements=st.sampled_from([0, 0, 0, 1, 1, 2]))


def test_the_largest_piece_of_each_structure_stays():
    mask = np.zeros((3, 10, 10), np.uint16)
    mask[:, 1:4, 1:4] = 1  # the larger piece
    mask[0, 7:9, 7:9] = 1
    mask[1, 6, 1:5] = 300
    mask[2, 8, 8] = 300
    tidy = keep_largest_component(mask)
    assert tidy.dtype == mask.dtype
    assert (tidy == 1).sum() == 27
    assert (tidy == 300).sum() == 4
    assert tidy[2, 8, 8] == tidy[0, 7, 7] == 0
    assert mask[2, 8, 8] == 300  # the input is not changed


def test_pieces_hang_together_across_slices_and_over_corners():
    mask = np.zeros((3, 6, 6), np.uint8)
    mask[:, 2, 2] = 1
    mask[1, 3, 3] = 1  # touches the slices beside it by corners, too
    mask[0, 5, 5] = 1
    tidy = keep_largest_component(mask)
    assert tidy[:, 2, 2].all()
    assert tidy[1, 3, 3]
    assert not tidy[0, 5, 5]


@quick
@given(masks)
def test_only_the_largest_component_is_left(mask):
    tidy = keep_largest_component(mask)
    for id in (1, 2):
        _, before = ndimage.label(mask == id, corners)
        pieces, count = ndimage.label(tidy == id, corners)
        assert count == min(before, 1)
        assert not (pieces.astype(bool) & (mask != id)).any()
        if before:
            sizes = np.bincount(ndimage.label(mask == id, corners)[0].ravel())[1:]
            assert (tidy == id).sum() == sizes.max()
    assert np.array_equal(keep_largest_component(tidy), tidy)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_are_filled_in_slices_along_the_axis(axis):
    mask = np.zeros((7, 8, 9), np.uint8)
    flat = np.moveaxis(mask, axis, 0)
    flat[3, 1:6, 1:6] = 2
    flat[3, 3, 3] = 0
    filled = fill_holes(mask, axis)
    assert np.moveaxis(filled, axis, 0)[3, 3, 3] == 2
    assert (filled != mask).sum() == 1
    # In slices across the gap, nothing encloses it.
    assert np.array_equal(fill_holes(mask, (axis + 1) % 3), mask)


@pytest.mark.parametrize(("outer", "inner"), [(2, 3), (3, 2)])
def test_a_cavity_that_is_another_structure_stays_and_its_holes_are_its_own(outer, inner):
    # As the left ventricle in the myocardium; either may have the lower id.
    mask = np.zeros((1, 9, 9), np.uint8)
    mask[0, 1:8, 1:8] = outer
    mask[0, 3:6, 3:6] = inner
    whole = mask.copy()
    mask[0, 4, 4] = 0
    mask[0, 2, 2] = 0
    assert np.array_equal(fill_holes(mask, 0), whole)


@quick
@given(masks)
def test_filling_changes_background_only(mask):
    filled = fill_holes(mask, 0)
    assert np.array_equal(filled[mask > 0], mask[mask > 0])
    assert set(np.unique(filled)) <= set(np.unique(mask))
    for before, after in zip(mask, filled, strict=True):
        for id in (1, 2):
            enclosed = ndimage.binary_fill_holes(before == id) & (before == 0)
            assert (after[enclosed] > 0).all()


@pytest.mark.parametrize("clean", [keep_largest_component, lambda mask: fill_holes(mask, 0)])
def test_an_empty_mask_stays_empty(clean):
    empty = np.zeros((2, 4, 4), np.uint8)
    assert np.array_equal(clean(empty), empty)


def test_tidying_does_what_was_chosen_pieces_first():
    mask = np.zeros((1, 12, 12), np.uint8)
    mask[0, 1:7, 1:7] = 1
    mask[0, 3:5, 3:5] = 0
    mask[0, 9:11, 9:11] = 1
    assert not CleanUp()
    assert CleanUp(fill_holes=True)
    assert np.array_equal(tidy(mask, 0, CleanUp()), mask)
    assert np.array_equal(tidy(mask, 0, CleanUp(True, False)), keep_largest_component(mask))
    assert np.array_equal(tidy(mask, 0, CleanUp(False, True)), fill_holes(mask, 0))
    assert tidy(mask, 0, CleanUp(True, True)).sum() == 36


@quick
@given(masks, masks, st.integers(0, 2), st.booleans(), st.booleans(), st.sets(st.integers(0, 2)))
def test_a_mask_is_tidied_slice_by_slice_as_it_is_in_one(mask, labels, axis, pieces, holes, at):
    choices, painted = CleanUp(pieces, holes), np.zeros(mask.shape, bool)
    slices = {}
    for index in at:
        shown = np.moveaxis(labels, axis, 0)[index]
        np.moveaxis(painted, axis, 0)[index] = shown > 0
        slices[0, index] = SliceState(shown, shown > 0, np.moveaxis(mask, axis, 0)[index])
    expected = tidy_around(mask, axis, choices, labels, painted)
    whole = Tidying(choices, slices).whole(np.stack([mask, mask]), axis)
    assert np.array_equal(whole[0], expected)
    assert np.array_equal(whole[1], tidy(mask, axis, choices))
