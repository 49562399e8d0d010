"""Images as a network sees them: size, sharpness, neighbours; shared by training and inference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from l2gnet_core.network.config import NetworkConfig
from l2gnet_core.preprocessing.appearance import Appearance

#: Slices of a scan that a network is given at once.
_AT_ONCE = 4


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Zero-pad (…,H,W) at the end of both axes; cropping to (H,W) is the exact inverse."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B,C,H,W) at another size, bilinear, smoothed first where they shrink."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", antialias=True)


def as_seen(images: Tensor, size: Sequence[int], appearance: Appearance) -> Tensor:
    """Images (B,C,H,W) in [0,1] as a network sees them: resized to `size`, which includes the
    appearance's zoom, then smoothed and raised to its gamma."""
    images = resized(images, size)
    if appearance.smoothing:
        images = blurred(images.flatten(0, 1), appearance.smoothing).reshape(images.shape)
    return images if appearance.gamma == 1 else images.clamp(0, 1) ** appearance.gamma


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C,H,W), sigma in pixels; the border is repeated."""
    reach = max(3, math.ceil(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    # Channels as a batch: convolutions of one channel are fastest.
    out = F.pad(images[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(out, kernel[None, None, :, None]), kernel[None, None, None])[:, 0]


def resized_classes(classes: Tensor, size: Sequence[int]) -> Tensor:
    """Class indices (n,H,W) at another size: each pixel gets the class with the largest share."""
    if tuple(classes.shape[-2:]) == tuple(size):
        return classes
    found = []
    for one in classes:
        present = one.unique()
        shares = resized((one == present[:, None, None])[None].float(), size)[0]
        found.append(present[shares.argmax(0)])
    return torch.stack(found)


def neighbours(indices: Sequence[int], total: int, count: int, step: int = 1) -> NDArray[np.intp]:
    """(k,count): for each of `indices`, the `count` slices around it that a network sees (2.5-D).

    total: number of slices; beyond the ends the last slice is repeated. count: odd. step: distance
    in slices between neighbours.
    """
    wanted = np.asarray(indices)[:, None] + step * (np.arange(count) - count // 2)
    return wanted.clip(0, total - 1)


def network_input(
    image: Tensor, places: Sequence[int], config: NetworkConfig, step: int = 1
) -> Tensor:
    """(k,C,H',W'): slices of an image (n,H,W) with their neighbours, at the end padded with zeros,
    as a network of this config takes them. step: as in `neighbours`."""
    seen = neighbours(places, len(image), config.in_channels, step)
    return pad_to_multiple(image[seen], config.stride)


def network_inputs(image: Tensor, config: NetworkConfig, step: int = 1) -> Iterator[Tensor]:
    """All slices of an image (n,H,W) in their order, a few at a time, as `network_input` gives
    them: a whole scan at once may not fit into memory."""
    for places in torch.arange(len(image)).split(_AT_ONCE):
        yield network_input(image, places.tolist(), config, step)
