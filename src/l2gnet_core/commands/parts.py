"""Options, tables and a progress bar shared by several commands."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from l2gnet_core.models import catalog
from l2gnet_core.models.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from l2gnet_core.datasets.check import Survey

Item = TypeVar("Item")

#: Least time between lines of progress where there is no terminal.
SECONDS_BETWEEN_LINES = 60.0


class Name(click.types.StringParamType):
    """A name, or a file or folder; "" is refused, because it is mostly an unset shell variable."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "":
            self.fail("Expected a name, a file or a folder, but the argument is empty.", param, ctx)
        return super().convert(value, param, ctx)


device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device to compute on.",
)
model_option = click.option(
    "--model",
    type=Name(),
    default=DEFAULT_MODEL,
    show_default=True,
    help="The model: a name from `l2gnet models`, a file or a folder.",
)
axis_option = click.option(
    "--axis",
    type=click.IntRange(0, 2),
    help="Slice along this axis of the stored array, not along that of the model's card.",
)


class _Orientation(click.types.StringParamType):
    """Three anatomical letters; see `l2gnet_core.scans.volume.parse_orientation`, which raises
    InputError."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        # NumPy is imported only when an orientation is given, so that --help is instant.
        from l2gnet_core.scans.volume import parse_orientation

        return parse_orientation(super().convert(value, param, ctx))


orientation_option = click.option(
    "--orientation",
    type=_Orientation(),
    metavar="LPS",
    help="Direction in which each axis of the stored array increases (L/R, P/A, I/S), for scans "
    "that do not say it.",
)
# The largest seed that PyTorch takes.
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


class Number(click.FloatRange):
    """A finite number in a range; click alone accepts nan and inf."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class FilePath(click.Path):
    """A file or folder; "" is refused, because it is mostly an unset shell variable."""

    def __init__(self, exists: bool = False) -> None:
        super().__init__(exists=exists, path_type=Path)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if str(value) == "":
            self.fail("Expected a file or a folder, but the argument is empty.", param, ctx)
        return super().convert(value, param, ctx)


def model_file(name_or_path: str) -> Path:
    """The file of `--model`; prints a warning if a user's model has the name of a bundled one.
    Raises InputError as `find_model` does."""
    file = catalog.find_model(name_or_path)
    if sentence := catalog.in_place_of_bundled(name_or_path):
        click.echo(f"warning: {sentence}", err=True)
    return file


def warn(sentence: str) -> None:
    """Tell the user something on stderr, beside the result."""
    click.echo(f"warning: {sentence}", err=True)


def on_terminal() -> bool:
    """Is stderr a terminal? Programs may have closed it."""
    return sys.stderr is not None and sys.stderr.isatty()


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells, the header first, as text in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


class ProgressBar:
    """A tqdm bar on a terminal. Elsewhere lines on stderr, at most one a minute, so that quick
    commands print none; with `each`, one for each step."""

    def __init__(self, total: float, label: str, each: bool = False) -> None:
        from tqdm import tqdm

        self._watched = on_terminal()
        self._pause = 0.0 if each else SECONDS_BETWEEN_LINES
        self._told = time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=label,
            disable=not self._watched,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}",
        )
        self._total, self._label = total, label

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def reach(self, done: float, note: str = "", tell: bool = True) -> None:
        """Move the bar to `done` of its total. tell: may a line be printed if there is no bar?"""
        if self._watched:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif tell and (now := time.monotonic()) - self._told >= self._pause:
            self._told = now
            whole = isinstance(self._total, int)
            share = f"{done} of {self._total}" if whole else f"{done / self._total:.0%}"
            click.echo(f"{self._label} {share}{note and ': ' + note}", err=True)

    def follow(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass items on, moving the bar by one for each."""
        for number, item in enumerate(items, 1):
            yield item
            self.reach(number)


def examined(dataset: Path) -> Survey:
    """Examine all files of a dataset, with a bar. Raises InputError if it is not a dataset."""
    from l2gnet_core.datasets.check import Survey

    survey = Survey(dataset)
    with ProgressBar(len(survey.cases), "Checking") as bar:
        for _ in bar.follow(survey.examine()):
            pass
    return survey
