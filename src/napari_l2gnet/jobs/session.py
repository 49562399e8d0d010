"""The models in memory, and segmenting and tidying step by step, without Qt.

The widgets call these methods and draw the results; a script can do the same.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from psygnal import Signal

from l2gnet_core.errors import InputError
from l2gnet_core.models.catalog import find_model, models
from l2gnet_core.project.events import Tidying
from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.jobs.segment_places import ScanFrames, segment_places
from napari_l2gnet.jobs.time_left import in_words
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.scans.file_suffix import ended

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.segmenting.trace import SliceTrace, Trace


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


@dataclass(frozen=True)
class SegmentProgress:
    """Progress of segmenting or tidying: a message, and the slice that is done.

    labels: (rows, columns) of the slice at `place`, tidied or raw. trace: what the model saw of
    that slice. traces: by frame, those to add it to from now on. slice_seconds: that a slice takes,
    once that is known. model, device, tidying: given once a run.
    """

    message: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    slice_seconds: float | None = None
    place: SliceKey | None = None
    labels: NDArray[Any] | None = None
    tidied: bool = False
    trace: SliceTrace | None = None
    traces: Mapping[int, Trace] = field(default_factory=dict)
    model: Model | None = None
    device: str = ""
    tidying: Tidying | None = None
    warnings: Sequence[str] = field(default_factory=tuple)

    def __str__(self) -> str:
        """As in "Segmenting 3/10 · 2 s left"."""
        counted = f" {self.done}/{self.total}" if self.total else ""
        left = in_words(self.seconds_left)
        return f"{self.message}{counted}{left and ' · ' + left}"


class Session:
    """The models in memory, and what can be done with them."""

    #: The models that can be chosen are others now.
    models_changed = Signal()

    def __init__(self) -> None:
        # With each file's time and size, which tell whether it was overwritten.
        self._loaded: dict[tuple[Path, str], tuple[tuple[int, int], Model]] = {}

    def segment(self, request: Request) -> Generator[SegmentProgress, None, None]:
        """Segment, yielding after every slice; meant for a thread of its own.

        Raises InputError for what cannot be segmented.
        """
        yield SegmentProgress("Loading the model")
        from l2gnet_core.network.device import choose_device
        from l2gnet_core.segmenting.exchanged_sides import exchanged_sides
        from l2gnet_core.segmenting.suitability import mismatches

        device, _ = choose_device()
        model = self.load(find_model(request.model), device)
        total = len(request.places)
        yield SegmentProgress("Reading the scan", 0, total, model=model, device=device)
        scan, checked = ScanFrames(request.volume, request.axis), False
        frames = _by_frame(request.places)
        frame, places = next(iter(frames.items()))
        # Of a single slice that is wanted soon the others need not be looked at.
        whole = model.card.oriented and len(places) == request.volume.shape[-3:][request.axis]
        for step in segment_places(
            model, scan, frames.items(), total, device, traces=request.traces
        ):
            if step.reading:
                yield SegmentProgress("Reading the scan", step.done, total)
                continue
            if whole and step.place is not None and step.done == total:
                # Before the last slice: a run that is cancelled meanwhile is not complete.
                shown = scan.shown(frame, model.card)
                for said in exchanged_sides(model, shown, request.volume, device):
                    yield SegmentProgress(
                        "Checking the sides", total - 1, warnings=[said] if said else []
                    )
            warnings = [step.notice] if step.notice else scan.warnings.pop(step.frame, [])
            if not checked:
                checked, seen = True, scan.field(step.frame, model.card)
                warnings += mismatches(model.card, request.volume, request.axis, seen)
            yield SegmentProgress(
                "Segmenting",
                step.done,
                total,
                step.seconds_left,
                step.slice_seconds,
                step.place,
                step.labels,
                trace=step.slice_trace,
                traces={} if step.trace is None else {step.frame: step.trace},
                warnings=warnings,
            )

    def clean(
        self, segmentation: Segmentation, choices: CleanUp
    ) -> Generator[SegmentProgress, None, None]:
        """Tidy the raw answer as chosen, yielding the slices that change. Without any choice these
        are the raw slices."""
        yield SegmentProgress("Tidying")
        tidying = Tidying(choices, segmentation.painted())
        yield SegmentProgress("Tidying", tidying=tidying)
        for place, labels in tidying.tidied(segmentation.raw, segmentation.axis):
            # Unchanged slices are left out: taking in hundreds of them blocks the window for
            # seconds.
            if not segmentation.holds(place, labels):
                yield SegmentProgress("Tidying", place=place, labels=labels, tidied=True)
            elif place[1] == 0:  # a chance to cancel between frames
                yield SegmentProgress("Tidying")

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
