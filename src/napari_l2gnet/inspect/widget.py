"""The Inspect widget: connects its helpers, and redraws when one says that something changed.

`InspectState` is what is looked at. Each helper works with it and with what its constructor names.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import QTimer

from l2gnet_core.errors import InputError
from napari_l2gnet.inspect.again import LookingAgain
from napari_l2gnet.inspect.assigning import Assigning
from napari_l2gnet.inspect.click import Clicks
from napari_l2gnet.inspect.compare import Against
from napari_l2gnet.inspect.export import ask_file, save_picture, save_table
from napari_l2gnet.inspect.form import CODES, DOUBT, InspectForm
from napari_l2gnet.inspect.inspection import Findings, Inspection
from napari_l2gnet.inspect.layers import InspectLayers
from napari_l2gnet.inspect.over import Over
from napari_l2gnet.inspect.places import Places
from napari_l2gnet.inspect.reading import Reading
from napari_l2gnet.inspect.state import SLICE, InspectState, Look
from napari_l2gnet.inspect.words import REFERENCES, SLICES
from napari_l2gnet.jobs.worker import LatestJob
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.scans.file_suffix import ended
from napari_l2gnet.scans.layers import active_layer
from napari_l2gnet.widgets.visibility import bring_into_view, hidden_message


class InspectWidget(InspectForm):
    """Click a voxel or a chart: see what the model saw and where it is unsure, and correct it."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer)
        self.state = InspectState()
        self.jobs = LatestJob(self)
        self.looking = LookingAgain(self.state, self.again, self.bar, self.show_message)
        self.clicks = Clicks(
            self.state, self.viewer, self.click, self.show_message, self.tell_unseen
        )
        self.against = Against(
            self.state, self.viewer, self.compare, self.compare_label, self.jobs, self.show_message
        )
        self.over = Over(
            self.state, self.shown, self.views, self.against, self.jobs, self.show_message
        )
        self.places = Places(self.state, self, self.over, self.jobs, self.bring_into_view)
        self.assigning = Assigning(self.state, self, self.over, self.jobs, self.tell_unseen)
        self.reading = Reading(self.state, self, self.jobs, self.looking, self.over)
        self._behind = False
        # Steps of the slider are handled together: only the last is drawn.
        self._moving = QTimer(self, interval=0, singleShot=True)
        # Waits until all layers that are removed together are gone.
        self._leaving = QTimer(self, interval=0, singleShot=True)
        self._connect()
        self.show_theme()
        self._on_active()
        self.reading.read()

    def _connect(self) -> None:
        self._moving.timeout.connect(self._on_moved)
        self._leaving.timeout.connect(self._on_left)
        self.jobs.changed.connect(self.update_controls)
        self.jobs.progress.connect(self.bar.setFormat)
        self.jobs.failed.connect(lambda text: self.show_message(text, bad=True))
        self.looking.jobs.changed.connect(self.update_controls)
        self.looking.changed.connect(self.reading.read)
        self.reading.begun.connect(self._on_begun)
        self.reading.recolored.connect(self._on_colors)
        self.reading.done.connect(self._on_read)
        self.reading.refused.connect(self.update_controls)
        self.clicks.picked.connect(lambda code, voxel: self.choose([code], voxel))
        self.against.changed.connect(self.draw)
        self.places.changed.connect(self.update_controls)
        self.assigning.changed.connect(self.update_controls)
        self.assigning.dropped.connect(lambda: self.choose(self.codes, self.state.voxel, go=False))
        self.seen.connect(self._on_seen)
        self.mask_combo.chosen.connect(self._on_chosen)
        self.mask_combo.activated.connect(lambda _: self._on_picked())
        self.of.currentIndexChanged.connect(lambda _: self.show_part())
        self.clear.clicked.connect(lambda: self.choose([]))
        self.go_on.clicked.connect(self.reading.read)
        self.outline.toggled.connect(self._on_outline)
        self.cancel.clicked.connect(self.reading.cancel)
        self.views.codes_picked.connect(self.choose)
        self.views.kind_chosen.connect(self._on_kind)
        self.views.slice_picked.connect(self._on_slice_picked)
        for button, suffix in ((self.png, ".png"), (self.csv, ".csv")):
            button.clicked.connect(lambda _, suffix=suffix: ask_file(self, suffix, self.save))
        for event, act in self._viewer_events():
            event.connect(act)

    def _viewer_events(self) -> list[tuple[Any, Any]]:
        viewer = self.viewer
        return [
            (viewer.dims.events.current_step, self._on_step),
            (viewer.layers.events.inserted, self._on_others),
            (viewer.layers.events.renamed, self._on_others),
            (viewer.layers.events.removed, self._on_removed),
            (viewer.layers.selection.events.active, self._on_active),
        ]

    def let_go(self) -> None:
        """Disconnect from the viewer; hide the layers, which the user may remove."""
        self.jobs.cancel()
        self.looking.cancel()
        self.reading.let_go()
        self.against.let_go()
        self._moving.stop()
        self._leaving.stop()
        self.mask_combo.disconnect_layers()
        self.clicks.let_go()
        for emitter, act in self._viewer_events():
            emitter.disconnect(act)

    def _on_seen(self, seen: bool) -> None:
        """Hide the layers while the widget is out of sight, and show them again."""
        came, self.state.is_aside = seen and self._behind, not seen
        # A minimised window or floating dock does not count: the user did not change the tab.
        self._behind = not seen and self.is_behind
        if self.layers is not None and not self.state.is_gone:
            self.layers.set_aside(self.state.is_aside or self.inspection is None)
            self.clicks.lay_tools_down(came and self.click.isChecked())
            self.over.catch_up()
            self.reading.make_layers()

    def tell_again(self) -> None:
        """Drop the message if it does not hold any more."""
        self.drop_message()

    def show_theme(self) -> None:
        """Take on the colours of the window."""
        super().show_theme()
        theme = get_theme(self.viewer.theme)
        self.views.theme(theme.background.as_hex(), theme.text.as_hex())

    # ------------------------------------------------------------------ mask and part

    @property
    def layers(self) -> InspectLayers | None:
        """The layers of the chosen mask; None without one."""
        return self.state.layers

    @property
    def inspection(self) -> Inspection | None:
        """What the model saw of the frame on screen; None if there is nothing to see."""
        return self.state.inspection

    @property
    def codes(self) -> list[int]:
        """The chosen codes."""
        return self.state.codes

    def _on_begun(self, another: bool) -> None:
        """Clear what is drawn."""
        self.places.forget()
        self.assigning.forget()
        self.against.forget(wanted=another)
        self.views.show_inspection(None)
        self.show_message("")
        self.against.follow()

    def _on_read(self) -> None:
        """Draw everything that was read."""
        if (look := self.state.look) is None:
            return
        self.show_parts(look.inspection.names)
        self.views.colors = look.layers.mask.colors()
        self.views.show_inspection(look.inspection)
        self.assigning.offer(look.inspection)
        look.layers.outline(self.outline.isChecked())
        look.layers.renew(look.inspection)
        look.layers.set_aside(self.state.is_aside)
        self.over.show(DOUBT if self.over.kind_drawn() else CODES)
        codes, self.state.wanted = self.state.wanted, []
        self.show_part()
        if codes:
            self.choose(codes, go=False)
        if self.views.currentIndex() == REFERENCES:
            self.over.show_tab(REFERENCES)
        self.against.choose_wanted()
        if self.against.chosen is None and look.inspection.is_unlike:
            text, *_, holds = self._told
            warning = (
                "This scan is unlike those that the model learnt from: check the mask with care."
            )
            self.show_message(text, beware=[warning], holds=holds)
        self.update_controls()

    def draw(self) -> None:
        """Draw the charts of the chosen part, and describe the chosen codes."""
        look, part = self.state.look, self.state.part
        if look is None or not self.state.is_current:
            return
        self.views.index = look.index
        self.views.show_part(look.inspection, part, self.against.usage(part))
        self._tell()

    def show_part(self) -> None:
        """Draw another part of the scan, or compare it first."""
        self.state.of = self.of.currentData()
        if self.inspection is None:
            return
        self.assigning.drop()
        if self.against.pending:
            self.against.compare()
            return
        part = self.state.part
        if self.against.comparison is not None:
            self.show_message(self.against.comparison.said(part))
        sides = ((self.inspection, part), self.against.side(part))
        wanted = [side for side in sides if side is not None]

        def relate() -> Generator[str | list[Findings], None, None]:
            found = []
            for one, part in wanted:
                yield "Computing code relations"
                found.append(one.relate(part))
            yield found

        def draw(found: list[Findings]) -> None:
            for (one, _), findings in zip(wanted, found, strict=True):
                one.found = findings
            self.draw()

        if all(one.has_usage(part) for one, part in wanted):
            self.draw()
        else:
            self.jobs.run(relate(), draw)

    # ------------------------------------------------------------------ what the viewer tells

    def _on_step(self, _: Any = None) -> None:
        self._moving.start()

    def _on_moved(self) -> None:
        """Another slice or frame is on screen."""
        layers, look = self.layers, self.state.look
        if layers is None or self.state.is_gone:
            return
        if look is None or look.inspection.frame != layers.mask.here[0]:
            if len(layers.mask.segmentation.shown) > 1:
                self.reading.read()
        elif self.state.is_current:
            self.views.index = look.index
            if self.state.of == SLICE:
                self.draw()
            elif self.views.currentIndex() == SLICES:
                self.views.choose(self.codes)
            self.over.draw_slice()

    def _on_colors(self) -> None:
        if (look := self.state.look) is not None:
            self.views.colors = look.layers.mask.colors()
            self.draw()

    def _on_active(self, _: Any = None) -> None:
        if self.layers is not None and self.layers.inserting:
            return
        # Choose the mask that a person selects.
        active = active_layer(self.viewer)
        if active is not self.mask_combo.layer and active in self.mask_combo:
            self.mask_combo.choose(active)

    def _on_chosen(self) -> None:
        if self.state.is_gone:
            self._leaving.start()
        else:
            self.reading.read()

    def _on_picked(self) -> None:
        """A person chose a mask in the list: select it in the viewer, too."""
        self.viewer.layers.selection.active = self.mask_combo.layer
        self.bring_into_view(alone=True)
        # Its layers may have been hidden together with it.
        if self.state.drawn:
            self.over.draw()

    def _on_others(self, _: Any = None) -> None:
        self.against.follow()

    def _on_removed(self, _: Any = None) -> None:
        self._leaving.start()

    def _on_left(self) -> None:
        """Layers were removed: if the mask was, read another one."""
        if self.state.is_gone:
            self.reading.read()
        self.against.follow()

    # ------------------------------------------------------------------ choosing codes

    def tell_unseen(self, why: Callable[[MaskLayer], str]) -> bool:
        """Say why something of the mask is not seen, while that holds; False if all is seen."""
        if self.layers is None or not (unseen := why(self.layers.mask)):
            return False
        mask, way = self.layers.mask, "choose the mask under Mask to bring it into view"
        self.show_message(f"{unseen}: {way}.", holds=lambda: why(mask) == unseen)
        return True

    def bring_into_view(self, alone: bool = False) -> None:
        """Show the mask, and add to the message which layers are hidden for that.

        alone: as in `visibility.bring_into_view`.
        """
        if self.layers is None:
            return
        mask = self.layers.mask
        if hidden := bring_into_view(mask, alone):
            text, bad, beware, _ = self._told
            text = f"{text} {hidden_message(mask, hidden)}".lstrip()
            self.show_message(text, bad, beware, lambda: not any(one.visible for one in hidden))

    def choose(
        self,
        codes: Sequence[int],
        voxel: tuple[int, int, int, int] | None = None,
        go: bool = True,
    ) -> None:
        """Light up all voxels of one code, or of the two codes of a cell of the plan; [] clears.

        voxel: (frame,z,y,x) of the click, None without one. go: also go to a slice with the code.
        """
        if (look := self.state.look) is None:
            return
        codes = self.state.codes = list(dict.fromkeys(codes))
        self.state.voxel = voxel
        self.assigning.forget()
        self.show_message("")
        if codes:
            if go and voxel is None:
                self.bring_into_view()
                if not np.isin(look.inspection.trace.codes[look.index], codes[:1]).any():
                    self._to_slice(look, look.inspection.busiest_slice(codes[:1]))
            look.layers.light_cells(look.inspection.frame, look.inspection, codes)
        else:
            look.layers.darken()
        self.over.draw_codes()
        self.views.choose(codes)
        self._tell()
        self.update_controls()

    def _to_slice(self, look: Look, index: int) -> None:
        frame, *voxel = look.layers.mask.here
        voxel[look.layers.mask.segmentation.axis] = index
        look.layers.mask.go_to_voxel(frame, voxel)

    def _on_slice_picked(self, index: int) -> None:
        if (look := self.state.look) is not None:
            self._to_slice(look, index)
            self.bring_into_view()

    def _on_kind(self) -> None:
        """Another kind of doubt is chosen."""
        self.places.forget()
        self.update_controls()
        self.over.draw_kind()

    def _on_outline(self, on: bool) -> None:
        if (look := self.state.look) is not None:
            look.layers.outline(on)

    def _tell(self) -> None:
        """Describe the chosen codes."""
        if self.views.words is not None:
            self.told.setText(self.views.words.tell_chosen(self.codes))

    def save(self, path: Path, suffix: str) -> None:
        """Write the tab on top: a picture with the canvas beside it (".png"), or a table (".csv").

        An error is shown in the widget.
        """
        try:
            path = ended(path, [suffix], suffix)
            if suffix == ".csv":
                save_table(path, *self.views.table())
            else:
                canvas = self.viewer.screenshot(canvas_only=True, flash=False)
                save_picture(path, canvas, self.views.currentWidget())
        except InputError as error:
            self.show_message(str(error), bad=True)
        else:
            self.show_message(f"Saved {path.name}.")

    # ------------------------------------------------------------------ controls

    def update_controls(self) -> None:
        """Enable what can be done now; disabled controls say why."""
        busy, looking = self.jobs.busy, self.looking.jobs.busy
        self.bar.setVisible(busy or looking)
        self.cancel.setVisible(busy or looking)
        reason = self.reading.refusal or (
            "" if self.state.is_current else "What the model saw is being read."
        )
        self.views.setEnabled(not reason)
        for control in (self.of, self.shown, self.compare, self.click, self.outline):
            self.allow(control, reason)
        for control in (self.png, self.csv):
            self.allow(control, reason)
        self.allow(self.again, "The model is being run again." if looking else "")
        self.over.update_controls()
        self.allow(self.mask_combo, "" if self.mask_combo.count() else self.reading.refusal)
        self.allow(self.clear, reason or ("" if self.codes else "No code is highlighted."))
        self.places.update_controls(reason, busy)
        self.assigning.update_controls(reason, busy)
