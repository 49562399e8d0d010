"""Asks which of the DICOM series in a folder to open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QDialogButtonBox,
    QLabel,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from l2gnet_core.files.dicom_series import Series


class SeriesDialog(QDialog):
    """Lists the series of a folder; the largest is chosen at first, and several may be chosen."""

    def __init__(self, folder: Path, series: Sequence[Series], parent: QWidget | None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Open DICOM series")
        self._series = series
        self.list = QTreeWidget()
        self.list.setHeaderLabels(["Series", "Images", "Pixels", "Folder"])
        self.list.setRootIsDecorated(False)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        for one in series:
            rows, columns = one.shape
            place = str(one.folder.relative_to(folder))
            cells = [one.title, str(len(one.planes)), f"{columns} × {rows}", place]
            self.list.addTopLevelItem(QTreeWidgetItem(cells))
        for column in range(self.list.columnCount()):
            self.list.resizeColumnToContents(column)
        sizes = [len(one.planes) for one in series]
        self.list.setCurrentItem(self.list.topLevelItem(sizes.index(max(sizes))))
        self.list.itemDoubleClicked.connect(lambda *_: self.accept())
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel
        )
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        self.open_button = buttons.button(QDialogButtonBox.StandardButton.Open)
        self.list.itemSelectionChanged.connect(self._allow_open)
        layout = QVBoxLayout(self)
        layout.addWidget(
            QLabel(f"{folder.name} holds {len(series)} series. Each opens as a layer.")
        )
        layout.addWidget(self.list)
        layout.addWidget(buttons)
        self.resize(560, 320)

    @property
    def chosen(self) -> list[Series]:
        """The selected series, in the order of the list."""
        rows = enumerate(self._series)
        return [one for row, one in rows if self.list.topLevelItem(row).isSelected()]

    def _allow_open(self) -> None:
        self.open_button.setEnabled(bool(self.chosen))
        self.open_button.setToolTip("" if self.open_button.isEnabled() else "Choose a series first")
