"""The table of organs: colour, name, size, visibility, and a button that goes to the organ."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QKeyEvent, QKeySequence, QPixmap, QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QColorDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
)

from l2gnet_core.scans.labels import Label, LabelSet

COLOR, NAME, VOXELS, VOLUME, GO = range(5)
_ID = Qt.ItemDataRole.UserRole
_COLOR = Qt.ItemDataRole.UserRole + 1
#: Removes from the text of a size all but the number.
_NO_NUMBER = str.maketrans("", "", "≥–\u202f")
#: Least mL per voxel for volumes in mL, and for volumes in mm³. A microscope's voxels are so small
#: that all volumes in mL would be 0.
_ML_FROM, _MM3_FROM = 1e-5, 1e-9


class OrganTable(QTableWidget):
    """A table with a row for each organ. Emits what was clicked."""

    visibility_changed = Signal(int, bool)
    color_changed = Signal(int, str)
    organ_selected = Signal(int)
    go_to = Signal(int)

    def __init__(self) -> None:
        super().__init__(0, 5)
        self.setHorizontalHeaderLabels(["", "Organ", "Voxels", "mL", ""])
        self.verticalHeader().hide()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        self.setColumnWidth(COLOR, 50)
        self.setColumnWidth(GO, 36)
        self._reason = ""
        #: The part of the scan that sizes are about, in words; "" for all of it.
        self._part = ""
        self._unit = "mL"
        self.itemChanged.connect(self._on_item_changed)
        self.cellDoubleClicked.connect(self._on_double_click)
        self.itemSelectionChanged.connect(self._on_selection)
        # A click on the selected row emits no selection change.
        self.cellClicked.connect(lambda row, _: self.organ_selected.emit(self._id(row)))

    def show_labels(self, labels: LabelSet) -> None:
        """Make a new row for each label, all of them ticked as shown."""
        with QSignalBlocker(self):
            self.setRowCount(len(labels))
            for row, label in enumerate(labels):
                self._fill(row, label)
        self.allow(self._reason)
        self._fit_columns()
        self._fit_height()

    def _fill(self, row: int, label: Label) -> None:
        color = QTableWidgetItem()
        color.setData(_ID, label.id)
        _set_color(color, label.color)
        color.setCheckState(Qt.CheckState.Checked)
        self.setItem(row, COLOR, color)
        name = QTableWidgetItem(label.name)
        self.setItem(row, NAME, name)
        for column in (VOXELS, VOLUME):
            number = QTableWidgetItem("–")
            number.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.setItem(row, column, number)
        button = QToolButton()
        button.setText("→")
        button.clicked.connect(lambda _=False, id=label.id: self.go_to.emit(id))
        self.setCellWidget(row, GO, button)
        self.setRowHeight(row, 30)

    def allow(self, reason_against: str) -> None:
        """Enable the table, or disable it with the reason as the tooltip of every cell."""
        self._reason = reason_against
        self.setEnabled(not reason_against)
        self.setToolTip(reason_against)
        with QSignalBlocker(self):
            for row in range(self.rowCount()):
                name = self.item(row, NAME).text()
                tips = {
                    COLOR: "Tick: show this organ. Double-click: change its colour.",
                    NAME: f"Label {self._id(row)}. Click: paint with it. Double-click: go to it.",
                }
                for column, tip in tips.items():
                    self.item(row, column).setToolTip(reason_against or tip)
                button = self.cellWidget(row, GO)
                button.setToolTip(reason_against or f"Go to the largest slice of the {name}")

    def show_colors(self, colors: Mapping[int, tuple[str, bool]]) -> None:
        """Show, by label id, the colour as "#rrggbb" and whether the organ is drawn."""
        with QSignalBlocker(self):
            for row in range(self.rowCount()):
                color, shown = colors[self._id(row)]
                item = self.item(row, COLOR)
                _set_color(item, color)
                item.setCheckState(Qt.CheckState.Checked if shown else Qt.CheckState.Unchecked)

    def show_selected(self, label: int) -> None:
        """Mark the organ that is painted with, no organ if the id has no row; emits no signal."""
        with QSignalBlocker(self):
            self.clearSelection()
            for row in range(self.rowCount()):
                if self._id(row) == label:
                    self.selectRow(row)

    def show_sizes(
        self, voxels: Mapping[int, int], ml_per_voxel: float | None, coverage: tuple[int, int]
    ) -> None:
        """Show voxels by label id, and volumes; ml_per_voxel: None without a voxel size in mm.

        coverage: (segmented slices, all slices); sizes in a part of the scan are marked so.
        """
        finished, count = coverage
        least = "" if finished == count else "≥\u202f"
        of = "" if finished == count else f" in the {finished} of {count} slices that are segmented"
        self._part = of
        self._unit, per_ml = _unit(ml_per_voxel)
        self.horizontalHeaderItem(VOLUME).setText(self._unit)
        with QSignalBlocker(self):
            for row in range(self.rowCount()):
                found = voxels.get(self._id(row), 0)
                number, volume = self.item(row, VOXELS), self.item(row, VOLUME)
                number.setText(least + f"{found:,}".replace(",", "\u202f"))
                number.setToolTip(f"Voxels{of}")
                if ml_per_voxel is None:
                    volume.setText("–")
                    volume.setToolTip("The voxel size in mm is unknown")
                else:
                    size = f"{found * ml_per_voxel * per_ml:,.1f}".replace(",", "\u202f")
                    volume.setText(least + size)
                    volume.setToolTip(f"Volume in {self._unit}{of}")
        self._fit_columns()

    def showEvent(self, event: QShowEvent) -> None:
        """Fit the height: only now is the height of the header known from the theme."""
        super().showEvent(event)
        self._fit_height()

    def _fit_height(self) -> None:
        # Tall enough for a handful of organs; with more, the table scrolls.
        rows = min(max(self.rowCount(), 3), 8)
        self.setFixedHeight(self.horizontalHeader().sizeHint().height() + 30 * rows + 4)

    def _fit_columns(self) -> None:
        for column in (VOXELS, VOLUME):
            self.resizeColumnToContents(column)

    def rows(self) -> list[tuple[str, ...]]:
        """The rows as text: name, voxels, volume."""
        columns = (NAME, VOXELS, VOLUME)
        return [
            tuple(self.item(row, column).text() for column in columns)
            for row in range(self.rowCount())
        ]

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Ctrl-C copies all rows: the selection only marks the organ that is painted with."""
        if event.matches(QKeySequence.StandardKey.Copy):
            QApplication.clipboard().setText(self.as_text())
        else:
            super().keyPressEvent(event)

    def as_text(self) -> str:
        """Header and rows separated by tabs, with plain numbers, for spreadsheets."""
        lines = [("Organ", f"Voxels{self._part}", f"{self._unit}{self._part}")]
        for name, *sizes in self.rows():
            numbers = (size.translate(_NO_NUMBER) for size in sizes)
            lines.append((name, *numbers))
        return "".join("\t".join(line) + "\n" for line in lines)

    def _id(self, row: int) -> int:
        return int(self.item(row, COLOR).data(_ID))

    def _on_item_changed(self, item: QTableWidgetItem) -> None:
        if item.column() == COLOR:
            shown = item.checkState() == Qt.CheckState.Checked
            self.visibility_changed.emit(self._id(item.row()), shown)

    def _on_selection(self) -> None:
        rows = self.selectionModel().selectedRows()
        if rows:
            self.organ_selected.emit(self._id(rows[0].row()))

    def _on_double_click(self, row: int, column: int) -> None:
        if column != COLOR:
            self.go_to.emit(self._id(row))
            return
        item = self.item(row, COLOR)
        color = QColorDialog.getColor(QColor(item.data(_COLOR)), self, "Colour of the organ")
        if color.isValid():
            self.color_changed.emit(self._id(row), color.name())


def _unit(ml_per_voxel: float | None) -> tuple[str, float]:
    """The unit of volumes for this voxel size, and how many units are a mL."""
    if ml_per_voxel is None or ml_per_voxel >= _ML_FROM:
        return "mL", 1.0
    return ("mm³", 1e3) if ml_per_voxel >= _MM3_FROM else ("µm³", 1e12)


def color_icon(color: str) -> QIcon:
    """A coloured square that selecting its row does not tint."""
    square = QPixmap(12, 12)
    square.fill(QColor(color))
    icon = QIcon(square)
    icon.addPixmap(square, QIcon.Mode.Selected)
    return icon


def _set_color(item: QTableWidgetItem, color: str) -> None:
    item.setData(_COLOR, color)
    item.setIcon(color_icon(color))
