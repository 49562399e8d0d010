"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from l2gnet_core.errors import InputError, OutputError

#: Seconds to wait before putting a file in place is tried again. Windows refuses it while anybody
#: has one of the two files open, and virus scanners, search indexers and cloud folders open each
#: new file for some milliseconds. pip tries for a second, too (pip/_internal/utils/filesystem.py).
_WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.3) if os.name == "nt" else ()


def replace_file(
    path: Path, suffix: str, write: Callable[[BinaryIO], None], check: Callable[[Path], None]
) -> None:
    """Write beside the destination, check what was written, then put it in place.

    suffix: of the temporary file, so that `check` can tell its format.
    check: reads the temporary file and raises if it does not hold what was written.
    Raises OutputError; the destination is then unchanged.
    """
    # Replace the file that a symbolic link points to, not the link.
    target = link_target(path)
    temporary = target.with_name(f".l2gnet-{secrets.token_hex(6)}{suffix}")
    try:
        if target.is_dir():
            raise OutputError(f"{path} is a folder: give the name of a file to write.")
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        check(temporary)
        _put_in_place(temporary, target)
        _sync_folder(target.parent)
    except OutputError:
        raise
    except InputError as error:
        raise OutputError(f"{path} did not read back as written: {error}") from error
    except FileNotFoundError as error:
        raise OutputError(
            f"{path} cannot be written: the folder {target.parent} does not exist."
        ) from error
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, target: Path) -> None:
    for wait in _WAITS:
        try:
            os.replace(temporary, target)
            return
        except PermissionError:
            time.sleep(wait)
    os.replace(temporary, target)


def link_target(path: Path) -> Path:
    """The path that symbolic links lead to. Raises OutputError if they lead in a circle."""
    target = Path(os.path.realpath(path))
    if os.path.islink(target):
        raise OutputError(f"{path} is a link that leads back to itself: give another name.")
    return target


def replace_bytes(path: Path, content: bytes | memoryview) -> None:
    """As `replace_file`, for content in memory; the file must read back as the same bytes."""

    def write(stream: BinaryIO) -> None:
        stream.write(content)

    def check(file: Path) -> None:
        if file.read_bytes() != content:
            raise OutputError(f"{path} did not read back as it was written: check the disk.")

    replace_file(path, path.suffix, write, check)


def copy_files(source: Path, target: Path) -> None:
    """Copy the files that a folder has and another lacks. A folder that is missing has none, and is
    made if there is something to copy. Raises OutputError."""
    for file in sorted(source.glob("*")):
        copy = target / file.name
        if not copy.exists():
            target.mkdir(exist_ok=True)
            with file.open("rb") as stream:
                replace_file(copy, copy.suffix, partial(shutil.copyfileobj, stream), lambda _: None)


def require_writable(folder: Path) -> None:
    """Raise OutputError if nothing can be written in a folder, which need not exist yet.

    To be called before a long computation whose result goes there.
    """
    there = folder.absolute()
    # On Windows, the topmost folder may be missing: a drive that is not connected.
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    probe = there / f".l2gnet-{secrets.token_hex(6)}"
    # Not by `tempfile`, which on Windows takes a refusal for a name that is taken, and goes on
    # trying for hours (github.com/python/cpython/issues/66305).
    try:
        if there == folder.absolute():
            probe.open("xb").close()
            probe.unlink()
        else:
            # Not a file: in C:, users may make folders, but no files.
            probe.mkdir()
            probe.rmdir()
    except OSError as error:
        raise OutputError(
            f"Expected a folder that can be written to, but {folder} is none "
            f"({error.strerror or error}); choose another output."
        ) from error


def require_outside(folders: Iterable[Path], output: Path, what: str) -> None:
    """Raise InputError if an output is one of these folders, or in one. what: they hold."""
    target = output.resolve()
    for folder in folders:
        if folder.resolve() in (target, *target.parents):
            raise InputError(
                f"Expected another place than that of {what}, but {output} is in {folder}; choose "
                "another output."
            )


def _sync_folder(folder: Path) -> None:
    # Makes the new name survive a power cut. Windows has no such call and needs none; some network
    # and shared folders refuse it, but the file is in place anyway.
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
