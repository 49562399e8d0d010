"""Whether a mask can be seen on its scan, and bringing it into view if it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_l2gnet.annotating.preview import PREVIEW_KEY, shows_proposal
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.masks.layer import IMAGE_KEY, OPACITY, SEGMENTATION_KEY, MaskLayer
from napari_l2gnet.saving.orphans import put_below
from napari_l2gnet.scans.layers import (
    VIEW_KEY,
    draw,
    is_cut,
    lay_on,
    lie_on_each_other,
    lies_as,
    shown_index,
)

#: Blendings that hide the layers below, unless the layer itself is transparent.
_COVERING = {"opaque", "translucent", "translucent_no_depth"}
#: Below the first opacity a layer can be seen through; below the second it cannot be seen.
_OPAQUE, _NOTHING = 0.9, 0.05


def why_unseen(mask: MaskLayer) -> str:
    """Why a mask, or the preview that is shown instead, cannot be seen on its scan, in words; "" if
    it can."""
    layer = mask.layer
    if not shows_proposal(annotation_of(mask)):
        if not layer.visible:
            return f'"{layer.name}" is hidden by its eye icon'
        if layer.opacity < _NOTHING:
            return f'"{layer.name}" is hidden by its opacity'
    if mask.outside:
        return mask.outside
    # Of several, the last one is named: a mask rather than an image.
    drawn = [one for one in _other_masks(mask) if _has_voxels(one, mask.viewer.dims)]
    if covered := _why_covered(mask, [*_images_over(mask), *drawn]):
        return covered
    scan = layer.metadata[IMAGE_KEY]
    if scan in mask.viewer.layers and not _has_picture(mask):
        return f'"{scan.name}" is hidden by its eye icon'
    return why_beside(mask)


def why_beside(mask: MaskLayer) -> str:
    """Why strokes on the scan get to another place in the mask, in words; "" if they do not."""
    layer, scan = mask.layer, mask.layer.metadata[IMAGE_KEY]
    if scan not in mask.viewer.layers or scan.ndim != layer.ndim or lies_as(layer, scan):
        return ""
    return f'"{layer.name}" is no longer aligned with "{scan.name}"'


def why_all_unseen(mask: MaskLayer) -> str:
    """Why neither a mask nor its scan can be seen, in words; "" if either can.

    Another mask of the scan hides neither from somebody who only looks.
    """
    layer = mask.layer
    if not (layer.visible and layer.opacity >= _NOTHING) and not _has_picture(mask):
        return f'"{layer.name}" and its scan are hidden'
    return _why_covered(mask, _images_over(mask))


def bring_into_view(mask: MaskLayer, alone: bool = False) -> list[Layer]:
    """Show a mask on its scan. Returns the images that lay over it and the other masks of the scan,
    which are now hidden.

    alone: also hide other images of the same voxels below the mask. They may be of the same patient
    or of another one.
    """
    layer, layers = mask.layer, mask.viewer.layers
    scan = layer.metadata[IMAGE_KEY]
    draw(layer, True)
    if why_beside(mask):
        lay_on(layer, scan)
    # A preview is shown instead of the mask, which keeps opacity 0.
    if layer.opacity < _NOTHING and not shows_proposal(annotation_of(mask)):
        layer.opacity = OPACITY
    if scan in layers and (alone or not _has_picture(mask)):
        draw(scan, True)
    over = sorted([*_images_over(mask, alone), *_other_masks(mask)], key=layers.index)
    if scan in over:
        put_below(mask.viewer, scan, [mask])
    hidden = [one for one in over if one is not scan]
    for one in list(layers):
        if any(_is_of(one, covering, layers) for covering in hidden):
            draw(one, False)
    if (preview := annotation_of(mask).preview) is not None:
        preview.draw()
    return hidden


def hidden_message(mask: MaskLayer, hidden: Sequence[Layer]) -> str:
    """What to say of layers that were hidden to show a mask; "" if none were."""
    if not hidden:
        return ""
    names = ", ".join(f'"{layer.name}"' for layer in hidden)
    was, icons = "was", "its eye icon shows it"
    if len(hidden) > 1:
        was, icons = "were", "their eye icons show them"
    return f'To show "{mask.layer.name}", {names} {was} hidden: {icons} again.'


def _why_covered(mask: MaskLayer, over: Sequence[Layer]) -> str:
    if not over:
        return ""
    layers, one = mask.viewer.layers, over[-1]
    below = isinstance(one, Labels) and layers.index(one) < layers.index(mask.layer)
    how = "shows through" if below else "lies over"
    return f'"{one.name}" {how} "{mask.layer.name}"'


def _images_over(mask: MaskLayer, alone: bool = False) -> list[Layer]:
    """Images that cover a mask, or its scan below it. alone: as in `bring_into_view`."""
    layer, layers = mask.layer, list(mask.viewer.layers)
    if not _lies_below(mask):
        return []
    scan, at = layer.metadata[IMAGE_KEY], layers.index(layer)
    first = min(at, layers.index(scan)) if scan in layers else at
    return [
        one
        for n, one in enumerate(layers)
        if n > first
        and _covers(one)
        and _overlap(one, layer, mask.viewer.dims)
        and (alone or n > at or not _is_picture(one, mask))
    ]


def _other_masks(mask: MaskLayer) -> list[Layer]:
    """Other masks of the scan, and their previews, that are drawn over a mask or show through where
    it is empty, in any slice."""
    if not _lies_below(mask):
        return []
    return [one for one in mask.viewer.layers if _is_other_mask(one, mask)]


def _lies_below(mask: MaskLayer) -> bool:
    """Can anything lie over a mask, rather than beside it in the grid?"""
    return mask.layer in mask.viewer.layers and not mask.viewer.canvas.grid.enabled


def _has_voxels(layer: Layer, dims: Any) -> bool:
    """Has a mask voxels in the slice on screen?"""
    displayed = [axis - dims.ndim + layer.ndim for axis in dims.displayed]
    at = shown_index(layer, dims.point)
    shown = tuple(slice(None) if axis in displayed else n for axis, n in enumerate(at))
    return bool(np.any(layer.data[shown]))


def _has_picture(mask: MaskLayer) -> bool:
    """Is a picture visible on which the mask can be looked at?"""
    return any(one.visible and _is_picture(one, mask) for one in mask.viewer.layers)


def _is_picture(layer: Layer, mask: MaskLayer) -> bool:
    """Is a layer the scan of a mask, or another image of the same voxels? An image with masks of
    its own does not count: it may be of another patient or time."""
    if not isinstance(layer, Image) or VIEW_KEY in layer.metadata:
        return False
    if layer is mask.layer.metadata[IMAGE_KEY]:
        return True
    own = any(one.metadata.get(IMAGE_KEY) is layer for one in mask.viewer.layers)
    return lie_on_each_other(layer, mask.layer) and not own


def _is_other_mask(layer: Layer, mask: MaskLayer) -> bool:
    """Is a layer another mask of the scan, or its preview, that can be seen?"""
    if not layer.visible or layer.opacity < _NOTHING:
        return False
    drawn = layer.metadata.get(SEGMENTATION_KEY) or layer.metadata.get(PREVIEW_KEY)
    scan = mask.layer.metadata[IMAGE_KEY]
    return drawn is not mask.segmentation and any(
        one.metadata.get(IMAGE_KEY) is scan and one.metadata[SEGMENTATION_KEY] is drawn
        for one in mask.viewer.layers
    )


def _covers(layer: Layer) -> bool:
    return (
        isinstance(layer, Image)
        and layer.visible
        and VIEW_KEY not in layer.metadata
        and layer.opacity >= _OPAQUE
        and str(layer.blending) in _COVERING
        # Heat maps, for example, are transparent where they are dark.
        and bool((layer.colormap.colors[:, 3] >= _OPAQUE).all())
    )


def _overlap(one: Layer, other: Layer, dims: Any) -> bool:
    """Do two layers overlap on screen?"""
    both = min(one.ndim, other.ndim)
    axes = [axis - dims.ndim for axis in dims.displayed if dims.ndim - axis <= both]
    (low, high), (start, stop) = (layer.extent.world[:, axes] for layer in (one, other))
    return is_cut(one, dims) and bool(((low < stop) & (start < high)).all())


def _is_of(layer: Layer, covering: Layer, layers: Sequence[Layer]) -> bool:
    """Is a layer an image, a mask or a preview that covers another mask, a mask of that image, or a
    view or preview of those?"""
    metadata = layer.metadata
    masks = [one for one in layers if one is covering or one.metadata.get(IMAGE_KEY) is covering]
    drawn = metadata.get(PREVIEW_KEY) or metadata.get(VIEW_KEY, ("", None))[1]
    return layer in masks or (
        drawn is not None
        and any(
            drawn is (one.metadata.get(SEGMENTATION_KEY) or one.metadata.get(PREVIEW_KEY))
            for one in masks
        )
    )
