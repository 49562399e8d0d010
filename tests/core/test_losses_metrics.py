"""Losses against their formulas; scores against brute force over sets of voxels and points."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from l2gnet_core.errors import InputError
from l2gnet_core.network.losses import (
    COMMITMENT_WEIGHT,
    as_background,
    at_level,
    distillation_loss,
    open_background,
    segmentation_loss,
    soft_dice_loss,
)
from l2gnet_core.network.model import NetworkOutput
from l2gnet_core.scores.evaluate import CaseScores, evaluate, pair_files, summary
from l2gnet_core.scores.metrics import Agreement, agreement, agreement_per_label, dice_per_class

quick = settings(max_examples=20, deadline=None)


def one_hot_logits(target: torch.Tensor, classes: int, sure: float = 50.0) -> torch.Tensor:
    return sure * torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()


def test_soft_dice_loss_is_zero_for_the_truth_and_one_for_its_opposite():
    target = torch.arange(3).repeat(2, 6, 2)[:, :, :6]
    assert soft_dice_loss(one_hot_logits(target, 3), target) == pytest.approx(0, abs=1e-5)
    wrong = one_hot_logits((target + 1) % 3, 3)
    assert soft_dice_loss(wrong, target) > 0.9


def test_soft_dice_loss_follows_the_formula_pooled_over_the_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    target = torch.randint(4, (3, 5, 6), generator=generator)
    p = logits.softmax(1)
    losses = []
    for index in (1, 2, 3):
        truth = (target == index).float()
        overlap = (p[:, index] * truth).sum()
        losses.append(1 - (2 * overlap + 1) / (p[:, index].sum() + truth.sum() + 1))
    assert soft_dice_loss(logits, target) == pytest.approx(float(sum(losses)) / 3, abs=1e-6)


def test_an_absent_structure_does_not_count_in_soft_dice():
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[:, 2:5, 2:5] = 1
    logits = one_hot_logits(target, 4)
    assert soft_dice_loss(logits, target) == pytest.approx(0, abs=1e-4)
    empty = torch.zeros_like(target)
    assert soft_dice_loss(logits, empty) == 0


def test_segmentation_loss_is_half_and_half_plus_commitment():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    target = torch.randint(3, (2, 4, 4), generator=generator)
    output = NetworkOutput(logits, (), torch.tensor(0.8), target, None)
    wanted = (
        0.5 * torch.nn.functional.cross_entropy(logits, target)
        + 0.5 * soft_dice_loss(logits, target)
        + COMMITMENT_WEIGHT * 0.8
    )
    assert COMMITMENT_WEIGHT == 0.25
    assert segmentation_loss(output, target) == pytest.approx(float(wanted))


@quick
@given(st.integers(0, 9999), st.integers(2, 5))
def test_dice_equals_brute_force_and_is_nan_where_absent_from_both(seed, classes):
    rng = np.random.default_rng(seed)
    predicted, truth = (rng.integers(0, rng.integers(1, classes + 1), (2, 3, 4)) for _ in "ab")
    ours = dice_per_class(torch.from_numpy(predicted), torch.from_numpy(truth), classes)
    for index, score in enumerate(ours.tolist(), start=1):
        a, b = (set(np.flatnonzero(mask == index)) for mask in (predicted, truth))
        if a or b:
            assert score == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
        else:
            assert math.isnan(score)


def surface(mask: np.ndarray) -> np.ndarray:
    """Coordinates of the voxels of a mask that touch its outside through a face."""
    padded = np.pad(mask, 1)
    return np.argwhere(padded & ~ndimage.binary_erosion(padded))


def brute_force(a: np.ndarray, b: np.ndarray, spacing, tolerance: float) -> Agreement:
    flat = [axis for axis, length in enumerate(a.shape) if length == 1]
    # A single slice has an outline, not a surface.
    a, b, spacing = a.squeeze(), b.squeeze(), np.delete(spacing, flat)
    distances = cdist(surface(a) * spacing, surface(b) * spacing)
    there, back = distances.min(1), distances.min(0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    return Agreement(dice, hd95, near / (len(there) + len(back)))


def blob(rng, shape) -> np.ndarray:
    """A mask of random lumps that is never empty and often touches the border."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1.2)
    return smooth >= np.quantile(smooth, rng.uniform(0.4, 0.95))


@quick
@given(
    st.integers(0, 9999),
    st.sampled_from([(3, 9, 11), (5, 6, 7), (1, 12, 12), (12, 1, 12), (14, 10)]),
    st.sampled_from([(8.0, 1.4, 1.4), (1.0, 2.5, 0.7), (3.0, 3.0, 3.0)]),
)
def test_surface_measures_equal_brute_force(seed, shape, spacing):
    rng = np.random.default_rng(seed)
    a, b = blob(rng, shape), blob(rng, shape)
    spacing = spacing[-len(shape) :]
    # No distance between voxels equals this, so that rounding does not matter.
    tolerance = 2.03
    ours = agreement(a, b, spacing, tolerance)
    wanted = brute_force(a, b, spacing, tolerance)
    assert ours.dice == pytest.approx(wanted.dice)
    assert ours.hd95 == pytest.approx(wanted.hd95, rel=1e-4)
    assert ours.surface_dice == pytest.approx(wanted.surface_dice, abs=1e-6)


def test_hd95_of_a_known_shift_counts_the_spacing():
    a = np.zeros((9, 30, 30), bool)
    a[2:6, 5:15, 5:15] = True
    b = np.roll(a, 2, axis=0)
    # The 95th percentile reaches the end slices, which are two slices of 8 mm apart.
    assert agreement(a, b, (8.0, 1.0, 1.0), 2.0).hd95 == pytest.approx(16)
    assert agreement(a, np.roll(a, 2, axis=2), (8.0, 1.0, 1.5), 2.0).hd95 == pytest.approx(3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_scored_by_its_outline(axis):
    square = np.zeros((30, 30), bool)
    square[5:15, 5:15] = True
    moved = np.roll(square, 2, axis=1)
    in_plane = agreement(square, moved, (1.5, 2.0), 2.0)
    assert in_plane.hd95 == pytest.approx(4)
    a, b = (np.expand_dims(mask, axis) for mask in (square, moved))
    spacing = tuple(np.insert((1.5, 2.0), axis, 8.0))
    assert agreement(a, b, spacing, 2.0) == in_plane
    empty = agreement(a, np.zeros_like(b), spacing, 2.0)
    assert empty.hd95 == pytest.approx(math.hypot(45, 60))


def test_a_perfect_mask_scores_perfectly():
    mask = blob(np.random.default_rng(0), (4, 12, 12))
    assert agreement(mask, mask, (8.0, 1.5, 1.5), 2.0) == Agreement(1.0, 0.0, 1.0)


def test_absent_from_both_is_skipped_and_from_one_is_zero_and_the_diagonal():
    empty, full = np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 5), np.uint8)
    full[1, 1:3, 1:3] = 2
    spacing = (8.0, 1.5, 2.0)
    diagonal = math.hypot(24, 6, 10)
    names = {1: "one", 2: "two"}
    for predicted, truth in ((empty, full), (full, empty)):
        scores = agreement_per_label(predicted, truth, names, spacing, 2.0)
        assert scores == {"two": Agreement(0.0, pytest.approx(diagonal), 0.0)}
    assert agreement_per_label(empty, empty, names, spacing, 2.0) == {}


def test_summary_averages_over_cases_that_hold_a_structure_then_over_structures():
    cases = [
        CaseScores("a", {"one": Agreement(1.0, 2.0, 0.5)}, "mm"),
        CaseScores("b", {"one": Agreement(0.5, 4.0, 0.5), "two": Agreement(0.25, 1.0, 1.0)}, "mm"),
    ]
    table = summary(cases)
    assert table["one"] == {"dice": 0.75, "hd95": 3.0, "surface_dice": 0.5}
    assert table["two"]["dice"] == 0.25
    assert table["mean"]["dice"] == pytest.approx(0.5)
    assert summary([]) == {}


@pytest.fixture
def masks() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = np.stack([blob(rng, (20, 22)) for _ in range(3)]).astype(np.uint8)
    predicted = truth.copy()
    predicted[:, :6] = 0
    return predicted, truth


def test_evaluate_scores_pairs_of_files_with_the_files_spacing(masks, tmp_path, save_scan):
    predicted, truth = masks
    a = save_scan(tmp_path / "a.nii.gz", predicted, (8.0, 1.5, 1.5))
    b = save_scan(tmp_path / "b.nii.gz", truth, (8.0, 1.5, 1.5))
    (case,) = evaluate(pair_files(a, b), 2.0)
    assert case.case == "b"
    wanted = agreement(predicted == 1, truth == 1, (8.0, 1.5, 1.5), 2.0)
    assert case.structures["label 1"].dice == pytest.approx(wanted.dice)
    assert case.structures["label 1"].hd95 == pytest.approx(wanted.hd95, rel=1e-4)


def test_surface_dice_is_the_same_however_the_header_lies(masks, tmp_path):
    _, truth = masks
    moved, found = np.roll(truth, 2, axis=1), []
    for degrees in (0, 20):
        turned = Rotation.from_euler("xyz", [degrees, 0, degrees / 2], degrees=True).as_matrix()
        affine = nib.affines.from_matvec(turned)
        for name, data in (("a", moved), ("b", truth)):
            nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii")
        (case,) = evaluate([(tmp_path / "a.nii", tmp_path / "b.nii")], 2.0)
        found.append(case.structures["label 1"].surface_dice)
    assert found[0] > 0
    assert found[1] == found[0]


def test_evaluate_pairs_folders_by_name_whatever_the_format(masks, tmp_path, save_scan):
    predicted, truth = masks
    for name in ("one", "two"):
        save_scan(tmp_path / "predictions" / f"{name}.nii", predicted)
        save_scan(tmp_path / "references" / f"{name}.nii.gz", truth)
    save_scan(tmp_path / "predictions" / "spare.nii.gz", predicted)
    pairs = pair_files(tmp_path / "predictions", tmp_path / "references")
    assert [(a.name, b.name) for a, b in pairs] == [
        ("one.nii", "one.nii.gz"),
        ("two.nii", "two.nii.gz"),
    ]
    assert [case.case for case in evaluate(pairs, 2.0)] == ["one", "two"]


def test_evaluate_scores_time_series_frame_by_frame(masks, tmp_path, save_scan):
    _, truth = masks
    series = np.stack([truth, np.zeros_like(truth)])
    a = save_scan(tmp_path / "a.nii.gz", np.stack([truth, truth]))
    b = save_scan(tmp_path / "b.nii.gz", series)
    first, second = evaluate([(a, b)], 2.0)
    assert (first.case, second.case) == ("b[0]", "b[1]")
    assert first.structures["label 1"].dice == 1
    assert second.structures["label 1"].dice == 0


def test_what_cannot_be_compared_is_refused(masks, tmp_path, save_scan, one_sentence):
    predicted, truth = masks
    reference = save_scan(tmp_path / "references" / "a.nii.gz", truth)
    other_shape = save_scan(tmp_path / "shape" / "a.nii.gz", predicted[:2])
    shifted = save_scan(tmp_path / "shifted" / "a.nii.gz", predicted, shift=5.0)
    other_name = save_scan(tmp_path / "name" / "b.nii.gz", predicted)
    (tmp_path / "empty").mkdir()
    for prediction, against, says in (
        (other_shape, reference, "shape"),
        (shifted, reference, "affine"),
        (other_name.parent, reference.parent, "no prediction for a"),
        (reference.parent, tmp_path / "empty", "no masks"),
        (reference, reference.parent, "same kind"),
        (tmp_path / "missing", reference, "There is no file or folder .*missing"),
        (reference.parent, tmp_path / "missing", "There is no file or folder .*missing"),
    ):
        with pytest.raises(InputError, match=says) as error:
            list(evaluate(pair_files(prediction, against), 2.0))
        one_sentence(error.value)


def test_a_coarser_output_is_taught_by_the_middles_of_its_cells():
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert at_level(rows, 0).equal(rows)
    for level, middles in ((1, [1, 3, 5, 7]), (2, [2, 6])):
        assert at_level(rows, level)[:, 0].tolist() == middles
        assert at_level(columns, level)[0].tolist() == middles


@quick
@given(st.integers(0, 99), st.sampled_from([0, 1, 2]))
def test_pixels_of_no_weight_have_no_say(seed, coarser):
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(2, 3, 8 >> i, 8 >> i, generator=generator) for i in range(coarser + 1)]
    for level in logits:
        level.requires_grad_(True)
    target = torch.randint(3, (2, 8, 8), generator=generator)
    weight = (torch.rand(2, 8, 8, generator=generator) > 0.5).float()
    zero = torch.zeros(())

    def loss(truth, weight):
        output = NetworkOutput(logits[0], tuple(logits[1:]), zero, None, None)
        return segmentation_loss(output, truth, weight)

    other = torch.where(weight > 0, target, (target + 1) % 3)
    assert torch.equal(loss(target, weight), loss(other, weight))
    (gradient,) = torch.autograd.grad(loss(target, weight), [logits[0]])
    assert (gradient.abs().sum(1)[weight == 0] == 0).all()
    assert (gradient.abs().sum(1)[weight > 0] > 0).all()
    # Equal weights are as good as none, except for the smoothing of the Dice.
    ones = torch.ones_like(weight)
    torch.testing.assert_close(loss(target, ones), loss(target, None))


def test_classes_called_background_share_its_probability():
    logits = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_(True)
    open_classes = torch.tensor([[False, False, True, False], [False, True, False, True]])
    p, q = logits.softmax(1), as_background(logits, open_classes).softmax(1)
    torch.testing.assert_close(q[0, 0], p[0, 0] + p[0, 2])
    torch.testing.assert_close(q[1, 0], p[1, 0] + p[1, 1] + p[1, 3])
    torch.testing.assert_close(q[0, [1, 3]], p[0, [1, 3]])
    target = torch.zeros(2, 3, 3, dtype=torch.long)
    loss = torch.nn.functional.cross_entropy(as_background(logits, open_classes), target)
    (gradient,) = torch.autograd.grad(loss, [logits])
    assert torch.isfinite(gradient).all()
    # Where the truth says background, an open class is pushed up like the background itself.
    assert (gradient[0, 2] < 0).all()
    assert (gradient[0, 1] > 0).all()


def test_an_open_background_is_shared_by_its_classes_alone():
    logits = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    open_classes = torch.tensor([[False, False, True, False], [True, True, False, True]])
    p, q = logits.softmax(1), open_background(logits, open_classes).softmax(1)
    torch.testing.assert_close(q[0, [0, 2]], p[0, [0, 2]] / p[0, [0, 2]].sum(0))
    torch.testing.assert_close(q[1, [0, 1, 3]], p[1, [0, 1, 3]] / p[1, [0, 1, 3]].sum(0))
    assert (q[0, [1, 3]] == 0).all()
    loss = distillation_loss(
        open_background(logits.requires_grad_(True), open_classes),
        open_background(logits.detach().flip(0), open_classes),
        torch.ones(2, 3, 3),
    )
    (gradient,) = torch.autograd.grad(loss, [logits])
    # What else a pixel may be is not its business.
    assert torch.isfinite(gradient).all()
    assert (gradient[0, [1, 3]] == 0).all()
    assert (gradient[0, [0, 2]] != 0).all()


def test_distillation_is_the_divergence_from_the_teacher():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    weight = torch.rand(2, 4, 4, generator=generator)
    assert distillation_loss(teacher, teacher, weight) == pytest.approx(0, abs=1e-6)
    theirs = torch.nn.functional.kl_div(
        student.log_softmax(1), teacher.softmax(1), reduction="none"
    ).sum(1)
    expected = float((theirs * weight).sum() / weight.sum())
    assert distillation_loss(student, teacher, weight) == pytest.approx(expected, rel=1e-5)
