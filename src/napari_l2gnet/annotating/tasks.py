"""Collects from masks in a viewer what a job on their corrections needs. Without Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import napari
import numpy as np

from l2gnet_core.errors import InputError
from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.annotating.annotation import Annotation, Version
from napari_l2gnet.annotating.learning import Task, TaughtScan, card_of
from napari_l2gnet.masks.layer import IMAGE_KEY, MODEL_KEY, MaskLayer
from napari_l2gnet.masks.organs import same_names
from napari_l2gnet.scans.layers import volume_of
from napari_l2gnet.scans.orientation import as_given


def annotation_of(mask: MaskLayer) -> Annotation:
    """The annotation of a mask: the same object for every caller."""
    metadata = mask.layer.metadata
    return Annotation.of(metadata, mask.segmentation, metadata[MODEL_KEY])


def project_masks(viewer: napari.Viewer, mask: MaskLayer) -> list[MaskLayer]:
    """A mask, and the other masks by the same model in the viewer that hold corrections.

    Only the newest mask of each image, as masks of one image may contradict each other.
    """
    masks = [mask]
    for layer in reversed(viewer.layers):
        if layer.metadata.get(MODEL_KEY) == annotation_of(mask).model:
            other = MaskLayer(viewer, layer)
            image = layer.metadata[IMAGE_KEY]
            if not other.connected or any(image is m.layer.metadata[IMAGE_KEY] for m in masks):
                continue
            annotation = annotation_of(other)
            annotation.catch_up()
            if annotation.taught:
                masks.insert(1, other)
    return masks


def fine_tuning(
    masks: Sequence[MaskLayer],
    kind: Literal["scan", "project"],
    seconds: float,
    painted_is_complete: bool,
) -> Task:
    """A task to learn from masks. The first one is on screen; learning starts from its version.

    Raises InputError if a scan cannot be read, if masks disagree on organs, or if a label is no
    organ's.
    """
    annotations = [annotation_of(mask) for mask in masks]
    for mask in masks:
        _require_organs(mask, "" if mask is masks[0] else f" of {mask.layer.name}")
    known = card_of(annotations[0].version, annotations[0]).labels.names
    scans = [
        TaughtScan(scan_of(mask), mask.segmentation, annotation.lessons(painted_is_complete, known))
        for mask, annotation in zip(masks, annotations, strict=True)
    ]
    first, *others = annotations
    names = same_names({mask.layer.name: mask.segmentation.card.labels for mask in masks})
    return Task(
        first, first.version, scans, masks[0].place, kind, seconds, names=names, others=others
    )


def _require_organs(mask: MaskLayer, where: str) -> None:
    """Raises InputError if slices to learn from hold a label that is no organ's."""
    annotation, segmentation = annotation_of(mask), mask.segmentation
    known, found = [0, *segmentation.card.labels.names], list[tuple[int, SliceKey]]()
    annotation.look_for_edits()
    for place in sorted(annotation.taught):
        labels = np.unique(segmentation.slice_of(segmentation.shown, place))
        found += [(int(label), place) for label in np.setdiff1d(labels, known)]
    if found:
        label = min(found)[0]
        places = [annotation.name_of(place) for one, place in found if one == label]
        slices = f"slice{'s' * (len(places) > 1)} {', '.join(places)}"
        raise InputError(
            f"Label {label} in {slices}{where} belongs to no organ; press New … to name it, or "
            "erase it."
        )


def application(mask: MaskLayer, version: Version) -> Task:
    """A task to segment a mask's scan with a version. Raises InputError if the scan cannot be
    read."""
    scan = TaughtScan(scan_of(mask), mask.segmentation, [])
    return Task(annotation_of(mask), version, [scan], mask.place)


def scan_of(mask: MaskLayer) -> Volume:
    """The scan of a mask, oriented as its file or a person says."""
    image = mask.layer.metadata[IMAGE_KEY]
    return as_given(image, volume_of(image))
