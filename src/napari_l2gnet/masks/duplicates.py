"""Copies of masks, as napari's Duplicate makes them: backups that are not saved."""

from __future__ import annotations

import napari

from napari_l2gnet.masks.layer import SEGMENTATION_KEY, MaskLayer


def unsaved_copy(viewer: napari.Viewer) -> str:
    """A warning sentence if the active layer is a copy of a mask; else ""."""
    active = viewer.layers.selection.active
    if active is None or SEGMENTATION_KEY not in active.metadata:
        return ""
    # Not by identity: napari gives its plugins a proxy of the active layer.
    if MaskLayer(viewer, active).connected:
        return ""
    copied = active.metadata[SEGMENTATION_KEY]
    masks = [one for one in viewer.layers if one.metadata.get(SEGMENTATION_KEY) is copied]
    own = next((one for one in masks if MaskLayer(viewer, one).connected), None)
    if own is None:
        return ""
    return (
        f'"{active.name}" is a copy, which is not saved automatically. Paint in "{own.name}" '
        "instead: Take over a mask brings the copy's labels there."
    )


def copy_over(mask: MaskLayer) -> str:
    """The name of the active layer if it is a copy that lies over its mask; else ""."""
    layers = mask.viewer.layers
    active = layers.selection.active
    if (
        active is None
        or active.metadata.get(SEGMENTATION_KEY) is not mask.segmentation
        or MaskLayer(mask.viewer, active).connected
        or mask.viewer.canvas.grid.enabled  # side by side
    ):
        return ""
    over = active.visible and layers.index(active) > layers.index(mask.layer)
    return str(active.name) if over else ""
