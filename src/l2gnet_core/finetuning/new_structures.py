"""Structures that a model never had: their labels, and room for them in the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from l2gnet_core.errors import InputError
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.model import widened
from l2gnet_core.scans.labels import LabelSet, plain
from l2gnet_core.segmenting.corrections import Correction


def with_room_for(model: Model, labels: LabelSet) -> tuple[Model, list[bool]]:
    """A copy of a model for labels that include its own, and for each class whether it is new."""
    old = {label.id: number for number, label in enumerate(model.card.labels, 1)}
    classes = [0, *(old.get(label.id) for label in labels)]
    network = widened(model.network, classes).eval()
    return Model(network, replace(model.card, labels=labels)), [row is None for row in classes]


def taught_labels(
    known: LabelSet, corrections: Sequence[Correction], names: Mapping[int, str]
) -> LabelSet:
    """The labels of a model and of the corrections; new ids without a name get "structure <id>".

    Raises InputError for names of ids that are not new, for names that are taken, for unmarked
    voxels with the id of a structure, and for a new structure without any voxel marked as another.
    """
    for correction in corrections:
        name = known.names.get(-1 if correction.unmarked is None else correction.unmarked)
        if name:
            raise InputError(
                f"Expected an id for unmarked voxels that is no structure of the model, but "
                f"{correction.unmarked} is its {name}; give unmarked voxels another id."
            )
    new = sorted(set().union(*(c.structures for c in corrections)) - set(known.names))
    for id in new:
        marked = (set(c.structures) | ({0} if c.background else set()) for c in corrections
                  if id in c.structures)  # fmt: skip
        if all(ids == {id} for ids in marked):
            raise InputError(
                f"Expected voxels beside the new structure {names.get(id, id)} that are marked as "
                "none of it, but all others are unmarked; mark some of what surrounds it, or take "
                "painted slices as complete."
            )
    for id, name in names.items():
        if id in known.names and plain(known.names[id]) != plain(name):
            raise InputError(
                f"Expected names for new structures, but the model has {id} as "
                f"{known.names[id]} already; leave its name out."
            )
        if id not in known.names and id not in new:
            there = ", ".join(map(str, new)) or "none"
            raise InputError(
                f"Expected names for ids that the corrected slices hold (new ones: {there}), but "
                f"got one for {id}; correct the id or leave it out."
            )
    taught = known.with_new(new, names)
    alike = Counter(plain(label.name) for label in taught)
    twice = [taught.names[id] for id in new if alike[plain(taught.names[id])] > 1]
    if twice:
        raise InputError(
            f"Expected a name of its own for every structure, but '{twice[0]}' comes twice where "
            "case, spaces and underscores do not count; choose another."
        )
    if len(taught) >= 255:
        raise InputError(f"Expected fewer than 255 structures, but there are {len(taught)}.")
    return taught
