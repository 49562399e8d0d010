"""Weights as a whole: mixed, and told apart by their hash."""

from __future__ import annotations

import copy
import hashlib

import torch

from l2gnet_core.model import SegmentationNetwork


def mixed(old: SegmentationNetwork, new: SegmentationNetwork, mix: float) -> SegmentationNetwork:
    """A network with weights (1 − mix)·old + mix·new, in evaluation mode; 0 gives the old ones and
    1 the new ones, bit for bit.

    Weights along the line between a model and its fine-tuned self keep what both know (Wortsman et
    al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    network = copy.deepcopy(new if mix == 1 else old).eval()
    if 0 < mix < 1:
        with torch.no_grad():
            for weight, other in zip(network.parameters(), new.parameters(), strict=True):
                weight.lerp_(other, mix)
    # Whatever it was trained in: predictions are quicker so.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def weights_hash(network: SegmentationNetwork) -> str:
    """SHA-256 of all weights and their names, in hexadecimal: which weights these are, whatever
    file they lie in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
