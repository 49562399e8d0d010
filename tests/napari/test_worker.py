"""Jobs: generators in threads."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PyQt6 import sip
from qtpy.QtCore import QObject, QThreadPool
from superqt.utils import WorkerBase

from l2gnet_core.errors import InputError
from napari_l2gnet.jobs.worker import Job


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


def test_the_log_has_the_traceback_of_a_bug(qtbot: Any, caplog: pytest.LogCaptureFixture) -> None:
    def failing(error: Exception) -> Iterator[None]:
        raise error
        yield

    parent, said = QObject(), []
    for error in (InputError("Choose another file."), KeyError("left ventricle")):
        job = Job(failing(error), parent)
        job.failed.connect(said.append)
        with qtbot.waitSignal(job.failed, timeout=10_000):
            job.start()
    assert said == ["Choose another file.", "KeyError: 'left ventricle'"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


@pytest.mark.parametrize("urgent", [False, True])
def test_what_fails_because_python_ends_is_no_bug(
    qtbot: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, urgent: bool
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def outlasting() -> Iterator[None]:
        begun.set()
        assert ended.wait(10)
        raise AttributeError("What it imports is gone.")
        yield

    parent = QObject()
    job = Job(outlasting(), parent, urgent)
    with qtbot.waitSignal(job.failed, timeout=10_000):
        job.start()
        assert begun.wait(10)
        main = threading.main_thread()
        with monkeypatch.context() as patched:
            patched.setattr(main, "is_alive", lambda: False)
            ended.set()
            qtbot.waitUntil(lambda: not job._worker.is_running)
    # Python waits for urgent jobs: nothing of theirs is gone.
    assert len(caplog.records) == urgent


@pytest.mark.parametrize("then", ["goes on", "is cancelled", "fails"])
def test_a_job_that_outlasts_its_window_ends_without_a_word(qapp: Any, then: str) -> None:
    parent = QObject()

    def outlasting() -> Iterator[None]:
        yield
        # As Qt does at the end of the program.
        sip.delete(job._worker.signals)
        if then == "is cancelled":
            job.cancel()
        if then == "fails":
            raise ValueError("What it worked on is gone.")
        yield

    job = Job(outlasting(), parent)
    # In this thread: what is raised in another one aborts the program.
    job._worker.run_here()


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


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are lowered on Linux alone")
def test_threads_of_the_pool_keep_their_priority(qtbot: Any) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def measuring() -> Iterator[int]:
        yield priority()

    pool, parent, of_jobs = QThreadPool.globalInstance(), QObject(), []
    for _ in range(2 * pool.maxThreadCount()):
        job = Job(measuring(), parent)
        job.yielded.connect(of_jobs.append)
        with qtbot.waitSignal(job.finished, timeout=10_000):
            job.start()
    assert set(of_jobs) == {max(5, priority())}
    of_others: list[int] = []
    for _ in range(2 * pool.maxThreadCount()):
        pool.start(lambda: of_others.append(priority()))
    assert pool.waitForDone(10_000)
    assert set(of_others) == {priority()}


def test_quitting_waits_for_jobs(qapp: Any) -> None:
    parent, begun = QObject(), threading.Event()

    def endless() -> Iterator[None]:
        begun.set()
        while True:
            time.sleep(0.1)
            yield

    Job(endless(), parent).start()
    assert begun.wait(10)
    # napari does this at the end of the program.
    WorkerBase.await_workers(10_000)
    assert "l2gnet job" not in {thread.name for thread in threading.enumerate()}
