"""Write masks in any format that can be written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from l2gnet_core.errors import InputError
from l2gnet_core.files.formats import FORMATS, WRITABLE, suffix_of
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.files.values import as_labels
from l2gnet_core.scans.volume import Grid, Volume, as_read_back


def write_labels(
    path: str | os.PathLike[str],
    labels: npt.NDArray[Any],
    like: Volume | Grid,
    label_names: Mapping[int, str] | None = None,
    colors: Mapping[int, str] | None = None,
) -> Path:
    """Write a mask in the grid of its scan, read it back and compare.

    path: its suffix chooses the format. An existing file is replaced only by a complete, checked
        one.
    labels: whole numbers 0…65535 in the shape of `like`; stored as uint8, or uint16 for ids above
        255.
    label_names, colors: id → name, id → "#rrggbb"; stored in the file.
    Returns the path. Raises InputError for what cannot be written, OutputError if writing fails.
    """
    path = Path(path)
    # By its suffix alone: what is there, such as a folder, is no matter of formats.
    found = next((one for one in FORMATS if suffix_of(path) in one.writes), None)
    if found is None:
        raise InputError(f"A mask is saved as one of {', '.join(WRITABLE)}, not as {path.name}.")
    if tuple(labels.shape) != like.shape:
        raise InputError(
            f"A mask for {like.name or 'this scan'} has the shape {like.shape}, "
            f"not {tuple(labels.shape)}."
        )
    text = LabelText.of(label_names, colors)
    labels, like = as_read_back(as_labels(np.asarray(labels), "The mask"), like)
    found.load().write(path, labels, like, text)
    return path
