"""Fine-tuning: it helps or the old model stays, and it can be stopped anywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from l2gnet_core.errors import InputError
from l2gnet_core.finetuning import run as core
from l2gnet_core.finetuning.config import PROJECT, SCAN, FineTuneConfig
from l2gnet_core.finetuning.guard import Limits
from l2gnet_core.finetuning.learner import Clock, Pace
from l2gnet_core.finetuning.overlap import compared, pooled_dice
from l2gnet_core.finetuning.run import FineTuneResult, finetune
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import MODEL_FILE, Model, load_model, save_model
from l2gnet_core.models.weights import weights_hash
from l2gnet_core.network.config import preset
from l2gnet_core.network.model import build
from l2gnet_core.scans.fingerprint import SCANS, fingerprints
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.phantom import cardiac_phantom
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import predict_slices

HEART = LabelSet.from_names({1: "right ventricle", 2: "myocardium", 3: "left ventricle"})
SHAPE = (6, 64, 64)
SMALL = replace(SCAN.views, size=64)
ANYTHING = Limits(-1, 1, 1, 1, 1)
SHORT = replace(
    SCAN,
    seconds=None,
    steps=2,
    batch=2,
    # Weights are tested here, appearances in test_appearance_search.py.
    adapts_appearance=False,
    # Tiny networks know too little; see test_familiarity.py.
    learns_anew=False,
    # A tiny network needs all of the new weights on a scan with inverted contrast.
    mixes=(0.25, 0.5, 1.0),
    folds=2,
    fold_share=0.5,
    views=SMALL,
    limits=ANYTHING,
)
#: Enough for a tiny network to change its answers.
LONGER = replace(SHORT, steps=60, learning_rate=6e-3, batch=3, limits=Limits())


@pytest.fixture
def phantom():
    return cardiac_phantom(3, 0.0, SHAPE)


def correct(phantom, slices=(1, 3, 4), labels=None, scan=None, **more) -> Correction:
    scan = phantom.image if scan is None else scan
    labels = phantom.labels if labels is None else labels
    return Correction(scan, Grid(scan.shape), 0, labels, slices, **more)


def tuned(model, corrections, config: FineTuneConfig = SHORT) -> FineTuneResult:
    if isinstance(corrections, Correction):
        corrections = [corrections]
    *others, last = finetune(model, corrections, config)
    assert all(progress.result is None for progress in others)
    assert last.result is not None
    return last.result


def same(one: Model, other: Model) -> bool:
    return weights_hash(one.network) == weights_hash(other.network)


def dice(model, scan, truth, slices) -> float:
    """Mean over structures, pooled over slices."""
    counts = sum(
        compared(done.labels, truth[done.index], [1, 2, 3])
        for done in predict_slices(model, scan, Grid(scan.shape), 0, slices)
        if done is not None
    )
    return float(np.mean([*pooled_dice(counts, "abc").values()]))


def faded(phantom):
    """The scan with inverted and reduced contrast, as in another sequence."""
    return 120.0 - 0.4 * phantom.image.astype(np.float32)


def test_three_slices_help_the_others(heart_model, phantom, tmp_path):
    scan, others = faded(phantom), [0, 2, 5]
    before = dice(heart_model, scan, phantom.labels, others)
    # The usual drawn heart is another domain: a model adapted to this scan forgets it.
    config = replace(LONGER, limits=Limits(most_forgotten=1, most_code_drift=1))
    result = tuned(heart_model, correct(phantom, scan=scan), config)
    assert result.verdict.kept, result.verdict.reason
    assert result.verdict.reason.startswith("Kept: in short test runs")
    assert dice(result.model, scan, phantom.labels, others) > before + 0.1
    # The codebook is the same.
    old, new = (m.network.bottleneck.codebook.state_dict() for m in (heart_model, result.model))
    assert all(torch.equal(old[name], new[name]) for name in old)
    # The card tells where the model comes from, also after a save, without its parent's scores.
    card = result.model.card
    file = save_model(tmp_path / MODEL_FILE, result.model.network, card)
    (entry,) = load_model(file).card.history
    assert entry["parent"] == "hearts"
    assert entry["parent_sha256"] == weights_hash(heart_model.network)
    assert entry["verdict"]["evidence"]["slices"] == 3
    assert entry["steps"] == LONGER.steps < result.all_steps
    assert card.name == f"hearts+{weights_hash(result.model.network)[:8]}"
    assert "single scan" in card.weaknesses[-1]
    # A second fine-tuning starts from the first.
    again = tuned(result.model, correct(phantom, scan=scan))
    assert [e["parent"] for e in again.model.card.history] == ["hearts", card.name]
    assert again.model.card.name.count("+") == 1


def test_the_card_keeps_fingerprints_of_the_scans_and_no_more_of_them(heart_model, phantom):
    other = correct(phantom, scan=faded(phantom), image="b")
    (entry,) = tuned(heart_model, [correct(phantom, image="a"), other]).model.card.history
    seen = (phantom.image, faded(phantom))
    assert entry[SCANS] == sorted(mark for scan in seen for mark in fingerprints(scan))


def test_labels_that_lie_elsewhere_in_each_slice_teach_nothing(heart_model, phantom):
    hash = weights_hash(heart_model.network)
    shifts = [(0, 0), (14, 3), (0, 0), (-12, -9), (4, 15), (0, 0)]
    labels = np.stack([np.roll(x, s, (0, 1)) for x, s in zip(phantom.labels, shifts, strict=True)])
    result = tuned(heart_model, correct(phantom, labels=labels), LONGER)
    assert not result.verdict.kept
    assert result.verdict.reason.endswith("The old model is kept.")
    assert result.model is heart_model
    assert weights_hash(heart_model.network) == hash


def test_what_helps_here_and_forgets_the_rest_is_refused(heart_model, phantom):
    # Organs are swapped in all slices: slices left out get better, the heart is forgotten.
    swapped = np.array([0, 3, 1, 2], np.uint8)[phantom.labels]
    config = replace(LONGER, mixes=(1.0,), cautious_mix=1.0)
    result = tuned(heart_model, correct(phantom, labels=swapped), config)
    assert not result.verdict.kept
    assert "forget" in result.verdict.reason
    before, after = result.verdict.evidence.heart
    assert before > 0.5 > after
    assert result.model is heart_model


def test_a_single_slice_is_weak_evidence(heart_model, phantom):
    result = tuned(heart_model, correct(phantom, (3,)), SHORT)
    assert result.verdict.kept
    assert "weak evidence" in result.verdict.reason
    assert result.verdict.evidence.mix == SHORT.cautious_mix
    assert result.verdict.evidence.dice.before == {}
    none = tuned(heart_model, correct(phantom, (3,)), replace(SHORT, cautious_mix=0.0))
    assert none.model is heart_model


def test_what_runs_away_to_infinity_is_never_kept(make_model, phantom, one_sentence):
    config = replace(SHORT, steps=4, learning_rate=1e30, pull=0.0)
    with pytest.raises(InputError, match="ran away to infinity") as caught:
        tuned(make_model(sides=(64, 64)), correct(phantom, slices=(2,)), config)
    one_sentence(caught.value)


def test_only_the_named_slices_are_read(make_model, phantom):
    model, slices = make_model(sides=(64, 64)), (1, 4)
    garbage = np.random.default_rng(0).normal(0, 1e6, SHAPE)
    garbage[0] = np.nan
    garbage[list(slices)] = phantom.labels[list(slices)]
    one, other = (
        tuned(model, correct(phantom, slices, labels)) for labels in (phantom.labels, garbage)
    )
    assert not same(one.model, model)
    assert same(one.model, other.model)


def test_the_seed_decides(make_model, phantom):
    model = make_model(sides=(64, 64))
    config = replace(PROJECT, **{n: getattr(SHORT, n) for n in ("seconds", "steps", "views")})
    config = replace(config, limits=ANYTHING, folds=2)
    one, again, other = (
        tuned(model, correct(phantom), replace(config, seed=seed)).model for seed in (5, 5, 6)
    )
    assert same(one, again)
    assert not same(one, other)


def test_unmarked_voxels_have_no_influence(make_model, phantom):
    model, tuned_models = make_model(sides=(64, 64)), []
    # With any id for unmarked voxels, and with any true labels there.
    for id in (4, 200):
        labels = phantom.labels.copy()
        labels[:, 20:40] = id
        tuned_models.append(tuned(model, correct(phantom, labels=labels, unmarked=id)).model)
    assert same(*tuned_models)
    assert not same(tuned_models[0], tuned(model, correct(phantom)).model)
    assert [label.id for label in tuned_models[0].card.labels] == [1, 2, 3]


def test_what_a_person_touched_weighs_more(make_model, phantom):
    model = make_model(sides=(64, 64))
    ones, more = np.ones(SHAPE), np.where(phantom.labels == 1, 4.0, 1.0)
    plain = tuned(model, correct(phantom)).model
    assert same(plain, tuned(model, correct(phantom, weights=ones)).model)
    assert not same(plain, tuned(model, correct(phantom, weights=more)).model)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 3},
        {"learning_rate": 1e-3},
        {"pull": 100.0},
        {"replay": 1},
        {"replay": 1, "soft_targets": 2.0},
        {"replay": 2, "phantoms": 1.0},
        {"mixes": (0.1,)},
        {"steps": 3},
        {"kind": "project"},
    ],
)
def test_every_ingredient_counts(make_model, phantom, change):
    model = make_model(sides=(64, 64))
    plain = tuned(model, correct(phantom)).model
    assert not same(plain, tuned(model, correct(phantom), replace(SHORT, **change)).model)


def test_pulled_hard_enough_the_weights_stay(make_model, phantom):
    model = make_model(sides=(64, 64))
    result = tuned(model, correct(phantom), replace(SHORT, pull=1e9))
    assert same(result.model, model)


def test_when_the_gpu_does_not_suffice_it_begins_again_on_the_cpu(
    make_model, phantom, monkeypatch, one_sentence, pretended_gpu
):
    model, corrections = make_model(), [correct(phantom)]
    wanted = tuned(model, corrections)
    really, full = core._steps, ["cuda"]

    def short(model, corrections, config, device, pace):
        for number, progress in enumerate(really(model, corrections, config, "cpu", pace)):
            if device in full and number == 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            yield progress

    monkeypatch.setattr(core, "_steps", short)
    *_, last = finetune(model, corrections, SHORT, "cuda")
    assert same(last.result.model, wanted.model)
    assert last.result.device == "cpu"
    full.append("cpu")
    with pytest.raises(InputError, match="enough memory") as error:
        list(finetune(model, corrections, SHORT, "cpu"))
    one_sentence(error.value)


@pytest.mark.parametrize("moments", [1, 4, 6, 12])
def test_stopped_anywhere_it_leaves_no_trace(make_model, phantom, moments):
    model = make_model(sides=(64, 64))
    hash, random = weights_hash(model.network), torch.get_rng_state()
    running = finetune(model, [correct(phantom)], SHORT)
    for _ in range(moments):
        next(running)
    running.close()
    assert weights_hash(model.network) == hash
    assert not model.network.training
    assert torch.equal(torch.get_rng_state(), random)


def test_what_was_limited_by_seconds_can_be_done_again_exactly(make_model, phantom):
    model = make_model(sides=(64, 64))
    config = replace(SHORT, steps=None, seconds=0.5, mixes=(1.0,), cautious_mix=1.0)
    first = tuned(model, correct(phantom), config)
    assert sum(map(len, first.pace.shares)) == first.all_steps
    assert len(first.pace.shares) == 1 + config.folds
    restored = FineTuneConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert restored == config
    *_, again = finetune(model, [correct(phantom)], restored, pace=first.pace)
    assert again.result.all_steps == first.all_steps
    assert same(again.result.model, first.model)
    assert not same(first.model, model)
    with pytest.raises(InputError, match="pace of 3 runs"):
        next(finetune(model, [correct(phantom)], config, pace=Pace(first.pace.shares[:1])))


def test_progress_only_goes_forward_and_shows_previews(make_model, phantom):
    model = make_model(sides=(64, 64))
    progress = list(finetune(model, [correct(phantom)], replace(SHORT, steps=8, folds=3)))
    done = [p.done for p in progress]
    assert done == sorted(done)
    assert done[-1] == 1
    assert [p.step for p in progress] == sorted(p.step for p in progress)
    # A main run of 8 steps and three runs of half its length.
    assert progress[-1].step == sum(p.loss is not None for p in progress) == 8 + 3 * 4
    assert progress[-1].seconds_left == 0
    steps = [p.phase for p in progress if p.loss is not None]
    assert steps == ["learning"] * 8 + ["test run"] * 3 * 4
    phases = [p.phase for p in progress if p.loss is None]
    before = phases.count("preparing")
    assert phases == ["preparing"] * before + ["checking"] * (len(phases) - before)
    shown = [p for p in progress if p.preview is not None]
    assert [p.step for p in shown] == [2, 4, 6, 8]
    assert not any(same(p.preview, model) for p in shown)
    (first, *_) = predict_slices(shown[0].preview, phantom.image, Grid(SHAPE), 0, [2])
    assert first.labels.shape == (64, 64)


def test_who_is_late_says_what_must_still_come(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("l2gnet_core.finetuning.learner.time.perf_counter", lambda: now[0])
    clock = Clock(replace(SHORT, steps=None, seconds=10.0), 2)
    clock.begin(0)
    assert clock.overall(0)[1] == 10
    now[0] = 12.0
    assert clock.done(1) == 1
    clock.reserved = 5.0
    # Two runs of one step, as long as this one, and the checks.
    assert clock.overall(1)[1] == 2 * 12 + 5
    clock.begin(2)
    now[0] = 13.0
    clock.reserved = 0.0
    assert clock.overall(clock.done(1)) == (1, 0)


def test_it_ends_in_time(make_model, phantom):
    model = make_model(sides=(64, 64))
    config = replace(SHORT, steps=None, seconds=1.5)
    *_, last = finetune(model, [correct(phantom)], config)
    assert last.step >= 3
    # Steps and checks are not interrupted, and the last ones take longer on a busy machine.
    assert last.result.seconds < 5


@pytest.mark.parametrize(
    ("architecture", "supervised", "channels"),
    [("unet", 2, 1), ("transunet", 0, 1), ("l2gnet", 2, 3), ("vqunet", 0, 1)],
)
def test_any_architecture_can_learn(architecture, supervised, channels, phantom, seeded):
    network = build(preset("tiny", 4, channels, architecture, supervised)).eval()
    model = Model(network, ModelCard(name="other", labels=HEART, sides=(64, 64)))
    labels = phantom.labels.copy()
    labels[:, :9, :9] = 4
    result = tuned(model, correct(phantom, labels=labels), SHORT)
    assert result.verdict.kept
    assert (result.verdict.evidence.codes is None) == (architecture in ("unet", "transunet"))
    assert result.model.network.config.classes == 5


def test_several_scans_add_up(make_model, phantom):
    model = make_model(sides=(64, 64))
    other = cardiac_phantom(4, 1.0, (4, 48, 80))
    result = tuned(model, [correct(phantom), correct(other, (1,))])
    assert result.verdict.evidence.slices == 4
    assert result.model.card.history[-1]["scans"] == 2
    frames = [correct(phantom, (1,), image=0), correct(phantom, (3,), image=0)]
    assert tuned(model, frames).model.card.history[-1]["scans"] == 1
    with pytest.raises(InputError, match="nothing is corrected"):
        next(finetune(model, []))


def test_seconds_or_steps():
    for how in ({"seconds": 1.0, "steps": 1}, {"seconds": None}):
        with pytest.raises(InputError, match="seconds or steps"):
            FineTuneConfig(**how)


def test_beside_a_painted_organ_the_others_stay(heart_model, phantom):
    # The ventricle is painted smaller than it is, so that there is something to learn.
    smaller = ndimage.binary_erosion(phantom.labels == 3, np.ones((1, 3, 3)))
    config = replace(
        LONGER, learning_rate=2e-3, pull=0.0, mixes=(1.0,), cautious_mix=1.0, folds=0,
        limits=Limits(-1, 1, 1, 1, 1, 1),
    )  # fmt: skip

    def lost(weight: float) -> float:
        said = tuned(
            heart_model,
            correct(phantom, labels=np.where(smaller, 3, 0).astype(np.uint8)),
            replace(config, soft_targets=weight),
        ).verdict.evidence.lost
        return max(said.values())

    assert lost(1.0) < 0.5 * lost(0.0)
