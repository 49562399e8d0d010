"""What Inspect shows of a mask's model, without Qt: computed once and kept with the mask."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.network.config import WITH_CODES
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.inspect.parts import DoubtMap, Part, Usage
from napari_l2gnet.jobs import warm_up
from napari_l2gnet.scans.layers import frame_of

if TYPE_CHECKING:
    from l2gnet_core.inspect.plans import Partner
    from l2gnet_core.inspect.populations import Unlikeness
    from l2gnet_core.inspect.similar import Region
    from l2gnet_core.inspect.uncertainty import SliceDoubt
    from l2gnet_core.models.card import ModelCard
    from l2gnet_core.scans.volume import Volume
    from l2gnet_core.segmenting.trace import Trace
    from napari_l2gnet.masks.layer import MaskLayer

INSPECTIONS_KEY = "l2gnet_inspections"
#: What to say of a slice without codes.
NOT_SEGMENTED = "This slice is not segmented: the model has not seen it."
#: Kinds of doubt by their names in the window; see `l2gnet_core.inspect.uncertainty`.
DOUBTS = {
    "Chance to be wrong": "combined",
    "Class probabilities": "softmax",
    "Distance from the code": "quantisation",
    "Spread of the plan": "plan",
    "Neighbouring slices": "neighbours",
}


class Source(Protocol):
    """What a model saw and answered: a `Segmentation`, or an earlier version of one.

    raw: (t,z,y,x), the model's own answer. traces: by frame.
    """

    card: ModelCard
    axis: int
    raw: NDArray[Any]
    traces: dict[int, Trace]


@dataclass(frozen=True, eq=False)
class Findings:
    """What follows from what a model saw of a frame, as far as it is computed.

    Nothing in it changes: a thread computes other findings, and the window's thread puts them in
    the place of the old ones. So a cancelled thread, which may still compute, spoils nothing.

    state: what it was computed from. voxels: of each structure in each cell (n,h,w,L). usages: by
    part. doubts: by kind. ranking: of the slices seen, once doubts were looked for.
    """

    state: tuple[Any, ...] = ()
    voxels: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.int32))
    unlike: Unlikeness | None = None
    usages: Mapping[Part, Usage] = field(default_factory=dict)
    doubts: Mapping[str, DoubtMap] = field(default_factory=dict)
    ranking: tuple[SliceDoubt, ...] = ()


@dataclass(eq=False)
class Inspection:
    """What a model saw of one frame, and all that follows from it.

    Long computations are generators that yield what they are doing, to be run in a thread. They
    leave the inspection as it is: who runs them keeps what they find as `found`, in the window's
    thread. Everything is about the model's own answer, before tidying and painting.
    """

    source: Source
    frame: int
    #: The model's name; "" for the name in its card.
    version: str = field(default="", kw_only=True)
    found: Findings = field(default_factory=Findings, init=False)

    @property
    def names(self) -> list[str]:
        """The names of the columns of the tables."""
        return ["background", *(label.name for label in self.source.card.labels)]

    @property
    def refusal(self) -> str:
        """Why there is nothing to see, in one sentence; "" if there is."""
        card = self.source.card
        if card.architecture not in WITH_CODES:
            return (
                f"{card.name} is of the architecture {card.architecture}, which has no codes to "
                f"look at; choose the mask of a model with a codebook ({', '.join(WITH_CODES)})."
            )
        if self.forgotten:
            of = " of this frame" if len(self.source.raw) > 1 else ""
            return f"What {self.version or card.name} saw{of} is not kept with this mask."
        return ""

    @property
    def forgotten(self) -> bool:
        """Is the trace of the frame missing?"""
        return self.frame not in self.source.traces or not self.trace.seen.any()

    @property
    def trace(self) -> Trace:
        """What the model saw."""
        return self.source.traces[self.frame]

    @property
    def mask(self) -> NDArray[Any]:
        """The model's own answer (z,y,x)."""
        return np.asarray(self.source.raw[self.frame])

    @property
    def ids(self) -> list[int]:
        """Label id of each column of the tables."""
        return [0, *(label.id for label in self.source.card.labels)]

    @property
    def has_plans(self) -> bool:
        """Does the model have transport, not only codes?"""
        return self.trace.plan_rows is not None

    @property
    def is_current(self) -> bool:
        """Is everything prepared, and has nothing been segmented since, by any version of the
        model?"""
        return not self.refusal and self.found.state == self._state_now()

    @property
    def is_unlike(self) -> bool:
        """Is the whole scan unlike those that the model learnt from?"""
        return self.found.unlike is not None and self.found.unlike.is_large

    def _state_now(self) -> tuple[Any, ...]:
        trace = self.trace
        return trace, trace.added, int(np.count_nonzero(trace.seen)), *self.ids, *self.names

    # ------------------------------------------------------------------ codes

    def prepare(self) -> Generator[str, None, Findings]:
        """Compute what all views of the volume need; returns these findings."""
        yield "Counting codes"
        warm_up.inspection()
        from l2gnet_core.inspect.populations import unlikeness

        state = self._state_now()
        trace = self.trace
        voxels = trace.cells.counts(self.mask, self.ids)
        yield "Computing code relations"
        usage = self._find_usage(Part(), voxels)
        known, unlike = self.source.card.codes, None
        # A part of any scan uses other codes than a whole scan: compare whole ones only.
        if known is not None and len(known.counts) == len(trace.vectors) and trace.seen.all():
            yield "Comparing with the training scans"
            unlike = unlikeness(trace, known)
        return Findings(state, voxels, unlike, {Part(): usage})

    def usage(self, part: Part) -> Usage:
        """The usage of a part, which is kept; for the window's thread."""
        self.found = self.relate(part)
        return self.found.usages[part]

    def relate(self, part: Part) -> Findings:
        """The findings with the usage of a part; they hold it for the volume, its structures and
        the last slice."""
        found = self.found
        if part in found.usages:
            return found
        kept = {p: u for p, u in found.usages.items() if part.index is None or p.index is None}
        return replace(found, usages={**kept, part: self._find_usage(part, found.voxels)})

    def has_usage(self, part: Part) -> bool:
        """Is the usage of a part known, or computed at once?"""
        return part in self.found.usages or part.index is not None

    def _find_usage(self, part: Part, voxels: NDArray[np.int32]) -> Usage:
        from l2gnet_core.inspect.codes import organ_table
        from l2gnet_core.inspect.plans import code_plan

        trace, codes = self.trace, len(self.trace.vectors)
        weights: NDArray[Any] | None = None
        if part.index is not None:
            table = np.zeros((codes, len(self.names)), np.int64)
            if trace.seen[part.index]:
                of_slice = voxels[part.index].reshape(-1, len(self.names))
                np.add.at(table, trace.codes[part.index].ravel(), of_slice)
            weights = np.zeros(trace.codes.shape, np.float32)
            weights[part.index] = 1
        else:
            table = organ_table(trace, voxels)
            if part.column is not None:
                weights = voxels[..., part.column] / np.maximum(voxels.sum(-1), 1)
                others = np.arange(len(self.names)) != part.column
                table[:, others] = 0
        if not self.has_plans:
            return Usage(table, None)
        # Cells receive only from their own slice: with weights on one side, its plan stays
        # symmetric.
        return Usage(table, code_plan(trace, receiving=weights))

    def positions(self) -> NDArray[np.float64]:
        """(K,2): places of codes in the plane, similar ones near each other; unused ones at 0.

        These are the first two principal components of the codes that occur in the volume; unused
        codes would take up most of the room.
        """
        from l2gnet_core.inspect.codes import principal_components

        vectors = self.trace.vectors
        used = np.flatnonzero(self.usage(Part()).table.sum(1))
        found = np.zeros((len(vectors), 2))
        along = principal_components(vectors[used], 2)
        found[used, : along.shape[1]] = along
        return found

    def partners(self, part: Part, code: int, most: int = 4) -> list[Partner]:
        """The codes from which a code receives more than by chance; [] without transport."""
        from l2gnet_core.inspect.plans import partners

        plan = self.usage(part).plan
        return [] if plan is None else partners(plan, code, most)

    def code_at(self, voxel: tuple[int, int, int]) -> int | None:
        """The code of a voxel (z,y,x); None if the model has not seen its slice."""
        code = int(self.trace.codes[self.trace.cells.at(voxel)])
        return None if code < 0 else code

    def busiest_slice(self, codes: list[int]) -> int:
        """The slice with the most cells of these codes."""
        return int(np.isin(self.trace.codes, codes).sum((1, 2)).argmax())

    def heard(self, index: int, code: int) -> NDArray[np.float32]:
        """(h,w): how much a code receives from each cell of a slice, 1 = an even share."""
        from l2gnet_core.inspect.plans import sources_map

        shares = sources_map(self.trace, index, code)
        return (shares * shares.size).astype(np.float32)

    def sent(self, index: int, reference: int) -> NDArray[np.float32]:
        """(h,w): how much mass each cell of a slice sends to a reference, 1 = its even share."""
        plans = self.trace.plans
        if not self.trace.seen[index]:
            return np.zeros(self.trace.cells.size, np.float32)
        mass: NDArray[np.float32] = plans[index, self.trace.codes[index], reference]
        return mass * np.float32(plans.shape[2])

    def row(self, part: Part, code: int | None) -> NDArray[np.float64]:
        """(R,): the mass that a code, or all of a part, sends to each reference; 1 = even share."""
        trace = self.trace
        weights = trace.frequencies()
        if part.index is not None:
            weights = weights * (np.arange(len(weights)) == part.index)[:, None]
        if part.column is not None:
            voxels = self.found.voxels
            share = voxels[..., part.column] / np.maximum(voxels.sum(-1), 1)
            weights = np.zeros_like(weights)
            for index in np.flatnonzero(trace.seen):
                np.add.at(weights[index], trace.codes[index].ravel(), share[index].ravel())
        if code is not None:
            weights = weights * (np.arange(weights.shape[1]) == code)
        row = np.einsum("nk,nkr->r", weights, trace.plans, optimize=True)
        total = row.sum()
        return row * len(row) / total if total > 0 else np.zeros(len(row))

    # ------------------------------------------------------------------ doubt

    def doubt(self, kind: str) -> DoubtMap | None:
        """One kind of doubt; None if it has not been studied."""
        return self.found.doubts.get(kind)

    def kinds(self) -> dict[str, str]:
        """The kinds of doubt that this model has, by their names in the window."""
        return {name: kind for name, kind in DOUBTS.items() if kind != "plan" or self.has_plans}

    def study(self, kind: str, found: Findings) -> Generator[str, None, Findings]:
        """Find where the model is unsure, and rank the slices; returns the findings with that."""
        from l2gnet_core.inspect.places import MOST, unsure_by_slice
        from l2gnet_core.inspect.similar import highest
        from l2gnet_core.inspect.uncertainty import (
            expected_wrong,
            near_borders,
            plan_entropy,
            ranked_by,
            slice_maps,
        )

        trace, mask, axis = self.trace, self.mask, self.trace.cells.axis
        slices = np.moveaxis(mask, axis, 0)
        ranking = found.ranking
        wanted = {kind} if ranking else {kind, "combined"}
        # float16 takes half of the memory and resolves more than the screen.
        on_voxels = np.empty(slices.shape, np.float16)
        wrong, places = np.zeros(len(slices)), []

        def values_by_slice() -> Iterator[NDArray[np.float32]]:
            for index, maps in enumerate(slice_maps(trace, mask, wanted)):
                if not ranking:
                    near = near_borders(slices, index)
                    wrong[index] = expected_wrong(maps["combined"], near)
                values = maps[kind]
                if kind == "neighbours":
                    # At a correct border it is about 0.5: only higher values speak against it.
                    values = np.maximum(0, 2 * values - 1)
                if kind in ("combined", "neighbours"):
                    on_voxels[index] = values
                yield values

        for index, here in enumerate(unsure_by_slice(values_by_slice(), mask, axis)):
            yield f"Computing doubt · slice {index + 1} of {len(slices)}"
            places += here
        if not ranking:
            ranked = ranked_by(wrong, slices, trace.seen)
            ranking = tuple(one for one in ranked if trace.seen[one.index])
        places = [place for place in highest(places, MOST) if trace.seen[place.index]]
        kept: Any
        # At most 0.5: as likely wrong as right.
        limits = (0.0, 0.5)
        if kind == "softmax":
            kept = np.moveaxis(trace.entropy, 0, axis)
        elif kind in ("quantisation", "plan"):
            cells = trace.error if kind == "quantisation" else plan_entropy(trace)
            low, high = np.percentile(cells[trace.seen], (1, 99))
            limits = (float(low), float(max(high, low + 1e-6)))
            kept = self._of_frame(cells)
        else:
            kept = np.moveaxis(on_voxels, 0, axis)
        doubts = {**found.doubts, kind: DoubtMap(kept, limits, places)}
        return replace(found, doubts=doubts, ranking=ranking)

    def _of_frame(self, cells: NDArray[Any]) -> Callable[[int, int], NDArray[Any]]:
        """Cells (n,h,w) of this frame as a function of frame and index; zero in other frames."""
        nothing = np.zeros(cells.shape[1:], cells.dtype)
        return lambda frame, index: cells[index] if frame == self.frame else nothing

    def similar(
        self, marked: NDArray[np.bool_], scan: Volume
    ) -> Generator[str | list[Region], None, None]:
        """Places like the marked ones (z,y,x), best first."""
        from l2gnet_core.inspect.similar import MOST, highest, similar_by_slice

        found: list[Region] = []
        steps = 2 * np.count_nonzero(self.trace.seen)
        by_slice = similar_by_slice(self.trace, self.mask, marked, frame_of(scan, self.frame))
        for done, regions in enumerate(by_slice, 1):
            found += regions
            yield f"Looking for places like this · {100 * done // steps} %"
        yield highest(found, MOST)


def inspection_of(mask: MaskLayer, frame: int) -> Inspection:
    """The inspection of one frame of a mask.

    It is kept with the mask's layer: a widget that is closed and opened again finds it.
    """
    kept = mask.layer.metadata.setdefault(INSPECTIONS_KEY, {})
    if frame not in kept or kept[frame].source is not mask.segmentation:
        kept[frame] = Inspection(mask.segmentation, frame)
    found: Inspection = kept[frame]
    # The mask may show another version now; its card stays that of the first.
    shown = annotation_of(mask).version
    found.version = "" if shown.kind == "original" else f"version {shown.name}"
    return found
