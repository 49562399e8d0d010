"""`l2gnet finetune`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from l2gnet_core.commands.parts import (
    FilePath,
    Number,
    ProgressBar,
    axis_option,
    device_option,
    json_option,
    model_file,
    model_option,
    orientation_option,
    seed_option,
    warn,
)
from l2gnet_core.errors import InputError

if TYPE_CHECKING:
    from l2gnet_core.finetuning.config import FineTuneConfig
    from l2gnet_core.finetuning.files import CorrectedFiles
    from l2gnet_core.finetuning.run import FineTuneResult
    from l2gnet_core.models.card import ModelCard
    from l2gnet_core.models.checkpoint import Model
    from l2gnet_core.segmenting.corrections import Correction
    from l2gnet_core.segmenting.files import SegmentJob

_PATH = FilePath()


@click.command()
@click.argument("image", type=_PATH)
@click.argument("labels", type=_PATH)
@click.option(
    "--slices",
    required=True,
    metavar="3,7,11",
    help="The corrected slices, counted from 0 along the slicing axis of the stored array. Only "
    "these slices of LABELS are read.",
)
@model_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=_PATH,
    help="The new model: a .safetensors file, or a folder.",
)
@click.option(
    "--mask",
    type=_PATH,
    help="Also segment IMAGE, every frame of a time series, with the model in the output; "
    "corrected slices stay as they are.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Number of learning steps.")
@click.option(
    "--seconds",
    type=Number(min=0, min_open=True),
    help="Time for learning and checking; 20 by default.",
)
@seed_option
@axis_option
@orientation_option
@click.option(
    "--frame",
    type=click.IntRange(min=0),
    help="The corrected frame of a time series, counting from 0, in each scan given. Labels are of "
    "every frame, or of this one.",
)
@click.option(
    "--unmarked",
    type=click.IntRange(0, 65535),
    metavar="ID",
    help="Id of unknown voxels: those between scribbles, or in partly painted slices.",
)
@click.option("--names", metavar="ID=NAME,…", help="Names of new structures.")
@click.option(
    "--shared-organs",
    is_flag=True,
    help="Teach only the organs that LABELS names as the model does; its others, such as most of "
    "those of TotalSegmentator, count as background.",
)
@click.option(
    "--also",
    type=(_PATH, _PATH, str),
    multiple=True,
    metavar="IMAGE LABELS SLICES",
    help="Another corrected scan. With several, the model is for new scans, and forgets less.",
)
@device_option
@json_option
def finetune(
    image: Path,
    labels: Path,
    slices: str,
    model: str,
    output: Path,
    mask: Path | None,
    steps: int | None,
    seconds: float | None,
    seed: int,
    axis: int | None,
    orientation: str | None,
    frame: int | None,
    unmarked: int | None,
    names: str | None,
    shared_organs: bool,
    also: tuple[tuple[Path, Path, str], ...],
    device: str,
    as_json: bool,
) -> None:
    """Learn from corrected slices of a scan, and keep the result only if it helps.

    LABELS is a mask of IMAGE in which some slices are corrected. Organs that it names are matched
    by name, others by id. Those that the model does not have become new organs, unless
    --shared-organs is given. The new model is checked on slices left out of learning. If they speak
    against it, or if it forgets what the old model knew, the output is the old model. For one scan,
    slices speak against it if Dice falls by 0.1; for several scans, if it does not rise.
    """
    if steps is not None and seconds is not None:
        raise InputError("Expected --steps or --seconds, but got both; give one of them.")
    if shared_organs and names is not None:
        raise InputError(
            "Expected --names or --shared-organs, but got both; name new organs, or teach none."
        )
    from l2gnet_core.finetuning.files import (
        CorrectedFiles,
        model_file_to_write,
        parse_names,
        parse_slices,
        read_correction,
        report,
        write_result,
    )
    from l2gnet_core.finetuning.label_names import names_together

    # Quick checks come before the import of PyTorch and the reading of files.
    wanted = [(image, labels, slices), *also]
    files = [CorrectedFiles(scan, truth, parse_slices(which)) for scan, truth, which in wanted]
    given_names = parse_names(names) if names is not None else {}
    job = _mask_job(image, mask, files) if mask is not None else None
    from l2gnet_core.files.atomic import require_writable
    from l2gnet_core.models.checkpoint import load_model
    from l2gnet_core.network.device import choose_device

    parent = model_file(model)
    file = model_file_to_write(output)
    chosen = choose_device(device)[0]
    loaded = load_model(parent)
    read = [
        read_correction(
            one,
            loaded.card,
            axis,
            unmarked,
            orientation,
            frame,
            given_names,
            shared_organs,
            warn,
        )
        for one in files
    ]
    corrections = [correction for correction, _ in read]
    config = replace(
        _config(corrections, loaded.card, steps, seconds),
        seed=seed,
        names=names_together([found for _, found in read], given_names),
    )
    for written in (file, *([job.mask] if job else [])):
        require_writable(written.parent)
    _tell_new(corrections, loaded.card, config.names)
    with ProgressBar(1.0, "Fine-tuning") as bar:
        # The rest of the bar is for segmenting IMAGE.
        share = 1.0 if job is None else 0.8
        result = _finetuned(loaded, corrections, config, chosen, bar=bar, share=share)
        write_result(result, file)
        printed = report(result, output, loaded.card.labels.names, corrections)
        if job is not None:
            from l2gnet_core.segmenting.files import segment_file

            bar.reach(share, "segmenting")
            printed["mask"] = segment_file(
                job,
                result.model,
                chosen,
                axis,
                orientation=orientation,
                correction=corrections[0],
                corrected_frame=frame or 0,
                names=config.names,
            )
            bar.reach(1.0, tell=False)
    if job is not None:
        for warning in printed["mask"]["warnings"]:
            click.echo(f"{image.name}: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(printed, indent=1))
    else:
        click.echo(f"{output}: {result.verdict.reason}")


def _mask_job(image: Path, mask: Path, files: Sequence[CorrectedFiles]) -> SegmentJob:
    """The job of segmenting IMAGE. Raises InputError if the mask would overwrite an input."""
    from l2gnet_core.segmenting.files import plan_jobs

    job = plan_jobs([image], mask)[0]
    if job.mask.resolve() in {Path(one.labels).resolve() for one in files}:
        raise InputError(
            f"Expected another place for the mask than {job.mask}, which holds the corrected "
            "labels; choose another output."
        )
    return job


def _tell_new(corrections: Sequence[Correction], card: ModelCard, names: Mapping[int, str]) -> None:
    """Say what is taught as a new organ, before time is spent on learning it: without a name, it
    may be unknown voxels. Raises InputError for names that do not fit."""
    from l2gnet_core.finetuning.new_structures import taught_labels

    known = card.labels
    new = [one for one in taught_labels(known, corrections, names) if one.id not in known.names]
    if new:
        listed = ", ".join(f"{one.id} {one.name}" for one in new)
        click.echo(f"New organs: {listed}", err=True)
    if nameless := [str(one.id) for one in new if one.id not in names]:
        warn(
            f"nothing names {', '.join(nameless)}: --names gives organs their names, and "
            "--unmarked leaves out unknown voxels."
        )


def _config(
    corrections: Sequence[Correction], card: ModelCard, steps: int | None, seconds: float | None
) -> FineTuneConfig:
    """The usual settings for one or several scans, and for known or new structures, with these
    limits."""
    from l2gnet_core.finetuning.config import settings

    taught = set().union(*(correction.structures for correction in corrections))
    usual = settings(len(corrections) > 1, bool(taught - set(card.labels.names)))
    return replace(usual, steps=steps, seconds=None if steps else seconds or usual.seconds)


def _finetuned(
    model: Model,
    corrections: Sequence[Correction],
    config: FineTuneConfig,
    device: str,
    *,
    bar: ProgressBar,
    share: float,
) -> FineTuneResult:
    """Fine-tune, moving the bar to `share` of its total."""
    from l2gnet_core.finetuning.run import finetune as learn

    for progress in learn(model, corrections, config, device):
        loss = progress.loss
        doing = progress.phase if loss is None else f"loss {loss:.3f}"
        bar.reach(share * progress.done, doing)
    result = progress.result
    assert result is not None
    return result
