"""Errors that are not bugs: each message is one sentence that tells the user what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """The input cannot be used.

    The message is one sentence: what was expected, what came, what to do. The command line prints
    it and exits with 2, the plugin shows it.
    """


class OutputError(InputError):
    """A result could not be written, or did not read back as it was written.

    What was at the destination before is unchanged.
    """


def memory_is_short(error: BaseException) -> bool:
    """Did this error arise because memory of the GPU or the computer does not suffice?

    Its message decides, because PyTorch's allocators raise plain RuntimeError.
    """
    words = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn errors of insufficient memory into InputError. what: needs the memory."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not memory_is_short(error):
            raise
        raise InputError(
            f"Expected enough memory for {what}, but there is too little; close other programs, or "
            "use a smaller scan."
        ) from error
