"""The network: encoder, bottleneck and decoder, and the type of its output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from l2gnet_core.network.bottlenecks import CodesWithTransport, Quantising, build_bottleneck
from l2gnet_core.network.config import NetworkConfig
from l2gnet_core.network.encoder_decoder import Decoder, Encoder
from l2gnet_core.network.quantizer import Codebook
from l2gnet_core.network.transport import TransportPlan


@dataclass(frozen=True)
class NetworkOutput:
    """What a network gives for a batch of images.

    logits: (B,classes,H,W). coarser: (B,classes,H/2,W/2), …, in training with deep supervision;
    else empty. commitment: scalar, zero without codes. codes: (B,h,w), and code_error: (B,h,w),
    each token's mean squared distance per channel to its code; None without codes. plan: tokens to
    references in training, codes to references at inference; None without transport.
    """

    logits: Tensor
    coarser: tuple[Tensor, ...]
    commitment: Tensor
    codes: Tensor | None
    plan: TransportPlan | None
    code_error: Tensor | None = None


class SegmentationNetwork(nn.Module):
    """A U-shaped body around one of the bottlenecks."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.in_channels, config.widths, config.normalisation)
        # Made before the bottleneck, whose random numbers differ in count: with the same seed, all
        # architectures start with the same encoder and decoder.
        decoder = Decoder(
            config.widths,
            config.classes,
            config.normalisation,
            gated=config.architecture == "attnunet",
            supervised=config.supervised,
        )
        self.bottleneck = build_bottleneck(config)
        self.decoder = decoder

    @property
    def codebook(self) -> Codebook | None:
        """The bottleneck's codes; None for an architecture without codes."""
        return self.bottleneck.codebook if isinstance(self.bottleneck, Quantising) else None

    @property
    def reference(self) -> Tensor | None:
        """(R,d), the reference of transport; None for an architecture without transport."""
        if isinstance(self.bottleneck, CodesWithTransport):
            return self.bottleneck.reference
        return None

    def forward(self, image: Tensor) -> NetworkOutput:
        """image: (B,C,H,W), H and W multiples of `config.stride`."""
        *skips, deepest = self.encoder(image)
        bottleneck = self.bottleneck(deepest)
        logits, *coarser = self.decoder([*skips, bottleneck.features])
        return NetworkOutput(
            logits=logits,
            coarser=tuple(coarser),
            commitment=bottleneck.commitment,
            codes=bottleneck.codes,
            plan=bottleneck.plan,
            code_error=bottleneck.code_error,
        )


def build(config: NetworkConfig) -> SegmentationNetwork:
    """A network with fresh weights, in training mode."""
    return SegmentationNetwork(config)
