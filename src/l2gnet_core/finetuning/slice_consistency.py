"""How much structures change from slice to slice.

This needs no true labels, and it shows when a model gets worse in slices that nobody corrected.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.finetuning.overlap import answers
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.relay import Stoppable
from l2gnet_core.segmenting.corrections import Correction

#: Slices, evenly spaced over the scan, and pixels that are looked at, at most; and slices at least.
_MOST_SLICES, _MOST_PIXELS, _FEWEST_SLICES = 12, 12 * 256 * 256, 5


def unsteadiness(model: Model, correction: Correction, device: str) -> Stoppable[float]:
    """Change of a structure's area from slice to slice over the sum of its areas, 0 (none) to 2,
    mean over the structures that the corrected slices hold.

    Corrected slices count as they are painted, others as the model segments them.
    """
    count = correction.scan.shape[correction.axis]
    # By the scan's size, not the network's: two models must be compared on the same slices.
    pixels = correction.scan.size // count
    few = min(_MOST_SLICES, max(_FEWEST_SLICES, _MOST_PIXELS // pixels), count)
    seen = np.linspace(0, count - 1, few).round().astype(int)
    ids = sorted(correction.structures & set(model.card.labels.names))
    areas = {
        index: _areas(picture, ids)
        for index, picture in zip(correction.slices, correction.pictures, strict=True)
        if correction.unmarked is None or not (picture == correction.unmarked).any()
    }
    wanted = [index for index in seen.tolist() if index not in areas]
    for done in answers(model, correction, wanted, device):
        if done is not None:
            areas[done.index] = _areas(done.labels, ids)
        yield
    rows = np.array([areas[index] for index in seen.tolist()])
    total = rows.sum(0)
    changes = np.abs(np.diff(rows, axis=0)).sum(0)
    return float(np.mean(changes[total > 0] / total[total > 0])) if total.any() else 0.0


def _areas(picture: NDArray[np.generic], ids: list[int]) -> list[int]:
    return [int((picture == id).sum()) for id in ids]
