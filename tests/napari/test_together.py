"""Several widgets, masks, scans and sliders at once: none undoes or mistakes another's work."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import save_untrained
from correcting import correct_slice, ends, fine_tune, propose
from gui import is_saved, open_scan, run, slow_down
from inspecting import inspect, inspectable, settle, world
from napari.utils.colormaps import Colormap
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication

from l2gnet_core.project.folder import open_project
from l2gnet_core.project.models import id_of
from l2gnet_core.scans.labels import Label
from napari_l2gnet.annotating.learning import model_of
from napari_l2gnet.annotating.preview import AFTER
from napari_l2gnet.annotating.take_over import candidates
from napari_l2gnet.annotating.tasks import project_masks
from napari_l2gnet.correct.form import PROJECT
from napari_l2gnet.correct.widget import CorrectWidget
from napari_l2gnet.inspect.form import EVERYWHERE
from napari_l2gnet.masks.layer import IMAGE_KEY, MaskLayer
from napari_l2gnet.masks.organs import with_organ
from napari_l2gnet.saving.autosave import autosave_of
from napari_l2gnet.scans.layers import transform_of
from napari_l2gnet.segment.form import THIS_SLICE
from napari_l2gnet.writer import write_mask

Make = Callable[[], tuple[Any, Any, Any]]


def paint(mask: MaskLayer, index: int, label: int = 2) -> None:
    mask.layer.data_setitem((np.array([index, index]), np.array([5, 6]), np.array([5, 6])), label)


def another_scan(viewer: Any, segment: Any, **where: Any) -> Any:
    place = {"scale": (8, 1.4, 1.4), "units": ("mm",) * 3, **where}
    image = viewer.add_image(viewer.layers[0].data.copy(), name="another", **place)
    segment.image.choose(image)
    return image


# ---------------------------------------------------------------------- one writer a mask


def test_correct_opens_with_the_selected_mask(correct_widget: Make, qtbot: Any) -> None:
    viewer, segment, correct = correct_widget()
    first = correct.current_mask.layer
    another_scan(viewer, segment)
    run(qtbot, segment)
    viewer.layers.selection.active = first
    again = CorrectWidget(viewer, segment.session)
    with qtbot.waitSignal(again.ready, timeout=30_000):
        viewer.window.add_dock_widget(again, name="again")
    assert again.current_mask.layer is first


def test_nothing_else_writes_into_a_mask_while_a_version_comes_into_it(
    correct_widget: Make, qtbot: Any, user_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, segment, correct = correct_widget()
    path = save_untrained(user_models, "other", seed=5)
    slow_down(monkeypatch, 0.1)
    with qtbot.waitSignal(correct.run_ended, timeout=20_000):
        correct.versions.load(path)
        for control in (segment.start, segment.largest, segment.holes):
            assert not control.isEnabled()
            assert control.toolTip() == "A job is running (Switching to other). Cancel it first."
        segment.segment()
        assert not segment.running
    assert segment.start.isEnabled()
    segmentation, version = correct.current_mask.segmentation, correct.annotation.version
    np.testing.assert_array_equal(segmentation.raw, version.raw)
    assert segmentation.model.card.name == "other"


# ---------------------------------------------------------------------- what is looked at


def test_a_slice_of_the_preview_is_not_accepted_as_the_masks(
    correct_widget: Make, qtbot: Any
) -> None:
    _, _, correct = correct_widget()
    annotation = propose(correct.current_mask)
    correct.review.go_to((0, 2))
    correct.accept_slice.click()
    assert not annotation.segmentation.reviewed
    assert "press Before" in correct.message.text()
    correct.flip_view()
    correct.accept_slice.click()
    assert annotation.segmentation.reviewed == {(0, 2)}


def test_a_proposal_is_accepted_as_tidied_by_now(correct_widget: Make, qtbot: Any) -> None:
    viewer, segment, correct = correct_widget()
    correct_slice(viewer, correct, 2)
    assert fine_tune(qtbot, correct) == "finished"
    correct.annotation.review((0, 2), accepted=False)
    segment.largest.setChecked(True)
    qtbot.waitUntil(lambda: not segment.running)
    correct.accept.click()
    segmentation = segment.current_mask.segmentation
    accepted = segmentation.answer.copy()
    assert (accepted != segmentation.raw).any()
    for chosen in (False, True):
        segment.largest.setChecked(chosen)
        qtbot.waitUntil(lambda: not segment.running)
    np.testing.assert_array_equal(segmentation.answer, accepted)


def test_the_mask_that_is_painted_on_is_the_one_that_is_corrected(
    correct_widget: Make, qtbot: Any
) -> None:
    viewer, segment, correct = correct_widget()
    first = correct.current_mask
    paint(first, 1)
    run(qtbot, segment)
    assert (
        correct.current_mask.layer is segment.current_mask.layer is viewer.layers.selection.active
    )
    paint(segment.current_mask, 3)
    viewer.dims.set_current_step(0, 3)
    correct.accept_slice.click()
    assert not first.segmentation.reviewed
    assert segment.current_mask.segmentation.reviewed == {segment.current_mask.place}
    viewer.layers.selection.active = first.layer
    assert correct.current_mask.layer is first.layer
    viewer.layers.selection.active = viewer.layers[0]
    assert correct.current_mask.layer is first.layer


def test_slices_off_screen_are_neither_accepted_nor_segmented(
    correct_widget: Make, qtbot: Any
) -> None:
    viewer, segment, correct = correct_widget()
    finished = set(segment.current_mask.segmentation.finished)
    segment.region.setCurrentIndex(THIS_SLICE)
    for order, ndisplay in (((1, 0, 2), 2), ((0, 1, 2), 3)):
        viewer.dims.order, viewer.dims.ndisplay = order, ndisplay
        segment.start.click()
        assert not segment.running
        assert (
            "in 3-D" if ndisplay == 3 else "slices the scan along another axis"
        ) in segment.message.text()
        viewer.dims.order, viewer.dims.ndisplay = (0, 1, 2), 2
    scan = segment.image.layer
    another_scan(viewer, segment, translate=(500, 0, 0))
    segment.image.choose(scan)
    viewer.dims.set_point(0, 520)
    segment.start.click()
    assert not segment.running
    assert "is not on screen" in segment.message.text()
    correct.accept_slice.click()
    assert "is not on screen" in correct.message.text()
    assert not correct.annotation.segmentation.reviewed
    assert segment.current_mask.segmentation.finished == finished
    # The table takes a person there.
    correct.review.go_to((0, 3))
    correct.accept_slice.click()
    assert correct.annotation.segmentation.reviewed == {(0, 3)}


def test_a_slice_that_another_scan_covers_is_not_accepted(correct_widget: Make, qtbot: Any) -> None:
    viewer, segment, correct = correct_widget()
    mask, other = correct.current_mask, another_scan(viewer, segment)
    correct.accept_slice.click()
    assert not mask.segmentation.reviewed
    told = unescape(correct.message.text())
    assert '"another" lies over "scan · scribbler": click a slice in the table' in told
    viewer.canvas.grid.enabled = True  # side by side
    correct.accept_slice.click()
    assert mask.segmentation.reviewed == {mask.place}
    correct.accept_slice.click()
    viewer.canvas.grid.enabled = False
    # Whoever looks through it sees the mask.
    other.opacity = 0.5
    correct.review.go_to((0, 2))
    assert other.visible
    other.opacity = 1
    correct.next_slice.click()
    assert not other.visible
    assert "was hidden: its eye icon shows it again" in correct.message.text()
    correct.accept_slice.click()
    assert mask.segmentation.reviewed == {mask.place}
    # It may be another sequence of this patient, which the mask is looked at over.
    viewer.layers.move(viewer.layers.index(other), 1)
    other.visible = True
    correct.next_slice.click()
    assert other.visible
    # One with a mask of its own may as well be another patient.
    segment.image.choose(other)
    assert run(qtbot, segment) == "finished"
    viewer.layers.selection.active = mask.layer
    assert '"another" lies over' in correct.review.refusal
    viewer.layers["scan"].visible = False
    correct.next_slice.click()
    assert (viewer.layers["scan"].visible, other.visible) == (True, False)


def test_a_slice_that_a_newer_mask_of_the_scan_lies_over_is_not_accepted(
    correct_widget: Make, qtbot: Any
) -> None:
    viewer, segment, correct = correct_widget()
    older = correct.current_mask
    paint(older, 1)
    assert run(qtbot, segment) == "finished"
    newer = segment.current_mask
    # The new one is shown alone.
    assert not older.layer.visible
    assert f'"{older.layer.name}" was hidden' in unescape(segment.message.text())
    older.layer.visible = True
    correct.accept_slice.click()
    assert not newer.segmentation.reviewed
    through = f'"{older.layer.name}" shows through "{newer.layer.name}": click a slice'
    assert through in unescape(correct.message.text())
    viewer.layers.selection.active = older.layer
    correct.accept_slice.click()
    assert not older.segmentation.reviewed
    assert f'"{newer.layer.name}" lies over "{older.layer.name}": click a slice' in unescape(
        correct.message.text()
    )
    shown = newer.layer.data[1].copy()
    newer.layer.data[1] = 0
    viewer.dims.set_point(0, older.layer.data_to_world((1, 0, 0))[0])
    assert not correct.review.refusal
    newer.layer.data[1] = shown
    correct.review.go_to((0, 2))
    assert not newer.layer.visible
    assert f'"{newer.layer.name}" was hidden' in unescape(correct.message.text())
    propose(newer)
    assert f'"{viewer.layers[-1].name}" lies over' in correct.review.refusal
    correct.review.go_to((0, 2))
    correct.accept_slice.click()
    assert older.segmentation.reviewed == {(0, 2)}


def test_a_preview_is_neither_shown_on_another_scan_nor_accepted_there(
    correct_widget: Make, qtbot: Any
) -> None:
    viewer, segment, correct = correct_widget()
    mask = correct.current_mask
    correct_slice(viewer, correct, 2)
    mask.layer.visible = False
    before = another_scan(viewer, segment)
    with qtbot.waitSignal(correct.run_ended, timeout=60_000):
        correct.seconds.setValue(2)
        correct.start.click()
        assert mask.layer.visible
        assert not before.visible
        assert '"another" was hidden' in unescape(correct.message.text())
        meanwhile = another_scan(viewer, segment)
    assert correct.annotation.proposal.answer is not None
    # A scan that is opened meanwhile covers the preview as it covers the mask.
    assert viewer.layers[-1] is meanwhile
    old, told = mask.layer.data.copy(), f'"{meanwhile.name}" lies over "{mask.layer.name}": '
    correct.accept.click()
    np.testing.assert_array_equal(mask.layer.data, old)
    assert f"{told}click a slice in the table, then accept the preview" in unescape(
        correct.message.text()
    )
    correct.review.go_to((0, 3))
    another_scan(viewer, segment, translate=(500, 0, 0))
    viewer.dims.set_point(0, 520)
    correct.accept.click()
    assert "is not on screen: the sliders are outside it" in correct.message.text()
    correct.review.go_to((0, 3))
    correct.accept.click()
    assert (mask.layer.data != old).any()


def test_overlays_that_are_seen_through_and_series_on_their_side_cover_nothing(
    correct_widget: Make,
) -> None:
    viewer, _, correct = correct_widget()
    clear = Colormap([[0, 0, 0, 0], [1, 0, 0, 1]], name="heat")
    viewer.add_image(np.zeros(viewer.layers["scan"].data.shape), name="heat", colormap=clear)
    correct.accept_slice.click()
    assert correct.current_mask.segmentation.reviewed == {correct.current_mask.place}
    viewer.add_image(np.zeros((2, 6, 24, 20)), name="series")
    viewer.dims.order = (1, 2, 3, 0)
    correct.review.show_mask(alone=True)


def test_a_mask_that_nobody_sees_is_not_accepted(correct_widget: Make, qtbot: Any) -> None:
    viewer, _, correct = correct_widget()
    mask = correct.current_mask
    for hidden in (mask.layer, viewer.layers["scan"]):
        hidden.visible = False
        correct.accept_slice.click()
        assert not mask.segmentation.reviewed
        assert f'"{hidden.name}" is hidden by its eye icon' in unescape(correct.message.text())
        correct.queue.go_to.emit((0, 3))
        assert hidden.visible
    mask.layer.opacity = 0
    assert "is hidden by its opacity" in correct.review.refusal
    correct.queue.go_to.emit((0, 3))
    assert mask.layer.opacity > 0
    # The scan dragged above its mask goes below it again.
    viewer.layers.move(0, 2)
    correct.accept_slice.click()
    assert '"scan" lies over' in unescape(correct.message.text())
    # What does not hold is said no more.
    viewer.layers["scan"].opacity = 0.5
    qtbot.waitUntil(lambda: "lies over" not in correct.message.text())
    viewer.layers["scan"].opacity = 1
    correct.next_slice.click()
    correct.accept_slice.click()
    assert mask.segmentation.reviewed == {mask.place}


def test_a_mask_goes_along_where_its_scan_is_moved(
    correct_widget: Make, scan_file: Path, tmp_path: Path
) -> None:
    viewer, _, correct = correct_widget()
    mask, scan, corner = correct.current_mask, viewer.layers["scan"], (3, 20, 30)
    propose(mask)
    scan.rotate, scan.translate = (0, 0, 10), (0, 40, 0)
    scan.scale, scan.shear = (4, 1.4, 1.4), (0, 0, 0.1)
    scan.affine = np.diag([1.0, 1, 2, 1])
    at = scan.data_to_world(corner)
    for layer in (mask.layer, viewer.layers[-1]):  # the preview lies on the mask
        np.testing.assert_allclose(layer.data_to_world(corner), at)
    correct.discard_proposal()
    correct.accept_slice.click()
    assert mask.segmentation.reviewed == {mask.place}
    correct.accept_slice.click()
    write_mask(tmp_path / "mask.nii", mask.layer.data, mask.layer.as_layer_data_tuple()[1])
    np.testing.assert_allclose(
        nib.load(tmp_path / "mask.nii").affine, nib.load(scan_file).affine, atol=1e-5
    )


def test_a_slice_of_a_mask_that_was_moved_off_its_scan_is_not_accepted(
    correct_widget: Make, qtbot: Any
) -> None:
    _, segment, correct = correct_widget()
    mask, beside = correct.current_mask, '"scan · scribbler" is no longer aligned with "scan"'
    mask.layer.translate = (0, 30, 0)
    assert beside in unescape(segment.coverage.text())
    qtbot.waitUntil(lambda: beside in unescape(correct.message.text()))
    correct.accept_slice.click()
    assert not mask.segmentation.reviewed
    correct.queue.go_to.emit(mask.place)
    assert segment.coverage.isHidden()
    correct.accept_slice.click()
    assert mask.segmentation.reviewed == {mask.place}
    assert beside not in unescape(correct.message.text())


def test_a_mask_that_is_segmented_or_chosen_comes_into_view_with_its_scan(
    correct_widget: Make, qtbot: Any
) -> None:
    viewer, segment, correct = correct_widget()
    first, scan = correct.current_mask.layer, viewer.layers["scan"]
    other = another_scan(viewer, segment)
    segment.image.choose(scan)
    run(qtbot, segment)
    assert not other.visible
    assert '"another" was hidden' in unescape(segment.message.text())
    segment.image.choose(other)
    run(qtbot, segment)
    second = segment.current_mask
    preview = propose(second).preview
    drawn = viewer.layers[-1]
    for chosen, shown in ((first, False), (second.layer, True)):
        correct.layer.choose(chosen)
        correct.layer.activated.emit(correct.layer.currentIndex())
        assert [one.visible for one in (other, second.layer, drawn)] == [shown] * 3
        assert first.visible
        assert scan.visible
        assert viewer.layers.selection.active is chosen
    assert preview.mode == AFTER


# ---------------------------------------------------------------------- versions


def test_a_version_is_not_forgotten_because_going_to_it_was_cancelled(
    correct_widget: Make, qtbot: Any, user_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, segment, correct = correct_widget()
    paths = [save_untrained(user_models, name, seed=seed) for seed, name in ((5, "aa"), (6, "bb"))]
    paint(correct.current_mask, 1)
    for path in paths:
        assert ends(qtbot, correct, lambda path=path: correct.versions.load(path)) == "finished"
    qtbot.waitUntil(lambda: is_saved(segment), timeout=8000)
    viewer.layers.remove(segment.current_mask.layer)
    qtbot.waitUntil(lambda: not segment.offer.isHidden(), timeout=5000)
    segment.offer.resume.click()
    qtbot.waitUntil(lambda: correct.current_mask is not None, timeout=5000)
    slow_down(monkeypatch, 0.1)

    def begin_and_cancel() -> None:
        correct.go_to_version(1)
        qtbot.wait(100)
        correct.cancel.click()

    assert ends(qtbot, correct, begin_and_cancel) == "cancelled"
    annotation = correct.annotation
    assert [version.name for version in annotation.versions] == ["original", "aa", "bb"]
    assert annotation.version.name == "bb"
    # One that never was there leaves with its cancellation.
    third = save_untrained(user_models, "cc", seed=7)

    def load_and_cancel() -> None:
        correct.versions.load(third)
        qtbot.wait(100)
        correct.cancel.click()

    assert ends(qtbot, correct, load_and_cancel) == "cancelled"
    assert [version.name for version in annotation.versions] == ["original", "aa", "bb"]


def test_the_original_stays_itself_when_its_file_is_written_over(
    correct_widget: Make, qtbot: Any, user_models: Path
) -> None:
    _, _, correct = correct_widget()
    annotation = correct.annotation
    wanted = id_of(annotation.segmentation.model)
    path = save_untrained(user_models, "other", seed=5)
    assert ends(qtbot, correct, lambda: correct.versions.load(path)) == "finished"
    correct.versions.save(user_models / "scribbler.safetensors")
    assert id_of(model_of(correct.session, annotation.versions[0], annotation, "cpu")) == wanted


def test_ctrl_z_is_promised_where_it_takes_the_answer_back(
    correct_widget: Make, qtbot: Any, user_models: Path
) -> None:
    viewer, _, correct = correct_widget()
    path = save_untrained(user_models, "other", seed=5)
    viewer.layers.selection.active = viewer.layers[0]
    assert ends(qtbot, correct, lambda: correct.versions.load(path)) == "finished"
    assert "Ctrl-Z undoes this" in correct.message.text()
    assert viewer.layers.selection.active is correct.current_mask.layer
    assert ends(qtbot, correct, lambda: correct.go_to_version(1)) == "finished"
    assert "no voxel changed" in correct.message.text()
    assert "Ctrl-Z" not in correct.message.text()


def test_scrolling_over_the_versions_chooses_none(correct_widget: Make) -> None:
    _, _, correct = correct_widget()
    correct.version.addItems(["one", "two"])
    down, middle = QPoint(0, -120), QPointF(5, 5)
    event = QWheelEvent(
        middle, QPointF(correct.version.mapToGlobal(QPoint(5, 5))), QPoint(0, 0), down,
        Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False
    )  # fmt: skip
    before = correct.version.currentIndex()
    QApplication.sendEvent(correct.version, event)
    assert correct.version.currentIndex() == before


def test_taking_back_the_first_answer_of_slices_shows_in_the_name(
    correct_widget: Make, qtbot: Any, user_models: Path
) -> None:
    viewer, segment, correct = correct_widget()
    viewer.layers.remove(segment.current_mask.layer)
    segment.region.setCurrentIndex(THIS_SLICE)
    run(qtbot, segment)
    assert segment.current_mask.layer.name.endswith("(1 of 6)")
    path = save_untrained(user_models, "other", seed=5)
    assert ends(qtbot, correct, lambda: correct.versions.load(path)) == "finished"
    assert not segment.current_mask.layer.name.endswith("of 6)")
    segment.current_mask.layer.undo()
    assert segment.current_mask.layer.name.endswith("(1 of 6)")
    segment.current_mask.layer.redo()
    assert not segment.current_mask.layer.name.endswith("of 6)")


# ---------------------------------------------------------------------- several scans


def test_a_project_learns_from_masks_that_were_painted_while_nobody_looked(
    correct_widget: Make, qtbot: Any
) -> None:
    viewer, segment, correct = correct_widget()
    first = correct.current_mask
    another_scan(viewer, segment)
    run(qtbot, segment)
    second = segment.current_mask
    viewer.layers.selection.active = first.layer
    paint(second, 1)
    assert correct.current_mask.layer is first.layer
    correct.kind.setCurrentIndex(correct.kind.findData(PROJECT))
    assert correct.start.text() == "Fine-tune on 1 slice"
    assert [mask.layer for mask in project_masks(viewer, first)] == [first.layer, second.layer]
    # Another mask of the first scan might contradict it.
    image, segmentation = first.layer.metadata[IMAGE_KEY], first.segmentation
    third = MaskLayer.add(viewer, image, segmentation.grid, segmentation.card, segmentation.axis)
    paint(third, 2)
    assert [mask.layer for mask in project_masks(viewer, first)] == [first.layer, second.layer]
    assert [mask.layer for mask in project_masks(viewer, second)] == [second.layer, third.layer]
    second.layer.undo()
    assert [mask.layer for mask in project_masks(viewer, first)] == [first.layer]


def test_scans_and_masks_that_are_deleted_leave_memory(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, segment = segment_widget()
    left = []
    for _ in range(2):
        image = open_scan(viewer, scan_file)
        segment.image.choose(image)
        run(qtbot, segment)
        mask = segment.current_mask
        paint(mask, 1)
        qtbot.waitUntil(lambda: is_saved(segment), timeout=8000)
        left += [weakref.ref(mask.segmentation), weakref.ref(image.data)]
        for layer in (mask.layer, image):
            viewer.layers.remove(layer)
        del image, mask, layer
    segment.image.choose(open_scan(viewer, scan_file))
    run(qtbot, segment)

    def gone() -> bool:
        gc.unfreeze()
        gc.collect()
        return all(reference() is None for reference in left)

    qtbot.waitUntil(gone, timeout=5000)


def test_a_mask_goes_on_with_its_scan_that_was_deleted_and_opened_again(
    correct_widget: Make, scan_file: Path, qtbot: Any
) -> None:
    viewer, segment, correct = correct_widget()
    mask, first = segment.current_mask, segment.image.layer
    paint(mask, 1)
    first.translate = (0, 5, 0)
    # It lies on the mask, and is another scan.
    other = viewer.add_image(first.data + 1, **transform_of(first))
    segment.image.choose(first)
    with qtbot.waitSignal(segment.watch.comparing.done, timeout=5000):
        viewer.layers.remove(first)
    assert segment.image.layer is other
    assert segment.current_mask is None
    with qtbot.waitSignal(segment.watch.comparing.done, timeout=5000):
        open_scan(viewer, scan_file)
    assert segment.current_mask.layer is mask.layer
    scan = segment.image.layer
    assert mask.layer.metadata[IMAGE_KEY] is scan
    assert not mask.layer.translate.any()
    assert viewer.layers.index(scan) < viewer.layers.index(mask.layer)
    assert "belongs to this scan" in segment.message.text()
    assert segment.save_mask.isEnabled()
    assert autosave_of(mask).volume.data is scan.data
    # So with a second layer of the scan, which was hidden as it lay over the mask.
    twin = open_scan(viewer, scan_file)
    twin.visible = False
    segment.image.choose(scan)
    with qtbot.waitSignal(segment.watch.comparing.done, timeout=5000):
        viewer.layers.remove(scan)
    assert mask.layer.metadata[IMAGE_KEY] is twin
    assert twin.visible
    twin.name = "scan"
    assert correct.current_mask.layer is mask.layer
    # As if it had never been away: what was painted makes the next run go elsewhere.
    run(qtbot, segment)
    assert segment.current_mask.layer is not mask.layer
    mask.layer.undo()
    assert mask.can_take(viewer.layers["scan"], mask.grid, segment.card, 0)


def test_work_on_a_deleted_mask_is_offered_again_beside_its_duplicate(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    from napari.layers._layer_actions import _duplicate_layer

    viewer, segment = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, segment)
    mask = segment.current_mask
    paint(mask, 1)
    qtbot.waitUntil(lambda: is_saved(segment), timeout=8000)
    viewer.layers.selection.active = mask.layer
    _duplicate_layer(viewer.layers)
    viewer.layers.remove(mask.layer)
    qtbot.waitUntil(lambda: not segment.offer.isHidden(), timeout=5000)


def test_a_mask_that_becomes_an_image_is_none_any_more(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    from napari.layers._layer_actions import _convert_to_image

    viewer, segment = segment_widget()
    scan = open_scan(viewer, scan_file)
    run(qtbot, segment)
    paint(segment.current_mask, 1)
    qtbot.waitUntil(lambda: is_saved(segment), timeout=8000)
    viewer.layers.selection.active = segment.current_mask.layer
    _convert_to_image(viewer.layers)
    image = viewer.layers[-1]
    assert segment.current_mask is None
    qtbot.waitUntil(lambda: not segment.offer.isHidden(), timeout=5000)
    segment.offer.resume.click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    mask = segment.current_mask
    np.testing.assert_array_equal(mask.layer.data, image.data)
    assert candidates(viewer, mask) == [image]
    viewer.layers.selection.active = image
    assert segment.current_mask.layer is mask.layer
    viewer.layers.remove(mask.layer)
    viewer.layers.selection.active = scan
    assert segment.current_mask is None
    run(qtbot, segment)
    assert segment.current_mask.layer is viewer.layers[-1]


def test_of_a_copy_that_is_painted_on_is_said_that_nobody_saves_it(
    correct_widget: Make, qtbot: Any
) -> None:
    from napari.layers._layer_actions import _duplicate_layer

    viewer, segment, correct = correct_widget()
    mask = correct.current_mask.layer
    viewer.layers.selection.active = mask
    _duplicate_layer(viewer.layers)
    copy = next(layer for layer in viewer.layers if layer.name.endswith("copy"))
    viewer.layers.selection.active = copy
    for widget in (segment, correct):
        assert "is a copy, which is not saved automatically" in widget.message.text()
    mask.name = "mine"
    for widget in (segment, correct):
        qtbot.waitUntil(lambda w=widget: 'Paint in "mine"' in unescape(w.message.text()))
    # Nor is the mask below it accepted for what is painted on it.
    reviewed = correct.annotation.segmentation.reviewed
    correct.accept_slice.click()
    assert not reviewed
    assert 'lies over "mine": click a slice' in unescape(correct.message.text())
    copy.visible = False
    correct.accept_slice.click()
    assert len(reviewed) == 1
    correct.accept_slice.click()
    copy.visible = True
    correct.review.go_to(correct.current_mask.place)
    assert viewer.layers.selection.active is mask
    correct.accept_slice.click()
    assert len(reviewed) == 1
    correct.accept_slice.click()
    for widget in (segment, correct):
        assert "is a copy" not in widget.message.text()
    viewer.layers.selection.active = copy
    viewer.layers.remove(mask)
    for widget in (segment, correct):
        assert "is a copy" not in widget.message.text()


def test_of_a_selected_copy_the_original_is_followed(correct_widget: Make, qtbot: Any) -> None:
    from napari.layers._layer_actions import _duplicate_layer

    viewer, segment, correct = correct_widget()
    mask, scan = segment.current_mask.layer, segment.image.layer
    viewer.layers.selection.active = mask
    _duplicate_layer(viewer.layers)
    copy = viewer.layers["scan · scribbler copy"]
    viewer.add_image(scan.data // 2, name="second", scale=(8, 1.4, 1.4))
    run(qtbot, segment)
    other = segment.current_mask.layer
    viewer.layers.selection.active = other
    assert correct.current_mask.layer is other
    for _ in ("its scan is there", "its scan is deleted"):
        viewer.layers.selection.active = copy
        for widget in (segment, correct):
            assert widget.current_mask.layer is mask
        viewer.layers.selection.active = other
        if scan in viewer.layers:
            viewer.layers.remove(scan)


def test_a_mask_that_is_put_back_is_saved_again(correct_widget: Make, qtbot: Any) -> None:
    viewer, segment, correct = correct_widget()
    mask = segment.current_mask
    paint(mask, 1)
    qtbot.waitUntil(lambda: is_saved(correct), timeout=8000)
    folder = autosave_of(mask).folder
    viewer.layers.remove(mask.layer)
    assert correct.current_mask is None
    paint(mask, 2, 3)
    viewer.layers.append(mask.layer)
    assert correct.current_mask.layer is mask.layer
    paint(mask, 3)
    qtbot.waitUntil(lambda: is_saved(correct), timeout=8000)
    assert autosave_of(mask).folder.path == folder.path
    touched = {(0, 1), (0, 2), (0, 3)}
    qtbot.waitUntil(lambda: folder.read_state().touched == touched, timeout=8000)
    # In a project of its own while somebody else goes on with its work.
    viewer.layers.remove(mask.layer)
    other = open_project(folder.path)
    other.hold()
    viewer.layers.append(mask.layer)
    assert correct.current_mask.layer is mask.layer
    paint(mask, 4)
    qtbot.waitUntil(lambda: is_saved(correct), timeout=8000)
    assert autosave_of(mask).folder.path != folder.path
    assert other.is_as_left()
    other.release()


def test_a_mask_that_is_put_back_while_nothing_can_be_saved_is_saved_later(
    correct_widget: Make, qtbot: Any, projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_l2gnet.saving.autosave._RETRY_AFTER", 0.2)
    viewer, segment, correct = correct_widget()
    mask = segment.current_mask
    projects.write_text("a file where a folder should be")
    paint(mask, 1, 9)
    paint(mask, 2, 9)
    qtbot.waitUntil(lambda: "not being saved" in correct.message.text(), timeout=8000)
    mask.layer.undo()
    viewer.layers.remove(mask.layer)
    viewer.layers.append(mask.layer)
    projects.unlink()
    qtbot.waitUntil(lambda: is_saved(correct), timeout=8000)
    folder = autosave_of(mask).folder
    folder.require_whole(folder.read_state())
    whats = [entry.what for entry in autosave_of(mask).folder.history.entries()]
    assert whats == ["segmented"]
    qtbot.waitUntil(lambda: "not being saved" not in correct.message.text())


def test_a_preview_leaves_with_its_mask(correct_widget: Make, qtbot: Any) -> None:
    viewer, _, correct = correct_widget()
    annotation = propose(correct.current_mask)
    assert len(viewer.layers) == 3
    viewer.layers.remove(correct.current_mask.layer)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    assert annotation.proposal is None


# ---------------------------------------------------------------------- a scan that changes


def rest_in_3d(viewer: Any) -> None:
    """A pointer rests on the canvas while a key turns it to 3-D: no mouse told a direction yet."""
    viewer.mouse_over_canvas = True
    viewer.dims.ndisplay = 3
    viewer.cursor._view_direction = None


def test_a_pointer_that_rests_on_the_canvas_in_3d_breaks_nothing(
    correct_widget: Make, segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, segment, correct = correct_widget()
    mask = correct.current_mask
    rest_in_3d(viewer)
    propose(mask)
    # What is proposed is seen instead of the mask, not over it.
    assert mask.layer.opacity == 0
    assert [layer.visible for layer in viewer.layers] == [True, True, True]
    correct.discard.click()
    assert viewer.layers.selection.active is mask.layer
    paint(mask, 1, 9)
    qtbot.waitUntil(lambda: is_saved(segment), timeout=5000)
    # A mask of its own, as this one is painted on.
    run(qtbot, segment)
    assert segment.current_mask.layer is viewer.layers[-1] is not mask.layer
    assert viewer.dims.ndisplay == 3
    paint(segment.current_mask, 2, 9)
    qtbot.waitUntil(lambda: is_saved(segment), timeout=5000)
    viewer.layers.clear()
    viewer.dims.ndisplay = 2
    open_scan(viewer, scan_file)
    rest_in_3d(viewer)
    qtbot.waitUntil(lambda: not segment.offer.isHidden(), timeout=5000)
    segment.offer.resume.click()
    qtbot.waitUntil(lambda: segment.current_mask is not None, timeout=5000)
    paint(segment.current_mask, 3, 9)
    qtbot.waitUntil(lambda: is_saved(segment), timeout=5000)
    status = segment.current_mask.layer.get_status(
        (3, 0, 0), view_direction=None, dims_displayed=[0, 1, 2]
    )
    assert "name: " in status["value"]


def test_a_mask_is_saved_whatever_others_make_of_its_layer(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, segment = segment_widget()
    open_scan(viewer, scan_file)

    def raises(_: Any) -> None:
        raise ValueError("Another plugin's.")

    viewer.layers.events.inserted.connect(raises)
    with pytest.raises(ValueError, match="Another"):
        segment.segment()
    mask = MaskLayer(viewer, viewer.layers[-1])
    paint(mask, 1)
    with qtbot.waitSignal(autosave_of(mask).saved, timeout=10_000):
        pass
    shown = mask.segmentation.shown.copy()
    viewer.layers.remove(mask.layer)
    qtbot.waitUntil(lambda: not segment.offer.isHidden(), timeout=5000)
    with qtbot.capture_exceptions() as raised:
        segment.offer.resume.click()
        qtbot.waitUntil(lambda: bool(raised), timeout=5000)
    mask = MaskLayer(viewer, viewer.layers[-1])
    np.testing.assert_array_equal(mask.segmentation.shown, shown)
    paint(mask, 2)
    with qtbot.waitSignal(autosave_of(mask).saved, timeout=10_000):
        pass


def test_a_new_voxel_size_changes_how_the_scan_is_cut(segment_widget: Any, qtbot: Any) -> None:
    viewer, segment = segment_widget()
    noise = np.random.default_rng(0).integers(0, 99, (40, 20, 40)).astype(np.uint8)
    image = viewer.add_image(noise, units=("mm",) * 3)
    segment.image.choose(image)
    assert segment.axis.currentData() == 0
    image.scale = (1, 8, 1)
    assert segment.axis.currentData() == 1
    assert segment.axis.currentText().startswith("y, 20 slices")


def test_other_voxels_in_a_scan_get_a_mask_of_their_own(
    segment_widget: Any, scan_file: Path, qtbot: Any
) -> None:
    viewer, segment = segment_widget()
    image = open_scan(viewer, scan_file)
    run(qtbot, segment)
    first, shown = segment.current_mask, segment.current_mask.segmentation.shown.copy()
    run(qtbot, segment)
    assert segment.current_mask.layer is first.layer
    image.data = np.random.default_rng(7).integers(0, 900, image.data.shape).astype(np.int16)
    run(qtbot, segment)
    assert segment.current_mask.layer is not first.layer
    np.testing.assert_array_equal(first.segmentation.shown, shown)
    assert autosave_of(segment.current_mask) is not autosave_of(first)


# ---------------------------------------------------------------------- Inspect


def test_assigning_leaves_accepted_slices_alone(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    widget = inspect(qtbot, viewer)
    segmentation = mask.segmentation
    segmentation.reviewed.update({(0, 0), (0, 1)})
    before = segmentation.shown.copy()
    voxel = tuple(int(i) for i in np.argwhere(before[0] == 1)[0])
    widget.clicks.look_at(world(mask, *voxel))
    widget.extent.setCurrentIndex(widget.extent.findData(EVERYWHERE))
    widget.target.setCurrentIndex(widget.target.findData(3))
    widget.preview.click()
    settle(qtbot, widget)
    assert "that you painted or accepted stay" in widget.message.text()
    # Accepted between preview and assignment.
    segmentation.reviewed.add((0, 2))
    widget.apply.click()
    changed = (segmentation.shown != before)[0].any((1, 2))
    assert changed.tolist() == [False, False, False, True]


def test_new_organs_and_colours_reach_an_open_inspect_widget(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    widget = inspect(qtbot, viewer)
    widget.of.setCurrentIndex(widget.of.findData("slice"))
    mask.relabel(with_organ(mask.segmentation.card.labels, Label(9, "papillary", "#ff0000")))
    viewer.dims.set_current_step(0, 1)
    qtbot.waitUntil(lambda: widget.target.findData(9) > 0, timeout=5000)
    settle(qtbot, widget)
    viewer.dims.set_current_step(0, 2)
    settle(qtbot, widget)
    mask.color_organ(1, "#00ff00")
    assert widget.views._colors(widget.views.words)[1] == "#00ff00"


def test_inspect_leaves_nothing_to_be_seen_and_begins_anew(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    widget = inspect(qtbot, viewer)
    widget.choose([0])
    layers = widget.layers
    assert np.asarray(layers.find("lit").data).any()
    assert layers.find("lit").visible
    viewer.window.remove_dock_widget(widget)
    scan = mask.layer.metadata[IMAGE_KEY]
    assert [layer for layer in viewer.layers if layer.visible] == [scan, mask.layer]
    again = inspect(qtbot, viewer)
    assert not np.asarray(again.layers.find("lit").data).any()
    assert again.layers.find("codes").visible


def test_all_layers_can_be_deleted_at_once(
    make_napari_viewer: Callable[..., Any], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_napari_viewer()
    inspectable(viewer)
    inspectable(viewer, seed=1)
    widget = inspect(qtbot, viewer)
    widget.choose([0])
    looked, follow = [], widget.reading.follow
    monkeypatch.setattr(widget.reading, "follow", lambda mask: (looked.append(mask), follow(mask)))
    viewer.layers.clear()
    assert len(viewer.layers) == 0
    # What is left is looked into once, when all are gone.
    assert looked == []
    qtbot.waitUntil(lambda: "Press Segment first" in widget.told.text())
    assert looked == [None]


def test_jobs_do_not_pile_up(make_napari_viewer: Callable[..., Any], qtbot: Any) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    widget = inspect(qtbot, viewer)
    voxel = tuple(int(i) for i in np.argwhere(mask.segmentation.shown[0] == 1)[0])
    for _ in range(4):
        widget.clicks.look_at(world(mask, *voxel))
        widget.target.setCurrentIndex(widget.target.findData(3))
        widget.preview.click()
        settle(qtbot, widget)
    qtbot.waitUntil(lambda: len(widget.jobs.children()) <= 1)
