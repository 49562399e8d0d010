"""The device to compute on."""

from __future__ import annotations

import torch

from l2gnet_core.errors import InputError


def choose_device(wanted: str = "auto") -> tuple[str, str]:
    """(device, reason) for "auto", "cpu" or "cuda"; "auto" is "cuda" if PyTorch finds such a
    device, else "cpu".

    Raises InputError for "cuda" without a CUDA device, and for any other device.
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
