"""What the Inspect widget looks at, without a window."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from napari_l2gnet.inspect.parts import Part
from napari_l2gnet.inspect.state import SLICE, VOLUME, InspectState


def layers(index: int = 0, gone: bool = False) -> Any:
    """Stands in for the layers of a mask of which this slice is on screen."""
    mask = SimpleNamespace(layer=object(), place=(0, index))
    viewer = SimpleNamespace(layers=[] if gone else [mask.layer])
    return SimpleNamespace(mask=mask, viewer=viewer)


def test_only_a_mask_of_which_something_is_read_can_be_looked_at() -> None:
    state = InspectState()
    assert state.look is None
    state.take(layers())
    assert state.look is None
    assert not state.is_current
    inspection: Any = SimpleNamespace(is_current=True)
    state.inspection = inspection
    assert state.look is not None
    assert state.look.inspection is inspection
    assert state.is_current


def test_the_part_is_the_volume_the_slice_on_screen_or_an_organ() -> None:
    inspection: Any = SimpleNamespace()
    state = InspectState(layers(index=3), inspection)
    for of, part in ((VOLUME, Part()), (SLICE, Part(index=3)), (2, Part(column=2))):
        state.of = of
        assert state.part == part


def test_codes_are_wanted_again_in_the_same_mask_alone() -> None:
    state = InspectState(codes=[4], voxel=(0, 1, 2, 3), drawn=True)
    state.forget()
    assert (state.codes, state.voxel, state.drawn) == ([], None, False)
    # Twice, as for a frame without a trace in between.
    state.forget()
    assert state.wanted == [4]
    state.take(layers())
    assert state.wanted == []


def test_a_mask_that_was_removed_is_gone() -> None:
    state = InspectState()
    assert not state.is_gone
    state.take(layers())
    assert not state.is_gone
    state.take(layers(gone=True))
    assert state.is_gone
