"""What the architectures cost on one body: parameters, operations, time, memory.

    python benchmarks/cost.py [--sizes 224 512] [--turns N] [--threads T] [--device cuda]

Each row is one architecture in evaluation mode on one slice, float32. The architectures take turns,
so that other load of the machine affects all of them alike; times are medians over the turns.
"bottleneck" is the part between encoder and decoder; "ratio" is `transunet`'s whole time divided by
the row's. The published TransUNet (R50-ViT-B/16, Chen et al. 2021) is there for its size and time
only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from _published_transunet import PublishedTransUNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from l2gnet_core.network.config import ARCHITECTURES, preset
from l2gnet_core.network.model import SegmentationNetwork, build

CLASSES = 4
PUBLISHED = "TransUNet, as published"


def milliseconds(call: Callable[[], object], device: str) -> float:
    """The time of one call, until its last operation has finished."""
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


def parameters(module: nn.Module) -> int:
    """The number of parameters, codes included."""
    return sum(p.numel() for p in module.parameters()) + sum(
        b.numel() for name, b in module.named_buffers() if name.endswith("vectors")
    )


def operations(network: nn.Module, image: Tensor) -> float:
    """Multiply-adds of one forward pass, in billions."""
    # FLOPs of the fused path of PyTorch's transformer layers would not be counted.
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter:
        network(image)
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() / 2e9


def peak_memory(network: nn.Module, image: Tensor) -> float | None:
    """Peak MB of a pass on a GPU; PyTorch does not report it for a CPU."""
    if image.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    network(image)
    return torch.cuda.max_memory_allocated() / 1e6


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    networks: dict[str, nn.Module] = {
        name: build(preset("small", CLASSES, architecture=name)) for name in ARCHITECTURES
    }
    networks[PUBLISHED] = PublishedTransUNet(CLASSES)
    for network in networks.values():
        network.to(options.device, memory_format=torch.channels_last).eval()
    for size in options.sizes:
        with torch.inference_mode():
            measure(networks, size, options.turns, options.device)


def measure(networks: dict[str, nn.Module], size: int, turns: int, device: str) -> None:
    """Print the table of one image size."""
    image = torch.rand(1, 1, size, size, device=device).to(memory_format=torch.channels_last)
    whole: dict[str, list[float]] = {name: [] for name in networks}
    middle: dict[str, list[float]] = {name: [] for name in networks}
    features = {
        name: network.encoder(image)[-1]
        for name, network in networks.items()
        if isinstance(network, SegmentationNetwork)
    }
    for turn in range(turns + 2):
        for name, network in networks.items():
            spent = milliseconds(lambda network=network: network(image), device)
            inner = float("nan")
            if isinstance(network, SegmentationNetwork):
                inner = milliseconds(
                    lambda network=network, name=name: network.bottleneck(features[name]), device
                )
            if turn >= 2:  # the first two warm up
                whole[name].append(spent)
                middle[name].append(inner)
    medians = {name: statistics.median(times) for name, times in whole.items()}
    print(f"\n{size}×{size}, {device}, {torch.get_num_threads()} threads, {turns} turns\n")
    print(
        "| architecture | parameters (M) | bottleneck's | GMAC | ms | bottleneck's | ratio | MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, network in networks.items():
        inside = spent_inside = "–"
        if isinstance(network, SegmentationNetwork):
            inside = f"{parameters(network.bottleneck) / 1e6:.2f}"
            spent_inside = f"{statistics.median(middle[name]):.2f}"
        memory = peak_memory(network, image)
        print(
            f"| {name} | {parameters(network) / 1e6:.2f} | {inside} "
            f"| {operations(network, image):.2f} | {medians[name]:.1f} "
            f"| {spent_inside} "
            f"| {medians['transunet'] / medians[name]:.2f} "
            f"| {'–' if memory is None else f'{memory:.0f}'} |"
        )


if __name__ == "__main__":
    main()
