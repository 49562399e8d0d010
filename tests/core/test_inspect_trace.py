"""What a network saw: the right numbers, and exactly in the right place."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_traces import STRIDE, BlockMeans, made_up, new_trace
from plan_numbers import code_to_code
from scipy.stats import entropy
from test_volume import ORIENTATIONS, oriented_affine

from l2gnet_core.errors import InputError
from l2gnet_core.inspect.plans import code_plan, partners, sources_map
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.config import ARCHITECTURES, WITH_CODES, preset
from l2gnet_core.network.model import build
from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.preprocessing.images import pad_to_multiple
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.cells import cell_grid
from l2gnet_core.segmenting.predict import predict_slices, segment
from l2gnet_core.segmenting.slice_view import SliceView, slice_view
from l2gnet_core.segmenting.trace import SliceTrace, Trace

LABELS = LabelSet.from_names({1: "left", 2: "right"})


@st.composite
def views(draw) -> SliceView:
    """Any view of a scan: axes in any order, flipped, resized, without its margins."""
    axes = draw(st.permutations([0, 1, 2]))
    flipped = draw(st.tuples(*[st.booleans()] * 3))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 90), st.integers(1, 90)))
    size = draw(st.tuples(st.integers(1, 120), st.integers(1, 120)))
    cut = st.tuples(st.integers(0, 5), st.integers(0, 40))
    margins = draw(st.just(((0, 0), (0, 0))) | st.tuples(cut, cut))
    seen = draw(st.sampled_from([size, shape[1:]]))
    return SliceView(tuple(axes), flipped, shape, seen, 1, margins)


def uncut(view: SliceView) -> SliceView:
    """The same view, with its margins."""
    n, *sides = view.shape
    height, width = (side + sum(cut) for side, cut in zip(sides, view.margins, strict=True))
    return replace(view, shape=(n, height, width), margins=((0, 0), (0, 0)))


@settings(max_examples=60, deadline=None)
@given(views())
def test_every_voxel_lies_in_the_cell_that_its_centre_falls_into(view):
    cells = cell_grid(view, STRIDE)
    height, width = view.size
    h, w = -(-height // STRIDE), -(-width // STRIDE)
    ids = np.arange(view.shape[0] * h * w).reshape(view.shape[0], h, w)
    n, rows, columns = view.shape
    # Pixel by pixel of the stack, as exact fractions.
    seen = np.empty(view.shape, int)
    for p in range(rows):
        row = floor((Fraction(2 * p + 1, 2) * height / rows) / STRIDE)
        for q in range(columns):
            column = floor((Fraction(2 * q + 1, 2) * width / columns) / STRIDE)
            seen[:, p, q] = ids[:, row, column]
    whole = uncut(view)
    scan = np.empty([whole.shape[view.axes.index(axis)] for axis in range(3)], int)
    whole.stack(scan)[...] = np.pad(seen, ((0, 0), *view.margins), constant_values=-1)
    stored = np.stack([view.stored(ids[view.place(index)]) for index in range(n)])
    np.testing.assert_array_equal(cells.on_scan(stored + 1), scan + 1)
    assert cells.shape == scan.shape
    assert cells.size == stored.shape[1:]
    one = np.moveaxis(scan, cells.axis, 0)[0]
    np.testing.assert_array_equal(cells.on_slice(stored[0], -1), one)
    for voxel in (tuple(size // 2 for size in scan.shape), (0, 0, 0)):
        assert cells.sees(voxel) == (scan[voxel] >= 0)
        if cells.sees(voxel):
            assert stored[cells.at(voxel)] == scan[voxel]


@settings(max_examples=40, deadline=None)
@given(views(), st.data())
def test_boxes_and_counts_are_of_the_voxels_of_cells(view, data):
    cells = cell_grid(view, STRIDE)
    h, w = cells.size
    row, column = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    chosen = np.zeros((cells.count, h, w), bool)
    chosen[0, row, column] = True
    covered = cells.on_scan(chosen)
    boxed = np.zeros(cells.shape, bool)
    boxed[cells.box(0, slice(row, row + 1), slice(column, column + 1))] = True
    np.testing.assert_array_equal(boxed, covered)
    mask = np.random.default_rng(0).integers(0, 9, cells.shape)
    counts = cells.counts(mask, [0, 3, 7])
    for number, id in enumerate([0, 3, 7]):
        assert counts[0, row, column, number] == (mask[covered] == id).sum()
        seen = cells.on_scan(np.ones_like(chosen))
        assert counts[..., number].sum() == (mask[seen] == id).sum()


@pytest.mark.parametrize("margins", [((0, 0), (0, 0)), ((7, 2), (1, 12))])
def test_scans_in_order_lie_at_pitch_and_start(margins):
    view = SliceView((2, 1, 0), (True, True, False), (3, 40, 50), (60, 50), 1, margins)
    cells = cell_grid(view, STRIDE)
    ids = np.arange(3 * 4 * 4).reshape(3, 4, 4)
    laid = cells.in_scan_order(ids)
    where = np.argwhere(np.ones(laid.shape, bool))
    centres = np.rint(where * cells.pitch + np.array(cells.start)).astype(int)
    inside = np.array([(centre >= 0).all() and cells.sees(tuple(centre)) for centre in centres])
    assert inside.sum() > 20
    expected = cells.on_scan(ids)[tuple(centres[inside].T)]
    np.testing.assert_array_equal(laid.ravel()[inside], expected)


VARIANTS = {
    "as stored": {},
    "quarter turns": {"views": 4},
    "oriented": {"oriented": True, "views": 2},
    "resampled": {"spacing": (4.0, 1.1, 0.9), "oriented": True},
    "usual size": {"sides": (150, 170)},
    "shrunk": {"sides": (60, 70)},
    "magnified": {"appearance": Appearance(zoom=1.4)},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", ORIENTATIONS[::7])
def test_cells_lie_half_a_cell_from_their_corner(codes, axis, variant):
    # A slope keeps its place through flips, resizing and block means: each cell's mean is the
    # slope's value at the cell's centre.
    shape = [130, 130, 130]
    shape[axis] = 2
    for slope in (other for other in range(3) if other != axis):
        scan = np.indices(shape)[slope].astype(np.float32)
        affine = oriented_affine(codes, (1.0, 1.0, 1.0))
        grid = Grid(tuple(shape), affine=affine, units="mm", oriented=True)
        model = Model(BlockMeans(), ModelCard(name="m", labels=LABELS, **VARIANTS[variant]))
        view = slice_view(model.card, grid, axis, scan)
        trace = Trace(cell_grid(view, STRIDE), np.zeros((1, 2), np.float32))
        segment(model, scan, grid, axis, trace=trace)
        low, high = intensity_window(view.stack(scan))
        values = trace.cells.in_scan_order(trace.error) * (high - low) + low
        expected = (
            trace.cells.start[slope] + np.arange(values.shape[slope]) * trace.cells.pitch[slope]
        )
        # Without cells at the edges: padding, and the window, change the slope there.
        middle = tuple(slice(None) if other == axis else slice(1, -2) for other in range(3))
        wanted = expected.reshape([-1 if other == slope else 1 for other in range(3)])
        inner = np.broadcast_to(wanted, values.shape)[middle]
        assert inner.size > 0
        np.testing.assert_allclose(values[middle], inner, atol=0.05)


@pytest.fixture
def model_of():
    def make(architecture: str, **card) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build(preset("tiny", 3, architecture=architecture)).eval()
            torch.nn.init.normal_(network.decoder.head.weight, std=1.0)
        return Model(network, ModelCard("m", LABELS, architecture, **card))

    return make


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_look_holds_what_the_network_says(model_of, scan, architecture, one_sentence):
    model, grid = model_of(architecture), Grid(scan.shape)
    if architecture not in WITH_CODES:
        with pytest.raises(InputError, match=architecture) as error:
            new_trace(model, scan, grid, 0)
        one_sentence(error.value)
        return
    trace = new_trace(model, scan, grid, 0)
    assert not trace.seen.any()
    mask = segment(model, scan, grid, 0, trace=trace)
    assert trace.seen.all()
    plain = [done.labels for done in predict_slices(model, scan, grid, 0)]
    np.testing.assert_array_equal(mask, np.stack(plain))
    images = torch.from_numpy(normalise(scan, intensity_window(scan)))[:, None]
    with torch.inference_mode():
        output = model.network(pad_to_multiple(images, STRIDE))
    np.testing.assert_array_equal(trace.codes, output.codes)
    nearest = model.network.bottleneck.codebook.vectors[output.codes]
    with torch.inference_mode():
        features = model.network.encoder(pad_to_multiple(images, STRIDE))[-1]
    # Each channel of each image is normalised before it is quantised.
    spread, mean = torch.std_mean(features, (2, 3), correction=0, keepdim=True)
    tokens = ((features - mean) / spread).movedim(1, -1)
    error = (tokens - nearest).square().mean(-1)
    np.testing.assert_allclose(trace.error, error, rtol=1e-3, atol=1e-6)
    shares = output.logits.softmax(1)[:, :, :41, :53].numpy()
    expected = entropy(shares, axis=1) / np.log(3)
    np.testing.assert_allclose(trace.entropy, expected, atol=2e-3)
    if architecture != "l2gnet":
        assert trace.plan_rows is None
        with pytest.raises(InputError) as raised:
            code_plan(trace)
        one_sentence(raised.value)
        return
    for index in range(3):
        expected = code_to_code(output.plan, 32)[index]
        alone = Trace(trace.cells, trace.vectors, trace.references)
        alone.codes[index], alone.plan_rows[index] = trace.codes[index], trace.plan_rows[index]
        np.testing.assert_allclose(code_plan(alone), expected, atol=1e-7)


def test_slices_can_come_in_any_order_and_twice(model_of, scan):
    model, grid = model_of("l2gnet"), Grid(scan.shape)
    whole, parts = new_trace(model, scan, grid, 1), new_trace(model, scan, grid, 1)
    segment(model, scan, grid, 1, trace=whole)
    for order in ([40, 3], range(41)):
        for done in predict_slices(model, scan, grid, 1, order, traced=True):
            parts.add(done.index, done.trace)
    np.testing.assert_array_equal(parts.seen, whole.seen)
    assert (parts.codes == whole.codes).mean() > 0.99  # sums in batches of other sizes
    np.testing.assert_allclose(parts.frequencies().sum(1), 1)


def test_what_is_computed_while_a_slice_is_added_is_out_of_date(monkeypatch):
    trace, other = made_up(0), made_up(1)
    drawn = SliceTrace(other.codes[1], other.error[1], other.entropy[1], None, None)
    written = []

    class Watched(np.ndarray):
        def __setitem__(self, key, value) -> None:
            written.append(trace.added)
            super().__setitem__(key, value)

    for name in ("error", "entropy", "codes"):
        monkeypatch.setattr(trace, name, getattr(trace, name).view(Watched))
    before = trace.added
    trace.add(1, drawn)
    assert written == [before] * 3
    assert trace.added == before + 1


def test_a_click_is_answered_at_once():
    # What a click computes on 100 slices of 512×512: the code's voxels, its row, its partners.
    trace = made_up(0, slices=100, size=(32, 32), codes=256, references=64)
    plan = code_plan(trace)
    seconds = []
    for code in (3, 30, 100):
        started = time.perf_counter()
        index, row, column = trace.cells.at((50, 200, 300))
        lit = trace.cells.on_scan(trace.codes == code)
        heat = trace.cells.on_slice(sources_map(trace, index, int(trace.codes[index, row, column])))
        partners(plan, code)
        seconds.append(time.perf_counter() - started)
    assert lit.shape == (100, 512, 512)
    assert heat.shape == (512, 512)
    assert min(seconds) < 0.3
