"""The models at hand: bundled ones, and the user's own."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from l2gnet_core.card import ModelCard
from l2gnet_core.checkpoint import MODEL_FILE, find_model_file, read_card
from l2gnet_core.errors import InputError

BUNDLED_FOLDER = Path(__file__).parent / "models"
DEFAULT_MODEL = "cardiac-cine"


@dataclass(frozen=True)
class CatalogEntry:
    """A model by the name that `--model` takes. Its card has that name, too, whatever it had when
    it was written."""

    name: str
    path: Path
    card: ModelCard
    bundled: bool


def user_folder() -> Path:
    """Where the user's models are kept; the variable L2GNET_MODELS overrides the default."""
    chosen = os.environ.get("L2GNET_MODELS")
    return Path(chosen) if chosen else platformdirs.user_data_path("l2gnet") / "models"


def no_such_folder() -> str:
    """That the variable L2GNET_MODELS names a folder that is not there, in a sentence; else ""."""
    chosen = os.environ.get("L2GNET_MODELS")
    if not chosen or Path(chosen).is_dir():
        return ""
    return (
        f"L2GNET_MODELS names {chosen}, but there is no such folder: no models of yours are found."
    )


def models() -> list[CatalogEntry]:
    """Every readable model, bundled ones first; files that are no models are left out.

    The user's are files, or the folders of runs; one with a bundled model's name takes its place.
    """
    found: dict[str, CatalogEntry] = {}
    for folder, bundled in ((BUNDLED_FOLDER, True), (user_folder(), False)):
        runs = {path.parent.name: path for path in sorted(folder.glob(f"*/{MODEL_FILE}"))}
        files = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
        for name, path in {**runs, **files}.items():
            try:
                card = replace(read_card(path), name=name)
            except InputError:
                continue
            found[name] = CatalogEntry(name, path, card, bundled)
    return list(found.values())


def find_model(name_or_path: str) -> Path:
    """The file of a model given by name, file or folder.

    Raises InputError if there is none, naming the models at hand, or if there are two.
    """
    entries = {entry.name: entry for entry in models()}
    here = Path(name_or_path)
    if name_or_path in entries:
        file = entries[name_or_path].path
        if (here / MODEL_FILE).is_file() and not (here / MODEL_FILE).samefile(file):
            raise InputError(
                f"Expected one model called {name_or_path}, but there is one by that name and one "
                f"in the folder here; write {os.path.join(os.curdir, name_or_path)} for the one in "
                "the folder, or rename it."
            )
        return file
    if here.exists():
        return find_model_file(here)
    known = ", ".join(sorted(entries)) or "none"
    raise InputError(
        f"Expected a model's name, file or folder, but there is no '{name_or_path}'; "
        f"models at hand: {known}."
    )
