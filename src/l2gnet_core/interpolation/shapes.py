"""Labels between annotated slices, interpolated from the shapes on both sides.

Shape-based interpolation (Raya and Udupa, "Shape-based interpolation of multidimensional objects",
IEEE TMI 1990): signed distances to the border change linearly from slice to slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.errors import InputError


def interpolate_slices(
    labels: NDArray[Any],
    slices: Sequence[int],
    axis: int = 0,
    pixel: tuple[float, float] = (1.0, 1.0),
    only: int | None = None,
) -> NDArray[Any]:
    """A mask (z,y,x) from annotated slices: these as they are, interpolated shapes between them,
    zero beyond the first and the last.

    slices: indices along `axis`; only these slices of labels (z,y,x) are read. pixel: size of a
    pixel along the two other axes, in any unit. only: the one id to interpolate; others count as
    background. A structure that only one of two neighbouring slices holds ends halfway.

    Raises InputError for slices that do not exist.
    """
    result = np.zeros_like(labels)
    for _ in shape_steps(result, labels, slices, axis, pixel, only):
        pass
    return result


def shape_steps(
    result: NDArray[Any],
    labels: NDArray[Any],
    slices: Sequence[int],
    axis: int = 0,
    pixel: tuple[float, float] = (1.0, 1.0),
    only: int | None = None,
) -> Iterator[int]:
    """`interpolate_slices` into `result`, a mask (z,y,x) of zeros, in steps at any of which the
    caller may stop. Yields how many slices between annotated ones are filled."""
    known = annotated(slices, labels.shape[axis])
    stack, filled = np.moveaxis(labels, axis, 0), np.moveaxis(result, axis, 0)
    for index in known:
        seen = stack[index]
        filled[index] = seen if only is None else np.where(seen == only, seen, 0)
    done = 0
    for first, last in pairwise(known):
        if last - first > 1:
            shapes = _Between(filled[first], filled[last])
            for _ in shapes.measure(pixel):
                yield done
            for index in range(first + 1, last):
                filled[index] = shapes.at((index - first) / (last - first))
                done += 1
                yield done


def annotated(slices: Sequence[int], count: int) -> list[int]:
    """The annotated slices of `count`, sorted. Raises InputError for slices that do not exist."""
    known = sorted(set(slices))
    if not known or known[0] < 0 or known[-1] >= count:
        raise InputError(
            f"Expected annotated slices between 0 and {count - 1}, but got "
            f"{', '.join(map(str, known)) or 'none'}; name those to interpolate between."
        )
    return known


def require_gap(slices: Sequence[int], name: str, remedy: str) -> None:
    """Raise InputError unless there are slices to fill between the first and the last of some
    sorted ones. name: what is annotated in them. remedy: how the message ends."""
    if len(slices) < 2 or slices[-1] - slices[0] < len(slices):
        listed = ", ".join(map(str, slices))
        found = f"slice{'s' * (len(slices) > 1)} {listed}" if slices else "none"
        raise InputError(
            f"Expected two annotated slices with others between them, but {name} is annotated in "
            f"{found}; {remedy}."
        )


class _Between:
    """Interpolation between two annotated slices (H,W), which are measured first."""

    def __init__(self, first: NDArray[Any], last: NDArray[Any]) -> None:
        self._shape = first.shape
        self._ids = np.union1d(first[first > 0], last[last > 0])
        # Only the box around both is computed: distance transforms take most of the time.
        boxes = ndimage.find_objects(((first > 0) | (last > 0)).astype(np.uint8))
        self._box = boxes[0] if boxes else (slice(0), slice(0))
        self._first, self._last = first[self._box], last[self._box]

    def measure(self, pixel: tuple[float, float]) -> Iterator[None]:
        """Find the distances to the borders, a structure in each step."""
        first, last = self._first, self._last
        # The union of all structures is interpolated, too: it leaves no gaps between neighbours.
        self._any = signed_distances(first > 0, last > 0, pixel)
        self._each = []
        for id in self._ids:
            yield
            self._each.append(signed_distances(first == id, last == id, pixel))

    def at(self, share: float) -> NDArray[Any]:
        """Ids (H,W) at a share of the way, 0 (first slice) to 1 (last)."""
        ids = np.zeros(self._shape, self._ids.dtype)
        if len(self._ids):
            inside = [(1 - share) * first + share * last for first, last in self._each]
            somewhere = (1 - share) * self._any[0] + share * self._any[1] > 0
            ids[self._box] = np.where(somewhere, self._ids[np.argmax(inside, 0)], 0)
        return ids


def signed_distances(
    first: NDArray[np.bool_], last: NDArray[np.bool_], pixel: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Signed distances (H,W) to the borders of two shapes, positive inside. A missing shape is
    everywhere as far outside as the other one is deep inside."""
    one, other = _signed(first, pixel), _signed(last, pixel)
    if one is None and other is None:
        nowhere = np.full(first.shape, -1.0)
        return nowhere, nowhere
    if one is None:
        assert other is not None
        one = np.full(first.shape, -float(other.max()))
    if other is None:
        other = np.full(last.shape, -float(one.max()))
    return one, other


def _signed(shape: NDArray[np.bool_], pixel: tuple[float, float]) -> NDArray[np.float64] | None:
    if not shape.any():
        return None
    # A frame of background, so that a shape that fills the picture has a border.
    framed = np.pad(shape, 1)
    outside = ndimage.distance_transform_edt(~framed, sampling=pixel)
    distance = ndimage.distance_transform_edt(framed, sampling=pixel) - outside
    # Borders run between pixels: half a pixel from the last inside and the first outside.
    distance -= np.sign(distance) * min(pixel) / 2
    return np.asarray(distance[1:-1, 1:-1])
