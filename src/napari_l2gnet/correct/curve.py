"""The curve of a fine-tuning: the loss, and how well previews fit the corrections."""

from __future__ import annotations

from typing import Any

import napari
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

LOSS, DICE = "#56b4e9", "#e69f00"
_HEIGHT = 112


class Curve(QWidget):
    """Plots loss by step and Dice by preview; the first point makes the plot, or `prepare`."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._plot: Any = None
        self._loss: tuple[list[float], list[float]] = ([], [])
        self._dice: tuple[list[float], list[float]] = ([], [])
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(0)
        self._column.addWidget(
            QLabel(
                f'<span style="color:{LOSS}">—</span> loss &nbsp; '
                f'<span style="color:{DICE}">•</span> Dice of the preview on learnt slices'
            )
        )
        self.setFixedHeight(_HEIGHT)
        self.hide()
        viewer.events.theme.connect(self._paint)

    def disconnect_viewer(self) -> None:
        """Stop following the viewer's theme."""
        self._viewer.events.theme.disconnect(self._paint)

    def prepare(self) -> None:
        """Make the plot. Importing pyqtgraph takes a while: a job does it before."""
        if self._plot is not None:
            return
        import pyqtgraph as pg

        self._plot = pg.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        self._plot.setYRange(0, 1)
        self._plot.setLabel("bottom", "step")
        item = self._plot.getPlotItem()
        self._lines = (
            item.plot(pen=pg.mkPen(LOSS, width=2)),
            item.plot(
                pen=pg.mkPen(DICE, width=2),
                symbol="o",
                symbolSize=6,
                symbolBrush=DICE,
                symbolPen=None,
            ),
        )
        self._column.addWidget(self._plot)
        self._paint()

    def clear(self) -> None:
        """Remove all points."""
        self._loss, self._dice = ([], []), ([], [])
        if self._plot is not None:
            self._draw()

    def add_loss(self, step: int, loss: float) -> None:
        """Add the loss of a step."""
        self._add(self._loss, step, loss)

    def add_dice(self, step: int, dice: float) -> None:
        """Add the Dice of the preview after a step."""
        self._add(self._dice, step, dice)

    def _add(self, points: tuple[list[float], list[float]], step: int, value: float) -> None:
        steps, values = points
        if not steps or steps[-1] != step:
            steps.append(step)
            values.append(value)
        self.prepare()
        self._draw()

    @property
    def points(self) -> tuple[int, int]:
        """The numbers of points of loss and of Dice."""
        return len(self._loss[0]), len(self._dice[0])

    def _draw(self) -> None:
        for line, (steps, values) in zip(self._lines, (self._loss, self._dice), strict=True):
            line.setData(steps, values)
        self._plot.setYRange(0, max(1.0, *self._loss[1], 0))

    def _paint(self, _: Any = None) -> None:
        if self._plot is None:
            return
        theme = get_theme(self._viewer.theme)
        text = theme.text.as_hex()
        self._plot.setBackground(theme.background.as_hex())
        for name in ("left", "bottom"):
            axis = self._plot.getAxis(name)
            axis.setPen(theme.secondary.as_hex())
            axis.setTextPen(text)
