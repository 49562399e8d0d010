"""Saves the masks of a window when it closes, and asks if that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QMessageBox, QWidget

if TYPE_CHECKING:
    from napari_l2gnet.saving.autosave import Autosave

#: Qt's platforms without a screen.
_UNSEEN = {"offscreen", "minimal"}


class Closing(QObject):
    """Lets all autosaves of a window save before it closes. If one cannot, a person may keep the
    window open."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self._autosaves: list[Autosave] = []
        self._closes = False
        #: Those that cannot save, which the person was told.
        self._told: set[Autosave] = set()
        window.installEventFilter(self)

    @classmethod
    def of(cls, window: QWidget) -> Closing:
        """The `Closing` of a window: always the same one."""
        return window.findChild(cls) or cls(window)

    def add(self, autosave: Autosave) -> None:
        """Let an autosave save when the window closes."""
        self._autosaves.append(autosave)

    def forget(self, autosave: Autosave) -> None:
        """Leave out an autosave that is closed already."""
        self._autosaves.remove(autosave)

    def eventFilter(self, window: QObject, event: QEvent) -> bool:
        """Save when the window is about to close, and end when it is hidden. In between napari may
        ask whether to close, and the person may say no."""
        kind = event.type()
        if kind == QEvent.Type.Close:
            assert isinstance(window, QWidget)
            self._closes, self._told = True, set()
            if not window.isVisible():
                self._close()
            elif problems := {one: why for one in self._autosaves if (why := one.unsaved())}:
                self._closes = may_close(list(problems.values()), window)
                if not self._closes:
                    event.ignore()
                    return True
                self._told = set(problems)
        elif kind == QEvent.Type.Show:
            self._closes = False
        elif kind == QEvent.Type.Hide and self._closes and not event.spontaneous():
            self._close()
        return False

    def _close(self) -> None:
        for autosave in list(self._autosaves):
            autosave.close(autosave in self._told)


def may_close(problems: list[str], window: QWidget) -> bool:
    """Ask whether to close a window although masks in it are not saved, for these reasons. Without
    a screen, only show the reasons and allow it."""
    if QGuiApplication.platformName() in _UNSEEN:
        for problem in problems:
            show_error(problem)
        return True
    box = QMessageBox(QMessageBox.Icon.Warning, "Work is not saved", "\n".join(problems))
    box.setParent(window, box.windowFlags())
    box.setInformativeText(
        "If you close now, these changes are lost. If you stay, they are saved automatically as "
        "soon as saving works again. Save mask … in Segment or Correct & fine-tune can also save "
        "the mask in another place."
    )
    close = box.addButton("Close anyway", QMessageBox.ButtonRole.DestructiveRole)
    stay = box.addButton("Stay", QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(stay)
    box.setEscapeButton(stay)
    box.exec()
    return box.clickedButton() is close
