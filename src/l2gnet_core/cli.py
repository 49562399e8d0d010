"""The `l2gnet` command. It exits with 0 on success, and with 2 and one line on stderr for input
that it cannot use."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import click

from l2gnet_core.commands.evaluate import evaluate
from l2gnet_core.commands.finetune import finetune
from l2gnet_core.commands.inspect import inspect
from l2gnet_core.commands.parts import (
    FilePath,
    ProgressBar,
    axis_option,
    device_option,
    json_option,
    model_file,
    model_option,
    on_terminal,
    orientation_option,
)
from l2gnet_core.commands.projects import projects, replay
from l2gnet_core.commands.training import check, train
from l2gnet_core.errors import InputError, enough_memory
from l2gnet_core.models.catalog import no_such_folder
from l2gnet_core.preprocessing.appearance import PLAIN

if TYPE_CHECKING:
    from l2gnet_core.segmenting.files import SegmentJob

# Importing PyTorch takes seconds: each command imports what it needs, so that --help is instant.


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(package_name="napari-l2gnet")
def cli() -> None:
    """Segment medical scans with L2GNet. For research use only."""
    if sentence := no_such_folder():
        click.echo(f"warning: {sentence}", err=True)


cli.add_command(evaluate)
cli.add_command(train)
cli.add_command(check)
cli.add_command(inspect)
cli.add_command(finetune)
cli.add_command(replay)
cli.add_command(projects)


@cli.command()
@click.argument("images", nargs=-1, required=True, type=FilePath())
@click.option(
    "-o",
    "--output",
    required=True,
    type=FilePath(),
    help="The mask's file for one image, or a folder for one or more; it is made if missing.",
)
@model_option
@device_option
@axis_option
@orientation_option
@click.option("--raw", is_flag=True, help="Do not tidy the masks as the model's card asks for.")
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
    """Write one mask per image, on the image's own grid.

    IMAGES are files, folders of files, DICOM series (their folder, or one of their files), or
    folders of those. Input formats: NIfTI, DICOM, NRRD, MetaImage, TIFF, FreeSurfer, AFNI, MINC
    and PAR/REC. Masks are written as NIfTI or TIFF.
    """
    from l2gnet_core.segmenting.files import plan_jobs, segment_file

    started = time.perf_counter()
    jobs = plan_jobs(images, output)
    from l2gnet_core.files.atomic import require_writable
    from l2gnet_core.models.checkpoint import load_model
    from l2gnet_core.network.device import choose_device

    device, why = choose_device(device)
    loaded = load_model(model_file(model), device)
    for folder in {job.mask.parent for job in jobs}:
        require_writable(folder)
    load_seconds = time.perf_counter() - started
    reports: list[dict[str, Any]] = []

    def one(job: SegmentJob) -> dict[str, Any]:
        return segment_file(job, loaded, device, axis, raw=raw, orientation=orientation)

    try:
        _segment_each(jobs, one, reports)
    finally:
        # Also after Ctrl-C: the masks of these images are written.
        if as_json:
            summary = {
                "model": loaded.card.name,
                "device": device,
                "device_why": why,
                "load_seconds": round(load_seconds, 3),
                "images": reports,
            }
            click.echo(json.dumps(summary, indent=1))
    failures = [report["error"] for report in reports if "error" in report]
    if not as_json and on_terminal() and len(failures) < len(jobs):
        made = len(jobs) - len(failures)
        click.echo(f"{made} of {len(jobs)} masks in {output} ({why})", err=True)
    if failures:
        several = f"{len(failures)} of {len(jobs)} images could not be segmented (see above)."
        raise InputError(several if len(jobs) > 1 else failures[0])


def _segment_each(
    jobs: Sequence[SegmentJob],
    segment_one: Callable[[SegmentJob], dict[str, Any]],
    reports: list[dict[str, Any]],
) -> None:
    """Segment images, adding the report of each to `reports` once its mask is written."""
    with ProgressBar(len(jobs), "Segmenting", each=len(jobs) > 1) as bar:
        for number, job in enumerate(jobs, 1):
            try:
                with enough_memory(job.image.name):
                    report = segment_one(job)
            except InputError as error:
                # One bad image must not stop the others.
                report = {"image": str(job.image), "error": str(error)}
                if len(jobs) > 1:
                    click.echo(f"l2gnet: {error}", err=True)
            reports.append(report)
            bar.reach(number, job.image.name)
            for warning in report.get("warnings", ()):
                click.echo(f"{job.image.name}: {warning}", err=True)


@cli.command()
@json_option
def models(as_json: bool) -> None:
    """List the available models."""
    from l2gnet_core.models.catalog import models as catalog
    from l2gnet_core.models.catalog import odd_models

    entries = catalog()
    for sentence in odd_models():
        click.echo(f"warning: {sentence}", err=True)
    if as_json:
        rows = [{"name": e.name, "bundled": e.bundled, **e.card.to_json()} for e in entries]
        click.echo(json.dumps(rows, indent=1))
        return
    for entry in entries:
        card = entry.card
        click.echo(click.style(entry.name, bold=True) + ("" if entry.bundled else " (yours)"))
        scores = {name: card.score(name, "dice", 3) for name in card.scores}
        lines = {
            "": card.summary,
            "labels": ", ".join(f"{label.id} {label.name}" for label in card.labels),
            "slices": card.slicing + (", tells left from right" if card.oriented else ""),
            "shown": card.shown if card.kinds or card.appearance != PLAIN else "",
            "data": card.data,
            "licence": card.licence,
            "Dice": ", ".join(f"{name} {dice}" for name, dice in scores.items() if dice),
            "weak": " ".join(card.weaknesses),
        }
        for key, text in lines.items():
            if text:
                click.echo(f"  {key + ': ' if key else ''}{text}")


@cli.command()
@click.option(
    "--headless",
    type=FilePath(),
    metavar="DIR",
    help="Write a screenshot, the mask and the table of organs to DIR, and leave no window open.",
)
def demo(headless: Path | None) -> None:
    """Segment the sample scan in napari."""
    try:
        # Imported by name, because the core must not depend on napari.
        run_demo = importlib.import_module("napari_l2gnet.demo").run_demo
    except ImportError as error:
        # If Qt is missing, the error does not name a module.
        lacking = f"'{error.name}' is not installed" if error.name else str(error).split("\n")[0]
        raise InputError(
            f"Expected napari and Qt for the demo, but {lacking}; run `make demo`, or "
            '`pip install ".[all]"`, in a clone of the repository.'
        ) from error
    run_demo(headless)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command: errors in the input become one line and exit code 2."""
    with contextlib.suppress(AttributeError):
        # File names need not be valid UTF-8.
        sys.stdout.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8", errors="backslashreplace"
        )
    try:
        with enough_memory("these files"):
            cli.main(args=arguments, prog_name="l2gnet", standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        _fail(error.format_message().rstrip(".") + hint, 2)
    except OSError as error:
        # For example a full disk, missing permissions, or a file in place of a folder.
        where = error.filename or "The system"
        if any(frame.f_code is click.echo.__code__ for frame, _ in walk_tb(error.__traceback__)):
            where = "Standard output cannot be written"  # what was saved in files is there
        _fail(f"{where}: {error.strerror or error}.", 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)


def _fail(message: str, code: int) -> Any:
    click.echo(f"l2gnet: {message}", err=True)
    sys.exit(code)
