"""A list of the viewer's layers of one type that follows them when they come, go or are renamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QComboBox, QStyle, QStyleOptionComboBox, QStylePainter

from napari_l2gnet.scans.layers import VIEW_KEY


class LayerCombo(QComboBox):
    """Chooses one layer, by identity: a rename or a new neighbour never changes the choice."""

    chosen = Signal()

    def __init__(
        self,
        layers: Any,
        kind: type[Layer],
        fits: Callable[[Layer], bool] = lambda layer: True,
    ) -> None:
        super().__init__()
        self._fits = fits
        self._layers = layers
        self._kind = kind
        self._items: list[Layer] = []
        # Long file names must not push the dock wider.
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        opened = self.view()
        assert opened is not None
        opened.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        for event in (layers.events.inserted, layers.events.removed, layers.events.reordered):
            event.connect(self._refill)
        self.currentIndexChanged.connect(lambda _: self.chosen.emit())
        self._refill()

    @property
    def layer(self) -> Layer | None:
        """The chosen layer."""
        index = self.currentIndex()
        return self._items[index] if 0 <= index < len(self._items) else None

    def __contains__(self, layer: Layer) -> bool:
        return layer in self._items

    def choose(self, layer: Layer | None) -> None:
        """Choose a layer that is in the list; or none, until one is chosen."""
        self.setCurrentIndex(-1 if layer is None else self._items.index(layer))

    def paintEvent(self, _: Any) -> None:
        """Shorten a long name in its middle: its end may be all that tells two layers apart."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        style = self.style()
        assert style is not None
        room = style.subControlRect(
            QStyle.ComplexControl.CC_ComboBox,
            option,
            QStyle.SubControl.SC_ComboBoxEditField,
            self,
        )
        option.currentText = self.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideMiddle, room.width()
        )
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def disconnect_layers(self) -> None:
        """Stop following: events must not reach a widget that Qt has deleted."""
        for event in (
            self._layers.events.inserted,
            self._layers.events.removed,
            self._layers.events.reordered,
        ):
            event.disconnect(self._refill)
        for layer in self._items:
            layer.events.name.disconnect(self._refill)

    def _refill(self, _: Any = None) -> None:
        before = self.layer
        none_chosen = before is None and bool(self._items)
        for layer in self._items:
            layer.events.name.disconnect(self._refill)
        self._items = [
            layer
            for layer in self._layers
            if isinstance(layer, self._kind)
            and VIEW_KEY not in layer.metadata
            and self._fits(layer)
        ]
        for layer in self._items:
            layer.events.name.connect(self._refill)
        with QSignalBlocker(self):
            self.clear()
            self.addItems([layer.name for layer in self._items])
            if none_chosen:
                self.setCurrentIndex(-1)
            elif before in self._items:
                self.setCurrentIndex(self._items.index(before))
            elif self._items:
                self.setCurrentIndex(len(self._items) - 1)
        if self.layer is not before:
            self.chosen.emit()
