"""What a person does about an error with the Inspect widget: find it, find more, put it right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gui import open_scan, run
from inspecting import (
    click,
    code_map,
    inspect,
    inspectable,
    made_up_trace,
    settle,
    world,
)

from l2gnet_core.inspect.places import unsure_regions
from l2gnet_core.inspect.populations import histogram_distance
from l2gnet_core.inspect.similar import find_similar
from l2gnet_core.models.card import CodeStatistics
from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.annotating.tasks import scan_of
from napari_l2gnet.inspect.compare import how_far
from napari_l2gnet.inspect.form import CHANGED, CODES, DOUBT, EVERYWHERE, OTHER_CODES, PIECE
from napari_l2gnet.inspect.words import PLAN, USAGE
from napari_l2gnet.scans.layers import VIEW_KEY
from napari_l2gnet.widgets.visibility import bring_into_view

Made = tuple[Any, Any, Any]


@pytest.fixture
def opened(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Made:
    """Viewer, mask and widget of a made-up scan."""
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    return viewer, mask, inspect(qtbot, viewer)


def choose(combo: Any, data: Any) -> None:
    combo.setCurrentIndex(combo.findData(data))


@pytest.mark.filterwarnings("ignore:Contours are not displayed during 3D rendering")
def test_unsure_places_are_stepped_through_the_worst_first(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    trace = mask.segmentation.traces[0]
    trace.entropy[...] = 0.05
    trace.entropy[2, 25:35, 45:55] = 0.9
    trace.entropy[1, 30:36, 20:30] = 0.6
    choose(widget.views.kind, "softmax")
    widget.unsure.click()
    settle(qtbot, widget)
    assert widget.state.look.index == 2
    assert widget.place.text().startswith("unsure place 1 of ")
    assert widget.place.text().endswith("slice 2")
    assert widget.shown.currentData() == DOUBT
    lit = np.asarray(widget.layers.find("lit").data) == 3
    assert lit[2, 25:35, 45:55].any()
    assert lit.sum() == lit[2, 20:40, 40:60].sum()
    center = viewer.scene.camera.center
    assert abs(center[1] / 1.5 - 30) < 8
    assert abs(center[2] / 1.5 - 50) < 8
    # In the 3-D view, nothing could be clicked there.
    viewer.dims.ndisplay = 3
    widget.unsure.click()
    assert viewer.dims.ndisplay == 2
    assert widget.state.look.index == 1
    widget.back.click()
    assert widget.state.look.index == 2
    wanted = unsure_regions(trace.entropy.astype(np.float32), mask.segmentation.raw[0], 0)
    assert len(widget.places.found) == len(wanted)


@pytest.mark.parametrize("how", ["marks", "strokes"])
def test_find_more_like_what_was_marked_or_painted(opened: Made, qtbot: Any, how: str) -> None:
    viewer, mask, widget = opened
    widget.similar.click()
    assert "Mark a mistake first" in widget.message.text()
    marked = np.zeros(mask.layer.data.shape, bool)
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    marked[1, 28:34, 36:44] = True
    raw = mask.segmentation.raw[0].copy()
    if how == "marks":
        widget.mark.click()
        marks = viewer.layers.selection.active
        assert marks.mode == "paint"
        marks.data_setitem(np.nonzero(marked), 1)
    else:
        mask.layer.data_setitem(np.nonzero(marked), 1)
    painted = mask.segmentation.by_person()[0]
    widget.similar.click()
    settle(qtbot, widget)
    where = marked if how == "marks" else painted
    wanted = find_similar(mask.segmentation.traces[0], raw, where, scan_of(mask).data)
    found = widget.places.found
    assert [(one.index, one.box) for one in found] == [(one.index, one.box) for one in wanted]
    assert widget.state.look.index == found[0].index
    assert widget.place.text().startswith("place like this 1 of")
    widget.forward.click()
    assert widget.place.text().startswith(f"place like this {min(2, len(found))} of")


def test_more_like_this_looks_at_the_frame_on_screen(
    segment_widget: Any, tmp_path: Path, qtbot: Any
) -> None:
    import nibabel as nib

    data = np.random.default_rng(1).integers(0, 900, (32, 32, 3, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([1.4, 1.4, 8, 1])), tmp_path / "cine.nii.gz")
    viewer, segment = segment_widget()
    open_scan(viewer, tmp_path / "cine.nii.gz")
    run(qtbot, segment)
    viewer.dims.set_current_step(0, 1)
    widget = inspect(qtbot, viewer)
    settle(qtbot, widget)
    widget.mark.click()
    marked = np.zeros((2, 3, 32, 32), bool)
    marked[1, 1, 8:20, 10:24] = True
    viewer.layers.selection.active.data_setitem(np.nonzero(marked), 1)
    widget.similar.click()
    settle(qtbot, widget)
    mask = segment.current_mask
    scan = np.asarray(scan_of(mask).data)
    by_frame = [
        find_similar(mask.segmentation.traces[1], mask.segmentation.raw[1], marked[1], scan[frame])
        for frame in (1, 0)
    ]
    wanted, other = ([(one.index, one.box, one.score) for one in found] for found in by_frame)
    assert [(one.index, one.box, one.score) for one in widget.places.found] == wanted
    assert wanted != other


def test_a_scan_that_can_no_longer_be_read_is_told(opened: Made, qtbot: Any) -> None:
    viewer, _mask, widget = opened
    widget.mark.click()
    viewer.layers.selection.active.data_setitem((np.array([1]), np.array([30]), np.array([40])), 1)
    viewer.layers["scan"].data = np.zeros((1, 1, 4, 64, 80))
    widget.similar.click()
    assert "has 5 axes, but 2 to 4 are expected" in widget.message.text()


@pytest.mark.parametrize("extent", [PIECE, EVERYWHERE])
@pytest.mark.parametrize("of", ["slice", "volume"])
def test_voxels_are_assigned_with_preview_in_one_step(
    opened: Made, qtbot: Any, extent: str, of: str
) -> None:
    from SimpleITK import ConnectedComponent, GetArrayFromImage, GetImageFromArray

    viewer, mask, widget = opened
    choose(widget.of, of)
    before = mask.layer.data.copy()
    voxel = (1, 33, 41)
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    assert before[voxel] == 3
    click(viewer, world(mask, *voxel))
    code = widget.codes[0]
    inside = (code_map(mask) == code) & (before == 3)
    if of == "slice":
        inside[np.arange(4) != 1] = False
    if extent == PIECE:
        pieces = ConnectedComponent(GetImageFromArray(inside.astype(np.uint8)), True)
        pieces = GetArrayFromImage(pieces)
        inside = pieces == pieces[voxel]
    choose(widget.extent, extent)
    choose(widget.target, 1)
    assert not widget.apply.isEnabled()
    widget.preview.click()
    settle(qtbot, widget)
    count = int(inside.sum())
    assert f"{count} voxels would change from left ventricle to right" in widget.message.text()
    np.testing.assert_array_equal(np.asarray(widget.layers.find("lit").data) == 4, inside)
    np.testing.assert_array_equal(mask.layer.data, before)
    widget.apply.click()
    after = np.where(inside, 1, before)
    np.testing.assert_array_equal(mask.layer.data, after)
    # The person's decision: no new answer overwrites it, and it counts as touched.
    np.testing.assert_array_equal(mask.segmentation.by_person()[0], inside)
    for index in range(4):
        mask.put((0, index), before[index])
    np.testing.assert_array_equal(mask.layer.data, after)
    assert viewer.layers.selection.active is mask.layer
    viewer.dims.set_point(0, 16)
    settle(qtbot, widget)
    assert "Ctrl-Z takes it back" in widget.message.text()
    mask.layer.undo()
    np.testing.assert_array_equal(mask.layer.data, before)
    assert not mask.segmentation.touched()
    # The message about Ctrl-Z is gone once it is used.
    assert not widget.message.text()


def test_nothing_is_looked_into_or_assigned_that_is_not_to_be_seen(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    first, second = inspectable(viewer), inspectable(viewer, seed=1, name="second")
    other = viewer.layers["scan [1]"]
    widget = inspect(qtbot, viewer)
    # Selecting a mask in the list of layers does not change what is visible.
    viewer.layers.selection.active = first.layer
    settle(qtbot, widget)
    click(viewer, world(first, 1, 33, 41))
    assert widget.codes == []
    assert '"scan [1]" lies over "scan · made up": choose' in unescape(widget.message.text())
    other.opacity = 0.5  # the mask is seen through it
    qtbot.waitUntil(lambda: not widget.message.text())
    other.opacity = 1
    # A click in the chart of slices and a step to a place bring the mask into view.
    for go in (lambda: widget.views.slice_picked.emit(2), widget.unsure.click):
        go()
        settle(qtbot, widget)
        assert [one.visible for one in (first.layer, other, second.layer)] == [True, False, False]
        assert '"scan [1]" was hidden' in unescape(widget.message.text())
        other.visible = second.layer.visible = True
        qtbot.waitUntil(lambda: "was hidden" not in widget.message.text())
    other.visible = False
    click(viewer, world(first, 1, 33, 41))
    choose(widget.target, 0)
    before = first.layer.data.copy()
    other.visible = True
    widget.preview.click()
    assert widget.assigning.pending is None
    assert "lies over" in widget.message.text()
    other.visible = False
    widget.preview.click()
    settle(qtbot, widget)
    first.layer.visible = False
    widget.apply.click()
    np.testing.assert_array_equal(first.layer.data, before)
    assert "is hidden by its eye icon" in widget.message.text()
    # What is chosen in the list comes into view.
    for chosen, others in ((second.layer, True), (first.layer, False)):
        widget.mask_combo.choose(chosen)
        widget.mask_combo.activated.emit(widget.mask_combo.currentIndex())
        settle(qtbot, widget)
        assert (chosen.visible, other.visible) == (True, others)
    assert "was hidden: its eye icon shows it again" in widget.message.text()


def test_below_another_mask_of_the_scan_one_can_look_and_not_assign(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    older = inspectable(viewer)
    newer = inspectable(viewer, seed=1, name="newer", image=viewer.layers["scan"])
    widget = inspect(qtbot, viewer)
    seen = [one for one in viewer.layers if VIEW_KEY in one.metadata and one.visible]
    assert seen
    assert bring_into_view(older) == [newer.layer]
    # So are the views of the mask that is hidden.
    assert not any(one.visible for one in seen)
    newer.layer.visible = True
    viewer.layers.selection.active = older.layer
    settle(qtbot, widget)
    click(viewer, world(older, 1, 33, 41))
    assert widget.codes
    choose(widget.target, 0)
    widget.preview.click()
    assert '"scan · newer" lies over "scan · made up"' in unescape(widget.message.text())
    # Where it is empty, it covers nothing.
    newer.layer.data[1] = 0
    widget.preview.click()
    settle(qtbot, widget)
    assert widget.assigning.pending is not None


def test_what_a_person_painted_stays(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    voxel = (1, 33, 41)
    painted = (np.array([1, 1]), np.array([33, 34]), np.array([42, 42]))
    # Painted back and forth: the person chose the left ventricle.
    mask.layer.data_setitem(painted, 2)
    mask.layer.data_setitem(painted, 3)
    click(viewer, world(mask, *voxel))
    choose(widget.of, "slice")
    choose(widget.extent, EVERYWHERE)
    choose(widget.target, 0)
    widget.preview.click()
    settle(qtbot, widget)
    assert "2 voxels that you painted or accepted stay" in widget.message.text()
    # Painted after the preview: that counts, too.
    late = (np.array([1]), np.array([33]), np.array([43]))
    mask.layer.data_setitem(late, 1)
    widget.apply.click()
    assert (mask.layer.data[painted] == 3).all()
    assert mask.layer.data[late] == 1
    assert mask.layer.data[voxel] == 0


def test_assigning_says_what_is_missing(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    assert "Click a voxel of the mistake first" in widget.preview.toolTip()
    widget.choose([3])
    assert "which piece" in widget.preview.toolTip()
    choose(widget.extent, EVERYWHERE)
    assert widget.preview.isEnabled()
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    click(viewer, world(mask, 1, 33, 41))
    choose(widget.target, 3)
    assert "are left ventricle already" in widget.preview.toolTip()
    choose(widget.target, 1)
    widget.preview.click()
    settle(qtbot, widget)
    assert widget.apply.isEnabled()
    # Another organ: the preview no longer holds.
    choose(widget.target, 2)
    assert not widget.apply.isEnabled()
    assert not (np.asarray(widget.layers.find("lit").data) == 4).any()


def test_two_models_are_compared(make_napari_viewer: Callable[..., Any], qtbot: Any) -> None:
    viewer = make_napari_viewer()
    before = inspectable(viewer, name="before")
    image = viewer.layers["scan"]
    after = inspectable(viewer, seed=5, image=image, name="after")
    trace, old = after.segmentation.traces[0], before.segmentation.traces[0]
    trace.vectors[...] = old.vectors
    widget = inspect(qtbot, viewer)
    assert widget.layers.mask.layer is after.layer
    assert [widget.compare.itemText(n) for n in range(widget.compare.count())] == [
        "–",
        "scan · before",
    ]
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    counts = [np.bincount(one.codes.ravel(), minlength=12) for one in (trace, old)]
    distance = histogram_distance(*counts, trace.vectors)
    assert f"distance {distance:.3f} (0 = the same, 1 = " in widget.message.text()
    known = CodeStatistics((1,) * 12, (distance / 2, distance, 2 * distance))
    after.segmentation.card = replace(after.segmentation.card, codes=known)
    widget.compare.setCurrentIndex(0)
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    assert f"differ clearly: distance {distance:.3f} (0 = the same;" in widget.message.text()
    assert f"lie {distance / 2:.3f} to {2 * distance:.3f} from" in widget.message.text()
    words = widget.views.words
    shares = old.cells.counts(before.segmentation.raw[0], [1, 2, 3]).sum(-1)
    shares = np.bincount(old.codes.ravel(), shares.ravel(), 12) / shares.sum()
    np.testing.assert_allclose([words.bar_before(c) for c in range(12)], 100 * shares)
    assert "In the comparison, it holds" in widget.views.usage.tell(3)
    widget.views.setCurrentIndex(PLAN)
    from l2gnet_core.inspect.plans import code_plan, times_chance

    difference = times_chance(code_plan(trace)) - times_chance(code_plan(old))
    np.testing.assert_allclose(words.lift(), difference, atol=1e-9)
    assert "than in the comparison" in widget.views.plan.tell((1, 2))
    for place, plan in ((1, code_plan(trace)), (2, code_plan(old))):
        widget.views.side.setCurrentIndex(place)
        heads, rows = widget.views.table()
        lift = times_chance(plan)
        codes = [int(head) - 1 for head in heads[1:]]
        np.testing.assert_allclose([row[1:] for row in rows], lift[np.ix_(codes, codes)], atol=1e-4)
        assert f"{lift[1, 2]:.2f} times" in widget.views.plan.tell((1, 2))
    # Over the image: the other's code map, and where the two differ.
    layer = widget.layers.find("codes")
    widget.over.show(OTHER_CODES)
    np.testing.assert_array_equal(np.asarray(layer.data), old.cells.on_scan(old.codes) + 1)
    assert layer.name == "code map of scan · before"
    widget.over.show(CHANGED)
    differs = trace.cells.on_scan((trace.codes != old.codes).astype(np.float32))
    np.testing.assert_array_equal(np.asarray(widget.layers.find("heat").data), differs)
    widget.over.show(CODES)
    np.testing.assert_array_equal(np.asarray(layer.data), trace.cells.on_scan(trace.codes) + 1)
    widget.over.show(CHANGED)
    widget.views.setCurrentIndex(USAGE)
    viewer.layers.remove(before.layer)
    settle(qtbot, widget)
    assert widget.against.comparison is None
    assert not widget.compare.isVisible()
    assert widget.shown.currentData() == CODES
    place = widget.shown.findData(CHANGED)
    assert not widget.shown.model().item(place).isEnabled()
    assert "Compare" in widget.shown.model().item(place).toolTip()


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        (0.009, "hardly differ"),
        (0.039, "differ a little"),
        (0.119, "differ clearly"),
        (0.121, "differ strongly"),
    ],
)
def test_how_far_is_far_is_said_by_the_training_scans(apart: float, words: str) -> None:
    told = how_far(apart, CodeStatistics((1, 1), (0.04, 0.06, 0.12)))
    assert told.startswith(words)
    assert "0.040 to 0.120" in told


def test_codes_that_are_gone_are_shown_and_a_comparison_outlasts_another_choice(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    before = inspectable(viewer, name="before")
    after = inspectable(viewer, seed=5, image=viewer.layers["scan"], name="after")
    trace, old = after.segmentation.traces[0], before.segmentation.traces[0]
    trace.vectors[...] = old.vectors
    trace.codes[trace.codes == 3] = 4
    widget = inspect(qtbot, viewer)
    widget.compare.setCurrentIndex(1)
    # Another part, before the comparison is ready.
    choose(widget.of, "slice")
    settle(qtbot, widget)
    assert widget.against.comparison is not None
    words = widget.views.words
    assert words.before is not None
    choose(widget.of, "volume")
    settle(qtbot, widget)
    _, rows = widget.views.table()
    (gone,) = [row for row in rows if row[0] == 4]
    assert gone[1] == 0
    assert gone[-1] > 0
    assert sum(row[-1] for row in rows) == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("codes", [20, 12], ids=["more codes", "other codes"])
def test_models_with_other_codebooks_are_compared_in_words_alone(
    make_napari_viewer: Callable[..., Any], qtbot: Any, codes: int
) -> None:
    viewer = make_napari_viewer()
    inspectable(viewer, codes=codes, name="other")
    inspectable(viewer, image=viewer.layers["scan"], seed=3, name="smaller")
    widget = inspect(qtbot, viewer)
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    assert "codebooks differ" in widget.message.text()
    assert widget.against.comparison is None
    assert widget.views.words.before is None


def test_an_earlier_version_of_the_model_is_compared(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    from napari_l2gnet.annotating.annotation import Annotation, Version

    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    annotation = Annotation.of(mask.layer.metadata, mask.segmentation, "made up")
    annotation.keep_first_answer()
    old = mask.segmentation.traces[0]
    annotation.add_version(Version("v1", "scan", 0))
    trace = made_up_trace((4, 64, 80), 12, 8, np.random.default_rng(9))
    trace.vectors[...] = old.vectors
    raw = mask.segmentation.raw.copy()
    raw[0, 2, 30:40, 30:40] = 2
    mask.adopt(raw, raw, 1, {0: trace})
    widget = inspect(qtbot, viewer)
    assert widget.compare.itemText(1) == "version original"
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    words = widget.views.words
    held = old.cells.counts(annotation.versions[0].raw[0], [1, 2, 3]).sum(-1)
    before = np.bincount(old.codes.ravel(), held.ravel(), 12) / held.sum()
    shares = [words.bar_before(code) for code in range(12)]
    np.testing.assert_allclose(shares, 100 * before)
    assert "Compared with version original, the codes" in widget.message.text()
    # Each new layer fills the list anew: the choice stays.
    viewer.add_image(np.zeros((4, 4)))
    assert widget.compare.currentIndex() == 1
    mask.layer.undo()
    qtbot.waitUntil(lambda: widget.inspection.is_current and not widget.jobs.busy, timeout=10_000)
    assert widget.inspection.trace is old


def test_a_model_that_was_taught_an_organ_is_compared_with_the_one_before(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    before = inspectable(viewer, name="before")
    after = inspectable(viewer, seed=5, image=viewer.layers["scan"], name="after")
    names = {**after.segmentation.card.labels.names, 7: "tumour"}
    after.segmentation.card = replace(after.segmentation.card, labels=LabelSet.from_names(names))
    after.segmentation.raw[0, 1, 4:20, 4:20] = 7
    old = before.segmentation.traces[0]
    after.segmentation.traces[0].vectors[...] = old.vectors
    widget = inspect(qtbot, viewer)
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    assert "Purple bars" in widget.message.text()
    held = old.cells.counts(before.segmentation.raw[0], [1, 2, 3]).sum(-1)
    shares = np.bincount(old.codes.ravel(), held.ravel(), 12) / held.sum()
    words = widget.views.words
    np.testing.assert_allclose([words.bar_before(c) for c in range(12)], 100 * shares)
    # An organ of both, then one that the other never had.
    choose(widget.of, 2)
    settle(qtbot, widget)
    held = old.cells.counts(before.segmentation.raw[0], [2])[..., 0]
    shares = np.bincount(old.codes.ravel(), held.ravel(), 12) / held.sum()
    words = widget.views.words
    np.testing.assert_allclose([words.bar_before(c) for c in range(12)], 100 * shares)
    choose(widget.of, 4)
    settle(qtbot, widget)
    assert widget.views.words.before is None
    assert widget.views.words.counted == "the tumour"
    assert "organ that both have" in widget.message.text()
    choose(widget.of, 1)
    settle(qtbot, widget)
    assert "Purple bars" in widget.message.text()
    # The same organ under another name is the same organ.
    names[1] = "RV"
    after.segmentation.card = replace(after.segmentation.card, labels=LabelSet.from_names(names))
    assert widget.against.comparison.theirs(widget.state.part) == widget.state.part


def test_a_run_that_has_just_begun_and_other_scans_can_be_compared_with(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    other = inspectable(viewer, seed=4, name="other")
    trace = other.segmentation.traces.pop(0)
    scan = np.zeros((5, 64, 80), np.uint8)
    elsewhere = inspectable(viewer, (5, 64, 80), image=viewer.add_image(scan, name="b"), seed=2)
    mask = inspectable(viewer, image=viewer.layers["scan"])
    widget = inspect(qtbot, viewer)
    own = mask.segmentation.traces[0]
    trace.vectors[...] = elsewhere.segmentation.traces[0].vectors[...] = own.vectors
    widget.mask_combo.choose(mask.layer)
    settle(qtbot, widget)
    names = [widget.compare.itemText(n) for n in range(widget.compare.count())]
    assert names == ["–", "b · made up"]
    # The other model has seen its first slice.
    other.segmentation.traces[0] = trace
    other.layer.refresh()
    qtbot.waitUntil(lambda: widget.compare.count() == 3, timeout=5_000)
    widget.compare.setCurrentIndex(2)
    settle(qtbot, widget)
    assert "Compared with b · made up" in widget.message.text()
    assert widget.views.words.before is not None
    # A slice of another scan is not the same slice, and its cells lie elsewhere.
    choose(widget.of, "slice")
    settle(qtbot, widget)
    assert widget.views.words.before is None
    assert not widget.shown.model().item(widget.shown.findData(OTHER_CODES)).isEnabled()
    widget.over.show(CHANGED)
    assert not widget.layers.find("heat").visible


def test_what_is_chosen_stays_from_frame_to_frame(
    segment_widget: Any, tmp_path: Path, qtbot: Any
) -> None:
    import nibabel as nib

    data = np.random.default_rng(1).integers(0, 900, (32, 32, 3, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([1.4, 1.4, 8, 1])), tmp_path / "cine.nii.gz")
    viewer, segment = segment_widget()
    open_scan(viewer, tmp_path / "cine.nii.gz")
    run(qtbot, segment)
    mask = segment.current_mask.segmentation
    widget = inspect(qtbot, viewer)
    assert [widget.compare.itemText(n) for n in range(2)] == ["–", "frame 1"]
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    assert widget.against.comparison.other.trace is mask.traces[1]
    code = int(mask.traces[0].codes[1, 0, 0])
    widget.choose([code])
    viewer.dims.set_current_step(0, 1)
    settle(qtbot, widget)
    assert widget.codes == [code]
    # A frame is not compared with itself.
    assert widget.compare.itemText(1) == "frame 0"
    assert widget.against.comparison is None
    viewer.dims.set_current_step(0, 0)
    settle(qtbot, widget)
    assert widget.codes == [code]
    assert widget.against.comparison.other.trace is mask.traces[1]
    # As after resuming: the model is run again on all frames, first on the one on screen.
    first, drawn = mask.traces.copy(), widget.layers.find("codes")
    if heat := widget.layers.find("heat"):
        viewer.layers.remove(heat)
    mask.traces.clear()
    # Without a trace, no further layer is made.
    widget.reading.make_next()
    segment.current_mask.layer.refresh()
    qtbot.waitUntil(lambda: not widget.again.isHidden())
    # The layers are hidden, not removed: adding them again would take seconds.
    assert widget.layers.find("codes") is drawn
    assert not any(one.visible for one in viewer.layers if VIEW_KEY in one.metadata)
    assert segment.current_mask.layer.contour == 0
    looked: list[int] = []
    widget.looking.jobs.done.connect(lambda: looked.append(len(mask.traces)))
    widget.again.click()
    assert "The model is being run again" in widget.told.text()
    qtbot.waitUntil(lambda: "frame left" in widget.bar.text())
    qtbot.waitUntil(lambda: widget.inspection is not None, timeout=10_000)
    settle(qtbot, widget)
    assert looked == [1, 2]
    assert segment.current_mask.layer.contour > 0
    assert widget.layers.find("heat").visible  # the sources of the code
    assert widget.inspection.frame == 0
    for frame, trace in first.items():
        np.testing.assert_array_equal(mask.traces[frame].codes, trace.codes)
    # After Cancel, finished frames stay, and the others are offered again.
    mask.traces.clear()
    widget.reading.read()
    widget.again.click()
    widget.cancel.click()
    assert "Press Look again" in widget.told.text()
    assert not widget.looking.jobs.busy
    assert widget.again.isEnabled()


def test_an_organ_is_not_assigned_to_itself(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    mask.layer.data_setitem((np.array([0]), np.array([1]), np.array([2])), 2)
    painted = mask.layer.data.copy()
    code = int(code_map(mask)[1, 2, 2])
    widget.choose([code])
    choose(widget.extent, EVERYWHERE)
    choose(
        widget.target,
        widget.inspection.ids[widget.inspection.usage(widget.state.part).shares(code)[0][0]],
    )
    widget.preview.click()
    settle(qtbot, widget)
    assert "already: choose another organ" in widget.message.text()
    assert not widget.apply.isEnabled()
    # Slices accepted after the preview stay, and the message does not mention Ctrl-Z.
    choose(widget.target, 3)
    widget.preview.click()
    settle(qtbot, widget)
    mask.segmentation.reviewed.update(mask.segmentation.places)
    widget.apply.click()
    assert "No voxel is left to change" in widget.message.text()
    np.testing.assert_array_equal(mask.layer.data, painted)


def test_another_part_takes_the_preview_back(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    click(viewer, world(mask, 1, 33, 41))
    choose(widget.target, 1)
    choose(widget.of, "slice")
    settle(qtbot, widget)
    widget.preview.click()
    settle(qtbot, widget)
    assert "in slice 1." in widget.message.text()
    choose(widget.of, "volume")
    settle(qtbot, widget)
    assert not widget.apply.isEnabled()
    assert not (np.asarray(widget.layers.find("lit").data) == 4).any()
    assert "would change" not in widget.message.text()


def test_another_choice_during_the_search_leaves_no_preview(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    click(viewer, world(mask, 1, 33, 41))
    choose(widget.target, 1)
    for other in (lambda: choose(widget.target, 2), lambda: click(viewer, world(mask, 1, 5, 5))):
        widget.preview.click()
        assert widget.jobs.busy
        other()
        settle(qtbot, widget)
        assert not widget.apply.isEnabled()
        assert "would change" not in widget.message.text()


def test_unsure_places_that_a_person_decided_on_are_left_out(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    widget.unsure.click()
    settle(qtbot, widget)
    every = list(widget.places.found)
    mask.segmentation.reviewed.add((0, every[0].index))
    painted = next(place for place in every if place.index != every[0].index)
    inside = np.zeros(mask.layer.data.shape, bool)
    inside[painted.box][painted.voxels] = True
    mask.layer.data_setitem(np.nonzero(inside), 2)
    widget.places.forget()
    widget.unsure.click()
    settle(qtbot, widget)
    left = [one for one in every if one.index != every[0].index and one is not painted]
    assert widget.places.found == left
    assert f"{len(every) - len(left)} places that you accepted or painted" in widget.message.text()
    # Places accepted meanwhile are skipped.
    mask.segmentation.reviewed.add((0, left[1].index))
    for _ in left:
        widget.unsure.click()
        assert (0, left[widget.places.at].index) not in mask.segmentation.reviewed
    mask.segmentation.reviewed.update(mask.segmentation.places)
    widget.unsure.click()
    assert "every place" in widget.message.text()
    mask.segmentation.reviewed.update(mask.segmentation.places)
    widget.places.forget()
    widget.unsure.click()
    settle(qtbot, widget)
    assert "every place" in widget.message.text()


def test_places_like_a_mistake_are_left_out_where_slices_are_accepted(
    opened: Made, qtbot: Any
) -> None:
    viewer, mask, widget = opened
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    marked = np.zeros(mask.layer.data.shape, bool)
    marked[1, 28:34, 36:44] = True
    mask.layer.data_setitem(np.nonzero(marked), 1)
    widget.similar.click()
    settle(qtbot, widget)
    first = widget.places.found[0].index
    mask.segmentation.reviewed.add((0, first))
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    widget.similar.click()
    settle(qtbot, widget)
    assert first not in {place.index for place in widget.places.found}
    assert "that you accepted or painted" in widget.message.text()
    mask.segmentation.reviewed.update(mask.segmentation.places)
    widget.forward.click()
    assert "every place like this." in widget.message.text()


def test_a_new_mistake_is_searched_for_without_the_last_one(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    widget.mark.click()
    marks = viewer.layers.selection.active
    marks.data_setitem(tuple(np.array([[1], [30], [40]])), 1)
    widget.similar.click()
    settle(qtbot, widget)
    assert "like what you marked." in widget.message.text()
    # Strokes in the mask after the search count instead of the marks.
    viewer.dims.set_point(0, 16)
    settle(qtbot, widget)
    mask.layer.data_setitem(tuple(np.array([[2, 2], [20, 20], [30, 31]])), 3)
    widget.similar.click()
    settle(qtbot, widget)
    assert "like what you painted in the mask on slice 2." in widget.message.text()
    # Mark one empties the layer, and new marks count again.
    widget.mark.click()
    assert not marks.data.any()
    marks.data_setitem(tuple(np.array([[1], [10], [10]])), 1)
    widget.mark.click()
    assert marks.data.sum() == 1
    widget.similar.click()
    settle(qtbot, widget)
    assert "like what you marked." in widget.message.text()
