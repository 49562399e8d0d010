"""The controls of the Inspect widget and how they are laid out; what they do is in `widget`."""

from __future__ import annotations

from collections.abc import Sequence

import napari
from napari.layers import Labels
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QWidget,
)

from napari_l2gnet.inspect.state import SLICE, VOLUME
from napari_l2gnet.inspect.views import InspectViews
from napari_l2gnet.masks.layer import SEGMENTATION_KEY
from napari_l2gnet.widgets.docked import DockedWidget, research_line
from napari_l2gnet.widgets.layer_combo import LayerCombo
from napari_l2gnet.widgets.progress_bar import ProgressBar

#: What can lie over the image, by its name in the list.
CODES, HEARD, REFERENCE, DOUBT, NOTHING = "codes", "heard", "reference", "doubt", "nothing"
#: Needs a comparison.
OTHER_CODES, CHANGED = "other codes", "changed"
_SHOWN = {
    CODES: "code map",
    HEARD: "sources",
    REFERENCE: "reference",
    DOUBT: "doubt",
    OTHER_CODES: "other code map",
    CHANGED: "changed cells",
    NOTHING: "nothing",
}
PIECE, EVERYWHERE = "piece", "everywhere"


class InspectForm(DockedWidget):
    """Mask, part and picture; what was clicked; charts; places to look at; assigning; saving."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__(viewer)
        self.mask_combo = LayerCombo(
            viewer.layers, Labels, fits=lambda layer: SEGMENTATION_KEY in layer.metadata
        )
        self.of = _combo("Which part of the scan the numbers and charts are about")
        self.shown = _combo(
            "What is drawn over the image.\n"
            "Code map: blocks (cells) of similar colour look similar to the model.\n"
            "Sources: the cells from which the chosen code receives information; brighter = more.\n"
            "Reference: the cells that send their mass to the chosen reference; brighter = more.\n"
            "Doubt: where the model is unsure; brighter = less sure.\n"
            "Other code map: that of what is chosen under Compare.\n"
            "Changed cells: cells whose code differs between the two."
        )
        for key, name in _SHOWN.items():
            self.shown.addItem(name, key)
        self.compare = _combo(
            "Another model's mask of this scan (for example before fine-tuning), another frame\n"
            "or another scan. The charts then show which codes are used more or less, and a\n"
            "message says how far apart the two are."
        )
        self.mask_combo.setToolTip("The mask to inspect: what its model saw is shown")
        for combo in (self.mask_combo, self.compare):
            combo.setMinimumContentsLength(10)
            combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.compare_label = QLabel("Compare")
        grid = QGridLayout()
        grid.setHorizontalSpacing(6)
        grid.addWidget(QLabel("Mask"), 0, 0)
        grid.addWidget(self.mask_combo, 0, 1, 1, 3)
        grid.addWidget(self.compare_label, 1, 0)
        grid.addWidget(self.compare, 1, 1, 1, 3)
        grid.addWidget(QLabel("Part"), 2, 0)
        grid.addWidget(self.of, 2, 1)
        grid.addWidget(QLabel("Show"), 2, 2)
        grid.addWidget(self.shown, 2, 3)
        grid.setColumnStretch(1, 1)
        grid.setColumnStretch(3, 1)

        self.click = QPushButton("Click to look")
        self.click.setCheckable(True)
        self.click.setChecked(True)
        self.click.setToolTip(
            "While this is on, a click on the image chooses the code of the voxel. Dragging and\n"
            "zooming work as usual. Switching it on puts the brush away."
        )
        self.outline = QCheckBox("Outline")
        self.outline.setChecked(True)
        self.outline.setToolTip("Draw the mask as outlines, so that you can see what is below it")
        self.clear = QPushButton("Clear")
        self.clear.setToolTip("Remove the highlight: no code is chosen any more")
        looking = QHBoxLayout()
        looking.addWidget(self.click, 2)
        looking.addWidget(self.outline)
        looking.addWidget(self.clear, 1)
        self.told = QLabel()
        self.told.setTextFormat(Qt.TextFormat.RichText)
        self.told.setWordWrap(True)
        # Room for the usual lines, so that the charts do not move.
        self.told.setMinimumHeight(56)
        self.told.setToolTip(
            "A code is one of the patterns that the model tells apart. The organs beside it are\n"
            "those of its voxels in the model's answer: one organ near 100 % is a clear code.\n"
            "A code receives information from codes that send their mass to the same references.\n"
            "Those from which it receives more than by chance are listed, with their shares of\n"
            "all that it receives."
        )
        self.told.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.told.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.again = QPushButton("Look again")
        self.again.setToolTip(
            "Run the model on the segmented slices once more, to find what it saw.\n"
            "The mask does not change."
        )
        self.again.hide()
        self.go_on = QPushButton("Go on")
        self.go_on.setToolTip("Read what the model saw, from the start")
        self.go_on.hide()
        self.views = InspectViews()
        # Shown in place of the charts if there is nothing to draw.
        self.nothing = QWidget()
        self.nothing.hide()

        layout = self.column
        layout.setSpacing(5)
        layout.addLayout(grid)
        layout.addLayout(looking)
        layout.addWidget(self.told)
        layout.addWidget(self.again)
        layout.addWidget(self.go_on)
        layout.addWidget(self.views, 1)
        layout.addWidget(self.nothing, 1)
        layout.addLayout(self._places())
        layout.addLayout(self._assigning())
        self._add_status()
        self.keep_wide(350)

    def _places(self) -> QGridLayout:
        self.unsure = QPushButton("Next unsure place")
        self.unsure.setToolTip(
            "Go to the place where the model is least sure, then to the next one.\n"
            "Choose the measure of doubt in the Doubt tab."
        )
        self.mark = QPushButton("Mark one")
        self.mark.setToolTip(
            "Paint on a mistake, in a separate layer; then press Find more like this"
        )
        self.similar = QPushButton("Find more like this")
        self.similar.setToolTip(
            "Find places that look to the model like what you marked, or what you painted in the\n"
            "mask on this slice: similar codes, same structure; the most similar place first"
        )
        self.back, self.forward = QToolButton(), QToolButton()
        self.back.setText("◀")
        self.back.setToolTip("The previous place")
        self.forward.setText("▶")
        self.forward.setToolTip("The next place")
        self.place = QLabel()
        self.place.setAlignment(Qt.AlignmentFlag.AlignCenter)
        grid = QGridLayout()
        grid.setHorizontalSpacing(6)
        grid.addWidget(self.unsure, 0, 0)
        grid.addWidget(self.similar, 0, 1)
        steps = QHBoxLayout()
        steps.addWidget(self.back)
        steps.addWidget(self.place, 1)
        steps.addWidget(self.forward)
        steps.addWidget(self.mark)
        grid.addLayout(steps, 1, 0, 1, 2)
        return grid

    def _assigning(self) -> QGridLayout:
        self.target = _combo("The organ that the voxels are assigned to")
        self.extent = _combo(
            "Which voxels to change. This piece: the connected voxels that have the code and the\n"
            "organ that you clicked. Everywhere: all of them in the slice, if Part is this slice,\n"
            "or else in the volume."
        )
        self.extent.setMinimumContentsLength(9)
        self.extent.addItem("this piece", PIECE)
        self.extent.addItem("everywhere", EVERYWHERE)
        self.preview = QPushButton("Preview")
        self.preview.setToolTip("Highlight and count the voxels that would change")
        self.apply = QPushButton("Assign")
        self.apply.setToolTip(
            "Change the previewed voxels; Ctrl-Z takes this back. They count as painted by you:\n"
            "no new answer of the model overwrites them, and fine-tuning learns from them."
        )
        self.apply.setStyleSheet("QPushButton { font-weight: bold; }")
        grid = QGridLayout()
        grid.setHorizontalSpacing(6)
        grid.addWidget(QLabel("Assign to"), 0, 0)
        # As wide as possible: names of organs are long.
        grid.addWidget(self.target, 0, 1)
        row = QHBoxLayout()
        row.addWidget(self.extent, 2)
        row.addWidget(self.preview, 1)
        row.addWidget(self.apply, 1)
        grid.addLayout(row, 1, 0, 1, 2)
        grid.setColumnStretch(1, 1)
        return grid

    def _add_status(self) -> None:
        self.bar = ProgressBar()
        # A busy bar shows no text, and the text says how far the job is.
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        self.cancel = QToolButton()
        self.cancel.setText("Cancel")
        self.cancel.setToolTip("Stop; the mask does not change")
        busy = QHBoxLayout()
        busy.addWidget(self.bar, 1)
        busy.addWidget(self.cancel)
        self.png, self.csv = QPushButton("PNG …"), QPushButton("CSV …")
        self.png.setToolTip("Save the image in the viewer and this tab as one picture")
        self.csv.setToolTip("Save the numbers of this tab as a table")
        saving = QHBoxLayout()
        saving.addWidget(QLabel("Save this tab"))
        saving.addWidget(self.png)
        saving.addWidget(self.csv)
        # Directly in the column: in a nested layout, Qt would measure wrapped lines at the least
        # width, and take the room for them from the charts.
        layout = self.column
        layout.addLayout(busy)
        layout.addWidget(self.message)
        layout.addLayout(saving)
        layout.addWidget(research_line())

    def show_parts(self, names: Sequence[str]) -> None:
        """Offer the whole volume, the slice on screen and each structure; the choice stays if it
        can."""
        before = self.of.currentData()
        with QSignalBlocker(self.of):
            self.of.clear()
            self.of.addItem("volume", VOLUME)
            self.of.addItem("this slice", SLICE)
            for column, name in enumerate(names):
                if column:
                    self.of.addItem(name, column)
            self.of.setCurrentIndex(max(0, self.of.findData(before)))


def _combo(tip: str) -> QComboBox:
    combo = QComboBox()
    combo.setToolTip(tip)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(5)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo
