"""Transport plans: to which references a token's mass goes, and which codes meet there.

With P the plan over the n tokens of a slice and s its column sums
(`l2gnet_core.network.transport`), S_ij of S = n P diag(1/s) Pᵀ is the share of token j in what
token i gets back. A row of P depends only on the token's code, so everything here is computed
exactly from the rows of codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.inspect.codes import sums_by_code
from l2gnet_core.segmenting.trace import Trace


def column_sums(trace: Trace) -> NDArray[np.float64]:
    """(n,R): the mass that each reference receives in each slice; nearly 1/R."""
    sums: NDArray[np.float64] = np.einsum(
        "nk,nkr->nr", trace.frequencies(), trace.plans, optimize=True
    )
    return sums


def column_residual(trace: Trace) -> NDArray[np.float64]:
    """(n,): largest relative deviation of a reference's mass from 1/R; nan in slices not seen.

    0 if the iterations have converged.
    """
    sums = column_sums(trace)
    residual: NDArray[np.float64] = np.abs(sums * sums.shape[1] - 1).max(1)
    return np.where(trace.seen, residual, np.nan)


def sources_map(trace: Trace, index: int, code: int) -> NDArray[np.float64]:
    """(h,w): share of each cell of slice `index` in what a token of `code` there gets back; sums to
    one. Zero everywhere if the code does not occur in the slice."""
    rows = trace.plans[index].astype(np.float64)
    sums = trace.frequencies()[index] @ rows
    from_codes = (rows[code] / np.where(sums > 0, sums, 1)) @ rows.T
    shares: NDArray[np.float64] = from_codes[trace.codes[index]] / trace.codes[index].size
    return shares


def code_plan(trace: Trace, receiving: NDArray[np.generic] | None = None) -> NDArray[np.float64]:
    """Code-to-code transport plan (K,K) of the slices seen, or of parts of them.

    T_kl = (1/n) Σ S_ij over tokens i of code k and j of code l, averaged over slices: the mass of
    code k that meets code l on the same references. For whole slices it is symmetric and both
    marginals are the code frequencies, so it sums to one.

    receiving: (n,h,w) weights in [0,1] of the cells that i runs over, such as the share of a cell's
    voxels that an organ has; all cells by default. The result is then divided by the mass of
    `receiving`, so its row sums are the code frequencies there. Zero if no cell has a weight.
    Raises InputError for a model without transport.
    """
    plans = trace.plans
    codes = len(trace.vectors)
    total, mass = np.zeros((codes, codes)), 0.0
    sums, frequencies = column_sums(trace), trace.frequencies()
    for index in np.flatnonzero(trace.seen):
        of_receiving = _weighted(trace, int(index), receiving)
        if not of_receiving.any():
            continue
        used = np.flatnonzero(trace.plans[index].any(1))
        rows = plans[index, used].astype(np.float64)
        part = (rows / sums[index]) @ rows.T
        total[np.ix_(used, used)] += of_receiving[used, None] * part * frequencies[index, used]
        mass += of_receiving.sum()
    return total / mass if mass else total


def organ_plan(trace: Trace, voxels: NDArray[np.generic]) -> NDArray[np.float64]:
    """Structure-to-structure transport plan (L,L): `code_plan` with structures instead of codes.

    voxels: (n,h,w,L), from `CellGrid.counts`; a cell counts for each structure by its share of the
    cell's voxels. Symmetric; both marginals are the structures' shares of the cells, so it sums to
    one if every cell has voxels. Raises InputError for a model without transport.
    """
    plans, sums = trace.plans, column_sums(trace)
    structures = voxels.shape[-1]
    total = np.zeros((structures, structures))
    for index in np.flatnonzero(trace.seen):
        counts = voxels[index].reshape(-1, structures).astype(np.float64)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1) / len(counts)
        by_code = sums_by_code(trace.codes[index], share, len(trace.vectors))
        received = by_code.T @ plans[index].astype(np.float64)
        total += (received / sums[index]) @ received.T
    return total / max(1, int(np.count_nonzero(trace.seen)))


def times_chance(plan: NDArray[np.float64]) -> NDArray[np.float64]:
    """A plan (m,m) of codes or structures over the product of its marginals: 1 is chance. nan where
    a row or column has no mass."""
    by_chance = plan.sum(1)[:, None] * plan.sum(0) / max(plan.sum(), 1e-300)
    lift = np.full_like(plan, np.nan)
    np.divide(plan, by_chance, out=lift, where=by_chance > 0)
    return lift


def _weighted(trace: Trace, index: int, weights: NDArray[np.generic] | None) -> NDArray[np.float64]:
    """(K,): mass of each code in a slice, with tokens weighted (n,h,w)."""
    codes = trace.codes[index].ravel()
    of_tokens = None if weights is None else weights[index].ravel().astype(np.float64)
    counts = np.bincount(codes, of_tokens, len(trace.vectors))
    return np.asarray(counts / codes.size)


#: From this many times chance on, two codes count as partners.
MORE = 1.05


@dataclass(frozen=True)
class Partner:
    """A code that another one meets: its share of the other's mass, and how many times chance that
    is."""

    code: int
    share: float
    times_chance: float


def partners(plan: NDArray[np.float64], code: int, most: int = 5) -> list[Partner]:
    """The codes that a code meets more than by chance, those with the largest share of its mass
    first; `most` at most.

    plan: from `code_plan`. Empty if the code has no mass in it.
    """
    row = plan[code]
    if not row.sum() > 0:
        return []
    share, by_chance = row / row.sum(), plan.sum(0) / plan.sum()
    met = share > MORE * by_chance
    met[code] = False
    order = np.argsort(-share, kind="stable")
    return [
        Partner(int(other), float(share[other]), float(share[other] / by_chance[other]))
        for other in order[met[order]][:most]
    ]
