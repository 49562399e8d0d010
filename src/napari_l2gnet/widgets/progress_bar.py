"""A progress bar that does not block the window."""

from __future__ import annotations

import time

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QProgressBar

#: Milliseconds between two drawings.
_DRAW_EVERY = 100


class ProgressBar(QProgressBar):
    """A bar that is drawn at most ten times a second, and always in its last state.

    `setValue` of Qt's own bar returns only after the whole window with its canvas is drawn: 60 to
    190 ms at each slice of a large scan.
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
        if not self.isVisible():
            # Nobody waits for it now, and the next job's bar must not appear with the last text.
            self._draw()
        elif not self._timer.isActive():
            since = 1000 * (time.monotonic() - self._drawn)
            self._timer.start(max(0, round(_DRAW_EVERY - since)))

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        # With updates off, Qt draws nothing at once; turning them on schedules one drawing.
        self.setUpdatesEnabled(False)
        super().setFormat(self._format)
        super().setValue(self._value)
        self.setUpdatesEnabled(True)
