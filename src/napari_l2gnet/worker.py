"""A generator run in another thread, that can be cancelled."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, Signal

from l2gnet_core.errors import InputError

_log = logging.getLogger(__name__)
#: Enough to be overtaken by the window at once, and still to get most of an idle machine.
_NICENESS = 5
#: The name of threads of urgent jobs.
URGENT = "l2gnet urgent job"


class JobError(Exception):
    """What a job failed with, as one sentence.

    napari's generator workers swallow RuntimeError (torch.OutOfMemoryError is one) and then emit
    nothing; this type gets through.
    """


class Job(QObject):
    """Runs a generator in a thread and hands out what it yields, in the GUI's thread.

    Exactly one of `finished`, `cancelled` and `failed` (with a sentence) ends a job. Signals are
    not emitted once the owner is gone: connections to a deleted QObject are cut by Qt.

    Jobs share Qt's threads, one for each core, and wait for one another. urgent: in a thread of its
    own, without waiting; for what takes little time.
    """

    yielded = Signal(object)
    finished = Signal()
    cancelled = Signal()
    failed = Signal(str)

    def __init__(
        self, generator: Generator[Any, None, None], parent: QObject, urgent: bool = False
    ) -> None:
        super().__init__(parent)
        self._urgent = urgent
        self._worker: GeneratorWorker = create_worker(
            _guarded,
            generator,
            _start_thread=False,
            _ignore_errors=True,
            _worker_class=_Worker,
        )
        self._worker.yielded.connect(self._on_yielded)
        self._worker.returned.connect(self._on_returned)
        self._worker.errored.connect(self._on_errored)
        self._worker.aborted.connect(self._on_aborted)
        # quit() alone does not run the generator's `finally` clauses.
        self._worker.aborted.connect(generator.close)
        # A widget that is closed takes its job along.
        parent.destroyed.connect(self._worker.quit)
        self._cancelling = False

    def start(self) -> None:
        """Begin; signals follow."""
        if self._urgent:
            threading.Thread(target=self._worker.run, name=URGENT).start()
        else:
            self._worker.start()

    def cancel(self) -> None:
        """Stop at the next yield; nothing is handed out any more from now on."""
        self._cancelling = True
        self._worker.quit()

    def _on_yielded(self, item: Any) -> None:
        if not self._cancelling:
            self.yielded.emit(item)

    def _on_returned(self, _: Any) -> None:
        (self.cancelled if self._cancelling else self.finished).emit()

    def _on_aborted(self) -> None:
        self.cancelled.emit()

    def _on_errored(self, error: BaseException) -> None:
        if self._cancelling:
            # Whoever cancels wants to know of nothing that came of it.
            self.cancelled.emit()
        else:
            self.failed.emit(str(error))


class _Worker(GeneratorWorker):
    """One that may outlast the window, as while it imports: Qt deletes then what it tells by, and a
    program whose threads raise is aborted. All that a generator raises is a `JobError`; what is a
    RuntimeError comes of telling."""

    def run(self) -> None:
        """What its thread does."""
        with suppress(RuntimeError):
            super().run()

    def work(self) -> Any:
        """What the generator returns."""
        # Else a warning of it is printed.
        return None if isinstance(result := super().work(), RuntimeError) else result


def _guarded(generator: Generator[Any, None, None]) -> Iterator[Any]:
    _let_the_window_go_first()
    try:
        yield from generator
    except InputError as error:
        raise JobError(str(error)) from error
    except Exception as error:
        # The window shows one sentence; the traceback would be lost.
        _log.exception("A background job failed")
        raise JobError(_sentence(error)) from error


def _let_the_window_go_first() -> None:
    """Lower this thread's priority, and so that of the threads which PyTorch will start from it.

    Only Linux counts threads as processes here; elsewhere the whole window would slow down.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _sentence(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"{type(error).__name__}: {first}"


class LatestJob(QObject):
    """At most one job at a time: a new one drops what was under way."""

    #: Something began or ended.
    changed = Signal()
    #: What a job says it is doing.
    progress = Signal(str)
    failed = Signal(str)
    #: A job's result has been taken in.
    done = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._job: Job | None = None

    @property
    def busy(self) -> bool:
        """Is a job under way?"""
        return self._job is not None

    def run(self, steps: Generator[Any, None, None], then: Callable[[Any], None]) -> None:
        """Work in a thread: sentences it yields are progress; `then` gets what it yielded last."""
        self.cancel()
        last: list[Any] = [None]
        job = self._job = Job(steps, self)

        def take(item: Any) -> None:
            last[0] = item
            if isinstance(item, str):
                self.progress.emit(item)

        def end(act: Callable[[], None]) -> None:
            job.deleteLater()
            if self._job is job:
                self._job = None
                act()
                self.changed.emit()
                self.done.emit()

        job.yielded.connect(take)
        job.finished.connect(lambda: end(lambda: then(last[0])))
        job.failed.connect(lambda text: end(lambda: self.failed.emit(text)))
        job.cancelled.connect(job.deleteLater)
        self.changed.emit()
        job.start()

    def cancel(self) -> None:
        """Drop what is under way."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
            self.changed.emit()
