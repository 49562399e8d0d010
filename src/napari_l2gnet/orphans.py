"""Masks whose scan was deleted from the viewer, for when the same scan is opened again."""

from __future__ import annotations

from collections.abc import Generator

import napari
from napari.layers import Image

from l2gnet_core.project.scans import identify
from napari_l2gnet.autosave import autosave_of
from napari_l2gnet.layers import VIEW_KEY, draw, lay_on, stay_on, volume_of
from napari_l2gnet.mask_layer import DATA_KEY, IMAGE_KEY, SEGMENTATION_KEY, MaskLayer, reference
from napari_l2gnet.orientation import ORIENTATION_KEY


def orphans(viewer: napari.Viewer, image: Image) -> list[MaskLayer]:
    """Masks as large as an image and whose own one is gone; of the same scan perhaps."""
    if image.multiscale:
        return []
    return [mask for mask in _of_gone_scans(viewer) if _may_be_of(mask, image)]


def same_scan(masks: list[MaskLayer], image: Image) -> Generator[list[MaskLayer], None, None]:
    """Those of them that are of the image's scan, told as saved work is; reads all of both scans,
    meant for a thread of its own. Raises InputError."""
    scan = identify(volume_of(image))
    yield [mask for mask in masks if identify(volume_of(mask.layer.metadata[IMAGE_KEY])) == scan]


def give_scan(mask: MaskLayer, image: Image) -> None:
    """Let a mask be of an image from now on, which is the same scan as its own one that is gone."""
    metadata = mask.layer.metadata
    # It may have been hidden for the mask, as it lay over it.
    if metadata[IMAGE_KEY].visible:
        draw(image, True)
    metadata[IMAGE_KEY], metadata[DATA_KEY] = image, reference(image.data)
    # The one that is gone may have been moved, and the mask with it.
    lay_on(mask.layer, image)
    stay_on(mask.layer, image)
    if metadata[ORIENTATION_KEY]:
        image.metadata.setdefault(ORIENTATION_KEY, metadata[ORIENTATION_KEY])
    # Else the voxels of the one that is gone would stay in memory.
    if (autosave := autosave_of(mask)) is not None:
        autosave.volume = volume_of(image)


def put_below(viewer: napari.Viewer, image: Image, masks: list[MaskLayer]) -> None:
    """Move a scan below its masks and what is drawn of them: opened again it lies on top, and would
    hide them."""
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
        # Of other voxels that were put into its scan since, nobody knows whose it is.
        and mask.layer.metadata[DATA_KEY]() is own.data
    )
