"""Which patients a model has learnt from, according to its card: it must not be tested on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from l2gnet_core.datasets.cases import PARTS, Part
from l2gnet_core.datasets.loading import Dataset
from l2gnet_core.datasets.split import Split, checked_split, split_patients
from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import find_model_file, read_card
from l2gnet_core.scans.fingerprint import SCANS
from l2gnet_core.scans.labels import some


def tuned_on(card: ModelCard, dataset: Dataset) -> list[str]:
    """Patients of a dataset on whose scans, recognised by their voxels, a model was fine-tuned."""
    seen = {mark for entry in card.history for mark in entry.get(SCANS, ())}
    return [p for p in dataset.patients if not seen.isdisjoint(dataset.fingerprints[p])]


def start_messages(card: ModelCard, dataset: Dataset, split: Split) -> Iterator[str]:
    """Sentences about the split of a run that begins with a model of this card."""
    tuned, names = tuned_on(card, dataset), dataset.people.names
    known = {names[name] for called in _known_by_name(card, dataset).values() for name in called}
    where = {part: [p for p in getattr(split, part) if p in known - {*tuned}] for part in PARTS}
    taken = [f"{some(patients)} in {part}" for part, patients in where.items() if patients]
    if taken:
        yield (
            f"Taken for patients of {card.name}, by their names: {'; '.join(taken)}. If they are "
            "other people, rename them, or give their scans other patients in dataset.json."
        )
    if tuned:
        yield (
            f"{some(tuned)} {'is' if len(tuned) == 1 else 'are'} learned from, and in no other "
            f"part of the split: {card.name} was fine-tuned on scans of "
            f"{'this patient' if len(tuned) == 1 else 'these patients'}."
        )
    if not card.split:
        yield (
            f"{card.name} does not tell whom it learnt from: if these patients are in the test or "
            "tuning part, scores there will be too good."
        )
    elif not known:
        yield (
            f"No patient of {card.name} is in the dataset by name: if one is in the test or tuning "
            "part under another name, scores there will be too good."
        )


def require_kept_apart(start: Path, dataset: Dataset, split: Split, file: Path) -> None:
    """Raise InputError if a written split does not keep apart what the model at `start` has seen.

    Patients whom it learnt from must be in "train", those whom it was tuned on not in "test".
    """
    card, people = read_card(find_model_file(start)), dataset.people
    tuned, known = tuned_on(card, dataset), _known_by_name(card, dataset)
    seen, rename = (*split.train, *split.tuning), "rename who is somebody else"
    for part, there, patients, did, else_ in (
        ("train", split.train, tuned, "was fine-tuned on scans of", "begin with another model"),
        ("train", split.train, known["train"], "has learnt from", rename),
        ("train or tuning", seen, known["tuning"], "was tuned on", rename),
    ):
        astray = sorted({people.names[name] for name in patients}.difference(there))
        if astray:
            whom, they_are = "these patients", "they are"
            if len(astray) == 1:
                whom, they_are = "this patient", "that one is"
            raise InputError(
                f"Expected {some(astray)} in {part} of {file}, as {start} {did} {whom}, but "
                f"{they_are} in another part; correct the file, take it away for a new split, or "
                f"{else_}."
            )


def _known_by_name(card: ModelCard, dataset: Dataset) -> dict[Part, list[str]]:
    """Names of a dataset's patients who are in a card's split, by their part there; each patient
    has one name."""
    names = dataset.people.names
    found: dict[Part, list[str]] = {}
    taken: set[str] = set()
    # "train" comes first: a patient who was split as two people may have been learnt from.
    for part in PARTS:
        now = dict.fromkeys(map(dataset.people.known, card.split.get(part, [])))
        found[part] = [name for name in now if name in names and names[name] not in taken]
        taken.update(names[name] for name in found[part])
    return found


def inherited_split(
    dataset: Dataset, start: Path, seed: int, test: float, tuning: float
) -> Split | None:
    """The split of the model that a run begins with, as far as the dataset has its patients.

    Weights that have seen a patient must not be tested on that patient. Other patients are split by
    the shares `test` and `tuning`. None if the model has seen no patient of the dataset, or if
    nobody would be left to learn from.

    Raises InputError if the model was fine-tuned on a patient whom the dataset's own folders hold
    out.
    """
    card = read_card(find_model_file(start))
    names, tuned = dataset.people.names, tuned_on(card, dataset)
    for patient in tuned:
        own = dataset.people.held_out.get(patient, "train")
        if own != "train":
            raise InputError(
                f"Expected a model to begin with that has not learnt from {patient}, whom the "
                f"dataset's own folders put into {own}, but {start} was fine-tuned on a scan of "
                "this patient; begin with another model, or take the scan out."
            )
    kept = {
        part: [name for name in known if names[name] not in tuned]
        for part, known in _known_by_name(card, dataset).items()
    }
    kept["train"] = [*tuned, *kept["train"]]
    taken = {names[name] for known in kept.values() for name in known}
    others = [patient for patient in dataset.patients if patient not in taken]
    held_out = {p: part for p, part in dataset.people.held_out.items() if p not in taken}
    fresh = split_patients(others, seed, test, tuning, held_out)
    if not kept["train"] and not fresh.train:
        # Patients on whom the model was tuned may be learnt from, but not tested on.
        kept["train"], kept["tuning"] = kept["tuning"], []
    if not taken or not (kept["train"] or fresh.train):
        return None
    both = {part: [*kept[part], *getattr(fresh, part)] for part in PARTS}
    return checked_split(both, dataset.people, f"the split of {start}")
