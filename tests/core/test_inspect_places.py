"""Places to look at, against planted doubt and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_traces import made_up
from SimpleITK import ConnectedComponent, GetArrayFromImage, GetImageFromArray

from l2gnet_core.errors import InputError
from l2gnet_core.inspect.codes import principal_components
from l2gnet_core.inspect.places import WINDOW, unsure_regions, voxels_of_code

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)


@quick
@given(seed=seeds, axis=st.integers(0, 2))
def test_planted_doubt_comes_first_and_places_keep_apart(seed: int, axis: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((5, 60, 70), np.uint8)
    mask[1:4, 20:40, 20:50] = 1
    doubt = (0.3 * rng.random(mask.shape)).astype(np.float32)
    index, row = int(rng.integers(1, 4)), int(rng.integers(18, 36))
    doubt[index, row : row + 6, 47:53] = 1
    mask, doubt = np.moveaxis(mask, 0, axis), np.moveaxis(doubt, 0, axis)
    found = unsure_regions(doubt, mask, axis)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    first = found[0]
    assert first.index == index
    inside = np.zeros(mask.shape, bool)
    inside[first.box][first.voxels] = True
    inside = np.moveaxis(inside, axis, 0)
    assert inside[index, row : row + 6, 47:53].mean() > 0.5
    assert inside.sum() <= WINDOW**2
    centres = {}
    for one in found:
        box = [part for along, part in enumerate(one.box) if along != axis]
        middle = [(part.start + part.stop - 1) / 2 for part in box]
        for other in centres.setdefault(one.index, []):
            # A box is cut at the edge of the scan, which moves its middle.
            assert max(abs(a - b) for a, b in zip(middle, other, strict=True)) >= WINDOW // 2
        centres[one.index].append(middle)


def test_no_doubt_is_no_place_and_without_a_mask_all_doubt_counts() -> None:
    mask, doubt = np.zeros((3, 40, 40), np.uint8), np.zeros((3, 40, 40), np.float32)
    assert unsure_regions(doubt, mask, 0) == []
    doubt[2, 30:33, 30:33] = 1
    (only,) = unsure_regions(doubt, mask, 0)
    assert only.index == 2
    mask[:, :3, :3] = 1
    assert unsure_regions(doubt, mask, 0) == []
    assert len(unsure_regions(np.ones_like(doubt), mask, 0, most=2)) <= 2


@quick
@given(seed=seeds)
def test_voxels_of_a_code_and_structure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trace = made_up(seed, codes=4)
    mask = rng.integers(0, 3, trace.cells.shape).astype(np.uint8)
    codes = trace.cells.on_scan(trace.codes)
    voxel = tuple(int(rng.integers(0, n)) for n in mask.shape)
    code, structure = int(codes[voxel]), int(mask[voxel])
    inside = (codes == code) & (mask == structure)
    np.testing.assert_array_equal(
        voxels_of_code(trace, mask, code, structure), np.flatnonzero(inside)
    )
    pieces = GetArrayFromImage(ConnectedComponent(GetImageFromArray(inside.astype(int)), True))
    np.testing.assert_array_equal(
        voxels_of_code(trace, mask, code, structure, piece_at=voxel),
        np.flatnonzero(pieces == pieces[voxel]),
    )
    only = np.zeros_like(inside)
    only[voxel[0]] = inside[voxel[0]]
    found = voxels_of_code(trace, mask, code, structure, index=voxel[0])
    np.testing.assert_array_equal(found, np.flatnonzero(only))
    with pytest.raises(InputError, match="click a voxel of the mistake"):
        voxels_of_code(trace, mask, code, (structure + 1) % 3, piece_at=voxel)


@quick
@given(seed=seeds, most=st.integers(1, 5))
def test_principal_components_are_those_of_the_covariance(seed: int, most: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(30, 4)) * [4, 3, 2, 1]
    found = principal_components(vectors, most)
    assert found.shape == (30, min(most, 4))
    variances = np.sort(np.linalg.eigvalsh(np.cov(vectors.T)))[::-1]
    np.testing.assert_allclose(found.var(0, ddof=1), variances[:most])
    np.testing.assert_allclose(
        np.cov(found.T) - np.diag(found.var(0, ddof=1)).squeeze(), 0, atol=1e-9
    )
    np.testing.assert_array_equal(principal_components(vectors, most), found)
