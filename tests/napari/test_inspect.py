"""The Inspect widget in a real viewer: what a click, a chart and a tab show."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from gui import PLUGIN, open_scan, run
from inspecting import NAMES, click, code_map, inspect, inspectable, made_up_trace, settle, world
from qtpy.QtCore import QPoint, QPointF, Qt, QThreadPool
from qtpy.QtWidgets import QAbstractButton, QComboBox

from l2gnet_core.inspect.codes import code_colors, organ_table
from l2gnet_core.inspect.plans import code_plan, partners, sources_map
from l2gnet_core.inspect.uncertainty import ranked_slices, uncertainty_maps
from l2gnet_core.models.card import CodeStatistics
from l2gnet_core.models.checkpoint import load_model, save_model
from l2gnet_core.network.config import preset
from l2gnet_core.network.model import build
from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.annotating.annotation import Version
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.inspect.charts import Chart
from napari_l2gnet.inspect.form import CODES, DOUBT, HEARD, NOTHING, REFERENCE
from napari_l2gnet.inspect.inspection import Findings
from napari_l2gnet.inspect.parts import Part
from napari_l2gnet.inspect.words import PLAN, REFERENCES, SCATTER, SLICES, USAGE, Words
from napari_l2gnet.masks.layer import IMAGE_KEY
from napari_l2gnet.scans.layers import VIEW_KEY, transform_of

Made = tuple[Any, Any, Any]


@pytest.fixture
def opened(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Made:
    """Viewer, mask and widget of a made-up scan."""
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    return viewer, mask, inspect(qtbot, viewer)


def press(qtbot: Any, chart: Chart, x: float, y: float) -> None:
    """A real click at a place in a chart's own coordinates."""
    point = chart.getPlotItem().vb.mapViewToScene(QPointF(x, y))
    at = chart.mapFromScene(point)
    qtbot.mouseClick(chart.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(at.x(), at.y()))


def test_opening_it_after_a_segmentation_recomputes_nothing(
    segment_widget: Any, scan_file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, segment = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, segment)

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is asked again")

    monkeypatch.setattr("l2gnet_core.segmenting.predict.predict_slices", forbidden)
    monkeypatch.setattr("l2gnet_core.models.checkpoint.load_model", forbidden)
    monkeypatch.setattr("l2gnet_core.network.model.SegmentationNetwork.forward", forbidden)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Inspect")
    settle(qtbot, widget)
    mask, trace = segment.current_mask, segment.current_mask.segmentation.traces[0]
    layer = widget.layers.find("codes")
    np.testing.assert_array_equal(np.asarray(layer.data), trace.cells.on_scan(trace.codes) + 1)
    ours, its = transform_of(layer), transform_of(mask.layer)
    for key in ours:
        np.testing.assert_array_equal(ours[key], its[key], err_msg=key)
    assert "codes occur" in widget.told.text()
    # Opened again, it finds the inspection that it had prepared.
    inspection = widget.inspection
    widget.close()
    again = inspect(qtbot, viewer)
    assert again.inspection is inspection
    assert len([one for one in viewer.layers if one.name.startswith("code map")]) == 1


def test_a_code_has_the_same_colour_always_and_its_name_in_the_status_bar(opened: Made) -> None:
    _viewer, mask, widget = opened
    layer = widget.layers.find("codes")
    trace = mask.segmentation.traces[0]
    colors = code_colors(trace.vectors)
    for code in (0, 5, 11):
        shown = np.rint(255 * np.array(layer.colormap.map(code + 1)))[:3]
        np.testing.assert_array_equal(shown, colors[code])
    code = code_map(mask)[2, 30, 40]
    told = layer.get_status(world(mask, 2, 30, 40), world=True)["value"]
    assert told.startswith(f"{code + 1}; name: code {code + 1} · ")
    assert told.endswith("%")


def test_a_click_lights_up_the_code_everywhere(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    viewer.layers.selection.active = mask.layer
    before = mask.layer.data.copy()
    click(viewer, world(mask, 2, 30, 40))
    settle(qtbot, widget)
    code = int(code_map(mask)[2, 30, 40])
    assert widget.codes == [code]
    lit = widget.layers.find("lit")
    np.testing.assert_array_equal(np.asarray(lit.data) == 1, code_map(mask) == code)
    trace = mask.segmentation.traces[0]
    voxels = mask.segmentation.raw[0][code_map(mask) == code]
    share = np.bincount(voxels, minlength=4) / len(voxels)
    name = ["background", "right ventricle", "myocardium", "left ventricle"][share.argmax()]
    assert f"Code {code + 1} · {name} {100 * share.max():.0f}" in widget.told.text()
    assert (
        f"{100 * len(voxels) / trace.cells.on_scan(trace.codes).size:.2g} %" in widget.told.text()
    )
    heard = partners(code_plan(trace), code, 4)
    assert len(heard) > 1
    told = re.findall(
        r"(\d+) \((\S+)\u00a0%\)", widget.told.text().split("above chance from codes ")[1]
    )
    assert [int(number) for number, _ in told] == [one.code + 1 for one in heard]
    shares = [100 * one.share for one in heard]
    np.testing.assert_allclose([float(share) for _, share in told], shares, rtol=0.05)
    heat = widget.layers.find("heat")
    assert heat.visible
    assert not widget.layers.find("codes").visible
    here = int(viewer.dims.point[0] / 8)
    wanted = sources_map(trace, here, code) * trace.codes[0].size
    np.testing.assert_allclose(heat.data[here], trace.cells.on_slice(wanted), rtol=1e-5)
    # Neither the mask nor the selection changes.
    np.testing.assert_array_equal(mask.layer.data, before)
    assert viewer.layers.selection.active is mask.layer
    widget.clear.click()
    assert not np.asarray(lit.data).any()
    assert widget.layers.find("codes").visible


@pytest.mark.filterwarnings("ignore:Contours are not displayed during 3D rendering")
def test_a_click_looks_where_nothing_is_painted_or_dragged(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    viewer.layers.selection.active = mask.layer
    for mode in ("paint", "erase", "fill", "pick"):
        mask.layer.mode = mode
        click(viewer, world(mask, 1, 20, 20))
        assert widget.codes == []
        assert "is on: a click" in widget.message.text()
        assert "Press 6, then click to look." in widget.message.text()
    widget.show_message("")
    mask.layer.mode = "paint"
    click(viewer, world(mask, 1, 20, 20), drag=30)
    assert widget.message.text() == ""
    mask.layer.mode = "pan_zoom"
    click(viewer, world(mask, 1, 20, 20), drag=30)
    assert widget.codes == []
    widget.click.click()
    click(viewer, world(mask, 1, 20, 20))
    assert widget.codes == []
    # Switching it on puts the brush away.
    mask.layer.mode = "paint"
    widget.click.click()
    assert mask.layer.mode == "pan_zoom"
    mask.layer.mode = "paint"
    # A window that is shown again does not: the user did not change the tab.
    widget.seen.emit(False)
    widget.seen.emit(True)
    assert mask.layer.mode == "paint"
    mask.layer.mode = "pan_zoom"
    click(viewer, world(mask, 1, 200, 20))
    assert widget.codes == []
    viewer.dims.ndisplay = 3
    click(viewer, world(mask, 1, 20, 20))
    assert "2-D view" in widget.message.text()
    viewer.dims.ndisplay = 2
    click(viewer, world(mask, 1, 20, 20), drag=2)
    assert len(widget.codes) == 1


def test_margins_have_no_code_and_a_click_there_says_so(
    make_napari_viewer: Any, qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    mask.segmentation.traces[0] = made_up_trace((4, 64, 80), 12, 8, np.random.default_rng(0), 1, 16)
    widget = inspect(qtbot, viewer)
    codes = np.asarray(widget.layers.find("codes").data)
    inside = np.pad(np.ones((4, 32, 48), bool), ((0, 0), (16, 16), (16, 16)))
    np.testing.assert_array_equal(codes > 0, inside)
    click(viewer, world(mask, 1, 5, 40))
    settle(qtbot, widget)
    assert widget.codes == []
    assert "empty margins" in widget.message.text()
    click(viewer, world(mask, 1, 20, 20))
    settle(qtbot, widget)
    lit = np.asarray(widget.layers.find("lit").data)
    np.testing.assert_array_equal(lit == 1, codes == codes[1, 20, 20])


def test_charts_choose_codes_the_other_way_round(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    viewer.show()
    viewer.window._qt_window.resize(1400, 900)
    qtbot.wait(50)
    views = widget.views
    first = views._order[0]
    press(qtbot, views.usage, 0, views.usage._top / 3)
    assert widget.codes == [first]
    assert (np.asarray(widget.layers.find("lit").data) == 1).sum() == (
        code_map(mask) == first
    ).sum()
    views.setCurrentIndex(PLAN)
    qtbot.wait(20)
    keys = views.plan._keys
    press(qtbot, views.plan, 4.5, 1.5)
    assert widget.codes == [keys[1], keys[4]]
    lit = np.asarray(widget.layers.find("lit").data)
    for value, code in enumerate((keys[1], keys[4]), 1):
        np.testing.assert_array_equal(lit == value, code_map(mask) == code)
    told = widget.told.text()
    assert f"Code {keys[1] + 1} receives" in told
    assert f"from code {keys[4] + 1} as by chance" in told
    views.setCurrentIndex(SCATTER)
    qtbot.wait(20)
    place = views.scatter._places[3]
    press(qtbot, views.scatter, *place)
    assert widget.codes == [views.scatter._keys[3]]


def test_a_code_that_is_elsewhere_is_gone_to(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    trace = mask.segmentation.traces[0]
    trace.codes[trace.codes == 7] = 3
    trace.codes[3, 0, 0] = 7
    viewer.dims.set_point(0, 0)
    settle(qtbot, widget)
    widget.choose([7])
    assert widget.state.look.index == 3


def test_references_lie_over_the_image(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    trace = mask.segmentation.traces[0]
    widget.views.setCurrentIndex(REFERENCES)
    assert widget.shown.currentData() == REFERENCE
    widget.views.reference_picked.emit(5)
    heat = widget.layers.find("heat")
    assert heat.name == "mass sent to reference 6"
    rows = trace.plans[np.arange(len(trace.codes))[:, None, None], trace.codes]
    wanted = trace.cells.on_scan(rows[..., 5]) * 8
    np.testing.assert_allclose(np.asarray(heat.data), wanted, rtol=1e-5)
    assert "Reference 6" in widget.views.references.tell(5)


def test_the_numbers_at_an_axis_are_those_of_the_bars(opened: Made, qtbot: Any) -> None:
    chart = opened[2].views.references
    for name in ("first", "and again, as for another code"):
        chart.show_bars(range(3), np.array([[0.2], [-0.4], [0.3]]), ["#56b4e9"])
        chart.label(name, name)
    axis = chart.getPlotItem().getAxis("left")
    assert axis.label.isVisible()
    assert axis.autoSIPrefixScale == 1
    assert axis.tickStrings([-0.4, 0.2], axis.autoSIPrefixScale, 0.2) == ["-0.4", "0.2"]


def test_doubt_lies_over_the_image_and_ranks_the_slices(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    trace, raw = mask.segmentation.traces[0], mask.segmentation.raw[0]
    maps = uncertainty_maps(trace, raw)
    widget.views.setCurrentIndex(SLICES)
    settle(qtbot, widget)
    assert widget.views.kind.count() == 5
    for row in range(5):
        widget.views.kind.setCurrentIndex(row)
        settle(qtbot, widget)
        heat = widget.layers.find("heat")
        kind = widget.views.kind.currentData()
        # Neighbouring slices that agree leave no doubt, also at borders.
        expected = np.zeros_like(raw) if kind == "neighbours" else maps[kind]
        np.testing.assert_allclose(np.asarray(heat.data), expected, atol=1e-3, err_msg=kind)
        assert heat.name == f"doubt: {widget.views.kind.currentText().lower()}"
    ranking = ranked_slices(trace, raw)
    assert [one.index for one in widget.inspection.found.ranking] == [one.index for one in ranking]
    assert "number 1 of 4" in widget.views.slices.tell(ranking[0].index)
    assert f"expected Dice is {1 - ranking[0].expected:.2f}." in widget.views.slices.tell(
        ranking[0].index
    )
    assert widget.views.table()[0][3:] == ["expected Dice"]
    # The expected Dice was fitted to hearts and is not valid for other structures.
    names = LabelSet.from_names({1: "liver", 2: "spleen", 3: "kidney"})
    mask.segmentation.card = replace(mask.segmentation.card, labels=names)
    assert f"About {ranking[0].voxels:.0f} voxels" in widget.views.slices.tell(ranking[0].index)
    assert "Dice" not in widget.views.slices.tell(ranking[0].index)
    heads, rows = widget.views.table()
    assert heads == ["slice", "rank", "voxels expected wrong"]
    assert {len(row) for row in rows} == {3}
    widget.views.slice_picked.emit(3)
    assert widget.state.look.index == 3


def test_neighbours_that_say_otherwise_are_where_the_mistake_is(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    mask.segmentation.raw[0, 2, 4:20, 4:20] = 1
    widget.inspection.found = Findings()
    widget.reading.read()
    widget.views.setCurrentIndex(SLICES)
    widget.views.kind.setCurrentIndex(widget.views.kind.findData("neighbours"))
    settle(qtbot, widget)
    heat = np.asarray(widget.layers.find("heat").data)
    there = np.zeros(heat.shape, bool)
    there[1:4, 4:20, 4:20] = True
    assert (heat[2, 4:20, 4:20] > 0).all()
    assert not heat[~there].any()
    places = widget.inspection.doubt("neighbours").places
    assert places[0].index == 2
    assert {place.index for place in places} <= {1, 2, 3}


def test_parts_of_the_scan(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    table = widget.views.words.usage.table
    widget.of.setCurrentIndex(widget.of.findData("slice"))
    totals = np.zeros_like(table)
    for index in range(4):
        viewer.dims.set_point(0, 8 * index)
        settle(qtbot, widget)
        assert widget.views.words.part.index == index
        totals += widget.views.words.usage.table
        plan = widget.views.words.usage.plan
        np.testing.assert_allclose(plan, plan.T, atol=1e-12)
    np.testing.assert_array_equal(totals, table)
    widget.of.setCurrentIndex(widget.of.findText("myocardium"))
    settle(qtbot, widget)
    found = widget.views.words.usage.table
    np.testing.assert_array_equal(found[:, 2], table[:, 2])
    assert not found[:, [0, 1, 3]].any()
    click(viewer, world(mask, 2, 32, 52))
    assert "of the myocardium" in widget.told.text()


@pytest.mark.parametrize("view", [USAGE, PLAN, SCATTER, REFERENCES, SLICES])
def test_every_view_is_saved_as_picture_and_table(
    opened: Made, qtbot: Any, tmp_path: Path, view: int
) -> None:
    from qtpy.QtGui import QImage

    _viewer, _, widget = opened
    widget.views.setCurrentIndex(view)
    settle(qtbot, widget)
    widget.save(tmp_path / "view.csv", ".csv")
    assert widget.message.text() == "Saved view.csv."
    lines = (tmp_path / "view.csv").read_text(encoding="utf-8").splitlines()
    rows = {USAGE: 12, PLAN: 12, SCATTER: 12, REFERENCES: 8, SLICES: 4}[view]
    assert len(lines) == 1 + rows
    assert len({line.count(",") for line in lines}) == 1
    # The dialog did not ask about the file, because the name lacked its ending.
    widget.save(tmp_path / "view", ".csv")
    assert "view.csv exists already" in widget.message.text()
    widget.save(tmp_path / "view", ".png")
    assert QImage(str(tmp_path / "view.png")).width() > 300
    widget.save(tmp_path / "nowhere" / "view.csv", ".csv")
    assert "does not exist" in widget.message.text()


def test_a_model_without_codes_gets_a_sentence(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer, architecture="unet")
    mask.segmentation.traces.clear()
    widget = inspect(qtbot, viewer)
    assert "is of the architecture unet, which has no codes" in widget.told.text()
    assert not widget.views.isEnabled()
    click(viewer, world(mask, 1, 20, 20))
    assert len(viewer.layers) == 2


def test_a_mask_without_a_look_gets_a_sentence_until_it_has_one(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    trace = mask.segmentation.traces.pop(0)
    # As after resuming work with the answer of a fine-tuned model.
    annotation = annotation_of(mask)
    annotation.resume([*annotation.versions, Version("v1", "project", 0)], 1)
    widget = inspect(qtbot, viewer)
    assert "What version v1 saw is not kept" in widget.told.text()
    assert "Press Look again" in widget.told.text()
    assert not widget.again.isHidden()
    assert widget.views.isHidden()
    mask.segmentation.traces[0] = trace
    mask.layer.refresh()
    qtbot.waitUntil(lambda: "codes occur" in widget.told.text(), timeout=10_000)


def test_a_corrected_mask_is_looked_at_again_and_stays_as_it_is(
    segment_widget: Any,
    scan_file: Path,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer, segment = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, segment)
    mask = segment.current_mask.segmentation
    segment.current_mask.layer.data_setitem(tuple(np.array([[1, 1], [20, 20], [30, 31]])), 3)
    # A slice that was accepted before its answer came has one, and is not finished.
    mask.reviewed.add((0, 2))
    mask.finished.remove((0, 2))
    # As after resuming: the mask is there, the trace is not.
    (first,) = mask.traces.values()
    mask.traces.clear()
    labels, raw = mask.shown.copy(), mask.raw.copy()
    widget = inspect(qtbot, viewer)
    assert "Press Look again" in widget.told.text()
    widget.again.click()
    settle(qtbot, widget)
    settle(qtbot, widget)
    assert "codes occur" in widget.told.text()
    assert widget.again.isHidden()
    assert not widget.views.isHidden()
    np.testing.assert_array_equal(mask.traces[0].codes, first.codes)
    np.testing.assert_array_equal(mask.traces[0].plan_rows, first.plan_rows)
    np.testing.assert_array_equal(mask.shown, labels)
    np.testing.assert_array_equal(mask.raw, raw)
    # Under the model's name lies one of another architecture by now.
    network = build(preset("tiny", 4, architecture="unet"))
    path = save_model(tmp_path / "plain.safetensors", network, mask.card)
    monkeypatch.setattr("napari_l2gnet.inspect.look_again.model_of", lambda *_: load_model(path))
    mask.traces.clear()
    widget.reading.read()
    widget.again.click()
    settle(qtbot, widget)
    assert "Expected a model with codes, but scribbler has none" in widget.message.text()


def test_a_code_is_what_its_voxels_are_in_the_volume(opened: Made, qtbot: Any) -> None:
    widget = opened[2]
    whole = widget.inspection.usage(Part())
    column = 2
    code = int(whole.table[:, column].argmax())
    widget.choose([code])
    told = widget.told.text().split("<br>")[0]
    widget.of.setCurrentIndex(widget.of.findData(column))
    settle(qtbot, widget)
    assert widget.told.text().split("<br>")[0] == told
    share = whole.table[code, column] / whole.table[:, column].sum()
    assert f"{100 * share:.2g} % of the myocardium" in widget.told.text()
    assert widget.views.words.main_organ(code) == Words(widget.inspection, Part()).main_organ(code)


def test_codes_without_organs_are_no_organ_s(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    mask.segmentation.raw[0, 1] = 0
    widget.inspection.found = Findings()
    widget.reading.read()
    settle(qtbot, widget)
    widget.views.slice_picked.emit(1)
    widget.of.setCurrentIndex(widget.of.findData("slice"))
    settle(qtbot, widget)
    widget.views.setCurrentIndex(PLAN)
    ticks = widget.views.plan.getPlotItem().getAxis("left")._tickLevels[0]
    assert [name for _, name in ticks] == ["background"]


def test_organs_smaller_than_cells_have_bars_and_codes(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    mask.segmentation.raw[...] = 0
    mask.segmentation.raw[0, 1, 20:23, 20:23] = 2
    widget.inspection.found = Findings()
    widget.reading.read()
    settle(qtbot, widget)
    words = widget.views.words
    code = int(mask.segmentation.traces[0].codes[1, 1, 1])
    assert words.usage.table[code, 2] < 0.1 * words.usage.table[code].sum()
    assert words.main_organ(code) == 2
    # The bar shows the organ alone, not as a stripe below the background's.
    assert words.bar(code) == 100
    assert widget.views.usage._top == pytest.approx(100, rel=0.2)
    assert "It holds 100 % of the organs in this volume" in widget.views.usage.tell(code)


def test_of_many_organs_the_legend_names_those_with_the_most_voxels(
    opened: Made, qtbot: Any
) -> None:
    _, mask, widget = opened
    legends = widget.views._legends.values()
    assert all("more" not in legend.text() and not legend.toolTip() for legend in legends)
    mask.relabel(LabelSet.from_names({**NAMES, **{id: f"organ {id}" for id in range(4, 36)}}))
    qtbot.waitUntil(lambda: all("and&nbsp;25&nbsp;more" in one.text() for one in legends))
    for legend in legends:
        assert "organ&nbsp;10" in legend.text()
        assert "organ&nbsp;11" not in legend.text()
        assert "organ&nbsp;35" in legend.toolTip()


def test_part_of_a_scan_is_not_called_unlike_or_the_whole(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    known = CodeStatistics((1,) * 12, (0.0, 0.0001))
    mask.segmentation.card = replace(mask.segmentation.card, codes=known)
    widget = inspect(qtbot, viewer)
    assert "unlike those that the model learnt from" in widget.message.text()
    assert "codes occur in this volume" in widget.told.text()
    mask.segmentation.traces[0].codes[2] = -1
    widget.reading.read()
    settle(qtbot, widget)
    assert widget.inspection.found.unlike is None
    # Nor are its numbers called those of the volume, or of a slice that was never segmented.
    assert "codes occur in the 3 segmented slices" in widget.told.text()
    widget.of.setCurrentIndex(widget.of.findData("slice"))
    viewer.dims.set_point(0, 8 * 2)
    settle(qtbot, widget)
    assert "This slice is not segmented" in widget.told.text()


def test_codes_without_transport(
    make_napari_viewer: Callable[..., Any], qtbot: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    mask = inspectable(viewer, references=None, architecture="vqunet")
    widget = inspect(qtbot, viewer)
    assert not widget.views.isTabEnabled(PLAN)
    assert not widget.views.isTabEnabled(REFERENCES)
    click(viewer, world(mask, 2, 30, 40))
    assert (np.asarray(widget.layers.find("lit").data) == 1).any()
    assert "receives" not in widget.told.text()
    assert widget.shown.currentData() == CODES
    for view in (USAGE, SCATTER, SLICES):
        widget.views.setCurrentIndex(view)
        settle(qtbot, widget)
        widget.save(tmp_path / f"{view}.csv", ".csv")
        assert "Saved" in widget.message.text()
    assert widget.views.kind.findData("plan") < 0
    for shown in (HEARD, REFERENCE):
        item = widget.shown.model().item(widget.shown.findData(shown))
        assert not item.isEnabled()
        assert "no transport" in item.toolTip()


def test_frames_of_a_series_are_looked_into_one_by_one(
    segment_widget: Any, tmp_path: Path, qtbot: Any
) -> None:
    import nibabel as nib

    rng = np.random.default_rng(1)
    data = rng.integers(0, 900, (32, 32, 3, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([1.4, 1.4, 8, 1])), tmp_path / "cine.nii.gz")
    viewer, segment = segment_widget()
    open_scan(viewer, tmp_path / "cine.nii.gz")
    run(qtbot, segment)
    widget = inspect(qtbot, viewer)
    codes = widget.layers.find("codes")
    traces = segment.current_mask.segmentation.traces
    whole = np.stack([traces[f].cells.on_scan(traces[f].codes) + 1 for f in (0, 1)])
    np.testing.assert_array_equal(np.asarray(codes.data), whole)
    widget.views.kind.setCurrentIndex(widget.views.kind.findData("softmax"))
    for frame in (1, 0):
        viewer.dims.set_current_step(0, frame)
        settle(qtbot, widget)
        assert widget.inspection.frame == frame
        point = viewer.dims.point
        click(viewer, point)
        lit = np.asarray(widget.layers.find("lit").data)
        (code,) = widget.codes
        np.testing.assert_array_equal(lit[frame] == 1, whole[frame] == code + 1)
        assert not lit[1 - frame].any()
        for shown in (HEARD, REFERENCE, DOUBT, NOTHING, CODES):
            widget.over.show(shown)
            settle(qtbot, widget)
            if shown == DOUBT:
                entropy = np.asarray(widget.layers.find("heat").data)
                np.testing.assert_array_equal(
                    entropy[frame], np.moveaxis(traces[frame].entropy, 0, traces[0].cells.axis)
                )


def test_every_disabled_control_says_why(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    kinds = (QAbstractButton, QComboBox)

    def off() -> dict[Any, str]:
        return {
            control: control.toolTip()
            for kind in kinds
            for control in widget.findChildren(kind)
            if not control.isEnabled() and not widget.views.isAncestorOf(control)
        }

    assert set(off()) == {widget.clear, widget.back, widget.forward, widget.preview, widget.apply}
    assert all(off().values())
    viewer.layers.remove(mask.layer)
    settle(qtbot, widget)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    assert "Press Segment first" in widget.told.text()
    assert widget.click in off()
    assert all(off().values())


def test_layers_of_the_widget_are_no_scans_to_segment(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    from napari_l2gnet.widgets.layer_combo import LayerCombo

    viewer = make_napari_viewer()
    mask = inspectable(viewer)
    combo = LayerCombo(viewer.layers, napari.layers.Image)
    qtbot.addWidget(combo)
    inspect(qtbot, viewer)
    click(viewer, world(mask, 2, 30, 40))
    assert [combo.itemText(n) for n in range(combo.count())] == ["scan"]
    combo.disconnect_layers()


@pytest.mark.filterwarnings("ignore:Contours are not displayed")
def test_it_opens_below_a_pointer_that_rests_in_3d(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    inspectable(viewer)
    viewer.mouse_over_canvas = True
    viewer.dims.ndisplay = 3
    viewer.cursor._view_direction = None
    inspect(qtbot, viewer)
    (codes,) = (layer for layer in viewer.layers if layer.name.startswith("code map"))
    viewer.layers.selection.active = codes
    assert (
        "code"
        in codes.get_status((3, 0, 0), view_direction=None, dims_displayed=[0, 1, 2])["value"]
    )


def test_deleted_layers_come_back_and_closing_is_safe(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    click(viewer, world(mask, 2, 30, 40))
    for view in ("codes", "lit", "heat"):
        viewer.layers.remove(widget.layers.find(view))
    click(viewer, world(mask, 1, 10, 10))
    assert np.asarray(widget.layers.find("lit").data).any()
    widget.over.show(CODES)
    assert widget.layers.find("codes").visible
    widget.views.setCurrentIndex(SLICES)  # starts a job
    widget.close()
    assert mask.layer.contour == 0
    click(viewer, world(mask, 1, 10, 10))
    mask.layer.refresh()
    viewer.close()


def test_another_version_of_the_model_is_noticed(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    # As after fine-tuning: as many slices are seen, by another version of the model.
    trace = made_up_trace((4, 64, 80), 12, 8, np.random.default_rng(9))
    mask.segmentation.traces = {0: trace}
    mask.layer.refresh()
    qtbot.waitUntil(lambda: widget.inspection.is_current and not widget.jobs.busy, timeout=10_000)
    click(viewer, world(mask, 2, 30, 40))
    assert widget.codes == [int(trace.codes[2, 1, 2])]
    codes = widget.layers.find("codes")
    np.testing.assert_array_equal(np.asarray(codes.data), code_map(mask) + 1)
    shown = np.rint(255 * np.array(codes.colormap.map(4)))[:3]
    np.testing.assert_array_equal(shown, code_colors(trace.vectors)[3])


def test_a_version_that_sees_slices_larger_has_smaller_cells(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    click(viewer, world(mask, 2, 30, 40))
    widget.over.show(HEARD)
    trace = made_up_trace((4, 64, 80), 12, 8, np.random.default_rng(9), zoom=2)
    mask.segmentation.traces = {0: trace}
    mask.layer.refresh()
    # Until the new cells are read, the layer shows nothing and raises nothing.
    codes = widget.layers.find("codes")
    codes.visible = True
    codes.refresh()
    qtbot.waitUntil(lambda: widget.inspection.is_current and not widget.jobs.busy, timeout=10_000)
    wanted = trace.codes.repeat(8, 1).repeat(8, 2) + 1
    np.testing.assert_array_equal(np.asarray(codes.data), wanted)
    click(viewer, world(mask, 2, 30, 40))
    assert widget.codes == [int(trace.codes[2, 3, 5])]
    widget.over.show(HEARD)
    heat = np.asarray(widget.layers.find("heat").data)
    # Each cell has one value, and the four cells in a former cell differ.
    assert (heat[2, :8, :8] == heat[2, 0, 0]).all()
    assert len(np.unique(heat[2, ::8, ::8])) > 4


def renew_trace(mask: Any, seed: int) -> Any:
    """Replace the trace, as another version of the model or a run does."""
    trace = made_up_trace(mask.layer.data.shape, 12, 8, np.random.default_rng(seed))
    mask.segmentation.traces[0] = trace
    mask.layer.refresh()
    return trace


def test_a_tab_stays_drawn_when_another_version_answers(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    for tab, shown, name in (
        (SLICES, DOUBT, "doubt: "),
        (REFERENCES, REFERENCE, "mass sent to reference "),
    ):
        widget.views.setCurrentIndex(tab)
        settle(qtbot, widget)
        trace = renew_trace(mask, tab)
        qtbot.waitUntil(
            lambda trace=trace: widget.inspection.found.state[:1] == (trace,), timeout=10_000
        )
        settle(qtbot, widget)
        assert widget.shown.currentData() == shown
        heat = widget.layers.find("heat")
        assert heat.visible
        assert heat.name.startswith(name)
        assert not widget.layers.find("codes").visible
        assert bool(widget.inspection.found.ranking) == (tab == SLICES)


def test_what_was_cancelled_or_changed_meanwhile_can_be_read_on(opened: Made, qtbot: Any) -> None:
    _viewer, mask, widget = opened
    trace = renew_trace(mask, 1)
    widget.reading.read()
    assert widget.jobs.busy
    widget.cancel.click()
    assert "Stopped: press Go on" in widget.told.text()
    assert not widget.go_on.isHidden()
    assert not widget.views.isEnabled()
    assert "Stopped" in widget.of.toolTip()

    def add(text: str) -> None:
        # A run adds a slice that is not on screen.
        if text == "Computing code relations" and trace.added == begun:
            trace.added += 1

    widget.jobs.progress.connect(add)
    # Reading may have ended before it was stopped.
    trace.added = begun = trace.added + 1
    widget.go_on.click()
    qtbot.waitUntil(lambda: trace.added > begun and widget.inspection.is_current, timeout=10_000)
    settle(qtbot, widget)
    assert widget.views.isEnabled()
    assert widget.go_on.isHidden()
    # Also if all is computed but not taken yet.
    renew_trace(mask, 2)
    widget.reading.read()
    assert QThreadPool.globalInstance().waitForDone(10_000)
    widget.cancel.click()
    assert "Stopped: press Go on" in widget.told.text()
    widget.go_on.click()
    settle(qtbot, widget)
    assert widget.views.isEnabled()


def test_a_cancelled_thread_overwrites_nothing(
    opened: Made, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _viewer, mask, widget = opened
    trace, inside, go_on = mask.segmentation.traces[0], threading.Event(), threading.Event()

    def slow_at_first(*arguments: Any) -> Any:
        found = organ_table(*arguments)
        if not inside.is_set():
            inside.set()
            assert go_on.wait(10)
        return found

    monkeypatch.setattr("l2gnet_core.inspect.codes.organ_table", slow_at_first)
    codes = trace.codes.copy()
    trace.codes[2:] = -1
    widget.reading.read()
    assert inside.wait(10)
    # A run adds the other slices.
    trace.codes[...] = codes
    widget.reading.read()
    settle(qtbot, widget)
    go_on.set()
    assert QThreadPool.globalInstance().waitForDone(10_000)
    assert widget.inspection.is_current
    assert widget.inspection.usage(Part()).table.sum() == mask.layer.data.size


def test_the_mask_that_is_worked_on_is_looked_into(opened: Made, qtbot: Any) -> None:
    viewer, mask, widget = opened
    second = inspectable(viewer, seed=1, name="second")
    settle(qtbot, widget)
    assert widget.layers.mask.layer is second.layer
    viewer.layers.selection.active = mask.layer
    settle(qtbot, widget)
    assert widget.layers.mask.layer is mask.layer
    # Also a mask chosen in the list, whichever layer was active.
    for chosen in (second.layer, mask.layer):
        widget.mask_combo.choose(chosen)
        widget.mask_combo.activated.emit(widget.mask_combo.currentIndex())
        settle(qtbot, widget)
        assert widget.layers.mask.layer is chosen
        assert viewer.layers.selection.active is chosen
        # Only this mask's layers are left; they are made one by one.
        qtbot.waitUntil(lambda: sum(VIEW_KEY in layer.metadata for layer in viewer.layers) == 3)
    # Selecting an image does not change the mask.
    viewer.layers.selection.active = viewer.layers["scan"]
    assert widget.layers.mask.layer is mask.layer
    mask.layer.visible = mask.layer.metadata[IMAGE_KEY].visible = False
    click(viewer, world(mask, 2, 30, 40))
    assert widget.codes == []
    assert "and its scan are hidden: choose the mask under Mask" in widget.message.text()
    mask.layer.visible = True
    click(viewer, world(mask, 2, 30, 40))
    assert widget.codes == [code_map(mask)[2, 30, 40]]
