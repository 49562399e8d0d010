"""Masks whose scan was deleted from the viewer, and giving them the same scan opened again."""

from __future__ import annotations

from collections.abc import Generator

import napari
from napari.layers import Image

from l2gnet_core.project.scans import identify
from napari_l2gnet.masks.layer import DATA_KEY, IMAGE_KEY, SEGMENTATION_KEY, MaskLayer, reference
from napari_l2gnet.saving.autosave import autosave_of
from napari_l2gnet.scans.layers import VIEW_KEY, draw, lay_on, stay_on, volume_of
from napari_l2gnet.scans.orientation import ORIENTATION_KEY


def orphans(viewer: napari.Viewer, image: Image) -> list[MaskLayer]:
    """Masks of an image's size whose own image is gone. They may be of the same scan."""
    if image.multiscale:
        return []
    return [mask for mask in _of_gone_scans(viewer) if _may_be_of(mask, image)]


def same_scan(masks: list[MaskLayer], image: Image) -> Generator[list[MaskLayer], None, None]:
    """Yields the masks that are of the image's scan, which is identified as for saved work. Reads
    all of both scans; meant for a thread of its own. Raises InputError."""
    scan = identify(volume_of(image))
    yield [mask for mask in masks if identify(volume_of(mask.layer.metadata[IMAGE_KEY])) == scan]


def give_scan(mask: MaskLayer, image: Image) -> None:
    """Make an image the scan of a mask. It must be the same scan as the mask's own, deleted one."""
    metadata = mask.layer.metadata
    # The image may have been hidden because it lay over the mask.
    if metadata[IMAGE_KEY].visible:
        draw(image, True)
    metadata[IMAGE_KEY], metadata[DATA_KEY] = image, reference(image.data)
    # The deleted image may have been moved, and the mask with it.
    lay_on(mask.layer, image)
    stay_on(mask.layer, image)
    if metadata[ORIENTATION_KEY]:
        image.metadata.setdefault(ORIENTATION_KEY, metadata[ORIENTATION_KEY])
    # Otherwise the voxels of the deleted image would stay in memory.
    if (autosave := autosave_of(mask)) is not None:
        autosave.volume = volume_of(image)


def put_below(viewer: napari.Viewer, image: Image, masks: list[MaskLayer]) -> None:
    """Move a scan below its masks and their views. A scan that is opened again is the topmost layer
    and would hide them."""
    layers, over = viewer.layers, [mask.layer for mask in masks]
    places = [k for k, one in enumerate(layers) if one in over or VIEW_KEY in one.metadata]
    if layers.index(image) > places[0]:
        layers.move(layers.index(image), places[0])


def _of_gone_scans(viewer: napari.Viewer) -> list[MaskLayer]:
    masks = [MaskLayer(viewer, one) for one in viewer.layers if SEGMENTATION_KEY in one.metadata]
    return [
        mask
        for mask in masks
        if mask.connected and mask.layer.metadata[IMAGE_KEY] not in viewer.layers
    ]


def _may_be_of(mask: MaskLayer, image: Image) -> bool:
    own = mask.layer.metadata[IMAGE_KEY]
    return (
        mask.layer.data.shape == image.data.shape
        # If its image got other voxels since, it is unknown whose mask it is.
        and mask.layer.metadata[DATA_KEY]() is own.data
    )
