"""Follows the chosen mask, in Inspect, and reads what its model saw of the frame on screen."""

from __future__ import annotations

from collections.abc import Generator
from html import escape
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.inspect.again import LookingAgain
from napari_l2gnet.inspect.form import InspectForm
from napari_l2gnet.inspect.inspection import Findings, inspection_of
from napari_l2gnet.inspect.layers import InspectLayers
from napari_l2gnet.inspect.over import Over
from napari_l2gnet.inspect.state import InspectState
from napari_l2gnet.jobs.worker import LatestJob
from napari_l2gnet.masks.layer import MaskLayer

#: Milliseconds without news after which slices that a run has added are read.
_QUIET = 400
#: Milliseconds between making two layers.
_BETWEEN_LAYERS = 50


class Reading(QObject):
    """Reads the chosen mask in a thread, and reads again what is added later."""

    #: What is drawn is out of date. Emits whether another mask is chosen.
    begun = Signal(bool)
    #: Everything is read and can be drawn.
    done = Signal()
    #: There is nothing to see, or reading was stopped: `refusal` says why.
    refused = Signal()
    #: The mask has other colours.
    recolored = Signal()

    def __init__(
        self,
        state: InspectState,
        form: InspectForm,
        jobs: LatestJob,
        looking: LookingAgain,
        over: Over,
    ) -> None:
        super().__init__(form)
        self._state, self._form, self._jobs = state, form, jobs
        self._looking, self._over = looking, over
        #: Why there is nothing to see, in a sentence; "" if there is.
        self.refusal = ""
        # A run may add slices while the widget is open: they are read when the run pauses.
        self._changing = QTimer(self, interval=_QUIET, singleShot=True)
        self._changing.timeout.connect(self._read_again)
        # Layers that a click will need are made one by one; the window draws in between.
        self._making = QTimer(self, interval=_BETWEEN_LAYERS, singleShot=True)
        self._making.timeout.connect(self.make_next)

    def let_go(self) -> None:
        """Hide the layers and disconnect from the mask; read and make nothing any more."""
        if self._state.layers is not None:
            self._state.layers.set_aside(True)
        self.follow(None)
        self._changing.stop()
        self._making.stop()

    def follow(self, mask: MaskLayer | None) -> None:
        """Look into this mask from now on."""
        layers, viewer = self._state.layers, self._form.viewer
        if layers is not None:
            # Also for a removed layer: undo may bring it back.
            events = layers.mask.layer.events
            for event in (events.set_data, events.features):
                event.disconnect(self._on_data)
            events.colormap.disconnect(self._on_colors)
            layers.outline(False)
        layers = None if mask is None else InspectLayers(viewer, mask)
        self._state.take(layers)
        self._form.beware_unsaved(None if mask is None else annotation_of(mask))
        if layers is not None:
            layers.set_aside(self._state.is_aside)
            events = layers.mask.layer.events
            for event in (events.set_data, events.features):
                event.connect(self._on_data)
            events.colormap.connect(self._on_colors)

    def _on_data(self, _: Any = None) -> None:
        # Emitted at every redraw of the mask: slices or organs may have been added, or undo may
        # have made the message wrong.
        self._form.drop_message()
        if not self._state.is_current:
            self._changing.start()

    def _on_colors(self, _: Any = None) -> None:
        self.recolored.emit()

    def make_layers(self) -> None:
        """Make the layers that a click will need, one by one."""
        self._making.start()

    def read(self) -> None:
        """Read what the model of the chosen mask saw of the frame on screen."""
        self._take_mask()
        state, form, layers = self._state, self._form, self._state.layers
        self.refusal = "Press Segment first: there is no mask to inspect yet."
        self._looking.withdraw()
        form.go_on.hide()
        if layers is not None:
            inspection = inspection_of(layers.mask, layers.mask.here[0])
            self.refusal = inspection.refusal
            if not self.refusal:
                state.inspection = inspection
            elif inspection.forgotten:
                self.refusal = self._looking.offer(layers.mask, inspection)
        form.told.setText(escape(self.refusal))
        form.views.setVisible(not self.refusal)
        form.nothing.setVisible(bool(self.refusal))
        if (look := state.look) is None:
            if layers is not None:
                # Hidden, not removed: adding them again at the next frame would take long.
                layers.set_aside(True)
            self.refused.emit()
            return
        inspection, kind = look.inspection, self._over.kind_drawn()

        def reading() -> Generator[str | Findings, None, None]:
            found = inspection.found
            if not inspection.is_current:
                found = yield from inspection.prepare()
            if kind and kind not in found.doubts:
                found = yield from inspection.study(kind, found)
            yield found

        def end(found: Findings) -> None:
            inspection.found = found
            self._end()

        if inspection.is_current and (not kind or inspection.doubt(kind) is not None):
            self._end()
        else:
            self._jobs.run(reading(), end)

    def _take_mask(self) -> None:
        """Take the chosen mask, and forget what was read of it or of another one."""
        layers, layer = self._state.layers, self._form.mask_combo.layer
        another = layers is None or layers.mask.layer is not layer
        if another:
            if layers is not None:
                layers.remove()
            self.follow(None if layer is None else MaskLayer(self._form.viewer, layer))
            self._looking.cancel()
        self._jobs.cancel()
        self._state.forget()
        self.begun.emit(another)

    def _end(self) -> None:
        self._state.drawn = True
        self._making.start()
        self.done.emit()
        if not self._state.is_current:
            # Slices that a run adds off screen emit no event.
            self._changing.start()

    def make_next(self) -> None:
        """Make the next layer that a click will need."""
        look = self._state.look
        # No click needs a layer while another tab is in front.
        if look is None or not self._state.drawn or self._state.is_aside:
            return
        # A new run may have begun, or another frame may be on screen.
        if self._state.is_gone or look.inspection.refusal:
            return
        if look.layers.make_next(look.inspection):
            self._making.start()

    def _read_again(self) -> None:
        if self._state.is_current:
            return
        if self._jobs.busy:
            # The job under way may read what was there before the change.
            self._changing.start()
        else:
            self.read()

    def cancel(self) -> None:
        """Stop what is under way; the rest can be read later."""
        state = self._state
        self._jobs.cancel()
        self._looking.cancel()
        self._changing.stop()
        if state.inspection is None:
            self.read()
        # Everything may be read already but not drawn yet.
        if state.inspection is not None and not (state.is_current and state.drawn):
            self.refusal = "Stopped: press Go on to read what the model saw."
            self._form.told.setText(self.refusal)
            self._form.go_on.show()
            self.refused.emit()
