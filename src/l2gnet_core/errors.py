"""What goes wrong because of what came in, said in one sentence a person can act on."""

from __future__ import annotations


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
