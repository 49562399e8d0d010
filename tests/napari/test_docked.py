"""What the docked widgets have in common: room, tabs, wheels, themes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from correcting import propose
from gui import PLUGIN, open_scan, run
from inspecting import click, inspect, inspectable, settle, world
from napari.components import LayerList
from napari.layers import Image
from napari.settings import get_settings
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QComboBox, QDockWidget, QLabel, QMainWindow

from napari_l2gnet.inspect.form import CODES
from napari_l2gnet.scans.layers import VIEW_KEY
from napari_l2gnet.widgets.layer_combo import LayerCombo


def dock_of(widget: Any) -> QDockWidget:
    while not isinstance(widget, QDockWidget):
        widget = widget.parentWidget()
    return widget


def test_widgets_share_a_place_and_fit_a_small_window(correct_widget: Any, qtbot: Any) -> None:
    viewer, segment, correct = correct_widget()
    inspecting = inspect(qtbot, viewer)
    docks = [dock_of(widget) for widget in (segment, correct, inspecting)]
    window = docks[0].parent()
    assert isinstance(window, QMainWindow)
    qtbot.waitUntil(lambda: set(window.tabifiedDockWidgets(docks[0])) >= set(docks[1:]))
    for dock, widget in zip(docks, (segment, correct, inspecting), strict=True):
        assert widget.minimumSizeHint().height() < 200
        assert dock.minimumSizeHint().height() < 300
    # A person's own arrangement stays.
    docks[1].setFloating(True)
    qtbot.wait(20)
    assert docks[1].isFloating()


def test_the_line_on_the_device_is_never_cut(
    segment_widget: Callable[[], tuple[Any, Any]], qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    viewer.window._qt_window.show()
    qtbot.waitExposed(viewer.window._qt_window)
    line, dock = widget.device, dock_of(widget)
    line.setText("CPU: this PyTorch is built without CUDA")
    for width in (340, 380, 420):
        dock.parent().resizeDocks([dock], [width], Qt.Orientation.Horizontal)
        qtbot.wait(10)
        assert line.height() >= line.heightForWidth(line.width())


def test_a_long_name_is_shortened_where_layers_do_not_differ(qtbot: Any) -> None:
    names = [f"{'a long name ' * 5} · {end}" for end in ("model", "model [1]")]
    layers = LayerList([Image(np.zeros((2, 2)), name=name) for name in names])
    combo = LayerCombo(layers, Image)
    qtbot.addWidget(combo)
    combo.resize(160, 24)
    pictures = []
    for layer in layers:
        combo.choose(layer)
        pictures.append(combo.grab().toImage())
    assert pictures[0] != pictures[1]


def test_what_decides_on_a_finished_preview_is_scrolled_to(
    correct_widget: Callable[..., Any], qtbot: Any
) -> None:
    viewer, _, widget = correct_widget()
    window = viewer.window._qt_window
    window.resize(1000, 500)
    window.show()
    qtbot.waitExposed(window)
    job, button = widget._new_run(), widget.accept
    propose(widget.current_mask)
    assert button.visibleRegion().isEmpty()
    job.ended.emit("finished", "")
    qtbot.waitUntil(lambda: button.visibleRegion().boundingRect() == button.rect())


def test_words_in_inspect_lie_over_no_chart_in_a_small_window(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1000, 640)
    inspectable(viewer)
    widget = inspect(qtbot, viewer)
    widget.show_message("What there is to say of two frames takes four lines. " * 4)
    hint, heights = widget.views.usage.parentWidget().findChildren(QLabel)[-1], []
    for points in (9, 16):
        get_settings().appearance.font_size = points
        for view, chart in enumerate(widget.views.charts):
            widget.views.setCurrentIndex(view)
            settle(qtbot, widget)
            for label in chart.parentWidget().findChildren(QLabel):
                assert label.height() >= label.heightForWidth(label.width())
                assert not label.geometry().intersects(chart.geometry())
            beside = chart.getPlotItem().getAxis("left")
            assert beside.label.boundingRect().width() <= beside.size().height()
        heights.append(hint.heightForWidth(1000))
    # Small print is small beside the window's font, whatever that is.
    assert heights[1] > 1.5 * heights[0]


def test_a_wheel_that_scrolls_past_chooses_nothing(
    segment_widget: Callable[[], tuple[Any, Any]], qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    viewer.window._qt_window.show()
    qtbot.waitExposed(viewer.window._qt_window)
    before = [box.currentIndex() for box in widget.findChildren(QComboBox)]
    for box in (widget.model, widget.region):
        down = QWheelEvent(
            QPointF(5, 5), box.mapToGlobal(QPointF(5, 5)), QPoint(0, 0), QPoint(0, -120),
            Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(box, down)
    assert [box.currentIndex() for box in widget.findChildren(QComboBox)] == before


def test_words_that_matter_are_legible_on_either_theme(
    segment_widget: Callable[[], tuple[Any, Any]], scan_file: Any, qtbot: Any
) -> None:
    viewer, widget = segment_widget()
    open_scan(viewer, scan_file)
    run(qtbot, widget)
    widget.show_message("It went wrong.", True, ["Beware."])
    on_dark = widget.message.text()
    viewer.theme = "light"
    on_light = widget.message.text()
    assert on_light != on_dark
    assert "It went wrong." in on_light
    assert "Beware." in on_light
    viewer.theme = "dark"
    assert widget.message.text() == on_dark


def test_inspect_draws_nothing_over_the_scan_while_another_tab_is_on_top(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    mask = inspectable(viewer)
    widget = inspect(qtbot, viewer)
    layers = widget.layers
    click(viewer, world(mask, 0, 30, 30))
    assert layers.find("lit").visible
    shown = [view for view in ("codes", "heat", "lit") if layers.find(view).visible]
    assert mask.layer.contour > 0
    _, other = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    qtbot.waitUntil(
        lambda: dock_of(other) in dock_of(widget).parent().tabifiedDockWidgets(dock_of(widget))
    )
    qtbot.waitUntil(lambda: mask.layer.contour == 0)
    assert not any(layers.find(view).visible for view in ("codes", "heat", "lit"))
    # What is chosen meanwhile is drawn once it is to be seen.
    widget.choose([])
    widget.over.show(CODES)
    assert not any(layers.find(view).visible for view in ("codes", "heat"))
    mask.layer.mode = "paint"
    dock_of(widget).raise_()
    qtbot.waitUntil(lambda: mask.layer.contour > 0)
    # Whoever comes to look means to paint no more.
    assert mask.layer.mode == "pan_zoom"
    assert layers.find("codes").visible
    assert not layers.find("heat").visible
    assert "lit" in shown
    dock_of(widget).hide()
    second = inspectable(viewer, name="second")
    qtbot.waitUntil(lambda: widget.inspection is not None and widget.inspection.is_current)
    settle(qtbot, widget)
    assert widget.layers.mask.layer is second.layer
    assert second.layer.contour == 0
    # Layers that nobody sees are not made: a run would wait for them.
    qtbot.wait(200)
    assert not any(VIEW_KEY in layer.metadata for layer in viewer.layers)
    dock_of(widget).show()
    dock_of(widget).raise_()
    qtbot.waitUntil(lambda: all(widget.layers.find(view) for view in ("codes", "heat", "lit")))
    assert widget.layers.find("codes").visible
    assert not widget.layers.find("heat").visible
    # Who comes to look before it is read sees it afterwards.
    dock_of(widget).hide()
    widget.over.show(CODES)
    inspectable(viewer, name="third")
    widget.reading.read()
    assert not widget.inspection.is_current
    dock_of(widget).show()
    dock_of(widget).raise_()
    qtbot.waitUntil(lambda: widget.layers.find("codes") is not None)
    assert widget.layers.find("codes").visible
