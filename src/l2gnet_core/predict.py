"""Segmentation of whole scans, slice by slice, as a generator that can be stopped anywhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from l2gnet_core.appearance import Appearance
from l2gnet_core.card import ModelCard
from l2gnet_core.checkpoint import Model
from l2gnet_core.device import choose_device
from l2gnet_core.errors import InputError, memory_is_short
from l2gnet_core.files.values import plain_values
from l2gnet_core.inspect.trace import Trace, slice_traces
from l2gnet_core.intensities import normalise
from l2gnet_core.laterality import mirror_pairs
from l2gnet_core.model import NetworkOutput, SegmentationNetwork
from l2gnet_core.preprocess import as_seen, neighbours, pad_to_multiple, resized
from l2gnet_core.slice_view import Field, field_of, slice_view
from l2gnet_core.volume import Grid, Volume

#: Pixels per forward pass. On a laptop's CPU this keeps a pass well under the second within which
#: a cancel must take effect; a GPU wants more to be busy.
BATCH_PIXELS = {"cpu": 2 * 256 * 256, "cuda": 32 * 256 * 256}


@dataclass(frozen=True)
class SlicePrediction:
    """One finished slice: labels (H,W) of label ids, its index along the slicing axis, the device
    that computed it, and a sentence if that device is not the one asked for."""

    index: int
    labels: NDArray[np.uint8] | NDArray[np.uint16]
    device: str
    notice: str | None = None


@dataclass(frozen=True)
class _Answer:
    """classes: (B,H,W), uint8 on the CPU. probabilities: (B,classes,H,W), added up over the views.
    upright: the network's output for the slices as they are."""

    classes: Tensor
    probabilities: Tensor
    upright: NetworkOutput


def outward(first: int, count: int) -> list[int]:
    """0 … count − 1, beginning at `first` and going outward from it."""
    return sorted(range(count), key=lambda index: (abs(index - first), index))


def predict_slices(
    model: Model,
    scan: NDArray[np.generic],
    grid: Volume | Grid,
    axis: int,
    order: Sequence[int] | None = None,
    device: str = "cpu",
    trace: Trace | None = None,
    field: Field | None = None,
) -> Iterator[SlicePrediction | None]:
    """Segment slices of a scan (z,y,x) along `axis`, yielding each when it is done.

    `grid` says where the scan lies, or the series that it is a frame of; labels come back on it.

    Between the passes of a model with several views it yields None: a moment at which whoever
    drives the generator can stop it, long before a large slice is finished.

    `order` names the slices, in the order they are wanted; all of them by default. Intensities are
    scaled by all that is seen of the scan, so a slice comes out the same alone and among others.
    When the GPU's memory does not suffice, smaller batches are tried, then the CPU. `trace` takes
    in what the network saw (`l2gnet_core.inspect.trace.empty_trace`). `field` is the scan's, where
    it is known already: to find it takes a look at all of the scan. `device` is as in
    `l2gnet_core.device.choose_device`. Voxels that are no finite numbers count as the lowest. A
    slice of one intensity throughout holds nothing.

    Raises InputError for a scan of unknown orientation if the model needs it, for complex numbers,
    and for a device that is not there.
    """
    device, _ = choose_device(device)
    lookup = label_lookup(model.card)
    if field is None:
        # Readers make scans plain; arrays from elsewhere may hold anything.
        scan = plain_values(grid.name or "The scan", scan, [])
        field = field_of(model.card, grid, axis, scan)
    view = slice_view(model.card, grid, axis, margins=field.margins)
    views = _view_count(model.card, grid, axis)
    slices, window = view.stack(scan), model.card.seen_window(field.window, field.ct)
    appearance = model.card.appearance_of(slices, window)
    waiting = list(range(len(slices)) if order is None else order)
    height, width = view.size
    largest = max(height * width, view.shape[1] * view.shape[2])
    batch = max(1, BATCH_PIXELS[device] // largest)
    notice = None
    while waiting:
        indices = waiting[:batch]
        places = [view.place(index) for index in indices]
        count = model.network.config.in_channels
        seen = slices[neighbours(places, len(slices), count, view.step)]
        try:
            images = torch.from_numpy(normalise(seen, window))
            for answer in _answers(model, images, view.size, appearance, device, views):
                if answer is None:
                    yield None
        except torch.cuda.OutOfMemoryError:  # PyTorch 2.4 has no torch.OutOfMemoryError
            if batch > 1:
                batch //= 2
                notice = f"GPU memory is short: going on with smaller batches ({batch})"
            elif device != "cpu":
                device, model = "cpu", replace(model, network=_on_cpu(model.network))
                notice = "GPU memory does not suffice: going on with the CPU"
            else:
                raise
            continue
        except (MemoryError, RuntimeError) as error:
            if not memory_is_short(error):
                raise
            raise InputError(
                f"Expected slices that fit into memory, but {height}×{width} pixels do not; close "
                "other programs, or use a smaller image."
            ) from error
        waiting = waiting[batch:]
        assert answer is not None
        # Padding and lost slices: their neighbours alone would make the network see organs there.
        blank = torch.tensor([slices[place].min() == slices[place].max() for place in places])
        answer = _with_background(answer, blank, views)
        if trace is not None:
            shares = answer.probabilities / views
            for index, one in zip(indices, slice_traces(answer.upright, shares, view), strict=True):
                trace.add(index, one)
        classes = answer.classes.numpy()
        # A GPU's memory is not kept while whoever consumes the generator is busy.
        del answer
        for index, labels in zip(indices, classes, strict=True):
            yield SlicePrediction(index, lookup[view.whole(labels)], device, notice)
            notice = None


def _on_cpu(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy on the CPU: another job may go on with the network itself on the GPU."""
    tensors = [*network.parameters(), *network.buffers()]
    # Copied first they would need memory of the GPU.
    here = {id(one): one.detach().to("cpu", copy=True) for one in tensors}
    for one in network.parameters():
        here[id(one)] = Parameter(here[id(one)], one.requires_grad)
    return copy.deepcopy(network, here)


def _answers(
    model: Model,
    images: Tensor,
    size: tuple[int, int],
    appearance: Appearance,
    device: str,
    views: int,
) -> Iterator[_Answer | None]:
    """The answer for images (B,C,H,W) that the network sees at another size, after a None for each
    pass that is not the last."""
    network = model.network.to(device)
    seen = as_seen(images.to(device), size, appearance)
    padded = pad_to_multiple(seen, network.config.stride)
    padded = padded.contiguous(memory_format=torch.channels_last)
    total: Tensor | None = None
    upright: NetworkOutput | None = None
    for number in range(views):
        if total is not None:
            yield None
        # Entered per pass: held across a yield it would leak into whoever consumes the generator.
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.float16, enabled=device == "cuda"),
        ):
            output = network(_viewed(padded, number, model.card))
            probabilities = _as_stored(output.logits.float().softmax(1), number, model.card)
            total = probabilities if total is None else total + probabilities
            upright = upright or output
    assert total is not None
    assert upright is not None
    # Resized before the decision, not after it, so that borders stay smooth.
    total = resized(total[:, :, : size[0], : size[1]], images.shape[-2:])
    yield _Answer(total.argmax(1).to("cpu", torch.uint8), total, upright)


def _with_background(answer: _Answer, where: Tensor, views: int) -> _Answer:
    """The same answer with nothing but background in some of its slices, `where` (B,)."""
    if not where.any():
        return answer
    where = where[:, None, None]
    background = torch.zeros_like(answer.probabilities)
    background[:, 0] = views
    there = where[:, None].to(background.device)
    return replace(
        answer,
        classes=torch.where(where, 0, answer.classes),
        probabilities=torch.where(there, background, answer.probabilities),
    )


def _view_count(card: ModelCard, grid: Volume | Grid, axis: int) -> int:
    """Over how many views answers are averaged. A mirror image tells nothing where left and right
    are no sides of the picture, or where it is not known which structures change names."""
    if not card.oriented:
        return card.views
    mirrored = grid.axis_codes[axis] not in "LR" and mirror_pairs(card.labels)
    return min(card.views, 2) if mirrored else 1


def _viewed(images: Tensor, number: int, card: ModelCard) -> Tensor:
    """One of the views (B,C,H,W) that a card asks for, 0 being the slices as they are. A model
    without left and right sees each quarter turn: together they make its answer turn with the scan.
    One that has them sees the mirror image."""
    if card.oriented:
        return images.flip(3) if number else images
    return images.rot90(number, (2, 3))


def _as_stored(probabilities: Tensor, number: int, card: ModelCard) -> Tensor:
    """Inverse of `_viewed`, for class probabilities: what was left in a mirror is right again."""
    if not card.oriented:
        return probabilities.rot90(-number, (2, 3))
    if not number:
        return probabilities
    classes = list(range(probabilities.shape[1]))
    for one, other in mirror_pairs(card.labels):
        classes[one], classes[other] = other, one
    return probabilities.flip(3)[:, classes]


def label_lookup(card: ModelCard) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Label id of each class index; 0 stays background."""
    ids = [0, *(label.id for label in card.labels)]
    return np.array(ids, np.uint8) if max(ids) < 256 else np.array(ids, np.uint16)
