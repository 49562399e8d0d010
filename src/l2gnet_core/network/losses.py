"""The loss of training: ½ cross-entropy + ½ soft Dice loss + β · commitment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2gnet_core.network.model import NetworkOutput
from l2gnet_core.network.precise import precise
from l2gnet_core.network.processes import summed

#: β of van den Oord et al. (2017).
COMMITMENT_WEIGHT = 0.25
#: A logit that stands for minus infinity, whose gradients could be NaN.
_NEVER = -1e4


def soft_dice_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 − soft Dice, mean over the structures that are present, without background.

    logits: (B,classes,H,W). target: (B,H,W), class indices. weight: (B,H,W), how much a pixel
    counts. Pooled over the batch, so that a slice without a structure does not count as a failure
    (Milletari et al., "V-Net", 3DV 2016; batch Dice as in nnU-Net), and over all processes, so that
    the result does not depend on their number.
    """
    probabilities = precise(logits).softmax(1)[:, 1:]
    truth = F.one_hot(target, logits.shape[1])[..., 1:].movedim(-1, 1).to(probabilities.dtype)
    sums = [probabilities * truth, probabilities, truth]
    if weight is not None:
        sums = [part * weight[:, None] for part in sums]
    overlap, said, true = summed(torch.stack([part.sum((0, 2, 3)) for part in sums]))
    present = (true > 0).to(true.dtype)
    dice = (2 * overlap + 1) / (said + true + 1)
    missed: Tensor = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
    return missed


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of logits (B,classes,H,W) against class indices (B,H,W). weight: (B,H,W),
    how much a pixel counts."""
    if weight is None:
        return F.cross_entropy(precise(logits), target)
    return _weighted(F.cross_entropy(precise(logits), target, reduction="none"), weight)


def _weighted(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


def at_level(pixels: Tensor, level: int) -> Tensor:
    """The pixels (…,H,W) that stand for those of an output 2^level times as coarse, from the middle
    of each."""
    step = 2**level
    return pixels[..., step // 2 :: step, step // 2 :: step]


def segmentation_loss(
    output: NetworkOutput, target: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Scalar loss of a network's output against target (B,H,W) of class indices.

    weight: (B,H,W), how much a pixel counts; where it is zero the target may be any class. Each
    coarser output counts half as much as the next finer one (deep supervision, Lee et al.,
    "Deeply-Supervised Nets", AISTATS 2015, weighted as in nnU-Net).
    """
    losses, weights = [], []
    for level, logits in enumerate((output.logits, *output.coarser)):
        truth = at_level(target, level)
        counts = None if weight is None else at_level(weight, level)
        dice = soft_dice_loss(logits, truth, counts)
        losses.append(0.5 * cross_entropy(logits, truth, counts) + 0.5 * dice)
        weights.append(0.5**level)
    pairs = zip(weights, losses, strict=True)
    weighted = torch.stack([weight * loss for weight, loss in pairs]).sum() / sum(weights)
    return weighted + COMMITMENT_WEIGHT * output.commitment


def as_background(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits (B,C,H,W) in which the probability of `classes`, (B,C) bool, is part of the
    background's.

    For targets whose background may hold these classes: Cermelli et al., "Modeling the Background
    for Incremental Learning in Semantic Segmentation" (CVPR 2020).
    """
    chosen = classes[:, :, None, None]
    background = torch.cat([torch.ones_like(chosen[:, :1]), chosen[:, 1:]], 1)
    logits = precise(logits)
    any_of_them = logits.masked_fill(~background, _NEVER).logsumexp(1, keepdim=True)
    others = logits[:, 1:].masked_fill(chosen[:, 1:], _NEVER)
    return torch.cat([any_of_them, others], 1)


def open_background(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits (B,C,H,W) of the background and of `classes`, (B,C) bool, alone: which of them is it,
    where it is one of them?"""
    others = ~classes[:, :, None, None]
    others[:, 0] = False
    return precise(logits).masked_fill(others, _NEVER)


def distillation_loss(logits: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """KL(teacher ‖ network) of class probabilities, both given as logits (B,C,H,W); mean over
    pixels, weighted by `weight` (B,H,W) (Li and Hoiem, "Learning without Forgetting", ECCV
    2016)."""
    said, meant = precise(logits).log_softmax(1), precise(teacher).log_softmax(1)
    return _weighted((meant.exp() * (meant - said)).sum(1), weight)
