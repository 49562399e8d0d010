"""The same anatomy in other colours, as other scanners and sequences might show it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

#: Intensities between which curves of tissue without a name are straight: air stays dark, and what
#: is nearly as dark, as fat whose signal was suppressed, need not.
_KNOTS = (0.0, 0.08, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class RandomNetwork:
    """Few weights: kernels (out,in,k,k) and shifts (out) of its layers, and the `share` of the view
    that is what it makes of it.

    Ouyang et al., "Causality-inspired single-source domain generalization for medical image
    segmentation" (IEEE TMI 2022), global intensity non-linear augmentation; they keep the norm of
    the image where we keep its range, to which scans are brought later, too.
    """

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    share: float

    @classmethod
    def draw(cls, rng: Generator) -> RandomNetwork:
        """Layers, channels and kernels of one or three pixels as in its source. Half of them change
        a view as a whole."""
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
            # Reflected, lest a frame of zeros shows where the view ends.
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
    """Each structure gets a brightness and a contrast of its own, and all that has no name a curve
    that need not rise: what was darker than fat may be brighter. `seed` draws them.

    After Su et al., "Rethinking data augmentation for single-source domain generalization in
    medical image segmentation" (AAAI 2023), location-scale augmentation by class; the curve of what
    has no name is ours.
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
            # A border of voxels that hold some of both, as scanners draw it.
            share = F.avg_pool2d(inside[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
            own = (level + slope * (image - usual)).clamp(0, 1)
            made = share * own + (1 - share) * made
        return made / made.amax().clamp(min=1e-6)


def _curved(image: Tensor, heights: Tensor) -> Tensor:
    """Straight between (`_KNOTS`, heights)."""
    knots = torch.tensor(_KNOTS, device=image.device)
    seen = image.clamp(0, 1)
    right = torch.bucketize(seen, knots[1:-1]) + 1
    low, high = knots[right - 1], knots[right]
    share = (seen - low) / (high - low)
    return heights[right - 1] * (1 - share) + heights[right] * share


Recolouring = RandomNetwork | RandomCurves


def draw_recolouring(rng: Generator) -> Recolouring:
    """One or the other, curves twice as often."""
    if rng.random() < 1 / 3:
        return RandomNetwork.draw(rng)
    return RandomCurves(int(rng.integers(2**32)))
