"""Cells drawn on voxels slice by slice are what they would be all at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.cells import cell_grid
from l2gnet_core.segmenting.slice_view import SliceView, slice_view
from napari_l2gnet.inspect.cell_array import CellArray, Lit, OneFrame


@settings(max_examples=60, deadline=None)
@given(data=st.data(), axis=st.integers(0, 2), frames=st.sampled_from([0, 1, 3]))
def test_it_indexes_like_the_whole_array(data: Any, axis: int, frames: int) -> None:
    shape = tuple(data.draw(st.tuples(*[st.integers(1, 40)] * 3)))
    cut = data.draw(st.tuples(*[st.tuples(*[st.integers(0, 9)] * 2)] * 2))
    axes = (axis, *(other for other in range(3) if other != axis))
    seen = tuple(shape[other] for other in axes)
    cells = cell_grid(SliceView(axes, (False, True, False), seen, seen[1:], 1, cut), 16)
    rng = np.random.default_rng(0)
    values = rng.random((max(1, frames), cells.count, *cells.size)).astype(np.float32)
    whole = np.stack([cells.on_scan(one) for one in values])
    whole = whole if frames else whole[0]
    array = CellArray(cells, whole.dtype, lambda f, i: values[f, i], whole.shape)
    assert array.shape == whole.shape
    np.testing.assert_array_equal(np.asarray(array), whole)

    def key(size: int) -> Any:
        part = st.one_of(st.integers(-size, size - 1), st.slices(size))
        return data.draw(part)

    keys = tuple(key(size) for size in whole.shape[: data.draw(st.integers(1, whole.ndim))])
    np.testing.assert_array_equal(array[keys], whole[keys])
    np.testing.assert_array_equal(array[keys[0]], whole[keys[0]])
    last = key(whole.shape[-1])
    np.testing.assert_array_equal(array[..., last], whole[..., last])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), axes=st.integers(2, 4))
def test_what_is_lit_in_a_box_indexes_like_the_whole_array(data: Any, axes: int) -> None:
    shape = tuple(data.draw(st.tuples(*[st.integers(1, 9)] * axes)))
    lit, whole = Lit(shape), np.zeros(shape, np.uint8)
    starts = [data.draw(st.integers(0, size - 1)) for size in shape]
    # A box may hang over the edge; its values do not.
    box = tuple(slice(start, start + data.draw(st.integers(1, 9))) for start in starts)
    values = np.random.default_rng(0).integers(0, 5, whole[box].shape).astype(np.uint8)
    whole[box] = values
    lit.light_box(box, values)
    assert (lit.shape, lit.ndim, lit.size, len(lit)) == (shape, axes, whole.size, shape[0])
    np.testing.assert_array_equal(np.asarray(lit), whole)

    def key(size: int) -> Any:
        return data.draw(st.one_of(st.integers(-size, size - 1), st.slices(size)))

    keys = tuple(key(size) for size in shape[: data.draw(st.integers(1, axes))])
    np.testing.assert_array_equal(lit[keys], whole[keys])
    last = key(shape[-1])
    np.testing.assert_array_equal(lit[..., last], whole[..., last])
    lit.darken()
    assert not np.asarray(lit).any()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_in_one_frame_indexes_like_the_whole_array(data: Any) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 4))
    frame, values = data.draw(st.integers(0, shape[0] - 1)), np.random.default_rng(0).random(shape)
    whole = np.where(np.arange(shape[0])[:, None, None, None] == frame, values[frame], 0)
    array = OneFrame(values[frame], frame, shape)
    np.testing.assert_array_equal(np.asarray(array), whole)

    def key(size: int) -> Any:
        return data.draw(st.one_of(st.integers(-size, size - 1), st.slices(size)))

    keys = tuple(key(size) for size in shape[: data.draw(st.integers(1, 4))])
    np.testing.assert_array_equal(array[keys], whole[keys])
    last = key(shape[-1])
    np.testing.assert_array_equal(array[..., last], whole[..., last])
    np.testing.assert_array_equal(array[keys[0], ..., last], whole[keys[0], ..., last])


def test_a_flat_image() -> None:
    card = ModelCard("any", LabelSet.from_names({1: "organ"}))
    cells = cell_grid(slice_view(card, Grid((1, 20, 30)), 0), 16)
    values = np.arange(4).reshape(2, 2)
    array = CellArray(cells, values.dtype, lambda f, i: values, (20, 30))
    np.testing.assert_array_equal(array[:, :], cells.on_slice(values))
    with pytest.raises(IndexError):
        array[20, 0]
