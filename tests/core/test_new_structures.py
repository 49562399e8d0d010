"""New structures: room in the network, names, and no harm to the old ones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from generators import ended
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from l2gnet_core.errors import InputError
from l2gnet_core.finetuning.config import ORGAN, PROJECT, SCAN, settings
from l2gnet_core.finetuning.correction_views import CorrectedScan
from l2gnet_core.finetuning.guard import Limits
from l2gnet_core.finetuning.head_initialisation import filled_in, fit_heads
from l2gnet_core.finetuning.lost_structures import held_back, unpainted_answers
from l2gnet_core.finetuning.new_structures import taught_labels, with_room_for
from l2gnet_core.finetuning.overlap import slice_counts
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.interpolation.shapes import interpolate_slices
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.models.weights import mixed, weights_hash
from l2gnet_core.network.config import preset
from l2gnet_core.network.model import build, widened
from l2gnet_core.scans.cleanup import CleanUp, tidy
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import predict_slices

#: A guard that allows everything.
UNLIMITED = Limits(-1, 1, 1, 1, 1, 1)
KNOWN = LabelSet.from_names({1: "liver", 5: "spleen"}, {5: "#123456"})
SHAPE = (6, 48, 48)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A bright disc (3) on a grey ground, drifting from slice to slice."""
    y, x = np.mgrid[0:48, 0:48]
    centres = [(24 + 2 * z, 20 + z) for z in range(6)]
    labels = np.stack([3 * (np.hypot(y - r, x - c) < 9) for r, c in centres]).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    return (60 + 120 * (labels > 0) + noise).astype(np.float32), labels


def correct(labels, slices=(1, 3, 5), scan=None, **more) -> Correction:
    scan = scene()[0] if scan is None else scan
    return Correction(scan, Grid(SHAPE), 0, labels, slices, **more)


@pytest.fixture
def model(make_model):
    return make_model(KNOWN)


def test_old_logits_stay_and_new_classes_are_answered_nowhere(model):
    labels = LabelSet.from_names({1: "liver", 3: "new", 5: "spleen", 9: "newer"})
    wide, new = with_room_for(model, labels)
    assert new == [False, False, True, False, True]
    assert wide.network.config.classes == 5
    images = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = model.network(images).logits, wide.network(images).logits
    torch.testing.assert_close(after[:, [0, 1, 3]], before, rtol=1e-6, atol=1e-6)
    ids = np.array([0, *(label.id for label in labels)])
    old_ids = np.array([0, *(label.id for label in model.card.labels)])
    assert np.array_equal(ids[after.argmax(1)], old_ids[before.argmax(1)])
    assert model.network.config.classes == 3


@pytest.mark.parametrize("new", [1, 20])
def test_however_many_new_classes_there_are_the_old_ones_hardly_change(model, new):
    images = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    wide = widened(model.network, [0, 1, 2, *[None] * new])
    with torch.inference_mode():
        before, after = (one(images).logits.softmax(1)[:, :3] for one in (model.network, wide))
    assert (1 - after / before).abs().max() < 0.02


def test_coarser_outputs_get_room_too(seeded):
    wide = widened(build(preset("tiny", 3, supervised=2)), [0, 1, 2, None]).train()
    output = wide(torch.randn(1, 1, 32, 32))
    assert [logits.shape[1] for logits in (output.logits, *output.coarser)] == [4, 4, 4]


def test_mixing_starts_at_the_old_weights_and_ends_at_the_new(make_model):
    old, new = (make_model(seed=seed).network for seed in (0, 1))
    hashes = weights_hash(old), weights_hash(new)
    assert hashes[0] != hashes[1]
    assert weights_hash(mixed(old, new, 0)) == hashes[0]
    assert weights_hash(mixed(old, new, 1)) == hashes[1]
    half = mixed(old, new, 0.5).decoder.head.weight
    torch.testing.assert_close(half, (old.decoder.head.weight + new.decoder.head.weight) / 2)
    assert (weights_hash(old), weights_hash(new)) == hashes


def test_a_new_organ_is_learnt_and_the_others_stay(make_model):
    # Some untrained networks learn nothing; this one learns it in 30 or 60 steps.
    model = make_model(KNOWN, seed=3)
    scan, labels = scene()
    config = replace(
        SCAN, seconds=None, steps=30, learning_rate=1e-2, folds=2, names={3: "tumour"},
        fold_share=1.0, pull=0.0,
        views=replace(SCAN.views, size=48), limits=Limits(most_code_drift=1, most_lost=1),
    )  # fmt: skip
    *_, last = finetune(model, [correct(labels)], config)
    verdict, taught = last.result.verdict, last.result.model
    assert verdict.kept, verdict.reason
    assert taught.card.labels.names == {1: "liver", 3: "tumour", 5: "spleen"}
    assert taught.card.labels.colors[5] == "#123456"
    # Liver and spleen are in no corrected slice, so nobody said where they are.
    assert verdict.evidence.dice.before == {"tumour": 0.0}
    others = [0, 2, 4]
    found = {
        d.index: d.labels == 3 for d in predict_slices(taught, scan, Grid(SHAPE), 0, others) if d
    }
    said, true = np.stack([found[i] for i in others]), labels[others] == 3
    assert 2 * (said & true).sum() / (said.sum() + true.sum()) > 0.6

    # The new model finds nothing of the liver, which nobody painted: usually refused.
    limits = Limits(most_code_drift=1)
    *_, last = finetune(model, [correct(labels)], replace(config, limits=limits))
    assert not last.result.verdict.kept
    assert "lost the liver: where nobody painted it" in last.result.verdict.reason


def test_no_model_is_judged_by_structures_that_nobody_checked(model):
    scan, labels = scene()
    seen = {d.index: d.labels for d in predict_slices(model, scan, Grid(SHAPE), 0) if d}
    # The liver in all slices, and the spleen in the first one, are the model's own answer.
    labels = np.stack([np.where(labels[z] == 3, 3, seen[z]) for z in range(6)])
    correction = correct(labels, (1, 3), checked={1: {3}, 3: {3, 5}})
    wide, _ = with_room_for(model, LabelSet.from_names({1: "liver", 3: "new", 5: "spleen"}))
    counts = ended(slice_counts(wide, correction, (1, 3), "cpu"))
    held = {index: [bool(row.any()) for row in of_slice] for index, of_slice in counts.items()}
    assert held == {1: [False, True, False], 3: [False, True, bool((seen[3] == 5).any())]}
    # Instead they must not get lost.
    (kept,) = ended(unpainted_answers(wide, [correction], "cpu"))
    liver = (kept == 1).sum()
    assert liver == sum(((labels[z] == 1) & (seen[z] == 1)).sum() for z in (1, 3)) > 100


@settings_of_hypothesis(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.data())
def test_slices_are_held_back_from_all_parts_of_a_scan(count, data):
    corrected = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    labels = np.ones((count, 4, 4), np.uint8)
    apart = held_back(Correction(labels, Grid(labels.shape), 0, labels, tuple(corrected)))
    untouched = sorted(set(range(count)) - corrected)
    assert set(apart) <= set(untouched)
    assert len(set(apart)) == len(apart) == min(6, len(untouched) // 3)
    # At least every other piece of equal length has one.
    gaps = np.diff([-1, *map(untouched.index, apart), len(untouched)])
    assert not apart or gaps.max() <= 2 * len(untouched) / len(apart)


def test_nothing_is_learnt_from_slices_that_are_held_back(make_model):
    model, (scan, labels) = make_model(KNOWN), scene()
    corrections = [correct(labels, (1, 3))]
    (apart,) = held_back(corrections[0])
    changed = scan.copy()
    changed[apart] = scan[apart, ::-1]  # the same voxels elsewhere: the scan's window stays
    config = replace(ORGAN, seconds=None, steps=3, limits=UNLIMITED, adapts_appearance=False)

    def taught(image):
        *_, last = finetune(model, [correct(labels, (1, 3), image)], config)
        return weights_hash(last.result.model.network)

    assert taught(changed) == taught(scan)
    changed[[0, 4, 5]] = scan[[0, 4, 5], ::-1]
    assert taught(changed) != taught(scan)


def test_a_structure_must_not_be_lost_where_nothing_is_learnt(make_model):
    # All organs were checked in the corrected slices, which hold none of the liver.
    model, labels = make_model(KNOWN, seed=3), scene()[1]
    config = replace(
        SCAN, seconds=None, steps=30, learning_rate=1e-2, pull=0.0, folds=0,
        views=replace(SCAN.views, size=48), limits=Limits(most_code_drift=1), mixes=(1.0,),
        cautious_mix=1.0,
    )  # fmt: skip
    checked = {index: [1, 3, 5] for index in (1, 3)}
    *_, last = finetune(model, [correct(labels, (1, 3), checked=checked)], config)
    assert not last.result.verdict.kept
    assert "Fine-tuning lost the " in last.result.verdict.reason


def test_a_taught_organ_keeps_all_its_pieces(make_model):
    model = make_model(KNOWN, seed=0, clean_up=CleanUp(largest_piece=True))
    config = replace(SCAN, seconds=None, steps=2, names={3: "kidneys"}, limits=UNLIMITED)
    *_, last = finetune(model, [correct(scene()[1])], config)
    card = last.result.model.card
    assert card.clean_up == CleanUp(largest_piece=True, spared=(3,))
    again = ModelCard.from_json(json.loads(json.dumps(card.to_json())))
    assert again.clean_up == card.clean_up
    mask = np.zeros((4, 9, 9), np.uint8)
    mask[:, 1:3, 1:3] = mask[:2, 5:8, 5:8] = 3
    mask[:, 1:3, 5:8] = mask[0, 4, 0] = 1
    tidied = tidy(mask, 0, card.clean_up)
    np.testing.assert_array_equal(tidied == 3, mask == 3)
    assert tidied[0, 4, 0] == 0


def test_what_is_absent_from_a_correction_is_not_unlearnt(model):
    # The model answers liver in every slice, and only the spleen was painted: it must not learn
    # that there is no liver.
    labels = np.where(scene()[1], 5, 0).astype(np.uint8)
    labels[0] = 1  # in a slice that is not corrected
    config = replace(
        SCAN, seconds=None, steps=20, learning_rate=3e-2, folds=0, cautious_mix=1.0, pull=0.0,
        views=replace(SCAN.views, size=48), limits=Limits(-1, 1, 1, 1, 1), learns_anew=False,
    )  # fmt: skip
    everywhere = make_say(model, 1)

    def liver(of) -> float:
        slices = predict_slices(of, scene()[0], Grid(SHAPE), 0)
        outside = [(d.labels == 1)[labels[d.index] == 0].mean() for d in slices if d and d.index]
        return float(np.mean(outside))

    assert liver(everywhere) > 0.9
    *_, last = finetune(everywhere, [correct(labels, (2, 3))], config)
    assert liver(last.result.model) > 0.9
    # If the liver is in a corrected slice, the corrections also say where it is not.
    labels[2, :4, :4] = 1
    *_, last = finetune(everywhere, [correct(labels, (2, 3))], config)
    assert liver(last.result.model) < 0.5


def make_say(model, row: int):
    """The model with a higher bias for one class."""
    network = mixed(model.network, model.network, 1)
    with torch.no_grad():
        network.decoder.head.weight.mul_(0.05)
        network.decoder.head.bias.zero_()[row] = 0.5
    return replace(model, network=network)


def test_names_are_given_or_made_up():
    labels = scene()[1]
    labels[1, :3, :3] = 8
    assert taught_labels(KNOWN, [correct(labels)], {3: "tumour"}).names == {
        1: "liver",
        3: "tumour",
        5: "spleen",
        8: "structure 8",
    }
    # The name of a known structure is accepted if it is the same; then nothing changes.
    plain = np.where(labels, 1, 0)
    assert taught_labels(KNOWN, [correct(plain)], {1: "liver"}) == KNOWN


@pytest.mark.parametrize(
    ("said", "names", "unmarked"),
    [
        ("the model has 1 as liver", {1: "heart"}, None),
        ("got one for 4", {4: "heart"}, None),
        ("'spleen' comes twice", {3: "spleen"}, None),
        (
            "' Spleen' comes twice where case, spaces and underscores",
            {3: " Spleen"},
            None,
        ),
        ("is its spleen", {}, 5),
    ],
)
def test_names_and_ids_that_clash_are_refused(said, names, unmarked, one_sentence):
    with pytest.raises(InputError, match=said) as caught:
        taught_labels(KNOWN, [correct(scene()[1], unmarked=unmarked)], names)
    one_sentence(caught.value)


def test_strokes_of_a_new_organ_alone_are_refused(model, one_sentence):
    labels = scene()[1]
    # In this mask 0 means unmarked: everything else might be the new organ.
    strokes = correct(labels, unmarked=0)
    with pytest.raises(InputError, match="marked as none of it") as caught:
        next(finetune(model, [strokes]))
    one_sentence(caught.value)
    # Voxels of another structure are not the new one; those of another scan are enough.
    labels[3, :3, :3] = 1
    assert 3 in taught_labels(KNOWN, [correct(labels, unmarked=0)], {}).names
    assert 3 in taught_labels(KNOWN, [strokes, correct(labels)], {}).names


def scene_seen(slices, **more):
    labels = scene()[1]
    model = Model(build(preset("tiny", 3)), ModelCard("m", KNOWN))
    wide, new = with_room_for(model, taught_labels(KNOWN, [correct(labels, slices)], {}))
    return wide, torch.tensor(new), CorrectedScan.of(correct(labels, slices, **more), wide.card)


def test_slices_between_are_filled_in_by_shape():
    _, new, seen = scene_seen((1, 4))
    found = filled_in(seen, new)
    assert found.places == (2, 3)
    whole = np.zeros(SHAPE, np.uint8)
    whole[[1, 4]] = np.where(scene()[1] == 3, 2, 0)[[1, 4]]
    assert np.array_equal(found.classes, interpolate_slices(whole, [1, 4])[[2, 3]])
    # Pixels near the border have no weight, and other classes count as absent.
    assert set(np.unique(found.weights)) == {0.0, 0.5}
    assert (found.weights[0][found.classes[0] == 2] == 0).any()
    assert found.absent.tolist() == [False, True, False, True]


def test_nothing_is_filled_in_where_there_is_nothing_between():
    _, new, seen = scene_seen((2, 3))
    assert filled_in(seen, new) is None
    _, new, seen = scene_seen((1, 4), unmarked=0)
    assert filled_in(seen, new) is None


def test_a_new_row_tells_its_structure_from_the_rest_before_anything_is_learnt(seeded):
    wide, new, seen = scene_seen((1, 2, 3))
    network = wide.network
    rows = network.decoder.head.weight.detach().clone()
    fit_heads(network.train(), [seen], new, "cpu")
    head = network.decoder.head
    assert torch.equal(head.weight[~new], rows[~new])
    assert not torch.equal(head.weight[new], rows[new])
    network.eval()
    scan, labels = scene()
    said = np.stack([d.labels == 3 for d in predict_slices(wide, scan, Grid(SHAPE), 0) if d])
    true = labels == 3
    assert 2 * (said & true).sum() / (said.sum() + true.sum()) > 0.5


def test_scans_say_nothing_of_new_structures_that_others_hold(seeded):
    labels = scene()[1]
    other = np.where(labels == 3, 4, 0).astype(np.uint8)
    model = Model(build(preset("tiny", 3)), ModelCard("m", KNOWN))
    both = [correct(labels, (1, 4)), correct(other, (1, 4))]
    wide, new = with_room_for(model, taught_labels(KNOWN, both, {}))
    new = torch.tensor(new)
    three, four = (CorrectedScan.of(one, wide.card) for one in both)
    classes = [label.id for label in wide.card.labels]
    held = filled_in(three, new)
    assert held.absent.tolist() == [False, *(id != 3 for id in classes)]
    # The same picture is 3 in one scan and 4 in the other: both rows must be alike.
    fit_heads(wide.network.train(), [three, four], new, "cpu")
    head = wide.network.decoder.head
    rows = [1 + classes.index(id) for id in (3, 4)]
    assert torch.allclose(head.weight[rows[0]], head.weight[rows[1]], atol=1e-2)
    assert torch.allclose(head.bias[rows[0]], head.bias[rows[1]], atol=1e-2)


def test_settings_for_what_is_taught():
    assert settings(several=False, new=False) is SCAN
    assert settings(several=False, new=True) is ORGAN
    assert settings(several=True, new=True) is PROJECT
    # With half of the new weights, a new structure is not found.
    assert ORGAN.mixes == (ORGAN.cautious_mix,) == (1.0,)
