"""Precision for sums over many values, for which half precision is not enough."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(values: Tensor) -> Tensor:
    """The values in float32, or unchanged if their precision is higher."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
