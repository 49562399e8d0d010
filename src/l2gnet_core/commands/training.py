"""`l2gnet train` and `l2gnet check`."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2gnet_core.commands.parts import (
    FilePath,
    Name,
    Number,
    ProgressBar,
    device_option,
    examined,
    json_option,
    model_file,
    seed_option,
    warn,
)
from l2gnet_core.errors import InputError
from l2gnet_core.network.config import ARCHITECTURES, NetworkConfig, preset_of

if TYPE_CHECKING:
    from l2gnet_core.augmentation.views import Augmentation
    from l2gnet_core.datasets.check import Survey
    from l2gnet_core.training.loop import Progress, TrainingConfig


@click.command()
@click.argument("dataset", type=FilePath())
@click.option("-o", "--output", required=True, type=FilePath(), help="Run folder.")
@click.option(
    "--arch",
    type=click.Choice(ARCHITECTURES),
    default="l2gnet",
    show_default=True,
    help="Architecture: what is between encoder and decoder.",
)
@click.option(
    "--preset",
    "size",
    type=click.Choice(["tiny", "small", "base"]),
    default="small",
    show_default=True,
    help="Size of the network.",
)
@click.option(
    "--slices",
    type=click.Choice(["1", "3", "5"]),
    default="1",
    show_default=True,
    help="Neighbouring slices that the network sees at once (2.5-D).",
)
@click.option("--minutes", type=Number(min=0, min_open=True), help="Training time; 60 by default.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training slices.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--learning-rate",
    type=Number(min=0, min_open=True),
    default=2e-3,
    show_default=True,
)
@seed_option
@click.option("--resume", is_flag=True, help="Continue an unfinished run.")
@click.option(
    "--from",
    "start",
    type=Name(),
    metavar="NAME|PATH",
    help="Start from this model's weights, with its --arch, --preset and --slices unless they are "
    "given.",
)
@click.option(
    "--oriented",
    is_flag=True,
    help="Train a model that tells left from right. Scans are shown from the same side in every "
    "storage order, turned only a little, and mirrored only if all structures with a side have a "
    "partner by name.",
)
@click.option(
    "--plane",
    type=click.Choice(["axial", "coronal", "sagittal"]),
    help="Plane of the slices to learn from; through-plane by default, axial with --oriented.",
)
@click.option(
    "--resample",
    is_flag=True,
    help="Resample slices to one voxel size in mm, the median of the training scans.",
)
@click.option(
    "--pixel",
    type=Number(0, min_open=True),
    metavar="MM",
    help="With --resample: the voxel size within slices. Choose it finer than that of the scans if "
    "organs are only a few voxels wide.",
)
@click.option(
    "--other-scanners",
    is_flag=True,
    help="Also learn from views that imitate other scanners and sequences, for a model that will "
    "segment scans from elsewhere.",
)
@click.option(
    "--phantoms",
    type=Number(0, 0.5),
    default=0.0,
    help="Share of slices drawn from the cardiac phantom, for datasets whose structures are called "
    "right ventricle, myocardium and left ventricle.",
)
@device_option
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of GPUs, or of processes on the CPU, that share each batch; one on Windows.",
)
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of machines, each with that many devices. Start the command on each of them, as "
    "torchrun or SLURM do.",
)
@click.pass_context
def train(
    context: click.Context,
    /,
    dataset: Path,
    output: Path,
    resume: bool,
    device: str,
    devices: int,
    nodes: int,
    **options: Any,
) -> None:
    """Train a model on a dataset folder. Check the folder first, with `l2gnet check`.

    The run folder RUN holds the model of the best epoch, the split, logs (log.csv, tensorboard/)
    and curves.png. --resume continues with the settings of the run, unless others are given.
    """
    if options["minutes"] is not None and options["epochs"] is not None:
        raise InputError("Expected --minutes or --epochs, but got both; give one of them.")
    from l2gnet_core.datasets.cases import scan_folders
    from l2gnet_core.datasets.loading import dataset_of
    from l2gnet_core.files.atomic import require_outside, require_writable
    from l2gnet_core.network.device import choose_device
    from l2gnet_core.training.loop import make_fabric
    from l2gnet_core.training.run import train_dataset
    from l2gnet_core.training.run_folder import RunSettings

    if output.is_file():
        raise InputError(
            f"Expected a folder for the run, but {output} is a file; choose another output."
        )
    # Quick checks come before the files are read.
    require_outside(scan_folders(dataset), output, "scans and labels")
    choices, model = _resolved(context, options, output, resume)
    chosen_device = choose_device(device)[0]
    require_writable(output)
    survey = examined(dataset)
    opened = dataset_of(survey)
    # Each process runs the whole command, and the first one speaks for all.
    if make_fabric(chosen_device, devices, nodes).is_global_zero:
        _tell_warnings(survey, choices.oriented)
    settings = RunSettings(
        dataset=opened,
        folder=output,
        architecture=choices.arch,
        preset=choices.size,
        slices=int(choices.slices),
        slicing=choices.slicing,
        oriented=choices.oriented,
        resample=choices.resample,
        pixel=choices.pixel,
        device=chosen_device,
        devices=devices,
        nodes=nodes,
        resume=resume,
        start=model,
    )
    run = train_dataset(
        settings, choices.training(), choices.augmentation(), choices=asdict(choices), tell=warn
    )
    steps, scores = _followed(run)
    if steps:
        click.echo(f"{output}: {steps} steps{scores}")
    elif devices * nodes == 1:  # with several processes, only the first one reports
        click.echo(f"{output}: was finished already")


@dataclass(frozen=True)
class _Choices:
    """The options of a run, as its folder stores them: by the names of train's parameters."""

    arch: str
    size: str
    slices: str
    minutes: float | None
    epochs: int | None
    batch: int
    learning_rate: float
    seed: int
    start: str | None
    oriented: bool
    plane: str | None
    resample: bool
    pixel: float | None
    other_scanners: bool
    phantoms: float

    @property
    def slicing(self) -> str:
        """The rule for the slicing axis."""
        return self.plane or ("axial" if self.oriented else "through-plane")

    def training(self) -> TrainingConfig:
        from l2gnet_core.training.loop import TrainingConfig

        return TrainingConfig(
            minutes=self.minutes,
            epochs=self.epochs,
            seed=self.seed,
            batch=self.batch,
            learning_rate=self.learning_rate,
            extra_share=self.phantoms,
        )

    def augmentation(self) -> Augmentation:
        from l2gnet_core.augmentation.views import OTHER_SCANNERS, Augmentation

        return OTHER_SCANNERS if self.other_scanners else Augmentation()


def _resolved(
    context: click.Context, options: Mapping[str, Any], folder: Path, resume: bool
) -> tuple[_Choices, Path | None]:
    """The options of a run, and the file of the model whose weights it begins with, if any.

    Given options override those stored in the run folder, which override those of the network of
    --from, which override defaults. Raises InputError for options that contradict each other, and
    for a --from that does not fit them or the run.
    """
    from l2gnet_core.models.checkpoint import STATE_FILE, read_config
    from l2gnet_core.training.run import require_start
    from l2gnet_core.training.run_folder import require_begun

    begun = resume and (folder / STATE_FILE).is_file()
    given = {name: value for name, value in options.items() if _is_given(context, name)}
    kept: dict[str, Any] = {}
    if resume:
        require_begun(folder)
        kept = _kept_choices(context, folder, options.keys() - given.keys())
        if given.keys() & {"minutes", "epochs"}:
            # The one that is given replaces both.
            kept = {n: value for n, value in kept.items() if n not in ("minutes", "epochs")}
        if begun and "start" in given:
            given["start"] = _first_start(folder, given["start"])
    values = {**options, **kept, **given}
    if values["minutes"] is None and values["epochs"] is None:
        values["minutes"] = 60.0
    if values["pixel"] and not values["resample"]:
        raise InputError("Expected --pixel together with --resample, but got it alone; add that.")
    if not values["start"] or begun:
        return _Choices(**values), None
    model = model_file(values["start"])
    config = read_config(model)
    # An absolute path, because a resume may come from another folder.
    start = {"start": str(model.resolve())}
    choices = _Choices(**{**values, **_options_of(config), **kept, **given, **start})
    require_start(config, choices.arch, choices.size, int(choices.slices))
    return choices, model


def _tell_warnings(survey: Survey, oriented: bool) -> None:
    """Print the warnings about a dataset."""
    from l2gnet_core.datasets.check import direction_findings, grouped_messages

    warnings = [finding for finding in survey.findings if finding.kind == "warning"]
    if not oriented:
        warnings += direction_findings(survey.names)
    for line in grouped_messages(warnings):
        click.echo(line, err=True)


def _followed(run: Generator[Progress, None, None]) -> tuple[int, str]:
    """Train with a progress bar. Returns the steps done and the last scores, as text."""
    scores, steps = "", 0
    # After Ctrl-C, closing draws the curves before main prints "stopped".
    with ProgressBar(1.0, "Training") as bar, closing(run):
        for progress in run:
            steps = progress.step
            if progress.dice:
                scores = f", Dice {_row(progress.dice)}"
            note = f"epoch {progress.epoch}, loss {progress.loss:.3f}{scores}"
            # Without a bar, only ends of epochs are printed, because the loss varies between steps.
            bar.reach(progress.done, note, progress.dice is not None)
    return steps, scores


def _kept_choices(context: click.Context, folder: Path, names: Collection[str]) -> dict[str, Any]:
    """The stored values of these options in a run folder. Raises InputError for values that an
    option does not take, because the file may have been edited."""
    from l2gnet_core.training.run_folder import CHOICES_FILE, read_choices

    given, kept = read_choices(folder), {}
    for option in context.command.params:
        name = str(option.name)
        if name not in names or given.get(name) is None:
            continue
        try:
            # Converted and checked as on the command line.
            kept[name] = option.type.convert(str(given[name]), option, context)
        except click.BadParameter as error:
            raise InputError(
                f"Expected what {option.opts[-1]} takes as {name} in {folder / CHOICES_FILE}, but "
                f"{error.message.rstrip('.')}; correct it there, or give the option again."
            ) from error
    return kept


def _first_start(folder: Path, model: str) -> str | None:
    """The model that the run in a folder began with; None if it began without, or if that is not
    stored. Raises InputError if it cannot have been `model`."""
    from l2gnet_core.training.run_folder import read_choices

    choices = read_choices(folder)
    first: str | None = choices.get("start")
    # If options were not stored, or that model is gone, this cannot be checked.
    if choices and not _may_be_one(model, first):
        raise InputError(
            f"Expected the first settings of the run in {folder}, but it began with "
            f"{first or 'no model'}, not with {model}; leave out --from, or use a new run folder."
        )
    return first


def _may_be_one(model: str, first: str | None) -> bool:
    """Can `model` be the model at the path `first`, or a copy? Also if that file is gone, but not
    if `first` is None."""
    if first is None:
        return False
    if not (kept := Path(first)).exists():
        return True
    from l2gnet_core.models.catalog import find_model
    from l2gnet_core.models.checkpoint import find_model_file

    ours, its = find_model_file(find_model(model)), find_model_file(kept)
    return ours.samefile(its) or ours.read_bytes() == its.read_bytes()


def _options_of(config: NetworkConfig) -> dict[str, str]:
    """Options of train that make such a network, as far as there are any."""
    size = preset_of(config)
    its = {"arch": config.architecture, "slices": str(config.in_channels)}
    return its if size is None else {**its, "size": size}


def _row(dice: Sequence[float]) -> str:
    """Scores by structure as text; a dash for one that no tuning scan has."""
    return " ".join("–" if math.isnan(score) else f"{score:.3f}" for score in dice)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


@click.command()
@click.argument("dataset", type=FilePath())
@click.option(
    "--split",
    type=FilePath(exists=True),
    help="Also check whether this split (a run folder or its split.json) keeps patients apart.",
)
@json_option
def check(dataset: Path, split: Path | None, as_json: bool) -> None:
    """Check a dataset for errors and oddities before training on it."""
    from l2gnet_core.datasets.check import direction_findings, grouped_messages

    survey = examined(dataset)
    survey.findings += direction_findings(survey.names)
    if split is not None:
        survey.examine_split(split)
    cases, patients = len(survey.cases), len(set(survey.patients.names.values()))
    if as_json:
        findings = [
            {"kind": one.kind, "case": one.case, "sentence": one.sentence}
            for one in survey.findings
        ]
        click.echo(
            json.dumps({"cases": cases, "patients": patients, "findings": findings}, indent=1)
        )
    else:
        for line in grouped_messages(survey.findings):
            click.echo(line)
        kinds = [finding.kind for finding in survey.findings]
        counts = [_count(kinds.count(kind), kind) for kind in ("error", "warning", "note")]
        who = f"{_count(cases, 'scan')} of {_count(patients, 'patient')}"
        click.echo(f"{who}: {', '.join(counts)}")
    if survey.errors:
        errors = _count(len(survey.errors), "error")
        raise InputError(f"Expected a sound dataset, but {dataset} has {errors}; correct them.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
