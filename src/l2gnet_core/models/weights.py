"""Weights as a whole: mixing those of two networks, and their hash."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.preprocessing.appearance import PLAIN, Appearance
from l2gnet_core.preprocessing.scan_kind import KindAppearance


def mixed(old: SegmentationNetwork, new: SegmentationNetwork, mix: float) -> SegmentationNetwork:
    """A network with weights (1 − mix)·old + mix·new, in evaluation mode; 0 gives the old and 1 the
    new weights, bit for bit.

    Weights between those before and after fine-tuning keep knowledge of both (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    network = copy.deepcopy(new if mix == 1 else old).eval()
    if 0 < mix < 1:
        with torch.no_grad():
            for weight, other in zip(network.parameters(), new.parameters(), strict=True):
                weight.lerp_(other, mix)
    # The faster memory format for prediction, whatever it was trained in.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def mixed_model(old: Model, new: SegmentationNetwork, mix: float) -> Model:
    """The old model with mixed weights."""
    return replace(old, network=mixed(old.network, new, mix))


def model_hash(model: Model, weights: str | None = None) -> str:
    """SHA-256 of what fine-tuning changes: the weights and, unless scans are shown as they are, the
    appearance. weights: their hash, if it is known.

    Other fields of the card that decide answers (labels, views, spacing, sides, slicing) are not
    included. Projects identify models by this hash, so it must not change.
    """
    weights, card = weights or weights_hash(model.network), model.card
    if card.appearance == PLAIN and not card.kinds:
        return weights
    shown = [weights, _stated(card.appearance), *map(_stated_kind, card.kinds)]
    return hashlib.sha256(" ".join(shown).encode()).hexdigest()


# Written out, because these texts must stay: a field that is added later must change the text only
# where it is not at its default.
def _stated(one: Appearance) -> str:
    return f"Appearance(gamma={one.gamma!r}, smoothing={one.smoothing!r}, zoom={one.zoom!r})"


def _stated_kind(known: KindAppearance) -> str:
    ends = f"lowest={known.kind.lowest!r}, highest={known.kind.highest!r}"
    return f"KindAppearance(kind=ScanKind({ends}), appearance={_stated(known.appearance)})"


def weights_hash(network: SegmentationNetwork) -> str:
    """`tensors_hash` of a network's weights; it does not depend on the file that they came from."""
    return tensors_hash(network.state_dict())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights with their names, types and shapes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # As bytes: NumPy has no bfloat16.
        whole = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(whole.view(torch.uint8).numpy().data)
    return digest.hexdigest()
