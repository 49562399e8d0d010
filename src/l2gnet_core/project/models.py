"""The models of a project; those that are not bundled are stored in its folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from l2gnet_core.errors import InputError
from l2gnet_core.files.atomic import copy_files
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.catalog import BUNDLED_FOLDER
from l2gnet_core.models.checkpoint import Model, load_model, save_model
from l2gnet_core.project.state import ModelId, without_patients

if TYPE_CHECKING:
    from l2gnet_core.network.model import SegmentationNetwork

# Hashes stay valid, because weights are never changed in place: fine-tuning works on copies.
_hashes: WeakKeyDictionary[SegmentationNetwork, str] = WeakKeyDictionary()


def id_of(model: Model) -> ModelId:
    """Name and hash of a model; the hash of its weights is computed once."""
    from l2gnet_core.models.weights import model_hash, weights_hash

    if model.network not in _hashes:
        _hashes[model.network] = weights_hash(model.network)
    return ModelId(model.card.name, model_hash(model, _hashes[model.network]))


class ModelStore:
    """Models in a folder by `model_hash`. Bundled models with unchanged cards are not copied. Of
    models with one hash, the first is stored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Those stored here that are still in memory, by hash.
        self._in_use: WeakValueDictionary[str, Model] = WeakValueDictionary()

    def keep(self, model: Model) -> ModelId:
        """Store a model unless it is stored or bundled. Raises OutputError."""
        id = id_of(model)
        file = self.file(id)
        if not file.exists() and _bundled(id.name) != (id.sha256, model.card):
            self._folder.mkdir(exist_ok=True)
            save_model(file, model.network, without_patients(model.card))
        self._in_use[id.sha256] = model
        return id

    def take_over(self, other: ModelStore) -> None:
        """Store the models of another store: those in memory, and those still in its folder. Raises
        OutputError."""
        for model in list(other._in_use.values()):
            self.keep(model)
        copy_files(other._folder, self._folder)

    def file(self, id: ModelId) -> Path:
        """The file in which a model is stored if it is not bundled."""
        return self._folder / f"{id.sha256[:16]}.safetensors"

    def path(self, id: ModelId) -> Path:
        """The file of a model, stored or bundled. Raises InputError if there is none."""
        file = self.file(id)
        if file.exists():
            return file
        bundled = _bundled(id.name)
        if bundled is not None and bundled[0] == id.sha256:
            return _bundled_file(id.name)
        raise InputError(
            f"Expected the model {id.name} with weights {id.sha256[:16]}… of this project, but "
            "neither the project nor this version of napari-l2gnet has it; install the version "
            "that the project was made with."
        )

    def load(self, id: ModelId, device: str = "cpu") -> Model:
        """Load a model. Raises InputError if it is missing, damaged, or has other weights."""
        path = self.path(id)
        model = load_model(path, device)
        if id_of(model).sha256 != id.sha256:
            raise InputError(
                f"Expected weights {id.sha256[:16]}… in {path}, but it holds others; restore the "
                "project folder from a copy."
            )
        return model


def _bundled_file(name: str) -> Path:
    return BUNDLED_FOLDER / f"{Path(name).name}.safetensors"


@cache
def _bundled(name: str) -> tuple[str, ModelCard] | None:
    """Hash and card of the bundled model with a name; None if there is none."""
    file = _bundled_file(name)
    if not file.is_file():
        return None
    model = load_model(file)
    return id_of(model).sha256, model.card
