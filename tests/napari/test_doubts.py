"""Where a model is unsure and what looks like a mistake: slice by slice, and quick to stop."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
from generators import ended
from inspecting import NAMES, made_up_trace
from scipy.ndimage import distance_transform_edt

from l2gnet_core.inspect.similar import find_similar
from l2gnet_core.inspect.uncertainty import near_borders, ranked_slices, uncertainty_maps
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid, Volume
from napari_l2gnet.annotating.doubts import doubtful_slices
from napari_l2gnet.inspect.inspection import DOUBTS, Findings, Inspection
from napari_l2gnet.masks.segmentation import Segmentation

SHAPE = (60, 96, 80)
#: Bytes of one map of the scan.
ONE_MAP = 4 * int(np.prod(SHAPE))


@pytest.fixture
def segmented() -> Segmentation:
    """A scan of which a model has seen every slice."""
    found = Segmentation(Grid(SHAPE), ModelCard("made up", LabelSet.from_names(NAMES)), 0)
    rng = np.random.default_rng(0)
    found.traces[0] = made_up_trace(SHAPE, 12, 8, rng)
    for index in range(SHAPE[0]):
        top = rng.integers(10, 40)
        found.raw[0, index, top : top + 30, 20:60] = rng.integers(1, 4)
    return found


def run(steps: Generator[Any, None, None]) -> tuple[list[Any], int]:
    """Everything that it yields, and its peak memory in bytes."""
    tracemalloc.start()
    yielded = list(steps)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return yielded, peak


def steps_of(kind: str) -> Callable[[Segmentation], Generator[Any, None, None]]:
    if kind == "ranking":
        return doubtful_slices
    return lambda segmented: Inspection(segmented, 0).study(kind, Findings())


@pytest.mark.parametrize("kind", ["ranking", *DOUBTS.values()])
def test_doubts_are_found_slice_by_slice(segmented: Segmentation, kind: str) -> None:
    steps = steps_of(kind)
    # Imports and caches of the first run do not count.
    run(steps(segmented))
    yielded, peak = run(steps(segmented))
    # It can be stopped in every slice.
    assert len(yielded) >= SHAPE[0]
    # Inspect keeps half of a map, to show it.
    assert peak < ONE_MAP


def test_the_ranking_is_that_of_the_whole_scan(segmented: Segmentation) -> None:
    trace, raw = segmented.traces[0], segmented.raw[0]
    trace.codes[5], trace.entropy[5], raw[5] = -1, 0, 0
    *_, doubts = doubtful_slices(segmented)
    whole = ranked_slices(trace, raw)
    expected = {(0, one.index): one.voxels for one in whole if one.index != 5}
    assert {place: one.expected for place, one in doubts.items()} == expected
    found = ended(Inspection(segmented, 0).study("neighbours", Findings()))
    assert found.ranking == tuple(one for one in whole if one.index != 5)


def test_the_organ_with_most_voxels_expected_wrong_is_named(segmented: Segmentation) -> None:
    trace, raw = segmented.traces[0], segmented.raw[0]
    raw[...] = 0
    raw[:, 10:50, 10:60] = 3
    # Its pixels are more doubtful, but in most slices it has few of them.
    raw[:, 60:63, 70:73] = 1
    raw[::6, 60:90, 30:75] = 1
    trace.entropy[...] = 0.1
    trace.entropy[:, 52:] = 0.3
    *_, doubts = doubtful_slices(segmented)
    maps = uncertainty_maps(trace, raw)["combined"]
    names = {1: "right ventricle", 3: "left ventricle"}
    named = {index: doubt.organ for (_, index), doubt in doubts.items() if doubt.organ}
    assert len(named) == SHAPE[0] / 3
    assert set(named.values()) == set(names.values())
    for index, organ in named.items():
        near, inside = near_borders(raw, index), {id: raw[index] == id for id in names}
        away = {id: distance_transform_edt(~one) for id, one in inside.items()}
        owner = np.where(away[1] < away[3], 1, 3)
        wrong = {names[id]: maps[index][near & (owner == id)].sum() for id in names}
        assert organ == max(wrong, key=lambda name: wrong[name])


def test_places_like_a_mistake_are_found_slice_by_slice(segmented: Segmentation) -> None:
    scan = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    marked = np.zeros(SHAPE, bool)
    marked[30, 40:50, 30:50] = True
    steps = Inspection(segmented, 0).similar(marked, Volume(scan))
    *told, found = steps
    assert len(told) == 2 * SHAPE[0]
    assert told[29] == "Looking for places like this · 25 %"
    expected = find_similar(segmented.traces[0], segmented.raw[0], marked, scan)
    assert [(one.box, one.score) for one in found] == [(one.box, one.score) for one in expected]
