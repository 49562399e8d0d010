"""The pure parts of benchmarks/annotation_effort.py."""

from __future__ import annotations

import numpy as np
import pytest
from _annotator import chosen, dice, evenly, holding, mean, recovered, rounds, taught_and_judged
from _changes import CHANGES, changed
from _rivals import placed_features
from _shifts import (
    BASES,
    UNMARKED,
    Changed,
    Frame,
    Sample,
    alternating,
    by_part,
    frames,
    learnt,
    shifted_split,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import directed_hausdorff

from l2gnet_core.datasets.cases import FilePair

TWO_STRUCTURES = {1: "one", 2: "two"}
ACDC = [
    f"patient{number:03d}_frame{frame:02d}"
    for number in range(1, 101)
    for frame in (1, 8 + number % 7)
]
TRAINED = {
    name: base
    for name, base in BASES.items()
    if base is not None and base.study == "acdc" and not base.change
}


def test_frames_tell_phase_and_disease():
    first, second, *_ = found = frames(ACDC)
    assert (first.phase, second.phase) == ("end-diastole", "end-systole")
    assert first.patient == second.patient == "patient001"
    groups = {frame.patient: frame.group for frame in found}
    assert [groups[f"patient{n:03d}"] for n in (20, 21, 60, 61, 100)] == [
        "dilated",
        "hypertrophic",
        "infarcted",
        "normal",
        "right ventricle",
    ]


@pytest.mark.parametrize("name", TRAINED)
@given(left_out=st.sets(st.integers(0, 99), max_size=30))
def test_no_patient_is_on_two_sides(name, left_out):
    base = TRAINED[name]
    there = [f for f in frames(ACDC) if int(f.patient[-3:]) - 1 not in left_out]
    own, split = learnt(base, there)
    others, apart = shifted_split(base, there)
    shifted, usual = by_part("acdc", others, apart), by_part("acdc", own, split)

    def patients(samples):
        return {sample.frame.patient for sample in samples}

    taught = set(split.train)
    assert {f.patient for f in own} == taught | patients(usual["tuning"]) | patients(usual["test"])
    held = patients(shifted["tuning"]) | patients(usual["tuning"])
    tested = patients(shifted["test"]) | patients(usual["test"])
    assert not held & tested
    assert not taught & (held | tested)
    assert not {f.name for f in own} & {f.name for f in others}


def test_phases_alternate_over_patients():
    some = alternating(frames(ACDC))
    assert len(some) == len({frame.patient for frame in some}) == 100
    assert {frame.phase for frame in some[::2]} == {"end-diastole"}
    assert {frame.phase for frame in some[1::2]} == {"end-systole"}


def test_dice_is_pooled_and_skips_what_neither_mask_holds():
    truth, said = np.zeros((2, 3, 4, 4), np.uint8)
    truth[0, :2] = 1  # 8 voxels, 4 of them found
    said[0, :1] = 1
    truth[1, 0] = 1  # 4 voxels, all found
    said[1, 0] = 1
    assert dice(said, truth, 0, TWO_STRUCTURES) == {"one": pytest.approx(2 * 8 / (12 + 8))}
    said[2, 3, 3] = 2
    assert dice(said, truth, 0, TWO_STRUCTURES)["two"] == 0
    # The slice with the mistake was corrected: nobody speaks of it any more.
    assert "two" not in dice(said, truth, 0, TWO_STRUCTURES, without=[2])
    assert dice(said, truth, 0, TWO_STRUCTURES, without=[0, 2]) == {"one": 1}


@given(st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_dice_is_the_same_along_every_axis(axis, seed):
    truth, said = np.random.default_rng(seed).integers(0, 3, (2, 4, 5, 6))
    along = [np.moveaxis(array, 0, axis) for array in (said, truth)]
    assert dice(*along, axis, TWO_STRUCTURES, [1]) == dice(said, truth, 0, TWO_STRUCTURES, [1])
    assert 0 <= mean(dice(said, truth, 0, TWO_STRUCTURES)) <= 1


def test_rounds_leave_slices_to_judge_by():
    assert rounds(10) == [1, 3, 5]
    assert rounds(6) == [1, 3]
    assert rounds(2) == []


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_a_round_keeps_what_was_corrected_and_adds_what_is_proposed(first, second):
    one = chosen([], first, 3)
    two = chosen(one, second, 5)
    assert one == first[:3]
    assert two[:3] == one
    assert len(set(two)) == 5
    assert two[3:] == [index for index in second if index not in one][:2]


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(1, 9), st.booleans())
def test_even_slices_hold_the_structure(held, count, ends):
    found = evenly(sorted(held), count, ends)
    assert set(found) <= held
    assert len(found) == min(count, len(held))
    if ends and count > 1:
        assert {min(held), max(held)} <= set(found)


def test_slices_that_hold_a_structure():
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[1:3, 2, 4] = 2
    assert holding(truth, 0, [2]) == [1, 2]
    assert holding(truth, 2, [2]) == [4]
    assert holding(truth, 0, [1]) == []


@given(st.integers(2, 30), st.integers(1, 3))
def test_taught_patients_do_not_judge(patients, each):
    who = {(p, frame): f"p{p:02d}" for p in range(patients) for frame in range(each)}
    taught, judged = taught_and_judged(who)
    assert not {who[v] for v in taught} & {who[v] for v in judged}
    assert len(set(taught)) == len(taught) <= 5
    assert judged
    if patients >= 10:
        assert len(taught) == 5


def test_recovered_share_of_the_gap():
    assert recovered(0.7, 0.8, 0.9) == pytest.approx(0.5)


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_the_same_again_and_keep_the_grid(name):
    rng = np.random.default_rng(0)
    scan = rng.gamma(2, 100, (3, 40, 48))
    truth = np.zeros(scan.shape, np.uint8)
    truth[:, 12:30, 16:34] = 1
    scribbles = np.where(rng.random(scan.shape) < 0.1, truth, UNMARKED).astype(np.uint8)
    one, again = (changed(name, [scan, truth, scribbles], 5, [0, 0, UNMARKED]) for _ in range(2))
    for array, same, before in zip(one, again, (scan, truth, scribbles), strict=True):
        np.testing.assert_array_equal(array, same)
        assert array.shape == before.shape
    assert not np.allclose(one[0], changed(name, [scan], 5, [0], 0.9)[0])
    # Labels stay what they are, and with the picture.
    assert set(np.unique(one[1])) == {0, 1}
    marked = one[2] != UNMARKED
    if name != "orientation":
        np.testing.assert_array_equal(one[1], truth)
        np.testing.assert_array_equal(one[2][marked], truth[marked])


def test_orientation_turns_scan_and_labels_alike():
    truth = np.zeros((1, 64, 64), np.uint8)
    truth[0, 24:40, 20:44] = 1
    image, labels = changed("orientation", [truth.astype(np.float32), truth], 0, [0, 0])
    one, other = np.argwhere(image[0] > 0.5), np.argwhere(labels[0])
    assert max(directed_hausdorff(one, other)[0], directed_hausdorff(other, one)[0]) <= 2**0.5
    # Half as large.
    assert labels.sum() == pytest.approx(truth.sum() / 4, rel=0.1)


def test_what_a_change_is_learnt_from_is_changed_as_what_is_tested(tmp_path, save_scan):
    truth = np.zeros((2, 64, 64), np.uint8)
    truth[:, 24:40, 20:44] = 1
    image_file, labels_file = (tmp_path / part / "patient001_frame01.nii.gz" for part in "il")
    save_scan(image_file, truth.astype(np.float32))
    save_scan(labels_file, truth)
    sample = Sample("acdc", Frame("patient001_frame01", "patient001"), "orientation")
    files = Changed(FilePair(image_file, labels_file), sample)
    image, labels = files.read_image(), files.read_labels().volume
    seen, turned = changed("orientation", [truth, truth], 0, [0, 0])
    np.testing.assert_allclose(image.data, seen)
    np.testing.assert_array_equal(labels.data, turned)
    np.testing.assert_array_equal(image.affine, labels.affine)


def test_features_are_of_each_pixel():
    image = np.random.default_rng(0).random((2, 16, 18), np.float32)
    features = placed_features(image)
    assert features.shape[:3] == image.shape
    np.testing.assert_array_equal(features[..., 0], image)
    # The second slice says nothing of the first, but for its place.
    alone = placed_features(np.stack([image[0], image[0]]))
    np.testing.assert_array_equal(features[0], alone[0])
