"""Taking over what a person has corrected elsewhere: another mask of the same scan."""

from __future__ import annotations

import napari
import numpy as np
from napari.layers import Labels

from l2gnet_core.errors import InputError
from napari_l2gnet.layers import VIEW_KEY, lie_on_each_other
from napari_l2gnet.mask_layer import SEGMENTATION_KEY, MaskLayer
from napari_l2gnet.preview import PREVIEW_KEY
from napari_l2gnet.segmentation import Place


def others(viewer: napari.Viewer, mask: MaskLayer) -> list[Labels]:
    """Layers that lie on a mask voxel by voxel and are of nobody here."""
    ours = {VIEW_KEY, PREVIEW_KEY, SEGMENTATION_KEY}
    return [
        layer
        for layer in viewer.layers
        if isinstance(layer, Labels)
        and not layer.multiscale
        and not ours & layer.metadata.keys()
        and lie_on_each_other(layer, mask.layer)
    ]


def take_over(mask: MaskLayer, other: Labels) -> tuple[int, int]:
    """Write another mask's labels where they differ, as one stroke: they count as painted. Slices
    that are reviewed stay as they are.

    Returns how many voxels, in how many slices. Raises InputError for ids that are no organ's.
    """
    segmentation = mask.segmentation
    labels = np.asarray(other.data).reshape(segmentation.shown.shape)
    changed = labels != segmentation.shown
    for place in segmentation.reviewed:
        segmentation.slice_of(changed, place)[...] = False
    voxels, after = np.flatnonzero(changed), labels[changed]
    known = {0, *segmentation.card.labels.names}
    if unknown := sorted(set(np.unique(after).tolist()) - known):
        raise InputError(
            f"Expected the organs of this mask, but {other.name} has the label {unknown[0]}, too; "
            "add that organ with New … first."
        )
    if len(voxels):
        where = np.unravel_index(voxels, mask.layer.data.shape)
        mask.layer.data_setitem(where, after.astype(segmentation.shown.dtype))
    slices: set[Place] = segmentation.places_of(voxels)
    return len(voxels), len(slices)
