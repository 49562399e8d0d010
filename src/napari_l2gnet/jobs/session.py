"""The models in memory, and segmenting and tidying step by step, without Qt.

The widgets call these methods and draw the results; a script can do the same.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal

from l2gnet_core.errors import InputError
from l2gnet_core.models.catalog import find_model, models
from l2gnet_core.project.events import Tidying
from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.jobs.segment_events import (
    FrameBegins,
    ModelLoaded,
    Progress,
    SegmentEvent,
    SliceSegmented,
    SliceTidied,
    TidyingBegins,
    Warned,
)
from napari_l2gnet.jobs.segment_places import ScanFrames, segment_places
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.scans.file_suffix import ended

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.segmenting.trace import Trace


@dataclass(frozen=True)
class Request:
    """What to segment: slices of a scan, in the order they are wanted, and with which model.

    axis: of (z,y,x), along which the slices lie. traces: what a model with codes saw before, by
    frame; the run continues those that still fit.
    """

    volume: Volume
    model: str
    places: Sequence[SliceKey]
    axis: int
    traces: Mapping[int, Trace] = field(default_factory=dict)


class Session:
    """The models in memory, and what can be done with them."""

    #: The models that can be chosen are others now.
    models_changed = Signal()

    def __init__(self) -> None:
        # With each file's time and size, which tell whether it was overwritten.
        self._loaded: dict[tuple[Path, str], tuple[tuple[int, int], Model]] = {}

    def segment(self, request: Request) -> Generator[SegmentEvent, None, None]:
        """Segment, yielding after every slice; meant for a thread of its own.

        Raises InputError for what cannot be segmented.
        """
        yield Progress("Loading the model")
        from l2gnet_core.network.device import choose_device
        from l2gnet_core.segmenting.exchanged_sides import exchanged_sides
        from l2gnet_core.segmenting.suitability import mismatches

        device, _ = choose_device()
        model = self.load(find_model(request.model), device)
        total = len(request.places)
        yield ModelLoaded(model, device)
        yield Progress("Reading the scan", 0, total)
        scan, checked = ScanFrames(request.volume, request.axis), False
        frames = _by_frame(request.places)
        frame, places = next(iter(frames.items()))
        # Of a single slice that is wanted soon the others need not be looked at.
        whole = model.card.oriented and len(places) == request.volume.shape[-3:][request.axis]
        for step in segment_places(
            model, scan, frames.items(), total, device, traces=request.traces
        ):
            if step.reading:
                yield Progress("Reading the scan", step.done, total)
                continue
            if whole and step.place is not None and step.done == total:
                # Before the last slice: a run that is cancelled meanwhile is not complete.
                shown = scan.shown(frame, model.card)
                for said in exchanged_sides(model, shown, request.volume, device):
                    yield Warned([said]) if said else Progress("Checking the sides", total - 1)
            warnings = [step.notice] if step.notice else scan.warnings.pop(step.frame, [])
            if not checked:
                checked, seen = True, scan.field(step.frame, model.card)
                warnings += mismatches(model.card, request.volume, request.axis, seen)
            if warnings:
                yield Warned(warnings)
            if step.trace is not None:
                yield FrameBegins(step.frame, step.trace)
            if step.place is not None:
                assert step.labels is not None
                yield SliceSegmented(step.place, step.labels, step.slice_trace, step.slice_seconds)
            yield Progress("Segmenting", step.done, total, step.seconds_left)

    def clean(
        self, segmentation: Segmentation, choices: CleanUp
    ) -> Generator[SegmentEvent, None, None]:
        """Tidy the raw answer as chosen, yielding the slices that change. Without any choice these
        are the raw slices."""
        yield Progress("Tidying")
        tidying = Tidying(choices, segmentation.painted())
        yield TidyingBegins(tidying)
        for place, labels in tidying.tidied(segmentation.raw, segmentation.axis):
            # Unchanged slices are left out: taking in hundreds of them blocks the window for
            # seconds.
            if not segmentation.holds(place, labels):
                yield SliceTidied(place, labels)
            elif place[1] == 0:  # a chance to cancel between frames
                yield Progress("Tidying")

    def load(self, path: Path, device: str) -> Model:
        """A model from its file, or from memory as long as the file stays the same."""
        from l2gnet_core.models.checkpoint import find_model_file, load_model

        file = find_model_file(path).resolve()
        state = file.stat()
        key, written = (file, device), (state.st_mtime_ns, state.st_size)
        if key not in self._loaded or self._loaded[key][0] != written:
            self._loaded[key] = (written, load_model(file, device))
        return self._loaded[key][1]

    def save(self, model: Model, path: Path) -> Model:
        """Write a model and name it after its file, so that it can be chosen by that name.

        Raises InputError for the name of a bundled model, for a name without .safetensors if the
        file with that suffix exists, and for files that cannot be written.
        """
        from l2gnet_core.models.checkpoint import save_model

        if path.suffix != ".safetensors":  # the catalog lists this spelling only
            path = ended(path, (), ".safetensors")
        if any(entry.bundled and entry.name == path.stem for entry in models()):
            raise InputError(
                f"Expected a new name, but {path.stem} is a bundled model; choose another name."
            )
        named = replace(model, card=replace(model.card, name=path.stem))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_model(path, named.network, named.card)
        except OSError as error:
            raise InputError(
                f"Expected a path that can be written, but {path} cannot be ({error.strerror}); "
                "choose another folder."
            ) from error
        self.models_changed.emit()
        return named


def _by_frame(places: Sequence[SliceKey]) -> dict[int, list[int]]:
    """Slice indices by frame, both in the order they are wanted."""
    frames: dict[int, list[int]] = {}
    for frame, index in places:
        frames.setdefault(frame, []).append(index)
    return frames


@cache
def shared_session() -> Session:
    """The one session of this process, so that two viewers load a model only once."""
    return Session()
