"""What goes wrong because of what came in, said in one sentence a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """The input cannot be used: what was expected, what came, what to do.

    The message is one sentence; the command line prints it and exits 2, the plugin shows it.
    """


class OutputError(InputError):
    """A result could not be written, or did not read back as it was written.

    Whatever was at the destination before is still there, untouched.
    """


def memory_is_short(error: BaseException) -> bool:
    """Is it that memory does not suffice, a GPU's or the computer's?

    PyTorch's allocators raise nothing more particular than RuntimeError, each in words of its own.
    """
    words = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Raise InputError where memory does not suffice for `what`."""
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
