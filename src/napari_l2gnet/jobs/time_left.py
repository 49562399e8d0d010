"""How long a job will still take, and in words."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeVar

from l2gnet_core.relay import relayed

Result = TypeVar("Result")
#: Pieces that must be done after the first ones before their times give an estimate.
_ENOUGH = 2


class TimeLeft:
    """Estimates the time left for work in pieces of one size, some of which may be done together.

    each: seconds that a piece took in an earlier run; None if that is unknown.
    """

    def __init__(self, total: int, each: float | None = None) -> None:
        self._total = total
        #: Seconds that a piece takes; None as long as that is unknown.
        self.each = each
        self._began = time.perf_counter()
        # How many pieces were done when the first ones were, when that was, and the same of the
        # last ones; together: how many these are.
        self._first: tuple[int, float] | None = None
        self._last = 0, 0.0
        self._together = 0

    def after(self, done: int) -> float | None:
        """Seconds left when so many pieces are done; call it as soon as more are, and whenever the
        time left is wanted in between.

        The time of an earlier run counts until enough pieces are done. The first ones are not
        counted, unless there are no others: a model takes several times as long for them.
        """
        now = time.perf_counter()
        if done > self._last[0]:
            if self._first is None:
                self._first = done, now
            first, since = self._first
            if done - first >= _ENOUGH:
                self.each = (now - since) / (done - first)
            elif done == self._total > _ENOUGH:
                self.each = (now - self._began) / done
            self._together, self._last = done - self._last[0], (done, now)
        if self.each is None:
            return None
        done, since = self._last
        # What comes after the pieces at work, about as many as the last time, is left at least.
        gone = min(now - since, self.each * self._together)
        return max(0.0, self.each * (self._total - done) - gone)


def with_time_left(
    steps: Generator[tuple[int, int], None, Result],
) -> Generator[tuple[float, float | None], None, Result]:
    """Run steps that yield (done, total) pieces of work; yields the share that is done, 0 to 1, and
    the seconds left instead. Returns what they return."""
    left: TimeLeft | None = None

    def share_and_left(moment: tuple[int, int]) -> tuple[float, float | None]:
        nonlocal left
        done, total = moment
        left = left or TimeLeft(total)
        return done / max(1, total), left.after(done)

    return (yield from relayed(steps, share_and_left))


def in_words(seconds: float | None) -> str:
    """As in "8 s left" and "2 min left"; "" without an estimate, or once it has run out."""
    if seconds is None or seconds < 0.5:
        return ""
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
