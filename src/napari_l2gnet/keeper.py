"""Keeps a mask's project on disk up to date while a person works on the mask."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject, QTimer, Signal

from l2gnet_core.labels import LabelSet
from l2gnet_core.project.deeds import Answered, Deed, FineTuned, Reviewed
from l2gnet_core.project.folder import ProjectFolder
from l2gnet_core.project.models import id_of
from l2gnet_core.project.scans import ScanId, identify
from l2gnet_core.project.state import ModelId, Place, ProjectState, SliceState
from l2gnet_core.volume import Volume
from napari_l2gnet.mask_layer import MaskLayer
from napari_l2gnet.orientation import given_orientation
from napari_l2gnet.segmentation import Segmentation
from napari_l2gnet.worker import Job

KEEPER_KEY = "l2gnet_keeper"
#: Milliseconds between two looks at a mask, and while there is more to copy than one look may.
_LOOK_EVERY, _LOOK_SOON = 100, 20
#: Seconds of the GUI's thread that one look takes: for slices known to have changed, and for
#: others, in which scripts may have written.
_FOR_CHANGED, _FOR_OTHERS = 0.004, 0.002
#: Seconds between two saves, and until a save that failed is tried again.
_SAVE_EVERY, _RETRY_AFTER = 0.5, 5.0


@dataclass
class _Batch:
    """What one save writes. state: yet without scan and model, which take reading all voxels."""

    state: ProjectState
    slices: dict[Place, SliceState]
    deeds: list[Deed]


def keep(mask: MaskLayer, volume: Volume, folder: ProjectFolder | None = None) -> Keeper:
    """Keep a mask from now on; a second call finds the same keeper.

    volume: the mask's scan, as stored. folder: the project it was resumed from, held.
    """
    keeper: Keeper | None = mask.layer.metadata.get(KEEPER_KEY)
    if keeper is None:
        keeper = mask.layer.metadata[KEEPER_KEY] = Keeper(mask, volume, folder)
    return keeper


def keeper_of(mask: MaskLayer) -> Keeper | None:
    """The keeper of a mask, if it has one."""
    return mask.layer.metadata.get(KEEPER_KEY)


def open_projects(viewer: napari.Viewer) -> list[Path]:
    """The projects of the masks in a viewer."""
    keepers = [layer.metadata.get(KEEPER_KEY) for layer in viewer.layers]
    return [keeper.folder.path for keeper in keepers if keeper and keeper.folder]


class Keeper(QObject):
    """Saves a mask about a second after each change, in a thread, from the first touch on.

    Painting never waits: of a slice that changed a copy is taken, a few milliseconds at a time.
    Slices nobody told of are compared with what was saved, in turn.
    """

    #: Why nothing can be saved at the moment, in a sentence; "" once it can again.
    trouble = Signal(str)
    #: Everything up to a moment ago is on disk.
    saved = Signal()

    def __init__(self, mask: MaskLayer, volume: Volume, folder: ProjectFolder | None) -> None:
        # A bare model of a viewer has no window.
        window = getattr(mask.viewer, "window", None)
        super().__init__(None if window is None else window._qt_window)
        self.folder = folder
        self._mask = mask
        self._segmentation: Segmentation = mask.segmentation
        self._volume = volume
        self._scan: ScanId | None = None
        # A save under way, and the last one, when the window closes.
        self._writing = threading.Lock()
        self._job: Job | None = None
        self._next_save = 0.0
        self._problem = ""
        self._checksums: dict[Place, int] = {}
        self._copies: dict[Place, SliceState] = {}
        self._deeds: list[Deed] = []
        self._touched: set[Place] = set()
        self._reviewed: set[Place] = set()
        self._model: ModelId | None = None
        self._saved_state: ProjectState | None = None
        self._others = cycle(self._segmentation.places)
        self._timer = QTimer(self, interval=_LOOK_EVERY)
        self._timer.timeout.connect(self._look)
        mask.viewer.layers.events.removed.connect(self._on_removed)
        if window is not None:
            window._qt_window.installEventFilter(self)
        if folder is not None:
            self._take_up(folder.read_state())
        elif isinstance(volume.data, np.ndarray):
            # So that the first stroke is saved at once. Lazy data is read when there is a need.
            self._start(self._identify())
        self._timer.start()

    @property
    def begun(self) -> bool:
        """Is there anything a person did that must not be lost?"""
        done = any(isinstance(deed, FineTuned) for deed in self._segmentation.deeds)
        return bool(self.folder or self._touched or self._segmentation.reviewed or done)

    def _take_up(self, state: ProjectState) -> None:
        self._scan, self._model, self._saved_state = state.scan, state.model, state
        self._touched, self._reviewed = set(state.touched), set(state.reviewed)
        for place in state.finished | state.touched:
            self._checksums[place] = checksum(self._segmentation.slice_state(place))

    # ------------------------------------------------------------------ finding what changed

    def _look(self) -> None:
        """Copy what changed, a little of the rest, and save when it is time."""
        self._copy_changed(_FOR_CHANGED)
        self._compare_others(_FOR_OTHERS)
        self._timer.setInterval(_LOOK_SOON if self._segmentation.changed else _LOOK_EVERY)
        if self._job is None and time.monotonic() >= self._next_save:
            batch = self._batch()
            if batch is not None:
                self._next_save = time.monotonic() + _SAVE_EVERY
                self._start(self._saving(batch), batch)

    def _copy_changed(self, seconds: float) -> None:
        until, changed = time.perf_counter() + seconds, self._segmentation.changed
        while changed and time.perf_counter() < until:
            self._note(changed.pop())

    def _compare_others(self, seconds: float, at_most: int | None = None) -> None:
        until = time.perf_counter() + seconds
        for _ in range(len(self._segmentation.places) if at_most is None else at_most):
            self._note(next(self._others))
            if time.perf_counter() >= until:
                break

    def _note(self, place: Place) -> None:
        state = self._segmentation.slice_state(place)
        began, by_person = self.begun, bool(state.by_person.any())
        (self._touched.add if by_person else self._touched.discard)(place)
        if self.begun and not began:
            # What the model said so far becomes part of the project.
            self._segmentation.changed |= self._segmentation.finished
        if not self.begun or not (
            by_person or place in self._segmentation.finished or place in self._checksums
        ):
            return
        number = checksum(state)
        if self._checksums.get(place) != number:
            self._checksums[place] = number
            self._copies[place] = state

    def _state(self) -> ProjectState:
        segmentation, mask = self._segmentation, self._mask
        grid = segmentation.grid
        colors = {label: color for label, (color, _) in mask.colors().items()}
        return ProjectState(
            scan=self._scan or ScanId("", ""),
            grid=grid,
            orientation=given_orientation(mask.layer, grid.stored_axes),
            axis=segmentation.axis,
            card=segmentation.card,
            model=self._model,
            labels=LabelSet.from_names(segmentation.card.labels.names, colors),
            clean_up=segmentation.clean_up,
            finished=frozenset(segmentation.finished),
            reviewed=frozenset(segmentation.reviewed),
            touched=frozenset(self._touched),
        )

    def _batch(self) -> _Batch | None:
        """What is not saved yet; None if that is nothing."""
        if not self.begun:
            return None
        segmentation, state = self._segmentation, self._state()
        for places, now in (
            (state.reviewed - self._reviewed, True),
            (self._reviewed - state.reviewed, False),
        ):
            if places:
                segmentation.deeds.append(Reviewed(sorted(places), now))
        self._reviewed = set(state.reviewed)
        deeds, segmentation.deeds = segmentation.deeds, []
        self._deeds += deeds
        slices, self._copies = self._copies, {}
        if not slices and not self._deeds and state == self._saved_state:
            return None
        deeds, self._deeds = self._deeds, []
        return _Batch(state, slices, deeds)

    # ------------------------------------------------------------------ saving

    def _start(self, steps: Generator[None, None, None], batch: _Batch | None = None) -> None:
        job = self._job = Job(steps, self)

        def ended(problem: str = "") -> None:
            self._job = None
            job.deleteLater()
            if batch is not None:
                self._on_saved(batch, problem)

        job.finished.connect(ended)
        job.failed.connect(ended)
        job.start()

    def _identify(self) -> Generator[None, None, None]:
        self._scan = identify(self._volume)
        yield

    def _saving(self, batch: _Batch) -> Generator[None, None, None]:
        self._write(batch)
        yield

    def _write(self, batch: _Batch) -> None:
        with self._writing:
            scan = self._scan = self._scan or identify(self._volume)
            answers = [deed for deed in batch.deeds if isinstance(deed, Answered)]
            if answers:
                self._model = id_of(answers[-1].model)
            if self.folder is None:
                self.folder = ProjectFolder.create(scan)
            batch.state = replace(batch.state, scan=scan, model=self._model)
            self.folder.save(batch.state, batch.slices, batch.deeds, self._volume)

    def _on_saved(self, batch: _Batch, problem: str) -> None:
        if not problem:
            self._saved_state = batch.state
        else:
            # Newer copies of the same slices win; deeds keep their order.
            self._copies = {**batch.slices, **self._copies}
            self._deeds = batch.deeds + self._deeds
            self._saved_state = None
            self._next_save = time.monotonic() + _RETRY_AFTER
        if bool(problem) != bool(self._problem):
            told = problem and f"Your work is not being saved. {problem} It is tried again."
            if told:
                show_error(told)
            self.trouble.emit(told)
        self._problem = problem
        if not problem:
            self.saved.emit()

    def save_now(self) -> None:
        """Save everything and wait for it; for a window that closes.

        Raises OutputError.
        """
        self._copy_changed(float("inf"))
        self._compare_others(float("inf"))
        batch = self._batch()
        if batch is not None:
            self._write(batch)
            self._saved_state = batch.state

    # ------------------------------------------------------------------ the end

    def _on_removed(self, event: Any) -> None:
        if event.value is self._mask.layer:
            self.close()

    def eventFilter(self, _: QObject, event: QEvent) -> bool:
        """The window closes, which nothing here prevents."""
        if event.type() == QEvent.Type.Close:
            self.close()
        return False

    def close(self) -> None:
        """Save what is left and let others have the project."""
        if not self._timer.isActive():
            return
        self._timer.stop()
        self._mask.viewer.layers.events.removed.disconnect(self._on_removed)
        try:
            self.save_now()
        except Exception as error:
            show_error(f"The last changes to {self._mask.layer.name} were not saved: {error}")
        if self.folder is not None:
            with self._writing:
                self.folder.release()


def checksum(state: SliceState) -> int:
    """A number that changes when anything of a slice does."""
    number = 0
    for array in (state.labels, state.by_person, state.raw):
        number = zlib.crc32(np.ascontiguousarray(array).data, number)
    return number
