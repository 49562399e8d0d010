"""The list of models in the Segment widget."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox

from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.catalog import DEFAULT_MODEL, CatalogEntry, models, user_folder


class ModelCombo(QComboBox):
    """Chooses one of the models at hand; `refresh` lists them again."""

    #: The list is about to open; the command line may have trained a model meanwhile.
    opening = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._entries = {entry.name: entry for entry in models()}
        self.addItems(list(self._entries))
        self.setCurrentIndex(max(0, self.findText(DEFAULT_MODEL)))

    @property
    def entry(self) -> CatalogEntry | None:
        """The chosen model."""
        return self._entries.get(self.currentText())

    @property
    def card(self) -> ModelCard | None:
        """The chosen model's card."""
        return None if self.entry is None else self.entry.card

    def choose(self, card: ModelCard, path: Path | None) -> None:
        """Choose a model by its card; path: its file, which need not be among the listed models."""
        if card.name not in self._entries and path is not None:
            self._entries[card.name] = CatalogEntry(card.name, path, card, bundled=False)
            self.addItem(card.name)
        self.setCurrentText(card.name)

    def refresh(self) -> None:
        """List the models again.

        A model from elsewhere stays as long as its file does. If the chosen model is gone, the
        default one is chosen.
        """
        listed = {entry.name: entry for entry in models()}
        elsewhere = {
            name: entry
            for name, entry in self._entries.items()
            if not entry.path.is_relative_to(user_folder()) and entry.path.is_file()
        }
        self._entries = {**elsewhere, **listed}
        chosen = self.currentText()
        with QSignalBlocker(self):
            self.clear()
            self.addItems(list(self._entries))
            kept = chosen if chosen in self._entries else DEFAULT_MODEL
            self.setCurrentIndex(max(0, self.findText(kept)))
        if self.currentText() != chosen:
            self.currentIndexChanged.emit(self.currentIndex())

    def showPopup(self) -> None:
        """Emit `opening`, then open the list."""
        self.opening.emit()
        super().showPopup()
