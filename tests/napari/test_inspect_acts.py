"""What a person does about an error with the Inspect widget: find it, find more, put it right."""

from __future__ import annotations

from collections.abc import Callable
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
    made_up_look,
    settle,
    world,
)

from l2gnet_core.inspect.places import unsure_regions
from l2gnet_core.inspect.populations import histogram_distance
from l2gnet_core.inspect.similar import find_similar
from napari_l2gnet.inspect_form import DOUBT, EVERYWHERE, PIECE
from napari_l2gnet.inspect_words import PLAN, USAGE
from napari_l2gnet.tasks import scan_of

Made = tuple[Any, Any, Any]


@pytest.fixture
def opened(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Made:
    """Viewer, mask and widget of a made-up scan."""
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    return viewer, mask, inspect(qtbot, viewer)


def choose(combo: Any, data: Any) -> None:
    combo.setCurrentIndex(combo.findData(data))


def test_unsure_places_are_stepped_through_the_worst_first(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    look = mask.segmentation.looks[0]
    look.entropy[...] = 0.05
    look.entropy[2, 25:35, 45:55] = 0.9
    look.entropy[1, 30:36, 20:30] = 0.6
    choose(widget.views.kind, "softmax")
    widget.unsure.click()
    settle(qtbot, widget)
    assert widget.index == 2
    assert widget.place.text().startswith("unsure place 1 of ")
    assert widget.place.text().endswith("slice 2")
    assert widget.shown.currentData() == DOUBT
    lit = widget.layers.find("lit").data == 3
    assert lit[2, 25:35, 45:55].any()
    assert lit.sum() == lit[2, 20:40, 40:60].sum()
    center = viewer.scene.camera.center
    assert abs(center[1] / 1.5 - 30) < 8
    assert abs(center[2] / 1.5 - 50) < 8
    widget.unsure.click()
    assert widget.index == 1
    widget.back.click()
    assert widget.index == 2
    wanted = unsure_regions(look.entropy.astype(np.float32), mask.segmentation.raw[0], 0)
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
    wanted = find_similar(mask.segmentation.looks[0], raw, where, scan_of(mask).data)
    found = widget.places.found
    assert [(one.index, one.box) for one in found] == [(one.index, one.box) for one in wanted]
    assert widget.index == found[0].index
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
    mask = segment.mask
    scan = np.asarray(scan_of(mask).data)
    by_frame = [
        find_similar(mask.segmentation.looks[1], mask.segmentation.raw[1], marked[1], scan[frame])
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
    assert "has 5 axes where 2 to 4 are expected" in widget.message.text()


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
    np.testing.assert_array_equal(widget.layers.find("lit").data == 4, inside)
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
    mask.layer.undo()
    np.testing.assert_array_equal(mask.layer.data, before)
    assert not mask.segmentation.touched()


def test_what_a_person_painted_stays(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    viewer.dims.set_point(0, 8)
    settle(qtbot, widget)
    voxel = (1, 33, 41)
    painted = (np.array([1, 1]), np.array([33, 34]), np.array([42, 42]))
    # Back and forth: a person said that these are the left ventricle.
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
    assert "is left ventricle already" in widget.preview.toolTip()
    choose(widget.target, 1)
    widget.preview.click()
    settle(qtbot, widget)
    assert widget.apply.isEnabled()
    # Another choice: what was shown is not what would be done.
    choose(widget.target, 2)
    assert not widget.apply.isEnabled()
    assert not (widget.layers.find("lit").data == 4).any()


def test_two_models_are_compared(make_napari_viewer: Callable[..., Any], qtbot: Any) -> None:
    viewer = make_napari_viewer()
    before = inspectable(viewer, name="before")
    image = viewer.layers["scan"]
    after = inspectable(viewer, seed=5, image=image, name="after")
    look, old = after.segmentation.looks[0], before.segmentation.looks[0]
    look.vectors[...] = old.vectors
    widget = inspect(qtbot, viewer)
    assert widget.layers.mask.layer is after.layer
    assert [widget.compare.itemText(n) for n in range(widget.compare.count())] == [
        "–",
        "scan · before",
    ]
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    counts = [np.bincount(one.codes.ravel(), minlength=12) for one in (look, old)]
    distance = histogram_distance(*counts, look.vectors)
    assert f"distance {distance:.3f}" in widget.message.text()
    words = widget.views.words
    shares = old.cells.counts(before.segmentation.raw[0], [0, 1, 2, 3]).sum(-1)
    shares = np.bincount(old.codes.ravel(), shares.ravel(), 12) / shares.sum()
    np.testing.assert_allclose([words.percent_before(c) for c in range(12)], 100 * shares)
    assert "The other model gives it" in widget.views.usage.tell(3)
    widget.views.setCurrentIndex(PLAN)
    from l2gnet_core.inspect.plans import code_plan, times_chance

    difference = times_chance(code_plan(look)) - times_chance(code_plan(old))
    np.testing.assert_allclose(words.lift(), np.nan_to_num(difference), atol=1e-9)
    assert "than in the other model" in widget.views.plan.tell((1, 2))
    widget.views.setCurrentIndex(USAGE)
    viewer.layers.remove(before.layer)
    settle(qtbot, widget)
    assert widget.against.comparison is None
    assert not widget.compare.isVisible()


def test_models_with_other_codebooks_are_compared_in_words_alone(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    inspectable(viewer, codes=20, name="larger")
    inspectable(viewer, image=viewer.layers["scan"], name="smaller")
    widget = inspect(qtbot, viewer)
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    assert "codebooks or organs differ" in widget.message.text()
    assert widget.against.comparison is None
    assert widget.views.words.before is None


def test_an_earlier_version_of_the_model_is_compared(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    from napari_l2gnet.annotation import Annotation, Version

    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    annotation = Annotation.of(mask.layer.metadata, mask.segmentation, "made up")
    annotation.keep_first_answer()
    old = mask.segmentation.looks[0]
    annotation.add_version(Version("v1", "scan", 0))
    look = made_up_look((4, 64, 80), 12, 8, np.random.default_rng(9))
    look.vectors[...] = old.vectors
    raw = mask.segmentation.raw.copy()
    raw[0, 2, 30:40, 30:40] = 2
    mask.adopt(raw, raw, 1, {0: look})
    widget = inspect(qtbot, viewer)
    assert widget.compare.itemText(1) == "version original"
    widget.compare.setCurrentIndex(1)
    settle(qtbot, widget)
    words = widget.views.words
    before = np.bincount(old.codes.ravel(), minlength=12) / old.codes.size
    shares = [words.percent_before(code) for code in range(12)]
    np.testing.assert_allclose(shares, 100 * before, atol=0.7)
    assert "Against version original the codes" in widget.message.text()
    # The list is filled anew with every layer: the choice stays.
    viewer.add_image(np.zeros((4, 4)))
    assert widget.compare.currentIndex() == 1
    mask.layer.undo()
    qtbot.waitUntil(lambda: widget.inspection.is_current and not widget.jobs.busy, timeout=10_000)
    assert widget.inspection.look is old
