"""The tabs of the Inspect widget: what each chart draws; its texts are in `words`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QComboBox, QLabel, QTabWidget, QWidget

from napari_l2gnet.inspect.charts import PLAIN, BarChart, Chart, MatrixChart, ScatterChart
from napari_l2gnet.inspect.inspection import Inspection
from napari_l2gnet.inspect.parts import Part, Usage
from napari_l2gnet.inspect.words import (
    DIFFERENCE,
    MINE,
    OTHERS,
    PLAN,
    REFERENCES,
    SCATTER,
    SLICES,
    USAGE,
    Table,
    Words,
)
from napari_l2gnet.widgets.docked import Column

#: Codes in a chart: more could not be told apart or hit with a mouse.
MOST_CODES = 48
#: Organs in the legend above a chart: more would leave the chart no room.
_MOST_ORGANS = 10
#: Letters that are shown of a name longer than a line.
_LONG = 30
#: Smaller differences from an even share are rounding errors.
_EVEN = 1e-3

_NAMES = ("Usage", "Code ↔ code", "Scatter", "References", "Doubt")
_HINTS = {
    USAGE: "Each bar is a code: how much of the organs (of all voxels, if there are none) is in "
    "its cells. Click a bar to highlight its code.",
    PLAN: "How much a code (row) receives from another (column, same order); 1 = chance. Click a "
    "cell to highlight both codes.",
    SCATTER: "Each point is a code. Near: similar to the model; large: used often; colour: main "
    "organ (10 % of the code, or 5 % of the organ). Click a point to highlight its code.",
    REFERENCES: "Each bar is a reference: above 0, it receives more mass than an even share. Click "
    "a bar to show it over the image.",
    SLICES: "Each bar is a slice: check high bars first. Click a bar to go there. The list chooses "
    "which doubt lies over the image.",
}


class InspectViews(QTabWidget):
    """Draws an `Inspection`, one tab at a time, and emits what was clicked."""

    #: A list of one code, or of the two codes of a cell of the plan.
    codes_picked = Signal(list)
    reference_picked = Signal(int)
    slice_picked = Signal(int)
    kind_chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.usage, self.plan, self.scatter = BarChart(), MatrixChart(), ScatterChart()
        self.references, self.slices = BarChart(), BarChart()
        self.charts = (self.usage, self.plan, self.scatter, self.references, self.slices)
        self.kind = QComboBox()
        self.kind.setToolTip(
            "Which doubt is drawn over the image and used by Next unsure place.\n"
            "Chance to be wrong: computed near borders from class probabilities, neighbouring\n"
            "slices and the distance to the border; fitted to real mistakes.\n"
            "Class probabilities: high where no structure is clearly the most likely.\n"
            "Distance from the code: high where no code is like what the model saw.\n"
            "Spread of the plan: high where a cell sends its mass evenly to all references.\n"
            "Neighbouring slices: high where they have another structure at the same place."
        )
        self.side = QComboBox()
        self.side.setToolTip(
            "Which transport plan to show: that of this mask, that of the comparison, or their\n"
            "difference: codes exchange more (red) or less (blue) information in this mask"
        )
        for name, side in (
            ("difference", DIFFERENCE),
            ("this mask", MINE),
            ("comparison", OTHERS),
        ):
            self.side.addItem(name, side)
        self.side.hide()
        self._legends: dict[int, QLabel] = {}
        for view, chart in enumerate(self.charts):
            self.addTab(self._page(view, chart), _NAMES[view])
        self.tabBar().setUsesScrollButtons(False)
        self.tabBar().setStyleSheet(
            "QTabBar::tab { padding: 4px 5px; min-width: 0px; font-size: 11px; }"
        )
        #: By label id: the organ's colour on screen, and whether it is drawn.
        self.colors: Mapping[int, tuple[str, bool]] = {}
        self.words: Words | None = None
        self.chosen: list[int] = []
        self.reference: int | None = None
        self.index = 0
        self._order: list[int] = []
        self._connect()

    def _page(self, view: int, chart: Chart) -> QWidget:
        page = QWidget()
        # Charts have no height of their own, and the lines below them need room.
        layout = Column(page)
        layout.setContentsMargins(2, 4, 2, 2)
        layout.setSpacing(3)
        if view == SLICES:
            layout.addWidget(self.kind)
        elif view == PLAN:
            layout.addWidget(self.side)
        elif view in (USAGE, SCATTER):
            self._legends[view] = QLabel()
            self._legends[view].setTextFormat(Qt.TextFormat.RichText)
            self._legends[view].setWordWrap(True)
            layout.addWidget(self._legends[view])
        # By this tag: style sheets have no size relative to the window's font.
        hint = QLabel(f"<small>{_HINTS[view]}</small>")
        hint.setWordWrap(True)
        hint.setStyleSheet("QLabel { color: gray; }")
        layout.addWidget(chart, 1)
        layout.addWidget(hint)
        return page

    def _connect(self) -> None:
        self.usage.picked.connect(lambda code: self.codes_picked.emit([code]))
        self.plan.picked.connect(lambda pair: self.codes_picked.emit(list(pair)))
        self.scatter.picked.connect(lambda code: self.codes_picked.emit([code]))
        self.references.picked.connect(lambda key: self.reference_picked.emit(key))
        self.slices.picked.connect(lambda key: self.slice_picked.emit(key))
        self.kind.currentIndexChanged.connect(lambda _: self.kind_chosen.emit())
        self.side.currentIndexChanged.connect(lambda _: self.draw())
        self.currentChanged.connect(lambda _: self.draw())
        for view, chart in enumerate(self.charts):
            chart.tell = lambda item, view=view: self._tell(view, item)

    def _tell(self, view: int, item: Any) -> str:
        if self.words is None:
            return ""
        if view == PLAN:
            return self.words.tell_pair(*item, self.side.currentData())
        if view == REFERENCES:
            return self.words.tell_sent(item, self._code)
        return self.words.tell_slice(item) if view == SLICES else self.words.tell_code(item)

    @property
    def _code(self) -> int | None:
        return self.chosen[0] if self.chosen else None

    def theme(self, background: str, text: str) -> None:
        """Take on the colours of the window."""
        for chart in self.charts:
            chart.theme(background, text)

    def show_inspection(self, inspection: Inspection | None) -> None:
        """Prepare for another mask, or for none; `show_part` draws it."""
        self.words, self.chosen, self.reference = None, [], None
        if inspection is None:
            # Qt would leave a tab that is disabled, although it is soon enabled and drawn again.
            return
        plans = inspection.has_plans
        for view in (PLAN, REFERENCES):
            self.setTabEnabled(view, plans)
            reason = "This model has codes, but no transport between them"
            self.setTabToolTip(view, "" if plans else reason)
        now = self.kind.currentText()
        with QSignalBlocker(self.kind):
            self.kind.clear()
            for name, kind in inspection.kinds().items():
                self.kind.addItem(name, kind)
            self.kind.setCurrentIndex(max(0, self.kind.findText(now)))

    # ------------------------------------------------------------------ drawing

    def show_part(self, inspection: Inspection, part: Part, before: Usage | None) -> None:
        """Draw a part of a scan; before: the usage of the same part of what it is compared with."""
        self.words = Words(inspection, part, before)
        self.side.setVisible(before is not None)
        legend, all_of_them = self._legend(self.words)
        for label in self._legends.values():
            label.setText(legend)
            label.setToolTip(all_of_them)
        self.draw()

    def _legend(self, words: Words) -> tuple[str, str]:
        """The legend of organs, as HTML: those with the most voxels; and all of them for the
        tooltip, "" if the legend has all."""
        voxels = words.usage.table.sum(0)[1:]
        # Names do not wrap, except those that are wider than the dock may be.
        names = [
            escape(name).replace(" ", "&nbsp;" if len(name) < _LONG else " ")
            for name in words.inspection.names[1:]
        ]
        entries = [
            f'<span style="color:{escape(color)}">■</span>&nbsp;{name}'
            for name, color in zip(names, self._colors(words)[1:], strict=True)
        ]
        largest = sorted(np.argsort(-voxels, kind="stable")[:_MOST_ORGANS])
        legend = " &nbsp;".join(entries[organ] for organ in largest)
        if len(largest) == len(entries):
            return legend, ""
        return f"{legend} &nbsp;and&nbsp;{len(entries) - len(largest)}&nbsp;more", " &nbsp;".join(
            entries
        )

    def draw(self) -> None:
        """Draw the tab on top."""
        if self.words is None:
            return
        order = self.words.order
        # If there are organs, the charts are about their codes.
        telling = [code for code in order if self.words.of_organs(code)]
        self._order = (telling or order)[:MOST_CODES]
        draw = (
            self._draw_usage,
            self._draw_plan,
            self._draw_scatter,
            self._draw_references,
            self._draw_slices,
        )
        draw[self.currentIndex()](self.words)
        self.choose(self.chosen)

    def choose(self, codes: Sequence[int]) -> None:
        """Mark codes, or what belongs to them, in the tab on top."""
        self.chosen = list(codes)
        view = self.currentIndex()
        if self.words is None:
            return
        if view == REFERENCES:
            self._draw_references(self.words)
            self.references.choose([] if self.reference is None else [self.reference])
        else:
            self.charts[view].choose([self.index] if view == SLICES else self.chosen)

    def choose_reference(self, reference: int) -> None:
        """Mark a reference in its tab."""
        self.reference = reference
        self.choose(self.chosen)

    def _colors(self, words: Words) -> list[str]:
        labels = words.inspection.source.card.labels
        return [PLAIN, *(self.colors.get(one.id, (one.color, True))[0] for one in labels)]

    def _draw_usage(self, words: Words) -> None:
        before = None
        if words.before is not None:
            # One colour for all organs.
            before = np.array([words.bar_before(code) for code in self._order])
        columns = slice(1, None) if words.has_organs else slice(0, 1)
        table, colors = words.usage.table[:, columns], self._colors(words)[columns]
        parts = 100 * table[self._order] / max(1, int(table.sum()))
        self.usage.show_bars(self._order, parts, colors, before)
        self.usage.label("codes, sorted by share", f"% of {words.counted}")

    def _draw_plan(self, words: Words) -> None:
        main = {code: words.main_organ(code) for code in self._order}
        # Background last, as in the bars.
        kept = sorted(self._order, key=lambda code: (main[code] == 0, main[code]))
        names, colors, groups = words.inspection.names, self._colors(words), []
        for column in dict.fromkeys(main[code] for code in kept):
            count = sum(1 for code in kept if main[code] == column)
            groups.append((names[column], colors[column], count))
        side = self.side.currentData()
        values = words.lift(side)[np.ix_(kept, kept)]
        top = float(np.nanpercentile(np.abs(values), 99)) if np.isfinite(values).any() else 1.0
        if words.before is None or side != DIFFERENCE:
            self.plan.show_matrix(kept, values, groups, (0, max(1.5, top)))
        else:
            top = max(0.1, top)
            self.plan.show_matrix(kept, values, groups, (-top, top), diverging=True)

    def _draw_scatter(self, words: Words) -> None:
        table, colors = words.usage.table, self._colors(words)
        total = table.sum(1)
        # Codes of organs last: on top of the many others.
        used = [int(code) for code in np.argsort(table[:, 1:].sum(1)) if total[code]]
        sizes = 6 + 16 * np.sqrt(total[used] / max(1, total.max()))
        main = [colors[words.main_organ(code)] for code in used]
        self.scatter.show_points(used, words.inspection.positions()[used], main, sizes)
        self.scatter.label("first principal component of the codes", "second")

    def _draw_references(self, words: Words) -> None:
        row = words.sent(self._code)
        if np.abs(row - 1).max() < _EVEN:
            # Smaller differences are rounding errors.
            row = np.ones_like(row)
        self.references.show_bars(range(len(row)), row[:, None] - 1, ["#56b4e9"])
        of = words.whole if self._code is None else f"code {self._code + 1}"
        self.references.label("references", f"{of}: excess over an even share")

    def _draw_slices(self, words: Words) -> None:
        height = {one.index: one.voxels for one in words.inspection.found.ranking}
        keys = sorted(height)
        parts = np.array([[height[key]] for key in keys]).reshape(-1, 1)
        every = max(1, len(keys) // 10)
        names = [str(key) if n % every == 0 else "" for n, key in enumerate(keys)]
        self.slices.show_bars(keys, parts, ["#cc79a7"], names=names)
        self.slices.label("slice", "voxels expected to be wrong")

    def table(self) -> Table:
        """All numbers of the tab on top, as heads and rows."""
        assert self.words is not None
        return self.words.table(self.currentIndex(), self._code, self.side.currentData())
