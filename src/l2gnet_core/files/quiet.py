"""Silence libraries while we read a file: our errors and warnings say what is wrong with it.

This lasts only as long as the read, because a host application may want messages about its files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_itk_lock = threading.Lock()
#: ITK's global switch as it was before each read that is under way.
_itk_before: list[bool] = []


@contextmanager
def quiet_logger(name: str) -> Iterator[None]:
    """Drop what this thread logs to a logger, and keep what other threads log."""
    thread = threading.get_ident()

    def of_other_threads(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger = logging.getLogger(name)
    logger.addFilter(of_other_threads)
    try:
        yield
    finally:
        logger.removeFilter(of_other_threads)


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Turn ITK's warnings off, in all threads: ITK has one switch for the whole process."""
    from SimpleITK import ProcessObject

    with _itk_lock:
        _itk_before.append(ProcessObject.GetGlobalWarningDisplay())
        ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        with _itk_lock:
            # The first entry is the caller's setting; it is popped when the last read ends.
            ProcessObject.SetGlobalWarningDisplay(_itk_before.pop())
