"""Widgets that know when they are done with."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget


class DockedWidget(QWidget):
    """A widget that lets go of the viewer when it is closed, or the dock it is in.

    napari takes a widget out of a dock that is closed, and says nothing to it: no close event, and
    whoever still listens to the viewer lives on unseen.
    """

    _docked = _ended = False

    def let_go(self) -> None:
        """Stop what is under way and let go of the viewer's events; once, at the end."""
        raise NotImplementedError

    def event(self, event: Any) -> bool:
        """Notice the end of the dock."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and self._docked:
                self._end()
            self._docked = self.parent() is not None
        return bool(super().event(event))

    def closeEvent(self, event: Any) -> None:
        """The end of a widget without a dock."""
        self._end()
        super().closeEvent(event)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.let_go()
