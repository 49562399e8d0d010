"""Charts that say what is under the mouse and emit what was clicked, whatever they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, Qt, Signal
from qtpy.QtWidgets import QToolTip

#: Colour of what is chosen, as in the image.
CHOSEN = "#ffe14d"
#: Colour of the background.
PLAIN = "#8a919c"
#: Colour of what is compared with.
BESIDE = "#a58be0"


class Chart(pg.PlotWidget):
    """A plot without pyqtgraph's menus and zooming; a click chooses the item under it."""

    #: The key of the item that was clicked; its type depends on the chart.
    picked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        plot = self.getPlotItem()
        plot.setMenuEnabled(False)
        plot.hideButtons()
        # Room for the number at the top of the scale, which would be cut off.
        plot.layout.setContentsMargins(1, 7, 1, 1)
        plot.setMouseEnabled(False, False)
        for side in ("left", "bottom"):
            # No SI prefixes. Set before the axis has a label: a later call would add them.
            plot.getAxis(side).enableAutoSIPrefix(False)
        self.setMinimumHeight(170)
        self._text = "w"
        #: Describes the item under the mouse.
        self.tell: Callable[[Any], str] = str
        self.scene().sigMouseMoved.connect(self._on_moved)
        self.scene().sigMouseClicked.connect(self._on_clicked)

    def theme(self, background: str, text: str) -> None:
        """Take on the colours of the window."""
        self.setBackground(background)
        self._text = text
        for side in ("left", "bottom"):
            axis = self.getPlotItem().getAxis(side)
            axis.setPen(text)
            axis.setTextPen(text)
            axis.label.setDefaultTextColor(pg.mkColor(text))

    def label(self, bottom: str, left: str) -> None:
        """Label the axes; in a small window, a long line beside the chart would be cut off."""
        for side, text in (("bottom", bottom), ("left", "<br>".join(wrap(left, 20)))):
            axis = self.getPlotItem().getAxis(side)
            axis.setLabel(text, color=self._text, **{"font-size": "8pt"})

    def item_at(self, x: float, y: float) -> Any:
        """The key of the item at a point in the plot's coordinates; None if there is none."""
        raise NotImplementedError

    def choose(self, keys: Sequence[int]) -> None:
        """Mark the items with these keys, as far as they exist."""
        raise NotImplementedError

    def _at(self, position: QPointF) -> Any:
        view = self.getPlotItem().vb
        if not view.sceneBoundingRect().contains(position):
            return None
        point = view.mapSceneToView(position)
        return self.item_at(point.x(), point.y())

    def _on_moved(self, position: QPointF) -> None:
        item = self._at(position)
        text = "" if item is None else self.tell(item)
        QToolTip.showText(self.mapToGlobal(self.mapFromScene(position)), text, self)

    def _on_clicked(self, event: Any) -> None:
        item = self._at(event.scenePos())
        if item is not None and event.button() == Qt.MouseButton.LeftButton:
            self.picked.emit(item)


class BarChart(Chart):
    """Bars, each split into coloured parts; `picked` emits a bar's key."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[int] = []
        self._frame = pg.BarGraphItem(x=[], height=[], width=0.9, pen=None, brush=CHOSEN)
        self._frame.setOpacity(0.45)
        self._frame.setZValue(-1)

    def show_bars(
        self,
        keys: Sequence[int],
        parts: NDArray[Any],
        colors: Sequence[str],
        before: NDArray[Any] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """Draw a bar for each key.

        parts: (len(keys), len(colors)) heights. before: (len(keys),), bars drawn beside them.
        names: texts under the bars.
        """
        self.clear()
        self._keys = list(keys)
        x, bottom = np.arange(len(self._keys), dtype=float), np.zeros(len(self._keys))
        width, shift = (0.86, 0.0) if before is None else (0.42, 0.22)
        for part, color in zip(np.asarray(parts, float).T, colors, strict=True):
            if part.any():
                self.addItem(
                    pg.BarGraphItem(
                        x=x + shift,
                        y0=bottom.copy(),
                        height=part,
                        width=width,
                        pen=None,
                        brush=color,
                    )
                )
                bottom += part
        top, low = float(bottom.max(initial=0)), float(bottom.min(initial=0))
        if before is not None:
            heights = np.asarray(before, float)
            top = max(top, float(heights.max(initial=0)))
            self.addItem(
                pg.BarGraphItem(x=x - shift, height=heights, width=width, pen=None, brush=BESIDE)
            )
        self._low, self._top = low, top if top > low else low + 1
        self._frame.setOpts(x=[], height=[])
        self.addItem(self._frame)
        self.getPlotItem().setXRange(-0.6, max(0.6, len(self._keys) - 0.4), padding=0)
        self.getPlotItem().setYRange(self._low, self._top, padding=0.04)
        self.getPlotItem().getAxis("bottom").setTicks([list(enumerate(names))])

    def choose(self, keys: Sequence[int]) -> None:
        """Mark bars, as far as they exist."""
        at = [self._keys.index(key) for key in keys if key in self._keys]
        height = (self._top - self._low) * 1.04
        self._frame.setOpts(x=at, y0=[self._low] * len(at), height=[height] * len(at))

    def item_at(self, x: float, y: float) -> Any:
        at = round(x)
        return self._keys[at] if 0 <= at < len(self._keys) else None


class MatrixChart(Chart):
    """A square matrix as colours; `picked` emits (row key, column key)."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[int] = []
        self._image = pg.ImageItem(axisOrder="row-major")
        self._lines: list[Any] = []
        self.addItem(self._image)
        plot = self.getPlotItem()
        plot.invertY(True)
        self._bar = pg.ColorBarItem(interactive=False, width=10)
        self._bar.setImageItem(self._image, insert_in=plot)

    def theme(self, background: str, text: str) -> None:
        super().theme(background, text)
        self._bar.axis.setPen(text)
        self._bar.axis.setTextPen(text)

    def show_matrix(
        self,
        keys: Sequence[int],
        values: NDArray[np.floating],
        groups: Sequence[tuple[str, str, int]],
        limits: tuple[float, float],
        diverging: bool = False,
    ) -> None:
        """Draw (m,m) values; groups: (name, colour, how many keys) from the first key on."""
        self._keys = list(keys)
        colors = pg.colormap.get("CET-D1A" if diverging else "viridis")
        self._bar.setColorMap(colors)
        self._bar.setLevels(limits)
        nothing = 0.0 if diverging else limits[0]
        self._image.setImage(np.nan_to_num(values, nan=nothing), autoLevels=False, levels=limits)
        self._bar.setLevels(limits)
        for line in self._lines:
            self.removeItem(line)
        self._lines, ticks, start = [], [], 0
        for name, color, count in groups:
            ticks.append((start + count / 2, name))
            start += count
            for angle in (0, 90):
                self._lines.append(pg.InfiniteLine(start, angle, pen=pg.mkPen("w", width=1)))
            for x, y in ((np.r_[start - count, start], [0, 0]), ([0, 0], [start - count, start])):
                self._lines.append(pg.PlotDataItem(x, y, pen=pg.mkPen(color, width=6)))
        self._chosen = pg.PlotDataItem(pen=pg.mkPen(CHOSEN, width=2))
        self._lines.append(self._chosen)
        for line in self._lines:
            self.addItem(line)
        plot = self.getPlotItem()
        for side in ("left", "bottom"):
            # Names beside the rows only: below the columns they would overlap.
            plot.getAxis(side).setTicks([ticks if side == "left" else []])
            plot.getAxis(side).setStyle(tickLength=0)
        count = len(self._keys)
        plot.setRange(QRectF(0, 0, count, count), padding=0.01)

    def choose(self, keys: Sequence[int]) -> None:
        """Mark the cell of two keys, or all cells of a key's row."""
        if not self._keys:
            return
        at = [self._keys.index(key) for key in keys if key in self._keys]
        if not at:
            self._chosen.setData([], [])
            return
        left, right = (0, len(self._keys)) if len(at) == 1 else (at[1], at[1] + 1)
        top, bottom = at[0], at[0] + 1
        self._chosen.setData([left, right, right, left, left], [top, top, bottom, bottom, top])

    def item_at(self, x: float, y: float) -> Any:
        column, row, count = int(x // 1), int(y // 1), len(self._keys)
        if 0 <= row < count and 0 <= column < count:
            return self._keys[row], self._keys[column]
        return None


class ScatterChart(Chart):
    """Points; `picked` emits a point's key."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[int] = []
        self._places = np.zeros((0, 2))
        self._points = pg.ScatterPlotItem(pxMode=True)
        self._ring = pg.ScatterPlotItem(size=18, brush=None, pen=pg.mkPen(CHOSEN, width=3))
        for item in (self._points, self._ring):
            self.addItem(item)
        for side in ("left", "bottom"):
            self.getPlotItem().getAxis(side).setTicks([[]])

    def show_points(
        self,
        keys: Sequence[int],
        places: NDArray[np.floating],
        colors: Sequence[str],
        sizes: Sequence[float],
    ) -> None:
        """Draw a point for each key. places: (len(keys),2). sizes: in pixels."""
        self._keys, self._places = list(keys), np.asarray(places, float)
        self._points.setData(
            pos=self._places,
            size=np.asarray(sizes, float),
            brush=[pg.mkBrush(color) for color in colors],
            pen=pg.mkPen("#00000080", width=1),
        )
        self._ring.setData([], [])
        self.getPlotItem().autoRange(padding=0.06)

    def choose(self, keys: Sequence[int]) -> None:
        """Mark points, as far as they exist."""
        at = [self._keys.index(key) for key in keys if key in self._keys]
        self._ring.setData(self._places[at, 0], self._places[at, 1])

    def item_at(self, x: float, y: float) -> Any:
        if not self._keys:
            return None
        width, height = self.getPlotItem().vb.viewPixelSize()
        apart = np.hypot((self._places[:, 0] - x) / width, (self._places[:, 1] - y) / height)
        nearest = int(apart.argmin())
        return self._keys[nearest] if apart[nearest] <= 12 else None
