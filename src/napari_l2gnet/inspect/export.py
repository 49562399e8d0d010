"""Saves pictures and tables of the Inspect widget."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QBuffer, QIODevice, Qt
from qtpy.QtGui import QImage, QPainter
from qtpy.QtWidgets import QFileDialog, QWidget

from l2gnet_core.files.atomic import replace_bytes


def ask_file(parent: QWidget, suffix: str, save: Callable[[Path, str], None]) -> None:
    """Let the user choose a file, and save in the format of the suffix."""
    kind = suffix[1:].upper()
    name, _ = QFileDialog.getSaveFileName(
        parent, f"Save this tab as {kind}", f"inspect{suffix}", f"{kind} (*{suffix})"
    )
    if name:
        save(Path(name), suffix)


def save_picture(path: Path, canvas: NDArray[np.uint8], chart: QWidget) -> None:
    """Write the canvas (H,W,4) and a chart side by side as PNG. Errors: OutputError."""
    height, width = canvas.shape[:2]
    canvas = np.ascontiguousarray(canvas)
    left = QImage(canvas.data, width, height, 4 * width, QImage.Format.Format_RGBA8888)
    scale = height / max(1, chart.height())
    both = QImage(width + round(scale * chart.width()), height, QImage.Format.Format_RGB32)
    both.fill(Qt.GlobalColor.black)
    painter = QPainter(both)
    painter.drawImage(0, 0, left)
    painter.translate(width, 0)
    # Drawn again at this size, not enlarged: letters stay sharp.
    painter.scale(scale, scale)
    chart.render(painter)
    painter.end()
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    both.save(buffer, "PNG")
    replace_bytes(path, bytes(buffer.data().data()))


def save_table(path: Path, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table as CSV. Errors: OutputError."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    replace_bytes(path, text.getvalue().encode())
