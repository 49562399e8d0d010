"""Notices what happens to the scan of a widget."""

from __future__ import annotations

from typing import Any

import napari
from napari.layers import Image
from qtpy.QtCore import QObject, Signal

from napari_l2gnet.jobs.worker import LatestJob
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.saving.orphans import give_scan, orphans, put_below, same_scan
from napari_l2gnet.scans.layers import transform_of


class ScanWatch(QObject):
    """Follows a scan: its voxels, its place, and the masks that it had when it was last in the
    viewer."""

    #: The voxels or their place have changed.
    changed = Signal()
    #: (layer, masks): masks of the same scan, whose layer was deleted, now belong to this layer.
    adopted = Signal(object, list)

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._scan: Image | None = None
        #: Compares the scan with those of masks whose layer was deleted.
        self.comparing = LatestJob(self)

    def stop(self) -> None:
        """Let go of the scan."""
        self.follow(None)
        self.comparing.cancel()

    def follow(self, scan: Image | None, readable: bool = False) -> None:
        """Follow another scan, or none; masks are looked for if it is readable."""
        if self._scan is scan:
            return
        for image, act in ((self._scan, "disconnect"), (scan, "connect")):
            if image is not None:
                for key in ("data", *transform_of(image)):
                    getattr(getattr(image.events, key), act)(self._on_changed)
        self._scan = scan
        if scan is not None and readable and (masks := orphans(self._viewer, scan)):
            self.comparing.run(same_scan(masks, scan), lambda found: self._adopt(scan, found))

    def _on_changed(self, _: Any = None) -> None:
        self.changed.emit()

    def _adopt(self, scan: Image, found: list[MaskLayer]) -> None:
        for mask in found:
            give_scan(mask, scan)
        if found:
            put_below(self._viewer, scan, found)
            self.adopted.emit(scan, found)
