"""Random views of training slices: parameters are drawn one by one, views made batch by batch.

Each sample has its own random generator, so a view does not depend on the other samples of the
batch or on the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from l2gnet_core.augmentation.recolour import Recolouring, draw_recolouring
from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.images import blurred, resized
from l2gnet_core.scans.laterality import mirror_pairs

#: Standard deviation, in pixels, below which a blur has no effect.
LEAST_BLUR = 0.4
#: Largest rotation of slices, in degrees, for models that tell left from right.
ORIENTED_TURN = 15.0


@dataclass(frozen=True)
class Augmentation:
    """How training views differ from the stored slices. Probabilities are per slice.

    size: width of a view in pixels.
    scale: range of in-plane magnification. stretch: largest logarithm of anisotropic scaling.
    turn: largest rotation in degrees. orientation_free: also quarter turns and mirroring, for
        models without left and right.
    mirror_pairs: classes that are swapped in a mirror image; without any, models with left and
        right see no mirror images.
    on_structure: share of views centred near a structure. A scan is drawn first, then one of its
        structures, each equally often, so that small ones are not rare; one that few scans hold
        is.
    alone: how often neighbouring slices are replaced by the middle one, so that a 2.5-D network
        also works on a single image.
    recolour: share of views that imitate another scanner or sequence
        (`l2gnet_core.augmentation.recolour`).
    gamma, gain, offset, noise, blur, bias: ranges, or largest values, of changes of intensities in
        [0,1]; blur in pixels.
    """

    size: int = 160
    scale: tuple[float, float] = (0.6, 1.6)
    stretch: float = 0.1
    turn: float = 30.0
    orientation_free: bool = True
    mirror_pairs: tuple[tuple[int, int], ...] = ()
    on_structure: float = 0.5
    alone: float = 0.1
    recolour: float = 0.0
    gamma: tuple[float, float] = (0.6, 1.6)
    gain: tuple[float, float] = (0.75, 1.3)
    offset: float = 0.1
    noise: float = 0.06
    blur: float = 1.2
    bias: float = 0.5

    def milder(self) -> Augmentation:
        """An augmentation of half the strength, except for quarter turns and mirroring."""

        def nearer(low: float, high: float) -> tuple[float, float]:
            return math.sqrt(low), math.sqrt(high)

        return replace(
            self,
            recolour=self.recolour / 2,
            scale=nearer(*self.scale),
            stretch=self.stretch / 2,
            turn=self.turn / 2,
            gamma=nearer(*self.gamma),
            gain=nearer(*self.gain),
            offset=self.offset / 2,
            noise=self.noise / 2,
            blur=max(min(LEAST_BLUR, self.blur), self.blur / 2),
            bias=self.bias / 2,
        )


#: For models that are to segment scans of other scanners and sequences: stronger changes of
#: intensities, and most views recoloured.
OTHER_SCANNERS = Augmentation(recolour=0.65, noise=0.12, blur=1.6, bias=0.8)


def keeping_sides(augmentation: Augmentation, card: ModelCard) -> Augmentation:
    """The augmentation for a model that tells left from right."""
    # In a sagittal stack, mirroring a slice does not swap left and right.
    pairs = () if card.slicing == "sagittal" else mirror_pairs(card.labels)
    return replace(
        augmentation,
        orientation_free=False,
        turn=min(augmentation.turn, ORIENTED_TURN),
        mirror_pairs=pairs,
    )


@dataclass(frozen=True)
class SpatialView:
    """Where a view lies in its slice.

    centre: (row, column) in pixels. angle: in radians. rows, columns: pixels of the slice per pixel
    of the view; negative if mirrored.
    """

    centre: tuple[float, float]
    angle: float
    rows: float
    columns: float

    @property
    def mirrored(self) -> bool:
        """Is the view a mirror image of the slice?"""
        return self.columns < 0


@dataclass(frozen=True)
class IntensityView:
    """Changes of the intensities of a view; None where a step is left out.

    bias: (4,4), logarithm of a coarse gain field. blur, noise: standard deviations in pixels and in
    intensity. resolution: share of the pixels along an axis that is kept.
    """

    gamma: float | None
    gain: float
    offset: float
    bias: NDArray[np.float32] | None
    blur: float | None
    resolution: float | None
    noise: float | None
    recolouring: Recolouring | None = None


def draw_spatial(rng: Generator, centre: tuple[float, float], how: Augmentation) -> SpatialView:
    """A random turn, mirror image, magnification and stretch about a centre (row, column)."""
    scale = math.exp(rng.uniform(*np.log(how.scale)))
    stretch = math.exp(rng.uniform(-how.stretch, how.stretch))
    angle = math.radians(rng.uniform(-how.turn, how.turn))
    quarters, mirror = 0, 1
    if how.orientation_free:
        quarters = int(rng.integers(4))
    if how.orientation_free or how.mirror_pairs:
        mirror = int(rng.choice([-1, 1]))
    return SpatialView(
        centre, angle + math.pi / 2 * quarters, 1 / (scale * stretch), mirror * stretch / scale
    )


def draw_intensity(rng: Generator, how: Augmentation) -> IntensityView:
    """Random gamma, gain, bias field, blur, low resolution and noise."""

    def sometimes(share: float, low: float, high: float) -> float | None:
        value = rng.uniform(low, high)
        return float(value) if rng.random() < share else None

    recolouring = None
    if how.recolour and rng.random() < how.recolour:
        recolouring = draw_recolouring(rng)
    gamma = sometimes(0.5, *np.log(how.gamma))
    strength = sometimes(0.3, 0, how.bias)
    return IntensityView(
        gamma=None if gamma is None else math.exp(gamma),
        gain=rng.uniform(*how.gain),
        offset=rng.uniform(-how.offset, how.offset),
        bias=None if strength is None else strength * rng.standard_normal((4, 4), np.float32),
        blur=sometimes(0.2, LEAST_BLUR, how.blur),
        resolution=sometimes(0.15, 0.5, 0.9),
        noise=sometimes(0.4, 0, how.noise),
        recolouring=recolouring,
    )


def spatial_views(
    images: Tensor, labels: Tensor, views: Sequence[SpatialView], size: int
) -> tuple[Tensor, Tensor]:
    """Views of images (B,C,H,W) float and labels (B,L,H,W) integers.

    Returns (B,C,size,size) float and (B,L,size,size) long, both zero outside of the slices.
    """
    height, width = labels.shape[-2:]
    theta = torch.tensor([_theta(view, size, height, width) for view in views])
    grid = F.affine_grid(theta, [len(views), 1, size, size], align_corners=False).to(images.device)
    seen = F.grid_sample(images, grid, align_corners=False)
    truth = F.grid_sample(labels.float(), grid, mode="nearest", align_corners=False)
    return seen, truth.long()


def swapped(classes: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Classes, of any shape, with the two of each pair exchanged."""
    lookup = torch.arange(256, dtype=classes.dtype)
    for one, other in pairs:
        lookup[one], lookup[other] = other, one
    return lookup[classes.long()]


def _theta(view: SpatialView, size: int, height: int, width: int) -> list[list[float]]:
    """Matrix (2,3) from pixels of the view to pixels of the slice, both from −1 to 1, for
    `torch.nn.functional.affine_grid`."""
    cos, sin = math.cos(view.angle), math.sin(view.angle)
    across, along = size * view.columns, size * view.rows
    row, column = view.centre
    return [
        [across * cos / width, -along * sin / width, 2 * column / width - 1],
        [across * sin / height, along * cos / height, 2 * row / height - 1],
    ]


def intensity_views(
    images: Tensor, classes: Tensor, views: Sequence[IntensityView], rngs: Sequence[Generator]
) -> Tensor:
    """Images (B,C,H,W) in [0,1] with changed intensities; may change `images` in place.

    classes: (B,C,H,W) of the images, used only by recoloured views. rngs: for the noise.
    """
    shape, device = images.shape[-2:], images.device

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=device)[:, None, None, None]

    for i, view in enumerate(views):
        if view.recolouring is not None:
            images[i] = view.recolouring(images[i], classes[i])
    gammas = [i for i, view in enumerate(views) if view.gamma is not None]
    if gammas:
        images[gammas] = images[gammas].clamp(0, 1) ** column([views[i].gamma or 1 for i in gammas])
    images = images * column([v.gain for v in views]) + column([v.offset for v in views])
    fields = {i: view.bias for i, view in enumerate(views) if view.bias is not None}
    if fields:
        coarse = torch.from_numpy(np.stack(list(fields.values())))[:, None].to(device)
        field = F.interpolate(coarse, shape, mode="bicubic", align_corners=True)
        images[list(fields)] *= field.exp().clamp(0.3, 3)
    for i, view in enumerate(views):
        if view.blur is not None:
            images[i] = blurred(images[i], view.blur)
        if view.resolution is not None:
            # Not by a factor, whose size is rounded down: the way back would shift the image.
            fewer = [max(1, round(side * view.resolution)) for side in shape]
            images[i : i + 1] = resized(resized(images[i : i + 1], fewer), shape)
        if view.noise is not None:
            noise = rngs[i].standard_normal(images.shape[1:], np.float32)
            images[i] += torch.from_numpy(noise).to(device) * view.noise
    return images
