"""Work on a mask is saved as it happens, and comes back."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gui import PLUGIN, is_saved, open_scan, run, slow_down
from hypothesis import example, given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from superqt.utils import WorkerBase

from l2gnet_core.cli import main
from l2gnet_core.errors import OutputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import load_model
from l2gnet_core.project.folder import ProjectFolder, open_project
from l2gnet_core.project.models import id_of
from l2gnet_core.project.scans import identify
from l2gnet_core.project.state import ProjectState, SliceState, slice_of
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.script_watch import ScriptWatch
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.saving.autosave import Autosave, autosave_of, keep
from napari_l2gnet.saving.resume import read_work

Widget = Callable[[], tuple[Any, Any]]


def paint(widget: Any, index: int, label: int, first: int = 5, last: int = 12) -> None:
    rows, columns = np.mgrid[first:last, first:last].reshape(2, -1)
    widget.current_mask.layer.data_setitem((np.full_like(rows, index), rows, columns), label)


def saved(qtbot: Any, widget: Any) -> ProjectFolder:
    """The project once all is saved."""
    with qtbot.waitSignal(autosave_of(widget.current_mask).saved, timeout=10_000):
        pass
    return autosave_of(widget.current_mask).folder


def test_saving_begins_with_a_persons_first_stroke(
    segment_widget: Widget, scan_file: Path, qtbot: Any, projects: Path
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    qtbot.wait(400)
    assert not projects.exists()
    paint(widget, 2, 3)
    qtbot.waitUntil(lambda: is_saved(widget), timeout=2000)
    (folder,) = projects.iterdir()
    state = open_project(folder).read_state()
    assert state.touched == {(0, 2)}
    assert state.card.name == state.model.name == "scribbler"
    assert "scan" not in "".join(path.name for path in folder.rglob("*.npz"))
    # The person's own model goes along; its answer, too.
    assert (folder / "models").is_dir()
    undone = widget.current_mask.layer
    undone.undo()
    qtbot.waitUntil(lambda: is_saved(widget), timeout=2000)
    assert open_project(folder).read_state().touched == set()


def test_marks_and_scripts_count_without_a_stroke(
    segment_widget: Widget, scan_file: Path, qtbot: Any, projects: Path
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    widget.current_mask.segmentation.reviewed.add((0, 4))
    qtbot.waitUntil(lambda: is_saved(widget), timeout=3000)
    widget.current_mask.segmentation.reviewed.clear()
    widget.current_mask.layer.data[1, :4] = 2  # nobody is told
    qtbot.waitUntil(lambda: is_saved(widget), timeout=3000)
    widget.current_mask.color_organ(1, "#102030")
    (folder,) = projects.iterdir()
    qtbot.waitUntil(
        lambda: open_project(folder).read_state().labels.colors[1] == "#102030", timeout=3000
    )
    entries = open_project(folder).history.entries()
    assert [e.what for e in entries] == ["segmented", "reviewed", "not reviewed"]


def test_resuming_brings_everything_back_and_it_replays(
    segment_widget: Widget, scan_file: Path, qtbot: Any, projects: Path, tmp_path: Path, capsys: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    widget.holes.setChecked(True)
    qtbot.waitUntil(lambda: not widget.running)
    paint(widget, 2, 3)
    paint(widget, 5, 0)
    widget.current_mask.segmentation.reviewed.update({(0, 4), (0, 5)})
    widget.current_mask.color_organ(2, "#102030")
    before = widget.current_mask.segmentation
    qtbot.waitUntil(lambda: is_saved(widget), timeout=3000)
    (folder,) = projects.iterdir()

    # A second window may look, but not write.
    other_viewer, other = segment_widget()
    open_scan(other_viewer, scan_file)
    qtbot.waitUntil(lambda: not other.offer.isHidden(), timeout=5000)
    assert "(scribbler, 3 slices painted or accepted)" in other.offer.line.text()
    other.offer.resume.click()
    qtbot.waitUntil(lambda: "open in another window" in other.message.text(), timeout=5000)
    assert other.current_mask is None

    # The scan is found again whatever its file is called.
    viewer.layers.remove(widget.current_mask.layer)
    renamed = scan_file.rename(tmp_path / "moved.nii.gz")
    assert other.offer.resume.isEnabled()
    other_viewer.layers.clear()
    open_scan(other_viewer, renamed)
    other.model.setCurrentText("sided")
    qtbot.waitUntil(lambda: not other.offer.isHidden(), timeout=5000)
    other.offer.resume.click()
    qtbot.waitUntil(lambda: other.current_mask is not None, timeout=5000)
    after = other.current_mask.segmentation
    assert other.offer.isHidden()
    assert other.model.currentText() == "scribbler"
    assert other.holes.isChecked()
    assert other.current_mask.colors()[2][0] == "#102030"
    for name in ("shown", "raw", "finished", "reviewed", "clean_up"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)
    np.testing.assert_array_equal(after.by_person(), before.by_person())
    # And goes on in the same project.
    paint(other, 1, 1)
    qtbot.waitUntil(lambda: is_saved(other), timeout=3000)
    assert [path.name for path in projects.iterdir()] == [folder.name]
    other_viewer.layers.remove(other.current_mask.layer)
    main(["replay", str(folder), "-o", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["equal"] is True


@pytest.mark.parametrize("ends", ["killed", "closed"])
def test_what_is_saved_amid_a_run_replays(
    segment_widget: Widget,
    scan_file: Path,
    qtbot: Any,
    projects: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    slow_down(monkeypatch, 0.3)
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    widget.start.click()
    qtbot.waitUntil(
        lambda: bool(widget.current_mask and widget.current_mask.segmentation.finished),
        timeout=9000,
    )
    paint(widget, 2, 3)
    saved(qtbot, widget)
    first = saved(qtbot, widget)
    assert widget.running
    copy = tmp_path / "killed"
    shutil.copytree(first.path, copy)
    if ends == "closed":
        widget.parentWidget().close()
        viewer.layers.clear()
        copy = first.path
    state = open_project(copy).read_state()
    assert 0 < len(state.finished) < 6
    main(["replay", str(copy), "-o", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["equal"] is True


def begun(segment_widget: Widget, scan_file: Path, qtbot: Any) -> tuple[Any, Any, Any]:
    """A viewer, its widget, and the project that a first stroke on a scan was saved in."""
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    paint(widget, 2, 3)
    return viewer, widget, saved(qtbot, widget)


def test_a_mask_is_brought_back_while_the_window_goes_on(
    segment_widget: Widget, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget, _ = begun(segment_widget, scan_file, qtbot)
    viewer.layers.remove(widget.current_mask.layer)
    qtbot.waitUntil(lambda: not widget.offer.isHidden(), timeout=5000)
    made = []
    for kind in (Segmentation, ScriptWatch):

        def init(self: Any, *given: Any, init: Any = kind.__init__, **named: Any) -> None:
            made.append((type(self), threading.current_thread() is threading.main_thread()))
            init(self, *given, **named)

        monkeypatch.setattr(kind, "__init__", init)
    widget.offer.resume.click()
    qtbot.waitUntil(lambda: widget.current_mask is not None, timeout=5000)
    # Copies of a large scan take a second and more.
    assert made == [(Segmentation, False), (ScriptWatch, False)]
    # What a script writes is found as before.
    widget.current_mask.layer.data[4, 3:6] = 2
    folder = autosave_of(widget.current_mask).folder
    qtbot.waitUntil(lambda: (0, 4) in folder.read_state().touched, timeout=5000)


def test_slices_that_a_crash_kept_from_being_saved_are_not_reviewed(projects: Path) -> None:
    volume = Grid((4, 9, 5)).volume(np.arange(180).reshape(4, 9, 5))
    card = ModelCard("model", LabelSet.from_names({1: "one"}))
    there, missing, painted = (0, 0), (0, 1), (0, 2)
    both = frozenset({there, missing})
    state = ProjectState(
        identify(volume), volume.grid, "", 0, card, None, card.labels, CleanUp(),
        finished=both, reviewed=both, touched=both,
        unreviewed_organs=frozenset((at, 1) for at in both),
    )  # fmt: skip
    labels, nobody = np.ones((9, 5), np.uint8), np.zeros((9, 5), bool)
    slices = {
        there: SliceState(labels, nobody, labels),
        painted: SliceState(labels, ~nobody, labels),
    }
    project = ProjectFolder.create(state.scan)
    project.save(state, slices, [], volume)
    project.release()
    (work,) = read_work(project.path)
    assert work.segmentation.finished == {there}
    assert work.segmentation.reviewed == {there}
    assert work.segmentation.unreviewed_organs == {(there, 1)}
    # Which slices are painted is found out anew.
    assert work.segmentation.changed == {there, missing, painted}
    assert "slice 1 is missing or damaged" in work.problem
    work.folder.release()


def test_all_that_can_be_read_is_resumed_and_the_rest_is_named(
    segment_widget: Widget, scan_file: Path, qtbot: Any, tmp_path: Path, capsys: Any
) -> None:
    viewer, widget, folder = begun(segment_widget, scan_file, qtbot)
    paint(widget, 3, 1)
    paint(widget, 4, 1)
    widget.current_mask.segmentation.reviewed.add((0, 3))
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    shown = widget.current_mask.segmentation.shown.copy()
    viewer.layers.clear()
    (folder.path / "slices" / "0-2.npz").unlink()
    cut = folder.path / "slices" / "0-3.npz"
    cut.write_bytes(content := cut.read_bytes()[:50])
    open_scan(viewer, scan_file)
    qtbot.waitUntil(lambda: not widget.offer.isHidden(), timeout=5000)
    widget.offer.resume.click()
    qtbot.waitUntil(lambda: widget.current_mask is not None, timeout=5000)
    assert "slices 2, 3 are missing or damaged" in widget.message.text()
    segmentation = widget.current_mask.segmentation
    shown[0, 2:4] = 0
    np.testing.assert_array_equal(segmentation.shown, shown)
    assert segmentation.reviewed == set()
    assert segmentation.finished == {(0, 0), (0, 1), (0, 4), (0, 5)}
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    (kept,) = folder.path.glob("slices/0-3.damaged-*")
    assert kept.read_bytes() == content
    # From then on the project is whole, as it is.
    viewer.layers.clear()
    main(["replay", str(folder.path), "-o", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["equal"] is True
    (work,) = read_work(folder.path)
    assert not work.problem
    work.folder.release()


def test_starting_anew_leaves_the_old_work_where_it_is(
    segment_widget: Widget, scan_file: Path, qtbot: Any, projects: Path
) -> None:
    viewer, widget, first = begun(segment_widget, scan_file, qtbot)
    viewer.layers.clear()
    open_scan(viewer, scan_file)
    qtbot.waitUntil(lambda: not widget.offer.isHidden(), timeout=5000)
    widget.offer.anew.click()
    assert widget.offer.isHidden()
    run(qtbot, widget)
    paint(widget, 3, 1)
    second = saved(qtbot, widget)
    assert second.path != first.path
    assert open_project(first.path).read_state().touched == {(0, 2)}


def test_closing_the_window_saves_the_last_stroke(
    make_napari_viewer: Any, user_models: Path, scan_file: Path, qtbot: Any, projects: Path
) -> None:
    viewer = make_napari_viewer()
    # As a person opens it: the plugin's own view of the viewer hides the window.
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    widget.model.setCurrentText("scribbler")
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    paint(widget, 2, 3)
    shown = widget.current_mask.segmentation.shown.copy()
    viewer.close()
    (folder,) = projects.iterdir()
    again = open_project(folder)
    again.hold()
    slices, _ = again.read_slices(again.read_state())
    np.testing.assert_array_equal(slices.labels, shown)
    again.release()


def test_a_close_that_is_called_off_ends_nothing(
    make_napari_viewer: Any,
    user_models: Path,
    scan_file: Path,
    qtbot: Any,
    projects: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari._qt.qt_main_window import _QtMainWindow

    viewer = make_napari_viewer(show=True)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    widget.model.setCurrentText("scribbler")
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    paint(widget, 2, 3)
    with monkeypatch.context() as asked:
        # As napari does when it asks whether to close, and a person says no.
        asked.setattr(_QtMainWindow, "closeEvent", lambda _, event: event.ignore())
        assert not viewer.window._qt_window.close()
    # What was painted is safe already, and so is what is painted now.
    assert is_saved(widget)
    paint(widget, 3, 1)
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    shown = widget.current_mask.segmentation.shown.copy()
    viewer.close()
    (folder,) = projects.iterdir()
    again = open_project(folder)
    again.hold()
    np.testing.assert_array_equal(again.read_slices(again.read_state())[0].labels, shown)
    again.release()


def test_a_window_asks_before_it_closes_over_work_that_cannot_be_saved(
    make_napari_viewer: Any,
    user_models: Path,
    scan_file: Path,
    qtbot: Any,
    projects: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_l2gnet.saving.closing._UNSEEN", ())
    monkeypatch.setattr("napari_l2gnet.saving.autosave._RETRY_AFTER", 0.2)
    projects.write_text("a file where a folder should be")
    viewer = make_napari_viewer(show=True)
    names = ("Segment", "Inspect", "Correct & fine-tune")
    widgets = [viewer.window.add_plugin_dock_widget(PLUGIN, name)[1] for name in names]
    widget = widgets[0]
    widget.model.setCurrentText("scribbler")
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    paint(widget, 2, 3)
    for one in widgets:
        qtbot.waitUntil(lambda one=one: "is not being saved" in one.message.text(), timeout=5000)
        # Whatever else is said.
        one.show_message("Something.")
        assert "is not being saved" in one.message.text()
    asked = []

    def answer(button: str) -> None:
        box = QApplication.activeModalWidget()
        asked.append(f"{box.text()} {box.informativeText()}")
        next(one for one in box.buttons() if one.text() == button).click()

    QTimer.singleShot(0, lambda: answer("Stay"))
    assert not viewer.window._qt_window.close()
    assert len(asked) == 1
    assert widget.current_mask.layer.name in asked[0]
    assert str(projects) in asked[0]
    assert "Save mask" in asked[0]
    # Once there is room nothing is asked, and nothing is said any more.
    projects.unlink()
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    for one in widgets:
        qtbot.waitUntil(lambda one=one: "is not being saved" not in one.message.text())
    reached: list[Any] = []

    def stay_open(_: Any, event: Any) -> None:
        """As where napari asks, too, and a person thinks better of it."""
        reached.append(event)
        event.ignore()

    with monkeypatch.context() as patch:
        patch.setattr("napari._qt.qt_main_window._QtMainWindow.closeEvent", stay_open)
        viewer.window._qt_window.close()
        assert (len(asked), len(reached)) == (1, 1)
        patch.setattr(Autosave, "save_now", lambda _: fail("The disk is full."))
        QTimer.singleShot(0, lambda: answer("Close anyway"))
        viewer.window._qt_window.close()
        assert (len(asked), len(reached)) == (2, 2)
        assert "The disk is full." in asked[1]


def fail(text: str) -> None:
    raise OutputError(text)


@pytest.mark.parametrize("fails", [False, True])
def test_closing_while_a_save_is_under_way_loses_nothing(
    segment_widget: Widget,
    scan_file: Path,
    qtbot: Any,
    projects: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    paint(widget, 2, 3)
    with qtbot.waitSignal(autosave_of(widget.current_mask).saved, timeout=10_000):
        pass
    begun = threading.Event()
    write = ProjectFolder.save

    def slow(folder: ProjectFolder, *what: Any) -> None:
        first = not begun.is_set()
        begun.set()
        if first:
            time.sleep(0.5)
        if first and fails:
            raise OutputError("The disk is full for a moment.")
        write(folder, *what)

    monkeypatch.setattr(ProjectFolder, "save", slow)
    # More than one save has time for: the rest is in nobody's hands but its own.
    monkeypatch.setattr("napari_l2gnet.saving.autosave._SAVE_EVERY", 0.0)
    segmentation = widget.current_mask.segmentation
    for place in segmentation.places:
        segmentation.slice_of(segmentation.shown, place)[0, 0] = 2
        segmentation.slice_of(segmentation.stroked, place)[0, 0] = True
    segmentation.answered |= set(segmentation.places)
    assert begun.wait(0) or qtbot.waitUntil(begun.is_set, timeout=5000) is None
    shown = segmentation.shown.copy()
    viewer.layers.remove(widget.current_mask.layer)
    (folder,) = projects.iterdir()
    again = open_project(folder)
    again.hold()
    np.testing.assert_array_equal(again.read_slices(again.read_state())[0].labels, shown)
    again.release()


def test_a_mask_deleted_by_mistake_is_offered_again(
    segment_widget: Widget, scan_file: Path, qtbot: Any, projects: Path
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    paint(widget, 2, 3)
    shown = widget.current_mask.segmentation.shown.copy()
    viewer.layers.remove(widget.current_mask.layer)
    qtbot.waitUntil(lambda: not widget.offer.isHidden(), timeout=5000)
    widget.offer.resume.click()
    qtbot.waitUntil(lambda: widget.current_mask is not None, timeout=5000)
    np.testing.assert_array_equal(widget.current_mask.segmentation.shown, shown)


def test_segment_goes_on_along_the_axis_of_a_mask(
    segment_widget: Widget, scan_file: Path, qtbot: Any, projects: Path
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    automatic = widget.current_mask
    widget.axis.setCurrentIndex(widget.axis.findData(2))
    last = widget.last.maximum()
    run(qtbot, widget)
    paint(widget, 2, 3)
    viewer.layers.selection.active = automatic.layer
    assert widget.axis.currentData() == automatic.segmentation.axis == 0
    viewer.layers.selection.active = viewer.layers[-1]
    assert (widget.axis.currentData(), widget.last.value()) == (2, last)
    viewer.layers.remove(widget.current_mask.layer)
    widget.axis.setCurrentIndex(0)
    qtbot.waitUntil(lambda: not widget.offer.isHidden(), timeout=5000)
    widget.offer.resume.click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=5000)
    assert (widget.axis.currentData(), widget.last.value()) == (2, last)


def test_a_disk_that_fails_is_told_once_and_tried_again(
    segment_widget: Widget,
    scan_file: Path,
    qtbot: Any,
    tmp_path: Path,
    projects: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_l2gnet.saving.autosave.show_error", told.append)
    monkeypatch.setattr("napari_l2gnet.saving.autosave._RETRY_AFTER", 0.2)
    projects.write_text("a file where a folder should be")
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    paint(widget, 2, 3)
    qtbot.waitUntil(lambda: "not being saved" in widget.message.text(), timeout=5000)
    paint(widget, 3, 1)
    qtbot.wait(600)
    assert len(told) == 1
    assert str(projects) in told[0]
    projects.unlink()
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    qtbot.waitUntil(lambda: "not being saved" not in widget.message.text(), timeout=5000)
    assert [e.what for e in autosave_of(widget.current_mask).folder.history.entries()] == [
        "segmented"
    ]


@pytest.mark.parametrize("loss", ["deleted", "older", "opened elsewhere"])
def test_work_whose_folder_is_lost_while_it_is_open_is_saved_again(
    segment_widget: Widget,
    scan_file: Path,
    qtbot: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    loss: str,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_l2gnet.saving.autosave.show_warning", told.append)
    viewer, widget, folder = begun(segment_widget, scan_file, qtbot)
    autosave, path = autosave_of(widget.current_mask), folder.path
    widget.current_mask.segmentation.reviewed.add((0, 4))
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    older = Path(shutil.copytree(path, tmp_path / "older"))
    paint(widget, 3, 1)
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    if loss == "opened elsewhere":
        shutil.rmtree(older)
        shutil.copytree(path, older)
    shutil.rmtree(path)
    if loss != "deleted":
        shutil.copytree(older, path)
    other = ProjectFolder(path)
    if loss == "opened elsewhere":
        other.hold()
    paint(widget, 5, 2)
    qtbot.waitUntil(lambda: autosave.folder is not folder and is_saved(widget), timeout=5000)
    assert len(told) == 1
    assert str(autosave.folder.path) in told[0]
    assert (autosave.folder.path == path) == (loss == "deleted")
    if loss == "opened elsewhere":
        assert other.is_as_left()
        other.release()
    # Going on is as before, and so is coming back.
    paint(widget, 1, 1)
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    assert len(told) == 1
    viewer.layers.remove(widget.current_mask.layer)
    main(["replay", str(autosave.folder.path), "-o", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["equal"] is True


@pytest.mark.parametrize("strokes", [0, 1])
def test_closing_saves_work_whose_folder_was_deleted(
    segment_widget: Widget, scan_file: Path, qtbot: Any, strokes: int
) -> None:
    viewer, widget, folder = begun(segment_widget, scan_file, qtbot)
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    shutil.rmtree(folder.path)
    autosave = autosave_of(widget.current_mask)
    for _ in range(strokes):
        paint(widget, 3, 1)
    shown = widget.current_mask.segmentation.shown.copy()
    viewer.layers.clear()
    again = open_project(autosave.folder.path)
    np.testing.assert_array_equal(again.read_slices(again.read_state())[0].labels, shown)


def test_a_mask_that_is_put_back_is_saved_again(
    segment_widget: Widget, scan_file: Path, qtbot: Any
) -> None:
    viewer, widget, folder = begun(segment_widget, scan_file, qtbot)
    layer = widget.current_mask.layer
    for index in (3, 4):
        viewer.layers.remove(layer)
        viewer.layers.append(layer)
        viewer.layers.selection.active = layer
        assert widget.current_mask.layer is layer
        paint(widget, index, 1)
        qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
        assert autosave_of(widget.current_mask).folder is folder


def test_a_mask_deleted_while_nothing_can_be_saved_is_saved_later(
    segment_widget: Widget,
    scan_file: Path,
    qtbot: Any,
    projects: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_l2gnet.saving.autosave.show_error", told.append)
    monkeypatch.setattr("napari_l2gnet.saving.autosave._RETRY_AFTER", 0.2)
    projects.write_text("a file where a folder should be")
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    paint(widget, 2, 3)
    autosave = autosave_of(widget.current_mask)
    shown = widget.current_mask.segmentation.shown.copy()
    viewer.layers.clear()
    assert "Saving is tried again" in told[-1]
    qtbot.wait(400)
    assert not autosave.closed
    projects.unlink()
    qtbot.waitUntil(lambda: autosave.closed, timeout=5000)
    again = open_project(autosave.folder.path)
    again.hold()
    np.testing.assert_array_equal(again.read_slices(again.read_state())[0].labels, shown)
    again.release()


@pytest.mark.parametrize("missing", [True, False])
def test_work_is_resumed_without_its_history(
    segment_widget: Widget, scan_file: Path, qtbot: Any, missing: bool
) -> None:
    viewer, widget, folder = begun(segment_widget, scan_file, qtbot)
    model = widget.current_mask.segmentation.model
    paint(widget, 3, 1)
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    shown = widget.current_mask.segmentation.shown.copy()
    viewer.layers.clear()
    history = folder.path / "history.jsonl"
    if missing:
        history.unlink()
    else:
        # The line that names the model and its line break are gone.
        history.write_bytes(b"\0" * history.stat().st_size + b"\n")
    open_scan(viewer, scan_file)
    qtbot.waitUntil(lambda: not widget.offer.isHidden(), timeout=5000)
    widget.offer.resume.click()
    qtbot.waitUntil(lambda: widget.current_mask is not None, timeout=5000)
    assert f"{history}, but some are missing or damaged" in widget.message.text()
    np.testing.assert_array_equal(widget.current_mask.segmentation.shown, shown)
    # The model is still known by its weights.
    (version,) = annotation_of(widget.current_mask).versions
    assert id_of(load_model(version.path)) == id_of(model)
    paint(widget, 4, 1)
    qtbot.waitUntil(lambda: is_saved(widget), timeout=5000)
    assert folder.read_state().touched == {(0, 2), (0, 3), (0, 4)}


def test_a_damaged_project_is_told_and_not_offered(
    segment_widget: Widget, scan_file: Path, qtbot: Any, projects: Path
) -> None:
    viewer, widget, folder = begun(segment_widget, scan_file, qtbot)
    viewer.layers.clear()
    (folder.path / "project.json").write_text("{")
    open_scan(viewer, scan_file)
    qtbot.waitUntil(lambda: not widget.offer.isHidden(), timeout=5000)
    assert "missing or damaged" in widget.offer.line.text()
    assert widget.offer.resume.isHidden()
    widget.offer.anew.click()
    assert widget.offer.isHidden()
    # Nor does it hide good work.
    run(qtbot, widget)
    paint(widget, 3, 1)
    saved(qtbot, widget)
    viewer.layers.clear()
    os.utime(folder.path)
    open_scan(viewer, scan_file)
    qtbot.waitUntil(lambda: not widget.offer.isHidden(), timeout=5000)
    assert "1 slice painted or accepted" in widget.offer.line.text()
    assert "missing or damaged" in widget.offer.line.text()
    assert not widget.offer.resume.isHidden()


def test_a_look_at_a_mask_that_is_saved_does_not_ask_for_its_colours(
    qapp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Grid((4, 9, 5)).volume(np.arange(180).reshape(4, 9, 5))
    card = ModelCard("model", LabelSet.from_names({1: "one"}))
    viewer = ViewerModel()
    mask = MaskLayer.add(viewer, viewer.add_image(volume.data), volume.grid, card, 0)
    autosave = keep(mask, volume)
    mask.segmentation.reviewed.add((0, 1))
    autosave.save_now()
    asked, colors = [], MaskLayer.colors
    monkeypatch.setattr(MaskLayer, "colors", lambda mask: asked.append(1) or colors(mask))
    for _ in range(3):
        autosave._look()
    assert autosave._job is None
    assert not asked
    mask.color_organ(1, "#102030")
    autosave.save_now()
    assert autosave.folder.read_state().labels.colors[1] == "#102030"
    viewer.layers.clear()


LABEL, PIXEL = st.integers(0, 3), st.integers(0, 8)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["stroke", "script", "answer"]), st.integers(0, 2), LABEL, PIXEL),
    st.tuples(st.sampled_from(["undo", "redo", "save", "look", "resume"])),
    st.tuples(st.just("review"), st.integers(0, 2)),
)


@settings(max_examples=25, deadline=None)
@example(
    axis=0, steps=[("stroke", 0, 0, 0), ("stroke", 0, 0, 0), ("review", 0), ("answer", 0, 0, 0)]
)
@given(axis=st.integers(0, 2), steps=st.lists(STEPS, max_size=12))
def test_any_order_of_doing_and_saving_comes_back(
    qapp: Any, tmp_path_factory: Any, axis: int, steps: list[Any]
) -> None:
    card = ModelCard("model", LabelSet.from_names({1: "one", 2: "two", 3: "three"}))
    volume = Grid((4, 9, 5)).volume(np.arange(180).reshape(4, 9, 5))
    viewer = ViewerModel()
    image = viewer.add_image(volume.data)
    mask = MaskLayer.add(viewer, image, volume.grid, card, axis)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2GNET_PROJECTS", str(tmp_path_factory.mktemp("projects")))
        autosave = keep(mask, volume)
        WorkerBase.await_workers(10_000)

        def resumed() -> tuple[MaskLayer, Autosave]:
            if not autosave.begun:
                return mask, autosave
            before = mask.segmentation
            viewer.layers.remove(mask.layer)
            (work,) = read_work(autosave.folder.path)
            again = work.segmentation
            for name in ("shown", "raw", "finished", "reviewed"):
                np.testing.assert_array_equal(getattr(again, name), getattr(before, name))
            np.testing.assert_array_equal(again.by_person(), before.by_person())
            new = MaskLayer.show(viewer, image, again, work.state.labels)
            return new, keep(new, volume, None, work.folder)

        for name, *rest in steps:
            layer, segmentation = mask.layer, mask.segmentation
            if name in ("stroke", "script", "answer"):
                index, label, pixel = rest
                where = [pixel % 4, pixel, pixel % 5]
                where[axis] = index
                if name == "stroke":
                    layer.data_setitem(tuple(np.array([i]) for i in where), label)
                elif name == "script":
                    layer.data[tuple(where)] = label
                else:
                    answer = np.full_like(slice_of(segmentation.raw, (0, index), axis), label)
                    mask.put((0, index), answer)
            elif name == "review":
                segmentation.reviewed.symmetric_difference_update({(0, rest[0])})
            elif name == "save":
                autosave.save_now()
            elif name == "look":
                autosave._scripts.check(0.0)
                autosave._queue.copy_changed(0.0)
            elif name == "resume":
                mask, autosave = resumed()
            else:
                getattr(layer, name)()
        mask, autosave = resumed()
        viewer.layers.clear()
