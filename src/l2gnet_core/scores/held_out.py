"""Score a model on patients of a dataset whom it did not learn from: `l2gnet evaluate --model`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from l2gnet_core.datasets.cases import PARTS, Case, Part
from l2gnet_core.datasets.leakage import tuned_on
from l2gnet_core.datasets.loading import Dataset
from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.scans.labels import plain, some
from l2gnet_core.scores.evaluate import CaseScores, scored
from l2gnet_core.segmenting.files import segmented


def held_out(dataset: Dataset, card: ModelCard, part: Part) -> tuple[list[Case], list[str]]:
    """The dataset's cases in the model's "test" or "tuning" part, and notes for the user.

    Patients on whom the model was fine-tuned since are left out. Raises InputError unless the card
    names the patients of the part, all are in the dataset, and the model has learnt from none.
    """
    people = dataset.people
    named = {one: list(map(people.known, card.split.get(one, ()))) for one in PARTS}
    if not named[part] and named["train"]:
        raise InputError(
            f"Expected patients that {card.name} has not learnt from, but its {part} part is "
            "empty; choose another --part, or segment other scans and give the masks with their "
            "references."
        )
    if not named[part]:
        raise InputError(
            f"Expected a model whose card says who is in its {part} part, but that of {card.name} "
            "does not; segment the scans and give the masks with their references instead."
        )
    missing = [name for name in named[part] if name not in people.names]
    if missing:
        raise InputError(
            f"Expected the {part} patients of {card.name} in the dataset, but {some(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; give the dataset that it was trained "
            "on."
        )
    patients = {people.names[name] for name in named[part]}
    for name in named["train"]:
        if people.names.get(name) in patients:
            raise InputError(
                f"Expected {part} patients that {card.name} has not learnt from, but it has seen "
                f"an identical scan as {name}; take that one out of the dataset."
            )
    tuned, notes = patients.intersection(tuned_on(card, dataset)), []
    if tuned == patients:
        raise InputError(
            f"Expected {part} patients that {card.name} has not learnt from, but it was fine-tuned "
            "on scans of all of them; evaluate the model that it was before."
        )
    if tuned:
        notes.append(f"{some(sorted(tuned))}: left out, as {card.name} was fine-tuned on a scan.")
    return [case for case in dataset.cases if case.patient in patients - tuned], notes


def names_to_score(dataset: Dataset, card: ModelCard) -> dict[int, str]:
    """The dataset's structures by id, with the model's names. Structures that the model lacks are
    left out if no training patient has them.

    Raises InputError for other structures that the model lacks or calls differently.
    """
    mine, people = card.labels.names, dataset.people
    learnt_from = {people.names.get(people.known(name)) for name in card.split.get("train", ())}
    learnable = dataset.labels_of(filter(None, learnt_from)).names
    wanted = {id: dataset.labels.names[id] for id in dataset.labels.names if id in mine}
    for id, name in (wanted | learnable).items():
        # Structures that nothing names are called after their ids.
        if id not in mine or plain(name) not in (plain(mine[id]), plain(f"structure {id}")):
            told = f"{id} is {mine[id]}" if id in mine else f"there is no {id}"
            raise InputError(
                f"Expected the structures of {card.name} in the dataset, but its {name} is {id}, "
                f"and in the model {told}; give the dataset that it was trained on."
            )
    return {id: mine[id] for id in wanted}


def score_held_out(
    model: Model, cases: Sequence[Case], names: dict[int, str], device: str, tolerance: float
) -> Iterator[CaseScores]:
    """Segment cases as `l2gnet segment` does, and score each frame.

    names: structure by id. tolerance: of the surface Dice in mm, or in pixels for scans without
    voxel size. Raises InputError for a scan that the model cannot segment.
    """
    for case in cases:
        scan, truth = case.read()
        found = segmented(scan, model, device)
        masks = np.stack(found.masks).reshape(scan.shape)
        prediction = scan.grid.volume(masks, tuple(found.warnings))
        yield from scored(case.name, prediction, truth.volume, names, tolerance)
