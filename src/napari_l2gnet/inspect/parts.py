"""Parts of a scan, and the numbers about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from l2gnet_core.inspect.similar import Region


@dataclass(frozen=True)
class Part:
    """A part of a scan: one slice (index along the slicing axis), one structure (column of the
    tables), or the whole volume if both are None."""

    index: int | None = None
    column: int | None = None


@dataclass(frozen=True, eq=False)
class Usage:
    """Codes of a part of a scan. table: (K,L) voxels of each structure in the cells of each code.
    plan: code-to-code (K,K), None without transport."""

    table: NDArray[np.int64]
    plan: NDArray[np.float64] | None

    @property
    def order(self) -> list[int]:
        """The codes that occur, those with the most voxels of structures first."""
        total, structure = self.table.sum(1), self.table[:, 1:].sum(1)
        order = np.lexsort((-total, -structure))
        return [int(code) for code in order if total[code]]

    def shares(self, code: int) -> list[tuple[int, float]]:
        """(column, share of the code's voxels), the largest first, nothing under half a percent."""
        from l2gnet_core.inspect.codes import structure_shares

        return structure_shares(self.table[code])


@dataclass(frozen=True, eq=False)
class DoubtMap:
    """One kind of doubt.

    values: of voxels (z,y,x), or a function (frame, index) → cells (h,w). limits: the range to
    show. places: regions of doubt, the worst first.
    """

    values: Any
    limits: tuple[float, float]
    places: list[Region]
