"""The phantom: one heart per seed, a beating one, with labels a segmentation task can use."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.scans.phantom import (
    BACKGROUND,
    LEFT_VENTRICLE,
    MYOCARDIUM,
    RIGHT_VENTRICLE,
    Phantom,
    cardiac_cine,
    cardiac_phantom,
)

SEEDS = range(4)
Pair = tuple[Phantom, Phantom]


@pytest.fixture(scope="module")
def pairs() -> dict[int, Pair]:
    return {s: (cardiac_phantom(s, 0.0), cardiac_phantom(s, 1.0)) for s in SEEDS}


def _count(labels: NDArray[np.uint8], label: int) -> int:
    return int((labels == label).sum())


def test_shape_type_and_spacing(pairs: dict[int, Pair]) -> None:
    for diastole, systole in pairs.values():
        for p in (diastole, systole):
            assert p.image.shape == p.labels.shape == (10, 224, 224)
            assert p.image.dtype == p.labels.dtype == np.uint8
            assert p.spacing == (10.0, 1.5, 1.5)
            assert set(np.unique(p.labels)) == {0, 1, 2, 3}
            assert (p.image.min(), p.image.max()) == (0, 255)


def test_the_same_seed_gives_the_same_picture(pairs: dict[int, Pair]) -> None:
    again = cardiac_phantom(3, 1.0)
    assert np.array_equal(again.image, pairs[3][1].image)
    assert np.array_equal(again.labels, pairs[3][1].labels)


def test_different_seeds_differ(pairs: dict[int, Pair]) -> None:
    for a in SEEDS:
        for b in range(a):
            assert not np.array_equal(pairs[a][0].labels, pairs[b][0].labels)
            assert not np.array_equal(pairs[a][0].image, pairs[b][0].image)


def test_the_heart_beats_and_the_chest_stays(pairs: dict[int, Pair]) -> None:
    for diastole, systole in pairs.values():
        left = _count(systole.labels, LEFT_VENTRICLE) / _count(diastole.labels, LEFT_VENTRICLE)
        assert 0.30 <= left <= 0.60  # it falls by 40 to 70 %
        muscle = _count(systole.labels, MYOCARDIUM) / _count(diastole.labels, MYOCARDIUM)
        assert 0.75 <= muscle <= 1.25
        assert _count(systole.labels, RIGHT_VENTRICLE) < _count(diastole.labels, RIGHT_VENTRICLE)
        heart = ndimage.binary_dilation((diastole.labels > 0).any(axis=0), iterations=14)
        chest = [p.image[:, ~heart].astype(np.float64).ravel() for p in (diastole, systole)]
        assert np.asarray(np.corrcoef(chest))[0, 1] > 0.97


def test_each_structure_is_one_piece_per_slice(pairs: dict[int, Pair]) -> None:
    for pair in pairs.values():
        for p in pair:
            for plane in p.labels:
                for label in (RIGHT_VENTRICLE, LEFT_VENTRICLE):
                    assert ndimage.label(plane == label)[1] <= 1


def test_the_myocardium_closes_around_the_left_ventricle(pairs: dict[int, Pair]) -> None:
    for pair in pairs.values():
        for p in pair:
            slices = [z for z in range(10) if (p.labels[z] == LEFT_VENTRICLE).any()]
            assert len(slices) >= 6
            for z in slices[1:]:  # the outflow tract may open the ring of the basal slice
                cavity = p.labels[z] == LEFT_VENTRICLE
                rim = ndimage.binary_dilation(cavity) & ~cavity
                assert (p.labels[z][rim] == MYOCARDIUM).all()


def test_the_right_ventricle_lies_on_the_septum_and_ends_before_the_apex(
    pairs: dict[int, Pair],
) -> None:
    for diastole, _ in pairs.values():
        slices = [z for z in range(10) if (diastole.labels[z] == LEFT_VENTRICLE).any()]
        mid, tip = diastole.labels[slices[3]], diastole.labels[slices[-1]]
        near = ndimage.binary_dilation(mid == RIGHT_VENTRICLE, iterations=2)
        assert (near & (mid == MYOCARDIUM)).sum() > 20
        assert _count(tip, RIGHT_VENTRICLE) < 0.2 * _count(mid, RIGHT_VENTRICLE)


def test_grey_levels_are_those_of_a_cine(pairs: dict[int, Pair]) -> None:
    for diastole, _ in pairs.values():
        mean = {k: float(diastole.image[diastole.labels == k].mean()) for k in (1, 2, 3)}
        assert 0.28 < mean[MYOCARDIUM] / mean[LEFT_VENTRICLE] < 0.55
        assert 0.75 < mean[RIGHT_VENTRICLE] / mean[LEFT_VENTRICLE] < 1.1
        assert np.percentile(diastole.image, 25) < 30
        extent = np.ptp(np.argwhere((diastole.labels > 0).any(axis=0)), axis=0)
        assert extent.min() >= 40
        assert extent.max() <= 100


@pytest.mark.parametrize("shape", [(6, 160, 192), (10, 256, 208), (3, 96, 96), (14, 300, 280)])
def test_other_shapes(shape: tuple[int, int, int]) -> None:
    p = cardiac_phantom(1, 0.0, shape)
    assert p.image.shape == p.labels.shape == shape
    assert set(np.unique(p.labels)) == {0, 1, 2, 3}
    edge = np.ones(shape[1:], dtype=bool)
    edge[2:-2, 2:-2] = False
    assert (p.labels[:, edge] == BACKGROUND).all()
    assert p.spacing[1] == p.spacing[2] > 0


def test_cine() -> None:
    image, labels, spacing = cardiac_cine(2, 3, (6, 128, 128))
    assert image.shape == labels.shape == (3, 6, 128, 128)
    assert image.dtype == labels.dtype == np.uint8
    volume = [_count(frame, LEFT_VENTRICLE) for frame in labels]
    assert volume[0] > volume[1] > volume[2]
    ends = cardiac_cine(2, shape=(6, 128, 128)).labels
    assert np.array_equal(ends, labels[[0, 2]])
    assert spacing == cardiac_phantom(2, 0.0, (6, 128, 128)).spacing


@pytest.mark.parametrize(
    ("phase", "shape"), [(1.5, (10, 64, 64)), (-0.1, (10, 64, 64)), (0.0, (0, 64, 64))]
)
def test_refuses_nonsense(phase: float, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="phantom"):
        cardiac_phantom(0, phase, shape)


def test_is_fast() -> None:
    start = time.process_time()
    cardiac_phantom(11)
    assert time.process_time() - start < 3.0
