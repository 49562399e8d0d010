"""`l2gnet inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from l2gnet_core.commands.parts import (
    FilePath,
    ProgressBar,
    axis_option,
    device_option,
    model_file,
    model_option,
    on_terminal,
    orientation_option,
)
from l2gnet_core.errors import InputError


@click.command()
@click.argument("image", type=FilePath())
@click.option("-o", "--output", required=True, type=FilePath(), help="Folder to write to.")
@model_option
@device_option
@axis_option
@orientation_option
@click.option(
    "--frame",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Which frame of a time series, counting from 0.",
)
def inspect(
    image: Path,
    output: Path,
    model: str,
    device: str,
    axis: int | None,
    orientation: str | None,
    frame: int,
) -> None:
    """Show what a model saw of a scan: its codes, transport plans and doubts.

    The folder gets one page to open in a browser (index.html), its pictures, tables as JSON, and
    maps as NIfTI on the scan's grid.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"Expected a folder to write to, but {output} is a file; give a folder.")
    from l2gnet_core.files.atomic import require_writable
    from l2gnet_core.inspect.report import PAGE_FILE, inspect_file
    from l2gnet_core.models.checkpoint import load_model
    from l2gnet_core.network.device import choose_device
    from l2gnet_core.segmenting.files import require_apart

    require_apart([output], [image])
    device, _ = choose_device(device)
    loaded = load_model(model_file(model), device)
    require_writable(output)
    with ProgressBar(1.0, "Inspecting") as bar:
        for step in inspect_file(
            image, loaded, output, device, axis=axis, orientation=orientation, frame=frame
        ):
            bar.reach(step.done)
            for warning in step.warnings:
                click.echo(f"{image.name}: {warning}", err=True)
    if on_terminal():
        click.echo(f"open {output / PAGE_FILE} in a browser", err=True)
