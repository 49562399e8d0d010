"""Structures that a model never had: their labels, and room for them in the network."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from l2gnet_core.errors import InputError
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.scans.labels import LabelSet, plain
from l2gnet_core.segmenting.corrections import Correction

#: By how much a new structure's logit starts below the background's: it is answered nowhere at
#: first, and the probabilities of the others change by less than 2 %.
_BELOW_BACKGROUND = 4.0


def with_room_for(model: Model, labels: LabelSet) -> tuple[Model, list[bool]]:
    """A copy of a model for labels that include its own, and for each class whether it is new."""
    old = {label.id: number for number, label in enumerate(model.card.labels, 1)}
    classes = [0, *(old.get(label.id) for label in labels)]
    network = widened(model.network, classes).eval()
    return Model(network, replace(model.card, labels=labels)), [row is None for row in classes]


def widened(network: SegmentationNetwork, classes: Sequence[int | None]) -> SegmentationNetwork:
    """A copy whose class i answers as class classes[i] did, bit for bit; None stands for a new one.

    classes: the first is the background, 0. New classes start with the background's weights, only
    less likely (as in Cermelli et al., "Modeling the Background for Incremental Learning in
    Semantic Segmentation", CVPR 2020).
    """
    network = copy.deepcopy(network)
    decoder = network.decoder
    rows = [row or 0 for row in classes]
    fresh = torch.tensor([row is None for row in classes])
    for head in (decoder.head, *decoder.coarser_heads):
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.weight = nn.Parameter(head.weight.detach()[rows].clone())
        bias = head.bias.detach()[rows].clone()
        bias[fresh] -= _BELOW_BACKGROUND
        head.bias = nn.Parameter(bias)
        head.out_channels = len(rows)
    network.config = replace(network.config, classes=len(rows))
    return network


def classes_by_name(known: LabelSet, labels: LabelSet) -> list[int] | None:
    """For the background and each label, the class of a model that knows other labels.

    Labels are matched by name or, in a dataset without names, by id. None if the model lacks one.
    """
    by_name = {plain(label.name): number for number, label in enumerate(known, 1)}
    by_id = {f"structure {label.id}": number for number, label in enumerate(known, 1)}
    names = [plain(label.name) for label in labels]
    for found in (by_name, by_id):
        if found.keys() >= set(names):
            return [0, *(found[name] for name in names)]
    return None


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
        if id in known.names and known.names[id] != name:
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
    taught = {id: names.get(id, f"structure {id}") for id in new}
    together = [*known.names.values(), *taught.values()]
    alike = Counter(map(plain, together))
    twice = [name for name in taught.values() if alike[plain(name)] > 1]
    if twice:
        raise InputError(
            f"Expected a name of its own for every structure, but '{twice[0]}' comes twice where "
            "case and spaces do not count; choose another."
        )
    if len(together) >= 255:
        raise InputError(f"Expected fewer than 255 structures, but there are {len(together)}.")
    return LabelSet.from_names(
        {**known.names, **taught},
        known.colors,
    )
