"""Draw the slices of a training step.

Sample i of step s is the same on each machine, in each process and after a resume, because its
random numbers depend on (seed, s, i) alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from l2gnet_core.augmentation.views import (
    Augmentation,
    draw_intensity,
    draw_spatial,
    intensity_views,
    spatial_views,
    swapped,
)
from l2gnet_core.preprocessing.images import neighbours

#: A slice for a view: its image (C,H,W); its classes (L,H,W), L is 1, or C with its neighbours; the
#: centre (row, column) of the view.
Drawn = tuple[Tensor, Tensor, tuple[float, float]]


@dataclass(frozen=True)
class TrainingCase:
    """Neighbouring slices of one frame: image (n,H,W) float16 in [0,1], classes (n,H,W) uint8.

    step: distance, in slices, between the neighbours that the network sees.
    """

    image: Tensor
    classes: Tensor
    step: int = 1

    @cached_property
    def _holds(self) -> Tensor:
        """(n, 256) bool: which class has a voxel in which slice."""
        # Slice by slice: for the whole frame, indices would take eight times its memory.
        return torch.stack([one.flatten().bincount(minlength=256) > 0 for one in self.classes])

    @cached_property
    def structures(self) -> list[int]:
        """Classes that this frame has, without background."""
        return [c for c in torch.nonzero(self._holds.any(0)).flatten().tolist() if c]

    def slices_with(self, structure: int) -> list[int]:
        """Indices of the slices that hold a voxel of a class."""
        found: list[int] = torch.nonzero(self._holds[:, structure]).flatten().tolist()
        return found


class Sampler:
    """Draws augmented slices from `cases`, and a share of `extra_share` from `extra`.

    channels: number of neighbouring slices of a sample.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        how: Augmentation,
        channels: int,
        seed: int,
        extra: Sequence[TrainingCase] = (),
        extra_share: float = 0.0,
    ) -> None:
        self.cases = cases
        self.extra = extra
        self.extra_share = extra_share if extra else 0.0
        self.how = how
        self.channels = channels
        self.seed = seed
        self._usual_width = float(np.median([max(case.classes.shape[1:]) for case in cases]))

    def milder(self) -> Self:
        """A sampler of the same slices with weaker augmentation."""
        other = copy.copy(self)
        other.how = self.how.milder()
        return other

    @property
    def slices(self) -> int:
        """Number of slices of all cases, without extra ones."""
        return sum(len(case.image) for case in self.cases)

    def view_size(self, stride: int, factor: float = 1.0) -> int:
        """Width of a view in pixels: `factor` times the augmentation's, but at most the median size
        of slices, because padding would distort the network's normalisation. Rounded to the
        nearest multiple of `stride`."""
        width = min(self.how.size * factor, self._usual_width)
        return max(1, int(width / stride + 0.5)) * stride

    def batch(
        self, step: int, samples: Iterable[int], size: int, device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Samples of a step, by number: images (B,C,size,size) float32, targets (B,size,size)
        long."""
        rngs = [np.random.default_rng((self.seed, step, sample)) for sample in samples]
        drawn = [self._slice(rng, size) for rng in rngs]
        seen, classes, _ = turned_views(drawn, rngs, self.how, size, device)
        intensities = [draw_intensity(rng, self.how) for rng in rngs]
        return intensity_views(seen, classes, intensities, rngs), classes[:, classes.shape[1] // 2]

    def _slice(self, rng: Generator, size: int) -> Drawn:
        """Draw a slice with its neighbours, and the centre of a view of it. Classes of neighbours
        are included only if recolouring needs them."""
        pool = self.extra if rng.random() < self.extra_share else self.cases
        case = pool[int(rng.integers(len(pool)))]
        index, inside = int(rng.integers(len(case.image))), None
        if rng.random() < self.how.on_structure and case.structures:
            structure = int(rng.choice(case.structures))
            index = int(rng.choice(case.slices_with(structure)))
            inside = torch.nonzero(case.classes[index] == structure)
        seen = drawn_neighbours(rng, index, len(case.image), self.how, self.channels, case.step)
        height, width = case.classes.shape[1:]
        if inside is None:
            centre = (rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width)
        else:
            row, column = inside[int(rng.integers(len(inside)))].tolist()
            reach = size / 4
            centre = (row + rng.uniform(-reach, reach), column + rng.uniform(-reach, reach))
        classes = case.classes[seen if self.how.recolour else [index]]
        return case.image[seen], classes, centre


def drawn_neighbours(
    rng: Generator, place: int, total: int, how: Augmentation, channels: int, step: int
) -> NDArray[np.intp]:
    """(channels,): the slices that a network sees together with the one at `place`, in either order
    if models do not know which way is up, and sometimes that one alone. total, step: as in
    `neighbours`."""
    seen: NDArray[np.intp] = neighbours([place], total, channels, step)[0]
    if how.orientation_free and rng.random() < 0.5:
        seen = seen[::-1].copy()
    if rng.random() < how.alone:
        seen = np.full_like(seen, place)
    return seen


def turned_views(
    drawn: Sequence[Drawn],
    rngs: Sequence[Generator],
    how: Augmentation,
    size: int,
    device: str | torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """A random spatial view of each slice.

    Returns images (B,C,size,size) float32, classes (B,L,size,size) long, and which views are
    mirrored, (B,) bool; in these, paired classes are swapped. Outside of the slices images and
    classes are zero.
    """
    where = [
        draw_spatial(rng, centre, how) for rng, (_, _, centre) in zip(rngs, drawn, strict=True)
    ]
    _, height, width = np.max([classes.shape for _, classes, _ in drawn], axis=0)
    images = torch.zeros(len(drawn), len(drawn[0][0]), height, width, dtype=torch.float16)
    labels = torch.zeros(len(drawn), len(drawn[0][1]), height, width, dtype=torch.uint8)
    for i, (image, classes, _) in enumerate(drawn):
        images[i, :, : image.shape[1], : image.shape[2]] = image
        truth = swapped(classes, how.mirror_pairs) if where[i].mirrored else classes
        labels[i, :, : image.shape[1], : image.shape[2]] = truth
    views = spatial_views(images.to(device).float(), labels.to(device), where, size)
    return *views, torch.tensor([view.mirrored for view in where])
