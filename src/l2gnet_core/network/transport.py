r"""Optimal transport between discrete codes and a trainable reference (local → global).

Letters, used only here. B images; m rows (n tokens, or the K' codes that occur); R references;
d channels.

    c (B,m,d)   the codes                    h (B,m)    mass of each row, sums to one
    r (R,d)     the trainable reference      M (B,m,R)  cost, 1 − cos(c_i, r_j)
    P (B,m,R)   coupling with row sums h and column sums near 1/R
    s (B,R)     column sums of P             A (B,R,d)  aligned codes, diag(1/s) Pᵀ c
    g (B,m,d)   what each row gets back, diag(1/h) P A

With one row per token (h = 1/n) g = S c with S = n P diag(1/s) Pᵀ, which is symmetric, positive
semi-definite and has rows that sum to one: a doubly-stochastic attention without query, key and
value weights. P_ij depends on i only through its code, so the coupling over tokens collapses
exactly, at every iteration, to one over the codes that occur, with h_k = how often code k occurs.

Sources: the alignment on a trainable reference follows Mialon et al., "A Trainable Optimal
Transport Embedding for Feature Aggregation and its Relationship to Attention" (ICLR 2021), whose
embedding scales by √R; the iterations are Sinkhorn's, in the log domain (Peyré and Cuturi,
"Computational Optimal Transport", 2019, §4.4). Sending A back to the tokens is our reading of
L2GNet (arXiv 2502.05229), whose abstract leaves it open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2gnet_core.network.precise import precise


@dataclass(frozen=True)
class TransportPlan:
    """A coupling between rows (tokens or codes) and references.

    coupling: (B,m,R), rows sum to `row_mass` exactly, columns to 1/R nearly.
    row_mass: (B,m), sums to one; zero where a row is padding.
    row_codes: (B,m), the code of each row; −1 where a row is padding.
    """

    coupling: Tensor
    row_mass: Tensor
    row_codes: Tensor


def cosine_cost(rows: Tensor, reference: Tensor) -> Tensor:
    """M (B,m,R) = 1 − cos(rows (B,m,d), reference (R,d))."""
    return 1 - F.normalize(rows, dim=-1) @ F.normalize(reference, dim=-1).T


def sinkhorn(cost: Tensor, row_mass: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Coupling (B,m,R) that nearly minimises ⟨P,M⟩ − ε·H(P), by a fixed number of iterations.

    cost: (B,m,R). row_mass: (B,m), sums to one; zeros are allowed and give zero rows. Each
    iteration updates columns, then rows, so that rows are exact however few the iterations: the
    order of POT's `ot.sinkhorn`. Differentiable. The dtype of `cost` is kept.
    """
    log_mass = row_mass.log()[..., None]
    # Logarithm of P up to a factor per row. Because it starts at −M/ε, tokens and codes agree at
    # every iteration, not only at the last.
    scaled = -cost / epsilon
    for iteration in range(iterations):
        if iteration:
            scaled = scaled.log_softmax(2)
        # The column mass 1/R is left out: it is the same for all and the row update cancels it.
        scaled = scaled - torch.logsumexp(scaled + log_mass, 1, keepdim=True)
    # With a softmax as the last row update, row sums are exact in float32 for any ε.
    return row_mass[..., None] * scaled.softmax(2)


def transport(
    rows: Tensor,
    row_mass: Tensor,
    row_codes: Tensor,
    reference: Tensor,
    epsilon: float,
    iterations: int,
) -> tuple[Tensor, TransportPlan]:
    """Align rows (B,m,d) on the reference (R,d) and send the result back: g (B,m,d) and the plan.

    row_mass: (B,m), sums to one; zero for padding. row_codes: (B,m), −1 for padding. Computed in
    float32 or better, also under autocast: bfloat16 is not precise enough for couplings.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = precise(rows)
        row_mass = row_mass.to(rows.dtype)
        coupling = sinkhorn(
            cosine_cost(rows, reference.to(rows.dtype)), row_mass, epsilon, iterations
        )
        aligned = (coupling / coupling.sum(1, keepdim=True)).transpose(1, 2) @ rows
        # Padding rows have zero mass: avoid 0/0.
        share = coupling / row_mass.clamp(min=torch.finfo(rows.dtype).tiny)[..., None]
        return share @ aligned, TransportPlan(coupling, row_mass, row_codes)


def transport_tokens(
    tokens: Tensor, codes: Tensor, reference: Tensor, epsilon: float, iterations: int
) -> tuple[Tensor, TransportPlan]:
    """Transport of every token: tokens (B,n,d), their codes (B,n) → g (B,n,d) and the plan.

    The form to train with: straight-through gradients differ from token to token.
    """
    batch, count, _ = tokens.shape
    mass = torch.full((batch, count), 1 / count, device=tokens.device, dtype=precise(tokens).dtype)
    return transport(tokens, mass, codes, reference, epsilon=epsilon, iterations=iterations)


def transport_codes(
    codebook: Tensor, codes: Tensor, reference: Tensor, epsilon: float, iterations: int
) -> tuple[Tensor, TransportPlan]:
    """Transport of the codes that occur: codebook (K,d), codes (B,n) → g (B,n,d) and the plan.

    Equal to `transport_tokens` of the quantised tokens, at O(K'·R) instead of O(n·R).
    """
    batch, count = codes.shape
    # Integer counts are exact and, on a GPU, independent of the order of additions.
    occurrences = codes.new_zeros(batch, len(codebook))
    occurrences.scatter_add_(1, codes, torch.ones_like(codes))
    frequency = occurrences.to(precise(codebook).dtype) / count
    occurring = occurrences > 0
    rows = int(occurring.sum(1).max())
    # Codes that occur first, in ascending order; images with fewer are padded with massless rows.
    order = torch.argsort(occurring.int(), dim=1, descending=True, stable=True)[:, :rows]
    mass = frequency.gather(1, order)
    row_codes = torch.where(mass > 0, order, -1)
    returned, plan = transport(
        codebook[order], mass, row_codes, reference, epsilon=epsilon, iterations=iterations
    )
    row_of_code = order.new_zeros(batch, len(codebook))
    row_of_code.scatter_(1, order, torch.arange(rows, device=order.device).expand(batch, rows))
    row_of_token = row_of_code.gather(1, codes)
    index = row_of_token[..., None].expand(*codes.shape, returned.shape[-1])
    return returned.gather(1, index), plan
