"""Segment medical scans with L2GNet, and fine-tune its models, without a window.

The README shows how to use the names that this package offers. Each is imported at its first use,
because PyTorch and the readers of files load slowly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "CorrectedFiles",
    "InputError",
    "find_model",
    "finetune",
    "load_model",
    "read_correction",
    "read_volume",
    "save_model",
    "segmented",
    "write_labels",
]

if TYPE_CHECKING:
    from l2gnet_core.errors import InputError
    from l2gnet_core.files import read_volume, write_labels
    from l2gnet_core.finetuning.files import CorrectedFiles, read_correction
    from l2gnet_core.finetuning.run import finetune
    from l2gnet_core.models.catalog import find_model
    from l2gnet_core.models.checkpoint import load_model, save_model
    from l2gnet_core.segmenting.files import segmented
else:
    # Not for type checkers, which would then believe that the package has any name.
    _MODULES = {
        "CorrectedFiles": "finetuning.files",
        "InputError": "errors",
        "find_model": "models.catalog",
        "finetune": "finetuning.run",
        "load_model": "models.checkpoint",
        "read_correction": "finetuning.files",
        "read_volume": "files",
        "save_model": "models.checkpoint",
        "segmented": "segmenting.files",
        "write_labels": "files",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

    def __dir__():
        return sorted({*globals(), *__all__})
