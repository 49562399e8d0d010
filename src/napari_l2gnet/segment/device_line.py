"""The line of the Segment widget that says where models run."""

from __future__ import annotations

from collections.abc import Generator

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QSizePolicy

from napari_l2gnet.jobs import warm_up
from napari_l2gnet.jobs.worker import Job


class DeviceLine(QLabel):
    """Names the device; a background job finds it out, and imports what a run needs."""

    #: The device is named.
    ready = Signal()

    def __init__(self) -> None:
        super().__init__("…")
        self.setWordWrap(True)
        # By default, the form wraps it at half the width but reserves room as if for all of it.
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self._job: Job | None = None

    def look(self) -> None:
        """Find out the device; `ready` follows."""
        self._job = Job(_steps(), self)
        self._job.yielded.connect(self.setText)
        self._job.failed.connect(self.setText)
        self._job.finished.connect(self.ready)
        self._job.start()

    def cancel(self) -> None:
        """Stop looking."""
        if self._job is not None:
            self._job.cancel()


def _steps() -> Generator[str, None, None]:
    warm_up.labels_layer()
    from l2gnet_core.network.device import choose_device

    yield choose_device("auto")[1]
