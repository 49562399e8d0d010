"""The Correct & fine-tune widget in a real viewer: the whole loop, and what must never happen."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import NAMES, save_untrained
from correcting import bright, correct_slice, ends, fine_tune
from gui import is_saved, open_scan, run, slow_down
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QApplication, QComboBox, QTableWidget
from total_segmentator import write_total_segmentator

from l2gnet_core.errors import InputError
from l2gnet_core.finetuning.guard import Evidence, Improvement, Verdict
from l2gnet_core.finetuning.run import FineTuneProgress
from l2gnet_core.models.catalog import models
from l2gnet_core.models.checkpoint import load_model
from l2gnet_core.models.weights import weights_hash
from l2gnet_core.project.events import Answered
from l2gnet_core.scans.labels import Label
from napari_l2gnet.annotating.annotation import Proposal, Version
from napari_l2gnet.annotating.learning import learn, model_of
from napari_l2gnet.annotating.preview import AFTER, BEFORE, CHANGES, Preview
from napari_l2gnet.annotating.task_events import Answer, SliceShown, Step, TaskEvent
from napari_l2gnet.annotating.tasks import annotation_of, fine_tuning
from napari_l2gnet.correct.organ_dialog import OrganDialog
from napari_l2gnet.correct.proposals import bring_organs
from napari_l2gnet.correct.slice_queue import SLICE, SliceQueue
from napari_l2gnet.correct.widget import CorrectWidget
from napari_l2gnet.jobs.session import Session
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.organs import UNMARKED
from napari_l2gnet.masks.script_watch import ScriptWatch
from napari_l2gnet.saving.autosave import autosave_of
from napari_l2gnet.scans.layers import LABELS_KEY


def states(widget: CorrectWidget) -> dict[int, str]:
    return {int(slice): state for slice, _, state in widget.queue.rows()}


def test_the_whole_loop(correct_widget: Any, qtbot: Any) -> None:
    viewer, _, widget = correct_widget()
    layer = widget.current_mask.layer
    first = layer.data.copy()
    widget.review.go_to((0, 2))
    correct_slice(viewer, widget, 2)
    qtbot.waitUntil(lambda: states(widget)[2] == "✓ reviewed")
    assert widget.reviewed.format() == "Reviewed 1 / 6"
    assert widget.start.text() == "Fine-tune on 1 slice"
    widget.review.go_to((0, 4))
    layer.data_setitem((np.full(9, 4), *np.mgrid[0:3, 0:3].reshape(2, -1)), 3)
    qtbot.waitUntil(lambda: states(widget)[4] == "edited")
    assert widget.start.text() == "Fine-tune on 2 slices"
    corrected = layer.data.copy()
    mine = widget.current_mask.segmentation.by_person().copy()

    # A single accepted slice: nothing can be left out, and the verdict says so.
    widget.annotation.review((0, 2))
    layer.undo()
    qtbot.waitUntil(lambda: states(widget)[4] == "–")
    assert fine_tune(qtbot, widget) == "finished", widget.message.text()
    assert "weak evidence" in widget.verdict.text()
    layer.redo()
    assert widget.curve.points[0] > 0
    assert widget.curve.points[1] > 0

    # The preview is beside the mask, not in it.
    np.testing.assert_array_equal(layer.data, corrected)
    assert widget.annotation.preview.mode == AFTER
    assert layer.opacity == 0
    assert viewer.layers.selection.active is layer
    widget.next_slice.click()
    assert layer.opacity == 0
    qtbot.waitUntil(lambda: widget.annotation.preview.update_some(0))
    preview = viewer.layers[-1].data.copy()
    np.testing.assert_array_equal(preview[mine[0]], corrected[mine[0]])
    widget.show_view(CHANGES)
    qtbot.waitUntil(lambda: widget.annotation.preview.update_some(0))
    np.testing.assert_array_equal(viewer.layers[-1].data == 1, preview != corrected)
    widget.show_view(BEFORE)
    assert layer.opacity == pytest.approx(0.6)

    # What is painted while a preview waits is a person's, too.
    layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 2)
    corrected, mine = layer.data.copy(), widget.current_mask.segmentation.by_person().copy()[0]
    mine[2] = True
    count = len(viewer.layers)
    widget.show_view(AFTER)
    widget.accept.click()
    # To take a layer away takes napari half a second: it is hidden until nobody does anything.
    assert [one.visible for one in viewer.layers] == [True] * (count - 2) + [False] * 2
    assert layer.opacity == pytest.approx(0.6)
    qtbot.waitUntil(lambda: len(viewer.layers) == count - 2)
    assert "v1 accepted" in widget.message.text()
    accepted = layer.data.copy()
    assert (accepted != corrected).any()
    np.testing.assert_array_equal(accepted[mine], corrected[mine])
    assert widget.version.currentText().startswith("v1")
    layer.visible = False  # napari draws nothing, and says nothing
    layer.undo()
    np.testing.assert_array_equal(layer.data, corrected)
    qtbot.waitUntil(lambda: widget.version.currentText().startswith("original"))
    # What was said of an answer goes with it.
    assert "accepted" not in widget.message.text()
    layer.redo()
    np.testing.assert_array_equal(layer.data, accepted)
    qtbot.waitUntil(lambda: widget.version.currentText().startswith("v1"))
    layer.visible = True

    # Back to the first answer, except where a person decided.
    assert ends(qtbot, widget, widget.roll_back.click) == "finished"
    np.testing.assert_array_equal(layer.data, np.where(mine, corrected, first))
    assert widget.version.currentText().startswith("original")
    assert not widget.roll_back.isEnabled()
    assert "Switched to original" in widget.message.text()
    layer.undo()
    qtbot.waitUntil(lambda: "Switched to" not in widget.message.text())
    layer.redo()
    # Every version is one click away.
    assert ends(qtbot, widget, lambda: widget.version.activated.emit(1)) == "finished"
    np.testing.assert_array_equal(layer.data, accepted)


def test_a_model_that_does_not_help_is_not_kept(correct_widget: Any, qtbot: Any) -> None:
    viewer, _, widget = correct_widget()
    before = widget.current_mask.layer.data.copy()
    for index in (1, 3):  # as the model has it: there is nothing to be learnt
        widget.review.go_to((0, index))
        widget.review.accept_slice()
    assert fine_tune(qtbot, widget) == "finished"
    assert "The old model is kept" in widget.message.text()
    assert widget.annotation.proposal is None
    assert widget.proposal.isHidden()
    names = ["scan", "scan · scribbler"]
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == names)
    assert widget.current_mask.layer.opacity == pytest.approx(0.6)
    np.testing.assert_array_equal(widget.current_mask.layer.data, before)


def test_cancel_leaves_everything_as_it_was_and_keeps_what_is_painted(
    correct_widget: Any, qtbot: Any
) -> None:
    viewer, _, widget = correct_widget()
    correct_slice(viewer, widget, 2)
    layer = widget.current_mask.layer
    widget.seconds.setValue(12)
    widget.start.click()
    assert not widget.start.isEnabled()
    assert "Cancel it first" in widget.start.toolTip()
    qtbot.waitUntil(lambda: widget.annotation.preview is not None, timeout=60_000)
    qtbot.waitUntil(lambda: widget.annotation.preview.mode == AFTER, timeout=60_000)
    # Painting goes on, and shows in the preview.
    layer.data_setitem((np.full(4, 2), *np.mgrid[0:2, 0:2].reshape(2, -1)), 3)
    assert (viewer.layers[-1].data[2, :2, :2] == 3).all()
    painted = layer.data.copy()
    assert ends(qtbot, widget, widget.cancel.click) == "cancelled"
    np.testing.assert_array_equal(layer.data, painted)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    assert layer.opacity == pytest.approx(0.6)
    assert widget.annotation.versions[1:] == []
    assert widget.start.isEnabled()


def test_nothing_else_writes_to_a_mask_that_is_being_segmented(
    correct_widget: Any, qtbot: Any
) -> None:
    _, segment, widget = correct_widget()
    assert widget.interpolate.isEnabled()
    with qtbot.waitSignal(segment.run_ended, timeout=60_000):
        segment.start.click()
        assert widget.annotation.job == "Segmenting"
        assert not widget.interpolate.isEnabled()
        assert widget.interpolate.toolTip() == "A job is running (Segmenting). Cancel it first."
    qtbot.waitUntil(lambda: widget.interpolate.isEnabled())
    segment.start.click()
    segment.close()
    assert widget.interpolate.isEnabled()


def test_a_widget_opened_late_shows_the_truth_and_a_closed_one_takes_its_job_along(
    correct_widget: Any, qtbot: Any
) -> None:
    viewer, _, widget = correct_widget()
    correct_slice(viewer, widget, 2)
    widget.seconds.setValue(60)
    widget.start.click()
    late = CorrectWidget(viewer, widget.session)
    qtbot.addWidget(late)
    assert states(late)[2] == "✓ reviewed"
    assert "Fine-tuning" in late.start.toolTip()
    late.review.go_to((0, 3))
    late.review.accept_slice()
    assert states(widget)[3] == "✓ reviewed"
    widget.close()
    assert late.start.isEnabled()
    assert late.annotation.proposal is None
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    late.close()


def test_keys_accept_go_on_and_are_free_again_after_closing(
    correct_widget: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, _, widget = correct_widget()
    keys = {str(key): action for key, action in viewer.keymap.items()}
    assert {"K", "N", "G"} <= set(keys)
    widget.review.go_to((0, 0))
    keys["K"](viewer)
    assert widget.current_mask.segmentation.reviewed == {(0, 0)}
    keys["K"](viewer)
    assert not widget.current_mask.segmentation.reviewed
    queue = widget.annotation.queue
    widget.current_mask.go_to_place(queue[-1])
    seen = []
    for _ in range(3):
        keys["N"](viewer)
        seen.append(widget.current_mask.place)
    assert seen == queue[:3]
    keys["G"](viewer)  # there is no preview: nothing happens
    # Behind another tab they work, too, and say so where it is seen.
    told: list[str] = []
    monkeypatch.setattr("napari_l2gnet.correct.slice_review.show_info", told.append)
    widget.seen.emit(False)
    keys["K"](viewer)
    keys["K"](viewer)
    index = queue[2][1]
    assert told == [
        f"Slice {index} is accepted. Press K again to undo.",
        f"Slice {index} is no longer accepted.",
    ]
    widget.seen.emit(True)
    keys["K"](viewer)
    assert len(told) == 2
    widget.close()
    assert not {"K", "N", "G"} & {str(key) for key in viewer.keymap}


def test_closing_the_dock_stops_what_is_under_way(correct_widget: Any, qtbot: Any) -> None:
    viewer, _, widget = correct_widget()
    correct_slice(viewer, widget, 2)
    annotation = widget.annotation
    widget.seconds.setValue(60)
    widget.start.click()
    assert annotation.job
    viewer.window.remove_dock_widget(widget)
    assert not annotation.job
    assert not {"K", "N", "G"} & {str(key) for key in viewer.keymap}


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_slices_of_the_queue_are_shown_however_the_viewer_cuts(
    correct_widget: Any, order: tuple[int, int, int]
) -> None:
    viewer, _, widget = correct_widget()
    viewer.dims.order = order
    widget.review.accept_slice()
    assert not widget.current_mask.segmentation.reviewed
    assert "slices the scan along another axis" in widget.message.text()
    widget.review.go_to((0, 3))
    assert viewer.dims.order == (0, 1, 2)
    assert widget.current_mask.place == (0, 3)
    viewer.dims.ndisplay = 3
    widget.review.go_to((0, 1))
    assert (viewer.dims.ndisplay, widget.current_mask.place) == (2, (0, 1))
    widget.review.accept_slice()
    assert widget.current_mask.segmentation.reviewed == {(0, 1)}


def test_painting_with_the_background_chooses_no_other_organ(correct_widget: Any) -> None:
    _, _, widget = correct_widget()
    layer = widget.current_mask.layer
    for label, chosen in ((2, 2), (0, 2), (77, 77), (0, 2), (77, 77), (3, 3), (0, 3)):
        layer.selected_label = label
        assert widget.organ.currentData() == chosen
    widget.organ.setCurrentIndex(widget.organ.count() - 1)
    layer.selected_label = 0
    assert widget.organ.currentData() is None


def test_a_label_that_is_no_organ_says_so_until_it_is_named(
    correct_widget: Any, qtbot: Any
) -> None:
    _, _, widget = correct_widget()
    layer, index = widget.current_mask.layer, widget.current_mask.place[1]
    layer.selected_label = 7
    assert widget.organ.currentText() == "label 7 (no organ)"
    assert "Label 7 is no organ: press New … to name it" in widget.message.text()
    assert "Label 7 is no organ" in widget.interpolate.toolTip()
    assert not widget.edit_organ.isEnabled()
    layer.paint((index, 12, 12), 7)
    qtbot.waitUntil(widget.start.isEnabled)
    widget.start.click()
    assert f"Label 7 in slice {index} belongs to no organ; press New …" in widget.message.text()
    assert not widget.running
    widget.add_organ.click()
    (dialog,) = widget.findChildren(OrganDialog)
    dialog.name.setText("cyst")
    assert dialog.organ.id == 7
    dialog.accept()
    assert widget.organ.currentText() == "cyst"
    assert "no organ" not in widget.message.text()
    assert widget.edit_organ.isEnabled()


def test_an_accepted_slice_that_undo_changes_elsewhere_is_to_be_checked_again(
    correct_widget: Any, qtbot: Any
) -> None:
    viewer, _, widget = correct_widget()
    correct_slice(viewer, widget, 4)
    widget.review.go_to((0, 1))
    qtbot.waitUntil(lambda: states(widget)[4] == "✓ reviewed")
    widget.current_mask.layer.undo()
    said = "The accepted slice 4 was changed by undo. Check it again."
    qtbot.waitUntil(lambda: widget.message.text() == said)
    assert states(widget)[4] == "–"
    widget.review.go_to((0, 4))
    widget.review.accept_slice()
    assert not widget.message.text()


def test_an_accepted_slice_that_a_brush_changes_elsewhere_is_to_be_checked_again(
    correct_widget: Any, qtbot: Any
) -> None:
    viewer, _, widget = correct_widget()
    correct_slice(viewer, widget, 4)
    widget.review.go_to((0, 3))
    layer = widget.current_mask.layer
    layer.n_edit_dimensions, layer.brush_size = 3, 24
    layer.paint((3, 20, 20), 9)
    said = "The accepted slice 4 was changed by painting. Check it again."
    qtbot.waitUntil(lambda: widget.message.text().startswith(said))
    assert states(widget)[4] == "edited"
    # Nor does it go before anything else is done.
    ScriptWatch(widget.current_mask.segmentation, as_saved=False).check(float("inf"))
    widget.tell_again()
    assert widget.message.text().startswith(said)
    layer.undo()
    qtbot.waitUntil(lambda: states(widget)[4] == "✓ reviewed")
    assert not widget.message.text()


def test_the_verdict_stays_with_its_proposal(correct_widget: Any, qtbot: Any) -> None:
    viewer, _, widget = correct_widget()
    annotation, raw = widget.annotation, widget.current_mask.segmentation.raw
    dice = Improvement({"a": 0.7}, {"a": 0.8})
    verdict = Verdict(True, "Kept.", Evidence(1.0, 5, dice, None, None))
    model = SimpleNamespace(card=annotation.segmentation.card)
    result = SimpleNamespace(verdict=verdict, model=model)
    learnt: Any = SimpleNamespace(parent=model, config=None, result=result)
    answer = Answer(raw.copy(), raw.copy(), Answered("accepted", model, []), {})
    proposal = Proposal("scan", raw.copy(), {(0, 0)}, (), learnt, answer=answer)
    annotation.propose(proposal)
    annotation.preview = Preview(widget.current_mask, annotation)
    annotation.preview.show(AFTER)
    said = "+0.100 Dice (0.700 to 0.800). This was measured in short test runs"
    widget.review.accept_slice()
    assert "You see the preview, not the mask" in widget.message.text()
    assert said in widget.verdict.text()
    viewer.layers.remove(viewer.layers[-1])
    assert annotation.preview.mode == BEFORE
    assert not widget.message.text()
    late = CorrectWidget(viewer, widget.session)
    qtbot.addWidget(late)
    assert said in late.verdict.text()
    late.close()
    annotation.preview.remove()
    annotation.preview = None
    annotation.propose(None)
    assert widget.proposal.isHidden()
    assert not widget.verdict.text()
    # The list of versions says no more of them.
    for name, before, after in (("v1", 0.7, 0.8), ("v2", 0.8, 0.802), ("v3", 0.0, 0.02)):
        evidence = Evidence(1.0, 5, Improvement({"a": before}, {"a": after}), None, None)
        one = replace(verdict, evidence=evidence)
        annotation.add_version(Version(name, "scan", 0, verdict=one))
    assert [widget.version.itemText(n) for n in (1, 2, 3)] == [
        "v1 · +0.100 Dice in test runs · this scan",
        "v2 · no clear change in test runs · this scan",
        "v3 · hardly learnt in test runs · this scan",
    ]


def test_time_left_is_that_of_learning_and_of_the_segmentation_that_follows(
    correct_widget: Any,
) -> None:
    _, _, widget = correct_widget()
    widget.review.accept_slice()
    segmentation = widget.current_mask.segmentation
    assert segmentation.slice_seconds is not None  # from the widget Segment

    def events(seconds: float, each: float | None) -> list[TaskEvent]:
        segmentation.slice_seconds = each
        task = fine_tuning([widget.current_mask], "scan", seconds, True)
        return list(learn(widget.session, task))

    known = events(0.1, 100.0)
    steps = [event for event in known if isinstance(event, Step)]
    done = [step.done for step in steps if step.message.startswith(("L", "C", "S"))]
    assert done == sorted(done)
    assert {"Looking at the scan", "Checking the new model"} <= {step.message for step in steps}
    learning = [step for step in steps if step.message == "Learning"]
    assert all(600 <= step.seconds_left < 610 for step in learning)
    # It took less this time.
    *_, last = (event.slice_seconds for event in known if isinstance(event, SliceShown))
    assert last < 10
    assert "s left, then segmenting" in " ".join(map(str, events(1.0, None)))


def test_what_came_of_a_job_and_its_curve_belong_to_their_mask(
    correct_widget: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, _, widget = correct_widget()
    mask, ended = widget.current_mask, []

    def broken(*_: Any, **__: Any) -> Iterator[Any]:
        step = FineTuneProgress("learning", 1, done=0, seconds=0, seconds_left=1, loss=0.5)
        while not ended:
            yield step
            time.sleep(0.01)
        raise InputError("Expected a good day, but it is none; try tomorrow.")

    monkeypatch.setattr("l2gnet_core.finetuning.run.finetune", broken)
    widget.review.accept_slice()
    widget.start.click()
    qtbot.waitUntil(lambda: any(widget.curve.points))
    assert not widget.curve.isHidden()
    image, segmentation = viewer.layers[0], mask.segmentation
    card = replace(segmentation.card, name="another")
    other = MaskLayer.add(viewer, image, segmentation.grid, card, segmentation.axis)
    widget.layer.choose(other.layer)
    assert widget.curve.isHidden()
    assert ends(qtbot, widget, lambda: ended.append(True)) == "failed"
    assert "scan · scribbler: Expected a good day" in widget.message.text()
    widget.layer.choose(mask.layer)
    assert ">Expected a good day" in widget.message.text()
    assert not widget.curve.isHidden()
    widget.layer.choose(other.layer)
    assert not widget.message.text()


def test_a_brush_on_the_slice_on_screen_is_there_to_be_taught(
    correct_widget: Any, qtbot: Any
) -> None:
    _, _, widget = correct_widget()
    layer, index = widget.current_mask.layer, widget.current_mask.place[1]
    layer.brush_size = 7
    # In a window on screen napari draws no more than the stroke, and tells of no more.
    with layer.events.set_data.blocker():
        layer.paint((index, 12, 12), 2)

    def edited() -> list[str]:
        return [name for name, _, state in widget.queue.rows() if state == "edited"]

    qtbot.waitUntil(lambda: edited() == [str(index)])
    assert widget.start.isEnabled()


def test_slices_accepted_before_an_organ_was_added_say_nothing_of_it(
    correct_widget: Any, qtbot: Any, tmp_path: Path
) -> None:
    viewer, _, widget = correct_widget()
    layer, annotation = widget.current_mask.layer, widget.annotation
    box = np.mgrid[5:15, 5:15].reshape(2, -1)
    for index in (1, 4):
        layer.data_setitem((np.full(100, index), *box), 2)
    correct_slice(viewer, widget, 3)
    widget.organs.put(Label(4, "aorta", "#0072b2"), new=True)
    assert "accepted before (1) do not say where it is" in widget.message.text()
    for index in (2, 5):
        layer.data_setitem((np.full(100, index), *box), 4)
    assert annotation.between(0, 4) == (2, 5)
    assert annotation.between(0, 2) == (1, 3, 4)
    assert annotation.between(0, None) == (1, 2, 4, 5)
    (lesson,) = annotation.lessons(False, annotation.segmentation.card.labels.names)
    assert (lesson.labels[3] == UNMARKED).any()
    assert not (lesson.labels[3] == 0).any()
    # It is known after a restart, too.
    qtbot.waitUntil(lambda: is_saved(widget), timeout=20_000)
    assert autosave_of(widget.current_mask).folder.read_state().unreviewed_organs == {((0, 3), 4)}
    # Accepted again, it says that the organ is not here.
    widget.review.go_to((0, 3))
    widget.review.accept_slice()
    widget.review.accept_slice()
    assert annotation.between(0, 4) == (2, 3, 5)
    with pytest.raises(InputError, match="slices 1, 2, 3, 4, 5;"):
        annotation.between(0, None)
    (lesson,) = annotation.lessons(False, annotation.segmentation.card.labels.names)
    assert (lesson.labels[3] == 0).any()


def test_a_mask_from_elsewhere_is_taken_over_where_it_differs(
    correct_widget: Any, qtbot: Any, tmp_path: Path
) -> None:
    viewer, _, widget = correct_widget()
    layer, segmentation = widget.current_mask.layer, widget.current_mask.segmentation
    assert not widget.take_over.isEnabled()
    assert "Drag the mask's file" in widget.take_over.toolTip()
    before = layer.data.copy()
    path = tmp_path / "colleague.nii.gz"
    layer.save(str(path))
    open_scan(viewer, path)
    theirs = viewer.layers[-1]
    assert widget.take_over.isEnabled()
    widget.masks.aboutToShow.emit()
    (action,) = widget.masks.actions()
    action.trigger()
    assert "says the same as this mask" in widget.message.text()
    assert not segmentation.by_person().any()
    correct_slice(viewer, widget, 4)
    accepted = layer.data.copy()
    theirs.data[2, 5:9, 5:9], theirs.data[4] = 3, 1
    differs = theirs.data != before
    action.trigger()
    np.testing.assert_array_equal(layer.data[2], theirs.data[2])
    np.testing.assert_array_equal(layer.data[4], accepted[4])
    count = int(differs[2].sum())
    assert f"{count} voxels in 1 slice are as in colleague now" in widget.message.text()
    np.testing.assert_array_equal(segmentation.by_person()[0, 2], differs[2])
    # As the text says, Ctrl-Z undoes it: it is of the layer that is active.
    assert viewer.layers.selection.active is layer
    assert not theirs.visible
    qtbot.waitUntil(lambda: (0, 2) in widget.annotation.edited)
    viewer.layers.selection.active.undo()
    qtbot.waitUntil(lambda: "are as in colleague" not in widget.message.text())
    np.testing.assert_array_equal(layer.data, accepted)
    theirs.data[1, 0, 0] = 9
    action.trigger()
    assert "there is none for 9" in widget.message.text()
    np.testing.assert_array_equal(layer.data, accepted)
    # One that lies elsewhere is not offered.
    viewer.layers.remove(theirs)
    viewer.add_labels(before, scale=(1, 1, 1), name="elsewhere")
    assert not widget.take_over.isEnabled()
    assert '"elsewhere" has voxels of the size 1 × 1 × 1' in widget.take_over.toolTip()
    # A part of the scan may be all that the file holds, and its labels be floats.
    part = nib.load(path).slicer[8:, :, 3:]
    part.set_data_dtype(np.float32)
    nib.save(part, tmp_path / "part.nii.gz")
    image = open_scan(viewer, tmp_path / "part.nii.gz")
    assert image.metadata[LABELS_KEY] == NAMES
    widget.masks.aboutToShow.emit()
    (action,) = widget.masks.actions()
    action.trigger()
    text = widget.message.text()
    assert "What part leaves out of the scan counts as its background." in text
    assert "other organs" not in text
    viewer.layers.remove(image)
    viewer.add_labels(np.where(layer.data == 2, 2, 0), scale=layer.scale, name="alone")
    widget.masks.aboutToShow.emit()
    (action,) = widget.masks.actions()
    action.trigger()
    text = widget.message.text()
    assert "alone says the same as this mask. This mask keeps its other organs: right" in text


def test_a_mask_with_other_organs_is_taken_over_if_a_person_agrees(
    correct_widget: Any, qtbot: Any, tmp_path: Path
) -> None:
    viewer, _, widget = correct_widget()
    layer, path = widget.current_mask.layer, tmp_path / "total.nii.gz"
    before, after = layer.data.copy(), bright(viewer)
    write_total_segmentator(path, after, nib.load(tmp_path / "scan.nii.gz").affine)
    open_scan(viewer, path)
    widget.masks.aboutToShow.emit()
    (action,) = widget.masks.actions()
    asked = []

    def answer(button: str) -> None:
        box = QApplication.activeModalWidget()
        assert box.defaultButton().text() == "Take over"
        asked.append(f"{box.text()} {box.informativeText()}")
        next(one for one in box.buttons() if one.text().strip("&") == button).click()

    QTimer.singleShot(0, lambda: answer("Cancel"))
    action.trigger()
    np.testing.assert_array_equal(layer.data, before)
    QTimer.singleShot(0, lambda: answer("Take over"))
    action.trigger()
    np.testing.assert_array_equal(layer.data, after)
    assert asked[1].startswith(
        "Take over the 3 organs that both masks have: right ventricle, myocardium, left ventricle? "
        "total also has spleen, liver, stomach. This mask becomes background there."
    )
    assert len(asked) == 2
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)


def test_the_keys_are_none_of_naparis() -> None:
    from napari.utils.shortcuts import default_shortcuts

    from napari_l2gnet.correct.form import ACCEPT_KEY, FLIP_KEY, NEXT_KEY

    taken = {str(key) for keys in default_shortcuts.values() for key in keys}
    assert not taken & {ACCEPT_KEY, NEXT_KEY, FLIP_KEY}


def test_doubtful_slices_come_first_and_say_why(correct_widget: Any, qtbot: Any) -> None:
    viewer, _, widget = correct_widget()
    qtbot.waitUntil(lambda: bool(widget.annotation.doubts), timeout=20_000)
    doubts = widget.annotation.doubts
    order = [int(slice) for slice, _, _ in widget.queue.rows()]
    expected = [doubts[0, index].expected for index in order]
    assert expected == sorted(expected, reverse=True)
    assert widget.queue.rows()[0][1].startswith("unsure: ")
    widget.queue.cellClicked.emit(5, 0)
    assert round(viewer.layers[0].world_to_data(viewer.dims.point)[0]) == order[5]


@pytest.mark.parametrize("how", ["mask removed", "another mask", "dock closed"])
def test_a_ranking_that_nobody_waits_for_stops(
    correct_widget: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    begun, ended = [], []

    def endless(segmentation: Any) -> Any:
        begun.append(segmentation)
        try:
            while True:
                yield {}
                time.sleep(0.01)
        finally:
            ended.append(segmentation)

    monkeypatch.setattr("napari_l2gnet.correct.slice_review.doubtful_slices", endless)
    viewer, segment, widget = correct_widget()
    qtbot.waitUntil(lambda: len(begun) == 1, timeout=20_000)
    if how == "mask removed":
        viewer.layers.remove(widget.current_mask.layer)
    elif how == "another mask":
        first = viewer.layers[0]
        segment.image.choose(viewer.add_image(first.data, name="second", scale=first.scale))
        run(qtbot, segment)
    else:
        viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: ended == begun[:1], timeout=2000)
    if how == "another mask":
        # The other one gets its turn.
        qtbot.waitUntil(lambda: len(begun) == 2, timeout=20_000)
        assert begun[1] is widget.current_mask.segmentation
        widget.close()


def test_a_new_organ_is_painted_interpolated_taught_and_saved(
    correct_widget: Any, qtbot: Any, user_models: Path
) -> None:
    _, segment, widget = correct_widget()
    layer = widget.current_mask.layer
    widget.organs.put(Label(1, "RV", "#56b4e9"))
    assert layer.selected_label == 1
    # The model's name for what is the RV here.
    widget.organs.put(Label(4, "right ventricle", "#0072b2"), new=True)
    assert [row[0] for row in segment.organs.rows()] == [
        "RV",
        "myocardium",
        "left ventricle",
        "right ventricle",
    ]
    widget.organs.put(Label(4, "other", "#0072b2"), new=True)
    assert "4 is the right ventricle" in widget.message.text()
    widget.organ.setCurrentIndex(widget.organ.findData(4))
    assert layer.selected_label == 4
    widget.interpolate.click()
    assert "is annotated in none" in widget.message.text()
    for index in (1, 3):
        layer.data_setitem((np.full(100, index), *np.mgrid[5:15, 5:15].reshape(2, -1)), 4)
    before = layer.data.copy()
    assert ends(qtbot, widget, widget.interpolate.click) == "finished"
    assert (layer.data[2, 5:15, 5:15] == 4).all()
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    layer.undo()  # one slice to learn from: an untrained model gains too little to be kept on two
    # An untrained model loses the structures that nobody checked, so a person checks the slice.
    widget.annotation.review((0, 1))
    assert fine_tune(qtbot, widget) == "finished"
    widget.accept.click()
    assert widget.save.isEnabled()
    widget.versions.save(user_models / "cardiac-cine.safetensors")
    assert "is a bundled model" in widget.message.text()
    widget.versions.save(user_models / "mine")
    assert segment.model.findText("mine") >= 0
    # No dialog asked whether to replace it.
    widget.versions.save(user_models / "mine")
    assert "mine.safetensors exists already" in widget.message.text()
    widget.versions.save(user_models / "mine.safetensors")
    assert widget.message.text() == "Saved as mine."
    segment.model.setCurrentText("mine")
    card = segment.card
    assert card.name == "mine"
    assert card.labels.names[4] == "right ventricle"
    assert card.labels.names[1] == "RV"
    # Loaded, it makes the same mask again.
    accepted = layer.data.copy()
    ends(qtbot, widget, widget.roll_back.click)
    path = user_models / "mine.safetensors"
    assert ends(qtbot, widget, lambda: widget.versions.load(path)) == "finished"
    np.testing.assert_array_equal(layer.data, accepted)
    assert widget.version.currentText() == "mine · loaded"


def test_a_projects_model_learns_from_all_corrected_masks(correct_widget: Any, qtbot: Any) -> None:
    viewer, segment, widget = correct_widget()
    correct_slice(viewer, widget, 2)
    first = viewer.layers[0]
    second = viewer.add_image(first.data[::-1].copy(), name="second", scale=first.scale)
    segment.image.choose(second)
    with qtbot.waitSignal(segment.run_ended, timeout=20_000):
        segment.start.click()
    assert widget.layer.count() == 2
    widget.layer.choose(viewer.layers[-1])
    assert not widget.start.isEnabled()
    widget.review.accept_slice()
    assert widget.start.text() == "Fine-tune on 1 slice"
    widget.kind.setCurrentIndex(1)
    assert widget.start.text() == "Fine-tune on 2 slices"
    assert fine_tune(qtbot, widget) == "finished", widget.message.text()
    if widget.annotation.proposal is not None:
        widget.accept.click()
        versions = [name for name, _ in _versions(widget)]
        widget.layer.setCurrentIndex(0)
        assert [name for name, _ in _versions(widget)] == versions == ["original", "v1"]


def _versions(widget: CorrectWidget) -> list[tuple[str, str]]:
    return [(version.name, version.kind) for version in widget.annotation.versions]


def test_what_cannot_be_learnt_is_said_in_the_widget_and_by_napari(
    correct_widget: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari.utils.notifications import notification_manager

    viewer, _, widget = correct_widget()
    correct_slice(viewer, widget, 2)
    said = len(notification_manager.records)

    def broken(*_: Any, **__: Any) -> Iterator[Any]:
        raise InputError("Expected a good day, but it is none; try tomorrow.")
        yield

    monkeypatch.setattr("l2gnet_core.finetuning.run.finetune", broken)
    assert fine_tune(qtbot, widget) == "failed"
    assert "Expected a good day" in widget.message.text()
    assert len(notification_manager.records) == said + 1
    assert widget.start.isEnabled()


def test_a_file_that_is_no_model_becomes_no_version(
    correct_widget: Any, qtbot: Any, tmp_path: Path
) -> None:
    _, _, widget = correct_widget()
    path = tmp_path / "scan.safetensors"
    path.write_bytes(b"nothing")
    widget.versions.load(path)
    assert "Expected a model that l2gnet saved" in widget.message.text()
    # One whose weights are damaged shows it only when it is read in the thread.
    (own,) = (entry for entry in models() if entry.name == "scribbler")
    model = own.path.read_bytes()
    path.write_bytes(model[: len(model) // 2])
    assert ends(qtbot, widget, lambda: widget.versions.load(path)) == "failed"
    assert "damaged" in widget.message.text()
    assert widget.version.count() == 1


def test_a_load_that_is_cancelled_takes_its_organs_along(
    correct_widget: Any, qtbot: Any, user_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, widget = correct_widget()
    names = widget.annotation.segmentation.card.labels.names
    path = save_untrained(user_models, "other", labels={**names, 4: "thrombus", 5: "aorta"})
    slow_down(monkeypatch, 0.1)
    widget.annotation.review((0, 2))

    def load_and_cancel() -> None:
        widget.versions.load(path)
        assert widget.organ.findText("thrombus") >= 0
        # A slice that was accepted before does not say that they are absent.
        assert widget.annotation.segmentation.unreviewed_organs == {((0, 2), 4), ((0, 2), 5)}
        widget.current_mask.layer.data_setitem(tuple(np.mgrid[0:1, 0:3, 0:3].reshape(3, -1)), 5)
        widget.cancel.click()

    assert ends(qtbot, widget, load_and_cancel) == "cancelled"
    # What was painted meanwhile stays, with its name.
    assert widget.annotation.segmentation.card.labels.names == {**names, 5: "aorta"}
    assert widget.organ.findText("thrombus") < 0
    assert widget.annotation.segmentation.unreviewed_organs == {((0, 2), 5)}


def test_a_version_that_another_mask_taught_brings_its_organs(
    correct_widget: Any, qtbot: Any, user_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, widget = correct_widget()
    widget.organs.put(Label(1, "RV", "#56b4e9"))
    segmentation = widget.annotation.segmentation
    names = dict(segmentation.card.labels.names)
    path = save_untrained(user_models, "taught", labels={**NAMES, 4: "thrombus"})
    number = widget.annotation.add_version(Version("v1", "project", 0, path=path))
    widget.annotation.review((0, 2))
    assert ends(qtbot, widget, lambda: widget.go_to_version(number)) == "finished"
    assert segmentation.card.labels.names == {**names, 4: "thrombus"}
    assert segmentation.unreviewed_organs == {((0, 2), 4)}
    # They go and come with its answer.
    layer = widget.current_mask.layer
    layer.undo()
    assert segmentation.card.labels.names == names
    assert widget.organ.findText("thrombus") < 0
    layer.redo()
    assert segmentation.card.labels.names == {**names, 4: "thrombus"}
    assert segmentation.unreviewed_organs == {((0, 2), 4)}
    # Not where that is called off.
    path = save_untrained(user_models, "more", labels={**NAMES, 5: "aorta"})
    number = widget.annotation.add_version(Version("v2", "project", 0, path=path))
    slow_down(monkeypatch, 0.1)

    def go_and_cancel() -> None:
        widget.go_to_version(number)
        assert 5 in segmentation.card.labels.names
        widget.cancel.click()

    assert ends(qtbot, widget, go_and_cancel) == "cancelled"
    assert segmentation.card.labels.names == {**names, 4: "thrombus"}
    # One that was removed comes back as it was called here.
    mask = MaskLayer(widget.viewer, widget.layer.layer)
    widget.organs.put(Label(5, "vessel", "#56b4e9"), new=True)
    mask.remove_organ(5)
    assert bring_organs(mask, widget.annotation, widget.annotation.versions[number]) == (5,)
    assert segmentation.card.labels.names[5] == "vessel"


def test_fine_tuning_begins_with_the_model_that_made_the_mask(
    segment_widget: Any, scan_file: Path, qtbot: Any, user_models: Path
) -> None:
    # Whatever its card and its folder are called, and whatever lies there now.
    for name, seed in (("mine", 7), ("twin", 8)):
        (user_models / name).mkdir()
        saved = save_untrained(user_models, "same", seed=seed)
        saved.rename(user_models / name / "model.safetensors")
    viewer, segment = segment_widget()
    open_scan(viewer, scan_file)
    segment.model.setCurrentText("mine")
    run(qtbot, segment)
    mask = segment.current_mask
    assert mask.layer.name.endswith("· mine")
    segment.model.setCurrentText("twin")
    assert segment.current_mask is None
    segment.model.setCurrentText("mine")
    assert segment.current_mask.layer is mask.layer
    began = weights_hash(load_model(user_models / "mine" / "model.safetensors").network)
    shutil.copy(user_models / "twin" / "model.safetensors", user_models / "mine")
    annotation = annotation_of(mask)
    session = segment.session
    model = model_of(session, annotation.version, annotation, "cpu")
    assert weights_hash(model.network) == began
    # Another mask is made with what lies there now.
    path = user_models / "mine" / "model.safetensors"
    assert weights_hash(session.load(path, "cpu").network) != began


def test_a_model_with_other_names_is_refused(correct_widget: Any, qtbot: Any) -> None:
    _, _, widget = correct_widget()
    path = models()[0].path
    widget.organs.put(Label(1, "left ventricle of old", "#56b4e9"))
    widget.versions.load(path)
    assert "left ventricle of old; load another" in widget.message.text()
    assert widget.version.count() == 1


def test_rolling_back_to_a_partial_answer_segments_the_rest(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, segment = segment_widget()
    open_scan(viewer, scan_file)
    segment.region.setCurrentIndex(1)
    run(qtbot, segment)
    widget = CorrectWidget(viewer, segment.session)
    with qtbot.waitSignal(widget.ready, timeout=30_000):
        viewer.window.add_dock_widget(widget)
    assert widget.current_mask.layer.name.endswith("(1 of 6)")
    correct_slice(viewer, widget, 5)
    assert widget.current_mask.layer.name.endswith("(2 of 6)")
    segmentation = widget.current_mask.segmentation
    finished, total = segmentation.coverage()
    assert finished < total
    assert fine_tune(qtbot, widget) == "finished"
    widget.accept.click()
    assert ends(qtbot, widget, widget.roll_back.click) == "finished"
    # Whatever counts as segmented holds an answer.
    assert segmentation.coverage() == (total, total)
    assert len(segmentation.finished) == total - 1
    assert all(segmentation.slice_of(segmentation.raw, place).any() for place in
               segmentation.finished)  # fmt: skip


def test_the_dialog_gives_back_the_organ(correct_widget: Any, qtbot: Any) -> None:
    _, _, widget = correct_widget()
    widget.add_organ.click()
    (dialog,) = widget.findChildren(OrganDialog)
    dialog.name.setText(" papillary muscle ")
    assert dialog.organ.name == "papillary muscle"
    # What cannot be is told while it can still be changed.
    for name, id, problem in (
        ("Myocardium ", 4, "there is a myocardium already"),
        ("papillary muscle", 2, "2 is the myocardium"),
    ):
        dialog.name.setText(name)
        dialog.id.setValue(id)
        assert not dialog.problem.isVisible()
        dialog.ok.click()
        assert dialog.isVisible()
        assert problem in dialog.problem.text()
    dialog.id.setValue(1000)
    assert dialog.id.value() == 255  # as the mask's voxels can
    dialog.id.setValue(4)
    dialog.accept()
    labels = widget.current_mask.segmentation.card.labels
    assert labels.names[4] == "papillary muscle"
    assert labels.colors[4] not in [label.color for label in labels if label.id != 4]
    assert widget.organ.currentText() == "papillary muscle"
    widget.organ.setCurrentIndex(0)
    widget.edit_organ.click()
    dialog = widget.findChildren(OrganDialog)[-1]
    assert not dialog.remove.isEnabled()
    assert "finds the right ventricle: it stays" in dialog.remove.toolTip()


def test_everything_disabled_says_why(
    make_napari_viewer: Any, user_models: Path, qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    widget = CorrectWidget(viewer, Session())
    viewer.window.add_dock_widget(widget)
    controls = [
        control
        for kind in (QAbstractButton, QComboBox, QAbstractSpinBox)
        for control in widget.findChildren(kind)
        if not isinstance(control.parent(), QComboBox | QTableWidget)
    ]
    assert not widget.start.isEnabled()
    assert "Segment" in widget.start.toolTip()
    for control in controls:
        if not control.isEnabled() and control.objectName() != "qt_toolbar_ext_button":
            assert control.toolTip(), control
    assert "Segment a scan first" in widget.message.text()


def test_the_manifest_offers_the_widget_which_imports_what_its_buttons_need(
    make_napari_viewer: Any, user_models: Path, qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-l2gnet", "Correct & fine-tune")
    assert isinstance(widget, CorrectWidget)
    # The last is what the first step of an optimiser imports.
    needed = {"sklearn.ensemble", "l2gnet_core.finetuning.run", "torch._dynamo"}
    qtbot.waitUntil(lambda: needed <= sys.modules.keys(), timeout=60_000)


def test_the_queue_of_a_series_says_what_its_two_numbers_are(qtbot: Any) -> None:
    queue = SliceQueue()
    qtbot.addWidget(queue)
    queue.show_series(True)
    assert queue.horizontalHeaderItem(SLICE).text() == "t · slice"
    assert queue.columnWidth(SLICE) >= queue.horizontalHeader().sectionSizeHint(SLICE)
    queue.show_series(False)
    assert queue.horizontalHeaderItem(SLICE).text() == "Slice"
