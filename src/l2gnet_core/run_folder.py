"""The folder of a training run: what was asked for, how the run began, and who may use it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from l2gnet_core.card import ModelCard
from l2gnet_core.checkpoint import MODEL_FILE, STATE_FILE, find_model_file, read_card
from l2gnet_core.data import Dataset
from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files.atomic import replace_bytes
from l2gnet_core.leakage import inherited_split, require_kept_apart
from l2gnet_core.split import SPLIT_FILE, Split, checked_split, read_split, split_patients

CHOICES_FILE = "settings.json"
VIEW_FILE = "view.json"
HISTORY_FILE = "history.json"
LOCK_FILE = "lock"
#: Of the patients, to test on and to tune on.
SHARES = (0.2, 0.0625)


@dataclass(frozen=True)
class RunSettings:
    """What a training run is asked for.

    `slices` is how many neighbouring slices the network sees at once (odd; more than one is 2.5-D).
    `oriented` makes a model that tells left from right, for axial, coronal or sagittal `slicing`;
    `resample` one that sees slices at the median voxel size of its training scans, or at `pixel`
    mm in plane.
    `start` is a model whose weights a new run begins with, each structure with the output that has
    its name there.
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
    """Raise InputError where a run's folder holds another run or model, or not what it is to go on
    with."""
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
def held(folder: Path) -> Iterator[None]:
    """Be the only one who trains in a folder: two would mix their states and logs.

    Raises InputError if somebody else does, OutputError where nothing can be written.
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
        # What a crash left half written; other files may be other processes' of this run.
        for name in (STATE_FILE, MODEL_FILE):
            for file in folder.glob(f".l2gnet-*{Path(name).suffix}"):
                file.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
        # Of a run that was refused nothing stays.
        with suppress(OSError):
            if new and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                for path in new:
                    path.rmdir()


def write_choices(folder: Path, choices: Mapping[str, Any]) -> None:
    """Keep what a run was asked for, so that a resume need not say it again."""
    replace_bytes(folder / CHOICES_FILE, json.dumps(dict(choices), indent=1).encode())


def require_begun(folder: Path) -> None:
    """Raise InputError where no run has ever begun: a slip in the folder's name would train anew,
    for hours."""
    if not any((folder / name).exists() for name in (CHOICES_FILE, SPLIT_FILE, MODEL_FILE)):
        raise InputError(
            f"Expected a run to go on with in {folder}, but there is none; name its folder, or "
            "leave out --resume to begin one."
        )


def read_choices(folder: Path) -> dict[str, Any]:
    """What the run in a folder was asked for; nothing where that was not kept."""
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
    """Raise InputError if a resumed run began with another view of scans: half of a run with left
    and right and half without would make a model of neither kind."""
    file = settings.folder / VIEW_FILE
    if settings.resume and file.is_file() and file.read_bytes() != _view(card):
        raise InputError(
            f"Expected the way of seeing scans that the run began with ({file}), but it is "
            "another; resume with the first --plane, --oriented, --resample and --pixel, or use a "
            "new run folder."
        )


def _view(card: ModelCard) -> bytes:
    """How a model sees scans, as the run folder keeps it."""
    told = {name: getattr(card, name) for name in ("slicing", "oriented", "spacing")}
    return json.dumps(told, indent=1).encode()


def keep_beginning(
    settings: RunSettings, split: Split, card: ModelCard, choices: Mapping[str, Any] | None
) -> None:
    """Write what a run begins with into its folder, once nothing speaks against the run: what a
    refused one leaves the next one would take up.

    Each file whole or not at all: of several processes one may read what another writes.
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
    """The model that the run begins with, unless it has begun: then that may be gone."""
    begun = settings.resume and (settings.folder / STATE_FILE).is_file()
    return None if begun else settings.start


def history_of(settings: RunSettings) -> tuple[Mapping[str, Any], ...]:
    """The fine-tunings of the model that the run begins with, or began with: it may lie elsewhere
    when the run is resumed."""
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
    """The run folder's split, or the one that a new run gets.

    Raises InputError if a written split does not fit the dataset.
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
