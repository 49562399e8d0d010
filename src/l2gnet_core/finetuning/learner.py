"""One run of fine-tuning: a network that starts from the old weights and learns from corrections,
pulled towards the old weights and the old answers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from l2gnet_core.augmentation.views import keeping_sides
from l2gnet_core.errors import InputError
from l2gnet_core.finetuning.config import FineTuneConfig
from l2gnet_core.finetuning.correction_views import CorrectedScan, CorrectionSampler, Views
from l2gnet_core.finetuning.head_initialisation import filled_in, fit_heads
from l2gnet_core.finetuning.rehearsal import replayed_hearts
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.device import memory_format, precision
from l2gnet_core.network.losses import (
    as_background,
    distillation_loss,
    open_background,
    segmentation_loss,
)
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.relay import Stoppable

#: Steps of warm-up: AdamW's first gradients set the scale of all later ones.
_WARM_UP = 4
#: Share of the time that checks will take: an estimate until one has been timed.
_SHARE_OF_CHECKS = 0.2
#: Share of the time after which the search for an appearance ends.
_SHARE_OF_SEARCH = 0.25


@dataclass(frozen=True)
class Pace:
    """What depended on time in a fine-tuning that was limited by seconds. With the seed it is
    enough to repeat it.

    For each run, the main one first: shares has the share of the run that was done after each step,
    0 to 1, and appearances the appearance in which it was shown the scans.
    """

    shares: tuple[tuple[float, ...], ...]
    appearances: tuple[Appearance, ...] = ()

    @property
    def main_steps(self) -> int:
        """Number of steps of the main run."""
        return len(self.shares[0])

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Pace:
        """Read what `asdict` gave: JSON has no tuples."""
        shares = tuple(tuple(run) for run in values["shares"])
        return cls(shares, tuple(Appearance(**one) for one in values["appearances"]))


class Clock:
    """How far a fine-tuning is. Its runs, the main one and those of the folds, are limited by
    steps or by time, or follow the pace of an earlier fine-tuning."""

    def __init__(self, config: FineTuneConfig, folds: int, pace: Pace | None = None) -> None:
        self._config = config
        self._shares = [1.0, *[config.fold_share] * folds]
        self._given = pace
        self._made: list[list[float]] = [[] for _ in self._shares]
        self._appearances: tuple[Appearance, ...] = ()
        runs = len(self._shares)
        shown = runs if config.adapts_appearance else 0
        if pace is not None and (
            len(pace.shares) != runs or not all(pace.shares) or len(pace.appearances) != shown
        ):
            raise InputError(
                f"Expected the pace of {runs} runs with a step at least each, but got "
                f"{[len(run) for run in pace.shares]} steps; give that of the same corrections and "
                "settings."
            )
        self._run = 0
        self._started = self._run_started = time.perf_counter()
        self._budget = 0.0
        # Seconds that a step takes.
        self._step = 0.0
        #: Seconds that the checks still to come will take.
        self.reserved = (config.seconds or 0.0) * _SHARE_OF_CHECKS

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._started

    def begin(self, run: int) -> None:
        """Start a run. Time that earlier runs left over is shared among the remaining ones."""
        self._run, self._run_started = run, time.perf_counter()
        if self._config.seconds is not None:
            left = max(0.0, self._config.seconds - self.seconds - self.reserved)
            self._budget = left * self._shares[run] / sum(self._shares[run:])

    def done(self, step: int) -> float:
        """Share of the run that is done after a number of its steps. To be called once after each
        step; every run makes at least one."""
        share = self._share(step)
        self._made[self._run].append(share)
        self._step = (time.perf_counter() - self._run_started) / step
        return share

    @property
    def steps(self) -> int:
        """Steps made so far, in all runs."""
        return sum(map(len, self._made))

    @property
    def pace(self) -> Pace:
        """What `done` and `searched` have returned so far."""
        return Pace(tuple(map(tuple, self._made)), self._appearances)

    def searched(
        self, search: Stoppable[tuple[Appearance, ...]]
    ) -> Stoppable[tuple[Appearance, ...]]:
        """The appearances in which the runs are shown the scans: those of the given pace, else the
        result of the search."""
        found = self._given.appearances if self._given is not None else (yield from search)
        self._appearances = found
        return found

    def search_is_over(self) -> bool:
        """Has the search for an appearance used up its time?"""
        seconds = self._config.seconds
        return seconds is not None and self.seconds > _SHARE_OF_SEARCH * seconds

    def _share(self, step: int) -> float:
        if self._given is not None:
            run = self._given.shares[self._run]
            return run[step - 1] if step < len(run) else 1.0
        if self._config.steps is not None:
            return min(1.0, step / max(1, round(self._config.steps * self._shares[self._run])))
        spent = time.perf_counter() - self._run_started
        return min(1.0, spent / self._budget) if self._budget else 1.0

    def overall(self, done: float) -> tuple[float, float | None]:
        """Share of all runs that is done when `done` of this one is, and seconds left."""
        behind = sum(self._shares[: self._run]) + done * self._shares[self._run]
        share = behind / sum(self._shares)
        if self._config.seconds is not None and self._given is None:
            # Even with no time left, each remaining run makes a step, and checks follow.
            late = self.reserved + self._step * (len(self._shares) - self._run - 1)
            return share, max(0.0, self._config.seconds - self.seconds, late)
        return share, self.seconds / share * (1 - share) + self.reserved if share else None


@dataclass(frozen=True)
class LearningStep:
    """A step of a run: its loss, the share of the run that is done, and the network after it."""

    loss: float
    done: float
    network: SegmentationNetwork


class Learner:
    """Everything that the runs of one fine-tuning share.

    base: the old model, with room for new structures. new: which of its classes are new.
    """

    def __init__(
        self, base: Model, new: Sequence[bool], config: FineTuneConfig, device: str
    ) -> None:
        self._base = base
        self._new = torch.tensor([new], device=device)
        self._config = config
        self._device = device
        self._hearts = replayed_hearts(base.card) if config.phantoms else []
        self._views = config.views
        if base.card.oriented:
            self._views = keeping_sides(config.views, base.card)
        elif config.kind == "scan" and base.card.views == 1:
            # It will see this scan in this orientation only.
            self._views = replace(config.views, orientation_free=False)

    def learn(
        self, run: int, scans: Sequence[CorrectedScan], clock: Clock
    ) -> Generator[LearningStep, None, SegmentationNetwork]:
        """Learn from scans; `run`, its number, seeds the views. Raises InputError if the gradient
        is no longer finite."""
        config, device = self._config, self._device
        network = copy.deepcopy(self._base.network).requires_grad_(True)
        # Missing from the annotations of nn.Module.to.
        network.to(memory_format=memory_format(device))  # type: ignore[call-overload]
        # Straight-through gradients and coarser outputs need training mode. The codebook does not
        # train, so that codes keep their meaning.
        network.train()
        if network.codebook is not None:
            network.codebook.eval()
        if self._new.any():
            new = self._new[0].cpu()
            scans = [*scans, *filter(None, (filled_in(scan, new) for scan in scans))]
            fit_heads(network, scans, new, device)
        channels, seed = network.config.in_channels, (config.seed, run)
        sampler = CorrectionSampler(
            scans, self._views, channels, seed, others=self._hearts, others_share=config.phantoms
        )
        size = self._view_size(scans)
        # AdamW's own decay would be towards zero; `_pull` decays towards the old weights.
        optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=0)
        clock.begin(run)
        step, done = 0, 0.0
        while done < 1:
            rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
            rate *= min(1.0, (step + 1) / _WARM_UP)
            optimizer.param_groups[0]["lr"] = rate
            views = sampler.corrected(step, config.batch, size, device)
            old = sampler.untouched(step, config.replay, size, device)
            with torch.autocast(device, torch.bfloat16, enabled=precision(device) == "bf16-mixed"):
                loss = self._loss(network, views, old)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            if not norm.isfinite():
                raise InputError(
                    f"Expected numbers to learn from, but at step {step + 1} of a run fine-tuning "
                    "ran away to infinity; see whether the scans hold numbers alone, and learn "
                    "with a smaller learning_rate."
                )
            optimizer.step()
            self._pull(network, rate)
            step += 1
            done = clock.done(step)
            yield LearningStep(float(loss.detach()), done, network)
        return network.eval()

    def _loss(self, network: SegmentationNetwork, views: Views, old: Views | None) -> Tensor:
        count = len(views.images)
        output = network(views.images if old is None else torch.cat([views.images, old.images]))
        logits, *coarser = (
            as_background(some[:count], views.absent) for some in (output.logits, *output.coarser)
        )
        corrected = replace(output, logits=logits, coarser=tuple(coarser))
        loss = segmentation_loss(corrected, views.classes, views.weights)
        kept = views.unasked & ~self._new
        if self._config.soft_targets and kept.any():
            with torch.no_grad():
                teacher = self._base.network(views.images).logits
            said, meant = (open_background(one, kept) for one in (output.logits[:count], teacher))
            weights = views.weights * (views.classes == 0)
            loss = loss + self._config.soft_targets * distillation_loss(said, meant, weights)
        if old is None:
            return loss
        with torch.no_grad():
            teacher = self._base.network(old.images).logits
        # To the old model new structures are background.
        new = self._new.expand(len(old.images), -1)
        said, meant = as_background(output.logits[count:], new), as_background(teacher, new)
        return loss + self._config.soft_targets * distillation_loss(said, meant, old.weights)

    def _pull(self, network: SegmentationNetwork, rate: float) -> None:
        """Decoupled decay towards the old weights (L2-SP: Li et al., "Explicit Inductive Bias for
        Transfer Learning", ICML 2018; decoupled as in AdamW)."""
        share = min(1.0, rate * self._config.pull)
        with torch.no_grad():
            old = self._base.network.parameters()
            for weight, start in zip(network.parameters(), old, strict=True):
                weight.lerp_(start, share)

    def _view_size(self, scans: Sequence[CorrectedScan]) -> int:
        stride = self._base.network.config.stride
        longest = max(max(scan.image.shape[1:]) for scan in scans)
        return math.ceil(min(self._views.size, longest) / stride) * stride
