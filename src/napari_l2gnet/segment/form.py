"""The controls of the Segment widget and how they are laid out; what they do is in `widget`."""

from __future__ import annotations

from collections.abc import Sequence

import napari
from napari.layers import Image, Layer
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QWidget,
)

from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.saving.mask_saving import TIP as SAVING_TIP
from napari_l2gnet.saving.resume import ResumeOffer
from napari_l2gnet.scans.orientation_combo import OrientationCombo, orientation_tip
from napari_l2gnet.segment.device_line import DeviceLine
from napari_l2gnet.segment.model_combo import ModelCombo
from napari_l2gnet.widgets.docked import DockedWidget, research_line
from napari_l2gnet.widgets.layer_combo import LayerCombo
from napari_l2gnet.widgets.organ_table import OrganTable
from napari_l2gnet.widgets.progress_bar import ProgressBar
from napari_l2gnet.widgets.theme_colors import tones

#: Rows of the list of regions.
WHOLE, THIS_SLICE, RANGE = range(3)


class SegmentForm(DockedWidget):
    """Scan, model, device, axis and region; Segment and Cancel; progress; organs; tidying."""

    def __init__(self, viewer: napari.Viewer, models: ModelCombo) -> None:
        super().__init__(viewer)
        self.image = LayerCombo(viewer.layers, Image)
        self.image.setToolTip("The scan to segment")
        self.model = models
        self.model.setToolTip(
            "The model that finds the organs. Each model knows some organs in some kinds of scan"
        )
        self.about = QToolButton()
        self.about.setText("About")
        self.about.setToolTip(
            "Which organs this model knows, what it was trained on, and how accurate it is"
        )
        model_row = QHBoxLayout()
        model_row.addWidget(self.model, 1)
        model_row.addWidget(self.about)
        self.orientation = OrientationCombo()
        self.device = DeviceLine()
        self.axis = QComboBox()
        self.axis.setToolTip("The axis along which the scan is divided into slices for the model")
        self.region = QComboBox()
        self.region.setToolTip("How much of the scan to segment")
        self.region.addItems(["Whole scan", "This slice", "Slices …"])
        self.first, self.last = QSpinBox(), QSpinBox()
        self.first.setToolTip("First slice, counted from 0 as in the file")
        self.last.setToolTip("Last slice, counted from 0 as in the file")
        self.range = QWidget()
        range_row = QHBoxLayout(self.range)
        range_row.setContentsMargins(0, 0, 0, 0)
        range_row.addWidget(self.first, 1)
        range_row.addWidget(QLabel("to"))
        range_row.addWidget(self.last, 1)
        for combo in (self.image, self.model, self.orientation, self.axis, self.region):
            combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            combo.setMinimumContentsLength(10)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Scan", self.image)
        form.addRow("Model", model_row)
        self.orientation_label = QLabel("Orientation")
        form.addRow(self.orientation_label, self.orientation)
        form.addRow("Device", self.device)
        form.addRow("Slices along", self.axis)
        form.addRow("Segment", self.region)
        form.addRow("", self.range)

        self.start = QPushButton("Segment")
        self.start.setStyleSheet("QPushButton { font-weight: bold; padding: 7px; }")
        self.start.setToolTip("Find the organs in the scan")
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop. Finished slices are kept")
        buttons = QHBoxLayout()
        buttons.addWidget(self.start, 3)
        buttons.addWidget(self.cancel, 1)
        self.bar = ProgressBar()

        self.organs = OrganTable()
        self.coverage = QLabel()
        self.coverage.setWordWrap(True)
        self.coverage.hide()
        self.largest = QCheckBox("Largest piece only")
        self.largest.setToolTip("Keep the largest connected piece of each organ")
        self.holes = QCheckBox("Fill holes")
        self.holes.setToolTip("Fill holes inside an organ, slice by slice")
        tidy = QHBoxLayout()
        tidy.addWidget(QLabel("Tidy"))
        tidy.addWidget(self.largest)
        tidy.addWidget(self.holes)
        tidy.addStretch(1)
        self.save_mask = QPushButton("Save mask …")
        self.save_mask.setToolTip(SAVING_TIP)

        self.offer = ResumeOffer()

        layout = self.column
        layout.addLayout(form)
        layout.addWidget(self.offer)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.message)
        layout.addWidget(self.organs)
        layout.addWidget(self.coverage)
        layout.addLayout(tidy)
        layout.addWidget(self.save_mask)
        layout.addStretch(1)
        layout.addWidget(research_line())
        self.keep_wide(320)
        self.show_theme()

    def show_axes(self, names: Sequence[str] = (), automatic: int = 0) -> None:
        """Offer the axes to slice along, the automatic one first; emits no signal."""
        with QSignalBlocker(self.axis):
            self.axis.clear()
            for axis in sorted(range(len(names)), key=lambda axis: axis != automatic):
                self.axis.addItem(names[axis] + (" (auto)" if axis == automatic else ""), axis)

    def ask_orientation(self, layer: Layer | None, stored: Volume | None) -> None:
        """Ask about the orientation of a layer's scan, as stored in its file; None asks nothing."""
        self.orientation.ask(layer, stored)
        for part in (self.orientation, self.orientation_label):
            part.setVisible(stored is not None)
        if stored is not None:
            self._tips[self.orientation] = orientation_tip(stored)

    def choices(self) -> CleanUp:
        """How masks are to be tidied, as ticked."""
        return CleanUp(self.largest.isChecked(), self.holes.isChecked())

    def show_choices(self, choices: CleanUp) -> None:
        """Tick what is chosen; emits no signal."""
        ticks = ((self.largest, choices.largest_piece), (self.holes, choices.fill_holes))
        for box, choice in ticks:
            with QSignalBlocker(box):
                box.setChecked(choice)

    def show_theme(self) -> None:
        """Take on the colours of the window."""
        super().show_theme()
        self.coverage.setStyleSheet(f"QLabel {{ color: {tones(self.viewer).beware}; }}")
