"""The network: encoder, bottleneck and decoder, the type of its output, room for more classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from l2gnet_core.network.bottlenecks import CodesWithTransport, Quantising, build_bottleneck
from l2gnet_core.network.config import NetworkConfig
from l2gnet_core.network.encoder_decoder import Decoder, Encoder
from l2gnet_core.network.quantizer import Codebook
from l2gnet_core.network.transport import TransportPlan

#: By how much the new structures together start below the background, in logits: they are answered
#: nowhere at first, and the probabilities of the others change by less than 2 %.
_BELOW_BACKGROUND = 4.0


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


def widened(network: SegmentationNetwork, classes: Sequence[int | None]) -> SegmentationNetwork:
    """A copy whose class i answers as class classes[i] did, bit for bit; None stands for a new one.

    classes: the first is the background, 0. New classes start with the background's weights, only
    less likely, and the less the more there are (as in Cermelli et al., "Modeling the Background
    for Incremental Learning in Semantic Segmentation", CVPR 2020).
    """
    network = copy.deepcopy(network)
    decoder = network.decoder
    rows = [row or 0 for row in classes]
    fresh = torch.tensor([row is None for row in classes])
    lower = _BELOW_BACKGROUND + math.log(max(1, int(fresh.sum())))
    for head in (decoder.head, *decoder.coarser_heads):
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.weight = nn.Parameter(head.weight.detach()[rows].clone())
        bias = head.bias.detach()[rows].clone()
        bias[fresh] -= lower
        head.bias = nn.Parameter(bias)
        head.out_channels = len(rows)
    network.config = replace(network.config, classes=len(rows))
    return network
