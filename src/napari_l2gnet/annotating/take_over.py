"""Taking over another mask of the same scan, as one that a person corrected elsewhere."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from numbers import Real
from typing import Any

import napari
import numpy as np
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.labels import LabelSet, is_automatic, plain, some
from napari_l2gnet.annotating.preview import PREVIEW_KEY
from napari_l2gnet.masks.layer import IMAGE_KEY, SEGMENTATION_KEY, MaskLayer
from napari_l2gnet.masks.napari_history import set_voxels
from napari_l2gnet.masks.organs import LARGEST_ID, UNMARKED
from napari_l2gnet.scans.layers import LABELS_KEY, VIEW_KEY
from napari_l2gnet.scans.on_grid import fit_of

#: An image with more different values than that is no mask.
_MOST_LABELS = 64
#: Voxels that are checked for that at once.
_AT_ONCE = 1 << 16

# Whether images hold labels, each with a reference to the data that were checked: the button asks
# after every stroke.
_known: weakref.WeakKeyDictionary[Layer, tuple[Any, bool]] = weakref.WeakKeyDictionary()


def candidates(viewer: napari.Viewer, mask: MaskLayer) -> list[Labels | Image]:
    """Foreign masks that lie on a mask's voxels. Files that do not say that they are masks open as
    images."""
    return [layer for layer in _foreign(viewer, mask) if not _reason_against(layer, mask)]


def why_none(viewer: napari.Viewer, mask: MaskLayer) -> str:
    """Why no mask can be taken over, in a sentence; "" if one can."""
    foreign = _foreign(viewer, mask)
    reasons = {layer: _reason_against(layer, mask) for layer in foreign}
    if not all(reasons.values()):
        return ""
    # Explain it by the newest layer that may be meant; a patient's further scans are not.
    masks = [layer for layer in foreign if holds_labels(layer)]
    meant = masks or [layer for layer in foreign if fit_of(layer, mask.layer)]
    if not meant:
        return "Drag the mask's file into the window first; it must lie on this scan."
    return (
        f'Expected a mask that lies on this scan, but "{meant[-1].name}" {reasons[meant[-1]]}; '
        "drag the file of such a mask into the window."
    )


@dataclass(frozen=True)
class TakenOver:
    """What taking over a mask changed: how many voxels, in how many slices. kept: names of organs
    that this mask has and of which the other one says nothing. part: does the other one leave out
    voxels of the scan?"""

    voxels: int
    slices: int
    kept: tuple[str, ...]
    part: bool


class OtherOrgans(InputError):
    """A mask has, beside organs of this mask (shared), others that this one lacks."""

    def __init__(self, sentence: str, shared: tuple[str, ...], others: tuple[str, ...]) -> None:
        super().__init__(sentence)
        self.shared, self.others = shared, others


def take_over(mask: MaskLayer, other: Labels | Image, only_shared: bool = False) -> TakenOver:
    """Write another mask's labels where they differ, as one stroke, so that they count as painted.
    Reviewed slices stay as they are. Organs are matched by name if the other mask has names.

    The other mask's background replaces the organs that it names or, without names, that it holds:
    a person who painted one organ elsewhere says nothing of the others. only_shared: where the
    other mask names organs that this one lacks, this one becomes background. Raises OtherOrgans for
    these otherwise, and InputError for other labels that are no organ's, could be two organs', or
    lie outside the scan.
    """
    segmentation = mask.segmentation
    if (fit := fit_of(other, mask.layer)) is None:
        raise InputError(
            f'Expected a mask that lies on this scan, but "{other.name}" was moved; move it back.'
        )
    shape = mask.layer.data.shape
    ids = fit.bring(_ids(other), shape, other.name).reshape(segmentation.shown.shape)
    names, organs = _names(other), segmentation.card.labels
    table, shown = _organs(names, organs), segmentation.shown
    labels = table[ids]
    told = np.zeros(UNMARKED + 1, bool)
    told[table if names else labels] = True
    stays = (labels == 0) & ~told[shown]
    changed = (labels != shown) & ~stays
    for place in segmentation.reviewed:
        segmentation.slice_of(changed, place)[...] = False
    voxels, after = np.flatnonzero(changed), labels[changed]
    if unknown := np.unique(ids[changed][after == UNMARKED]).tolist():
        said = _unknown(other.name, unknown, names, segmentation.largest_id)
        shared = tuple(organ.name for organ in organs if told[organ.id])
        if not shared or not names.keys() >= set(unknown):
            raise InputError(said)
        if not only_shared:
            raise OtherOrgans(said, shared, tuple(names[id] for id in unknown))
        after[after == UNMARKED] = 0
        differs = after != shown[changed]
        voxels, after = voxels[differs], after[differs]
    if len(voxels):
        where = np.unravel_index(voxels, shape)
        set_voxels(mask.layer, where, after.astype(shown.dtype))
    slices: set[SliceKey] = segmentation.places_of(voxels)
    staying = shown[stays]
    kept = tuple(organ.name for organ in organs if (staying == organ.id).any())
    return TakenOver(len(voxels), len(slices), kept, fit.leaves_out(other.data.shape, shape))


def _foreign(viewer: napari.Viewer, mask: MaskLayer) -> list[Labels | Image]:
    """Labels and images that are neither masks that can be corrected here, nor their scans, nor
    views or previews of those."""
    corrected = [
        layer
        for layer in viewer.layers
        if SEGMENTATION_KEY in layer.metadata and MaskLayer(viewer, layer).connected
    ]
    scans = [layer.metadata[IMAGE_KEY] for layer in corrected]
    return [
        layer
        for layer in viewer.layers
        if isinstance(layer, Labels | Image)
        and not {VIEW_KEY, PREVIEW_KEY} & layer.metadata.keys()
        and layer not in (mask.layer, *corrected, *scans)
    ]


def _reason_against(layer: Labels | Image, mask: MaskLayer) -> str:
    """Why a layer cannot be taken over, as the end of a sentence; "" if it can."""
    if layer.multiscale:
        return "holds the same at several resolutions"
    if fit_of(layer, mask.layer) is None:
        shape, scans = (_times(one.data.shape) for one in (layer, mask.layer))
        if shape != scans:
            return f"has {shape} voxels, not {scans}, and is no part of the scan's grid"
        size, scans = (_times(one.scale) for one in (layer, mask.layer))
        if size != scans:
            return f"has voxels of the size {size}, not {scans}"
        return "lies at another place, or is tilted otherwise"
    if isinstance(layer, Image) and not isinstance(layer.data, np.ndarray):
        return "is an image that is read piece by piece, of which the values are not known"
    if not holds_labels(layer):
        return f"holds no mask: whole numbers from 0 on, {_MOST_LABELS} different ones at most"
    return ""


def _times(numbers: Any) -> str:
    return " × ".join(f"{number:.4g}" for number in numbers)


def holds_labels(layer: Labels | Image) -> bool:
    """Does a layer hold a mask, by its type or its values?"""
    if isinstance(layer, Labels):
        return True
    data = layer.data
    # Lazy data would be loaded completely, while the window waits.
    if layer.multiscale or layer.rgb or not isinstance(data, np.ndarray):
        return False
    known = _known.get(layer)
    if known is None or known[0]() is not data:
        known = _known[layer] = weakref.ref(data), _are_labels(data)
    return known[1]


def no_scan(layer: Image | None) -> str:
    """A hint, in a sentence, if an image chosen as the scan looks like a mask; else ""."""
    if layer is None or not holds_labels(layer):
        return ""
    return (
        "This looks like a mask, not a scan: segment its scan, then Take over a mask, in Correct & "
        "fine-tune, brings these labels in."
    )


def _are_labels(data: NDArray[Any]) -> bool:
    """Are all values whole numbers from 0 on, and few different ones? Stops at the first that is
    not."""
    found: set[Any] = set()
    for plane in np.ndindex(data.shape[:-2]):
        values = data[plane].ravel()
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            # Only where the value changes: sorting all voxels takes long.
            steps = some[1:][some[1:] != some[:-1]]
            found.update(np.unique(np.append(steps, some[:1])).tolist())
            if len(found) > _MOST_LABELS or not all(
                0 <= value <= LARGEST_ID and value == int(value) for value in found
            ):
                return False
    return True


def _ids(layer: Labels | Image) -> NDArray[Any]:
    """A mask's labels as integers. Raises InputError for values that cannot be labels."""
    data = np.asarray(layer.data)
    fits = bool(data.min() >= 0 and data.max() <= LARGEST_ID)
    ids = data.astype(np.uint16, copy=False) if fits else data
    if not fits or not np.array_equal(ids, data):
        raise InputError(
            f'Expected labels that are whole numbers from 0 to {LARGEST_ID}, but "{layer.name}" '
            "has others; export it as a mask again."
        )
    return ids


def _names(layer: Labels | Image) -> dict[int, str]:
    """Names of organs by label, from the layer's file or another plugin; {} without names."""
    features = getattr(layer, "features", ())
    if {"index", "name"} <= set(features):
        pairs = list(zip(features["index"], features["name"], strict=True))
    else:
        pairs = list(layer.metadata.get(LABELS_KEY, {}).items())
    names = {
        int(label): name.strip()
        for label, name in pairs
        # Tables with gaps hold floats, and NaN or None in the gaps.
        if isinstance(label, Real) and float(label).is_integer() and label > 0
        if isinstance(name, str) and name.strip()
    }
    return {} if all(map(is_automatic, names.values())) else names


def _organs(names: dict[int, str], organs: LabelSet) -> NDArray[np.uint16]:
    """A table from labels of a mask with these names to ids of organs; UNMARKED where there is
    none. Raises InputError for a name that two organs have, unless one of them has the label."""
    table = np.full(UNMARKED + 1, UNMARKED, np.uint16)
    table[0] = 0
    for label, name in names.items():
        called = [organ.id for organ in organs if plain(organ.name) == plain(name)]
        if len(called) > 1 and label not in called:
            raise InputError(
                f"Expected different names for the organs of this mask, but {called[0]} and "
                f"{called[1]} of this mask are both the {name}; rename one of them."
            )
        if label <= LARGEST_ID and called:
            table[label] = label if label in called else called[0]
    if not names:
        ids = list(organs.names)
        table[ids] = ids
    return table


def _unknown(mask: str, labels: list[int], names: dict[int, str], largest: int) -> str:
    """A sentence that these labels, in ascending order, are no organs'. largest: the largest id
    that an organ can have."""
    if not names and labels[-1] > largest:
        return (
            f"Expected labels up to {largest}, as the ids of organs are, but {mask} has the label "
            f"{labels[-1]}, too; give it a smaller number, or all labels names, where the mask was "
            "made."
        )
    if not names:
        return (
            f"Expected the organs of this mask, but {mask} has the label {labels[0]}, too; "
            "add that organ with New … first."
        )
    # Ids decide only if no label has a name: otherwise they may mean other organs.
    if nameless := ", ".join(str(label) for label in labels if label not in names):
        return (
            f"Expected a name for every label of {mask}, as others of it have one, but there is "
            f"none for {nameless}; give it one where the mask was made."
        )
    return (
        f"Expected the organs of this mask, but {mask} has {some([names[i] for i in labels])}, "
        "too; add that organ with New … first, or call it there as it is called here."
    )
