"""All of correcting and fine-tuning is saved as it happens, comes back, and can be done again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from correcting import correct_slice, ends, fine_tune
from gui import is_saved, open_scan
from hypothesis import example, given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from qtpy.QtCore import QObject
from superqt.utils import WorkerBase

from l2gnet_core.cli import main
from l2gnet_core.models.card import ModelCard
from l2gnet_core.project.folder import open_project
from l2gnet_core.project.models import id_of
from l2gnet_core.project.replay import replay
from l2gnet_core.project.state import slice_of
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import Label, LabelSet
from l2gnet_core.scans.volume import Grid
from napari_l2gnet.annotating.learning import model_of
from napari_l2gnet.annotating.preview import BEFORE
from napari_l2gnet.correct.organ_dialog import OrganDialog
from napari_l2gnet.correct.proposals import fill_in
from napari_l2gnet.correct.widget import CorrectWidget
from napari_l2gnet.jobs.segment_events import SliceTidied
from napari_l2gnet.jobs.session import Session
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.saving.autosave import autosave_of, keep
from napari_l2gnet.saving.resume import read_work
from napari_l2gnet.segment.run import Run


def saved(qtbot: Any, widget: Any) -> Path:
    """The project, once all is in it."""
    autosave = autosave_of(widget.current_mask)
    qtbot.waitUntil(lambda: autosave._job is None and is_saved(widget), timeout=10_000)
    return autosave.folder.path


def versions(widget: CorrectWidget) -> list[tuple[Any, ...]]:
    """Name, kind, parent, weights, and whether it is better."""
    annotation = widget.annotation
    found = []
    for one in annotation.versions:
        sha = id_of(model_of(widget.session, one, annotation, "cpu")).sha256
        found.append((one.name, one.kind, one.parent, sha, one.verdict and one.verdict.reason))
    return found


def replayed(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    main(["replay", str(path), "-o", str(tmp_path / "out"), "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_day_of_correcting_comes_back_after_a_crash_and_replays(
    correct_widget: Any,
    segment_widget: Any,
    scan_file: Path,
    qtbot: Any,
    projects: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    viewer, segment, widget = correct_widget()
    layer, mask = widget.current_mask.layer, widget.current_mask.segmentation
    segment.largest.setChecked(True)
    qtbot.waitUntil(lambda: not segment.running)
    first = mask.answer.copy()
    correct_slice(viewer, widget, 2)
    assert fine_tune(qtbot, widget, 1) == "finished"
    widget.discard.click()
    layer.data_setitem((np.full(9, 2), *np.mgrid[0:3, 0:3].reshape(2, -1)), 3)
    assert fine_tune(qtbot, widget, 1) == "finished"
    widget.show_view(BEFORE)
    widget.review.go_to((0, 0))
    widget.review.accept_slice()
    widget.accept.click()
    assert mask.version == 1
    assert ends(qtbot, widget, widget.roll_back.click) == "finished"
    # As it was, also where a stroke since joins pieces that were tidied away.
    np.testing.assert_array_equal(mask.answer, first)
    layer.undo()
    assert mask.version == 1
    widget.organs.put(Label(4, "papillary muscle", "#0072b2"), new=True)
    widget.organs.put(Label(1, "RV", "#56b4e9"))
    widget.organ.setCurrentIndex(widget.organ.findData(4))
    for index in (3, 5):
        layer.data_setitem((np.full(100, index), *np.mgrid[5:15, 5:15].reshape(2, -1)), 4)
    assert ends(qtbot, widget, widget.interpolate.click) == "finished"
    layer.undo()
    layer.redo()
    path = saved(qtbot, widget)
    whats = [entry.what for entry in open_project(path).history.entries()]
    assert [what for what in whats if what != "reviewed"] == [
        *("segmented", "tidied", "fine-tuned", "discarded", "fine-tuned", "accepted"),
        *("rolled back", "undone", "interpolated", "undone", "redone"),
    ]
    before = versions(widget)
    assert [one[:3] for one in before] == [("original", "original", 0), ("v1", "scan", 0)]

    # What is on disk now is all there is after kill -9.
    shutil.copytree(projects, tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
    monkeypatch.setenv("L2GNET_PROJECTS", str(tmp_path / "copy"))
    again_viewer, again_segment = segment_widget()
    open_scan(again_viewer, scan_file)
    again = CorrectWidget(again_viewer, again_segment.session)
    again_viewer.window.add_dock_widget(again)
    qtbot.waitUntil(lambda: not again_segment.offer.isHidden(), timeout=5000)
    again_segment.offer.resume.click()
    qtbot.waitUntil(lambda: again.current_mask is not None, timeout=5000)
    resumed = again.current_mask.segmentation
    for name in ("shown", "raw", "finished", "reviewed", "clean_up", "version"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(mask, name), err_msg=name)
    np.testing.assert_array_equal(resumed.by_person(), mask.by_person())
    assert resumed.card.labels.names == mask.card.labels.names
    assert resumed.card.labels.names[4] == "papillary muscle"
    assert again.current_mask.colors() == widget.current_mask.colors()
    assert again.version.currentText() == widget.version.currentText()
    assert again.reviewed.format() == widget.reviewed.format()
    assert again.start.text() == widget.start.text()
    assert versions(again) == before
    # Each version gives its own answer again; what a person decided stays.
    accepted = widget.annotation.versions[1].raw[0]
    assert ends(qtbot, again, again.roll_back.click) == "finished"
    assert again.version.currentText().startswith("original")
    assert ends(qtbot, again, lambda: again.version.activated.emit(1)) == "finished"
    np.testing.assert_array_equal(again.annotation.versions[1].raw[0], accepted)
    mine = resumed.by_person() | np.isin(np.arange(6), [0, 2])[:, None, None]
    np.testing.assert_array_equal(resumed.shown[mine], mask.shown[mine])
    path = saved(qtbot, again)
    again_viewer.layers.remove(again.current_mask.layer)
    report = replayed(path, tmp_path, capsys)
    assert report["equal"] is True, report
    assert report["labels"]["4"] == "papillary muscle"
    assert all(one["equal"] for one in report["finetuned"])


def test_a_new_organ_alone_is_worth_saving_and_so_is_that_it_was_removed(
    correct_widget: Any, qtbot: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, widget = correct_widget()
    widget.organs.put(Label(4, "papillary muscle", "#0072b2"), new=True)
    qtbot.waitUntil(lambda: autosave_of(widget.current_mask).folder is not None, timeout=5000)
    state = open_project(saved(qtbot, widget)).read_state()
    assert state.labels.names[4] == "papillary muscle"
    assert state.labels.colors[4] == "#0072b2"
    layer = widget.layer.layer
    layer.data_setitem((np.full(100, 3), *np.mgrid[5:15, 5:15].reshape(2, -1)), 4)
    widget.edit_organ.click()
    (dialog,) = widget.findChildren(OrganDialog)
    dialog.remove.click()
    assert "Removed the papillary muscle: 100 voxels are background now" in widget.message.text()
    assert widget.organ.findText("papillary muscle") < 0
    assert widget.organ.currentData() == layer.selected_label == 1
    path = saved(qtbot, widget)
    assert 4 not in open_project(path).read_state().labels.names
    assert replayed(path, tmp_path, capsys)["equal"]
    layer.undo()
    assert widget.organ.findText("papillary muscle") >= 0
    qtbot.waitUntil(lambda: "Removed" not in widget.message.text())
    assert 4 in open_project(saved(qtbot, widget)).read_state().labels.names
    layer.redo()
    assert widget.organ.findText("papillary muscle") < 0
    path = saved(qtbot, widget)
    assert 4 not in open_project(path).read_state().labels.names
    assert replayed(path, tmp_path, capsys)["equal"]


@pytest.mark.parametrize("one_step", [False, True])
def test_an_answer_that_is_undone_while_it_is_tidied_stays_undone_and_replays(
    qtbot: Any, one_step: bool
) -> None:
    card = ModelCard("model", LabelSet.from_names({1: "one"}))
    volume = Grid((4, 9, 9)).volume(np.zeros((4, 9, 9), np.float32))
    viewer, parent = ViewerModel(), QObject()
    mask = MaskLayer.add(viewer, viewer.add_image(volume.data), volume.grid, card, 0)
    segmentation, autosave = mask.segmentation, keep(mask, volume)
    for size in (3, 5):
        ring = np.zeros((9, 9), np.uint8)
        ring[1 : 1 + size, 1 : 1 + size] = 1
        ring[2, 2] = 0
        fill_in(mask, dict.fromkeys(segmentation.places, ring), None)
    segmentation.clean_up = CleanUp(fill_holes=True)
    run = Run(Session(), mask, parent)
    undo = [mask.layer.undo]

    def undo_once(event: Any) -> None:
        if undo and isinstance(event, SliceTidied) and event.place == (0, 1):
            undo.pop()()

    run.stepped.connect(undo_once)
    with qtbot.waitSignal(run.ended, timeout=10_000) as ended:
        (run.choose(CleanUp(fill_holes=True)) if one_step else run._tidy())
    assert ended.args[0] == "finished"
    assert (mask.layer.data.sum((1, 2)) == 9).all()
    autosave.save_now()
    *_, last = replay(autosave.folder)
    assert last.result.different == {}
    viewer.layers.clear()


LABEL, INDEX = st.integers(0, 2), st.integers(0, 3)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["stroke", "script"]), INDEX, LABEL),
    st.tuples(st.just("fill"), st.integers(0, 5), st.lists(INDEX, min_size=1, max_size=3)),
    st.tuples(st.sampled_from(["undo", "undo", "redo", "save", "resume"])),
    st.tuples(st.sampled_from(["tidy", "choose"]), st.booleans(), st.booleans()),
    st.tuples(st.just("review"), INDEX),
)


@settings(max_examples=25, deadline=None)
@example(
    axis=0,
    steps=[("fill", 1, [1]), ("review", 1), ("fill", 2, [1]), ("review", 1), ("undo",)],
)
@example(axis=0, steps=[("fill", 1, [1, 2]), ("choose", True, False), ("undo",), ("undo",)])
@given(axis=st.integers(0, 2), steps=st.lists(STEPS, max_size=12))
def test_whatever_is_done_to_answers_replays(
    qapp: Any, tmp_path_factory: Any, axis: int, steps: list[Any]
) -> None:
    card = ModelCard("model", LabelSet.from_names({1: "one", 2: "two"}))
    volume = Grid((4, 5, 6)).volume(np.arange(120).reshape(4, 5, 6))
    viewer, session, parent = ViewerModel(), Session(), QObject()
    image = viewer.add_image(volume.data)
    mask = MaskLayer.add(viewer, image, volume.grid, card, axis)

    def fill(seed: int, indices: list[int]) -> None:
        """As interpolation does, but with any labels."""
        new = np.random.default_rng(seed).integers(0, 3, mask.segmentation.raw.shape)
        places = [(0, index) for index in indices]
        fill_in(mask, {place: slice_of(new, place, axis) for place in places}, None)

    def tidy(choices: CleanUp, one_step: bool) -> None:
        run = Run(session, mask, parent)
        run._choices, run._tidies = choices if one_step else None, True
        for event in session.clean(mask.segmentation, choices):
            run._take(event)
        if one_step:
            run._adopt()
        run._record()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2GNET_PROJECTS", str(tmp_path_factory.mktemp("projects")))
        autosave = keep(mask, volume)
        WorkerBase.await_workers(10_000)
        for name, *rest in [*steps, ["review", 0]]:
            layer, reviewed = mask.layer, mask.segmentation.reviewed
            where = tuple(np.mgrid[1:3, 1:3, 1:3].reshape(3, -1))
            if name in ("stroke", "script"):
                index, label = rest
                where[axis][:] = index
                if name == "stroke":
                    layer.data_setitem(where, label)
                else:
                    layer.data[where] = label
            elif name == "fill":
                fill(*rest)
            elif name in ("tidy", "choose"):
                tidy(CleanUp(*rest), name == "choose")
            elif name == "review":
                reviewed.symmetric_difference_update({(0, rest[0])})
            elif name == "save":
                autosave.save_now()
            elif name == "resume":
                if autosave.begun:
                    viewer.layers.remove(layer)
                    (work,) = read_work(autosave.folder.path)
                    again = work.segmentation
                    mask = MaskLayer.show(viewer, image, again, work.state.labels)
                    autosave = keep(mask, volume, None, work.folder)
            else:
                getattr(layer, name)()
        autosave.save_now()
        if autosave.folder is not None:
            *_, last = replay(autosave.folder)
            assert last.result.different == {}
        viewer.layers.clear()
