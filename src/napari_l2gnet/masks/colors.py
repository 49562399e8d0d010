"""The colours in which a Labels layer draws the organs of a mask."""

from __future__ import annotations

from typing import Any

from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.scans.layers import LABELS_KEY, label_arguments


def organ_colors(layer: Labels, labels: LabelSet) -> dict[int, tuple[str, bool]]:
    """By label id: an organ's colour as "#rrggbb", and whether it is drawn."""
    colors, drawn = {}, _rgba(layer, labels)
    for label in labels:
        *rgb, alpha = drawn[label.id]
        colors[label.id] = ("#" + "".join(f"{round(255 * c):02x}" for c in rgb), alpha > 0)
    return colors


def show_organ(layer: Labels, labels: LabelSet, label: int, shown: bool) -> None:
    """Draw an organ, or do not."""
    colors = _rgba(layer, labels)
    _draw(layer, {**colors, label: [*colors[label][:3], float(shown)]})


def color_organ(layer: Labels, labels: LabelSet, label: int, color: str) -> None:
    """Give an organ another colour ("#rrggbb"). One that is not drawn stays so."""
    colors = _rgba(layer, labels)
    rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    _draw(layer, {**colors, label: [*rgb, colors[label][3]]})


def relabel(layer: Labels, before: LabelSet, labels: LabelSet) -> None:
    """Give a layer other organs. Those whose own colour is as before keep the one on screen."""
    gone = before.names.keys() - labels.names.keys()
    colors: dict[Any, Any] = {
        id: color for id, color in _rgba(layer, before).items() if id not in gone
    }
    for label in labels:
        if before.colors.get(label.id) != label.color:
            colors[label.id] = label.color
    layer.metadata[LABELS_KEY] = labels.names
    # Before the colormap, whose event announces the change.
    layer.features = label_arguments(labels.names, labels.colors)["features"]
    _draw(layer, colors)


def _rgba(layer: Labels, labels: LabelSet) -> dict[int | None, list[float]]:
    """RGBA by label id, as napari's layer controls may have changed them."""
    colormap = layer.colormap
    if isinstance(colormap, DirectLabelColormap):
        colors = dict(colormap.color_dict)
    else:  # "auto": napari's own colours, one for every possible label
        colors = {None: [1.0, 1.0, 1.0, 1.0], 0: [0.0, 0.0, 0.0, 0.0]}
    for label in labels:
        colors.setdefault(label.id, colormap.map(label.id))
    return {label: [float(c) for c in color] for label, color in colors.items()}


def _draw(layer: Labels, colors: dict[Any, Any]) -> None:
    layer.colormap = DirectLabelColormap(color_dict=colors)
