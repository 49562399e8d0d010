"""Runs generators in other threads; they can be cancelled."""

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
#: The window's thread always goes first, and a job still gets most of an idle machine.
_NICENESS = 5
#: Name of the threads of urgent jobs.
URGENT = "l2gnet urgent job"


class JobError(Exception):
    """Why a job failed, in one sentence.

    napari's generator workers swallow RuntimeError (torch.OutOfMemoryError is one) and then emit
    nothing; this type gets through.
    """


class Job(QObject):
    """Runs a generator in a thread and hands out what it yields, in the GUI's thread.

    Exactly one of `finished`, `cancelled` and `failed` (with a sentence) ends a job. Once the owner
    is deleted, Qt cuts the connections and no signal arrives.

    As many jobs run at once as Qt's thread pool has threads, one for each core; others wait.
    urgent: starts without waiting; for what takes little time.
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
        # A job stops when its widget is deleted.
        parent.destroyed.connect(self._worker.quit)
        self._cancelling = False

    def start(self) -> None:
        """Begin; signals follow later."""
        if self._urgent:
            threading.Thread(target=self._worker.run_here, name=URGENT).start()
        else:
            self._worker.start()

    def cancel(self) -> None:
        """Stop at the next yield; nothing is handed out from now on."""
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
            # The user has cancelled and need not learn of a later error.
            self.cancelled.emit()
        else:
            self.failed.emit(str(error))


class _Worker(GeneratorWorker):
    """A worker that may outlast the window, for example while it imports.

    Qt then deletes the object that carries the worker's signals, emitting raises RuntimeError, and
    a thread that raises would abort the program. The generator itself raises only `JobError`, so a
    RuntimeError always comes from emitting.
    """

    def run(self) -> None:
        """Work in a thread of its own, while the thread of Qt's pool that calls this waits.

        The worker's thread has a lower priority, which Linux does not let a user raise again; the
        pool's threads go on to other plugins' jobs.
        """
        thread = threading.Thread(target=self.run_here, name="l2gnet job", daemon=True)
        thread.start()
        thread.join()

    def run_here(self) -> None:
        """Work in the thread that calls this."""
        with suppress(RuntimeError):
            super().run()

    def work(self) -> Any:
        """Run the generator; returns what it returns."""
        # superqt warns about a RuntimeError that is returned.
        return None if isinstance(result := super().work(), RuntimeError) else result


def _guarded(generator: Generator[Any, None, None]) -> Iterator[Any]:
    _let_the_window_go_first()
    try:
        yield from generator
    except InputError as error:
        raise JobError(str(error)) from error
    except Exception as error:
        if not _outlasts_python():
            # The window shows one sentence; the traceback would be lost.
            _log.exception("A background job failed")
        raise JobError(_sentence(error)) from error


def _outlasts_python() -> bool:
    """Is this a thread that Python does not wait for when it ends, and has it ended?

    What such a thread uses, as PyTorch's operators in the midst of an import, may be gone by then.
    """
    return threading.current_thread().daemon and not threading.main_thread().is_alive()


def _let_the_window_go_first() -> None:
    """Lower the priority of this thread, and so of the threads that PyTorch starts from it.

    Linux only: there, a thread has its own priority. Elsewhere this would slow down the window.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # Raising the priority of a process that has a lower one is not allowed.
        if os.getpriority(os.PRIO_PROCESS, thread) < _NICENESS:
            os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


def _sentence(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"{type(error).__name__}: {first}"


class LatestJob(QObject):
    """Runs at most one job at a time: a new one cancels the job under way."""

    #: A job began or ended.
    changed = Signal()
    #: What the job yields.
    yielded = Signal(object)
    #: A sentence about what the job is doing.
    progress = Signal(str)
    failed = Signal(str)
    #: A job has ended, and its result has been used.
    done = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._job: Job | None = None

    @property
    def busy(self) -> bool:
        """Is a job under way?"""
        return self._job is not None

    def run(self, steps: Generator[Any, None, None], then: Callable[[Any], None]) -> None:
        """Run steps in a thread. Strings they yield are progress; `then` gets the last item."""
        self.cancel()
        last: list[Any] = [None]
        job = self._job = Job(steps, self)

        def take(item: Any) -> None:
            last[0] = item
            self.yielded.emit(item)
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
        """Cancel the job under way."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
            self.changed.emit()
