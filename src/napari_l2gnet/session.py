"""The models in memory, and segmenting and tidying step by step, without Qt.

The widgets call these methods and draw what comes back; a script can do the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from l2gnet_core.catalog import CatalogEntry, find_model, models
from l2gnet_core.cleanup import CleanUp
from l2gnet_core.errors import InputError
from l2gnet_core.files.values import plain_values
from l2gnet_core.project.events import Tidying
from l2gnet_core.project.state import SliceKey
from l2gnet_core.volume import Volume
from napari_l2gnet.file_suffix import ended
from napari_l2gnet.segmentation import Segmentation
from napari_l2gnet.time_left import TimeLeft, in_words

if TYPE_CHECKING:
    from l2gnet_core.checkpoint import Model
    from l2gnet_core.inspect.trace import Trace


@dataclass(frozen=True)
class Request:
    """What to segment: which slices of which scan, with which model, and where.

    `places` come in the order they are wanted. `traces`, by frame, take in what a model with codes
    saw of them.
    """

    volume: Volume
    model: str
    places: Sequence[SliceKey]
    axis: int
    device: str = "auto"
    traces: dict[int, Trace] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmentProgress:
    """Progress of a segmentation: a sentence, and what has just come out of it. Once a run it names
    the model and device, or the tidying, that the slices are of."""

    message: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    place: SliceKey | None = None
    labels: NDArray[Any] | None = None
    tidied: bool = False
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
    """The models at hand, and those in memory."""

    #: There are other models to choose from.
    models_changed = Signal()

    def __init__(self) -> None:
        # With each file's time and size: what is written over is another model.
        self._loaded: dict[tuple[Path, str], tuple[tuple[int, int], Model]] = {}

    def catalog(self) -> list[CatalogEntry]:
        """The models that can be chosen."""
        return models()

    def segment(self, request: Request) -> Generator[SegmentProgress, None, None]:
        """Segment, yielding after every slice; meant for a thread of its own.

        Raises InputError for what cannot be segmented.
        """
        yield SegmentProgress("Loading the model")
        from l2gnet_core.config import WITH_CODES
        from l2gnet_core.device import choose_device
        from l2gnet_core.inspect.trace import empty_trace
        from l2gnet_core.predict import predict_slices
        from l2gnet_core.suitability import mismatches

        device, _ = choose_device(request.device)
        model = self.load(find_model(request.model), device)
        with_codes = model.network.config.architecture in WITH_CODES
        total, done = len(request.places), 0
        yield SegmentProgress("Reading the scan", done, total, model=model, device=device)
        left: float | None = None
        time_left = TimeLeft(total)
        for frame, indices in _by_frame(request.places).items():
            yield SegmentProgress("Reading the scan", done, total)
            data = request.volume.data
            warnings: list[str] = []
            # Files are plain already; layers of other plugins may hold anything.
            scan = plain_values(
                "The scan", np.asarray(data[frame] if data.ndim == 4 else data), warnings
            )
            yield SegmentProgress("Segmenting", done, total, warnings=warnings)
            if frame == request.places[0][0]:
                yield SegmentProgress(
                    "Segmenting",
                    total=total,
                    warnings=mismatches(model.card, request.volume, request.axis, scan),
                )
            trace = request.traces.get(frame)
            if with_codes:
                empty = empty_trace(model, request.volume, request.axis, scan)
                # Layers can be changed in place: what was seen then lies elsewhere. So can files of
                # models: what was seen then means something else.
                fits = trace is not None and trace.cells.fits(empty.cells)
                if trace is None or not (fits and trace.same_codes(empty)):
                    trace = request.traces[frame] = empty
            for result in predict_slices(
                model, scan, request.volume, request.axis, indices, device, trace
            ):
                if result is None:
                    yield SegmentProgress("Segmenting", done, total, left)
                    continue
                done += 1
                left = time_left.after(done)
                yield SegmentProgress(
                    "Segmenting",
                    done,
                    total,
                    left,
                    (frame, result.index),
                    result.labels,
                    warnings=[result.notice] if result.notice else [],
                )

    def clean(
        self, segmentation: Segmentation, choices: CleanUp
    ) -> Generator[SegmentProgress, None, None]:
        """Tidy the raw masks by the choices (none of them: show the raw masks again), yielding the
        slices that this changes."""
        yield SegmentProgress("Tidying")
        tidying = Tidying(choices, segmentation.painted())
        yield SegmentProgress("Tidying", tidying=tidying)
        for place, labels in tidying.tidied(segmentation.raw, segmentation.axis):
            # Each that is put takes a moment of the window's time: hundreds of slices take seconds.
            if not segmentation.holds(place, labels):
                yield SegmentProgress("Tidying", place=place, labels=labels, tidied=True)
            elif place[1] == 0:  # so that Cancel is heard between frames
                yield SegmentProgress("Tidying")

    def load(self, path: Path, device: str) -> Model:
        """A model from its file; the next time from memory, as long as the file stays the same."""
        from l2gnet_core.checkpoint import find_model_file, load_model

        file = find_model_file(path).resolve()
        state = file.stat()
        key, written = (file, device), (state.st_mtime_ns, state.st_size)
        if key not in self._loaded or self._loaded[key][0] != written:
            self._loaded[key] = (written, load_model(file, device))
        return self._loaded[key][1]

    def save(self, model: Model, path: Path) -> Model:
        """Write a model under the name of its file, so that it can be chosen by it.

        Raises InputError for the name of a bundled model, for one without .safetensors that a file
        has with it, and for files that cannot be written.
        """
        from l2gnet_core.checkpoint import save_model

        if path.suffix != ".safetensors":  # the one spelling that is in the list
            path = ended(path, (), ".safetensors")
        if any(entry.bundled and entry.name == path.stem for entry in self.catalog()):
            raise InputError(
                f"Expected a name that no bundled model has, but got {path.stem}; choose another."
            )
        named = replace(model, card=replace(model.card, name=path.stem))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_model(path, named.network, named.card)
        except OSError as error:
            raise InputError(
                f"Expected a place to write the model to, but {path} is none ({error.strerror}); "
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
    """The one session of this process: two viewers need not load a model twice."""
    return Session()
