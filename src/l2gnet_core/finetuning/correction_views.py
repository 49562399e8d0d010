"""Corrected slices as a network learns from them: at its size, in random views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from l2gnet_core.augmentation.sampling import Drawn, drawn_neighbours, turned_views
from l2gnet_core.augmentation.views import Augmentation, draw_intensity, intensity_views, swapped
from l2gnet_core.models.card import ModelCard
from l2gnet_core.preprocessing.images import as_seen, resized, resized_classes
from l2gnet_core.preprocessing.intensities import normalise
from l2gnet_core.segmenting.corrections import Correction

#: The class of pixels of which nothing is known.
UNKNOWN = 255


@dataclass(frozen=True, eq=False)
class OldAnswer:
    """What a slice that is labelled in part teaches beside its marks.

    where: (H,W), the pixels whose label is that of `labels`, (H,W). weight: of such a pixel, where
    a marked one of the slice counts 1. supervised: ids of the structures of which the slice now
    says where they are not, by these labels or because they were erased.
    """

    where: NDArray[np.bool_]
    labels: NDArray[np.generic]
    weight: float
    supervised: frozenset[int]


@dataclass(frozen=True, eq=False)
class CorrectedScan:
    """A scan at the network's size.

    image: (n,H,W) float16 in [0,1]. places: indices of its k corrected slices. classes: (k,H,W)
    uint8, UNKNOWN where unmarked. weights: (k,H,W). absent: (classes,), which classes none of the
    corrected slices holds; that does not say that the scan has none of them. present: (k,classes),
    which classes a person marked in each slice. supervised: (k,classes), of which classes the slice
    says where they are not, whether they are marked or not. checked: (k,classes), of which somebody
    saw that the slice is right, even if it holds none. held_back: places of untouched slices from
    which nothing is learnt. step: distance in slices between neighbours that the network sees
    together.
    """

    image: Tensor
    places: tuple[int, ...]
    classes: Tensor
    weights: Tensor
    absent: Tensor
    present: Tensor
    supervised: Tensor
    checked: Tensor
    held_back: tuple[int, ...] = ()
    step: int = 1

    @classmethod
    def of(
        cls,
        correction: Correction,
        card: ModelCard,
        old: Mapping[int, OldAnswer] | None = None,
        held_back: Sequence[int] = (),
    ) -> CorrectedScan:
        """A corrected scan as a model of this card sees it; the card's labels must have every id
        that the corrected slices hold. old: what slices teach beside their marks. held_back:
        untouched slices from which nothing is learnt."""
        scan = correction.shown(card)
        view = scan.view

        def shown(picture: NDArray[Any]) -> Tensor:
            # Not ascontiguousarray, which keeps the negative stride of a flipped axis of length 1.
            return torch.from_numpy(view.stack(np.expand_dims(picture, correction.axis)).copy())

        def seen(picture: NDArray[Any]) -> Tensor:
            image = np.ascontiguousarray(normalise(picture, scan.window))
            return as_seen(torch.from_numpy(image)[None, None], view.size, scan.appearance)[0]

        ids = [label.id for label in card.labels]
        lookup = np.zeros(65536, np.uint8)
        lookup[ids] = np.arange(1, len(ids) + 1)
        marked = lookup.copy()
        if correction.unmarked is not None:
            marked[correction.unmarked] = UNKNOWN
        classes, weights, present, supervised, checked = [], [], [], [], []
        for index, weight in zip(correction.slices, correction.picture_weights, strict=True):
            picture = marked[correction.picture(index)]
            present.append(np.isin(range(len(ids) + 1), picture))
            beside = (old or {}).get(index)
            supervised.append([beside is not None and id in beside.supervised for id in (0, *ids)])
            checked.append([id in correction.checked.get(index, ()) for id in (0, *ids)])
            if beside is not None:
                weight = np.where(
                    beside.where, beside.weight * weight[picture != UNKNOWN].mean(), weight
                ).astype(np.float32)
                picture = np.where(beside.where, lookup[beside.labels], picture)
            classes.append(shown(picture))
            weights.append(shown(weight))
        return cls(
            # One slice at a time: a large scan in float32 may not fit into memory.
            image=torch.cat([seen(picture).half() for picture in scan.slices]),
            places=tuple(view.place(index) for index in correction.slices),
            classes=resized_classes(torch.cat(classes), view.size),
            weights=resized(torch.cat(weights)[None], view.size)[0],
            absent=torch.tensor([False, *(id not in correction.structures for id in ids)]),
            present=torch.from_numpy(np.array(present)),
            supervised=torch.tensor(supervised),
            checked=torch.tensor(checked),
            held_back=tuple(view.place(index) for index in held_back),
            step=view.step,
        )

    @property
    def untouched(self) -> list[int]:
        """Places of the other slices that may be learnt from."""
        known = {*self.places, *self.held_back}
        return [place for place in range(len(self.image)) if place not in known]

    def only(self, kept: Sequence[int]) -> CorrectedScan:
        """The same scan with only these corrected slices, counted from 0 to k − 1; the others count
        as untouched."""
        some = list(kept)
        absent = ~self.present[some].any(0)
        absent[0] = False
        return replace(
            self,
            places=tuple(self.places[k] for k in some),
            classes=self.classes[some],
            weights=self.weights[some],
            absent=absent,
            present=self.present[some],
            supervised=self.supervised[some],
            checked=self.checked[some],
        )

    @property
    def teaches(self) -> bool:
        """Does any slice say where a structure is, or where it is not?"""
        return bool(self.supervised.any()) or not bool(self.absent[1:].all())


@dataclass(frozen=True)
class Views:
    """images: (B,C,s,s) float32. classes: (B,s,s) long. weights: (B,s,s), zero where nothing is
    known. absent: (B,classes), as in `CorrectedScan`. unasked: (B,classes), the absent ones of
    which nobody said anything."""

    images: Tensor
    classes: Tensor
    weights: Tensor
    absent: Tensor
    unasked: Tensor


class CorrectionSampler:
    """Random views of corrected and of untouched slices.

    seed: (seed, run); `run` is the number of the run in a fine-tuning. Sample i of step s depends
    on (seed, run, s, i) alone. channels: number of neighbouring slices in a sample. others: further
    images (n,H,W), which make up the share `others_share` of the untouched slices.
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
        drawn, open_classes = [], []
        for rng in rngs:
            scan, k = self._corrected[int(rng.integers(len(self._corrected)))]
            image = self._with_neighbours(rng, scan.image, scan.places[k], scan.step)
            classes = scan.classes[k]
            drawn.append(_weighted(image, classes, scan.weights[k], self._centre(rng, classes)))
            absent = scan.absent & ~scan.supervised[k]
            open_classes.append(torch.stack([absent, absent & ~scan.checked[k]]))
        return self._views(drawn, rngs, torch.stack(open_classes), size, device)

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
        return self._views(drawn, rngs, torch.empty(count, 2, 0), size, device) if drawn else None

    def _with_neighbours(self, rng: Generator, image: Tensor, place: int, step: int) -> Tensor:
        return image[drawn_neighbours(rng, place, len(image), self._how, self._channels, step)]

    def _centre(self, rng: Generator, classes: Tensor) -> tuple[float, float]:
        """The centre (row, column) of a view: near a structure of the slice, or anywhere in its
        middle part."""
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
        open_classes: Tensor,
        size: int,
        device: str,
    ) -> Views:
        """open_classes: (B,2,classes), for each view `absent` and `unasked`."""
        together, turned, mirrored = turned_views(drawn, rngs, self._how, size, device)
        classes = turned[:, 0]
        # In a mirror image, left and right structures change places.
        partners = swapped(torch.arange(open_classes.shape[2]), self._how.mirror_pairs)
        there = open_classes[..., partners]
        open_classes = torch.where(mirrored[:, None, None], there, open_classes).to(device)
        images, weights = together[:, :-1], together[:, -1]
        intensities = [draw_intensity(rng, self._how) for rng in rngs]
        unknown = classes == UNKNOWN
        return Views(
            intensity_views(images, turned, intensities, rngs),
            classes.masked_fill(unknown, 0),
            weights.masked_fill(unknown, 0),
            *open_classes.unbind(1),
        )


def _weighted(
    image: Tensor, classes: Tensor, weights: Tensor, centre: tuple[float, float]
) -> Drawn:
    """The weights become one more channel, so that they are transformed with the image; outside of
    the slice they are zero."""
    channel = weights.to(image.dtype).expand(1, *classes.shape)
    return torch.cat([image, channel]), classes[None], centre
