"""Names of files as people type them into a dialog."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from l2gnet_core.errors import InputError
from l2gnet_core.files import suffix_of


def ended(path: Path, suffixes: Collection[str], suffix: str) -> Path:
    """A path that ends with one of the suffixes, whatever their case; `suffix` is added to others.

    Raises InputError where that makes it the name of a file that is there: the dialog has asked
    about the name without it.
    """
    if suffix_of(path) in suffixes:
        return path
    # Not with_suffix: "case1.5mm" has none.
    path = path.with_name(path.name + suffix)
    if path.exists():
        raise InputError(
            f"Expected a new name, but there is a {path.name} already; choose another name, or "
            "that file to replace it."
        )
    return path
