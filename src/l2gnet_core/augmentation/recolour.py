"""Change intensities of images as if another scanner or sequence had made them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

#: Intensities between which curves of unlabelled tissue are linear. Air stays dark; the second knot
#: allows nearly dark tissue, such as fat with suppressed signal, to become bright.
_KNOTS = (0.0, 0.08, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class RandomNetwork:
    """A small random network that changes intensities.

    layers: kernels (out,in,k,k) and shifts (out,). share: weight of the network's output in its
    mean with the image.

    Source: global intensity non-linear augmentation in Ouyang et al., "Causality-inspired
    single-source domain generalization for medical image segmentation" (IEEE TMI 2022). They keep
    the norm of the image; we keep its range, because scans are normalised to a range, too.
    """

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    share: float

    @classmethod
    def draw(cls, rng: Generator) -> RandomNetwork:
        """Draw a network. Layers, channels and kernel sizes are those of the source. For half of
        the networks, share is 1."""
        layers = []
        for inputs, outputs in pairwise((1, 2, 2, 2, 1)):
            side = int(rng.choice([1, 3]))
            kernels = rng.standard_normal((outputs, inputs, side, side), np.float32)
            layers.append((kernels, rng.standard_normal(outputs, np.float32)))
        return cls(tuple(layers), min(1.0, float(rng.uniform(0, 2))))

    def __call__(self, image: Tensor, _: Tensor) -> Tensor:
        """An image (C,H,W) in [0,1] with other intensities, in [0,1]."""
        seen = image[:, None]
        for number, (kernels, shifts) in enumerate(self.layers):
            weights = torch.from_numpy(kernels).to(image.device)
            offsets = torch.from_numpy(shifts).to(image.device)
            # Zero padding would show at the border of the view.
            reach = kernels.shape[-1] // 2
            seen = F.conv2d(F.pad(seen, (reach,) * 4, mode="reflect"), weights, offsets)
            if number + 1 < len(self.layers):
                seen = F.leaky_relu(seen)
        made = seen[:, 0]
        low, high = made.amin(), made.amax()
        made = (made - low) / (high - low).clamp(min=1e-6)
        return self.share * made + (1 - self.share) * image


@dataclass(frozen=True)
class RandomCurves:
    """A random brightness and contrast for each structure, and a random curve, which need not be
    monotonic, for unlabelled tissue. seed: of the random numbers.

    Source: class-level location-scale augmentation in Su et al., "Rethinking data augmentation for
    single-source domain generalization in medical image segmentation" (AAAI 2023). The curve for
    unlabelled tissue is ours.
    """

    seed: int

    def __call__(self, image: Tensor, classes: Tensor) -> Tensor:
        """An image (C,H,W) in [0,1] and its classes (C,H,W) → other intensities, in [0,1]."""
        rng = np.random.default_rng(self.seed)
        knots = np.array([0.0, *rng.uniform(0, 1, len(_KNOTS) - 1)], np.float32)
        made = _curved(image, torch.from_numpy(knots).to(image.device))
        for number in range(1, int(classes.max()) + 1):
            level, slope = float(rng.uniform(0.05, 1)), float(rng.uniform(-1, 1.5))
            inside = (classes == number).float()
            if not (count := inside.sum()):
                continue
            usual = (image * inside).sum() / count
            # Mix at the border, as scanners do in voxels that hold both tissues.
            share = F.avg_pool2d(inside[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
            own = (level + slope * (image - usual)).clamp(0, 1)
            made = share * own + (1 - share) * made
        return made / made.amax().clamp(min=1e-6)


def _curved(image: Tensor, heights: Tensor) -> Tensor:
    """An image, linearly interpolated between (`_KNOTS`, heights); heights: as many as knots."""
    knots = torch.tensor(_KNOTS, device=image.device)
    seen = image.clamp(0, 1)
    right = torch.bucketize(seen, knots[1:-1]) + 1
    low, high = knots[right - 1], knots[right]
    share = (seen - low) / (high - low)
    return heights[right - 1] * (1 - share) + heights[right] * share


Recolouring = RandomNetwork | RandomCurves


def draw_recolouring(rng: Generator) -> Recolouring:
    """Draw a recolouring: curves twice as often as networks."""
    if rng.random() < 1 / 3:
        return RandomNetwork.draw(rng)
    return RandomCurves(int(rng.integers(2**32)))
