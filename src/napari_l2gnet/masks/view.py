"""Which slice of a mask is on screen, and going to another one."""

from __future__ import annotations

from collections.abc import Sequence

import napari
import numpy as np
from napari.layers import Labels

from l2gnet_core.project.state import SliceKey
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.scans.layers import is_cut, lies, shown_index, slice_axes


class MaskView:
    """A mask's layer in its viewer: which slice is on screen, and going to others."""

    def __init__(self, viewer: napari.Viewer, layer: Labels, segmentation: Segmentation) -> None:
        self.viewer = viewer
        self.layer = layer
        self.segmentation = segmentation

    @property
    def here(self) -> tuple[int, int, int, int]:
        """(frame, z, y, x) at the viewer's current point."""
        return self._voxel(shown_index(self.layer, self.viewer.dims.point))

    def voxel_at(self, position: Sequence[float]) -> tuple[int, int, int, int] | None:
        """(frame, z, y, x) at a place in the world; None outside of the scan."""
        layer = self.layer
        index = np.rint(layer.world_to_data(tuple(position)[-layer.ndim :])).astype(int)
        if (index < 0).any() or (index >= layer.data.shape).any():
            return None
        return self._voxel(tuple(int(i) for i in index))

    def _voxel(self, index: tuple[int, ...]) -> tuple[int, int, int, int]:
        frame, z, y, x = (0,) * (4 - len(index)) + index
        return frame, z, y, x

    @property
    def place(self) -> SliceKey:
        """The slice on screen."""
        frame, *voxel = self.here
        return frame, voxel[self.segmentation.axis]

    @property
    def cut_as_sliced(self) -> bool:
        """Does the viewer show, in 2-D and at one time, one of the slices that the model sees?"""
        dims = self.viewer.dims
        return set(dims.displayed) == set(slice_axes(dims, self.segmentation.axis))

    @property
    def off_screen(self) -> str:
        """Why no slice of the mask is on screen, in a sentence; "" if one is."""
        if not self.cut_as_sliced:
            return "The viewer slices the scan along another axis than the model"
        return self.outside

    @property
    def outside(self) -> str:
        """As `off_screen`, but a mask that the viewer cuts along any axis is on screen."""
        if not is_cut(self.layer, self.viewer.dims):
            return f'"{self.layer.name}" is not on screen: the sliders are outside it'
        return ""

    def _cut_as_sliced_by_model(self) -> None:
        dims = self.viewer.dims
        dims.ndisplay = 2
        if not self.cut_as_sliced:
            rows, columns = slice_axes(dims, self.segmentation.axis)
            grid, first = self.segmentation.grid, dims.ndim - 3
            if grid.oriented and lies(*(grid.axis_codes[axis - first] for axis in (rows, columns))):
                rows, columns = columns, rows
            # In napari's usual order: time first, then the axis that the model cuts along.
            across = [axis for axis in range(dims.ndim) if axis not in (rows, columns)]
            dims.order = (*across, rows, columns)

    def go_to_place(self, place: SliceKey) -> None:
        """Show a slice, in 2-D and cut as the model cuts. The camera stays where it is."""
        if not self.cut_as_sliced:
            self._cut_as_sliced_by_model()
        index = list(self.here)
        index[0], index[1 + self.segmentation.axis] = place[0], place[1]
        dims, ndim = self.viewer.dims, self.layer.ndim
        point = self.layer.data_to_world(index[-ndim:])
        # Only the sliders' axes: within the slice the camera decides. All at once, as napari draws
        # after each move.
        axes = [axis for axis in dims.not_displayed if axis >= dims.ndim - ndim]
        if axes:
            dims.set_point(axes, [point[axis - dims.ndim + ndim] for axis in axes])

    def go_to(self, label: int) -> bool:
        """Show the largest slice of an organ in this frame; False if it has none."""
        frame = self.here[0]
        voxel = self.segmentation.middle_of(label, frame)
        if voxel is None:
            return False
        self.go_to_voxel(frame, voxel, center=True)
        return True

    def go_to_voxel(self, frame: int, voxel: Sequence[float], center: bool = False) -> None:
        """Show the slices through a voxel (z,y,x); center: also move the camera there."""
        layer, dims = self.layer, self.viewer.dims
        point = layer.data_to_world((frame, *voxel)[-layer.ndim :])
        dims.set_point(range(dims.ndim - layer.ndim, dims.ndim), point)
        if center:
            shown = [dims.point[axis] for axis in dims.displayed]
            self.viewer.scene.camera.center = (0.0,) * (3 - len(shown)) + tuple(shown)

    def shows(self, place: SliceKey) -> bool:
        """Must a slice be redrawn at once when it changes?"""
        if self.viewer.dims.ndisplay == 3:
            # Redrawing the volume after every slice would stall the window.
            return False
        frame, *voxel = self.here
        axis = self.segmentation.axis
        displayed = [d - self.viewer.dims.ndim for d in self.viewer.dims.displayed]
        return (-4 in displayed or frame == place[0]) and (
            axis - 3 in displayed or voxel[axis] == place[1]
        )
