"""A mask in the making, without Qt: the model's answer, a person's strokes, and what is counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from l2gnet_core.card import ModelCard
from l2gnet_core.errors import InputError
from l2gnet_core.labels import LabelSet
from l2gnet_core.project.array_delta import ArrayDelta
from l2gnet_core.project.events import Stepped
from l2gnet_core.project.state import ModelId, ProjectState, SliceKey, SliceState, slice_of
from l2gnet_core.volume import Grid
from napari_l2gnet.slice_counts import SliceCounts
from napari_l2gnet.undo import UNDO_LIMIT, Adoption, Reviews, Stroke, Undone

if TYPE_CHECKING:
    from l2gnet_core.checkpoint import Model
    from l2gnet_core.cleanup import CleanUp
    from l2gnet_core.inspect.trace import Trace
    from l2gnet_core.project.events import Event

#: Voxels whose places are looked up together: indices of a whole scan would fill the memory.
_AT_ONCE = 1 << 16


class Segmentation:
    """A mask in the making: what the model said, what is shown, and which voxels are a person's.

    All arrays are (t,z,y,x). `shown` is what the Labels layer draws and a person paints on. `raw`
    is the model's own answer; `answer` the one to show where no person decided, raw or tidied.
    `stroked` marks voxels under strokes that are not undone. Scripts write without a stroke: where
    `shown` is not what was `known` of it, a person decided too. No answer is ever written there,
    nor into slices that are `reviewed`.

    `answering` tells that another answer is about to come in, or to be undone or redone; `saving`
    that it is about to be saved: what came in by then has to be among the events; `choosing` that
    it is to be tidied in another way from now on.
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
        # Not zeros_like, which writes every zero while the window waits.
        self.answer = np.zeros(self.raw.shape, dtype)
        self.known = np.zeros(self.raw.shape, dtype)
        self.shown = np.zeros(self.raw.shape, dtype)
        self.stroked = np.zeros(self.raw.shape, bool)
        self.finished: set[SliceKey] = set()
        #: Seconds that a slice of the scan took when it was last segmented; None if nobody knows.
        self.slice_seconds: float | None = None
        #: What the model saw of each frame, where it has codes.
        self.traces: dict[int, Trace] = {}
        #: Slices that a person has looked at and vouches for.
        self.reviewed: set[SliceKey] = set()
        #: Reviewed slices, each with the id of an organ that came later: of that they say nothing.
        self.unreviewed_organs: set[tuple[SliceKey, int]] = set()
        #: Number of the model version that the answer comes from; 0 is the first one.
        self.version = 0
        #: The model that it comes from, or which that is, once there is an answer.
        self.model: Model | ModelId | None = None
        #: An answer on its way into `shown`: the layer writes it and tells of it as of a stroke.
        self.arriving: Adoption | None = None
        #: Slices in which a person did something since they were last saved, and those into which
        #: an answer came.
        self.changed: set[SliceKey] = set()
        self.answered: set[SliceKey] = set()
        #: How often a person did something.
        self.edits = 0
        #: When a person vouched for a slice, in `edits`.
        self.reviewed_at: dict[SliceKey, int] = {}
        # When an answer last came into a slice in a way that nobody can undo, in `edits`.
        self._answered_at: dict[SliceKey, int] = {}
        #: Slices whose review was taken away as "painting", "undo" or "redo" changed what a person
        #: had seen.
        self.invalidated: dict[SliceKey, str] = {}
        #: What was done and is not saved yet, in its order.
        self.events: list[Event] = []
        #: How the user wants this mask tidied.
        self.clean_up = card.clean_up
        self.counts = SliceCounts(self.shown, axis, ids)
        self._strokes: deque[Stroke | Adoption] = deque(maxlen=UNDO_LIMIT)
        self._undone: deque[Undone] = deque(maxlen=UNDO_LIMIT)

    @classmethod
    def resumed(cls, grid: Grid, state: ProjectState, saved: SliceState) -> Segmentation:
        """A mask as it was saved; saved: arrays (t,z,y,x), which become its own."""
        segmentation = cls(grid, state.card, state.axis)
        dtype = np.result_type(segmentation.raw, saved.labels)
        segmentation.raw = saved.raw.astype(dtype, copy=False)
        segmentation.shown = saved.labels.astype(dtype, copy=False)
        segmentation.known = segmentation.shown.copy()
        segmentation.answer = np.where(saved.by_person, segmentation.raw, segmentation.shown)
        segmentation.stroked = saved.by_person
        segmentation.model = state.model
        segmentation.finished = set(state.finished)
        segmentation.reviewed = set(state.reviewed)
        segmentation.unreviewed_organs = set(state.unreviewed_organs)
        segmentation.clean_up = state.clean_up
        ids = [label.id for label in state.card.labels]
        segmentation.counts = SliceCounts(segmentation.shown, state.axis, ids)
        segmentation.counts.mark_all()
        return segmentation

    @property
    def places(self) -> list[SliceKey]:
        """Every slice of the scan."""
        frames, count = len(self.shown), self.shown.shape[1 + self.axis]
        return [(frame, index) for frame in range(frames) for index in range(count)]

    def coverage(self, frame: int | None = None) -> tuple[int, int]:
        """How many slices are segmented or accepted, and how many there are: of one frame, or of
        all."""
        places = [place for place in self.places if frame in (None, place[0])]
        return len((self.finished | self.reviewed).intersection(places)), len(places)

    def by_person(self) -> NDArray[np.bool_]:
        """Voxels (t,z,y,x) whose label a person chose."""
        theirs = np.empty(self.shown.shape, bool)
        for plane in self._planes:
            theirs[plane] = self.by_person_in(plane)
        return theirs

    def by_person_in(self, index: tuple[int | slice, ...]) -> NDArray[np.bool_]:
        """`by_person` at an index into (t,z,y,x), as of a plane or a box."""
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
        """Frame and z of each plane (y,x), in the order of the memory, however the model cuts: what
        is made of one plane after the other takes a tenth of the time of whole scans."""
        return np.ndindex(*self.shown.shape[:2])

    def _reviewed_in(self, plane: tuple[int, ...]) -> NDArray[np.bool_]:
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
        """A copy of all there is to save of a slice."""
        shown, raw = (self.slice_of(array, place) for array in (self.shown, self.raw))
        return SliceState(shown.copy(), self.by_person_at(place), raw.copy())

    def answers(self, places: Iterable[SliceKey]) -> dict[SliceKey, SliceState]:
        """As `slice_state`, with the answers that lie below a person's voxels."""
        return {
            place: replace(self.slice_state(place), labels=self.slice_of(self.answer, place).copy())
            for place in places
        }

    def painted(self) -> dict[SliceKey, SliceState]:
        """Copies of the slices that a person has changed."""
        states = ((place, self.slice_state(place)) for place in self.places)
        return {place: state for place, state in states if state.by_person.any()}

    # ------------------------------------------------------------------ the model's answer

    def put(self, place: SliceKey, labels: NDArray[Any]) -> None:
        """Take a predicted slice in, leaving alone what a person painted there or reviewed."""
        self.answered.add(place)
        if place not in self.reviewed:
            # Else there is no answer to go back to, once another was taken in.
            self.finished.add(place)
            self.slice_of(self.raw, place)[...] = labels
            self.put_tidied(place, labels)

    def put_tidied(self, place: SliceKey, labels: NDArray[Any]) -> None:
        """Show a tidied slice instead of the raw one, where no person painted or reviewed."""
        if place in self.reviewed:
            return
        self.slice_of(self.answer, place)[...] = labels
        self._answered_at[place] = self.edits
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
        """Show the answer where no person decided."""
        if place in self.reviewed:
            return
        shown, known, answer = (
            self.slice_of(array, place) for array in (self.shown, self.known, self.answer)
        )
        # A stroke under way is not announced yet, but has changed `shown` already.
        free = ~self.by_person_at(place)
        np.copyto(shown, answer, where=free, casting="unsafe")
        np.copyto(known, answer, where=free, casting="unsafe")

    def slice_of(self, array: NDArray[Any], place: SliceKey) -> NDArray[Any]:
        """The view that an array (t,z,y,x) has of a slice."""
        return slice_of(array, place, self.axis)

    # ------------------------------------------------------------------ a person's strokes

    def stroke(
        self,
        voxels: NDArray[np.intp],
        before: NDArray[Any],
        after: NDArray[Any],
        on_screen: Collection[SliceKey] | None = None,
    ) -> None:
        """A person has changed voxels (flat indices, each once) in one undoable step.

        before, after: their labels. They need not be in `shown` yet: the layer tells of some
        strokes a moment before it makes them. on_screen: slices that they see; None for all.
        Nobody vouches any more for others that it changes.
        """
        free = ~np.take(self.stroked, voxels) & (np.take(self.known, voxels) == before)
        np.put(self.stroked, voxels, True)
        places = frozenset(self.places_of(voxels))
        self.note_edits(places)
        unseen = () if on_screen is None else places.difference(on_screen)
        reviews = self._invalidate(unseen, "painting")
        self._strokes.append(Stroke(voxels, before, after, places, free, self.edits, reviews))
        self._undone.clear()

    def note_edits(self, places: Collection[SliceKey]) -> None:
        """A person did something in slices."""
        self.changed.update(places)
        self.edits += 1

    def undone(self) -> None:
        """The last step was undone in `shown`: what lay under a stroke is the model's again, and
        the answer before is the answer again.

        The layer restores what it showed before the stroke; the answer may be a newer one.
        """
        if not self._strokes:
            return  # the layer had nothing left to undo
        step = self._strokes[-1]
        undone = Undone(step)
        if isinstance(step, Adoption):
            if self._differs(step.shown.voxels, step.shown.before):
                return
            self._apply(step, back=True)
            self.events.append(Stepped("undone"))
            free, before = step.shown.voxels, step.shown.before
            # Nobody vouches for what a slice held before.
            undone = Undone(step, self._invalidate(self.places_of(free), "undo"))
        else:
            if self._differs(step.voxels, step.before):
                return
            # Of a fill of the whole scan a copy takes long.
            which = ... if step.free.all() else step.free
            free, before = step.voxels[which], step.before[which]
            np.put(self.stroked, free, False)
            self._invalidate(self._seen_since(step.made, step.places), "undo")
            self._review_again(step.reviews, step.made)
            self.note_edits(step.places)
            undone = replace(undone, made=self.edits)
        self._strokes.pop()
        self._undone.append(undone)
        answer = np.take(self.answer, free)
        if not np.array_equal(answer, before):
            np.put(self.known, free, answer)
            np.put(self.shown, free, answer)

    def redone(self) -> None:
        """The last undone step was made again in `shown`."""
        if not self._undone:
            return
        undone = self._undone[-1]
        step = undone.step
        if isinstance(step, Adoption):
            if self._differs(step.shown.voxels, step.shown.after):
                return
            self._apply(step)
            self.events.append(Stepped("redone"))
            # Nor for what comes back into one, but who did so before.
            self._invalidate(self.places_of(step.shown.voxels), "redo")
            self._review_again(undone.reviews)
        else:
            if self._differs(step.voxels, step.after):
                return
            np.put(self.stroked, step.voxels, True)
            self._invalidate(self._seen_since(undone.made, step.places), "redo")
            reviews = self._invalidate(step.reviews.places, "redo")
            self.note_edits(step.places)
            step = replace(step, made=self.edits, reviews=reviews)
        self._undone.pop()
        self._strokes.append(step)

    def _seen_since(self, made: int, places: Collection[SliceKey]) -> set[SliceKey]:
        """Those slices of a stroke that were accepted since it, or its undo, was made: with it, or
        without it."""
        return {place for place in places if self.reviewed_at.get(place, -1) >= made}

    def _invalidate(self, places: Collection[SliceKey], how: str) -> Reviews:
        """Slices are no more what a person saw: nobody vouches for them."""
        reviews = self._unreview(places)
        self.invalidated.update(dict.fromkeys(reviews.places, how))
        return reviews

    def last_step(self) -> Callable[[], bool]:
        """What tells from now on whether the last step can still be undone, and was not."""
        step = ref(self._strokes[-1])
        return lambda: any(one is step() for one in self._strokes)

    def _unreview(self, places: Collection[SliceKey]) -> Reviews:
        """Nobody vouches for slices any more; returns which reviews that takes away."""
        reviewed = frozenset(self.reviewed.intersection(places))
        unreviewed_organs = frozenset(
            (at, organ) for at, organ in self.unreviewed_organs if at in places
        )
        self.reviewed -= reviewed
        self.unreviewed_organs -= unreviewed_organs
        return Reviews(reviewed, unreviewed_organs, self._organs)

    def _review_again(self, reviews: Reviews, made: int | None = None) -> None:
        """Slices are as they were when reviews were taken away. made: by a stroke that was made
        then; not those that were accepted, or got an answer, since."""
        places, again = reviews.places, set(reviews.places)
        if made is not None:
            since = (self.reviewed_at, self._answered_at)
            again = {at for at in places if all(when.get(at, -1) < made for when in since)}
        self.reviewed |= again
        self.unreviewed_organs |= {
            (at, organ)
            for at, organ in reviews.unreviewed_organs
            if at in again and organ in self._organs
        }
        later = self._organs - reviews.organs
        self.unreviewed_organs |= {(at, organ) for at in again for organ in later}
        for place in again:
            self.invalidated.pop(place, None)

    @property
    def _organs(self) -> frozenset[int]:
        return frozenset(self.card.labels.names)

    # ------------------------------------------------------------------ a new answer as one step

    def adoption(
        self,
        answer: NDArray[Any],
        raw: NDArray[Any],
        version: int,
        traces: dict[int, Trace] | None = None,
        completes: Iterable[SliceKey] = (),
        model: Model | None = None,
        clean_up: CleanUp | None = None,
    ) -> Adoption:
        """The step that takes a new answer (t,z,y,x) in where no person decided; nothing changes
        yet.

        raw: the same before tidying. version: the model's that it comes from. looks: what that saw,
        by frame; None if it is what the last one saw. model: None if it is the same. clean_up: how
        the mask is to be tidied from then on; None as before.
        """

        def open_to_answers(plane: tuple[int, ...]) -> NDArray[np.bool_]:
            return ~self._reviewed_in(plane)

        def open_to_show(plane: tuple[int, ...]) -> NDArray[np.bool_]:
            return ~(self._reviewed_in(plane) | self.by_person_in(plane))

        below = ArrayDelta.between(self.answer, answer, open_to_answers)
        untidied = ArrayDelta.between(self.raw, raw, open_to_answers)
        shown = ArrayDelta.between(self.shown, answer, open_to_show)
        new = frozenset(completes) - self.finished - self.reviewed
        seen = (self.traces, self.traces if traces is None else traces)
        versions, models = (self.version, version), (self.model, model or self.model)
        tidying = (self.clean_up, self.clean_up if clean_up is None else clean_up)
        return Adoption(shown, below, untidied, versions, models, seen, tidying, new)

    def filling(self, slices: Mapping[SliceKey, NDArray[Any]]) -> Adoption:
        """As `adoption`, where the answer, tidied and raw, is another in some slices alone: of a
        large scan the rest would take long to copy and to compare."""
        slices = {place: new for place, new in slices.items() if place not in self.reviewed}
        seen = {}
        for place, new in slices.items():
            shown = self.slice_of(self.shown, place)
            seen[place] = np.where(self.by_person_at(place), shown, new)
        deltas = [
            ArrayDelta.of_slices(array, new, self.axis)
            for array, new in ((self.shown, seen), (self.answer, slices), (self.raw, slices))
        ]
        same = ((one, one) for one in (self.version, self.model, self.traces, self.clean_up))
        return Adoption(*deltas, *same, frozenset())

    def adopt(self, adoption: Adoption) -> None:
        """Take an answer in; the layer is about to write it into `shown`."""
        self._apply(adoption)
        if len(adoption.shown.voxels):  # else the layer has nothing to undo
            self._strokes.append(adoption)
            self._undone.clear()

    def _apply(self, adoption: Adoption, back: bool = False) -> None:
        self.answering.emit()
        if back:
            # First: whoever copies slices meanwhile goes by it.
            self.finished -= adoption.completes
        adoption.answer.into(self.answer, back)
        adoption.raw.into(self.raw, back)
        adoption.shown.into(self.known, back)
        self.answered |= adoption.completes
        for delta in (adoption.shown, adoption.raw):
            self.answered |= self.places_of(delta.voxels)
        side = 0 if back else 1
        self.version, self.model = adoption.version[side], adoption.model[side]
        self.traces = adoption.traces[side]
        if not back:
            self.finished |= adoption.completes
        if adoption.clean_up[0] != adoption.clean_up[1]:
            # Organs may have come since that keep all their pieces.
            self.clean_up = adoption.clean_up[side].sparing(self.clean_up.spared)
            self.choosing.emit()

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

    def relabel(self, labels: LabelSet) -> None:
        """The organs of this mask from now on; slices reviewed before say nothing of new ones.

        Raises InputError for ids that do not fit into the mask.
        """
        largest = max(label.id for label in labels)
        if largest > (most := int(np.iinfo(self.raw.dtype).max)):
            raise InputError(
                f"Expected label ids up to {most} in this mask, but got {largest}; choose a "
                "smaller id."
            )
        names = self.card.labels.names
        now = {names[label.id]: label.name for label in labels if label.id in names}
        expects = self.card.expects
        volumes = {now[name]: usual for name, usual in expects.volumes.items() if name in now}
        self.card = replace(self.card, labels=labels, expects=replace(expects, volumes=volumes))
        new = set(labels.names) - set(names)
        self.clean_up = self.clean_up.sparing(new)
        self.unreviewed_organs = {
            (at, organ) for at, organ in self.unreviewed_organs if organ in labels.names
        }
        self.unreviewed_organs |= {(at, organ) for at in self.reviewed for organ in new}
        self.counts = SliceCounts(self.shown, self.axis, [label.id for label in labels])
        self.counts.mark_all()

    def forget_strokes(self) -> None:
        """Nothing can be undone any more; what was painted stays a person's."""
        self._strokes.clear()
        self._undone.clear()

    def _differs(self, voxels: NDArray[np.intp], labels: NDArray[Any]) -> bool:
        return not np.array_equal(np.take(self.shown, voxels), labels)

    def replace(self, labels: NDArray[Any]) -> bool:
        """Another array is shown from now on; what in it is not as known is a person's.

        labels: of any number of axes. False, and nothing changes, if it is no mask of this scan or
        cannot be written to.
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
        """Count what is stale for at most about `seconds`; True when nothing is left."""
        until = time.perf_counter() + seconds
        while self.counts.stale and time.perf_counter() < until:
            place = self.counts.stale.pop()
            # A stroke that was broken off in the middle leaves what was there before an answer.
            self._show(place)
            self.counts.count(place)
        return not self.counts.stale

    def go_to(self, label: int, frame: int) -> tuple[int, int, int] | None:
        """Voxel (z,y,x) at the middle of a structure's largest slice in a frame, if it is there."""
        index = self.counts.largest_slice(label, frame)
        if index is None:
            return None
        inside = np.argwhere(self.slice_of(self.shown, (frame, index)) == label)
        voxel = [int(v) for v in np.median(inside, axis=0)]
        voxel.insert(self.axis, index)
        return voxel[0], voxel[1], voxel[2]
