"""All results of inspecting one scan with one model, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.inspect.codes import (
    code_counts,
    dead_codes,
    examples,
    organ_table,
    perplexity,
    purity,
)
from l2gnet_core.inspect.plans import code_plan, column_residual, organ_plan, partners
from l2gnet_core.inspect.populations import Unlikeness, unlikeness
from l2gnet_core.inspect.uncertainty import (
    SliceDoubt,
    expects_dice,
    ranked_slices,
)
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.trace import Trace


@dataclass(frozen=True, eq=False)
class Findings:
    """The results of inspecting a scan (z,y,x).

    mask: (z,y,x), the model's answer, untidied. names: of the L structures, background first.
    voxels: (n,h,w,L), number of voxels of each structure in each cell. counts: (K,), cells by code.
    table: (K,L), see `organ_table`. plan: (K,K), see `code_plan`. between: (L,L), see `organ_plan`;
    both None without transport. slices: in the order in which to check them. unlike: None if the
    card has no code statistics.
    """

    card: ModelCard
    grid: Grid
    scan: NDArray[np.generic]
    trace: Trace
    mask: NDArray[np.integer]
    names: list[str]
    voxels: NDArray[np.int32]
    counts: NDArray[np.int64]
    table: NDArray[np.int64]
    plan: NDArray[np.float64] | None
    between: NDArray[np.float64] | None
    slices: list[SliceDoubt]
    unlike: Unlikeness | None

    @property
    def expects_dice(self) -> bool:
        """Is the expected error of slices valid for this model?"""
        return expects_dice(self.card.labels.names.values())

    @property
    def telling(self) -> list[int]:
        """Codes whose cells hold voxels of a structure, those with most of them first."""
        structure = self.table[:, 1:].sum(1)
        order = np.argsort(-structure, kind="stable")
        return [int(code) for code in order if structure[code]]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without voxels and without the file's name. Codes and references count from
        1, slices from 0 as they are stored. The shape is that of (z,y,x), while `slicing_axis`
        counts the stored array's axes."""
        cells, seen = self.trace.cells, [int(code) for code in np.flatnonzero(self.counts)]
        order = sorted(seen, key=lambda code: -int(self.counts[code]))
        found: dict[str, Any] = {
            "model": self.card.name,
            "shape": self.grid.shape,
            "slicing_axis": self.grid.stored_axes.index(cells.axis),
            "slicing_axis_zyx": cells.axis,
            "cells": {"size": cells.size, "voxels_per_cell": cells.pitch},
            "codes": len(self.counts),
            "perplexity": round(perplexity(self.counts), 2),
            "unused_codes": [code + 1 for code in dead_codes(self.counts)],
            "check_first": [self._slice(one) for one in self.slices],
            "usage": [self._code(code) for code in order],
        }
        if self.unlike is not None:
            found["distance_from_training"] = round(self.unlike.distance, 5)
            found["percentile_of_training_scans"] = self.unlike.percentile
        if self.between is not None:
            found["column_residual"] = float(np.nanmax(column_residual(self.trace)))
            found["structures"] = self.names
            found["plan_between_structures"] = np.round(self.between, 8).tolist()
        return found

    def _slice(self, doubt: SliceDoubt) -> dict[str, Any]:
        told = {"slice": doubt.index, "voxels_expected_wrong": round(doubt.voxels, 1)}
        if self.expects_dice:
            told["expected_error"] = round(doubt.expected, 5)
        return told

    def _code(self, code: int) -> dict[str, Any]:
        total = int(self.counts.sum())
        pure = float(purity(self.table[code : code + 1])[0])
        told: dict[str, Any] = {
            "code": code + 1,
            "cells": int(self.counts[code]),
            "share": round(int(self.counts[code]) / total, 6),
            "voxels": dict(zip(self.names, self.table[code].tolist(), strict=True)),
            "purity": None if np.isnan(pure) else round(pure, 4),
            "examples": [
                {"slice": one.cell[0], "box_zyx": [[s.start, s.stop] for s in one.box]}
                for one in examples(self.trace, code, 3)
            ],
        }
        if self.plan is not None:
            told["partners"] = [
                {
                    "code": one.code + 1,
                    "share": round(one.share, 5),
                    "times_chance": round(one.times_chance, 3),
                }
                for one in partners(self.plan, code)
            ]
        return told


def find(
    card: ModelCard, grid: Grid, scan: NDArray[np.generic], trace: Trace, mask: NDArray[np.integer]
) -> Findings:
    """Compute all results for a scan (z,y,x) from its trace and the model's answer (z,y,x)."""
    ids = [0, *(label.id for label in card.labels)]
    voxels = trace.cells.counts(mask, ids)
    has_plans = trace.plan_rows is not None
    known = card.codes if card.codes and len(card.codes.counts) == len(trace.vectors) else None
    return Findings(
        card=card,
        grid=grid,
        scan=scan,
        trace=trace,
        mask=mask,
        names=["background", *(label.name for label in card.labels)],
        voxels=voxels,
        counts=code_counts(trace),
        table=organ_table(trace, voxels),
        plan=code_plan(trace) if has_plans else None,
        between=organ_plan(trace, voxels) if has_plans else None,
        slices=ranked_slices(trace, mask),
        unlike=None if known is None else unlikeness(trace, known),
    )
