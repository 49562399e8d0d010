"""Intensities and padding, and that augmentation moves image and labels together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core import augment
from l2gnet_core.augment import Augmentation, intensity_view, spatial_view
from l2gnet_core.preprocess import (
    intensity_window,
    neighbours,
    normalise,
    pad_to_multiple,
    resized,
    resized_classes,
)

quick = settings(max_examples=20, deadline=None)
STILL = Augmentation(size=32, scale=(1.0, 1.0), stretch=0.0, turn=0.0, orientation_free=False)


def test_a_constant_scan_becomes_zeros():
    for value in (0, -1000, 77):
        scan = np.full((3, 8, 8), value, np.int16)
        result = normalise(scan, intensity_window(scan))
        assert result.dtype == np.float32
        assert (result == 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_percentiles_become_zero_and_one(dtype):
    scan = np.random.default_rng(0).integers(0, 250, (4, 50, 50)).astype(dtype)
    low, high = np.percentile(scan, (1, 99))
    assert intensity_window(scan) == pytest.approx((low, high))
    result = normalise(scan, (low, high))
    assert result.dtype == np.float32
    assert np.allclose(result, np.clip((scan.astype(float) - low) / (high - low), 0, 1), atol=1e-6)


@quick
@given(st.floats(0.01, 1000), st.floats(-500, 500))
def test_the_scanners_gain_and_offset_do_not_matter(gain, offset):
    scan = np.random.default_rng(0).normal(size=(2, 30, 30))
    plain = normalise(scan, intensity_window(scan))
    other = gain * scan + offset
    assert np.allclose(normalise(other, intensity_window(other)), plain, atol=1e-3)


def test_window_does_not_depend_on_how_the_array_lies_in_memory():
    scan = np.random.default_rng(0).integers(0, 1000, (5, 40, 30)).astype(np.int16)
    stored = np.asfortranarray(scan)
    for at_most in (500, 2_000_000):
        assert intensity_window(stored, at_most) == intensity_window(scan, at_most)


def test_window_of_a_large_scan_is_read_off_a_fair_sample():
    # Each column has its own brightness: a step that divides the width would see one column only.
    scan = np.broadcast_to(np.arange(64.0), (20, 64, 64)).copy()
    low, high = intensity_window(scan, at_most=scan.size // 64)
    assert low <= 2
    assert high >= 61


@quick
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 16]))
def test_cropping_undoes_padding_exactly(height, width, multiple):
    images = torch.rand(2, 1, height, width)
    padded = pad_to_multiple(images, multiple)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple
    assert padded.shape[-1] - width < multiple
    assert torch.equal(padded[..., :height, :width], images)
    assert padded.sum() == pytest.approx(float(images.sum()), rel=1e-5)


@pytest.fixture
def centred(monkeypatch):
    """Crops around the middle of the slice instead of a random place."""
    monkeypatch.setattr(augment, "_centre", lambda label, how: tuple(n / 2 for n in label.shape))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.sampled_from([1, 3, 5]), st.data())
def test_neighbours_surround_their_slice_and_end_with_the_stack(total, count, data):
    index = data.draw(st.integers(0, total - 1))
    (seen,) = neighbours([index], total, count)
    assert len(seen) == count
    for offset, slice in enumerate(seen, -(count // 2)):
        assert slice == min(max(index + offset, 0), total - 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.sampled_from([3, 5]), st.integers(1, 12), st.data())
def test_neighbours_may_lie_apart(total, count, step, data):
    index = data.draw(st.integers(0, total - 1))
    (seen,) = neighbours([index], total, count, step)
    assert [
        min(max(index + step * k, 0), total - 1) for k in range(-(count // 2), count // 2 + 1)
    ] == [*seen]


@quick
@given(
    st.integers(0, 9999), st.tuples(*[st.integers(1, 50)] * 2), st.tuples(*[st.integers(1, 50)] * 2)
)
def test_resized_classes_are_those_whose_share_is_largest(seed, size, wanted):
    classes = torch.from_numpy(np.random.default_rng(seed).choice([0, 3, 200], (2, *size)))
    found = resized_classes(classes.byte(), wanted)
    assert found.shape == (2, *wanted)
    assert found.dtype == torch.uint8
    shares = torch.stack([resized((classes == id)[None].float(), wanted)[0] for id in (0, 3, 200)])
    largest = shares.max(0).values
    for place, id in enumerate((0, 3, 200)):
        assert (shares[place][found == id] > largest[found == id] - 1e-5).all()
    assert torch.equal(resized_classes(classes, size), classes)


@pytest.mark.parametrize("shape", [(32, 32), (48, 40)])
def test_without_scale_and_turn_the_view_is_a_plain_crop(centred, shape):
    label = torch.randint(4, shape)
    image = torch.rand(2, *shape)
    seen, truth = spatial_view(image, label, STILL)
    top, left = ((n - 32) // 2 for n in shape)
    assert torch.allclose(seen, image[:, top : top + 32, left : left + 32], atol=1e-5)
    assert torch.equal(truth, label[top : top + 32, left : left + 32])


@pytest.mark.usefixtures("centred")
def test_outside_of_the_slice_is_zero():
    seen, truth = spatial_view(torch.ones(1, 20, 20), torch.ones(20, 20, dtype=torch.long), STILL)
    assert truth.sum() == 400
    assert (truth[6:26, 6:26] == 1).all()
    assert seen.sum() == pytest.approx(400, rel=1e-4)


@quick
@given(st.integers(0, 9999), st.booleans(), st.sampled_from([(60, 60), (40, 70)]))
def test_image_and_labels_move_together(seed, orientation_free, shape):
    torch.manual_seed(seed)
    # Smooth shapes: at their edges only, linear and nearest interpolation differ.
    y, x = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    label = ((y - 22) ** 2 / 90 + (x - 30) ** 2 / 200 < 1).long()
    label[(y - 25) ** 2 + (x - 35) ** 2 < 30] = 2
    image = torch.stack([(label == 1).float(), (label == 2).float()])
    how = Augmentation(size=48, orientation_free=orientation_free)
    seen, truth = spatial_view(image, label, how)
    for index in (1, 2):
        same = (seen[index - 1] > 0.5) == (truth == index)
        # What differs is rounding at the edge, within a voxel of the stored slice.
        assert same.float().mean() > 0.97


@pytest.mark.usefixtures("centred")
def test_turns_keep_shapes_on_slices_that_are_not_square():
    y, x = torch.meshgrid(torch.arange(40), torch.arange(90), indexing="ij")
    disc = ((y - 19.5) ** 2 + (x - 44.5) ** 2 < 100).long()
    how = Augmentation(size=32, scale=(1.0, 1.0), stretch=0.0, turn=180.0, orientation_free=False)
    for seed in range(5):
        torch.manual_seed(seed)
        truth = spatial_view(disc[None].float(), disc, how)[1]
        assert truth.sum() == pytest.approx(int(disc.sum()), rel=0.03)
        rows, columns = truth.any(1).sum(), truth.any(0).sum()
        assert abs(int(rows) - int(columns)) <= 1


@pytest.mark.usefixtures("centred")
def test_scale_magnifies():
    label = torch.zeros(64, 64, dtype=torch.long)
    label[28:36, 28:36] = 1
    for scale in (0.5, 2.0):
        how = Augmentation(64, (scale, scale), 0.0, 0.0, orientation_free=False)
        truth = spatial_view(label[None].float(), label, how)[1]
        assert truth.sum() == pytest.approx(64 * scale**2, rel=0.05)


def orientations(how: Augmentation) -> set[tuple[int, int]]:
    """Where two marks of a slice, right of and below its middle, come to lie in 40 views."""
    label = torch.zeros(31, 31, dtype=torch.long)
    label[15, 25], label[25, 15] = 1, 2
    found = set()
    for _ in range(40):
        truth = spatial_view(label[None].float(), label, how)[1]
        places = []
        for mark in (1, 2):
            y, x = torch.nonzero(truth == mark)[0].tolist()
            places.append(("up", "down")[y > 15] if abs(y - 15) > 5 else ("left", "right")[x > 15])
        found.add(tuple(places))
    return found


@pytest.mark.usefixtures("centred", "seeded")
def test_oriented_models_never_see_mirror_images_or_quarter_turns():
    still = Augmentation(31, (1.0, 1.0), 0.0, 0.0, orientation_free=False)
    assert orientations(still) == {("right", "down")}
    free = Augmentation(31, (1.0, 1.0), 0.0, 0.0, orientation_free=True)
    assert len(orientations(free)) == 8  # four turns, each mirrored or not


@pytest.mark.usefixtures("centred", "seeded")
def test_in_a_mirror_paired_classes_change_places():
    # 1 is left of the middle, 2 right of it; 3 is left too, but has no side in its name.
    label = torch.zeros(32, 32, dtype=torch.uint8)
    label[10:14, 4:8], label[10:14, 24:28], label[20:24, 4:8] = 1, 2, 3
    image = (label == 3)[None].float()
    how = replace(STILL, mirror_pairs=((1, 2),))
    mirrored = []
    for _ in range(60):
        seen, truth = spatial_view(image, label, how)
        columns = [torch.nonzero(truth == id)[:, 1].float().mean() for id in (1, 2, 3)]
        assert columns[0] < 10
        assert columns[1] > 20
        mirrored.append(bool(columns[2] > 20))
        assert torch.equal(seen[0] > 0.5, truth == 3)
    assert 15 < sum(mirrored) < 45
    assert torch.equal(label[10:14, 4:8], torch.ones(4, 4, dtype=torch.uint8))  # left as it was


def test_views_depend_on_the_seed_alone():
    image, label = torch.rand(1, 50, 50), torch.randint(3, (50, 50))
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen, truth = spatial_view(image, label, Augmentation(size=32))
        views.append((intensity_view(seen, Augmentation(size=32)), truth))
    assert torch.equal(views[0][0], views[1][0])
    assert torch.equal(views[0][1], views[1][1])
    assert not torch.equal(views[0][0], views[2][0])


@quick
@given(st.integers(0, 9999), st.integers(1, 3))
def test_intensity_views_stay_finite_and_keep_the_shape(seed, channels):
    torch.manual_seed(seed)
    for image in (torch.rand(channels, 24, 40), torch.zeros(channels, 24, 40)):
        seen = intensity_view(image, Augmentation())
        assert seen.shape == image.shape
        assert torch.isfinite(seen).all()


def test_blur_keeps_a_constant_image_and_each_channel_apart():
    constant = torch.stack([torch.full((20, 20), 0.3), torch.full((20, 20), 0.7)])
    assert torch.allclose(augment._blur(constant, 1.0), constant, atol=1e-6)
