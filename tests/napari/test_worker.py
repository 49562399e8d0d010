"""Jobs: generators in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from qtpy.QtCore import QObject

from napari_l2gnet.worker import Job


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
