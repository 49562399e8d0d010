"""Long work that can be stopped: its type, and one piece of it inside another."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Inner = TypeVar("Inner")
Outer = TypeVar("Outer")
Result = TypeVar("Result")

#: Yields None wherever the caller may stop it; returns its result.
Stoppable = Generator[None, None, Result]


def relayed(
    steps: Generator[Inner, None, Result], translate: Callable[[Inner], Outer]
) -> Generator[Outer, None, Result]:
    """Run a generator to its end and yield `translate(moment)` for each moment that it yields.

    Returns what the generator returns: `result = yield from relayed(steps, translate)`.
    """
    while True:
        try:
            moment = next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield translate(moment)
