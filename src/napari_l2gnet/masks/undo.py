"""What can be undone in a mask: a person's strokes, and answers that were adopted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.project.array_delta import ArrayDelta
from l2gnet_core.project.events import Stepped
from l2gnet_core.project.state import ModelId, SliceKey
from l2gnet_core.scans.cleanup import CleanUp
from napari_l2gnet.masks.reviews import WithdrawnReviews

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.segmenting.trace import Trace
    from napari_l2gnet.masks.segmentation import Segmentation

#: Steps that can be undone: as many as napari's Labels layers keep.
UNDO_LIMIT = 100


@dataclass(frozen=True)
class Stroke:
    """Voxels (flat indices) that a person changed in one undoable step.

    before, after: their labels. places: the slices that they are in. free: where the model's answer
    was shown before. made: when, as `Segmentation.edits` counts. reviews: those that the stroke
    withdrew, of slices that were not on screen. removes: ids of organs that it removed.
    """

    voxels: NDArray[np.intp]
    before: NDArray[Any]
    after: NDArray[Any]
    places: frozenset[SliceKey]
    free: NDArray[np.bool_]
    made: int = 0
    reviews: WithdrawnReviews = field(default_factory=WithdrawnReviews)
    removes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Adoption:
    """A new answer, adopted as one undoable step.

    shown, answer, raw: what changes in these arrays of the mask. version, model, traces, clean_up:
    of the mask, each before and after the step. completes: slices that are segmented by it. brings:
    ids of organs that the mask was given for it.
    """

    shown: ArrayDelta
    answer: ArrayDelta
    raw: ArrayDelta
    version: tuple[int, int]
    model: tuple[Model | ModelId | None, Model | ModelId | None]
    traces: tuple[dict[int, Trace], dict[int, Trace]]
    clean_up: tuple[CleanUp, CleanUp]
    completes: frozenset[SliceKey]
    brings: tuple[int, ...] = ()


@dataclass(frozen=True)
class Undone:
    """An undone step. reviews: those that undoing it withdrew. made: when, as of a stroke."""

    step: Stroke | Adoption
    reviews: WithdrawnReviews = field(default_factory=WithdrawnReviews)
    made: int = 0


class UndoHistory:
    """The steps of a mask that can be undone and redone.

    napari's layer keeps the same steps and restores what it shows (`Segmentation.shown`). This
    follows it and restores all else: whose voxels they are, the answer, and the reviews.
    """

    def __init__(self, segmentation: Segmentation) -> None:
        self._mask = segmentation
        self._done: deque[Stroke | Adoption] = deque(maxlen=UNDO_LIMIT)
        self._undone: deque[Undone] = deque(maxlen=UNDO_LIMIT)

    def last_step(self) -> Callable[[], bool]:
        """A function that tells whether the step that is now the last one still can be undone."""
        step = ref(self._done[-1])
        return lambda: any(one is step() for one in self._done)

    def clear(self) -> None:
        """Nothing can be undone any more; what was painted stays a person's."""
        self._done.clear()
        self._undone.clear()

    def holds(self, label: int) -> bool:
        """Can undo or redo bring voxels of a label back?"""
        steps = [*self._done, *(undone.step for undone in self._undone)]
        deltas = (step.shown if isinstance(step, Adoption) else step for step in steps)
        return any((one.before == label).any() or (one.after == label).any() for one in deltas)

    # ------------------------------------------------------------------ what the layer tells

    def stroke(
        self,
        voxels: NDArray[np.intp],
        before: NDArray[Any],
        after: NDArray[Any],
        on_screen: Collection[SliceKey] | None = None,
    ) -> None:
        """A person has changed voxels (flat indices, each once) in one undoable step.

        before, after: their labels. They need not be in `shown` yet: the layer tells of some
        strokes a moment before it makes them. on_screen: slices that the person sees; None for all.
        The reviews of other slices that the stroke changes are withdrawn.
        """
        mask = self._mask
        free = ~np.take(mask.stroked, voxels) & (np.take(mask.known, voxels) == before)
        np.put(mask.stroked, voxels, True)
        places = frozenset(mask.places_of(voxels))
        mask.note_edits(places)
        unseen = () if on_screen is None else places.difference(on_screen)
        reviews = mask.reviews.invalidate(unseen, "painting")
        self._done.append(Stroke(voxels, before, after, places, free, mask.edits, reviews))
        self._undone.clear()

    def note_removal(self, organ: int) -> None:
        """The last stroke took all voxels of an organ (id) away, which is removed with them."""
        last = self._done[-1]
        assert isinstance(last, Stroke)
        self._done[-1] = replace(last, removes=(organ,))

    def undone(self) -> tuple[int, ...]:
        """The layer has undone the last step in `shown`. Returns the ids of organs that this
        removes.

        Voxels of a stroke belong to the model again, and an adoption gives way to the answer before
        it. The layer restores the labels from before the stroke; the answer may be a newer one.
        """
        if not self._done:
            return ()  # the layer had nothing left to undo
        mask, step = self._mask, self._done[-1]
        undone = Undone(step)
        if isinstance(step, Adoption):
            if self._differs(step.shown.voxels, step.shown.before):
                return ()
            self._apply(step, back=True)
            mask.events.append(Stepped("undone"))
            free, before = step.shown.voxels, step.shown.before
            # These slices were reviewed with the answer that is gone now.
            undone = Undone(step, mask.reviews.invalidate(mask.places_of(free), "undo"))
        else:
            if self._differs(step.voxels, step.before):
                return ()
            # Copying the voxels of a fill of the whole scan takes long.
            which = ... if step.free.all() else step.free
            free, before = step.voxels[which], step.before[which]
            np.put(mask.stroked, free, False)
            mask.reviews.invalidate(mask.reviews.since(step.made, step.places), "undo")
            mask.reviews.restore(step.reviews, step.made)
            mask.note_edits(step.places)
            undone = replace(undone, made=mask.edits)
        self._done.pop()
        self._undone.append(undone)
        answer = np.take(mask.answer, free)
        if not np.array_equal(answer, before):
            np.put(mask.known, free, answer)
            np.put(mask.shown, free, answer)
        return step.brings if isinstance(step, Adoption) else ()

    def redone(self) -> tuple[int, ...]:
        """The layer has redone the last undone step in `shown`. Returns the ids of organs that
        this removes."""
        if not self._undone:
            return ()
        mask, undone = self._mask, self._undone[-1]
        step = undone.step
        if isinstance(step, Adoption):
            if self._differs(step.shown.voxels, step.shown.after):
                return ()
            self._apply(step)
            mask.events.append(Stepped("redone"))
            # Reviews since the undo do not hold for this answer; those before it do again.
            mask.reviews.invalidate(mask.places_of(step.shown.voxels), "redo")
            mask.reviews.restore(undone.reviews)
        else:
            if self._differs(step.voxels, step.after):
                return ()
            np.put(mask.stroked, step.voxels, True)
            mask.reviews.invalidate(mask.reviews.since(undone.made, step.places), "redo")
            reviews = mask.reviews.invalidate(step.reviews.places, "redo")
            mask.note_edits(step.places)
            step = replace(step, made=mask.edits, reviews=reviews)
        self._undone.pop()
        self._done.append(step)
        return step.removes if isinstance(step, Stroke) else ()

    def _differs(self, voxels: NDArray[np.intp], labels: NDArray[Any]) -> bool:
        return not np.array_equal(np.take(self._mask.shown, voxels), labels)

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
        brings: tuple[int, ...] = (),
    ) -> Adoption:
        """The step that adopts a new answer (t,z,y,x) where no person decided. Nothing changes yet.

        raw: the answer before tidying, (t,z,y,x), which is taken in everywhere. version: number of
        the model version that gave it. traces: what the model saw, by frame; None if that stays.
        model: None if it stays. clean_up: how the mask is to be tidied from then on; None if that
        stays. brings: ids of organs that the mask was given for this answer.
        """
        mask = self._mask

        def open_to_answers(plane: tuple[int, ...]) -> NDArray[np.bool_]:
            return ~mask.reviewed_in(plane)

        def open_to_show(plane: tuple[int, ...]) -> NDArray[np.bool_]:
            return ~(mask.reviewed_in(plane) | mask.by_person_in(plane))

        return Adoption(
            shown=ArrayDelta.between(mask.shown, answer, open_to_show),
            answer=ArrayDelta.between(mask.answer, answer, open_to_answers),
            raw=ArrayDelta.between(mask.raw, raw),
            version=(mask.version, version),
            model=(mask.model, model or mask.model),
            traces=(mask.traces, mask.traces if traces is None else traces),
            clean_up=(mask.clean_up, mask.clean_up if clean_up is None else clean_up),
            completes=frozenset(completes) - mask.finished - mask.reviewed,
            brings=brings,
        )

    def filling(self, slices: Mapping[SliceKey, NDArray[Any]]) -> Adoption:
        """As `adoption`, for a new answer in some slices only, tidied and raw alike: copying and
        comparing the rest of a large scan would take long."""
        mask = self._mask
        slices = {place: new for place, new in slices.items() if place not in mask.reviewed}
        shown = {
            place: np.where(mask.by_person_at(place), mask.slice_of(mask.shown, place), new)
            for place, new in slices.items()
        }
        return Adoption(
            shown=ArrayDelta.of_slices(mask.shown, shown, mask.axis),
            answer=ArrayDelta.of_slices(mask.answer, slices, mask.axis),
            raw=ArrayDelta.of_slices(mask.raw, slices, mask.axis),
            version=(mask.version, mask.version),
            model=(mask.model, mask.model),
            traces=(mask.traces, mask.traces),
            clean_up=(mask.clean_up, mask.clean_up),
            completes=frozenset(),
        )

    def adopt(self, adoption: Adoption) -> None:
        """Take an answer in; the layer is about to write it into `shown`."""
        self._apply(adoption)
        if len(adoption.shown.voxels):  # else the layer has nothing to undo
            self._done.append(adoption)
            self._undone.clear()

    def _apply(self, adoption: Adoption, back: bool = False) -> None:
        mask = self._mask
        mask.answering.emit()
        if back:
            # First: a save that copies slices meanwhile asks which are finished.
            mask.finished -= adoption.completes
        adoption.answer.into(mask.answer, back)
        adoption.raw.into(mask.raw, back)
        adoption.shown.into(mask.known, back)
        mask.answered |= adoption.completes
        for delta in (adoption.shown, adoption.raw):
            mask.answered |= mask.places_of(delta.voxels)
        side = 0 if back else 1
        mask.version, mask.model = adoption.version[side], adoption.model[side]
        mask.traces = adoption.traces[side]
        if not back:
            mask.finished |= adoption.completes
        if adoption.clean_up[0] != adoption.clean_up[1]:
            # Organs may have been added since that keep all their pieces.
            mask.clean_up = adoption.clean_up[side].sparing(mask.clean_up.spared)
            mask.choosing.emit()
