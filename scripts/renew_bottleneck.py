"""Replace the bottleneck of a model by a new one, and keep the model's body and answers.

    python scripts/renew_bottleneck.py MODEL DATASET -o FOLDER [--scans N]

Earlier models quantised their features without normalisation ("plain" tokens). Their bottlenecks
learnt little more than an affine map of the features (docs/benchmarks.md, "What the commitment
does"). This script fits that map on scans that the model learnt from, and folds it into the weights
on either side. The bottleneck between them starts as in a new network. `l2gnet train --from FOLDER`
then trains it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from l2gnet_core.datasets.loading import load_frames, open_dataset
from l2gnet_core.models.catalog import find_model
from l2gnet_core.models.checkpoint import MODEL_FILE, Model, load_model, save_model
from l2gnet_core.network.bottlenecks import BottleneckOutput, as_tokens
from l2gnet_core.network.config import NetworkConfig
from l2gnet_core.network.model import SegmentationNetwork, build
from l2gnet_core.preprocessing.images import neighbours, pad_to_multiple

#: Root mean square of the deepest features from then on: about that of a new network.
SPREAD = 0.7


@torch.inference_mode()
def watched(model: Model, dataset: Path, scans: int) -> tuple[Tensor, Tensor]:
    """What comes into the bottleneck and what goes out of it, tokens (m,d) float64."""
    network, came, went = model.network, [], []

    def keep(_: nn.Module, given: tuple[Tensor], answered: BottleneckOutput) -> None:
        came.append(as_tokens(given[0]).flatten(0, 1).double())
        went.append(as_tokens(answered.features).flatten(0, 1).double())

    handle = network.bottleneck.register_forward_hook(keep)
    learnt = set(model.card.split["train"])
    cases = [case for case in open_dataset(dataset).cases if case.patient in learnt]
    for case in cases[:: max(1, len(cases) // scans)][:scans]:
        for frame in load_frames(case, model.card):
            count, config = len(frame.image), network.config
            for indices in torch.arange(count).split(4):
                seen = neighbours(indices.tolist(), count, config.in_channels, frame.step)
                network(pad_to_multiple(frame.image[seen].float(), config.stride))
    handle.remove()
    return torch.cat(came), torch.cat(went)


def affine_fit(came: Tensor, went: Tensor) -> tuple[Tensor, Tensor]:
    """(A (d,d), a (d,)) so that went ≈ A came + a; where came tells nothing, A is the identity."""
    count, channels = came.shape
    inputs = torch.cat([came, came.new_ones(count, 1)], 1)
    ridge = 1e-4 * float(came.square().mean()) * count * torch.eye(channels + 1).double()
    ridge[-1, -1] = 0
    found = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ (went - came))
    left = (went - came - inputs @ found).square().mean().sqrt()
    print(f"changed by {float((went - came).square().mean().sqrt()):.3f}, of that not affine: "
          f"{float(left):.3f}")  # fmt: skip
    return torch.eye(channels).double() + found[:-1].T, found[-1]


def renewed(old: SegmentationNetwork, came: Tensor, went: Tensor) -> SegmentationNetwork:
    """The network with a new bottleneck, which answers as the old one did."""
    matrix, offset = affine_fit(came, went)
    scale = SPREAD / float(came.square().mean().sqrt())
    config: NetworkConfig = old.config
    defaults = NetworkConfig(config.classes)
    network = build(
        replace(config, tokens="normalised", sinkhorn_iterations=defaults.sinkhorn_iterations)
    )
    body = {n: w.clone() for n, w in old.state_dict().items() if not n.startswith("bottleneck")}
    deepest = len(config.widths) - 1
    up = f"decoder.ups.{deepest - 1}.weight"
    # (in, out, 2, 2), and `in` is what the bottleneck answers.
    body[up] = (torch.einsum("ji,jokl->iokl", matrix, body[up].double()) / scale).float()
    for part in ("weight", "bias"):
        # LeakyReLU, which follows, scales with what comes into it.
        body[f"encoder.blocks.{deepest}.4.{part}"] *= scale
    network.load_state_dict({**network.state_dict(), **body})
    shift = scale * torch.linalg.solve(matrix, offset) / network.bottleneck.pace
    with torch.no_grad():
        network.bottleneck.fusion.bias.copy_(shift.float())
    return network


def main() -> None:
    """Write FOLDER/model.safetensors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=8)
    options = parser.parse_args()
    model = load_model(find_model(options.model))
    torch.manual_seed(0)
    network = renewed(model.network, *watched(model, options.dataset, options.scans))
    options.output.mkdir(parents=True, exist_ok=True)
    card = replace(model.card, codes=None, scores={})
    save_model(options.output / MODEL_FILE, network.eval(), card)


if __name__ == "__main__":
    main()
