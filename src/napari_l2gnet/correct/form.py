"""The controls of the Correct & fine-tune widget; what they do is in `widget`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import napari
from napari.layers import Labels, Layer
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QButtonGroup,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.annotating.preview import AFTER, BEFORE, CHANGES
from napari_l2gnet.correct.curve import Curve
from napari_l2gnet.correct.slice_queue import SliceQueue
from napari_l2gnet.masks.layer import SEGMENTATION_KEY, MaskLayer
from napari_l2gnet.saving.mask_saving import TIP as SAVING_TIP
from napari_l2gnet.widgets.docked import DockedWidget, research_line
from napari_l2gnet.widgets.layer_combo import LayerCombo
from napari_l2gnet.widgets.organ_table import color_icon
from napari_l2gnet.widgets.progress_bar import ProgressBar
from napari_l2gnet.widgets.theme_colors import tones

#: Keys that napari leaves free, whatever layer is selected.
ACCEPT_KEY, NEXT_KEY, FLIP_KEY = "K", "N", "G"
#: Rows of the list of kinds.
SCAN, PROJECT = "scan", "project"
# napari's themes do not mark a checked tool button.
_VIEW_STYLE = (
    "QToolButton { padding: 4px 7px; } "
    "QToolButton:checked { background-color: #4b5ec7; color: white; border-radius: 2px; }"
)


class CorrectForm(DockedWidget):
    """Mask; slices to review; organs; fine-tuning; preview; versions."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__(viewer)

        def is_mask(layer: Layer) -> bool:
            return SEGMENTATION_KEY in layer.metadata and MaskLayer(viewer, layer).connected

        self.layer = LayerCombo(viewer.layers, Labels, fits=is_mask)
        self.layer.setToolTip("The mask to correct")
        self.reviewed = ProgressBar()
        self.reviewed.setToolTip("Number of accepted slices, of all slices")
        self.queue = SliceQueue()
        self.accept_slice = QPushButton("Accept slice")
        self.accept_slice.setToolTip(
            "Mark the slice on screen as correct: models will not change it, and fine-tuning\n"
            f"learns from it. Press again to undo. Key: {ACCEPT_KEY}"
        )
        self.next_slice = QPushButton("Next →")
        self.next_slice.setToolTip(
            f"Go to the next slice that is not accepted yet. Key: {NEXT_KEY}"
        )

        self.organ = QComboBox()
        self.organ.setToolTip("The organ to paint, edit or interpolate")
        self.add_organ = _quiet(
            "New …", "Add an organ. Paint it in a few slices, then fine-tune: the model learns it"
        )
        self.edit_organ = _quiet("Edit …", "Change the name or colour of this organ, or remove it")
        self.interpolate = _quiet(
            "Interpolate between slices",
            "Fill the slices between those that you painted or accepted. With three or more,\n"
            "the filled shapes also follow the image. Ctrl-Z undoes this.",
        )

        self.take_over = _quiet(
            "Take over a mask",
            "Copy the labels of another layer, such as a mask file that was made or corrected\n"
            "elsewhere. Voxels that differ count as painted by you. Ctrl-Z undoes this.",
        )
        self.masks = QMenu(self)
        self.take_over.setMenu(self.masks)
        self.save_mask = _quiet("Save mask …", SAVING_TIP)

        self.kind = QComboBox()
        self.kind.addItem("this scan", SCAN)
        self.kind.addItem("the project's model", PROJECT)
        self.kind.setToolTip(
            "this scan: adapts the model to this scan only.\n"
            "the project's model: learns from all corrected masks in the viewer, for future\n"
            "scans, and stays closer to the model before."
        )
        self.seconds = QSpinBox()
        self.seconds.setRange(2, 3600)
        self.seconds.setValue(20)
        self.seconds.setSuffix(" s")
        self.seconds.setToolTip("Time for learning and checking")
        self.painted = QComboBox()
        self.painted.addItem("only what I painted counts", False)
        self.painted.addItem("painted slices are complete", True)
        self.painted.setToolTip(
            "In slices that you painted on but did not accept: learn from your strokes, and very\n"
            "little from the model's answer around them, or from everything that the mask shows"
        )
        self.start = QPushButton("Fine-tune")
        self.start.setStyleSheet("QPushButton { font-weight: bold; padding: 7px; }")
        self.start.setToolTip(
            "Learn from the accepted and painted slices. You see a preview before you accept"
        )
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop. Mask and model stay unchanged. What you painted stays")
        self.bar = ProgressBar()
        self.bar.setRange(0, 1000)
        self.curve = Curve(viewer)

        self.views = QButtonGroup(self)
        self.view_buttons: dict[str, QToolButton] = {}
        for mode, text, tip in (
            (BEFORE, "Before", "The current mask"),
            (AFTER, "After", "The mask after you press Accept"),
            (CHANGES, "Changes", "The voxels that would change"),
        ):
            button = QToolButton()
            button.setText(text)
            button.setCheckable(True)
            button.setStyleSheet(_VIEW_STYLE)
            button.setToolTip(f"{tip}. Key to switch between before and after: {FLIP_KEY}")
            self.view_buttons[mode] = button
            self.views.addButton(button)
        self.accept = QPushButton("Accept")
        self.accept.setToolTip(
            "Take the preview into the mask, as one step that Ctrl-Z undoes. What you painted and\n"
            "the slices that you accepted are not changed."
        )
        self.discard = QPushButton("Discard")
        self.discard.setToolTip("Remove the preview. The mask stays as it is")
        self.version = QComboBox()
        self.version.setToolTip("Versions of the model. Choose one to see the mask that it makes")
        self.roll_back = _quiet(
            "Roll back", "Go back to the version from which this one was fine-tuned"
        )
        self.save = _quiet("Save …", "Save this version. You can then choose it in Segment")
        self.load = _quiet("Load …", "Segment this scan with a saved model, as a new version")
        for combo in (self.layer, self.organ, self.kind, self.painted, self.version):
            combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            combo.setMinimumContentsLength(8)
            combo.setSizeAdjustPolicy(
                QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
        self._lay_out()
        # The canvas handles the keys: a click must not take the focus from it.
        for control in self.findChildren(QAbstractButton):
            control.setFocusPolicy(Qt.FocusPolicy.TabFocus)

    def _lay_out(self) -> None:
        top = _form(("Mask", self.layer))
        organs = _form(("Organ", self.organ))
        organs.addRow("", _row(self.add_organ, self.edit_organ))
        organs.addRow("", self.interpolate)
        organs.addRow("", _row(self.take_over, self.save_mask))
        learning = _form(("Fine-tune", _row(self.kind, self.seconds)), ("Painted", self.painted))
        versions = _form(("Version", self.version))
        versions.addRow("", _row(self.roll_back, self.save, self.load))
        layout = self.column
        layout.setSpacing(4)
        layout.addLayout(top)
        layout.addWidget(self.reviewed)
        layout.addWidget(self.queue)
        layout.addWidget(_row(self.accept_slice, self.next_slice))
        layout.addLayout(organs)
        layout.addWidget(_line())
        layout.addLayout(learning)
        start = _row(self.start, self.cancel)
        start.layout().setStretch(0, 3)
        layout.addWidget(start)
        layout.addWidget(self.bar)
        layout.addWidget(self.curve)
        layout.addWidget(self.message)
        self.proposal = QWidget()
        proposal = QVBoxLayout(self.proposal)
        proposal.setContentsMargins(0, 0, 0, 0)
        #: The outcome of the fine-tuning, to decide by.
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.verdict.setTextFormat(Qt.TextFormat.PlainText)
        self.verdict.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        proposal.addWidget(self.verdict)
        proposal.addWidget(_row(QLabel("Preview"), *self.view_buttons.values()))
        proposal.addWidget(_row(self.accept, self.discard))
        layout.addWidget(self.proposal)
        layout.addLayout(versions)
        layout.addStretch(1)
        layout.addWidget(research_line())
        self.keep_wide(330)
        self.show_theme()

    def show_reviewed(self, count: int, total: int) -> None:
        """How many slices are reviewed."""
        self.reviewed.setRange(0, max(1, total))
        self.reviewed.setValue(count)
        text = f"Reviewed {count} / {total}" if total else "Nothing to review"
        self.reviewed.setFormat(text)

    def show_organs(self, labels: LabelSet, chosen: int | None) -> None:
        """Offer these organs, and all of them together as None; emits no signal."""
        with QSignalBlocker(self.organ):
            self.organ.clear()
            for label in labels:
                self.organ.addItem(color_icon(label.color), label.name, label.id)
            self.organ.addItem("all organs", None)
            last = self.organ.count() - 1
            self.organ.setCurrentIndex(last if chosen is None else self.organ.findData(chosen))

    def show_versions(self, names: Sequence[str], current: int) -> None:
        """Offer these versions; emits no signal."""
        if [self.version.itemText(i) for i in range(self.version.count())] != list(names):
            self.version.clear()
            self.version.addItems(list(names))
        self.version.setCurrentIndex(current)

    def show_verdict(self, text: str) -> None:
        """Show the outcome of a fine-tuning; "" as long as there is none."""
        self.verdict.setText(text)
        self.verdict.setVisible(bool(text))

    def show_mode(self, mode: str) -> None:
        """Show which view of a proposal is on screen; emits no signal."""
        for name, button in self.view_buttons.items():
            with QSignalBlocker(button):
                button.setChecked(name == mode)

    def show_theme(self) -> None:
        """Take on the colours of the window."""
        super().show_theme()
        self.queue.show_good(tones(self.viewer).good)


def _quiet(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row


def _form(*rows: tuple[str, Any]) -> QFormLayout:
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    form.setVerticalSpacing(4)
    for text, widget in rows:
        form.addRow(text, widget)
    return form


def _line() -> QWidget:
    line = QWidget()
    line.setFixedHeight(1)
    line.setStyleSheet("background-color: rgba(128, 128, 128, 90);")
    return line
