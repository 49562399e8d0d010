"""Which slices of a mask to check first, and why."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_l2gnet.segmentation import Place, Segmentation

#: Share of the slices that are said to be doubtful: the order means something, the numbers do not.
DOUBTFUL = 1 / 3


@dataclass(frozen=True)
class Doubt:
    """How many voxels are expected to be wrong in a slice, and the organ that is to
    blame; "" where the slice is not among the doubtful ones."""

    expected: float
    organ: str = ""


def doubtful_slices(
    segmentation: Segmentation,
) -> Generator[Mapping[Place, Doubt], None, None]:
    """Doubts of all slices that a model with codes has segmented: after each frame those so far,
    and nothing in between, after each slice.

    Meant for a thread of its own.
    """
    from l2gnet_core.inspect.uncertainty import (
        expected_wrong,
        near_borders,
        ranked_by,
        slice_maps,
    )

    found: dict[Place, Doubt] = {}
    axis, names = segmentation.axis, segmentation.card.labels.names
    yield {}
    for frame, look in sorted(segmentation.looks.items()):
        mask = segmentation.raw[frame]
        slices = np.moveaxis(mask, axis, 0)
        wrong, organs = np.zeros(len(slices)), []
        for index, maps in enumerate(slice_maps(look, mask, ["combined"])):
            uncertainty = maps["combined"]
            wrong[index] = expected_wrong(uncertainty, near_borders(slices, index))
            organs.append(_most_doubtful(uncertainty, slices[index], names))
            yield {}  # a moment to stop at
        ranking = ranked_by(wrong, slices, look.seen)
        ranked = [one for one in ranking if look.seen[one.index]]
        for number, doubt in enumerate(ranked):
            organ = organs[doubt.index] if number < DOUBTFUL * len(ranked) else ""
            found[frame, doubt.index] = Doubt(doubt.voxels, organ)
        # A copy: whoever takes it reads it while the next frame is ranked.
        yield dict(found)


def _most_doubtful(
    uncertainty: NDArray[np.float32], mask: NDArray[Any], names: Mapping[int, str]
) -> str:
    """The organ with most doubt in it and around it, per pixel; a question where there is none."""
    from scipy import ndimage

    from l2gnet_core.inspect.uncertainty import BORDER, box_around

    amounts = {}
    for id, name in names.items():
        inside = mask == id
        if (box := box_around(inside, BORDER)) is not None:
            around = ndimage.maximum_filter(inside[box], 2 * BORDER + 1)
            amounts[name] = float(uncertainty[box][around].mean())
    return max(amounts, key=lambda name: amounts[name]) if amounts else "organs missing?"
