"""Old answers where nobody marked anything, in slices that are labelled in part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from generators import ended

from l2gnet_core.finetuning.appearance_search import AppearanceSearch
from l2gnet_core.finetuning.config import SCAN, FineTuneConfig
from l2gnet_core.finetuning.old_answers import only_mistakes, with_old_answers
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
    drawn[50:54, 50:54] = said[50:54, 50:54]
    return drawn


def test_what_is_labelled_throughout_stays_as_it_is(heart_model, heart):
    correction = marked(heart, heart[1][:, 3])
    assert ended(with_old_answers(heart_model, correction, "cpu")) is correction


def test_old_answers_count_little_and_not_near_mistakes(heart_model, heart, said, strokes):
    correction = marked(heart, strokes, weights=np.full(SHAPE, 3, np.float32))
    filled = ended(with_old_answers(heart_model, correction, "cpu"))
    labels, weights = filled.pictures[1], filled.picture_weights[1]
    given = strokes != UNMARKED
    rows, columns = np.mgrid[0:64, 0:64]
    away = np.hypot(rows - np.clip(rows, 20, 23), columns - np.clip(columns, 20, 23))
    near = (away <= 6) & ~given
    rest = ~near & ~given
    np.testing.assert_array_equal(labels[given], strokes[given])
    assert (labels[near] == UNMARKED).all()
    np.testing.assert_array_equal(labels[rest], said[rest])
    assert (weights[given] == 3).all()
    np.testing.assert_allclose(weights[rest], 3 * 0.05, rtol=1e-6)
    # More beside strokes on mistakes alone.
    strokes[50:54, 50:54] = UNMARKED
    filled = ended(with_old_answers(heart_model, marked(heart, strokes), "cpu"))
    np.testing.assert_allclose(filled.picture_weights[1][rest], 0.25, rtol=1e-6)
    # The other slice is labelled throughout.
    np.testing.assert_array_equal(filled.pictures[0], correction.pictures[0])
    assert (filled.picture_weights[0] == 1).all()


def test_a_fine_tuning_learns_them_unless_it_is_an_earlier_one(heart_model, heart, strokes):
    config = replace(SCAN, seconds=None, steps=1, folds=0, views=replace(SCAN.views, size=64))
    config = replace(config, adapts_appearance=False, learns_anew=False)
    told = {name: value for name, value in config.to_json().items() if name != "keeps_unmarked"}
    earlier = FineTuneConfig.from_json(told)
    assert earlier == replace(config, keeps_unmarked=False)
    hashes = []
    for one in (config, earlier):
        *_, last = finetune(heart_model, [marked(heart, strokes)], one)
        assert last.result.verdict.evidence.partly
        hashes.append(weights_hash(last.result.model.network))
    assert hashes[0] != hashes[1]


def test_strokes_on_mistakes_do_not_judge_how_the_scan_is_shown(heart_model, heart, said, strokes):
    on_mistakes = strokes.copy()
    on_mistakes[50:54, 50:54] = UNMARKED
    for drawn, mistakes in ((strokes, set()), (on_mistakes, {3}), (heart[1][:, 3], set())):
        assert ended(only_mistakes(heart_model, marked(heart, drawn), "cpu")) == mistakes
    # With nothing else to judge by, there is no search.
    labels = np.full(SHAPE, UNMARKED, np.uint8)
    labels[:, 3] = on_mistakes
    alone = Correction(heart[0], Grid(SHAPE), AXIS, labels, (3,), UNMARKED)
    search = AppearanceSearch(heart_model, [alone], "cpu")
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
