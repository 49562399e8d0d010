"""Which slices of a scan a run segments, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from napari.components import Dims
from napari.layers import Image

from l2gnet_core.project.state import SliceKey
from napari_l2gnet.scans.layers import is_cut, shown_index, slice_axes


def why_no_slice(layer: Image, dims: Dims, axis: int) -> str:
    """Why no slice of a scan along `axis` is on screen, in a sentence; "" if one is."""
    if dims.ndisplay == 3:
        return (
            "The viewer shows the scan in 3-D: press 2D/3D at the bottom left, or choose Slices …."
        )
    if set(dims.displayed) != set(slice_axes(dims, axis)):
        return (
            "The viewer slices the scan along another axis than the model: choose Slices …, or "
            "roll the viewer's dimensions."
        )
    if not is_cut(layer, dims):
        return f'"{layer.name}" is not on screen: move the sliders to it first.'
    return ""


def place_shown(layer: Image, dims: Dims, axis: int) -> SliceKey:
    """The (frame, slice) of a scan (z,y,x) or (t,z,y,x) that the sliders are at."""
    point = shown_index(layer, dims.point)
    frame = point[0] if len(point) == 4 else 0
    return frame, point[axis - 3] if len(point) >= 3 else 0


def outward(here: SliceKey, frames: int, indices: Sequence[int]) -> list[SliceKey]:
    """These slices of all frames, nearest first: outward from the slice on screen, then the other
    frames."""
    frame, index = here
    return sorted(
        ((f, i) for f in range(frames) for i in indices),
        key=lambda place: (abs(place[0] - frame), abs(place[1] - index), place),
    )
