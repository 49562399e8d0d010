"""Nobody waits for a progress bar to be drawn, and its last state always is."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QProgressBar

from napari_l2gnet.widgets.progress_bar import ProgressBar


class Paintings(QObject):
    """Counts how often a widget is drawn."""

    def __init__(self, widget: Any) -> None:
        super().__init__(widget)
        self.count = 0
        widget.installEventFilter(self)

    def eventFilter(self, _: QObject, event: QEvent) -> bool:
        self.count += event.type() == QEvent.Type.Paint
        return False


def test_a_bar_is_drawn_now_and_then_and_at_last_as_it_is(qtbot: Any) -> None:
    bar = ProgressBar()
    qtbot.addWidget(bar)
    bar.setRange(0, 300)
    with qtbot.waitExposed(bar):
        bar.show()
    qtbot.wait(150)
    paintings = Paintings(bar)
    for done in range(1, 301):
        bar.setValue(done)
        bar.setFormat(f"Segmenting {done}/300")
    assert paintings.count == 0
    assert bar.value() == 300
    assert bar.format() == "Segmenting 300/300"
    qtbot.waitUntil(lambda: paintings.count > 0, timeout=1000)
    # What Qt draws.
    assert QProgressBar.value(bar) == 300
    assert QProgressBar.text(bar) == "Segmenting 300/300"
    drawn = paintings.count
    for done in range(30):
        bar.setValue(done)
        qtbot.wait(10)
    assert paintings.count <= drawn + 10
    qtbot.waitUntil(lambda: QProgressBar.value(bar) == 29, timeout=1000)


def test_a_bar_appears_with_the_text_of_its_own_job(qtbot: Any) -> None:
    bar = ProgressBar()
    qtbot.addWidget(bar)
    with qtbot.waitExposed(bar):
        bar.show()
    bar.setFormat("Cancelling")
    qtbot.waitUntil(lambda: QProgressBar.format(bar) == "Cancelling", timeout=1000)
    bar.hide()
    bar.setFormat("")
    bar.show()
    # What Qt draws.
    assert QProgressBar.format(bar) == ""
