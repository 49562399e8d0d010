"""How long a job will still take, and in words."""

from __future__ import annotations

import time

#: Pieces that must be done before they tell how long the others will take.
_ENOUGH = 3


class TimeLeft:
    """Of work in pieces of one size."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._first = 0.0

    def after(self, done: int) -> float | None:
        """Seconds left when so many pieces are done, to be asked after each; None for the first
        ones. The first is not counted: a model takes several times as long to begin with."""
        now = time.perf_counter()
        if done <= 1:
            self._first = now
        if done < _ENOUGH:
            return None
        return (now - self._first) / (done - 1) * (self._total - done)


def in_words(seconds: float) -> str:
    """As in "8 s left" and "2 min left"; "finishing" where an estimate is used up."""
    if seconds >= 90:
        return f"{seconds / 60:.0f} min left"
    return f"{seconds:.0f} s left" if seconds >= 0.5 else "finishing"
