"""Colours of messages, legible on the theme of the window."""

from __future__ import annotations

from dataclasses import dataclass

import napari
from napari.utils.theme import get_theme


@dataclass(frozen=True)
class Tones:
    """bad: what failed. beware: what to know before trusting a result. good: what is done."""

    bad: str
    beware: str
    good: str


_ON_DARK = Tones("#f0706a", "#e69f00", "#2fb344")
_ON_LIGHT = Tones("#b3261e", "#8a5100", "#1b7a32")


def tones(viewer: napari.Viewer) -> Tones:
    """The colours for a viewer's theme."""
    shade = get_theme(viewer.theme).background.as_rgb_tuple()
    return _ON_LIGHT if sum(shade[:3]) > 1.5 * 255 else _ON_DARK
