"""Traces of scans: random ones, and those of a network with known results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.config import preset
from l2gnet_core.network.model import NetworkOutput
from l2gnet_core.network.transport import transport_codes
from l2gnet_core.segmenting.cells import cell_grid
from l2gnet_core.segmenting.slice_view import SliceView, field_of
from l2gnet_core.segmenting.trace import SliceTrace, Trace, empty_trace

STRIDE = 16


def new_trace(model: Model, scan, grid, axis) -> Trace:
    """An empty trace of a scan."""
    return empty_trace(model, grid, axis, field_of(model.card, grid, axis, scan))


class BlockMeans(torch.nn.Module):
    """A network without weights whose code error is the mean intensity of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.config = replace(preset("tiny", 3), architecture="vqunet")

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        means = torch.nn.functional.avg_pool2d(images[:, 0], STRIDE)
        logits = torch.zeros(len(images), 3, *images.shape[-2:])
        codes = torch.zeros_like(means, dtype=torch.long)
        return NetworkOutput(logits, (), torch.zeros(()), codes, None, means)


def made_up(
    seed: int,
    slices: int = 3,
    size: tuple[int, int] = (4, 5),
    codes: int = 9,
    references: int | None = 6,
    iterations: int = 4,
) -> Trace:
    """A trace with cells of 16×16 pixels, random codes, and plans of real transport."""
    rng = np.random.default_rng(seed)
    height, width = size[0] * STRIDE, size[1] * STRIDE
    shape = (slices, height, width)
    view = SliceView((0, 1, 2), (False, False, False), shape, (height, width), 1)
    vectors = rng.normal(size=(codes, 6)).astype(np.float32)
    reference = None
    if references is not None:
        reference = rng.normal(size=(references, 6)).astype(np.float32)
    trace = Trace(cell_grid(view, STRIDE), vectors, reference)
    for index in range(slices):
        drawn = (rng.random(size) ** 2 * codes).astype(np.int16)
        row_codes = rows = None
        if reference is not None:
            _, plan = transport_codes(
                torch.from_numpy(vectors).double(),
                torch.from_numpy(drawn.astype(np.int64)).reshape(1, -1),
                torch.from_numpy(reference).double(),
                0.1,
                iterations,
            )
            rows = (plan.coupling[0] / plan.row_mass[0][:, None]).float().numpy()
            row_codes = plan.row_codes[0].numpy().astype(np.int16)
        error = rng.random(size).astype(np.float32)
        entropy = rng.random((height, width)).astype(np.float16)
        trace.add(index, SliceTrace(drawn, error, entropy, row_codes, rows))
    return trace
