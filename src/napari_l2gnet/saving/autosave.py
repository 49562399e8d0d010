"""Keeps a mask's project on disk up to date while a person works on the mask."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Layer
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QMainWindow, QWidget

from l2gnet_core.errors import InputError
from l2gnet_core.project.folder import ProjectFolder
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.jobs.worker import Job
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.script_watch import ScriptWatch
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.saving.closing import Closing
from napari_l2gnet.saving.save_queue import Batch, SaveQueue
from napari_l2gnet.scans.orientation import given_orientation

_log = logging.getLogger(__name__)
KEEPER_KEY = "l2gnet_keeper"
#: Milliseconds between two looks at a mask: usually, and while slices wait to be copied.
_LOOK_EVERY, _LOOK_SOON = 100, 20
#: Milliseconds until a new mask's scan is identified.
_IDENTIFY_AFTER = 1500
#: Seconds of the GUI's thread for one look: to copy slices that a person changed, and to find what
#: scripts wrote.
_TO_COPY, _TO_COMPARE = 0.004, 0.001
#: Seconds between two saves, and until a save that failed is tried again.
_SAVE_EVERY, _RETRY_AFTER = 0.5, 5.0


def keep(
    mask: MaskLayer,
    volume: Volume,
    widget: QWidget | None = None,
    folder: ProjectFolder | None = None,
    scripts: ScriptWatch | None = None,
) -> Autosave:
    """Save a mask from now on. A second call returns the same autosave.

    volume: the mask's scan, as stored. widget: one in the mask's window, so that closing the window
    saves. folder: the held project that the mask was resumed from; None for a new mask. scripts:
    finds what scripts have written since then; None for a new mask.
    """
    autosave: Autosave | None = mask.layer.metadata.get(KEEPER_KEY)
    if autosave is None:
        window = _main_window(widget)
        autosave = mask.layer.metadata[KEEPER_KEY] = Autosave(
            mask,
            volume,
            None if window is None else Closing.of(window),
            SaveQueue(mask.segmentation, folder),
            scripts or ScriptWatch(mask.segmentation, as_saved=folder is not None),
        )
    return autosave


def autosave_of(mask: MaskLayer) -> Autosave | None:
    """The autosave of a mask, if it has one."""
    return mask.layer.metadata.get(KEEPER_KEY)


def open_projects(viewer: napari.Viewer) -> list[Path]:
    """The projects of the masks in a viewer."""
    # Duplicates of a layer have its metadata, but are not saved.
    kept = [(layer, layer.metadata.get(KEEPER_KEY)) for layer in viewer.layers]
    return [
        autosave.folder.path
        for layer, autosave in kept
        if autosave and autosave.folder and autosave.keeps(layer)
    ]


class Autosave(QObject):
    """Saves a mask in a thread about a second after each change, from a person's first edit on.

    Painting never waits: changed slices are copied a few milliseconds at a time. If the mask is
    removed from its viewer and put back, another autosave goes on.
    """

    #: Emitted after each successful save.
    saved = Signal()

    def __init__(
        self,
        mask: MaskLayer,
        volume: Volume,
        closing: Closing | None,
        queue: SaveQueue,
        scripts: ScriptWatch,
    ) -> None:
        super().__init__(closing)
        self._mask = mask
        self._segmentation: Segmentation = mask.segmentation
        self.volume = volume
        self._queue = queue
        self._job: Job | None = None
        self._under_way: Batch | None = None
        self._next_save = 0.0
        # Organs, their colormap, and the result of `_labels` for these.
        self._shown_as: tuple[LabelSet, Any, LabelSet] = (LabelSet(()), None, LabelSet(()))
        #: It does not save any more.
        self.closed = False
        self._scripts = scripts
        self._timer = QTimer(self, interval=_LOOK_EVERY)
        self._timer.timeout.connect(self._look)
        mask.viewer.layers.events.removed.connect(self._on_removed)
        mask.viewer.layers.events.inserted.connect(self._on_inserted)
        self._closing = closing
        if closing is not None:
            closing.add(self)
        if queue.folder is None and isinstance(volume.data, np.ndarray):
            # Early, so that the first stroke is saved at once, but not while the mask is being
            # shown. Lazy data are read only when something must be saved.
            QTimer(self, singleShot=True, interval=_IDENTIFY_AFTER, timeout=self._identify).start()
        self._timer.start()

    def keeps(self, layer: Layer) -> bool:
        """Is this layer the one whose mask is saved, and not a duplicate of it?"""
        return layer is self._mask.layer

    @property
    def folder(self) -> ProjectFolder | None:
        """The project; None as long as there was nothing to save."""
        return self._queue.folder

    @property
    def begun(self) -> bool:
        """Did a person do anything that must not be lost?"""
        return self._queue.begun

    # ------------------------------------------------------------------ finding what changed

    def _look(self) -> None:
        """Copy what changed, look for more, and save when it is time."""
        self._scripts.check(_TO_COMPARE)
        self._queue.copy_changed(_TO_COPY)
        self._timer.setInterval(_LOOK_SOON if self._segmentation.changed else _LOOK_EVERY)
        if self._job is None and time.monotonic() >= self._next_save:
            batch = self._batch()
            if batch is None:
                self._tell("")
                if self._mask.layer not in self._mask.viewer.layers:
                    self.close()
            else:
                self._next_save = time.monotonic() + _SAVE_EVERY
                self._under_way = batch
                self._start(self._saving(batch), batch)

    def _labels(self) -> LabelSet:
        """Organs with the colours on screen. Cached, as every look asks and making many takes
        milliseconds."""
        labels, colormap = self._segmentation.card.labels, self._mask.layer.colormap
        if labels is not self._shown_as[0] or colormap is not self._shown_as[1]:
            colors = {label: color for label, (color, _) in self._mask.colors().items()}
            self._shown_as = labels, colormap, LabelSet.from_names(labels.names, colors)
        return self._shown_as[2]

    def _batch(self, whole: bool = False) -> Batch | None:
        layer, axes = self._mask.layer, self._segmentation.grid.stored_axes
        return self._queue.batch(self._labels(), given_orientation(layer, axes), whole)

    # ------------------------------------------------------------------ saving

    def _start(self, steps: Generator[None, None, None], batch: Batch | None = None) -> None:
        # Urgent: it would wait for minutes behind runs and fine-tunings of other masks.
        job = self._job = Job(steps, self, urgent=True)

        def ended(problem: str = "") -> None:
            self._job = None
            job.deleteLater()
            if batch is not None:
                self._on_saved(batch, problem)

        job.finished.connect(ended)
        job.failed.connect(ended)
        job.start()

    def _identify(self) -> None:
        if self._job is None and self._queue.scan is None and self._timer.isActive():
            self._start(self._identifying())

    def _identifying(self) -> Generator[None, None, None]:
        self._queue.identify(self.volume)
        yield

    def _saving(self, batch: Batch) -> Generator[None, None, None]:
        self._queue.write(batch, self.volume, _SAVE_EVERY)
        yield

    def _on_saved(self, batch: Batch, problem: str) -> None:
        if batch.dropped:
            return
        self._under_way = None
        if problem:
            self._queue.take_over(batch)
            self._next_save = time.monotonic() + _RETRY_AFTER
        elif batch.moved:
            self._on_moved(batch)
        else:
            self._queue.settle(batch)
        self._tell(problem)
        if not problem and not batch.moved:
            self.saved.emit()

    def _on_moved(self, batch: Batch) -> None:
        """The project goes on in a new folder: tell it, and save everything there."""
        self._queue.take_over(batch)
        assert self.folder is not None
        show_warning(
            f'The saved work on "{self._mask.layer.name}" was deleted, replaced or changed from '
            f"outside while it was open. All of it is being saved again, in {self.folder.path}."
        )

    def _tell(self, problem: str) -> None:
        """Show once that the mask cannot be saved, and keep that in its annotation; "": it can."""
        annotation = annotation_of(self._mask)
        if bool(problem) != bool(annotation.trouble):
            told = problem and f"Your work is not being saved. {problem} Saving is tried again."
            annotation.tell_trouble(told)
            if told:
                show_error(told)

    def save_now(self) -> None:
        """Save everything and wait for it; for a window that closes.

        Raises OutputError.
        """
        self._scripts.check(float("inf"))
        self._queue.copy_changed(float("inf"))
        # A closing window cannot wait for a thread.
        unfinished, self._under_way = self._under_way, None
        if unfinished is not None:
            self._queue.drop(unfinished)
        batch = self._batch(whole=True)
        if batch is None:
            return
        try:
            self._queue.write(batch, self.volume)
        except Exception:
            self._queue.take_over(batch)
            raise
        if batch.moved:
            self._on_moved(batch)
            self.save_now()
        else:
            self._queue.settle(batch)

    # ------------------------------------------------------------------ the end

    def _on_removed(self, event: Any) -> None:
        if event.value is not self._mask.layer:
            return
        if problem := self.unsaved():
            # `_look` goes on, and closes once all is saved.
            show_error(f"{problem} Saving is tried again as long as this window is open.")
        else:
            self.close()

    def _on_inserted(self, event: Any) -> None:
        """Go on when the mask is put back."""
        if event.value is not self._mask.layer or not self.closed:
            return
        self._mask.viewer.layers.events.inserted.disconnect(self._on_inserted)
        if self.folder is not None:
            # Scripts may have written meanwhile.
            self._segmentation.answered.update(self._segmentation.places)
        event.value.metadata[KEEPER_KEY] = Autosave(
            self._mask, self.volume, self._closing, self._queue, self._scripts
        )

    def close(self, told: bool = False) -> None:
        """Save what is left and release the project. told: the person knows already if it fails."""
        if self.closed:
            return
        self.closed = True
        self._timer.stop()
        self._mask.viewer.layers.events.removed.disconnect(self._on_removed)
        if self._closing is not None:
            self._closing.forget(self)
        problem = self.unsaved()
        if problem and not told:
            show_error(problem)
        self._queue.release()
        # The window would keep this in memory, and with it every scan that was ever open.
        self.deleteLater()
        self.setParent(None)

    def unsaved(self) -> str:
        """Save everything now; why that cannot be, in a sentence, or ""."""
        try:
            self.save_now()
        except Exception as error:  # noqa: BLE001 – the window must be able to close
            if not isinstance(error, InputError):
                _log.exception("Saving failed")
            return f'The last changes to "{self._mask.layer.name}" were not saved: {error}'
        self._tell("")
        return ""


def _main_window(widget: QWidget | None) -> QWidget | None:
    # Not through the viewer: plugins get a proxy that hides its window. A floating dock is a window
    # of its own, but has the main one as its parent.
    while widget is not None and not isinstance(widget, QMainWindow):
        widget = widget.parentWidget()
    return widget
