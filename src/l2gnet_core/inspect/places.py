"""Places to look at: where a model is unsure, and the voxels of one mistake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.inspect.similar import Region, highest
from l2gnet_core.inspect.uncertainty import near_borders
from l2gnet_core.scans.bounding_box import bounding_box
from l2gnet_core.segmenting.trace import Trace

#: Side in pixels of an unsure place.
WINDOW = 15
#: Unsure places, at most.
MOST = 50


def unsure_regions(
    uncertainty: NDArray[np.floating], mask: NDArray[np.generic], axis: int, most: int = MOST
) -> list[Region]:
    """Places with much doubt, the worst first, at most one in any window of a slice.

    uncertainty, mask: (z,y,x). The score of a place is the mean doubt in a window of `WINDOW`
    pixels; it holds the voxels there with at least half of its largest doubt. Only doubt near
    borders counts (see `near_borders`), or all of it if the mask has no structure.
    """
    by_slice = unsure_by_slice(np.moveaxis(uncertainty, axis, 0), mask, axis, most)
    return highest([region for regions in by_slice for region in regions], most)


def unsure_by_slice(
    doubts: Iterable[NDArray[np.floating]],
    mask: NDArray[np.generic],
    axis: int,
    most: int = MOST,
) -> Iterator[list[Region]]:
    """`unsure_regions` in steps, at any of which the caller may stop: the places of each slice.
    doubts: (H,W) of one slice after the other."""
    slices, everywhere = np.moveaxis(mask, axis, 0), not mask.any()
    for index, doubt in enumerate(doubts):
        near = np.ones(doubt.shape, bool) if everywhere else near_borders(slices, index)
        yield _unsure_in_slice(index, doubt, near, axis, most)


def _unsure_in_slice(
    index: int, doubt: NDArray[np.floating], near: NDArray[np.bool_], axis: int, most: int
) -> list[Region]:
    """The places in slice `index`. doubt: (H,W). near: (H,W), where doubt counts."""
    from scipy import ndimage

    regions: list[Region] = []
    counted = np.where(near, doubt, 0).astype(np.float32)
    mean = ndimage.uniform_filter(counted, WINDOW, mode="constant")
    peaks = (mean == ndimage.maximum_filter(mean, WINDOW)) & (mean > 1e-6)
    # Neighbouring pixels with equal doubt are one peak.
    pieces, _ = ndimage.label(peaks, np.ones((3, 3)))
    centres = [
        tuple((part.start + part.stop - 1) // 2 for part in found)
        for found in ndimage.find_objects(pieces)
    ]
    taken: list[tuple[int, ...]] = []
    for row, column in sorted(centres, key=lambda centre: -float(mean[centre])):
        if any(max(abs(row - r), abs(column - c)) < WINDOW for r, c in taken):
            continue
        if len(taken) == most:
            break
        taken.append((row, column))
        box = [
            slice(max(0, middle - WINDOW // 2), middle + WINDOW // 2 + 1)
            for middle in (row, column)
        ]
        within = counted[box[0], box[1]]
        inside = (within >= within.max() / 2) & (within > 0)
        box.insert(axis, slice(index, index + 1))
        voxels = np.expand_dims(inside, axis)
        region = Region(index, (box[0], box[1], box[2]), voxels, float(mean[row, column]))
        regions.append(region)
    return regions


def voxels_of_code(
    trace: Trace,
    mask: NDArray[np.integer],
    code: int,
    structure: int,
    index: int | None = None,
    piece_at: tuple[int, int, int] | None = None,
) -> NDArray[np.intp]:
    """Voxels of a code that belong to a structure in the mask (z,y,x), as flat indices into it.

    structure: a label id, 0 for background. index: in this slice only. piece_at: only voxels that
    are connected, also by corners, to this voxel (z,y,x). Raises InputError if that voxel is not
    one of them.
    """
    from scipy import ndimage

    cells = trace.codes == code
    if index is not None:
        cells &= (np.arange(len(cells)) == index)[:, None, None]
    inside = trace.cells.on_scan(cells)
    inside &= mask == structure
    if piece_at is None:
        return np.flatnonzero(inside)
    if not inside[piece_at]:
        raise InputError(
            "Expected a voxel of this code and structure to say which piece is meant, but the one "
            "clicked is none; click a voxel of the mistake."
        )
    # Connected pieces are found in the box of the code, a small part of a large scan.
    box = bounding_box(inside)
    assert box is not None
    part = inside[box]
    pieces, _ = ndimage.label(part, np.ones((3, 3, 3)))
    at = tuple(v - s.start for v, s in zip(piece_at, box, strict=True))
    kept = np.argwhere(pieces == pieces[at]) + [s.start for s in box]
    return np.asarray(np.ravel_multi_index(tuple(kept.T), mask.shape))
