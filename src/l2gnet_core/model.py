"""The network: encoder, bottleneck, decoder, and the one type of output everything reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from l2gnet_core.bottlenecks import CodesWithTransport
from l2gnet_core.config import NetworkConfig
from l2gnet_core.encoder_decoder import Decoder, Encoder
from l2gnet_core.transport import TransportPlan


@dataclass(frozen=True)
class NetworkOutput:
    """logits (B,classes,H,W); commitment, a scalar; codes (B,h,w); plan, tokens or codes to
    references (tokens while training, codes at inference)."""

    logits: Tensor
    commitment: Tensor
    codes: Tensor
    plan: TransportPlan


class L2GNet(nn.Module):
    """L2GNet (arXiv 2502.05229), as `CodesWithTransport` reads it, on a U-shaped body."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.in_channels, config.widths)
        self.bottleneck = CodesWithTransport(
            config.widths[-1],
            config.codes,
            config.references,
            config.epsilon,
            config.sinkhorn_iterations,
        )
        self.decoder = Decoder(config.widths, config.classes)

    def forward(self, image: Tensor) -> NetworkOutput:
        """image: (B,C,H,W), H and W multiples of `config.stride`."""
        *skips, deepest = self.encoder(image)
        bottleneck = self.bottleneck(deepest)
        logits = self.decoder([*skips, bottleneck.features])
        return NetworkOutput(logits, bottleneck.commitment, bottleneck.codes, bottleneck.plan)


def build(config: NetworkConfig) -> L2GNet:
    """A network with fresh weights, in training mode."""
    return L2GNet(config)
