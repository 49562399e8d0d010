"""TransUNet as published (R50-ViT-B/16) with random weights, to count parameters and measure time.

Source: Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation",
arXiv 2102.04306, and the authors' configuration: a ResNet-50 (BiT, group normalisation) of stages
3, 4 and 9 at stride 16, 12 ViT-B layers on its features, a cascade of upsampling blocks (256, 128,
64, 16) with three skips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normalised(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution and group normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.GroupNorm(32 if outputs % 32 == 0 else 8, outputs),
    )


class Residual(nn.Module):
    """Bottleneck block of ResNet-50."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.body = nn.Sequential(
            normalised(inputs, inner, 1),
            nn.ReLU(),
            normalised(inner, inner, 3, stride),
            nn.ReLU(),
            normalised(inner, outputs, 1),
        )
        same = inputs == outputs and stride == 1
        self.short = nn.Identity() if same else normalised(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.short(x) + self.body(x))


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks at one resolution; the first block may halve it."""
    first = Residual(inputs, outputs, stride)
    return nn.Sequential(first, *(Residual(outputs, outputs, 1) for _ in range(blocks - 1)))


class Up(nn.Module):
    """Upsample by two, concatenate the skip, convolve twice."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            normalised(inputs + skip, outputs, 3),
            nn.ReLU(),
            normalised(outputs, outputs, 3),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.body(x if skip is None else torch.cat([x, skip], 1))


class PublishedTransUNet(nn.Module):
    """image (B,1,H,W), H and W multiples of 16 → logits (B,classes,H,W)."""

    def __init__(self, classes: int, image_size: int = 224) -> None:
        super().__init__()
        self.root = nn.Sequential(normalised(3, 64, 7, 2), nn.ReLU())
        self.stages = nn.ModuleList(
            [stage(64, 256, 3, 1), stage(256, 512, 4, 2), stage(512, 1024, 9, 2)]
        )
        self.embed = nn.Conv2d(1024, 768, 1)
        self.positions = nn.Parameter(torch.zeros(1, 768, image_size // 16, image_size // 16))
        layer = nn.TransformerEncoderLayer(
            768, 12, 3072, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.head = nn.Sequential(normalised(768, 512, 3), nn.ReLU())
        self.ups = nn.ModuleList(
            [Up(512, 512, 256), Up(256, 256, 128), Up(128, 64, 64), Up(64, 0, 16)]
        )
        self.classify = nn.Conv2d(16, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.root(image.expand(-1, 3, -1, -1))
        skips: list[Tensor | None] = [None, x]
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for number, part in enumerate(self.stages):
            x = part(x)
            if number < 2:
                skips.append(x)
        x = self.embed(x)
        batch, channels, height, width = x.shape
        where = nn.functional.interpolate(self.positions, (height, width), mode="bilinear")
        tokens = self.transformer((x + where).flatten(2).transpose(1, 2))
        x = self.head(tokens.transpose(1, 2).reshape(batch, channels, height, width))
        for up in self.ups:
            x = up(x, skips.pop())
        return self.classify(x)
