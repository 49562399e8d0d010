"""How long a job will still take, and in words."""

from __future__ import annotations

import time

#: Pieces that must be done before they tell how long the others will take.
_ENOUGH = 3


class TimeLeft:
    """Of work in pieces of one size; each: seconds that one took before, None if nobody knows."""

    def __init__(self, total: int, each: float | None = None) -> None:
        self._total = total
        self._first = 0.0
        #: Seconds that a piece takes, None as long as nothing tells.
        self.each = each

    def after(self, done: int) -> float | None:
        """Seconds left when so many pieces are done, to be asked after each; of the first ones they
        are what a piece took before. The first is not counted: a model takes several times as long
        to begin with."""
        now = time.perf_counter()
        if done <= 1:
            self._first = now
        if done >= _ENOUGH:
            self.each = (now - self._first) / (done - 1)
        return None if self.each is None else self.each * (self._total - done)


def in_words(seconds: float | None) -> str:
    """As in "8 s left" and "2 min left"; "" where there is no estimate, or it is used up."""
    if seconds is None or seconds < 0.5:
        return ""
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
