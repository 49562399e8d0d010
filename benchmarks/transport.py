"""Our Sinkhorn against POT's batched solvers: forward, and backward through the plan.

    python benchmarks/transport.py [--repeats N] [--threads T] [--device cuda]

All solvers do the same number of iterations on the same cosine costs. They take turns in one run,
so that other load of the machine affects all of them alike; the table gives medians over the turns.
POT's default gradient ("envelope") does not reach the plan, so POT runs with "autodiff". `log` and
`plain` are its two Sinkhorn methods. `plain` works on exp(−M/ε) and fails in float32 for small ε.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import ot.batch
import torch
from torch import Tensor

from l2gnet_core.network.transport import cosine_cost, sinkhorn

SIZES = ((8, 100, 64), (8, 196, 64), (4, 1024, 64))
CHANNELS, EPSILON, ITERATIONS = 256, 0.1, 16


def ours(cost: Tensor, mass: Tensor) -> Tensor:
    return sinkhorn(cost, mass, EPSILON, ITERATIONS)


def pot(method: str) -> Callable[[Tensor, Tensor], Tensor]:
    def solve(cost: Tensor, mass: Tensor) -> Tensor:
        # POT updates rows first and ends on columns. On the transposed problem that is our order.
        # `mass` is uniform, which is its default. tol=0 keeps the number of iterations fixed.
        return ot.batch.solve_batch(
            cost.transpose(1, 2),
            EPSILON,
            max_iter=ITERATIONS,
            tol=0,
            method=method,
            grad="autodiff",
        ).plan.transpose(1, 2)

    return solve


SOLVERS = {"ours": ours, "POT log": pot("log_sinkhorn"), "POT plain": pot("sinkhorn")}


def measure(solve: Callable[[Tensor, Tensor], Tensor], cost: Tensor, mass: Tensor) -> list[float]:
    """Seconds of the forward pass and of forward and backward."""

    def now() -> float:
        if cost.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    leaf = cost.clone().requires_grad_()
    started = now()
    with torch.no_grad():
        solve(leaf, mass)
    forward = now()
    # Squared, so that the gradient of the plan is not constant.
    solve(leaf, mass).square().sum().backward()
    return [forward - started, now() - forward]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"ε = {EPSILON}, {ITERATIONS} iterations, float32, {options.device}, "
        f"{options.threads} threads, PyTorch {torch.__version__}, POT {ot.__version__}"
    )
    print(f"{'(B, n, R)':16}{'solver':12}{'forward ms':>12}{'fwd+bwd ms':>12}{'× ours':>8}")
    for batch, rows, references in SIZES:
        codes = torch.randn(batch, rows, CHANNELS, device=options.device)
        reference = torch.randn(references, CHANNELS, device=options.device)
        cost = cosine_cost(codes, reference)
        mass = torch.full((batch, rows), 1 / rows, device=options.device)
        wanted = ours(cost, mass)
        for name, solve in SOLVERS.items():
            difference = rows * references * (solve(cost, mass) - wanted).abs().max()
            assert difference < 1e-4, f"{name} computes something else: {difference}"
        times: dict[str, list[list[float]]] = {name: [] for name in SOLVERS}
        for turn in range(options.repeats + 3):
            for name, solve in SOLVERS.items():
                seconds = measure(solve, cost, mass)
                if turn >= 3:  # the first turns warm up
                    times[name].append(seconds)
        medians = {
            name: [1e3 * statistics.median(column) for column in zip(*rows_, strict=True)]
            for name, rows_ in times.items()
        }
        for name, (forward, both) in medians.items():
            ratio = both / medians["ours"][1]
            size = f"({batch}, {rows}, {references})"
            print(f"{size:16}{name:12}{forward:12.2f}{both:12.2f}{ratio:8.2f}")


if __name__ == "__main__":
    main()
