"""Names and colours of structures; they are stored in checkpoints and mask files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

#: Default colours of structures, which colour-blind people can tell apart: the set of Okabe and Ito
#: without black and grey.
PALETTE = ("#56b4e9", "#009e73", "#d55e00", "#f0e442", "#cc79a7", "#e69f00", "#0072b2")
#: Colour of what is drawn over structures; no structure gets it by default.
OVER = "#ff3df2"
#: Number of different default colours; with more structures, they repeat.
_COLORS = 255
#: Number of unknown ids that a mask may have before it is suspected to be a scan.
_MOST_UNKNOWN = 10
#: In Oklab: lightness at which a colour differs from black, white and both themes of the window,
#: and the least chroma at which it differs from a grey picture.
_LIGHTNESS, _CHROMA = (0.5, 0.88), 0.09


def plain(name: str) -> str:
    """A name for comparing names: case, spaces, underscores, how accents are stored and the place
    of "left" and "right" make no difference. Others write "kidney_right" for "right kidney"."""
    words = normalize("NFC", name).replace("_", " ").casefold().split()
    # Stable: all other words keep their order, so that L4_L5 is not L5_L4.
    return " ".join(sorted(words, key=lambda word: word not in ("left", "right")))


def is_automatic(name: str) -> bool:
    """Is it no name of a structure, but what programs call one that has none: 3D Slicer
    "Segment_2", l2gnet "label 2" and "structure 2"?"""
    return re.fullmatch(r"((segment|label|structure) \d+)?", plain(name)) is not None


def may_be_a_scan(ids: Collection[int], known: Collection[int]) -> bool:
    """Could labels with these ids be a scan of 8 bits? Many of them, and most, are then not among
    the ids `known` from elsewhere: from names, or from a mask that belongs to them."""
    structures = {*ids} - {0}
    unknown = structures.difference(known)
    return len(unknown) > max(_MOST_UNKNOWN, len(structures) / 2)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names as text, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def in_charts(name: str) -> str:
    """A name that matplotlib shows as text, rather than as mathematics or not at all."""
    return name.replace("$", r"\$").replace("_", " ") or " "


@dataclass(frozen=True)
class Label:
    """One structure: its id in label images (1 or more), name, and colour as "#rrggbb"."""

    id: int
    name: str
    color: str


@dataclass(frozen=True)
class LabelSet:
    """The structures of a model or a mask, by ascending id; background, id 0, is not listed."""

    labels: tuple[Label, ...]

    @classmethod
    def from_names(
        cls, names: Mapping[int, str], colors: Mapping[int, str] | None = None
    ) -> LabelSet:
        """A set from names by id; structures without a colour get the default one of their id."""
        given = colors or {}
        return cls(
            tuple(
                Label(id, names[id], given[id] if id in given else _own_color(id))
                for id in sorted(names)
                if id != 0
            )
        )

    def with_new(self, ids: Collection[int], names: Mapping[int, str]) -> LabelSet:
        """These labels and those of other ids; without a name these get "structure <id>"."""
        new = {id: names.get(id, f"structure {id}") for id in ids}
        return LabelSet.from_names({**new, **self.names}, self.colors)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> dict[int, str]:
        """Name by id."""
        return {label.id: label.name for label in self.labels}

    @property
    def colors(self) -> dict[int, str]:
        """Colour by id."""
        return {label.id: label.color for label in self.labels}


def classes_by_name(known: LabelSet, labels: LabelSet) -> list[int] | None:
    """For the background and each label, the class of a model that knows other labels.

    Labels are matched by name or, in a dataset without names, by id. None if the model lacks one.
    """
    by_name = {plain(label.name): number for number, label in enumerate(known, 1)}
    by_id = {plain(f"structure {label.id}"): number for number, label in enumerate(known, 1)}
    names = [plain(label.name) for label in labels]
    for found in (by_name, by_id):
        if found.keys() >= set(names):
            return [0, *(found[name] for name in names)]
    return None


def _own_color(id: int) -> str:
    # Further colours are computed only when needed, because that is slow.
    return PALETTE[id - 1] if id <= len(PALETTE) else own_colors()[(id - 1) % _COLORS]


def hex_color(rgb: Iterable[int]) -> str:
    """Red, green and blue, 0 to 255 each, as "#rrggbb"."""
    return "#" + "".join(f"{int(value):02x}" for value in rgb)


@cache
def own_colors() -> tuple[str, ...]:
    """All default colours: those of the palette, then each as different as possible from all
    before."""
    levels = np.arange(0, 256, 17)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    seen = _oklab(rgb)
    light, chroma = seen[:, 0], np.hypot(seen[:, 1], seen[:, 2])
    told = (_LIGHTNESS[0] <= light) & (light <= _LIGHTNESS[1]) & (chroma >= _CHROMA)
    # Lightness counts half, because a label is blended with the picture below it.
    rgb, seen = rgb[told], seen[told] * (0.5, 1, 1)
    taken = _oklab([[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in (*PALETTE, OVER)])
    apart = np.linalg.norm(seen[:, None] - taken * (0.5, 1, 1), axis=2).min(1)
    colors = list(PALETTE)
    while len(colors) < _COLORS:
        farthest = int(apart.argmax())
        colors.append(hex_color(rgb[farthest]))
        apart = np.minimum(apart, np.linalg.norm(seen - seen[farthest], axis=1))
    return tuple(colors)


def _oklab(rgb: NDArray[np.integer] | Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Red, green and blue (n,3), 0…255, in Oklab (n,3): lightness and two opponent colours.

    Distances in it match perceived differences (Ottosson, A perceptual color space, 2020).
    """
    share = np.asarray(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    cones = linear @ [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
    lab: NDArray[np.float64] = np.cbrt(cones) @ [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
    return lab
