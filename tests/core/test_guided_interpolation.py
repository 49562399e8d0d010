"""Labels between annotated slices, by shape and image."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from generators import ended
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesClassifier

from l2gnet_core.errors import InputError
from l2gnet_core.interpolation.guided import guided_slices
from l2gnet_core.interpolation.shapes import interpolate_slices

SHAPE = (13, 56, 64)
ANNOTATED = (0, 3, 6, 9, 12)


def snake(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc (2) on a winding path through grey noise, with a dark one (5) beside it; shapes
    alone cut corners."""
    y, x = np.mgrid[0:56, 0:64]
    labels = np.zeros(SHAPE, np.uint8)
    for z in range(13):
        row, column = 24 + 6 * np.sin(z * 1.3), 24 + 5 * np.cos(z * 1.7)
        labels[z][np.hypot(y - row, x - column) < 9] = 2
        labels[z][np.hypot(y - row, x - column - 18) < 6] = 5
    noise = np.random.default_rng(seed).normal(0, 12, SHAPE)
    return np.choose(labels, [100, 0, 180, 0, 0, 40]) + noise, labels


def guided(*arguments, **more) -> np.ndarray:
    return ended(guided_slices(*arguments, **more))


@cache
def between() -> np.ndarray:
    """The mask that is found for the winding disc."""
    return guided(*snake(), ANNOTATED)


def dice(said: np.ndarray, true: np.ndarray) -> float:
    return 2 * (said & true).sum() / (said.sum() + true.sum())


@pytest.mark.parametrize("id", [2, 5])
def test_the_image_says_where_the_border_is(id):
    _, labels = snake()
    others = [z for z in range(13) if z not in ANNOTATED]
    found, shapes = between(), interpolate_slices(labels, ANNOTATED)
    assert np.array_equal(found[list(ANNOTATED)], labels[list(ANNOTATED)])
    of_shapes, of_both = (
        dice(some[others] == id, labels[others] == id) for some in (shapes, found)
    )
    assert of_shapes < 0.85
    assert of_both > of_shapes + 0.05


def test_the_same_comes_out_again_also_along_another_axis():
    scan, labels = snake()
    turned = guided(np.moveaxis(scan, 0, 2), np.moveaxis(labels, 0, 2), ANNOTATED, 2)
    assert np.array_equal(np.moveaxis(turned, 2, 0), between())


def test_slices_are_asked_about_together_and_come_out_as_alone(monkeypatch):
    asked, predict = [], ExtraTreesClassifier.predict_proba

    def noted(forest, features):
        asked.append(len(features))
        return predict(forest, features)

    monkeypatch.setattr(ExtraTreesClassifier, "predict_proba", noted)
    together = guided(*snake(), ANNOTATED)
    # One call for each structure: one for each of many slices would take minutes.
    assert len(asked) == 2
    monkeypatch.setattr("l2gnet_core.interpolation.guided._AT_ONCE", 1500)
    assert np.array_equal(guided(*snake(), ANNOTATED), together)
    assert len(asked) > 2 + 8
    assert max(asked[2:]) <= 1500


def test_it_tells_how_far_it_is_and_can_be_stopped_soon(monkeypatch):
    calls, grown, told = [], [], []
    fit, predict = ExtraTreesClassifier.fit, ExtraTreesClassifier.predict_proba

    def grow(forest, *given):
        calls.append(fit)
        grown.append(len(fit(forest, *given).estimators_))

    def answer(forest, features):
        calls.append(predict)
        return predict(forest, features)

    monkeypatch.setattr(ExtraTreesClassifier, "fit", grow)
    monkeypatch.setattr(ExtraTreesClassifier, "predict_proba", answer)
    for moment in guided_slices(*snake(), ANNOTATED):
        told.append(moment)
        # Growing and asking a forest take most of the time: never both before it can be stopped.
        assert len(calls) <= 1
        calls.clear()
    assert grown == 2 * list(range(5, 101, 5))
    done, total = (list(each) for each in zip(*told, strict=True))
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == total[-1]
    # Twenty times five trees, and eight slices, for each of two structures.
    assert set(total) == {2 * (20 + 8)}
    # Shapes alone.
    told = list(guided_slices(*snake(), [2, 7]))
    assert set(told) == {(count, 4) for count in range(5)}


def test_nothing_but_the_annotated_slices_is_read():
    scan, labels = snake()
    garbage = np.random.default_rng(1).integers(0, 6, SHAPE).astype(np.uint8)
    garbage[list(ANNOTATED)] = labels[list(ANNOTATED)]
    assert np.array_equal(between(), guided(scan, garbage, ANNOTATED))


def test_one_structure_alone():
    scan, labels = snake()
    found = guided(scan, labels, ANNOTATED, only=5)
    assert set(np.unique(found)) == {0, 5}


def test_shapes_decide_where_there_is_nothing_to_compare():
    scan, labels = snake()
    for slices in ([2, 7], [4]):
        expected = interpolate_slices(labels, slices)
        assert np.array_equal(guided(scan, labels, slices), expected)
    # In two of five slices; the others show that it ends there.
    two = np.where(np.isin(np.arange(13), [3, 6])[:, None, None], labels, 0)
    expected = interpolate_slices(two, ANNOTATED)
    assert np.array_equal(guided(scan, two, ANNOTATED), expected)
    # In one slice only, and in the whole picture.
    labels[0] = 7
    assert (
        guided(scan, labels, ANNOTATED)[1] == interpolate_slices(labels, ANNOTATED)[1]
    ).mean() > 0.5


def test_an_image_that_shows_nothing_leaves_it_to_the_shapes():
    y, x = np.mgrid[0:56, 0:64]
    labels = np.stack([2 * (np.hypot(y - 20 - z, x - 20 - z) < 9) for z in range(13)])
    labels = labels.astype(np.uint8)
    found, shapes = (
        guided(np.zeros(SHAPE), labels, ANNOTATED),
        interpolate_slices(labels, ANNOTATED),
    )
    assert dice(found == 2, shapes == 2) > 0.95


def test_slices_that_are_not_there_are_refused(one_sentence):
    scan, labels = snake()
    with pytest.raises(InputError, match="between 0 and 12") as caught:
        guided(scan, labels, [1, 13])
    one_sentence(caught.value)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_labels_stay_as_they_are_annotated(data):
    shape = (5, 14, 11)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, data.draw(st.integers(1, 4)), shape).astype(np.uint16)
    labels[rng.random(5) < 0.3] = 0
    slices = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
    found = guided(rng.normal(size=shape), labels, slices)
    assert found.dtype == labels.dtype
    assert np.array_equal(found[slices], labels[slices])
    assert not found[: min(slices)].any()
    assert not found[max(slices) + 1 :].any()
    assert set(np.unique(found)) <= set(np.unique(labels[slices])) | {0}
