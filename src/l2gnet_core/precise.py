"""Sums over many values: what may not be done in half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(values: Tensor) -> Tensor:
    """The values in float32, or as they are where they have more digits than that."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
