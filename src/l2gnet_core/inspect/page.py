"""The results as one HTML page with its pictures inside; names from files are escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from l2gnet_core.inspect.codes import dead_codes, perplexity, purity, structure_shares
from l2gnet_core.inspect.findings import Findings
from l2gnet_core.inspect.plans import column_residual, partners, times_chance

#: Codes in the table, at most; the JSON file has all.
MOST_CODES = 40
#: Heads of columns of text in the table of codes.
_ITS_VOXELS, _PARTNERS = "structures of its voxels", "receives from"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem } img { max-width: 100% }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .7rem;
  border-bottom: 1px solid #d8dce1; text-align: right } th:first-child, td:first-child,
td.text, th.text { text-align: left } .hint { color: #57606a; max-width: 50rem }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
"""


def page(findings: Findings, pictures: Mapping[str, bytes]) -> str:
    """The page as HTML. pictures: PNG bytes by name, from `l2gnet_core.inspect.pictures`."""
    parts = [_head(findings), _legend(findings), _check_first(findings, pictures["slices"])]
    parts.append(_codes(findings, pictures["usage"]))
    if findings.plan is not None:
        parts.append(_plans(findings, pictures))
    title = escape(f"What {findings.card.name} saw")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style>\n{''.join(parts)}</html>\n"
    )


def _head(findings: Findings) -> str:
    cells = findings.trace.cells
    rows, columns = (n for axis, n in enumerate(cells.shape) if axis != cells.axis)
    card = findings.card
    what = (
        f"A scan of {cells.count} slices of {rows}×{columns} pixels, seen by the model "
        f"<b>{escape(card.name)}</b> ({escape(card.architecture)})."
    )
    return (
        f"<h1>What the model saw</h1><p>{what} {_unlike(findings)}</p><p class=hint>For research "
        "use only. This page holds pictures of the scan: treat it like the scan itself.</p>"
    )


def _unlike(findings: Findings) -> str:
    known = findings.unlike
    if known is None:
        return (
            "Whether the scan is like those that the model learnt from cannot be said: the model "
            "stores no statistics of their codes."
        )
    told = (
        f"By its codes, the scan is at distance {known.distance:.3f} from the scans that the model "
        "learnt from (0 = the same codes, equally often; 1 = the mean distance of two codes)"
    )
    if known.percentile is None:
        return told + "."
    told += (
        f". Of those scans, {known.percentile:.0f} % are nearer to the scans of the other patients."
    )
    if known.is_large:
        told += " <b>This scan is unlike what the model knows: check its answer with care.</b>"
    return told


def _legend(findings: Findings) -> str:
    items = [
        f'<span class=swatch style="background:{escape(label.color)}"></span>{escape(label.name)}'
        for label in findings.card.labels
    ]
    return f"<p>{' &emsp; '.join(items)}</p>"


def _check_first(findings: Findings, picture: bytes) -> str:
    doubtful = [one for one in findings.slices if one.voxels]
    heads, dice = ["slice", "voxels expected to be wrong"], ""
    rows = [[str(one.index), f"{one.voxels:.0f}"] for one in doubtful]
    if findings.expects_dice:
        heads.append("expected Dice")
        rows = [[*row, f"{1 - one.expected:.2f}"] for row, one in zip(rows, doubtful, strict=True)]
        dice = (
            "<b>Expected Dice</b> is the expected mean Dice of the slice's structures, 0 to 1. It "
            "is lower in small slices, but correcting them gains little. "
        )
    return (
        "<h2>What to check first</h2><p class=hint>Slices are numbered from 0, as the file stores "
        "them. Those with the most voxels expected to be wrong near borders come first. "
        f"{dice}The estimates were fitted to hearts seen by one model: the order of the slices is "
        "more reliable than the numbers. <b>Code map</b>: the network sees the slice in blocks and "
        "gives each block one of its codes; blocks of similar colour look similar to it. "
        "<b>Softmax entropy</b>: 0 where one structure is clearly the most likely, 1 where all are "
        "equally likely. <b>Chance to be wrong</b>: computed from softmax entropy, the "
        "neighbouring slices and the distance to the next border; fitted to real mistakes.</p>"
        f"{_picture(picture, 'the slices to check first')}"
        f"{_table(heads, rows)}"
    )


def _codes(findings: Findings, picture: bytes) -> str:
    counts, table = findings.counts, findings.table
    unused = len(dead_codes(counts))
    total = int(counts.sum())
    telling = findings.telling
    pure = purity(table)
    rows = []
    for code in telling[:MOST_CODES]:
        shares = [
            f"{findings.names[column]} {100 * share:.0f} %"
            for column, share in structure_shares(table[code])
        ]
        row = [
            str(code + 1),
            str(counts[code]),
            f"{100 * counts[code] / total:.1f} %",
            ", ".join(shares),
            "–" if np.isnan(pure[code]) else f"{pure[code]:.2f}",
        ]
        if findings.plan is not None:
            others = partners(findings.plan, code)
            row.append(", ".join(f"{o.code + 1} ({100 * o.share:.1f} %)" for o in others))
        rows.append(row)
    heads = ["code", "cells", "share", _ITS_VOXELS, "purity"]
    heads += [_PARTNERS] if findings.plan is not None else []
    return (
        f"<h2>Codes</h2><p>{len(counts) - unused} of {len(counts)} codes occur; they are as "
        f"varied as {perplexity(counts):.0f} equally frequent codes (perplexity). "
        f"{len(telling)} of them hold voxels of a structure. The table lists those with the most "
        "of these voxels; inspect.json has all codes.</p>"
        "<p class=hint>Codes count from 1, as in the file codes.nii.gz. A <b>cell</b> is one block "
        "of a slice. <b>Purity</b> is the share of a code's voxels that belongs to its most "
        "frequent structure, or to background. At 1, the code stands for one of them; low values "
        "mark borders, or codes without a clear meaning. <b>Receives from</b> names the codes from "
        "which it receives more information than by chance, because both send mass to the same "
        "references. The number is their share of all that it receives; the largest comes "
        "first.</p>"
        f"{_picture(picture, 'which codes the structures lie in')}{_table(heads, rows)}"
    )


def _plans(findings: Findings, pictures: Mapping[str, bytes]) -> str:
    assert findings.between is not None
    lift = times_chance(findings.between)
    kept = [column for column in range(len(findings.names)) if findings.between[column].any()]
    rows = [[findings.names[one], *(f"{lift[one, column]:.2f}" for column in kept)] for one in kept]
    residual = float(np.nanmax(column_residual(findings.trace)))
    return (
        "<h2>Transport between codes</h2><p class=hint>The network sends each cell's mass to its "
        "references, and each reference returns a mean of what it received. So cells that send "
        "mass to the same references exchange information, even if they lie far apart. The table "
        "shows how much information the cells of two structures exchange, compared with chance: "
        "1 = as much as any two cells.</p>"
        f"{_table(['', *(findings.names[column] for column in kept)], rows)}"
        "<p class=hint>The picture shows the same for pairs of codes that hold voxels of a "
        "structure, grouped by their most frequent structure. Every reference should receive the "
        "same mass; the largest deviation here is "
        f"{_percent(residual)} (column residual, smaller is better).</p>"
        f"{_picture(pictures['plan'], 'code-to-code transport plan')}"
        "<p class=hint>The maps show which cells of one slice send mass to a reference, for the "
        "references to which its structures send most: red cells send more than an even share, "
        "blue cells less.</p>"
        f"{_picture(pictures['references'], 'maps of references')}"
    )


def _percent(share: float) -> str:
    return "under 0.01 %" if share < 1e-4 else f"{100 * share:.3g} %"


def _picture(png: bytes, what: str) -> str:
    data = b64encode(png).decode("ascii")
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{data}">'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts, which are escaped here."""
    text = {n for n, head in enumerate(heads) if head in (_ITS_VOXELS, _PARTNERS)}

    def line(cells: Sequence[str], tag: str) -> str:
        inside = (
            f"<{tag}{' class=text' if n in text else ''}>{escape(cell)}</{tag}>"
            for n, cell in enumerate(cells)
        )
        return f"<tr>{''.join(inside)}</tr>"

    return f"<table>{line(heads, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
