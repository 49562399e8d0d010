"""Reading, in Inspect, what the model of a mask saw, and bringing all that is drawn up to date."""

from __future__ import annotations

from collections.abc import Generator
from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

from napari_l2gnet.inspect.form import CODES, DOUBT
from napari_l2gnet.inspect.inspection import inspection_of
from napari_l2gnet.inspect.words import REFERENCES
from napari_l2gnet.masks.layer import MaskLayer

if TYPE_CHECKING:
    from napari_l2gnet.inspect.widget import InspectWidget

#: Milliseconds without news after which slices that a run has added are read.
_QUIET = 400
#: Percent of the training scans that must be nearer to the others than a scan that is warned about.
_UNLIKE_PERCENTILE = 97.5
#: Milliseconds between making two layers.
_BETWEEN_LAYERS = 50


class Reading(QObject):
    """Reads the chosen mask in a thread and then draws it; reads again what is added later."""

    def __init__(self, widget: InspectWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        #: Why there is nothing to see, in a sentence; "" if there is.
        self.refusal = ""
        # Runs go on while one looks: what they add is read when they pause.
        self._changing = QTimer(self, interval=_QUIET, singleShot=True)
        self._changing.timeout.connect(self._read_again)
        # Layers that a click will need are made one by one; the window draws in between.
        self._making = QTimer(self, interval=_BETWEEN_LAYERS, singleShot=True)
        self._making.timeout.connect(self.make_next)

    def stop(self) -> None:
        """Read and make nothing any more."""
        self._changing.stop()
        self._making.stop()

    def read_soon(self) -> None:
        """Read once nothing is added for a moment."""
        self._changing.start()

    def make_layers(self) -> None:
        """Make the layers that a click will need, one by one."""
        self._making.start()

    def read(self) -> None:
        """Read what the model of the chosen mask saw of the frame on screen, and draw it."""
        widget = self._widget
        self._follow_mask()
        self._clear()
        self.refusal = "Press Segment first: there is no mask to inspect yet."
        widget.again.hide()
        widget.go_on.hide()
        if widget.state.layers is not None:
            widget.state.inspection = inspection_of(
                widget.state.layers.mask, widget.state.layers.mask.here[0]
            )
            self.refusal = widget.state.inspection.refusal
            if self.refusal and widget.state.inspection.forgotten:
                self.refusal = widget.looking.offer(
                    widget.state.layers.mask, widget.state.inspection
                )
        widget.told.setText(escape(self.refusal))
        widget.views.setVisible(not self.refusal)
        widget.nothing.setVisible(bool(self.refusal))
        if self.refusal or widget.state.inspection is None:
            widget.state.inspection = None
            if widget.state.layers is not None:
                # Hidden, not removed: adding them again at the next frame would take long.
                widget.state.layers.set_aside(True)
            widget.update_controls()
            return
        inspection, kind = widget.state.inspection, widget.over.kind_drawn()

        def reading() -> Generator[str, None, None]:
            if not inspection.is_current:
                yield from inspection.prepare()
            if kind and inspection.doubt(kind) is None:
                yield from inspection.study(kind)

        if widget.state.is_current and (not kind or inspection.doubt(kind) is not None):
            self._show()
        else:
            widget.jobs.run(reading(), lambda _: self._show())

    def _follow_mask(self) -> None:
        """Take the chosen mask; codes stay chosen where it is the same one."""
        widget, layer = self._widget, self._widget.mask_combo.layer
        if widget.state.layers is None or widget.state.layers.mask.layer is not layer:
            if widget.state.layers is not None:
                widget.state.layers.remove()
            widget.follow(None if layer is None else MaskLayer(widget.viewer, layer))
            widget.looking.jobs.cancel()
            widget.against.forget_wanted()

    def _clear(self) -> None:
        """Forget what has been read."""
        widget = self._widget
        widget.jobs.cancel()
        widget.state.forget()
        for part in (widget.places, widget.assigning, widget.against):
            part.forget()
        widget.views.show_inspection(None)
        widget.show_message("")
        widget.against.follow()

    def _show(self) -> None:
        """Draw what was read."""
        widget = self._widget
        assert widget.state.inspection is not None
        assert widget.state.layers is not None
        widget.state.drawn = True
        widget.show_parts(widget.state.inspection.names)
        widget.views.colors = widget.state.layers.mask.colors()
        widget.views.show_inspection(widget.state.inspection)
        widget.assigning.offer(widget.state.inspection)
        widget.state.layers.outline(widget.outline.isChecked())
        widget.state.layers.renew(widget.state.inspection)
        widget.state.layers.set_aside(widget.state.is_aside)
        self._making.start()
        widget.over.show(DOUBT if widget.over.kind_drawn() else CODES)
        codes, widget.state.wanted = widget.state.wanted, []
        widget.show_part()
        if codes:
            widget.choose(codes, go=False)
        if widget.views.currentIndex() == REFERENCES:
            widget.over.show_tab(REFERENCES)
        widget.against.choose_wanted()
        unlike = widget.state.inspection.unlike
        if (
            widget.against.chosen is None
            and unlike is not None
            and (unlike.percentile or 0) >= 97.5
        ):
            widget.warn_beside(
                "This scan is unlike those that the model learnt from: check the mask with care."
            )
        widget.update_controls()
        if not widget.state.is_current:
            # No event tells of slices that came off screen while the others were read.
            self._changing.start()

    def make_next(self) -> None:
        """Make the next layer that a click will need."""
        widget = self._widget
        # No click needs a layer while another tab is in front.
        if (
            widget.state.layers is None
            or widget.state.inspection is None
            or not widget.state.drawn
            or widget.state.is_aside
        ):
            return
        # A new run may have begun, or another frame may be on screen.
        if widget.state.is_gone or widget.state.inspection.refusal:
            return
        if widget.state.layers.make_next(widget.state.inspection):
            self._making.start()

    def _read_again(self) -> None:
        widget = self._widget
        if widget.state.is_current:
            return
        if widget.jobs.busy:
            # The job under way may read what was there before the change.
            self._changing.start()
        else:
            self.read()

    def cancel(self) -> None:
        """Stop what is under way; the rest can be read later."""
        widget = self._widget
        widget.jobs.cancel()
        widget.looking.jobs.cancel()
        self._changing.stop()
        if widget.state.inspection is None:
            self.read()
        # Everything may be read already but not drawn yet.
        if widget.state.inspection is not None and not (
            widget.state.is_current and widget.state.drawn
        ):
            self.refusal = "Stopped: press Go on to read what the model saw."
            widget.told.setText(self.refusal)
            widget.go_on.show()
            widget.update_controls()
