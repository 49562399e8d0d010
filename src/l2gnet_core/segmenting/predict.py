"""Segmentation of whole scans, slice by slice, as a generator that can be stopped anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l2gnet_core.errors import InputError, memory_is_short
from l2gnet_core.files.values import plain_values
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.device import choose_device, on_device
from l2gnet_core.network.model import NetworkOutput
from l2gnet_core.preprocessing.images import as_seen, neighbours, pad_to_multiple, resized
from l2gnet_core.preprocessing.intensities import normalise
from l2gnet_core.scans.laterality import mirror_pairs
from l2gnet_core.scans.volume import Grid, Volume
from l2gnet_core.segmenting.slice_view import Field, ShownScan, field_of, shown_scan
from l2gnet_core.segmenting.trace import SliceTrace, Trace, slice_traces

#: Pixels per forward pass. On a laptop's CPU a pass then takes well under a second, within which a
#: cancel must take effect; a GPU needs more to be busy.
BATCH_PIXELS = {"cpu": 2 * 256 * 256, "cuda": 32 * 256 * 256}


@dataclass(frozen=True)
class SlicePrediction:
    """One finished slice: labels (H,W) of label ids, its index along the slicing axis, the device
    that computed it, and a sentence if that device is not the one asked for. trace: what the
    network saw of it, if that was asked for. ahead: how many more slices were computed with it, and
    follow at once."""

    index: int
    labels: NDArray[np.uint8] | NDArray[np.uint16]
    device: str
    notice: str | None = None
    trace: SliceTrace | None = None
    ahead: int = 0


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
    traced: bool = False,
    field: Field | None = None,
) -> Iterator[SlicePrediction | None]:
    """Segment slices of a scan (z,y,x) along `axis`, yielding each when it is done.

    Yields None between the passes of a model with several views, so that the caller can stop it
    long before a large slice is finished. If the GPU's memory does not suffice, smaller batches are
    tried, then the CPU. Voxels that are no finite numbers count as the lowest. A slice of one
    intensity throughout is background.

    grid: of the scan, or of the series that it is a frame of; labels come back on it.
    order: the slices, in the order in which they are wanted; all of them by default. Intensities
        are scaled by all of the scan that is shown, so a slice alone comes out as among others.
    device: as in `l2gnet_core.network.device.choose_device`. The model stays where it is; if that
        is elsewhere, a copy computes.
    traced: give what the network saw of each slice, too, for `Trace.add`; the network must have
        codes. `l2gnet_core.segmenting.trace.empty_trace` is a trace of the whole scan.
    field: that of the scan, if it is known: finding it reads the whole scan.

    Raises InputError for a scan of unknown orientation if the model needs it, for complex numbers,
    and for a device that is not there.
    """
    device, _ = choose_device(device)
    lookup = label_lookup(model.card)
    # Readers make scans plain; arrays from elsewhere may hold anything.
    scan = plain_values(grid.name or "The scan", scan, [])
    field = field or field_of(model.card, grid, axis, scan)
    shown = shown_scan(model.card, scan, grid, axis, field)
    view, views = shown.view, _view_count(model.card, grid, axis)
    waiting = list(range(len(shown.slices)) if order is None else order)
    height, width = view.size
    largest = max(height * width, view.shape[1] * view.shape[2])
    batch = max(1, BATCH_PIXELS[device] // largest)
    placed: Model | None = None
    notice = None
    while waiting:
        indices = waiting[:batch]
        try:
            placed = placed or replace(model, network=on_device(model.network, device))
            images = shown_images(shown, indices, model.network.config.in_channels)
            for answer in _answers(placed, images, shown, views, device):
                if answer is None:
                    yield None
        except torch.cuda.OutOfMemoryError:  # PyTorch 2.4 has no torch.OutOfMemoryError
            if batch > 1:
                batch //= 2
                notice = f"GPU memory is short: going on with smaller batches ({batch})"
            elif device != "cpu":
                device, placed = "cpu", None
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
        answer = _with_background(answer, _blank(shown, indices), views)
        traces: list[SliceTrace] | list[None] = [None] * len(indices)
        if traced:
            traces = slice_traces(answer.upright, answer.probabilities / views, view)
        classes = answer.classes.numpy()
        # Free the GPU's memory while the caller is busy.
        del answer
        ahead = range(len(indices))[::-1]
        for index, one, trace, more in zip(indices, classes, traces, ahead, strict=True):
            labels = lookup[view.whole(one)]
            yield SlicePrediction(index, labels, device, notice, trace, more)
            notice = None


def segment(
    model: Model,
    scan: NDArray[np.generic],
    grid: Volume | Grid,
    axis: int,
    *,
    device: str = "cpu",
    field: Field | None = None,
    trace: Trace | None = None,
    warnings: list[str] | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The mask (z,y,x) of a scan, untidied. The other arguments are those of `predict_slices`.

    trace: of the scan, which takes in what the network saw. warnings: notices are added to it.
    """
    mask = np.zeros(scan.shape, label_lookup(model.card).dtype)
    target, traced = np.moveaxis(mask, axis, 0), trace is not None
    for done in predict_slices(model, scan, grid, axis, None, device, traced, field):
        if done is None:
            continue
        target[done.index] = done.labels
        if trace is not None and done.trace is not None:
            trace.add(done.index, done.trace)
        if warnings is not None and done.notice:
            warnings.append(done.notice)
    return mask


def shown_images(shown: ShownScan, indices: Sequence[int], channels: int) -> Tensor:
    """What a network is shown of some slices of the stored axis: they and their neighbours,
    (k,channels,H,W) in [0,1], at their stored size and in no appearance yet."""
    places = [shown.view.place(index) for index in indices]
    seen = shown.slices[neighbours(places, len(shown.slices), channels, shown.view.step)]
    return torch.from_numpy(normalise(seen, shown.window))


def _blank(shown: ShownScan, indices: Sequence[int]) -> Tensor:
    """(B,): which of these slices have one value throughout, as padded and lost ones do."""
    seen = (shown.slices[shown.view.place(index)] for index in indices)
    return torch.tensor([bool(one.min() == one.max()) for one in seen])


def _answers(
    model: Model, images: Tensor, shown: ShownScan, views: int, device: str
) -> Iterator[_Answer | None]:
    """The answer for images (B,C,H,W) of a scan, after a None for each pass but the last. The model
    is on the device. views: turned or mirrored ones, over which answers are averaged."""
    network = model.network
    size = shown.view.size
    seen = as_seen(images.to(device), size, shown.appearance)
    padded = pad_to_multiple(seen, network.config.stride)
    padded = padded.contiguous(memory_format=torch.channels_last)
    total: Tensor | None = None
    upright: NetworkOutput | None = None
    for number in range(views):
        if total is not None:
            yield None
        # Entered for each pass: across a yield these modes would leak into the caller.
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
    # Probabilities are resized, not classes, so that borders stay smooth.
    total = resized(total[:, :, : size[0], : size[1]], images.shape[-2:])
    yield _Answer(total.argmax(1).to("cpu", torch.uint8), total, upright)


def _with_background(answer: _Answer, blank: Tensor, views: int) -> _Answer:
    """The answer with background alone in blank slices, (B,): a network that is shown neighbouring
    slices, too, finds in them what these hold."""
    if not blank.any():
        return answer
    blank = blank[:, None, None]
    background = torch.zeros_like(answer.probabilities)
    background[:, 0] = views
    there = blank[:, None].to(background.device)
    return replace(
        answer,
        classes=torch.where(blank, 0, answer.classes),
        probabilities=torch.where(there, background, answer.probabilities),
    )


def _view_count(card: ModelCard, grid: Volume | Grid, axis: int) -> int:
    """Number of views over which answers are averaged. The mirror image is left out if left and
    right are not sides of the picture, or if the names of mirrored structures are not known."""
    if not card.oriented:
        return card.views
    mirrored = grid.axis_codes[axis] not in "LR" and mirror_pairs(card.labels)
    return min(card.views, 2) if mirrored else 1


def _viewed(images: Tensor, number: int, card: ModelCard) -> Tensor:
    """View `number` of slices (B,C,H,W); 0 is the slices as they are. A model without left and
    right sees the four quarter turns, so that its answer turns with the scan; an oriented one sees
    the mirror image."""
    if card.oriented:
        return images.flip(3) if number else images
    return images.rot90(number, (2, 3))


def _as_stored(probabilities: Tensor, number: int, card: ModelCard) -> Tensor:
    """Inverse of `_viewed` for class probabilities (B,classes,H,W): in a mirror image, left and
    right structures change places, too."""
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
