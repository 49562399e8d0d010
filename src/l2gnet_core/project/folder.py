"""A project on disk. Each file is written whole or not at all.

project.json     format version, scan, grid, model, organs, reviewed slices
slices/          labels, painted voxels and the raw prediction of each slice
history.jsonl    events; their arrays, models and scans are in attached/, models/ and scans/
lock             held by the process that writes
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files.atomic import replace_bytes
from l2gnet_core.project.events import Event
from l2gnet_core.project.history import History
from l2gnet_core.project.hold import SLICES_FOLDER, STATE_FILE, Hold
from l2gnet_core.project.scans import ScanId, load_arrays, save_arrays, save_voxels
from l2gnet_core.project.state import ProjectState, SliceKey, SliceState, slice_of
from l2gnet_core.scans.volume import Volume

FORMAT = 1
#: The arrays of a slice.
_ARRAYS = ("labels", "by_person", "raw")
#: Slices written at a time: one is compressed while the disk writes another.
_WRITERS = 2


def projects_folder() -> Path:
    """The folder of projects; the environment variable L2GNET_PROJECTS overrides the default."""
    chosen = os.environ.get("L2GNET_PROJECTS")
    return Path(chosen) if chosen else platformdirs.user_data_path("l2gnet") / "projects"


def any_of_shape(shape: tuple[int, ...]) -> bool:
    """Can there be a project of a scan of this shape? To be sure, the scan must be read."""
    for file in projects_folder().glob(f"*/{STATE_FILE}"):
        try:
            if _read_json(file.parent)["grid"]["shape"] == list(shape):
                return True
        except (InputError, KeyError, TypeError):
            return True
    return False


@dataclass(frozen=True)
class FoundProject:
    """A project that was found.

    scan: hash. touched: number of slices that a person painted on. worked_on: of slices painted on
    or reviewed. problem: a sentence if the project cannot be read.
    """

    path: Path
    saved: datetime
    scan: str = ""
    touched: int = 0
    model: str = ""
    problem: str = ""
    worked_on: int = 0


def find_projects(scan: ScanId) -> list[FoundProject]:
    """The projects of a scan, last saved first; then those that cannot be read."""
    # A folder is named by the beginning of its scan's hash, which several scans may share.
    found = _found(f"{scan.scan[:12]}*")
    mine = [one for one in found if one.scan in ("", scan.scan)]
    return sorted(mine, key=lambda one: bool(one.problem))


def all_projects() -> list[FoundProject]:
    """All of the user's projects, last saved first."""
    return _found("*")


def _found(pattern: str) -> list[FoundProject]:
    found = []
    for path in projects_folder().glob(pattern):
        if not path.is_dir():
            continue
        try:
            values = _read_json(path)
            scan, saved = values["scan"]["scan"], datetime.fromisoformat(values["saved"])
            state = ProjectFolder(path).read_state()
            touched, worked_on = len(state.touched), len(state.touched | state.reviewed)
            name = state.card.name
            found.append(FoundProject(path, saved, scan, touched, name, worked_on=worked_on))
        except InputError as error:
            saved = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            found.append(FoundProject(path, saved, problem=str(error)))
    return sorted(found, key=lambda one: one.saved, reverse=True)


def open_project(name_or_path: str | Path) -> ProjectFolder:
    """A project by its folder, or by the folder's name in `projects_folder`.

    Raises InputError if there is none, or if it is broken or of a newer version.
    """
    for path in (Path(name_or_path), projects_folder() / name_or_path):
        if (path / STATE_FILE).is_file():
            project = ProjectFolder(path)
            project.read_state()
            return project
    raise InputError(
        f"Expected a project folder, with {STATE_FILE} in it, but {name_or_path} is none; "
        f"projects are kept in {projects_folder()}."
    )


class ProjectFolder:
    """One project. Writing needs `hold`; reading is always possible."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history = History(path)
        # Digests of the slices that were written since `hold`.
        self._written: dict[SliceKey, bytes] = {}
        # What project.json says; None until it is read or written.
        self._said: ProjectState | None = None
        self._hold = Hold(path)

    @classmethod
    def create(cls, scan: ScanId) -> ProjectFolder:
        """Create an empty project of a scan, and hold it. Raises OutputError."""
        parent, number = projects_folder(), 1
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while True:
                path = parent / (scan.scan[:12] + (f"-{number}" if number > 1 else ""))
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    number += 1
            (path / SLICES_FOLDER).mkdir()
        except OSError as error:
            raise OutputError(f"{parent} cannot be written: {error.strerror or error}.") from error
        project = cls(path)
        project.hold()
        return project

    def hold(self) -> None:
        """Lock the project for writing, also against other processes, until `release` or a crash.

        Raises InputError if it is locked, OutputError if the folder cannot be written.
        """
        self._hold.acquire()
        # Another process may have written in the meantime.
        self._written.clear()
        self._said = None
        # Delete what a crash left half written.
        for file in self.path.glob("**/.l2gnet-*"):
            file.unlink(missing_ok=True)
        self._hold.look()
        self.history.mend()

    def release(self) -> None:
        """Unlock the project, and delete its folder if nothing was ever saved."""
        unused = self._hold.has_lock() and not (self.path / STATE_FILE).exists()
        self._hold.release()
        if unused:
            # rmdir deletes only empty folders, so nothing is lost if project.json disappeared.
            with suppress(OSError):
                (self.path / SLICES_FOLDER).rmdir()
                (self.path / "lock").unlink(missing_ok=True)
                self.path.rmdir()

    def is_as_left(self) -> bool:
        """Is the folder as this process left it, and locked by it?

        Not if it was deleted, replaced by a copy, or written by another process since. Takes a
        millisecond or two, so that it can be asked before each save. Raises OutputError if the
        folder cannot be read now.
        """
        return self._hold.is_as_left(self.history)

    def elsewhere(self, scan: ScanId) -> ProjectFolder:
        """A new project with this one's history, held; all slices are to be saved in it.

        For work whose folder is not `is_as_left` any more; the folder stays as it is. Raises
        OutputError.
        """
        project = ProjectFolder.create(scan)
        project.history.go_on(self.history)
        self._hold.release()
        return project

    # ------------------------------------------------------------------ writing

    def save(
        self,
        state: ProjectState,
        slices: Mapping[SliceKey, SliceState],
        events: list[Event],
        volume: Volume,
        later: Collection[SliceKey] = (),
    ) -> None:
        """Save what is new; slices that a person painted on or reviewed come first.

        After a crash at any point, project.json makes no false claim about slices: claims that no
        longer hold are removed before slices are written, new claims are added after all else.
        Until then, the slices that are written, and those in `later`, are unsettled.

        slices: must include slices that are newly reviewed, or reviewed and changed.
        events: is emptied as its items are written.
        volume: the scan; its voxels are written once.
        later: slices that a later call saves; they stay finished only if they already were.
        Raises OutputError; what was saved before is kept.
        """
        before = self._last_said()
        meanwhile = _meanwhile(state, before)
        unsettled = frozenset(later).union(slices if events else (), meanwhile.unsettled)
        meanwhile = replace(meanwhile, unsettled=unsettled)
        if before is None or _claims(meanwhile) != _claims(before):
            self._write_state(meanwhile)
        theirs = state.touched | state.reviewed
        order = sorted(slices, key=lambda place: (place not in theirs, place))
        self.save_slices((place, slices[place]) for place in order)
        self.history.write_earlier()
        while events:
            self.history.add(events[0])
            del events[0]
        unfinished = frozenset(later) - meanwhile.finished
        state = replace(state, finished=state.finished - unfinished, unsettled=frozenset(later))
        self._write_state(state)
        file = self.history.scan_file(state.scan.voxels)
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            save_voxels(file, volume)

    def save_slices(self, slices: Iterable[tuple[SliceKey, SliceState]]) -> None:
        """Save slices, each once, except unchanged ones. Raises OutputError."""
        with ThreadPoolExecutor(_WRITERS) as pool:
            under_way: deque[Future[None]] = deque()
            for place, one in slices:
                under_way.append(pool.submit(self._save_slice, place, one))
                if len(under_way) > _WRITERS:
                    under_way.popleft().result()
            for written in under_way:
                written.result()

    def _save_slice(self, place: SliceKey, one: SliceState) -> None:
        arrays = {name: getattr(one, name) for name in _ARRAYS}
        digest = _digest(arrays)
        if self._written.get(place) != digest:
            self._written.pop(place, None)
            file = self._slice_file(place)
            save_arrays(file, arrays)
            self._hold.wrote_slice(file)
            self._written[place] = digest

    def _last_said(self) -> ProjectState | None:
        if self._said is None and (self.path / STATE_FILE).exists():
            self._said = self.read_state()
        return self._said

    def _write_state(self, state: ProjectState) -> None:
        values = {
            "format": FORMAT,
            "version": version("napari-l2gnet"),
            "saved": datetime.now(UTC).isoformat(),
            **state.to_json(),
        }
        content = json.dumps(values, indent=1).encode()
        replace_bytes(self.path / STATE_FILE, content)
        self._said = state
        self._hold.wrote_state(content)

    def _slice_file(self, place: SliceKey) -> Path:
        return self.path / SLICES_FOLDER / f"{place[0]}-{place[1]}.npz"

    # ------------------------------------------------------------------ reading

    def read_state(self) -> ProjectState:
        """Read project.json. Raises InputError if it is broken or of a newer version."""
        values = _read_json(self.path)
        try:
            return ProjectState.from_json(values)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise _broken(self.path) from error

    def read_voxels(self, state: ProjectState) -> NDArray[Any]:
        """The scan's voxels, (z,y,x) or (t,z,y,x). Raises InputError if they are damaged."""
        voxels = self.history.voxels(state.scan.voxels)
        if voxels.shape != state.grid.shape:
            raise _broken(self.path)
        return voxels

    def require_whole(self, state: ProjectState) -> None:
        """Raise InputError if a file is missing that project.json relies on. A crash cannot cause
        this, because project.json is written last."""
        if not all(self._slice_file(place).exists() for place in state.on_disk) or (
            state.model is not None and not self.history.entries()
        ):
            raise _broken(self.path)

    def read_slices(
        self, state: ProjectState, damaged: set[SliceKey] | None = None
    ) -> tuple[SliceState, frozenset[SliceKey]]:
        """Labels, painted voxels and raw predictions, all (t,z,y,x), and which slices are saved.

        damaged: takes up slices whose files are damaged; without it, they raise InputError.
        """
        found: dict[SliceKey, dict[str, NDArray[Any]]] = {}
        frames, *sizes = state.shape
        count = sizes.pop(state.axis)
        for place in np.ndindex(frames, count):
            if not self._slice_file(place).exists():
                continue
            try:
                found[place] = self._read_slice(place, tuple(sizes))
            except InputError:
                if damaged is None:
                    raise
                damaged.add(place)
        kinds = [one[name].dtype for one in found.values() for name in ("labels", "raw")]
        dtype = np.result_type(np.uint8, *kinds)
        labels, raw = np.zeros(state.shape, dtype), np.zeros(state.shape, dtype)
        by_person = np.zeros(state.shape, bool)
        whole = {"labels": labels, "by_person": by_person, "raw": raw}
        for place, arrays in found.items():
            for name, array in whole.items():
                slice_of(array, place, state.axis)[...] = arrays[name]
        return SliceState(labels, by_person, raw), frozenset(found)

    def _read_slice(self, place: SliceKey, shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
        arrays = load_arrays(self._slice_file(place))
        if any(name not in arrays or arrays[name].shape != shape for name in _ARRAYS):
            raise _broken(self.path)
        return arrays

    def set_aside(self, damaged: Iterable[SliceKey]) -> None:
        """Rename the files of damaged slices, so that they are kept but not read again. Raises
        OutputError."""
        for place in damaged:
            file = self._slice_file(place)
            try:
                file.rename(file.with_suffix(f".damaged-{secrets.token_hex(3)}"))
            except OSError as error:
                raise OutputError(
                    f"{file} cannot be renamed: {error.strerror or error}."
                ) from error
            self._hold.forget_slice(file)


def _meanwhile(state: ProjectState, before: ProjectState | None) -> ProjectState:
    """The state to write before slices: it holds for each slice in its old and in its new content,
    and already names new organs. before: the state on disk, None if there is none."""
    if before is None:
        nothing: frozenset[SliceKey] = frozenset()
        return replace(
            state,
            model=None,
            finished=nothing,
            reviewed=nothing,
            touched=nothing,
            unreviewed_organs=frozenset(),
        )
    reviewed = state.reviewed & before.reviewed
    # The review of an old slice does not cover organs that were added since.
    new = state.labels.names.keys() - before.labels.names.keys()
    unreviewed_organs = {
        (place, organ)
        for place, organ in (
            state.unreviewed_organs
            | before.unreviewed_organs
            | {(place, organ) for place in reviewed for organ in new}
        )
        if place in reviewed and organ in state.labels.names
    }
    return replace(
        state,
        # The new model may not be in the history yet.
        model=before.model,
        finished=state.finished & before.finished,
        reviewed=reviewed,
        touched=state.touched & before.touched,
        unreviewed_organs=frozenset(unreviewed_organs),
        unsettled=before.unsettled,
    )


def _claims(state: ProjectState) -> tuple[object, ...]:
    """The parts of a state that decide how slices are read."""
    return state.finished, state.reviewed, state.unreviewed_organs, state.unsettled, state.labels


def _digest(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays.values():
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        format = int(values["format"])
        datetime.fromisoformat(values["saved"])
        _ = values["scan"]["scan"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(path) from error
    if format > FORMAT:
        raise InputError(
            f"Expected a project of format {FORMAT}, but {path} has format {format}; update "
            "napari-l2gnet."
        )
    return values


def _broken(path: Path) -> InputError:
    return InputError(
        f"Expected a project in {path}, but its {STATE_FILE}, slices or history are missing or "
        "damaged; restore the folder from a copy."
    )
