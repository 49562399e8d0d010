"""Does a fine-tuned model still find what the old one found where nobody painted it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.finetuning.overlap import labels_said
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.relay import Stoppable
from l2gnet_core.segmenting.corrections import Correction

#: A structure with fewer voxels than this in all slices that are looked at does not count as lost.
SPECK = 100
#: At most so many untouched slices of a scan are held back from learning, and a third of them.
_MOST_HELD_BACK = 6


def held_back(correction: Correction) -> tuple[int, ...]:
    """Untouched slices from which nothing is to be learnt, evenly spaced, to judge a model by."""
    count = correction.scan.shape[correction.axis]
    untouched = [index for index in range(count) if index not in correction.slices]
    some = min(_MOST_HELD_BACK, len(untouched) // 3)
    return tuple(untouched[int((k + 0.5) * len(untouched) / some)] for k in range(some))


def held_back_answers(
    model: Model, corrections: Sequence[Correction], slices: Sequence[Sequence[int]], device: str
) -> Stoppable[list[NDArray[Any]]]:
    """A model's answers in the slices of each correction that are held back, (n,H,W)."""
    found = []
    for correction, some in zip(corrections, slices, strict=True):
        if some:
            said = yield from labels_said(model, correction, some, device)
            found.append(np.stack([said[index] for index in some]))
    return found


def unpainted_answers(
    model: Model, corrections: Sequence[Correction], device: str
) -> Stoppable[list[NDArray[Any]]]:
    """A model's answers (`unpainted`) in the corrected slices of each correction, (n,H,W)."""
    found = []
    for correction in corrections:
        if set(model.card.labels.names) <= correction.checked_structures:
            found.append(np.zeros_like(np.stack(correction.pictures)))
            continue
        said = yield from labels_said(model, correction, correction.slices, device)
        found.append(np.stack([unpainted(said[i], correction, i) for i in correction.slices]))
    return found


def unpainted(said: NDArray[Any], correction: Correction, index: int) -> NDArray[Any]:
    """An answer (H,W) in the corrected slice `index`; 0 where somebody painted, and for structures
    that somebody checked in it, or painted in another corrected slice of the scan."""
    truth = correction.picture(index)
    painted = truth != 0
    if correction.unmarked is not None:
        painted &= truth != np.uint16(correction.unmarked)
    if index in correction.checked:
        painted &= np.isin(truth, list(correction.checked[index]))
    known = correction.checked_structures.union(correction.checked.get(index, ()))
    return np.where(painted | np.isin(said, list(known)), 0, said)


def lost_shares(
    before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]], names: Mapping[int, str]
) -> dict[str, float]:
    """By name, for structures with at least `SPECK` voxels before: the share of these voxels that
    are something else after."""
    lost = {}
    for id, name in names.items():
        there = [old == id for old in before]
        count = sum(int(where.sum()) for where in there)
        if count >= SPECK:
            pairs = zip(there, after, strict=True)
            lost[name] = sum(int((where & (new != id)).sum()) for where, new in pairs) / count
    return lost
