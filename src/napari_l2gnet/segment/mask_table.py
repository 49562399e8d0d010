"""The table of organs of one mask: what it shows and what its clicks do."""

from __future__ import annotations

from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QLabel

from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.masks.layer import IMAGE_KEY, MaskLayer
from napari_l2gnet.scans.layers import GRID_KEY, transform_of
from napari_l2gnet.widgets.organ_table import OrganTable
from napari_l2gnet.widgets.visibility import why_beside


class MaskTable(QObject):
    """Keeps the table of organs, and the line below it, up to date with a mask."""

    #: The data of the mask's layer were replaced by something that does not fit the scan.
    lost = Signal()

    def __init__(
        self, viewer: napari.Viewer, organs: OrganTable, coverage: QLabel, parent: QObject
    ) -> None:
        super().__init__(parent)
        self.mask: MaskLayer | None = None
        #: Is a run writing? It calls `count_soon` itself.
        self.running = False
        self._labels: LabelSet | None = None
        self._viewer = viewer
        self._organs = organs
        self._coverage = coverage
        organs.visibility_changed.connect(self._show_organ)
        organs.color_changed.connect(self._color_organ)
        organs.organ_selected.connect(self._paint_with)
        viewer.dims.events.current_step.connect(self._show_sizes)
        # Voxels are counted again after strokes and undo, when the window is idle.
        self._counting = QTimer(self, interval=0)
        self._counting.timeout.connect(self._count)

    def disconnect_viewer(self) -> None:
        """Stop following: events must not reach a widget that Qt has deleted."""
        self.follow(None)
        self._counting.stop()
        self._viewer.dims.events.current_step.disconnect(self._show_sizes)

    def follow(self, mask: MaskLayer | None) -> None:
        """Show this mask's organs from now on."""
        if self.mask is not None:
            self.mask.stop(self._on_painted, self._show_colors)
            self.mask.layer.events.features.disconnect(self._on_features)
            self.mask.layer.events.selected_label.disconnect(self._show_selected)
            for event in self._size_events(self.mask):
                event.disconnect(self._show_sizes)
        self.mask = mask
        if mask is not None:
            self._show_organs()
            mask.layer.events.features.connect(self._on_features)
            mask.layer.events.selected_label.connect(self._show_selected)
            mask.follow(self._on_painted, self._show_colors)
            for event in self._size_events(mask):
                event.connect(self._show_sizes)
        else:
            self._show_sizes()

    @staticmethod
    def _size_events(mask: MaskLayer) -> list[Any]:
        # The mask moves with its scan.
        return [getattr(mask.layer.events, key) for key in transform_of(mask.layer)]

    def _on_features(self, _: Any = None) -> None:
        # Organs were renamed or added; napari emits this for new data, too.
        if self.mask is not None and self.mask.segmentation.card.labels != self._labels:
            self._show_organs()

    def _show_organs(self) -> None:
        if self.mask is not None:
            self._labels = self.mask.segmentation.card.labels
            self._organs.show_labels(self._labels)
            self._show_colors()
            self._show_selected()
            self.count_all()

    def count_soon(self) -> None:
        """Update the sizes when the window is idle."""
        self._counting.start()

    def count_all(self) -> None:
        """Count every slice again when the window is idle: any may have changed."""
        if self.mask is not None:
            self.mask.segmentation.counts.mark_all()
            self.count_soon()

    def _on_painted(self, _: Any = None) -> None:
        # napari does not always say which voxels changed: count all of them.
        if not self.running:
            self.count_all()

    def _count(self) -> None:
        """Count for a few milliseconds."""
        if self.mask is not None and not self.mask.connected:
            self._counting.stop()
            self.lost.emit()
        elif self.mask is None or self.mask.segmentation.count(seconds=0.005):
            self._counting.stop()
            self._show_sizes()

    def _show_sizes(self, _: Any = None) -> None:
        if self.mask is None:
            self._coverage.hide()
            return
        if not self.mask.connected:
            return
        grid = self.mask.grid
        ml = grid.voxel_volume_ml if grid.has_ml else None
        finished, count = coverage = self.mask.coverage()
        self._organs.show_sizes(self.mask.voxels(), ml, coverage)
        of = " of this frame" if len(grid.shape) == 4 else ""
        told = []
        # During a run, the progress bar says so.
        if finished < count and not self.running:
            told.append(f"Partial: {finished} of {count} slices{of} are segmented")
        layer, image = self.mask.layer, self.mask.layer.metadata[IMAGE_KEY]
        sized_in_napari = grid is not layer.metadata.get(GRID_KEY)
        if sized_in_napari and not (
            np.allclose(layer.scale, image.scale) and layer.units == image.units
        ):
            told.append(
                f'Volumes use the voxel size of "{layer.name}", which differs from that of '
                f'"{image.name}": set the same scale and units for both.'
            )
        elif beside := why_beside(self.mask):
            told.append(f"{beside}: click a slice in Correct & fine-tune to align it again.")
        self._coverage.setText("\n".join(told))
        self._coverage.setVisible(bool(told))

    def _show_colors(self, _: Any = None) -> None:
        if self.mask is not None:
            self._organs.show_colors(self.mask.colors())

    def _show_selected(self, _: Any = None) -> None:
        if self.mask is not None:
            self._organs.show_selected(int(self.mask.layer.selected_label))

    def _show_organ(self, label: int, shown: bool) -> None:
        if self.mask is not None:
            self.mask.show_organ(label, shown)

    def _color_organ(self, label: int, color: str) -> None:
        if self.mask is not None:
            self.mask.color_organ(label, color)

    def _paint_with(self, label: int) -> None:
        if self.mask is not None:
            self.mask.layer.selected_label = label
            # The next stroke goes into the selected layer.
            self._viewer.layers.selection.active = self.mask.layer
