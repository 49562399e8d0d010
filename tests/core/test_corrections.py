"""Corrections: only the corrected slices are read, and they are seen as at inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core.augmentation.views import Augmentation
from l2gnet_core.errors import InputError
from l2gnet_core.finetuning.correction_views import UNKNOWN, CorrectedScan, CorrectionSampler
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction, informative

CARD = ModelCard(name="m", labels=LabelSet.from_names({1: "liver", 7: "spleen"}))
SHAPE = (5, 24, 30)
#: Weights with one NaN, in a corrected slice that is not the first.
IN_ONE = np.ones(SHAPE)
IN_ONE[3, 0, 0] = np.nan


def labels_with(ids=(1, 7), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice([0, *ids], SHAPE).astype(np.uint8)


def correction(labels=None, slices=(1, 3), axis=0, scan=None, **more) -> Correction:
    labels = labels_with() if labels is None else labels
    if scan is None:
        scan = np.random.default_rng(9).random(SHAPE)
    return Correction(scan, Grid(SHAPE), axis, labels, slices, **more)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2), st.integers(0, 10**6), st.sampled_from([np.uint16, np.float64]))
def test_other_slices_may_hold_anything(axis, seed, dtype):
    labels = labels_with()
    clean = correction(labels, (1, 3), axis)
    if dtype is np.float64:
        garbage = np.random.default_rng(seed).normal(0, 1e6, SHAPE)
        garbage[:, :, ::3] = np.nan
    else:
        garbage = np.random.default_rng(seed).integers(0, 65536, SHAPE).astype(dtype)
    places = [np.s_[:]] * 3
    places[axis] = [1, 3]
    garbage[tuple(places)] = labels[tuple(places)]
    other = correction(garbage, (1, 3), axis)
    assert other.structures == clean.structures
    seen, same = CorrectedScan.of(other, CARD), CorrectedScan.of(clean, CARD)
    assert torch.equal(seen.classes, same.classes)
    assert torch.equal(seen.absent, same.absent)


def test_scans_are_learnt_from_as_readers_make_them():
    odd = np.random.default_rng(9).random(SHAPE)
    odd[2, :4] = np.nan
    plain = np.where(np.isnan(odd), np.nanmin(odd), odd)
    seen, wanted = (
        CorrectedScan.of(correction(scan=odd), CARD),
        CorrectedScan.of(correction(scan=plain), CARD),
    )
    assert torch.equal(seen.image, wanted.image)
    with pytest.raises(InputError, match="complex numbers"):
        correction(scan=odd * 1j)


@pytest.mark.parametrize("axis", [3, -1, None])
def test_there_are_three_axes(axis, one_sentence):
    with pytest.raises(InputError, match=r"0, 1 or 2") as error:
        correction(axis=axis)
    one_sentence(error.value)


@pytest.mark.parametrize("slices", [2, (2.0,), (1, "2"), None])
def test_slices_are_whole_numbers(slices, one_sentence):
    with pytest.raises(InputError, match="whole numbers") as error:
        correction(slices=slices)
    one_sentence(error.value)


def test_slices_of_any_kind_of_whole_number_are_counted_once():
    assert correction(slices=list(np.array([3, 1, 1]))).slices == (1, 3)


def test_painting_on_changes_nothing():
    labels = labels_with()
    one = correction(labels)
    before = [picture.copy() for picture in one.pictures]
    labels[:] = 0
    assert all(map(np.array_equal, one.pictures, before))
    assert one.structures == {1, 7}


def test_ids_become_classes_and_unmarked_voxels_unknown():
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, :5], labels[1, 10:], labels[3, :] = 7, 4, 4
    labels[3, 0, 0] = 0
    scan = CorrectedScan.of(correction(labels, (3, 1), unmarked=4), CARD)
    assert scan.places == (1, 3)
    assert scan.untouched == [0, 2, 4]
    assert torch.equal(scan.classes[0, :5], torch.full((5, 30), 2, dtype=torch.uint8))
    assert (scan.classes[0, 5:10] == 0).all()
    assert (scan.classes[0, 10:] == UNKNOWN).all()
    assert scan.absent.tolist() == [False, True, False]
    assert scan.only([1]).absent.tolist() == [False, True, True]
    assert scan.only([1]).places == (3,)
    assert scan.only([1]).untouched == [0, 1, 2, 4]


def test_slices_are_seen_as_inference_sees_them():
    # An oriented model sees this scan flipped and resized, and the labels likewise.
    affine = np.diag([1.0, 2.0, -3.0, 1.0])
    grid = Grid(SHAPE, affine=affine, units="mm", oriented=True)
    card = ModelCard(
        name="m", labels=CARD.labels, slicing="axial", oriented=True, spacing=(3.0, 1.0, 1.0)
    )
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 2:9, 20:28] = 7
    scan = CorrectedScan.of(Correction((labels > 0) * 100.0, grid, 0, labels, (1,)), card)
    assert scan.image.shape == (5, 48, 30)
    (place,) = scan.places
    assert place == 3
    inside = scan.classes[0] == 2
    assert inside.any()
    bright = scan.image[place].float() > 0.5
    assert (inside != bright).float().mean() < 0.02


def test_views_weigh_what_they_are_told_and_nothing_outside():
    labels = np.zeros(SHAPE, np.uint8)
    labels[2] = 1
    labels[2, :, 15:] = 4
    weights = np.full(SHAPE, 3.0)
    scan = CorrectedScan.of(correction(labels, (2,), unmarked=4, weights=weights), CARD)
    still = Augmentation(size=64, scale=(1, 1), stretch=0, turn=0, orientation_free=False)
    views = CorrectionSampler([scan], still, 1, (0, 0)).corrected(0, 4, 64, "cpu")
    assert views.images.shape == (4, 1, 64, 64)
    for classes, weight in zip(views.classes, views.weights, strict=True):
        # Less at the edges, where half of a pixel is outside; never zero.
        assert (weight[classes == 1] > 0.7).all()
        assert weight.max() == pytest.approx(3)
        # Half of the slice is unknown, and the rest of the view lies outside of it.
        assert 12 * 20 < (weight > 0).sum() <= 15 * 24 + 60
        assert set(classes.unique().tolist()) == {0, 1}
    assert views.absent.tolist() == [[False, False, True]] * 4


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(0, 10**6), st.sampled_from([1, 3]))
def test_a_view_depends_on_seed_run_step_and_place_alone(seed, step, channels):
    scans = [
        CorrectedScan.of(correction(), CARD),
        CorrectedScan.of(correction(labels_with((1,), 1)), CARD),
    ]

    def sampler(run=0):
        return CorrectionSampler(scans, Augmentation(size=16), channels, (seed, run))

    views = sampler().corrected(step, 3, 16, "cpu")
    again = sampler().corrected(step, 1, 16, "cpu")
    torch.testing.assert_close(again.images, views.images[:1])
    assert torch.equal(again.classes, views.classes[:1])
    assert not torch.equal(sampler(1).corrected(step, 3, 16, "cpu").images, views.images)
    assert not torch.equal(sampler().corrected(step + 1, 3, 16, "cpu").images, views.images)
    assert not torch.equal(sampler().untouched(step, 3, 16, "cpu").images, views.images)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sets(st.sampled_from([1, 2, 3, 4]), min_size=1))
def test_no_view_holds_a_class_that_it_calls_absent(seed, held):
    # If one kidney is painted, it is the other one in a mirror image.
    names = {1: "left kidney", 2: "right kidney", 3: "spleen", 4: "liver"}
    card = ModelCard(name="m", labels=LabelSet.from_names(names))
    scan = CorrectedScan.of(correction(labels_with(sorted(held))), card)
    how = Augmentation(size=32, orientation_free=False, mirror_pairs=((1, 2),))
    views = CorrectionSampler([scan], how, 1, (seed, 0)).corrected(0, 4, 32, "cpu")
    for classes, absent in zip(views.classes, views.absent, strict=True):
        assert not absent[classes.unique()].any()
        assert absent.sum() == 4 - len(held)
    assert torch.equal(views.unasked, views.absent)


def test_of_what_nobody_painted_a_slice_may_say_that_it_is_not_there():
    # Slice 1 was checked for everything, slice 3 for the liver alone.
    one = correction(labels_with((1,)), checked={1: {1, 7}, 3: {1}})
    scan = CorrectedScan.of(one, CARD)
    assert scan.checked.tolist() == [[False, True, True], [False, True, False]]
    assert scan.only([1]).checked.tolist() == [[False, True, False]]
    views = CorrectionSampler([scan], Augmentation(size=32), 1, (0, 0)).corrected(0, 8, 32, "cpu")
    assert views.absent.tolist() == [[False, False, True]] * 8
    assert {tuple(one) for one in views.unasked.tolist()} == {(False,) * 3, (False, False, True)}


def test_old_answers_are_asked_for_on_other_slices_and_other_images():
    labels = labels_with()
    image = np.zeros(SHAPE)
    image[[1, 3]] = 1  # Of the scan, only corrected slices are bright.
    scan = CorrectedScan.of(correction(labels, scan=image), CARD)
    still = Augmentation(16, (1, 1), stretch=0, turn=0, gain=(1, 1), offset=0, noise=0, bias=0)

    def brightness(scans, *others):
        sampler = CorrectionSampler(scans, still, 1, (0, 0), *others)
        views = sampler.untouched(0, 40, 16, "cpu")
        return None if views is None else views.images.amax((1, 2, 3))

    assert brightness([scan]).max() < 0.01
    grey = torch.full((2, 40, 40), 0.5).half()
    mixed = brightness([scan], [grey], 0.5)
    assert 8 < (mixed > 0.4).sum() < 32
    whole = CorrectedScan.of(correction(labels, range(5), scan=image), CARD)
    assert brightness([whole]) is None
    assert brightness([whole], [grey], 0.5).min() > 0.2


def test_background_alone_tells_nothing_but_spoils_nothing_either(one_sentence):
    full, empty = correction(), correction(np.zeros(SHAPE, np.uint8))
    erased = np.full(SHAPE, 9, np.uint8)
    erased[..., 2] = 0
    erased = correction(erased, unmarked=9)
    assert erased.partly_labelled == set(erased.slices)
    assert informative([empty, full, erased]) == [full, erased]
    for nothing, said in (([empty], "background alone"), ([], "nothing is corrected")):
        with pytest.raises(InputError, match=said) as caught:
            informative(nothing)
        one_sentence(caught.value)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("between 0 and 4", {"slices": ()}),
        ("but got 5, 9", {"slices": (1, 5, 9)}),
        ("but got -1", {"slices": (-1,)}),
        ("of the scan's shape", {"labels": np.ones((5, 24, 31), np.uint8)}),
        ("weights of the scan's shape", {"weights": np.ones((5, 24, 31))}),
        ("weights from 0 to 65504, but they go from nan", {"weights": IN_ONE}),
        ("go from -1 to -1", {"weights": np.full(SHAPE, -1)}),
        ("go from 70000 to 70000", {"weights": np.full(SHAPE, 7e4)}),
        ("slice 1, 3 is unmarked", {"labels": np.full(SHAPE, 4, np.uint8), "unmarked": 4}),
        ("whole label numbers", {"labels": np.full(SHAPE, 1.5)}),
        ("from 0 to 65535", {"labels": np.full(SHAPE, -1)}),
        ("from 0 to 65535", {"unmarked": 70000}),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(said, change, one_sentence):
    with pytest.raises(InputError, match=said) as caught:
        correction(**change)
    one_sentence(caught.value)
