"""Ways of fine-tuning that `annotation_effort.py tune` compares on tuning volumes."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor

from l2gnet_core.augmentation.views import Augmentation
from l2gnet_core.finetuning import run as core
from l2gnet_core.finetuning.config import MILD, ORGAN, PROJECT, SCAN, FineTuneConfig
from l2gnet_core.finetuning.correction_views import CorrectedScan, Views
from l2gnet_core.finetuning.guard import Limits
from l2gnet_core.finetuning.learner import Clock, Learner, LearningStep
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.segmenting.corrections import Correction

UNGUARDED = Limits(-1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Variant:
    """Settings, a learner for what settings cannot express, and the weight of voxels that the
    annotator changed."""

    config: FineTuneConfig
    learner: type[Learner] = Learner
    touched: float = 1.0


def finetuned(
    model: Model, corrections: Sequence[Correction], variant: Variant
) -> core.FineTuneResult:
    """The result of a whole fine-tuning."""
    with patch.object(core, "Learner", variant.learner):
        *_, last = core.finetune(model, corrections, variant.config)
    assert last.result is not None
    return last.result


class DecoderOnly(Learner):
    """Keeps the encoder: a third less time per step, and fewer weights that can overfit."""

    def _loss(self, network: SegmentationNetwork, views: Views, old: Views | None) -> Tensor:
        network.encoder.requires_grad_(False)
        return super()._loss(network, views, old)


class NormsAndHead(Learner):
    """Trains only the scales and offsets of normalisations, and the last layer."""

    def _loss(self, network: SegmentationNetwork, views: Views, old: Views | None) -> Tensor:
        network.requires_grad_(False)
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.requires_grad_(True)
        network.decoder.head.requires_grad_(True)
        return super()._loss(network, views, old)


class Averaged(Learner):
    """Averages the weights over the later half of the steps (stochastic weight averaging: Izmailov
    et al., UAI 2018)."""

    def learn(
        self, run: int, scans: Sequence[CorrectedScan], clock: Clock
    ) -> Generator[LearningStep, None, SegmentationNetwork]:
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


_SMALL = _viewed(128, 2)
_WHOLE = SCAN
_MILDER = replace(MILD, scale=(0.95, 1.05), stretch=0.02, turn=5.0)

#: For one scan.
SCAN_VARIANTS: dict[str, Variant] = {
    "as it is": Variant(SCAN),
    "weights alone": Variant(replace(SCAN, adapts_appearance=False)),
    "appearance alone": Variant(replace(SCAN, mixes=(), cautious_mix=0.0)),
    "unguarded, half": Variant(replace(SCAN, folds=0, limits=UNGUARDED)),
    "unguarded, whole": Variant(replace(SCAN, folds=0, limits=UNGUARDED, cautious_mix=1.0)),
    "views 160, 4": Variant(_viewed(160, 4)),
    "views 128": Variant(_viewed(128, 4)),
    "views 128, 2": Variant(_SMALL),
    "views 96, 4": Variant(_viewed(96, 4)),
    "views 192, 1": Variant(_viewed(192, 1)),
    "whole, 2": Variant(replace(_WHOLE, batch=2)),
    "whole, milder": Variant(replace(_WHOLE, views=_MILDER)),
    "whole, mixes": Variant(replace(_WHOLE, mixes=(0.5, 1.0))),
    "whole, mix 0.75": Variant(replace(_WHOLE, mixes=(0.75,), cautious_mix=0.75)),
    "whole, mix 1": Variant(replace(_WHOLE, mixes=(1.0,), cautious_mix=1.0)),
    "whole, rate 1e-3": Variant(replace(_WHOLE, learning_rate=1e-3)),
    "whole, rate 2e-4": Variant(replace(_WHOLE, learning_rate=2e-4)),
    "whole, no pull": Variant(replace(_WHOLE, pull=0.0)),
    "whole, pull 40": Variant(replace(_WHOLE, pull=40.0)),
    "whole, old answers": Variant(replace(_WHOLE, replay=1)),
    "whole, decoder": Variant(_WHOLE, DecoderOnly),
    "whole, decoder, 1e-3": Variant(replace(_WHOLE, learning_rate=1e-3), DecoderOnly),
    "whole, norms and head": Variant(replace(_WHOLE, learning_rate=5e-3), NormsAndHead),
    "whole, averaged": Variant(_WHOLE, Averaged),
    "whole, averaged, mixes": Variant(replace(_WHOLE, mixes=(0.5, 1.0)), Averaged),
    "whole, touched × 3": Variant(_WHOLE, touched=3.0),
    "whole, touched × 10": Variant(_WHOLE, touched=10.0),
    "mix 0.75, touched × 3": Variant(
        replace(_WHOLE, mixes=(0.75,), cautious_mix=0.75), touched=3.0
    ),
}
_ORGAN = replace(_WHOLE, mixes=(1.0,), cautious_mix=1.0, folds=2)
_PROJECT = replace(PROJECT, views=replace(MILD, size=160), batch=4, replay=2, folds=2)
_PROJECT_WHOLE = replace(PROJECT, folds=2)
_PROJECT_STRONG = replace(
    PROJECT, views=Augmentation(size=160), batch=6, replay=2, folds=2, fold_share=0.3,
    learning_rate=1e-3, pull=10.0, mixes=(0.5, 0.75, 1.0), cautious_mix=0.75,
)  # fmt: skip

#: For a new organ.
ORGAN_VARIANTS: dict[str, Variant] = {
    "as it is": Variant(ORGAN),
    "views 160": Variant(replace(_ORGAN, views=replace(MILD, size=160), batch=4)),
    "whole slices": Variant(_ORGAN),
    "whole, milder": Variant(replace(_ORGAN, views=_MILDER)),
    "whole, 1e-3": Variant(replace(_ORGAN, learning_rate=1e-3)),
    "whole, 1e-3, no pull": Variant(replace(_ORGAN, learning_rate=1e-3, pull=0.0)),
    "whole, 2e-3, no pull": Variant(replace(_ORGAN, learning_rate=2e-3, pull=0.0)),
    "2e-3, no pull": Variant(replace(ORGAN, learning_rate=2e-3, pull=0.0)),
    "nothing replayed": Variant(replace(ORGAN, replay=0)),
}
#: For the project's model.
PROJECT_VARIANTS: dict[str, Variant] = {
    "as it is": Variant(PROJECT),
    "views 160": Variant(_PROJECT),
    "views 160, pull 10": Variant(replace(_PROJECT, pull=10.0)),
    "whole slices": Variant(_PROJECT_WHOLE),
    "whole, pull 10": Variant(replace(_PROJECT_WHOLE, pull=10.0)),
    "whole, pull 10, mix 1": Variant(
        replace(_PROJECT_WHOLE, pull=10.0, mixes=(1.0,), cautious_mix=1.0)
    ),
    "whole, averaged, mixes": Variant(replace(_PROJECT_WHOLE, mixes=(0.5, 1.0)), Averaged),
    "strong views": Variant(_PROJECT_STRONG),
    "strong views, no pull": Variant(replace(_PROJECT_STRONG, pull=0.0)),
    "strong views, 2e-3": Variant(replace(_PROJECT_STRONG, learning_rate=2e-3)),
    "strong views, pull 40": Variant(replace(_PROJECT_STRONG, pull=40.0)),
}
