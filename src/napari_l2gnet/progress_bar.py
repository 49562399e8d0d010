"""A progress bar that nobody waits for."""

from __future__ import annotations

import time

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QProgressBar

#: Milliseconds between two drawings.
_DRAW_EVERY = 100


class ProgressBar(QProgressBar):
    """Is drawn ten times a second at most, together with what else is to be drawn, and always in
    its last state.

    Qt's own draws the window, canvas and all, before `setValue` returns: 60 to 190 ms at each slice
    of a large scan.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setTextVisible(True)
        self._value, self._format = super().value(), super().format()
        self._drawn = 0.0
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self._draw)

    def value(self) -> int:
        """The newest value, which may not be drawn yet."""
        return self._value

    def setValue(self, value: int) -> None:
        """Draw a value soon."""
        self._value = value
        self._draw_soon()

    def format(self) -> str:
        """The newest text, which may not be drawn yet."""
        return self._format

    def setFormat(self, format: str) -> None:
        """Draw a text soon."""
        self._format = format
        self._draw_soon()

    def _draw_soon(self) -> None:
        if not self._timer.isActive():
            since = 1000 * (time.monotonic() - self._drawn)
            self._timer.start(max(0, round(_DRAW_EVERY - since)))

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        # Qt draws nothing at once where updates are off, and everything soon where they go on.
        self.setUpdatesEnabled(False)
        super().setFormat(self._format)
        super().setValue(self._value)
        self.setUpdatesEnabled(True)
