"""Does a scan lie as it is said to? A model that tells left from right knows less of one that does
not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from l2gnet_core.errors import memory_is_short
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.device import choose_device, on_device
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.preprocessing.images import as_seen, pad_to_multiple
from l2gnet_core.relay import Stoppable
from l2gnet_core.scans.volume import AXIS_LETTERS, Grid, Volume
from l2gnet_core.segmenting.predict import BATCH_PIXELS, shown_images
from l2gnet_core.segmenting.slice_view import ShownScan

#: Slices that are looked at, evenly spaced in this part of the stack.
_SLICES, _PART = 6, (0.15, 0.85)
#: The other way round, a scan is known better if the model finds so many times as much in it, and
#: the probability of what it finds is higher by so much. Of 28 abdomens and heads, stored as they
#: should be, none reaches both, and hardly any reaches one.
_MORE, _SURER = 1.25, 0.01
#: With one side reversed, so much more is found of any scan that lies the other way round.
_HARDLY_MORE = 1.05
#: It must find something then: this share of the pixels. In heads it finds at least 0.0035.
_LEAST = 0.002

#: Which of rows and columns are reversed.
_TURNS = ((False, False), (True, False), (False, True), (True, True))
#: Of the axes whose letters are `AXIS_LETTERS`.
_SIDES = ("left and right", "front and back", "head and feet")


@dataclass(frozen=True)
class _Known:
    """How well a model knows slices: mean probability of structures, over all pixels, and of the
    answer, where it is a structure."""

    amount: float
    sure: float

    def better_than(self, other: _Known) -> bool:
        more = self.amount >= max(_LEAST, _MORE * other.amount)
        return more and self.sure >= other.sure + _SURER


def exchanged_sides(
    model: Model, shown: ShownScan, grid: Volume | Grid, device: str
) -> Iterator[str | None]:
    """A sentence on the sides of the body that seem to be exchanged in a scan, after a None for
    each pass of the network; no sentence if the scan seems to lie as it is said to.

    A head is much the same in its mirror image, so there left and right remain unknown; an abdomen
    is not. Along the stack nothing is checked, nor are models that do not tell left from right,
    stacks of a few slices, and what does not fit into memory. device: as in
    `l2gnet_core.network.device.choose_device`.
    """
    count = len(shown.slices)
    if not shown.card.oriented or count < _SLICES:
        return
    device, _ = choose_device(device)
    first, last = (part * (count - 1) for part in _PART)
    places = np.linspace(first, last, _SLICES).round().astype(int)
    indices = [shown.view.place(int(place)) for place in places]
    known: dict[tuple[bool, bool], _Known] = {}
    try:
        network = on_device(model.network, device)
        # A quick look suffices for most scans that lie as they should: less is found in them with
        # one side reversed. With both reversed, less still.
        for some, turns in ((indices[::2], _TURNS[:3]), (indices, _TURNS)):
            for turn in turns:
                known[turn] = yield from _known(network, shown, some, turn, device)
            most = max(known[turn].amount for turn in _TURNS[1:3])
            if most < _HARDLY_MORE * known[_TURNS[0]].amount:
                return
    except (MemoryError, RuntimeError) as error:
        if not memory_is_short(error):
            raise
        return
    better = [turn for turn, one in known.items() if one.better_than(known[False, False])]
    if not better:
        return
    rows, columns = max(better, key=lambda turn: known[turn].amount)
    best, axes = known[rows, columns], shown.view.axes
    sides = [
        _SIDES[next(i for i, pair in enumerate(AXIS_LETTERS) if grid.axis_codes[axis] in pair)]
        for axis, turned, without in (
            (axes[1], rows, known[False, columns]),
            (axes[2], columns, known[rows, False]),
        )
        if turned and best.better_than(without)
    ]
    if sides:
        letters = "".join(grid.axis_codes[axis] for axis in grid.stored_axes)
        said = " as well as ".join(sides)
        yield (
            f"{said[0].upper()}{said[1:]} may be exchanged: the other way round, the model finds "
            f"more and is surer. The scan's axes are said to grow to {letters}; if that is wrong, "
            "so is the mask."
        )


def _known(
    network: SegmentationNetwork,
    shown: ShownScan,
    indices: Sequence[int],
    reverse: tuple[bool, bool],
    device: str,
) -> Stoppable[_Known]:
    """How well a network knows slices of the stored axis with rows and columns in reverse."""
    turned = [2 + axis for axis in (0, 1) if reverse[axis]]
    height, width = shown.view.size
    batch = max(1, BATCH_PIXELS[device] // (height * width))
    amount, answered, sure = 0.0, 0, 0.0
    for start in range(0, len(indices), batch):
        images = shown_images(shown, indices[start : start + batch], network.config.in_channels)
        seen = as_seen(images.to(device), shown.view.size, shown.appearance).flip(turned)
        with torch.inference_mode():
            logits = network(pad_to_multiple(seen, network.config.stride)).logits
        found = logits[..., :height, :width].float().softmax(1)
        inside = found.argmax(1) > 0
        amount += float(found[:, 1:].sum()) / (len(indices) * height * width)
        answered += int(inside.sum())
        sure += float(found.amax(1)[inside].sum())
        yield
    return _Known(amount, sure / max(1, answered))
