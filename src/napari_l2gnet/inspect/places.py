"""Steps through places to look at, in Inspect."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from l2gnet_core.errors import InputError
from napari_l2gnet.annotating.tasks import scan_of
from napari_l2gnet.inspect.form import DOUBT, NOTHING, InspectForm
from napari_l2gnet.inspect.over import Over
from napari_l2gnet.inspect.parts import DoubtMap
from napari_l2gnet.inspect.state import InspectState, Look
from napari_l2gnet.jobs.worker import LatestJob

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
