"""Ways of fine-tuning that `annotation_effort.py tune` compares on tuning volumes."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor

from l2gnet_core import finetune as core
from l2gnet_core.augment import Augmentation
from l2gnet_core.checkpoint import Model
from l2gnet_core.corrections import CorrectedScan, Correction, Views
from l2gnet_core.finetune_config import MILD, PROJECT, SCAN, FineTuneConfig
from l2gnet_core.guard import Limits
from l2gnet_core.learner import Clock, Learner, Step
from l2gnet_core.model import SegmentationNetwork

UNGUARDED = Limits(-1, 1, 1, 1)


@dataclass(frozen=True)
class Variant:
    """Settings; a learner that does what settings cannot; and how much more voxels weigh that the
    annotator changed."""

    config: FineTuneConfig
    learner: type[Learner] = Learner
    touched: float = 1.0


def finetuned(
    model: Model, corrections: Sequence[Correction], variant: Variant
) -> core.FineTuneResult:
    """The end of a fine-tuning."""
    with patch.object(core, "Learner", variant.learner):
        *_, last = core.finetune(model, corrections, variant.config)
    assert last.result is not None
    return last.result


class DecoderOnly(Learner):
    """The encoder stays: a third less time a step, fewer weights to overfit."""

    def _loss(self, network: SegmentationNetwork, views: Views, old: Views | None) -> Tensor:
        network.encoder.requires_grad_(False)
        return super()._loss(network, views, old)


class NormsAndHead(Learner):
    """Only what shifts and scales features, and the last layer."""

    def _loss(self, network: SegmentationNetwork, views: Views, old: Views | None) -> Tensor:
        network.requires_grad_(False)
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.requires_grad_(True)
        network.decoder.head.requires_grad_(True)
        return super()._loss(network, views, old)


class Averaged(Learner):
    """The mean of the weights on the way, the later half (stochastic weight averaging: Izmailov et
    al., UAI 2018)."""

    def learn(
        self, run: int, scans: Sequence[CorrectedScan], clock: Clock
    ) -> Generator[Step, None, SegmentationNetwork]:
        learning, average, count = super().learn(run, scans, clock), None, 0
        while True:
            try:
                step = next(learning)
            except StopIteration as end:
                return average.eval() if average is not None else end.value
            if step.done > 0.5:
                count += 1
                if average is None:
                    average = copy.deepcopy(step.network)
                with torch.no_grad():
                    weights = zip(average.parameters(), step.network.parameters(), strict=True)
                    for mean, weight in weights:
                        mean.lerp_(weight, 1 / count)
            yield step


def _viewed(size: int, batch: int, views: Augmentation = MILD, **more: object) -> FineTuneConfig:
    return replace(SCAN, views=replace(views, size=size), batch=batch, **more)


_CHEAP = {"mixes": (0.5,), "folds": 3, "fold_share": 0.3}
_SMALL = _viewed(128, 2, **_CHEAP)

#: For one scan.
SCAN_VARIANTS: dict[str, Variant] = {
    "as it is": Variant(SCAN),
    "unguarded, half": Variant(replace(SCAN, folds=0, limits=UNGUARDED)),
    "unguarded, whole": Variant(replace(SCAN, folds=0, limits=UNGUARDED, cautious_mix=1.0)),
    "one mix": Variant(replace(SCAN, mixes=(0.5,))),
    "cheap guard": Variant(replace(SCAN, **_CHEAP)),
    "views 128": Variant(_viewed(128, 4, **_CHEAP)),
    "views 128, 2": Variant(_SMALL),
    "views 96, 4": Variant(_viewed(96, 4, **_CHEAP)),
    "rate 1e-3": Variant(replace(_SMALL, learning_rate=1e-3)),
    "rate 2e-4": Variant(replace(_SMALL, learning_rate=2e-4)),
    "no pull": Variant(replace(_SMALL, pull=0.0)),
    "pull 40": Variant(replace(_SMALL, pull=40.0)),
    "old answers": Variant(replace(_SMALL, replay=1)),
    "mix 0.75": Variant(replace(_SMALL, mixes=(0.75,), cautious_mix=0.75)),
    "decoder only": Variant(_SMALL, DecoderOnly),
    "decoder only, 1e-3": Variant(replace(_SMALL, learning_rate=1e-3), DecoderOnly),
    "norms and head": Variant(replace(_SMALL, learning_rate=5e-3), NormsAndHead),
    "averaged": Variant(_SMALL, Averaged),
    "averaged, whole": Variant(replace(_SMALL, mixes=(0.5, 1.0)), Averaged),
    "touched × 3": Variant(_SMALL, touched=3.0),
    "touched × 10": Variant(_SMALL, touched=10.0),
}
#: For a new organ.
ORGAN_VARIANTS: dict[str, Variant] = {
    "as it is": Variant(SCAN),
    "cheap guard": Variant(replace(SCAN, mixes=(1.0,), fold_share=0.3, cautious_mix=1.0)),
    "rate 1e-3": Variant(
        replace(SCAN, mixes=(1.0,), fold_share=0.3, cautious_mix=1.0, learning_rate=1e-3)
    ),
    "rate 1e-3, no pull": Variant(
        replace(SCAN, mixes=(1.0,), fold_share=0.3, cautious_mix=1.0, learning_rate=1e-3, pull=0.0)
    ),
}
#: For the project's model.
PROJECT_VARIANTS: dict[str, Variant] = {
    "as it is": Variant(PROJECT),
    "pull 10": Variant(replace(PROJECT, pull=10.0)),
    "one mix": Variant(replace(PROJECT, mixes=(0.5,), folds=2, fold_share=0.3)),
    "one mix, pull 10": Variant(replace(PROJECT, mixes=(0.5,), folds=2, fold_share=0.3, pull=10.0)),
    "whole, pull 10": Variant(replace(PROJECT, mixes=(1.0,), folds=2, fold_share=0.3, pull=10.0)),
    "averaged": Variant(replace(PROJECT, mixes=(0.5, 1.0), folds=2, fold_share=0.3), Averaged),
}
