"""A project folder held by this process: locked, and known as it was left."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.project.history import History

STATE_FILE, SLICES_FOLDER = "project.json", "slices"
#: Raised for a file that is not there.
_MISSING = (FileNotFoundError, NotADirectoryError)


class Hold:
    """The lock of a project folder, and what the process that has it left there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / "lock", timeout=0, thread_local=False)
        self._locked_file: tuple[int, int] | None = None
        # project.json, None if there is none, and the sizes of slices.
        self._state: bytes | None = None
        self._sizes: dict[str, int] = {}

    def acquire(self) -> None:
        """Lock the folder until `release` or a crash.

        Raises InputError if another has locked it, OutputError if the folder cannot be written.
        """
        try:
            self._lock.acquire()
            self._locked_file = self._lock_there()
        except Timeout as error:
            raise InputError(
                "This work is open in another window: close the scan there first, then resume it "
                "here."
            ) from error
        except OSError as error:
            raise OutputError(
                f"{self._folder} cannot be written: {error.strerror or error}."
            ) from error

    def release(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def has_lock(self) -> bool:
        """Is the folder locked by this process, and not a copy that has taken its place?"""
        # No other file gets the number of one that is held open.
        return self._lock.is_locked and self._lock_there() == self._locked_file

    def look(self) -> None:
        """Take the folder as it is for what was left."""
        self._state, self._sizes = self._state_there(), self._sizes_there()

    def wrote_state(self, content: bytes) -> None:
        """Remember a project.json that was written."""
        self._state = content

    def wrote_slice(self, file: Path) -> None:
        """Remember a slice that was written."""
        self._sizes[file.name] = file.stat().st_size

    def forget_slice(self, file: Path) -> None:
        """No longer expect a slice."""
        self._sizes.pop(file.name, None)

    def is_as_left(self, history: History) -> bool:
        """Are the folder and its history as this process left them, and locked by it? An equal copy
        that nobody has locked is locked. Raises OutputError if the folder cannot be read now."""
        try:
            if not self._holds_what_was_left(history):
                return False
            if self.has_lock():
                return True
            # An equal copy has another lock file, which may be free.
            self._lock.release()
            self.acquire()
            return self._holds_what_was_left(history)
        except InputError:
            return False
        except OSError as error:
            raise OutputError(
                f"{self._folder} cannot be read: {error.strerror or error}."
            ) from error

    def _holds_what_was_left(self, history: History) -> bool:
        # project.json differs after each save, as it holds the time.
        return (
            (self._folder / SLICES_FOLDER).is_dir()
            and self._state_there() == self._state
            and self._sizes.items() <= self._sizes_there().items()
            and history.is_as_left()
        )

    def _lock_there(self) -> tuple[int, int] | None:
        try:
            file = (self._folder / "lock").stat()
        except OSError:
            return None
        return file.st_dev, file.st_ino

    def _state_there(self) -> bytes | None:
        try:
            return (self._folder / STATE_FILE).read_bytes()
        except _MISSING:
            return None

    def _sizes_there(self) -> dict[str, int]:
        try:
            with os.scandir(self._folder / SLICES_FOLDER) as files:
                return {file.name: file.stat().st_size for file in files}
        except _MISSING:
            return {}
