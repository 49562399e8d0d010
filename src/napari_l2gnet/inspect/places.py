"""Steps through places to look at, and assigns voxels to another organ, in Inspect."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QSignalBlocker, Signal

from l2gnet_core.errors import InputError
from napari_l2gnet.annotating.preview import shows_proposal
from napari_l2gnet.annotating.tasks import annotation_of, scan_of
from napari_l2gnet.inspect.form import DOUBT, NOTHING, PIECE, InspectForm
from napari_l2gnet.inspect.inspection import Inspection
from napari_l2gnet.inspect.over import Over
from napari_l2gnet.inspect.parts import DoubtMap
from napari_l2gnet.inspect.state import SLICE, InspectState, Look
from napari_l2gnet.jobs.worker import LatestJob
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.widgets.visibility import why_unseen

if TYPE_CHECKING:
    from l2gnet_core.inspect.similar import Region


UNSURE, LIKE = "unsure place", "place like this"
_ALL_SETTLED = {
    UNSURE: "You have accepted or painted every place where the model is unsure.",
    LIKE: "You have accepted or painted every place like this.",
}


class Places(QObject):
    """A ranked list of places, unsure ones or those like a marked one, and the current place."""

    #: There are other places, or another one is gone to.
    changed = Signal()

    def __init__(
        self,
        state: InspectState,
        form: InspectForm,
        over: Over,
        jobs: LatestJob,
        bring_into_view: Callable[[], None],
    ) -> None:
        super().__init__(form)
        self._state, self._form, self._over, self._jobs = state, form, over, jobs
        self._bring_into_view = bring_into_view
        self.found: list[Region] = []
        self.at = -1
        self._what = ""
        #: Marks that a search was for; what is painted later counts instead of them.
        self._searched: NDArray[np.bool_] | None = None
        form.unsure.clicked.connect(self.next_unsure)
        form.mark.clicked.connect(self.mark)
        form.similar.clicked.connect(self.find_similar)
        form.back.clicked.connect(lambda: self.step(-1))
        form.forward.clicked.connect(lambda: self.step(1))

    def forget(self) -> None:
        """Empty the list: it is of another mask or kind of doubt."""
        self.found, self.at, self._what = [], -1, ""

    def next_unsure(self) -> None:
        """Go to the least sure place, or on to the next one."""
        if self._what == UNSURE:
            self.step(1)
        else:
            self._over.study(self._start_unsure)

    def _start_unsure(self, doubt: DoubtMap) -> None:
        self._start(UNSURE, doubt.places, "There is no unsure place by this measure of doubt.")

    @staticmethod
    def _decided(look: Look, region: Region) -> bool:
        """Has a person accepted the slice of a region, or painted most of it?"""
        segmentation, frame = look.layers.mask.segmentation, look.inspection.frame
        if (frame, region.index) in segmentation.reviewed:
            return True
        theirs = segmentation.by_person_in((frame, *region.box))
        return bool(theirs[region.voxels].mean() > 0.5)

    def _start(self, what: str, found: Sequence[Region], nothing: str, about: str = "") -> None:
        if (look := self._state.look) is None:
            return
        self.forget()
        # Places that a person accepted or painted are settled.
        open_ones = [place for place in found if not self._decided(look, place)]
        if settled := len(found) - len(open_ones):
            nothing = _ALL_SETTLED[what]
            which = "place" if settled == 1 else "places"
            are = "is" if settled == 1 else "are"
            about = f"{about} {settled} {which} that you accepted or painted {are} left out."
            about = about.lstrip()
        if not open_ones:
            self._form.show_message(nothing)
            self.changed.emit()
            return
        self._what, self.found = what, open_ones
        self._over.show(DOUBT if what == UNSURE else NOTHING)
        self._form.show_message(about)
        self.step(1)

    def step(self, by: int) -> None:
        """Go on in the list, or back (by < 0), to a place that no person has settled."""
        look = self._state.look
        if look is None or not self.found:
            return
        count = len(self.found)
        steps = ((self.at + by * n) % count for n in range(1, count + 1))
        # Places may have been accepted or painted since the search.
        at = next((at for at in steps if not self._decided(look, self.found[at])), None)
        if at is None:
            look.layers.darken()
            self._form.show_message(_ALL_SETTLED[self._what])
            return
        self.at, region = at, self.found[at]
        mask, frame = look.layers.mask, look.inspection.frame
        middle = [(part.start + part.stop - 1) / 2 for part in region.box]
        if mask.viewer.dims.ndisplay == 3:
            # In the 3-D view, nothing can be clicked or painted.
            mask.go_to_place((frame, region.index))
        mask.go_to_voxel(frame, middle, center=True)
        look.layers.light_region(frame, region)
        self._bring_into_view()
        self.changed.emit()

    def mark(self) -> None:
        """Let the user paint on a mistake; the marks of the last search are removed."""
        if self._state.layers is not None:
            marks = self._state.layers.marks()
            if self._searched is not None and np.array_equal(marks.data != 0, self._searched):
                marks.data = np.zeros_like(marks.data)
            self._form.show_message(
                "Paint on the mistake with the mouse, then press Find more like this."
            )

    def find_similar(self) -> None:
        """Find places like the marked voxels, or those painted in the mask on this slice."""
        if (look := self._state.look) is None:
            return
        marked, what = self._marked(look)
        if not marked.any():
            self._form.show_message(
                "Mark a mistake first: press Mark one and paint on it, or correct one in the mask "
                "on this slice."
            )
            return
        try:
            scan = scan_of(look.layers.mask)
        except InputError as error:
            self._form.show_message(str(error), bad=True)
            return
        # The next click chooses a code and does not paint.
        marks = look.layers.find("marks")
        if marks is not None:
            marks.mode = "pan_zoom"

        def steps() -> Generator[Any, None, None]:
            yield "Looking for places like this"
            yield from look.inspection.similar(marked, scan)

        nothing = f"Nothing else looks to the model like {what}."
        about = f"These places look to the model like {what}."
        self._jobs.run(steps(), lambda found: self._start(LIKE, found, nothing, about))

    def _marked(self, look: Look) -> tuple[NDArray[np.bool_], str]:
        """The voxels (z,y,x) to search for, and in words what they are.

        They are a person's marks in this frame; if those were searched for already, what the person
        painted in the mask on this slice.
        """
        segmentation, index = look.layers.mask.segmentation, look.index
        box = [slice(None)] * 3
        box[segmentation.axis] = slice(index, index + 1)
        slice_here = (box[0], box[1], box[2])
        painted = segmentation.by_person_in((look.inspection.frame, *slice_here))
        layer = look.layers.find("marks")
        if layer is not None:
            every = np.asarray(layer.data) != 0
            marks = every.reshape(segmentation.shown.shape)[look.inspection.frame]
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
        form = self._form
        wait = "Wait until the search is done, or cancel it." if busy else ""
        for control in (form.unsure, form.similar):
            form.allow(control, reason or wait)
        form.allow(form.mark, reason)
        none = "" if self.found else "There are no places yet: press Next unsure place first."
        for control in (form.back, form.forward):
            form.allow(control, reason or none)
        if self.found:
            region = self.found[self.at]
            form.place.setText(
                f"{self._what} {self.at + 1} of {len(self.found)} · slice {region.index}"
            )
        else:
            form.place.setText("no place chosen")


class Assigning(QObject):
    """Assigns the voxels of a code and an organ to another organ, after a preview."""

    #: Something else can be done now.
    changed = Signal()
    #: What was previewed is no longer what would change.
    dropped = Signal()

    def __init__(
        self,
        state: InspectState,
        form: InspectForm,
        over: Over,
        jobs: LatestJob,
        tell_unseen: Callable[[Callable[[MaskLayer], str]], bool],
    ) -> None:
        super().__init__(form)
        self._state, self._form, self._over, self._jobs = state, form, over, jobs
        self._tell_unseen = tell_unseen
        #: Flat indices into the frame (z,y,x) of the voxels that would change, and their label now.
        self.pending: tuple[NDArray[np.intp], int] | None = None
        form.preview.clicked.connect(self.preview)
        form.apply.clicked.connect(self.apply)
        form.target.currentIndexChanged.connect(self._on_choice)
        form.extent.currentIndexChanged.connect(self._on_choice)

    def offer(self, inspection: Inspection) -> None:
        """List the organs of this mask."""
        target = self._form.target
        with QSignalBlocker(target):
            target.clear()
            for label, name in zip(inspection.ids, inspection.names, strict=True):
                target.addItem(name, label)
            target.setCurrentIndex(min(1, target.count() - 1))

    def _refuses_unseen(self) -> bool:
        """Say so if the voxels that would change are not seen; returns whether that is so."""
        layers = self._state.layers
        if layers is not None and shows_proposal(annotation_of(layers.mask)):
            self._form.show_message(
                "The preview of fine-tuning is shown, not the mask: accept or discard it, or press "
                "Before."
            )
            return True
        return self._tell_unseen(why_unseen)

    def _on_choice(self) -> None:
        if self.pending is not None:
            self.forget()
            self.dropped.emit()
        self.changed.emit()

    def forget(self) -> None:
        """Drop the preview: something else is chosen."""
        self.pending = None

    def preview(self) -> None:
        """Light up and count what would change."""
        look, form = self._state.look, self._form
        if look is None or not self._state.codes or self._refuses_unseen():
            return
        inspection, segmentation = look.inspection, look.layers.mask.segmentation
        frame, code = inspection.frame, self._state.codes[0]
        shown, axis = segmentation.shown[frame], segmentation.axis
        voxel = None if self._state.voxel is None else self._state.voxel[1:]
        piece = form.extent.currentData() == PIECE
        if voxel is None:
            shares = inspection.usage(self._state.part).shares(code)
            organ = inspection.ids[shares[0][0]] if shares else 0
        else:
            organ = int(shown[voxel])
        if organ == form.target.currentData():
            form.show_message(_same(form.target.currentText()))
            return
        index = None
        if self._state.of == SLICE:
            index = look.index if voxel is None else voxel[axis]

        def find() -> Generator[Any, None, None]:
            from l2gnet_core.inspect.places import voxels_of_code

            yield "Finding voxels"
            at = voxel if piece else None
            found = voxels_of_code(inspection.trace, shown, code, organ, index, at)
            # Voxels that a person painted or accepted stay, even those of this organ.
            theirs = segmentation.decided()[frame].ravel()[found]
            yield found[~theirs], int(np.count_nonzero(theirs)), organ

        self._jobs.run(find(), lambda found: self._show(look, *found))

    def _show(self, look: Look, voxels: NDArray[np.intp], theirs: int, organ: int) -> None:
        inspection, target = look.inspection, self._form.target.currentText()
        names = dict(zip(inspection.ids, inspection.names, strict=True))
        stay = f" {_count(theirs)} that you painted or accepted stay unchanged." if theirs else ""
        if not len(voxels):
            self._form.show_message(f"No voxel would change.{stay}")
            return
        self._over.show(NOTHING)
        look.layers.light_voxels(inspection.frame, voxels)
        self.pending = voxels, organ
        along = np.unravel_index(voxels, inspection.mask.shape)[inspection.source.axis]
        slices = np.unique(along)
        where = f"slice {slices[0]}" if len(slices) == 1 else f"{len(slices)} slices"
        self._form.show_message(
            f"{_count(len(voxels))} would change from {names.get(organ, organ)} to {target}, in "
            f"{where}.{stay}"
        )

    def apply(self) -> None:
        """Make the change as one undoable step."""
        look, form = self._state.look, self._form
        if self.pending is None or look is None or self._refuses_unseen():
            return
        (voxels, organ), layers = self.pending, look.layers
        self.pending = None
        segmentation, layer = layers.mask.segmentation, layers.mask.layer
        shown = segmentation.shown
        flat = voxels + look.inspection.frame * shown[0].size
        # Without voxels that were painted or accepted since the preview.
        flat = flat[(shown.flat[flat] == organ) & ~segmentation.decided().flat[flat]]
        if not len(flat):
            layers.darken()
            form.show_message(
                "No voxel is left to change: all were changed or accepted after the preview."
            )
            self.changed.emit()
            return
        where = np.unravel_index(flat, layer.data.shape)
        layer.data_setitem(where, form.target.currentData())
        layers.darken()
        # Ctrl-Z acts on the selected layer.
        layers.viewer.layers.selection.active = layer
        form.show_message(
            f"Assigned {_count(len(flat))} to {form.target.currentText()}. Ctrl-Z takes it back.",
            holds=segmentation.undo_history.last_step(),
        )
        self.changed.emit()

    def update_controls(self, reason: str, busy: bool) -> None:
        """Enable what can be done now."""
        state, form = self._state, self._form
        no_code = "" if state.codes else "Click a voxel of the mistake first."
        piece = form.extent.currentData() == PIECE
        if not no_code and piece and state.voxel is None:
            no_code = "Click a voxel to choose which piece, or choose everywhere."
        same = ""
        if state.layers is not None and state.voxel is not None:
            now = int(state.layers.mask.segmentation.shown[state.voxel])
            if now == form.target.currentData():
                same = _same(form.target.currentText())
        lost = ""
        if state.layers is not None and not state.layers.mask.connected:
            lost = "The data of the mask's layer were replaced: segment again for a new mask."
        for control in (form.target, form.extent):
            form.allow(control, reason)
        wait = "Wait until the search is done, or cancel it." if busy else ""
        form.allow(form.preview, reason or lost or no_code or same or wait)
        not_shown = "" if self.pending is not None else "Press Preview first."
        form.allow(form.apply, reason or lost or wait or not_shown)


def _same(organ: str) -> str:
    return f"These voxels are {organ} already: choose another organ."


def _count(voxels: int) -> str:
    return f"{voxels:,}".replace(",", "\u202f") + (" voxel" if voxels == 1 else " voxels")
