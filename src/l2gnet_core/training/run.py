"""Train on a dataset folder: split, read scans, train, and write log and model to a run folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from l2gnet_core.augmentation.sampling import Sampler, TrainingCase
from l2gnet_core.augmentation.views import Augmentation, keeping_sides
from l2gnet_core.datasets.cases import Part
from l2gnet_core.datasets.leakage import start_messages
from l2gnet_core.datasets.loading import Dataset, load_frames, median_spacing
from l2gnet_core.datasets.split import Split
from l2gnet_core.errors import InputError, enough_memory, memory_is_short
from l2gnet_core.inspect.populations import code_statistics
from l2gnet_core.models.card import CodeStatistics, ModelCard
from l2gnet_core.models.checkpoint import (
    MODEL_FILE,
    SPLIT_FILE,
    STATE_FILE,
    Model,
    find_model_file,
    load_model,
    read_card,
    save_model,
)
from l2gnet_core.network.config import WITH_CODES, NetworkConfig, preset
from l2gnet_core.network.model import SegmentationNetwork, build, widened
from l2gnet_core.preprocessing.images import network_inputs
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.labels import LabelSet, classes_by_name, some
from l2gnet_core.scans.phantom import DRAWN, cardiac_phantom, drawn_as
from l2gnet_core.segmenting.trace import code_vectors
from l2gnet_core.training.frame_file import on_disk
from l2gnet_core.training.log import TrainingLog
from l2gnet_core.training.loop import (
    Progress,
    Trainer,
    TrainingConfig,
    batches_of,
    make_fabric,
    require_shareable,
    require_startable,
    saved_state,
)
from l2gnet_core.training.run_folder import (
    RunSettings,
    history_of,
    keep_beginning,
    locked,
    read_or_make_split,
    require_same_structures,
    require_same_view,
    require_usable,
    start_of,
    write_choices,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Network settings whose defaults changed over time without a change of the weights' names.
KIND = ("normalisation", "tokens", "sinkhorn_iterations")
#: First seed of phantoms for training, and their number; demonstrations and tests use smaller
#: seeds.
FIRST_TRAINING_PHANTOM = 10_000
_PHANTOMS = 40
#: Magnification for models that see all scans at one voxel size: only the size of organs varies.
RESAMPLED_SCALE = (0.7, 1.4)


#: Parts of the split whose scans a run reads.
_LEARNT_WITH: tuple[Part, Part] = ("train", "tuning")


def _nobody(_: str) -> None:
    """Ignore a message."""


def train_dataset(
    settings: RunSettings,
    training: TrainingConfig,
    augmentation: Augmentation,
    choices: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = _nobody,
) -> Generator[Progress, None, None]:
    """Train on a dataset folder, yielding progress; the model file holds the best epoch so far.

    The model has only structures that training patients have. If it has codes, its card gets the
    statistics of the training scans' codes at the end. Stopping the generator loses at most
    `training.save_every_seconds` of work; `settings.resume` continues. With several devices, each
    runs the whole program, and only the first one yields progress.

    choices: stored in the run folder, for `read_choices`. tell: called with sentences for the user.
    Raises InputError for a dataset or run folder that cannot be used or too little memory,
    OutputError if nothing can be written.
    """
    require_usable(settings)
    _require_possible(settings, training)
    fabric = make_fabric(settings.device, settings.devices, settings.nodes)
    try:
        with locked(settings.folder) if fabric.is_global_zero else nullcontext():
            yield from _trained(
                settings, training, augmentation, choices=choices, tell=tell, fabric=fabric
            )
    except (MemoryError, RuntimeError) as error:
        if not memory_is_short(error):
            raise
        raise InputError(
            f"Expected enough memory to train in, but {training.batch} slices at once do not fit; "
            "give a smaller --batch or --preset, or close other programs."
        ) from error


def _require_possible(settings: RunSettings, training: TrainingConfig) -> None:
    """Raise InputError for settings that contradict each other."""
    require_shareable([training.batch], settings.devices * settings.nodes)
    if training.extra_share and (settings.oriented or settings.resample):
        raise InputError(
            "Drawn phantoms have no left, no right and no true size: leave out --phantoms, or "
            "--oriented and --resample."
        )


@dataclass(frozen=True, eq=False)
class _Prepared:
    """All that a run needs to start training, checked.

    card: of the model before training; its labels are the classes in their order.
    frames: each frame of the training scans with its patient. state: of a resumed run.
    start: the network whose weights a new run begins with.
    """

    split: Split
    card: ModelCard
    config: NetworkConfig
    augmentation: Augmentation
    frames: Sequence[tuple[str, TrainingCase]]
    tuning: Sequence[TrainingCase]
    sampler: Sampler
    state: Mapping[str, Any] | None
    start: SegmentationNetwork | None


def _trained(
    settings: RunSettings,
    training: TrainingConfig,
    augmentation: Augmentation,
    *,
    choices: Mapping[str, Any] | None,
    tell: Callable[[str], None],
    fabric: Fabric,
) -> Iterator[Progress]:
    """What `train_dataset` yields; the run folder is usable and locked."""
    run = _prepared(settings, training, augmentation, tell if fabric.is_global_zero else _nobody)
    batches = batches_of(training, run.sampler, run.config.stride)
    require_shareable(batches, settings.devices * settings.nodes)
    trainer = _trainer(run, settings, training, fabric)
    if fabric.is_global_zero:
        keep_beginning(settings, run.split, run.card, choices)
    if run.state is None:
        # A run that is stopped early can then be resumed with the weights it began with.
        trainer.save()
    over = trainer.is_over(run.sampler)
    if not fabric.is_global_zero:
        for _ in trainer.run(run.sampler, run.tuning):
            pass
        return
    if choices is not None and settings.resume and not over:
        # Only now, because choices that are refused or have no effect must not replace those that
        # the run began with.
        write_choices(settings.folder, choices)
    yield from _logged(run, trainer, settings.folder)
    if trainer.network.config.architecture in WITH_CODES:
        _add_code_statistics(settings.folder / MODEL_FILE, run.frames, settings.device)


def _prepared(
    settings: RunSettings,
    training: TrainingConfig,
    augmentation: Augmentation,
    tell: Callable[[str], None],
) -> _Prepared:
    """Split the dataset, choose structures and network, and read the scans.

    Raises InputError for what does not go together.
    """
    dataset = settings.dataset
    split = read_or_make_split(dataset, settings, training.seed)
    for sentence in _told_of_split(split, settings):
        tell(sentence)
    state = saved_state(settings.folder) if settings.resume else None
    labels = _labels(dataset, split, training, tell)
    require_same_structures(settings, labels)
    card = _begun_card(dataset, labels, split, settings)
    if settings.oriented:
        augmentation = keeping_sides(augmentation, card)
    if settings.resample:
        augmentation = replace(augmentation, scale=RESAMPLED_SCALE)
    first, start = start_of(settings), None
    if first is not None:
        start = _answering(load_model(first), dataset.labels, labels, tell)
    # The new network must be of the same kind as the weights that it gets.
    before = None if start is None else start.config
    if state is not None:
        before = state["config"]
    config = _config(settings.architecture, settings.preset, settings.slices, len(labels), before)
    if start is not None:
        require_startable(start.config, config)
    left_out = dataset.labels.names.keys() - labels.names.keys()
    frames, tuning = _frames(split, settings, card, left_out)
    sampler = Sampler(
        [frame for _, frame in frames],
        augmentation,
        settings.slices,
        training.seed,
        extra=_phantom_cases(training.extra_share, labels),
        extra_share=training.extra_share,
    )
    return _Prepared(
        split=split,
        card=card,
        config=config,
        augmentation=augmentation,
        frames=frames,
        tuning=[frame for _, frame in tuning],
        sampler=sampler,
        state=state,
        start=start,
    )


def _frames(
    split: Split, settings: RunSettings, card: ModelCard, left_out: Collection[int]
) -> list[list[tuple[str, TrainingCase]]]:
    """The frames of the training and the tuning scans, each with its patient, in a file.

    Raises InputError if a scan does not fit into memory, OutputError if all do not fit on the disk.
    """
    parts = [split.cases(settings.dataset, part) for part in _LEARNT_WITH]
    patients: list[list[str]] = [[] for _ in parts]

    def read() -> Iterator[TrainingCase]:
        for cases, of_frames in zip(parts, patients, strict=True):
            for case in cases:
                with enough_memory(f"the scan {case.name}"):
                    frames = load_frames(case, card, left_out)
                of_frames += [case.patient] * len(frames)
                yield from frames

    frames = iter(on_disk(read(), settings.folder))
    return [[(patient, next(frames)) for patient in of_frames] for of_frames in patients]


def _labels(
    dataset: Dataset,
    split: Split,
    training: TrainingConfig,
    tell: Callable[[str], None],
) -> LabelSet:
    """The structures of the model; tells which of the dataset's it does not have."""
    labels = _learnable(dataset, split, training)
    # Structures that no scan has are reported with the dataset.
    here = dataset.labels_of(dataset.patients).names
    if away := [here[id] for id in sorted(here.keys() - labels.names.keys())]:
        tell(
            f"{some(away)} {'is' if len(away) == 1 else 'are'} in no label of the training "
            f"patients: the model does not have {'it' if len(away) == 1 else 'them'}."
        )
    return labels


def _trainer(
    run: _Prepared, settings: RunSettings, training: TrainingConfig, fabric: Fabric
) -> Trainer:
    """The trainer of a run, with the weights and the state that it begins with."""
    fabric.launch()
    torch.manual_seed(training.seed)
    trainer = Trainer(build(run.config), training, settings.folder, fabric)
    if run.state is not None:
        trainer.resume(run.state)
    elif run.start is not None:
        trainer.start_from(run.start)
    return trainer


def _logged(run: _Prepared, trainer: Trainer, folder: Path) -> Iterator[Progress]:
    """Train, writing the log, the model of the best epoch so far, and now and then the state."""
    training, saved = trainer.training, trainer.seconds
    how = {"settings": asdict(training), "augmentation": asdict(run.augmentation)}
    with TrainingLog(folder, run.card.labels, trainer.step) as log:
        for progress in trainer.run(run.sampler, run.tuning):
            log.add(progress)
            if progress.best:
                how_long = {"steps": progress.step, "minutes": round(progress.seconds / 60, 1)}
                card = replace(run.card, training={**how_long, **how})
                save_model(folder / MODEL_FILE, trainer.averaged_network(), card)
            if progress.seconds - saved > training.save_every_seconds or progress.done >= 1:
                trainer.save()
                saved = progress.seconds
            yield progress


def _config(
    architecture: str, size: str, slices: int, structures: int, before: NetworkConfig | None
) -> NetworkConfig:
    """The network of a run. before: the network whose weights it takes over; it gets the same
    `KIND`."""
    config = preset(size, structures + 1, slices, architecture, supervised=2)
    kind = {} if before is None else {name: getattr(before, name) for name in KIND}
    return replace(config, **kind)


def require_start(start: NetworkConfig, architecture: str, size: str, slices: int) -> None:
    """Raise InputError unless a run with these settings can start with a network's weights, as far
    as can be checked before scans are read."""
    structures = start.classes - 1
    require_startable(start, _config(architecture, size, slices, structures, start))


def _add_code_statistics(
    file: Path, frames: Sequence[tuple[str, TrainingCase]], device: str
) -> None:
    """Complete the card of a finished run. frames: (patient, frame)."""
    model = load_model(file, device)
    if model.card.codes is None:
        codes = statistics_of(model.network, frames, device)
        save_model(file, model.network, replace(model.card, codes=codes))


def statistics_of(
    network: SegmentationNetwork, frames: Sequence[tuple[str, TrainingCase]], device: str = "cpu"
) -> CodeStatistics:
    """Statistics of the codes that a network finds. frames: (patient, frame)."""
    scans = []
    for patient, frame in frames:
        used = np.zeros(network.config.codes, np.int64)
        for batch in network_inputs(frame.image, network.config, frame.step):
            with torch.inference_mode():
                codes = network(batch.float().to(device)).codes
            assert codes is not None
            used += np.bincount(codes.flatten().cpu().numpy(), minlength=len(used))
        scans.append((patient, used))
    return code_statistics(scans, code_vectors(network))


def _told_of_split(split: Split, settings: RunSettings) -> Iterator[str]:
    """Sentences about the split of a new run; none for a resumed one."""
    if settings.resume and (settings.folder / STATE_FILE).is_file():
        return
    if settings.start is not None:
        card = read_card(find_model_file(settings.start))
        yield from start_messages(card, settings.dataset, split)
    missing = {
        "tuning": "the last epoch's model is kept, whichever is the best",
        "test": "`l2gnet evaluate --model` has nobody to score it on",
    }
    empty = [part for part in missing if not getattr(split, part)]
    if empty:
        yield (
            f"Nobody is in the {' and the '.join(empty)} part of the split: "
            f"{', and '.join(missing[part] for part in empty)}; add patients, or write another "
            f"{SPLIT_FILE} into a new run folder."
        )


def _learnable(dataset: Dataset, split: Split, training: TrainingConfig) -> LabelSet:
    """The structures that training scans have. A class without a voxel would be predicted all the
    same, and disturb the others.

    Raises InputError if there are none.
    """
    if training.extra_share:
        # Phantoms have all structures.
        return dataset.labels
    labels = dataset.labels_of(split.train)
    if not labels:
        raise InputError(
            "Expected structures to learn in the labels of the training patients, but these are "
            "empty; label their scans, or write a split.json into the run folder."
        )
    return labels


def _begun_card(
    dataset: Dataset, labels: LabelSet, split: Split, settings: RunSettings
) -> ModelCard:
    """The card of a run's model before training: what it is and how it sees scans.

    Raises InputError if it cannot tell left from right in such slices, or if a resumed run began
    with another view of scans.
    """
    if settings.oriented and settings.slicing == "through-plane":
        raise InputError(
            "Expected axial, coronal or sagittal slices for a model that tells left from right, "
            "but got through-plane; choose one of the three."
        )
    card = ModelCard(
        name=settings.folder.resolve().name,
        labels=labels,
        architecture=settings.architecture,
        slicing=settings.slicing,
        oriented=settings.oriented,
        data=dataset.description,
        split={part: list(patients) for part, patients in asdict(split).items()},
        history=history_of(settings),
    )
    if settings.resample:
        seen = median_spacing(split.cases(dataset, "train"), card, settings.pixel)
        card = replace(card, spacing=seen)
    require_same_view(settings, card)
    return card


def _answering(
    model: Model, named: LabelSet, labels: LabelSet, tell: Callable[[str], None]
) -> SegmentationNetwork:
    """The network of the model that a run begins with, its outputs ordered as the run's labels.

    named: all labels that the dataset names; `labels` are a subset.
    """
    classes = classes_by_name(model.card.labels, labels)
    if classes is not None:
        return widened(model.network, classes)
    theirs, ours = (", ".join(one.names.values()) for one in (model.card.labels, named))
    if len(model.card.labels) == len(named):
        tell(
            f"{model.card.name} has {theirs}, and the dataset {ours}: as these are not the same "
            "names, the run begins with the outputs in this order."
        )
        numbers = {label.id: number for number, label in enumerate(named, 1)}
        return widened(model.network, [0, *(numbers[label.id] for label in labels)])
    return model.network


def _phantom_cases(share: float, labels: LabelSet) -> list[TrainingCase]:
    """Phantoms of the heart in several phases, as training cases; none if `share` is zero.

    Raises InputError if the structures are not those of the phantom.
    """
    if not share:
        return []
    classes = {label.name: number for number, label in enumerate(labels, 1)}
    if set(classes) != set(DRAWN):
        raise InputError(
            f"Expected the structures {', '.join(DRAWN)} for drawn phantoms, which hold these, but "
            f"the dataset has {', '.join(classes)}; name them so, or leave out --phantoms."
        )
    lookup, cases = drawn_as(classes), []
    for index in range(_PHANTOMS):
        phantom = cardiac_phantom(FIRST_TRAINING_PHANTOM + index, phase=index % 3 / 2)
        scan = normalise(phantom.image, intensity_window(phantom.image))
        drawn = lookup[phantom.labels].astype(phantom.labels.dtype)
        cases.append(TrainingCase(torch.from_numpy(scan).half(), torch.from_numpy(drawn)))
    return cases
