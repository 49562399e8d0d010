"""How scans are shown to a network: as they are, or brighter, smoother, larger.

Another scanner changes the look of a scan more than its content. A few numbers, found on a few
corrected slices, undo much of that, and unlike weights they cannot overfit to these slices (a
normalisation in front of an unchanged network: Karani et al., "Test-time adaptable neural networks
for robust medical image segmentation", Medical Image Analysis 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: Limits of an appearance, (lowest, highest); of smoothing the highest.
_GAMMAS, _ZOOMS, _SMOOTHEST = (0.2, 3.0), (0.5, 2.0), 2.0


@dataclass(frozen=True)
class Appearance:
    """Changes to normalised slices before a network sees them, in this order: magnification by
    `zoom`, a Gaussian blur of `smoothing` pixels at the network's size, and intensities in [0,1]
    raised to the power `gamma` (below 1: brighter)."""

    gamma: float = 1.0
    smoothing: float = 0.0
    zoom: float = 1.0

    def __str__(self) -> str:
        parts = []
        if self.gamma != 1:
            parts.append(f"{'brighter' if self.gamma < 1 else 'darker'} (γ {self.gamma:.2g})")
        if self.smoothing:
            parts.append(f"smoothed by {self.smoothing:g} px")
        if self.zoom != 1:
            parts.append(f"{self.zoom:.2g} times as large")
        return ", ".join(parts) or "as they are"

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) after zooming slices of `size`."""
        if self.zoom == 1:
            return size
        height, width = (max(1, round(side * self.zoom)) for side in size)
        return height, width


#: Scans as they are.
PLAIN = Appearance()


def steps_from(appearance: Appearance) -> dict[str, Appearance]:
    """Appearances one step away, by what the step does; the most useful steps come first."""
    gamma, zoom = appearance.gamma, appearance.zoom
    found = {
        "brighter": replace(appearance, gamma=gamma * 0.6),
        "smoother": replace(appearance, smoothing=appearance.smoothing + 1),
        "larger": replace(appearance, zoom=zoom * math.sqrt(2)),
        "darker": replace(appearance, gamma=gamma / 0.6),
        "smaller": replace(appearance, zoom=zoom / math.sqrt(2)),
    }
    return {name: one for name, one in found.items() if _within(one)}


def _within(one: Appearance) -> bool:
    return (
        _GAMMAS[0] <= one.gamma <= _GAMMAS[1]
        and one.smoothing <= _SMOOTHEST
        and _ZOOMS[0] - 1e-6 <= one.zoom <= _ZOOMS[1] + 1e-6
    )
