"""Which scan and slices the Segment widget would segment, how they lie, and why it cannot."""

from __future__ import annotations

from collections.abc import Sequence

from napari.layers import Image

from l2gnet_core.errors import InputError
from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.volume import Volume, slicing_axis
from l2gnet_core.segmenting.suitability import mismatches
from napari_l2gnet.scans.layers import axis_name, layer_message, volume_of
from napari_l2gnet.scans.orientation import as_given, is_asked_for
from napari_l2gnet.segment.form import RANGE, THIS_SLICE, SegmentForm
from napari_l2gnet.segment.what_to_segment import outward, place_shown, why_no_slice


class ScanChoice:
    """Reads the scan that a form has chosen, and shows which axes and slices it offers."""

    def __init__(self, form: SegmentForm) -> None:
        self._form = form
        #: The scan as its file says; None if there is none or it cannot be read.
        self.stored: Volume | None = None
        #: Why the scan cannot be segmented, in a sentence; "" if it can.
        self.refusal = ""
        #: Is that because it cannot be read?
        self.unreadable = False

    @property
    def volume(self) -> Volume | None:
        """The scan in the orientation that its file says, else in the one that a person gave."""
        layer = self._form.image.layer
        return None if layer is None else as_given(layer, volume_of(layer))

    def read(self) -> None:
        """The scan, the model or the orientation has changed: read the scan, ask about its
        orientation if the model needs it, and offer the axes to slice along."""
        form = self._form
        layer, card = form.image.layer, form.model.card
        self.stored, self.refusal = None, ""
        try:
            self.stored = None if layer is None else volume_of(layer)
        except InputError as error:
            self.refusal = str(error)
        self.unreadable = bool(self.refusal)
        asked = self.stored if self.stored and card and is_asked_for(card, self.stored) else None
        form.ask_orientation(layer, asked)
        if asked:
            self.refusal = form.orientation.problem
        volume = as_given(layer, self.stored) if layer and self.stored else None
        if volume is not None and card is not None and not self.refusal:
            names = [axis_name(volume, axis) for axis in range(3)]
            form.show_axes(names, slicing_axis(volume, card.slicing))
        else:
            form.show_axes()

    def offer_slices(self) -> list[str] | None:
        """Offer all slices along the chosen axis; returns warnings about the scan, or None if no
        axis is chosen."""
        form, volume, card = self._form, self.volume, self._form.model.card
        if volume is None or card is None or not form.axis.count():
            return None
        axis = form.axis.currentData()
        last = volume.shape[-3:][axis] - 1
        for box in (form.first, form.last):
            box.setMaximum(last)
        form.first.setValue(0)
        form.last.setValue(last)
        return [layer_message(one, form.image.layer) for one in mismatches(card, volume, axis)]

    def why_nowhere(self, layer: Image, axis: int) -> str:
        """Why there is no slice on screen, in a sentence, where that slice is to be segmented."""
        wanted = self._form.region.currentIndex() == THIS_SLICE
        return why_no_slice(layer, self._form.viewer.dims, axis) if wanted else ""

    def places(self, layer: Image, shape: Sequence[int], axis: int) -> list[SliceKey]:
        """The slices to segment, in order; shape: of the scan, (z,y,x) or (t,z,y,x)."""
        form = self._form
        here, region = place_shown(layer, form.viewer.dims, axis), form.region.currentIndex()
        if region == THIS_SLICE:
            return [here]
        indices = range(shape[-3:][axis])
        if region == RANGE:
            low, high = sorted((form.first.value(), form.last.value()))
            indices = indices[low : high + 1]
        return outward(here, shape[0] if len(shape) == 4 else 1, indices)
