"""The guard: what it measures, and what it allows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from generators import ended
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core.finetuning.config import PROJECT, SCAN
from l2gnet_core.finetuning.correction_views import CorrectedScan
from l2gnet_core.finetuning.cross_validation import best_mix, left_out_counts
from l2gnet_core.finetuning.evidence import code_distance, usual_codes
from l2gnet_core.finetuning.folds import folds
from l2gnet_core.finetuning.guard import (
    Evidence,
    Improvement,
    Limits,
    Verdict,
    judged,
)
from l2gnet_core.finetuning.lost_structures import lost_shares
from l2gnet_core.finetuning.overlap import pooled_dice
from l2gnet_core.finetuning.rehearsal import heart_dice, replayed_hearts
from l2gnet_core.models.card import CodeStatistics
from l2gnet_core.network.config import preset
from l2gnet_core.network.model import build
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import predict_slices

SHAPE = (7, 40, 40)
GOOD = Evidence(
    0.5, 3, Improvement({"a": 0.7, "b": 0.8}, {"a": 0.8, "b": 0.82}), (0.9, 0.89), (0.4, 0.41)
)


def correct(slices=(0, 2, 5), ids=(1, 2, 3), seed=0, **more) -> Correction:
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, *ids], SHAPE).astype(np.uint8)
    return Correction(rng.random(SHAPE), Grid(SHAPE), 0, labels, slices, **more)


@pytest.mark.parametrize(
    ("kept", "said", "change"),
    [
        (True, "in short test runs, the mean Dice on slices left out of training rose from 0.750 "
               "to 0.810", {}),
        # So small a change tells nothing about the other slices.
        (True, "in short test runs, slices left out of training showed no clear change (mean Dice "
               "from 0.870 to 0.872)", {"dice": Improvement({"a": 0.87}, {"a": 0.872})}),
        (True, "the mean Dice on what you marked in slices left out of training rose",
            {"partly": True}),
        (False, "did not help", {"dice": Improvement({"a": 0.7}, {"a": 0.69})}),
        (False, "did not help", {"mix": 0.0}),
        (False, "In short test runs, fine-tuning hardly helped on slices left out of training "
                "(mean Dice from 0.973 to 0.974)", {
            "dice": Improvement({"a": 0.9734}, {"a": 0.9742})
        }),
        # Rounded to three digits, these differ.
        (False, "did not help on slices left out of training (mean Dice unchanged at 0.973)", {
            "dice": Improvement({"a": 0.9734}, {"a": 0.9736})
        }),
        (False, "made the b worse", {"dice": Improvement(GOOD.dice.before, {"a": 1, "b": 0.7})}),
        (False, "made most slices", {"dice": replace(GOOD.dice, parts=((0.8, 0.7),) * 2)}),
        (False, "made most slices", {
            "dice": replace(GOOD.dice, parts=((0.8, 0.7), (0.8, 0.9), (0.8, 0.794)))
        }),
        (True, "rose", {"dice": replace(GOOD.dice, parts=((0.8, 0.7), (0.8, 0.8)))}),
        (False, "forget", {"heart": (0.9, 0.7)}),
        (True, "Kept", {"heart": None, "codes": None}),
        (False, "use its codes too differently", {"codes": (0.4, 0.7)}),
        (True, "Kept", {"codes": (0.7, 0.4)}),
        (True, "a single corrected slice", {"dice": Improvement({}, {})}),
        (True, "only background is marked", {"dice": Improvement({}, {}, ((0.0, 0.0),) * 2)}),
        (False, "forget", {"dice": Improvement({}, {}), "heart": (0.9, 0.7)}),
        (False, "none of the new", {"dice": Improvement({}, {}), "mix": 0.0}),
        # A new structure cannot have been better before.
        (True, "Kept", {"dice": Improvement({"a": 0.5, "new": 0.1}, {"a": 0.9, "new": 0.0})}),
    ],
)  # fmt: skip
def test_verdicts(kept, said, change):
    evidence = replace(GOOD, **change)
    verdict = judged(Limits(), evidence, ["a", "b"])
    assert verdict.kept == kept
    assert said in verdict.reason
    assert verdict.reason.endswith(".")
    assert verdict.reason.endswith("The old model is kept.") == (not kept)
    assert verdict.to_json()["evidence"]["slices"] == 3
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_a_structure_that_nobody_painted_must_not_be_lost():
    evidence = Evidence(1.0, 3, Improvement({}, {"new": 0.9}), None, None)
    assert judged(Limits(), replace(evidence, lost={"liver": 0.2}), ["liver"]).kept
    verdict = judged(Limits(), replace(evidence, lost={"liver": 0.5, "spleen": 0}), ["liver"])
    assert not verdict.kept
    assert "lost the liver: where nobody painted it, 50% of what" in verdict.reason
    gone = replace(evidence, lost={"liver": 0.9, "spleen": 0.4})
    verdict = judged(SCAN.limits, gone, ["liver"])
    assert verdict.kept
    assert "no longer finds most of the liver where the old one did" in verdict.reason
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict
    before = [np.array([[0, 1, 1, 2]] * 60)]
    after = [np.array([[1, 1, 0, 1]] * 60)]
    # Sixty voxels are a speck.
    assert lost_shares(before, after, {1: "liver", 2: "spleen", 3: "kidney"}) == {"liver": 0.5}


def test_a_scan_is_let_pass_what_few_slices_cannot_tell():
    fallen = Improvement({"a": 0.8}, {"a": 0.75}, ((0.8, 0.6), (0.8, 0.7), (0.8, 0.85)))
    verdict = judged(SCAN.limits, replace(GOOD, dice=fallen), ["a"])
    assert verdict.kept
    assert (
        "the mean Dice on slices left out of training fell from 0.800 to 0.750, which says little"
        in verdict.reason
    )
    assert not judged(PROJECT.limits, replace(GOOD, dice=fallen), ["a"]).kept
    far = replace(fallen, after={"a": 0.69})
    assert "did not help" in judged(SCAN.limits, replace(GOOD, dice=far), ["a"]).reason
    # No fall is allowed if the old model is right everywhere.
    right = Improvement({"a": 1.0}, {"a": 0.994}, parts=((1.0, 0.994), (1.0, 1.0)))
    assert "did not help" in judged(SCAN.limits, replace(GOOD, dice=right), ["a"]).reason


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.floats(-0.003, 0.003) | st.floats(-0.015, 0.015))
def test_what_is_told_of_a_small_change_agrees_with_its_numbers(before, change):
    dice = Improvement({"a": before}, {"a": before + change})
    reason = judged(replace(SCAN.limits, least_gain=-1), replace(GOOD, dice=dice), []).reason
    assert ("unchanged" in reason) == (dice.gain() == 0)
    assert ("no clear change" in reason) == ("Kept" in reason and not dice.clear)
    if "rose" in reason:
        assert change > 0
    if dice.gain():
        after = before + change
        assert f"from {before:.3f} to {after:.3f}" in reason
        assert f"{float(f'{after:.3f}') - float(f'{before:.3f}'):+.3f}" == f"{dice.gain():+.3f}"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=3),
    st.sampled_from(["scan", "project"]),
    st.integers(2, 4),
)
def test_every_slice_is_left_out_once_and_something_is_left(slices, kind, most):
    corrections = [correct(tuple(some)) for some in slices]
    config = replace(PROJECT if kind == "project" else SCAN, folds=most)
    found = folds(corrections, config)
    total = sum(map(len, slices))
    if total == 1:
        assert found == []
        return
    assert 2 <= len(found) <= most
    for scan, correction in enumerate(corrections):
        assert sorted(s for fold in found for s in fold[scan]) == list(correction.slices)
    for fold in found:
        assert 0 < sum(map(len, fold)) < total
        if kind == "project" and len(slices) > 1:
            # A scan is left out as a whole or not at all.
            assert all(part in ((), c.slices) for part, c in zip(fold, corrections, strict=True))


def test_frames_of_an_image_are_left_out_together():
    frames = [replace(correct(some), image="cine") for some in ((1, 3), (3, 5))]
    for config in (SCAN, PROJECT):
        for fold in folds(frames, replace(config, folds=3)):
            assert (3 in fold[0]) == (3 in fold[1])
    one, other, last = folds([*frames, correct((2,)), correct((3,))], PROJECT)
    assert one == [(1, 3), (3, 5), (), ()]
    assert other == [(), (), (2,), ()]
    assert last == [(), (), (), (3,)]


@pytest.mark.parametrize("views", [1, 4])
def test_counts_are_of_marked_voxels_and_structures_spoken_of(make_model, views):
    model = make_model(views=views)
    correction = correct(ids=(1, 2, 4), unmarked=4)
    counts = ended(left_out_counts(model, [correction], [(2, 5)], "cpu"))
    expected = np.zeros((3, 3), int)
    # Turned views are left out, since they take time.
    for done in predict_slices(make_model(views=1), correction.scan, Grid(SHAPE), 0, [2, 5]):
        if done is not None:
            truth = correction.labels[done.index]
            for id in (1, 2):
                said, true = (done.labels == id) & (truth != 4), truth == id
                expected[id - 1] += [(said & true).sum(), said.sum(), true.sum()]
    assert np.array_equal(counts, expected)
    assert expected[:2, 2].all()
    dice = pooled_dice(counts, "abc")
    assert dice.keys() == {"a", "b"}
    assert dice["a"] == pytest.approx(2 * expected[0, 0] / expected[0, 1:].sum())


@pytest.mark.parametrize("unmarked", [257, 513, 65535])
def test_large_ids_of_unmarked_voxels_are_no_structure(make_model, unmarked):
    correction = correct(ids=(1, 2))
    labels = np.where(correction.labels == 0, np.uint16(unmarked), correction.labels)
    correction = replace(correction, labels=labels, unmarked=unmarked)
    counts = ended(left_out_counts(make_model(), [correction], [(0, 2)], "cpu"))
    marked = sum(np.isin(labels[z], (1, 2)).sum() for z in (0, 2))
    assert counts[:, 1].sum() <= marked


def fold_counts(dice: list[float]) -> np.ndarray:
    """Counts (models, 1, 3) of a structure of 1,000 voxels for Dice before and per mix."""
    return np.array([[[round(1000 * d), 1000, 1000]] for d in dice])


def test_the_mix_that_others_speak_for_is_judged():
    mixes, config = (0.0, 0.25, 0.5, 1.0), replace(SCAN, mix_tolerance=0.005)
    # All folds are best at 1.0, so each is judged at 1.0.
    same = np.stack([fold_counts([0.70, 0.75, 0.80, 0.90])] * 3)
    which, dice = best_mix(same, mixes, config, ["a"])
    assert (mixes[which], dice.before, dice.after) == (1.0, {"a": 0.7}, {"a": 0.9})
    # The first is so much better at 1.0 that all use 1.0, but it is judged at 0, by the others.
    odd = np.stack([fold_counts([0.1, 0.1, 0.1, 0.9]), *[fold_counts([0.8, 0.7, 0.7, 0.6])] * 2])
    which, dice = best_mix(odd, mixes, config, ["a"])
    assert mixes[which] == 1.0
    assert dice.before["a"] == pytest.approx(1.7 / 3)
    assert dice.after["a"] == pytest.approx((0.1 + 2 * 0.6) / 3)
    assert dice.parts == ((0.1, 0.1), (0.8, 0.6), (0.8, 0.6))
    # In one scan, another mix must be clearly better than the cautious one.
    assert mixes[best_mix(same, mixes, SCAN, ["a"])[0]] == 0.5
    # An equally good mix does not replace the cautious one.
    near = np.stack([fold_counts([0.70, 0.74, 0.738, 0.742])] * 2)
    assert mixes[best_mix(near, mixes, config, ["a"])[0]] == 0.5
    worse = np.stack([fold_counts([0.8, 0.7, 0.7, 0.7])] * 2)
    assert best_mix(worse, mixes, config, ["a"]) == (
        0,
        Improvement({"a": 0.8}, {"a": 0.8}, ((0.8, 0.8), (0.8, 0.8))),
    )


def test_code_distance_is_total_variation(make_model):
    model = make_model()
    scan = CorrectedScan.of(correct(), model.card)
    with torch.inference_mode():
        codes = model.network(
            torch.nn.functional.pad(scan.image[:, None].float(), (0, 8, 0, 8))
        ).codes
    used = torch.bincount(codes.flatten(), minlength=len(model.network.codebook.counts)).double()

    def distance(usual: torch.Tensor) -> float:
        return ended(code_distance(model.network, [scan], usual))

    assert distance(3 * used) == pytest.approx(0, abs=1e-6)
    assert distance((used == 0).double()) == pytest.approx(1)
    share = used.numpy() / float(used.sum())
    expected = np.abs(share - 1 / len(used)).sum() / 2
    assert distance(torch.ones_like(used)) == pytest.approx(expected, abs=1e-6)


def test_usual_codes_are_those_of_the_training_scans(make_model):
    model = make_model()
    count = len(model.network.codebook.counts)
    assert torch.equal(usual_codes(model), model.network.codebook.counts.double())
    counts = tuple(range(count))
    with_counts = replace(model, card=replace(model.card, codes=CodeStatistics(counts)))
    assert usual_codes(with_counts).tolist() == list(counts)
    assert usual_codes(replace(model, network=build(preset("tiny", 4, 1, "unet")))) is None


def test_hearts_are_for_models_that_can_know_them(make_model):
    model = make_model(sides=(64, 64))
    assert 0 <= ended(heart_dice(model, "cpu")) <= 1
    assert [tuple(image.shape) for image in replayed_hearts(model.card, 2)] == [(4, 64, 64)] * 2
    for change in ({"oriented": True, "slicing": "axial"}, {"spacing": (1.0, 1.0, 1.0)}):
        other = replace(model, card=replace(model.card, **change))
        assert ended(heart_dice(other, "cpu")) is None
        assert replayed_hearts(other.card) == []
