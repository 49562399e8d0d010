"""Adding, renaming and combining the organs of masks. Without Qt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import Label, LabelSet, own_colors, plain

#: The id of voxels whose label is unknown; no organ may have it.
UNMARKED = 65535
LARGEST_ID = UNMARKED - 1


def free_id(labels: LabelSet) -> int:
    """The smallest id that no organ has."""
    return next(id for id in range(1, UNMARKED) if id not in labels.names)


def new_color(labels: LabelSet) -> str:
    """A colour for a new organ: one that no other organ has, if any is left."""
    taken = set(labels.colors.values())
    colors = own_colors()
    return next((one for one in colors if one not in taken), colors[len(labels) % len(colors)])


def with_organ(labels: LabelSet, organ: Label) -> LabelSet:
    """Labels with an organ added, or changed if its id is among them.

    Raises InputError for an invalid id, and for a name that is empty or taken.
    """
    if not 1 <= organ.id <= LARGEST_ID:
        raise InputError(f"Expected an id from 1 to {LARGEST_ID} for an organ, but got {organ.id}.")
    if not organ.name.strip():
        raise InputError("Expected a name for the organ, but got none.")
    # Readers, and models that are trained on from another one, take such names for one organ.
    called = plain(organ.name)
    alike = (one for one in labels if one.id != organ.id and plain(one.name) == called)
    if taken := next(alike, None):
        raise InputError(
            f"Expected a name of its own for every organ, but there is a {taken.name} already; "
            "choose another."
        )
    return _sorted([*(one for one in labels if one.id != organ.id), organ])


def with_organs_of(labels: LabelSet, others: LabelSet) -> LabelSet:
    """Labels, and those of `others` whose ids are not among them.

    Raises InputError if an id has different names in both, or a name different ids: organs would be
    mixed up.
    """
    ids = {plain(label.name): label.id for label in labels}
    for label in others:
        if plain(labels.names.get(label.id, label.name)) != plain(label.name):
            raise InputError(
                f"Expected a model whose organs are those of the mask, but its label {label.id} is "
                f"{label.name} and the mask's is {labels.names[label.id]}; load another, or rename "
                "the mask's organ if they are the same."
            )
        if (id := ids.get(plain(label.name), label.id)) != label.id:
            raise InputError(
                f"Expected a model whose organs are those of the mask, but its label {label.id} is "
                f"{label.name}, which is label {id} in the mask; load another or, with Edit …, "
                "rename or remove the mask's organ."
            )
    return _sorted([*labels, *(label for label in others if label.id not in labels.names)])


def as_called_in(card: ModelCard, mine: LabelSet) -> ModelCard:
    """A model's card with the names and colours that `mine` has for its ids."""
    called = {label.id: label for label in mine}
    return with_labels(card, LabelSet(tuple(called.get(label.id, label) for label in card.labels)))


def with_labels(card: ModelCard, labels: LabelSet) -> ModelCard:
    """A card with other labels; the usual volume of an id goes by its new name."""
    names = card.labels.names
    now = {names[label.id]: label.name for label in labels if label.id in names}
    usual = {now[name]: range for name, range in card.expects.volumes.items() if name in now}
    return replace(card, labels=labels, expects=replace(card.expects, volumes=usual))


def same_names(masks: Mapping[str, LabelSet]) -> dict[int, str]:
    """Names of organs by id, for masks that are to teach one model. masks: organs by layer name.

    Raises InputError if an id has different names, or a name different ids.
    """
    names: dict[int, str] = {}
    first: dict[str, tuple[int, str]] = {}
    for mask, labels in masks.items():
        for label in labels:
            if plain(names.setdefault(label.id, label.name)) != plain(label.name):
                raise InputError(
                    f"Expected the same organs in all masks, but label {label.id} is "
                    f"{names[label.id]} in one and {label.name} in another; rename one of them."
                )
            id, there = first.setdefault(plain(label.name), (label.id, mask))
            if id != label.id:
                raise InputError(
                    f"Expected the same organs in all masks, but {label.name} is label {id} in "
                    f"{there} and label {label.id} in {mask}; rename one of them or, in one mask, "
                    "remove it with Edit … and add it with the id of the other."
                )
    return names


def _sorted(labels: Iterable[Label]) -> LabelSet:
    return LabelSet(tuple(sorted(labels, key=lambda label: label.id)))
