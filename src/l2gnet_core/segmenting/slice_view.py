"""How a model sees the slices of a scan – their orientation, size and distance – and the way back.

The scan itself is only flipped and transposed, which is exact; for models without left and right
not even that. Models with left and right see every scan in the same orientation, however it is
stored: the stack grows to the patient's right, front or top, and slices lie as radiologists look at
them,

    axial: rows to the back, columns to the left; coronal: rows down, columns to the left;
    sagittal: rows down, columns to the back.

Tilted scans keep their own planes; each axis counts as its nearest anatomical direction.

Empty margins – padding, the outside of a turned field of view, air and its noise – are left out, as
nnU-Net crops to what is not zero (Isensee et al., Nature Methods 2021). Otherwise they would
influence the intensity window, the network's normalisation, and the size at which organs are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.preprocessing.intensities import cells_of_tissue, intensity_window, is_ct, is_empty
from l2gnet_core.preprocessing.scan_kind import Profile, scan_profile
from l2gnet_core.scans.volume import AXIS_LETTERS, Grid, Volume

#: Largest factor by which slices are enlarged for a model without a voxel size of its own; larger
#: pixels are enlarged until they have this size in mm.
MOST_ENLARGED, FINEST_PIXEL = 1.5, 1.0
#: Pixels whose sides differ by a factor between these are made square, for such a model, too. More
#: oblong ones belong to cuts across thick slices, which would become many times as large.
OBLONG = (1.05, 2.5)
#: Fewest pixels along a side that are left when margins are cut, if the scan has as many.
LEAST_SEEN = 64
#: Most pixels to which a side is enlarged, so that a wrong voxel size does not exhaust the memory.
LONGEST_SIDE = 2048

#: Side of the cells in which a CT is searched for the patient, as a share of the slice's longer
#: side (7 mm of half a metre): the shells of tables and masks do not fill such a cell. `_AROUND`
#: cells around the patient are kept, too.
_CELL, _AROUND = 0.015, 3

_STACK_GROWS_TO = "RAS"
_PICTURE_GROWS_TO = "LPI"

#: Rows, then columns, that are left out of slices, each as (before, after).
Margins = tuple[tuple[int, int], tuple[int, int]]
#: Is a row or column of all slices, (n,W), empty?
Empty = Callable[[NDArray[Any]], bool]


@dataclass(frozen=True)
class Field:
    """The part of a scan that networks are shown, its intensity window, and whether it is a CT.

    Finding it takes a search of the whole scan. Along one axis it is the same for all models that
    tell left from right, and for all that do not.
    """

    margins: Margins
    window: tuple[float, float]
    ct: bool


@dataclass(frozen=True)
class SliceView:
    """From a scan (z,y,x) on its own grid to the stack of slices that a network sees, and back.

    axes: the axes of (z,y,x) along which stack, rows and columns lie. flipped: which of the three
    run against them. shape: (n,H,W) of the stack. size: (height, width) at which the network sees
    a slice. step: distance in slices between neighbours that a network sees together. margins: rows
    and columns that the slices of the stack leave out.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    shape: tuple[int, int, int]
    size: tuple[int, int]
    step: int
    margins: Margins = ((0, 0), (0, 0))

    def stack(self, scan: NDArray[Any]) -> NDArray[Any]:
        """The slices (n,H,W) of a scan (z,y,x), without copying."""
        (above, _), (before, _) = self.margins
        _, height, width = self.shape
        whole = _flipped(scan.transpose(self.axes), self.flipped)
        return whole[:, above : above + height, before : before + width]

    def place(self, index: int) -> int:
        """The place in the stack of slice `index` of the stored axis; its own inverse."""
        return self.shape[0] - 1 - index if self.flipped[0] else index

    def whole(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A slice (H,W) of the stack as the scan stores it, with zeros in the margins."""
        return self.stored(np.pad(picture, self.margins))

    def stored(self, picture: NDArray[Any]) -> NDArray[Any]:
        """An array over a slice of the stack, (H,W) or coarser, with its axes as the scan stores
        them; without copying, and without the margins."""
        picture = _flipped(picture, self.flipped[1:])
        return picture.T if self.axes[1] > self.axes[2] else picture


@dataclass(frozen=True, eq=False)
class ShownScan:
    """A scan as a model of this card is shown it: the slices (n,H,W) of its stack, as they are
    stored, and the two intensities that become 0 and 1 (`window`)."""

    card: ModelCard
    view: SliceView
    slices: NDArray[Any]
    window: tuple[float, float]

    @cached_property
    def appearance(self) -> Appearance:
        """The appearance in which the model is shown the slices."""
        return self.card.appearance_of(self.slices, self.window)

    @property
    def profile(self) -> Profile:
        """How the scan looks before an appearance changes it."""
        return scan_profile(self.slices, self.window)


def shown_scan(
    card: ModelCard, scan: NDArray[Any], grid: Volume | Grid, axis: int, field: Field
) -> ShownScan:
    """How a model of this card is shown a scan (z,y,x) along `axis`. field: its `field_of`."""
    view = slice_view(card, grid, axis, margins=field.margins)
    return ShownScan(card, view, view.stack(scan), card.seen_window(field.window, field.ct))


def field_of(card: ModelCard, grid: Volume | Grid, axis: int, scan: NDArray[Any]) -> Field:
    """The field of a scan (z,y,x) for a model of this card. Raises InputError as `slice_view`."""
    view = slice_view(card, grid, axis, scan)
    seen = view.stack(scan)
    return Field(view.margins, intensity_window(seen), is_ct(seen))


def slice_view(
    card: ModelCard,
    grid: Volume | Grid,
    axis: int,
    scan: NDArray[Any] | None = None,
    margins: Margins = ((0, 0), (0, 0)),
) -> SliceView:
    """The view that a model of this card has of a scan.

    axis: the slicing axis of (z,y,x). scan: (z,y,x), whose empty margins are found and left out.
    margins: those to leave out if no scan is given. Raises InputError if the model tells left from
    right and the scan does not say where they are.
    """
    others = [other for other in range(3) if other != axis]
    axes, flipped = (axis, others[0], others[1]), (False, False, False)
    if card.oriented:
        if not grid.oriented:
            raise InputError(
                f"Expected a scan that says where right, front and top are, because {card.name} "
                f"tells left from right, but {grid.name or 'this scan'} does not; say what its "
                "stored axes grow to, as in --orientation LPS."
            )
        codes = grid.axis_codes
        world = [next(i for i, pair in enumerate(AXIS_LETTERS) if c in pair) for c in codes]
        rows, columns = sorted(others, key=lambda other: world[other], reverse=True)
        axes = (axis, rows, columns)
        flipped = (
            codes[axis] not in _STACK_GROWS_TO,
            codes[rows] not in _PICTURE_GROWS_TO,
            codes[columns] not in _PICTURE_GROWS_TO,
        )
    n, height, width = (int(grid.shape[-3:][a]) for a in axes)
    if scan is not None:
        margins = _margins(_flipped(scan.transpose(axes), flipped))
    height, width = (side - sum(cut) for side, cut in zip((height, width), margins, strict=True))
    between, *pixel = (grid.spacing[a] for a in axes)
    real = grid.units == "mm"
    size, step = (height, width), 1
    if card.spacing is not None and real:
        size = _resampled(size, pixel, card.spacing[1:])
        step = max(1, round(min(n, card.spacing[0] / between)))
    else:
        if real and OBLONG[0] < max(pixel) / min(pixel) <= OBLONG[1]:
            size = _resampled(size, pixel, (min(pixel), min(pixel)))
        size = usual_size(card, *size, min(pixel) if real else None)
    seen = card.appearance.size(size)
    return SliceView(axes, flipped, shape=(n, height, width), size=seen, step=step, margins=margins)


def usual_size(
    card: ModelCard, height: int, width: int, pixel: float | None = None
) -> tuple[int, int]:
    """Size at which slices of (height, width) are seen if the model has no voxel size of its own.

    Scans of a kind show much the same field of view, so the size of a slice in pixels tells the
    size of the organs in it, also if the voxel size is unknown. A slice is enlarged by half at
    most, since a small one may show a detail, unless its pixels are large. pixel: their length in
    mm, None if unknown.
    """
    longer = max(height, width)
    if card.sides is None or card.sides[0] <= longer <= card.sides[1]:
        return height, width
    most = max(MOST_ENLARGED, (pixel or 0) / FINEST_PIXEL)
    factor = min(most, sum(card.sides) / 2 / longer)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resampled(
    size: tuple[int, int], pixel: Sequence[float], wanted: tuple[float, float]
) -> tuple[int, int]:
    """Size of a slice of (height, width) whose pixels, in mm, become as large as `wanted`."""
    height, width = (
        max(1, round(min(side * old / new, max(side, LONGEST_SIDE))))
        for side, old, new in zip(size, pixel, wanted, strict=True)
    )
    return height, width


def _margins(stack: NDArray[Any]) -> Margins:
    """Rows and columns at the ends of a stack that are empty or, in a CT, beside the patient."""
    inside, cut = _without_air(stack)
    if is_ct(inside):
        # Air may lie between the table and the patient.
        inside, beside = _cut(inside, _beside(inside))
        cut += beside + _without_air(inside)[1]
    (above, below), (before, after) = cut.tolist()
    _, height, width = stack.shape
    return _but_a_few(above, below, height), _but_a_few(before, after, width)


def _without_air(stack: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int_]]:
    """A stack without its empty first and last rows and columns, and their numbers, (2,2)."""
    cut, inside, air = np.zeros((2, 2), int), stack, np.ones((2, 2), int)
    # Removing air can bring padding to the edge, and the other way round.
    while air.any():
        inside, padding = _trimmed(inside)
        # Air is one value, or noise around it.
        window, ct = intensity_window(inside), is_ct(inside)
        inside, air = _trimmed(inside, partial(is_empty, window=window, ct=ct))
        cut += padding + air
    return inside, cut


def _trimmed(
    stack: NDArray[Any], empty: Empty | None = None
) -> tuple[NDArray[Any], NDArray[np.int_]]:
    """A stack without the `_ends` of its rows and columns, and their numbers, (2,2)."""
    return _cut(stack, [_ends(stack, axis, empty) for axis in (1, 2)])


def _cut(
    stack: NDArray[Any], ends: Sequence[tuple[int, int]]
) -> tuple[NDArray[Any], NDArray[np.int_]]:
    """A stack without these first and last rows and columns, and their numbers, (2,2)."""
    (above, below), (before, after) = ends
    _, height, width = stack.shape
    return stack[:, above : height - below, before : width - after], np.array(ends)


def _beside(stack: NDArray[Any]) -> list[tuple[int, int]]:
    """Rows, and columns, at either end of a CT that lie beside the patient. The patient is where a
    cell of a slice holds tissue throughout: shells of tables and masks fill no cell."""
    side = max(1, round(_CELL * max(stack.shape[1:])))
    filled = cells_of_tissue(stack, side).any(0)
    ends = []
    for axis in (0, 1):
        lines = np.flatnonzero(np.any(filled, axis=1 - axis))
        first, last = 0, stack.shape[1 + axis]
        if len(lines):
            # A nose or an ear may not fill a cell, either: keep some around.
            first, last = (lines[0] - _AROUND) * side, (lines[-1] + 1 + _AROUND) * side
        ends.append((max(0, int(first)), max(0, stack.shape[1 + axis] - int(last))))
    return ends


def _ends(stack: NDArray[Any], axis: int, empty: Empty | None) -> tuple[int, int]:
    """Rows (axis 1) or columns (2) at either end that are `empty`, by default those of one value
    throughout; none if all are."""
    lines = np.moveaxis(stack, axis, 0)
    before, after = _empty(lines, empty), _empty(lines[::-1], empty)
    return (before, after) if before + after < len(lines) else (0, 0)


def _empty(lines: NDArray[Any], empty: Empty | None) -> int:
    """Number of empty lines before the first that is not, see `_ends`."""
    value = lines[0].flat[0]

    def holds_nothing(line: NDArray[Any]) -> bool:
        return bool((line == value).all()) if empty is None else empty(line)

    full = (place for place, line in enumerate(lines) if not holds_nothing(line))
    return next(full, len(lines))


def _but_a_few(before: int, after: int, length: int) -> tuple[int, int]:
    """Rows or columns to cut before and after; fewer, so that `LEAST_SEEN` of `length` are left."""
    before = max(0, before - max(0, LEAST_SEEN - (length - before - after)) // 2)
    before = max(0, min(before, length - LEAST_SEEN))
    return before, max(0, min(after, length - LEAST_SEEN - before))


def _flipped(array: NDArray[Any], flips: Sequence[bool]) -> NDArray[Any]:
    turned: NDArray[Any] = array[tuple(np.s_[::-1] if flip else np.s_[:] for flip in flips)]
    return turned
