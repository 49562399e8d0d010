"""What training minimises: ½ cross-entropy + ½ soft Dice + β · commitment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2gnet_core.model import NetworkOutput
from l2gnet_core.processes import summed

COMMITMENT_WEIGHT = 0.25


def soft_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 − soft Dice, mean over the structures that are present (background left out).

    logits: (B,classes,H,W); target: (B,H,W) of class indices. Pooled over the batch, so that a
    slice without a structure does not count as a failure (Milletari et al., "V-Net", 3DV 2016;
    batch Dice as in nnU-Net), and over all processes, so that their number changes nothing.
    """
    probabilities = logits.float().softmax(1)[:, 1:]
    truth = F.one_hot(target, logits.shape[1])[..., 1:].movedim(-1, 1).to(probabilities.dtype)
    sums = [probabilities * truth, probabilities, truth]
    overlap, said, true = summed(torch.stack([part.sum((0, 2, 3)) for part in sums]))
    present = (true > 0).to(true.dtype)
    dice = (2 * overlap + 1) / (said + true + 1)
    missed: Tensor = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
    return missed


def segmentation_loss(output: NetworkOutput, target: Tensor) -> Tensor:
    """Scalar loss of a network's output against target (B,H,W) of class indices.

    Coarser outputs, where there are any, weigh half as much per level (deep supervision, Lee et
    al., "Deeply-Supervised Nets", AISTATS 2015, weighted as in nnU-Net).
    """
    losses, weights = [], []
    for level, logits in enumerate((output.logits, *output.coarser)):
        step = 2**level
        truth = target[:, step // 2 :: step, step // 2 :: step]
        cross_entropy = F.cross_entropy(logits.float(), truth)
        losses.append(0.5 * cross_entropy + 0.5 * soft_dice_loss(logits, truth))
        weights.append(0.5**level)
    pairs = zip(weights, losses, strict=True)
    weighted = torch.stack([weight * loss for weight, loss in pairs]).sum() / sum(weights)
    return weighted + COMMITMENT_WEIGHT * output.commitment
