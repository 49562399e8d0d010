"""Steps through places to look at, and assigns voxels to another organ, in Inspect."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QSignalBlocker

from l2gnet_core.errors import InputError
from napari_l2gnet.annotating.preview import shows_proposal
from napari_l2gnet.annotating.tasks import annotation_of, scan_of
from napari_l2gnet.inspect.form import DOUBT, NOTHING, PIECE
from napari_l2gnet.inspect.inspection import Inspection
from napari_l2gnet.inspect.state import SLICE
from napari_l2gnet.widgets.visibility import why_unseen

if TYPE_CHECKING:
    from l2gnet_core.inspect.similar import Region
    from napari_l2gnet.inspect.widget import InspectWidget


UNSURE, LIKE = "unsure place", "place like this"
_ALL_SETTLED = {
    UNSURE: "You have accepted or painted every place where the model is unsure.",
    LIKE: "You have accepted or painted every place like this.",
}


class Places(QObject):
    """A ranked list of places, unsure ones or those like a marked one, and the current place."""

    def __init__(self, widget: InspectWidget) -> None:
        super().__init__(widget)
        self.found: list[Region] = []
        self.at = -1
        self._widget = widget
        self._what = ""
        #: Marks that a search was for; what is painted later counts instead of them.
        self._searched: NDArray[np.bool_] | None = None
        widget.unsure.clicked.connect(self.next_unsure)
        widget.mark.clicked.connect(self.mark)
        widget.similar.clicked.connect(self.find_similar)
        widget.back.clicked.connect(lambda: self.step(-1))
        widget.forward.clicked.connect(lambda: self.step(1))

    def forget(self) -> None:
        """Empty the list: it is of another mask or kind of doubt."""
        self.found, self.at, self._what = [], -1, ""

    def next_unsure(self) -> None:
        """Go to the least sure place, or on to the next one."""
        if self._what == UNSURE:
            self.step(1)
        else:
            self._widget.over.study(self._start_unsure)

    def _start_unsure(self) -> None:
        inspection = self._widget.state.inspection
        assert inspection is not None
        doubt = inspection.doubt(self._widget.views.kind.currentData())
        assert doubt is not None
        self._start(UNSURE, doubt.places, "There is no unsure place by this measure of doubt.")

    def _decided(self, region: Region, frame: int) -> bool:
        """Has a person accepted the slice of a region, or painted most of it?"""
        assert self._widget.state.layers is not None
        segmentation = self._widget.state.layers.mask.segmentation
        if (frame, region.index) in segmentation.reviewed:
            return True
        theirs = segmentation.by_person_in((frame, *region.box))
        return bool(theirs[region.voxels].mean() > 0.5)

    def _start(self, what: str, found: Sequence[Region], nothing: str, about: str = "") -> None:
        inspection = self._widget.state.inspection
        assert inspection is not None
        self.forget()
        # Places that a person accepted or painted are settled.
        open_ones = [place for place in found if not self._decided(place, inspection.frame)]
        if settled := len(found) - len(open_ones):
            nothing = _ALL_SETTLED[what]
            which = "place" if settled == 1 else "places"
            are = "is" if settled == 1 else "are"
            about = f"{about} {settled} {which} that you accepted or painted {are} left out."
            about = about.lstrip()
        if not open_ones:
            self._widget.show_message(nothing)
            self._widget.update_controls()
            return
        self._what, self.found = what, open_ones
        self._widget.over.show(DOUBT if what == UNSURE else NOTHING)
        self._widget.show_message(about)
        self.step(1)

    def step(self, by: int) -> None:
        """Go on in the list, or back (by < 0), to a place that no person has settled."""
        layers, inspection = self._widget.state.layers, self._widget.state.inspection
        if layers is None or inspection is None or not self.found:
            return
        count = len(self.found)
        steps = ((self.at + by * n) % count for n in range(1, count + 1))
        # Places may have been accepted or painted since the search.
        unsettled = (at for at in steps if not self._decided(self.found[at], inspection.frame))
        at = next(unsettled, None)
        if at is None:
            layers.darken()
            self._widget.show_message(_ALL_SETTLED[self._what])
            return
        self.at, region = at, self.found[at]
        middle = [(part.start + part.stop - 1) / 2 for part in region.box]
        if self._widget.viewer.dims.ndisplay == 3:
            # In the 3-D view, nothing can be clicked or painted.
            layers.mask.go_to_place((inspection.frame, region.index))
        layers.mask.go_to_voxel(inspection.frame, middle, center=True)
        layers.light_region(inspection.frame, region)
        self._widget.bring_into_view()
        self._widget.update_controls()

    def mark(self) -> None:
        """Let the user paint on a mistake; the marks of the last search are removed."""
        if self._widget.state.layers is not None:
            marks = self._widget.state.layers.marks()
            if self._searched is not None and np.array_equal(marks.data != 0, self._searched):
                marks.data = np.zeros_like(marks.data)
            self._widget.show_message(
                "Paint on the mistake with the mouse, then press Find more like this."
            )

    def find_similar(self) -> None:
        """Find places like the marked voxels, or those painted in the mask on this slice."""
        widget, inspection = self._widget, self._widget.state.inspection
        if widget.state.layers is None or inspection is None:
            return
        marked, what = self._marked(inspection)
        if not marked.any():
            widget.show_message(
                "Mark a mistake first: press Mark one and paint on it, or correct one in the mask "
                "on this slice."
            )
            return
        try:
            scan = scan_of(widget.state.layers.mask)
        except InputError as error:
            widget.show_message(str(error), bad=True)
            return
        # The next click chooses a code and does not paint.
        marks = widget.state.layers.find("marks")
        if marks is not None:
            marks.mode = "pan_zoom"

        def steps() -> Generator[Any, None, None]:
            yield "Looking for places like this"
            yield from inspection.similar(marked, scan)

        nothing = f"Nothing else looks to the model like {what}."
        about = f"These places look to the model like {what}."
        widget.jobs.run(steps(), lambda found: self._start(LIKE, found, nothing, about))

    def _marked(self, inspection: Inspection) -> tuple[NDArray[np.bool_], str]:
        """The voxels (z,y,x) to search for, and in words what they are.

        They are a person's marks in this frame; if those were searched for already, what the person
        painted in the mask on this slice.
        """
        widget = self._widget
        assert widget.state.layers is not None
        segmentation, index = widget.state.layers.mask.segmentation, widget.state.look.index
        box = [slice(None)] * 3
        box[segmentation.axis] = slice(index, index + 1)
        slice_here = (box[0], box[1], box[2])
        painted = segmentation.by_person_in((inspection.frame, *slice_here))
        layer = widget.state.layers.find("marks")
        if layer is not None:
            every = np.asarray(layer.data) != 0
            marks = every.reshape(segmentation.shown.shape)[inspection.frame]
            # Comparing all of a large scan takes long: only if it matters.
            chosen = painted.any() and self._searched is not None
            if marks.any() and not (chosen and np.array_equal(every, self._searched)):
                self._searched = every
                return marks, "what you marked"
        here = np.zeros(segmentation.shown.shape[1:], bool)
        here[slice_here] = painted
        return here, f"what you painted in the mask on slice {index}"

    def update_controls(self, reason: str, busy: bool) -> None:
        """Enable what can be done now."""
        widget = self._widget
        wait = "Wait until the search is done, or cancel it." if busy else ""
        for control in (widget.unsure, widget.similar):
            widget.allow(control, reason or wait)
        widget.allow(widget.mark, reason)
        none = "" if self.found else "There are no places yet: press Next unsure place first."
        for control in (widget.back, widget.forward):
            widget.allow(control, reason or none)
        if self.found:
            region = self.found[self.at]
            widget.place.setText(
                f"{self._what} {self.at + 1} of {len(self.found)} · slice {region.index}"
            )
        else:
            widget.place.setText("no place chosen")


class Assigning(QObject):
    """Assigns the voxels of a code and an organ to another organ, after a preview."""

    def __init__(self, widget: InspectWidget) -> None:
        super().__init__(widget)
        #: Flat indices into the frame (z,y,x) of the voxels that would change, and their label now.
        self.pending: tuple[NDArray[np.intp], int] | None = None
        self._widget = widget
        widget.preview.clicked.connect(self.preview)
        widget.apply.clicked.connect(self.apply)
        widget.target.currentIndexChanged.connect(self._on_choice)
        widget.extent.currentIndexChanged.connect(self._on_choice)

    def offer(self, inspection: Inspection) -> None:
        """List the organs of this mask."""
        target = self._widget.target
        with QSignalBlocker(target):
            target.clear()
            for label, name in zip(inspection.ids, inspection.names, strict=True):
                target.addItem(name, label)
            target.setCurrentIndex(min(1, target.count() - 1))

    def _tell_unseen(self) -> bool:
        """Say so if the voxels that would change are not seen; returns whether that is so."""
        widget = self._widget
        if widget.state.layers is not None and shows_proposal(
            annotation_of(widget.state.layers.mask)
        ):
            widget.show_message(
                "The preview of fine-tuning is shown, not the mask: accept or discard it, or press "
                "Before."
            )
            return True
        return widget.tell_unseen(why_unseen)

    def _on_choice(self) -> None:
        if self.pending is not None:
            self.forget()
            self._widget.choose(self._widget.state.codes, self._widget.state.voxel)
        self._widget.update_controls()

    def forget(self) -> None:
        """Drop the preview: something else is chosen."""
        self.pending = None

    def preview(self) -> None:
        """Light up and count what would change."""
        widget, inspection = self._widget, self._widget.state.inspection
        if (
            inspection is None
            or widget.state.layers is None
            or not widget.state.codes
            or self._tell_unseen()
        ):
            return
        segmentation = widget.state.layers.mask.segmentation
        frame, code = inspection.frame, widget.state.codes[0]
        shown, axis = segmentation.shown[frame], segmentation.axis
        voxel = None if widget.state.voxel is None else widget.state.voxel[1:]
        piece = widget.extent.currentData() == PIECE
        if voxel is None:
            shares = inspection.usage(widget.state.part).shares(code)
            organ = inspection.ids[shares[0][0]] if shares else 0
        else:
            organ = int(shown[voxel])
        if organ == widget.target.currentData():
            widget.show_message(_same(widget.target.currentText()))
            return
        index = None
        if widget.state.of == SLICE:
            index = widget.state.look.index if voxel is None else voxel[axis]

        def find() -> Generator[Any, None, None]:
            from l2gnet_core.inspect.places import voxels_of_code

            yield "Finding voxels"
            at = voxel if piece else None
            found = voxels_of_code(inspection.trace, shown, code, organ, index, at)
            # Voxels that a person painted or accepted stay, even those of this organ.
            theirs = segmentation.decided()[frame].ravel()[found]
            yield found[~theirs], int(np.count_nonzero(theirs)), organ

        widget.jobs.run(find(), self._show)

    def _show(self, result: tuple[NDArray[np.intp], int, int]) -> None:
        widget, (voxels, theirs, organ) = self._widget, result
        inspection = widget.state.inspection
        assert inspection is not None
        assert widget.state.layers is not None
        names = dict(zip(inspection.ids, inspection.names, strict=True))
        target = widget.target.currentText()
        stay = f" {_count(theirs)} that you painted or accepted stay unchanged." if theirs else ""
        if not len(voxels):
            widget.show_message(f"No voxel would change.{stay}")
            return
        widget.over.show(NOTHING)
        widget.state.layers.light_voxels(inspection.frame, voxels)
        self.pending = voxels, organ
        along = np.unravel_index(voxels, inspection.mask.shape)[inspection.source.axis]
        slices = np.unique(along)
        where = f"slice {slices[0]}" if len(slices) == 1 else f"{len(slices)} slices"
        widget.show_message(
            f"{_count(len(voxels))} would change from {names.get(organ, organ)} to {target}, in "
            f"{where}.{stay}"
        )

    def apply(self) -> None:
        """Make the change as one undoable step."""
        widget, inspection = self._widget, self._widget.state.inspection
        if (
            self.pending is None
            or inspection is None
            or widget.state.layers is None
            or self._tell_unseen()
        ):
            return
        (voxels, organ), layer = self.pending, widget.state.layers.mask.layer
        self.pending = None
        segmentation = widget.state.layers.mask.segmentation
        shown = segmentation.shown
        flat = voxels + inspection.frame * shown[0].size
        # Without voxels that were painted or accepted since the preview.
        flat = flat[(shown.flat[flat] == organ) & ~segmentation.decided().flat[flat]]
        if not len(flat):
            widget.state.layers.darken()
            widget.show_message(
                "No voxel is left to change: all were changed or accepted after the preview."
            )
            widget.update_controls()
            return
        where = np.unravel_index(flat, layer.data.shape)
        layer.data_setitem(where, widget.target.currentData())
        widget.state.layers.darken()
        # Ctrl-Z acts on the selected layer.
        widget.viewer.layers.selection.active = layer
        widget.show_message(
            f"Assigned {_count(len(flat))} to {widget.target.currentText()}. Ctrl-Z takes it back.",
            holds=segmentation.undo_history.last_step(),
        )
        widget.update_controls()

    def update_controls(self, reason: str, busy: bool) -> None:
        """Enable what can be done now."""
        widget = self._widget
        no_code = "" if widget.state.codes else "Click a voxel of the mistake first."
        piece = widget.extent.currentData() == PIECE
        if not no_code and piece and widget.state.voxel is None:
            no_code = "Click a voxel to choose which piece, or choose everywhere."
        same = ""
        if widget.state.layers is not None and widget.state.voxel is not None:
            now = int(widget.state.layers.mask.segmentation.shown[widget.state.voxel])
            if now == widget.target.currentData():
                same = _same(widget.target.currentText())
        lost = ""
        if widget.state.layers is not None and not widget.state.layers.mask.connected:
            lost = "The data of the mask's layer were replaced: segment again for a new mask."
        for control in (widget.target, widget.extent):
            widget.allow(control, reason)
        wait = "Wait until the search is done, or cancel it." if busy else ""
        widget.allow(widget.preview, reason or lost or no_code or same or wait)
        not_shown = "" if self.pending is not None else "Press Preview first."
        widget.allow(widget.apply, reason or lost or wait or not_shown)


def _same(organ: str) -> str:
    return f"These voxels are {organ} already: choose another organ."


def _count(voxels: int) -> str:
    return f"{voxels:,}".replace(",", "\u202f") + (" voxel" if voxels == 1 else " voxels")
