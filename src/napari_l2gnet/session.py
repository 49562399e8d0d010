"""What the user is doing, without Qt: models in memory, and the steps of a segmentation.

The widgets call these methods and draw what comes back; a script can do the same.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.catalog import CatalogEntry, find_model, models
from l2gnet_core.cleanup import CleanUp, tidy
from l2gnet_core.files.values import plain_values
from l2gnet_core.volume import Volume
from napari_l2gnet.segmentation import Place, Segmentation

if TYPE_CHECKING:
    from l2gnet_core.checkpoint import Model
    from l2gnet_core.inspect.look import Look


@dataclass(frozen=True)
class Request:
    """What to segment: which slices of which scan, with which model, and where.

    `places` come in the order they are wanted. `looks`, by frame, take in what a model with codes
    saw of them.
    """

    volume: Volume
    model: str
    places: Sequence[Place]
    axis: int
    device: str = "auto"
    looks: dict[int, Look] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Progress of a segmentation: a sentence, and what has just come out of it."""

    message: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    place: Place | None = None
    labels: NDArray[Any] | None = None
    tidied: bool = False
    warnings: Sequence[str] = field(default_factory=tuple)

    def __str__(self) -> str:
        """As in "Segmenting 3/10 · 2 s left"."""
        counted = f" {self.done}/{self.total}" if self.total else ""
        if self.seconds_left is None:
            return f"{self.message}{counted}"
        minutes = self.seconds_left / 60
        left = f"{minutes:.0f} min" if minutes >= 1.5 else f"{self.seconds_left:.0f} s"
        return f"{self.message}{counted} · {left} left"


class Session:
    """The models at hand, and those in memory."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Path, str], Model] = {}

    def catalog(self) -> list[CatalogEntry]:
        """The models that can be chosen."""
        return models()

    def segment(self, request: Request) -> Generator[Step, None, None]:
        """Segment, yielding after every slice; meant for a thread of its own.

        Raises InputError for what cannot be segmented.
        """
        yield Step("Loading the model")
        from l2gnet_core.config import WITH_CODES
        from l2gnet_core.inspect.look import empty_look
        from l2gnet_core.predict import choose_device, predict_slices
        from l2gnet_core.preprocess import intensity_window
        from l2gnet_core.suitability import mismatches

        device, _ = choose_device(request.device)
        model = self._load(find_model(request.model), device)
        with_codes = model.network.config.architecture in WITH_CODES
        total, done = len(request.places), 0
        left: float | None = None
        started = time.perf_counter()
        for frame, indices in _by_frame(request.places).items():
            yield Step("Reading the scan", done, total)
            data = request.volume.data
            warnings: list[str] = []
            # Files are plain already; layers of other plugins may hold anything.
            scan = plain_values(
                "The scan", np.asarray(data[frame] if data.ndim == 4 else data), warnings
            )
            yield Step("Segmenting", done, total, warnings=warnings)
            if frame == request.places[0][0]:
                window = intensity_window(scan)
                yield Step(
                    "Segmenting",
                    total=total,
                    warnings=mismatches(model.card, request.volume, request.axis, window),
                )
            if with_codes and frame not in request.looks:
                request.looks[frame] = empty_look(model, request.volume, request.axis)
            for result in predict_slices(
                model, scan, request.volume, request.axis, indices, device, looks=with_codes
            ):
                if result is None:
                    yield Step("Segmenting", done, total, left)
                    continue
                done += 1
                if result.look is not None:
                    request.looks[frame].add(result.index, result.look)
                left = (time.perf_counter() - started) / done * (total - done)
                yield Step(
                    "Segmenting",
                    done,
                    total,
                    left,
                    (frame, result.index),
                    result.labels,
                    warnings=[result.notice] if result.notice else [],
                )

    def clean(self, segmentation: Segmentation, choices: CleanUp) -> Generator[Step, None, None]:
        """Tidy the raw masks by the choices (none of them: show the raw masks again)."""
        yield Step("Tidying")
        axis = segmentation.axis
        painted = segmentation.by_person()
        # With the strokes in place: what a person joined to an organ is a piece of it.
        masks = np.where(painted, segmentation.shown, segmentation.raw).astype(np.uint16)
        for frame, mask in enumerate(masks):
            tidied = tidy(mask, axis, choices, painted[frame])
            if painted[frame].any():
                # What is to be seen under a stroke once it is undone.
                below = tidy(segmentation.raw[frame], axis, choices)
                tidied = np.where(painted[frame], below, tidied)
            for index, labels in enumerate(np.moveaxis(tidied, axis, 0)):
                yield Step("Tidying", place=(frame, index), labels=labels, tidied=True)

    def _load(self, path: Path, device: str) -> Model:
        from l2gnet_core.checkpoint import load_model

        key = (path.resolve(), device)
        if key not in self._loaded:
            self._loaded[key] = load_model(path, device)
        return self._loaded[key]


def _by_frame(places: Sequence[Place]) -> dict[int, list[int]]:
    """Slice indices by frame, both in the order they are wanted."""
    frames: dict[int, list[int]] = {}
    for frame, index in places:
        frames.setdefault(frame, []).append(index)
    return frames


@cache
def shared_session() -> Session:
    """The one session of this process: two viewers need not load a model twice."""
    return Session()
