"""The kind of a scan, described by a few numbers of how it looks, without labels.

A project's model that is adapted to one scanner's scans must not change how it sees others. The
contrast, sharpness and noise of a scanner tell its scans from others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.preprocessing.intensities import normalise

#: Quantiles of the intensities in [0,1], followed by sharpness and grain, in logarithms.
Profile = tuple[float, ...]
_QUANTILES = (0.25, 0.5, 0.75, 0.9)
#: Least width of a kind's ranges: of quantiles, of logarithms. Settled, together with how far a
#: kind reaches beyond its scans, on changed training and tuning scans of `cardiac-cine`.
_LEAST_WIDTHS = (0.04,) * len(_QUANTILES) + (0.1, 0.1)
#: The scans of a kind that is wider than this have little in common.
_MOST_WIDTHS = (1.6,) * len(_QUANTILES) + (3.6, 3.6)
#: Slices that a profile is computed from, evenly spaced, at most.
_MOST_SLICES = 16


def scan_profile(slices: NDArray[Any], window: tuple[float, float]) -> Profile:
    """How a scan's slices (n,H,W) look.

    Quantiles of the intensities in the middle of the slices, then logarithms of the mean difference
    between neighbouring pixels over the standard deviation (sharpness), and of the mean mixed
    second difference over the first (grain). window: the intensities that become 0 and 1.
    """
    count, height, width = slices.shape
    few = np.linspace(0, count - 1, min(count, _MOST_SLICES)).round().astype(int)
    # The margins are left out: the air there depends on the field of view, not on the scanner.
    rows, columns = (
        slice(side // 6, max(side // 6 + 2, side - side // 6)) for side in (height, width)
    )
    # Sums depend on the memory layout; a contiguous copy gives the same ones after a save.
    image = np.ascontiguousarray(normalise(slices[few][:, rows, columns], window), np.float64)
    along = np.diff(image, axis=2)
    across = np.diff(along, axis=1)
    spread, edges, grain = (
        float(value) + 1e-6 for value in (image.std(), _mean_size(along), _mean_size(across))
    )
    quantiles = np.quantile(image, _QUANTILES).tolist()
    return (*quantiles, float(np.log(edges / spread)), float(np.log(grain / edges)))


def _mean_size(values: NDArray[np.float64]) -> float:
    return float(np.abs(values).mean()) if values.size else 0.0


@dataclass(frozen=True)
class ScanKind:
    """Scans that look alike: the range of each number of their profiles."""

    lowest: Profile
    highest: Profile

    @classmethod
    def of(cls, profiles: Sequence[Profile]) -> ScanKind:
        """The kind of a few scans: their own range and a margin, which is wider for fewer scans."""
        low, high = np.min(profiles, axis=0), np.max(profiles, axis=0)
        reach = (0.75 + 4 / len(profiles)) * np.maximum(high - low, _LEAST_WIDTHS)
        return cls(*(tuple(np.round(end, 5).tolist()) for end in (low - reach, high + reach)))

    @property
    def narrow(self) -> bool:
        """Do these scans look as alike as those of one scanner?"""
        widths = np.subtract(self.highest, self.lowest)
        return bool((widths <= _MOST_WIDTHS).all())

    def holds(self, profile: Profile) -> bool:
        """Does a scan look like these?"""
        triples = zip(self.lowest, profile, self.highest, strict=True)
        return all(low <= value <= high for low, value, high in triples)


@dataclass(frozen=True)
class KindAppearance:
    """Scans of a kind, and how a network is shown them."""

    kind: ScanKind
    appearance: Appearance

    @classmethod
    def from_json(cls, values: Any) -> KindAppearance:
        """Read what `asdict` gave: JSON has no tuples."""
        kind = ScanKind(*(tuple(map(float, values["kind"][end])) for end in ("lowest", "highest")))
        if len(kind.lowest) != len(_LEAST_WIDTHS) or len(kind.highest) != len(_LEAST_WIDTHS):
            raise ValueError(f"{values['kind']} is no kind of scan")
        return cls(kind, Appearance(**values["appearance"]))
