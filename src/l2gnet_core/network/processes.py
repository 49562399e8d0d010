"""Sums and gathered tensors over training processes, so that together they learn what a single
process would from the whole batch. With one process, these functions return their argument."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def several() -> bool:
    """Do several processes train together?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Sum(torch.autograd.Function):
    """Differentiable all-reduce; the place of PyTorch's own one differs between releases."""

    @staticmethod
    def forward(context: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def summed(values: Tensor) -> Tensor:
    """Sum over the processes, in the shape of `values`; gradients flow back to all processes."""
    if not several():
        return values
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def gathered(values: Tensor) -> Tensor:
    """Values (n,…) of all processes, concatenated to (processes · n,…); without gradient."""
    if not several():
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)
