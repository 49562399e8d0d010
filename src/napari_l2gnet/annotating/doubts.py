"""Which slices of a mask to check first, and why."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.project.state import SliceKey
from napari_l2gnet.masks.segmentation import Segmentation

#: Share of the slices that are called doubtful: their order is meaningful, the numbers are not.
DOUBTFUL = 1 / 3


@dataclass(frozen=True)
class ExpectedErrors:
    """How many voxels of a slice are expected to be wrong, and the organ of most of them; "" if the
    slice is not among the doubtful ones."""

    expected: float
    organ: str = ""


def doubtful_slices(
    segmentation: Segmentation,
) -> Generator[Mapping[SliceKey, ExpectedErrors], None, None]:
    """Expected errors of all slices that a model with codes has segmented.

    Yields the ones found so far after each frame, and {} after each slice. Meant for a thread of
    its own.
    """
    from l2gnet_core.inspect.uncertainty import (
        expected_wrong,
        near_borders,
        ranked_by,
        slice_maps,
    )

    found: dict[SliceKey, ExpectedErrors] = {}
    axis, names = segmentation.axis, segmentation.card.labels.names
    yield {}
    for frame, trace in sorted(segmentation.traces.items()):
        mask = segmentation.raw[frame]
        slices = np.moveaxis(mask, axis, 0)
        wrong, organs = np.zeros(len(slices)), []
        for index, maps in enumerate(slice_maps(trace, mask, ["combined"])):
            uncertainty, near = maps["combined"], near_borders(slices, index)
            wrong[index] = expected_wrong(uncertainty, near)
            organs.append(_most_wrong(uncertainty, near, slices[index], names))
            yield {}  # a moment to stop at
        ranking = ranked_by(wrong, slices, trace.seen)
        ranked = [one for one in ranking if trace.seen[one.index]]
        for number, doubt in enumerate(ranked):
            organ = organs[doubt.index] if number < DOUBTFUL * len(ranked) else ""
            found[frame, doubt.index] = ExpectedErrors(doubt.voxels, organ)
        # A copy, as it is read in another thread while the next frame is ranked.
        yield dict(found)


def _most_wrong(
    uncertainty: NDArray[np.float32],
    near: NDArray[np.bool_],
    mask: NDArray[Any],
    names: Mapping[int, str],
) -> str:
    """The organ of most voxels that are expected to be wrong in a slice (see `expected_wrong`).
    Each voxel counts for its own or the nearest organ. A question if the slice has no organs."""
    from scipy import ndimage

    from l2gnet_core.scans.bounding_box import bounding_box

    if not mask.any():
        return "organs missing?"
    box = bounding_box(near | (mask != 0))
    assert box is not None
    mask, near = mask[box], near[box]
    nearest = ndimage.distance_transform_edt(mask == 0, return_distances=False, return_indices=True)
    organs = mask[tuple(axis[near] for axis in nearest)]
    amounts = np.bincount(organs, uncertainty[box][near], max(names) + 1)
    return max(names.items(), key=lambda organ: amounts[organ[0]])[1]
