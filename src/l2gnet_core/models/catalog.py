"""The available models: bundled ones and the user's own."""

from __future__ import annotations

import filecmp
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import MODEL_FILE, find_model_file, read_card

BUNDLED_FOLDER = Path(__file__).parent
DEFAULT_MODEL = "cardiac-cine"


@dataclass(frozen=True)
class CatalogEntry:
    """A model by the name that `--model` takes; its card is given the same name."""

    name: str
    path: Path
    card: ModelCard
    bundled: bool


def user_folder() -> Path:
    """The folder of the user's models; the environment variable L2GNET_MODELS overrides it."""
    chosen = os.environ.get("L2GNET_MODELS")
    return Path(chosen) if chosen else platformdirs.user_data_path("l2gnet") / "models"


def no_such_folder() -> str:
    """A warning if the variable L2GNET_MODELS names a folder that does not exist; else ""."""
    chosen = os.environ.get("L2GNET_MODELS")
    if not chosen or Path(chosen).is_dir():
        return ""
    return (
        f"L2GNET_MODELS names {chosen}, but there is no such folder: no models of yours are found."
    )


def models() -> list[CatalogEntry]:
    """Every readable model, bundled ones first; files that are no models are left out.

    The user's models are files or folders of runs; one with a bundled model's name replaces it.
    """
    found: dict[str, CatalogEntry] = {}
    for folder, bundled in ((BUNDLED_FOLDER, True), (user_folder(), False)):
        for name, paths in _files_in(folder).items():
            with suppress(InputError):
                card = replace(read_card(paths[0]), name=name)
                found[name] = CatalogEntry(name, paths[0], card, bundled)
    return list(found.values())


def odd_models() -> list[str]:
    """Warnings about the user's models: one replaces a bundled model, two have the same name, or a
    file cannot be used."""
    odd = []
    for name in _files_in(user_folder()):
        try:
            read_card(find_model(name))
        except InputError as error:
            odd.append(str(error))
        else:
            odd += filter(None, [in_place_of_bundled(name)])
    return odd


def in_place_of_bundled(name: str) -> str:
    """A warning if a model of the user's replaces a bundled one; else ""."""
    mine = _files_in(user_folder()).get(name)
    if not mine or name not in _files_in(BUNDLED_FOLDER):
        return ""
    return f"{name} is {mine[0]}, in place of the bundled model of that name."


def find_model(name_or_path: str) -> Path:
    """The file of a model given by name, file or folder.

    Copies of one file count as one model. Raises InputError if there is none, naming the available
    models, or if there are two.
    """
    named = _files_in(BUNDLED_FOLDER) | _files_in(user_folder())
    here = Path(name_or_path)
    if name_or_path in named:
        file, *others = named[name_or_path]
        if other := next((one for one in others if not _equal(file, one)), None):
            raise InputError(
                f"Expected one model called {name_or_path}, but there are {file} and {other}; "
                "give the path of the one that is meant, or rename one of them."
            )
        if (here / MODEL_FILE).is_file() and not _equal(file, here / MODEL_FILE):
            raise InputError(
                f"Expected one model called {name_or_path}, but there is one by that name and one "
                f"in the folder here; write {os.path.join(os.curdir, name_or_path)} for the one in "
                "the folder, or rename it."
            )
        return file
    if here.exists():
        return find_model_file(here)
    known = ", ".join(sorted(entry.name for entry in models())) or "none"
    raise InputError(
        f"Expected a model's name, file or folder, but there is no '{name_or_path}'; "
        f"models at hand: {known}."
    )


def _equal(one: Path, other: Path) -> bool:
    """Do two files have the same bytes?"""
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _files_in(folder: Path) -> dict[str, list[Path]]:
    """Possible models in a folder, by name: files and folders of runs, not yet read."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.setdefault(path.stem, []).append(path)
    for path in sorted(folder.glob(f"*/{MODEL_FILE}")):
        found.setdefault(path.parent.name, []).append(path)
    # Hidden files belong to other programs (macOS: ._mine.safetensors) or are half written.
    return {name: paths for name, paths in found.items() if not name.startswith(".")}
