"""Generators run to their end."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


def ended(steps: Generator[Any, None, Any]) -> Any:
    """The return value of a generator."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
