"""What happens between encoder and decoder: the only difference between architectures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2gnet_core.quantizer import Codebook
from l2gnet_core.transport import TransportPlan, transport_codes, transport_tokens


@dataclass(frozen=True)
class BottleneckOutput:
    """features (B,d,h,w) for the decoder; commitment, a scalar; codes (B,h,w); plan."""

    features: Tensor
    commitment: Tensor
    codes: Tensor
    plan: TransportPlan


class CodesWithTransport(nn.Module):
    """L2GNet's bottleneck (arXiv 2502.05229): codes related by transport on a trainable reference.

    Continuous features z, their codes c and the transported codes g are fused by a 1×1 convolution
    whose result is added to z and starts at zero, so that an untrained bottleneck is the identity.
    The paper's abstract does not say how they are fused; this form is our choice.
    """

    def __init__(
        self, channels: int, codes: int, references: int, epsilon: float, iterations: int
    ) -> None:
        super().__init__()
        self.codebook = Codebook(codes, channels)
        self.reference = nn.Parameter(torch.randn(references, channels) / channels**0.5)
        self.epsilon = epsilon
        self.iterations = iterations
        self.fusion = nn.Conv2d(3 * channels, channels, 1)
        nn.init.zeros_(self.fusion.weight)
        nn.init.zeros_(self.fusion.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> BottleneckOutput:
        """features: (B,d,h,w)."""
        batch, channels, height, width = features.shape
        quantized = self.codebook(features.flatten(2).transpose(1, 2))
        if self.training:
            returned, plan = transport_tokens(
                quantized.tokens, quantized.codes, self.reference, self.epsilon, self.iterations
            )
        else:
            returned, plan = transport_codes(
                self.codebook.vectors,
                quantized.codes,
                self.reference,
                self.epsilon,
                self.iterations,
            )

        def as_map(tokens: Tensor) -> Tensor:
            return tokens.transpose(1, 2).reshape(batch, channels, height, width)

        joined = torch.cat([features, as_map(quantized.tokens), as_map(returned)], 1)
        codes = quantized.codes.reshape(batch, height, width)
        fused = features + self.fusion(joined)
        return BottleneckOutput(fused, quantized.commitment, codes, plan)
