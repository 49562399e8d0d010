"""Training throughput against MONAI's U-Nets of the same widths, on the same slices.

    python benchmarks/training_speed.py [--turns N] [--steps N] [--size N] [--device cuda]

The networks take turns of a few training steps, so that other load of the machine affects all of
them alike; the table gives medians over the turns. All draw their slices from our sampler, whose
share of the time is the column "loading". MONAI's networks train with MONAI's DiceCELoss in the
loop of its tutorials. `BasicUNet` has the layout of our encoder and decoder (two convolutions at
full resolution); `UNet` works at half resolution from its first layer on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet, UNet
from torch import nn

from l2gnet_core.augmentation.sampling import Sampler, TrainingCase
from l2gnet_core.augmentation.views import Augmentation
from l2gnet_core.network.config import preset
from l2gnet_core.network.device import precision
from l2gnet_core.network.model import build
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.phantom import cardiac_phantom
from l2gnet_core.training.loop import Trainer, TrainingConfig, make_fabric

CLASSES, BATCH = 4, 8
WIDTHS = preset("small", CLASSES).widths
Step = Callable[[int], float]


def phantoms(count: int = 8) -> list[TrainingCase]:
    """Drawn hearts."""
    cases = []
    for seed in range(count):
        phantom = cardiac_phantom(seed)
        scan = normalise(phantom.image, intensity_window(phantom.image))
        cases.append(TrainingCase(torch.from_numpy(scan).half(), torch.from_numpy(phantom.labels)))
    return cases


def ours(architecture: str, sampler: Sampler, device: str) -> Step:
    """A step of our trainer; returns the seconds that went into loading."""
    network = build(preset("small", CLASSES, architecture=architecture, supervised=2))
    training = TrainingConfig(steps=10**9, batch=BATCH, large_from=2)
    trainer = Trainer(network, training, Path(tempfile.mkdtemp()), make_fabric(device))
    progress = trainer.run(sampler, [])

    def step(_: int) -> float:
        before = trainer.loading
        next(progress)
        return trainer.loading - before

    return step


def monais(network: nn.Module, sampler: Sampler, device: str) -> Step:
    """A step of the plain loop of MONAI's tutorials, in the precision that ours has."""
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    low = precision(device) == "bf16-mixed"

    def step(number: int) -> float:
        started = time.perf_counter()
        images, targets = sampler.batch(number, range(BATCH), sampler.how.size, device)
        loading = time.perf_counter() - started
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=low):
            value = loss(network(images), targets[:, None])
        value.backward()
        optimizer.step()
        float(value.detach())
        return loading

    return step


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    sampler = Sampler(phantoms(), Augmentation(size=options.size), 1, seed=0)
    basic = BasicUNet(2, 1, CLASSES, (*WIDTHS, WIDTHS[0]))
    strided = UNet(2, 1, CLASSES, WIDTHS, (2,) * (len(WIDTHS) - 1), num_res_units=2)
    contenders = {
        "l2gnet": ours("l2gnet", sampler, options.device),
        "unet": ours("unet", sampler, options.device),
        "MONAI BasicUNet": monais(basic, sampler, options.device),
        "MONAI UNet": monais(strided, sampler, options.device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    loading: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.turns + 1):
        for name, step in contenders.items():
            started = time.perf_counter()
            loads = [step(turn * options.steps + number) for number in range(options.steps)]
            if turn:  # the first warms up
                seconds[name].append((time.perf_counter() - started) / options.steps)
                loading[name].append(sum(loads) / options.steps)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print("| network | slices/s | times MONAI BasicUNet | times MONAI UNet | loading |")
    print("|---|---|---|---|---|")
    for name, median in medians.items():
        ratios = [medians[peer] / median for peer in ("MONAI BasicUNet", "MONAI UNet")]
        share = statistics.median(loading[name]) / median
        print(
            f"| {name} | {BATCH / median:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {share:.0%} |"
        )


if __name__ == "__main__":
    main()
