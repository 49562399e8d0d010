"""What is not saved yet of a mask, and writing it to disk. Without Qt."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from l2gnet_core.project.events import Answered, Event, Reviewed, Stepped, Tidied
from l2gnet_core.project.folder import ProjectFolder
from l2gnet_core.project.models import id_of
from l2gnet_core.project.scans import ScanId, identify
from l2gnet_core.project.state import ModelId, ProjectState, SliceKey, SliceState
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.masks.segmentation import Segmentation

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model

#: Voxels of painted slices in a batch: about a second of writing, so that a stroke made meanwhile
#: does not wait for the rest of a scan that was filled at once.
_AT_ONCE = 4_000_000


@dataclass(eq=False)
class Batch:
    """What one save writes.

    state: without scan and model as yet, as identifying those reads all voxels. slices: copies from
    when the batch was made, among them all newly reviewed slices. waiting: slices that are copied
    for the next batch. later: slices that are copied only while the batch is written, as many as
    time allows; those that change meanwhile are saved again. saved: `slices` and `events` are
    written. moved: instead, as the project's folder was not as it was left, a new one was made; the
    next batch has everything. dropped: the next batch has all of it.
    """

    state: ProjectState
    model: Model | ModelId | None
    slices: dict[SliceKey, SliceState]
    waiting: set[SliceKey]
    later: set[SliceKey]
    events: list[Event]
    saved: bool = False
    moved: bool = False
    dropped: bool = False


class SaveQueue:
    """Collects what is done to a mask and saves it batch by batch.

    `write` and `identify` take long and are meant for a thread of their own; all else is called
    from the GUI's thread. After `write`, each batch goes to `settle` or, if it failed or moved, to
    `take_over`.
    """

    def __init__(self, segmentation: Segmentation, folder: ProjectFolder | None) -> None:
        self.folder = folder
        self.scan: ScanId | None = None
        self._segmentation = segmentation
        self._writing = threading.Lock()
        self._copies: dict[SliceKey, SliceState] = {}
        self._touched: set[SliceKey] = set()
        self._reviewed: set[SliceKey] = set()
        self._organs = segmentation.card.labels
        self._model: ModelId | None = None
        self._saved_state: ProjectState | None = None
        self._has_begun = folder is not None
        if folder is not None:
            state = self._saved_state = folder.read_state()
            self.scan, self._model = state.scan, state.model
            self._touched, self._reviewed = set(state.touched), set(state.reviewed)

    @property
    def begun(self) -> bool:
        """Did a person do anything that must not be lost?"""
        segmentation = self._segmentation
        done = any(not _of_a_run(event) for event in segmentation.events)
        organs = segmentation.card.labels != self._organs
        return bool(self._has_begun or self._touched or segmentation.reviewed or done or organs)

    # ------------------------------------------------------------------ what is not saved yet

    def copy_changed(self, seconds: float) -> None:
        """Copy slices that a person changed, for at most about `seconds`."""
        until, changed = time.perf_counter() + seconds, self._segmentation.changed
        while changed and time.perf_counter() < until:
            self._note(changed.pop())

    def _copy_at_once(self) -> None:
        """Copy reviewed slices that are not saved as such: left to `write`, they might have another
        answer by then. Drop copies of other slices that changed since: `write` may have saved newer
        ones already, and copies them itself."""
        segmentation = self._segmentation
        pending = segmentation.changed | segmentation.answered
        anew = segmentation.reviewed - self._reviewed
        for place in anew | (pending & segmentation.reviewed):
            segmentation.changed.discard(place)
            self._note(place)
        for place in (pending - segmentation.reviewed) & self._copies.keys():
            del self._copies[place]
            segmentation.answered.add(place)

    def _note(self, place: SliceKey) -> None:
        state = self._segmentation.slice_state(place)
        self._set_touched(place, state)
        older = self._copies.pop(place, None)
        if self.begun:
            self._copies[place] = state  # the newest are last
            self._segmentation.answered.discard(place)
        elif older is not None:
            # All edits were undone: the model's answer is saved once there is something to save.
            self._segmentation.answered.add(place)

    def _set_touched(self, place: SliceKey, state: SliceState) -> None:
        (self._touched.add if state.by_person.any() else self._touched.discard)(place)

    def batch(self, labels: LabelSet, orientation: str, whole: bool = False) -> Batch | None:
        """The next batch of what is not saved yet; None if there is nothing.

        labels, orientation: as in `ProjectState`. whole: all of it, however long writing takes.
        """
        if not self.begun:
            return None
        segmentation = self._segmentation
        segmentation.saving.emit()
        if whole and self.folder is not None and not self.folder.is_as_left():
            # Nothing may be left to save but what is not there any more.
            segmentation.answered.update(segmentation.places)
        self._copy_at_once()
        state = self._state(labels, orientation)
        for places, now in (
            (state.reviewed - self._reviewed, True),
            (self._reviewed - state.reviewed, False),
        ):
            if places:
                segmentation.events.append(Reviewed(sorted(places), now))
        self._reviewed = set(state.reviewed)
        slices = self._due(state.reviewed, float("inf") if whole else _AT_ONCE)
        later = segmentation.answered | segmentation.changed
        if not slices and not later and not segmentation.events and state == self._saved_state:
            return None
        segmentation.answered, segmentation.changed = set(), set()
        events, segmentation.events = segmentation.events, []
        # From now on, undone edits must be saved, too.
        self._has_begun = True
        return Batch(state, segmentation.model, slices, set(self._copies), later, events)

    def _due(self, reviewed: frozenset[SliceKey], voxels: float) -> dict[SliceKey, SliceState]:
        """Take the copies for a batch: all reviewed slices, then the newest others, up to about so
        many voxels."""
        newest_first = list(reversed(self._copies))
        order = sorted(newest_first, key=lambda place: place not in reviewed)
        due: dict[SliceKey, SliceState] = {}
        for place in order:
            if voxels <= 0 and place not in reviewed:
                break
            due[place] = self._copies.pop(place)
            voxels -= due[place].labels.size
        return due

    def _state(self, labels: LabelSet, orientation: str) -> ProjectState:
        segmentation = self._segmentation
        return ProjectState(
            scan=self.scan or ScanId("", ""),
            grid=segmentation.grid,
            orientation=orientation,
            axis=segmentation.axis,
            card=segmentation.card,
            model=self._model,
            labels=labels,
            clean_up=segmentation.clean_up,
            finished=frozenset(segmentation.finished),
            reviewed=frozenset(segmentation.reviewed),
            touched=frozenset(self._touched),
            unreviewed_organs=frozenset(segmentation.unreviewed_organs),
        )

    # ------------------------------------------------------------------ saving

    def identify(self, volume: Volume) -> ScanId:
        """The id of the scan; reads all of the scan the first time."""
        self.scan = self.scan or identify(volume)
        return self.scan

    def write(self, batch: Batch, volume: Volume, seconds: float = float("inf")) -> None:
        """Save a batch, or only make a new folder if the project's is not as it was left. seconds:
        about how long to go on with its slices for later. Raises OutputError."""
        with self._writing:
            if batch.dropped:
                return
            scan = self.identify(volume)
            if self.folder is None:
                self.folder = ProjectFolder.create(scan)
            elif not self.folder.is_as_left():
                self.folder = self.folder.elsewhere(scan)
                batch.moved = True
                return
            batch.state = replace(batch.state, scan=scan, model=self._model)
            unsaved = batch.later | batch.waiting
            self.folder.save(batch.state, batch.slices, batch.events, volume, unsaved)
            batch.saved = True
            model = batch.model if isinstance(batch.model, ModelId | None) else id_of(batch.model)
            if model == self._model and not batch.later:
                return
            # Limited, so that a stroke made meanwhile does not wait for all of a large scan.
            self.folder.save_slices(self._copied(batch, time.monotonic() + seconds))
            # After the events: the state must not name a model that the history does not have.
            self._model, batch.state = model, replace(batch.state, model=model)
            unsaved = batch.later | batch.waiting
            self.folder.save(batch.state, {}, [], volume, unsaved)

    def _copied(self, batch: Batch, until: float) -> Iterator[tuple[SliceKey, SliceState]]:
        """Copy the batch's slices for later one by one, as long as time allows."""
        segmentation, state = self._segmentation, batch.state
        for place in sorted(batch.later):
            if time.monotonic() >= until:
                break
            one = segmentation.slice_state(place)
            taken_back = place in state.finished and place not in segmentation.finished
            if taken_back or segmentation.card is not state.card:
                # The state to be saved has an answer that was undone meanwhile, or lacks organs
                # that were added: leave the slice to the next batch.
                continue
            batch.later.discard(place)
            batch.slices[place] = one
            yield place, one

    def settle(self, batch: Batch) -> None:
        """A batch was written."""
        segmentation = self._segmentation
        # Changed slices are looked at again anyway.
        newer = self._copies.keys() | segmentation.changed | segmentation.answered
        segmentation.answered |= batch.later
        self._saved_state = batch.state
        for place in batch.slices.keys() - newer:
            self._set_touched(place, batch.slices[place])

    def take_over(self, batch: Batch) -> None:
        """A batch was not written, or not completely: leave it to the next one."""
        segmentation = self._segmentation
        if batch.moved:
            segmentation.answered.update(segmentation.places)
        segmentation.answered |= batch.later
        # Newer copies of the same slices take precedence; events keep their order.
        self._copies = {**batch.slices, **self._copies}
        if not batch.saved:
            segmentation.events = batch.events + segmentation.events
        self._saved_state = None

    def drop(self, batch: Batch) -> None:
        """Give up a batch whose writing ends unheard: wait if it has begun, and leave all of it to
        the next batch."""
        with self._writing:
            batch.dropped = True
        self.take_over(batch)

    def release(self) -> None:
        """Release the project for other programs."""
        if self.folder is not None:
            with self._writing:
                self.folder.release()


def _of_a_run(event: Event) -> bool:
    """Could pressing Segment bring this event's result back? Undo and redo count, as other events
    come before them if more than that is undone."""
    return isinstance(event, Tidied | Stepped) or (
        isinstance(event, Answered) and event.what == "segmented"
    )
