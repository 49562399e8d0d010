"""A segmentation and the Labels layer that shows it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from l2gnet_core.models.card import ModelCard
from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.labels import Label, LabelSet, plain
from l2gnet_core.scans.volume import Grid
from napari_l2gnet.masks import colors as mask_colors
from napari_l2gnet.masks.napari_history import (
    allow_no_direction,
    is_stroke_under_way,
    painting_events,
    report_edits,
    set_voxels,
)
from napari_l2gnet.masks.organs import with_organ
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.masks.view import MaskView
from napari_l2gnet.scans.layers import (
    GRID_KEY,
    LABELS_KEY,
    grid_of,
    label_arguments,
    stay_on,
    transform_of,
)
from napari_l2gnet.scans.orientation import ORIENTATION_KEY

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.scans.cleanup import CleanUp
    from l2gnet_core.segmenting.trace import SliceTrace, Trace
    from napari_l2gnet.masks.undo import Adoption

SEGMENTATION_KEY = "l2gnet_segmentation"
MODEL_KEY = "l2gnet_model"
IMAGE_KEY = "l2gnet_image"
CARD_KEY = "l2gnet_card"
DATA_KEY = "l2gnet_image_data"
#: Opacity of a new mask.
OPACITY = 0.6
_COVERAGE = re.compile(r" \(\d+ of \d+\)")


class MaskLayer(MaskView):
    """Keeps a `Segmentation` and its layer in step. The layer lies exactly on its image."""

    def __init__(self, viewer: napari.Viewer, layer: Labels) -> None:
        super().__init__(viewer, layer, layer.metadata[SEGMENTATION_KEY])

    @classmethod
    def find(
        cls, viewer: napari.Viewer, image: Image | None, model: str | None
    ) -> MaskLayer | None:
        """The newest mask of an image by a model (None: by any) that is still in the viewer."""
        for layer in reversed(viewer.layers):
            if SEGMENTATION_KEY in layer.metadata:
                mask = cls(viewer, layer)
                if mask.belongs_to(image, model):
                    return mask
        return None

    def belongs_to(self, image: Image | None, model: str | None) -> bool:
        """Is this the mask of an image by a model (None: by any), and still in the viewer?"""
        metadata = self.layer.metadata
        return (
            self.layer in self.viewer.layers
            and metadata[IMAGE_KEY] is image
            and model in (None, metadata[MODEL_KEY])
            and self.connected
        )

    @classmethod
    def add(
        cls,
        viewer: napari.Viewer,
        image: Image,
        grid: Grid,
        card: ModelCard,
        axis: int,
        begin: Callable[[MaskLayer], None] | None = None,
    ) -> MaskLayer:
        """Add an empty mask on top of an image. grid: the image's, as its file has it. begin: as in
        `show`."""
        return cls.show(viewer, image, Segmentation(grid, card, axis), card.labels, begin)

    @classmethod
    def show(
        cls,
        viewer: napari.Viewer,
        image: Image,
        segmentation: Segmentation,
        labels: LabelSet,
        begin: Callable[[MaskLayer], None] | None = None,
    ) -> MaskLayer:
        """Show a mask, empty or not, on top of its image, with these names and colours.

        begin: is called with the mask before its layer is added to the viewer, as listeners to new
        layers may raise anything.
        """
        card = segmentation.card
        shape = (image.data[0] if image.multiscale else image.data).shape
        layer = Labels(
            # A view: the layer draws the segmentation's own array.
            segmentation.shown.reshape(shape),
            name=f"{image.name} · {card.name}",
            opacity=OPACITY,
            metadata={
                # Not the segmentation's: a size set in napari can be set again.
                GRID_KEY: image.metadata.get(GRID_KEY),
                LABELS_KEY: labels.names,
                SEGMENTATION_KEY: segmentation,
                MODEL_KEY: card.name,
                CARD_KEY: card,
                IMAGE_KEY: image,
                DATA_KEY: reference(image.data),
                ORIENTATION_KEY: image.metadata.get(ORIENTATION_KEY, ""),
            },
            **transform_of(image),
            **label_arguments(labels.names, labels.colors),
        )
        mask = cls(viewer, layer)
        stay_on(layer, image)
        report_edits(mask)
        allow_no_direction(layer)
        if begin is not None:
            begin(mask)
        viewer.add_layer(layer)
        return mask

    @property
    def connected(self) -> bool:
        """Does the layer draw the segmentation's own array?

        A duplicate of the layer has the same metadata, but an array of its own, and the image that
        napari converts the layer to has both, but is none to paint on. Another plugin may have
        given the layer data that are no mask of the scan.
        """
        data, shown = self.layer.data, self.segmentation.shown
        return (
            isinstance(self.layer, Labels)
            and isinstance(data, np.ndarray)
            and data.size == shown.size
            and np.shares_memory(data, shown)
        )

    def can_take(self, image: Image, grid: Grid, card: ModelCard, axis: int) -> bool:
        """May a new run write into this mask? It must be of the same scan data, grid, position,
        model, axis and orientation, and hold nothing that a person did or accepted."""
        mine, its, ours = self.segmentation, transform_of(image), transform_of(self.layer)
        given = self.layer.metadata[ORIENTATION_KEY]
        return (
            mine.grid.shape == grid.shape
            and mine.grid.units == grid.units
            and np.allclose(mine.grid.affine, grid.affine)
            and mine.axis == axis
            # A model file may have been overwritten: the same name, but other organs.
            and self.layer.metadata[CARD_KEY] == card
            and (not mine.card.oriented or given == image.metadata.get(ORIENTATION_KEY, ""))
            and all(np.array_equal(its[key], ours[key]) for key in its)
            and self.connected
            and self.layer.metadata[DATA_KEY]() is image.data
            and not self.holds_work
        )

    @property
    def holds_work(self) -> bool:
        """Did a person do or accept anything in this mask?"""
        mine = self.segmentation
        return bool(mine.reviewed) or mine.version != 0 or mine.touched()

    def put(self, place: SliceKey, labels: NDArray[Any], trace: SliceTrace | None = None) -> None:
        """Take a predicted slice in and draw it if it is on screen."""
        self.segmentation.put(place, labels, trace)
        self._redraw(place)

    def put_tidied(self, place: SliceKey, labels: NDArray[Any]) -> None:
        """Show a tidied slice instead of the raw one."""
        self.segmentation.put_tidied(place, labels)
        self._redraw(place)

    def _redraw(self, place: SliceKey) -> None:
        if self.shows(place):
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)

    @property
    def stroke_under_way(self) -> bool:
        """Is a brush drawing? A write in the meantime would become part of its stroke."""
        return is_stroke_under_way(self.layer)

    def adopt(
        self,
        answer: NDArray[Any],
        raw: NDArray[Any],
        version: int,
        traces: dict[int, Trace] | None = None,
        completes: Iterable[SliceKey] = (),
        model: Model | None = None,
        clean_up: CleanUp | None = None,
        brings: tuple[int, ...] = (),
    ) -> int:
        """Show a new answer (t,z,y,x) where no person decided, as one undoable step.

        The arguments are those of `UndoHistory.adoption`. Returns how many voxels change.
        """
        return self._adopt(
            self.segmentation.undo_history.adoption(
                answer, raw, version, traces, completes, model, clean_up, brings
            )
        )

    def fill(self, slices: Mapping[SliceKey, NDArray[Any]]) -> int:
        """As `adopt`, for a new answer in some slices only."""
        return self._adopt(self.segmentation.undo_history.filling(slices))

    def _adopt(self, adoption: Adoption) -> int:
        segmentation, layer = self.segmentation, self.layer
        voxels = adoption.shown.voxels
        if len(voxels):
            segmentation.arriving = adoption
            try:
                set_voxels(layer, np.unravel_index(voxels, layer.data.shape), adoption.shown.after)
            finally:
                segmentation.arriving = None
        else:
            segmentation.undo_history.adopt(adoption)
        segmentation.counts.mark_all()
        self.name_coverage()
        layer.refresh()
        return len(voxels)

    def taken_in(self, changed: int) -> str:
        """What to say of an adopted answer; makes the mask the layer that Ctrl-Z acts on."""
        self.viewer.layers.selection.active = self.layer
        if not changed:
            return "no voxel changed."
        return f"{changed:,} voxel{'s' * (changed != 1)} changed. Ctrl-Z undoes this."

    def relabel(self, labels: LabelSet) -> None:
        """Give the mask other organs; those that stay keep the colours they have on screen.

        Raises InputError for ids that do not fit into the mask.
        """
        before = self.segmentation.card.labels
        self.segmentation.relabel(labels)
        mask_colors.relabel(self.layer, before, labels)

    def remove_organ(self, id: int) -> int:
        """Take an organ out of the mask; its voxels become background, as one stroke of a person.

        Returns how many voxels change. The organ returns once undo brings voxels of it back.
        """
        segmentation, layer = self.segmentation, self.layer
        voxels = np.flatnonzero(segmentation.shown == id)
        if len(voxels):
            set_voxels(layer, np.unravel_index(voxels, layer.data.shape), 0)
            segmentation.undo_history.note_removal(id)
        self.take_out(id)
        return len(voxels)

    def take_out(self, id: int) -> None:
        """Take an organ without voxels out of the mask; nothing if it has voxels, or is not there.

        Its voxels may have been taken away by undo or redo, and a person may have painted with it.
        """
        segmentation, layer = self.segmentation, self.layer
        before = segmentation.card.labels
        if id not in before.names or (segmentation.shown == id).any():
            return
        organ = Label(id, before.names[id], self.colors()[id][0])
        segmentation.remove_organ(organ)
        if layer.selected_label == id:
            layer.selected_label = next(iter(segmentation.card.labels.names))
        mask_colors.relabel(layer, before, segmentation.card.labels)

    def bring_back_organs(self) -> None:
        """Give removed organs back to the mask if undo or redo brought voxels of them back."""
        segmentation = self.segmentation
        for organ, covered in list(segmentation.removed.values()):
            if (segmentation.shown == organ.id).any():
                del segmentation.removed[organ.id]
                self.relabel(with_organ(segmentation.card.labels, self._named_apart(organ)))
                # Reviews from before it was removed still cover it.
                segmentation.unreviewed_organs.difference_update((at, organ.id) for at in covered)

    def _named_apart(self, organ: Label) -> Label:
        """An organ with its id in the name if another organ has its name."""
        taken = {plain(label.name) for label in self.segmentation.card.labels}
        name = organ.name
        while plain(name) in taken:
            name = f"{name} ({organ.id})"
        return replace(organ, name=name)

    def colors(self) -> dict[int, tuple[str, bool]]:
        """By label id: an organ's colour as "#rrggbb", and whether it is drawn."""
        return mask_colors.organ_colors(self.layer, self.segmentation.card.labels)

    def show_organ(self, label: int, shown: bool) -> None:
        """Draw an organ, or do not."""
        mask_colors.show_organ(self.layer, self.segmentation.card.labels, label, shown)

    def color_organ(self, label: int, color: str) -> None:
        """Give an organ another colour ("#rrggbb"). One that is not drawn stays so."""
        mask_colors.color_organ(self.layer, self.segmentation.card.labels, label, color)

    def voxels(self) -> dict[int, int]:
        """Voxels by label id in the frame on screen."""
        return self.segmentation.counts.in_frame(self.here[0])

    @property
    def grid(self) -> Grid:
        """The layer's grid as it is now: its scale and units may have been set by hand since."""
        layer = self.layer
        return grid_of(layer.data.shape, transform_of(layer), layer.name, layer.metadata)

    def coverage(self) -> tuple[int, int]:
        """How many slices of the frame on screen are segmented or accepted, and how many it
        has."""
        return self.segmentation.coverage(self.here[0])

    def name_coverage(self) -> None:
        """Say in the layer's name how much of the scan is segmented, unless all of it is."""
        finished, count = self.segmentation.coverage()
        whole = _COVERAGE.sub("", self.layer.name)
        self.layer.name = whole if finished == count else f"{whole} ({finished} of {count})"

    def follow(self, on_painted: Callable[..., None], on_colored: Callable[..., None]) -> None:
        """Call these when the mask may have been painted on, and when colours of organs change."""
        for event in painting_events(self.layer):
            event.connect(on_painted)
        self.layer.events.colormap.connect(on_colored)

    def stop(self, on_painted: Callable[..., None], on_colored: Callable[..., None]) -> None:
        """Undo `follow`."""
        for event in painting_events(self.layer):
            event.disconnect(on_painted)
        self.layer.events.colormap.disconnect(on_colored)


def reference(data: Any) -> Callable[[], Any]:
    """A reference to an array: a weak one where its type allows that."""
    try:
        return weakref.ref(data)
    except TypeError:
        return lambda: data
