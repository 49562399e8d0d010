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
    and nothing in between.

    Meant for a thread of its own.
    """
    from l2gnet_core.inspect.uncertainty import ranked_slices, uncertainty_maps

    found: dict[Place, Doubt] = {}
    axis, names = segmentation.axis, segmentation.card.labels.names
    yield {}
    for frame, look in sorted(segmentation.looks.items()):
        mask = segmentation.raw[frame]
        uncertainty = uncertainty_maps(look, mask)["combined"]
        yield {}  # a moment to stop at
        ranking = ranked_slices(uncertainty, mask, axis, look.seen)
        ranked = [one for one in ranking if look.seen[one.index]]
        for number, doubt in enumerate(ranked):
            organ = ""
            if number < DOUBTFUL * len(ranked):
                maps, masks = (np.moveaxis(array, axis, 0) for array in (uncertainty, mask))
                organ = _most_doubtful(maps[doubt.index], masks[doubt.index], names)
            found[frame, doubt.index] = Doubt(doubt.voxels, organ)
        # A copy: whoever takes it reads it while the next frame is ranked.
        yield dict(found)


def _most_doubtful(
    uncertainty: NDArray[np.float32], mask: NDArray[Any], names: Mapping[int, str]
) -> str:
    """The organ with most doubt in it and around it, per pixel; a question where there is none."""
    from scipy import ndimage

    from l2gnet_core.inspect.uncertainty import BORDER

    amounts = {}
    for id, name in names.items():
        if (inside := mask == id).any():
            around = ndimage.maximum_filter(inside, 2 * BORDER + 1)
            amounts[name] = float(uncertainty[around].mean())
    return max(amounts, key=lambda name: amounts[name]) if amounts else "organs missing?"
