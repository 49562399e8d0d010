"""Filling in any Labels layer between painted slices, by their shapes and the image, without a
model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import napari
import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, Label, PushButton
from napari.layers import Image, Labels
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtWidgets import QHBoxLayout

from l2gnet_core.errors import InputError
from napari_l2gnet.annotating.preview import PREVIEW_KEY
from napari_l2gnet.annotating.task_events import Step, as_steps
from napari_l2gnet.jobs import warm_up
from napari_l2gnet.jobs.worker import Job, LatestJob
from napari_l2gnet.masks.layer import SEGMENTATION_KEY, reference
from napari_l2gnet.masks.napari_history import set_voxels
from napari_l2gnet.scans.layers import VIEW_KEY, lie_on_each_other, shown_index
from napari_l2gnet.widgets.progress_bar import ProgressBar

_NO_MASK = (
    "Add a Labels layer and paint an organ in two slices. For a mask made with Segment, use "
    "Correct & fine-tune."
)
_FILLING = "Interpolating"
_WAIT = "Wait until the mask is filled in, or cancel that."
_STOPS = "Stop. The mask stays unchanged"


@dataclass(frozen=True)
class _Filled:
    """Filled-in voxels. places: indices (n,) along each of z, y, x. ids: their labels (n,)."""

    places: tuple[NDArray[np.intp], ...]
    ids: NDArray[Any]


class InterpolateWidget(Container):
    """Fills a Labels layer between its painted slices, along the viewer's slider.

    Painted voxels stay; all filled-in ones are one step that Ctrl-Z undoes. Masks of Segment are
    left to Correct & fine-tune, which keeps painted and filled slices apart.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self.viewer = napari_viewer
        self.mask = ComboBox(
            label="Mask", choices=self._masks, tooltip="A Labels layer with some slices painted"
        )
        self.image = ComboBox(
            label="Image",
            choices=self._images,
            nullable=True,
            tooltip="The scan that you painted on. With three or more painted slices, borders "
            "follow this image.\nWithout an image, only the painted shapes are used.",
        )
        self.selected = CheckBox(
            text="Only the selected label",
            tooltip="Fill only the label that the brush paints. Other labels stay as they are",
        )
        self.fill = PushButton(text="Interpolate between slices")
        self.cancel = PushButton(text="Cancel")
        self.bar = ProgressBar()
        self.bar.setRange(0, 1000)
        self.message = Label()
        # Sentences must not push the dock wider.
        self.message.native.setWordWrap(True)
        super().__init__(widgets=[self.mask, self.image, self.selected])
        # Not rows of the form, which would begin where the fields do.
        buttons, layout = QHBoxLayout(), self.native.layout()
        buttons.addWidget(self.fill.native, 3)
        buttons.addWidget(self.cancel.native, 1)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.message.native)
        self.job = LatestJob(self.native)
        self.job.yielded.connect(self._on_step)
        self.job.failed.connect(self._refuse)
        self.job.changed.connect(self._update)
        #: The layer that is or was filled last, and that the message is about.
        self._layer: Labels | None = None
        #: Does the message say why the button is disabled?
        self._says_why = False
        #: Where the message is about the last filling: is that still there?
        self._is_there: Callable[[], bool] | None = None
        self.fill.changed.connect(self.interpolate)
        self.cancel.changed.connect(self._cancel)
        self.mask.changed.connect(self._on_mask)
        self._on_mask()
        self._import()

    def _import(self) -> None:
        """Import what filling needs, in the background."""

        def imports() -> Generator[None, None, None]:
            warm_up.interpolation()
            yield

        self._importing = Job(imports(), self.native)
        self._importing.start()

    def reset_choices(self, *_: Any) -> None:
        """Read the viewer's layers again; napari calls it when they come, go or are renamed."""
        super().reset_choices()
        if self._layer is not None and self._layer not in self.viewer.layers:
            self.job.cancel()
            self._layer = None
            self._say("")
        self._update()

    def _masks(self, _: Any) -> list[Labels]:
        others = {VIEW_KEY, PREVIEW_KEY, SEGMENTATION_KEY}
        return [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Labels) and not others & layer.metadata.keys()
        ]

    def _images(self, _: Any) -> list[Image]:
        """Images on the mask's own grid, the topmost first."""
        mask: Labels | None = self.mask.value
        if mask is None:
            return []
        return [
            layer
            for layer in reversed(self.viewer.layers)
            if isinstance(layer, Image)
            and not layer.rgb
            and not layer.multiscale
            and VIEW_KEY not in layer.metadata
            and lie_on_each_other(layer, mask)
        ]

    def _on_mask(self, _: Any = None) -> None:
        self.image.reset_choices()
        found = self._images(None)
        self.image.value = found[0] if found else None
        # It was about another mask.
        self._say("")
        self._update()

    def _update(self, _: Any = None) -> None:
        missing, busy = self.mask.value is None, self.job.busy
        now = _NO_MASK if missing else ""
        _allow(self.fill, now or (_WAIT if busy else ""), "")
        _allow(self.cancel, "" if busy else "Nothing is running.", _STOPS)
        self.bar.setVisible(busy)
        # The outcome of the last press stays to be read.
        if now or self._says_why:
            self._say(now)
            self._says_why = bool(now)

    def _say(self, text: str) -> None:
        self.message.value = text
        self._says_why, self._is_there = False, None

    def interpolate(self) -> None:
        """What the button does; `job.done` follows."""
        layer: Labels | None = self.mask.value
        if layer is None:
            return
        organ = int(layer.selected_label) if self.selected.value else None
        try:
            frame, axis = _slicing(self.viewer, layer)
            # A copy, so that strokes in the meantime change nothing.
            labels = np.array(layer.data[frame])
            painted = _painted(labels, axis, organ)
        except InputError as error:
            self._refuse(str(error))
            return
        across = np.delete(np.asarray(layer.scale)[-3:], axis)
        image: Image | None = self.image.value
        # Read in the thread, as it may be on disk.
        scan = None if image is None else lambda: np.asarray(image.data[frame])
        steps = _interpolating(labels, scan, painted, axis, (across[0], across[1]), organ)
        self._layer = layer
        self._say("")
        self.bar.setValue(0)
        self.bar.setFormat(_FILLING)
        self.job.run(steps, lambda filled: self._take(layer, frame, filled, painted))

    def _on_step(self, moment: Step | _Filled) -> None:
        if isinstance(moment, Step):
            self.bar.setValue(round(1000 * moment.done))
            self.bar.setFormat(str(moment))

    def _cancel(self) -> None:
        self.job.cancel()
        if self._layer is not None:
            self._say(f'Cancelled: "{self._layer.name}" is unchanged. What you painted stays.')

    def _take(
        self, layer: Labels, frame: tuple[int, ...], filled: _Filled, painted: list[int]
    ) -> None:
        # Voxels that were painted in the meantime stay, too.
        free = np.asarray(layer.data)[frame][filled.places] == 0
        places = [axis[free] for axis in filled.places]
        whole = (*(np.full(len(places[0]), index) for index in frame), *places)
        set_voxels(layer, whole, filled.ids[free])
        self.viewer.layers.selection.active = layer  # Ctrl-Z is the active layer's
        count = painted[-1] - painted[0] + 1 - len(painted)
        self._say(
            f'Filled {count} slice{"s" * (count != 1)} of "{layer.name}" between {painted[0]} and '
            f"{painted[-1]}. Ctrl-Z undoes this."
        )
        self._is_there = _is_there(layer, whole, filled.ids[free])
        layer.events.set_data.connect(self._on_redrawn)

    def _on_redrawn(self, _: Any = None) -> None:
        """Drop the message about a filling that Ctrl-Z has taken back."""
        if self._is_there is not None and not self._is_there():
            self._say("")

    def _refuse(self, text: str) -> None:
        self._say(text)
        show_error(text)


def _allow(button: PushButton, reason_against: str, tooltip: str) -> None:
    """Enable a button, or disable it with the reason as its tooltip; "" is no reason."""
    button.enabled = not reason_against
    button.tooltip = reason_against or tooltip


def _is_there(
    layer: Labels, places: tuple[NDArray[np.intp], ...], ids: NDArray[Any]
) -> Callable[[], bool]:
    """A function that tells whether any filled-in voxels are left, by about a hundred of them."""
    step = max(1, len(ids) // 100)
    some, wanted = tuple(axis[::step] for axis in places), ids[::step]
    data = reference(layer.data)
    return lambda: (now := data()) is not None and bool((now[some] == wanted).any())


def _slicing(viewer: napari.Viewer, layer: Labels) -> tuple[tuple[int, ...], int]:
    """(The frame on screen, as an index; the axis of (z,y,x) that the slider moves along)."""
    if layer.multiscale or layer.ndim not in (3, 4):
        got = "several resolutions" if layer.multiscale else f"{layer.ndim} axes"
        raise InputError(
            f'Expected a mask with slices, (z, y, x) or (time, z, y, x), but "{layer.name}" has '
            f"{got}; choose another."
        )
    if not isinstance(layer.data, np.ndarray):
        raise InputError(
            f'Expected a mask in memory, but "{layer.name}" is read from disk while it is shown; '
            "save it, then open the saved file."
        )
    skipped, times = viewer.dims.ndim - layer.ndim, layer.ndim - 3
    hidden = [axis - skipped - times for axis in viewer.dims.not_displayed]
    along = [axis for axis in hidden if axis >= 0]
    if len(along) != 1:
        raise InputError(
            "Expected a 2-D slice of the mask on screen, because its slider is the axis to "
            "interpolate along, but the viewer shows another view; switch to 2-D."
        )
    return shown_index(layer, viewer.dims.point)[:times], along[0]


def _painted(labels: NDArray[Any], axis: int, organ: int | None) -> list[int]:
    """The slices of labels (z,y,x) that hold an organ (None: any).

    Raises InputError if nothing lies between them.
    """
    from l2gnet_core.interpolation.shapes import require_gap

    if organ == 0:
        raise InputError("Expected a label to fill, but 0 is the background; select another label.")
    wanted = labels > 0 if organ is None else labels == organ
    painted = np.flatnonzero(np.moveaxis(wanted, axis, 0).any((1, 2))).tolist()
    name = "the mask" if organ is None else f"label {organ}"
    require_gap(painted, name, "paint another slice")
    return painted


def _interpolating(
    labels: NDArray[Any],
    scan: Callable[[], NDArray[Any]] | None,
    painted: list[int],
    axis: int,
    pixel: tuple[float, float],
    organ: int | None,
) -> Generator[Step | _Filled, None, None]:
    """Fill in labels (z,y,x). Yields how far it is, then the result."""
    from l2gnet_core.interpolation.guided import guided_slices

    yield Step(_FILLING)
    if scan is None:
        filling = _filling_by_shape(labels, painted, axis, pixel, organ)
    else:
        filling = guided_slices(scan(), labels, painted, axis, pixel, organ)
    filled = yield from as_steps(_FILLING, filling)
    np.moveaxis(filled, axis, 0)[painted] = 0
    places = np.nonzero(filled)
    yield _Filled(places, filled[places])


def _filling_by_shape(
    labels: NDArray[Any],
    painted: list[int],
    axis: int,
    pixel: tuple[float, float],
    organ: int | None,
) -> Generator[tuple[int, int], None, NDArray[Any]]:
    """As `guided_slices`, without a scan."""
    from l2gnet_core.interpolation.shapes import shape_steps

    filled, total = np.zeros_like(labels), painted[-1] - painted[0] + 1 - len(painted)
    for done in shape_steps(filled, labels, painted, axis, pixel, organ):
        yield done, total
    return filled
