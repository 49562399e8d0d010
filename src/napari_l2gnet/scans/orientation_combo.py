"""Asks for the orientation of a scan whose file does not say it."""

from __future__ import annotations

from napari.layers import Layer
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox

from l2gnet_core.errors import InputError
from l2gnet_core.scans.volume import Volume, parse_orientation
from napari_l2gnet.scans.orientation import give_orientation, given_orientation

#: Usual orientations: letters of columns, rows and slices, and which formats store scans so.
_USUAL = {
    "LPS": "DICOM, ITK",
    "LPI": "from the head down",
    "RAS": "NIfTI",
    "LAS": "NIfTI, FSL",
    "LIA": "coronal, FreeSurfer",
    "PIR": "sagittal",
}
_AXES = ("slices", "rows", "columns")  # of (z, y, x)
_SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "head", "I": "feet"}
_CHOOSE = "Choose…"


class OrientationCombo(QComboBox):
    """Asks for the orientation of one layer's scan and keeps a valid answer on the layer."""

    #: The answer was changed or removed.
    answered = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._layer: Layer | None = None
        self._axes: tuple[int, int, int] = (0, 1, 2)
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        # Qt would complete typed letters to the first line that begins with them.
        self.setCompleter(None)
        edit = self.lineEdit()
        edit.setPlaceholderText(_CHOOSE)
        # Cuts a chosen line to its three letters, which alone can be edited.
        edit.setMaxLength(3)
        self.editTextChanged.connect(self._keep)

    @property
    def problem(self) -> str:
        """Why the text is no orientation, in one sentence; "" if it is one."""
        if not self.currentText():
            return (
                "Choose the orientation first: the file does not state it, and this model tells "
                "left from right."
            )
        try:
            parse_orientation(self.currentText())
        except InputError as error:
            return str(error)
        return ""

    def ask(self, layer: Layer | None, stored: Volume | None) -> None:
        """Ask about this layer's scan, as stored; None asks about nothing.

        If the layer is asked about again, what was typed stays.
        """
        if stored is None or layer is None:
            self._layer = None
        elif layer is not self._layer or stored.stored_axes != self._axes:
            self._layer, self._axes = layer, stored.stored_axes
            with QSignalBlocker(self):
                self.clear()
                self.addItems([_line(usual, self._axes) for usual in _USUAL])
                self.setCurrentIndex(-1)
                self.setEditText(given_orientation(layer, self._axes))
            self.view().setMinimumWidth(self.view().sizeHintForColumn(0) + 20)

    def _keep(self, text: str) -> None:
        if self._layer is None:
            return
        letters = "" if self.problem else parse_orientation(text)
        if letters and letters != text:
            self.setEditText(letters)  # which calls this again
            return
        give_orientation(self._layer, letters, self._axes)
        self.answered.emit()


def _line(usual: str, axes: tuple[int, int, int]) -> str:
    """As in "LPS  columns → left, rows → back, slices → head (DICOM, ITK)"."""
    letters = [usual[2 - axis] for axis in axes]
    runs = [f"{_AXES[axis]} → {_SIDES[letter]}" for axis, letter in zip(axes, letters, strict=True)]
    return f"{''.join(letters)}  {', '.join(runs)} ({_USUAL[usual]})"


def orientation_tip(stored: Volume) -> str:
    """The tooltip that says how to answer for this scan."""
    order = [f"{_AXES[axis]} ({stored.shape[-3:][axis]})" for axis in stored.stored_axes]
    letters = ", ".join(f"{letter} {side}" for letter, side in _SIDES.items())
    return (
        "The direction in the patient in which each axis of the stored array increases:\n"
        f"one letter per axis, in the file's order. Here: {', '.join(order)}.\n"
        f"{letters}. You can also type three letters.\n"
        "The letters at the edges of the picture show your choice. The file is not changed."
    )
