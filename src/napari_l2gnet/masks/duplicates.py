"""Copies of masks, as napari's Duplicate makes them: backups that are not saved."""

from __future__ import annotations

import napari

from napari_l2gnet.masks.layer import SEGMENTATION_KEY, MaskLayer


def selected_mask(viewer: napari.Viewer) -> MaskLayer | None:
    """The mask that the active layer is, or is a copy of; None if there is none."""
    active = viewer.layers.selection.active
    if active is None or SEGMENTATION_KEY not in active.metadata:
        return None
    drawn = active.metadata[SEGMENTATION_KEY]
    masks = [
        MaskLayer(viewer, one)
        for one in viewer.layers
        if one.metadata.get(SEGMENTATION_KEY) is drawn
    ]
    return next((mask for mask in masks if mask.connected), None)


def unsaved_copy(viewer: napari.Viewer) -> str:
    """A warning sentence if the active layer is a copy of a mask; else ""."""
    active, mask = viewer.layers.selection.active, selected_mask(viewer)
    # Not by identity: napari gives its plugins a proxy of the active layer.
    if mask is None or MaskLayer(viewer, active).connected:
        return ""
    own = mask.layer.name
    return (
        f'"{active.name}" is a copy, which is not saved automatically. Paint in "{own}" instead: '
        "Take over a mask brings the copy's labels there."
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
