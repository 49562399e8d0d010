"""Appearances in which scans are shown to a network, and the search for a better one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from generators import ended
from scipy import ndimage

from l2gnet_core.finetuning.appearance_search import AppearanceSearch, Judge, seen_as
from l2gnet_core.finetuning.config import PROJECT, SCAN
from l2gnet_core.finetuning.guard import Limits, Verdict
from l2gnet_core.finetuning.learner import Pace
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.finetuning.slice_consistency import unsteadiness
from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.appearance import PLAIN, Appearance, steps_from
from l2gnet_core.preprocessing.images import as_seen, resized
from l2gnet_core.preprocessing.intensities import intensity_window
from l2gnet_core.preprocessing.scan_kind import KindAppearance, ScanKind, scan_profile
from l2gnet_core.scans.phantom import cardiac_phantom
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import SlicePrediction, predict_slices

SHAPE = (6, 64, 64)
SHORT = replace(
    SCAN,
    seconds=None,
    steps=2,
    folds=3,
    fold_share=0.5,
    views=replace(SCAN.views, size=64),
    limits=Limits(most_code_drift=1),
)


@pytest.fixture
def phantom():
    return cardiac_phantom(3, 0.0, SHAPE)


def dark(phantom) -> np.ndarray:
    """The scan of a scanner with darker mid-tones."""
    image = phantom.image.astype(np.float32)
    return (image / image.max()) ** 3


def correct(scan, labels, slices=(1, 3, 4), **more) -> Correction:
    return Correction(scan, Grid(scan.shape), 0, labels, slices, **more)


def agreement(model, scan, truth) -> float:
    """Share of the structures' voxels that the model labels correctly."""
    said = np.zeros(truth.shape, np.uint8)
    for done in predict_slices(model, scan, Grid(scan.shape), 0):
        if done is not None:
            said[done.index] = done.labels
    return float((said == truth)[truth > 0].mean())


def last(model, corrections, config=SHORT, **more):
    *_, end = finetune(model, corrections, config, **more)
    return end.result


def test_what_a_network_sees(seeded):
    images = torch.rand(2, 3, 20, 30)
    assert torch.equal(as_seen(images, (20, 30), PLAIN), images)
    size = Appearance(zoom=1.5).size((20, 30))
    assert size == (30, 45)
    assert torch.equal(as_seen(images, size, Appearance(zoom=1.5)), resized(images, size))
    darker = as_seen(images, (20, 30), Appearance(gamma=2))
    torch.testing.assert_close(darker, images**2)
    smooth = as_seen(images, (20, 30), Appearance(smoothing=2))
    expected = ndimage.gaussian_filter(images, (0, 0, 2, 2), mode="nearest", truncate=2.5)
    np.testing.assert_allclose(smooth, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("appearance", "words"),
    [
        (PLAIN, "as they are"),
        (Appearance(gamma=0.36), "brighter (γ 0.36)"),
        (Appearance(5 / 3, 1, 2**0.5), "darker (γ 1.7), smoothed by 1 px, 1.4 times as large"),
    ],
)
def test_an_appearance_in_words(appearance, words):
    assert str(appearance) == words


def test_steps_lead_to_and_fro_and_end_somewhere():
    reached, new = {PLAIN}, {PLAIN}
    while new:
        new = {one for start in new for one in steps_from(start).values()} - reached
        new = {one for one in new if not any(close(one, other) for other in reached)}
        reached |= new
        assert len(reached) < 200
    assert min(one.gamma for one in reached) >= 0.2
    assert max(one.zoom for one in reached) <= 2.001
    assert close(steps_from(steps_from(PLAIN)["larger"])["smaller"], PLAIN)


def close(one: Appearance, other: Appearance) -> bool:
    return np.allclose([*asdict(one).values()], [*asdict(other).values()])


def test_cards_keep_it(make_model):
    card = make_model(appearance=Appearance(0.6, 1.0, 1.4)).card
    values = json.loads(json.dumps(card.to_json()))
    assert ModelCard.from_json(values) == card


def test_labels_of_magnified_slices_lie_on_the_scan(heart_model, phantom):
    plain = agreement(heart_model, phantom.image, phantom.labels)
    small = ndimage.zoom(phantom.image, (1, 0.7, 0.7), order=1)
    truth = ndimage.zoom(phantom.labels, (1, 0.7, 0.7), order=0)
    heart_model = replace(heart_model, card=replace(heart_model.card, sides=None))
    magnified = seen_as(heart_model, Appearance(zoom=1 / 0.7))
    assert agreement(magnified, small, truth) > agreement(heart_model, small, truth)
    assert agreement(magnified, small, truth) > plain - 0.1


def test_a_dark_scan_is_shown_brighter(heart_model, phantom):
    scan = dark(phantom)
    search = AppearanceSearch(heart_model, [correct(scan, phantom.labels)], "cpu")
    found = ended(search.best([()]))
    assert found.gamma < 1
    before = agreement(heart_model, scan, phantom.labels)
    assert agreement(seen_as(heart_model, found), scan, phantom.labels) > before + 0.1
    # If the model scores well already, its appearance stays.
    good = AppearanceSearch(heart_model, [correct(phantom.image, phantom.labels)], "cpu")
    assert ended(good.agreed([])) == (PLAIN,)
    hasty = AppearanceSearch(heart_model, [correct(scan, phantom.labels)], "cpu", lambda: True)
    assert ended(hasty.best([()])) == PLAIN


def test_slices_left_out_have_no_say(heart_model, phantom):
    scan, garbage = dark(phantom), phantom.labels.copy()
    garbage[3] = np.random.default_rng(0).integers(0, 4, SHAPE[1:])
    some = AppearanceSearch(heart_model, [correct(scan, phantom.labels)], "cpu")
    other = AppearanceSearch(heart_model, [correct(scan, garbage)], "cpu")
    # Scores of slices from another fold do not leak in.
    ended(other.best([()]))
    left_out = [(3,)]
    assert ended(some.best(left_out)) == ended(other.best(left_out))


def test_of_many_scans_a_few_slices_of_each_judge(heart_model, phantom):
    scans = [correct(phantom.image, phantom.labels) for _ in range(7)]
    search = AppearanceSearch(heart_model, scans, "cpu")
    nothing = [()] * 7
    judges = search._judges(nothing)
    assert len(judges) == len(set(judges))
    scans_asked = {i for i, _ in judges}
    assert len(scans_asked) == 5
    assert all(2 <= sum(i == one for i, _ in judges) <= 5 for one in scans_asked)
    left_out = [scans[0].slices, *[()] * 6]
    assert 0 not in {i for i, _ in search._judges(left_out)}


def test_of_several_scans_a_slice_may_lose_but_no_scan(heart_model, phantom):
    darker = Appearance(gamma=5 / 3)

    def spares(counts: dict[Judge, int], count: int) -> bool:
        scans = [correct(phantom.image, phantom.labels) for _ in range(count)]
        search = AppearanceSearch(heart_model, scans, "cpu")
        for judge, overlap in counts.items():
            search._counts[PLAIN, judge] = np.array([[80, 100, 100]])
            search._counts[darker, judge] = np.array([[overlap, 100, 100]])
        return ended(search._spares(darker, PLAIN, list(counts)))

    assert spares({(0, 1): 70, (0, 3): 95, (1, 1): 90, (1, 3): 90}, 2)
    assert not spares({(0, 1): 70, (0, 3): 75, (1, 1): 99, (1, 3): 99}, 2)
    assert not spares({(0, 1): 70, (0, 3): 95}, 1)


def test_what_nobody_painted_must_stay(heart_model, phantom):
    darker = Appearance(gamma=5 / 3)
    judges = [(0, 1), (0, 3)]

    def keeps(share: float, **more) -> bool:
        alone = correct(phantom.image, np.where(phantom.labels == 3, 3, 0), **more)
        search = AppearanceSearch(heart_model, [alone], "cpu")
        ended(search._judged(PLAIN, judges))
        for judge in judges:
            search._counts[darker, judge] = search._counts[PLAIN, judge]
            search._unpainted[darker, judge] = search._unpainted[PLAIN, judge] * share
        return ended(search._keeps(darker, judges))

    assert keeps(0.8)
    assert keeps(3.0)
    assert not keeps(0.6)
    # Where somebody looked for it, the model may be wrong.
    assert keeps(0.0, checked={1: {1, 2, 3}, 3: {1, 2, 3}})


def test_new_structures_say_nothing_of_it(heart_model, phantom):
    labels = np.where(phantom.labels == 3, 9, 0)
    search = AppearanceSearch(heart_model, [correct(dark(phantom), labels)], "cpu")
    assert ended(search.agreed([[(3,)]])) == (PLAIN, PLAIN)


def test_fine_tuning_adapts_it_on_good_evidence(heart_model, phantom):
    scan = dark(phantom)
    correction = correct(scan, phantom.labels)
    progress = list(finetune(heart_model, [correction], SHORT))
    assert progress[0].phase == "searching"
    # There is a preview before the first step.
    first = next(p.preview for p in progress if p.preview is not None)
    assert first.card.appearance.gamma < 1
    assert next(p.step for p in progress if p.preview is not None) == 0
    result = progress[-1].result
    assert result.verdict.kept, result.verdict.reason
    assert "From now on, the model sees slices brighter" in result.verdict.reason
    appearance = result.model.card.appearance
    assert result.verdict.evidence.appearance == appearance
    assert Verdict.from_json(json.loads(json.dumps(result.verdict.to_json()))).evidence.appearance
    before = agreement(heart_model, scan, phantom.labels)
    assert agreement(result.model, scan, phantom.labels) > before + 0.1
    # A search from there finds nothing better.
    again = last(result.model, [correction])
    assert again.model.card.appearance == appearance


PROJECT_SHORT = replace(SHORT, kind="project", adapts_appearance=PROJECT.adapts_appearance)


def whole(model, scan, axis=0) -> np.ndarray:
    done = predict_slices(model, scan, Grid(scan.shape), axis)
    return np.stack([one.labels for one in done if one is not None])


def test_a_project_s_model_shows_scans_so_that_look_like_its_own(heart_model, phantom):
    drawn = [cardiac_phantom(seed, 0.0, SHAPE) for seed in (3, 4, 6)]
    corrections = [correct(dark(one), one.labels, range(6)) for one in drawn[:2]]
    result = last(heart_model, corrections, PROJECT_SHORT)
    assert result.verdict.kept, result.verdict.reason
    assert "sees scans that look like these brighter" in result.verdict.reason
    card = ModelCard.from_json(json.loads(json.dumps(result.model.card.to_json())))
    assert card.kinds == result.model.card.kinds
    assert card.appearance == PLAIN
    (known,) = card.kinds
    assert known.appearance.gamma < 1
    assert known.appearance.zoom == 1
    assert "brighter" in card.shown
    # Another scan of the kind is shown in it, and a usual scan is not.
    other = drawn[2]
    for scan, shown in ((dark(other), known.appearance), (other.image, PLAIN)):
        expected = whole(seen_as(result.model, shown), scan)
        np.testing.assert_array_equal(whole(result.model, scan), expected)
    after, before = (agreement(m, dark(other), other.labels) for m in (result.model, heart_model))
    assert after > before + 0.1
    # The next fine-tuning starts with it, and finds nothing better.
    again = last(result.model, corrections, PROJECT_SHORT)
    assert again.verdict.evidence.appearance is None
    if again.verdict.kept:
        assert again.model.card.kinds == card.kinds
    # A model adapted to a single scan has one appearance, and no kinds.
    config = replace(SHORT, limits=Limits(-1, 1, 1, 1, 1, 1))
    single = last(result.model, [correct(dark(other), other.labels)], config)
    assert single.model.card.appearance_of(dark(other), (0.0, 1.0)).gamma < 1


def test_scans_of_several_kinds_are_each_shown_as_before(heart_model):
    drawn = [cardiac_phantom(seed, 0.0, SHAPE) for seed in (3, 4, 6)]
    darkened = [correct(dark(one), one.labels, range(6)) for one in drawn[:2]]
    kind = ScanKind.of([one.profile(heart_model.card) for one in darkened])
    shown = (KindAppearance(kind, Appearance(gamma=0.36)),)
    model = replace(heart_model, card=replace(heart_model.card, kinds=shown))
    both = [darkened[0], correct(drawn[2].image, drawn[2].labels, range(6))]
    config = replace(PROJECT_SHORT, limits=Limits(-1, 1, 1, 1, 1, 1))
    result = last(model, both, config)
    assert result.verdict.kept
    assert result.verdict.evidence.appearance is None
    assert result.model.card.kinds == shown
    # The old model is judged with each scan in the appearance that it has now.
    before = [agreement(model, one.scan, one.labels) for one in both]
    assert min(before) > 0.5
    assert sum(result.verdict.evidence.dice.before.values()) / 3 > 0.5


def test_a_single_scan_or_scans_unlike_each_other_make_no_kind(heart_model):
    drawn = [cardiac_phantom(seed, 0.0, SHAPE) for seed in (3, 4, 6)]
    unlike = [correct(dark(one), one.labels, range(6)) for one in drawn[:2]]
    grainy = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    unlike.append(correct(grainy + drawn[2].labels, drawn[2].labels, range(6)))
    config = replace(PROJECT_SHORT, limits=Limits(-1, 1, 1, 1, 1, 1))
    frames = [replace(correction, image=0) for correction in unlike[:2]]
    for corrections in (unlike[:1], unlike, frames):
        result = last(heart_model, corrections, config)
        assert result.verdict.evidence.appearance is None
        assert result.model.card.kinds == ()
        # With its pace it can be repeated.
        again = last(heart_model, corrections, config, pace=result.pace)
        assert again.model.card == result.model.card


def test_looks_do_not_depend_on_how_numbers_lie_in_memory(phantom):
    scan = dark(phantom)
    window = intensity_window(scan)
    assert scan_profile(np.asfortranarray(scan), window) == scan_profile(scan, window)


def test_a_kind_of_scan_is_told_by_its_looks():
    rng = np.random.default_rng(0)

    def profiles(change, count):
        drawn = [cardiac_phantom(seed, 0.0, SHAPE).image for seed in range(count)]
        shown = [change(image / image.max()).astype(np.float32) for image in drawn]
        return [scan_profile(one, intensity_window(one)) for one in shown]

    changes = {
        "as drawn": lambda image: image,
        "darker": lambda image: image**3,
        "smoother": lambda image: ndimage.gaussian_filter(image, (0, 2, 2)),
        "noisier": lambda image: image + rng.normal(0, 0.1, image.shape),
    }
    of = {name: profiles(change, 12) for name, change in changes.items()}
    for name, found in of.items():
        kind = ScanKind.of(found[:6])
        assert all(kind.holds(profile) for profile in found)
        others = [profile for other, some in of.items() if other != name for profile in some]
        assert not any(kind.holds(profile) for profile in others)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (40, 5, 1)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_every_scan_has_a_look(shape, value):
    scan = np.full(shape, value, np.float32)
    profile = scan_profile(scan, intensity_window(scan))
    assert np.isfinite(profile).all()
    assert ScanKind.of([profile]).holds(profile)


def test_it_is_found_again_by_its_pace(heart_model, phantom):
    correction = correct(dark(phantom), phantom.labels)
    config = replace(SHORT, steps=None, seconds=0.5)
    first = last(heart_model, [correction], config)
    assert len(first.pace.appearances) == 1 + SHORT.folds
    pace = Pace.from_json(json.loads(json.dumps(asdict(first.pace))))
    again = last(heart_model, [correction], config, pace=pace)
    assert again.model.card == first.model.card


def test_what_leads_astray_elsewhere_is_not_taken(heart_model, phantom, monkeypatch):
    correction = correct(dark(phantom), phantom.labels)
    search = AppearanceSearch(heart_model, [correction], "cpu")
    assert ended(search.agreed([]))[0].gamma < 1

    def unsteadier(model, correction, device):
        yield
        return 1.0 if model.card.appearance == PLAIN else 1.1

    monkeypatch.setattr("l2gnet_core.finetuning.appearance_search.unsteadiness", unsteadier)
    assert ended(search.agreed([])) == (PLAIN,)


def test_unsteadiness_by_hand(make_model, monkeypatch):
    labels = np.zeros((4, 32, 32), np.uint8)
    for index, rows in enumerate([4, 8, 8, 0]):
        labels[index, :rows] = 1
    labels[1, 8:16] = 2
    correction = correct(np.zeros(labels.shape), labels, (0, 1, 2, 3))
    # Changes of 4 + 0 + 8 rows of 20, and of 8 + 8 of 8; the model is not asked.
    found = ended(unsteadiness(make_model(), correction, "cpu"))
    assert found == pytest.approx((12 / 20 + 16 / 8) / 2)

    # A slice with unmarked voxels takes the model's areas, here background: changes of 4 + 8 + 8
    # rows of 12.
    def background(model, scan, grid, axis, order, device, field):
        assert order == [1]
        yield SlicePrediction(1, np.zeros((32, 32), np.uint8), device)

    monkeypatch.setattr("l2gnet_core.finetuning.overlap.predict_slices", background)
    partly = replace(correction, unmarked=2)
    assert ended(unsteadiness(make_model(), partly, "cpu")) == pytest.approx(20 / 12)


def test_few_slices_of_a_large_scan_are_looked_at(make_model, monkeypatch):
    asked = []

    def predicted(model, scan, grid, axis, order, device, field):
        asked.extend(order)
        return iter(())

    monkeypatch.setattr("l2gnet_core.finetuning.overlap.predict_slices", predicted)
    labels = np.ones((100, 512, 8), np.uint8)
    with pytest.raises(KeyError):
        ended(unsteadiness(make_model(), correct(labels * 1.0, labels, (50,)), "cpu"))
    assert asked == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    asked.clear()
    labels = np.ones((100, 512, 512), np.uint8)
    with pytest.raises(KeyError):
        ended(unsteadiness(make_model(), correct(labels, labels, (50,)), "cpu"))
    assert asked == [0, 25, 74, 99]
    # The same slices for a model that sees them larger, so that the two can be compared.
    asked.clear()
    larger, small = make_model(appearance=Appearance(zoom=2)), labels[:, ::2, ::2]
    with pytest.raises(KeyError):
        ended(unsteadiness(larger, correct(small, small, (50,)), "cpu"))
    assert len(asked) == 12
