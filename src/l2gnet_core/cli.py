"""The `l2gnet` command. Exit 0 on success, 2 with one line on stderr for input it cannot use."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from l2gnet_core.catalog import DEFAULT_MODEL
from l2gnet_core.config import ARCHITECTURES
from l2gnet_core.errors import InputError

if TYPE_CHECKING:
    from l2gnet_core.dataset_check import Survey
    from l2gnet_core.evaluate import CaseScores

# PyTorch takes seconds to import: each command imports what it needs, so that --help is instant.

Item = TypeVar("Item")
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


class _Number(click.FloatRange):
    """A number in a range; click lets nan and inf through."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class _Progress:
    """A tqdm bar on a terminal, nothing when piped."""

    def __init__(self, total: float, label: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            desc=label,
            disable=not sys.stderr.isatty(),
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}",
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def reach(self, done: float, note: str = "") -> None:
        """Move the bar to `done` of its total."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def follow(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass items through, one step each."""
        for item in items:
            yield item
            self._bar.update(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(package_name="napari-l2gnet")
def cli() -> None:
    """Segment medical scans with L2GNet. For research use only."""


@cli.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A file for one image; a folder for several images or a folder.",
)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name, file or folder.")
@device_option
@click.option(
    "--axis",
    type=click.IntRange(0, 2),
    help="Slice along this axis of the stored array, whatever the model's card says.",
)
@click.option(
    "--orientation",
    metavar="LPS",
    help="What the axes of the stored array grow to (L/R, P/A, I/S), for scans that do not say.",
)
@click.option("--raw", is_flag=True, help="Leave out the tidying that the model's card asks for.")
@json_option
def segment(
    images: tuple[Path, ...],
    output: Path,
    model: str,
    device: str,
    axis: int | None,
    orientation: str | None,
    raw: bool,
    as_json: bool,
) -> None:
    """Write one mask per image, in the image's own grid."""
    from l2gnet_core.segment_files import Job, plan_jobs, segment_file
    from l2gnet_core.volume import parse_orientation

    started = time.perf_counter()
    orientation = parse_orientation(orientation) if orientation is not None else None
    jobs: Sequence[Job] = plan_jobs(images, output)
    from l2gnet_core.catalog import find_model
    from l2gnet_core.checkpoint import load_model
    from l2gnet_core.predict import choose_device

    device, why = choose_device(device)
    loaded = load_model(find_model(model), device)
    load_seconds = time.perf_counter() - started
    reports, failures = [], 0
    with _Progress(len(jobs), "Segmenting") as bar:
        for job in jobs:
            try:
                report = segment_file(job, loaded, device, axis, raw, orientation)
            except InputError as error:
                if len(jobs) == 1:
                    raise
                # The other images of a batch are not lost because one is bad.
                failures += 1
                click.echo(f"l2gnet: {error}", err=True)
                reports.append({"image": str(job.image), "error": str(error)})
                continue
            finally:
                bar.reach(len(reports) + 1)
            for warning in report["warnings"]:
                click.echo(f"{job.image.name}: {warning}", err=True)
            reports.append(report)
    if as_json:
        summary = {
            "model": loaded.card.name,
            "device": device,
            "device_why": why,
            "load_seconds": round(load_seconds, 3),
            "images": reports,
        }
        click.echo(json.dumps(summary, indent=1))
    elif sys.stderr.isatty():
        click.echo(f"{len(reports) - failures} of {len(jobs)} masks in {output} ({why})", err=True)
    if failures:
        raise InputError(f"{failures} of {len(jobs)} images could not be segmented (see above).")


@cli.command()
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("references", type=click.Path(path_type=Path))
@click.option(
    "--tolerance",
    type=_Number(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="MM",
    help="Of the surface Dice.",
)
@json_option
def evaluate(predictions: Path, references: Path, tolerance: float, as_json: bool) -> None:
    """Score masks against references: Dice, HD95 (mm), surface Dice."""
    from l2gnet_core.evaluate import evaluate as score
    from l2gnet_core.evaluate import pair_files, summary

    pairs = pair_files(predictions, references)
    with _Progress(len(pairs), "Scoring") as bar:
        cases = list(bar.follow(score(pairs, tolerance)))
    overall = summary(cases)
    if as_json:
        from dataclasses import asdict

        rows = {
            c.case: {name: asdict(scores) for name, scores in c.structures.items()} for c in cases
        }
        click.echo(
            json.dumps({"tolerance_mm": tolerance, "overall": overall, "cases": rows}, indent=1)
        )
    else:
        click.echo(_score_table(cases, overall, tolerance))


def _score_table(
    cases: list[CaseScores], overall: dict[str, dict[str, float]], tolerance: float
) -> str:
    head = ("case", "structure", "Dice", "HD95 mm", f"surface Dice {tolerance:g} mm")
    rows = [
        (case.case, name, f"{s.dice:.4f}", f"{s.hd95:.2f}", f"{s.surface_dice:.4f}")
        for case in cases
        for name, s in case.structures.items()
    ]
    rows += [
        ("all", name, f"{s['dice']:.4f}", f"{s['hd95']:.2f}", f"{s['surface_dice']:.4f}")
        for name, s in overall.items()
    ]
    return _table([head, *rows])


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


@cli.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Run folder.")
@click.option("--arch", type=click.Choice(ARCHITECTURES), default="l2gnet", show_default=True)
@click.option(
    "--preset",
    "size",
    type=click.Choice(["tiny", "small", "base"]),
    default="small",
    show_default=True,
)
@click.option(
    "--slices",
    type=click.Choice(["1", "3", "5"]),
    default="1",
    show_default=True,
    help="Neighbouring slices that the network sees at once (2.5-D).",
)
@click.option("--minutes", type=_Number(min=0, min_open=True), help="Training time.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training slices.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2e-3,
    show_default=True,
)
@click.option("--seed", default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with an unfinished run.")
@click.option("--from", "start", metavar="NAME|PATH", help="Begin with this model's weights.")
@click.option(
    "--oriented",
    is_flag=True,
    help="Tell left from right: scans are seen from one side whatever their storage order, not "
    "turned far, and mirrored only if all structures with a side have a partner by name.",
)
@click.option(
    "--plane",
    type=click.Choice(["axial", "coronal", "sagittal"]),
    help="Slices to learn from; by default through-plane ones, with --oriented axial ones.",
)
@click.option(
    "--resample",
    is_flag=True,
    help="See slices at one voxel size in mm, the median of the training scans.",
)
@click.option(
    "--phantoms",
    type=_Number(0, 0.5),
    default=0.0,
    help="Share of slices drawn from the cardiac phantom (labels 1 RV, 2 myocardium, 3 LV).",
)
@device_option
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs, or processes on the CPU, that share each batch.",
)
@click.pass_context
def train(
    context: click.Context,
    /,
    dataset: Path,
    output: Path,
    resume: bool,
    start: str | None,
    device: str,
    devices: int,
    **how: Any,
) -> None:
    """Train on a dataset folder; `l2gnet check` says whether it is one.

    The run folder RUN holds the model of the best epoch, the split, logs (log.csv, tensorboard/)
    and curves.png. --resume goes on with the settings the run began with, unless others are given.
    """
    if how["minutes"] is not None and how["epochs"] is not None:
        raise InputError("Expected --minutes or --epochs, but got both; give one of them.")
    from l2gnet_core.augment import Augmentation
    from l2gnet_core.catalog import find_model
    from l2gnet_core.data import dataset_of
    from l2gnet_core.dataset_check import told
    from l2gnet_core.predict import choose_device
    from l2gnet_core.train import TrainingConfig
    from l2gnet_core.training_run import RunSettings, read_choices, train_dataset, write_choices

    if resume:
        given = {name: value for name, value in how.items() if _is_given(context, name)}
        how = {**how, **read_choices(output), **given}
        if "minutes" in given or "epochs" in given:
            how |= {"minutes": None, "epochs": None} | given
    if how["minutes"] is None and how["epochs"] is None:
        how["minutes"] = 60.0
    # What is quick to refuse comes before the files are read.
    chosen, model = choose_device(device)[0], find_model(start) if start else None
    survey = _examined(dataset)
    opened = dataset_of(survey)
    for line in told(finding for finding in survey.findings if finding.kind == "warning"):
        click.echo(line, err=True)
    settings = RunSettings(
        dataset=opened,
        folder=output,
        architecture=how["arch"],
        preset=how["size"],
        slices=int(how["slices"]),
        slicing=how["plane"] or ("axial" if how["oriented"] else "through-plane"),
        oriented=how["oriented"],
        resample=how["resample"],
        device=chosen,
        devices=devices,
        resume=resume,
        start=model,
    )
    training = TrainingConfig(
        minutes=how["minutes"],
        epochs=how["epochs"],
        seed=how["seed"],
        batch=how["batch"],
        learning_rate=how["learning_rate"],
        extra_share=how["phantoms"],
    )
    with _Progress(1.0, "Training") as bar:
        scores, steps = "", 0
        for progress in train_dataset(settings, training, Augmentation()):
            if not steps:
                write_choices(output, how)
            steps = progress.step
            if progress.dice:
                scores = ", Dice " + " ".join(f"{dice:.3f}" for dice in progress.dice)
            bar.reach(progress.done, f"epoch {progress.epoch}, loss {progress.loss:.3f}{scores}")
    if steps:
        click.echo(f"{output}: {steps} steps{scores}")
    elif devices == 1:  # the other processes of several have nothing to say
        click.echo(f"{output}: was finished already")


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


@cli.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Path(exists=True, path_type=Path),
    help="A run folder or its split.json: does it keep patients apart?",
)
@json_option
def check(dataset: Path, split: Path | None, as_json: bool) -> None:
    """Find what is wrong with a dataset before hours are spent on it."""
    from dataclasses import asdict

    from l2gnet_core.dataset_check import told

    survey = _examined(dataset)
    if split is not None:
        survey.examine_split(split)
    cases, patients = len(survey.cases), len(set(survey.patients.names.values()))
    if as_json:
        findings = [*map(asdict, survey.findings)]
        click.echo(
            json.dumps({"cases": cases, "patients": patients, "findings": findings}, indent=1)
        )
    else:
        for line in told(survey.findings):
            click.echo(line)
        kinds = [finding.kind for finding in survey.findings]
        counts = [_count(kinds.count(kind), kind) for kind in ("error", "warning", "note")]
        who = f"{_count(cases, 'scan')} of {_count(patients, 'patient')}"
        click.echo(f"{who}: {', '.join(counts)}")
    if survey.errors:
        errors = _count(len(survey.errors), "error")
        raise InputError(f"Expected a sound dataset, but {dataset} has {errors}; correct them.")


def _examined(dataset: Path) -> Survey:
    from l2gnet_core.dataset_check import Survey

    survey = Survey(dataset)
    with _Progress(len(survey.cases), "Checking") as bar:
        for _ in bar.follow(survey.examine()):
            pass
    return survey


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@cli.command()
@json_option
def models(as_json: bool) -> None:
    """List the models at hand."""
    from l2gnet_core.catalog import models as catalog

    entries = catalog()
    if as_json:
        rows = [{"name": e.name, "bundled": e.bundled, **e.card.to_json()} for e in entries]
        click.echo(json.dumps(rows, indent=1))
        return
    for entry in entries:
        card = entry.card
        click.echo(click.style(entry.name, bold=True) + ("" if entry.bundled else " (yours)"))
        scores = {name: s["dice"] for name, s in card.scores.items() if "dice" in s}
        lines = {
            "": card.summary,
            "labels": ", ".join(f"{label.id} {label.name}" for label in card.labels),
            "slices": card.slicing + (", left and right told apart" if card.oriented else ""),
            "data": card.data,
            "licence": card.licence,
            "Dice": ", ".join(f"{name} {dice:.3f}" for name, dice in scores.items()),
            "weak": " ".join(card.weaknesses),
        }
        for key, text in lines.items():
            if text:
                click.echo(f"  {key + ': ' if key else ''}{text}")


@cli.command()
@click.option(
    "--headless",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="No window left open: write a screenshot, the mask and the table of organs to DIR.",
)
def demo(headless: Path | None) -> None:
    """Segment the sample scan in napari."""
    try:
        # By name: the core must run, and import, without napari.
        run_demo = importlib.import_module("napari_l2gnet.demo").run_demo
    except ImportError as error:
        raise InputError(
            f"Expected napari for the demo, but '{error.name}' is not installed; "
            "run `pip install napari-l2gnet[all]`."
        ) from error
    run_demo(headless)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors in the input become one line and exit code 2."""
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        cli.main(args=arguments, prog_name="l2gnet", standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        _fail(error.format_message().rstrip(".") + hint, 2)
    except OSError as error:
        # A full disk, a folder that may not be written, a file where a folder should be.
        _fail(f"{error.filename or 'The system'}: {error.strerror or error}.", 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)


def _fail(message: str, code: int) -> Any:
    click.echo(f"l2gnet: {message}", err=True)
    sys.exit(code)
