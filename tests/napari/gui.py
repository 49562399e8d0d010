"""What a person does with the Segment widget, for the tests of it."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_l2gnet.saving.autosave import autosave_of

PLUGIN = "napari-l2gnet"


def open_scan(viewer: Any, path: Path) -> Any:
    viewer.open(path, plugin=PLUGIN)
    return viewer.layers[-1]


def run(qtbot: Any, widget: Any) -> str:
    with qtbot.waitSignal(widget.run_ended, timeout=20_000) as blocker:
        widget.start.click()
    return str(blocker.args[0])


def told(widget: Any) -> list[int]:
    """Voxels by organ as the table says them, whether of a part of the scan or of all of it."""
    return [int(re.sub(r"\D", "", row[1])) for row in widget.organs.rows()]


def is_saved(widget: Any) -> bool:
    """Is on disk what is in memory, and nothing being written?"""
    autosave, mask = autosave_of(widget.current_mask), widget.current_mask.segmentation
    folder = autosave.folder
    if autosave._job is not None or folder is None or not (folder.path / "project.json").exists():
        return False
    state = folder.read_state()
    slices, _ = folder.read_slices(state)
    return (
        np.array_equal(slices.labels, mask.shown)
        and np.array_equal(slices.by_person, mask.by_person())
        and np.array_equal(slices.raw, mask.raw)
        and state.reviewed == mask.reviewed
        and state.unreviewed_organs == mask.unreviewed_organs
        and state.finished == mask.finished
        and state.touched == mask.painted().keys()
        and state.labels.names == mask.card.labels.names
        and not mask.events
    )


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let every slice take a while, so that there is something to cancel."""
    from l2gnet_core.segmenting import predict

    quick = predict.predict_slices

    def slow(*arguments: Any, **options: Any) -> Generator[Any, None, None]:
        for result in quick(*arguments, **options):
            time.sleep(seconds)
            yield result

    monkeypatch.setattr(predict, "predict_slices", slow)
