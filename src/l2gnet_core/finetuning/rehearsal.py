"""Drawn hearts against forgetting: replayed during fine-tuning, and a test of the model after it.

A model's file holds no patients' scans, but every installation can draw the same hearts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from l2gnet_core.finetuning.appearance_search import seen_as
from l2gnet_core.finetuning.overlap import Counts, compared, upright
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.preprocessing.appearance import PLAIN
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.relay import Stoppable
from l2gnet_core.scans.phantom import DRAWN, cardiac_phantom, drawn_as
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.predict import predict_slices

#: First seeds of the hearts that are replayed, and of those that test; training uses others.
FIRST_REPLAYED = 20_000
FIRST_ASKED_AFTER = 30_000
#: A model with a lower mean Dice does not know the drawn heart, and so cannot forget it.
KNOWN = 0.5
_SLICES = 4


def _width(card: ModelCard) -> int | None:
    """Width in pixels of drawn hearts for a model; None for models that cannot know them, because
    drawn hearts have no left, no right and no true size."""
    if card.oriented or card.spacing or not set(DRAWN) <= set(card.labels.names.values()):
        return None
    return 224 if card.sides is None else sum(card.sides) // 2


def replayed_hearts(card: ModelCard, count: int = 3) -> list[Tensor]:
    """Drawn hearts (n,H,W), float16 in [0,1]; none for models that cannot know them."""
    width = _width(card)
    if width is None:
        return []
    shape = (_SLICES, width, width)
    drawn = [cardiac_phantom(FIRST_REPLAYED + i, i % 3 / 2, shape).image for i in range(count)]
    return [torch.from_numpy(normalise(image, intensity_window(image))).half() for image in drawn]


def heart_dice(model: Model, device: str) -> Stoppable[float | None]:
    """Mean Dice on a drawn heart that no model learnt from; None if the model cannot know it.

    The heart is shown as it is drawn: the appearance that suits another scan does not matter here.
    """
    model = seen_as(upright(model), PLAIN)
    width = _width(model.card)
    if width is None:
        return None
    phantom = cardiac_phantom(FIRST_ASKED_AFTER, shape=(_SLICES, width, width))
    yield
    # By name: the model may use other ids than the drawing.
    lookup = drawn_as({label.name: label.id for label in model.card.labels})
    ids = lookup[list(DRAWN.values())].tolist()
    counts: Counts = np.zeros((len(ids), 3), np.int64)
    grid = Grid(phantom.image.shape)
    for done in predict_slices(model, phantom.image, grid, axis=0, device=device):
        if done is not None:
            counts += compared(done.labels, lookup[phantom.labels[done.index]], ids)
        yield
    return float(np.mean(2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])))
