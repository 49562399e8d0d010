"""napari's way out: a Labels layer becomes a mask on its scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from l2gnet_core import files
from l2gnet_core.errors import InputError
from napari_l2gnet.layers import LABELS_KEY, grid_of


class SaveError(RuntimeError):
    """A mask was not saved; the message is the sentence to show.

    Not a ValueError: napari takes those from writers as "no plugin for this file" and goes silent.
    """


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one Labels layer as NIfTI or TIFF, by the path's suffix; returns the path written.

    The grid is the scan's where the layer carries it, else what the layer's transform says.
    Errors: SaveError, one sentence.
    """
    try:
        array = np.asarray(data[0] if attributes.get("multiscale") else data)
        grid = grid_of(
            array.shape, attributes, attributes.get("name", ""), attributes.get("metadata") or {}
        )
        names = _names(attributes)
        colors = _colors(attributes.get("colormap"), names)
        return [str(files.write_labels(path, array.reshape(grid.shape), grid, names, colors))]
    except InputError as error:
        raise SaveError(str(error)) from error


def _names(attributes: Mapping[str, Any]) -> dict[int, str]:
    """id → name from the layer's features (as napari shows them), else from our metadata."""
    features = attributes.get("features")
    if features is not None and {"index", "name"} <= set(features):
        pairs = zip(features["index"], features["name"], strict=True)
        return {int(index): str(name) for index, name in pairs if int(index) != 0}
    carried = (attributes.get("metadata") or {}).get(LABELS_KEY) or {}
    return {int(index): str(name) for index, name in carried.items() if int(index) != 0}


def _colors(colormap: Any, names: Mapping[int, str]) -> dict[int, str]:
    """id → "#rrggbb" as the layer shows them, for the named labels and those coloured by hand."""
    by_hand = getattr(colormap, "color_dict", None) or {}
    ids = sorted({*names, *(i for i in by_hand if isinstance(i, int | np.integer) and i > 0)})
    if colormap is None or not ids:
        return {}
    rgba = np.atleast_2d(colormap.map(np.array(ids)))
    return {
        int(label): "#" + "".join(f"{round(float(c) * 255):02x}" for c in color[:3])
        for label, color in zip(ids, rgba, strict=True)
    }
