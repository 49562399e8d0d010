"""What `cardiac-cine` sees and answers on ACDC scans, as stored and corrupted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _corruptions import CORRUPTIONS, rotation
from numpy.typing import NDArray

from l2gnet_core.files import read_labels, read_volume
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.volume import slicing_axis
from l2gnet_core.segmenting.predict import segment
from l2gnet_core.segmenting.slice_view import field_of
from l2gnet_core.segmenting.trace import Trace, empty_trace

Array = NDArray[np.generic]
WAYS = ("clean", *CORRUPTIONS)
KEPT = ("codes", "error", "entropy", "plan_rows")


@dataclass(frozen=True, eq=False)
class Seen:
    """A volume: the scan, what the model saw, its answer and the truth, all with slices first."""

    patient: str
    way: str
    scan: Array
    trace: Trace
    mask: Array
    truth: Array


def frames(model: Model, data: Path, part: str) -> list[Path]:
    """The images of a part's patients. Of training: one frame of every fifth patient, alternating
    between end-diastole and end-systole."""
    if part != "train":
        patients = model.card.split[part]
        return [file for p in patients for file in sorted((data / "images").glob(f"{p}_*"))]
    few = model.card.split["train"][::5]
    return [sorted((data / "images").glob(f"{p}_*"))[n % 2] for n, p in enumerate(few)]


def seen(model: Model, file: Path, way: str, cache: Path | None) -> Seen:
    """Segment a scan, or read from the cache what the model saw."""
    volume = read_volume(file)
    axis = slicing_axis(volume, model.card.slicing)
    assert axis == 0
    truth = read_labels(file.parents[1] / "labels" / file.name).volume.data
    if way == "rotation":
        truth = rotation(truth, order=0)
    scan = volume.data
    if way != "clean":
        scan = CORRUPTIONS[way](normalise(scan, intensity_window(scan))).clip(0, 1)
    field = field_of(model.card, volume, axis, scan)
    trace = empty_trace(model, volume, axis, field)
    kept = cache and cache / f"{file.name.split('.')[0]}_{way.replace(' ', '-')}.npz"
    if kept and kept.is_file():
        with np.load(kept) as arrays:
            for name in KEPT:
                getattr(trace, name)[...] = arrays[name]
            mask = arrays["mask"]
    else:
        mask = segment(model, scan, volume, axis, field=field, trace=trace)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, mask=mask, **{name: getattr(trace, name) for name in KEPT})
    return Seen(file.name.split("_")[0], way, scan, trace, mask, truth)
