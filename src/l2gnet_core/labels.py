"""Names and colours of structures; they travel with checkpoints and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Colours for structures that bring none, chosen to stay apart for colour-blind people: Okabe and
#: Ito's set without black and grey.
PALETTE = ("#56b4e9", "#009e73", "#d55e00", "#f0e442", "#cc79a7", "#e69f00", "#0072b2")


def plain(name: str) -> str:
    """What names have in common that differ by case and spaces alone."""
    return " ".join(name.split()).casefold()


def in_charts(name: str) -> str:
    """A name that matplotlib takes for text, not for mathematics or a hidden entry."""
    return name.replace("$", r"\$").replace("_", " ") or " "


@dataclass(frozen=True)
class Label:
    """One structure: its id in label images (1 or more), name, and colour as "#rrggbb"."""

    id: int
    name: str
    color: str


@dataclass(frozen=True)
class LabelSet:
    """The structures a model or a mask knows, by ascending id; 0 is background and never listed."""

    labels: tuple[Label, ...]

    @classmethod
    def from_names(
        cls, names: Mapping[int, str], colors: Mapping[int, str] | None = None
    ) -> LabelSet:
        """Names by id; structures without a colour get one from the palette."""
        colors = colors or {}
        return cls(
            tuple(
                Label(id, names[id], colors.get(id, PALETTE[(id - 1) % len(PALETTE)]))
                for id in sorted(names)
                if id != 0
            )
        )

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
