"""Segmentation of files, one after the other: what `l2gnet segment` does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

# Imported early, for tidying: its import hangs if memory is short once the network has run.
import scipy.ndimage  # noqa: F401
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.files import (
    DICOM,
    WRITABLE,
    format_of,
    is_supported,
    read_label_text,
    read_volume,
    scans_in,
    stem_of,
    suffix_of,
    write_labels,
)
from l2gnet_core.files.atomic import link_target
from l2gnet_core.files.values import plain_values
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.scans.cleanup import CleanUp, tidy, tidy_around
from l2gnet_core.scans.labels import LabelSet, some
from l2gnet_core.scans.volume import Volume, oriented_as, slicing_axis
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.exchanged_sides import exchanged_sides
from l2gnet_core.segmenting.predict import segment
from l2gnet_core.segmenting.slice_view import field_of, shown_scan
from l2gnet_core.segmenting.suitability import (
    doubts,
    mismatches,
    voxel_counts,
    with_mismatches,
)


@dataclass(frozen=True)
class SegmentJob:
    """One image to segment and the mask to write."""

    image: Path
    mask: Path


def plan_jobs(images: Sequence[Path], output: Path) -> list[SegmentJob]:
    """Where each mask is written. `output` is a file for a single image, and a folder, with masks
    named like their images, for several images or if it has no suffix.

    Raises InputError for missing images, for masks that would overwrite an image (given or not),
    and for masks that would overwrite each other.
    """
    files: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = scans_in(path)
            if not inside:
                raise InputError(
                    f"Expected scans in {path}, but it holds no file that can be read; name "
                    "another folder."
                )
            files += inside
        elif not os.path.lexists(path):
            raise InputError(f"There is no file {path}.")
        else:
            files.append(path)
    files = _once_a_series(files)
    single = len(images) == 1 and not images[0].is_dir()
    if len(files) == 1 and format_of(files[0]) is DICOM:
        # Also if it was given as its folder or as all of its slices.
        single = single or suffix_of(output) in WRITABLE
    # A pattern such as scans/*.nii.gz may match one file: an output without suffix stays a folder.
    if single and (suffix_of(output) or output.exists()) and not output.is_dir():
        # Checked now, not after minutes of computing.
        if suffix_of(output) not in WRITABLE:
            raise InputError(
                f"A mask is saved as one of {', '.join(WRITABLE)}, not as {output.name}; if that "
                "is to be a folder, make it first."
            )
        jobs = [SegmentJob(files[0], output)]
    else:
        if output.is_file() or (not output.is_dir() and suffix_of(output) and is_supported(output)):
            raise InputError(
                f"Expected a folder for {len(files)} masks, but {output} names a file; "
                "give a folder."
            )
        jobs = [SegmentJob(file, output / _mask_name(file)) for file in files]
    opened = {Path(os.path.realpath(job.image)) for job in jobs}
    require_apart([job.mask for job in jobs], opened)
    inputs = set(map(_as_the_disk_sees, opened))
    seen: dict[Path, Path] = {}
    for job in jobs:
        target = _as_the_disk_sees(link_target(job.mask))
        if target in inputs:
            raise InputError(
                f"Expected another place than the image's for the mask, but {job.mask} is an "
                "image; choose another output."
            )
        if target in seen:
            raise InputError(
                f"Expected different file names, but {seen[target]} and {job.image} would both "
                f"become {job.mask.name}; segment them into different folders."
            )
        seen[target] = job.image
        require_replaceable(job.mask)
    return jobs


def _as_the_disk_sees(path: Path) -> Path:
    """Equal for two paths of one file. On macOS's usual disks, upper and lower case and the forms
    of accents make no difference; Windows' own paths compare so already."""
    return Path(normalize("NFC", str(path)).casefold()) if sys.platform == "darwin" else path


def _once_a_series(files: list[Path]) -> list[Path]:
    """The files, with only the first of each DICOM series' slices, as in `series/*.dcm`."""
    kept: list[Path] = []
    known: set[Path] = set()
    for file in files:
        if file in known:
            continue
        kept.append(file)
        if file.is_file() and format_of(file) is DICOM:
            from l2gnet_core.files.dicom_series import series_of

            known.update(series_of(file).files)
    return kept


def require_apart(outputs: Iterable[Path], images: Iterable[Path]) -> None:
    """Raise InputError if an output would be written among the slices of a DICOM series, where it
    could be taken for one of them."""
    # Each image is opened once, not once for each output: there may be thousands of both.
    series = [image for image in images if format_of(image) is DICOM]
    folders = {(image if image.is_dir() else image.parent).resolve() for image in series}
    for output in outputs:
        target = link_target(output)
        for folder in folders.intersection((target, *target.parents)):
            raise InputError(
                f"Expected a place outside of the scan's folder, but {output} is in {folder}, "
                "among its slices; choose another output."
            )


def require_replaceable(mask: Path) -> None:
    """Raise InputError if a mask would replace a readable file that l2gnet did not write: a scan,
    or a person's labels. Masks by l2gnet are told by the names that they hold, in its own form."""
    try:
        text = read_label_text(mask)
    except InputError:  # nothing is there, or nothing that can be read
        return
    if not (text.by_l2gnet and text.names):
        raise InputError(
            f"Expected a place for a mask, but {mask} is there already and is no mask that l2gnet "
            "wrote; choose another output, or take that file away."
        )


def _mask_name(image: Path) -> str:
    """The image's own name; with .nii.gz if its format (.img, .hdr) cannot be written."""
    suffix = suffix_of(image)
    if suffix in WRITABLE or not is_supported(image):
        return image.name
    return stem_of(image) + ".nii.gz"


def _of_frames(values: list[Any], series: bool) -> Any:
    return values if series else values[0]


@dataclass(frozen=True)
class Segmented:
    """A model's masks of a scan, one (z,y,x) for each frame. labels: the model's structures and
    those of the corrected slices. axis: of (z,y,x), along which it was sliced. warnings: sentences
    for the user."""

    masks: list[NDArray[Any]]
    labels: LabelSet
    axis: int
    warnings: list[str]


def segmented(
    volume: Volume,
    model: Model,
    device: str,
    axis: int | None = None,
    raw: bool = False,
    orientation: str | None = None,
    correction: Correction | None = None,
    corrected_frame: int = 0,
    names: Mapping[int, str] | None = None,
) -> Segmented:
    """Segment a scan frame by frame; the arguments after `device` are those of `segment_file`.
    Voxels that are no finite numbers count as the lowest of their frame, and a warning says so.

    Raises InputError for a scan that lacks what the model needs, such as an orientation, for a
    corrected frame that it does not have, for complex numbers, and for a device that does not
    exist.
    """
    count = volume.shape[0] if len(volume.shape) == 4 else 1
    if correction and not 0 <= corrected_frame < count:
        raise InputError(
            f"Expected a corrected frame between 0 and {count - 1} of "
            f"{volume.name or 'this scan'}, but got {corrected_frame}."
        )
    # For the model only: the mask is written with the image's own header.
    grid = oriented_as(volume.grid, orientation) if orientation else volume.grid
    along = slicing_axis(grid, model.card.slicing, axis)
    warnings = list(volume.warnings)
    known = model.card.labels
    unknown = sorted(correction.structures - set(known.names)) if correction else []
    labels = known.with_new(unknown, names or {})
    if unknown:
        listed = some([labels.names[id] for id in unknown])
        warnings.append(
            f"{model.card.name} does not have {listed}: found in the corrected slices alone."
        )
    masks = []
    for index, stored in enumerate(volume.frames):
        # Readers make scans plain; arrays from elsewhere may hold anything.
        frame = plain_values(volume.name or "The scan", stored, warnings)
        field = field_of(model.card, grid, along, frame)
        if index == 0:
            warnings = with_mismatches(warnings, mismatches(model.card, grid, along, field))
        mask = segment(model, frame, grid, along, device=device, field=field, warnings=warnings)
        if index == 0:
            shown = shown_scan(model.card, frame, grid, along, field)
            warnings += [said for said in exchanged_sides(model, shown, grid, device) if said]
        choices = CleanUp() if raw else model.card.clean_up
        if correction and index == corrected_frame:
            warnings += _left_out(correction, mask, model.card)
            masks.append(_around(correction, mask, choices))
        else:
            masks.append(tidy(mask, along, choices))
    return Segmented(masks, labels, along, warnings)


def _left_out(correction: Correction, mask: NDArray[Any], card: ModelCard) -> list[str]:
    """A sentence on organs that a model finds where the corrected slices, which hold none of them,
    say background."""
    found: set[int] = set()
    for index, picture in zip(correction.slices, correction.pictures, strict=True):
        found.update(np.unique(np.take(mask, index, correction.axis)[picture == 0]).tolist())
    names = [one.name for one in card.labels if one.id in found - correction.structures]
    if not names or correction.unmarked == 0:
        return []
    return [
        f"The corrected slices are as the labels say, without {', '.join(names)}, which the "
        "model finds there, too."
    ]


def _around(correction: Correction, mask: NDArray[Any], choices: CleanUp) -> NDArray[Any]:
    """A model's mask (z,y,x), tidied, with the corrected slices as a person painted them."""
    labels = np.zeros(mask.shape, np.uint16)
    known = np.zeros(mask.shape, bool)
    for index, picture in zip(correction.slices, correction.pictures, strict=True):
        np.moveaxis(labels, correction.axis, 0)[index] = picture
        np.moveaxis(known, correction.axis, 0)[index] = picture != correction.unmarked
    tidied = tidy_around(mask, correction.axis, choices, labels, known)
    return np.where(known, labels, tidied)


def segment_file(
    job: SegmentJob,
    model: Model,
    device: str,
    axis: int | None = None,
    raw: bool = False,
    orientation: str | None = None,
    correction: Correction | None = None,
    corrected_frame: int = 0,
    names: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Segment one image and write its mask; returns what `--json` reports: voxels and volumes are
    numbers, or lists with one for each frame of a series.

    axis: slicing axis of the stored array, instead of the card's rule. raw: leave out the tidying
    that the card asks for. orientation: letters for a scan whose file gives none, see
    `l2gnet_core.scans.volume.oriented_as`. correction: corrected slices of the frame
    `corrected_frame`, which are written as they are. names: of structures in them that the model
    does not have. Raises InputError and OutputError.
    """
    started = time.perf_counter()
    volume = read_volume(job.image)
    read = time.perf_counter()
    answer = segmented(
        volume,
        model,
        device,
        axis=axis,
        raw=raw,
        orientation=orientation,
        correction=correction,
        corrected_frame=corrected_frame,
        names=names,
    )
    masks, labels, warnings = answer.masks, answer.labels, answer.warnings
    result = np.stack(masks) if volume.data.ndim == 4 else masks[0]
    predicted = time.perf_counter()
    job.mask.parent.mkdir(parents=True, exist_ok=True)
    write_labels(job.mask, result, volume, labels.names, labels.colors)
    counts = [voxel_counts(one, labels) for one in masks]
    ml = volume.voxel_volume_ml if volume.has_ml else None
    for count in counts:
        found = doubts(model.card, count, ml)
        warnings += [text for text in found if text not in warnings]

    def volumes(id: int, ml: float) -> list[float]:
        # Significant digits, not decimals: voxels may measure micrometres.
        return [float(f"{count[id] * ml:.6g}") for count in counts]

    series = volume.data.ndim == 4
    return {
        "image": str(job.image),
        "mask": str(job.mask),
        "slicing_axis": volume.stored_axes.index(answer.axis),
        "labels": [
            {
                "id": label.id,
                "name": label.name,
                "voxels": _of_frames([count[label.id] for count in counts], series),
                "volume_ml": None if ml is None else _of_frames(volumes(label.id, ml), series),
            }
            for label in labels
        ],
        "seconds": {
            "read": round(read - started, 3),
            "segment": round(predicted - read, 3),
            "write": round(time.perf_counter() - predicted, 3),
        },
        "warnings": warnings,
    }
