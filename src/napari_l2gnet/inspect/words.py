"""Texts and tables about codes, plans and slices, for the Inspect widget; without Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_l2gnet.inspect.inspection import NOT_SEGMENTED, Inspection
from napari_l2gnet.inspect.parts import Part, Usage

#: The views, in the order of their tabs.
USAGE, PLAN, SCATTER, REFERENCES, SLICES = range(5)
#: Which plan is shown if two are compared.
DIFFERENCE, MINE, OTHERS = "difference", "mine", "others"
Table = tuple[list[str], list[list[Any]]]


@dataclass(frozen=True, eq=False)
class Words:
    """Numbers about a part of a scan, in plain words and in tables.

    before: the usage of the same part of what it is compared with, such as another model's answer.
    In texts, codes and references count from 1, slices from 0.
    """

    inspection: Inspection
    part: Part
    before: Usage | None = None

    @property
    def usage(self) -> Usage:
        """The usage of the part."""
        return self.inspection.usage(self.part)

    @property
    def order(self) -> list[int]:
        """The codes that occur on either side; first those of organs, by their share of the
        organs."""
        sides = [self.usage] if self.before is None else [self.usage, self.before]
        if len(sides) == 1:
            return list(self.usage.order)
        organs = np.max([s.table[:, 1:].sum(1) / max(1, s.table.sum()) for s in sides], axis=0)
        every = np.max([s.table.sum(1) / max(1, s.table.sum()) for s in sides], axis=0)
        found = dict.fromkeys(code for side in sides for code in side.order)
        return sorted(found, key=lambda code: (-organs[code], -every[code]))

    def of_organs(self, code: int) -> bool:
        """Does a code have voxels of organs, on either side?"""
        sides = [self.usage] if self.before is None else [self.usage, self.before]
        return any(side.table[code, 1:].any() for side in sides)

    @property
    def whole(self) -> str:
        """What the numbers are a share of."""
        if self.part.index is not None:
            return "this slice"
        if self.part.column is not None:
            return f"the {self.inspection.names[self.part.column]}"
        seen = self.inspection.trace.seen
        if seen.all():
            return "this volume"
        count = int(np.count_nonzero(seen))
        return "the segmented slice" if count == 1 else f"the {count} segmented slices"

    # ------------------------------------------------------------------ numbers

    @property
    def _is(self) -> Usage:
        """The usage that names codes; in that of an organ, every code would be the organ's."""
        return self.usage if self.part.column is None else self.inspection.usage(Part())

    def organs(self, code: int, most: int | None = None) -> str:
        """As in "myocardium 91 %, background 9 %", with spaces that do not break."""
        names = self.inspection.names
        shares = self._is.shares(code)[:most]
        return ", ".join(f"{names[c]} {100 * share:.0f}\u00a0%" for c, share in shares)

    def main_organ(self, code: int) -> int:
        """The column of the organ with the most voxels of a code; 0, background, if there is none.

        An organ counts if it has a tenth of the code's voxels, because cells extend over edges of
        organs, or a twentieth of its own voxels in the code, because some organs are smaller than
        cells.
        """
        table = self._is.table
        row, totals = table[code], table.sum(0)
        home = (row >= 0.1 * row.sum()) | (row >= 0.05 * totals)
        kept = np.where(home, row, 0)[1:]
        return int(kept.argmax()) + 1 if kept.any() else 0

    def percent(self, code: int) -> float:
        """The percentage of the part's voxels in cells of a code."""
        return _percent(self.usage.table, code)

    @property
    def has_organs(self) -> bool:
        """Does the part have voxels of organs?

        The bars are then about organs alone: beside the background, a small organ would not show.
        """
        return bool(self.usage.table[:, 1:].any())

    def bar(self, code: int) -> float:
        """The length of a code's bar: the percentage of the part's organs in its cells; of all
        voxels if there are no organs."""
        return _percent(self._counted(self.usage), code)

    def bar_before(self, code: int) -> float:
        """The same bar, for what is compared with."""
        assert self.before is not None
        return _percent(self._counted(self.before), code)

    def _counted(self, usage: Usage) -> NDArray[np.int64]:
        return usage.table[:, 1:] if self.has_organs else usage.table

    @property
    def counted(self) -> str:
        """What bars are percentages of."""
        organs = self.has_organs and self.part.column is None
        return f"the organs in {self.whole}" if organs else self.whole

    def lift(self, side: str = DIFFERENCE) -> NDArray[np.float64]:
        """(K,K): how many times as often as by chance codes meet; nan if one does not occur.

        side: whose plan, or the difference, if another model is compared with.
        """
        from l2gnet_core.inspect.plans import times_chance

        plan = self.usage.plan
        assert plan is not None
        found = times_chance(plan)
        if self.before is None or self.before.plan is None or side == MINE:
            return found
        before = times_chance(self.before.plan)
        return before if side == OTHERS else found - before

    def sent(self, code: int | None) -> NDArray[np.float64]:
        """(R,): what a code, or the whole part, sends to each reference, 1 = its even share."""
        return self.inspection.row(self.part, code)

    # ------------------------------------------------------------------ words

    def tell_chosen(self, codes: Sequence[int]) -> str:
        """Describe no, one or two codes in a few lines of HTML."""
        if self.part.index is not None and not self.inspection.trace.seen[self.part.index]:
            return f"<b>{NOT_SEGMENTED}</b>"
        if not codes:
            many = int(np.count_nonzero(self.usage.table.sum(1)))
            return (
                f"<b>{many} of {len(self.usage.table)} codes occur in {escape(self.whole)}.</b>"
                "<br>Click on the image or a chart to highlight all voxels of a code."
            )
        if len(codes) == 2:
            numbers = " and ".join(str(code + 1) for code in codes)
            pair = escape(self.tell_pair(codes[0], codes[1])).replace("\n", " ")
            return f"<b>Codes {numbers}</b><br>{pair}"
        code = codes[0]
        line = f"{_told(self.percent(code))} % of {escape(self.whole)}"
        heard = [
            f"{one.code + 1} ({_told(100 * one.share)}\u00a0%)"
            for one in self.inspection.partners(self.part, code)
        ]
        if heard:
            line += f" · receives above chance from codes {', '.join(heard)}"
        organs = escape(self.organs(code, 2) or "no voxel here")
        return f"<b>Code {code + 1} · {organs}</b><br>{line}"

    def tell_code(self, code: int) -> str:
        """Describe a code."""
        them = "they are" if self.part.column is None else "all voxels of the code are"
        lines = [
            f"Code {code + 1}: one of the {len(self.usage.table)} patterns that the model tells "
            "apart.",
            f"{_told(self.percent(code))} % of the voxels of {self.whole} lie in its cells.",
            f"In the model's answer {them} {self.organs(code) or 'nothing here'}.",
        ]
        if self.counted != self.whole:
            lines.append(f"It holds {_told(self.bar(code))} % of {self.counted} (its bar).")
        if self.before is not None:
            lines.append(
                f"In the comparison, it holds {_told(self.bar_before(code))} % (purple bar)."
            )
        return "\n".join(lines)

    def tell_pair(self, row: int, column: int, side: str = DIFFERENCE) -> str:
        """Describe a cell of the plan."""
        value = float(self.lift(side)[row, column])
        difference = self.before is not None and side == DIFFERENCE
        receiver, sender = f"code {row + 1} receives", f"from code {column + 1}"
        if np.isnan(value):
            both = " or in the comparison" if difference else ""
            return (
                f"{receiver.capitalize()} nothing {sender}: one of the two does not occur in "
                f"{self.whole}{both}."
            )
        if difference:
            more = "more" if value >= 0 else "less"
            return (
                f"{receiver.capitalize()} {more} information {sender} than in the comparison,\n"
                f"by {abs(value):.2f} times the chance level."
            )
        theirs = self.before is not None and side == OTHERS
        begin = f"In the comparison, {receiver}" if theirs else receiver.capitalize()
        return (
            f"{begin} {value:.2f} times as much information {sender} as by chance.\n"
            "Above 1, the two send mass to the same references, even if they lie far apart."
        )

    def tell_sent(self, reference: int, code: int | None) -> str:
        """Describe a reference."""
        of = self.whole if code is None else f"code {code + 1}"
        return (
            f"Reference {reference + 1} receives {self.sent(code)[reference]:.2f} times an even "
            f"share of the mass of {of}.\nCells that send mass to the same reference exchange "
            "information."
        )

    def tell_slice(self, index: int) -> str:
        """Describe a slice's place among all slices to check."""
        order = {one.index: one for one in self.inspection.found.ranking}
        rank, one = list(order).index(index) + 1, order[index]
        dice = f"\nThe expected Dice is {1 - one.expected:.2f}." if self._expects_dice else ""
        return (
            f"Slice {index}: number {rank} of {len(order)} to check.\n"
            f"About {one.voxels:.0f} voxels near borders are expected to be wrong.{dice}\n"
            "The order of the slices is more reliable than these numbers."
        )

    @property
    def _expects_dice(self) -> bool:
        """Is the expected Dice of slices valid for this model?"""
        from l2gnet_core.inspect.uncertainty import expects_dice

        return expects_dice(self.inspection.names[1:])

    # ------------------------------------------------------------------ tables

    def table(self, view: int, code: int | None = None, side: str = DIFFERENCE) -> Table:
        """All numbers of a view, as heads and rows.

        code: the chosen one, for its references. side: of the plan, see `lift`.
        """
        tables = (
            self._usage,
            lambda: self._plan(side),
            self._scatter,
            lambda: self._sent(code),
            self._slices,
        )
        return tables[view]()

    def _usage(self) -> Table:
        heads = ["code", f"percent of {self.whole}"]
        heads += [f"voxels of {name}" for name in self.inspection.names]
        heads += [f"percent of {self.counted}"] if self.counted != self.whole else []
        heads += [f"percent of {self.counted} in the comparison"] if self.before is not None else []
        rows: list[list[Any]] = []
        for code in self.order:
            row = [code + 1, round(self.percent(code), 4), *self.usage.table[code].tolist()]
            row += [round(self.bar(code), 4)] if self.counted != self.whole else []
            row += [round(self.bar_before(code), 4)] if self.before is not None else []
            rows.append(row)
        return heads, rows

    def _plan(self, side: str) -> Table:
        order, lift = sorted(self.order), self.lift(side)
        return ["code", *(str(code + 1) for code in order)], [
            [row + 1, *np.round(lift[row, order], 4).tolist()] for row in order
        ]

    def _scatter(self) -> Table:
        places, names = self.inspection.positions(), self.inspection.names
        return ["code", "first component", "second component", "main organ"], [
            [code + 1, *np.round(places[code], 5).tolist(), names[self.main_organ(code)]]
            for code in sorted(self.usage.order)
        ]

    def _sent(self, code: int | None) -> Table:
        shares = np.round(self.sent(code), 4).tolist()
        return ["reference", "times an even share"], [
            [number, share] for number, share in enumerate(shares, 1)
        ]

    def _slices(self) -> Table:
        heads, ranking = ["slice", "rank", "voxels expected wrong"], self.inspection.found.ranking
        rows: list[list[Any]] = [
            [one.index, rank, round(one.voxels, 2)] for rank, one in enumerate(ranking, 1)
        ]
        if self._expects_dice:
            heads.append("expected Dice")
            for row, one in zip(rows, ranking, strict=True):
                row.append(round(1 - one.expected, 4))
        return heads, rows


def _percent(table: NDArray[np.int64], code: int) -> float:
    return 100 * float(table[code].sum()) / max(1, int(table.sum()))


def _told(percent: float) -> str:
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
