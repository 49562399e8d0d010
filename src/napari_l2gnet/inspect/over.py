"""Draws the code map, the sources of a code, references or doubt over the image, in Inspect."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QSignalBlocker
from qtpy.QtWidgets import QComboBox

from napari_l2gnet.inspect.compare import Against, Comparison
from napari_l2gnet.inspect.form import CHANGED, CODES, DOUBT, HEARD, NOTHING, OTHER_CODES, REFERENCE
from napari_l2gnet.inspect.inspection import Findings
from napari_l2gnet.inspect.parts import DoubtMap
from napari_l2gnet.inspect.state import InspectState, Look
from napari_l2gnet.inspect.views import InspectViews
from napari_l2gnet.inspect.words import REFERENCES, SLICES
from napari_l2gnet.jobs.worker import LatestJob

_HINTS = {
    HEARD: "Choose a code first, to see its sources of information: click a voxel or a chart.",
    REFERENCE: "Choose a reference first: click a bar in the References tab.",
}


class Over(QObject):
    """Draws one picture at a time, as chosen by the list or the tab on top."""

    def __init__(
        self,
        state: InspectState,
        combo: QComboBox,
        views: InspectViews,
        against: Against,
        jobs: LatestJob,
        show_message: Callable[..., None],
    ) -> None:
        super().__init__(combo)
        self._state, self._combo, self._views, self._against = state, combo, views, against
        self._jobs, self._show_message = jobs, show_message
        # Must something be drawn once the widget is in front again?
        self._waits = False
        combo.currentIndexChanged.connect(lambda _: self.draw())
        views.currentChanged.connect(self.show_tab)
        views.reference_picked.connect(self.show_reference)
        against.changed.connect(self._on_comparison)

    @property
    def _shown(self) -> str:
        return str(self._combo.currentData())

    def _choose(self, shown: str) -> None:
        """Choose in the list what lies over the image, without drawing it."""
        with QSignalBlocker(self._combo):
            self._combo.setCurrentIndex(self._combo.findData(shown))

    def show(self, shown: str) -> None:
        """Choose what lies over the image, and draw it."""
        self._choose(shown)
        self.draw()

    def draw(self) -> None:
        """Draw what is chosen, or later if the widget is behind another tab: runs would wait for
        layers that are not seen."""
        look, shown = self._state.look, self._shown
        self._waits = self._state.is_aside
        if look is None or self._waits:
            return
        inspection, codes, reference = look.inspection, self._state.codes, self._views.reference
        view, comparison = "heat", self._against.comparison
        if comparison is not None and not comparison.same_cells:
            comparison = None  # its cells do not lie on the image
        if shown == CODES:
            look.layers.show_codes(inspection)
            view = "codes"
        elif shown == OTHER_CODES and comparison is not None:
            look.layers.show_codes(comparison.other, f"code map of {comparison.name}")
            view = "codes"
        elif shown == CHANGED and comparison is not None:
            self._show_changed(look, comparison)
        elif shown == HEARD and codes and inspection.has_plans:
            name, code = f"sources of code {codes[0] + 1}", codes[0]
            self._heat(look, name, lambda index: inspection.heard(index, code))
        elif shown == REFERENCE and reference is not None:
            name = f"mass sent to reference {reference + 1}"
            self._heat(look, name, lambda index: inspection.sent(index, reference))
        elif shown == DOUBT:
            self.study(self._show_doubt)
            return
        else:
            view = ""
        look.layers.show_only(view)
        if not view:
            self._show_message(_HINTS.get(shown, ""))

    def draw_codes(self) -> None:
        """Draw what belongs to the chosen codes, or to none, unless something else is shown."""
        look, shown = self._state.look, self._shown
        if not self._state.codes:
            if shown == HEARD:
                self._choose(CODES)
        elif shown in (CODES, NOTHING) and look is not None and look.inspection.has_plans:
            self._choose(HEARD)
        if self._shown in (HEARD, CODES):
            self.draw()

    def draw_slice(self) -> None:
        """Draw what depends on the slice on screen."""
        if self._shown in (HEARD, REFERENCE):
            self.draw()

    def draw_kind(self) -> None:
        """Draw another kind of doubt."""
        if self._views.currentIndex() == SLICES:
            self._choose(DOUBT)
        if self._shown == DOUBT:
            self.draw()

    def catch_up(self) -> None:
        """Draw what was not drawn while the widget was behind another tab; what is still being read
        is drawn at the end of that."""
        if self._waits and self._state.drawn:
            self.draw()

    def _heat(self, look: Look, name: str, values: Callable[[int], Any]) -> None:
        """Draw cells (h,w) of every slice, from 1 (an even share) to nearly the largest on screen.

        values: the cells of a slice by its index.
        """
        frame = look.inspection.frame

        def cells(of: int, index: int) -> Any:
            found = values(index)
            return found if of == frame else np.zeros_like(found)

        # Not the maximum: a single cell, often in an empty corner, would leave all others dark.
        top = float(np.percentile(values(look.index), 98))
        look.layers.show_heat(name, look.inspection, cells, (1, top))

    def _show_changed(self, look: Look, comparison: Comparison) -> None:
        """Draw the cells with different codes on the two sides."""
        one, other = comparison.one.trace, comparison.other.trace

        def changed(frame: int, index: int) -> Any:
            both = one.seen[index] and other.seen[index] and frame == comparison.one.frame
            differs = (one.codes[index] != other.codes[index]) & both
            return differs.astype(np.float32)

        name = f"cells changed from {comparison.name}"
        look.layers.show_heat(name, comparison.one, changed, (0, 1))

    def _on_comparison(self) -> None:
        self.update_controls()
        if self._shown in (OTHER_CODES, CHANGED):
            self.show(CODES if self._why_not(OTHER_CODES) else self._shown)

    def update_controls(self) -> None:
        """Enable what this model, and what it is compared with, have to show."""
        for shown in (HEARD, REFERENCE, OTHER_CODES, CHANGED):
            item, reason = (
                self._combo.model().item(self._combo.findData(shown)),
                self._why_not(shown),
            )
            item.setEnabled(not reason)
            item.setToolTip(reason)

    def _why_not(self, shown: str) -> str:
        """Why something cannot be shown, in a sentence; "" if it can."""
        inspection, comparison = self._state.inspection, self._against.comparison
        if shown in (HEARD, REFERENCE):
            no_plans = inspection is not None and not inspection.refusal
            no_plans = no_plans and not inspection.has_plans
            return "This model has codes, but no transport between them." if no_plans else ""
        if comparison is None:
            return "Under Compare, choose another model's mask of this scan first."
        if not comparison.same_cells:
            return "The cells of the two do not cover the same voxels."
        return ""

    def kind_drawn(self) -> str:
        """The kind of doubt that is drawn and stays drawn; "" if none is."""
        inspection = self._state.inspection
        if inspection is None or (self._views.currentIndex() != SLICES and self._shown != DOUBT):
            return ""
        kinds, chosen = list(inspection.kinds().values()), self._views.kind.currentData()
        return chosen if chosen in kinds else kinds[0]

    def study(self, then: Callable[[DoubtMap], None]) -> None:
        """Find doubt of the chosen kind, in a thread if it is not known yet, and hand it over."""
        inspection, kind = self._state.inspection, self._views.kind.currentData()
        if inspection is None or kind is None:
            return

        def studying() -> Generator[str | Findings, None, None]:
            yield (yield from inspection.study(kind, inspection.found))

        def hand_over(found: Findings) -> None:
            inspection.found = found
            then(found.doubts[kind])

        if (doubt := inspection.doubt(kind)) is not None:
            then(doubt)
        else:
            self._jobs.run(studying(), hand_over)

    def _show_doubt(self, doubt: DoubtMap) -> None:
        look = self._state.look
        self._waits = self._state.is_aside
        if look is None or self._waits:
            return
        if self._views.currentIndex() == SLICES:
            self._views.draw()
        if self._shown == DOUBT:
            name = f"doubt: {self._views.kind.currentText().lower()}"
            look.layers.show_heat(name, look.inspection, doubt.values, doubt.limits)
            look.layers.show_only("heat")

    def show_tab(self, tab: int) -> None:
        """Draw the picture that belongs to a tab."""
        inspection, words, codes = self._state.inspection, self._views.words, self._state.codes
        if inspection is None or words is None:
            return
        if tab == REFERENCES and self._views.reference is None:
            self.show_reference(int(words.sent(codes[0] if codes else None).argmax()))
        elif tab in (REFERENCES, SLICES):
            self.show(REFERENCE if tab == REFERENCES else DOUBT)
        else:
            self.show(HEARD if codes and inspection.has_plans else CODES)

    def show_reference(self, reference: int) -> None:
        """Draw which cells send their mass to a reference."""
        self._views.choose_reference(reference)
        self.show(REFERENCE)
