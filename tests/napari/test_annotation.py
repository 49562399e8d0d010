"""Adopting an answer is one undoable step, and what a person decided stays."""

from __future__ import annotations

import re
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel

from l2gnet_core.errors import InputError
from l2gnet_core.finetuning.guard import Evidence, Improvement, Verdict
from l2gnet_core.interpolation.shapes import interpolate_slices
from l2gnet_core.models.card import Expectations, ModelCard
from l2gnet_core.project.events import Answered, Interpolated
from l2gnet_core.scans.labels import Label, LabelSet
from l2gnet_core.scans.volume import Grid
from napari_l2gnet.annotating.annotation import PAINTED_WEIGHT, Annotation, Proposal
from napari_l2gnet.annotating.doubts import ExpectedErrors
from napari_l2gnet.annotating.learning import interpolate
from napari_l2gnet.annotating.task_events import Answer
from napari_l2gnet.annotating.tasks import fine_tuning
from napari_l2gnet.correct.proposals import accept, fill_in, verdict_message, weak_organs
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.organs import (
    UNMARKED,
    as_called_in,
    free_id,
    new_color,
    same_names,
    with_organ,
    with_organs_of,
)
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.scans.layers import volume_of

CARD = ModelCard(
    "model",
    LabelSet.from_names({1: "one", 2: "two"}),
    expects=Expectations(volumes={"one": (1.0, 2.0)}),
)
SIZE = 8
SHAPE = (5, SIZE, SIZE)


def new_mask(shape: tuple[int, ...] = SHAPE) -> tuple[MaskLayer, Annotation]:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros(shape), name="scan")
    mask = MaskLayer.add(viewer, image, volume_of(image).grid, CARD, axis=0)
    for place in mask.segmentation.places:
        mask.put(place, full(1))
    return mask, Annotation.of(mask.layer.metadata, mask.segmentation, "model")


def full(label: int) -> np.ndarray:
    return np.full((SIZE, SIZE), label, np.uint8)


def everywhere(label: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.full((1, *shape)[-4:], label, np.uint8)


def square(index: int) -> tuple[np.ndarray, ...]:
    rows, columns = np.mgrid[2:5, 2:5].reshape(2, -1)
    return np.full_like(rows, index), rows, columns


def whole(index: int) -> tuple[np.ndarray, ...]:
    rows, columns = np.indices((SIZE, SIZE)).reshape(2, -1)
    return np.full_like(rows, index), rows, columns


def test_an_answer_leaves_strokes_and_reviewed_slices_alone_and_is_undone_in_one_step() -> None:
    mask, annotation = new_mask()
    layer, segmentation = mask.layer, mask.segmentation
    layer.data_setitem(square(1), 2)
    layer.data[4, 0] = 2  # as a script writes
    annotation.review((0, 2))
    before, mine = layer.data.copy(), segmentation.by_person().copy()
    new = everywhere(0)
    count = mask.adopt(new, new, 1)
    kept = mine[0].copy()
    kept[2] = True
    # The model's own answer is the new one everywhere.
    assert not segmentation.raw.any()
    np.testing.assert_array_equal(layer.data, np.where(kept, before, 0))
    assert count == (~kept).sum()
    np.testing.assert_array_equal(segmentation.by_person(), mine)
    assert segmentation.version == 1
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    np.testing.assert_array_equal(segmentation.by_person(), mine)
    assert (segmentation.raw == 1).all()
    assert segmentation.version == 0
    layer.redo()
    np.testing.assert_array_equal(layer.data, np.where(kept, before, 0))
    np.testing.assert_array_equal(segmentation.by_person(), mine)
    assert segmentation.version == 1
    layer.undo()
    layer.undo()
    # Below the stroke the old answer is back, and nothing there is a person's any more.
    assert (layer.data[1] == 1).all()
    assert not segmentation.by_person()[0, 1].any()


def test_a_hidden_mask_is_written_into_like_a_shown_one() -> None:
    # A hidden layer does not follow the slider, nor the change to 3-D and back.
    mask, _ = new_mask()
    layer, dims = mask.layer, mask.viewer.dims
    layer.visible = False
    dims.set_point(0, 3)
    dims.ndisplay = 3
    mask.adopt(everywhere(2), everywhere(2), 1)
    dims.ndisplay = 2
    assert mask.remove_organ(2) == layer.data.size
    layer.undo()
    assert (layer.data == 2).all()
    layer.undo()
    layer.visible = True
    assert (layer.data == 1).all()
    assert (layer._slice.image.view == layer._slice.image.view[0, 0]).all()


def test_a_stroke_on_an_accepted_answer_shows_that_answer_once_undone() -> None:
    mask, _ = new_mask()
    mask.adopt(everywhere(2), everywhere(2), 1)
    mask.layer.data_setitem(square(1), 0)
    assert mask.segmentation.by_person().sum() == 9
    mask.layer.undo()
    assert (mask.layer.data == 2).all()
    assert not mask.segmentation.touched()


def test_slices_lose_their_review_with_the_answer_that_was_reviewed() -> None:
    mask, annotation = new_mask()
    mask.adopt(everywhere(2), everywhere(2), 1)
    annotation.review((0, 1))
    labels = mask.segmentation.card.labels
    mask.relabel(with_organ(labels, Label(3, "three", new_color(labels))))
    mask.layer.undo()
    assert not mask.segmentation.reviewed
    assert not mask.segmentation.unreviewed_organs
    # The restored review does not cover an organ that was added meanwhile.
    labels = mask.segmentation.card.labels
    mask.relabel(with_organ(labels, Label(4, "four", new_color(labels))))
    mask.layer.redo()
    assert mask.segmentation.reviewed == {(0, 1)}
    assert mask.segmentation.unreviewed_organs == {((0, 1), 3), ((0, 1), 4)}


def test_an_answer_that_comes_back_is_not_what_was_accepted_meanwhile() -> None:
    mask, annotation = new_mask()
    mask.adopt(everywhere(2), everywhere(2), 1)
    annotation.review((0, 1))
    mask.layer.undo()
    annotation.review((0, 3))
    mask.layer.redo()
    assert mask.segmentation.reviewed == {(0, 1)}


def test_undo_of_a_stroke_takes_back_what_was_accepted_with_it_and_redo_does_not_accept() -> None:
    mask, annotation = new_mask()
    layer, segmentation = mask.layer, mask.segmentation
    layer.data_setitem(square(1), 2)
    layer.data_setitem(square(3), 2)
    annotation.review((0, 1))
    annotation.review((0, 4))
    # A stroke on an accepted slice that is undone leaves the slice as it was accepted.
    layer.data_setitem((np.array([1]), np.array([0]), np.array([0])), 2)
    layer.undo()
    layer.undo()
    assert segmentation.reviewed == {(0, 1), (0, 4)}
    layer.undo()
    assert segmentation.reviewed == {(0, 4)}
    assert segmentation.reviews.invalidated == {(0, 1): "undo"}
    layer.redo()
    assert segmentation.reviewed == {(0, 4)}
    # Redo withdraws the review of a slice that it changes, too.
    annotation.review((0, 3))
    layer.redo()
    assert segmentation.reviewed == {(0, 4)}
    assert segmentation.reviews.invalidated == {(0, 1): "undo", (0, 3): "redo"}
    # Accepting the slice again accepts everything on it.
    annotation.review((0, 3))
    layer.undo()
    assert segmentation.reviewed == {(0, 4)}


def paint(mask: MaskLayer, index: int, label: int, dimensions: int = 2) -> None:
    """Paint with a brush on the slice on screen; with dimensions=3 also on its neighbours."""
    mask.go_to_place((0, index))
    mask.layer.n_edit_dimensions, mask.layer.brush_size = dimensions, 3
    mask.layer.paint((index, 4, 4), label)


def test_accepted_slices_that_are_painted_out_of_sight_are_to_be_checked_again() -> None:
    mask, annotation = new_mask()
    layer, segmentation = mask.layer, mask.segmentation
    for index in (1, 2, 3):
        annotation.review((0, index))
    labels = segmentation.card.labels
    mask.relabel(with_organ(labels, Label(3, "three", new_color(labels))))
    paint(mask, 2, 2)
    assert segmentation.reviewed == {(0, 1), (0, 2), (0, 3)}
    paint(mask, 2, 3, dimensions=3)
    assert segmentation.reviewed == {(0, 2)}
    assert segmentation.reviews.invalidated == {(0, 1): "painting", (0, 3): "painting"}
    layer.undo()
    assert segmentation.reviewed == {(0, 1), (0, 2), (0, 3)}
    assert segmentation.unreviewed_organs == {((0, index), 3) for index in (1, 2, 3)}
    assert not segmentation.reviews.invalidated
    layer.redo()
    assert segmentation.reviewed == {(0, 2)}
    assert segmentation.reviews.invalidated == {(0, 1): "redo", (0, 3): "redo"}
    # Slices that were accepted or tidied since then are not restored.
    annotation.review((0, 1))
    mask.put_tidied((0, 3), full(0))
    layer.undo()
    assert segmentation.reviewed == {(0, 2)}
    # In a view across the slices, none of them is on screen as a whole.
    annotation.review((0, 3))
    mask.viewer.dims.roll()
    layer.data_setitem(square(3), 2)
    assert segmentation.reviewed == {(0, 2)}


INDEX = st.integers(0, 2)
SEEING = st.one_of(
    st.tuples(st.just("paint"), INDEX, st.integers(0, 2), st.sampled_from([2, 3])),
    st.tuples(st.sampled_from(["review", "review", "tidy"]), INDEX),
    st.tuples(st.sampled_from(["undo", "redo"])),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(SEEING, max_size=14))
def test_nobody_vouches_for_what_they_did_not_see(steps: list[Any]) -> None:
    shape = (3, SIZE, SIZE)
    mask, annotation = new_mask(shape)
    layer, segmentation = mask.layer, mask.segmentation
    # All states of each slice while it was on screen and accepted.
    seen: dict[int, set[bytes]] = {index: set() for index in range(3)}
    for name, *rest in steps:
        if name == "paint":
            paint(mask, *rest)
        elif name == "review":
            mask.go_to_place((0, rest[0]))
            annotation.review((0, rest[0]), (0, rest[0]) not in segmentation.reviewed)
        elif name == "tidy":
            mask.put_tidied((0, rest[0]), full(len(steps) % 3))
        else:
            getattr(layer, name)()
        for index in range(3):
            now = layer.data[index].tobytes()
            if (0, index) in segmentation.reviewed:
                if rest and index == rest[0]:
                    seen[index].add(now)
                assert now in seen[index]


def test_a_label_that_is_no_organ_is_not_taught() -> None:
    mask, annotation = new_mask()
    mask.layer.data_setitem(square(1), 2)
    mask.layer.data_setitem(square(3), 4)
    mask.layer.data_setitem(square(4), 4)
    annotation.may_be_edited()
    said = "Label 4 in slices 3, 4 belongs to no organ; press New … to name it, or erase it."
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        fine_tuning([mask], "scan", 1.0, False)
    labels = mask.segmentation.card.labels
    mask.relabel(with_organ(labels, Label(4, "four", new_color(labels))))
    model: Any = SimpleNamespace(card=CARD)
    annotation.versions[0].model = model
    assert fine_tuning([mask], "scan", 1.0, False).names[4] == "four"


def test_a_new_run_never_writes_into_a_mask_that_is_reviewed_or_of_another_version() -> None:
    mask, annotation = new_mask()
    image, grid = mask.viewer.layers[0], mask.segmentation.grid
    assert mask.can_take(image, grid, CARD, 0)
    annotation.review((0, 1))
    assert not mask.can_take(image, grid, CARD, 0)
    mask.put((0, 1), full(2))
    assert (mask.layer.data[1] == 1).all()
    # But that is the model's answer now, and what it saw belongs to it.
    assert (mask.segmentation.raw[0, 1] == 2).all()
    annotation.review((0, 1), accepted=False)
    mask.segmentation.count()
    mask.put((0, 1), full(1))
    mask.adopt(everywhere(2), everywhere(2), 1)
    assert not mask.can_take(image, grid, CARD, 0)
    mask.layer.undo()
    assert mask.can_take(image, grid, CARD, 0)


@pytest.mark.parametrize("rolls", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, *SHAPE), SHAPE])
def test_slices_are_shown_however_the_axes_of_a_series_are_rolled(
    shape: tuple[int, ...], rolls: int
) -> None:
    mask, _ = new_mask(shape)
    mask.viewer.add_image(np.zeros((2, *SHAPE)), name="series")
    for _ in range(rolls):
        mask.viewer.dims.roll()
    assert "slices the scan along another axis" in mask.off_screen
    place = (len(shape) - 3, 3)
    mask.go_to_place(place)
    assert mask.place == place
    assert mask.viewer.dims.displayed == (2, 3)
    assert not mask.off_screen
    mask.viewer.dims.transpose()
    assert not mask.off_screen


def test_a_slice_accepted_before_it_is_segmented_has_no_answer_to_go_back_to() -> None:
    mask, annotation = new_mask()
    mask.segmentation.finished.clear()
    annotation.review((0, 1))
    for place in mask.segmentation.places:
        mask.put(place, full(2))
    assert mask.segmentation.finished == set(mask.segmentation.places) - {(0, 1)}
    annotation.keep_first_answer()
    assert annotation.versions[0].raw is None
    # But the mask is complete.
    assert mask.coverage() == (5, 5)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("stroke"), st.integers(0, 2), st.integers(0, 4)),
        st.tuples(st.just("answer"), st.integers(0, 2), st.integers(0, SIZE)),
        st.tuples(st.just("undo")),
        st.tuples(st.just("redo")),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sampled_from([SHAPE, (2, *SHAPE)]))
def test_undo_and_redo_go_through_strokes_and_answers_alike(
    steps: list[Any], shape: tuple[int, ...]
) -> None:
    mask, _ = new_mask(shape)
    layer, segmentation = mask.layer, mask.segmentation

    def state() -> tuple[np.ndarray, np.ndarray, int]:
        return layer.data.copy(), segmentation.by_person().copy(), segmentation.version

    past, future, now = [], [], state()
    at = (0,) * (len(shape) - 3)
    for number, (name, *rest) in enumerate(steps, 1):
        if name == "undo":
            layer.undo()
            if past:
                future.append(now)
                now = past.pop()
        elif name == "redo":
            layer.redo()
            if future:
                past.append(now)
                now = future.pop()
        else:
            before = layer.data.copy()
            mine = segmentation.by_person().copy()
            if name == "stroke":
                label, index = rest
                where = square(index)
                layer.data_setitem((*(np.full(9, i) for i in at), *where), label)
            else:
                label, row = rest
                answer = everywhere(label, shape).reshape(segmentation.shown.shape).copy()
                answer[..., :row, :] = 0
                mask.adopt(answer, answer, number)
                held = mine.reshape(before.shape)
                expected = np.where(held, before, answer.reshape(before.shape))
                np.testing.assert_array_equal(layer.data, expected)
                np.testing.assert_array_equal(segmentation.by_person(), mine)
            if (layer.data != before).any():
                past.append(now)
                future = []
            now = state()
        segmentation.counts.mark_all()
        segmentation.count()
        for one, other in zip(state()[:2], now[:2], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_the_queue_begins_with_the_greatest_doubt_and_next_skips_what_is_reviewed() -> None:
    mask, annotation = new_mask()
    assert [index for _, index in annotation.queue] == [0, 1, 2, 3, 4]
    annotation.rank({(0, i): ExpectedErrors(float(i), "two" if i > 2 else "") for i in range(5)})
    assert [index for _, index in annotation.queue] == [4, 3, 2, 1, 0]
    assert annotation.why((0, 4)) == "unsure: two"
    assert annotation.next_place(None) == (0, 4)
    annotation.review((0, 3))
    assert annotation.next_place((0, 4)) == (0, 2)
    assert annotation.next_place((0, 0)) == (0, 4)
    for index in range(5):
        annotation.review((0, index))
    assert annotation.next_place((0, 0)) is None
    mask.layer.data_setitem(square(1), 2)
    annotation.may_be_edited()
    annotation.look_for_edits()
    assert annotation.why((0, 1)) == "edited"
    mask.layer.undo()
    annotation.may_be_edited()
    annotation.look_for_edits()
    assert annotation.edited == set()


@pytest.mark.parametrize("complete", [False, True])
def test_what_a_painted_slice_teaches(complete: bool) -> None:
    mask, annotation = new_mask()
    mask.layer.data_setitem(square(1), 2)
    mask.layer.data_setitem(square(3), 2)
    annotation.may_be_edited()
    annotation.review((0, 3))
    (lesson,) = annotation.lessons(complete, (1, 2))
    assert lesson.slices == (1, 3)
    np.testing.assert_array_equal(lesson.labels[3], mask.layer.data[3])
    painted = np.zeros((SIZE, SIZE), bool)
    painted[2:5, 2:5] = True
    rest = 1 if complete else UNMARKED
    np.testing.assert_array_equal(lesson.labels[1], np.where(painted, 2, rest))
    np.testing.assert_array_equal(lesson.weights[3], np.where(painted, PAINTED_WEIGHT, 1))
    # Where a new organ is absent, only the rest of the slice can teach.
    (all_of_it,) = annotation.lessons(complete, (1,))
    # The rest of the slice is the model's answer, which judges no model unless a person says so.
    everything = {1, 2}
    assert all_of_it.checked == {1: everything if complete else {2}, 3: everything}
    np.testing.assert_array_equal(all_of_it.labels[1], np.where(painted, 2, 1))
    # Copies: later strokes do not change the lessons.
    mask.layer.data_setitem(square(3), 0)
    assert (lesson.labels[3][painted] == 2).all()


def test_slices_without_organs_say_nothing_once_another_is_added() -> None:
    mask, annotation = new_mask((2, *SHAPE))
    for frame in (0, 1):
        mask.layer.data_setitem((np.full(SIZE**2, frame), *whole(2)), 0)
        annotation.review((frame, 2))
    labels = mask.segmentation.card.labels
    mask.relabel(with_organ(labels, Label(3, "three", new_color(labels))))
    assert annotation.lessons(False, (1, 2)) == []
    mask.layer.data_setitem((np.zeros(9, int), *square(1)), 2)
    annotation.may_be_edited()
    (lesson,) = annotation.lessons(False, (1, 2))
    assert (lesson.frame, lesson.slices) == (0, (1,))


def test_interpolation_fills_one_organ_between_its_slices_and_takes_nothing_painted_away() -> None:
    mask, annotation = new_mask()
    layer = mask.layer
    with pytest.raises(InputError, match="two is annotated in none"):
        annotation.between(0, 2)
    layer.data_setitem(square(0), 2)
    layer.data_setitem(square(4), 2)
    layer.data_setitem((np.array([2]), np.array([3]), np.array([3])), 0)
    annotation.may_be_edited()
    slices = annotation.between(0, 2)
    assert slices == (0, 4)
    between = interpolate_slices(mask.segmentation.shown[0], slices, 0, only=2)
    fill_in(mask, {(0, index): between[index] for index in (1, 2, 3)}, 2)
    assert (layer.data == 2).sum() == 5 * 9 - 1
    assert layer.data[2, 3, 3] == 0
    assert (layer.data == 1).sum() == 5 * (SIZE**2 - 9)
    layer.undo()
    assert (layer.data == 2).sum() == 2 * 9


def test_what_is_filled_in_needs_no_memory_of_the_size_of_the_scan() -> None:
    viewer, grid = ViewerModel(), Grid((100, 128, 128))
    image = viewer.add_image(np.zeros(grid.shape, np.uint8))
    mask = MaskLayer.add(viewer, image, grid, CARD, axis=0)
    organ = np.zeros((128, 128), np.uint8)
    organ[5:9, 5:9] = 2
    tracemalloc.start()
    fill_in(mask, {(0, 1): organ, (0, 2): organ}, 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (mask.layer.data == 2).sum() == 2 * 16
    assert peak < mask.layer.data.size


def test_an_answer_that_is_undone_while_interpolation_computes_stays_undone() -> None:
    mask, annotation = new_mask()
    mask.adopt(everywhere(0), everywhere(0), 1)
    for index in (0, 4):
        mask.layer.data_setitem(square(index), 2)
    volume = mask.segmentation.grid.volume(np.zeros(SHAPE, np.float32))
    *steps, last = interpolate(annotation, volume, 0, annotation.between(0, 2), 2)
    # The bar moves.
    assert {round(3 * one.done) for one in steps} == {0, 1, 2, 3}
    for _ in range(3):
        mask.layer.undo()
    fill_in(mask, last.slices, 2)
    expected = np.ones(SHAPE, np.uint8)
    expected[1:4, 2:5, 2:5] = 2
    np.testing.assert_array_equal(mask.layer.data, expected)
    np.testing.assert_array_equal(mask.segmentation.raw[0], expected)
    (event,) = [one for one in mask.segmentation.events if isinstance(one, Interpolated)]
    assert sorted(event.slices) == [(0, 1), (0, 2), (0, 3)]


def test_organs_are_added_renamed_and_refused() -> None:
    mask, _ = new_mask()
    labels = mask.segmentation.card.labels
    assert free_id(labels) == 3
    color = new_color(labels)
    assert color not in labels.colors.values()
    mask.relabel(with_organ(labels, Label(3, "three", color)))
    mask.relabel(with_organ(mask.segmentation.card.labels, Label(1, "uno", "#123456")))
    labels = mask.segmentation.card.labels
    assert labels.names == {1: "uno", 2: "two", 3: "three"}
    assert mask.segmentation.card.expects.volumes == {"uno": (1.0, 2.0)}
    np.testing.assert_allclose(mask.layer.colormap.map(1)[:3], np.array([18, 52, 86]) / 255)
    mask.layer.data_setitem(square(1), 3)
    mask.segmentation.count()
    assert mask.voxels()[3] == 9
    for organ, problem in (
        (Label(4, "two", color), "there is a two already"),
        (Label(4, "Two", color), "there is a two already"),
        (Label(4, "  ", color), "Expected a name"),
        (Label(UNMARKED, "x", color), "Expected an id"),
    ):
        with pytest.raises(InputError, match=problem):
            with_organ(labels, organ)
    lung = with_organ(labels, Label(4, "left lung", color))
    with pytest.raises(InputError, match="there is a left lung already"):
        with_organ(lung, Label(5, "Left  lung", color))
    with pytest.raises(InputError, match="up to 255"):
        mask.relabel(with_organ(labels, Label(300, "x", color)))
    assert 300 not in mask.segmentation.card.labels.names
    other = LabelSet.from_names({3: "drei", 4: "vier"})
    with pytest.raises(InputError, match="its label 3 is drei and the mask's is three"):
        with_organs_of(labels, other)
    more = LabelSet.from_names({3: "three", 4: "vier"})
    assert with_organs_of(labels, more).names == {**labels.names, 4: "vier"}
    with pytest.raises(InputError, match="its label 5 is Three, which is label 3 in the mask"):
        with_organs_of(labels, LabelSet.from_names({5: "Three"}))
    card = ModelCard("other", other, expects=Expectations(volumes={"drei": (1.0, 2.0)}))
    card = as_called_in(card, labels)
    assert card.labels.names == {3: "three", 4: "vier"}
    assert card.expects.volumes == {"three": (1.0, 2.0)}
    with pytest.raises(InputError, match="label 3 is three in one and drei"):
        same_names({"A": labels, "B": other})
    with pytest.raises(InputError, match="Three is label 3 in A and label 4 in B; rename"):
        same_names({"A": LabelSet.from_names({3: "three"}), "B": LabelSet.from_names({4: "Three"})})


def test_a_removed_organ_becomes_background_and_undo_brings_it_back() -> None:
    mask, annotation = new_mask()
    segmentation, layer = mask.segmentation, mask.layer
    first = dict(segmentation.card.labels.names)
    mask.relabel(with_organ(segmentation.card.labels, Label(3, "three", "#123456")))
    assert mask.remove_organ(3) == 0
    # Nothing can bring it back: its id is free again.
    mask.relabel(with_organ(segmentation.card.labels, Label(3, "drei", "#123456")))
    names = dict(segmentation.card.labels.names)
    for index in (1, 2):
        layer.data_setitem(square(index), 3)
    annotation.review((0, 1))
    annotation.review((0, 4))
    before = layer.data.copy()
    assert mask.remove_organ(3) == 18
    assert segmentation.card.labels.names == first
    # A colour without an organ would be saved as "label 3".
    assert 3 not in layer.colormap.color_dict
    np.testing.assert_array_equal(layer.data, np.where(before == 3, 0, before))
    # A person's stroke, also in slices that are not on screen.
    assert segmentation.by_person()[before[None] == 3].all()
    assert segmentation.reviewed == {(0, 4)}
    with pytest.raises(InputError, match="3 was the drei, which Ctrl-Z can bring back"):
        mask.relabel(with_organ(segmentation.card.labels, Label(3, "other", "#123456")))
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    assert segmentation.card.labels.names == names
    assert mask.colors()[3] == ("#123456", True)
    # Slices that were accepted before it was removed say where it is.
    assert segmentation.reviewed == {(0, 1), (0, 4)}
    assert segmentation.unreviewed_organs == set()
    layer.selected_label = 3
    layer.redo()
    assert segmentation.card.labels.names == first
    assert layer.selected_label in first
    # Its name may be another's by then.
    mask.relabel(with_organ(segmentation.card.labels, Label(4, "drei", "#123456")))
    layer.undo()
    assert segmentation.card.labels.names == {**first, 4: "drei", 3: "drei (3)"}


def test_there_is_one_annotation_of_a_mask_and_a_duplicate_layer_has_its_own_mask() -> None:
    mask, annotation = new_mask()
    metadata = mask.layer.metadata
    assert Annotation.of(metadata, mask.segmentation, "model") is annotation


def learnt(dice: Improvement, kind: str = "scan", **evidence: Any) -> Any:
    """A fine-tuning that taught a cyst."""
    verdict = Verdict(True, "Kept.", Evidence(1.0, 5, dice, None, None, **evidence))

    def model(names: dict[int, str]) -> Any:
        return SimpleNamespace(card=SimpleNamespace(labels=LabelSet.from_names(names)))

    return SimpleNamespace(
        parent=model({1: "liver"}),
        config=SimpleNamespace(kind=kind),
        result=SimpleNamespace(verdict=verdict, model=model({1: "liver", 2: "cyst"})),
    )


@pytest.mark.parametrize(("kind", "dice", "advised"), [
    ("scan", 0.3, True), ("scan", 0.85, False), ("project", 0.3, False),
])  # fmt: skip
def test_who_teaches_an_organ_that_is_hardly_learnt_is_told_what_does_better(
    kind: str, dice: float, advised: bool
) -> None:
    improvement = Improvement({"liver": 0.8, "cyst": 0.0}, {"liver": 0.8, "cyst": dice})
    assert ("Interpolate between slices" in verdict_message(learnt(improvement, kind))) == advised


@pytest.mark.parametrize("dice", [0.3, 0.9])
def test_accepting_keeps_what_was_interpolated_of_an_organ_that_is_hardly_learnt(
    dice: float,
) -> None:
    mask, annotation = new_mask()
    layer, segmentation = mask.layer, mask.segmentation
    told_of = learnt(Improvement({"liver": 0.8}, {"liver": 0.8, "cyst": dice}))
    filled = everywhere(1)
    filled[0, 1:4, 2:5, 2:5] = 2
    mask.adopt(filled, filled, 0)
    layer.data_setitem(square(4), 2)
    before = layer.data.copy()
    new = everywhere(0)
    new[0, :, 0, 0] = 2  # a voxel of the cyst that the model knows, in each slice
    answered = Answered("accepted", told_of.result.model, segmentation.places)
    places = set(segmentation.places)
    answer = Answer(new, new, answered, {})
    annotation.propose(Proposal("scan", new, places, (), told_of, weak_organs(told_of), answer))
    expected = np.where((before == 2) & (dice < 0.8), 2, new[0])
    expected[1:4, 0, 0] = 2 * (dice > 0.8)
    expected[4][square(4)[1:]] = 2
    np.testing.assert_array_equal(annotation.merged((0, 2), new), expected[2])
    accept(mask, annotation)
    np.testing.assert_array_equal(layer.data, expected)
    # It is in the history for replay, and in the raw answer, with which tidying begins.
    last = segmentation.events[-1]
    assert list(last.filled) == ([(0, 1), (0, 2), (0, 3)] if dice < 0.8 else [])
    for place, state in last.filled.items():
        np.testing.assert_array_equal(state.raw, expected[place[1]])
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    np.testing.assert_array_equal(segmentation.raw, filled)


@pytest.mark.parametrize(("after", "said"), [
    (0.8712, "No clear change on slices left out of training: 0.871 Dice."),
    (0.8710, "No clear change on slices left out of training: 0.871 Dice."),
    (0.8741, "No clear change on slices left out of training: 0.871 to 0.874 Dice."),
    (0.8624, "No clear change on slices left out of training: 0.871 to 0.862 Dice."),
    (0.8811, "Better on slices left out of training: +0.010 Dice (0.871 to 0.881)."),
    (0.8611, "Lower on slices left out of training: -0.010 Dice (0.871 to 0.861)."),
])  # fmt: skip
def test_the_words_of_a_verdict_claim_no_more_than_its_numbers_tell(
    after: float, said: str
) -> None:
    words = verdict_message(learnt(Improvement({"liver": 0.8711}, {"liver": after})))
    assert said in words
    assert "in short test runs, not with the model of this preview" in words
    strokes = verdict_message(learnt(Improvement({"liver": 0.8711}, {"liver": after}), partly=True))
    where = "what you marked in slices left out of training"
    assert said.replace("slices left out of training", where) in strokes


@pytest.mark.parametrize(("after", "said"), [
    (0.02, "Hardly anything is learnt yet on what you marked"), (0.3, "Better on what you marked"),
])  # fmt: skip
def test_what_is_hardly_learnt_is_not_called_better(after: float, said: str) -> None:
    strokes = learnt(Improvement({"liver": 0.0}, {"liver": after}), partly=True)
    assert verdict_message(strokes).startswith(said)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_answer_changes_what_no_person_decided_however_the_model_cuts(axis: int) -> None:
    rng, shape = np.random.default_rng(axis), (2, 4, 5, 6)
    segmentation = Segmentation(Grid(shape), CARD, axis)
    for array in (segmentation.raw, segmentation.answer, segmentation.known):
        array[...] = rng.integers(0, 3, shape)
    segmentation.shown[...] = segmentation.known
    assert not segmentation.touched()
    segmentation.shown[rng.random(shape) < 0.1] = 1
    assert segmentation.touched()
    segmentation.stroked[...] = rng.random(shape) < 0.1
    theirs = segmentation.stroked | (segmentation.shown != segmentation.known)
    np.testing.assert_array_equal(segmentation.by_person(), theirs)
    segmentation.reviewed.update({(0, 1), (1, 0), (1, 3)})
    free = np.ones(shape, bool)
    for place in segmentation.reviewed:
        segmentation.slice_of(free, place)[...] = False
    answer, raw = rng.integers(0, 3, (2, *shape)).astype(np.uint16)
    adoption = segmentation.undo_history.adoption(answer, raw, 1)
    for delta, old, new, where in (
        (adoption.answer, segmentation.answer, answer, free),
        # The model's own answer, which is not shown, is the new one everywhere.
        (adoption.raw, segmentation.raw, raw, np.True_),
        (adoption.shown, segmentation.shown, answer, free & ~theirs),
    ):
        expected, before = np.where(where, new, old), old.copy()
        np.testing.assert_array_equal(delta.voxels, np.flatnonzero(expected != old))
        delta.into(old)
        np.testing.assert_array_equal(old, expected)
        delta.into(old, back=True)
        np.testing.assert_array_equal(old, before)
