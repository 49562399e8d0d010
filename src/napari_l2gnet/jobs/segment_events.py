"""What segmenting and tidying hand to the GUI's thread, which alone writes into the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from l2gnet_core.project.events import Tidying
from l2gnet_core.project.state import SliceKey
from napari_l2gnet.jobs.time_left import in_words

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.segmenting.trace import SliceTrace, Trace


@dataclass(frozen=True)
class Progress:
    """How far a run is: slices done, of how many, if they are counted."""

    message: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None

    def __str__(self) -> str:
        """As in "Segmenting 3/10 · 2 s left"."""
        counted = f" {self.done}/{self.total}" if self.total else ""
        left = in_words(self.seconds_left)
        return f"{self.message}{counted}{left and ' · ' + left}"


@dataclass(frozen=True, eq=False)
class ModelLoaded:
    """The model that segments, and the device on which it does."""

    model: Model
    device: str


@dataclass(frozen=True)
class Warned:
    """What about the scan does not suit the model, in sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True, eq=False)
class FrameBegins:
    """Slices of a frame follow; what the model sees of them is added to this trace."""

    frame: int
    trace: Trace


@dataclass(frozen=True, eq=False)
class SliceSegmented:
    """A slice (rows, columns) by the model. trace: what it saw there, if it has codes. seconds:
    that a slice of the scan takes; None as long as that is unknown."""

    place: SliceKey
    labels: NDArray[Any]
    trace: SliceTrace | None
    seconds: float | None


@dataclass(frozen=True, eq=False)
class TidyingBegins:
    """Slices that are tidied in this way follow."""

    tidying: Tidying


@dataclass(frozen=True, eq=False)
class SliceTidied:
    """A slice (rows, columns) that tidying changes."""

    place: SliceKey
    labels: NDArray[Any]


SegmentEvent = (
    Progress | ModelLoaded | Warned | FrameBegins | SliceSegmented | TidyingBegins | SliceTidied
)
