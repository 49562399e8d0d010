"""The organs of a label file: which of the model's they are, by the names that the file gives."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import count

import numpy as np

from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import is_automatic, may_be_a_scan, plain, some
from l2gnet_core.segmenting.corrections import Correction


def names_together(found: Iterable[Mapping[int, str]], given: Mapping[int, str]) -> dict[int, str]:
    """Names of new structures from several label files; `given` ones override them.

    Raises InputError for an id that has two names.
    """
    names = dict(given)
    for one in found:
        for id, name in one.items():
            if id not in given and plain(names.setdefault(id, name)) != plain(name):
                raise InputError(
                    f"Expected new organs with the same ids in all labels, but {id} is both "
                    f"{names[id]} and {name}; give them ids of their own, or name {id} with "
                    "--names."
                )
    return names


def require_no_scan(correction: Correction, file: str, known: Collection[int]) -> None:
    """Raise InputError if the labels are the scan itself, or may be another one. known: ids of the
    model, and those that something names."""
    scan = np.moveaxis(correction.scan, correction.axis, 0)
    slices = zip(correction.slices, correction.pictures, strict=True)
    if correction.structures and all(np.array_equal(scan[i], picture) for i, picture in slices):
        raise InputError(
            f"Expected labels of the scan, but in the corrected slices {file} holds the scan's own "
            "values; give its mask."
        )
    if may_be_a_scan(correction.structures, known):
        unknown = len(correction.structures.difference(known))
        raise InputError(
            f"Expected labels of the scan, but in the corrected slices {file} has {unknown} ids "
            "that the model does not have and nothing names; if it is a scan, give its mask, "
            "otherwise name them."
        )


def meant_by(names: Mapping[int, str], card: ModelCard) -> dict[int, int | None]:
    """The model's id for each id that a label file names; None if the model has no such
    structure."""
    known = card.labels.names
    by_name = {plain(name): id for id, name in known.items()}
    # A model that only numbers its structures goes by the ids.
    numbered = {id for id, name in known.items() if is_automatic(name)}
    return {
        id: by_name.get(plain(name), id if id in numbered else None) for id, name in names.items()
    }


def ids_by_name(
    found: set[int], names: Mapping[int, str], card: ModelCard, file: str, shared: bool = False
) -> dict[int, int]:
    """The model's id for each id found in a label file with these names; structures that the model
    does not have keep theirs or, with `shared`, get 0.

    Raises InputError for such a structure that would keep an id of the model's, for a structure
    without a name if others show that the file's ids are not the model's, and with `shared` for a
    file that names no structure of a model that names its own.
    """
    known, meant = card.labels.names, meant_by(names, card)
    taken = {id: names[id] for id, its in meant.items() if its is None and id in known}
    named = not all(is_automatic(name) for name in known.values())
    if shared and named and not any(meant.values()):
        # By ids, the spleen of a mask without names could be taught as the liver.
        raise InputError(
            f"Expected organs of {card.name}, but {file} names none of them; call those that it "
            f"has as the model does: {some(list(known.values()))}."
        )
    if not shared and (wrong := sorted(taken.keys() & found)):
        id = wrong[0]
        free = next(one for one in count(1) if one not in {*known, *names, *found})
        raise InputError(
            f"Expected new organs under ids of their own, but {taken[id]} is {id} in {file}, as "
            f"the {known[id]} of {card.name}; give it a free id, such as {free}, or the model's "
            "name if it is the same organ, or teach only the model's organs with --shared-organs. "
            "If the names in the file's header are older than its ids, remove them."
        )
    elsewhere = [id for id, its in meant.items() if its not in (None, id)]
    nameless = sorted(found - meant.keys())
    if nameless and (taken or elsewhere):
        raise InputError(
            f"Expected a name for every label of {file}, as its names show that its ids are not "
            f"those of {card.name}, but there is none for {nameless[0]}; name it, too."
        )
    ids = {id: meant.get(id) or id for id in sorted(found)}
    if shared:
        ids = {id: its if meant.get(id, its) in known else 0 for id, its in ids.items()}
    for id, its in ids.items():
        if its and (alike := [other for other in ids if other < id and ids[other] == its]):
            raise InputError(
                f"Expected different organs under different ids, but in {file} {alike[0]} and {id} "
                f"are both the {known[its]}; give both one id, or one of them another name."
            )
    return ids


def renumbered(correction: Correction, ids: Mapping[int, int]) -> Correction:
    """A correction with other ids of its structures; 0 is background, also where that is the id of
    unknown voxels, which get another."""
    unmarked = correction.unmarked
    if unmarked == 0:
        unmarked = next(id for id in range(65535, 0, -1) if id not in ids.values())
        ids = {**ids, 0: unmarked}
    labels = np.zeros(correction.scan.shape, np.uint16)
    for index, picture in zip(correction.slices, correction.pictures, strict=True):
        moved = picture.astype(np.uint16)
        for id in ids:
            moved[picture == id] = ids[id]
        np.moveaxis(labels, correction.axis, 0)[index] = moved
    return replace(correction, labels=labels, unmarked=unmarked)
