"""The window stays alive while the model works."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from superqt.utils import WorkerBase

from l2gnet_core.scans.phantom import cardiac_phantom
from napari_l2gnet.correct.widget import CorrectWidget
from napari_l2gnet.segment.form import RANGE

pytestmark = pytest.mark.alone

#: Milliseconds by which the window may be late once in a hundred times, and ever. On two cores that
#: five other programs kept busy it was 80 and 660 at most.
LATE, LATEST = 150, 1000
#: Seconds until a job stops that is cancelled.
CANCELLED = 1


class Heartbeat:
    """Measures by how many milliseconds a 25 ms timer of the GUI thread comes late."""

    def __init__(self, parent: Any) -> None:
        self._late: list[float] = []
        self._timer = QTimer(parent, interval=25)
        self._timer.timeout.connect(self._beat)

    def measure(self, wait: Callable[[], None]) -> np.ndarray:
        self._late = []
        self._due = time.perf_counter() + 0.025
        self._timer.start()
        wait()
        self._timer.stop()
        return np.array(self._late)

    def _beat(self) -> None:
        now = time.perf_counter()
        self._late.append(max(0.0, 1000 * (now - self._due)))
        self._due = now + 0.025


def test_the_window_answers_during_a_run_on_a_large_scan(segment_widget: Any, qtbot: Any) -> None:
    viewer, widget = segment_widget()
    # The shipped architecture at its shipped size is what a person waits for.
    widget.model.setCurrentText("cardiac-cine")
    scan = np.random.default_rng(0).integers(0, 1000, (60, 512, 512)).astype(np.int16)
    viewer.add_image(scan, scale=(8, 1.2, 1.2), units=("mm",) * 3)
    qtbot.waitUntil(lambda: widget.device.text() != "…", timeout=30_000)
    viewer.show()
    heartbeat = Heartbeat(widget)
    cancelling = float("inf")
    idle = heartbeat.measure(lambda: qtbot.wait(1000))

    def some_slices() -> None:
        widget.start.click()
        qtbot.waitUntil(
            lambda: (
                bool(widget.current_mask) and len(widget.current_mask.segmentation.finished) >= 10
            ),
            timeout=200_000,
        )
        asked = time.perf_counter()
        with qtbot.waitSignal(widget.run_ended, timeout=30_000):
            widget.cancel.click()
        nonlocal cancelling
        cancelling = time.perf_counter() - asked

    busy = heartbeat.measure(some_slices)
    p99, worst = np.percentile(busy, 99), busy.max()
    print(
        f"idle p99 {np.percentile(idle, 99):.0f} max {idle.max():.0f} ms, "
        f"busy p99 {p99:.0f} max {worst:.0f} ms, cancel {1000 * cancelling:.0f} ms"
    )
    assert cancelling < CANCELLED
    assert p99 < LATE
    assert worst < LATEST


def test_the_window_answers_while_fine_tuning_and_soon_shows_a_preview(
    segment_widget: Any, qtbot: Any
) -> None:
    viewer, segment = segment_widget()
    segment.model.setCurrentText("cardiac-cine")
    phantom = cardiac_phantom(0)
    viewer.add_image(phantom.image, scale=phantom.spacing, units=("mm",) * 3)
    segment.region.setCurrentIndex(RANGE)
    segment.first.setValue(3)
    segment.last.setValue(7)
    with qtbot.waitSignal(segment.run_ended, timeout=120_000):
        segment.start.click()
    widget = CorrectWidget(viewer, segment.session)
    with qtbot.waitSignal(widget.ready, timeout=30_000):
        viewer.window.add_dock_widget(widget)
    qtbot.waitUntil(lambda: bool(widget.annotation.doubts), timeout=30_000)
    for index in (3, 5, 7):
        widget.review.go_to((0, index))
        widget.review.accept_slice()
    widget.review.go_to((0, 4))
    viewer.show()
    heartbeat = Heartbeat(widget)
    idle = heartbeat.measure(lambda: qtbot.wait(1000))
    layer, seconds = widget.current_mask.layer, {}

    def fine_tuning() -> None:
        started, cpu = time.perf_counter(), time.process_time()
        widget.start.click()
        qtbot.waitUntil(
            lambda: bool(widget.annotation.proposal and widget.annotation.proposal.done),
            timeout=120_000,
        )
        seconds["preview"] = time.perf_counter() - started
        seconds["cpu"] = time.process_time() - cpu
        assert widget.current_mask.place in widget.annotation.proposal.done
        # Painting goes on meanwhile.
        for row in range(10):
            layer.data_setitem((np.array([4]), np.array([row]), np.array([0])), 1)
            qtbot.wait(100)

    busy = heartbeat.measure(fine_tuning)
    assert widget.running
    asked = time.perf_counter()
    with qtbot.waitSignal(widget.run_ended, timeout=30_000):
        widget.cancel.click()
    seconds["cancel"] = time.perf_counter() - asked
    assert (layer.data[4, :10, 0] == 1).all()
    WorkerBase.await_workers(60_000)  # the slices' doubts are looked for again
    p99, worst = np.percentile(busy, 99), busy.max()
    print(
        f"idle p99 {np.percentile(idle, 99):.0f} max {idle.max():.0f} ms, "
        f"busy p99 {p99:.0f} max {worst:.0f} ms, cancel {1000 * seconds['cancel']:.0f} ms, "
        f"first preview {seconds['preview']:.1f} s ({seconds['cpu']:.1f} s of CPU time)"
    )
    assert seconds["cancel"] < CANCELLED
    assert seconds["preview"] < 10
    # On an idle machine it takes little longer than that.
    assert seconds["cpu"] < 6
    assert p99 < LATE
    assert worst < LATEST


def test_the_widget_is_shown_soon_after_the_viewer() -> None:
    code = """
import time, napari
viewer = napari.Viewer(show=True)
from qtpy.QtWidgets import QApplication
QApplication.processEvents()
started = time.perf_counter()
viewer.window.add_plugin_dock_widget("napari-l2gnet", "Segment")
QApplication.processEvents()
print(time.perf_counter() - started)
from superqt.utils import WorkerBase
WorkerBase.await_workers(30_000)
viewer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.strip().splitlines()[-1]) <= 3
