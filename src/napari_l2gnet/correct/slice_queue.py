"""The table of slices to review: which ones, why, and their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from l2gnet_core.project.state import SliceKey

SLICE, WHY, STATE = range(3)
_ROW = 24
_SLICE_WIDTH = 56
#: Rows shown at once; the others scroll.
_ROWS = 8


@dataclass(frozen=True)
class Row:
    """A slice of the queue as it is to be shown."""

    place: SliceKey
    name: str
    why: str
    state: str


class SliceQueue(QTableWidget):
    """A table with a row for each slice, which emits the slice that was clicked."""

    go_to = Signal(object)

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.setHorizontalHeaderLabels(["Slice", "Why", "State"])
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(_ROW)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        # The arrow keys are napari's: they scroll through the slices.
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setShowGrid(False)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(WHY, QHeaderView.ResizeMode.Stretch)
        self.setColumnWidth(SLICE, _SLICE_WIDTH)
        self.setColumnWidth(STATE, 84)
        self.setFixedHeight(_ROW * (_ROWS + 1) + 8)
        self._shown: list[Row] = []
        self._good = ""
        self.cellClicked.connect(self._on_click)

    def show_series(self, series: bool) -> None:
        """Name the column for slices of a series, whose names begin with the frame, or of one
        frame."""
        head = "t · slice" if series else "Slice"
        item = self.horizontalHeaderItem(SLICE)
        item.setToolTip("Frame of the series, and slice in it" if series else "")
        if item.text() != head:
            item.setText(head)
            needed = self.horizontalHeader().sectionSizeHint(SLICE)
            self.setColumnWidth(SLICE, max(_SLICE_WIDTH, needed))

    def show_good(self, color: str) -> None:
        """The colour of what is reviewed."""
        self._good = color
        for number, row in enumerate(self._shown):
            self._fill(number, row)

    def show_rows(self, rows: Sequence[Row], here: SliceKey | None) -> None:
        """Show the queue, with the slice on screen marked."""
        if len(rows) != self.rowCount():
            self.setRowCount(len(rows))
            self._shown = []
        for number, row in enumerate(rows):
            if number >= len(self._shown) or self._shown[number] != row:
                self._fill(number, row)
        self._shown = list(rows)
        self.show_here(here)

    def show_here(self, here: SliceKey | None) -> None:
        """Mark the slice on screen."""
        for number, row in enumerate(self._shown):
            if row.place == here:
                if self.currentRow() != number or not self.selectedItems():
                    self.setCurrentCell(number, WHY)
                return
        self.clearSelection()

    def rows(self) -> list[tuple[str, ...]]:
        """The texts of the table: slice, why, state."""
        columns = range(3)
        return [
            tuple(self.item(row, column).text() for column in columns)
            for row in range(self.rowCount())
        ]

    def _fill(self, number: int, row: Row) -> None:
        for column, text in ((SLICE, row.name), (WHY, row.why), (STATE, row.state)):
            item = QTableWidgetItem(text)
            # Names of organs can be longer than the column is wide.
            item.setToolTip(
                f"{text}. Click: go to this slice" if column == WHY else "Click: go there"
            )
            if column != WHY:
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
            if column == STATE and text.startswith("✓"):
                item.setForeground(QColor(self._good))
            self.setItem(number, column, item)

    def _on_click(self, row: int, _: int) -> None:
        self.go_to.emit(self._shown[row].place)
