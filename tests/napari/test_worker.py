"""Jobs: generators in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from qtpy.QtCore import QObject, QThreadPool

from napari_l2gnet.worker import Job


def iter_of(item: Any) -> Iterator[Any]:
    yield item


def test_an_error_after_cancel_is_a_cancel(qtbot: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def failing() -> Iterator[None]:
        begun.set()
        assert go_on.wait(10)
        raise ValueError("What it worked on is gone.")
        yield

    parent, ends = QObject(), []
    job = Job(failing(), parent)
    for name in ("finished", "cancelled", "failed"):
        getattr(job, name).connect(lambda *_, name=name: ends.append(name))
    job.start()
    assert begun.wait(10)
    job.cancel()
    go_on.set()
    qtbot.waitUntil(lambda: bool(ends), timeout=10_000)
    assert ends == ["cancelled"]


def test_what_is_urgent_does_not_wait_for_others(qtbot: Any) -> None:
    parent, go_on = QObject(), threading.Event()

    def long() -> Iterator[None]:
        assert go_on.wait(10)
        yield

    for _ in range(QThreadPool.globalInstance().maxThreadCount()):
        Job(long(), parent).start()
    urgent = Job(iter_of(1), parent, urgent=True)
    try:
        with qtbot.waitSignals([urgent.yielded, urgent.finished], timeout=10_000):
            urgent.start()
    finally:
        go_on.set()
