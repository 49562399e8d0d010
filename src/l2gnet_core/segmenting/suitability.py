"""Does a scan look like those that the model was made for? Warnings for the user."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.intensities import SOFT_TISSUE_OF_CT, TISSUE_OF_CT
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid, NoSizeStated, Volume
from l2gnet_core.segmenting.slice_view import Field

#: A CT with 1024 added has muscle at about 1070, and bone above.
_TISSUE_OF_SHIFTED_CT = 1000
#: Structures that one sentence names.
_MOST_NAMES = 4


class NoVoxelSize(str):
    """The warning that a file gives no voxel size."""

    #: What follows from that: the second half of the sentence.
    consequence: str

    @classmethod
    def with_consequence(cls, consequence: str) -> NoVoxelSize:
        """The whole sentence."""
        warning = cls(f"The file gives no voxel size: {consequence}")
        warning.consequence = consequence
        return warning


def mismatches(
    card: ModelCard, grid: Volume | Grid, axis: int, field: Field | None = None
) -> list[str]:
    """Differences between a scan and the model's training data, before segmenting it.

    axis: the slicing axis of (z,y,x). field: of the scan, if that has been read; else intensities
    are not checked.
    """
    found: list[str] = []
    if field is not None:
        found = _intensity_mismatches(card, field.window, field.ct)
    expects = card.expects
    if grid.units != "mm":
        if card.spacing:
            found.append(
                NoVoxelSize.with_consequence(
                    "the model sees the slices at their stored size, not at the "
                    f"{card.spacing[1]:.2g}×{card.spacing[2]:.2g} mm that it learnt from, and no "
                    "volumes in mL are computed."
                )
            )
        elif expects.pixel or expects.slice:
            found.append(
                NoVoxelSize.with_consequence(
                    "sizes cannot be checked, and no volumes in mL are computed."
                )
            )
        return found
    spacing = list(grid.spacing)
    between = spacing.pop(axis)
    if expects.pixel and not expects.pixel[0] <= min(spacing) <= max(spacing) <= expects.pixel[1]:
        found.append(
            f"The pixels measure {spacing[0]:.2g}×{spacing[1]:.2g} mm, but this model expects "
            f"{expects.pixel[0]:g} to {expects.pixel[1]:g} mm."
        )
    # A flat image has no distance between slices that could be wrong.
    usual = expects.slice if grid.thickness_stated else None
    if usual and not usual[0] <= between <= usual[1]:
        found.append(
            f"The slices are {between:.2g} mm apart, but this model expects {usual[0]:g} to "
            f"{usual[1]:g} mm. Check the slicing axis."
        )
    return found


def with_mismatches(read: Iterable[str], found: list[str]) -> list[str]:
    """Warnings of a file's reader and, from `mismatches`, of its scan, each of them once: what
    follows from a missing voxel size says that there is none."""
    told = any(isinstance(one, NoVoxelSize) for one in found)
    return [one for one in read if not (told and isinstance(one, NoSizeStated))] + found


def _intensity_mismatches(card: ModelCard, window: tuple[float, float], ct: bool) -> list[str]:
    low, high = window
    if not high > low:
        return ["The scan has one intensity everywhere: there is nothing to segment."]
    # A CT with 1024 added is no mismatch: the model sees intensities relative to their window.
    modality = card.expects.modality
    if modality == "MR" and ct:
        dark, bright = (f"{value:g}".replace("-", "−") for value in SOFT_TISSUE_OF_CT)
        return [
            "The scan looks like a CT, but this model was made for MR. The model sees it in a "
            f"window of {dark} to {bright} HU."
        ]
    if modality == "CT" and low > TISSUE_OF_CT and high < _TISSUE_OF_SHIFTED_CT:
        return [
            "The scan does not look like a CT in Hounsfield units (with or without 1024 added), "
            "but this model was made for CT."
        ]
    return []


def doubts(card: ModelCard, voxels: Mapping[int, int], ml: float | None) -> list[str]:
    """What is unusual about a finished segmentation.

    voxels: number by label id. ml: volume of a voxel in mL, None if unknown.
    """
    missing = [label.name for label in card.labels if not voxels.get(label.id)]
    if missing:
        named, more = missing[:_MOST_NAMES], len(missing) - _MOST_NAMES
        names = " and ".join(named) if len(named) < 3 else ", ".join(named)
        if more > 0:
            names += f" and {more} more"
        return [
            f"No {names} found. The scan may not show this region, or the model may not suit it."
        ]
    if ml is None:
        return []
    found = []
    for label in card.labels:
        low, high = card.expects.volumes.get(label.name, (0, math.inf))
        volume = voxels[label.id] * ml
        if not low <= volume <= high:
            name = label.name.capitalize()
            told = f"{volume:.0f}" if volume >= 100 else f"{volume:.3g}"
            found.append(f"{name}: {told} mL is unusual (expected: {low:g}–{high:g} mL).")
    return found


def voxel_counts(mask: NDArray[np.generic], labels: LabelSet) -> dict[int, int]:
    """Number of voxels of each of these structures in a mask (z,y,x), by label id."""
    ids = [label.id for label in labels]
    length = max(ids) + 1
    counts = np.zeros(length, np.int64)
    # bincount needs one pass without sorting, unlike np.unique, but eight bytes per voxel: hence
    # slice by slice.
    for one in mask:
        counts += np.bincount(one.reshape(-1), minlength=length)[:length]
    return {id: int(counts[id]) for id in ids}
