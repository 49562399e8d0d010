"""How codes and lit voxels look in layers of labels: values, colours, names in the status bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.scans.labels import hex_color
from napari_l2gnet.inspect.inspection import Inspection
from napari_l2gnet.inspect.parts import Part


def codes_of(inspection: Inspection) -> Callable[[int, int], NDArray[np.uint16]]:
    """A function (frame, index) → cells (h,w) of the code map, also of slices segmented later."""
    source = inspection.source
    cells = inspection.trace.cells

    def codes(frame: int, index: int) -> NDArray[np.uint16]:
        # 0 is "nothing" in a Labels layer, so codes count from 1.
        # Another version of the model, or a frame with other margins, may have other cells: nothing
        # is shown until the layer gets those.
        if frame not in source.traces or not cells.fits(source.traces[frame].cells):
            return np.zeros(cells.size, np.uint16)
        return (source.traces[frame].codes[index] + 1).astype(np.uint16)

    return codes


def code_arguments(inspection: Inspection) -> dict[str, Any]:
    """Colormap and features of the code map; features are what the status bar says."""
    from l2gnet_core.inspect.codes import code_colors

    usage = inspection.usage(Part())
    colors = code_colors(inspection.trace.vectors)
    told = {}
    for code in range(len(colors)):
        shares = usage.shares(code)
        organ = f" · {inspection.names[shares[0][0]]} {100 * shares[0][1]:.0f} %" if shares else ""
        told[code + 1] = f"code {code + 1}{organ}"
    return {
        "colormap": colors_of({n: hex_color(rgb) for n, rgb in enumerate(colors, 1)}),
        "features": features_of(told),
    }


def colors_of(colors: dict[int, str]) -> Any:
    """A colormap of these values; other values are transparent."""
    from napari.utils.colormaps import DirectLabelColormap

    return DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", **colors})


def features_of(names: dict[int, str]) -> Any:
    """The features of these values: what the status bar says."""
    import pandas as pd

    return pd.DataFrame({"index": [0, *names], "name": ["nothing", *names.values()]})
