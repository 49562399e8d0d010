"""The state of correcting a mask: slices to review, model versions, what to learn. Without Qt."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from l2gnet_core.project.state import SliceKey
from napari_l2gnet.masks.organs import UNMARKED
from napari_l2gnet.masks.segmentation import Segmentation

if TYPE_CHECKING:
    from l2gnet_core.finetuning.guard import Verdict
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.project.events import FineTuned, Tidying
    from l2gnet_core.segmenting.trace import Trace
    from napari_l2gnet.annotating.doubts import ExpectedErrors
    from napari_l2gnet.annotating.preview import Preview
    from napari_l2gnet.annotating.task_events import Answer

ANNOTATION_KEY = "l2gnet_annotation"
#: Weight of a voxel that a person painted, where one that they only accepted has 1.
PAINTED_WEIGHT = 3.0

Kind = Literal["original", "scan", "project", "file"]


@dataclass(eq=False)
class Version:
    """A version of the model that a mask is made with.

    parent: number of the version that it was learnt from. model: None until it is needed; then the
    session loads it from `path` or, without one, the model that the mask began with. raw, traces:
    its answer (t,z,y,x) before tidying, and what it saw, by frame, once it has segmented the scan.
    tidying: how that answer was tidied around the strokes of that time. brought: ids of organs that
    the mask did not have before.
    """

    name: str
    kind: Kind
    parent: int
    model: Model | None = None
    verdict: Verdict | None = None
    raw: NDArray[Any] | None = None
    traces: dict[int, Trace] = field(default_factory=dict)
    tidying: Tidying | None = None
    path: Path | None = None
    brought: tuple[int, ...] = ()


@dataclass(eq=False)
class Proposal:
    """A new answer to look at before it is accepted.

    raw: the newest answer (t,z,y,x) before tidying, of the slices in `done`. others: annotations of
    the other masks that it learnt from. learnt: the outcome with the model, None before the guard
    has seen it. weak: ids of organs that the model hardly knows: filled-in voxels of these stay.
    answer: of the whole scan, None before the model that is to be kept has segmented all slices.
    """

    kind: Kind
    raw: NDArray[Any]
    done: set[SliceKey] = field(default_factory=set)
    others: Sequence[Annotation] = ()
    learnt: FineTuned | None = None
    weak: tuple[int, ...] = ()
    answer: Answer | None = None


@dataclass(frozen=True, eq=False)
class Lesson:
    """A person's corrections of one frame: labels and weights (z,y,x), which hold in `slices` only.
    The labels of UNMARKED voxels are unknown. `checked` is as in `Correction`."""

    frame: int
    slices: tuple[int, ...]
    labels: NDArray[np.uint16]
    weights: NDArray[np.float32]
    checked: Mapping[int, Collection[int]]


class Annotation:
    """The state of correcting one mask, shared by all widgets.

    `changed` is emitted with what is new: "reviewed", "edited", "queue", "organs", "versions",
    "proposal", "job" or "trouble".
    """

    changed = Signal(str)

    def __init__(self, segmentation: Segmentation, model: str) -> None:
        self.segmentation = segmentation
        #: The name of the model in the catalog.
        self.model = model
        self.versions = [Version("original", "original", 0)]
        self.proposal: Proposal | None = None
        #: The layers that show it.
        self.preview: Preview | None = None
        #: What a job is doing for this mask, as a sentence; "" if there is none.
        self.job = ""
        #: Why the mask cannot be saved at the moment, in a sentence; "" while it can.
        self.trouble = ""
        #: Slices with a person's strokes; brought up to date by `look_for_edits`.
        self.edited: set[SliceKey] = set()
        #: Why to check a slice, and how urgently; empty before the slices are ranked.
        self.doubts: Mapping[SliceKey, ExpectedErrors] = {}
        self._unseen: set[SliceKey] = set(segmentation.places)
        self._edits = 0

    @classmethod
    def of(cls, metadata: dict[str, Any], segmentation: Segmentation, model: str) -> Annotation:
        """The one annotation of a mask, kept in its layer's metadata."""
        found = metadata.get(ANNOTATION_KEY)
        if not isinstance(found, cls) or found.segmentation is not segmentation:
            found = metadata[ANNOTATION_KEY] = cls(segmentation, model)
        return found

    def tell_job(self, job: str) -> None:
        """A job begins, or with "" ends."""
        self.job = job
        self.changed.emit("job")

    def tell_trouble(self, trouble: str) -> None:
        """The mask cannot be saved any more, or with "" it can again."""
        self.trouble = trouble
        self.changed.emit("trouble")

    # ------------------------------------------------------------------ slices to review

    @property
    def queue(self) -> list[SliceKey]:
        """Every slice, the most doubtful first; slices without a rank follow in scan order."""
        # Also slices that are not called doubtful have a rank.
        ranked = sorted(self.doubts, key=lambda place: -self.doubts[place].expected)
        return [*ranked, *(place for place in self.segmentation.places if place not in self.doubts)]

    def rank(self, doubts: Mapping[SliceKey, ExpectedErrors]) -> None:
        """Take in which slices to check first, and why."""
        self.doubts = doubts
        self.changed.emit("queue")

    def name_of(self, place: SliceKey) -> str:
        """The name of a slice: its number, in a series after that of its frame."""
        frame, index = place
        return f"{frame} · {index}" if len(self.segmentation.shown) > 1 else str(index)

    def why(self, place: SliceKey) -> str:
        """Why to look at a slice, as the queue shows it."""
        if place in self.edited:
            return "edited"
        if place in self.doubts and self.doubts[place].organ:
            return f"unsure: {self.doubts[place].organ}"
        return "–" if place in self.segmentation.finished else "not segmented"

    def review(self, place: SliceKey, accepted: bool = True) -> None:
        """A person accepts a slice as it is, or takes that back."""
        self.segmentation.reviews.review(place, accepted, self.segmentation.edits)
        self.changed.emit("reviewed")

    def next_place(self, after: SliceKey | None) -> SliceKey | None:
        """The next slice in the queue that is not reviewed, after one (None: from the top on); None
        if all are reviewed."""
        queue = self.queue
        start = 0 if after is None else queue.index(after) + 1
        ahead = [*queue[start:], *queue[:start]]
        return next((p for p in ahead if p not in self.segmentation.reviewed), None)

    def may_be_edited(self) -> None:
        """Anything may have been painted, undone or written."""
        self._unseen.update(self.segmentation.places)

    def catch_up(self) -> None:
        """Look for all edits since the last time, also those while no widget followed the mask."""
        if self._edits != self.segmentation.edits:
            self.may_be_edited()
        self._edits = self.segmentation.edits
        self.look_for_edits()

    def look_for_edits(self, seconds: float = float("inf")) -> bool:
        """Look for edited slices for at most about `seconds`; True when no slice is left."""
        until = time.perf_counter() + seconds
        before = len(self.edited)
        touched = False
        while self._unseen and time.perf_counter() < until:
            place = self._unseen.pop()
            edited = self.segmentation.edited(place)
            if edited != (place in self.edited):
                (self.edited.add if edited else self.edited.discard)(place)
                touched = True
        if touched or len(self.edited) != before:
            self.changed.emit("edited")
        return not self._unseen

    # ------------------------------------------------------------------ what to learn from

    @property
    def taught(self) -> set[SliceKey]:
        """Slices to learn from: the accepted ones and the painted ones."""
        return self.segmentation.reviewed | self.edited

    def lessons(self, painted_is_complete: bool, structures: Collection[int]) -> list[Lesson]:
        """A person's corrections, one lesson for each frame, as copies.

        structures: ids of the model's own structures. painted_is_complete: are slices that were
        painted, but not accepted, correct as a whole? If not, only a person's voxels count there,
        unless some are of a structure that the model does not have: such strokes alone would not
        teach where that structure is absent. In these slices only what is painted counts as
        checked, since the rest is the model's own answer; in complete ones all structures do. In
        slices reviewed before an organ was added, the background is unknown; slices in which
        nothing is known are left out.
        """
        self.look_for_edits()
        segmentation = self.segmentation
        unreviewed_organs = self._silent_on(None)
        everything = {*structures, *segmentation.card.labels.names}
        frames = sorted({frame for frame, _ in self.taught})
        lessons = []
        for frame in frames:
            # np.zeros costs no memory for slices that are not written to.
            labels = np.zeros(segmentation.shown.shape[1:], np.uint16)
            weights = np.zeros(labels.shape, np.float32)
            slices, checked = [], {}
            for index in sorted(index for at, index in self.taught if at == frame):
                place = (frame, index)
                shown = segmentation.slice_of(segmentation.shown, place)
                by_person = segmentation.by_person_at(place)
                painted = {int(id) for id in np.unique(shown[by_person])} - {0}
                taught_new = any(id not in structures for id in painted)
                vouched = painted_is_complete or place in segmentation.reviewed
                complete = vouched or taught_new
                target = shown if complete else np.where(by_person, shown, np.uint16(UNMARKED))
                if complete:
                    checked[index] = everything if vouched else painted
                if place in unreviewed_organs:
                    target = np.where(shown == 0, np.uint16(UNMARKED), target)
                if (target == UNMARKED).all():
                    continue
                slices.append(index)
                np.moveaxis(labels, segmentation.axis, 0)[index] = target
                weight = np.where(by_person, PAINTED_WEIGHT, 1.0)
                if place in unreviewed_organs:
                    # The model's old answer there may be what the person erased.
                    weight[target == UNMARKED] = 0
                np.moveaxis(weights, segmentation.axis, 0)[index] = weight
            if slices:
                lessons.append(Lesson(frame, tuple(slices), labels, weights, checked))
        return lessons

    # ------------------------------------------------------------------ versions

    @property
    def version(self) -> Version:
        """The version that the mask shows."""
        return self.versions[self.segmentation.version]

    def propose(self, proposal: Proposal | None) -> None:
        """Set the answer to look at before it is accepted; None: there is none any more."""
        self.proposal = proposal
        self.changed.emit("proposal")

    def add_version(self, version: Version) -> int:
        """Keep a version; returns its number."""
        self.versions.append(version)
        self.changed.emit("versions")
        return len(self.versions) - 1

    def next_name(self) -> str:
        """A name for the next version that is learnt here."""
        return f"v{len(self.versions)}"

    def resume(self, versions: Sequence[Version], shown: int) -> None:
        """Take in saved versions. shown: the number of the one that the mask shows."""
        self.versions, self.segmentation.version = list(versions), shown
        self.changed.emit("versions")

    def keep_first_answer(self) -> None:
        """Remember the answer of the model that the mask began with, if it covers the whole scan.
        To be called before another answer is adopted."""
        from l2gnet_core.models.checkpoint import Model

        version, model = self.version, self.segmentation.model
        if version is self.versions[0] and version.model is None and isinstance(model, Model):
            # Its file may be overwritten.
            version.model = model
        whole = self.segmentation.finished.issuperset(self.segmentation.places)
        # Resumed work may mix several answers; its model can segment the scan again.
        if version.raw is None and version.path is None and whole:
            version.raw = self.segmentation.raw.copy()
            version.traces = self.segmentation.traces

    def merged(self, place: SliceKey, answer: NDArray[Any]) -> NDArray[Any]:
        """A slice as it will be once an answer (t,z,y,x) is adopted."""
        segmentation = self.segmentation
        shown = segmentation.slice_of(segmentation.shown, place)
        if place in segmentation.reviewed:
            return shown
        new = self.with_filled(place, segmentation.slice_of(answer, place))
        return np.where(segmentation.by_person_at(place), shown, new)

    def with_filled(self, place: SliceKey, labels: NDArray[Any]) -> NDArray[Any]:
        """A slice of the proposal, in which weak organs stay as interpolation filled them in.

        The current model does not know these organs: its answer has them from interpolation only.
        """
        below = self.segmentation.slice_of(self.segmentation.answer, place)
        for organ in self._weak:
            if (filled := below == organ).any():
                labels = np.where(filled, organ, _without(labels, organ))
        return labels

    @property
    def filled(self) -> list[SliceKey]:
        """Slices that keep organs from interpolation when the proposal is accepted."""
        segmentation = self.segmentation
        free = [place for place in segmentation.places if place not in segmentation.reviewed]
        return [
            place
            for place in (free if self._weak else ())
            if np.isin(segmentation.slice_of(segmentation.answer, place), self._weak).any()
        ]

    @property
    def _weak(self) -> tuple[int, ...]:
        return self.proposal.weak if self.proposal is not None else ()

    # ------------------------------------------------------------------ between slices

    def between(self, frame: int, organ: int | None) -> tuple[int, ...]:
        """The slices of a frame to interpolate between: reviewed ones, and those in which a person
        painted the organ (None: any). Reviews from before the organ (None: any organ) was added do
        not count.

        Raises InputError if no slice lies between them.
        """
        from l2gnet_core.interpolation.shapes import require_gap

        self.look_for_edits()
        segmentation = self.segmentation
        painted = {one for one in self.edited if organ is None or self._says(one, organ)}
        found = (segmentation.reviewed | painted) - self._silent_on(organ)
        slices = tuple(sorted(index for at, index in found if at == frame))
        name = segmentation.card.labels.names.get(organ or 0, "the mask")
        require_gap(slices, name, "paint or accept another slice")
        return slices

    def _silent_on(self, organ: int | None) -> set[SliceKey]:
        """Reviewed slices that say nothing of an organ that was added later (None: of any)."""
        unreviewed_organs = self.segmentation.unreviewed_organs
        asked = [(place, one) for place, one in unreviewed_organs if organ in (None, one)]
        return {place for place, one in asked if not self._says(place, one)}

    def _says(self, place: SliceKey, organ: int) -> bool:
        """Did a person paint the organ in a slice?"""
        state = self.segmentation.slice_state(place)
        return bool((state.by_person & (state.labels == organ)).any())

    def interpolating(
        self, scan: NDArray[Any], frame: int, slices: Sequence[int], organ: int | None
    ) -> Generator[tuple[int, int], None, NDArray[Any]]:
        """Fill in an organ (None: all) between slices of a frame, guided by its scan (z,y,x).
        Yields (done, total) pieces of work; returns labels (z,y,x)."""
        from l2gnet_core.interpolation.guided import guided_slices

        segmentation, axis = self.segmentation, self.segmentation.axis
        across = [size for i, size in enumerate(segmentation.grid.spacing) if i != axis]
        # A copy, so that strokes in the meantime change nothing.
        shown, pixel = segmentation.shown[frame].copy(), (across[0], across[1])
        return guided_slices(scan, shown, slices, axis, pixel, organ)

    def interpolated(
        self, filled: Mapping[SliceKey, NDArray[Any]], organ: int | None
    ) -> Mapping[SliceKey, NDArray[Any]]:
        """The current answer in the filled slices, with an organ (None: all) as it was filled in.
        It becomes the raw answer, too, as tidying begins with that."""
        if organ is None:
            return filled
        segmentation = self.segmentation
        below = {place: segmentation.slice_of(segmentation.answer, place) for place in filled}
        return {
            place: np.where(labels == organ, organ, _without(below[place], organ))
            for place, labels in filled.items()
        }


def _without(labels: NDArray[Any], organ: int) -> NDArray[Any]:
    return np.where(labels == organ, 0, labels)
