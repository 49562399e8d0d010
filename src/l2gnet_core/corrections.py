"""What a person says of some slices of a scan, and those slices as a network learns from them."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from l2gnet_core.appearance import Appearance
from l2gnet_core.augment import Augmentation, draw_intensity, intensity_views, swapped
from l2gnet_core.card import ModelCard
from l2gnet_core.errors import InputError
from l2gnet_core.files import as_labels
from l2gnet_core.files.values import plain_values
from l2gnet_core.intensities import normalise
from l2gnet_core.preprocess import as_seen, neighbours, resized, resized_classes
from l2gnet_core.sampling import Drawn, turned_views
from l2gnet_core.scan_kind import Profile, scan_profile
from l2gnet_core.slice_view import Field, SliceView, field_of, slice_view
from l2gnet_core.volume import Grid, Volume

#: The class of pixels of which nothing is known.
UNKNOWN = 255
#: What a voxel may count at most: weights travel with images in float16.
MOST_WEIGHT = 65504


@dataclass(frozen=True, eq=False)
class Correction:
    """One scan (z,y,x) and the slices of its labels (z,y,x) that a person vouches for. Voxels of
    the scan that are no finite numbers count as the lowest.

    slices: indices along `axis` of (z,y,x); of the labels nothing but these is ever read, and that
    once. unmarked: the id of voxels that are unknown, as amid scribbles or in a slice painted in
    part. weights (z,y,x): how much a voxel counts, 1 by default; more where a person painted, but
    no more than MOST_WEIGHT.
    image: the same for all corrections of one image, such as frames of a series; None: it is the
    only one.

    Raises InputError for another axis, for slices that are not there or hold nothing to learn from,
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
        # NumPy's, which let a NaN through to the comparison wherever it stands.
        lowest = np.min([part.min() for part in self.picture_weights])
        highest = np.max([part.max() for part in self.picture_weights])
        if not 0 <= lowest <= highest <= MOST_WEIGHT:
            raise InputError(
                f"Expected weights from 0 to {MOST_WEIGHT}, but they go from {lowest:g} to "
                f"{highest:g}; give most voxels 1, and others what they count beside these."
            )

    @cached_property
    def pictures(self) -> tuple[NDArray[Any], ...]:
        """Labels of the corrected slices, as stored; copied, so that painting on changes nothing.

        Raises InputError if they are no whole numbers from 0 to 65535.
        """
        return tuple(
            as_labels(np.array(self._slice(self.labels, index)), f"Slice {index} of the labels")
            for index in self.slices
        )

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

    @property
    def background(self) -> bool:
        """Is any voxel of the corrected slices marked as background?"""
        return self.unmarked != 0 and any((picture == 0).any() for picture in self.pictures)

    def field(self, card: ModelCard) -> Field:
        """What of the scan a model of this card is shown; found once."""
        if card.oriented not in self._fields:
            self._fields[card.oriented] = field_of(card, self.grid, self.axis, self.scan)
        return self._fields[card.oriented]

    @cached_property
    def _fields(self) -> dict[bool, Field]:
        """By whether a model tells left from right."""
        return {}

    def appearance_in(self, card: ModelCard) -> Appearance:
        """How a model of this card is shown the scan."""
        return card.appearance_of(self._view(card).stack(self.scan), self._window(card))

    def profile(self, card: ModelCard) -> Profile:
        """How the scan looks, whatever a model of this card is shown."""
        return scan_profile(self._view(card).stack(self.scan), self._window(card))

    def _window(self, card: ModelCard) -> tuple[float, float]:
        field = self.field(card)
        return card.seen_window(field.window, field.ct)

    def seen_by(self, card: ModelCard) -> CorrectedScan:
        """The scan as a model of this card sees it; its labels must have every id there is."""
        view, window = self._view(card), self._window(card)

        def shown(picture: NDArray[Any]) -> Tensor:
            alone = view.stack(np.expand_dims(picture, self.axis))
            return torch.from_numpy(np.ascontiguousarray(alone))

        def seen(picture: NDArray[Any]) -> Tensor:
            image = np.ascontiguousarray(normalise(picture, window))
            return as_seen(torch.from_numpy(image)[None, None], view.size, appearance)[0]

        slices = view.stack(self.scan)
        appearance = card.appearance_of(slices, window)
        ids = [label.id for label in card.labels]
        lookup = np.zeros(65536, np.uint8)
        lookup[ids] = np.arange(1, len(ids) + 1)
        if self.unmarked is not None:
            lookup[self.unmarked] = UNKNOWN
        classes = torch.cat([shown(lookup[picture]) for picture in self.pictures])
        weights = torch.cat([shown(weights) for weights in self.picture_weights])
        return CorrectedScan(
            # One by one: all of a large scan in float32 may not fit into memory.
            image=torch.cat([seen(picture).half() for picture in slices]),
            places=tuple(view.place(index) for index in self.slices),
            classes=resized_classes(classes, view.size),
            weights=resized(weights[None], view.size)[0],
            absent=torch.tensor([False, *(id not in self.structures for id in ids)]),
            step=view.step,
        )

    def _view(self, card: ModelCard) -> SliceView:
        return slice_view(card, self.grid, self.axis, margins=self.field(card).margins)

    def _slice(self, array: NDArray[Any], index: int) -> NDArray[Any]:
        place: list[Any] = [slice(None)] * 3
        place[self.axis] = index
        picture: NDArray[Any] = array[tuple(place)]
        return picture


def informative(corrections: Sequence[Correction]) -> list[Correction]:
    """Those that hold a structure: of which there is none nobody says that it is absent.

    Raises InputError if there are none.
    """
    found = [correction for correction in corrections if correction.structures]
    if not found:
        got = "holds background alone" if corrections else "is corrected"
        which = "nothing" if not corrections else "every one of them"
        raise InputError(
            f"Expected a structure in at least one corrected slice, but {which} {got}; correct a "
            "slice that holds one."
        )
    return found


def image_numbers(corrections: Sequence[Correction]) -> list[int]:
    """For each correction the number of its image; images are counted from 0 as they come."""
    found: dict[Hashable, int] = {}
    keys = [("alone", n) if one.image is None else one.image for n, one in enumerate(corrections)]
    return [found.setdefault(key, len(found)) for key in keys]


@dataclass(frozen=True, eq=False)
class CorrectedScan:
    """A scan at the network's size: image (n,H,W) float16 in [0,1]; `places` of its k corrected
    slices, with their classes (k,H,W) uint8, UNKNOWN where unmarked, and weights (k,H,W).

    absent (classes,): which classes none of the corrected slices holds. Whoever taught one organ
    did not say that the others are not there. `step` is how many slices one neighbour that the
    network sees is from the next.
    """

    image: Tensor
    places: tuple[int, ...]
    classes: Tensor
    weights: Tensor
    absent: Tensor
    step: int = 1

    @property
    def untouched(self) -> list[int]:
        """Places of the other slices."""
        return [place for place in range(len(self.image)) if place not in self.places]

    def only(self, kept: Sequence[int]) -> CorrectedScan:
        """The same with some of its corrected slices, counted from 0 to k − 1; the others become
        untouched ones."""
        classes = self.classes[list(kept)]
        held = torch.bincount(classes.flatten().long(), minlength=UNKNOWN + 1) > 0
        absent = ~held[: len(self.absent)]
        absent[0] = False
        places = tuple(self.places[k] for k in kept)
        return replace(
            self, places=places, classes=classes, weights=self.weights[list(kept)], absent=absent
        )


@dataclass(frozen=True)
class Views:
    """images (B,C,s,s) float32, classes (B,s,s) long, weights (B,s,s): zero where nothing is known;
    absent (B,classes) as in `CorrectedScan`."""

    images: Tensor
    classes: Tensor
    weights: Tensor
    absent: Tensor


class CorrectionSampler:
    """Random views of corrected and of untouched slices.

    Sample i of step s depends on (seed, run, s, i) alone; `run` tells the runs of one fine-tuning
    apart. `channels` is how many neighbouring slices a sample holds. `others` are images (n,H,W)
    that make up `others_share` of the untouched ones.
    """

    def __init__(
        self,
        scans: Sequence[CorrectedScan],
        how: Augmentation,
        channels: int,
        seed: tuple[int, int],
        others: Sequence[Tensor] = (),
        others_share: float = 0.0,
    ) -> None:
        self._how = how
        self._channels = channels
        self._seed = seed
        self._corrected = [(scan, k) for scan in scans for k in range(len(scan.places))]
        self._untouched = [(scan.image, i, scan.step) for scan in scans for i in scan.untouched]
        self._others = [(image, i, 1) for image in others for i in range(len(image))]
        self._others_share = others_share

    def corrected(self, step: int, count: int, size: int, device: str) -> Views:
        """Some views of corrected slices."""
        rngs = [np.random.default_rng((*self._seed, 0, step, i)) for i in range(count)]
        drawn, absent = [], []
        for rng in rngs:
            scan, k = self._corrected[int(rng.integers(len(self._corrected)))]
            image = self._with_neighbours(rng, scan.image, scan.places[k], scan.step)
            classes = scan.classes[k]
            drawn.append(_weighted(image, classes, scan.weights[k], self._centre(rng, classes)))
            absent.append(scan.absent)
        return self._views(drawn, rngs, torch.stack(absent), size, device)

    def untouched(self, step: int, count: int, size: int, device: str) -> Views | None:
        """Some views of untouched slices and of the others; None if there are neither."""
        rngs = [np.random.default_rng((*self._seed, 1, step, i)) for i in range(count)]
        drawn = []
        for rng in rngs:
            other = rng.random() < self._others_share
            pool = (self._others if other else self._untouched) or self._others or self._untouched
            if not pool:
                return None
            image, place, apart = pool[int(rng.integers(len(pool)))]
            classes = torch.zeros(image.shape[1:], dtype=torch.uint8)
            seen = self._with_neighbours(rng, image, place, apart)
            drawn.append(_weighted(seen, classes, torch.ones(1), self._centre(rng, classes)))
        return self._views(drawn, rngs, torch.empty(count, 0), size, device) if drawn else None

    def _with_neighbours(self, rng: Generator, image: Tensor, place: int, step: int) -> Tensor:
        seen = neighbours([place], len(image), self._channels, step)[0]
        if self._how.orientation_free and rng.random() < 0.5:
            seen = seen[::-1].copy()
        if rng.random() < self._how.alone:
            seen = np.full_like(seen, place)
        return image[seen]

    def _centre(self, rng: Generator, classes: Tensor) -> tuple[float, float]:
        """Where to look: near a structure of the slice, or anywhere in its middle part."""
        height, width = classes.shape
        structures = [c for c in torch.unique(classes).tolist() if c not in (0, UNKNOWN)]
        if not structures or rng.random() >= self._how.on_structure:
            return rng.uniform(0.3, 0.7) * height, rng.uniform(0.3, 0.7) * width
        inside = torch.nonzero(classes == int(rng.choice(structures)))
        row, column = inside[int(rng.integers(len(inside)))].tolist()
        reach = self._how.size / 8
        return row + rng.uniform(-reach, reach), column + rng.uniform(-reach, reach)

    def _views(
        self,
        drawn: Sequence[Drawn],
        rngs: Sequence[Generator],
        absent: Tensor,
        size: int,
        device: str,
    ) -> Views:
        together, turned, mirrored = turned_views(drawn, rngs, self._how, size, device)
        classes = turned[:, 0]
        # In a mirror image what was not said of the left is not said of the right.
        partners = swapped(torch.arange(absent.shape[1]), self._how.mirror_pairs)
        absent = torch.where(mirrored[:, None], absent[:, partners], absent)
        images, weights = together[:, :-1], together[:, -1]
        intensities = [draw_intensity(rng, self._how) for rng in rngs]
        unknown = classes == UNKNOWN
        return Views(
            intensity_views(images, turned, intensities, rngs),
            classes.masked_fill(unknown, 0),
            weights.masked_fill(unknown, 0),
            absent.to(device),
        )


def _weighted(
    image: Tensor, classes: Tensor, weights: Tensor, centre: tuple[float, float]
) -> Drawn:
    """Weights travel as one more channel, so that they are turned with the image; what lies outside
    of the slice then weighs nothing."""
    channel = weights.to(image.dtype).expand(1, *classes.shape)
    return torch.cat([image, channel]), classes[None], centre


def _whole_numbers(slices: Sequence[int]) -> tuple[int, ...]:
    """Each once, in their order. Raises InputError."""
    try:
        # Floats that happen to be whole are no indices.
        return tuple(sorted({operator.index(one) for one in slices}))
    except TypeError as error:
        raise InputError(
            f"Expected corrected slices as whole numbers, as in (2, 4, 7), but got {slices!r}; "
            "count them from 0."
        ) from error


def _listed(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))
