"""The base of all docked widgets: they scroll, share a place as tabs, say what happened and why a
control is disabled, and notice when they are closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import napari
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QDockWidget,
    QFrame,
    QLabel,
    QMainWindow,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_l2gnet.widgets.theme_colors import tones

if TYPE_CHECKING:
    from napari_l2gnet.annotating.annotation import Annotation


class Column(QVBoxLayout):
    """A column that a scroll area may shrink to its least height before it scrolls.

    Qt's own column asks for its preferred height, because texts in it wrap.
    """

    _asked = False

    def heightForWidth(self, width: int) -> int:
        """The least height for a width."""
        if self._asked:  # super().minimumHeightForWidth() calls this
            return int(super().heightForWidth(width))
        self._asked = True
        try:
            return int(self.minimumHeightForWidth(width))
        finally:
            self._asked = False


def always() -> bool:
    """The condition of a message that always holds."""
    return True


def research_line() -> QLabel:
    """The last line of every widget."""
    line = QLabel("<small>For research use only</small>")
    line.setStyleSheet("QLabel { color: gray; }")
    return line


#: Events of layers after which what is seen, where it lies or what it is called has changed.
_LOOKS = {"visible", "opacity", "blending", "colormap", "renamed", "reordered"}
_LOOKS |= {"translate", "rotate", "shear", "affine", "scale", "units"}


class DockedWidget(QWidget):
    """A widget that lets go of the viewer when it or its dock is closed.

    napari takes a widget out of a closed dock without a close event. A widget that still listens to
    the viewer's events would live on unseen.
    """

    #: Emits whether the widget is seen, not behind another tab.
    seen = Signal(bool)

    _docked = _ended = False

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        #: Is no other tab in front of this one?
        self.in_front = True
        self.seen.connect(self._on_front)
        #: Tooltips of controls while they are enabled.
        self._tips: dict[QWidget, str] = {}
        #: Lines about what happened.
        self.message = QLabel()
        self.message.setWordWrap(True)
        # Qt would guess plain text where there are escaped quotes but no tag.
        self.message.setTextFormat(Qt.TextFormat.RichText)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._told: tuple[str, bool, tuple[str, ...], Callable[[], bool]] = ("", False, (), always)
        self._work: Annotation | None = None
        # Scrolls, so that the controls do not make the window taller than a small screen.
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        content = QWidget()
        area.setWidget(content)
        around = QVBoxLayout(self)
        around.setContentsMargins(0, 0, 0, 0)
        around.addWidget(area)
        #: Where the controls go.
        self.column = Column(content)
        self._area, self._content = area, content
        viewer.events.theme.connect(self.show_theme)
        viewer.layers.events.removing.connect(self._on_removing)
        # The list of layers relays the events of its layers.
        viewer.layers.events.connect(self._on_layers)
        # A slider emits an event at each step: handle them together.
        self._look_soon = QTimer(self, singleShot=True, interval=0, timeout=self.tell_again)

    def tell_again(self) -> None:
        """Layers look different or are renamed: drop a message that does not hold any more."""

    def allow(self, control: QWidget, reason_against: str) -> None:
        """Enable a control, or disable it with the reason as its tooltip; "" is no reason."""
        tip = self._tips.setdefault(control, control.toolTip())
        control.setEnabled(not reason_against)
        control.setToolTip(reason_against or tip)

    def show_message(
        self,
        text: str,
        bad: bool = False,
        beware: Sequence[str] = (),
        holds: Callable[[], bool] = always,
    ) -> None:
        """Show what happened, then what to beware of, a line each.

        holds: tells later whether `text` is still true.
        """
        self._told = (text, bad, tuple(beware), holds)
        unsaved = "" if self._work is None else self._work.trouble
        beware = [one for one in (unsaved, *beware) if one]
        shades, text = tones(self.viewer), escape(text)
        lines = [f'<span style="color:{shades.bad}">{text}</span>' if bad else text] if text else []
        lines += [f'<span style="color:{shades.beware}">⚠ {escape(one)}</span>' for one in beware]
        self.message.setText("<br>".join(lines))
        self.message.setVisible(bool(lines))

    def beware_unsaved(self, work: Annotation | None) -> None:
        """From now on, also say so whenever this work cannot be saved."""
        if self._work is not None:
            self._work.changed.disconnect(self._on_work, missing_ok=True)
        self._work = work
        if work is not None:
            work.changed.connect(self._on_work)
        self.show_message(*self._told)

    def _on_work(self, what: str) -> None:
        if what == "trouble":
            self.show_message(*self._told)

    def drop_message(self) -> None:
        """Drop the message if it does not hold any more."""
        *_, holds = self._told
        if not holds():
            self.show_message("")

    def show_theme(self) -> None:
        """Take on the colours of the window."""
        self.show_message(*self._told)

    @property
    def main_window(self) -> QMainWindow | None:
        """The window that the widget is docked in, also while its dock floats."""
        window = dock.parent() if (dock := _dock_of(self)) is not None else None
        return window if isinstance(window, QMainWindow) else None

    @property
    def is_behind(self) -> bool:
        """Is another tab in front, rather than the dock closed or floating or the window
        minimised?"""
        dock, window = _dock_of(self), self.main_window
        return (
            dock is not None
            and window is not None
            and not (self.in_front or dock.isHidden() or dock.isFloating() or window.isMinimized())
            and bool(window.tabifiedDockWidgets(dock))
        )

    def _on_removing(self, _: Any = None) -> None:
        # napari deletes a layer's OpenGL objects in the current context. If that is not the
        # canvas's own, Mesa may crash when it draws the canvas next.
        window = self.main_window
        for canvas in window.findChildren(QOpenGLWidget) if window is not None else ():
            canvas.makeCurrent()

    def _on_layers(self, event: Any) -> None:
        if event.type in _LOOKS:
            self._look_soon.start()

    def _on_front(self, seen: bool) -> None:
        self.in_front = seen

    def keep_wide(self, width: int) -> None:
        """Set the least width of the controls."""
        self._content.setMinimumWidth(width)

    def scroll_to(self, control: QWidget) -> None:
        """Scroll to a control once everything is laid out."""

        def scroll() -> None:
            self._area.ensureWidgetVisible(control)

        QTimer(self, singleShot=True, interval=50, timeout=scroll).start()

    def minimumSizeHint(self) -> QSize:
        """As wide as the controls and a scroll bar, so that the bar covers nothing."""
        bar = self._area.verticalScrollBar().sizeHint().width()
        least = max(self._content.minimumWidth(), self._content.minimumSizeHint().width())
        return QSize(least + bar, 100)

    def let_go(self) -> None:
        """Stop all jobs and disconnect from the viewer; called once, at the end."""
        raise NotImplementedError

    def event(self, event: Any) -> bool:
        """Notice when the widget is put into a dock and taken out of it."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and self._docked:
                self._end()
            elif self.parent() is not None and not self._docked:
                # napari adds the dock to its window only after this event.
                QTimer(self, singleShot=True, interval=0, timeout=self._join_others).start()
            self._docked = self.parent() is not None
        elif event.type() == QEvent.Type.Polish:
            for control in self.findChildren(QWidget):
                if isinstance(control, (QComboBox, QAbstractSpinBox)):
                    control.installEventFilter(self)
        return bool(super().event(event))

    def eventFilter(self, control: QObject, event: QEvent) -> bool:
        """Ignore the wheel over a control, so that scrolling past it does not change it."""
        if event.type() == QEvent.Type.Wheel:
            event.ignore()
            return True
        return bool(super().eventFilter(control, event))

    def _join_others(self) -> None:
        """Become a tab beside another of our widgets: above each other they have no room."""
        dock = _dock_of(self)
        if dock is not None:
            # A dock behind another tab is not hidden for Qt, but not visible either.
            dock.visibilityChanged.connect(self.seen)
            # In the title of a tab, a single & would underline the next letter.
            dock.setWindowTitle(dock.windowTitle().replace("&", "&&"))
        window = self.main_window
        if dock is None or window is None or dock.isFloating():
            return
        for other in window.findChildren(DockedWidget):
            beside = _dock_of(other)
            if (
                beside not in (dock, None)
                and not beside.isFloating()
                and window.dockWidgetArea(beside) == window.dockWidgetArea(dock)
                and dock not in window.tabifiedDockWidgets(beside)
            ):
                window.tabifyDockWidget(beside, dock)
                dock.raise_()
                return

    def closeEvent(self, event: Any) -> None:
        """Let go when a widget without a dock is closed."""
        self._end()
        super().closeEvent(event)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.viewer.events.theme.disconnect(self.show_theme)
            self.viewer.layers.events.removing.disconnect(self._on_removing)
            self.viewer.layers.events.disconnect(self._on_layers)
            self._look_soon.stop()
            self.beware_unsaved(None)
            self.let_go()


def _dock_of(widget: QWidget) -> QDockWidget | None:
    above = widget.parentWidget()
    while above is not None and not isinstance(above, QDockWidget):
        above = above.parentWidget()
    return above
