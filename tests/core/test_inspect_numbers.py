"""Tables, plans, doubts and distances, against brute force and other libraries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_traces import made_up
from scipy.optimize import linprog
from scipy.stats import entropy

from l2gnet_core.errors import InputError
from l2gnet_core.inspect.codes import (
    code_colors,
    code_counts,
    dead_codes,
    examples,
    organ_table,
    perplexity,
    purity,
    structure_shares,
)
from l2gnet_core.inspect.plans import (
    MORE,
    code_plan,
    column_residual,
    organ_plan,
    partners,
    sources_map,
    times_chance,
)
from l2gnet_core.inspect.populations import (
    KEPT_DISTANCES,
    code_statistics,
    histogram_distance,
    unlikeness,
)
from l2gnet_core.inspect.similar import _alike, find_similar, similar_by_slice
from l2gnet_core.inspect.uncertainty import (
    USUAL_OVERLAP,
    border_distances,
    chance_of_mistake,
    disagreement,
    expected_wrong,
    lacking_overlap,
    near_borders,
    plan_entropy,
    ranked_by,
    ranked_slices,
    slice_maps,
    uncertainty_maps,
)
from l2gnet_core.models.card import CodeStatistics

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)


def attention(trace, index) -> np.ndarray:
    """S (n,n) of one slice, token by token: n P diag(1/s) Pᵀ."""
    codes = trace.codes[index].ravel()
    coupling = trace.plan_rows[index][codes].astype(float) / codes.size
    return codes.size * coupling / coupling.sum(0) @ coupling.T


def brute_force(trace, receiving, giving) -> np.ndarray:
    """T summed over pairs of tokens."""
    total = np.zeros((len(trace.vectors),) * 2)
    for index in range(len(trace.codes)):
        codes = trace.codes[index].ravel()
        pairs = attention(trace, index) / codes.size
        weights = np.outer(receiving[index].ravel(), giving[index].ravel())
        np.add.at(total, (codes[:, None], codes[None]), pairs * weights)
    return total / (receiving.sum() / trace.codes[0].size)


@quick
@given(seeds, st.integers(1, 3), st.integers(1, 8))
def test_the_plan_of_a_volume_is_symmetric_with_the_frequencies_as_marginals(
    seed, slices, iterations
):
    trace = made_up(seed, slices, iterations=iterations)
    plan, frequency = code_plan(trace), trace.frequencies().mean(0)
    np.testing.assert_allclose(plan, plan.T, atol=1e-12)
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(0), frequency, atol=1e-7)
    np.testing.assert_allclose(plan.sum(1), frequency, atol=1e-7)
    everywhere = np.ones(trace.codes.shape)
    np.testing.assert_allclose(plan, brute_force(trace, everywhere, everywhere), atol=1e-12)
    np.testing.assert_allclose(frequency * trace.codes.size, code_counts(trace))


@quick
@given(seeds)
def test_the_plan_of_a_region_is_the_sum_over_its_tokens(seed):
    trace = made_up(seed)
    rng = np.random.default_rng(seed)
    region = rng.random(trace.codes.shape) * (rng.random(trace.codes.shape) < 0.4)
    region[0, 0, 0] = 1
    everywhere = np.ones(trace.codes.shape)
    plan = code_plan(trace, region)
    np.testing.assert_allclose(plan, brute_force(trace, region, everywhere), atol=1e-12)
    of_codes = np.bincount(trace.codes.ravel(), region.ravel(), len(trace.vectors)) / region.sum()
    np.testing.assert_allclose(plan.sum(1), of_codes, atol=1e-7)
    assert not code_plan(trace, np.zeros(trace.codes.shape)).any()


@quick
@given(seeds)
def test_the_plan_of_structures_is_the_sum_over_their_shares(seed):
    trace = made_up(seed)
    voxels = np.random.default_rng(seed).multinomial(256, [0.6, 0.3, 0.1], trace.codes.shape)
    plan = organ_plan(trace, voxels)
    np.testing.assert_allclose(plan, plan.T, atol=1e-12)
    np.testing.assert_allclose(plan.sum(1), voxels.mean((0, 1, 2)) / 256, atol=1e-7)
    share = voxels[..., 1] / 256
    within = brute_force(trace, share, share).sum() * share.mean()
    assert plan[1, 1] == pytest.approx(within, rel=1e-6)
    lift = times_chance(plan)
    assert lift[1, 2] == pytest.approx(plan[1, 2] / (plan[1].sum() * plan[:, 2].sum()), rel=1e-6)


def test_slices_not_seen_take_no_part():
    part = made_up(1)
    part.codes[1] = -1
    assert part.seen.tolist() == [True, False, True]
    assert code_counts(part).sum() == 40
    np.testing.assert_allclose(code_plan(part).sum(), 1, atol=1e-6)
    assert np.isnan(column_residual(part)).tolist() == [False, True, False]
    assert not plan_entropy(part)[1].any()


@quick
@given(seeds)
def test_what_a_code_hears_is_a_row_of_the_plan_between_tokens(seed):
    trace = made_up(seed)
    code = int(trace.codes[1, 2, 3])
    sources = sources_map(trace, 1, code)
    np.testing.assert_allclose(sources.ravel(), attention(trace, 1)[2 * 5 + 3], atol=1e-7)
    assert sources.sum() == pytest.approx(1, abs=1e-6)
    absent = set(range(9)) - set(trace.codes[1].ravel().tolist())
    for code in absent:
        assert not sources_map(trace, 1, code).any()


def test_the_residual_falls_with_iterations():
    few, many = (made_up(3, iterations=count) for count in (1, 200))
    assert np.nanmax(column_residual(many)) < 1e-5 < np.nanmin(column_residual(few))


def test_partners_are_met_more_than_by_chance():
    plan = np.diag([0.1, 0.2, 0.0]) + np.array([[0, 0.3, 0], [0.3, 0, 0], [0, 0, 0]])
    plan[0, 0] = 0.2
    (one,) = partners(plan, 0)
    assert (one.code, one.share) == (1, pytest.approx(0.6))
    assert one.times_chance == pytest.approx(0.6 / plan.sum(0)[1] * plan.sum())
    assert partners(plan, 2) == []


@quick
@given(seeds)
def test_the_partner_with_the_largest_share_comes_first(seed):
    plan = code_plan(made_up(seed))
    lift = times_chance(plan)
    for code in np.flatnonzero(plan.sum(1)):
        found = partners(plan, code, 3)
        shares = plan[code] / plan[code].sum()
        above = [o for o in range(len(plan)) if o != code and lift[code, o] > MORE]
        expected = sorted(above, key=lambda other: -shares[other])[:3]
        assert [one.code for one in found] == expected
        np.testing.assert_allclose([one.share for one in found], shares[expected])


@quick
@given(seeds)
def test_tables_count_codes_and_voxels(seed):
    trace = made_up(seed, codes=30)
    counts = code_counts(trace)
    assert counts.sum() == trace.codes.size
    assert dead_codes(counts) == sorted(set(range(30)) - set(trace.codes.ravel().tolist()))
    assert perplexity(counts) == pytest.approx(np.exp(entropy(counts)))
    mask = np.random.default_rng(seed).integers(0, 3, trace.cells.shape)
    table = organ_table(trace, trace.cells.counts(mask, [0, 1, 2]))
    on_scan = trace.cells.on_scan(trace.codes)
    for code in (0, 5):
        for id in range(3):
            assert table[code, id] == ((on_scan == code) & (mask == id)).sum()
    pure = purity(table)
    np.testing.assert_array_equal(np.isnan(pure), counts == 0)
    assert np.nanmax(pure) <= 1
    assert np.nanmin(pure) >= 1 / 3
    assert perplexity(np.zeros(4, int)) == 0


def test_shares_of_structures_come_largest_first_and_without_specks():
    assert structure_shares(np.array([5, 0, 990, 4])) == [(2, 990 / 999), (0, 5 / 999)]
    assert structure_shares(np.zeros(3, np.int64)) == []


@quick
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_perplexity_lies_between_one_and_the_codes_that_occur(codes):
    assert 1 - 1e-9 <= perplexity(np.bincount(codes)) <= len(set(codes)) + 1e-9


def test_perplexity_of_equal_shares_is_the_number_of_codes():
    assert perplexity(np.full(12, 3)) == pytest.approx(12)
    assert perplexity(np.array([0, 0, 25])) == pytest.approx(1)
    assert perplexity(np.array([3, 1])) == pytest.approx(np.exp(entropy([0.75, 0.25])))


def test_examples_begin_with_the_nearest_token():
    trace = made_up(0)
    code = int(code_counts(trace).argmax())
    found = examples(trace, code, 4)
    assert len(found) == 4
    errors = [one.error for one in found]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(trace.error[trace.codes == code].min())
    for one in found:
        assert trace.codes[one.cell] == code
        assert (trace.cells.on_scan(trace.codes)[one.box] == code).all()
        assert [side.stop - side.start for side in one.box] == [1, 16, 16]
    assert examples(trace, 0, 0) == []


def test_colours_of_codes_are_stable_and_alike_for_like_codes():
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    colors = code_colors(vectors)
    np.testing.assert_array_equal(colors, code_colors(vectors.copy()))
    assert len(np.unique(colors, axis=0)) == 40
    twins = np.concatenate([vectors, vectors[:1] + 1e-4])
    near = np.abs(code_colors(twins)[0].astype(int) - code_colors(twins)[-1]).max()
    assert near <= 12
    assert (code_colors(np.ones((3, 2))).std(0) >= 0).all()


def least_cost(one, other, cost) -> float:
    """Exact optimal transport as a linear programme, by HiGHS."""
    m, n = cost.shape
    rows, columns = np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))
    solved = linprog(
        cost.ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([one / one.sum(), other / other.sum()]),
    )
    return solved.fun


@quick
@given(seeds, st.integers(2, 7))
def test_distances_are_the_least_cost_of_moving_one_histogram_to_the_other(seed, codes):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(codes, 3))
    one, other, third = rng.integers(0, 5, (3, codes)) + np.eye(codes, dtype=int)[:1]
    cost = np.linalg.norm(vectors[:, None] - vectors, axis=-1)
    unit = cost.sum() / (codes * (codes - 1))
    distance = histogram_distance(one, other, vectors)
    assert distance == pytest.approx(least_cost(one, other, cost) / unit, abs=1e-9)
    assert histogram_distance(other, one, vectors) == pytest.approx(distance, abs=1e-9)
    assert histogram_distance(one, 3 * one, vectors) == pytest.approx(0, abs=1e-9)
    around = histogram_distance(one, third, vectors) + histogram_distance(third, other, vectors)
    assert distance <= around + 1e-9


def test_distances_between_two_codebooks_see_where_codes_went():
    vectors = np.random.default_rng(0).normal(size=(20, 4))
    counts = np.arange(1, 21)
    order = np.random.default_rng(1).permutation(20)
    assert histogram_distance(counts, counts[order], vectors, vectors[order]) == pytest.approx(0)
    moved = histogram_distance(counts, counts, vectors, vectors + 0.5)
    assert histogram_distance(counts, counts, vectors, vectors + 0.1) < moved


def test_a_scan_is_placed_among_the_training_patients():
    rng = np.random.default_rng(0)
    trace = made_up(0, codes=12)
    usual = np.linspace(3, 1, 12) ** 2
    # Two scans of each of 30 patients.
    scans = [(f"p{n // 2}", rng.multinomial(200, usual / usual.sum())) for n in range(60)]
    known = code_statistics(scans, trace.vectors)
    assert sum(known.counts) == 60 * 200
    assert len(known.distances) == KEPT_DISTANCES
    assert list(known.distances) == sorted(known.distances)
    apart = []
    for patient, counts in scans:
        others = sum(more for other, more in scans if other != patient)
        apart.append(histogram_distance(counts, others, trace.vectors))
    assert known.distances[0] == pytest.approx(min(apart), abs=1e-5)
    assert known.distances[20] == pytest.approx(np.median(apart), abs=1e-5)
    assert known.distances[-1] == pytest.approx(max(apart), abs=1e-5)
    trace.codes[:] = rng.choice(12, trace.codes.shape, p=usual / usual.sum())
    like = unlikeness(trace, known)
    trace.codes[:] = 11
    unlike = unlikeness(trace, known)
    assert like.distance < unlike.distance
    assert unlike.percentile == 100
    assert unlike.is_large
    assert not replace(unlike, percentile=97.0).is_large
    without = unlikeness(trace, CodeStatistics(known.counts))
    assert without.percentile is None
    assert not without.is_large
    # One patient has no others to compare with.
    assert code_statistics(scans[:2], trace.vectors).distances == ()


def test_plan_entropy_is_that_of_the_rows():
    trace = made_up(2)
    rows = trace.plan_rows[np.arange(3)[:, None, None], trace.codes]
    np.testing.assert_allclose(plan_entropy(trace), entropy(rows, axis=-1) / np.log(6), atol=1e-6)


def blobs(rng: np.random.Generator, slices: int) -> np.ndarray:
    """Slices of blocks, so that some pixels are far from borders."""
    coarse = rng.choice([0, 0, 0, 1, 4], (slices, 2, 3))
    return coarse.repeat(rng.integers(1, 14), 1).repeat(rng.integers(1, 9), 2)


@quick
@given(seeds, st.integers(1, 3))
def test_distances_are_to_the_next_pixel_beside_another_structure(seed, slices):
    mask = blobs(np.random.default_rng(seed), slices)
    found = border_distances(mask)
    places = np.stack(np.indices(mask.shape[1:]), -1).reshape(-1, 2)
    for one, distances in zip(mask, found, strict=True):
        edges = [
            (row, column)
            for row, column in places.tolist()
            for y, x in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
            if 0 <= y < one.shape[0] and 0 <= x < one.shape[1]
            and one[y, x] != one[row, column]
        ]  # fmt: skip
        expected = np.full(len(places), np.inf)
        if edges:
            expected = 0.5 + np.hypot(*(places[:, None] - np.array(edges)).T).min(0)
        np.testing.assert_allclose(distances.ravel(), np.minimum(expected, 10), rtol=1e-6)


@quick
@given(seeds, st.integers(1, 5))
def test_neighbours_disagree_by_how_deep_in_another_structure_they_have_a_voxel(seed, slices):
    rng = np.random.default_rng(seed)
    mask, seen = blobs(rng, slices), rng.random(slices) < 0.8
    distances = border_distances(mask)
    expected = np.full(mask.shape, 0.5)
    for index, row, column in np.ndindex(*mask.shape):
        beside = [n for n in (index - 1, index + 1) if 0 <= n < slices and seen[n]]
        here = (row, column)
        depths = [
            distances[n][here] if mask[n][here] != mask[index][here] else -distances[n][here]
            for n in beside
        ]
        expected[index, row, column] += np.mean(depths or [-distances[index][here]]) / 20
    found = np.stack([disagreement(n, mask, distances, seen) for n in range(slices)])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0 <= found.min() <= found.max() <= 1


def test_every_doubt_lies_on_the_voxels():
    trace = made_up(0)
    mask = np.zeros(trace.cells.shape, np.uint8)
    mask[1, 10:30, 10:40] = 1
    maps = uncertainty_maps(trace, mask)
    assert list(maps) == ["combined", "softmax", "neighbours", "quantisation", "plan"]
    for one in maps.values():
        assert (one.shape, one.dtype) == (mask.shape, np.float32)
    assert "plan" not in uncertainty_maps(made_up(0, references=None), mask)
    # Slices not seen do not count: the slice is as doubtful as among equal ones.
    alike = mask.copy()
    alike[[0, 2]] = mask[1]
    among = uncertainty_maps(trace, alike)["combined"][1]
    trace.codes[[0, 2]] = -1
    trace.entropy[[0, 2]] = 0
    maps = uncertainty_maps(trace, mask)
    np.testing.assert_allclose(maps["combined"][1], among)
    assert not maps["combined"][[0, 2]].any()
    assert maps["neighbours"][1].max() < 0.5


@quick
@given(seeds, st.integers(1, 5), st.sampled_from([0, 1, 2]))
def test_doubts_of_one_slice_after_the_other_are_those_of_the_whole_scan(seed, slices, axis):
    trace, rng = made_up(0, slices=slices), np.random.default_rng(seed)
    drawn, seen = blobs(rng, slices), rng.random(slices) < 0.8
    mask = np.zeros(trace.entropy.shape, np.uint8)
    mask[:, 20 : 20 + drawn.shape[1], 30 : 30 + drawn.shape[2]] = drawn
    trace.codes[~seen] = -1
    distances, softmax = border_distances(mask), trace.entropy.astype(np.float32)
    neighbours = np.stack([disagreement(n, mask, distances, seen) for n in range(slices)])
    chance = chance_of_mistake(softmax, neighbours, distances)
    chance[~seen] = 0
    shape = list(mask.shape[1:])
    shape.insert(axis, slices)
    trace.cells = replace(trace.cells, axis=axis, shape=tuple(shape))
    expected = {"combined": chance, "neighbours": neighbours, "softmax": softmax}
    given_mask = np.moveaxis(mask, 0, axis)
    found = list(slice_maps(trace, given_mask, expected))
    maps = uncertainty_maps(trace, given_mask)
    for kind, values in expected.items():
        np.testing.assert_array_equal(np.stack([one[kind] for one in found]), values)
        np.testing.assert_array_equal(maps[kind], np.moveaxis(values, 0, axis))
    assert [list(one) for one in slice_maps(trace, given_mask, ["plan"])] == [["plan"]] * slices


@quick
@given(seeds)
def test_the_chance_to_be_wrong_grows_with_entropy_and_with_what_neighbours_say(seed):
    rng = np.random.default_rng(seed)
    softmax, neighbours, share = rng.random((3, 3, 6, 6), np.float32)
    distances = np.float32(0.5) + share * np.float32(9.5)
    chance = chance_of_mistake(softmax, neighbours, distances)
    assert chance.dtype == np.float32
    assert ((chance > 0) & (chance < 1)).all()
    more = rng.random(softmax.shape, np.float32)
    assert (chance_of_mistake(softmax + more, neighbours, distances) >= chance).all()
    assert (chance_of_mistake(softmax, neighbours + more, distances) >= chance).all()
    # Doubt is usual at a border, and means more away from one.
    at, away = (np.full_like(softmax, pixels) for pixels in (0.5, 10))
    alike = (softmax, np.full_like(softmax, 0.5))
    assert (chance_of_mistake(*alike, away) > chance_of_mistake(*alike, at)).all()


def ranked(doubt, slices, seen=None):
    """Slices (n,H,W) by their doubt (n,H,W) near borders."""
    near = (near_borders(slices, index) for index in range(len(slices)))
    wrong = [expected_wrong(one, zone) for one, zone in zip(doubt, near, strict=True)]
    return ranked_by(np.array(wrong), slices, seen)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_ranked_along_any_axis_as_by_the_map_of_the_whole_scan(axis):
    trace = made_up(0, slices=4)
    slices = np.zeros(trace.cells.shape, np.uint8)
    slices[1:3, 10:30, 10:40] = 1
    trace.cells = replace(trace.cells, axis=axis)
    trace.codes[3] = -1
    mask = np.moveaxis(slices, 0, axis)
    doubt = uncertainty_maps(trace, mask)["combined"]
    assert ranked_slices(trace, mask) == ranked(np.moveaxis(doubt, axis, 0), slices, trace.seen)


def test_the_slice_with_most_doubt_at_borders_comes_first():
    mask = np.zeros((6, 40, 40), np.uint8)
    mask[1:5, 10:30, 10:30] = 1
    doubt = np.full(mask.shape, 0.0005, np.float32)
    doubt[3, 8:12, 8:30] = 0.9
    doubt[2, 35:, 35:] = 1  # far from any border
    doubt[5, 12:28, 12:28] = 0.5  # the structure may go on here
    found = ranked(doubt, mask)
    assert sorted(one.index for one in found) == list(range(6))
    assert [one.index for one in found[:2]] == [5, 3]
    assert found[1].voxels == pytest.approx(4 * 22 * 0.9, rel=0.02)
    assert found[2].voxels < 1
    expected = {one.index: one.expected for one in found}
    assert 0 < expected[2] < expected[3] < expected[5] < 1
    nothing = ranked(doubt, np.zeros_like(mask))
    assert all((one.voxels, one.expected < 0.1) == (0, True) for one in nothing)


def test_slices_without_borders_come_last_and_those_near_what_was_found_first():
    mask = np.zeros((9, 10, 10), np.uint8)
    mask[5, 3:7, 3:7] = 1
    found = ranked(np.full(mask.shape, 0.3, np.float32), mask)
    assert sorted(one.index for one in found[:3]) == [4, 5, 6]
    assert [one.index for one in found[3:]] == [3, 7, 2, 8, 1, 0]
    nothing = ranked(np.zeros(mask.shape, np.float32), np.zeros_like(mask))
    assert [one.index for one in nothing] == [4, 3, 5, 2, 6, 1, 7, 0, 8]


@quick
@given(seeds, st.integers(1, 5))
def test_overlap_is_the_better_dice_with_a_neighbour_that_has_an_answer(seed, slices):
    rng = np.random.default_rng(seed)
    seen = rng.random(slices) < 0.7
    mask = rng.choice([0, 0, 0, 2, 5], (slices, 3, 3))
    mask[::2, :, 1:] = 0
    mask[~seen] = 0
    found = lacking_overlap(mask, seen)
    if seen.all():
        np.testing.assert_array_equal(found, lacking_overlap(mask))
    for index in range(slices):
        beside = [n for n in (index - 1, index + 1) if 0 <= n < slices and seen[n]]
        lacking = []
        for label in (2, 5):
            here = [mask[one] == label for one in (index, *beside)]
            if any(one.any() for one in here):
                sums = [here[0].sum() + other.sum() for other in here[1:]]
                both = [(here[0] & other).sum() for other in here[1:]]
                dice = [2 * b / s for b, s in zip(both, sums, strict=True) if s]
                lacking.append(1 - max(dice, default=0))
        if lacking and not beside:
            lacking = [USUAL_OVERLAP]
        assert found[index] == pytest.approx(np.mean(lacking) if lacking else 0)


def test_a_slice_alone_is_expected_to_be_about_as_good_as_among_others():
    mask = np.zeros((7, 40, 40), np.uint8)
    mask[:, 10:30, 10:30] = 1
    doubt = np.full(mask.shape, 0.02, np.float32)
    among = {one.index: one for one in ranked(doubt, mask)}[3].expected
    alone = ranked(doubt[3:4], mask[3:4])[0].expected
    part, seen = np.zeros_like(mask), np.arange(7) == 3
    part[3] = mask[3]
    first = {one.index: one for one in ranked(doubt, part, seen)}[3].expected
    assert among < alone < among + 0.1
    assert first == pytest.approx(alone, abs=0.01)


def flat(trace) -> np.ndarray:
    """A scan with one intensity."""
    return np.zeros(trace.cells.shape)


@pytest.mark.parametrize("references", [None, 6], ids=["codes only", "with plans"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_planted_mistake_is_found_in_other_slices(references, axis):
    trace = made_up(0, slices=6, size=(8, 8), references=references)
    trace.codes[:] = 0
    trace.codes[:, 2:6, 2:6] = 4
    if references is not None:
        trace.plan_rows[:] = np.eye(9, 6, dtype=np.float32)
    mask = np.zeros(trace.cells.shape, np.uint8)
    mask[:, 20:110, 20:110] = 1
    mistake = (trace.cells.on_scan(trace.codes) == 4) & (mask == 1)
    mistake[:, :, 60:] = False
    wrong = np.where(mistake, 2, mask)
    marked = np.zeros(mistake.shape, bool)
    marked[2] = mistake[2]
    if axis == 1:
        # The same scan in another storage order.
        trace.cells = made_up_along_rows(trace.cells)
        wrong, marked, mistake = (np.moveaxis(a, 0, 1).copy() for a in (wrong, marked, mistake))
    regions = find_similar(trace, wrong, marked, flat(trace))
    assert [region.score for region in regions] == [1] * 5
    assert sorted(region.index for region in regions) == [0, 1, 3, 4, 5]
    found = np.zeros(mistake.shape, bool)
    for region in regions:
        found[region.box] |= region.voxels
    np.testing.assert_array_equal(found, mistake & ~marked)
    assert len(find_similar(trace, wrong, marked, flat(trace), most=2)) == 2


@pytest.mark.parametrize("faint", [0.0, 0.9], ids=["sharp", "faint"])
def test_codes_are_alike_by_how_much_more_than_usual_their_plans_overlap(faint):
    trace = made_up(0, slices=3, size=(8, 8), references=10)
    rows = np.eye(9, 10, dtype=np.float32)
    rows[5] = 0.5 * (rows[4] + rows[5])  # half goes to the references of code 4
    # Also if plans differ little, and if the next slice uses the references differently.
    trace.plan_rows[:] = faint / 10 + (1 - faint) * rows
    trace.plan_rows[0] = 0.8 * trace.plan_rows[0] + 0.2 / 10
    alike = _alike(trace, 1, 0, np.array([4]))[0]
    assert alike[4] == 1
    assert 0.35 < alike[5] < 0.5
    np.testing.assert_allclose(np.delete(alike, [4, 5]), 0, atol=1e-5)


def two_spots(slices: int = 3) -> tuple:
    """A trace, two spots of one code in a structure, (z, 16:32, 16:32) and (z, 80:96, 96:112), a
    mask of the structure, and a mark on the first spot of slice 1."""
    trace = made_up(0, slices=slices, size=(8, 8), references=None)
    trace.codes[:] = 0
    trace.codes[:, 1, 1] = trace.codes[:, 5, 6] = 4
    mask = np.zeros(trace.cells.shape, np.uint8)
    mask[:, 10:110, 10:118] = 1
    marked = np.zeros(mask.shape, bool)
    marked[1, 16:32, 16:32] = True
    return trace, mask, marked


def test_places_like_the_marks_are_looked_for_in_one_slice_after_the_other():
    trace, mask, marked = two_spots(5)
    trace.codes[3] = -1
    steps = list(similar_by_slice(trace, mask, marked, flat(trace)))
    assert steps[:4] == [[]] * 4
    assert [{region.index for region in regions} for regions in steps[4:]] == [{0}, {1}, {2}, {4}]
    found = find_similar(trace, mask, marked, flat(trace))
    scores = sorted((region.score for regions in steps for region in regions), reverse=True)
    assert [region.score for region in found] == scores


def test_of_places_with_the_same_code_those_near_the_marks_come_first():
    trace, mask, marked = two_spots()
    regions = find_similar(trace, mask, marked, flat(trace))
    corners = [(region.index, region.box[1].start, region.box[2].start) for region in regions]
    assert sorted(corners[:2]) == [(0, 16, 16), (2, 16, 16)]
    assert sorted(corners[2:5]) == [(0, 80, 96), (1, 80, 96), (2, 80, 96)]
    assert regions[2].score < 0.6 * regions[1].score


def test_of_places_with_the_same_code_those_as_bright_as_the_marks_come_first():
    trace, mask, marked = two_spots()
    scan = np.full(mask.shape, 50.0)
    scan[:, 16:32, 16:32] = scan[:, 80:96, 96:112] = 200
    scan[2, 16:32, 16:32] = 50
    alike, seen = (find_similar(trace, mask, marked, one) for one in (flat(trace), scan))
    assert {(one.index, one.box[1].start // 16) for one in alike[:2]} == {(0, 1), (2, 1)}
    score = {(one.index, one.box[1].start // 16): one.score for one in seen}
    assert score[0, 1] > score[2, 5] > score.get((2, 1), 0)


def test_brightness_tells_places_of_a_small_structure_apart():
    trace = made_up(0, slices=3, size=(16, 16), references=None)
    trace.codes[:] = 0
    mask = np.zeros(trace.cells.shape, np.uint8)
    mask[:, 100:130, 100:130] = 1
    marked = np.zeros(mask.shape, bool)
    marked[1, 100:130, 100:115] = True
    # Much wider than the structure: air, and tissue of many shades.
    scan = np.zeros(mask.shape)
    scan[:, :90] = np.linspace(0, 1000, 256)
    scan[:, 100:130, 100:115], scan[:, 100:130, 115:130] = 430, 400
    scan[0, 0, 0], scan[0, 0, 1] = np.inf, np.nan
    regions = find_similar(trace, mask, marked, scan)
    assert {region.index for region in regions[:2]} == {0, 2}
    for region in regions[:2]:
        assert region.box[2].stop <= 115
        assert region.voxels.sum() > 150
        assert region.score > 2 * regions[2].score


def test_near_is_measured_from_the_centre_of_the_structures():
    trace, mask, marked = two_spots()
    # In slice 2 everything lies two cells further down.
    trace.codes[2] = np.roll(trace.codes[2], 2, 0)
    mask[2] = np.roll(mask[2], 32, 0)
    mask[:, :10], mask[:, 120:] = 0, 0
    first, second = find_similar(trace, mask, marked, flat(trace))[:2]
    assert {(one.index, one.box[1].start) for one in (first, second)} == {(0, 16), (2, 48)}


def test_marks_in_empty_margins_say_nothing(one_sentence):
    trace, mask, marked = two_spots()
    everything = find_similar(trace, mask, marked, flat(trace))
    trace.cells = replace(trace.cells, inside=(slice(0, 88), trace.cells.inside[1]))
    alone = find_similar(trace, mask, marked, flat(trace))
    assert {one.index for one in alone} == {0, 1, 2}
    assert any(one.box[1].stop > 88 for one in everything)
    assert all(one.box[1].stop <= 88 for one in alone)
    stroke = np.zeros(mask.shape, bool)
    stroke[2, 100:120, 20:60] = True
    with pytest.raises(InputError, match="margins") as error:
        find_similar(trace, mask, stroke, flat(trace))
    one_sentence(error.value)
    both = find_similar(trace, mask, marked | stroke, flat(trace))
    assert [one.box for one in both] == [one.box for one in alone]
    # The inputs are not changed.
    assert stroke.any()


def test_a_code_that_is_mostly_right_says_less():
    trace, mask, marked = two_spots()
    sure = find_similar(trace, mask, marked, flat(trace))[0].score
    # Half of the structure has the spot's code, so only a small part of it is marked.
    trace.codes[:, :, :4] = 4
    doubtful = [region.score for region in find_similar(trace, mask, marked, flat(trace))]
    assert max(doubtful, default=0) < 0.3 * sure


def test_specks_are_not_suggested():
    trace, mask, marked = two_spots()
    mask[0, 16:32, 16:32] = 2
    mask[0, 20:22, 20:22] = 1
    regions = find_similar(trace, mask, marked, flat(trace))
    assert (0, 16) not in {(one.index, one.box[1].start // 16 * 16) for one in regions}
    assert all(region.voxels.sum() > 100 for region in regions)


def made_up_along_rows(cells):
    """The same cells, slices along the second axis of the scan."""
    n, height, width = cells.shape
    return replace(cells, axis=1, shape=(height, n, width))


def test_marks_that_say_nothing_are_refused(one_sentence):
    trace = made_up(0)
    trace.codes[1] = -1
    mask = np.zeros(trace.cells.shape, np.uint8)
    marked = np.zeros(trace.cells.shape, bool)
    for marks in (marked, marked[:, 1:]):
        with pytest.raises(InputError) as error:
            find_similar(trace, mask, marks, flat(trace))
        one_sentence(error.value)
    marked[1] = True
    with pytest.raises(InputError, match="slices that the model has segmented"):
        find_similar(trace, mask, marked, flat(trace))
