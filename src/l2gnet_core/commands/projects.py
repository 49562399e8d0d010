"""`l2gnet projects` and `l2gnet replay`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from l2gnet_core.commands.parts import (
    FilePath,
    Name,
    ProgressBar,
    device_option,
    json_option,
    table,
)


@click.command()
@click.argument("project", type=Name())
@click.option(
    "-o",
    "--output",
    required=True,
    type=FilePath(),
    help="The mask's file, or a folder for it.",
)
@device_option
@json_option
def replay(project: str, output: Path, device: str, as_json: bool) -> None:
    """Repeat what was done in a saved annotation project.

    PROJECT is a project's folder, or its name in `l2gnet projects`. The resulting mask is written,
    and compared with the saved one.
    """
    from l2gnet_core.project.folder import open_project

    # Quick checks come before the import of PyTorch.
    opened = open_project(project)
    from l2gnet_core.files.atomic import require_outside, require_writable
    from l2gnet_core.network.device import choose_device
    from l2gnet_core.project.replay import mask_file, write_replay
    from l2gnet_core.project.replay import replay as do_again

    file = mask_file(output)
    require_outside([opened.path], file, "the project")
    chosen = choose_device(device)[0]
    require_writable(file.parent)
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


@click.command()
@json_option
def projects(as_json: bool) -> None:
    """List saved annotation projects, the last saved one first.

    Their names are what `l2gnet replay` takes. A project is removed by deleting its folder.
    """
    from l2gnet_core.project.folder import all_projects, projects_folder

    found = all_projects()
    sizes = [_megabytes(one.path) for one in found]
    if as_json:
        rows = [
            {
                "name": one.path.name,
                "saved": one.saved.isoformat(timespec="seconds"),
                "model": one.model,
                "touched_slices": one.touched,
                "megabytes": size,
                "problem": one.problem,
            }
            for one, size in zip(found, sizes, strict=True)
        ]
        click.echo(json.dumps({"folder": str(projects_folder()), "projects": rows}, indent=1))
        return
    if found:
        head = ("name", "saved", "model", "slices touched", "MB")
        lines = [
            (
                one.path.name,
                f"{one.saved.astimezone():%Y-%m-%d %H:%M}",
                one.model or "cannot be read",
                str(one.touched) if one.model else "",
                f"{size:.1f}",
            )
            for one, size in zip(found, sizes, strict=True)
        ]
        click.echo(table([head, *lines]))
    count = f"{len(found)} project{'' if len(found) == 1 else 's'}"
    click.echo(f"{count}, {sum(sizes):.1f} MB, in {projects_folder()}")


def _megabytes(folder: Path) -> float:
    sizes = (file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return round(sum(sizes) / 1e6, 1)
