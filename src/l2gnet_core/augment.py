"""Random views of training slices, on tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far training views stray from the stored slices. Probabilities are per slice.

    `scale` is the range of in-plane magnification; `turn` the largest free rotation in degrees, on
    top of which `orientation_free` adds quarter turns and mirroring (only for models without left
    and right). Models that have them see mirror images only where `mirror_pairs` are the classes
    that change places in one. `alone` is how often a network of several slices sees the middle one
    in place of its neighbours, lest it fail on a single image.
    """

    size: int = 160
    scale: tuple[float, float] = (0.6, 1.6)
    stretch: float = 0.1
    turn: float = 30.0
    orientation_free: bool = True
    mirror_pairs: tuple[tuple[int, int], ...] = ()
    on_structure: float = 0.6
    gamma: tuple[float, float] = (0.6, 1.6)
    noise: float = 0.06
    blur: float = 1.2
    bias: float = 0.5
    alone: float = 0.1


def uniform(low: float, high: float) -> float:
    """One draw from torch's global generator, whose state a training run saves and restores."""
    return low + (high - low) * float(torch.rand(()))


def spatial_view(image: Tensor, label: Tensor, how: Augmentation) -> tuple[Tensor, Tensor]:
    """A random crop, turned, mirrored and scaled.

    image: (C,H,W) float; label: (H,W) integers. Returns (C,size,size) and (size,size); outside of
    the slice both are zero.
    """
    height, width = label.shape
    scale = math.exp(uniform(math.log(how.scale[0]), math.log(how.scale[1])))
    stretch = math.exp(uniform(-how.stretch, how.stretch))
    angle = math.radians(uniform(-how.turn, how.turn))
    mirror = 1.0
    if how.orientation_free:
        angle += math.pi / 2 * int(torch.randint(4, ()))
        mirror = 1.0 if torch.rand(()) < 0.5 else -1.0
    elif how.mirror_pairs and torch.rand(()) < 0.5:
        mirror, label = -1.0, swapped(label, how.mirror_pairs)
    row, column = _centre(label, how)
    # Output pixel → input pixel, in pixels; divided by the half-size for grid_sample.
    cos, sin = math.cos(angle), math.sin(angle)
    half = how.size / 2
    across, along = half / scale * stretch * mirror, half / scale / stretch
    theta = torch.tensor(
        [
            [across * cos / (width / 2), -along * sin / (width / 2), 2 * column / width - 1],
            [across * sin / (height / 2), along * cos / (height / 2), 2 * row / height - 1],
        ]
    )
    grid = F.affine_grid(theta[None], [1, 1, how.size, how.size], align_corners=False)
    seen = F.grid_sample(image[None], grid, align_corners=False)[0]
    truth = F.grid_sample(label[None, None].float(), grid, mode="nearest", align_corners=False)
    return seen, truth[0, 0].long()


def swapped(label: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """Classes (H,W) with those of each pair exchanged."""
    lookup = torch.arange(256, dtype=label.dtype)
    for one, other in pairs:
        lookup[one], lookup[other] = other, one
    return lookup[label.long()]


def _centre(label: Tensor, how: Augmentation) -> tuple[float, float]:
    """Where in the slice (row, column) the crop is centred."""
    height, width = label.shape
    inside = torch.nonzero(label) if torch.rand(()) < how.on_structure else label.new_empty(0)
    if len(inside):
        row, column = inside[int(torch.randint(len(inside), ()))].tolist()
        reach = how.size / 4
        return row + uniform(-reach, reach), column + uniform(-reach, reach)
    return uniform(0.2, 0.8) * height, uniform(0.2, 0.8) * width


def intensity_view(image: Tensor, how: Augmentation) -> Tensor:
    """Random gamma, gain, bias field, blur, low resolution and noise of image (C,H,W) in [0,1]."""
    if torch.rand(()) < 0.5:
        image = image.clamp(0, 1) ** math.exp(uniform(*map(math.log, how.gamma)))
    image = image * uniform(0.75, 1.3) + uniform(-0.1, 0.1)
    if torch.rand(()) < 0.3:
        coarse = torch.randn(1, 1, 4, 4) * how.bias * float(torch.rand(()))
        field = F.interpolate(coarse, image.shape[-2:], mode="bicubic", align_corners=True)
        image = image * field[0].exp().clamp(0.3, 3)
    if torch.rand(()) < 0.2:
        image = _blur(image, uniform(0.4, how.blur))
    if torch.rand(()) < 0.15:
        height, width = image.shape[-2:]
        factor = uniform(0.5, 0.9)
        small = F.interpolate(image[None], scale_factor=factor, mode="bilinear", antialias=True)
        image = F.interpolate(small, (height, width), mode="bilinear")[0]
    if torch.rand(()) < 0.4:
        image = image + torch.randn_like(image) * uniform(0, how.noise)
    return image


def _blur(image: Tensor, sigma: float) -> Tensor:
    offsets = torch.arange(-3, 4, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = len(image)
    for shape in ((1, 1, 7, 1), (1, 1, 1, 7)):
        pad = (shape[3] // 2, shape[3] // 2, shape[2] // 2, shape[2] // 2)
        weight = kernel.reshape(shape).expand(channels, *shape[1:])
        image = F.conv2d(F.pad(image[None], pad, mode="replicate"), weight, groups=channels)[0]
    return image
