"""The sample scan: a procedural cardiac phantom, so that no patient's data is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2gnet_core.scans.phantom import cardiac_cine
from l2gnet_core.scans.volume import Volume, default_affine
from napari_l2gnet.scans.layers import to_layer_data

if TYPE_CHECKING:
    from napari.types import LayerDataTuple


def phantom_volume() -> Volume:
    """Two frames, end-diastole and end-systole, of a drawn heart: (2,z,y,x)."""
    drawn = cardiac_cine(frames=2)
    return Volume(
        drawn.image,
        affine=default_affine(drawn.spacing),
        units="mm",
        name="cardiac phantom",
    )


def cardiac_phantom_layers() -> list[LayerDataTuple]:
    """The layers of the sample, for npe2."""
    return [to_layer_data(phantom_volume())]
