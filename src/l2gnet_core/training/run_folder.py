"""The folder of a training run: its options, what the run began with, and its lock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from l2gnet_core.datasets.leakage import inherited_split, require_kept_apart
from l2gnet_core.datasets.loading import Dataset
from l2gnet_core.datasets.split import Split, checked_split, read_split, split_patients
from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files.atomic import replace_bytes
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import (
    MODEL_FILE,
    SPLIT_FILE,
    STATE_FILE,
    find_model_file,
    read_card,
)
from l2gnet_core.scans.labels import LabelSet, plain, some

CHOICES_FILE = "settings.json"
VIEW_FILE = "view.json"
HISTORY_FILE = "history.json"
LOCK_FILE = "lock"
#: Suffixes of the files that a run replaces; only the process that holds the lock writes them.
_SUFFIXES = (".csv", ".json", ".png", ".pt", ".safetensors")
#: Shares of the patients to test on and to tune on.
SHARES = (0.2, 0.0625)


@dataclass(frozen=True)
class RunSettings:
    """Settings of a training run.

    slices: number of neighbouring slices that the network sees at once (odd; more than one is
        2.5-D).
    oriented: train a model that tells left from right; `slicing` is then axial, coronal or
        sagittal.
    resample: resample slices to the median voxel size of the training scans, or to `pixel` mm in
        plane.
    start: model whose weights a new run begins with; outputs are matched by structure name.
    """

    dataset: Dataset
    folder: Path
    architecture: str = "l2gnet"
    preset: str = "small"
    slices: int = 1
    slicing: str = "through-plane"
    oriented: bool = False
    resample: bool = False
    pixel: float | None = None
    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    resume: bool = False
    start: Path | None = None


def require_usable(settings: RunSettings) -> None:
    """Raise InputError if the folder holds another run or model, or lacks the state to resume."""
    state_exists = any(settings.folder.glob(STATE_FILE))
    if settings.resume and not state_exists and (settings.folder / MODEL_FILE).exists():
        raise InputError(
            f"Expected the state of a run, {settings.folder / STATE_FILE}, to go on with, but the "
            "folder holds its model alone; begin a run in a new folder, with --from to start from "
            "this model."
        )
    if state_exists and not settings.resume:
        raise InputError(
            f"Expected a new run folder, but {settings.folder} holds a run already; "
            "add --resume to go on with it, or choose another folder."
        )
    if not settings.resume and (settings.folder / MODEL_FILE).exists():
        raise InputError(
            f"Expected a new run folder, but {settings.folder} holds a model already; choose "
            "another folder."
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder, because two runs would mix their states and logs.

    Raises InputError if another process trains there, OutputError if nothing can be written.
    """
    lock = FileLock(folder / LOCK_FILE, timeout=0, thread_local=False)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Expected a run folder to train in alone, but another process is training in "
            f"{folder}; wait for its end, or choose another folder."
        ) from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        # Delete what a crash left half written. Other temporary files may belong to a mask that
        # somebody is writing there.
        for suffix in _SUFFIXES:
            for file in folder.glob(f".l2gnet-*{suffix}"):
                file.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
        # A run that was refused leaves no folder behind.
        with suppress(OSError):
            # On Windows, the lock has deleted its file already.
            if new and {path.name for path in folder.iterdir()} <= {LOCK_FILE}:
                (folder / LOCK_FILE).unlink(missing_ok=True)
                for path in new:
                    path.rmdir()


def write_choices(folder: Path, choices: Mapping[str, Any]) -> None:
    """Store the options of a run, so that a resume need not repeat them."""
    replace_bytes(folder / CHOICES_FILE, json.dumps(dict(choices), indent=1).encode())


def require_begun(folder: Path) -> None:
    """Raise InputError if no run began in the folder: with a misspelt name, --resume would start
    anew."""
    if not any((folder / name).exists() for name in (CHOICES_FILE, SPLIT_FILE, MODEL_FILE)):
        raise InputError(
            f"Expected a run to go on with in {folder}, but there is none; name its folder, or "
            "leave out --resume to begin one."
        )


def read_choices(folder: Path) -> dict[str, Any]:
    """The stored options of the run in a folder; empty if there are none. Raises InputError."""
    file = folder / CHOICES_FILE
    try:
        choices: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"Expected the settings of the run in {file}, but it cannot be read so; delete it and "
            "give them again as options."
        ) from error
    return choices


def require_same_view(settings: RunSettings, card: ModelCard) -> None:
    """Raise InputError if a resumed run began with another view of scans, for example without
    left and right: the model would be of neither kind."""
    file = settings.folder / VIEW_FILE
    if settings.resume and file.is_file() and file.read_bytes() != _view(card):
        raise InputError(
            f"Expected the way of seeing scans that the run began with ({file}), but it is "
            "another; resume with the first --plane, --oriented, --resample and --pixel, or use a "
            "new run folder."
        )


def require_same_structures(settings: RunSettings, labels: LabelSet) -> None:
    """Raise InputError if the model of a resumed run has other structures than `labels`, or the
    same under other ids: its outputs would go on as those of others."""
    file = settings.folder / MODEL_FILE
    # Without a model, no epoch has ended: next to nothing was learnt.
    if not (settings.resume and file.is_file()):
        return
    told, known = labels.names, read_card(file).labels.names
    gone, new = _differing(known, told), _differing(told, known)
    but = [f"lacks {some(gone)}"] * bool(gone) + [f"has {some(new)}"] * bool(new)
    if but:
        raise InputError(
            f"Expected the structures that the run in {settings.folder} began with, under their "
            f"ids, but the dataset now {' and '.join(but)}; name and number them as before, or "
            f"begin a new run with --from {settings.folder}, which takes outputs over by name."
        )


def _differing(names: Mapping[int, str], others: Mapping[int, str]) -> list[str]:
    """Ids and names that are not among the others, as texts."""
    return [
        f"{id} {name}" for id, name in names.items() if plain(others.get(id, "")) != plain(name)
    ]


def _view(card: ModelCard) -> bytes:
    """How a model sees scans, as bytes of JSON for the run folder."""
    told = {name: getattr(card, name) for name in ("slicing", "oriented", "spacing")}
    return json.dumps(told, indent=1).encode()


def keep_beginning(
    settings: RunSettings, split: Split, card: ModelCard, choices: Mapping[str, Any] | None
) -> None:
    """Write what a run begins with into its folder. To be called once all checks have passed,
    because a later run would use these files.

    Each file is written whole or not at all, because other processes may be reading it.
    """
    folder = settings.folder
    if choices is not None and not settings.resume:
        write_choices(folder, choices)
    if not (folder / SPLIT_FILE).is_file():
        replace_bytes(folder / SPLIT_FILE, json.dumps(asdict(split), indent=1).encode())
    replace_bytes(folder / VIEW_FILE, _view(card))
    if start_of(settings) is not None and card.history:
        replace_bytes(folder / HISTORY_FILE, json.dumps(card.history, indent=1).encode())


def start_of(settings: RunSettings) -> Path | None:
    """The model that a new run begins with; None for a resumed one, whose model may be gone."""
    begun = settings.resume and (settings.folder / STATE_FILE).is_file()
    return None if begun else settings.start


def history_of(settings: RunSettings) -> tuple[Mapping[str, Any], ...]:
    """The fine-tunings of the model that the run begins with. For a resumed run they are read from
    its folder, because the model may be gone. Raises InputError."""
    file = settings.folder / HISTORY_FILE
    start = start_of(settings)
    if start is not None:
        return read_card(find_model_file(start)).history
    try:
        return tuple(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"Expected the history of the model that the run began with in {file}, but it cannot "
            "be read so; begin a run in a new folder."
        ) from error


def read_or_make_split(dataset: Dataset, settings: RunSettings, seed: int) -> Split:
    """The split in the run folder, or else a new one.

    Raises InputError if a written split does not fit the dataset or the model to start from.
    """
    file, start = settings.folder / SPLIT_FILE, start_of(settings)
    if file.is_file():
        split = checked_split(read_split(file), dataset.people, str(file))
        if start is not None:
            require_kept_apart(start, dataset, split, file)
        return split
    held_out = dataset.people.held_out
    inherited = None if start is None else inherited_split(dataset, start, seed, *SHARES)
    return inherited or split_patients(dataset.patients, seed, *SHARES, held_out)
