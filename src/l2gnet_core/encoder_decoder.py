"""The U-shaped body that every architecture shares (Ronneberger et al., "U-Net", MICCAI 2015).

Instance normalisation instead of batch normalisation: statistics of one image do not depend on its
neighbours in the batch, which keeps few-slice fine-tuning and several processes sound. Groups of
channels, which earlier models have, learn far more slowly (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Of LeakyReLU below zero.
SLOPE = 0.01


def start_wide(module: nn.Module) -> None:
    """Give a convolution weights as wide as LeakyReLU asks for (He et al., "Delving Deep into
    Rectifiers", ICCV 2015), not PyTorch's narrower ones: it learns faster so."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, SLOPE)


class Normalisation(nn.GroupNorm):
    """Group normalisation that also takes a single value per channel, all that is left at the
    bottleneck of a tiny slice, and makes it zero."""

    def forward(self, features: Tensor) -> Tensor:
        """features: (B,C,H,W)."""
        return torch.group_norm(features, self.num_groups, self.weight, self.bias, self.eps)


class ConvBlock(nn.Sequential):
    """Two 3×3 convolutions, each with normalisation and LeakyReLU; keeps H and W."""

    def __init__(self, inputs: int, outputs: int, normalisation: str) -> None:
        layers: list[nn.Module] = []
        # A group for every channel is instance normalisation, and faster than PyTorch's own.
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
    """Weighs a skip by what the next coarser level sees there (Oktay et al., "Attention U-Net",
    MIDL 2018). Theirs gates with features before upsampling; ours after it, at the skip's size."""

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
    """Features of every resolution → logits (B,classes,H,W), and while training those of the
    `supervised` next coarser levels."""

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
        # Between the others, where a saved optimiser looks for their weights.
        self.gates = nn.ModuleList() if gated else None
        self.blocks = nn.ModuleList(ConvBlock(2 * f, f, normalisation) for f in fine)
        self.head = nn.Conv2d(widths[0], classes, 1)
        self.coarser_heads = nn.ModuleList(
            nn.Conv2d(f, classes, 1) for f in fine[1 : 1 + supervised]
        )
        self.apply(start_wide)
        if self.gates is not None:
            # Drawn last: all else is as without them.
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
