"""napari's way in: files of scans and masks, and folders of DICOM series, become layers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2gnet_core.errors import InputError
from l2gnet_core.files import DICOM, format_of, is_supported, read_any
from l2gnet_core.files.labeltext import LabelText
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.scans.layers import to_layer_data

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

Paths = str | list[str]

#: Seconds between two questions of napari about one drop; it shows at most a layer in between.
_ONE_DROP = 3.0


class _Drop:
    """DICOM files that belong to the scans opened last.

    All files of a series dropped at once are one scan, but napari asks for them one by one.
    """

    def __init__(self) -> None:
        self.opened: set[Path] = set()
        self._last_asked = -math.inf

    def ask(self) -> None:
        """napari asks for a file: of the last drop, or of a new one."""
        if not _window_runs() or time.monotonic() > self._last_asked + _ONE_DROP:
            self.opened.clear()

    def answered(self) -> None:
        """napari has its answer."""
        self._last_asked = time.monotonic()


_drop = _Drop()


def get_reader(path: Paths) -> Callable[[Paths], list[Any]] | None:
    """Called by npe2: the function that reads these paths, or None if we do not read them."""
    paths = [path] if isinstance(path, str) else path
    return read if paths and all(is_supported(p) for p in paths) else None


def read(path: Paths) -> list[LayerDataTuple] | list[tuple[None]]:
    """One layer for each file or DICOM series: Labels if the file says it is a mask, else Image.

    In a window, a dialog asks which series of a folder to open. An unusable file gives a sentence:
    a notification in a window, which then opens nothing; an InputError in a script.
    """
    _drop.ask()
    try:
        found: list[LayerDataTuple] = []
        for one in [path] if isinstance(path, str) else path:
            scans = _dicom(Path(one)) if format_of(Path(one)) is DICOM else [read_any(one)]
            found += [_layer(volume, text) for volume, text in scans]
        # [(None,)] tells napari that there is no layer and no error.
        return found or [(None,)]
    except InputError as error:
        if not _window_runs():
            raise
        from napari.utils.notifications import show_error

        # napari would wrap an exception in a paragraph about plugins, and print a traceback.
        show_error(str(error))
        return [(None,)]
    finally:
        _drop.answered()


def _dicom(path: Path) -> list[tuple[Volume, LabelText]]:
    """The scans of a folder (those that the user chooses, if there are several), or the scan that a
    file is part of; [] if that has just been opened. Raises InputError."""
    from l2gnet_core.files.dicom import read_series
    from l2gnet_core.files.dicom_series import series_below, series_of

    if path in _drop.opened:
        return []
    series = series_below(path) if path.is_dir() and _window_runs() else []
    if len(series) > 1:
        from qtpy.QtWidgets import QApplication, QMainWindow

        from napari_l2gnet.scans.series_dialog import SeriesDialog

        # napari's window, for its colours; the active window is the dialog that chose the reader.
        windows = [w for w in QApplication.topLevelWidgets() if isinstance(w, QMainWindow)]
        shown = [window for window in windows if window.isVisible()]
        dialog = SeriesDialog(path, series, shown[0] if shown else None)
        # With the names that the dialog lists.
        series = [replace(one, alone=False) for one in dialog.chosen] if dialog.exec() else []
    else:
        series = [series_of(path)]
    _drop.opened.update(file for one in series for file in one.files)
    return [(read_series(one), LabelText()) for one in series]


def _layer(volume: Volume, text: LabelText) -> LayerDataTuple:
    if volume.warnings and _window_runs():
        from napari.utils.notifications import show_warning

        for sentence in volume.warnings:
            show_warning(sentence)
    if text.is_mask and volume.data.dtype.kind in "iu":
        return to_layer_data(volume, "labels", text.names, text.colors)
    return to_layer_data(volume, names=text.names)


def _window_runs() -> bool:
    """Does a Qt event loop run in this thread, so that a person sees notifications?"""
    try:
        from qtpy.QtCore import QCoreApplication, QThread
    except ImportError:
        return False
    thread = QThread.currentThread() if QCoreApplication.instance() is not None else None
    return thread is not None and thread.loopLevel() > 0
