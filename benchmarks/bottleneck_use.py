"""What does the bottleneck of a model do? The script measures how many directions its features
have, how selective its plan is, and how the Dice changes without it.

    python benchmarks/bottleneck_use.py [MODEL …] [--part tuning] [--volumes N] [--data DIR]

MODEL is a bundled model, or a run folder of the study that its card names; by default all bundled
models. For each model, over slices of patients that it did not learn from, these are printed:

- spread: root mean square of the deepest features z.
- directions: participation ratio of the spectrum of z, centred, (Σσ²)² / Σσ⁴ (Gao et al., "A theory
  of multineuronal dimensionality", 2017); 1 = all features lie on a line.
- codes: perplexity of the codes in a volume.
- references: the number of references to which a code sends its mass, exp(entropy) of its row of
  the plan.
- rank: exp(entropy) of the eigenvalues of S, which maps tokens to tokens.
- Dice as it is, and with the bottleneck's output replaced by its mean over the slice, which removes
  all that the deepest level says about places. One view, no tidying.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _studies import SHARED, STUDIES
from torch import Tensor

from l2gnet_core.augmentation.sampling import TrainingCase
from l2gnet_core.datasets.loading import load_frames, open_dataset
from l2gnet_core.inspect.codes import perplexity
from l2gnet_core.models.catalog import find_model, models
from l2gnet_core.models.checkpoint import Model, load_model
from l2gnet_core.network.bottlenecks import BottleneckOutput, as_tokens
from l2gnet_core.preprocessing.images import neighbours, pad_to_multiple
from l2gnet_core.scores.metrics import dice_per_class


class Watched(torch.nn.Module):
    """A bottleneck that records its features. With `flat` it returns the mean of its output over
    the slice."""

    def __init__(self, bottleneck: torch.nn.Module) -> None:
        super().__init__()
        self.bottleneck, self.flat = bottleneck, False
        self.seen: list[tuple[Tensor, BottleneckOutput]] = []

    def forward(self, features: Tensor) -> BottleneckOutput:
        """features: (B,d,h,w)."""
        output = self.bottleneck(features)
        if not self.flat:
            self.seen.append((features.float(), output))
            return output
        mean = output.features.mean((2, 3), keepdim=True).expand_as(output.features)
        return BottleneckOutput(mean, output.commitment, output.codes, output.plan)


def frames(model: Model, part: str, volumes: int, data: Path) -> Iterator[TrainingCase]:
    """The scans of the patients in one part of the model's own split."""
    names = {label.name for label in model.card.labels}
    study = next(s for s in STUDIES.values() if names == set(s.names.values()))
    cases = [
        c for c in open_dataset(data / study.folder).cases if c.patient in model.card.split[part]
    ]
    step = max(1, len(cases) // volumes)
    for case in cases[::step][:volumes]:
        yield from load_frames(case, model.card)


def segment(model: Model, frame: TrainingCase) -> Tensor:
    """Classes (n,H,W)."""
    config, count = model.network.config, len(frame.image)
    height, width = frame.image.shape[-2:]
    found = []
    for indices in torch.arange(count).split(4):
        seen = neighbours(indices.tolist(), count, config.in_channels, frame.step)
        with torch.inference_mode():
            logits = model.network(pad_to_multiple(frame.image[seen].float(), config.stride)).logits
        found.append(logits.argmax(1)[:, :height, :width])
    return torch.cat(found)


def participation(values: Tensor) -> float:
    """(Σv)² / Σv² of non-negative values."""
    return float(values.sum().square() / values.square().sum())


def spread_of(shares: Tensor) -> Tensor:
    """exp(entropy) of each row; rows sum to one."""
    return torch.exp(torch.special.entr(shares).sum(-1))


def examine(model: Model, part: str, volumes: int, data: Path) -> dict[str, float]:
    """All figures of a model, as means over volumes or slices."""
    watched = Watched(model.network.bottleneck)
    model.network.bottleneck = watched
    told: dict[str, list[float]] = {}

    def tell(name: str, value: float) -> None:
        told.setdefault(name, []).append(value)

    for frame in frames(model, part, volumes, data):
        for name, watched.flat in (("Dice", False), ("Dice, flat", True)):
            classes = segment(model, frame)
            dice = dice_per_class(classes, frame.classes, model.network.config.classes)
            tell(name, float(dice.nanmean()))
        features = [as_tokens(z).flatten(0, 1) for z, _ in watched.seen]
        tokens = torch.cat(features)
        spectrum = torch.linalg.svdvals(tokens - tokens.mean(0))
        tell("spread", float(tokens.square().mean().sqrt()))
        tell("directions", participation(spectrum.square()))
        for _, output in watched.seen:
            tell_plan(output, model, tell)
        watched.seen.clear()
    model.network.bottleneck = watched.bottleneck
    return {name: sum(values) / len(values) for name, values in told.items()}


def tell_plan(output: BottleneckOutput, model: Model, tell: Any) -> None:
    """Record the codes of a batch, and how many references and directions each slice's plan has."""
    if output.codes is not None:
        tell("codes", perplexity(output.codes.flatten().bincount().cpu().numpy()))
    if output.plan is None:
        return
    for coupling, mass in zip(output.plan.coupling, output.plan.row_mass, strict=True):
        coupling, mass = coupling[mass > 0], mass[mass > 0]
        rows = coupling / mass[:, None]
        tell("references", float((spread_of(rows) * mass).sum()))
        # On tokens, S has the same non-zero eigenvalues as on codes.
        half = coupling / mass.sqrt()[:, None] / coupling.sum(0).sqrt()
        eigenvalues = torch.linalg.svdvals(half).square()
        tell("rank", float(spread_of(eigenvalues / eigenvalues.sum())))


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bundled = [entry.name for entry in models() if entry.bundled]
    parser.add_argument("models", nargs="*", default=bundled)
    parser.add_argument("--part", default="tuning", choices=["tuning", "test"])
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--data", type=Path, default=SHARED)
    options = parser.parse_args()
    heads = ["spread", "directions", "codes", "references", "rank", "Dice", "Dice, flat"]
    print(f"| model | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    for name in options.models:
        model = load_model(find_model(name))
        found = examine(model, options.part, options.volumes, options.data)
        cells = [f"{found[head]:.3g}" if head in found else "–" for head in heads]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
