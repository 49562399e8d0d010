"""napari's way in: NIfTI and TIFF files become layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from l2gnet_core.errors import InputError
from l2gnet_core.files import is_supported, read_any
from napari_l2gnet.layers import to_layer_data

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

Paths = str | list[str]


def get_reader(path: Paths) -> Callable[[Paths], list[Any]] | None:
    """npe2's question: the function that reads these paths, or None if they are not ours."""
    paths = [path] if isinstance(path, str) else path
    return read if paths and all(is_supported(p) for p in paths) else None


def read(path: Paths) -> list[LayerDataTuple] | list[tuple[None]]:
    """One layer a file: a Labels layer for masks that say they are masks, else an Image layer.

    A file that cannot be used is said in one sentence: in a notification where a window runs (and
    nothing is opened), as InputError in a script.
    """
    try:
        return [_layer(p) for p in ([path] if isinstance(path, str) else path)]
    except InputError as error:
        if not _window_runs():
            raise
        from napari.utils.notifications import show_error

        # Raised, it would reach the user wrapped in a paragraph of napari's about plugins, and
        # the terminal as a traceback.
        show_error(str(error))
        return [(None,)]


def _layer(path: str) -> LayerDataTuple:
    volume, text = read_any(path)
    if volume.warnings and _window_runs():
        from napari.utils.notifications import show_warning

        for sentence in volume.warnings:
            show_warning(sentence)
    if text.is_mask and volume.data.dtype.kind in "iu":
        return to_layer_data(volume, "labels", text.names, text.colors)
    return to_layer_data(volume)


def _window_runs() -> bool:
    """Is a person looking on: does this thread's Qt event loop run?"""
    try:
        from qtpy.QtCore import QCoreApplication, QThread
    except ImportError:
        return False
    thread = QThread.currentThread() if QCoreApplication.instance() is not None else None
    return thread is not None and thread.loopLevel() > 0
