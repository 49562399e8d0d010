"""The part of an array that holds something."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bounding_box(mask: NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...] | None:
    """The smallest box, a slice for each axis, that holds all true elements; None if none is true.

    margin: elements by which the box is larger on each side, as far as the array goes.
    """
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(others))
        if not len(found):
            return None
        box.append(slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin))
    return tuple(box)
