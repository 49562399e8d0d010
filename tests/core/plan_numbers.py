"""The plan between codes from a coupling, computed in another way than in `l2gnet_core.inspect`."""

from __future__ import annotations

from torch import Tensor

from l2gnet_core.network.transport import TransportPlan


def code_to_code(plan: TransportPlan, codes: int) -> Tensor:
    """Code-to-code transport plan T = Q diag(1/s) Qᵀ, (B,codes,codes).

    Rows of codes that do not occur are zero.
    """
    batch, rows, references = plan.coupling.shape
    index = plan.row_codes.clamp(min=0)[..., None].expand(batch, rows, references)
    by_code = plan.coupling.new_zeros(batch, codes, references)
    # Padding rows carry no mass, so adding them to code 0 changes nothing.
    by_code.scatter_add_(1, index, plan.coupling)
    return (by_code / by_code.sum(1, keepdim=True)) @ by_code.transpose(1, 2)
