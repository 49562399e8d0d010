"""docs/inspect.md: the walk through the sample matches what the bundled model sees there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from made_up_traces import new_trace

from l2gnet_core.inspect.places import unsure_regions
from l2gnet_core.inspect.plans import code_plan, partners
from l2gnet_core.inspect.similar import find_similar
from l2gnet_core.inspect.uncertainty import ranked_slices, uncertainty_maps
from l2gnet_core.models.catalog import find_model
from l2gnet_core.models.checkpoint import load_model
from l2gnet_core.scans.phantom import DRAWN, LEFT_VENTRICLE, cardiac_phantom
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.predict import segment

DOCUMENT = Path(__file__).parents[2] / "docs" / "inspect.md"


def told(pattern: str) -> list[int]:
    """The numbers in a sentence of the document."""
    found = re.search(pattern, " ".join(DOCUMENT.read_text(encoding="utf-8").split()))
    assert found is not None, pattern
    return [int(number) for number in found.groups()]


def test_the_walk_through_the_sample_is_of_the_bundled_model():
    model = load_model(find_model("cardiac-cine"))
    assert model.card.labels.names == {label: name for name, label in DRAWN.items()}
    # The second frame of the sample.
    scan, truth, _ = cardiac_phantom(0, phase=1.0)
    trace = new_trace(model, scan, Grid(scan.shape), 0)
    mask = segment(model, scan, Grid(scan.shape), 0, trace=trace)

    doubt = uncertainty_maps(trace, mask, ["combined"])["combined"]
    first = told(r"second frame, slices (\d), (\d) and (\d) stand out")
    assert [one.index for one in ranked_slices(trace, mask)[:3]] == first
    assert not truth[first].any()
    assert mask[first].any((1, 2)).all()
    worst, here = told(r"worst place is in slice (\d), .* next one in slice (\d)")
    assert [one.index for one in unsure_regions(doubt, mask, 0)[:2]] == [worst, here]

    code, share = told(r"Code (\d+) is left ventricle to (\d+) %")
    lit = np.zeros(mask.shape, bool)
    lit[here] = trace.cells.on_scan(trace.codes == code - 1)[here]
    mistake = lit & (mask == LEFT_VENTRICLE)
    # Other processors may round differently in a voxel.
    assert 100 * mistake.sum() / lit.sum() == pytest.approx(share, abs=1)
    cells = np.zeros(trace.codes.shape)
    cells[here] = 1
    plan = code_plan(trace, receiving=cells)
    part, other, times = told(r"receives, (\d+) % comes from code (\d+) beside it, (\d+) times")
    heard = partners(plan, code - 1)[0]
    assert heard.code == other - 1
    assert 100 * heard.share == pytest.approx(part, abs=1)
    assert heard.times_chance == pytest.approx(times, abs=1)
    assert mistake.sum() == pytest.approx(told(r"!\[(\d+) voxels of this code")[0], abs=3)

    like = find_similar(trace, mask, mistake, scan)
    places = told(r"first place is in slice (\d), .* in slices (\d), (\d) and (\d), are sound")
    assert [one.index for one in like[:4]] == places
    wrong = [np.mean(mask[one.box] != truth[one.box]) for one in like[:4]]
    assert wrong[0] > 0.9
    assert max(wrong[1:]) < 0.15
