"""Search for places that look to the model like a marked mistake."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.files.values import plain_values
from l2gnet_core.scans.bounding_box import bounding_box
from l2gnet_core.segmenting.cells import Box
from l2gnet_core.segmenting.trace import Trace

# The numbers below were settled by `python benchmarks/inspection.py run tuning`: by the share of
# planted mistakes that is found again (docs/benchmarks.md, "Doubts and mistakes").

#: Two codes are unlike if their rows of the plan overlap by no more than this quantile of the
#: overlaps in the slice.
USUAL = 0.5
#: Without transport, likeness falls to 1/e at this share of the codes' median squared distance. The
#: benchmark's model has transport, so this was set by hand.
REACH = 0.3
#: Limits of the levels of likeness. Connected voxels of one level make a region, which keeps a
#: mistake apart from the sound part of the structure beside it. Voxels below the first make none.
LEVELS = (0.01, 0.03, 0.1, 0.4, 0.7, 1.01)
#: A pair of code and structure counts less if it has fewer marked voxels than this share of those
#: of the commonest pair.
RARE = 0.1
#: Codes are coarse, so the place of a voxel counts as well. Likeness falls with the distance from
#: the marks; at `NEAR` it has lost 1 − 1/e of what it can lose (in radii of a disc as large as all
#: structures of the marked slice together).
NEAR = 0.5
#: Far from the marks this share of the likeness is left.
FAR = 0.3
#: The brightness of the scan, smoothed by `SMOOTHING` pixels, is divided into `SHADES` that are
#: equally frequent in the structures. Counts of shades are blurred by `BLUR` shades.
SMOOTHING = 2.5
SHADES = 16
BLUR = 1.5
#: Pixels that are enough to estimate how frequent a brightness is.
ENOUGH = 500_000
#: Voxels of a shade that the marks do not have keep this share of their likeness.
OTHER_SHADE = 0.1
#: Regions smaller than this, as a share of the marked voxels, are specks.
LEAST_SIZE = 0.02
#: Regions that are suggested at most.
MOST = 200


@dataclass(frozen=True, eq=False)
class Region:
    """A place in one slice to look at.

    index: along the slicing axis. box: the box of voxels (z,y,x) around it. voxels: which of them
    belong to it, an array of the box's shape. score: for a place like a marked one, the mean
    likeness, 0 to 1; for an unsure place, the mean doubt.
    """

    index: int
    box: Box
    voxels: NDArray[np.bool_]
    score: float


def highest(regions: list[Region], most: int) -> list[Region]:
    """The regions with the highest scores, `most` at most, highest first."""
    return sorted(regions, key=lambda region: -region.score)[:most]


def find_similar(
    trace: Trace,
    mask: NDArray[np.integer],
    marked: NDArray[np.bool_],
    scan: NDArray[Any],
    most: int = MOST,
) -> list[Region]:
    """Regions like the marked voxels, best first, without the marked voxels themselves.

    mask: the model's answer (z,y,x). marked: (z,y,x), true where a person marked a mistake. scan:
    (z,y,x). The likeness of a voxel is the product of three factors:

    - the share of marked voxels among those of its structure and code in the marked slices; other
      codes count as far as the plan sends both to the same references or, without transport, as
      far as their vectors are near,
    - the nearness to the marks, with slices aligned by the centres of their structures,
    - the share of marked voxels among those of its structure and shade.

    Raises InputError if nothing is marked where the model has looked, and for a scan whose values
    are no real numbers.
    """
    by_slice = similar_by_slice(trace, mask, marked, scan, most)
    return highest([region for regions in by_slice for region in regions], most)


def similar_by_slice(
    trace: Trace,
    mask: NDArray[np.integer],
    marked: NDArray[np.bool_],
    scan: NDArray[Any],
    most: int = MOST,
) -> Iterator[list[Region]]:
    """`find_similar` in steps, at any of which the caller may stop: an empty list for each slice
    seen, whose brightness is read, then the regions of each slice seen, `most` at most."""
    if any(array.shape != trace.cells.shape for array in (mask, marked, scan)):
        raise InputError(
            f"Expected mask, marks and scan of the shape that the model saw, {trace.cells.shape}, "
            f"but got {mask.shape}, {marked.shape} and {scan.shape}; use layers of the same scan."
        )
    scan = plain_values("The scan", scan, [])
    axis = trace.cells.axis
    masks, slices = np.moveaxis(mask, axis, 0), np.moveaxis(scan, axis, 0)
    # Marks in margins are dropped: the model saw nothing there.
    marks = trace.cells.without_margins(np.moveaxis(marked, axis, 0).copy())
    likeness = _likeness(trace, masks, marks)
    nearness = _Nearness(masks, marks, trace.seen)
    shades = _Shades()
    for index in np.flatnonzero(trace.seen).tolist():
        shades.look_at(index, slices[index], masks[index], marks[index])
        yield []
    shades.compare(masks, marks)
    least = LEAST_SIZE * float(np.count_nonzero(marks, axis=(1, 2)).max())
    # `likeness` has columns only up to the highest marked structure.
    last = likeness.shape[2] - 1
    for index in np.flatnonzero(trace.seen).tolist():
        regions = []
        if likeness[index].any():
            codes = trace.cells.on_slice(trace.codes[index], outside=-1)
            score = likeness[index, codes, np.minimum(masks[index], last)]
            score = np.where((codes >= 0) & (masks[index] <= last) & ~marks[index], score, 0)
            score = score * nearness.of(masks[index]) * shades.of(index, masks[index])
            regions = _regions_in(index, score, least, axis)
        yield highest(regions, most)


def _regions_in(index: int, score: NDArray[np.float32], least: float, axis: int) -> list[Region]:
    """Connected parts of a slice with likeness (H,W) of one level; those smaller than `least`
    pixels are left out."""
    from scipy import ndimage

    box = bounding_box(score >= LEVELS[0])
    if box is None:
        return []
    part, regions = score[box], []
    for low, high in pairwise(LEVELS):
        pieces, _ = ndimage.label((part >= low) & (part < high), np.ones((3, 3)))
        for number, found in enumerate(ndimage.find_objects(pieces), 1):
            inside = pieces[found] == number
            if np.count_nonzero(inside) < least:
                continue
            around = [
                slice(whole.start + side.start, whole.start + side.stop)
                for whole, side in zip(box, found, strict=True)
            ]
            around.insert(axis, slice(index, index + 1))
            mean = float(part[found][inside].mean())
            voxels = np.expand_dims(inside, axis)
            regions.append(Region(index, (around[0], around[1], around[2]), voxels, mean))
    return regions


def _likeness(
    trace: Trace, masks: NDArray[np.integer], marks: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(n,K,L): likeness to the marked voxels by slice, code and structure, 0 to 1."""
    codes, n = len(trace.vectors), len(trace.codes)
    structures = int(masks[marks].max(initial=0)) + 1
    likeness = np.zeros((n, codes, structures), np.float32)
    wanted = [int(i) for i in np.flatnonzero(marks.any((1, 2)) & trace.seen)]
    if not wanted:
        raise InputError(
            "Expected marked voxels in slices that the model has segmented, and not in their empty "
            "margins, but there are none; "
            "mark a mistake first."
        )
    marked: dict[int, NDArray[np.intp]] = {}
    there: dict[int, NDArray[np.intp]] = {}
    for index in wanted:
        on_slice = trace.cells.on_slice(trace.codes[index], outside=-1).astype(np.intp)
        pair = on_slice * structures + masks[index]
        for into, kept in ((marked, marks[index]), (there, masks[index] < structures)):
            found = np.bincount(pair[kept & (on_slice >= 0)], minlength=codes * structures)
            into[index] = found.reshape(codes, structures)
    most = max(int(counts.max()) for counts in marked.values())
    for source, counts in marked.items():
        present = np.flatnonzero(counts.any(1))
        weights = counts[present] / np.maximum(there[source][present], 1)
        weights *= np.minimum(1, counts[present] / (RARE * most))
        for index in np.flatnonzero(trace.seen).tolist():
            alike = _alike(trace, source, index, present)
            for row, weight in zip(alike, weights, strict=True):
                alike_here = row[:, None] * weight.astype(np.float32)
                np.maximum(likeness[index], alike_here, out=likeness[index])
    return likeness


class _Nearness:
    """Nearness of pixels to the marks, from `FAR` to 1."""

    def __init__(
        self, masks: NDArray[np.integer], marks: NDArray[np.bool_], seen: NDArray[np.bool_]
    ) -> None:
        from scipy import ndimage

        self.sources = []
        for index in np.flatnonzero(marks.any((1, 2)) & seen).tolist():
            apart = ndimage.distance_transform_edt(~marks[index])
            size = max(np.count_nonzero(masks[index]), np.count_nonzero(marks[index]))
            reach = NEAR * math.sqrt(size / math.pi)
            near = FAR + (1 - FAR) * np.exp(-((apart / reach) ** 2))
            self.sources.append((near.astype(np.float32), _centre(masks[index])))

    def of(self, mask: NDArray[np.integer]) -> NDArray[np.float32]:
        """Nearness (H,W) in a slice with this mask (H,W)."""
        best = np.zeros(mask.shape, np.float32)
        here = _centre(mask)
        for near, centre in self.sources:
            shift = (0, 0) if here is None or centre is None else np.rint(here - centre)
            rows, columns = (
                np.clip(np.arange(size) - int(by), 0, size - 1)
                for size, by in zip(mask.shape, shift, strict=True)
            )
            np.maximum(best, near.take(columns, 1).take(rows, 0), out=best)
        return best


class _Shades:
    """Likeness of a pixel's brightness to that of the marks, from `OTHER_SHADE` to 1."""

    def __init__(self) -> None:
        self._smooth: dict[int, NDArray[np.float32]] = {}
        self._inside: list[NDArray[np.float32]] = []

    def look_at(
        self,
        index: int,
        scan: NDArray[Any],
        mask: NDArray[np.integer],
        marks: NDArray[np.bool_],
    ) -> None:
        """Add a slice (H,W) of the scan, with its mask and marks."""
        from scipy import ndimage

        smooth = ndimage.gaussian_filter(scan.astype(np.float32), SMOOTHING)
        self._smooth[index] = smooth
        # Structures and marks only: the surroundings would take most of the shades.
        self._inside.append(smooth[(mask != 0) | marks])

    def compare(self, masks: NDArray[np.integer], marks: NDArray[np.bool_]) -> None:
        """Compute the likeness of shades, after all slices (n,H,W) have been added."""
        from scipy import ndimage

        inside = np.concatenate(self._inside)
        self._inside = []
        # Quantiles of all voxels of a large scan would take seconds.
        some = inside[:: max(1, len(inside) // ENOUGH)]
        self._edges = np.quantile(some, np.linspace(0, 1, SHADES + 1)[1:-1])
        self._structures = int(masks[marks].max(initial=0)) + 1
        counts = np.zeros((2, self._structures, SHADES))
        for index in np.flatnonzero(marks.any((1, 2))).tolist():
            if index not in self._smooth:
                continue
            of_structures = masks[index] < self._structures
            pair = masks[index].astype(np.intp) * SHADES + self._shades(index)
            for into, kept in zip(counts, (marks[index], of_structures), strict=True):
                into += np.bincount(pair[kept], minlength=into.size).reshape(into.shape)
        marked, every = ndimage.gaussian_filter1d(counts, BLUR, axis=2, mode="nearest")
        # A rare shade gets about the share of the whole structure.
        share = marked.sum(1, keepdims=True) / np.maximum(every.sum(1, keepdims=True), 1)
        share = (marked + share) / (every + 1)
        share /= np.maximum(share.max(1, keepdims=True), 1e-9)
        self._likeness = (OTHER_SHADE + (1 - OTHER_SHADE) * share).astype(np.float32)

    def of(self, index: int, mask: NDArray[np.integer]) -> NDArray[np.float32]:
        """Likeness (H,W) in slice `index` with this mask (H,W)."""
        likeness: NDArray[np.float32] = self._likeness[
            np.minimum(mask, self._structures - 1), self._shades(index)
        ]
        return likeness

    def _shades(self, index: int) -> NDArray[np.intp]:
        """(H,W): number of the shade of each pixel of a slice."""
        return np.digitize(self._smooth[index], self._edges)


def _centre(mask: NDArray[np.integer]) -> NDArray[np.float64] | None:
    """The centre (row, column) of all structures in a slice; None if there are none."""
    there = mask != 0
    if not there.any():
        return None
    rows, columns = there.sum(1), there.sum(0)
    return np.array(
        [np.average(np.arange(len(counts)), weights=counts) for counts in (rows, columns)]
    )


def _alike(trace: Trace, source: int, index: int, codes: NDArray[np.intp]) -> NDArray[np.float32]:
    """(len(codes),K): likeness, 0 to 1, of codes in slice `source` to all codes in `index`."""
    if trace.plan_rows is not None:
        given, others = trace.plan_rows[source, codes], trace.plan_rows[index]
        overlap = np.stack([np.minimum(row, others).sum(1) for row in given])
        # Overlaps are relative to the slice: they are high for all codes in the plans of some
        # models, and low in those of others.
        usual = float(np.quantile(overlap[:, trace.plan_rows[index].any(1)], USUAL))
        alike = np.clip((overlap - usual) / max(1 - usual, 1e-6), 0, 1)
        alike[np.arange(len(codes)), codes] = 1
        return alike.astype(np.float32)
    from scipy.spatial.distance import cdist

    apart = cdist(trace.vectors[codes], trace.vectors, "sqeuclidean")
    typical = np.median(cdist(trace.vectors, trace.vectors, "sqeuclidean"))
    return np.asarray(np.exp(-apart / max(REACH * float(typical), 1e-12)), np.float32)
