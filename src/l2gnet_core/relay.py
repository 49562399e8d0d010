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
    steps: Generator[Inner, None, Result], told: Callable[[Inner], Outer]
) -> Generator[Outer, None, Result]:
    """Run a generator to its end and yield `told(moment)` for each moment that it yields.

    Returns what the generator returns: `result = yield from relayed(steps, told)`.
    """
    while True:
        try:
            moment = next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield told(moment)
