"""Find more like this: from a marked mistake to places that the model sees alike."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.inspect.cells import Box
from l2gnet_core.inspect.look import Look

#: Rows of the plan of one code in two slices overlap by 0.99, of two codes by 0.91 (medians,
#: `cardiac-cine`): at this overlap nothing is left of a similarity.
LEAST_OVERLAP = 0.9
#: Without transport, similarity falls to 1/e at this share of the codes' median squared distance.
REACH = 0.3
#: Likeness from which, and up to which, neighbouring voxels make one region, so that a mistake and
#: the sound part of the structure beside it do not. Voxels below the first are left out.
LEVELS = (0.1, 0.4, 0.7, 1.01)


@dataclass(frozen=True, eq=False)
class Region:
    """A connected place in one slice that looks like the marked one.

    index: along the slicing axis. box: the voxels (z,y,x) around it. voxels: which of them belong
    to it. score: mean likeness, 1 = the codes and the structure that most marked voxels have.
    """

    index: int
    box: Box
    voxels: NDArray[np.bool_]
    score: float


def find_similar(
    look: Look, mask: NDArray[np.integer], marked: NDArray[np.bool_], most: int = 50
) -> list[Region]:
    """Regions elsewhere with the codes, plan rows and structures of the marked voxels, best first.

    mask: the model's answer (z,y,x). marked: (z,y,x), true where a person marked a mistake; these
    voxels themselves are left out. A voxel scores by the share of marked voxels that have its
    structure and its code, or another code, as far as the plan sends both to the same references
    (without transport: as far as their vectors are near). Raises InputError if nothing is marked
    where the model has looked.
    """
    from scipy import ndimage

    if mask.shape != look.cells.shape or marked.shape != look.cells.shape:
        raise InputError(
            f"Expected mask and marks of the scan's shape {look.cells.shape}, but got "
            f"{mask.shape} and {marked.shape}; use layers of the same scan."
        )
    axis = look.cells.axis
    masks, marks = np.moveaxis(mask, axis, 0), np.moveaxis(marked, axis, 0)
    likeness = _likeness(look, masks, marks)
    regions = []
    for index in np.flatnonzero(look.seen).tolist():
        if not likeness[index].any():
            continue
        # Structures beyond the marked ones have no column.
        last = likeness.shape[2] - 1
        codes = look.cells.on_slice(look.codes[index])
        score = likeness[index, codes, np.minimum(masks[index], last)]
        score = np.where((masks[index] <= last) & ~marks[index], score, 0)
        for low, high in pairwise(LEVELS):
            pieces, _ = ndimage.label((score >= low) & (score < high), np.ones((3, 3)))
            for number, found in enumerate(ndimage.find_objects(pieces), 1):
                inside = pieces[found] == number
                box = list(found)
                box.insert(axis, slice(index, index + 1))
                mean = float(score[found][inside].mean())
                voxels = np.expand_dims(inside, axis)
                regions.append(Region(index, (box[0], box[1], box[2]), voxels, mean))
    return sorted(regions, key=lambda region: -region.score)[:most]


def _likeness(
    look: Look, masks: NDArray[np.integer], marks: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(n,K,L): how much a voxel of each slice, code and structure is like the marked ones."""
    codes, n = len(look.vectors), len(look.codes)
    structures = int(masks[marks].max(initial=0)) + 1
    likeness = np.zeros((n, codes, structures), np.float32)
    wanted = [int(i) for i in np.flatnonzero(marks.any((1, 2)) & look.seen)]
    if not wanted:
        raise InputError(
            "Expected marked voxels in slices that the model has segmented, but there are none; "
            "mark a mistake first."
        )
    shares = {}
    for index in wanted:
        pair = look.cells.on_slice(look.codes[index]).astype(np.intp) * structures + masks[index]
        counts = np.bincount(pair[marks[index]], minlength=codes * structures)
        shares[index] = counts.reshape(codes, structures)
    most = max(int(counts.max()) for counts in shares.values())
    for source, counts in shares.items():
        present = np.flatnonzero(counts.any(1))
        weights = (counts[present] / most).astype(np.float32)
        for index in np.flatnonzero(look.seen).tolist():
            alike = _alike(look, source, index, present)
            for row, weight in zip(alike, weights, strict=True):
                np.maximum(likeness[index], row[:, None] * weight, out=likeness[index])
    return likeness


def _alike(look: Look, source: int, index: int, codes: NDArray[np.intp]) -> NDArray[np.float32]:
    """(len(codes),K): how alike the given codes in slice `source` are to every code in `index`."""
    if look.plan_rows is not None:
        given, others = look.plan_rows[source, codes], look.plan_rows[index]
        overlap = np.stack([np.minimum(row, others).sum(1) for row in given])
        return np.clip((overlap - LEAST_OVERLAP) / (1 - LEAST_OVERLAP), 0, 1)
    from scipy.spatial.distance import cdist

    apart = cdist(look.vectors[codes], look.vectors, "sqeuclidean")
    typical = np.median(cdist(look.vectors, look.vectors, "sqeuclidean"))
    return np.asarray(np.exp(-apart / max(REACH * float(typical), 1e-12)), np.float32)
