"""The training loop: a generator that yields progress, can be stopped anywhere and resumed.

Lightning Fabric handles devices, precision and processes.
"""

from __future__ import annotations

import io
import logging
import math
import pickle
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from l2gnet_core.augmentation.sampling import Sampler, TrainingCase
from l2gnet_core.errors import InputError
from l2gnet_core.files.atomic import replace_bytes
from l2gnet_core.inspect.codes import perplexity
from l2gnet_core.models.checkpoint import STATE_FILE
from l2gnet_core.network.config import NetworkConfig, differences
from l2gnet_core.network.device import memory_format, precision
from l2gnet_core.network.losses import segmentation_loss
from l2gnet_core.network.model import NetworkOutput, SegmentationNetwork
from l2gnet_core.network.processes import gathered
from l2gnet_core.preprocessing.images import network_inputs
from l2gnet_core.scores.metrics import dice_per_class

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: What loading raises for the state of another network, or for a file without a state.
_WRONG_STATE = (RuntimeError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how to train.

    epochs, steps, minutes: exactly one is set. An epoch is as many steps as draw, at first, as many
    slices as there are; the steps stay as many when batches become smaller. Minutes count training
    time only, and go on counting after a resume.
    batch: slices of a step, over all processes.
    warm_up: share of the run in which the learning rate rises.
    averaging: largest decay of the moving average of weights.
    extra_share: share of slices that the sampler draws from its extra cases.
    large_from, large: normalisation takes its statistics from crops while training, but from whole
        slices later. Small crops train quickly; after this share of the run, crops are `large`
        times as wide, as far as slices allow, and batches half as large if crops are much wider,
        which closes the gap (Touvron et al., "Fixing the train-test resolution discrepancy",
        NeurIPS 2019).
    mild_from: after this share of the run, augmentation is half as strong (He et al., "Data
        augmentation revisited: rethinking the distribution gap between clean and augmented data",
        2019).
    """

    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warm_up: float = 0.03
    averaging: float = 0.998
    seed: int = 0
    save_every_seconds: float = 60.0
    extra_share: float = 0.0
    large_from: float = 0.6
    large: float = 1.4
    mild_from: float = 0.6

    def __post_init__(self) -> None:
        if [self.epochs, self.steps, self.minutes].count(None) != 2:
            raise InputError(
                "Expected either epochs, steps or minutes to train for; give one of them."
            )
        for name in ("epochs", "steps", "minutes", "batch"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"Expected {name} above zero, but got {value}; give more.")


@dataclass(frozen=True)
class Progress:
    """One training step.

    done: share of the run, 0 to 1. seconds: of training so far; loading: how many of these were
    spent on drawing slices. perplexity: of the codes of the whole batch, over all processes, if
    the architecture has codes.
    dice: by structure, mean over the tuning scans; only on the last step of an epoch.
    best: did no epoch before have a higher mean Dice?
    """

    step: int
    epoch: int
    done: float
    loss: float
    learning_rate: float
    seconds: float
    loading: float
    perplexity: float | None
    dice: tuple[float, ...] | None = None
    best: bool = False


def saved_state(folder: Path) -> dict[str, Any] | None:
    """What `Trainer.save` wrote into a run folder, with "config" as a `NetworkConfig`; None if it
    wrote nothing.

    Raises InputError if it is damaged.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        return None
    try:
        # On the CPU, because a run begun on a GPU may be resumed without one.
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        state["config"] = NetworkConfig.from_json(state["config"])
    except (*_WRONG_STATE, EOFError, pickle.UnpicklingError) as error:
        raise _no_such_run(folder) from error
    return state


def _no_such_run(folder: Path) -> InputError:
    """The error for a run that cannot be resumed."""
    return InputError(
        f"Expected the state of a run with this preset and these labels in {folder / STATE_FILE}, "
        "but it is another's or damaged; resume with the first settings, or use a new run folder."
    )


def make_fabric(device: str = "cpu", devices: int = 1, nodes: int = 1) -> Fabric:
    """Lightning Fabric for `devices` GPUs, or processes on the CPU (gloo), on each of `nodes`
    machines.

    Call `launch` before training with several. Raises InputError if there are fewer GPUs, and for
    several devices on Windows.
    """
    from lightning_fabric import Fabric

    if sys.platform == "win32" and devices * nodes > 1:
        # PyTorch has no NCCL there, and Lightning starts further processes with the path of
        # l2gnet.exe without its suffix, which Python cannot run.
        raise InputError(
            f"Expected one device on Windows, but got {devices * nodes}; leave out --devices and "
            "--nodes, or train in Linux or in Windows' subsystem for Linux (WSL)."
        )
    # Its messages on how processes connect do not concern the user.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if device == "cuda" and devices > torch.cuda.device_count():
        raise InputError(
            f"Expected at most {torch.cuda.device_count()} devices, the GPUs of this machine, but "
            f"got --devices {devices}; ask for fewer."
        )
    return Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=precision(device),
    )


def require_startable(given: NetworkConfig, wanted: NetworkConfig) -> None:
    """Raise InputError unless a network can start with the weights of a given one, which may have
    fewer input slices."""
    channels = wanted.in_channels
    same = replace(given, in_channels=channels, supervised=wanted.supervised) == wanted
    if not same or given.in_channels > channels:
        # The message must not mention fewer slices, which are allowed.
        given = replace(given, in_channels=max(given.in_channels, channels))
        raise InputError(
            "Expected a model of the same architecture, preset and number of structures, and no "
            f"more slices, to start from, but it has {differences(given, wanted)}; ask for what it "
            "has, or begin with another model."
        )


def step_views(
    training: TrainingConfig, sampler: Sampler, stride: int, done: float
) -> tuple[int, int]:
    """How many slices a step draws over all processes, however many there are, and the width of
    their views in pixels. done: share of the run, 0 to 1."""
    size = sampler.view_size(stride)
    if done < training.large_from:
        return training.batch, size
    large = sampler.view_size(stride, training.large)
    # All or half of them, whichever is nearer to as many pixels: other numbers, such as 7 of 8,
    # several processes could not share.
    fewer = (size / large) ** 2 < 0.75
    return (training.batch + 1) // 2 if fewer else training.batch, large


def batches_of(training: TrainingConfig, sampler: Sampler, stride: int) -> list[int]:
    """How many slices steps draw over all processes, at first and near the end of a run."""
    times = (done for done in (0.0, training.large_from) if done < 1)
    return [step_views(training, sampler, stride, done)[0] for done in times]


def require_shareable(batches: Sequence[int], processes: int) -> None:
    """Raise InputError unless processes can share the batches of a run, as of `batches_of`,
    evenly."""
    if any(batch % processes for batch in batches):
        # Half of such a batch can be shared, too.
        unit = 2 * processes
        works = max(1, round(batches[0] / unit)) * unit
        if len(set(batches)) > 1:
            last, others = f", and {batches[-1]} near the end", f"another multiple of {unit}"
        else:
            # Before scans are read, nobody knows how large views become.
            last = ""
            others = (
                f"another multiple of {processes}, best of {unit}, because steps near the end may "
                "draw half as many"
            )
        raise InputError(
            f"Expected batches that {processes} devices can share evenly, but steps draw "
            f"{batches[0]} slices{last}; give --batch {works} or {others}."
        )


@torch.no_grad()
def _moving_average(
    averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor, most: float
) -> None:
    """Move averages towards current values, by at least 1 − `most` a step.

    Early steps move them faster, so that short runs forget their initial weights, as in the
    averages of timm and TensorFlow.
    """
    decay = min(most, (1 + int(steps)) / (10 + int(steps)))
    torch._foreach_lerp_(list(averaged), list(current), 1 - decay)


class _NetworkWithLoss(nn.Module):
    """Network and loss in one module, because Fabric passes tensors on, but no dataclasses."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        output: NetworkOutput = self.network(images)
        return segmentation_loss(output, targets), output.codes


class Trainer:
    """State of one run: network, averaged network, optimiser, step and time spent."""

    def __init__(
        self, network: SegmentationNetwork, training: TrainingConfig, folder: Path, fabric: Fabric
    ) -> None:
        self.training = training
        self.folder = folder
        self.fabric = fabric
        self.network = network
        self._format = memory_format(fabric.device.type)
        # Missing from the annotations of nn.Module.to.
        self.network.to(fabric.device, memory_format=self._format)  # type: ignore[call-overload]
        # It copies buffers: codebook vectors are moving averages already, and restarts replace them
        # abruptly.
        self.average = AveragedModel(
            self.network,
            multi_avg_fn=partial(_moving_average, most=training.averaging),
        )
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
        )
        self._parallel, self.optimizer = fabric.setup(_NetworkWithLoss(self.network), optimizer)
        self.step = 0
        self.seconds = 0.0
        self.loading = 0.0
        self.best: float | None = None

    def done(self, steps_per_epoch: int) -> float:
        """Share of the run that is done, 0 to 1."""
        if self.training.minutes is not None:
            # Processes must end together, but their clocks differ.
            seconds = self.fabric.broadcast(self.seconds)
            return min(1.0, seconds / (60 * self.training.minutes))
        steps = self.training.steps or (self.training.epochs or 0) * steps_per_epoch
        return min(1.0, self.step / steps)

    def is_over(self, sampler: Sampler) -> bool:
        """Is the run finished? All processes must call this together."""
        return self.done(self._steps_per_epoch(sampler)) >= 1

    def _steps_per_epoch(self, sampler: Sampler) -> int:
        return math.ceil(sampler.slices / self.training.batch)

    def start_from(self, network: SegmentationNetwork) -> None:
        """Start with the weights of another network, which may have fewer input slices.

        Raises InputError if it has another architecture or size.
        """
        wanted, given = self.network.config, network.config
        require_startable(given, wanted)
        weights = network.state_dict()
        first = "encoder.blocks.0.0.weight"
        more = (wanted.in_channels - given.in_channels) // 2
        # Weights of additional slices start at zero, so that the outputs are the same at first.
        weights[first] = F.pad(weights[first], (0, 0, 0, 0, more, more))
        for target in (self.network, self.average.module):
            # Only coarser heads, which inference does not use, may be missing.
            target.load_state_dict({**target.state_dict(), **weights})

    def averaged_network(self) -> SegmentationNetwork:
        """The network to save: the moving average of the weights, with the current codebook."""
        return cast(SegmentationNetwork, self.average.module).eval()

    def run(self, sampler: Sampler, tuning: Sequence[TrainingCase]) -> Iterator[Progress]:
        """Train until done, yielding after each step. Raises InputError if the loss diverges."""
        self._parallel.train()
        steps_per_epoch = self._steps_per_epoch(sampler)
        while (done := self.done(steps_per_epoch)) < 1:
            started = time.perf_counter()
            images, targets = self._batch(sampler, done)
            loaded = time.perf_counter()
            rate = self._learning_rate(done)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, codes = self._parallel(images, targets)
            self.optimizer.zero_grad(set_to_none=True)
            self.fabric.backward(loss)
            norm = self.fabric.clip_gradients(
                self._parallel, self.optimizer, max_norm=1.0, error_if_nonfinite=False
            )
            if norm is not None and not norm.isfinite():
                raise InputError(
                    f"Expected numbers to learn from, but at step {self.step + 1} the training ran "
                    "away to infinity; begin again with a smaller --learning-rate, and see whether "
                    "l2gnet check finds scans that hold no numbers."
                )
            self.optimizer.step()
            self.average.update_parameters(self.network)
            self.step += 1
            mean_loss = float(self._over_processes(loss.detach(), "mean"))
            self.loading += loaded - started
            self.seconds += time.perf_counter() - started
            done, dice, best = self.done(steps_per_epoch), None, False
            if self.step % steps_per_epoch == 0 or done >= 1:
                dice = self.validate(tuning)
                best = self._is_best(dice)
            used = None
            if codes is not None:
                used = perplexity(gathered(codes).flatten().bincount().cpu().numpy())
            yield Progress(
                step=self.step,
                epoch=math.ceil(self.step / steps_per_epoch),
                done=done,
                loss=mean_loss,
                learning_rate=rate,
                seconds=self.seconds,
                loading=self.loading,
                perplexity=used,
                dice=dice,
                best=best,
            )

    def _is_best(self, dice: Sequence[float]) -> bool:
        """Did no epoch before have a higher mean Dice? Without tuning scans, each epoch is best."""
        scores = [score for score in dice if not math.isnan(score)]
        mean = sum(scores) / len(scores) if scores else -math.inf
        if self.best is not None and mean < self.best:
            return False
        self.best = mean
        return True

    def _learning_rate(self, done: float) -> float:
        """Linear warm-up, then cosine decay to zero."""
        warm = self.training.warm_up
        if done < warm:
            return self.training.learning_rate * (done / warm + 0.01)
        falling = (done - warm) / (1 - warm)
        return self.training.learning_rate * 0.5 * (1 + math.cos(math.pi * falling))

    def _batch(self, sampler: Sampler, done: float) -> tuple[Tensor, Tensor]:
        """This process's part of a step: images (B,C,S,S) float32, targets (B,S,S) long."""
        if done >= self.training.mild_from:
            sampler = sampler.milder()
        together, size = step_views(self.training, sampler, self.network.config.stride, done)
        count = together // self.fabric.world_size
        first = self.fabric.global_rank * count
        images, targets = sampler.batch(
            self.step, range(first, first + count), size, self.fabric.device
        )
        return images.contiguous(memory_format=self._format), targets

    def validate(self, cases: Sequence[TrainingCase]) -> tuple[float, ...]:
        """Mean Dice by structure over whole scans, with the averaged weights; () without cases.

        NaN for a structure that no case has.
        """
        if not cases:
            return ()
        network = self.averaged_network()
        weights = next(network.parameters())
        scores = torch.zeros(len(cases), network.config.classes - 1, device=self.fabric.device)
        for number in range(self.fabric.global_rank, len(cases), self.fabric.world_size):
            case = cases[number]
            height, width = case.image.shape[-2:]
            predicted = []
            for batch in network_inputs(case.image, network.config, case.step):
                with torch.inference_mode(), self.fabric.autocast():
                    logits = network(batch.to(weights)).logits
                predicted.append(logits.argmax(1)[:, :height, :width].cpu())
            scores[number] = dice_per_class(
                torch.cat(predicted), case.classes, network.config.classes
            )
        # Each process adds zero for scans that others scored.
        return tuple(self._over_processes(scores, "sum").nanmean(0).tolist())

    def _over_processes(self, values: Tensor, how: str) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(values, reduce_op=how))

    def save(self) -> None:
        """Write all that a resume needs. Raises OutputError; the earlier state is then kept."""
        if not self.fabric.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": self.network.config.to_json(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
            "loading": self.loading,
            "best": self.best,
        }
        # Not directly into the file, because PyTorch does not report a full disk.
        content = io.BytesIO()
        torch.save(state, content)
        replace_bytes(self.folder / STATE_FILE, content.getbuffer())

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `saved_state` read.

        Raises InputError if it is of another network.
        """
        if state["config"] != self.network.config:
            raise InputError(
                f"Expected the first settings of the run in {self.folder}, but it has "
                f"{differences(state['config'], self.network.config)}; resume with what it has, or "
                "use a new run folder."
            )
        try:
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            self.loading, best = float(state["loading"]), state["best"]
            self.best = None if best is None else float(best)
            torch.set_rng_state(state["random"])
        except _WRONG_STATE as error:
            raise _no_such_run(self.folder) from error
