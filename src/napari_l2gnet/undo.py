"""What can be undone in a mask: a person's strokes, and answers that were taken in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.cleanup import CleanUp
from l2gnet_core.project.array_delta import ArrayDelta
from l2gnet_core.project.state import ModelId, SliceKey

if TYPE_CHECKING:
    from l2gnet_core.checkpoint import Model
    from l2gnet_core.inspect.trace import Trace

#: Strokes that can be undone: as many as napari's Labels layers keep.
UNDO_LIMIT = 100


@dataclass(frozen=True)
class Reviews:
    """Reviews that a step took away: slices, and of which organs (ids) they said nothing. organs:
    ids of those that there were."""

    places: frozenset[SliceKey] = frozenset()
    unreviewed_organs: frozenset[tuple[SliceKey, int]] = frozenset()
    organs: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Stroke:
    """Voxels (flat indices) a person changed in one undoable step, their labels before and after
    it, and the slices that they are in. Where `free` is true the model's answer was shown before.
    made: when, as `Segmentation.edits` counts. reviews: of slices that it changed out of sight."""

    voxels: NDArray[np.intp]
    before: NDArray[Any]
    after: NDArray[Any]
    places: frozenset[SliceKey]
    free: NDArray[np.bool_]
    made: int = 0
    reviews: Reviews = Reviews()


@dataclass(frozen=True)
class Adoption:
    """A new answer taken in as one undoable step: what changes in `shown`, `answer` and `raw`; the
    version and model that it comes from, what that saw and how the mask is to be tidied, before and
    after; the slices it completes."""

    shown: ArrayDelta
    answer: ArrayDelta
    raw: ArrayDelta
    version: tuple[int, int]
    model: tuple[Model | ModelId | None, Model | ModelId | None]
    traces: tuple[dict[int, Trace], dict[int, Trace]]
    clean_up: tuple[CleanUp, CleanUp]
    completes: frozenset[SliceKey]


@dataclass(frozen=True)
class Undone:
    """A step that was undone, with the reviews that this took away. made: as of a stroke."""

    step: Stroke | Adoption
    reviews: Reviews = Reviews()
    made: int = 0
