"""Do structures change as little from slice to slice as they should?

It takes no true labels to say, and a model that is led astray in slices that nobody corrected shows
in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.checkpoint import Model
from l2gnet_core.corrections import Correction
from l2gnet_core.cross_validation import Check, answers

#: Slices looked at, evenly spaced over the scan, at most, and pixels; but so many slices at least.
_MOST_SLICES, _MOST_PIXELS, _FEWEST_SLICES = 12, 12 * 256 * 256, 5


def unsteadiness(model: Model, correction: Correction, device: str) -> Check:
    """How much the areas of structures change from slice to slice, as a share of what they are: 0
    (not at all) to 2; mean over those structures that the corrected slices hold.

    Corrected slices count as they are painted, others as the model segments them.
    """
    count = correction.scan.shape[correction.axis]
    # The same slices however large a model sees them, or two models could not be compared.
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
