"""Finds layers on a scan's own voxels, though stored along other axes, in part or with more."""

from __future__ import annotations

from typing import Any

from l2gnet_core.scans.storage_order import Fit, fit_on
from napari_l2gnet.scans.layers import filed_grid, lie_on_each_other


def fit_of(layer: Any, onto: Any) -> Fit | None:
    """How a layer's voxels lie on those of another; None if they do not lie on its grid.

    The grids of the files decide if both are known, else only the same shape at the same place.
    """
    one, grid = filed_grid(layer), filed_grid(onto)
    if one is None or grid is None:
        return Fit() if lie_on_each_other(layer, onto) else None
    return fit_on(one, grid)
