"""One scan as two models saw it, such as before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_l2gnet.annotation import ANNOTATION_KEY
from napari_l2gnet.inspect_parts import Part, Usage
from napari_l2gnet.inspection import Inspection, Source
from napari_l2gnet.mask_layer import IMAGE_KEY, SEGMENTATION_KEY, MaskLayer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from l2gnet_core.card import ModelCard
    from l2gnet_core.inspect.look import Look
    from napari_l2gnet.inspect import InspectWidget

#: Distances between two histograms of codes up to which one may say so.
_WORDS = ((0.02, "hardly differ"), (0.1, "differ a little"), (0.3, "differ clearly"))


@dataclass(frozen=True, eq=False)
class Seen:
    """What an earlier version of a model saw and answered; see `Source`."""

    card: ModelCard
    axis: int
    raw: NDArray[Any]
    looks: dict[int, Look]


def versions(mask: MaskLayer) -> list[tuple[str, Source]]:
    """Versions of the model, other than the one shown, that have segmented the mask's scan."""
    annotation, mine, found = mask.layer.metadata.get(ANNOTATION_KEY), mask.segmentation, []
    for number, version in enumerate(annotation.versions if annotation else ()):
        if number != mine.version and version.raw is not None and version.looks:
            card = mine.card if version.model is None else version.model.card
            seen = Seen(card, mine.axis, version.raw, version.looks)
            found.append((f"version {version.name}", seen))
    return found


def others(viewer: Any, mask: MaskLayer) -> list[tuple[str, Source]]:
    """Earlier versions of the mask's model, and other masks of the same scan, cut along the same
    axis, whose models left a look: names and what they saw."""
    image, mine, found = mask.layer.metadata.get(IMAGE_KEY), mask.segmentation, []
    for layer in viewer.layers:
        other = layer.metadata.get(SEGMENTATION_KEY)
        if other is None or other is mine or layer.metadata.get(IMAGE_KEY) is not image:
            continue
        if other.axis == mine.axis and other.looks:
            found.append((layer.name, other))
    return versions(mask) + found


@dataclass(eq=False)
class Comparison:
    """What two models saw of one frame. `words` says how far apart, once it is prepared."""

    one: Inspection
    other: Inspection
    name: str
    words: str = field(default="", init=False)

    @property
    def refusal(self) -> str:
        """Why there is nothing to compare, in one sentence; "" if there is."""
        return self.other.refusal

    @property
    def same_codes(self) -> bool:
        """Can codes be told apart one by one: are there as many, and the same structures?"""
        one, other = self.one, self.other
        alike = len(one.look.vectors) == len(other.look.vectors)
        return alike and one.names == other.names and one.has_plans == other.has_plans

    def prepare(self, part: Part) -> Generator[str, None, None]:
        """Work out what the other model's side needs, and the distance."""
        if not self.other.is_current:
            yield from self.other.prepare()
        yield "Comparing the codes"
        from l2gnet_core.inspect.codes import code_counts
        from l2gnet_core.inspect.populations import histogram_distance

        if self.same_codes:
            self.other.usage(part)
        one, other = self.one.look, self.other.look
        if one.vectors.shape[1] != other.vectors.shape[1]:
            self.words = (
                f"{self.name} has codes of another length: the two cannot be compared code by code."
            )
            return
        apart = histogram_distance(code_counts(one), code_counts(other), one.vectors, other.vectors)
        how = next((words for limit, words in _WORDS if apart <= limit), "differ strongly")
        self.words = (
            f"Against {self.name} the codes used here {how}: distance {apart:.3f} "
            "(0 = the same, 1 = as if drawn by chance)."
        )
        if not self.same_codes:
            self.words += " Their codebooks or organs differ: there are no charts of it."
        else:
            self.words += " Grey bars: the other model."


class Against(QObject):
    """The list of other models' masks of the same scan, and the comparison with the chosen one."""

    #: Another comparison, or none any more.
    changed = Signal()

    def __init__(self, widget: InspectWidget) -> None:
        super().__init__(widget)
        #: None where nothing is compared, or codes cannot be told apart one by one.
        self.comparison: Comparison | None = None
        self._widget = widget
        widget.compare.currentIndexChanged.connect(lambda _: self._choose())

    def fill(self) -> None:
        """Offer what there is; the choice stays where it can."""
        widget = self._widget
        found = [] if widget.layers is None else others(widget.viewer, widget.layers.mask)
        combo, before = widget.compare, widget.compare.currentData()
        combo.blockSignals(True)
        combo.clear()
        combo.addItem("–", None)
        for name, source in found:
            combo.addItem(name, source)
        raw = getattr(before, "raw", None)
        kept = next((n for n, (_, source) in enumerate(found, 1) if source.raw is raw), 0)
        combo.setCurrentIndex(kept)
        combo.blockSignals(False)
        for part in (combo, widget.compare_label):
            part.setVisible(bool(found))
        if kept == 0 and self.comparison is not None:
            self._choose()

    def usage(self, part: Part) -> Usage | None:
        """The other model's, if there is one to compare with."""
        return None if self.comparison is None else self.comparison.other.usage(part)

    def forget(self) -> None:
        """Another mask is looked into."""
        self.comparison = None
        self._widget.compare.blockSignals(True)
        self._widget.compare.setCurrentIndex(0)
        self._widget.compare.blockSignals(False)

    def _choose(self) -> None:
        widget, source = self._widget, self._widget.compare.currentData()
        self.comparison = None
        widget.show_message("")
        if widget.inspection is None or not widget.inspection.is_current or source is None:
            self.changed.emit()
            return
        other = Inspection(source, widget.inspection.frame)
        comparison = Comparison(widget.inspection, other, widget.compare.currentText())
        if comparison.refusal:
            widget.show_message(comparison.refusal)
            self.changed.emit()
            return

        def show(_: Any) -> None:
            self.comparison = comparison if comparison.same_codes else None
            widget.show_message(comparison.words)
            self.changed.emit()

        widget.jobs.run(comparison.prepare(widget.part), show)
