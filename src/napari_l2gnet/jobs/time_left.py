"""How long a job will still take, and in words."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeVar

from l2gnet_core.relay import relayed

Result = TypeVar("Result")
#: Pieces that must be done before their times give an estimate.
_ENOUGH = 3


class TimeLeft:
    """Estimates the time left for work in pieces of one size.

    each: seconds that a piece took in an earlier run; None if that is unknown.
    """

    def __init__(self, total: int, each: float | None = None) -> None:
        self._total = total
        self._first = 0.0
        #: Seconds that a piece takes; None as long as that is unknown.
        self.each = each

    def after(self, done: int) -> float | None:
        """Seconds left when so many pieces are done; call it after each piece.

        The time of an earlier run counts until enough pieces are done. The first piece is not
        counted: a model takes several times as long for it.
        """
        now = time.perf_counter()
        if done <= 1:
            self._first = now
        if done >= _ENOUGH:
            self.each = (now - self._first) / (done - 1)
        return None if self.each is None else self.each * (self._total - done)


def with_time_left(
    steps: Generator[tuple[int, int], None, Result],
) -> Generator[tuple[float, float | None], None, Result]:
    """Run steps that yield (done, total) pieces of work; yields the share that is done, 0 to 1, and
    the seconds left instead. Returns what they return."""
    left: TimeLeft | None = None

    def told(moment: tuple[int, int]) -> tuple[float, float | None]:
        nonlocal left
        done, total = moment
        left = left or TimeLeft(total)
        return done / max(1, total), left.after(done)

    return (yield from relayed(steps, told))


def in_words(seconds: float | None) -> str:
    """As in "8 s left" and "2 min left"; "" without an estimate, or once it has run out."""
    if seconds is None or seconds < 0.5:
        return ""
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
