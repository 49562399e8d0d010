"""Bottlenecks between encoder and decoder, in which the architectures differ.

| architecture | bottleneck | source |
|---|---|---|
| `unet` | `Continuous` | Ronneberger et al., MICCAI 2015 |
| `attnunet` | `Continuous`, gates on the skips | Oktay et al., MIDL 2018 |
| `vqunet` | `Codes` | Santhirasekaram et al., "Vector Quantisation for Robust Segmentation", 2022 |
| `transunet` | `Transformer` | Chen et al., "TransUNet", 2021 |
| `synergynet` | `CodesWithAttention` | Gorade et al., "SynergyNet", WACV 2024 |
| `l2gnet` | `CodesWithTransport` | Gorade et al., arXiv 2502.05229 |

All share one encoder and decoder and train from scratch, so they follow their papers in style but
are no copies. Each class says how it differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from l2gnet_core.network.config import NetworkConfig
from l2gnet_core.network.precise import precise
from l2gnet_core.network.quantizer import Codebook, Quantized
from l2gnet_core.network.transport import TransportPlan, transport_codes, transport_tokens


@dataclass(frozen=True)
class BottleneckOutput:
    """features: (B,d,h,w), for the decoder. commitment: scalar. codes: (B,h,w), plan, and
    code_error: (B,h,w), each token's mean squared distance per channel to its code; None if the
    architecture has none."""

    features: Tensor
    commitment: Tensor
    codes: Tensor | None = None
    plan: TransportPlan | None = None
    code_error: Tensor | None = None


def as_tokens(features: Tensor) -> Tensor:
    """(B,d,h,w) → (B,n,d)."""
    return features.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """(B,n,d) → the shape of `like`, (B,d,h,w)."""
    return tokens.transpose(1, 2).reshape(like.shape)


def zero_started(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1×1 convolution that starts with zero weights, so that adding its output changes nothing at
    first."""
    fusion = nn.Conv2d(inputs, outputs, 1)
    for parameter in fusion.parameters():
        nn.init.zeros_(parameter)
    return fusion


class Quantising(nn.Module):
    """What the bottlenecks with codes share: a codebook, and how features become its tokens.

    If raw features commit to codes, the loss is least when features shrink and become alike:
    trained like that, the deepest features lost nearly all their directions, and the codes did, too
    (docs/benchmarks.md). Therefore tokens are "normalised": each channel of each image has mean 0
    and variance 1. The commitment has a tenth of the weight in van den Oord et al. (2017), or none
    if features pass beside their codes, and the output of the codes is added to the features with
    factor 0.1. "plain" tokens, of earlier models, are the features themselves, with full weight and
    factor 1.
    """

    def __init__(self, config: NetworkConfig, commitment: float = 0.1) -> None:
        """commitment: its weight with normalised tokens, 1 being that of van den Oord et al."""
        super().__init__()
        self.normalised = config.tokens == "normalised"
        self.weight, self.pace = (commitment, 0.1) if self.normalised else (1.0, 1.0)
        self.codebook = Codebook(config.codes, config.widths[-1], quick=self.normalised)

    def quantise(self, features: Tensor) -> Quantized:
        """Quantise features (B,d,h,w) as tokens (B,n,d); the commitment is weighted."""
        tokens = precise(features)
        if self.normalised:
            with torch.autocast(features.device.type, enabled=False):
                tokens = torch.group_norm(tokens, tokens.shape[1])
        quantized: Quantized = self.codebook(as_tokens(tokens))
        return replace(quantized, commitment=self.weight * quantized.commitment)

    def fusion_of(self, config: NetworkConfig) -> nn.Conv2d:
        """The convolution that fuses two maps made of codes and, if tokens are plain, the features
        with them."""
        channels = config.widths[-1]
        return zero_started((2 if self.normalised else 3) * channels, channels)

    def fused(self, fusion: nn.Module, features: Tensor, *parts: Tensor) -> Tensor:
        """Features (B,d,h,w) plus the fusion of `parts`, tokens (B,n,d) made of codes."""
        maps = [as_map(part, features) for part in parts]
        if not self.normalised:
            maps = [features, *maps]
        changed: Tensor = fusion(torch.cat(maps, 1))
        return features + self.pace * changed


class Continuous(nn.Module):
    """The features as they are."""

    def forward(self, features: Tensor) -> BottleneckOutput:
        """features: (B,d,h,w)."""
        return BottleneckOutput(features, features.new_zeros(()))


class Codes(Quantising):
    """Every token is replaced by its code. The paper quantises every skip, too; ours only the
    bottleneck, in which the architectures are compared."""

    def forward(self, features: Tensor) -> BottleneckOutput:
        """features: (B,d,h,w)."""
        quantized = self.quantise(features)
        batch, _, height, width = features.shape
        return BottleneckOutput(
            as_map(quantized.tokens, features),
            quantized.commitment,
            quantized.codes.reshape(batch, height, width),
            code_error=quantized.error.reshape(batch, height, width),
        )


class Transformer(nn.Module):
    """Twelve pre-norm transformer layers over the tokens, with fixed sinusoidal positions.

    TransUNet has the ViT-B/16 of 768 channels, learnt positions of one image size, and weights from
    ImageNet; ours keeps the body's channels, takes any image size and starts from scratch.
    """

    def __init__(self, channels: int, layers: int = 12) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            channels,
            nhead=max(1, channels // 32),
            dim_feedforward=4 * channels,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(channels), enable_nested_tensor=False
        )

    def forward(self, features: Tensor) -> BottleneckOutput:
        """features: (B,d,h,w)."""
        tokens = as_tokens(features) + positions(features)
        return BottleneckOutput(as_map(self.layers(tokens), features), features.new_zeros(()))


def positions(features: Tensor) -> Tensor:
    """Sinusoidal positions (n,d) of a map (B,d,h,w), half of the channels for each axis (Vaswani et
    al., 2017; two axes as in Carion et al., 2020)."""
    _, channels, height, width = features.shape
    half = channels // 4
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=features.device) / max(1, half))

    def waves(length: int) -> Tensor:
        phase = torch.arange(length, device=features.device)[:, None] * rates
        return torch.cat([phase.sin(), phase.cos()], 1)

    rows = waves(height)[:, None].expand(height, width, 2 * half)
    columns = waves(width)[None].expand(height, width, 2 * half)
    return torch.cat([rows, columns], 2).flatten(0, 1).to(features.dtype)


class CodesWithAttention(Quantising):
    """Multi-head cross-attention from continuous tokens to codes.

    SynergyNet's DisConX module relates discrete and continuous features by cross-attention with
    several refinements. Ours is one layer of it, fused like L2GNet's codes, so that the two differ
    only in attention versus transport.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        channels = config.widths[-1]
        self.attention = nn.MultiheadAttention(
            channels, num_heads=max(1, channels // 32), batch_first=True
        )
        self.fusion = self.fusion_of(config)

    def forward(self, features: Tensor) -> BottleneckOutput:
        """features: (B,d,h,w)."""
        quantized = self.quantise(features)
        asked, _ = self.attention(
            precise(as_tokens(features)), quantized.tokens, quantized.tokens, need_weights=False
        )
        batch, _, height, width = features.shape
        return BottleneckOutput(
            self.fused(self.fusion, features, quantized.tokens, asked),
            quantized.commitment,
            quantized.codes.reshape(batch, height, width),
            code_error=quantized.error.reshape(batch, height, width),
        )


class CodesWithTransport(Quantising):
    """L2GNet's bottleneck (arXiv 2502.05229): codes related by transport on a trainable reference.

    Codes c and transported codes g are fused by a 1×1 convolution whose result is added to the
    continuous features z and starts at zero, so that an untrained bottleneck is the identity. The
    paper's abstract does not say how they are fused; this form is our choice. References start as
    codes: random ones are equally far from all codes, which gives all codes the same plan. There is
    no commitment: codes follow the normalised features anyway, and it cost Dice with every seed
    (docs/benchmarks.md).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, commitment=0.0)
        channels = config.widths[-1]
        self.reference = nn.Parameter(torch.randn(config.references, channels) / channels**0.5)
        self.epsilon = config.epsilon
        self.iterations = config.sinkhorn_iterations
        self.fusion = self.fusion_of(config)

    def forward(self, features: Tensor) -> BottleneckOutput:
        """features: (B,d,h,w)."""
        batch, _, height, width = features.shape
        first = self.codebook.training and not self.codebook.started
        quantized = self.quantise(features)
        if first and self.normalised:
            begin_as_codes(self.reference, self.codebook.vectors)
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
        return BottleneckOutput(
            self.fused(self.fusion, features, quantized.tokens, returned),
            quantized.commitment,
            quantized.codes.reshape(batch, height, width),
            plan,
            quantized.error.reshape(batch, height, width),
        )


@torch.no_grad()
def begin_as_codes(reference: Tensor, vectors: Tensor) -> None:
    """Set references (R,d), in place, to codes (K,d), which were drawn at random."""
    reference.copy_(vectors[torch.arange(len(reference)) % len(vectors)])


def build_bottleneck(config: NetworkConfig) -> nn.Module:
    """The bottleneck of an architecture; its forward takes (B,d,h,w), gives `BottleneckOutput`."""
    match config.architecture:
        case "unet" | "attnunet":
            return Continuous()
        case "vqunet":
            return Codes(config)
        case "transunet":
            return Transformer(config.widths[-1])
        case "synergynet":
            return CodesWithAttention(config)
        case "l2gnet":
            return CodesWithTransport(config)
    raise ValueError(f"There is no architecture {config.architecture!r}.")
