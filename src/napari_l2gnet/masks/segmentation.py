"""A mask that is worked on: the model's answer and a person's edits. Without Qt."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.project.state import ModelId, ProjectState, SliceKey, SliceState, slice_of
from l2gnet_core.scans.labels import Label, LabelSet
from l2gnet_core.scans.volume import Grid
from napari_l2gnet.masks.organs import LARGEST_ID, with_labels
from napari_l2gnet.masks.reviews import Reviews
from napari_l2gnet.masks.slice_counts import SliceCounts
from napari_l2gnet.masks.undo import UndoHistory

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.project.events import Event
    from l2gnet_core.segmenting.trace import SliceTrace, Trace
    from napari_l2gnet.masks.undo import Adoption

#: Voxels whose slices are looked up at once: index arrays for a whole scan would fill the memory.
_AT_ONCE = 1 << 16


class Segmentation:
    """A mask that is worked on: the model's answer, what is shown, and which voxels are a person's.

    All arrays are (t,z,y,x). `shown` is what the Labels layer draws and a person paints on. `raw`
    is the untidied answer, wherever there is one: the model's or, where it was taken in later, that
    of interpolation. `answer` is the one to show where no person decided, raw or tidied. `stroked`
    marks voxels under strokes that are not undone. Scripts write without strokes: voxels in which
    `shown` differs from `known` are a person's, too. Answers are shown neither in a person's voxels
    nor in `reviewed` slices.

    `answering` is emitted before an answer is adopted, or its adoption undone or redone; `saving`
    before a save, for whoever still has to add to `events`; `choosing` after `clean_up` changed
    with an answer.

    Only the GUI's thread writes to it. Jobs read it in their threads and hand over what comes out.
    """

    answering = Signal()
    saving = Signal()
    choosing = Signal()

    def __init__(self, grid: Grid, card: ModelCard, axis: int) -> None:
        frames = grid.shape[0] if len(grid.shape) == 4 else 1
        ids = [label.id for label in card.labels]
        dtype = np.uint8 if max(ids) < 256 else np.uint16
        self.grid = grid
        self.card = card
        self.axis = axis
        self.raw = np.zeros((frames, *grid.shape[-3:]), dtype)
        # zeros_like would write every zero, while the window waits.
        self.answer = np.zeros(self.raw.shape, dtype)
        self.known = np.zeros(self.raw.shape, dtype)
        self.shown = np.zeros(self.raw.shape, dtype)
        self.stroked = np.zeros(self.raw.shape, bool)
        self.finished: set[SliceKey] = set()
        #: Seconds that a slice took when the scan was last segmented; None if that is not known.
        self.slice_seconds: float | None = None
        #: By frame: what the model saw of the slices of which `raw` holds its answer, if it has
        #: codes.
        self.traces: dict[int, Trace] = {}
        self.reviews = Reviews(card.labels.names)
        #: Organs that a person removed, by id, with the slices whose review covered them.
        self.removed: dict[int, tuple[Label, frozenset[SliceKey]]] = {}
        #: Number of the model version that gave the answer; 0 is the first one.
        self.version = 0
        #: The model that gave the answer, or its id; None before the first answer.
        self.model: Model | ModelId | None = None
        #: The answer that the layer is about to write into `shown`, and will report as a stroke.
        self.arriving: Adoption | None = None
        #: Slices that a person changed since they were last saved, and those that an answer did.
        self.changed: set[SliceKey] = set()
        self.answered: set[SliceKey] = set()
        #: Number of a person's edits so far.
        self.edits = 0
        #: What was done and is not saved yet, in order.
        self.events: list[Event] = []
        #: How the user wants this mask tidied.
        self.clean_up = card.clean_up
        self.counts = SliceCounts(self.shown, axis, ids)
        self.undo_history = UndoHistory(self)

    @classmethod
    def resumed(cls, grid: Grid, state: ProjectState, saved: SliceState) -> Segmentation:
        """A mask as it was saved. saved: its arrays (t,z,y,x), which it takes over."""
        segmentation = cls(grid, state.card, state.axis)
        dtype = np.result_type(segmentation.raw, saved.labels)
        segmentation.raw = saved.raw.astype(dtype, copy=False)
        segmentation.shown = saved.labels.astype(dtype, copy=False)
        segmentation.known = segmentation.shown.copy()
        segmentation.answer = np.where(saved.by_person, segmentation.raw, segmentation.shown)
        segmentation.stroked = saved.by_person
        segmentation.model = state.model
        segmentation.finished = set(state.finished)
        organs = state.card.labels.names
        segmentation.reviews = Reviews(organs, state.reviewed, state.unreviewed_organs)
        segmentation.clean_up = state.clean_up
        ids = [label.id for label in state.card.labels]
        segmentation.counts = SliceCounts(segmentation.shown, state.axis, ids)
        segmentation.counts.mark_all()
        return segmentation

    @property
    def reviewed(self) -> set[SliceKey]:
        """Slices that a person has looked at and accepted."""
        return self.reviews.slices

    @property
    def unreviewed_organs(self) -> set[tuple[SliceKey, int]]:
        """Reviewed slices, each with the id of an organ that the review does not cover."""
        return self.reviews.unreviewed_organs

    @property
    def places(self) -> list[SliceKey]:
        """Every slice of the scan."""
        frames, count = len(self.shown), self.shown.shape[1 + self.axis]
        return [(frame, index) for frame in range(frames) for index in range(count)]

    @property
    def predicted(self) -> set[SliceKey]:
        """Slices of which `raw` holds an answer: finished ones, and those accepted before it came.
        An empty answer of the latter cannot be told from none."""
        unfinished = self.reviewed - self.finished
        return self.finished | {at for at in unfinished if self.slice_of(self.raw, at).any()}

    def coverage(self, frame: int | None = None) -> tuple[int, int]:
        """How many slices are segmented or accepted, and how many there are, in a frame (None: in
        all frames)."""
        places = [place for place in self.places if frame in (None, place[0])]
        return len((self.finished | self.reviewed).intersection(places)), len(places)

    def by_person(self) -> NDArray[np.bool_]:
        """Voxels (t,z,y,x) whose label a person chose."""
        theirs = np.empty(self.shown.shape, bool)
        for plane in self._planes:
            theirs[plane] = self.by_person_in(plane)
        return theirs

    def by_person_in(self, index: tuple[int | slice, ...]) -> NDArray[np.bool_]:
        """`by_person` at an index into (t,z,y,x), for example of a plane or a box."""
        return np.asarray(self.stroked[index] | (self.shown[index] != self.known[index]))

    def by_person_at(self, place: SliceKey) -> NDArray[np.bool_]:
        """`by_person` in a slice."""
        return self.by_person_in((place[0], *(slice(None),) * self.axis, place[1]))

    def decided(self) -> NDArray[np.bool_]:
        """Voxels (t,z,y,x) that a person painted or that lie in slices they accepted."""
        theirs = self.by_person()
        for place in self.reviewed:
            self.slice_of(theirs, place)[...] = True
        return theirs

    def edited(self, place: SliceKey) -> bool:
        """Did a person change a slice?"""
        return bool(self.by_person_at(place).any())

    def touched(self) -> bool:
        """Did a person change anything that is not undone?"""
        return any(self.by_person_in(plane).any() for plane in self._planes)

    @property
    def _planes(self) -> Iterator[tuple[int, ...]]:
        """Frame and z of each plane (y,x), whichever axis the model slices. In memory order: plane
        by plane takes a tenth of the time that operations on the whole scan take."""
        return np.ndindex(*self.shown.shape[:2])

    def reviewed_in(self, plane: tuple[int, ...]) -> NDArray[np.bool_]:
        """Voxels of a plane (y,x) that lie in reviewed slices."""
        reviewed = np.zeros(self.shown.shape[2:], bool)
        if self.axis == 0:
            reviewed[...] = plane in self.reviewed
        else:
            slices = [index for frame, index in self.reviewed if frame == plane[0]]
            np.moveaxis(reviewed, self.axis - 1, 0)[slices] = True
        return reviewed

    # ------------------------------------------------------------------ what is to be saved

    def slice_state(self, place: SliceKey) -> SliceState:
        """Copies of what is saved of a slice."""
        shown, raw = (self.slice_of(array, place) for array in (self.shown, self.raw))
        return SliceState(shown.copy(), self.by_person_at(place), raw.copy())

    def answers(self, places: Iterable[SliceKey]) -> dict[SliceKey, SliceState]:
        """As `slice_state`, but labels: the answer, also where a person painted over it."""
        return {
            place: replace(self.slice_state(place), labels=self.slice_of(self.answer, place).copy())
            for place in places
        }

    def painted(self) -> dict[SliceKey, SliceState]:
        """Copies of the slices that a person has changed."""
        states = ((place, self.slice_state(place)) for place in self.places)
        return {place: state for place, state in states if state.by_person.any()}

    # ------------------------------------------------------------------ the model's answer

    def put(self, place: SliceKey, labels: NDArray[Any], trace: SliceTrace | None = None) -> None:
        """Take a predicted slice in, and show it except where a person painted or reviewed.

        trace: what the model saw of it; then `traces` has one of the frame.
        """
        self.slice_of(self.raw, place)[...] = labels
        if trace is not None:
            self.traces[place[0]].add(place[1], trace)
        self.answered.add(place)
        # A reviewed slice does not show it, and is not finished: undo would have no answer to go
        # back to.
        if place not in self.reviewed:
            self.finished.add(place)
            self.put_tidied(place, labels)

    def put_tidied(self, place: SliceKey, labels: NDArray[Any]) -> None:
        """Show a tidied slice instead of the raw one, except where a person painted or reviewed."""
        if place in self.reviewed:
            return
        self.slice_of(self.answer, place)[...] = labels
        self.reviews.note_answer(place, self.edits)
        self._show(place)
        self.counts.stale.add(place)
        self.answered.add(place)

    def holds(self, place: SliceKey, labels: NDArray[Any]) -> bool:
        """Is a slice already as `put_tidied` would leave it?"""
        if not np.array_equal(self.slice_of(self.answer, place), labels):
            return False
        shown = self.slice_of(self.shown, place)
        return bool((self.by_person_at(place) | (shown == labels)).all())

    def _show(self, place: SliceKey) -> None:
        """Show the answer in a slice, except where a person painted or reviewed."""
        if place in self.reviewed:
            return
        shown, known, answer = (
            self.slice_of(array, place) for array in (self.shown, self.known, self.answer)
        )
        # Includes a stroke under way, which has changed `shown` but was not reported yet.
        free = ~self.by_person_at(place)
        np.copyto(shown, answer, where=free, casting="unsafe")
        np.copyto(known, answer, where=free, casting="unsafe")

    def slice_of(self, array: NDArray[Any], place: SliceKey) -> NDArray[Any]:
        """The view that an array (t,z,y,x) has of a slice."""
        return slice_of(array, place, self.axis)

    # ------------------------------------------------------------------ a person's edits

    def note_edits(self, places: Collection[SliceKey]) -> None:
        """A person changed slices."""
        self.changed.update(places)
        self.edits += 1

    def places_of(self, voxels: NDArray[np.intp]) -> set[SliceKey]:
        """The slices that voxels (flat indices) are in."""
        frames, *sizes = self.shown.shape
        within = int(np.prod(sizes[self.axis + 1 :], dtype=int))
        found = np.zeros((frames, sizes[self.axis]), bool)
        for first in range(0, len(voxels), _AT_ONCE):
            part = voxels[first : first + _AT_ONCE]
            found[part // int(np.prod(sizes)), part // within % sizes[self.axis]] = True
        return {(int(frame), int(index)) for frame, index in np.argwhere(found)}

    # ------------------------------------------------------------------ organs

    @property
    def largest_id(self) -> int:
        """The largest id that an organ of this mask can have."""
        return min(LARGEST_ID, int(np.iinfo(self.raw.dtype).max))

    def require_fit(self, labels: LabelSet) -> None:
        """Raises InputError for an id that is too large for the mask, and for one whose voxels undo
        or redo can bring back as another organ."""
        largest = max(label.id for label in labels)
        if largest > self.largest_id:
            raise InputError(
                f"Expected label ids up to {self.largest_id} in this mask, but got {largest}; "
                "choose a smaller id."
            )
        for label in self.undoable_organs:
            if labels.names.get(label.id, label.name) != label.name:
                raise InputError(
                    f"Expected an id that is free, but {label.id} was the {label.name}, which "
                    "Ctrl-Z can bring back; choose another."
                )

    @property
    def undoable_organs(self) -> list[Label]:
        """Removed organs whose voxels undo or redo can bring back."""
        return [one for one, _ in self.removed.values() if self.undo_history.holds(one.id)]

    def remove_organ(self, organ: Label) -> None:
        """Take out an organ without voxels. organ: with the colour that it gets if it returns."""
        id, reviews = organ.id, self.reviews
        covered = frozenset(
            at for at in reviews.slices if (at, id) not in reviews.unreviewed_organs
        )
        self.relabel(LabelSet(tuple(one for one in self.card.labels if one.id != id)))
        self.removed[id] = organ, covered

    def relabel(self, labels: LabelSet) -> None:
        """Give the mask other organs. Earlier reviews do not cover new ones.

        Raises InputError as `require_fit` does.
        """
        self.require_fit(labels)
        for id in labels.names:
            self.removed.pop(id, None)
        new = set(labels.names) - set(self.card.labels.names)
        self.card = with_labels(self.card, labels)
        self.clean_up = self.clean_up.sparing(new)
        self.reviews.relabel(labels.names)
        self.counts = SliceCounts(self.shown, self.axis, [label.id for label in labels])
        self.counts.mark_all()

    def replace(self, labels: NDArray[Any]) -> bool:
        """Show another array from now on. Voxels that differ from `known` are a person's.

        labels: any number of axes. Returns False, and changes nothing, if the array is read-only or
        no mask of this scan.
        """
        fits = (
            labels.squeeze().shape == self.shown.squeeze().shape
            and labels.flags.writeable
            and np.can_cast(self.raw.dtype, labels.dtype)
            and labels.min() >= 0
            and labels.max() <= np.iinfo(np.uint16).max
        )
        if fits:
            self.shown = labels.reshape(self.shown.shape)
            self.counts = SliceCounts(self.shown, self.axis, [one.id for one in self.card.labels])
            self.counts.mark_all()
            self.note_edits(set(self.places))
        return fits

    # ------------------------------------------------------------------ sizes and places

    def count(self, seconds: float = float("inf")) -> bool:
        """Count stale slices for at most about `seconds`; True when none is left."""
        until = time.perf_counter() + seconds
        while self.counts.stale and time.perf_counter() < until:
            place = self.counts.stale.pop()
            # A stroke that was aborted has restored labels from before the slice's answer.
            self._show(place)
            self.counts.count(place)
        return not self.counts.stale

    def middle_of(self, label: int, frame: int) -> tuple[int, int, int] | None:
        """Voxel (z,y,x) in the middle of a structure's largest slice in a frame; None if the frame
        does not have it."""
        index = self.counts.largest_slice(label, frame)
        if index is None:
            return None
        inside = np.argwhere(self.slice_of(self.shown, (frame, index)) == label)
        voxel = [int(v) for v in np.median(inside, axis=0)]
        voxel.insert(self.axis, index)
        return voxel[0], voxel[1], voxel[2]
