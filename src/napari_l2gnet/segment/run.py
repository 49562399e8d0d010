"""A run: one press of Segment, or one tidying."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from l2gnet_core.project.events import Answered, Tidied, Tidying
from l2gnet_core.project.state import SliceKey
from l2gnet_core.segmenting.suitability import doubts
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.jobs.segment_events import (
    FrameBegins,
    ModelLoaded,
    SegmentEvent,
    SliceSegmented,
    SliceTidied,
    TidyingBegins,
)
from napari_l2gnet.jobs.session import Request, Session
from napari_l2gnet.jobs.worker import Job
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.widgets.docked import always

if TYPE_CHECKING:
    from l2gnet_core.scans.cleanup import CleanUp

#: Sentences about a series: more of them would leave no room for the table.
_MOST_DOUBTS = 4


class Run(QObject):
    """Segments or tidies in a thread, and writes the results into one mask in the GUI's thread.

    It stays with that mask while the user looks at another scan.
    """

    #: A `SegmentEvent`, after the mask has taken it in.
    stepped = Signal(object)
    #: "finished", "cancelled" or "failed", and a sentence; emitted after everything is drawn.
    ended = Signal(str, str)

    def __init__(self, session: Session, mask: MaskLayer, parent: QObject, about: str = "") -> None:
        super().__init__(parent)
        self.mask = mask
        #: What to say of the run from its start on, in a sentence.
        self.about = about
        #: What about the scan does not suit the model.
        self.warnings: list[str] = []
        #: What about the finished mask is unusual.
        self.doubts: list[str] = []
        self._session = session
        self._annotation = annotation_of(mask)
        # False if another job of this mask, such as a fine-tuning, has announced itself.
        self._tells = not self._annotation.job
        self._job: Job | None = None
        self._loaded: ModelLoaded | None = None
        self._tidying: Tidying | None = None
        self._places: list[SliceKey] = []
        self._spared: set[SliceKey] = set()
        # Are slices of this step among the events already?
        self._noted = False
        # For tidying in one undoable step: the choices, and the slices that change.
        self._choices: CleanUp | None = None
        self._slices: dict[SliceKey, NDArray[Any]] = {}
        self._text = ""
        #: Is the mask still tidied as by that step?
        self.stands: Callable[[], bool] = always
        self._tidies = self._tidies_again = self._overtaken = False

    def segment(self, request: Request) -> None:
        """Segment, then tidy as chosen for this mask."""
        self._tidies = False
        self._start("Segmenting", self._session.segment(request), self._segmented)

    def choose(self, choices: CleanUp) -> None:
        """Tidy the mask in another way from now on, as one undoable step. Empty choices show the
        raw answer."""
        self._choices = choices
        self._tidy()

    def _tidy(self) -> None:
        segmentation = self.mask.segmentation
        choices = segmentation.clean_up if self._choices is None else self._choices
        then = self._tidied if self._choices is None else self._adopt
        self._tidies, self._tidies_again = True, False
        self._start("Tidying", self._session.clean(segmentation, choices), then)

    def cancel(self) -> None:
        """Stop; what is finished stays."""
        self._overtaken = False
        self._tidies = self._tidies_again = False
        if self._job is not None:
            self._job.cancel()
            # Now, not at the job's end: a closed widget does not hear of that.
            self._record()
            self._tell_end()

    def _start(
        self, what: str, steps: Generator[SegmentEvent, None, None], then: Callable[[], None]
    ) -> None:
        self._tell(what)
        self._loaded = self._tidying = None
        self._places, self._spared, self._noted = [], set(), False
        self._slices = {}
        self._job = Job(steps, self)
        self._job.yielded.connect(self._take)
        for ending in (self._job.finished, self._job.cancelled, self._job.failed):
            ending.connect(self._record)
        self._job.finished.connect(then)
        self._job.cancelled.connect(self._cancelled)
        self._job.failed.connect(self._failed)
        self.mask.segmentation.answering.connect(self._on_answering)
        self.mask.segmentation.saving.connect(self._note)
        self._job.start()

    def _tell(self, what: str) -> None:
        """Announce the run, so that other jobs on this mask wait."""
        if self._tells:
            self._annotation.tell_job(what)

    def _tell_end(self) -> None:
        self._tell("")
        self._tells = False

    def _take(self, event: SegmentEvent) -> None:
        if not self.mask.connected:
            self.cancel()
            return
        segmentation = self.mask.segmentation
        match event:
            case ModelLoaded():
                self._loaded = event
            case FrameBegins(frame, trace):
                segmentation.traces[frame] = trace
            case SliceSegmented(place, labels, trace, seconds):
                if seconds is not None:
                    segmentation.slice_seconds = seconds
                self._take_place(place)
                self.mask.put(place, labels, trace)
            case TidyingBegins(tidying):
                self._tidying = tidying
                if self._choices is None:
                    self._annotation.version.tidying = tidying
            case SliceTidied(place, labels) if self._choices is not None:
                self._slices[place] = labels
            case SliceTidied(place, labels):
                self._take_place(place)
                self.mask.put_tidied(place, labels)
        self.stepped.emit(event)

    def _take_place(self, place: SliceKey) -> None:
        self._places.append(place)
        if place in self.mask.segmentation.reviewed:
            self._spared.add(place)

    def _on_answering(self) -> None:
        """Stop before the answer changes: further results would belong to the old one."""
        # Slices that are in the mask come before the change in the history, too.
        self._record()
        self._tidies_again = self._tidies
        self._overtaken = True
        assert self._job is not None
        self._job.cancel()

    def _record(self, _: str = "") -> None:
        """However the job ended, add its slices to the events."""
        segmentation = self.mask.segmentation
        segmentation.answering.disconnect(self._on_answering, missing_ok=True)
        segmentation.saving.disconnect(self._note, missing_ok=True)
        self._note()

    def _note(self) -> None:
        """Add the slices since the last time to the events."""
        segmentation, loaded = self.mask.segmentation, self._loaded
        places, self._places = tuple(self._places), []
        events, spared = segmentation.events, self._spared.intersection(places)
        if loaded is not None and places:
            segmentation.model = loaded.model
            more = {"device": loaded.device, "goes_on": self._noted}
            events.append(Answered("segmented", loaded.model, places, None, spared, **more))
        elif self._tidying is not None and places:
            tidying = None if self._noted else self._tidying
            events.append(Tidied(tidying, [at for at in places if at not in spared]))
        self._noted |= bool(places)

    def _segmented(self) -> None:
        if self.mask.segmentation.clean_up:
            self._tidy()
        else:
            self._tidied()

    def _adopt(self) -> None:
        """Adopt the tidied answer."""
        mask, tidying = self.mask, self._tidying
        if not (self._tidies and mask.connected):
            self._cancelled()
            return
        if mask.stroke_under_way:
            # Written now, it would become part of the stroke.
            QTimer.singleShot(50, self._adopt)
            return
        assert tidying is not None
        segmentation, answer = mask.segmentation, mask.segmentation.answer.copy()
        for place, labels in self._slices.items():
            segmentation.slice_of(answer, place)[...] = labels
        version, choices = segmentation.version, self._choices
        changed = mask.adopt(answer, segmentation.raw, version, clean_up=choices)
        places = [place for place in self._slices if place not in segmentation.reviewed]
        segmentation.events.append(Tidied(tidying, places, changed > 0))
        self._annotation.version.tidying = tidying
        if changed:
            self.stands = segmentation.undo_history.last_step()
        self._text = f"Tidied: {mask.taken_in(changed)}"
        self._tidied()

    def _tidied(self) -> None:
        segmentation = self.mask.segmentation
        if not segmentation.count(seconds=0.02):
            # A large mask is counted in pieces, so that the window does not wait.
            QTimer.singleShot(0, self._tidied)
            return
        finished, count = segmentation.coverage()
        if finished == count:
            self.doubts = self._find_doubts()
        self._end("finished", self._text)

    def _find_doubts(self) -> list[str]:
        """What is unusual in any frame; for a series, with the numbers of the frames."""
        segmentation, grid = self.mask.segmentation, self.mask.grid
        ml = grid.voxel_volume_ml if grid.has_ml else None
        found: dict[str, list[str]] = {}
        for frame in range(len(segmentation.shown)):
            for text in doubts(segmentation.card, segmentation.counts.in_frame(frame), ml):
                found.setdefault(text, []).append(str(frame))
        if len(segmentation.shown) == 1:
            return list(found)
        lines = [
            f"Frame{'s' if len(frames) > 1 else ''} {', '.join(frames)}: {text}"
            for text, frames in found.items()
        ]
        more = len(lines) - _MOST_DOUBTS
        return lines if more <= 0 else [*lines[:_MOST_DOUBTS], f"{more} more warnings like these."]

    def _cancelled(self) -> None:
        if self._tidies_again:
            self._tidy()
            return
        finished, count = self.mask.segmentation.coverage()
        if self.mask.layer not in self.mask.viewer.layers:
            text = "Stopped: the mask was deleted."
        elif not self.mask.connected:
            text = "Stopped: the data of the mask were replaced. Press Segment for a new mask."
        elif self._overtaken:
            text = "Stopped: a result was undone or redone meanwhile. Press Segment again."
        elif not finished:
            text = "Cancelled: no slice is segmented yet."
        else:
            text = f"Cancelled: {finished} of {count} slices are segmented and kept."
        self._end("cancelled", text)

    def _failed(self, sentence: str) -> None:
        show_error(sentence)
        self._end("failed", sentence)

    def _end(self, outcome: str, text: str) -> None:
        layer, layers = self.mask.layer, self.mask.viewer.layers
        try:
            if layer in layers and outcome == "failed" and not self.mask.segmentation.coverage()[0]:
                layers.remove(layer)
            elif layer in layers:
                self.mask.name_coverage()
                layer.refresh()
        finally:
            # Also if a listener to the layer raises: the next run must be able to start.
            self._tell_end()
            self.ended.emit(outcome, text)
