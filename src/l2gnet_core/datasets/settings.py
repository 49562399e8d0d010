"""Read dataset.json, and say what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

from l2gnet_core.errors import InputError
from l2gnet_core.scans.labels import plain


@dataclass(frozen=True)
class DatasetSettings:
    """The content of dataset.json. names: structure by id. patients: patient by scan, for scans
    whose file names do not contain the patient. channels: of nnU-Net's scans, by name."""

    names: Mapping[int, str] = field(default_factory=dict)
    description: str = ""
    patients: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()


def read_settings(file: Path) -> DatasetSettings:
    """The content of dataset.json; empty if there is no such file.

    Labels may be name → id, or id → name as in the Medical Segmentation Decathlon. Raises
    InputError for a file of another form, and for structures that share an id or a name.
    """
    # A link to a missing file is an error, not a dataset without names.
    if not file.is_file() and not file.is_symlink():
        return DatasetSettings()
    try:
        # Some editors on Windows write a byte order mark.
        settings = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
        names = _names(settings.get("labels", {}))
        # Scans are called by names of the form NFC; see `l2gnet_core.files.stem_of`.
        patients = {
            normalize("NFC", scan): normalize("NFC", str(who))
            for scan, who in settings.get("patients", {}).items()
        }
        # "modality" in the Decathlon and in nnU-Net's first version.
        named = settings.get("channel_names", settings.get("modality"))
        channels = tuple(map(str, named.values())) if isinstance(named, dict) else ()
        return DatasetSettings(names, str(settings.get("description", "")), patients, channels)
    except _Fault as fault:
        raise InputError(f"Expected {fault.args[0]} in {file}, but {fault.args[1]}.") from fault
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f'Expected {{"labels": {{"name": id, …}}}}, and maybe {{"patients": {{"scan": '
            f'"patient", …}}}}, in {file}, but it cannot be read so; correct the file or take it '
            "away."
        ) from error


class _Fault(Exception):
    """A fault of the file. args: what is expected; what is there instead, and what to do."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of pairs. Raises _Fault for equal keys, of which JSON would drop the first."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Fault("each name once", f'"{key}" comes twice; take one out or rename it')
        found[key] = value
    return found


def _names(labels: Mapping[str, Any]) -> dict[int, str]:
    """Names by id. Raises _Fault for ids or names that are not unique."""
    names: dict[int, str] = {}
    for key, value in labels.items():
        id, name = (key, str(value)) if key.isdecimal() else (value, key)
        # Tables and messages need names of one line.
        name = " ".join(name.split())
        if not name:
            raise _Fault("a name for each structure", f"that of {json.dumps(id)} is empty; name it")
        id = _whole(id, name)
        if id in names:
            raise _Fault(
                "an id of its own for each structure",
                f"{names[id]} and {name} are both {id}; give one of them another",
            )
        for other in names.values():
            if plain(other) == plain(name):
                raise _Fault(
                    "a name of its own for each structure",
                    f"{other} and {name} differ in case, spaces or underscores at most; rename one "
                    "of them",
                )
        names[id] = name
    return names


def _whole(id: Any, name: str) -> int:
    # nnU-Net may write a single id as a region of one.
    if isinstance(id, list) and len(id) == 1:
        id = id[0]
    if isinstance(id, list):
        raise _Fault(
            "one id for each structure",
            f"{name} is a region of several, as nnU-Net has them, which cannot be learned; name "
            "the structures that it is made of instead",
        )
    number = float(id) if isinstance(id, str) and id.isdecimal() else id
    if isinstance(number, bool) or not isinstance(number, int | float) or number % 1:
        raise _Fault(
            "a whole number as the id of each structure",
            f"that of {name} is {json.dumps(id)}; correct it",
        )
    return int(number)
