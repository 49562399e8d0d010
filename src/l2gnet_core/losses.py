"""What training minimises: ½ cross-entropy + ½ soft Dice + β · commitment."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from l2gnet_core.model import NetworkOutput

COMMITMENT_WEIGHT = 0.25


def soft_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 − soft Dice, mean over the structures that are present (background left out).

    logits: (B,classes,H,W); target: (B,H,W) of class indices. Pooled over the batch, so that a
    slice without a structure does not count as a failure (Milletari et al., "V-Net", 3DV 2016;
    batch Dice as in nnU-Net).
    """
    probabilities = logits.float().softmax(1)[:, 1:]
    truth = F.one_hot(target, logits.shape[1])[..., 1:].movedim(-1, 1).to(probabilities.dtype)
    overlap = (probabilities * truth).sum((0, 2, 3))
    total = probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    present = (truth.sum((0, 2, 3)) > 0).to(total.dtype)
    dice = (2 * overlap + 1) / (total + 1)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def segmentation_loss(output: NetworkOutput, target: Tensor) -> Tensor:
    """Scalar loss of a network's output against target (B,H,W) of class indices."""
    cross_entropy = F.cross_entropy(output.logits.float(), target)
    dice = soft_dice_loss(output.logits, target)
    return 0.5 * cross_entropy + 0.5 * dice + COMMITMENT_WEIGHT * output.commitment
