"""Asks for an organ: its name, id and colour."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QColorDialog,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QWidget,
)

from l2gnet_core.errors import InputError
from l2gnet_core.scans.labels import Label


class OrganDialog(QDialog):
    """Edits an organ; the ids of known organs are fixed.

    check: raises InputError for an organ that cannot be accepted; the dialog shows its sentence.
    stays: why a known organ cannot be removed; "" if it can.
    """

    #: The organ is to be removed; the dialog is closed.
    removed = Signal()

    def __init__(
        self,
        organ: Label,
        largest_id: int,
        new: bool,
        check: Callable[[Label], object],
        stays: str,
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self._check = check
        self.setWindowTitle("New organ" if new else f"Edit {organ.name}")
        self.name = QLineEdit(organ.name)
        self.name.setPlaceholderText("such as spleen")
        self.id = QSpinBox()
        self.id.setRange(1, largest_id)
        self.id.setValue(organ.id)
        self.id.setEnabled(new)
        self.id.setToolTip(
            "The number that stands for this organ in files"
            if new
            else "What is painted has this id already: it stays"
        )
        self.color = QPushButton()
        self.color.clicked.connect(self._choose_color)
        self._show_color(organ.color)
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        #: Why the organ was refused.
        self.problem = QLabel()
        self.problem.setWordWrap(True)
        self.problem.setTextFormat(Qt.TextFormat.PlainText)
        self.problem.hide()
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        self.remove = buttons.addButton("Remove", QDialogButtonBox.ButtonRole.DestructiveRole)
        self.remove.setVisible(not new)
        self.remove.setEnabled(not stays)
        self.remove.setToolTip(stays or "What is painted as this organ becomes background")
        self.remove.clicked.connect(self.reject)
        self.remove.clicked.connect(self.removed)
        self.ok = buttons.button(QDialogButtonBox.StandardButton.Ok)
        self.name.textChanged.connect(lambda _: self._allow_ok())
        for changed in (self.name.textChanged, self.id.valueChanged):
            changed.connect(lambda _: self.problem.hide())
        self._allow_ok()
        form = QFormLayout(self)
        form.addRow("Name", self.name)
        form.addRow("Id", self.id)
        form.addRow("Colour", self.color)
        form.addRow(self.problem)
        form.addRow(buttons)

    @property
    def organ(self) -> Label:
        """The organ as it is now."""
        return Label(self.id.value(), self.name.text().strip(), self._color)

    def accept(self) -> None:
        """Close, unless the organ is refused."""
        try:
            self._check(self.organ)
        except InputError as error:
            self.problem.setText(str(error))
            self.problem.show()
            # The window does not grow with a wrapped label by itself.
            self.adjustSize()
        else:
            super().accept()

    def _allow_ok(self) -> None:
        self.ok.setEnabled(bool(self.name.text().strip()))
        self.ok.setToolTip("" if self.ok.isEnabled() else "Give the organ a name first")

    def _choose_color(self) -> None:
        color = QColorDialog.getColor(QColor(self._color), self, "Colour of the organ")
        if color.isValid():
            self._show_color(color.name())

    def _show_color(self, color: str) -> None:
        self._color = color
        self.color.setText(color)
        self.color.setStyleSheet(f"QPushButton {{ background-color: {color}; color: black; }}")
