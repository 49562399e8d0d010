"""Encoder and decoder that every architecture shares (Ronneberger et al., "U-Net", MICCAI 2015).

With instance instead of batch normalisation, so that an image does not depend on the others of its
batch: that matters for fine-tuning on few slices and for training in several processes. Groups of
channels, which earlier models have, learn far more slowly (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Slope of LeakyReLU below zero.
SLOPE = 0.01


def start_wide(module: nn.Module) -> None:
    """Draw a convolution's weights with the variance that suits LeakyReLU (He et al., "Delving Deep
    into Rectifiers", ICCV 2015). PyTorch's default is smaller and learns more slowly."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, SLOPE)


class Normalisation(nn.GroupNorm):
    """Group normalisation that also accepts a single value per channel, as at the bottleneck of a
    tiny slice, and makes it zero; PyTorch's raises an error."""

    def forward(self, features: Tensor) -> Tensor:
        """features: (B,C,H,W)."""
        return torch.group_norm(features, self.num_groups, self.weight, self.bias, self.eps)


class ConvBlock(nn.Sequential):
    """Two 3×3 convolutions, each with normalisation and LeakyReLU; keeps H and W."""

    def __init__(self, inputs: int, outputs: int, normalisation: str) -> None:
        layers: list[nn.Module] = []
        # One group per channel is instance normalisation, and faster than PyTorch's own.
        groups = outputs if normalisation == "instance" else 8
        for channels in (inputs, outputs):
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
                Normalisation(groups, outputs),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
        super().__init__(*layers)


class Encoder(nn.Module):
    """image (B,C,H,W) → features of every resolution, finest first; the last is the bottleneck."""

    def __init__(self, in_channels: int, widths: Sequence[int], normalisation: str) -> None:
        super().__init__()
        inputs = (in_channels, *widths[:-1])
        self.blocks = nn.ModuleList(
            ConvBlock(i, o, normalisation) for i, o in zip(inputs, widths, strict=True)
        )
        self.apply(start_wide)

    def forward(self, image: Tensor) -> list[Tensor]:
        """H and W must be multiples of 2 ** (len(widths) - 1)."""
        features: list[Tensor] = []
        for block in self.blocks:
            image = block(nn.functional.max_pool2d(image, 2) if features else image)
            features.append(image)
        return features


class AttentionGate(nn.Module):
    """Weights a skip by features of the next coarser level (Oktay et al., "Attention U-Net", MIDL
    2018). Theirs gates with features before upsampling; ours after it, at the skip's size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 2)
        self.from_skip = nn.Conv2d(channels, hidden, 1, bias=False)
        self.from_coarse = nn.Conv2d(channels, hidden, 1)
        self.weight = nn.Conv2d(hidden, 1, 1)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """skip and coarse: (B,C,H,W); returns the weighted skip."""
        seen = torch.relu(self.from_skip(skip) + self.from_coarse(coarse))
        gated: Tensor = skip * torch.sigmoid(self.weight(seen))
        return gated


class Decoder(nn.Module):
    """Features of every resolution → logits (B,classes,H,W), and in training those of the next
    `supervised` coarser levels."""

    def __init__(
        self,
        widths: Sequence[int],
        classes: int,
        normalisation: str,
        gated: bool = False,
        supervised: int = 0,
    ) -> None:
        super().__init__()
        fine, coarse = widths[:-1], widths[1:]
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(c, f, 2, 2) for f, c in zip(fine, coarse, strict=True)
        )
        # Registered here, because the state of an optimiser depends on the order of weights.
        self.gates = nn.ModuleList() if gated else None
        self.blocks = nn.ModuleList(ConvBlock(2 * f, f, normalisation) for f in fine)
        self.head = nn.Conv2d(widths[0], classes, 1)
        self.coarser_heads = nn.ModuleList(
            nn.Conv2d(f, classes, 1) for f in fine[1 : 1 + supervised]
        )
        self.apply(start_wide)
        if self.gates is not None:
            # Drawn last, so that all other weights start as without gates.
            self.gates.extend(AttentionGate(f) for f in fine).apply(start_wide)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The last of `features` is the bottleneck, the others are the skips. Finest logits
        first."""
        out, logits = features[-1], []
        for level in reversed(range(len(self.blocks))):
            skip, up = features[level], self.ups[level](out)
            if self.gates is not None:
                skip = self.gates[level](skip, up)
            out = self.blocks[level](torch.cat([skip, up], 1))
            if self.training and 0 < level <= len(self.coarser_heads):
                logits.append(self.coarser_heads[level - 1](out))
        return [self.head(out), *reversed(logits)]
