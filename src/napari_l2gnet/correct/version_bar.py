"""The versions of a mask's model: going to one, saving it, loading another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog

from l2gnet_core.errors import InputError
from l2gnet_core.models.catalog import user_folder
from napari_l2gnet.annotating.annotation import Annotation, Version
from napari_l2gnet.annotating.learning import model_of
from napari_l2gnet.correct.form import CorrectForm
from napari_l2gnet.jobs.session import Session
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.organs import as_called_in, with_organs_of

if TYPE_CHECKING:
    from l2gnet_core.models.checkpoint import Model

_FILTER = "Models (*.safetensors)"


class VersionBar(QObject):
    """Keeps the list of versions in step with an annotation, and handles its buttons."""

    #: Number of the version whose answer the mask shall show.
    wanted = Signal(int)
    #: The same for a version that was just loaded.
    loaded = Signal(int)
    said = Signal(str)
    refused = Signal(object)

    def __init__(self, form: CorrectForm, session: Session) -> None:
        super().__init__(form)
        self._form = form
        self._session = session
        self._mask: MaskLayer | None = None
        self._annotation: Annotation | None = None
        form.version.activated.connect(self.go_to)
        form.roll_back.clicked.connect(self.roll_back)
        form.save.clicked.connect(self._ask_save)
        form.load.clicked.connect(self._ask_load)

    def follow(self, mask: MaskLayer | None, annotation: Annotation | None) -> None:
        """Show the versions of this mask from now on."""
        self._mask, self._annotation = mask, annotation

    def show(self) -> None:
        """Draw the list."""
        annotation = self._annotation
        if annotation is None:
            self._form.show_versions([], -1)
        else:
            names = [_described(version, annotation.model) for version in annotation.versions]
            self._form.show_versions(names, annotation.segmentation.version)

    def go_to(self, number: int) -> None:
        """Let the mask show a version's answer."""
        if self._annotation is not None and number != self._annotation.segmentation.version:
            self.wanted.emit(number)

    def roll_back(self) -> None:
        """Go back to the version that this one began with."""
        if self._annotation is not None:
            self.go_to(self._annotation.version.parent)

    def _ask_save(self) -> None:
        if self._annotation is None:
            return
        try:
            name = self._model(self._annotation).card.name
        except InputError as error:
            self.refused.emit(error)
            return
        suggested = user_folder() / f"{name}.safetensors"
        path, _ = QFileDialog.getSaveFileName(self._form, "Save the model", str(suggested), _FILTER)
        if path:
            self.save(Path(path))

    def save(self, path: Path) -> None:
        """Save the model of the version that the mask shows."""
        annotation = self._annotation
        if annotation is None:
            return
        try:
            model = self._model(annotation)
            card = as_called_in(model.card, annotation.segmentation.card.labels)
            self._session.save(replace(model, card=card), path)
        except InputError as error:
            self.refused.emit(error)
            return
        self.said.emit(f"Saved as {path.stem}.")

    def _model(self, annotation: Annotation) -> Model:
        return model_of(self._session, annotation.version, annotation, "cpu")

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self._form, "Load a model", str(user_folder()), _FILTER
        )
        if path:
            self.load(Path(path))

    def load(self, path: Path) -> None:
        """Segment this scan with a saved model, as a new version."""
        annotation, mask = self._annotation, self._mask
        if annotation is None or mask is None or annotation.job:
            return
        from l2gnet_core.models.checkpoint import read_card

        try:
            mine = annotation.segmentation.card.labels
            both = with_organs_of(mine, read_card(path).labels)
            mask.relabel(both)
        except InputError as error:
            self.refused.emit(error)
            return
        annotation.changed.emit("organs")
        brought = tuple(id for id in both.names if id not in mine.names)
        now = annotation.segmentation.version
        version = Version(path.stem, "file", now, path=path, brought=brought)
        self.loaded.emit(annotation.add_version(version))


def _described(version: Version, first: str) -> str:
    """A version's text in the list. first: name of the model that the mask began with."""
    if version.kind == "original":
        return f"original · {first}"
    kinds = {"scan": "this scan", "project": "project", "file": "loaded"}
    words = [version.name]
    if version.verdict is not None and version.verdict.evidence.dice.before:
        dice = version.verdict.evidence.dice
        change = f"{dice.gain():+.3f} Dice" if dice.clear else "no clear change"
        if dice.hardly_learnt:
            change = "hardly learnt"
        words.append(f"{change} in test runs")
    words.append(kinds[version.kind])
    return " · ".join(words)
