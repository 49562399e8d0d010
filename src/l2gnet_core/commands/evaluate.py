"""`l2gnet evaluate`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
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
    table,
)
from l2gnet_core.errors import InputError

if TYPE_CHECKING:
    from l2gnet_core.datasets.cases import Part
    from l2gnet_core.scores.evaluate import CaseScores


@click.command()
@click.argument("predictions", type=FilePath())
@click.argument("references", type=FilePath(), required=False)
@click.option(
    "--model",
    type=Name(),
    metavar="NAME|PATH",
    help="Score this model on a dataset, which is given in place of PREDICTIONS.",
)
@click.option(
    "--part",
    type=click.Choice(["test", "tuning"]),
    help="With --model: the patients to score it on, test (the default) or tuning, as the model's "
    "own split has them.",
)
@click.option(
    "--tolerance",
    type=Number(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="MM",
    help="Tolerance of the surface Dice.",
)
@click.option(
    "--shared-organs",
    is_flag=True,
    help="Match the organs of masks by name, whatever their ids, and score only those that both "
    "masks name, as for a mask of TotalSegmentator.",
)
@device_option
@json_option
def evaluate(
    predictions: Path,
    references: Path | None,
    model: str | None,
    part: Part | None,
    tolerance: float,
    shared_organs: bool,
    device: str,
    as_json: bool,
) -> None:
    """Score masks against references: Dice, HD95, surface Dice.

    PREDICTIONS and REFERENCES are two files, or two folders of files with the same names.

    Or score a model on the patients of a dataset that were held out from its training:

    l2gnet evaluate DATASET --model RUN
    """
    if model is None and references is None:
        raise InputError(
            f"Expected masks and their references, or a dataset and --model, but got {predictions} "
            "alone; add one of the two."
        )
    if model is not None and references is not None:
        raise InputError(
            "Expected references or --model, but got both; give a dataset alone with --model."
        )
    if part is not None and model is None:
        raise InputError("Expected --part together with --model, but got it alone; add that.")
    if shared_organs and model is not None:
        raise InputError(
            "Expected --shared-organs with masks and references, but got --model; organs that the "
            "model did not learn are left out there anyway."
        )
    about: dict[str, Any] = {}
    if references is not None:
        cases = _of_masks(predictions, references, tolerance, shared_organs)
    else:
        assert model is not None
        about["part"] = part or "test"
        about["model"], cases = _of_model(predictions, model, about["part"], device, tolerance)
    _tell(cases, tolerance, about, as_json)


def _of_masks(
    predictions: Path, references: Path, tolerance: float, shared: bool
) -> list[CaseScores]:
    from l2gnet_core.scores.evaluate import evaluate as score
    from l2gnet_core.scores.evaluate import pair_files, without_reference

    pairs = pair_files(predictions, references)
    if spare := without_reference(predictions, references):
        click.echo(f"{len(spare)} predictions have no reference, as {spare[0]}.", err=True)
    with ProgressBar(len(pairs), "Scoring") as bar:
        return list(bar.follow(score(pairs, tolerance, shared)))


def _of_model(
    dataset: Path, model: str, part: Part, device: str, tolerance: float
) -> tuple[str, list[CaseScores]]:
    """The model's name, and its scores on one part of the dataset."""
    from l2gnet_core.datasets.loading import dataset_of
    from l2gnet_core.models.checkpoint import load_model
    from l2gnet_core.network.device import choose_device
    from l2gnet_core.scans.labels import some
    from l2gnet_core.scores.held_out import held_out, names_to_score, score_held_out

    chosen, file = choose_device(device)[0], model_file(model)
    loaded, opened = load_model(file, chosen), dataset_of(examined(dataset))
    names = names_to_score(opened, loaded.card)
    scans, notes = held_out(opened, loaded.card, part)
    if lacking := [name for id, name in opened.labels.names.items() if id not in names]:
        notes.append(f"{some(lacking)}: not scored, as {loaded.card.name} did not learn of it.")
    for note in notes:
        click.echo(note, err=True)
    found: list[CaseScores] = []
    with ProgressBar(len(scans), "Scoring") as bar:
        # One scan at a time for the bar, because a series gives several scores.
        for number, scan in enumerate(scans, 1):
            found += score_held_out(loaded, [scan], names, chosen, tolerance)
            bar.reach(number)
    return loaded.card.name, found


def _tell(cases: list[CaseScores], tolerance: float, about: dict[str, Any], as_json: bool) -> None:
    from l2gnet_core.scans.labels import some
    from l2gnet_core.scores.evaluate import summary

    warned: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        for warning in case.warnings:
            warned[warning].append(case.case)
    for warning, names in warned.items():
        click.echo(f"{some(names)}: {warning}", err=True)
    if empty := [case.case for case in cases if not case.structures]:
        click.echo(f"{some(empty)}: nothing is labelled in either mask.", err=True)
    overall = summary(cases)
    units = {case.unit for case in cases}
    unit = units.pop() if len(units) == 1 else "mixed"
    if as_json:
        rows = {
            c.case: {name: asdict(scores) for name, scores in c.structures.items()} for c in cases
        }
        told = {"tolerance_mm": tolerance, "unit": unit, "overall": overall, "cases": rows}
        click.echo(json.dumps({**about, **told}, indent=1))
    else:
        click.echo(_score_table(cases, overall, tolerance, unit))


def _score_table(
    cases: Sequence[CaseScores], overall: dict[str, dict[str, float]], tolerance: float, unit: str
) -> str:
    of = {"pixel": "pixels", "mixed": "mm or pixels"}.get(unit, unit)
    head = ("case", "structure", "Dice", f"HD95 {of}", f"surface Dice {tolerance:g} {of}")
    rows = [
        (case.case, name, f"{s.dice:.4f}", f"{s.hd95:.2f}", f"{s.surface_dice:.4f}")
        for case in cases
        for name, s in case.structures.items()
    ]
    rows += [
        ("all", name, f"{s['dice']:.4f}", f"{s['hd95']:.2f}", f"{s['surface_dice']:.4f}")
        for name, s in overall.items()
    ]
    return table([head, *rows])
