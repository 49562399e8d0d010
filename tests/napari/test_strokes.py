"""Strokes on a mask stay, and undoing them shows the model's answer again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from scipy import ndimage

from l2gnet_core.models.card import ModelCard
from l2gnet_core.project.events import Tidying
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.jobs.segment_events import SliceTidied
from napari_l2gnet.jobs.session import Session
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.scans.layers import volume_of

CARD = ModelCard("model", LabelSet.from_names({1: "one", 2: "two", 3: "three"}))
SIZE = 12


def new_mask(shape: tuple[int, ...] = (3, SIZE, SIZE)) -> MaskLayer:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros(shape), name="scan")
    return MaskLayer.add(viewer, image, volume_of(image).grid, CARD, axis=0)


def full(label: int) -> np.ndarray:
    return np.full((SIZE, SIZE), label, np.uint8)


def square(index: int, first: int = 3, last: int = 7) -> tuple[np.ndarray, ...]:
    rows, columns = np.mgrid[first:last, first:last].reshape(2, -1)
    return np.full_like(rows, index), rows, columns


def test_undo_of_a_stroke_made_before_its_slice_came_shows_the_answer() -> None:
    mask = new_mask()
    layer, stroke = mask.layer, square(1)
    layer.data_setitem(stroke, 2)
    mask.put((0, 1), full(1))
    assert (layer.data[stroke] == 2).all()
    assert (layer.data[1] == 1).sum() == SIZE**2 - len(stroke[0])
    layer.undo()
    np.testing.assert_array_equal(layer.data[1], full(1))
    assert not mask.segmentation.touched()
    layer.redo()
    assert (layer.data[stroke] == 2).all()
    assert mask.segmentation.touched()
    layer.undo()
    np.testing.assert_array_equal(layer.data[1], full(1))


def test_erasing_is_a_choice_that_undo_and_redo_keep_apart_from_no_answer() -> None:
    mask = new_mask()
    layer, stroke = mask.layer, square(1)
    layer.data_setitem(stroke, 2)
    mask.put((0, 1), full(1))
    layer.data_setitem(stroke, 0)
    layer.undo()
    assert (layer.data[stroke] == 2).all()
    layer.undo()
    assert (layer.data[stroke] == 1).all()
    layer.redo()
    layer.redo()
    assert (layer.data[stroke] == 0).all()
    mask.put((0, 1), full(3))
    assert (layer.data[stroke] == 0).all()


def test_a_stroke_that_the_model_agrees_with_is_still_a_persons() -> None:
    mask = new_mask()
    layer, stroke = mask.layer, square(1)
    layer.data_setitem(stroke, 2)
    mask.put((0, 1), full(2))
    mask.put((0, 1), full(1))
    assert (layer.data[stroke] == 2).all()
    layer.undo()
    np.testing.assert_array_equal(layer.data[1], full(1))


def test_a_slice_that_comes_in_the_middle_of_a_drag() -> None:
    mask = new_mask()
    layer = mask.layer
    layer.brush_size = 3
    with layer.block_history():
        layer.paint((1, 3, 3), 2)
        mask.put((0, 1), full(1))
        layer.paint((1, 3, 4), 2)
    assert (layer.data[1, 3, 2:6] == 2).all()
    layer.undo()
    np.testing.assert_array_equal(layer.data[1], full(1))
    layer.redo()
    assert (layer.data[1, 3, 2:6] == 2).all()


def test_a_drag_broken_off_after_its_slice_came_leaves_no_hole() -> None:
    mask = new_mask()
    layer = mask.layer
    layer._begin_stroke()
    layer.paint((1, 3, 3), 2)
    mask.put((0, 1), full(1))
    layer._abort_stroke()
    mask.segmentation.counts.mark_all()
    mask.segmentation.count()
    np.testing.assert_array_equal(layer.data[1], full(1))


def test_what_a_script_writes_stays_also_under_a_stroke_that_is_undone() -> None:
    mask = new_mask()
    layer = mask.layer
    layer.data[1, :2] = 3
    layer.refresh()
    mask.put((0, 1), full(1))
    assert (layer.data[1, :2] == 3).all()
    assert (layer.data[1, 2:] == 1).all()
    layer.data_setitem(square(1, 0, 4), 2)
    layer.undo()
    assert (layer.data[1, :2] == 3).all()
    assert (layer.data[1, 2:] == 1).all()
    mask.put((0, 1), full(2))
    assert (layer.data[1, :2] == 3).all()


def test_what_a_script_writes_and_takes_back_is_the_models_again() -> None:
    mask = new_mask()
    mask.layer.data[1, :2] = 3
    mask.put((0, 1), full(1))
    mask.layer.data[1, :2] = 0
    mask.put((0, 1), full(2))
    np.testing.assert_array_equal(mask.layer.data[1], full(2))


def test_strokes_stay_when_the_layer_forgets_how_to_undo_them() -> None:
    mask = new_mask()
    layer, stroke = mask.layer, square(1)
    layer.data_setitem(stroke, 2)
    layer.editable = False
    layer.editable = True
    layer.undo()
    mask.put((0, 1), full(1))
    assert (layer.data[stroke] == 2).all()
    layer.data_setitem(square(1, 8, 9), 3)
    layer.undo()
    layer.undo()
    assert (layer.data[stroke] == 2).all()
    assert (layer.data[1] == 1).sum() == SIZE**2 - len(stroke[0])


def test_undo_after_tidying_shows_the_tidied_answer() -> None:
    mask = new_mask()
    layer = mask.layer
    ring = full(0)
    ring[2:9, 2:9] = 1
    ring[4:7, 4:7] = 0
    mask.put((0, 1), ring)
    layer.data_setitem(square(1, 4, 7), 2)
    for event in Session().clean(mask.segmentation, CleanUp(fill_holes=True)):
        if isinstance(event, SliceTidied):
            mask.put_tidied(event.place, event.labels)
    assert (layer.data[square(1, 4, 7)] == 2).all()
    layer.undo()
    filled = ring.copy()
    filled[4:7, 4:7] = 1
    np.testing.assert_array_equal(layer.data[1], filled)


@pytest.mark.parametrize("choices", [CleanUp(fill_holes=True), CleanUp(True, True)])
def test_tidying_puts_the_slices_that_it_changes_and_no_others(choices: CleanUp) -> None:
    mask = new_mask((6, SIZE, SIZE))
    segmentation, ring = mask.segmentation, full(0)
    ring[2:9, 2:9] = 1
    ring[4:7, 4:7] = 0

    def tidied() -> list[int]:
        put = []
        for event in Session().clean(segmentation, choices):
            if isinstance(event, SliceTidied):
                mask.put_tidied(event.place, event.labels)
                put.append(event.place[1])
        whole = Tidying(choices, segmentation.painted()).whole(segmentation.raw, 0)
        np.testing.assert_array_equal(segmentation.answer, whole)
        theirs = segmentation.by_person()
        np.testing.assert_array_equal(segmentation.shown[~theirs], whole[~theirs])
        return put

    for index in (1, 2):
        mask.put((0, index), ring)
    assert tidied() == [1, 2]
    assert tidied() == []
    mask.put((0, 3), ring)
    assert tidied() == [3]
    # A stroke that closes a ring makes a hole of what is inside, until it is undone.
    gap = np.array([2, 3])
    ring[gap, 5] = 0
    mask.put((0, 4), ring)
    assert tidied() == []
    mask.layer.data_setitem((np.full(2, 4), gap, np.full(2, 5)), 1)
    assert tidied() == [4]
    mask.layer.undo()
    assert tidied() == [4]
    # A script wrote over a slice and took that back: the slice belongs to the answer again.
    mask.layer.data[3] = 3
    mask.put((0, 3), full(1))
    mask.layer.data[3] = segmentation.known[0, 3]
    assert tidied() == [3]


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (2, 3, SIZE, SIZE)])
def test_flat_images_and_time_series(shape: tuple[int, ...]) -> None:
    mask = new_mask(shape)
    layer = mask.layer
    at = (0,) * (len(shape) - 2)
    layer.brush_size = 1
    layer.paint((*at, 5, 6), 2)
    layer.data_setitem(tuple(np.array([i]) for i in (*at, -1, -1)), 3)
    for frame, index in mask.segmentation.places:
        mask.put((frame, index), full(1))
    assert layer.data[(*at, 5, 6)] == 2
    assert layer.data[(*at, -1, -1)] == 3
    layer.undo()
    layer.undo()
    assert (layer.data == 1).all()


@pytest.mark.parametrize("box", [np.s_[1:3, 2:9, 4:8], np.s_[:, :, 5:], np.s_[2, 3, 4]])
def test_a_fill_of_background_through_all_slices_is_one_stroke(
    box: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = new_mask()
    layer, organ = mask.layer, np.zeros((3, SIZE, SIZE), np.uint8)
    organ[box] = 1
    for index, labels in enumerate(organ):
        mask.put((0, index), labels)
    # Sorting a whole scan takes many seconds, in which the window stands still.
    monkeypatch.setattr(np, "unique", lambda *_, **__: pytest.fail("sorts the voxels"))
    layer.n_edit_dimensions = 3
    layer.fill((0, 0, 0), 2)
    np.testing.assert_array_equal(mask.segmentation.by_person()[0], organ == 0)
    assert mask.segmentation.changed == {(0, index) for index in range(3)}
    again = "looks up where each voxel is, again"
    monkeypatch.setattr(mask.segmentation, "places_of", lambda _: pytest.fail(again))
    layer.undo()
    np.testing.assert_array_equal(layer.data, organ)
    assert not mask.segmentation.touched()
    layer.redo()
    np.testing.assert_array_equal(layer.data, np.where(organ == 0, 2, organ))
    mask.put((0, 1), full(3))
    np.testing.assert_array_equal(layer.data[1], np.where(organ[1] == 0, 2, 3))


def test_a_script_that_writes_a_voxel_twice_and_in_no_order_makes_one_stroke() -> None:
    mask = new_mask()
    layer = mask.layer
    at = tuple(np.array([[2, 5, 5], [0, 1, 1], [2, 5, 5], [0, 1, 1]]).T)
    layer.data_setitem(at, np.array([1, 2, 3, 3], np.uint8))
    assert layer.data[2, 5, 5] == 3
    assert mask.segmentation.changed == {(0, 0), (0, 2)}
    mask.put((0, 2), full(1))
    assert layer.data[2, 5, 5] == 3
    layer.undo()
    np.testing.assert_array_equal(layer.data[2], full(1))


LABEL = st.integers(0, 3)
PIXEL = st.integers(0, SIZE - 1)
STEPS = st.one_of(
    st.tuples(st.just("brush"), LABEL, st.lists(st.tuples(PIXEL, PIXEL), min_size=1, max_size=3)),
    st.tuples(st.just("write"), LABEL, PIXEL),
    st.tuples(st.just("fill"), LABEL, PIXEL),
    st.tuples(st.just("polygon"), LABEL, PIXEL),
    st.tuples(st.just("undo")),
    st.tuples(st.just("redo")),
    st.tuples(st.just("arrive"), LABEL, PIXEL),
    st.tuples(st.just("drag and arrive"), LABEL, PIXEL),
)


class Person:
    """The expected labels of a slice: the last stroke over a voxel, otherwise the answer."""

    def __init__(self) -> None:
        self.answer = full(0)
        self.strokes: list[tuple[np.ndarray, int]] = []
        self.undone: list[tuple[np.ndarray, int]] = []

    def seen(self) -> np.ndarray:
        seen = self.answer.copy()
        for where, label in self.strokes:
            seen[where] = label
        return seen

    def paints(self, where: np.ndarray, label: int) -> None:
        changed = where & (self.seen() != label)
        if changed.any():
            self.strokes.append((changed, label))
            self.undone.clear()


def answer_of(label: int, pixel: int) -> np.ndarray:
    answer = full(label)
    answer[pixel:] = (label + 1) % 4
    return answer


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=14))
def test_any_sequence_shows_the_last_stroke_over_the_newest_answer(steps: list[Any]) -> None:
    mask, person = new_mask(), Person()
    layer = mask.layer
    layer.brush_size = 3
    # The shape of napari's brush, taken from another layer.
    probe = new_mask().layer
    probe.brush_size = 3
    probe.paint((1, 5, 5), 1)
    disc = probe.data[1, 4:7, 4:7].astype(bool)

    def brushed(*points: tuple[int, int]) -> np.ndarray:
        where = np.zeros((SIZE + 2, SIZE + 2), bool)
        for row, column in points:
            where[row : row + 3, column : column + 3] |= disc
        return where[1:-1, 1:-1]

    for name, *rest in steps:
        if name == "undo":
            layer.undo()
            if person.strokes:
                person.undone.append(person.strokes.pop())
        elif name == "redo":
            layer.redo()
            if person.undone:
                person.strokes.append(person.undone.pop())
        elif name == "arrive":
            person.answer = answer_of(*rest)
            mask.put((0, 1), person.answer)
        elif name == "brush":
            label, points = rest
            with layer.block_history():
                for point in points:
                    layer.paint((1, *point), label)
            person.paints(brushed(*points), label)
        elif name == "drag and arrive":
            label, pixel = rest
            first, then = (pixel, pixel), (pixel, min(pixel + 2, SIZE - 1))
            before = person.seen()
            with layer.block_history():
                layer.paint((1, *first), label)
                mask.put((0, 1), answer_of(label + 1, pixel))
                layer.paint((1, *then), label)
            # The brush made no stroke where it changed nothing: the new answer shows there.
            passed = brushed(first) & (before != label)
            person.answer = answer_of(label + 1, pixel)
            person.paints((passed | brushed(then)), label)
        elif name == "write":
            label, pixel = rest
            where = np.zeros((SIZE, SIZE), bool)
            where[pixel] = True
            layer.data_setitem((np.full(SIZE, 1), *np.nonzero(where)), label)
            person.paints(where, label)
        elif name == "fill":
            label, pixel = rest
            seen = person.seen()
            areas, _ = ndimage.label(seen == seen[pixel, pixel])
            layer.fill((1, pixel, pixel), label)
            person.paints(areas == areas[pixel, pixel], label)
        elif name == "polygon":
            label, pixel = rest
            far = min(pixel + 4, SIZE - 1)
            corners = [(1, pixel, pixel), (1, pixel, far), (1, far, far), (1, far, pixel)]
            layer.paint_polygon(corners, label)
            where = np.zeros((SIZE, SIZE), bool)
            where[pixel : far + 1, pixel : far + 1] = True
            person.paints(where, label)
        np.testing.assert_array_equal(layer.data[1], person.seen(), err_msg=name)
    assert not layer.data[[0, 2]].any()
    while person.strokes:
        layer.undo()
        person.strokes.pop()
    np.testing.assert_array_equal(layer.data[1], person.answer)
    assert not mask.segmentation.touched()
