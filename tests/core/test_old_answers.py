"""Old answers where nobody marked anything, in slices that are labelled in part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from generators import ended

from l2gnet_core.finetuning.appearance_search import AppearanceSearch
from l2gnet_core.finetuning.config import SCAN
from l2gnet_core.finetuning.correction_views import UNKNOWN, CorrectedScan
from l2gnet_core.finetuning.old_answers import beside_marks, old_answers, only_mistakes
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.models.weights import weights_hash
from l2gnet_core.scans.phantom import cardiac_phantom
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import predict_slices

SHAPE, UNMARKED, AXIS = (64, 6, 64), 9, 1


@pytest.fixture
def heart():
    drawn = cardiac_phantom(7, 0.0, (6, 64, 64))
    return [np.ascontiguousarray(np.moveaxis(a, 0, AXIS)) for a in (drawn.image, drawn.labels)]


@pytest.fixture
def said(heart_model, heart) -> np.ndarray:
    """The old model's answer for slice 3."""
    (done,) = predict_slices(heart_model, heart[0], Grid(SHAPE), AXIS, order=[3])
    return done.labels


def marked(heart, strokes: np.ndarray, **more) -> Correction:
    """Slice 1 as it is, slice 3 with these strokes."""
    labels = heart[1].copy()
    labels[:, 3] = strokes
    return Correction(heart[0], Grid(SHAPE), AXIS, labels, (1, 3), UNMARKED, **more)


@pytest.fixture
def strokes(said) -> np.ndarray:
    """One stroke that contradicts the answer, and one that repeats it."""
    drawn = np.full_like(said, UNMARKED)
    drawn[20:24, 20:24] = (said[20:24, 20:24] + 1) % 4
    rows, columns = np.nonzero(said[32:])
    assert len(rows) >= 40
    drawn[32:][rows[-40:], columns[-40:]] = said[32:][rows[-40:], columns[-40:]]
    return drawn


def taught(model, correction: Correction) -> CorrectedScan:
    """A correction as it teaches."""
    (said,) = ended(old_answers(model, [correction], "cpu"))
    return CorrectedScan.of(correction, model.card, beside_marks(correction, said))


def test_what_is_labelled_throughout_stays_as_it_is(heart_model, heart):
    correction = marked(heart, heart[1][:, 3])
    assert ended(old_answers(heart_model, [correction], "cpu")) == [{}]


def test_old_answers_count_little_and_not_near_mistakes(heart_model, heart, said, strokes):
    scan = taught(heart_model, marked(heart, strokes, weights=np.full(SHAPE, 3, np.float32)))
    labels, weights = scan.classes[1].numpy(), scan.weights[1].numpy()
    given = strokes != UNMARKED
    rows, columns = np.mgrid[0:64, 0:64]
    away = np.hypot(rows - np.clip(rows, 20, 23), columns - np.clip(columns, 20, 23))
    near = (away <= 6) & ~given
    rest = ~near & ~given
    np.testing.assert_array_equal(labels[given], strokes[given])
    assert (labels[near] == UNKNOWN).all()
    np.testing.assert_array_equal(labels[rest], said[rest])
    assert (weights[given] == 3).all()
    np.testing.assert_allclose(weights[rest], 3 * 0.05, rtol=1e-6)
    # The other slice is labelled throughout.
    np.testing.assert_array_equal(scan.classes[0], heart[1][:, 1])
    assert (scan.weights[0] == 3).all()
    # Old answers count more beside strokes on mistakes alone.
    strokes[32:] = UNMARKED
    np.testing.assert_allclose(
        taught(heart_model, marked(heart, strokes)).weights[1].numpy()[rest], 0.25, rtol=1e-6
    )


def test_what_has_no_weight_stays_unknown(heart_model, heart, strokes):
    weights = np.ones(SHAPE, np.float32)
    weights[:32] = 0
    classes = taught(heart_model, marked(heart, strokes, weights=weights)).classes[1]
    unmarked = torch.from_numpy(strokes == UNMARKED)
    assert (classes[:32][unmarked[:32]] == UNKNOWN).all()
    assert (classes[40:] != UNKNOWN).all()


def test_background_that_counts_as_unknown_is_learnt_from_old_answers(heart_model, heart, said):
    strokes = np.where(np.arange(64) < 32, heart[1][:, 3], 0).astype(np.uint8)
    labels = heart[1].copy()
    labels[:, 3] = strokes
    correction = Correction(heart[0], Grid(SHAPE), AXIS, labels, (1, 3), unmarked=0)
    learnt = taught(heart_model, correction).classes[1].numpy()
    assert (learnt[(said == 0) & (strokes == 0)] == 0).any()


def test_what_a_slice_does_not_show_stays_open_in_the_others(heart_model, heart, strokes):
    """A structure of old answers alone says nothing of slices that were labelled for another."""
    one = np.where(heart[1] == 2, 2, 0).astype(np.uint8)
    one[:, 3] = np.where(strokes == UNMARKED, UNMARKED, np.minimum(strokes, 0))
    correction = Correction(heart[0], Grid(SHAPE), AXIS, one, (1, 3), UNMARKED)
    scan = taught(heart_model, correction)
    assert scan.absent.tolist() == [False, True, False, True]
    assert not scan.supervised[0].any()
    assert scan.supervised[1, [1, 3]].all()


def test_no_more_than_a_few_slices_are_predicted(heart_model):
    shape = (60, 16, 16)
    labels = np.full(shape, UNMARKED, np.uint8)
    labels[:, 4:8, 4:8] = 1
    scan = np.random.default_rng(0).random(shape)
    correction = Correction(scan, Grid(shape), 0, labels, tuple(range(60)), UNMARKED)
    (said,) = ended(old_answers(heart_model, [correction], "cpu"))
    assert list(said) == list(range(0, 60, 3))


def test_a_fine_tuning_learns_them_unless_its_settings_do_not_ask_for_it(
    heart_model, heart, strokes
):
    config = replace(SCAN, seconds=None, steps=1, folds=0, views=replace(SCAN.views, size=64))
    config = replace(config, adapts_appearance=False, learns_anew=False)
    hashes = []
    for one in (config, replace(config, keeps_unmarked=False)):
        *_, last = finetune(heart_model, [marked(heart, strokes)], one)
        assert last.result.verdict.evidence.partly
        hashes.append(weights_hash(last.result.model.network))
    assert hashes[0] != hashes[1]


def test_strokes_on_mistakes_do_not_judge_how_the_scan_is_shown(heart_model, heart, said, strokes):
    on_mistakes = strokes.copy()
    on_mistakes[32:] = UNMARKED
    # A wide brush passes over background that the model has right.
    wide = on_mistakes.copy()
    wide[(said == 0) & (on_mistakes == UNMARKED)] = 0
    assert (wide == said)[wide != UNMARKED].mean() > 0.9
    for drawn, mistakes in (
        (strokes, set()),
        (on_mistakes, {3}),
        (wide, {3}),
        (heart[1][:, 3], set()),
    ):
        correction = marked(heart, drawn)
        (answers,) = ended(old_answers(heart_model, [correction], "cpu"))
        assert only_mistakes(correction, answers) == mistakes
    # With nothing else to judge by, there is no search.
    labels = np.full(SHAPE, UNMARKED, np.uint8)
    labels[:, 3] = on_mistakes
    alone = Correction(heart[0], Grid(SHAPE), AXIS, labels, (3,), UNMARKED)
    search = AppearanceSearch(heart_model, [alone], "cpu", silent=[{3}])
    assert ended(search.agreed([])) == (heart_model.card.appearance,)
    assert search._counts == {}


def test_what_is_only_erased_teaches(heart_model, heart, said):
    erased = np.full(SHAPE, UNMARKED, np.uint8)
    erased[10:30, 3] = erased[10:30, 1] = 0
    correction = Correction(heart[0], Grid(SHAPE), AXIS, erased, (1, 3), UNMARKED)
    config = replace(SCAN, seconds=None, steps=2, views=replace(SCAN.views, size=64))
    *_, last = finetune(heart_model, [correction], config)
    assert last.result.verdict.kept
    assert "only background is marked" in last.result.verdict.reason
    assert weights_hash(last.result.model.network) != weights_hash(heart_model.network)
