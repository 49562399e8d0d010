"""The device to compute on, and the number and memory formats that suit it in training."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch.nn import Module, Parameter

from l2gnet_core.errors import InputError

Network = TypeVar("Network", bound=Module)


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


def on_device(network: Network, device: str) -> Network:
    """A network on a device ("cpu" or "cuda"): itself if it is there, else a copy. It is not moved,
    as another job may use it where it is."""
    tensors = [*network.parameters(), *network.buffers()]
    if all(one.device.type == device for one in tensors):
        return network
    # `deepcopy` alone would copy them where they are first, and memory may be short there.
    there = {id(one): one.detach().to(device, copy=True) for one in tensors}
    for one in network.parameters():
        there[id(one)] = Parameter(there[id(one)], one.requires_grad)
    return copy.deepcopy(network, there)


def precision(device: str) -> Literal["bf16-mixed", "32-true"]:
    """bfloat16 if the hardware computes in it; emulation is ten times slower than float32."""
    if device == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        # This function is private, and missing in some versions of PyTorch.
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if native else "32-true"


def memory_format(device: str) -> torch.memory_format:
    """Memory format of images in training: channels last on a GPU. On a CPU that makes a training
    step slower, by 6 % in float32 and by a factor in bfloat16, although inference is faster."""
    return torch.channels_last if device == "cuda" else torch.contiguous_format
