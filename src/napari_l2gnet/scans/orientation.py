"""The orientation of a scan whose file does not say it: given by a person, kept on its layer."""

from __future__ import annotations

from collections.abc import Sequence

from napari.layers import Layer

from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.volume import GridOrVolume, oriented_as

ORIENTATION_KEY = "l2gnet_orientation"


def is_asked_for(card: ModelCard, stored: GridOrVolume) -> bool:
    """Does this model need an orientation that the scan's file does not say?"""
    return card.oriented and not stored.oriented


def given_orientation(layer: Layer, stored_axes: Sequence[int]) -> str:
    """The orientation that a person gave: the letter each axis grows to, in the file's order;
    "" for none."""
    # Kept in the order of (z, y, x): a voxel size set in napari replaces the grid of a file that
    # states none, and with it the file's order.
    codes: str = layer.metadata.get(ORIENTATION_KEY, "")
    return "".join(codes[axis] for axis in stored_axes) if codes else ""


def give_orientation(layer: Layer, letters: str, stored_axes: Sequence[int]) -> None:
    """Keep the orientation that a person gives a layer's scan; "" removes it.

    letters: as given_orientation returns them, valid ones.
    """
    if letters:
        of_axis = dict(zip(stored_axes, letters, strict=True))
        layer.metadata[ORIENTATION_KEY] = of_axis[0] + of_axis[1] + of_axis[2]
    else:
        layer.metadata.pop(ORIENTATION_KEY, None)


def as_given(layer: Layer, stored: GridOrVolume) -> GridOrVolume:
    """A layer's scan with the orientation that a person gave it, if its file says none.

    For models and orientation markers only: masks are saved with what is stored.
    """
    letters = given_orientation(layer, stored.stored_axes)
    return stored if stored.oriented or not letters else oriented_as(stored, letters)
