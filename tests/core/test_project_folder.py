"""The project folder: what is saved is read back, also after crashes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import replace
from datetime import UTC, datetime

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files import read_volume, write_labels
from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.project.entries import entry_from_json
from l2gnet_core.project.events import Answered, Interpolated, Reviewed, Stepped
from l2gnet_core.project.folder import (
    FORMAT,
    ProjectFolder,
    any_of_shape,
    find_projects,
    open_project,
)
from l2gnet_core.project.models import ModelStore, id_of
from l2gnet_core.project.scans import grid_from_json, grid_to_json, identify
from l2gnet_core.project.state import ModelId, ProjectState, SliceState
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid

LABELS = LabelSet.from_names({1: "one", 2: "two"}, {2: "#123456"})
SHAPE = (3, 6, 7)
VOXELS = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
SCAN = Grid(SHAPE, affine=np.diag([1.5, 1.5, 8.0, 1.0]), units="mm", name="Doe").volume(VOXELS)


@pytest.fixture(autouse=True)
def projects(tmp_path, monkeypatch):
    monkeypatch.setenv("L2GNET_PROJECTS", str(tmp_path / "projects"))
    return tmp_path / "projects"


def state_of(volume=SCAN, axis=0, **more) -> ProjectState:
    card = ModelCard("model", LABELS, split={"train": ["Jane Doe"]})
    return ProjectState(identify(volume), volume.grid, "", axis, card, None, LABELS, CleanUp(),
                        **more)  # fmt: skip


def blank(shape=(6, 7), label=0, by_person=False) -> SliceState:
    labels = np.full(shape, label, np.uint8)
    return SliceState(labels, np.full(shape, by_person), np.ones(shape, np.uint8))


def new_project(**more) -> tuple[ProjectFolder, ProjectState]:
    state = state_of(finished=frozenset({(0, 0)}), **more)
    project = ProjectFolder.create(state.scan)
    project.save(state, {(0, 0): blank(label=2, by_person=True)}, [], SCAN)
    return project, state


def test_a_project_comes_back_as_it_was_saved():
    wanted = replace(
        state_of(), orientation="LPS", model=ModelId("model", "ab" * 32),
        clean_up=CleanUp(True, False), finished=frozenset({(0, 0), (0, 2)}),
        reviewed=frozenset({(0, 2)}), touched=frozenset({(0, 0)}),
    )  # fmt: skip
    project = ProjectFolder.create(wanted.scan)
    events = [Reviewed([(0, 2)], True), Stepped("undone")]
    project.save(wanted, {(0, 0): blank(label=2, by_person=True), (0, 2): blank()}, events, SCAN)
    assert events == []
    again = open_project(project.path.name)
    state = again.read_state()
    assert replace(state, grid=wanted.grid, card=wanted.card) == wanted
    assert state.card == replace(wanted.card, split={})
    np.testing.assert_array_equal(state.grid.affine, SCAN.affine)
    assert state.grid.units == "mm"
    slices, saved = again.read_slices(state)
    assert saved == {(0, 0), (0, 2)}
    assert slices.labels.shape == (1, *SHAPE)
    assert (slices.labels[0] == [[[2]], [[0]], [[0]]]).all()
    assert slices.by_person[0, 0].all()
    assert not slices.by_person[0, 1:].any()
    assert (slices.raw[0] == [[[1]], [[0]], [[1]]]).all()
    np.testing.assert_array_equal(again.read_voxels(state), VOXELS)
    assert [entry.what for entry in again.history.entries()] == ["reviewed", "undone"]


SLICES = st.tuples(st.integers(0, 1), st.integers(0, 4))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.dictionaries(SLICES, st.integers(0, 300), max_size=4), max_size=4))
def test_any_order_of_saves_leaves_the_last_of_each_slice(tmp_path_factory, saves):
    volume = Grid((2, 3, 5, 4)).volume(np.zeros((2, 3, 5, 4), np.uint8))
    state = state_of(volume, axis=1)
    last = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2GNET_PROJECTS", str(tmp_path_factory.mktemp("projects")))
        project = ProjectFolder.create(state.scan)
        for save in saves:
            slices = {
                place: SliceState(
                    np.full((3, 4), label, np.uint16), np.full((3, 4), label > 9),
                    np.full((3, 4), label // 2, np.uint16),
                )
                for place, label in save.items()
            }  # fmt: skip
            project.save(state, slices, [], volume)
            last.update(save)
        project.release()
        again, saved = project.read_slices(state)
    assert saved == set(last)
    for frame, index in np.ndindex(2, 5):
        label = last.get((frame, index), 0)
        assert (again.labels[frame, :, index] == label).all()
        assert (again.by_person[frame, :, index] == (label > 9)).all()
        assert (again.raw[frame, :, index] == label // 2).all()


@pytest.fixture
def states(tmp_path, monkeypatch):
    """What a crash leaves after each write, as (state, labels of the slices by key)."""
    found, put = [], os.replace

    def put_and_look(source, target):
        put(source, target)
        project = ProjectFolder(next((tmp_path / "projects").iterdir()))
        state = project.read_state()
        project.require_whole(state)
        slices, saved = project.read_slices(state)
        entries = [entry.what for entry in project.history.entries()]
        labels = {at: int(slices.labels[at].max()) for at in saved}
        found.append((state, labels, entries))

    monkeypatch.setattr(os, "replace", put_and_look)
    monkeypatch.setattr("l2gnet_core.project.folder._WRITERS", 1)
    return found


def test_nobody_is_said_to_vouch_for_a_slice_that_is_not_as_they_saw_it(states):
    seen, other = (0, 0), (0, 1)
    accepted = state_of(finished=frozenset({seen, other}), reviewed=frozenset({seen}))
    project = ProjectFolder.create(accepted.scan)
    project.save(accepted, {seen: blank(label=2)}, [Reviewed([seen], True)], SCAN, {other})
    # The state before, the slice, the state after, and last the scan's voxels.
    assert [seen in state.reviewed for state, *_ in states] == [False, False, True, True]
    assert project.read_state().finished == {seen}
    # Its review is removed, and another answer is taken in.
    taken_back = replace(accepted, reviewed=frozenset())
    slices = {seen: blank(label=1), other: blank(label=1)}
    project.save(taken_back, slices, [Reviewed([seen], False)], SCAN)
    for state, labels, _ in states:
        assert all(labels.get(place) == 2 for place in state.reviewed)
        assert state.finished <= labels.keys()
    assert project.read_state().finished == {seen, other}


def test_an_organ_has_its_name_and_a_model_its_deed_before_they_are_met(states, make_model):
    state, model = state_of(), make_model()
    project = ProjectFolder.create(state.scan)
    project.save(state, {(0, 0): blank(label=1)}, [], SCAN)
    del states[:]
    names = LabelSet.from_names({1: "one", 2: "two", 3: "three"})
    with_organ = replace(state, labels=names, model=id_of(model))
    events = [Answered("segmented", model, [(0, 1)])]
    project.save(with_organ, {(0, 1): blank(label=3)}, events, SCAN)
    for state, labels, entries in states:
        assert set(labels.values()) <= state.labels.names.keys()
        assert state.model is None or entries == ["segmented"]
    assert project.read_state().model == id_of(model)


def test_a_scan_is_found_by_its_voxels_and_place_whatever_it_is_called(projects):
    assert find_projects(identify(SCAN)) == []
    assert not any_of_shape(SHAPE)
    done = {"touched": frozenset({(0, 0)}), "reviewed": frozenset({(0, 0), (0, 2)})}
    project, _ = new_project(**done)
    renamed = replace(SCAN, name="another", data=VOXELS.copy())
    (found,) = find_projects(identify(renamed))
    assert (found.path, found.touched, found.model) == (project.path, 1, "model")
    assert found.worked_on == 2
    assert (datetime.now(UTC) - found.saved).total_seconds() < 60
    moved = replace(SCAN, affine=np.diag([1.5, 1.5, 8.5, 1.0]))
    changed = replace(SCAN, data=VOXELS + 1)
    wider = replace(SCAN, data=VOXELS.astype(np.int32))
    for other in (moved, changed, wider):
        assert find_projects(identify(other)) == []
    assert any_of_shape(SHAPE)
    assert not any_of_shape((3, 7, 6))
    # A second project of the same scan has its own folder, and is listed first.
    second, _ = new_project()
    assert second.path != project.path
    assert [one.path for one in find_projects(identify(SCAN))] == [second.path, project.path]


def test_voxels_that_are_no_plain_numbers_are_identified_as_models_see_them():
    odd = VOXELS.astype(">f4")
    odd[0, 0, 0] = np.nan
    plain = VOXELS.astype(np.float32)
    plain[0, 0, 0] = plain.ravel()[1:].min()
    assert identify(replace(SCAN, data=odd)) == identify(replace(SCAN, data=plain))


def test_nothing_of_the_file_or_its_header_is_written(projects, tmp_path):
    image = nib.Nifti1Image(VOXELS.T, np.diag([-1.5, 1.5, 8.0, 1.0]))
    image.header["descrip"] = b"Jane Roe 1970"
    image.header["db_name"] = b"Roe"
    image.header["aux_file"] = b"Roe.txt"
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"Roe, Jane"))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 2)
    file = tmp_path / "Roe_Jane.nii.gz"
    nib.save(image, file)
    volume = read_volume(file)
    project = ProjectFolder.create(identify(volume))
    project.save(state_of(volume), {(0, 0): blank()}, [Reviewed([(0, 0)], True)], volume)
    for written in projects.rglob("*"):
        assert "Roe" not in written.name
        if written.is_file():
            content = written.read_bytes()
            assert b"Roe" not in content
            assert b"Doe" not in content
    text = (project.path / "project.json").read_text()
    assert str(tmp_path) not in text
    # But a mask written on it equals one on the file's own grid, header included.
    state, mask = project.read_state(), np.zeros(SHAPE, np.uint8)
    assert b"Roe" not in state.grid.source.header
    one = write_labels(tmp_path / "one.nii", mask, volume, LABELS.names)
    other = write_labels(tmp_path / "other.nii", mask, state.grid, LABELS.names)
    assert one.read_bytes() == other.read_bytes()


def test_grids_come_back():
    flat = Grid((1, 4, 5), units="mm", thickness_stated=False)
    for grid in (SCAN.grid, Grid((2, 3, 4, 5), stored_axes=(2, 1, 0), oriented=True), flat):
        again = grid_from_json(json.loads(json.dumps(grid_to_json(grid))))
        assert again.name == ""
        for name in ("shape", "units", "stored_axes", "oriented", "thickness_stated", "source"):
            assert getattr(again, name) == getattr(grid, name)
        np.testing.assert_array_equal(again.affine, grid.affine)


def test_only_one_writes(one_sentence):
    project, _ = new_project()
    other = open_project(project.path)
    with pytest.raises(InputError, match="open in another window") as caught:
        other.hold()
    one_sentence(caught.value)
    assert other.read_state().axis == 0
    project.release()
    other.hold()


def test_another_process_may_not_write_either_unless_the_first_was_killed(run_python):
    project, _ = new_project()
    code = """
import sys, os, signal
from l2gnet_core.project.folder import open_project
try:
    open_project(sys.argv[1]).hold()
except ValueError as error:
    print(error)
else:
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert "open in another window" in run_python("-c", code, str(project.path)).stdout
    project.release()
    assert run_python("-c", code, str(project.path)).stdout == "held\n"
    open_project(project.path).hold()


def test_a_torn_last_line_is_no_deed_and_the_next_one_stands_alone():
    project, state = new_project()
    project.save(state, {}, [Stepped("undone"), Stepped("redone")], SCAN)
    project.release()
    file = project.path / "history.jsonl"
    whole = file.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        file.write_bytes(whole[:-cut])
        again = open_project(project.path)
        assert len(again.history.entries()) == 1
    left = project.path / "slices" / ".l2gnet-0123.npz"
    left.write_bytes(b"half")
    again.hold()
    assert not left.exists()
    again.save(state, {}, [Reviewed([(0, 1)], False)], SCAN)
    assert [e.what for e in again.history.entries()] == ["undone", "not reviewed"]


#: Lines of all kinds but "fine-tuned", as they are on disk.
LINES = """\
{"what": "segmented", "model": {"name": "a", "sha256": "b"}, "places": [[0, 1], [0, 0]], \
"spared": [], "tidying": null, "device": "cuda", "remembered": false, "undoable": true, \
"filled": null, "goes_on": true}
{"what": "rolled back", "model": {"name": "a", "sha256": "b"}, "places": [], "spared": [[1, 2]], \
"tidying": {"largest_piece": true, "fill_holes": false, "spared": [7], "painted": "1.npz"}, \
"device": "cpu", "remembered": true, "undoable": false, "filled": "2.npz", "goes_on": false}
{"what": "interpolated", "slices": "3.npz", "undoable": true}
{"what": "found", "slices": "4.npz"}
{"what": "tidied", "places": [[0, 1]], "tidying": null, "undoable": false}
{"what": "redone"}
{"what": "not reviewed", "places": [[0, 1]]}
{"what": "discarded", "model": {"name": "a", "sha256": "b"}}
""".splitlines()


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_lines_of_a_history_are_written_as_they_were_read(line):
    assert json.dumps(entry_from_json(json.loads(line)).to_json()) == line


def test_deeds_of_a_newer_version_hide_no_version_of_the_model():
    project, _ = new_project()
    (project.path / "history.jsonl").write_text(LINES[0] + '\n{"what": "dreamt"}\n')
    assert [one.model for one in project.history.versions(set())] == [ModelId("a", "b")]


def test_damaged_lines_hide_no_other_version_of_the_model():
    project, _ = new_project()
    lost = ("nonsense", "[]", '{"what": "fine-tuned", "model": {"name": "a", "sha256": "b"}}',
            '{"what": "dreamt", "model": 1}')  # fmt: skip
    (project.path / "history.jsonl").write_text("\n".join([*lost, LINES[0], ""]))
    damaged = set()
    assert [one.model for one in project.history.versions(damaged)] == [ModelId("a", "b")]
    assert damaged == {1, 2, 3, 4}


def test_a_damaged_project_is_one_sentence(one_sentence, tmp_path):
    project, state = new_project()
    file = project.path / "project.json"
    good = file.read_text()

    def said(call) -> str:
        with pytest.raises(InputError) as caught:
            call()
        one_sentence(caught.value)
        return str(caught.value)

    values = json.loads(good)
    for text in ("", "{", "[]", json.dumps({**values, "format": "x"}),
                 json.dumps({**values, "grid": {}}), json.dumps({**values, "axis": None}),
                 json.dumps({**values, "labels": [{"id": 1}]})):  # fmt: skip
        file.write_text(text)
        assert "missing or damaged" in said(lambda: open_project(project.path))
        assert [one.problem for one in find_projects(state.scan)] == [
            said(lambda: open_project(project.path))
        ]
    # A newer project that is damaged does not hide a good one.
    other, _ = new_project()
    (other.path / "project.json").write_text(json.dumps({**values, "saved": "2020-01-01T00:00Z"}))
    assert [one.path for one in find_projects(state.scan)] == [other.path, project.path]
    file.write_text(json.dumps({**values, "format": FORMAT + 1}))
    assert "update napari-l2gnet" in said(lambda: open_project(project.path))
    file.write_text(good)
    (project.path / "slices" / "0-0.npz").write_bytes(b"PK\3\4 nonsense")
    assert "missing or damaged" in said(lambda: project.read_slices(state))
    np.savez(project.path / "slices" / "0-0.npz", labels=np.array([object()], object))
    assert "missing or damaged" in said(lambda: project.read_slices(state))
    scan = project.history.scan_file(state.scan.voxels)
    for content in (b"\x93NUMPY", scan.read_bytes()[:-1] + b"?"):
        scan.write_bytes(content)
        assert f"in {scan}, but they are missing or damaged" in said(
            lambda: project.read_voxels(state)
        )
    (project.path / "history.jsonl").write_text('{"what": "undone"}\nnonsense\n{"what": "x"}\n')
    assert "a line of it is damaged" in said(project.history.entries)
    assert "is none" in said(lambda: open_project(tmp_path))


def test_a_damaged_slice_hides_no_other_and_its_file_is_kept():
    project, state = new_project()
    project.save_slices(((0, index), blank(label=2)) for index in range(3))
    cut, wider = (project.path / "slices" / f"0-{index}.npz" for index in range(2))
    content = cut.read_bytes()[:50]
    cut.write_bytes(content)
    np.savez(wider, **{name: np.zeros((6, 8)) for name in ("labels", "by_person", "raw")})
    project.release()
    project.hold()
    with pytest.raises(InputError, match="missing or damaged"):
        project.read_slices(state)
    damaged = set()
    slices, saved = project.read_slices(state, damaged)
    assert (damaged, saved) == ({(0, 0), (0, 1)}, {(0, 2)})
    assert (slices.labels[0] == [[[0]], [[0]], [[2]]]).all()
    project.set_aside(damaged)
    (kept,) = project.path.glob("slices/0-0.damaged-*")
    assert kept.read_bytes() == content
    assert project.is_as_left()
    assert project.read_slices(state)[1] == {(0, 2)}
    # Work that was only painted is missed, too, unless a crash may have come before it was saved.
    gone, place = replace(state, finished=frozenset()), frozenset({(0, 1)})
    project.require_whole(replace(gone, touched=place, unsettled=place))
    with pytest.raises(InputError, match="missing or damaged"):
        project.require_whole(replace(gone, touched=place))


def test_the_projects_at_hand_are_listed_the_latest_first(l2gnet, projects):
    code, out, _ = l2gnet("projects")
    assert (code, out) == (0, f"0 projects, 0.0 MB, in {projects}\n")
    first, _ = new_project(touched=frozenset({(0, 0)}))
    second, _ = new_project()
    assert second.path.name.endswith("-2")
    (first.path / "project.json").with_name("big").write_bytes(bytes(2_000_000))
    _, out, _ = l2gnet("projects", "--json")
    listed = json.loads(out)["projects"]
    assert [one["name"] for one in listed] == [second.path.name, first.path.name]
    assert [one["touched_slices"] for one in listed] == [0, 1]
    assert listed[1]["megabytes"] == pytest.approx(2.0, abs=0.1)
    (second.path / "project.json").write_text("{")
    code, out, _ = l2gnet("projects")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "cannot be read" in rows[second.path.name]
    assert "model" in rows[first.path.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(projects, one_sentence):
    project, state = new_project()
    project.path.chmod(0o500)
    try:
        with pytest.raises(OutputError) as caught:
            project.save(state, {}, [], SCAN)
        one_sentence(caught.value)
    finally:
        project.path.chmod(0o700)


def test_a_folder_that_is_gone_is_one_sentence(projects, one_sentence, tmp_path, monkeypatch):
    project, state = new_project()
    project.path.rename(tmp_path / "gone")
    with pytest.raises(OutputError, match="does not exist") as caught:
        project.save(state, {}, [], SCAN)
    one_sentence(caught.value)
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("L2GNET_PROJECTS", str(blocked))
    with pytest.raises(OutputError, match="cannot be written") as caught:
        ProjectFolder.create(state.scan)
    one_sentence(caught.value)


def lose_project(path):
    shutil.rmtree(path)


def lose_and_make_folder(path):
    shutil.rmtree(path)
    (path / "slices").mkdir(parents=True)


def lose_slice(path):
    (path / "slices" / "0-0.npz").unlink()


def lose_history(path):
    (path / "history.jsonl").unlink()


def cut_slice(path):
    file = path / "slices" / "0-0.npz"
    file.write_bytes(file.read_bytes()[:50])


def put_older_copy(path):
    shutil.rmtree(path)
    path.with_name("older").rename(path)


def save_elsewhere(path):
    shutil.copytree(path, path.with_name("copy"))
    shutil.rmtree(path)
    path.with_name("copy").rename(path)
    other = open_project(path)
    other.hold()
    other.save(state_of(touched=frozenset({(0, 1)})), {}, [], SCAN)
    other.release()


@pytest.mark.parametrize(
    "lose",
    [lose_project, lose_and_make_folder, lose_slice, lose_history, cut_slice, put_older_copy,
     save_elsewhere],
)  # fmt: skip
def test_work_whose_folder_is_not_as_it_was_left_goes_on_in_another(
    lose, projects, make_model, tmp_path
):
    project, state = new_project()
    shutil.copytree(project.path, project.path.with_name("older"))
    model, filled = make_model(), {(0, 0): blank(label=1)}
    events = [Answered("segmented", model, [(0, 0)]), Interpolated(filled)]
    state = replace(state, model=id_of(model))
    project.save(state, {(0, 0): blank(label=1)}, events, SCAN)
    lines = (project.path / "history.jsonl").read_bytes()
    assert project.is_as_left()
    lose(project.path)
    before = {file: file.read_bytes() for file in project.path.rglob("*") if file.is_file()}
    assert not project.is_as_left()
    assert not project.is_as_left()
    new = project.elsewhere(state.scan)
    assert new.is_as_left()
    # What is in memory is saved again, with the history and its models.
    new.save(state, {(0, 0): blank(label=1)}, [Stepped("undone")], SCAN)
    assert new.is_as_left()
    if before:
        assert new.path != project.path
        assert {file: file.read_bytes() for file in before} == before
    new.release()
    again = open_project(new.path)
    assert (again.read_slices(again.read_state())[0].labels[0, 0] == 1).all()
    assert (new.path / "history.jsonl").read_bytes().startswith(lines)
    assert [one.what for one in again.history.entries()] == ["segmented", "interpolated", "undone"]
    (found,) = again.history.slices(again.history.entries()[1].slices).values()
    assert (found["labels"] == 1).all()
    assert id_of(again.history.models.load(id_of(model))) == id_of(model)
    again.read_voxels(state)


def test_an_equal_copy_of_a_folder_is_gone_on_with_unless_another_window_has_it(projects):
    project, state = new_project()

    def put_copy() -> None:
        copy = project.path.with_name("copy")
        shutil.copytree(project.path, copy)
        shutil.rmtree(project.path)
        copy.rename(project.path)

    put_copy()
    assert project.is_as_left()
    other = open_project(project.path)
    with pytest.raises(InputError, match="open in another window"):
        other.hold()
    put_copy()
    other.hold()
    assert not project.is_as_left()
    new = project.elsewhere(state.scan)
    new.save(state, {(0, 0): blank(label=1)}, [], SCAN)
    assert new.is_as_left()
    assert other.is_as_left()
    # Letting go of it deletes nothing of the other's.
    project.release()
    assert other.is_as_left()


def test_a_history_that_could_not_be_written_elsewhere_is_written_the_next_time(monkeypatch):
    project, state = new_project()
    project.save(state, {}, [Stepped("undone")], SCAN)
    shutil.rmtree(project.path)
    new = project.elsewhere(state.scan)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            new.save(state, {(0, 0): blank(label=1)}, [Stepped("redone")], SCAN)
    assert new.is_as_left()
    new.save(state, {(0, 0): blank(label=1)}, [Stepped("redone")], SCAN)
    assert [one.what for one in new.history.entries()] == ["undone", "redone"]
    assert new.is_as_left()


def test_a_project_of_which_nothing_was_saved_is_not_left_behind(projects):
    empty = ProjectFolder.create(identify(SCAN))
    empty.release()
    assert list(projects.iterdir()) == []
    assert not empty.is_as_left()
    assert list(projects.iterdir()) == []
    project, _ = new_project()
    (project.path / "project.json").unlink()
    project.release()
    assert (project.path / "slices" / "0-0.npz").exists()


def test_a_deed_that_could_not_be_written_leaves_no_half_a_line(monkeypatch):
    project, _ = new_project()
    project.history.add(Stepped("undone"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        project.history.add(Stepped("redone"))
    assert len(project.history.entries()) == 1
    monkeypatch.undo()
    project.history.add(Stepped("redone"))
    assert [e.what for e in project.history.entries()] == ["undone", "redone"]


def test_every_slice_and_its_name_are_synced(monkeypatch):
    project, state = new_project()
    synced, sync = {"file": 0, "folder": 0}, os.fsync

    def counted(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        synced[kind] += 1
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    project.save_slices(((0, index), blank(label=1)) for index in range(3))
    assert synced == {"file": 3, "folder": 3}
    assert project.read_slices(state)[1] == {(0, 0), (0, 1), (0, 2)}


def test_a_slice_is_written_again_where_it_changed_or_others_may_have_written_it():
    project, _ = new_project()
    file = project.path / "slices" / "0-1.npz"

    def writes(label: int) -> bool:
        """Is the slice written? Writing replaces its file."""
        before = file.stat().st_ino if file.exists() else None
        kept = file.with_suffix(".kept")
        if before is not None:
            os.link(file, kept)  # so that its inode number is not reused
        project.save_slices([((0, 1), blank(label=label))])
        kept.unlink(missing_ok=True)
        return file.stat().st_ino != before

    assert writes(1)
    assert not writes(1)
    assert writes(2)
    assert writes(1)
    project.release()
    project.hold()
    assert writes(1)


def test_a_slice_that_could_not_be_written_is_written_the_next_time(monkeypatch):
    project, state = new_project()
    project.save_slices([((0, 1), blank(label=1))])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    slices = {(0, index): blank(label=2) for index in range(3)}
    with pytest.raises(OutputError, match="No space left"):
        project.save_slices(slices.items())
    monkeypatch.undo()
    assert (project.read_slices(state)[0].labels[0, 1] == 1).all()
    project.save_slices(slices.items())
    assert (project.read_slices(state)[0].labels == 2).all()
    assert not list(project.path.glob("**/.l2gnet-*"))


def test_models_are_kept_unless_they_come_with_the_package(make_model, tmp_path, one_sentence):
    from l2gnet_core.models.catalog import find_model
    from l2gnet_core.models.checkpoint import load_model

    store = ModelStore(tmp_path / "models")
    bundled = load_model(find_model("cardiac-cine"))
    id = store.keep(bundled)
    assert not (tmp_path / "models").exists()
    assert store.path(id) == find_model("cardiac-cine")
    own = make_model(split={"train": ["Jane Doe"]})
    id = store.keep(own)
    again = store.load(id)
    assert again.card == replace(own.card, split={})
    # Other weights under the name of a bundled model are not the bundled ones.
    posing = replace(own, card=replace(own.card, name="cardiac-cine"))
    assert store.path(store.keep(posing)) != find_model("cardiac-cine")
    # A model with another view of scans is not the bundled one.
    shown = replace(bundled, card=replace(bundled.card, appearance=Appearance(gamma=0.6)))
    assert store.load(store.keep(shown)).card.appearance == Appearance(gamma=0.6)
    # Nor is a model whose card was edited.
    edited = replace(bundled, card=replace(bundled.card, views=1))
    assert store.load(store.keep(edited)).card.views == 1
    with pytest.raises(InputError, match="neither the project nor") as caught:
        store.load(ModelId("cardiac-cine", "0" * 64))
    one_sentence(caught.value)
    other = ModelId("tiny", "f" * 64)
    store.file(id).rename(store.file(other))
    with pytest.raises(InputError, match="holds others") as caught:
        store.load(other)
    one_sentence(caught.value)


def test_a_kept_model_is_in_the_history(make_model):
    project, state = new_project()
    project.save(state, {}, [Answered("segmented", make_model(), [(0, 2), (0, 1)])], SCAN)
    (entry,) = project.history.entries()
    assert entry.places == ((0, 2), (0, 1))
    assert project.history.models.path(entry.model).parent.name == "models"
