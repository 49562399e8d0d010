"""Silence what libraries print about a damaged file while we read it: our errors say it.

Only for the time of a read, because a host application may want these messages for its own files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_itk_lock = threading.Lock()
#: What ITK's global switch was before each read that is under way.
_itk_before: list[bool] = []


@contextmanager
def quiet_logger(name: str) -> Iterator[None]:
    """Drop what this thread logs to a logger; other threads are heard."""
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
            # Off until the last of several reads ends: its entry is the caller's setting.
            ProcessObject.SetGlobalWarningDisplay(_itk_before.pop())
