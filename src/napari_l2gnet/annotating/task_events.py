"""What tasks on a mask's corrections hand to the GUI's thread, which alone writes into the mask."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from l2gnet_core.project.events import Answered, FineTuned
from l2gnet_core.project.state import SliceKey
from l2gnet_core.relay import Result, relayed
from napari_l2gnet.jobs.time_left import in_words, with_time_left

if TYPE_CHECKING:
    from l2gnet_core.segmenting.trace import Trace


@dataclass(frozen=True)
class Step:
    """How far a task is. done: from 0 to 1. then: a further step whose time is unknown, after the
    seconds left. step: steps of learning so far. loss: of the step just made, in the main run."""

    message: str
    done: float = 0.0
    seconds_left: float | None = None
    then: str = ""
    step: int = 0
    loss: float | None = None

    def __str__(self) -> str:
        """As in "Learning · step 12 · 8 s left, then segmenting"."""
        parts = [self.message]
        if self.step:
            parts.append(f"step {self.step}")
        if left := in_words(self.seconds_left):
            parts.append(f"{left}{self.then and ', then ' + self.then}")
        return " · ".join(parts)


def as_steps(
    message: str, pieces: Generator[tuple[int, int], None, Result]
) -> Generator[Step, None, Result]:
    """Run what yields (done, total) pieces of work; yields steps with this message and the time
    left instead. Returns what it returns."""
    return relayed(with_time_left(pieces), lambda moment: Step(message, *moment))


@dataclass(frozen=True)
class PreviewBegins:
    """Slices by a new model follow, which the guard has not judged yet."""


@dataclass(frozen=True)
class PreviewFits:
    """How well the preview after a step fits corrections that it learns from: mean Dice."""

    step: int
    dice: float


@dataclass(frozen=True, eq=False)
class SliceShown:
    """A slice (rows, columns) by the newest model. slice_seconds: that a slice of the scan takes to
    segment; None if that is unknown."""

    place: SliceKey
    labels: NDArray[Any]
    slice_seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """The outcome of a fine-tuning, with the guard's verdict."""

    learnt: FineTuned


@dataclass(frozen=True, eq=False)
class Answer:
    """A model's answer for the whole scan, (t,z,y,x), before and after tidying. answered: how the
    model gave it. traces: what it saw, by frame."""

    raw: NDArray[Any]
    tidied: NDArray[Any]
    answered: Answered
    traces: dict[int, Trace]


@dataclass(frozen=True, eq=False)
class Filled:
    """The slices that interpolation filled in."""

    slices: Mapping[SliceKey, NDArray[Any]]


TaskEvent = Step | PreviewBegins | PreviewFits | SliceShown | Judged | Answer | Filled
