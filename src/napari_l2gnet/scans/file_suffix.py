"""Names of files as people type them into a dialog."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from l2gnet_core.errors import InputError
from l2gnet_core.files import suffix_of


def ended(path: Path, suffixes: Collection[str], suffix: str) -> Path:
    """A path that ends with one of the suffixes in any case; if it does not, `suffix` is added.

    Raises InputError if adding it gives the name of an existing file: the dialog has asked only
    about the name without the suffix.
    """
    if suffix_of(path) in suffixes:
        return path
    # with_suffix would replace the end of "case1.5mm".
    path = path.with_name(path.name + suffix)
    # path.exists() raises for names that are too long.
    if os.path.lexists(path):
        raise InputError(
            f"Expected a new name, but {path.name} exists already; choose another name, or choose "
            "that file to replace it."
        )
    return path
