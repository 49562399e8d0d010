"""Compares what the model saw with other models, frames and scans."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtCore import QObject, QSignalBlocker, QTimer, Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_l2gnet.annotating.annotation import ANNOTATION_KEY
from napari_l2gnet.inspect.inspection import Findings, Inspection, Source
from napari_l2gnet.inspect.parts import Part, Usage
from napari_l2gnet.inspect.state import InspectState
from napari_l2gnet.jobs.worker import LatestJob
from napari_l2gnet.masks.layer import IMAGE_KEY, SEGMENTATION_KEY, MaskLayer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from l2gnet_core.models.card import CodeStatistics, ModelCard
    from l2gnet_core.segmenting.trace import Trace


@dataclass(frozen=True, eq=False)
class Seen:
    """What an earlier version of a model saw and answered; see `Source`."""

    card: ModelCard
    axis: int
    raw: NDArray[Any]
    traces: dict[int, Trace]


@dataclass(frozen=True, eq=False)
class Other:
    """Something to compare a frame with.

    frame: of another scan or another time; None is the frame on screen of the same scan.
    """

    name: str
    source: Source
    frame: int | None = None

    def same_as(self, other: Other | None) -> bool:
        """Are both about the same answer and frame?"""
        return other is not None and (self.source.raw is other.source.raw) and (
            self.frame == other.frame
        )  # fmt: skip


def comparable(viewer: Any, mask: MaskLayer, frame: int) -> list[Other]:
    """What a frame of a mask may be compared with, as far as it has a trace.

    That is earlier versions of its model, masks of the scan along the same axis, other frames, and
    masks of other scans.
    """
    mine, image = mask.segmentation, mask.layer.metadata.get(IMAGE_KEY)
    found, elsewhere = versions(mask), []
    for layer in viewer.layers:
        other = layer.metadata.get(SEGMENTATION_KEY)
        if other is None or other is mine or not other.traces:
            continue
        if layer.metadata.get(IMAGE_KEY) is not image:
            elsewhere.append(Other(layer.name, other, min(other.traces)))
        elif other.axis == mine.axis:
            found.append(Other(layer.name, other))
    found += [Other(f"frame {at}", mine, at) for at in sorted(mine.traces) if at != frame]
    return found + elsewhere


def versions(mask: MaskLayer) -> list[Other]:
    """The other versions of the model that have segmented the mask's scan."""
    annotation, mine, found = mask.layer.metadata.get(ANNOTATION_KEY), mask.segmentation, []
    for number, version in enumerate(annotation.versions if annotation else ()):
        if number != mine.version and version.raw is not None and version.traces:
            card = mine.card if version.model is None else version.model.card
            seen = Seen(card, mine.axis, version.raw, version.traces)
            found.append(Other(f"version {version.name}", seen))
    return found


@dataclass(eq=False)
class Comparison:
    """A frame and what it is compared with; once prepared, `words` says how far apart they are."""

    one: Inspection
    other: Inspection
    name: str
    #: Are both of the same frame of the same scan, with slices that lie on each other?
    same_scan: bool
    words: str = field(default="", init=False)
    #: Is it known how far apart they are?
    related: bool = field(default=False, init=False)

    @property
    def refusal(self) -> str:
        """Why there is nothing to compare, in one sentence; "" if there is."""
        refusal = self.other.refusal
        return f"{refusal} Choose that mask under Mask and press Look again." if refusal else ""

    @property
    def same_codes(self) -> bool:
        """Have both the same codebook, so that codes can be compared one by one?

        Fine-tuning keeps the codebook.
        """
        one, other = self.one, self.other
        alike = np.array_equal(one.trace.vectors, other.trace.vectors)
        return alike and one.has_plans == other.has_plans

    @property
    def same_cells(self) -> bool:
        """Do the cells of both lie on each other?"""
        return self.same_scan and self.one.trace.cells.fits(self.other.trace.cells)

    def theirs(self, part: Part) -> Part | None:
        """The same part of the other side; None if it has none.

        Slices of another scan or frame are not the same, and only one side may know a structure.
        """
        if part.index is not None and not self.same_scan:
            return None
        if part.column is None:
            return part
        one, other = self.one, self.other
        name, id = one.names[part.column], one.ids[part.column]
        if name in other.names:
            return replace(part, column=other.names.index(name))
        # The structure was renamed, unless another one has its id.
        place = other.ids.index(id) if id in other.ids else None
        renamed = place is not None and other.names[place] not in one.names
        return replace(part, column=place) if renamed else None

    def prepare(self, part: Part) -> Generator[str | Findings, None, None]:
        """Prepare both sides, and find the distance between them.

        Yields messages, then the findings of `one`, which others look at, too. The other side and
        the comparison itself are not to be used before that.
        """
        if not self.other.is_current:
            self.other.found = yield from self.other.prepare()
        yield "Comparing the codes"
        found, theirs = self.one.relate(part), self.theirs(part)
        if self.same_codes and theirs is not None:
            self.other.usage(theirs)
        self._measure()
        yield found

    def _measure(self) -> None:
        """Find the distance between the two sides, and put it into words."""
        from l2gnet_core.inspect.codes import code_counts
        from l2gnet_core.inspect.populations import histogram_distance

        one, other = self.one.trace, self.other.trace
        if one.vectors.shape[1] != other.vectors.shape[1]:
            self.words = f"{self.name} cannot be compared: its codes are vectors of another length."
            return
        both = one.seen & other.seen if self.same_scan else None
        if both is not None and not both.any():
            self.words = f"{self.name} cannot be compared: no slice is segmented in both."
            return
        apart = histogram_distance(
            code_counts(one, both), code_counts(other, both), one.vectors, other.vectors
        )
        known = self.one.source.card.codes
        self.words = f"Compared with {self.name}, the codes used here {how_far(apart, known)}."
        if both is None and not (one.seen.all() and other.seen.all()):
            self.words += (
                " Not all slices are segmented, and parts of scans differ more than whole scans."
            )
        self.related = True

    def said(self, part: Part) -> str:
        """`words`, and which part is shown."""
        if not self.related:
            return self.words
        if not self.same_codes:
            return f"{self.words} Their codebooks differ: the charts cannot show both."
        if self.theirs(part) is not None:
            return f"{self.words} Purple bars: {self.name}."
        return (
            f"{self.words} To see both in the charts, choose under Part the volume, or an organ "
            "that both have."
        )


def how_far(apart: float, known: CodeStatistics | None) -> str:
    """A distance between two histograms of codes in words; known: the statistics in the card.

    Two phases of one heart lie nearer to each other than any training scan to the other patients'
    (`cardiac-cine`, 20 of 21), two people's scans do not (the bundled models, 881 of 882 pairs).
    """
    if known is None or not known.distances:
        return f"are at distance {apart:.3f} (0 = the same, 1 = the mean distance of two codes)"
    nearest, farthest = known.distances[0], known.distances[-1]
    limits = (
        (nearest / 4, "hardly differ"),
        (nearest, "differ a little"),
        (farthest, "differ clearly"),
    )
    words = next((words for limit, words in limits if apart <= limit), "differ strongly")
    return (
        f"{words}: distance {apart:.3f} (0 = the same; training scans lie {nearest:.3f} to "
        f"{farthest:.3f} from those of other patients)"
    )


class Against(QObject):
    """Keeps the list of what the chosen mask can be compared with, and compares."""

    #: There is another comparison, or none any more.
    changed = Signal()

    def __init__(
        self,
        state: InspectState,
        viewer: napari.Viewer,
        combo: QComboBox,
        label: QWidget,
        jobs: LatestJob,
        show_message: Callable[..., None],
    ) -> None:
        super().__init__(combo)
        #: None if nothing is compared, or codes cannot be compared one by one.
        self.comparison: Comparison | None = None
        #: Is a comparison under way? Another job would cancel it.
        self.pending = False
        self._state, self._viewer, self._combo, self._label = state, viewer, combo, label
        self._jobs, self._show_message = jobs, show_message
        #: The choice of a person. The list lacks it while it is the frame on screen.
        self._wanted: Other | None = None
        self._watched: list[Any] = []
        # Masks of runs under way have a trace after their first slice: list them, too.
        self._filling = QTimer(self, interval=400, singleShot=True)
        self._filling.timeout.connect(self.fill)
        combo.currentIndexChanged.connect(lambda _: self._on_chosen())

    @property
    def chosen(self) -> Other | None:
        """The choice in the list."""
        chosen: Other | None = self._combo.currentData()
        return chosen

    def follow(self) -> None:
        """Follow the masks in the viewer."""
        self.let_go()
        self._watched = [one for one in self._viewer.layers if SEGMENTATION_KEY in one.metadata]
        for layer in self._watched:
            layer.events.set_data.connect(self._fill_soon)
        self.fill()

    def let_go(self) -> None:
        """Disconnect from all masks."""
        self._filling.stop()
        for layer in self._watched:
            layer.events.set_data.disconnect(self._fill_soon)
        self._watched = []

    def _fill_soon(self, _: Any = None) -> None:
        self._filling.start()

    def fill(self) -> None:
        """Fill the list; the choice stays if it can."""
        layers, found = self._state.layers, []
        if layers is not None:
            found = comparable(self._viewer, layers.mask, layers.mask.here[0])
        combo, before = self._combo, self.chosen
        with QSignalBlocker(combo):
            combo.clear()
            combo.addItem("–", None)
            for other in found:
                combo.addItem(other.name, other)
            kept = next((n for n, other in enumerate(found, 1) if other.same_as(before)), 0)
            mine = None if layers is None else layers.mask.segmentation
            if self._wanted is not None and self._wanted.source is not mine:
                # A deleted mask must leave memory.
                self._wanted = next((one for one in found if one.same_as(self._wanted)), None)
            combo.setCurrentIndex(kept)
        for part in (combo, self._label):
            part.setVisible(bool(found))
        if kept == 0 and self.comparison is not None:
            self.compare()

    def side(self, part: Part) -> tuple[Inspection, Part] | None:
        """The other side and its part to compare with a part; None if there is none."""
        comparison = self.comparison
        theirs = None if comparison is None else comparison.theirs(part)
        return (comparison.other, theirs) if comparison and theirs else None

    def usage(self, part: Part) -> Usage | None:
        """The usage of the other side; None if there is none to compare with."""
        side = self.side(part)
        return None if side is None else side[0].usage(side[1])

    def forget(self, wanted: bool) -> None:
        """Drop the comparison: the mask is read anew. wanted: also what a person chose."""
        self.comparison, self.pending = None, False
        if wanted:
            self._wanted = None
        with QSignalBlocker(self._combo):
            self._combo.setCurrentIndex(0)

    def choose_wanted(self) -> None:
        """Compare again with what a person chose, if it is in the list."""
        for place in range(self._combo.count()):
            listed = self._combo.itemData(place)
            if listed is not None and listed.same_as(self._wanted):
                self._combo.setCurrentIndex(place)

    def _on_chosen(self) -> None:
        self._wanted = self.chosen
        self.compare()

    def compare(self) -> None:
        """Compare with what is chosen in the list."""
        inspection, chosen = self._state.inspection, self.chosen
        self.comparison, self.pending = None, False
        self._show_message("")
        if inspection is None or not inspection.is_current or chosen is None:
            self.changed.emit()
            return
        frame = inspection.frame if chosen.frame is None else chosen.frame
        comparison = Comparison(
            inspection, Inspection(chosen.source, frame), chosen.name, chosen.frame is None
        )
        if comparison.refusal:
            self._show_message(comparison.refusal)
            self.changed.emit()
            return

        def show(found: Findings) -> None:
            inspection.found = found
            self.pending = False
            self.comparison = comparison if comparison.same_codes else None
            self._show_message(comparison.said(self._state.part))
            self.changed.emit()

        self.pending = True
        self._jobs.run(comparison.prepare(self._state.part), show)
