"""Inspection of a file, with the results in a folder: what `l2gnet inspect` does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2gnet_core.errors import InputError
from l2gnet_core.files import format_of, read_volume, write_labels
from l2gnet_core.files.atomic import replace_bytes
from l2gnet_core.files.nifti import write_map
from l2gnet_core.inspect.findings import Findings, find
from l2gnet_core.inspect.page import page
from l2gnet_core.inspect.pictures import pictures
from l2gnet_core.inspect.uncertainty import kinds_of_doubt, uncertainty_maps
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.scans.volume import Grid, oriented_as, slicing_axis
from l2gnet_core.segmenting.predict import label_lookup, predict_slices
from l2gnet_core.segmenting.slice_view import field_of
from l2gnet_core.segmenting.suitability import mismatches, with_mismatches
from l2gnet_core.segmenting.trace import empty_trace

PAGE_FILE = "index.html"
TABLES_FILE = "inspect.json"
#: Files that only models with transport give.
PLAN_FILES = ("plan.nii.gz", "plan.json", "plan.png", "references.nii.gz", "references.png",
              "uncertainty-plan.nii.gz")  # fmt: skip
#: All files that an inspection may write.
FILES = (PAGE_FILE, TABLES_FILE, "codes.nii.gz", "slices.png", "usage.png",
         "uncertainty-combined.nii.gz", "uncertainty-softmax.nii.gz",
         "uncertainty-neighbours.nii.gz", "uncertainty-quantisation.nii.gz",
         *PLAN_FILES)  # fmt: skip


@dataclass(frozen=True)
class InspectProgress:
    """Share done, 0 to 1, and new warnings for the user."""

    done: float
    warnings: tuple[str, ...] = ()


def inspect_file(
    image: Path,
    model: Model,
    folder: Path,
    device: str = "cpu",
    axis: int | None = None,
    orientation: str | None = None,
    frame: int = 0,
) -> Iterator[InspectProgress]:
    """Segment one image and write to `folder` what the model saw, yielding progress.

    axis: slicing axis of the stored array, instead of the card's rule. orientation: letters for a
    scan whose file gives none. frame: of a time series, from 0. Raises InputError, also for a
    folder with scans, or with files that `l2gnet inspect` would replace and did not write, and
    OutputError.
    """
    _require_replaceable(folder)
    volume = read_volume(image)
    frames = list(volume.frames)
    if not 0 <= frame < len(frames):
        raise InputError(
            f"Expected a frame between 0 and {len(frames) - 1} of this scan, but got {frame}."
        )
    scan, warnings = frames[frame], list(volume.warnings)
    if len(frames) > 1:
        warnings.append(f"A time series of {len(frames)} frames: frame {frame} is inspected.")
    grid = volume.grid.frame
    seen_grid = oriented_as(grid, orientation) if orientation else grid
    along = slicing_axis(seen_grid, model.card.slicing, axis)
    field = field_of(model.card, seen_grid, along, scan)
    trace = empty_trace(model, seen_grid, along, field)
    found = mismatches(model.card, seen_grid, along, field)
    yield InspectProgress(0.0, tuple(with_mismatches(warnings, found)))
    mask = np.zeros(scan.shape, label_lookup(model.card).dtype)
    done = 0
    for slice in predict_slices(
        model, scan, seen_grid, along, device=device, traced=True, field=field
    ):
        if slice is None:
            continue
        np.moveaxis(mask, along, 0)[slice.index] = slice.labels
        assert slice.trace is not None
        trace.add(slice.index, slice.trace)
        done += 1
        notice = () if slice.notice is None else (slice.notice,)
        yield InspectProgress(0.8 * done / trace.cells.count, notice)
    write_report(find(model.card, seen_grid, scan, trace, mask), grid, folder)
    yield InspectProgress(1.0)


def _require_replaceable(folder: Path) -> None:
    """Raise InputError for files that would be replaced, and for scans, which maps are not to join;
    not in the folder of an earlier inspection."""
    if not folder.is_dir() or _is_trace(folder / TABLES_FILE):
        return
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        raise InputError(
            f"Expected a folder for the inspection, but {folder / taken[0]} is there already and "
            "l2gnet inspect did not write it; choose another output, or move that file."
        )
    scans = sorted(one.name for one in folder.iterdir() if one.is_file() and format_of(one))
    if scans:
        raise InputError(
            f"Expected another place than that of scans and masks, but {folder} holds {scans[0]}; "
            "choose another output."
        )


def _is_trace(tables: Path) -> bool:
    try:
        told = json.loads(tables.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and {"model", "usage", "check_first"} <= told.keys()


def write_report(findings: Findings, grid: Grid, folder: Path) -> None:
    """Write maps, pictures, tables and the page to a folder.

    grid: the scan's own, in which maps are written. Raises OutputError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # First, because it marks the folder as replaceable, also after an interrupted inspection.
    replace_bytes(folder / TABLES_FILE, json.dumps(findings.to_json(), indent=1).encode())
    # Files of an earlier inspection must not mix with those of this one.
    for name in FILES:
        if name != TABLES_FILE:
            (folder / name).unlink(missing_ok=True)
    trace = findings.trace
    # Codes count from 1: in masks 0 means background.
    code_map = trace.cells.on_scan(trace.codes + np.int16(1)).astype(np.uint16)
    names = {code: f"code {code}" for code in range(1, len(trace.vectors) + 1)}
    write_labels(folder / "codes.nii.gz", code_map, grid, names)
    # One map at a time, to save memory.
    for kind in kinds_of_doubt(trace):
        values = uncertainty_maps(trace, findings.mask, [kind])[kind]
        write_map(folder / f"uncertainty-{kind}.nii.gz", values, grid)
    if findings.plan is not None:
        _write_plans(findings, grid, folder)
    drawn = pictures(findings)
    for name, content in drawn.items():
        replace_bytes(folder / f"{name}.png", content)
    # Last, so that a folder with a page is complete.
    replace_bytes(folder / PAGE_FILE, page(findings, drawn).encode())


def _write_plans(findings: Findings, grid: Grid, folder: Path) -> None:
    trace = findings.trace
    slices = np.arange(len(trace.codes))[:, None, None]
    rows = trace.plans[slices, trace.codes]
    strongest = trace.cells.on_scan((rows.argmax(-1) + 1).astype(np.uint16))
    names = {number: f"reference {number}" for number in range(1, rows.shape[-1] + 1)}
    write_labels(folder / "references.nii.gz", strongest, grid, names)
    # One voxel for each cell, with an affine of its own: on the scan's voxels the file would be
    # hundreds of times as large.
    cells = np.stack([trace.cells.in_scan_order(one) for one in np.moveaxis(rows, -1, 0)])
    place = Grid(
        cells.shape,
        affine=trace.cells.affine(grid.affine),
        units=grid.units,
        oriented=grid.oriented,
    )
    write_map(folder / "plan.nii.gz", np.ascontiguousarray(cells), place)
    assert findings.plan is not None
    used = np.flatnonzero(findings.counts)
    matrix = findings.plan[np.ix_(used, used)]
    told = {"codes": (used + 1).tolist(), "plan": [[float(f"{v:.4g}") for v in r] for r in matrix]}
    replace_bytes(folder / "plan.json", json.dumps(told).encode())
