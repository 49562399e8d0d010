"""Choices for tidying a finished mask; none changes a structure's id."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Functions import scipy.ndimage, which takes half a second: every list of models reads cards, and
# cards import this module.


@dataclass(frozen=True)
class CleanUp:
    """Choices for tidying a finished mask; a model's card has those that suit its organs.

    largest_piece: keep the largest connected piece of each structure. fill_holes: in each slice.
    spared: ids of structures that keep all their pieces, such as new ones taught by fine-tuning,
    which may have several.
    """

    largest_piece: bool = False
    fill_holes: bool = False
    spared: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CleanUp:
        """From the plain values of its fields."""
        return cls(**{**values, "spared": tuple(values["spared"])})

    def sparing(self, ids: Iterable[int]) -> CleanUp:
        """The same choices, with more structures that keep all their pieces."""
        return replace(self, spared=tuple(sorted({*self.spared, *ids})))

    def __bool__(self) -> bool:
        return self.largest_piece or self.fill_holes


def tidy(
    mask: NDArray[Any], axis: int, choices: CleanUp, painted: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Mask (z,y,x), tidied by the choices. axis: the slicing axis. painted: (z,y,x), where a person
    painted."""
    if choices.largest_piece:
        mask = keep_largest_component(mask, painted, choices.spared)
    return fill_holes(mask, axis) if choices.fill_holes else mask


def tidy_around(
    raw: NDArray[Any],
    axis: int,
    choices: CleanUp,
    labels: NDArray[Any],
    painted: NDArray[np.bool_],
) -> NDArray[Any]:
    """The model's mask (z,y,x), tidied with a person's labels in place where `painted`: what they
    connect to a structure is then part of it.

    Where `painted`, the result is the model's tidied mask without those labels: what is shown if
    they are undone.
    """
    if not painted.any():
        return tidy(raw, axis, choices)
    with_strokes = np.where(painted, labels, raw).astype(np.uint16)
    tidied = tidy(with_strokes, axis, choices, painted)
    return np.where(painted, tidy(raw, axis, choices), tidied)


def keep_largest_component(
    mask: NDArray[Any], painted: NDArray[np.bool_] | None = None, spared: Collection[int] = ()
) -> NDArray[Any]:
    """A copy of mask (z,y,x) in which each structure keeps its largest connected piece and every
    piece that a person painted on; spared ids keep all pieces.

    Voxels that touch at a corner are connected, as in MONAI's KeepLargestConnectedComponent:
    between thick slices, a thin oblique wall touches itself at corners only.
    """
    from scipy import ndimage

    result = np.zeros_like(mask)
    touching = ndimage.generate_binary_structure(mask.ndim, mask.ndim)
    for id, box in _structures(mask):
        if id in spared:
            result[box][mask[box] == id] = id
            continue
        pieces, count = ndimage.label(mask[box] == id, touching)
        if count:
            # Slice by slice, since counting and looking up take eight bytes per voxel.
            sizes = np.zeros(count + 1, np.int64)
            for one in pieces:
                sizes += np.bincount(one.ravel(), minlength=count + 1)
            sizes[0] = 0
            kept = np.zeros(count + 1, bool)
            kept[sizes.argmax()] = True
            if painted is not None:
                kept[pieces[painted[box]]] = True
            kept[0] = False
            for one, out in zip(pieces, result[box], strict=True):
                out[kept[one]] = id
    return result


def fill_holes(mask: NDArray[Any], axis: int) -> NDArray[Any]:
    """A copy of mask (z,y,x) in which background that a structure encloses in a slice becomes that
    structure.

    Only background changes: an enclosed other structure stays. If one structure lies inside
    another, as the left ventricle in the myocardium, a hole goes to the inner one.
    """
    from scipy import ndimage

    result = mask.copy()
    for seen, out in zip(np.moveaxis(mask, axis, 0), np.moveaxis(result, axis, 0), strict=True):
        filled = [
            (ndimage.binary_fill_holes(seen[box] == id), id, box) for id, box in _structures(seen)
        ]
        # Smallest first, since the inner structure is the smaller one.
        for area, id, box in sorted(filled, key=lambda one: np.count_nonzero(one[0])):
            out[box][area & (out[box] == 0)] = id
    return result


def _structures(mask: NDArray[Any]) -> list[tuple[int, tuple[slice, ...]]]:
    """Each id in mask, of any number of axes, with the box that holds all of it."""
    from scipy import ndimage

    boxes = ndimage.find_objects(mask)
    return [(id, box) for id, box in enumerate(boxes, start=1) if box is not None]
