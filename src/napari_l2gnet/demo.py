"""Segments the sample scan: in a window, or without one into a picture, a mask and a table."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import napari
from qtpy.QtCore import QEventLoop, QTimer

from l2gnet_core.errors import InputError
from napari_l2gnet.segment.widget import SegmentWidget

TITLE = "napari-l2gnet"


def run_demo(headless: Path | None) -> None:
    """Open the sample and segment it.

    With a folder, write screenshot.png, mask.nii.gz and organs.csv there and close; without one,
    leave the window to the user. Raises InputError if the segmentation fails.
    """
    if sys.platform == "linux":
        require_display()
    viewer = napari.Viewer(title=TITLE, show=headless is None)
    viewer.open_sample("napari-l2gnet", "cardiac-phantom")
    _, widget = viewer.window.add_plugin_dock_widget("napari-l2gnet", "Segment")
    assert isinstance(widget, SegmentWidget)
    viewer.dims.set_current_step(1, viewer.dims.nsteps[1] // 2)
    if headless is None:
        # After the window is shown, so that a person sees the organs fill in.
        QTimer.singleShot(500, widget.segment)
        napari.run()
        return
    headless.mkdir(parents=True, exist_ok=True)
    outcome = _segment_and_wait(widget)
    if outcome != "finished":
        raise InputError(f"The demo's segmentation {outcome}: {widget.message.text()}")
    _save(viewer, widget, headless)
    viewer.close()


def require_display() -> None:
    """Raise InputError if Qt finds no display that answers: Qt itself would abort the process."""
    given = next(filter(None, map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))), None)
    if given is not None and _qt_starts():
        return
    found = "there is none" if given is None else f"Qt cannot open {given}"
    raise InputError(
        f"Expected a display for napari, but {found}; run `make demo`, or put `xvfb-run -a` before "
        "the command."
    )


def _qt_starts() -> bool:
    code = "from qtpy.QtGui import QGuiApplication; QGuiApplication([])"
    try:
        tried = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0


def _segment_and_wait(widget: SegmentWidget) -> str:
    outcomes: list[str] = []
    loop = QEventLoop()
    widget.run_ended.connect(outcomes.append)
    widget.run_ended.connect(lambda _: loop.quit())
    widget.segment()
    if not outcomes:
        loop.exec()
    return outcomes[0]


def _save(viewer: napari.Viewer, widget: SegmentWidget, folder: Path) -> None:
    assert widget.current_mask is not None
    widget.current_mask.layer.save(str(folder / "mask.nii.gz"), plugin="napari-l2gnet")
    with (folder / "organs.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["organ", "voxels", "mL"])
        rows.writerows(widget.organs.rows())
    picture(viewer, folder / "screenshot.png")


def picture(viewer: napari.Viewer, path: Path, size: tuple[int, int] = (1400, 900)) -> None:
    """Save the whole window as a PNG."""
    from qtpy.QtWidgets import QApplication

    window = viewer.window._qt_window  # noqa: SLF001 – napari has no public way to resize it
    window.resize(*size)
    window.show()
    for _ in range(5):
        QApplication.processEvents()
    viewer.reset_view()
    QApplication.processEvents()
    viewer.screenshot(str(path), canvas_only=False, flash=False)
