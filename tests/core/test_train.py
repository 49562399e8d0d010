"""Training learns, resumes as if it had never stopped, and writes what it should."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from made_up_traces import new_trace
from matplotlib.image import imread
from safetensors.torch import load_file

from l2gnet_core.augmentation.sampling import Sampler, TrainingCase
from l2gnet_core.augmentation.views import Augmentation
from l2gnet_core.datasets.loading import open_dataset
from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files import read_volume
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import (
    MODEL_FILE,
    SPLIT_FILE,
    STATE_FILE,
    load_model,
    read_card,
    save_model,
)
from l2gnet_core.network.config import preset
from l2gnet_core.network.losses import segmentation_loss
from l2gnet_core.network.model import build
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.phantom import LEFT_VENTRICLE, MYOCARDIUM, RIGHT_VENTRICLE, cardiac_phantom
from l2gnet_core.scores.held_out import names_to_score
from l2gnet_core.segmenting.predict import segment
from l2gnet_core.training.frame_file import on_disk
from l2gnet_core.training.log import CURVES_FILE, LOG_FILE, TENSORBOARD_FOLDER, TrainingLog
from l2gnet_core.training.loop import (
    Progress,
    Trainer,
    TrainingConfig,
    _moving_average,
    batches_of,
    make_fabric,
    precision,
    require_shareable,
)
from l2gnet_core.training.run import (
    FIRST_TRAINING_PHANTOM,
    _phantom_cases,
    train_dataset,
)
from l2gnet_core.training.run_folder import LOCK_FILE, VIEW_FILE, RunSettings, locked

SMALL_VIEWS = Augmentation(size=32)
#: 4 of 6 patients with 2 slices each in batches of 4 are 2 steps an epoch: 6 steps.
SHORT = TrainingConfig(epochs=3, batch=4, save_every_seconds=0.0)
STEPS = 6


def bright_discs(seed: int, slices: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """48² slices with a bright disc (2) in a grey one (1), which a tiny network learns quickly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:48, 0:48]
    labels = np.zeros((slices, 48, 48), np.uint8)
    for one in labels:
        row, column = rng.uniform(18, 30, 2)
        distance = np.hypot(y - row, x - column)
        one[distance < 13], one[distance < 7] = 1, 2
    image = np.array([20, 110, 220])[labels] + rng.normal(0, 8, labels.shape)
    return image.astype(np.int16), labels


@pytest.fixture
def dataset(tmp_path, save_scan) -> Path:
    for patient in range(6):
        image, labels = bright_discs(patient)
        name = f"patient{patient:03}_frame01.nii.gz"
        save_scan(tmp_path / "data" / "images" / name, image)
        save_scan(tmp_path / "data" / "labels" / name, labels)
    (tmp_path / "data" / "dataset.json").write_text('{"labels": {"rim": 1, "core": 2}}')
    return tmp_path / "data"


def run(dataset, folder, training=SHORT, stop_after=None, tell=print, **settings):
    """Train; `stop_after` closes the generator after that many steps."""
    opened = open_dataset(dataset)
    settings = RunSettings(opened, folder, **{"preset": "tiny", **settings})
    steps = train_dataset(settings, training, SMALL_VIEWS, tell=tell)
    if stop_after is None:
        return list(steps)
    done = [next(steps) for _ in range(stop_after)]
    steps.close()
    return done


def log_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def training_cases(seeds) -> list[TrainingCase]:
    cases = []
    for image, labels in map(bright_discs, seeds):
        scaled = torch.from_numpy(image / 255.0).clamp(0, 1).half()
        cases.append(TrainingCase(scaled, torch.from_numpy(labels)))
    return cases


def sampler(seeds, channels: int = 1) -> Sampler:
    return Sampler(training_cases(seeds), SMALL_VIEWS, channels, seed=0)


def test_training_lowers_the_loss(tmp_path, seeded):
    training = TrainingConfig(
        epochs=15,
        batch=4,
        learning_rate=5e-3,
        averaging=0.8,
        large_from=1.0,
    )
    trainer = Trainer(build(preset("tiny", 3, supervised=1)), training, tmp_path, make_fabric())
    progress = list(trainer.run(sampler(range(4)), training_cases([9])))
    losses = [step.loss for step in progress]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert np.isfinite(losses).all()
    assert [step.step for step in progress] == list(range(1, 31))
    # The last step of each epoch validates, by the averaged weights.
    assert [bool(step.dice) for step in progress] == [False, True] * 15
    assert [step.epoch for step in progress[::2]] == list(range(1, 16))
    assert len(progress[-1].dice) == 2
    assert max(progress[-1].dice) > 0.3
    assert progress[-1].done == 1
    assert 1 <= progress[-1].perplexity <= 32


def test_the_learning_rate_warms_up_and_falls_with_what_is_done(tmp_path):
    trainer = Trainer(build(preset("tiny", 3)), TrainingConfig(epochs=1), tmp_path, make_fabric())
    rates = [trainer._learning_rate(done) for done in (0.0, 0.015, 0.03, 0.5, 0.9, 1.0)]
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] == pytest.approx(trainer.training.learning_rate)
    assert rates[2] > rates[3] > rates[4] > rates[5]
    assert rates[5] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("given", [{}, {"epochs": 3, "minutes": 1.0}, {"steps": 2, "epochs": 3}])
def test_a_run_is_told_once_how_long_it_is(given, one_sentence):
    with pytest.raises(InputError, match="either epochs, steps or minutes") as error:
        TrainingConfig(**given)
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": 0}, "steps above zero, but got 0;"),
        ({"epochs": -1}, "epochs above zero, but got -1;"),
        ({"minutes": math.nan}, "minutes above zero, but got nan;"),
        ({"steps": 2, "batch": 0}, "batch above zero, but got 0;"),
    ],
)
def test_nothing_to_train_is_refused(given, says, one_sentence):
    with pytest.raises(InputError, match=says) as error:
        TrainingConfig(**given)
    one_sentence(error.value)


def test_minutes_count_training_time(tmp_path):
    training = TrainingConfig(minutes=0.5 / 60, batch=2)
    trainer = Trainer(build(preset("tiny", 3)), training, tmp_path, make_fabric())
    progress = list(trainer.run(sampler(range(2)), training_cases([9])))
    assert 0.5 <= progress[-1].seconds < 5
    assert progress[-1].done == 1
    assert all(a.done < b.done for a, b in pairwise(progress))


def test_the_average_follows_the_weights_and_takes_the_current_codebook(tmp_path):
    training = TrainingConfig(epochs=1, batch=4, averaging=0.5)
    trainer = Trainer(build(preset("tiny", 3)), training, tmp_path, make_fabric())
    list(trainer.run(sampler(range(4)), training_cases([9])))
    average = trainer.averaged_network()
    assert not average.training
    name = "decoder.head.weight"
    assert not torch.equal(average.state_dict()[name], trainer.network.state_dict()[name])
    vectors = "bottleneck.codebook.vectors"
    assert torch.equal(average.state_dict()[vectors], trainer.network.state_dict()[vectors])


@pytest.mark.parametrize("stop_after", [1, 4])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(dataset, tmp_path, stop_after):
    whole = run(dataset, tmp_path / "whole")
    run(dataset, tmp_path / "parts", stop_after=stop_after)
    # Another process, with another random state, resumes.
    torch.manual_seed(999)
    rest = run(dataset, tmp_path / "parts", resume=True)
    assert len(whole) == STEPS
    assert [step.step for step in rest] == list(range(stop_after + 1, STEPS + 1))
    for ours, theirs in zip(rest, whole[stop_after:], strict=True):
        assert replace(ours, seconds=0, loading=0) == replace(theirs, seconds=0, loading=0)
    one, other = (load_file(tmp_path / name / MODEL_FILE) for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["step"] for row in log_rows(tmp_path / "parts")] == [str(n + 1) for n in range(6)]


def test_steps_after_the_last_save_are_done_again_and_logged_once(dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole")
    rarely = replace(SHORT, save_every_seconds=1e6)
    run(dataset, tmp_path / "parts", stop_after=2)  # saves after each step
    run(dataset, tmp_path / "parts", rarely, stop_after=3, resume=True)  # steps 3 to 5 are lost
    rest = run(dataset, tmp_path / "parts", resume=True)
    assert [step.loss for step in rest] == [step.loss for step in whole[2:]]
    assert [row["step"] for row in log_rows(tmp_path / "parts")] == [str(n + 1) for n in range(6)]


def test_a_run_killed_before_its_first_save_goes_on_from_where_it_began(dataset, tmp_path):
    run(dataset, tmp_path / "first")
    rarely = replace(SHORT, save_every_seconds=1e6)
    whole = run(dataset, tmp_path / "whole", rarely, start=tmp_path / "first")
    # Once before the first epoch has written a model, and once after.
    for stop_after in (1, 3):
        folder = tmp_path / f"stopped-{stop_after}"
        run(dataset, folder, rarely, stop_after=stop_after, start=tmp_path / "first")
        assert (folder / MODEL_FILE).exists() == (stop_after == 3)
        rest = run(dataset, folder, rarely, resume=True)
        assert [step.loss for step in rest] == [step.loss for step in whole]


def test_a_run_leaves_log_split_state_and_a_model_that_loads(dataset, tmp_path):
    folder = tmp_path / "run"
    progress = run(dataset, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        CURVES_FILE,
        LOCK_FILE,
        LOG_FILE,
        MODEL_FILE,
        SPLIT_FILE,
        STATE_FILE,
        TENSORBOARD_FOLDER,
        VIEW_FILE,
    }

    rows = log_rows(folder)
    assert len(rows) == STEPS
    assert float(rows[-1]["loss"]) == pytest.approx(progress[-1].loss, abs=1e-5)
    assert float(rows[-1]["Dice rim"]) == pytest.approx(progress[-1].dice[0], abs=1e-4)
    assert float(rows[-1]["done"]) == 1

    model = load_model(folder)
    assert not model.network.training
    assert model.card.name == "run"
    assert model.card.labels.names == {1: "rim", 2: "core"}
    best = max(step.step for step in progress if step.best)
    assert model.card.training["steps"] == best
    split = json.loads((folder / SPLIT_FILE).read_text())
    assert model.card.split == split
    assert sorted(chain(*split.values())) == [f"patient{n:03}" for n in range(6)]
    assert torch.isfinite(model.network(torch.rand(1, 1, 48, 48)).logits).all()


def test_a_second_start_without_resume_is_refused(dataset, tmp_path, one_sentence):
    run(dataset, tmp_path / "run", stop_after=1)
    before = (tmp_path / "run" / STATE_FILE).read_bytes()
    with pytest.raises(InputError, match="--resume") as error:
        run(dataset, tmp_path / "run")
    one_sentence(error.value)
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == before


def test_resuming_a_finished_run_does_nothing_more(dataset, tmp_path):
    run(dataset, tmp_path / "run")
    before = load_file(tmp_path / "run" / MODEL_FILE)
    assert run(dataset, tmp_path / "run", resume=True) == []
    after = load_file(tmp_path / "run" / MODEL_FILE)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_model_file_holds_the_best_epoch(dataset, tmp_path):
    long = replace(SHORT, epochs=8, learning_rate=0.02, averaging=0.0)
    means, kept = [], []
    for progress in train_dataset(
        RunSettings(open_dataset(dataset), tmp_path / "run", preset="tiny"),
        long,
        SMALL_VIEWS,
    ):
        if progress.dice:
            means.append(np.mean(progress.dice))
            kept.append(read_card(tmp_path / "run" / MODEL_FILE).training["steps"])
    for epoch, steps in enumerate(kept, 1):
        assert means[steps // 2 - 1] == max(means[:epoch])


def test_a_run_goes_on_with_the_structures_it_began_with(dataset, tmp_path, one_sentence):
    run(dataset, tmp_path / "run", stop_after=2)
    for names, says in (
        ({"core": 1, "rim": 2}, "lacks 1 rim, 2 core and has 1 core, 2 rim; name and number"),
        ({"edge": 1, "core": 2}, "lacks 1 rim and has 1 edge; .* --from"),
    ):
        (dataset / "dataset.json").write_text(json.dumps({"labels": names}))
        with pytest.raises(InputError, match=says) as error:
            run(dataset, tmp_path / "run", resume=True)
        one_sentence(error.value)


def test_a_name_that_is_written_otherwise_keeps_its_scores_in_the_log(
    dataset, tmp_path, one_sentence
):
    run(dataset, tmp_path / "run", stop_after=2)
    (dataset / "dataset.json").write_text('{"labels": {"Rim": 1, "core": 2}}')
    run(dataset, tmp_path / "run", stop_after=2, resume=True)
    rows = log_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["Dice rim"]) for row in rows] == [False, True, False, False]
    assert [bool(row["Dice Rim"]) for row in rows] == [False, False, False, True]
    for foreign in (
        "time,value\n1,2\n",
        "step,loss\nx,y\n",
        "step,loss,perplexity,Dice rim\n1,0.5,,high\n",
        "\0\xff",
    ):
        (tmp_path / "run" / LOG_FILE).write_text(foreign, encoding="latin-1")
        with pytest.raises(InputError, match="log of a training run") as error:
            run(dataset, tmp_path / "run", stop_after=1, resume=True)
        one_sentence(error.value)
        assert (tmp_path / "run" / LOG_FILE).read_text(encoding="latin-1") == foreign


def test_tensorboard_and_csv_say_the_same(dataset, tmp_path):
    progress = run(dataset, tmp_path / "run")
    (events,) = (tmp_path / "run" / TENSORBOARD_FOLDER).iterdir()
    values: dict[str, list[float]] = {}
    for event in _records(events):
        for value in event.summary.value:
            values.setdefault(value.tag, []).append(value.simple_value)
    assert values["loss"] == pytest.approx([step.loss for step in progress])
    assert values["Dice/rim"] == pytest.approx([step.dice[0] for step in progress if step.dice])


def test_a_score_that_is_none_is_no_event(tmp_path, capsys):
    labels = LabelSet.from_names({1: "rim", 2: "core"})
    with TrainingLog(tmp_path, labels, 0) as log:
        log.add(Progress(1, 1, 0.1, 0.5, 1e-3, 1.0, 0.1, None, (0.5, math.nan), best=True))
    (events,) = (tmp_path / TENSORBOARD_FOLDER).iterdir()
    tags = {value.tag for event in _records(events) for value in event.summary.value}
    assert tags == {"loss", "learning_rate", "Dice/rim"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a $x_{$ b", "_hidden", "a$_$"])
def test_curves_are_drawn_of_whatever_name(tmp_path, name):
    with TrainingLog(tmp_path, LabelSet.from_names({1: name}), 0) as log:
        log.add(Progress(1, 1, 0.1, 0.5, 1e-3, 1.0, 0.1, None, (0.5,), best=True))
    assert imread(tmp_path / CURVES_FILE).shape == (400, 1000, 4)
    # No half-written files are left beside it.
    assert {path.name for path in tmp_path.iterdir()} == {CURVES_FILE, LOG_FILE, TENSORBOARD_FOLDER}


def test_a_program_that_shows_the_curves_does_not_end_the_run(tmp_path, monkeypatch):
    put = os.replace

    def replace(source, target):
        if Path(target).name == CURVES_FILE:  # as on Windows while a viewer has it open
            raise PermissionError(13, "Access is denied", str(target))
        put(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with TrainingLog(tmp_path, LabelSet.from_names({1: "rim"}), 0) as log:
        log.add(Progress(1, 1, 0.1, 0.5, 1e-3, 1.0, 0.1, None, (0.5,), best=True))
    assert [row["step"] for row in log_rows(tmp_path)] == ["1"]


def interrupted(after: int, work: Callable[[], None]) -> None:
    """Do work that Ctrl-C interrupts after so many lines and returns of Python, or at its end."""
    left = after

    def trace(_frame, event, _argument):
        nonlocal left
        left -= event in ("line", "return")
        if left < 0:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    raise KeyboardInterrupt


def test_a_log_closes_wherever_in_a_row_it_is_interrupted(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(TrainingLog, "_draw", lambda log: drawn.append(log))
    row = Progress(1, 1, 0.1, 0.5, 1e-3, 1.0, 0.1, None, (0.5,), best=True)
    for after in chain(range(200), range(200, 2000, 89)):
        folder = tmp_path / str(after)
        folder.mkdir()
        log = TrainingLog(folder, LabelSet.from_names({1: "rim"}), 0)
        with pytest.raises(KeyboardInterrupt), log:
            interrupted(after, partial(log.add, row))
        assert drawn.pop() is log


def _records(path: Path):
    from tensorboardX.proto.event_pb2 import Event

    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += length + 16


def test_coarser_outputs_learn_while_training_and_are_left_out_later():
    network = build(preset("tiny", 3, supervised=2))
    output = network.train()(torch.rand(1, 1, 64, 64))
    assert [tuple(part.shape[-2:]) for part in output.coarser] == [(32, 32), (16, 16)]
    target = torch.randint(3, (1, 64, 64))
    segmentation_loss(output, target).backward()
    assert all(head.weight.grad.any() for head in network.decoder.coarser_heads)
    assert network.eval()(torch.rand(1, 1, 64, 64)).coarser == ()


def test_a_split_that_is_there_is_kept(dataset, tmp_path, one_sentence):
    split = {
        "train": ["patient005", "patient004"],
        "tuning": ["patient000"],
        "test": ["patient001", "patient002", "patient003"],
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SPLIT_FILE).write_text(json.dumps(split))
    progress = run(dataset, tmp_path / "run", seed_training(7))
    assert len(progress) == 3  # 2 patients, 1 step an epoch: the other slices were not seen
    assert read_card(tmp_path / "run" / MODEL_FILE).split == split

    split["test"].append("patient999")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / SPLIT_FILE).write_text(json.dumps(split))
    with pytest.raises(InputError, match="patient999") as error:
        run(dataset, tmp_path / "other")
    one_sentence(error.value)


def seed_training(seed: int) -> TrainingConfig:
    return replace(SHORT, seed=seed)


def test_drawn_hearts_are_mixed_in_by_name_or_refused(dataset, tmp_path, monkeypatch, one_sentence):
    mixed = replace(SHORT, epochs=1, extra_share=0.5)
    with pytest.raises(InputError, match="the dataset has rim, core") as error:
        run(dataset, tmp_path / "refused", mixed)
    one_sentence(error.value)
    labels = LabelSet.from_names({4: "left ventricle", 5: "right ventricle", 9: "myocardium"})
    monkeypatch.setattr("l2gnet_core.training.run._PHANTOMS", 1)
    (case,) = _phantom_cases(0.5, labels)
    drawn = cardiac_phantom(FIRST_TRAINING_PHANTOM, phase=0).labels
    for number, label in ((1, LEFT_VENTRICLE), (2, RIGHT_VENTRICLE), (3, MYOCARDIUM)):
        np.testing.assert_array_equal(case.classes.numpy() == number, drawn == label)


def test_a_folder_that_holds_a_model_is_no_new_run(dataset, tmp_path, one_sentence):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / MODEL_FILE).write_bytes(b"precious")
    with pytest.raises(InputError, match="holds a model already") as error:
        run(dataset, tmp_path / "tuned")
    one_sentence(error.value)
    assert (tmp_path / "tuned" / MODEL_FILE).read_bytes() == b"precious"


def test_the_seed_decides_the_run(dataset, tmp_path):
    losses = [
        [step.loss for step in run(dataset, tmp_path / str(index), seed_training(seed), 2)]
        for index, seed in enumerate((1, 1, 2))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_another_runs_state_or_a_damaged_one_is_refused(dataset, save_scan, tmp_path, one_sentence):
    run(dataset, tmp_path / "run", stop_after=1)
    other = shutil.copytree(dataset, tmp_path / "other")
    (other / "dataset.json").unlink()
    for number in range(6):
        labels = np.minimum(bright_discs(number)[1], 1)
        save_scan(other / "labels" / f"patient{number:03}_frame01.nii.gz", labels)
    with pytest.raises(InputError, match="it has structures: 2, not 1; resume with") as error:
        run(other, tmp_path / "run", resume=True)
    one_sentence(error.value)
    (dataset / "dataset.json").unlink()
    state = tmp_path / "run" / STATE_FILE
    whole = torch.load(state, weights_only=True)
    other_things = ([1], {**whole, "optimizer": None}, {**whole, "average": {}})
    other_things += tuple({**whole, name: "x"} for name in ("step", "seconds", "loading", "best"))
    earlier = {name: value for name, value in whole.items() if name != "config"}
    contents = [state.read_bytes()[:-500], b"", b"nonsense" * 100]
    for other in (*other_things, {**whole, "config": {"depth": 3}}, earlier):
        torch.save(other, state)
        contents.append(state.read_bytes())
    for content in contents:
        state.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            run(dataset, tmp_path / "run", resume=True)


def test_two_patients_train_without_tuning_scores(dataset, tmp_path):
    for part in ("images", "labels"):
        for path in sorted((dataset / part).iterdir())[2:]:
            path.unlink()
    progress = run(dataset, tmp_path / "run")
    assert progress[-1].done == 1
    assert not progress[-1].dice
    assert load_model(tmp_path / "run").card.split["tuning"] == []


@pytest.mark.parametrize(
    ("sides", "small", "large"),
    [((35, 50), 48, 48), ((90, 70), 64, 96), ((400, 300), 64, 96), ((9, 10), 16, 16)],
)
def test_views_are_no_wider_than_slices(sides, small, large):
    case = TrainingCase(torch.zeros(2, *sides).half(), torch.zeros(2, *sides, dtype=torch.uint8))
    sampler = Sampler([case], Augmentation(size=64), 1, 0)
    assert (sampler.view_size(16), sampler.view_size(16, 1.4)) == (small, large)
    # Looking through the frames of a large dataset in every step would take long.
    sampler.cases = []
    assert sampler.milder().view_size(16) == small


def test_a_run_ends_on_larger_crops_in_smaller_batches(tmp_path, monkeypatch):
    training = TrainingConfig(epochs=2, batch=4, large_from=0.5, large=1.5)
    trainer = Trainer(build(preset("tiny", 3)), training, tmp_path, make_fabric())
    seen, batch = [], trainer._batch

    def watched(*arguments, **options):
        images, targets = batch(*arguments, **options)
        seen.append(tuple(images.shape))
        return images, targets

    monkeypatch.setattr(trainer, "_batch", watched)
    list(trainer.run(sampler(range(2)), []))
    assert seen == [(4, 1, 32, 32), (2, 1, 48, 48)]


def test_a_run_ends_on_milder_views(tmp_path):
    training = TrainingConfig(epochs=2, batch=4, large_from=1.0, mild_from=0.5)
    trainer = Trainer(build(preset("tiny", 3)), training, tmp_path, make_fabric())
    strong, seen = sampler(range(2)), []

    class Watched(Sampler):
        def batch(self, *arguments, **options):
            seen.append(self.how)
            return super().batch(*arguments, **options)

    list(trainer.run(Watched(strong.cases, strong.how, 1, seed=0), []))
    assert seen == [strong.how, strong.how.milder()]


def test_a_run_can_begin_with_a_models_weights(dataset, tmp_path):
    run(dataset, tmp_path / "first")
    calm = replace(SHORT, epochs=1, learning_rate=0.0, averaging=0.0)
    run(dataset, tmp_path / "second", calm, start=tmp_path / "first")
    first, second = (load_file(tmp_path / name / MODEL_FILE) for name in ("first", "second"))
    for name, weight in first.items():
        if "codebook" not in name:  # codes follow the tokens even where nothing else learns
            torch.testing.assert_close(second[name], weight)
    # Patients in test stay out of training, whatever the seed.
    again = replace(calm, seed=5)
    run(dataset, tmp_path / "other", again, start=tmp_path / "first")
    splits = [(tmp_path / name / SPLIT_FILE).read_text() for name in ("first", "other")]
    assert splits[0] == splits[1]
    # Structures keep their outputs by name; if the names differ, a message says so.
    told, head = [], "decoder.head.weight"
    for names, rows in (({"core": 1, "rim": 2}, [0, 2, 1]), ({"inner": 1, "outer": 2}, [0, 1, 2])):
        (dataset / "dataset.json").write_text(json.dumps({"labels": names}))
        folder = tmp_path / "-".join(names)
        run(dataset, folder, calm, stop_after=1, start=tmp_path / "first", tell=told.append)
        state = torch.load(folder / STATE_FILE, weights_only=True)
        assert torch.equal(state["network"][head], first[head][rows])
    (sentence,) = (one for one in told if not one.startswith("Taken for patients"))
    assert "first has rim, core, and the dataset inner, outer" in sentence
    with pytest.raises(InputError, match="it has --arch l2gnet, not unet; ask for"):
        run(dataset, tmp_path / "third", start=tmp_path / "first", architecture="unet")


def test_a_refused_run_leaves_nothing_to_the_next_one(dataset, tmp_path, monkeypatch):
    run(dataset, tmp_path / "first", replace(SHORT, epochs=1))
    (tmp_path / "old").mkdir()
    # A thousand scans take minutes to read.
    monkeypatch.setattr("l2gnet_core.training.run.load_frames", None)
    for name in ("new/of/it", "old"):
        settings = RunSettings(
            open_dataset(dataset), tmp_path / name, "unet", "tiny", start=tmp_path / "first"
        )
        with pytest.raises(InputError, match="--arch"):
            list(train_dataset(settings, SHORT, SMALL_VIEWS, choices={"seed": 1}))
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "old").iterdir()] == [LOCK_FILE]


def test_a_refused_run_leaves_no_folder_on_windows(tmp_path, monkeypatch):
    release = FileLock.release

    def releasing(lock, *args, **more):
        release(lock, *args, **more)
        Path(lock.lock_file).unlink()  # as filelock does there

    monkeypatch.setattr(FileLock, "release", releasing)
    with pytest.raises(InputError), locked(tmp_path / "new" / "run"):
        raise InputError("Refused.")
    assert not (tmp_path / "new").exists()


def test_what_no_training_patient_has_is_left_out_of_the_model(dataset, save_scan, tmp_path):
    names = {"ghost": 1, "rim": 4, "core": 300, "speck": 301}
    (dataset / "dataset.json").write_text(json.dumps({"labels": names}))
    patients = [f"patient{number:03}" for number in range(6)]
    for number, patient in enumerate(patients):
        labels = np.array([0, 4, 300], np.uint16)[bright_discs(number)[1]]
        if number == 4:
            labels[0, :2, :2] = 301
        save_scan(dataset / "labels" / f"{patient}_frame01.nii.gz", labels)
    split = {"train": patients[:4], "tuning": patients[4:5], "test": patients[5:]}
    for name in ("run", "after"):
        (tmp_path / name).mkdir()
        (tmp_path / name / SPLIT_FILE).write_text(json.dumps(split))
    told, short = [], replace(SHORT, epochs=1)
    run(dataset, tmp_path / "run", short, stop_after=1, tell=told.append)
    # The check of the dataset reports structures that nobody has.
    assert told == ["speck is in no label of the training patients: the model does not have it."]
    (last,) = run(dataset, tmp_path / "run", short, resume=True)
    assert len(last.dice) == 2
    model = load_model(tmp_path / "run")
    assert model.card.labels.names == {4: "rim", 300: "core"}
    assert model.network.config.classes == 3
    run(dataset, tmp_path / "after", short, start=tmp_path / "run")
    assert load_model(tmp_path / "after").card.labels == model.card.labels
    scored = names_to_score(open_dataset(dataset), model.card)
    assert scored == {4: "rim", 300: "core"}


def test_more_patients_keep_those_apart_that_a_model_has_seen(dataset, save_scan, tmp_path):
    run(dataset, tmp_path / "first")
    before = load_model(tmp_path / "first").card.split
    for patient in range(6, 12):
        image, labels = bright_discs(patient)
        save_scan(dataset / "images" / f"patient{patient:03}_frame01.nii.gz", image)
        save_scan(dataset / "labels" / f"patient{patient:03}_frame01.nii.gz", labels)
    one = replace(SHORT, epochs=1, seed=3)
    run(dataset, tmp_path / "more", one, start=tmp_path / "first")
    after = load_model(tmp_path / "more").card.split
    for part, patients in before.items():
        assert set(patients) <= set(after[part])
    assert sorted(chain.from_iterable(after.values())) == [f"patient{n:03}" for n in range(12)]
    # In another dataset nobody was seen, although names are equal.
    for path in [*(dataset / "images").iterdir(), *(dataset / "labels").iterdir()]:
        path.rename(path.with_name(path.name.replace("patient", "other")))
    run(dataset, tmp_path / "others", one, start=tmp_path / "first")
    assert len(load_model(tmp_path / "others").card.split["test"]) == 2


def test_a_model_without_its_state_is_not_written_over(dataset, tmp_path, one_sentence):
    run(dataset, tmp_path / "run")
    (tmp_path / "run" / STATE_FILE).unlink()
    before = (tmp_path / "run" / MODEL_FILE).read_bytes()
    with pytest.raises(InputError, match="--from") as error:
        run(dataset, tmp_path / "run", resume=True)
    one_sentence(error.value)
    assert (tmp_path / "run" / MODEL_FILE).read_bytes() == before


def test_a_training_that_runs_away_is_one_sentence(dataset, tmp_path, one_sentence):
    with pytest.raises(InputError, match="smaller --learning-rate") as error:
        run(dataset, tmp_path / "run", replace(SHORT, epochs=40, learning_rate=1e12))
    one_sentence(error.value)


def test_nobody_trains_in_a_folder_where_somebody_does(dataset, tmp_path, one_sentence):
    settings = RunSettings(open_dataset(dataset), tmp_path / "run", preset="tiny")
    first = train_dataset(settings, SHORT, SMALL_VIEWS)
    next(first)
    kinds = ("csv", "json", "png", "pt", "safetensors")
    left_by_a_crash = {tmp_path / "run" / f".l2gnet-1234.{kind}" for kind in kinds}
    of_a_mask = tmp_path / "run" / ".l2gnet-1234.nii.gz"
    for file in (*left_by_a_crash, of_a_mask):
        file.touch()
    for resume in (True, False):
        (tmp_path / "run" / STATE_FILE).unlink(missing_ok=True)  # as in the first moments
        with pytest.raises(InputError, match="another process is training") as error:
            run(dataset, tmp_path / "run", resume=resume)
        one_sentence(error.value)
    assert [step.step for step in first] == list(range(2, STEPS + 1))
    assert left_by_a_crash < {*(tmp_path / "run").iterdir()}
    assert run(dataset, tmp_path / "run", resume=True) == []
    assert [*(tmp_path / "run").glob(".l2gnet-*")] == [of_a_mask]


def test_too_little_memory_is_one_sentence(dataset, tmp_path, monkeypatch, one_sentence):
    def short(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "_batch", short)
    with pytest.raises(InputError, match="smaller --batch or --preset") as error:
        run(dataset, tmp_path / "run")
    one_sentence(error.value)


def test_too_little_memory_for_a_scan_is_another_sentence(
    dataset, tmp_path, monkeypatch, one_sentence
):
    def short(*_, **__):
        raise MemoryError

    monkeypatch.setattr("l2gnet_core.training.run.load_frames", short)
    with pytest.raises(InputError, match="enough memory for the scan patient") as error:
        run(dataset, tmp_path / "run")
    one_sentence(error.value)


def test_frames_in_a_file_are_the_same_and_leave_nothing_behind(tmp_path):
    generator = torch.Generator().manual_seed(0)
    frames = [
        TrainingCase(
            torch.rand(n, 7, 5, generator=generator).half(),
            torch.randint(0, 9, (n, 7, 5), generator=generator).to(torch.uint8),
            step,
        )
        for n, step in ((3, 1), (1, 2), (4, 1))
    ]
    kept = on_disk(iter(frames), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    for frame, same in zip(frames, kept, strict=True):
        assert same.image.equal(frame.image)
        assert same.classes.equal(frame.classes)
        assert same.step == frame.step
    assert on_disk([], tmp_path) == []


def test_frames_for_which_the_disk_has_no_room_are_one_sentence(tmp_path, one_sentence):
    resource = pytest.importorskip("resource")
    frame = TrainingCase(torch.zeros(9, 99, 99).half(), torch.zeros(9, 99, 99, dtype=torch.uint8))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"no room for the scans .*--resample") as error:
            on_disk([frame], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_sentence(error.value)


def test_a_full_disk_leaves_the_state_that_was_there(dataset, tmp_path, monkeypatch, one_sentence):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    run(dataset, tmp_path / "run", stop_after=1)
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    monkeypatch.setattr(os, "fsync", full)
    trainer = Trainer(build(preset("tiny", 3)), SHORT, tmp_path / "run", make_fabric())
    with pytest.raises(OutputError, match="No space left") as error:
        trainer.save()
    one_sentence(error.value)
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}


def test_a_pytorch_that_does_not_know_its_processor_trains_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert precision("cpu") == "32-true"


@pytest.mark.parametrize(("batch", "late"), [(4, 2), (6, 3), (8, 4), (18, 9)])
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
def test_processes_draw_together_what_one_draws(tmp_path, batch, late, processes, one_sentence):
    training = TrainingConfig(epochs=1, batch=batch, large_from=0.6)
    trainer = Trainer(build(preset("tiny", 3)), training, tmp_path, make_fabric())
    scans, stride = sampler(range(2)), trainer.network.config.stride
    drawn = {done: trainer._batch(scans, done)[0] for done in (0.0, 0.9)}
    assert [len(images) for images in drawn.values()] == [batch, late]
    batches = batches_of(training, scans, stride)
    if batch % processes or late % processes:
        with pytest.raises(InputError, match=f"that {processes} devices can share") as error:
            require_shareable(batches, processes)
        one_sentence(error.value)
        advised = int(str(error.value).split("--batch ")[1].split()[0])
        require_shareable(batches_of(replace(training, batch=advised), scans, stride), processes)
        return
    require_shareable(batches, processes)
    for done, images in drawn.items():
        shares = []
        for rank in range(processes):
            trainer.fabric = SimpleNamespace(
                world_size=processes, global_rank=rank, device=trainer.fabric.device
            )
            shares.append(trainer._batch(scans, done)[0])
        # Views are computed together, in another order of sums.
        assert torch.allclose(torch.cat(shares), images, atol=1e-5)


def test_devices_that_cannot_share_the_batches_are_refused_before_training(
    dataset, tmp_path, one_sentence
):
    for batch, says in (
        (3, "draw 3 slices; give --batch 4 or another multiple of 2, best of 4, because"),
        (6, "draw 6 slices, and 3 near the end; give --batch 8 or another multiple of 4."),
    ):
        with pytest.raises(InputError, match="2 devices can share evenly") as error:
            run(dataset, tmp_path / "run", replace(SHORT, batch=batch), devices=2)
        one_sentence(error.value)
        assert says in str(error.value)
    # Without larger views, batches stay.
    require_shareable(batches_of(replace(SHORT, batch=6, large_from=1.0), sampler(range(2)), 16), 2)


def test_several_devices_are_refused_on_windows(monkeypatch, one_sentence):
    monkeypatch.setattr(sys, "platform", "win32")
    for many in ({"devices": 2}, {"nodes": 2}):
        with pytest.raises(InputError, match="one device on Windows, but got 2;") as error:
            make_fabric(**many)
        one_sentence(error.value)


def test_two_devices_can_share_the_usual_batch_of_slices_of_any_size():
    for large in range(160, 240, 8):
        views = SimpleNamespace(
            view_size=lambda _, factor=1.0, large=large: min(160 * factor, large)
        )
        require_shareable(batches_of(TrainingConfig(minutes=1), views, 8), 4)


def test_what_begins_with_an_older_model_is_normalised_as_that_is(dataset, tmp_path):
    config = replace(preset("tiny", 3), normalisation="group")
    (tmp_path / "old").mkdir()
    card = ModelCard("old", LabelSet.from_names({1: "rim", 2: "core"}))
    save_model(tmp_path / "old" / MODEL_FILE, build(config), card)
    settings = {"start": tmp_path / "old"}
    run(dataset, tmp_path / "new", stop_after=2, **settings)
    # The model that it began with may be gone by then.
    (tmp_path / "old" / MODEL_FILE).unlink()
    run(dataset, tmp_path / "new", resume=True, **settings)
    assert load_model(tmp_path / "new").network.config.normalisation == "group"


def test_an_average_soon_forgets_how_it_began():
    averaged, current = [torch.ones(3)], [torch.zeros(3)]
    left = []
    for step in range(2000):
        _moving_average(averaged, current, torch.tensor(step), 0.998)
        left.append(averaged[0][0].item())
    # With 0.998 from the beginning, 82 % of the first weights would remain after 100 steps.
    assert left[0] == pytest.approx(0.1)
    assert left[99] < 1e-6
    settled, value = [torch.ones(1)], torch.zeros(1)
    _moving_average(settled, [value], torch.tensor(10**6), 0.998)
    assert settled[0].item() == pytest.approx(0.998)


@pytest.mark.parametrize("normalisation", ["instance", "group"])
def test_convolutions_start_as_wide_as_their_activation_asks_for(normalisation):
    torch.manual_seed(0)
    network = build(replace(preset("small", 3), normalisation=normalisation))
    body = (*network.encoder.modules(), *network.decoder.modules())
    for layer in body:
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.numel() > 2000:
            fan_in = layer.weight[0].numel()
            wanted = math.sqrt(2 / (1 + 0.01**2) / fan_in)
            assert layer.weight.std().item() == pytest.approx(wanted, rel=0.05)


def test_a_network_of_three_slices_begins_as_the_single_slice_model_it_came_from(dataset, tmp_path):
    run(dataset, tmp_path / "flat")
    calm = replace(SHORT, epochs=1, learning_rate=0.0, averaging=0.0)
    run(dataset, tmp_path / "deep", calm, start=tmp_path / "flat", slices=3)
    flat, deep = (load_model(tmp_path / name).network for name in ("flat", "deep"))
    slices = torch.rand(2, 3, 32, 32)
    features = deep.encoder(slices), flat.encoder(slices[:, 1:2])
    torch.testing.assert_close(*features, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="no more slices"):
        run(dataset, tmp_path / "back", start=tmp_path / "deep")


def test_models_with_left_and_right_learn_from_views_that_keep_them(dataset, tmp_path):
    (dataset / "dataset.json").write_text('{"labels": {"rim left": 1, "rim right": 2}}')
    for name, slicing, pairs in (("a", "axial", [[1, 2]]), ("s", "sagittal", [])):
        settings = {"oriented": True, "resample": True, "slicing": slicing}
        run(dataset, tmp_path / name, replace(SHORT, epochs=1), **settings)
        card = read_card(tmp_path / name / MODEL_FILE)
        assert (card.oriented, card.slicing) == (True, slicing)
        assert card.spacing == ((8.0, 1.5, 1.5) if slicing == "axial" else (1.5, 1.5, 1.5))
        how = card.training["augmentation"]
        assert (how["orientation_free"], how["turn"]) == (False, 15.0)
        assert how["mirror_pairs"] == pairs
    run(dataset, tmp_path / "fine", replace(SHORT, epochs=1), resample=True, pixel=1.25)
    assert read_card(tmp_path / "fine" / MODEL_FILE).spacing == (8.0, 1.25, 1.25)
    run(dataset, tmp_path / "free", replace(SHORT, epochs=1))
    card = read_card(tmp_path / "free" / MODEL_FILE)
    assert (card.oriented, card.spacing, card.slicing) == (False, None, "through-plane")
    assert card.training["augmentation"]["orientation_free"]


def test_a_run_goes_on_with_the_view_it_began_with(dataset, tmp_path, one_sentence):
    axial = {"oriented": True, "slicing": "axial"}
    run(dataset, tmp_path / "run", stop_after=1, **axial)
    for other in ({}, {"slicing": "axial"}, {**axial, "resample": True}):
        with pytest.raises(InputError, match="--oriented") as error:
            run(dataset, tmp_path / "run", resume=True, **other)
        one_sentence(error.value)
    kept = (tmp_path / "run" / VIEW_FILE).read_bytes()
    (tmp_path / "run" / VIEW_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="--oriented"):
        run(dataset, tmp_path / "run", resume=True, **axial)
    (tmp_path / "run" / VIEW_FILE).write_bytes(kept)
    assert run(dataset, tmp_path / "run", resume=True, **axial)[-1].done == 1


def test_left_and_right_need_a_plane_and_no_phantoms(dataset, tmp_path, one_sentence):
    phantoms = replace(SHORT, extra_share=0.2)
    for says, training, settings in (
        ("axial, coronal or sagittal", SHORT, {"oriented": True}),
        ("--phantoms", phantoms, {"oriented": True, "slicing": "axial"}),
        ("--phantoms", phantoms, {"resample": True}),
    ):
        with pytest.raises(InputError, match=says) as error:
            run(dataset, tmp_path / "run", training, **settings)
        one_sentence(error.value)


@pytest.mark.parametrize("architecture", ["l2gnet", "unet"])
def test_a_finished_run_knows_the_codes_of_its_training_scans(dataset, tmp_path, architecture):
    folder = tmp_path / "run"
    run(dataset, folder, stop_after=STEPS - 1, architecture=architecture)
    if (folder / MODEL_FILE).is_file():
        assert read_card(folder / MODEL_FILE).codes is None
    run(dataset, folder, resume=True, architecture=architecture)
    known = read_card(folder / MODEL_FILE).codes
    if architecture == "unet":
        assert known is None
        return
    model = load_model(folder / MODEL_FILE)
    counts = np.zeros(32, int)
    for patient in model.card.split["train"]:
        scan = read_volume(dataset / "images" / f"{patient}_frame01.nii.gz")
        trace = new_trace(model, scan.data, scan, 0)
        segment(model, scan.data, scan, 0, trace=trace)
        counts += np.bincount(trace.codes.ravel(), minlength=32)
    # Half precision and other batches may move a token to another code.
    assert np.abs(counts - known.counts).sum() <= 0.05 * counts.sum()
    assert sum(known.counts) == counts.sum() == 4 * 2 * 9
    assert len(known.distances) == 4
    # A resume of a finished run changes nothing.
    before = (folder / MODEL_FILE).read_bytes()
    run(dataset, folder, resume=True)
    assert (folder / MODEL_FILE).read_bytes() == before
