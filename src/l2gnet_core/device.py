"""Where to compute."""

from __future__ import annotations

import torch

from l2gnet_core.errors import InputError


def choose_device(wanted: str = "auto") -> tuple[str, str]:
    """(device, why): of "auto", "cuda" where PyTorch finds one, else "cpu"; the others are taken at
    their word.

    Raises InputError if "cuda" is asked for and there is none, and for any other device.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"Expected a device among auto, cpu and cuda, but got '{wanted}'.")
    if wanted == "cpu":
        return "cpu", "CPU: chosen"
    if torch.cuda.is_available():
        return "cuda", f"GPU: {torch.cuda.get_device_name()}"
    why = "no CUDA device found" if torch.version.cuda else "this PyTorch is built without CUDA"
    if wanted == "cuda":
        raise InputError(f"Expected a CUDA device, but {why}; choose cpu.")
    return "cpu", f"CPU: {why}"
