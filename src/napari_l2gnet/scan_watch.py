"""What becomes of the scan that a widget is about."""

from __future__ import annotations

from typing import Any

import napari
from napari.layers import Image
from qtpy.QtCore import QObject, Signal

from napari_l2gnet.layers import transform_of
from napari_l2gnet.mask_layer import MaskLayer
from napari_l2gnet.orphans import give_scan, orphans, put_below, same_scan
from napari_l2gnet.worker import LatestJob


class ScanWatch(QObject):
    """Follows a scan: how it lies, whether it is still the same, and whether it had masks when it
    was last in the viewer."""

    #: Other voxels, or they lie otherwise.
    changed = Signal()
    #: Masks of the same scan, which was deleted meanwhile, have become those of this layer.
    adopted = Signal(object, list)

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._scan: Image | None = None
        #: Compares the scan with those of masks whose own is gone.
        self.comparing = LatestJob(self)

    def stop(self) -> None:
        """Let go of the scan."""
        self.follow(None)
        self.comparing.cancel()

    def follow(self, scan: Image | None, readable: bool = False) -> None:
        """Another scan, or none; masks are looked for of one that is readable."""
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
