"""The margins of a scan that a network is not shown: padding, air and its noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from generators import ended
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_traces import new_trace
from scipy.ndimage import gaussian_filter
from test_volume import ORIENTATIONS, oriented_affine

from l2gnet_core.datasets.cases import Case, FilePair
from l2gnet_core.datasets.loading import load_frames
from l2gnet_core.finetuning.appearance_search import seen_as
from l2gnet_core.finetuning.correction_views import CorrectedScan
from l2gnet_core.finetuning.overlap import compared, slice_counts
from l2gnet_core.inspect.uncertainty import uncertainty_maps
from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.preprocessing.intensities import intensity_window
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting import slice_view as slice_view_module
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import predict_slices, segment
from l2gnet_core.segmenting.slice_view import LEAST_SEEN, slice_view

SIDES = LabelSet.from_names({1: "right", 2: "left"})


def card(**fields) -> ModelCard:
    return ModelCard(**{"name": "m", "labels": SIDES, "slicing": "axial", **fields})


def faintly_noisy(padding, scan: np.ndarray) -> np.ndarray:
    """A scan with the noise of a magnitude image around it."""
    padded = np.pad(scan, padding, constant_values=-1)
    noise = np.hypot(*np.random.default_rng(1).normal(0, 20, (2, *padded.shape)))
    return np.where(padded < 0, noise, padded).astype(scan.dtype)


CUTS = st.tuples(st.integers(0, 30), st.integers(0, 30))


@settings(
    max_examples=12,
    deadline=None,
    # Makes a model for each example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    axis=st.integers(0, 2),
    codes=st.sampled_from(ORIENTATIONS),
    oriented=st.booleans(),
    cuts=st.tuples(CUTS, CUTS),
    value=st.sampled_from([0, -1024, 7, "noise"]),
)
def test_empty_margins_change_nothing(make_model, axis, codes, oriented, cuts, value):
    # Padded by a program, turned into a larger field of view, or scanned in one.
    shape = [66, 66, 66]
    shape[axis] = 3
    scan = np.random.default_rng(0).integers(20, 900, shape).astype(np.int16)
    padding = list(cuts)
    padding.insert(axis, (0, 0))
    padded = (
        faintly_noisy(padding, scan)
        if value == "noise"
        else np.pad(scan, padding, constant_values=value)
    )
    model = make_model(SIDES, in_channels=3, oriented=oriented, sides=(90, 100), views=2)

    def seen(scan):
        grid = Grid(scan.shape, affine=oriented_affine(codes, (1.0, 1.0, 1.0)), oriented=True)
        trace = new_trace(model, scan, grid, axis)
        return trace, segment(model, scan, grid, axis, trace=trace)

    (alone, mask), (trace, of_padded) = seen(scan), seen(padded)
    np.testing.assert_array_equal(of_padded, np.pad(mask, padding))
    np.testing.assert_array_equal(trace.codes, alone.codes)
    np.testing.assert_array_equal(trace.entropy, np.pad(alone.entropy, ((0, 0), *cuts)))
    plain, doubts = uncertainty_maps(alone, mask), uncertainty_maps(trace, of_padded)
    for name in ("softmax", "quantisation", "plan"):
        np.testing.assert_array_equal(doubts[name], np.pad(plain[name], padding), err_msg=name)
    # At the edge of what is shown, a margin is a border, which changes distances.
    assert not doubts["combined"][np.pad(np.ones(scan.shape), padding) == 0].any()
    assert trace.cells.pitch == alone.cells.pitch
    moved = np.array(alone.cells.start) + [before for before, _ in padding]
    np.testing.assert_allclose(trace.cells.start, moved)


def test_what_holds_next_to_nothing_is_not_cut_to_a_speck():
    grid, scan = Grid((2, 200, 90)), np.zeros((2, 200, 90))
    assert slice_view(card(), grid, 0, scan).shape == scan.shape
    scan[:, 150, 3] = 1
    view = slice_view(card(), grid, 0, scan)
    assert view.shape == (2, LEAST_SEEN, LEAST_SEEN)
    assert view.stack(scan).any()
    # Lines with several values are no margin, even if all lines are equal.
    rows = np.broadcast_to(np.arange(200.0)[:, None], (2, 200, 90))
    assert slice_view(card(), grid, 0, rows).shape == (2, 198, 90)


def test_the_table_under_a_patient_is_left_out():
    rng = np.random.default_rng(0)
    scan = rng.normal(-1000, 30, (3, 200, 200))
    body = (np.hypot(*(np.indices((200, 200)) - 90)) < 60)[None]
    scan = np.where(body, rng.normal(40, 30, scan.shape), scan)
    scan[:, 88:92, 25:31] = 20  # a nose
    scan[:, 155:185, 5:195] = -900  # foam
    scan[:, [155, 156, 183, 184], 5:195] = scan[:, 155:185, [5, 194]] = -100
    assert slice_view(card(), Grid(scan.shape), 0, scan).margins == ((31, 50), (25, 50))
    # A patient without a table is seen as before.
    alone = np.where(body, scan, -1024)
    assert slice_view(card(), Grid(scan.shape), 0, alone).margins == ((31, 50), (31, 50))
    # Nothing is cut if nothing is as thick as a patient.
    thin = np.where(np.indices((200, 200)).sum(0) % 4 == 0, scan, -1024)
    assert slice_view(card(), Grid(scan.shape), 0, thin).shape[1] > 150


def test_the_air_of_a_ct_is_left_out_and_what_lies_outside_of_its_circle():
    rng = np.random.default_rng(0)
    padding = ((0, 0), (20, 9), (15, 0))
    body = rng.integers(-150, 250, (3, 80, 70)).astype(np.int16)
    body[:, 30:60, 20:40] = -990  # the airways
    air = rng.normal(-1000, 40, (3, 109, 85)).astype(np.int16)
    air[:, :5] = air[:, :, :4] = -3024
    rows, columns = np.ogrid[:109, :85]
    air[:, (rows - 54) ** 2 + (columns - 42) ** 2 > 60**2] = -3024
    held = np.pad(np.ones(body.shape, bool), padding)
    scan = air.copy()
    scan[held] = body.ravel()
    view = slice_view(card(), Grid(scan.shape), 0, scan)
    assert view.margins == padding[1:]
    np.testing.assert_array_equal(view.stack(scan), body)
    # Outside of the circle, what is shown is no darker than air.
    body[:, :15, :15] = -3024
    assert intensity_window(body)[0] == -1024
    resampled = body + np.where(body < -2000, rng.uniform(0, 0.5, body.shape), 0)
    assert intensity_window(resampled)[0] == -1024
    assert intensity_window(body.astype(np.float32) / 100)[0] == pytest.approx(-30.24)


def test_margins_within_margins_go_too():
    # A scan that was turned, with filled corners, in a wider field with noise.
    scan = np.pad(np.random.default_rng(0).integers(20, 900, (2, 70, 70)), ((0, 0), (9, 3), (0, 0)))
    wide = faintly_noisy(((0, 0), (10, 10), (20, 20)), scan)
    assert slice_view(card(), Grid(scan.shape), 0, scan).margins == ((9, 3), (0, 0))
    assert slice_view(card(), Grid(wide.shape), 0, wide).margins == ((19, 13), (20, 20))


def test_dark_tissue_is_no_margin():
    # Far from a surface coil tissue is as dark as noise, but has a pattern.
    rng = np.random.default_rng(0)
    scan = 300 + 100 * gaussian_filter(rng.normal(size=(4, 100, 90)), (0, 3, 3), mode="wrap") / 0.1
    scan = np.clip(scan, 0, None) * np.linspace(0.02, 1, 90) + rng.normal(0, 0.5, scan.shape)
    assert slice_view(card(), Grid(scan.shape), 0, scan).margins == ((0, 0), (0, 0))


def test_two_halves_of_one_value_each_are_seen():
    scan = np.zeros((2, 80, 70))
    scan[:, 40:] = 1
    assert slice_view(card(), Grid(scan.shape), 0, scan).margins == ((0, 0), (0, 0))


def test_margins_are_left_out_of_what_is_learnt(tmp_path, save_scan):
    scan = np.random.default_rng(0).integers(20, 900, (3, 70, 80)).astype(np.int16)
    labels = (scan > 500).astype(np.uint8)
    padding = ((0, 0), (20, 3), (0, 9))
    frames, corrected = [], []
    for name, image, truth in (
        ("plain", scan, labels),
        ("padded", np.pad(scan, padding), np.pad(labels, padding)),
    ):
        pair = FilePair(
            save_scan(tmp_path / "images" / f"{name}.nii.gz", image),
            save_scan(tmp_path / "labels" / f"{name}.nii.gz", truth),
        )
        one = card(labels=LabelSet.from_names({1: "bright"}))
        frames += load_frames(Case.named(name, pair), one)
        correction = Correction(image, Grid(image.shape), 0, truth, (0, 2))
        corrected.append(CorrectedScan.of(correction, one))
    assert torch.equal(frames[0].image, frames[1].image)
    assert torch.equal(frames[0].classes, frames[1].classes)
    assert torch.equal(corrected[0].image, corrected[1].image)
    assert torch.equal(corrected[0].classes, corrected[1].classes)


def test_fine_tuning_searches_a_scan_once_and_sees_the_same_of_it(make_model, monkeypatch):
    searched = []

    def counted(stack):
        searched.append(stack.shape)
        return margins(stack)

    margins = slice_view_module._margins
    monkeypatch.setattr(slice_view_module, "_margins", counted)
    core = np.random.default_rng(0).integers(20, 900, (4, 70, 80)).astype(np.int16)
    scan = np.pad(core, [(0, 0), (20, 9), (0, 30)])
    labels = (scan > 300).astype(np.uint8) + (scan > 600)
    grid = Grid(scan.shape, affine=oriented_affine("LPS", (1.0, 1.0, 1.0)), oriented=True)
    correction = Correction(scan, grid, 0, labels, (1, 3))
    for oriented in (False, True):
        model = make_model(SIDES, oriented=oriented)
        for zoom in (1.0, 1.3):
            shown = seen_as(model, Appearance(zoom=zoom))
            anew = {done.index: done.labels for done in predict_slices(shown, scan, grid, 0)}
            searched.clear()
            found = ended(slice_counts(shown, correction, (1, 3), "cpu"))
            image = CorrectedScan.of(correction, shown.card).image
            assert len(searched) == (zoom == 1)
            assert torch.equal(image, CorrectedScan.of(replace(correction), shown.card).image)
            for index, counts in found.items():
                told = compared(anew[index], labels[index], [1, 2])
                np.testing.assert_array_equal(counts, told)
