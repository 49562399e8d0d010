"""Draws the code map, what a code hears, references or doubt over the image, in Inspect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject

from napari_l2gnet.inspect.form import CHANGED, CODES, DOUBT, HEARD, OTHER_CODES, REFERENCE
from napari_l2gnet.inspect.words import REFERENCES, SLICES

if TYPE_CHECKING:
    from napari_l2gnet.inspect.compare import Comparison
    from napari_l2gnet.inspect.widget import InspectWidget

_HINTS = {
    HEARD: "Choose a code first, to see its sources of information: click a voxel or a chart.",
    REFERENCE: "Choose a reference first: click a bar in the References tab.",
}


class Over(QObject):
    """Draws one picture at a time, as chosen by the list or the tab on top."""

    def __init__(self, widget: InspectWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        # Must something be drawn once the widget is in front again?
        self._waits = False
        widget.shown.currentIndexChanged.connect(lambda _: self.draw())
        widget.views.currentChanged.connect(self.show_tab)
        widget.views.reference_picked.connect(self.show_reference)
        widget.views.kind_chosen.connect(self._on_kind)
        widget.against.changed.connect(self._on_comparison)

    def show(self, shown: str) -> None:
        """Choose what lies over the image, and draw it."""
        self._widget.show_shown(shown)
        self.draw()

    def draw(self) -> None:
        """Draw what is chosen, or later if the widget is behind another tab: runs would wait for
        layers that are not seen."""
        widget, shown = self._widget, self._widget.shown.currentData()
        inspection, layers = widget.state.inspection, widget.state.layers
        self._waits = widget.state.is_aside
        if inspection is None or layers is None or self._waits:
            return
        view, comparison = "", widget.against.comparison
        if comparison is not None and not comparison.same_cells:
            comparison = None  # its cells do not lie on the image
        if shown == CODES:
            layers.show_codes(inspection)
            view = "codes"
        elif shown == OTHER_CODES and comparison is not None:
            layers.show_codes(comparison.other, f"code map of {comparison.name}")
            view = "codes"
        elif shown == CHANGED and comparison is not None:
            self._show_changed(comparison)
            view = "heat"
        elif shown == HEARD and widget.state.codes and inspection.has_plans:
            code = widget.state.codes[0]
            self._heat(f"sources of code {code + 1}", lambda index: inspection.heard(index, code))
            view = "heat"
        elif shown == REFERENCE and widget.views.reference is not None:
            reference = widget.views.reference
            name = f"mass sent to reference {reference + 1}"
            self._heat(name, lambda index: inspection.sent(index, reference))
            view = "heat"
        elif shown == DOUBT:
            self.study(self._show_doubt)
            return
        layers.show_only(view)
        if not view:
            widget.show_message(_HINTS.get(shown, ""))

    def catch_up(self) -> None:
        """Draw what was not drawn while the widget was behind another tab."""
        if self._waits:
            self.draw()

    def _heat(self, name: str, values: Callable[[int], Any]) -> None:
        """Draw cells (h,w) of every slice, from 1 (an even share) to nearly the largest on screen.

        values: the cells of a slice by its index.
        """
        widget = self._widget
        assert widget.state.inspection is not None
        assert widget.state.layers is not None
        frame = widget.state.inspection.frame

        def cells(of: int, index: int) -> Any:
            found = values(index)
            return found if of == frame else np.zeros_like(found)

        # Not the maximum: a single cell, often in an empty corner, would leave all others dark.
        top = float(np.percentile(values(widget.state.look.index), 98))
        widget.state.layers.show_heat(name, widget.state.inspection, cells, (1, top))

    def _show_changed(self, comparison: Comparison) -> None:
        """Draw the cells with different codes on the two sides."""
        widget, one, other = self._widget, comparison.one.trace, comparison.other.trace
        assert widget.state.layers is not None

        def changed(frame: int, index: int) -> Any:
            both = one.seen[index] and other.seen[index] and frame == comparison.one.frame
            differs = (one.codes[index] != other.codes[index]) & both
            return differs.astype(np.float32)

        name = f"cells changed from {comparison.name}"
        widget.state.layers.show_heat(name, comparison.one, changed, (0, 1))

    def _on_comparison(self) -> None:
        self.update_controls()
        if self._widget.shown.currentData() in (OTHER_CODES, CHANGED):
            self.show(CODES if self._why_not(OTHER_CODES) else self._widget.shown.currentData())

    def update_controls(self) -> None:
        """Enable what this model, and what it is compared with, have to show."""
        for key in (HEARD, REFERENCE, OTHER_CODES, CHANGED):
            self._widget.allow_shown(key, self._why_not(key))

    def _why_not(self, shown: str) -> str:
        """Why something cannot be shown, in a sentence; "" if it can."""
        inspection, comparison = self._widget.state.inspection, self._widget.against.comparison
        if shown in (HEARD, REFERENCE):
            no_plans = inspection is not None and not inspection.refusal
            no_plans = no_plans and not inspection.has_plans
            return "This model has codes, but no transport between them." if no_plans else ""
        if comparison is None:
            return "Under Compare, choose another model's mask of this scan first."
        if not comparison.same_cells:
            return "The cells of the two do not cover the same voxels."
        return ""

    def study(self, then: Callable[[], None]) -> None:
        """Find doubt of the chosen kind, in a thread if it is not known yet; then call `then`."""
        inspection, kind = self._widget.state.inspection, self._widget.views.kind.currentData()
        if inspection is None or kind is None:
            return
        if inspection.doubt(kind) is not None:
            then()
        else:
            self._widget.jobs.run(inspection.study(kind), lambda _: then())

    def _show_doubt(self) -> None:
        widget = self._widget
        self._waits = widget.state.is_aside
        if self._waits:
            return
        assert widget.state.inspection is not None
        assert widget.state.layers is not None
        doubt = widget.state.inspection.doubt(widget.views.kind.currentData())
        assert doubt is not None
        if widget.views.currentIndex() == SLICES:
            widget.views.draw()
        if widget.shown.currentData() == DOUBT:
            name = f"doubt: {widget.views.kind.currentText().lower()}"
            widget.state.layers.show_heat(name, widget.state.inspection, doubt.values, doubt.limits)
            widget.state.layers.show_only("heat")

    def show_tab(self, tab: int) -> None:
        """Draw the picture that belongs to a tab."""
        widget = self._widget
        if widget.state.inspection is None or widget.views.words is None:
            return
        if tab == REFERENCES and widget.views.reference is None:
            code = widget.state.codes[0] if widget.state.codes else None
            self.show_reference(int(widget.views.words.sent(code).argmax()))
        elif tab in (REFERENCES, SLICES):
            self.show(REFERENCE if tab == REFERENCES else DOUBT)
        else:
            self.show(HEARD if widget.state.codes and widget.state.inspection.has_plans else CODES)

    def show_reference(self, reference: int) -> None:
        """Draw which cells send their mass to a reference."""
        self._widget.views.reference = reference
        self._widget.views.choose(self._widget.state.codes)
        self.show(REFERENCE)

    def _on_kind(self) -> None:
        self._widget.places.forget()
        self._widget.update_controls()
        if self._widget.views.currentIndex() == SLICES:
            self._widget.show_shown(DOUBT)
        if self._widget.shown.currentData() == DOUBT:
            self.draw()
