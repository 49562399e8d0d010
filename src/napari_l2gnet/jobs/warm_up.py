"""Imports of large packages that a background job does early, so that the window need not wait for
them later.

Internal modules of other packages may move; a step then leaves them out, and the window waits once.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from importlib import import_module


def labels_layer() -> None:
    """What napari imports in the GUI's thread for the first Labels layer."""
    for name in ("pandas", "skimage.color.colorconv"):
        with suppress(ImportError):
            import_module(name)
    with suppress(ImportError):
        from vispy.visuals.line.dash_atlas import DashAtlas

        DashAtlas()  # takes 0.1 s the first time; vispy keeps the patterns for all lines


def interpolation() -> None:
    """What interpolation between slices needs."""
    import sklearn.ensemble  # noqa: F401


def inspection() -> None:
    """What the numbers of Inspect need."""
    with suppress(ImportError):
        import pandas  # noqa: F401
    import scipy.ndimage
    import scipy.spatial.distance  # noqa: F401


def fine_tuning() -> Generator[None, None, None]:
    """What fine-tuning and its charts need, and interpolation; yields between the steps."""
    import pyqtgraph  # noqa: F401

    yield
    import scipy.ndimage  # noqa: F401
    import torch

    yield
    interpolation()
    yield
    import l2gnet_core.finetuning.run  # noqa: F401

    yield
    # The first step of an optimiser imports more than all of the above.
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]).step()
