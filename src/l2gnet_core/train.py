"""One training loop: a generator that yields progress, can be stopped anywhere and resumed."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from l2gnet_core.augment import Augmentation, intensity_view, spatial_view
from l2gnet_core.config import NetworkConfig
from l2gnet_core.data import TrainingCase
from l2gnet_core.errors import InputError
from l2gnet_core.losses import segmentation_loss
from l2gnet_core.metrics import dice_per_class
from l2gnet_core.model import SegmentationNetwork, build
from l2gnet_core.preprocess import neighbours, pad_to_multiple
from l2gnet_core.quantizer import perplexity

STATE_FILE = "state.pt"


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how to train. Exactly one of `epochs` and `minutes` is set; minutes count
    training time only and carry over a resume. `extra_share` is the share of slices drawn from
    the extra cases that `Trainer.run` is given.

    Normalisation takes its statistics from what the network sees: crops while training, whole
    slices later. Small crops learn quickly; from `large_from` (a share of the run) on, crops are
    `large` times as wide and batches as much smaller, which closes the gap (Touvron et al.,
    "Fixing the train-test resolution discrepancy", NeurIPS 2019)."""

    epochs: int | None = None
    minutes: float | None = None
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warm_up: float = 0.03
    averaging: float = 0.998
    seed: int = 0
    validate_every: int = 250
    save_every_seconds: float = 60.0
    extra_share: float = 0.0
    large_from: float = 0.6
    large: float = 1.4


@dataclass(frozen=True)
class Progress:
    """One training step. `done` runs from 0 to 1; `perplexity` is of the batch's codes, if the
    architecture has codes; `dice` (per structure, tuning patients) is set
    on the steps that validate."""

    step: int
    done: float
    loss: float
    learning_rate: float
    seconds: float
    perplexity: float | None
    dice: tuple[float, ...] | None = None


def autocast_dtype(device: str) -> torch.dtype | None:
    """bfloat16 where the hardware computes in it, else None: emulated, it is ten times slower."""
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else None


class Trainer:
    """State of one run: network, averaged network, optimiser, step and time spent."""

    def __init__(
        self,
        network: NetworkConfig,
        training: TrainingConfig,
        augmentation: Augmentation,
        folder: Path,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(training.seed)
        self.training = training
        self.augmentation = augmentation
        self.folder = folder
        self.device = device
        self.network = build(network)
        # Missing from the annotations of nn.Module.to.
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(
            self.network,
            multi_avg_fn=get_ema_multi_avg_fn(training.averaging),
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
        )
        self.step = 0
        self.seconds = 0.0

    def done(self, steps_per_epoch: int) -> float:
        """Share of the run that is behind, 0 to 1."""
        if self.training.epochs is not None:
            return min(1.0, self.step / (self.training.epochs * steps_per_epoch))
        assert self.training.minutes is not None
        return min(1.0, self.seconds / (60 * self.training.minutes))

    def start_from(self, network: SegmentationNetwork) -> None:
        """Begin with another network's weights, which may see fewer slices.

        Raises InputError if it is of another architecture or size.
        """
        channels = self.network.config.in_channels
        same = replace(network.config, in_channels=channels) == self.network.config
        if not same or network.config.in_channels > channels:
            raise InputError(
                "Expected a model of the same architecture, preset and number of structures, and "
                f"no more slices, to start from, but it has {network.config} where "
                f"{self.network.config} is asked for."
            )
        weights = network.state_dict()
        first = "encoder.blocks.0.0.weight"
        more = (channels - network.config.in_channels) // 2
        # Neighbours begin with no say, so that the wider network starts out as the narrow one.
        weights[first] = F.pad(weights[first], (0, 0, 0, 0, more, more))
        self.network.load_state_dict(weights)
        self.average.module.load_state_dict(weights)

    def averaged_network(self) -> SegmentationNetwork:
        """The moving average of the weights, with the current codebook: what is saved."""
        network = self.average.module
        assert isinstance(network, SegmentationNetwork)
        # Codebook vectors are a moving average already, and restarts make averaging them wrong.
        for target, source in zip(network.buffers(), self.network.buffers(), strict=True):
            target.copy_(source)
        return network.eval()

    def run(
        self,
        cases: Sequence[TrainingCase],
        tuning: Sequence[TrainingCase],
        extra: Sequence[TrainingCase] = (),
    ) -> Iterator[Progress]:
        """Train until done, yielding after every step.

        `extra` cases (drawn phantoms) make up `extra_share` of the slices.
        """
        self.network.train()
        steps_per_epoch = math.ceil(sum(len(case.image) for case in cases) / self.training.batch)
        while (done := self.done(steps_per_epoch)) < 1:
            started = time.perf_counter()
            images, targets = self._batch(cases, extra, large=done >= self.training.large_from)
            rate = self._learning_rate(done)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            dtype = autocast_dtype(self.device)
            with torch.autocast(self.device, dtype, enabled=dtype is not None):
                output = self.network(images)
            loss = segmentation_loss(output, targets)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.average.update_parameters(self.network)
            self.step += 1
            self.seconds += time.perf_counter() - started
            done, dice = self.done(steps_per_epoch), None
            if self.step % self.training.validate_every == 0 or done >= 1:
                dice = self.validate(tuning)
            used = None
            if output.codes is not None:
                used = perplexity(output.codes, self.network.config.codes)
            yield Progress(self.step, done, float(loss.detach()), rate, self.seconds, used, dice)

    def _learning_rate(self, done: float) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        warm = self.training.warm_up
        if done < warm:
            return self.training.learning_rate * (done / warm + 0.01)
        falling = (done - warm) / (1 - warm)
        return self.training.learning_rate * 0.5 * (1 + math.cos(math.pi * falling))

    def _batch(
        self, cases: Sequence[TrainingCase], extra: Sequence[TrainingCase], large: bool
    ) -> tuple[Tensor, Tensor]:
        how, count = self.augmentation, self.training.batch
        if large:
            stride, factor = self.network.config.stride, self.training.large
            how = replace(how, size=round(how.size * factor / stride) * stride)
            count = max(1, round(count / factor**2))
        images, targets = [], []
        for _ in range(count):
            pool = extra if extra and torch.rand(()) < self.training.extra_share else cases
            case = pool[int(torch.randint(len(pool), ()))]
            index = int(torch.randint(len(case.image), ()))
            channels = self.network.config.in_channels
            seen = neighbours([index], len(case.image), channels, case.step)[0]
            if how.orientation_free and torch.rand(()) < 0.5:
                seen = seen[::-1]
            if torch.rand(()) < how.alone:
                seen = np.full_like(seen, index)
            image, target = spatial_view(case.image[seen.copy()].float(), case.classes[index], how)
            images.append(intensity_view(image, how))
            targets.append(target)
        batch = torch.stack(images).to(self.device, memory_format=torch.channels_last)
        return batch, torch.stack(targets).to(self.device)

    def validate(self, cases: Sequence[TrainingCase]) -> tuple[float, ...]:
        """Mean Dice per structure over whole scans, with the averaged weights; () without cases."""
        if not cases:
            return ()
        network = self.averaged_network()
        scores = []
        for case in cases:
            predicted = []
            count = len(case.image)
            for indices in torch.arange(count).split(4):
                seen = neighbours(indices.tolist(), count, network.config.in_channels, case.step)
                slices = case.image[seen].float()
                batch = pad_to_multiple(slices, network.config.stride)
                with torch.inference_mode():
                    logits = network(batch.to(self.device)).logits
                height, width = slices.shape[-2:]
                predicted.append(logits.argmax(1)[:, :height, :width].cpu())
            scores.append(
                dice_per_class(torch.cat(predicted), case.classes, network.config.classes)
            )
        return tuple(torch.stack(scores).nanmean(0).tolist())

    def save(self) -> None:
        """Write everything a resume needs, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
            "training": asdict(self.training),
        }
        partial = self.folder / (STATE_FILE + ".partial")
        torch.save(state, partial)
        partial.replace(self.folder / STATE_FILE)

    def resume(self) -> bool:
        """Go on from the last save, if there is one.

        Raises InputError if it is damaged or of a network of other sizes.
        """
        file = self.folder / STATE_FILE
        if not file.is_file():
            return False
        try:
            # On the CPU first: a run begun on a GPU may go on without one.
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                f"Expected the state of a run with this preset and these labels in {file}, but it "
                "is another's or damaged; resume with the first settings, or use a new run folder."
            ) from error
        torch.set_rng_state(state["random"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True
