"""`l2gnet replay`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from l2gnet_core.cli_parts import ProgressBar, device_option, json_option


@click.command()
@click.argument("project")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder, or the mask's file.",
)
@device_option
@json_option
def replay(project: str, output: Path, device: str, as_json: bool) -> None:
    """Do again what a saved annotation project did.

    PROJECT is a project's folder, or that folder's name among those that napari saved. The mask
    that comes out is written, and compared with the one that was saved.
    """
    from l2gnet_core.project.folder import open_project

    # What is quick to refuse comes before PyTorch.
    opened = open_project(project)
    from l2gnet_core.predict import choose_device
    from l2gnet_core.project.replay import mask_file, write_replay
    from l2gnet_core.project.replay import replay as do_again

    file = mask_file(output)
    chosen = choose_device(device)[0]
    with ProgressBar(1.0, "Replaying") as bar:
        for step in do_again(opened, chosen):
            bar.reach(step.done, step.message)
    result = step.result
    assert result is not None
    write_replay(result, file)
    if as_json:
        click.echo(json.dumps(result.to_json(file), indent=1))
    elif result.equal:
        click.echo(f"{file}: equal to the saved mask, voxel for voxel.")
    else:
        where = ", ".join(str(index) for _, index in sorted(result.different)) or "none"
        click.echo(
            f"{file}: not as saved: {sum(result.different.values())} voxels differ, in slices "
            f"{where}; {sum(not one['equal'] for one in result.learnt)} of {len(result.learnt)} "
            "fine-tunings gave other weights."
        )
