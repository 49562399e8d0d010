"""Segmenting slices of a scan one by one, frame by frame, without Qt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from l2gnet_core.models.card import ModelCard
from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.jobs.time_left import TimeLeft
from napari_l2gnet.scans.layers import frame_of

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.segmenting.slice_view import Field, ShownScan
    from l2gnet_core.segmenting.trace import SliceTrace, Trace


class ScanFrames:
    """The frames (z,y,x) of a scan, each read and searched once until it is forgotten."""

    def __init__(self, volume: Volume, axis: int) -> None:
        self.volume = volume
        self.axis = axis
        #: What was noticed while a frame was read, in sentences.
        self.warnings: dict[int, list[str]] = {}
        self._frames: dict[int, NDArray[Any]] = {}
        self._fields: dict[tuple[int, bool], Field] = {}

    def frame(self, frame: int) -> NDArray[Any]:
        """A frame's voxels. Raises InputError for values that are no numbers."""
        if frame not in self._frames:
            self._frames[frame] = frame_of(self.volume, frame, self.warnings.setdefault(frame, []))
        return self._frames[frame]

    def field(self, frame: int, card: ModelCard) -> Field:
        """The part of a frame that a model is shown. Searching a large scan for it takes long."""
        from l2gnet_core.segmenting.slice_view import field_of

        key = frame, card.oriented
        if key not in self._fields:
            self._fields[key] = field_of(card, self.volume, self.axis, self.frame(frame))
        return self._fields[key]

    def shown(self, frame: int, card: ModelCard) -> ShownScan:
        """A frame as a model is shown it."""
        from l2gnet_core.segmenting.slice_view import shown_scan

        field = self.field(frame, card)
        return shown_scan(card, self.frame(frame), self.volume, self.axis, field)

    def forget(self, frame: int) -> None:
        """Free a frame's memory."""
        self._frames.pop(frame, None)


@dataclass(frozen=True)
class PlaceProgress:
    """Progress of `segment_places`: how many slices are done, and how long the others will take.

    frame: the one at work; reading: it is about to be read. trace: of the frame, when it begins,
    to add `slice_trace` to: what the model saw of the slice at `place`. place, labels: a slice that
    is done, and notice what is to be said of it, in a sentence. slice_seconds: that a slice takes.
    """

    frame: int
    done: int
    seconds_left: float | None = None
    slice_seconds: float | None = None
    reading: bool = False
    trace: Trace | None = None
    place: SliceKey | None = None
    labels: NDArray[Any] | None = None
    slice_trace: SliceTrace | None = None
    notice: str = ""


def segment_places(
    model: Model,
    scan: ScanFrames,
    frames: Iterable[tuple[int, Sequence[int]]],
    total: int,
    device: str,
    *,
    traces: Mapping[int, Trace] | None = None,
    slice_seconds: float | None = None,
) -> Iterator[PlaceProgress]:
    """Segment slices in their order; can be stopped at each yield. Writes nothing: whoever takes in
    the labels of a slice takes in its trace, too.

    frames: the frames, each with the slices of it to segment. total: how many slices these are.
    traces: by frame, what the model saw before; one is continued if it still fits the model and the
    scan. slice_seconds: that a slice took before, if that is known. Raises InputError for what
    cannot be segmented.
    """
    from l2gnet_core.segmenting.predict import predict_slices

    done, time_left = 0, TimeLeft(total, slice_seconds)
    for frame, indices in frames:
        yield PlaceProgress(frame, done, time_left.after(done), time_left.each, reading=True)
        pixels = scan.frame(frame)
        trace = _trace(model, scan, frame, (traces or {}).get(frame))
        yield PlaceProgress(frame, done, time_left.after(done), time_left.each, trace=trace)
        field = scan.field(frame, model.card)
        traced = trace is not None
        for result in predict_slices(
            model, pixels, scan.volume, scan.axis, indices, device, traced, field
        ):
            if result is None:
                yield PlaceProgress(frame, done, time_left.after(done), time_left.each)
                continue
            done += 1
            yield PlaceProgress(
                frame,
                done,
                time_left.after(done + result.ahead),
                time_left.each,
                place=(frame, result.index),
                labels=result.labels,
                slice_trace=result.trace,
                notice=result.notice or "",
            )
        scan.forget(frame)


def _trace(model: Model, scan: ScanFrames, frame: int, before: Trace | None) -> Trace | None:
    """The trace that goes on with what was seen of a frame; None for models without codes."""
    from l2gnet_core.network.config import WITH_CODES
    from l2gnet_core.segmenting.trace import empty_trace

    if model.network.config.architecture not in WITH_CODES:
        return None
    empty = empty_trace(model, scan.volume, scan.axis, scan.field(frame, model.card))
    # The layer may have been changed in place since: what was seen lies elsewhere. So may the
    # model's file: what was seen means something else.
    if before is not None and before.cells.fits(empty.cells) and before.same_codes(empty):
        return before
    return empty
