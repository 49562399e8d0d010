"""A change of single voxels that can be taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Swap:
    """Voxels (flat indices) of an array, and their labels before and after a change."""

    voxels: NDArray[np.intp]
    before: NDArray[Any]
    after: NDArray[Any]

    @classmethod
    def between(
        cls, old: NDArray[Any], new: NDArray[Any], where: NDArray[np.bool_] | None = None
    ) -> Swap:
        """What differs between two arrays, where it may (None: everywhere)."""
        other = old != new
        voxels = np.flatnonzero(other if where is None else other & where)
        return cls(voxels, old.flat[voxels], new.flat[voxels].astype(old.dtype))

    def into(self, array: NDArray[Any], back: bool = False) -> None:
        """Make the change in an array, or take it back there; all other voxels stay."""
        array.flat[self.voxels] = self.before if back else self.after
