"""Which codes a scan uses, which structures lie in their cells, and where these are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.segmenting.cells import Box
from l2gnet_core.segmenting.trace import Trace


def code_counts(trace: Trace, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """(K,): number of cells of the slices seen with each code. among: (n,), only these slices."""
    codes = trace.codes[trace.seen if among is None else trace.seen & among].ravel()
    return np.bincount(codes, minlength=len(trace.vectors)).astype(np.int64)


def perplexity(counts: NDArray[np.integer]) -> float:
    """exp(entropy) of a histogram of codes: the number of equally frequent codes with the same
    entropy.

    1 for a single code, 0 for an empty histogram.
    """
    share = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def dead_codes(counts: NDArray[np.integer]) -> list[int]:
    """Codes that no cell has."""
    return [int(code) for code in np.flatnonzero(counts == 0)]


def organ_table(trace: Trace, voxels: NDArray[np.int32]) -> NDArray[np.int64]:
    """(K,L): number of voxels of each structure in cells of each code.

    voxels: (n,h,w,L), number of voxels of each structure in each cell, from `CellGrid.counts`.
    """
    seen = trace.seen
    return sums_by_code(trace.codes[seen], voxels[seen], len(trace.vectors)).astype(np.int64)


def sums_by_code(
    codes: NDArray[np.integer], values: NDArray[np.generic], count: int
) -> NDArray[np.float64]:
    """(K,L): sums of values (…,L) over the cells (…) with each of `count` codes."""
    of_cells, columns = codes.ravel(), values.reshape(codes.size, values.shape[-1]).T
    # One by one, which is many times as fast as np.add.at with rows.
    return np.stack([np.bincount(of_cells, column, count) for column in columns], axis=1)


def purity(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,): share of a code's voxels that belong to its commonest structure (or background). nan
    for codes without voxels."""
    total = table.sum(1)
    share: NDArray[np.float64] = np.full(len(table), np.nan)
    np.divide(table.max(1), total, out=share, where=total > 0)
    return share


def structure_shares(voxels: NDArray[np.int64]) -> list[tuple[int, float]]:
    """(column, share of the voxels) of the structures of a code, the largest first, nothing under
    half a percent. voxels: (L,), the code's row of `organ_table`."""
    total = max(1, int(voxels.sum()))
    return [
        (int(column), float(voxels[column] / total))
        for column in np.argsort(-voxels, kind="stable")
        if voxels[column] and voxels[column] >= 0.005 * total
    ]


def principal_components(vectors: NDArray[np.floating], most: int) -> NDArray[np.float64]:
    """(K,m): coordinates of codes along the first m ≤ `most` principal components of the codebook.

    vectors: (K,d). Signs are fixed: the largest element of each component is positive.
    """
    centred = vectors.astype(np.float64) - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:most]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    return np.asarray(centred @ (axes * np.sign(largest)).T)


def code_colors(vectors: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(K,3) RGB: reproducible for a model, and similar for similar codes.

    vectors: (K,d). Red, green and blue are ranks along the first three principal components.
    """
    colors = np.full((len(vectors), 3), 128, np.uint8)
    for channel, along in enumerate(principal_components(vectors, 3).T):
        rank = along.argsort().argsort()
        colors[:, channel] = np.rint(40 + 200 * rank / max(1, len(rank) - 1))
    return colors


@dataclass(frozen=True)
class Example:
    """A cell with a code: (slice, row, column), the box of voxels (z,y,x) that it covers, and the
    mean squared distance per channel of its token to the code."""

    cell: tuple[int, int, int]
    box: Box
    error: float


def examples(trace: Trace, code: int, most: int = 10) -> list[Example]:
    """The cells whose tokens are nearest to a code, nearest first; `most` at most."""
    where = np.argwhere(trace.codes == code)
    errors = trace.error[tuple(where.T)]
    best = np.argsort(errors, kind="stable")[:most]
    found = []
    for (index, row, column), error in zip(where[best].tolist(), errors[best], strict=True):
        box = trace.cells.box(index, slice(row, row + 1), slice(column, column + 1))
        found.append(Example((index, row, column), box, float(error)))
    return found
