"""From a dataset folder to a run folder: split, slices, training, log, model file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from l2gnet_core.augment import Augmentation
from l2gnet_core.card import ModelCard
from l2gnet_core.cases import PARTS, Part
from l2gnet_core.checkpoint import (
    MODEL_FILE,
    find_model_file,
    load_model,
    read_card,
    save_model,
)
from l2gnet_core.config import preset
from l2gnet_core.data import Dataset, TrainingCase, load_frames
from l2gnet_core.errors import InputError
from l2gnet_core.phantom import cardiac_phantom
from l2gnet_core.preprocess import intensity_window, normalise
from l2gnet_core.split import SPLIT_FILE, Split, checked_split, read_split, split_patients
from l2gnet_core.train import Progress, Trainer, TrainingConfig

LOG_FILE = "log.csv"
#: Seeds of drawn phantoms that training may see; demonstrations and tests use smaller ones.
FIRST_TRAINING_PHANTOM = 10_000


@dataclass(frozen=True)
class RunSettings:
    """What a training run is asked for.

    `slices` is how many neighbouring slices the network sees at once (odd; more than one is 2.5-D).
    `start` is a model whose weights a new run begins with. `test` and `tuning` are shares of the
    patients.
    """

    dataset: Dataset
    folder: Path
    architecture: str = "l2gnet"
    preset: str = "small"
    slices: int = 1
    slicing: str = "through-plane"
    test: float = 0.2
    tuning: float = 0.0625
    device: str = "cpu"
    resume: bool = False
    start: Path | None = None


def train_dataset(
    settings: RunSettings, training: TrainingConfig, augmentation: Augmentation
) -> Iterator[Progress]:
    """Train on a dataset, yielding progress; writes the model file at the end.

    Stopping the generator loses at most `training.save_every_seconds` of work: run again with
    `resume`. Raises InputError for a dataset or run folder that cannot be used.
    """
    state_exists = any(settings.folder.glob("state.pt"))
    if state_exists and not settings.resume:
        raise InputError(
            f"Expected a new run folder, but {settings.folder} holds a run already; "
            "add --resume to go on with it, or choose another folder."
        )
    dataset = settings.dataset
    split = read_or_make_split(dataset, settings, training.seed)

    def frames(part: Part) -> list[TrainingCase]:
        return [
            frame
            for case in split.cases(dataset, part)
            for frame in load_frames(case, dataset.labels, settings.slicing)
        ]

    cases, tuning = frames("train"), frames("tuning")
    network = preset(
        settings.preset,
        len(dataset.labels) + 1,
        in_channels=settings.slices,
        architecture=settings.architecture,
    )
    trainer = Trainer(network, training, augmentation, settings.folder, settings.device)
    resumed = settings.resume and trainer.resume()
    if settings.start is not None and not resumed:
        trainer.start_from(load_model(settings.start).network)
    saved = trainer.seconds
    with _Log(settings.folder / LOG_FILE, dataset, trainer.step) as log:
        for progress in trainer.run(cases, tuning, _phantom_cases(training.extra_share)):
            log.add(progress)
            if progress.seconds - saved > training.save_every_seconds:
                trainer.save()
                saved = progress.seconds
            yield progress
    trainer.save()
    card = ModelCard(
        name=settings.folder.name,
        labels=dataset.labels,
        architecture=settings.architecture,
        slicing=settings.slicing,
        data=dataset.description,
        split={part: list(patients) for part, patients in asdict(split).items()},
        training={
            "steps": trainer.step,
            "minutes": round(trainer.seconds / 60, 1),
            "settings": asdict(training),
            "augmentation": asdict(augmentation),
        },
    )
    save_model(settings.folder / MODEL_FILE, trainer.averaged_network(), card)


def read_or_make_split(dataset: Dataset, settings: RunSettings, seed: int) -> Split:
    """The run folder's split, made and written on the first call.

    Raises InputError if a written split does not fit the dataset.
    """
    file = settings.folder / SPLIT_FILE
    if file.is_file():
        return checked_split(read_split(file), dataset.people, str(file))
    split = _inherited_split(dataset, settings.start) or split_patients(
        dataset.patients, seed, settings.test, settings.tuning, dataset.people.held_out
    )
    settings.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(split), indent=1))
    return split


def _inherited_split(dataset: Dataset, start: Path | None) -> Split | None:
    """The split of the model that a run begins with, if the dataset has its patients: weights that
    have seen a patient must not be tested on that patient."""
    parts = {} if start is None else read_card(find_model_file(start)).split
    known = {dataset.people.names.get(name) for names in parts.values() for name in names}
    if known != set(dataset.patients):
        return None
    by_part = {part: parts.get(part, []) for part in PARTS}
    return checked_split(by_part, dataset.people, f"the split of {start}")


def _phantom_cases(share: float, count: int = 40) -> list[TrainingCase]:
    """Drawn hearts at several phases, as training cases; none where `share` is zero."""
    cases = []
    for index in range(count if share else 0):
        phantom = cardiac_phantom(FIRST_TRAINING_PHANTOM + index, phase=index % 3 / 2)
        scan = normalise(phantom.image, intensity_window(phantom.image))
        cases.append(TrainingCase(torch.from_numpy(scan).half(), torch.from_numpy(phantom.labels)))
    return cases


class _Log:
    """Writes one CSV row a step; kept open so that a row costs no file opening."""

    def __init__(self, path: Path, dataset: Dataset, step: int) -> None:
        names = [f"Dice {label.name}" for label in dataset.labels]
        rows = [["step", "done", "loss", "learning rate", "seconds", "perplexity", *names]]
        if path.is_file():
            # Steps after the last save are done again, so their rows are too.
            with path.open(newline="") as old:
                done = [row for row in csv.reader(old) if row and row[0].isdigit()]
            rows += [row for row in done if int(row[0]) <= step]
        self._file = path.open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerows(rows)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, progress: Progress) -> None:
        self._rows.writerow(
            [
                progress.step,
                f"{progress.done:.5f}",
                f"{progress.loss:.5f}",
                f"{progress.learning_rate:.3e}",
                f"{progress.seconds:.1f}",
                "" if progress.perplexity is None else f"{progress.perplexity:.1f}",
                *(f"{dice:.4f}" for dice in progress.dice or ()),
            ]
        )
        self._file.flush()
