"""Fine-tuning from files: what `l2gnet finetune` reads, writes and reports."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files import read_any, read_volume
from l2gnet_core.finetuning.label_names import (
    ids_by_name,
    meant_by,
    renumbered,
    require_no_scan,
)
from l2gnet_core.finetuning.run import FineTuneResult
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import MODEL_FILE, SPLIT_FILE, STATE_FILE, save_model
from l2gnet_core.scans.labels import is_automatic, some
from l2gnet_core.scans.storage_order import fit_on, in_order_of
from l2gnet_core.scans.volume import (
    HEADERS_ROUND,
    Volume,
    distance_apart,
    oriented_as,
    slicing_axis,
)
from l2gnet_core.segmenting.corrections import Correction, image_numbers

_SUFFIX = ".safetensors"
#: What other programs call models, and scans: not the name of a folder.
_OTHER_SUFFIXES = (".pt", ".pth", ".ckpt", ".onnx", ".h5", ".nii", ".gz")


@dataclass(frozen=True)
class CorrectedFiles:
    """A scan, its labels, and the corrected slices, by index along the slicing axis of the array as
    the scan's file stores it."""

    image: str | os.PathLike[str]
    labels: str | os.PathLike[str]
    slices: tuple[int, ...]


def parse_slices(text: str) -> tuple[int, ...]:
    """Slices from "3,7,11". Raises InputError for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"Expected slices as numbers with commas between, as in 3,7,11, but got '{text}'."
        ) from error


def parse_names(text: str) -> dict[int, str]:
    """Names by id from "4=spleen,5=left kidney". Raises InputError for anything else."""
    names = {}
    for part in text.split(","):
        id, _, name = (word.strip() for word in part.partition("="))
        if not id.isdecimal() or not 1 <= int(id) <= 65535 or not name or int(id) in names:
            raise InputError(
                f"Expected a name for each id once, as in 4=spleen,5=left kidney, but got '{text}'."
            )
        names[int(id)] = name
    return names


def model_file_to_write(output: Path) -> Path:
    """The file for a model: `output` if its suffix is .safetensors, else a file in that folder.

    Raises InputError if a model cannot be written there, or if one is there already: old weights
    are never overwritten.
    """
    file = output if output.suffix == _SUFFIX else output / MODEL_FILE
    if file.is_dir() or (file.parent.exists() and not file.parent.is_dir()):
        raise InputError(
            f"Expected a file called {_SUFFIX} or a folder for the model, but {output} is neither; "
            "choose another output."
        )
    if output.suffix in _OTHER_SUFFIXES and not output.exists():
        raise InputError(
            f"A model is saved as {_SUFFIX}, not as {output.name}; if that is to be a folder, make "
            "it first."
        )
    if any((file.parent / name).exists() for name in (STATE_FILE, SPLIT_FILE)):
        raise InputError(
            f"Expected another place than a training run's, but {file.parent} is one, with its own "
            "model; choose another output."
        )
    if file.exists():
        raise _taken(output)
    return file


def _taken(output: Path) -> InputError:
    return InputError(
        f"Expected a new place for the model, but {output} holds one already; choose another "
        "output, or move that one away."
    )


def read_correction(
    files: CorrectedFiles,
    card: ModelCard,
    axis: int | None = None,
    unmarked: int | None = None,
    orientation: str | None = None,
    frame: int | None = None,
    named: Collection[int] = (),
    shared: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> tuple[Correction, dict[int, str]]:
    """A correction from files, and the names in the label file of ids that the model does not have.
    Structures that the label file names get the model's ids of these names.

    axis: slicing axis of the stored array, instead of the card's rule. unmarked: id of voxels that
    are unknown. orientation: letters for a scan whose file gives none. frame: the corrected one of
    a time series, from 0; the labels are of every frame, or of this one. named: new ids that the
    caller names. shared: structures that the model does not have are background. tell: called with
    sentences for the user. Raises InputError for files that do not belong together, for labels that
    seem to be a scan, and for names that contradict the model's.
    """
    image, labels_file = Path(files.image), Path(files.labels)
    volume = read_volume(image)
    count = len(list(volume.frames))
    if frame is None and count > 1:
        raise InputError(
            f"Expected one scan, but {image.name} is a series of {count}; name the corrected "
            "frame with --frame."
        )
    frame = frame or 0
    if not 0 <= frame < count:
        raise InputError(
            f"Expected a frame between 0 and {count - 1} of {image.name}, but got {frame}."
        )
    scan = _frame(volume, frame)
    # Not `read_labels`, which would refuse odd values in slices that were not corrected.
    labels, text = read_any(labels_file, mask=True)
    labelled = len(list(labels.frames))
    if labelled not in (1, count):
        whole = "one frame" if count == 1 else f"{count} frames, or of one of them"
        raise InputError(
            f"Expected labels of {image.name}'s {whole}, but {labels_file.name} has "
            f"{labelled}; save those of the corrected frame."
        )
    labels = _frame(labels, frame if labelled > 1 else 0)
    fit = fit_on(labels.grid, scan.grid)
    if fit and fit.leaves_out(labels.shape, scan.shape):
        tell(
            f"{labels_file.name} holds a part of {image.name}: what it leaves out counts as "
            "background."
        )
    labels = in_order_of(scan.grid, labels)
    apart = distance_apart(scan, labels) if scan.shape == labels.shape else 0.0
    if apart > HEADERS_ROUND:
        raise InputError(
            f"Expected {labels_file.name} where {image.name} is, but they lie up to "
            f"{apart:.1f} mm apart; resample the labels onto the scan's grid."
        )
    grid = oriented_as(scan.grid, orientation) if orientation else scan.grid
    along = slicing_axis(grid, card.slicing, axis)
    try:
        correction = Correction(
            scan.data,
            grid,
            along,
            labels.data,
            files.slices,
            unmarked=unmarked,
            image=image.resolve(),
        )
    except InputError as error:
        raise InputError(f"{labels_file.name}: {error}") from error
    names = {
        id: name for id, name in text.names.items() if id not in named and not is_automatic(name)
    }
    require_no_scan(correction, labels_file.name, {*card.labels.names, *names, *named})
    ids = ids_by_name(correction.structures, names, card, labels_file.name, shared)
    moved = [
        f"{names[id]} is {id} there and {its} here" for id, its in ids.items() if its and its != id
    ]
    if moved:
        tell(f"organs of {labels_file.name} are matched by name: {', '.join(moved)}.")
    if others := [names.get(id, f"id {id}") for id, its in ids.items() if not its]:
        tell(
            f"{card.name} does not have {some(others)} of {labels_file.name}: in the corrected "
            "slices they count as background."
        )
    if moved or others:
        correction = renumbered(correction, ids)
    if names:
        # The file says where these are, and so where they are not.
        spoken_of = {*correction.structures, *filter(None, meant_by(names, card).values())}
        checked = dict.fromkeys(correction.slices, frozenset(spoken_of))
        correction = replace(correction, checked=checked)
    new = correction.structures - set(card.labels.names)
    return correction, {id: name for id, name in names.items() if id in new}


def _frame(volume: Volume, frame: int) -> Volume:
    """One frame (z,y,x) of a time series; a scan is its own frame 0."""
    data = volume.data[frame] if volume.data.ndim == 4 else volume.data
    return volume.grid.frame.volume(data, volume.warnings)


def write_result(result: FineTuneResult, file: Path) -> None:
    """Write the resulting model atomically, and make its folder.

    Raises InputError if another process has written a model there meanwhile, and OutputError.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # An empty file claims the name: of two concurrent writers one must fail.
        file.touch(exist_ok=False)
    except FileExistsError as error:
        raise _taken(file) from error
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror or error}.") from error
    try:
        save_model(file, result.model.network, result.model.card)
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def report(
    result: FineTuneResult,
    output: Path,
    known: Mapping[int, str],
    corrections: Sequence[Correction],
) -> dict[str, Any]:
    """What `--json` prints: whether the new model was kept, and why. steps: of the main run."""
    card = result.model.card
    return {
        "model": card.name,
        "output": str(output),
        **result.verdict.to_json(),
        "scans": len(set(image_numbers(corrections))),
        "labels": {label.id: label.name for label in card.labels},
        "new": [label.id for label in card.labels if label.id not in known],
        "steps": result.pace.main_steps,
        "seconds": round(result.seconds, 3),
    }
