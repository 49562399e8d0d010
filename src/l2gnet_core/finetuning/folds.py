"""Which corrected slices are left out of learning together, to judge by."""

from __future__ import annotations

from collections.abc import Sequence

from l2gnet_core.finetuning.config import FineTuneConfig
from l2gnet_core.segmenting.corrections import Correction, image_numbers

#: For each correction the slices that a run leaves out.
Fold = list[tuple[int, ...]]


def folds(corrections: Sequence[Correction], config: FineTuneConfig) -> list[Fold]:
    """Which slices are left out together; no folds if there is a single slice.

    With several images, a project's folds leave out whole ones, since its model is for further
    scans. The same slice of all frames of an image is left out together, because it shows the same
    anatomy.
    """
    pairs = [(i, s) for i, correction in enumerate(corrections) for s in correction.slices]
    images = image_numbers(corrections)
    whole = config.kind == "project" and len(set(images)) > 1
    parts = [(images[i], -1 if whole else s) for i, s in pairs]
    numbers = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    units = [numbers[part] for part in parts]
    count = min(config.folds, len(numbers))
    if count < 2:
        return []

    def left_out(scan: int, fold: int) -> tuple[int, ...]:
        numbered = zip(pairs, units, strict=True)
        return tuple(s for (i, s), unit in numbered if i == scan and unit % count == fold)

    return [[left_out(scan, fold) for scan in range(len(corrections))] for fold in range(count)]
