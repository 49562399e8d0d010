"""Pictures of the results of an inspection, as PNG bytes."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.inspect.codes import code_colors
from l2gnet_core.inspect.findings import Findings
from l2gnet_core.inspect.plans import times_chance
from l2gnet_core.inspect.uncertainty import slice_maps
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.labels import in_charts
from l2gnet_core.segmenting.slice_view import SliceView, slice_view

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Slices in the picture of those to check first, and references in that of the plan, at most.
MOST_SLICES = 8
MOST_REFERENCES = 8
#: Codes in the charts of usage and plan, at most.
MOST_CODES = 60


def pictures(findings: Findings) -> dict[str, bytes]:
    """All pictures by name: "slices" and "usage", with transport "plan" and "references"."""
    drawn = {"slices": _slices(findings), "usage": _usage(findings)}
    if findings.plan is not None:
        drawn |= {"plan": _plan(findings), "references": _references(findings)}
    return {name: _png(figure) for name, figure in drawn.items()}


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    # Without matplotlib's version in it, so that the same scan and model give the same bytes.
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _upright(findings: Findings) -> tuple[SliceView, float]:
    """The view in which slices are shown, and height over width of a pixel.

    Slices are shown as radiologists look at them or, if the scan has no orientation, as stored.
    """
    axis = findings.trace.cells.axis
    card = replace(findings.card, oriented=findings.grid.oriented)
    view = slice_view(card, findings.grid, axis)
    return view, findings.grid.spacing[view.axes[1]] / findings.grid.spacing[view.axes[2]]


def _slice(values: NDArray[Any], view: SliceView, index: int) -> NDArray[Any]:
    """A slice of an array (z,y,x) as it is shown."""
    return _upright_slice(np.take(values, index, view.axes[0]), view)


def _upright_slice(values: NDArray[Any], view: SliceView) -> NDArray[Any]:
    """A slice (H,W), with its axes as the scan stores them, as it is shown."""
    return np.asarray(view.stack(np.expand_dims(values, view.axes[0]))[0])


def _tall(view: SliceView, aspect: float) -> float:
    """Height in inches of a row of four slices."""
    return 2.4 * min(2.0, max(0.4, view.shape[1] * aspect / view.shape[2])) + 0.1


def _show(axes: Axes, picture: NDArray[Any], aspect: float, **how: Any) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(picture, aspect=aspect, interpolation="nearest", **how)


def _outlines(axes: Axes, findings: Findings, mask: NDArray[np.integer], width: float = 1) -> None:
    for label in findings.card.labels:
        inside = mask == label.id
        if inside.any() and min(inside.shape) > 1:
            axes.contour(inside, [0.5], colors=[label.color], linewidths=width)


def _slices(findings: Findings) -> Figure:
    """The slices to check first: scan and answer, code map, uncertainty."""
    view, aspect = _upright(findings)
    trace, window = findings.trace, intensity_window(findings.scan)
    # Code −1, in margins, takes the last colour.
    colors = np.vstack([code_colors(trace.vectors), np.zeros((1, 3), np.uint8)])
    shown = [one.index for one in findings.slices[:MOST_SLICES]]
    doubts = slice_maps(trace, findings.mask, ["softmax", "combined"], shown)
    figure = _figure(11, _tall(view, aspect) * len(shown) + 0.7)
    rows: NDArray[Any] = figure.subplots(len(shown), 4, squeeze=False)
    for row, index, doubt in zip(rows, shown, doubts, strict=True):
        mask = _slice(findings.mask, view, index)
        scan = normalise(_slice(findings.scan, view, index), window)
        _show(row[0], scan, aspect, cmap="gray", vmin=0, vmax=1)
        _outlines(row[0], findings, mask)
        row[0].set_ylabel(f"slice {index}")
        codes = _upright_slice(trace.cells.on_slice(trace.codes[index], outside=-1), view)
        _show(row[1], colors[codes], aspect)
        _outlines(row[1], findings, mask)
        for axes, kind in zip(row[2:], ("softmax", "combined"), strict=True):
            picture = _upright_slice(doubt[kind], view)
            image = _show(axes, picture, aspect, cmap="inferno", vmin=0, vmax=1)
            _outlines(axes, findings, mask, 0.5)
    titles = ("scan and answer", "code map", "softmax entropy", "chance to be wrong")
    for axes, title in zip(rows[0], titles, strict=True):
        axes.set_title(title)
    figure.colorbar(image, ax=rows, shrink=min(1, 2.5 / len(shown)), label="0 sure – 1 unsure")
    return figure


def _usage(findings: Findings) -> Figure:
    """Which codes the structures lie in, each bar split by structure. The background is left out:
    small structures could not be seen beside it."""
    order = findings.telling[:MOST_CODES]
    figure = _figure(11, 3.6)
    axes = figure.subplots()
    total = max(1, int(findings.table[:, 1:].sum()))
    bottom = np.zeros(len(order))
    for column, label in enumerate(findings.card.labels, 1):
        if findings.table[:, column].any():
            part = 100 * findings.table[order, column] / total
            name, place = in_charts(label.name), np.arange(len(order))
            axes.bar(place, part, bottom=bottom, color=label.color, label=name)
            bottom += part
    axes.set_xticks(np.arange(len(order)), [str(code + 1) for code in order], rotation=90)
    axes.tick_params(axis="x", labelsize=7)
    axes.margins(x=0.01)
    axes.set(
        xlabel="code, sorted by voxels of structures",
        ylabel="% of the structures' voxels",
    )
    if order:
        axes.legend(loc="upper right")
    return figure


def _plan(findings: Findings) -> Figure:
    """The code-to-code plan against chance, codes grouped by their commonest structure."""
    assert findings.plan is not None
    used = np.array(findings.telling[:MOST_CODES], dtype=np.intp)
    main = findings.table[used, 1:].argmax(1) + 1
    used = used[np.argsort(main, kind="stable")]
    main = np.sort(main)
    lift = times_chance(findings.plan)[np.ix_(used, used)]
    figure = _figure(8.6, 7.4)
    axes = figure.subplots()
    axes.set_title("Which codes send mass to the same references")
    if not len(used):
        return figure
    largest = max(2.0, float(np.percentile(lift, 99)))
    image = axes.imshow(lift, cmap="viridis", vmin=0, vmax=largest, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="times as much as by chance", extend="max")
    colors = {column: label.color for column, label in enumerate(findings.card.labels, 1)}
    ticks = np.arange(len(used))
    for axis, rotation in ((axes.xaxis, 90), (axes.yaxis, 0)):
        axis.set_ticks(ticks, [str(code + 1) for code in used], rotation=rotation, fontsize=7)
        for text, column in zip(axis.get_ticklabels(), main, strict=True):
            text.set(color="white", bbox={"facecolor": colors[int(column)], "pad": 1, "lw": 0})
    for start in np.flatnonzero(np.diff(main)) + 0.5:
        axes.axhline(start, color="white", linewidth=1)
        axes.axvline(start, color="white", linewidth=1)
    return figure


def _references(findings: Findings) -> Figure:
    """Maps of a slice for the references that receive most mass from its structures."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    view, aspect = _upright(findings)
    index = int(findings.voxels[..., 1:].sum((1, 2, 3)).argmax())
    grey = normalise(_slice(findings.scan, view, index), intensity_window(findings.scan))
    slices = np.moveaxis(findings.trace.plans[index], 1, 0)[:, findings.trace.codes[index]]
    maps = slices * len(slices)
    chosen = _favourites(maps, findings.voxels[index])
    across = 4
    down = -(-len(chosen) // across)
    figure = _figure(11, _tall(view, aspect) * down + 0.5)
    panels: NDArray[Any] = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat[len(chosen) :]:
        axes.axis("off")
    mask = _slice(findings.mask, view, index)
    # The scale is that of the structures' cells: those at the edge of the picture do not matter.
    inside = findings.voxels[index, ..., 1:].any(-1)
    most = max(float(maps[reference][inside].max(initial=1)) for reference, _ in chosen)
    span = max(0.2, most - 1)
    for axes, (reference, structure) in zip(panels.flat, chosen, strict=False):
        shares = _upright_slice(findings.trace.cells.on_slice(maps[reference], outside=1), view)
        _show(axes, grey, aspect, cmap="gray", vmin=0, vmax=1)
        alpha = np.clip(np.abs(shares - 1) / span, 0, 0.7)
        _show(axes, shares, aspect, cmap="bwr", vmin=1 - span, vmax=1 + span, alpha=alpha)
        _outlines(axes, findings, mask)
        name = in_charts(findings.names[structure])
        axes.set_title(f"reference {reference + 1} ({name})", fontsize=9)
    # A colour bar of the image itself would take its alpha.
    scale = ScalarMappable(Normalize(1 - span, 1 + span), "bwr")
    label = "mass sent (1 = an even share)"
    figure.colorbar(scale, ax=panels, shrink=0.8, label=label, extend="both")
    figure.suptitle(f"slice {index}")
    return figure


def _favourites(maps: NDArray[np.floating], voxels: NDArray[np.integer]) -> list[tuple[int, int]]:
    """(reference, structure): in turns, the next reference to which each structure sends most.

    maps: (R,h,w). voxels: (h,w,L); background takes part only if there is no structure.
    """
    present = [c for c in range(1, voxels.shape[-1]) if voxels[..., c].any()] or [0]
    orders = []
    for structure in present:
        share = voxels[..., structure] / max(1, voxels[..., structure].sum())
        orders.append(np.argsort(-(maps * share).sum((1, 2)), kind="stable").tolist())
    chosen: dict[int, int] = {}
    for together in zip(*orders, strict=True):
        for reference, structure in zip(together, present, strict=True):
            if len(chosen) < MOST_REFERENCES:
                chosen.setdefault(reference, structure)
    return list(chosen.items())
