"""Driving what can be stopped at each of its moments, for tests that never stop it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


def ended(steps: Generator[Any, None, Any]) -> Any:
    """What it finds in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
