"""What the documentation says is there."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from l2gnet_core.cli import cli
from l2gnet_core.models.catalog import models
from l2gnet_core.models.checkpoint import load_model

ROOT = Path(__file__).parents[1]
PACKAGES = [ROOT / "src" / name for name in ("l2gnet_core", "napari_l2gnet")]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    # In blocks of code, and in the first cells of tables.
    found = re.findall(
        r"^(?:\| `)?(l2gnet [^`\n]+)", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    for line in found:
        name, *arguments = shlex.split(line, comments=True)[1:]
        # Parsing alone: nothing is read or run.
        cli.commands[name].make_context(f"l2gnet {name}", arguments)


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        assert isinstance(command, click.Command)
        assert f"l2gnet {name}" in text


def test_every_module_has_its_place_in_the_house() -> None:
    page, named = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), list[str]()
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        package = section.splitlines()[0].strip("`")
        for what, where in re.findall(r"^\| (.+) \| (.+) \|$", section, re.MULTILINE):
            inside = re.match(r"`(\w+)/`", what)
            folder = f"{package}/{inside[1]}" if inside else package
            named += [f"{folder}/{module}" for module in re.findall(r"`(\w+)`", where)]
    modules = [file for package in PACKAGES for file in package.rglob("[!_]*.py")]
    there = [file.relative_to(ROOT / "src").with_suffix("").as_posix() for file in modules]
    assert sorted(named) == sorted(there)


def test_what_a_module_says_is_in_another_one_is_there() -> None:
    for file in (file for package in PACKAGES for file in package.rglob("*.py")):
        told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        for names in re.findall(r"\b(?:is|are) in (`[^.]+)", told):
            for name in re.findall(r"`(\w+)`", names):
                assert (file.parent / f"{name}.py").is_file(), f"{file.name}: {name}"


@pytest.mark.parametrize(
    "file", [entry.path for entry in models() if entry.bundled], ids=lambda file: file.stem
)
def test_what_ships_has_the_settings_that_are_told(file: Path) -> None:
    page = (ROOT / "docs" / "model.md").read_text(encoding="utf-8").replace("\n", " ")
    network = load_model(file).network
    config = network.config
    numbers = f"K = {config.codes} codes of d = {config.widths[-1]} channels, R = "
    numbers += f"{config.references} references, ε = {config.epsilon} and "
    assert f"{numbers}{config.sinkhorn_iterations} Sinkhorn iterations" in page
    parameters = sum(one.numel() for one in network.parameters())
    everything = parameters + sum(one.numel() for one in network.buffers())
    assert f"{parameters / 1e6:.1f} million parameters, {everything / 1e6:.1f} with" in page
