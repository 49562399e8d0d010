"""Which scans a model hardly knows, and what fine-tuning does about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from generators import ended

from l2gnet_core.finetuning.config import SCAN, unconstrained
from l2gnet_core.finetuning.familiarity import hardly_known
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.scans.phantom import cardiac_phantom
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction

SHAPE = (6, 64, 64)


def correct(scan: np.ndarray, labels: np.ndarray, slices=(1, 4), **more) -> Correction:
    return Correction(scan, Grid(SHAPE), 0, labels, slices, **more)


def asked(model, *corrections: Correction) -> bool:
    return ended(hardly_known(model, corrections, "cpu"))


@pytest.fixture
def heart():
    return cardiac_phantom(7, 0.0, SHAPE)


@pytest.fixture
def elsewhere(heart) -> np.ndarray:
    """A scan in which the model finds the heart nowhere or in the wrong place."""
    return np.roll(heart.image, 20, 1)


def test_what_is_found_nowhere_is_hardly_known(heart_model, heart, elsewhere):
    assert not asked(heart_model, correct(heart.image, heart.labels))
    assert asked(heart_model, correct(elsewhere, heart.labels))
    # One known frame of two is enough.
    known, other = correct(heart.image, heart.labels), correct(elsewhere, heart.labels)
    assert not asked(heart_model, known, other)


def test_structures_under_other_names_are_not_known(heart_model, heart):
    swapped = np.array([0, 3, 1, 2], np.uint8)[heart.labels]
    assert asked(heart_model, correct(heart.image, swapped))


def test_corrected_slices_may_be_the_worst_of_a_scan(heart_model, heart):
    image = heart.image.copy()
    image[[1, 4]] = 0
    assert not asked(heart_model, correct(image, heart.labels))


def test_the_tip_of_a_heart_does_not_tell(heart_model, heart):
    image, labels = heart.image.copy(), heart.labels.copy()
    # The model finds nothing in the last two slices, and the last one holds little.
    image[4:] = 0
    labels[5, :, : SHAPE[2] // 2] = 0
    assert np.count_nonzero(labels[5]) < 0.6 * np.count_nonzero(labels[2])
    assert not asked(heart_model, correct(image, labels, (5,)))
    # A whole heart in a slice tells.
    labels[5] = labels[2]
    assert asked(heart_model, correct(image, labels, (5,)))


@pytest.mark.parametrize("slices", [(0, 1, 2, 3, 4, 5), (1, 4)])
def test_without_slices_beside_or_structures_nobody_can_tell(heart_model, heart, elsewhere, slices):
    labels = heart.labels if len(slices) == 6 else np.zeros_like(heart.labels)
    assert not asked(heart_model, correct(elsewhere, labels, slices))


def test_structures_that_nobody_painted_must_not_be_lost(heart_model, heart):
    """The person paints one structure under another name; the model has the others right."""
    labels = np.where(heart.labels == 1, 2, 0).astype(np.uint8)
    assert not asked(heart_model, correct(heart.image, labels))
    assert asked(heart_model, correct(np.roll(heart.image, 20, 1) * 0, labels))


def test_strokes_do_not_tell(heart_model, heart, elsewhere):
    """They lie where the model is wrong: here, where it names the myocardium another way."""
    strokes = np.full(SHAPE, 4, np.uint8)
    strokes[heart.labels == 2] = 1
    assert not asked(heart_model, correct(heart.image, strokes, unmarked=4))
    strokes[:, ::4] = heart.labels[:, ::4]
    assert not asked(heart_model, correct(elsewhere, strokes, unmarked=4))
    # Beside them, a slice that is labelled throughout does.
    strokes[1] = heart.labels[1]
    assert asked(heart_model, correct(elsewhere, strokes, unmarked=4))


def test_a_scan_that_is_hardly_known_is_learnt_anew(heart_model, heart, elsewhere):
    views = replace(SCAN.views, size=64)
    config = replace(SCAN, seconds=None, steps=6, views=views, adapts_appearance=False)
    for scan, known in ((heart.image, True), (elsewhere, False)):
        *_, last = finetune(heart_model, [correct(scan, heart.labels, (1, 2, 4))], config)
        evidence = last.result.verdict.evidence
        assert evidence.anew is not known
        assert ("learnt it again" in last.result.verdict.reason) is not known
        if last.result.verdict.kept:
            assert evidence.mix == (0.5 if known else 1.0)
            (entry,) = last.result.model.card.history
            assert entry["settings"]["pull"] == (SCAN.pull if known else 0.0)
    assert unconstrained(SCAN).limits.most_forgotten == 1
    # Nor if the settings do not ask for it.
    plain = replace(config, learns_anew=False)
    *_, last = finetune(heart_model, [correct(elsewhere, heart.labels, (1, 2, 4))], plain)
    assert not last.result.verdict.evidence.anew
