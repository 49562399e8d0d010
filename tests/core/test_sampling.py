"""The slices of a step: equal in each process, and with small organs as often as large ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from l2gnet_core.augmentation.sampling import Sampler, TrainingCase
from l2gnet_core.augmentation.views import Augmentation

STILL = Augmentation(scale=(1, 1), stretch=0, turn=0)


def frame(seed: int, slices: int = 4, shape=(40, 50)) -> TrainingCase:
    rng = np.random.default_rng(seed)
    classes = np.zeros((slices, *shape), np.uint8)
    classes[1:, 5:30, 5:30] = 1
    classes[2, 12:14, 12:14] = 2  # small, and in one slice only
    image = torch.from_numpy(rng.random(classes.shape).astype(np.float16))
    return TrainingCase(image, torch.from_numpy(classes))


@settings(max_examples=15, deadline=None)
@example(seed=211, step=41621, channels=1)
@given(st.integers(0, 999), st.integers(0, 10**6), st.sampled_from([1, 3]))
def test_a_sample_does_not_depend_on_who_else_is_in_the_batch(seed, step, channels):
    cases = [frame(0), frame(1, shape=(30, 64))]
    sampler = Sampler(cases, Augmentation(), channels, seed)
    images, targets = sampler.batch(step, range(4), 32)
    assert images.shape == (4, channels, 32, 32)
    assert images.dtype == torch.float32
    for half in (range(2), range(2, 4)):
        some, truth = sampler.batch(step, half, 32)
        # Sums in another order round differently, and gamma amplifies that near zero.
        torch.testing.assert_close(some, images[list(half)], atol=1e-4, rtol=1e-4)
        assert torch.equal(truth, targets[list(half)])


def test_seeds_steps_and_samples_all_make_a_difference():
    def first(seed, step, sample):
        return Sampler([frame(0)], Augmentation(), 1, seed).batch(step, [sample], 32)[0]

    views = [first(0, 0, 0), first(1, 0, 0), first(0, 1, 0), first(0, 0, 1)]
    for i, view in enumerate(views):
        assert torch.equal(view, first(*[(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)][i]))
        assert not any(torch.equal(view, other) for other in views[:i])


def test_the_global_generators_are_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Sampler([frame(0)], Augmentation(), 1, 0).batch(0, range(4), 32)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_small_structure_is_seen_as_often_as_a_large_one():
    sampler = Sampler([frame(0)], Augmentation(on_structure=1.0), 1, 0)
    _, targets = sampler.batch(0, range(300), 32)
    with_small = (targets == 2).flatten(1).any(1).float().mean()
    # Half of the views are centred near it; one of four random slices holds it.
    assert with_small > 0.5


def test_a_frame_knows_which_slices_hold_a_structure():
    case = frame(0)
    assert case.structures == [1, 2]
    assert case.slices_with(1) == [1, 2, 3]
    assert case.slices_with(2) == [2]
    assert case.slices_with(3) == []


def test_extra_cases_make_up_their_share():
    black = TrainingCase(torch.zeros(1, 48, 48).half(), torch.zeros(1, 48, 48, dtype=torch.uint8))
    white = TrainingCase(black.image, torch.full((1, 48, 48), 2, dtype=torch.uint8))
    sampler = Sampler([black], Augmentation(), 1, 0, [white], 0.25)
    _, targets = sampler.batch(0, range(600), 32)
    share = (targets == 2).flatten(1).any(1).float().mean()
    assert share == pytest.approx(0.25, abs=0.06)
    alone = Sampler([black], Augmentation(), 1, 0, [], 0.25)
    assert not (alone.batch(0, range(60), 32)[1] == 2).any()


def test_neighbours_come_in_both_orders_and_sometimes_not_at_all():
    levels = torch.tensor([0.2, 0.5, 0.8])[:, None, None].expand(3, 64, 64)
    case = TrainingCase(levels.half(), torch.zeros(3, 64, 64, dtype=torch.uint8))
    images, _ = Sampler([case], STILL, 3, 0).batch(0, range(200), 32)
    rising = torch.sign(images.diff(dim=1).mean((2, 3))).sum(1)
    # Rising, falling, and constant: a slice alone, or copies at an end of the stack.
    assert (rising > 0).sum() > 40
    assert (rising < 0).sum() > 40


def test_structures_and_their_slices_are_found():
    case = frame(0)
    assert case.structures == [1, 2]
    assert case.slices_with(1) == [1, 2, 3]
    assert case.slices_with(2) == [2]


def test_neighbours_lie_as_far_apart_as_the_case_says():
    still = Augmentation(16, (1, 1), stretch=0, turn=0, alone=0, orientation_free=False)
    levels = torch.linspace(0, 1, 9)[:, None, None].expand(9, 64, 64)
    classes = torch.zeros(9, 64, 64, dtype=torch.uint8)
    rises = []
    for step in (1, 3):
        case = TrainingCase(levels.half(), classes, step)
        images, _ = Sampler([case], still, 3, 0).batch(0, range(60), 16)
        rises.append(float((images[:, 2] - images[:, 0]).mean()))
    assert rises[1] > 1.8 * rises[0] > 0


def test_in_a_mirror_paired_classes_change_places():
    # 1 is left of the middle, 2 right; 3 is left, too, but its name has no side.
    classes = torch.zeros(1, 64, 64, dtype=torch.uint8)
    classes[0, 20:28, 8:16], classes[0, 20:28, 48:56], classes[0, 40:48, 8:16] = 1, 2, 3
    image = (classes == 3).half()
    how = Augmentation(
        scale=(1, 1), stretch=0, turn=0, orientation_free=False, mirror_pairs=((1, 2),)
    )
    sampler = Sampler([TrainingCase(image, classes)], how, 1, 0)
    _, targets = sampler.batch(0, range(60), 256)
    columns = [
        [float(torch.nonzero(target == id)[:, 1].float().mean()) for id in (1, 2, 3)]
        for target in targets
    ]
    mirrored = [third > first + 10 for first, _, third in columns]
    assert all(first < second - 30 for first, second, _ in columns)
    assert 15 < sum(mirrored) < 45
    assert (classes[0, 20:28, 8:16] == 1).all()  # left as it was
