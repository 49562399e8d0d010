"""Replaying a project without napari."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from l2gnet_core.errors import InputError
from l2gnet_core.finetuning.config import SCAN
from l2gnet_core.finetuning.guard import Limits
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.project.events import (
    Answered,
    Discarded,
    FineTuned,
    Found,
    Interpolated,
    Reviewed,
    Stepped,
    Tidied,
    Tidying,
)
from l2gnet_core.project.folder import ProjectFolder
from l2gnet_core.project.models import id_of
from l2gnet_core.project.replay import _Again, replay
from l2gnet_core.project.scans import identify
from l2gnet_core.project.state import ProjectState, SliceState
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import predict_slices

SHAPE = (4, 40, 44)
#: Not a heart, whose guard takes longer than the rest of these tests.
ORGANS = LabelSet.from_names({1: "liver", 2: "spleen", 3: "kidney"})
CONFIG = replace(
    SCAN, seconds=0.8, batch=2, folds=2, mixes=(1.0,), cautious_mix=1.0, mix_tolerance=2.0,
    learning_rate=3e-3, views=replace(SCAN.views, size=32), limits=Limits(-1, 1, 1, 1, 1),
    names={7: "cyst"},
)  # fmt: skip


@pytest.fixture
def volume(tmp_path, monkeypatch):
    monkeypatch.setenv("L2GNET_PROJECTS", str(tmp_path / "projects"))
    data = np.random.default_rng(0).normal(size=(4, 10, 11)).repeat(4, 1).repeat(4, 2)
    affine = np.diag([1.5, 1.5, 8.0, 1.0])
    return Grid(SHAPE, affine=affine, units="mm", stored_axes=(2, 1, 0)).volume(
        data.astype(np.float32)
    )


class Annotator:
    """Does what users of the plugin can do to a mask, and saves a project."""

    def __init__(self, volume, model) -> None:
        self.volume, self.model, self.parent = volume, model, model
        self.raw = np.zeros(SHAPE, np.uint8)
        self.answer = np.zeros(SHAPE, np.uint8)
        self.labels = np.zeros(SHAPE, np.uint8)
        self.painted = np.zeros(SHAPE, bool)
        self.reviewed, self.events, self.said = set(), [], {}

    def shown(self) -> np.ndarray:
        return np.where(self.painted, self.labels, self.answer)

    def state_of(self, index) -> SliceState:
        return SliceState(self.shown()[index].copy(), self.painted[index].copy(), self.raw[index])

    def segment(self, order, what="segmented", model=None, tidying=None, spared=()) -> None:
        model, raw = model or self.model, self.raw.copy()
        for done in predict_slices(model, self.volume.data, self.volume, 0, order):
            if done is not None:
                raw[done.index] = done.labels
        self.said[model.card.name] = raw
        self.take(raw, order, tidying, spared)
        places, kept = ([(0, index) for index in some] for some in (order, spared))
        self.events.append(Answered(what, model, places, tidying, kept))

    def take(self, raw, order, tidying=None, spared=()) -> None:
        answer = tidying.whole(raw[None], 0)[0] if tidying else raw
        taken = [index for index in order if index not in spared]
        self.raw[list(order)], self.answer[taken] = raw[list(order)], answer[taken]

    def go_back(self, model, tidying=None, spared=(), filled=()) -> None:
        """Return to a model's earlier answer, except for slices that stay filled in."""
        self.take(self.said[model.card.name], range(4), tidying, spared)
        kept = [(0, index) for index in spared]
        stays = {(0, index): self.fill(index) for index in filled}
        self.events.append(
            Answered("rolled back", model, [], tidying, kept, remembered=True, filled=stays)
        )

    def fill(self, index) -> SliceState:
        self.raw[index], self.answer[index] = 1, 2
        return SliceState(
            self.answer[index].copy(), self.painted[index].copy(), self.raw[index].copy()
        )

    def interpolate(self, index) -> None:
        self.events.append(Interpolated({(0, index): self.fill(index)}))

    def tidying(self, choices) -> Tidying:
        painted = {(0, i): self.state_of(i) for i in range(4) if self.painted[i].any()}
        return Tidying(choices, painted)

    def tidy(self, choices) -> None:
        tidying = self.tidying(choices)
        for (_, index), labels in tidying.tidied(self.raw[None], 0):
            self.answer[index] = labels
        self.events.append(Tidied(tidying, [(0, i) for i in range(4)]))

    def paint(self, index, label, rows=slice(5, 15)) -> None:
        self.labels[index, rows, 10:20] = label
        self.painted[index, rows, 10:20] = True

    def review(self, index) -> None:
        self.labels[index], self.painted[index] = self.shown()[index], True
        self.reviewed.add((0, index))
        self.events.append(Reviewed([(0, index)], True))

    def learn(self, slices, config=CONFIG) -> None:
        shown = self.shown()
        correction = Correction(self.volume.data, self.volume, 0, shown, slices)
        *_, last = finetune(self.model, [correction], config)
        self.learnt = FineTuned(self.model, [correction], config, last.result)
        self.events.append(self.learnt)
        self.parent, self.model = self.model, last.result.model

    def save(self) -> ProjectFolder:
        everything = frozenset((0, i) for i in range(4))
        card = self.model.card
        state = ProjectState(
            identify(self.volume), self.volume.grid, "", 0, card, id_of(self.model),
            card.labels, CleanUp(), everything, frozenset(self.reviewed),
            frozenset((0, i) for i in range(4) if self.painted[i].any()),
        )  # fmt: skip
        project = ProjectFolder.create(state.scan)
        slices = {(0, i): self.state_of(i) for i in range(4)}
        project.save(state, slices, self.events, self.volume)
        return project


@pytest.fixture
def worked(volume, make_model) -> Annotator:
    """A mask after all kinds of events, in an order that matters."""
    person = Annotator(volume, make_model(ORGANS))
    person.segment([2, 1, 3, 0])
    person.tidy(CleanUp(largest_piece=True))
    person.paint(1, 3)
    person.paint(2, 0)
    person.tidy(CleanUp(largest_piece=True, fill_holes=True))
    person.paint(1, 7, slice(20, 30))
    person.review(1)
    person.learn((1, 2))
    tidying = person.tidying(CleanUp(largest_piece=True, fill_holes=True))
    person.segment([2, 1, 3, 0], "accepted", tidying=tidying, spared=[1])
    return person


def test_corrections_come_back_as_they_were(worked):
    learnt = next(event for event in worked.events if isinstance(event, FineTuned))
    checked = {learnt.corrections[0].slices[0]: {2, 1}}
    frames = [replace(one, image="cine", checked=checked) for one in learnt.corrections * 2]
    weights = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    frames[1] = replace(frames[1], weights=weights)
    worked.events = [replace(learnt, corrections=frames)]
    history = worked.save().history
    (entry,) = history.entries()
    found = history.corrections(entry)
    assert [one.image for one in found] == [0, 0]
    assert [one.checked for one in found] == [{1: [1, 2]}] * 2
    np.testing.assert_array_equal(found[0].pictures, frames[0].pictures)
    np.testing.assert_array_equal(found[1].picture_weights, weights[[1, 2]])
    # A scan may be large: it is in memory once, and weights only where they say something.
    assert found[0].scan is found[1].scan
    assert found[0].weights is None


def test_a_project_comes_out_equal(worked, volume, l2gnet, tmp_path):
    project = worked.save()
    code, out, err = l2gnet("replay", project.path.name, "-o", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["equal"] is True
    assert report["different_voxels"] == 0
    assert report["different_slices"] == []
    assert [one["equal"] for one in report["finetuned"]] == [True]
    assert report["labels"]["7"] == "cyst"
    lines = (project.path / "history.jsonl").read_text().splitlines()
    for line, entry in zip(lines, project.history.entries(), strict=True):
        assert json.dumps({"at": json.loads(line)["at"], **entry.to_json()}) == line
    original, version = project.history.versions(set())
    assert (original.kind, original.model) == ("original", id_of(worked.parent))
    assert (version.kind, version.model) == ("scan", id_of(worked.model))
    assert version.parent == id_of(worked.parent)
    assert version.verdict.to_json() == worked.learnt.result.verdict.to_json()
    assert report["mask"] == str(tmp_path / "out" / "mask.nii.gz")
    written = nib.load(report["mask"])
    np.testing.assert_array_equal(np.asarray(written.dataobj).T, worked.shown())
    np.testing.assert_array_equal(written.affine, volume.affine)
    # Both fine-tuning and painting changed the mask.
    before = Annotator(volume, worked.parent)
    before.segment([2, 1, 3, 0])
    assert (before.answer != worked.raw)[[0, 2, 3]].any()
    assert (worked.shown()[2] != worked.answer[2]).any()
    code, out, _ = l2gnet("replay", project.path, "-o", tmp_path / "one.nii")
    assert (code, out) == (
        0, f"{tmp_path / 'one.nii'}: equal to the saved mask, voxel for voxel.\n",
    )  # fmt: skip


def test_undo_redo_and_rolling_back_are_done_again(worked, l2gnet, tmp_path, monkeypatch):
    person, replays = worked, []

    class Noted(_Again):
        def __post_init__(self) -> None:
            super().__post_init__()
            replays.append(self)

    monkeypatch.setattr("l2gnet_core.project.replay._Again", Noted)

    def equal(name: str) -> bool:
        person.events, told = list(person.events), person.events
        _, out, _ = l2gnet("replay", person.save().path, "-o", tmp_path / name, "--json")
        person.events = told
        return json.loads(out)["equal"]

    accepted = person.raw.copy(), person.answer.copy()
    person.segment([0, 2, 3], "rolled back", model=person.parent)
    assert equal("rolled back")
    person.events.append(Stepped("undone"))
    rolled_back, (person.raw, person.answer) = (person.raw, person.answer), accepted
    assert (rolled_back[1] != person.answer).any()
    assert equal("undone")
    person.raw, person.answer = rolled_back
    person.events.append(Stepped("redone"))
    assert equal("redone")
    person.interpolate(3)
    assert equal("interpolated")
    person.go_back(person.model, spared=[1, 2])
    tidying = person.tidying(CleanUp(largest_piece=True))
    person.go_back(person.parent, tidying, spared=[1], filled=[3])
    assert equal("remembered")
    person.go_back(person.model)
    assert equal("remembered again")
    # Answers are as large as the scan: none is kept longer than a later entry needs it.
    assert not any(one._said for one in replays)


def test_undoing_takes_back_the_answer_and_not_what_was_tidied_since(worked, l2gnet, tmp_path):
    person = worked
    before = person.raw.copy(), person.answer.copy()
    person.segment([0, 2, 3], "rolled back", model=person.parent)
    changed = [old != new for old, new in zip(before, (person.raw, person.answer), strict=True)]
    # This event cannot be undone.
    person.events.append(Answered("accepted", person.model, [], spared=person.reviewed,
                                 remembered=True, undoable=False))  # fmt: skip
    person.take(person.said[person.model.card.name], range(4), spared=[1])
    person.tidy(CleanUp(largest_piece=True))
    person.events.append(Stepped("undone"))
    for array, where, old in zip((person.raw, person.answer), changed, before, strict=True):
        array[where] = old[where]
    # Tidying begins with the raw answer, also of the slice that was spared.
    person.painted[1], person.reviewed = False, set()
    person.tidy(CleanUp())
    _, out, _ = l2gnet("replay", person.save().path, "-o", tmp_path / "out", "--json")
    assert json.loads(out)["equal"] is True


def test_a_run_that_was_noted_in_parts_is_done_again_in_one(worked, l2gnet, tmp_path, monkeypatch):
    run, tidied, *others = worked.events
    parts = [replace(run, places=[place], goes_on=number > 0, spared=[])
             for number, place in enumerate(run.places)]  # fmt: skip
    parts[1:1] = [Reviewed([(0, 3)], True), Reviewed([(0, 3)], False)]
    more = [Tidied(None, tidied.places[2:])]
    worked.events = [*parts, replace(tidied, places=tidied.places[:2]), *more, *others]
    orders = []

    def noted(*given, **more):
        orders.append(given[4])
        yield from predict_slices(*given, **more)

    monkeypatch.setattr("l2gnet_core.project.replay.predict_slices", noted)
    project = worked.save()
    _, out, _ = l2gnet("replay", project.path, "-o", tmp_path / "out", "--json")
    assert json.loads(out)["equal"] is True
    # Batches are the same as before.
    assert orders == [[2, 1, 3, 0]] * 2


def test_slices_that_a_crash_kept_from_being_saved_are_no_others(worked, l2gnet, tmp_path):
    project = worked.save()
    (project.path / "slices" / "0-3.npz").unlink()
    file = project.path / "project.json"
    state = json.loads(file.read_text())
    # Finished slices are written to the state last.
    state["finished"].remove([0, 3])
    file.write_text(json.dumps(state))
    _, out, _ = l2gnet("replay", project.path, "-o", tmp_path / "out", "--json")
    assert json.loads(out)["equal"] is True


@pytest.mark.parametrize("writes", range(6))
def test_a_crash_amid_a_save_leaves_what_replays_and_goes_on(
    volume, make_model, l2gnet, tmp_path, monkeypatch, writes
):
    """A save of two slices, their event and the state, and then of two more slices, is broken off
    after so many files."""
    person = Annotator(volume, make_model(ORGANS))
    person.segment([2, 1, 3, 0])
    project, put, left = person.save(), os.replace, [writes]
    state, slices = project.read_state(), [(0, index) for index in range(4)]
    person.events = [Interpolated({place: person.fill(place[1]) for place in slices})]

    def killed(source, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        put(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr("l2gnet_core.project.folder._WRITERS", 1)
        now = {place: person.state_of(place[1]) for place in slices}
        saved = {place: now.pop(place) for place in slices[:2]}
        with suppress(KeyboardInterrupt):
            project.save(state, saved, person.events, volume, now)
            project.save_slices(now.items())
    project.release()

    def replayed():
        return json.loads(l2gnet("replay", project.path, "-o", tmp_path / "out", "--json")[1])

    assert replayed()["equal"] is True
    # What resuming does.
    project.hold()
    state = project.read_state()
    found, _ = project.read_slices(state)
    person.raw, person.answer = found.raw[0], found.labels[0]
    person.events = [Found({place: person.state_of(place[1]) for place in state.unsettled})]
    person.tidy(CleanUp(largest_piece=True))
    project.save(state, {p: person.state_of(p[1]) for p in slices}, person.events, volume)
    assert not project.read_state().unsettled
    assert replayed()["equal"] is True


def test_versions_are_those_that_a_person_could_go_to(worked, make_model):
    project = worked.save()
    first, learnt = project.history.versions(set())
    model = make_model(ORGANS)
    model = replace(model, card=replace(model.card, name="another"))
    with torch.no_grad():
        next(model.network.parameters()).add_(1)
    project.history.add(Answered("accepted", model, [(0, 0)]))
    project.history.add(Answered("rolled back", worked.parent, [(0, 0)]))
    *_, loaded = project.history.versions(set())
    assert (loaded.kind, loaded.verdict) == ("file", None)
    assert (loaded.model, loaded.parent) == (id_of(model), learnt.model)
    assert first.parent == first.model
    other = make_model(ORGANS)
    with torch.no_grad():
        next(other.network.parameters()).add_(2)
    result = replace(worked.learnt.result, model=other)
    project.history.add(replace(worked.learnt, result=result))
    assert [one.model for one in project.history.versions(set())][2:] == [
        loaded.model,
        id_of(other),
    ]
    project.history.add(Discarded(other))
    # An accepted model stays if an equal one is learnt and discarded.
    project.history.add(worked.learnt)
    project.history.add(Discarded(worked.model))
    assert project.history.versions(set()) == [first, learnt, loaded]


def test_where_it_is_not_equal_is_told(worked, l2gnet, tmp_path):
    worked.answer[3, 0, :2] += 1
    project = worked.save()
    _, out, _ = l2gnet("replay", project.path, "-o", tmp_path / "out", "--json")
    report = json.loads(out)
    assert report["equal"] is False
    assert report["different_slices"] == [{"frame": 0, "slice": 3, "voxels": 2}]
    _, out, _ = l2gnet("replay", project.path, "-o", tmp_path / "out")
    assert "2 voxels differ, in slices 3; 0 of 1 fine-tunings" in out


def test_a_fine_tuning_that_was_not_kept_changes_nothing(volume, make_model, l2gnet, tmp_path):
    person = Annotator(volume, make_model(ORGANS))
    person.segment([0, 1, 2, 3])
    person.paint(1, 1)
    person.paint(3, 2)
    never = replace(CONFIG, limits=Limits(least_gain=1.0), names={}, seconds=None, steps=1)
    person.learn((1, 3), never)
    assert person.model is person.parent
    _, out, _ = l2gnet("replay", person.save().path, "-o", tmp_path / "out", "--json")
    assert json.loads(out)["equal"] is True
    assert json.loads(out)["finetuned"] == []


def test_a_bug_is_not_taken_for_a_fault_of_the_project(volume, make_model, monkeypatch):
    person = Annotator(volume, make_model(ORGANS))
    person.segment([0, 1, 2, 3])
    project = person.save()

    def broken(*_, **__):
        raise KeyError("a bug")
        yield

    monkeypatch.setattr("l2gnet_core.project.replay.predict_slices", broken)
    with pytest.raises(KeyError, match="a bug"):
        list(replay(project))


@pytest.mark.parametrize(
    "change",
    [
        {"places": [[0, 4]]},
        {"places": [[1, 0]]},
        {"what": "undone"},
        {"what": "rolled back", "remembered": True},
        {"what": "interpolated", "slices": "of another shape.npz"},
    ],
    ids=str,
)
def test_a_line_that_does_not_fit_the_project_is_refused(volume, make_model, change):
    person = Annotator(volume, make_model(ORGANS))
    person.segment([0, 1, 2, 3])
    project = person.save()
    file = project.path / "history.jsonl"
    (project.path / "attached").mkdir()
    wrong = {"0-1-raw": np.zeros((3, 3), np.uint8), "0-1-labels": np.zeros((3, 3), np.uint8)}
    np.savez(project.path / "attached" / "of another shape.npz", **wrong)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}) + "\n")
    with pytest.raises(InputError, match=r"entry 1 .* is another"):
        list(replay(project))


@pytest.mark.parametrize(
    "change",
    [{"places": None}, {"spared": None}, {"places": 3}, {"spared": {}}, {"what": ["segmented"]}],
    ids=str,
)
def test_a_line_that_goes_on_without_what_it_adds_is_refused(volume, make_model, change):
    person = Annotator(volume, make_model(ORGANS))
    person.segment([0, 1, 2, 3])
    project = person.save()
    file = project.path / "history.jsonl"
    first = json.loads(file.read_text())
    more = {**first, "goes_on": True, **change}
    kept = {name: value for name, value in more.items() if value is not None or name not in change}
    file.write_text("".join(json.dumps(line) + "\n" for line in (first, kept)))
    with pytest.raises(InputError, match=r"entry 2 .* is another"):
        list(replay(project))


def test_bad_input_is_one_sentence(refused, volume, make_model, save_scan, scan, tmp_path):
    out = tmp_path / "out"
    assert "project.json" in refused("replay", tmp_path, "-o", out)
    assert "is none" in refused("replay", "nowhere", "-o", out)
    person = Annotator(volume, make_model(ORGANS))
    person.segment([0, 1, 2, 3])
    path = person.save().path
    other = tmp_path / "notes.txt"
    other.write_text("")
    for name in ("notes.txt", "new.png", "new.nrrd", "new.mha"):
        assert "neither" in refused("replay", path, "-o", tmp_path / name)
        assert not (tmp_path / name).is_dir()
    taken = save_scan(tmp_path / "scans" / "mask.nii.gz", scan)
    for place in (taken, taken.parent):
        assert "no mask that l2gnet wrote" in refused("replay", path, "-o", place)
    for place in (path, path / "slices", path / "new" / "mask.nii"):
        assert "another place than that of the project" in refused("replay", path, "-o", place)
    (entry,) = (path / "history.jsonl").read_text().splitlines()
    (path / "history.jsonl").write_text(json.dumps({**json.loads(entry), "what": "dreamt"}) + "\n")
    assert "entry 1 (dreamt)" in refused("replay", path, "-o", out)
    places = {**json.loads(entry), "places": [[0, 1, 2]]}
    (path / "history.jsonl").write_text(json.dumps(places) + "\n")
    assert "entry 1 (segmented)" in refused("replay", path, "-o", out)
    (path / "history.jsonl").write_text("[" * 100_000 + "\n")
    assert "a line of it is damaged" in refused("replay", path, "-o", out)
    (path / "history.jsonl").write_text(entry + "\n")
    for name in ("history.jsonl", "slices/0-2.npz"):
        (path / name).rename(path / "away")
        assert "slices or history are missing or damaged" in refused("replay", path, "-o", out)
        (path / "away").rename(path / name)
    (model,) = (path / "models").iterdir()
    Path(model).unlink()
    assert "neither the project nor this version" in refused("replay", path, "-o", out)
    assert not out.exists()
