"""A record of what a network saw of a scan, from which `l2gnet_core.inspect` computes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.network.config import WITH_CODES
from l2gnet_core.segmenting.cells import CellGrid, cell_grid
from l2gnet_core.segmenting.slice_view import Field, SliceView, slice_view

if TYPE_CHECKING:
    from torch import Tensor

    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.network.config import NetworkConfig
    from l2gnet_core.network.model import NetworkOutput, SegmentationNetwork
    from l2gnet_core.scans.volume import Grid, Volume


@dataclass(frozen=True, eq=False)
class SliceTrace:
    """What a network saw of one slice, its axes as the scan stores them.

    codes: (h,w) int16, indices into the codebook. error: (h,w) float32, mean squared distance per
    channel between a token and its code. entropy: (H,W) float16, of the class probabilities of each
    pixel, 0 (sure) to 1 (all classes equally likely). row_codes: (m,), the codes that occur, and
    rows: (m,R) float32, the shares of their mass that the plan sends to each reference; None
    without transport. With several views (`ModelCard.views`), codes are of the unturned slice.
    """

    codes: NDArray[np.int16]
    error: NDArray[np.float32]
    entropy: NDArray[np.float16]
    row_codes: NDArray[np.int16] | None
    rows: NDArray[np.float32] | None


def slice_traces(output: NetworkOutput, probabilities: Tensor, view: SliceView) -> list[SliceTrace]:
    """One trace for each slice of a batch.

    output: of the unturned slices. probabilities: (B,classes,H,W), summing to one at every pixel,
    on the slices' own pixels.
    """
    import torch

    assert output.codes is not None
    assert output.code_error is not None
    codes = output.codes.cpu().numpy().astype(np.int16)
    errors = output.code_error.float().cpu().numpy()
    entropy = torch.special.entr(probabilities).sum(1) / math.log(probabilities.shape[1])
    entropies = entropy.clamp(0, 1).to("cpu", torch.float16).numpy()
    traces = []
    for number, (code, error) in enumerate(zip(codes, errors, strict=True)):
        row_codes = rows = None
        if output.plan is not None:
            of_rows = output.plan.row_codes[number]
            real = of_rows >= 0
            coupling = output.plan.coupling[number][real]
            rows = (coupling / coupling.sum(1, keepdim=True)).float().cpu().numpy()
            row_codes = of_rows[real].cpu().numpy().astype(np.int16)
        traces.append(
            SliceTrace(
                view.stored(code).copy(),
                view.stored(error).copy(),
                view.whole(entropies[number]),
                row_codes,
                rows,
            )
        )
    return traces


@dataclass(eq=False)
class Trace:
    """What a network saw of a scan. Slices are added in any order, each by whoever takes in the
    answer for it, so that the slices seen are those that hold an answer.

    cells: the cells of the scan. vectors: (K,d), the codebook. references: (R,d), None without
    transport. codes: (n,h,w) int16, −1 in slices not seen yet. error: (n,h,w). entropy: (n,H,W).
    plan_rows: (n,K,R), the rows of each slice's plan, each summing to one, zero for codes that do
    not occur; None without transport. See `SliceTrace` for the units.
    """

    cells: CellGrid
    vectors: NDArray[np.float32]
    references: NDArray[np.float32] | None = None
    #: How often a slice was added; results computed at another count are out of date.
    added: int = field(default=0, init=False)
    codes: NDArray[np.int16] = field(init=False)
    error: NDArray[np.float32] = field(init=False)
    entropy: NDArray[np.float16] = field(init=False)
    plan_rows: NDArray[np.float32] | None = field(init=False)

    def __post_init__(self) -> None:
        cells, n = self.cells, self.cells.count
        self.codes = np.full((n, *cells.size), -1, np.int16)
        self.error = np.zeros((n, *cells.size), np.float32)
        self.entropy = np.zeros((n, len(cells.rows), len(cells.columns)), np.float16)
        self.plan_rows = None
        if self.references is not None:
            shape = (n, len(self.vectors), len(self.references))
            self.plan_rows = np.zeros(shape, np.float32)

    def add(self, index: int, trace: SliceTrace) -> None:
        """Add what was seen of slice `index` of the scan."""
        self.error[index] = trace.error
        self.entropy[index] = trace.entropy
        if self.plan_rows is not None and trace.row_codes is not None:
            self.plan_rows[index] = 0
            self.plan_rows[index, trace.row_codes] = trace.rows
        # By its codes a slice counts as seen. The number comes last: what another thread computes
        # meanwhile is out of date.
        self.codes[index] = trace.codes
        self.added += 1

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(n,): which slices have been added."""
        return self.codes[:, 0, 0] >= 0

    @property
    def plans(self) -> NDArray[np.float32]:
        """`plan_rows`. Raises InputError for a model without transport."""
        if self.plan_rows is None:
            raise InputError(
                "Expected a model with transport plans, but this one has codes only; look at its "
                "codes, or choose an l2gnet model."
            )
        return self.plan_rows

    def same_codes(self, other: Trace) -> bool:
        """Has another trace the same codebook and the same references?"""
        mine, its = self.references, other.references
        return np.array_equal(self.vectors, other.vectors) and (
            mine is its if mine is None or its is None else np.array_equal(mine, its)
        )

    def frequencies(self) -> NDArray[np.float64]:
        """(n,K): share of a slice's cells with each code; zero in slices not seen."""
        n, k = len(self.codes), len(self.vectors)
        flat = self.codes.reshape(n, -1).astype(np.intp) + np.arange(n)[:, None] * k
        counts = np.bincount(flat[self.seen].ravel(), minlength=n * k).reshape(n, k)
        return np.asarray(counts / self.codes[0].size)


def empty_trace(model: Model, grid: Volume | Grid, axis: int, field: Field) -> Trace:
    """An empty trace for what a model will see along `axis` of a scan with this `field_of`.

    Raises InputError if the model has no codes, or cannot see this scan.
    """
    network = model.network
    check_codes(network.config)
    view = slice_view(model.card, grid, axis, margins=field.margins)
    reference = network.reference
    return Trace(
        cell_grid(view, network.config.stride),
        code_vectors(network),
        None if reference is None else reference.detach().float().cpu().numpy(),
    )


def code_vectors(network: SegmentationNetwork) -> NDArray[np.float32]:
    """The codebook (K,d) of a network that has one."""
    book = network.codebook
    assert book is not None
    return np.asarray(book.vectors.float().cpu().numpy())


def check_codes(config: NetworkConfig) -> None:
    """Raises InputError if networks of this kind have no codes."""
    if config.architecture not in WITH_CODES:
        raise InputError(
            f"Expected a model with a codebook ({', '.join(WITH_CODES)}), but this one is of the "
            f"architecture {config.architecture}, which has no codes to look at; choose another "
            "model."
        )
