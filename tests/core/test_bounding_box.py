"""The box around what is true, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from l2gnet_core.scans.bounding_box import bounding_box


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 3))
def test_it_is_the_smallest_box(seed: int, axes: int) -> None:
    mask = np.random.default_rng(seed).random((5, 6, 7)[:axes]) > 0.9
    found = ndimage.find_objects(mask.astype(np.uint8))
    assert bounding_box(mask) == (found[0] if found else None)


@pytest.mark.parametrize("margin", [0, 1, 9])
def test_a_margin_ends_with_the_array(margin: int) -> None:
    mask = np.zeros((6, 8), bool)
    mask[2, 3:5] = True
    box = bounding_box(mask, margin)
    assert box is not None
    wider = np.pad(mask, margin)
    wanted = ndimage.maximum_filter(wider, 2 * margin + 1)
    inside = np.zeros_like(wider)
    inside[margin : margin + 6, margin : margin + 8][box] = True
    assert (inside == wanted)[margin : margin + 6, margin : margin + 8].all()
