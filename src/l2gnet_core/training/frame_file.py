"""The frames that a run learns from, in a file instead of memory: a dataset may be larger."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
from torch import Tensor

from l2gnet_core.augmentation.sampling import TrainingCase
from l2gnet_core.errors import OutputError

#: Bytes between the beginnings of arrays are a multiple of this, as their values must be aligned.
_ALIGNED = 64


def on_disk(frames: Iterable[TrainingCase], folder: Path) -> list[TrainingCase]:
    """The same frames, of which memory holds what was lately used, as far as there is room.

    They lie in a file in a folder, which nobody else sees and which is gone when they are. Their
    tensors must not be written to. Raises OutputError if the disk has no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    with TemporaryFile(dir=folder, buffering=0) as file:
        for frame in frames:
            starts = [_written(file, array, folder) for array in (frame.image, frame.classes)]
            meta = replace(frame, image=frame.image.to("meta"), classes=frame.classes.to("meta"))
            kept.append((meta, starts))
        # One map for all: each keeps a file open. Not writable: a writable one takes up memory.
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if kept else b""

    def mapped(like: Tensor, start: int) -> Tensor:
        flat = torch.frombuffer(pages, dtype=like.dtype, count=like.numel(), offset=start)
        return flat.reshape(like.shape)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return [
            replace(
                frame,
                image=mapped(frame.image, starts[0]),
                classes=mapped(frame.classes, starts[1]),
            )
            for frame, starts in kept
        ]


def _written(file: IO[bytes], array: Tensor, folder: Path) -> int:
    """Write an array to the end of the file; returns where it begins."""
    try:
        start = file.seek(-file.tell() % _ALIGNED, os.SEEK_CUR)
        # A single call may write a part.
        left = array.contiguous().numpy().data.cast("B")
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise OutputError(
            f"{folder} has no room for the scans that are learnt from ({error.strerror or error}): "
            "choose a run folder on a larger disk, fewer scans, or coarser voxels (--resample, "
            "--pixel)."
        ) from error
    return start
