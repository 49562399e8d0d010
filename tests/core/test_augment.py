"""Random views: image and labels move together, intensities stay sane, draws stay apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from l2gnet_core.augmentation.recolour import RandomCurves, RandomNetwork, draw_recolouring
from l2gnet_core.augmentation.views import (
    Augmentation,
    IntensityView,
    SpatialView,
    draw_intensity,
    draw_spatial,
    intensity_views,
    spatial_views,
)
from l2gnet_core.preprocessing.images import blurred

quick = settings(max_examples=20, deadline=None)
PLAIN = IntensityView(None, 1.0, 0.0, None, None, None, None)
NOTHING = torch.zeros(1, 1, 32, 32, dtype=torch.long)


def middle(label: torch.Tensor) -> tuple[float, float]:
    return label.shape[0] / 2, label.shape[1] / 2


def view_of(image, label, view, size):
    """One slice through the batched function."""
    seen, truth = spatial_views(image[None], label[None, None], [view], size)
    return seen[0], truth[0, 0]


@given(st.integers(0, 2**32 - 1), st.booleans())
@quick
def test_milder_views_stray_less(seed, oriented):
    how = Augmentation(orientation_free=not oriented)
    strong = draw_spatial(np.random.default_rng(seed), (9, 9), how)
    mild = draw_spatial(np.random.default_rng(seed), (9, 9), how.milder())
    for part in ("rows", "columns"):
        distance = abs(np.log(abs(getattr(strong, part))))
        assert abs(np.log(abs(getattr(mild, part)))) == pytest.approx(distance / 2)
    assert mild.mirrored == strong.mirrored
    quarters = round(strong.angle / (np.pi / 2))
    assert mild.angle - quarters * np.pi / 2 == pytest.approx(
        (strong.angle - quarters * np.pi / 2) / 2
    )
    loud, calm = (draw_intensity(np.random.default_rng(seed), h) for h in (how, how.milder()))
    assert (calm.gamma is None) == (loud.gamma is None)
    if calm.gamma is not None:
        assert np.log(calm.gamma) == pytest.approx(np.log(loud.gamma) / 2)
    assert calm.offset == pytest.approx(loud.offset / 2)


@pytest.mark.parametrize("shape", [(32, 32), (48, 40)])
def test_without_scale_and_turn_the_view_is_a_plain_crop(shape):
    label = torch.randint(4, shape)
    image = torch.rand(2, *shape)
    seen, truth = view_of(image, label, SpatialView(middle(label), 0.0, 1.0, 1.0), 32)
    top, left = ((n - 32) // 2 for n in shape)
    assert torch.allclose(seen, image[:, top : top + 32, left : left + 32], atol=1e-5)
    assert torch.equal(truth, label[top : top + 32, left : left + 32])


def test_outside_of_the_slice_is_zero():
    view = SpatialView((10.0, 10.0), 0.0, 1.0, 1.0)
    seen, truth = view_of(torch.ones(1, 20, 20), torch.ones(20, 20, dtype=torch.long), view, 32)
    assert truth.sum() == 400
    assert (truth[6:26, 6:26] == 1).all()
    assert seen.sum() == pytest.approx(400, rel=1e-4)


@quick
@given(st.integers(0, 9999), st.booleans(), st.sampled_from([(60, 60), (40, 70)]))
def test_image_and_labels_move_together(seed, orientation_free, shape):
    rng = np.random.default_rng(seed)
    # With smooth shapes, linear and nearest interpolation differ only at edges.
    y, x = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    label = ((y - 22) ** 2 / 90 + (x - 30) ** 2 / 200 < 1).long()
    label[(y - 25) ** 2 + (x - 35) ** 2 < 30] = 2
    image = torch.stack([(label == 1).float(), (label == 2).float()])
    how = Augmentation(orientation_free=orientation_free)
    seen, truth = view_of(image, label, draw_spatial(rng, (24.0, 32.0), how), 48)
    for index in (1, 2):
        same = (seen[index - 1] > 0.5) == (truth == index)
        # Only rounding at edges differs, by less than a voxel of the stored slice.
        assert same.float().mean() > 0.97


@quick
@given(st.integers(0, 9999))
def test_a_view_in_a_batch_is_the_view_alone(seed):
    rng = np.random.default_rng(seed)
    images = torch.rand(3, 2, 30, 44)
    labels = torch.randint(4, (3, 2, 30, 44))
    views = [draw_spatial(rng, (15.0, 20.0), Augmentation()) for _ in range(3)]
    seen, truth = spatial_views(images, labels, views, 24)
    intensities = [draw_intensity(rng, Augmentation(recolour=0.5)) for _ in range(3)]
    rngs = [np.random.default_rng(n) for n in range(3)]
    changed = intensity_views(seen.clone(), truth, intensities, rngs)
    for i in range(3):
        alone, truth_alone = spatial_views(images[i : i + 1], labels[i : i + 1], [views[i]], 24)
        torch.testing.assert_close(seen[i], alone[0])
        assert torch.equal(truth[i], truth_alone[0])
        changed_alone = intensity_views(
            alone.clone(), truth_alone, [intensities[i]], [np.random.default_rng(i)]
        )[0]
        torch.testing.assert_close(changed[i], changed_alone)


def test_turns_keep_shapes_on_slices_that_are_not_square():
    y, x = torch.meshgrid(torch.arange(40), torch.arange(90), indexing="ij")
    disc = ((y - 19.5) ** 2 + (x - 44.5) ** 2 < 100).long()
    for angle in (0.3, 1.0, 2.0, 4.0):
        truth = view_of(disc[None].float(), disc, SpatialView(middle(disc), angle, 1, 1), 32)[1]
        assert truth.sum() == pytest.approx(int(disc.sum()), rel=0.03)
        rows, columns = truth.any(1).sum(), truth.any(0).sum()
        assert abs(int(rows) - int(columns)) <= 1


@quick
@given(st.integers(0, 9999), st.sampled_from([0.5, 2.0]))
def test_scale_magnifies(seed, scale):
    label = torch.zeros(64, 64, dtype=torch.long)
    label[28:36, 28:36] = 1
    how = Augmentation(scale=(scale, scale), stretch=0.0, turn=0.0)
    view = draw_spatial(np.random.default_rng(seed), middle(label), how)
    truth = view_of(label[None].float(), label, view, 64)[1]
    assert truth.sum() == pytest.approx(64 * scale**2, rel=0.05)


def orientations(how: Augmentation) -> set[tuple[str, str]]:
    """Positions, in 40 views, of two marks right of and below the middle of a slice."""
    label = torch.zeros(31, 31, dtype=torch.long)
    label[15, 25], label[25, 15] = 1, 2
    found, rng = set(), np.random.default_rng(0)
    for _ in range(40):
        view = draw_spatial(rng, middle(label), how)
        truth = view_of(label[None].float(), label, view, 31)[1]
        places = []
        for mark in (1, 2):
            y, x = torch.nonzero(truth == mark)[0].tolist()
            places.append(("up", "down")[y > 15] if abs(y - 15) > 5 else ("left", "right")[x > 15])
        found.add(tuple(places))
    return found


def test_oriented_models_never_see_mirror_images_or_quarter_turns():
    still = Augmentation(31, (1.0, 1.0), 0.0, 0.0, orientation_free=False)
    assert orientations(still) == {("right", "down")}
    assert len(orientations(replace(still, orientation_free=True))) == 8  # turned and mirrored


@quick
@given(st.integers(0, 9999), st.integers(1, 3))
def test_intensity_views_stay_finite_and_keep_the_shape(seed, channels):
    rng = np.random.default_rng(seed)
    for images in (torch.rand(2, channels, 24, 40), torch.zeros(2, channels, 24, 40)):
        intensities = [draw_intensity(rng, Augmentation(recolour=0.5)) for _ in images]
        classes = torch.randint(3, images.shape)
        seen = intensity_views(images.clone(), classes, intensities, [rng, rng])
        assert seen.shape == images.shape
        assert torch.isfinite(seen).all()


def test_each_step_does_what_its_name_says():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def seen(**step) -> torch.Tensor:
        rng = np.random.default_rng(0)
        return intensity_views(image.clone(), NOTHING, [replace(PLAIN, **step)], [rng])

    assert torch.equal(seen(), image)
    torch.testing.assert_close(seen(gamma=2.0), image**2)
    torch.testing.assert_close(seen(gain=1.2, offset=0.1), image * 1.2 + 0.1)
    assert seen(noise=0.1).sub(image).std() == pytest.approx(0.1, rel=0.1)
    assert seen(resolution=0.5).diff(dim=-1).abs().mean() < 0.6 * image.diff(dim=-1).abs().mean()
    bias = np.zeros((4, 4), np.float32)
    bias[:, 2:] = 0.5
    brighter = seen(bias=bias) / image
    assert brighter[..., -4:].mean() > 1.3 * brighter[..., :4].mean()


@quick
@given(st.floats(0.5, 0.9))
def test_at_a_low_resolution_everything_stays_where_it_is(resolution):
    y, x = np.mgrid[0:150, 0:160]
    spot = torch.from_numpy(np.exp(-((y - 129) ** 2 + (x - 139) ** 2) / 72)).float()[None, None]
    view = replace(PLAIN, resolution=resolution)
    seen = intensity_views(spot, NOTHING, [view], [np.random.default_rng(0)])
    middle = ndimage.center_of_mass(seen[0, 0].numpy())
    assert middle == pytest.approx((129, 139), abs=0.1)


@quick
@given(st.integers(0, 9999))
def test_recoloured_tissue_is_other_but_stays_where_it_is(seed):
    how = RandomNetwork.draw(np.random.default_rng(seed))
    tissues = torch.arange(3)[torch.from_numpy(np.random.default_rng(1).integers(0, 3, (3, 3)))]
    image = torch.tensor([0.1, 0.5, 0.8])[tissues].repeat_interleave(12, 0).repeat_interleave(12, 1)
    seen = how(image[None].repeat(2, 1, 1), NOTHING)
    assert seen.shape == (2, 36, 36)
    assert seen.min() >= 0
    assert seen.max() <= 1 + 1e-6
    assert torch.equal(seen[0], seen[1])
    # Four layers with kernels of three pixels reach four pixels across a border.
    inner = seen[0].reshape(3, 12, 3, 12)[:, 4:8, :, 4:8].permute(0, 2, 1, 3).flatten(2)
    assert (inner.amax(2) - inner.amin(2)).max() < 1e-4
    for tissue in range(3):
        values = inner[..., 0][tissues == tissue]
        assert len(values) == 0 or values.max() - values.min() < 1e-4
    torch.testing.assert_close(replace(how, share=0.0)(image[None], NOTHING), image[None])


@quick
@given(st.integers(0, 2**32 - 1))
def test_each_structure_gets_a_look_of_its_own(seed):
    """Two structures and two unlabelled tissues in air, in blocks of 12 pixels."""
    classes = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 2, 0]])
    tissues = torch.tensor([[0.0, 0.0, 0.0], [0.15, 0.5, 0.7], [0.7, 0.5, 0.15]])
    image, classes = (
        blocks.repeat_interleave(12, 0).repeat_interleave(12, 1).repeat(2, 1, 1)
        for blocks in (tissues, classes)
    )
    seen = RandomCurves(seed)(image, classes)
    assert torch.equal(seen, RandomCurves(seed)(image, classes))
    assert torch.equal(seen[0], seen[1])
    assert seen.min() >= 0
    assert seen.max() <= 1
    inner = seen[0].reshape(3, 12, 3, 12)[:, 2:10, :, 2:10].permute(0, 2, 1, 3).flatten(2)
    assert (inner.amax(2) - inner.amin(2)).max() < 1e-5
    intensities = inner[..., 0]
    # Air stays dark, equal unlabelled tissue stays equal, structures become different.
    assert (intensities[0] == 0).all()
    torch.testing.assert_close(intensities[1, 0], intensities[2, 2])
    torch.testing.assert_close(intensities[1, 2], intensities[2, 0])
    assert intensities[1, 1] != intensities[2, 1]


def test_a_share_of_the_views_is_recoloured():
    rng = np.random.default_rng(0)
    intensities = [draw_intensity(rng, Augmentation(recolour=0.4).milder()) for _ in range(500)]
    assert sum(one.recolouring is not None for one in intensities) / 500 == pytest.approx(
        0.2, abs=0.05
    )
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    drawn = [draw_recolouring(rng) for _ in range(300)]
    curves = [isinstance(one, RandomCurves) for one in drawn]
    assert sum(curves) / 300 == pytest.approx(2 / 3, abs=0.1)
    for one in drawn[:10]:
        seen = intensity_views(image.clone(), NOTHING, [replace(PLAIN, recolouring=one)], [rng])
        assert torch.equal(seen[0], one(image[0], NOTHING[0]))


@quick
@given(st.floats(0.4, 1.2))
def test_blur_is_scipys_gaussian_and_keeps_channels_apart(sigma):
    image = np.random.default_rng(0).random((2, 20, 24)).astype(np.float32)
    expected = [ndimage.gaussian_filter(c, sigma, mode="nearest", radius=3) for c in image]
    seen = blurred(torch.from_numpy(image), sigma)
    torch.testing.assert_close(seen, torch.from_numpy(np.stack(expected)), atol=1e-5, rtol=1e-4)
