"""Intensities, padding and neighbouring slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core.network.config import preset
from l2gnet_core.preprocessing import intensities
from l2gnet_core.preprocessing.images import (
    neighbours,
    network_input,
    network_inputs,
    pad_to_multiple,
    resized,
    resized_classes,
)
from l2gnet_core.preprocessing.intensities import intensity_window, normalise

quick = settings(max_examples=20, deadline=None)


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


@pytest.mark.parametrize(
    ("dtype", "offset", "gain"),
    [(np.uint32, 2_100_000_000, 1), (np.int64, -(2**50), 1), (np.float64, 0, 1e300)],
)
def test_numbers_too_large_for_float32_lose_nothing(dtype, offset, gain):
    plain = np.random.default_rng(0).integers(0, 250, (4, 50, 50))
    large = (plain * dtype(gain) + dtype(offset)).astype(dtype)
    wanted = normalise(plain.astype(np.float32), intensity_window(plain))
    np.testing.assert_allclose(normalise(large, intensity_window(large)), wanted, atol=1e-6)


@quick
@given(st.floats(0.01, 1000), st.floats(-500, 500))
def test_the_scanners_gain_and_offset_do_not_matter(gain, offset):
    scan = np.random.default_rng(0).normal(size=(2, 30, 30))
    plain = normalise(scan, intensity_window(scan))
    other = gain * scan + offset
    assert np.allclose(normalise(other, intensity_window(other)), plain, atol=1e-3)


def test_window_does_not_depend_on_how_the_array_lies_in_memory(monkeypatch):
    scan = np.random.default_rng(0).integers(0, 1000, (5, 40, 30)).astype(np.int16)
    stored = np.asfortranarray(scan)
    for enough in (500, 2_000_000):
        monkeypatch.setattr(intensities, "_ENOUGH", enough)
        assert intensity_window(stored) == intensity_window(scan)


def test_window_of_a_large_scan_is_read_off_a_fair_sample(monkeypatch):
    # Each column has its own brightness: a step that divides the width would sample one column.
    scan = np.broadcast_to(np.arange(64.0), (20, 64, 64)).copy()
    monkeypatch.setattr(intensities, "_ENOUGH", scan.size // 64)
    low, high = intensity_window(scan)
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


def test_a_network_gets_all_slices_in_their_order_with_neighbours_and_padding():
    image, config = torch.rand(9, 20, 33), preset("tiny", 2, in_channels=3)
    together = torch.cat(list(network_inputs(image, config, 2)))
    assert together.shape == (9, 3, 32, 48)
    assert torch.equal(together[:, 1, :20, :33], image)
    assert torch.equal(together[4, :, :20, :33], image[[2, 4, 6]])
    assert torch.equal(network_input(image, [8], config, 2)[0], together[8])
    assert not together[..., 20:, :].any()


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
