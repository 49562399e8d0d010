"""What a person says of some slices of a scan."""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.files import as_labels
from l2gnet_core.files.values import plain_values
from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.preprocessing.scan_kind import Profile
from l2gnet_core.scans.volume import Grid, Volume
from l2gnet_core.segmenting.slice_view import Field, ShownScan, field_of, shown_scan

#: The largest weight of a voxel: weights are transformed with images in float16.
MOST_WEIGHT = 65504


@dataclass(frozen=True, eq=False)
class Correction:
    """One scan (z,y,x) and the slices of its labels (z,y,x) that a person has corrected. Voxels of
    the scan that are no finite numbers count as the lowest.

    slices: indices along `axis` of (z,y,x). Only these slices of the labels are read, and once.
    unmarked: the id of voxels that are unknown, as around scribbles or in a partly painted slice.
    weights: (z,y,x), how much a voxel counts, from 0 to MOST_WEIGHT; 1 by default.
    image: equal for all corrections of one image, such as frames of a series; None if this is its
        only correction.
    checked: slice → the structures that a person checked in it, whether it holds them or not. The
        other labels there are a model's answer: they teach, but no model is judged by them. Without
        it those that the corrected slices hold, since a mask of one organ says nothing of others.

    Raises InputError for a wrong axis, for slices that do not exist or hold nothing to learn from,
    and for scans of complex numbers.
    """

    scan: NDArray[Any]
    grid: Volume | Grid
    axis: int
    labels: NDArray[Any]
    slices: tuple[int, ...]
    unmarked: int | None = None
    weights: NDArray[Any] | None = None
    image: Hashable | None = None
    checked: Mapping[int, Collection[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.scan.shape)
        for what, array in (("labels", self.labels), ("weights", self.weights)):
            if array is not None and tuple(array.shape) != shape:
                raise InputError(
                    f"Expected {what} of the scan's shape {shape}, but they have "
                    f"{tuple(array.shape)}; export them again on the scan's own grid."
                )
        # Readers make scans plain; arrays from elsewhere may hold anything.
        plain = plain_values(self.grid.name or "The scan", self.scan, [])
        object.__setattr__(self, "scan", plain)
        if self.axis not in (0, 1, 2):
            raise InputError(
                "Expected 0, 1 or 2, an axis of (z,y,x), to count slices along, but got "
                f"{self.axis}; `segmented` says along which one a scan was sliced."
            )
        object.__setattr__(self, "slices", _whole_numbers(self.slices))
        outside = [index for index in self.slices if not 0 <= index < shape[self.axis]]
        if not self.slices or outside:
            got = f"{_listed(outside)}" if outside else "none"
            raise InputError(
                f"Expected corrected slices between 0 and {shape[self.axis] - 1} along the slicing "
                f"axis, but got {got}; name the slices that were corrected."
            )
        if self.unmarked is not None and not 0 <= self.unmarked <= 65535:
            raise InputError(
                f"Expected a label id from 0 to 65535 for unmarked voxels, but got {self.unmarked}."
            )
        blank = [i for i, picture in zip(self.slices, self.pictures, strict=True)
                 if (picture == self.unmarked).all()]  # fmt: skip
        if blank:
            raise InputError(
                f"Expected marked voxels in every corrected slice, but slice {_listed(blank)} is "
                f"unmarked (id {self.unmarked}) everywhere; leave it out."
            )
        # NumPy's min and max return NaN if there is one, which fails the comparison below.
        lowest = np.min([part.min() for part in self.picture_weights])
        highest = np.max([part.max() for part in self.picture_weights])
        if not 0 <= lowest <= highest <= MOST_WEIGHT:
            raise InputError(
                f"Expected weights from 0 to {MOST_WEIGHT}, but they go from {lowest:g} to "
                f"{highest:g}; give most voxels 1, and others what they count beside these."
            )

    @cached_property
    def pictures(self) -> tuple[NDArray[Any], ...]:
        """Labels of the corrected slices, as stored; copied, so that later strokes do not count.

        Raises InputError if they are no whole numbers from 0 to 65535.
        """
        return tuple(
            as_labels(np.array(self._slice(self.labels, index)), f"Slice {index} of the labels")
            for index in self.slices
        )

    def picture(self, index: int) -> NDArray[Any]:
        """Labels of one corrected slice."""
        return self.pictures[self.slices.index(index)]

    @cached_property
    def picture_weights(self) -> tuple[NDArray[Any], ...]:
        """How much the voxels of the corrected slices count, copied as `pictures` are."""
        if self.weights is None:
            return tuple(np.ones(picture.shape, np.float32) for picture in self.pictures)
        return tuple(np.array(self._slice(self.weights, i), np.float32) for i in self.slices)

    @cached_property
    def structures(self) -> set[int]:
        """Ids of the structures in the corrected slices."""
        found = {int(id) for picture in self.pictures for id in np.unique(picture)}
        return found - {0, self.unmarked}

    @cached_property
    def checked_structures(self) -> set[int]:
        """Ids of the structures in the corrected slices that a person checked."""
        found: set[int] = set()
        for index, picture in zip(self.slices, self.pictures, strict=True):
            there = {int(id) for id in np.unique(picture)} - {0, self.unmarked}
            found |= there.intersection(self.checked.get(index, there))
        return found

    @cached_property
    def partly_labelled(self) -> set[int]:
        """The corrected slices with unmarked voxels."""
        pictures = zip(self.slices, self.pictures, strict=True)
        return {index for index, picture in pictures if (picture == self.unmarked).any()}

    @property
    def background(self) -> bool:
        """Is any voxel of the corrected slices marked as background?"""
        return self.unmarked != 0 and any((picture == 0).any() for picture in self.pictures)

    def field(self, card: ModelCard) -> Field:
        """The part of the scan that a model of this card is shown; found once."""
        if card.oriented not in self._fields:
            self._fields[card.oriented] = field_of(card, self.grid, self.axis, self.scan)
        return self._fields[card.oriented]

    @cached_property
    def _fields(self) -> dict[bool, Field]:
        """By `card.oriented`."""
        return {}

    def shown(self, card: ModelCard) -> ShownScan:
        """How a model of this card is shown the scan."""
        return shown_scan(card, self.scan, self.grid, self.axis, self.field(card))

    def appearance_in(self, card: ModelCard) -> Appearance:
        """The appearance in which a model of this card is shown the scan."""
        return self.shown(card).appearance

    def profile(self, card: ModelCard) -> Profile:
        """How the scan looks before a model's appearance changes it."""
        return self.shown(card).profile

    def _slice(self, array: NDArray[Any], index: int) -> NDArray[Any]:
        place: list[Any] = [slice(None)] * 3
        place[self.axis] = index
        picture: NDArray[Any] = array[tuple(place)]
        return picture


def informative(corrections: Sequence[Correction], erased: bool = True) -> list[Correction]:
    """The corrections that hold a structure; the others do not say which structures are absent.
    erased: also those that are labelled in part, as where somebody only erased.

    Raises InputError if there are none.
    """
    found = [one for one in corrections if one.structures or (erased and one.partly_labelled)]
    if not found:
        got = "holds background alone" if corrections else "is corrected"
        which = "nothing" if not corrections else "every one of them"
        raise InputError(
            f"Expected a structure in at least one corrected slice, but {which} {got}; correct a "
            "slice that holds one."
        )
    return found


def image_numbers(corrections: Sequence[Correction]) -> list[int]:
    """For each correction the number of its image, counted from 0 in order of appearance."""
    found: dict[Hashable, int] = {}
    keys = [("alone", n) if one.image is None else one.image for n, one in enumerate(corrections)]
    return [found.setdefault(key, len(found)) for key in keys]


def _whole_numbers(slices: Sequence[int]) -> tuple[int, ...]:
    """Sorted, without duplicates. Raises InputError."""
    try:
        # `operator.index` refuses floats, also whole ones.
        return tuple(sorted({operator.index(one) for one in slices}))
    except TypeError as error:
        raise InputError(
            f"Expected corrected slices as whole numbers, as in (2, 4, 7), but got {slices!r}; "
            "count them from 0."
        ) from error


def _listed(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))
