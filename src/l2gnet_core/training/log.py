"""Log of a training run: a CSV row for each step, TensorBoard events, a picture of the curves."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files.atomic import replace_bytes
from l2gnet_core.scans.labels import LabelSet, in_charts
from l2gnet_core.training.loop import Progress

LOG_FILE = "log.csv"
CURVES_FILE = "curves.png"
TENSORBOARD_FOLDER = "tensorboard"
_COLUMNS = ["step", "epoch", "done", "loss", "learning rate", "seconds", "loading", "perplexity"]
#: Columns that drawing needs, and the last column that each complete row has.
_NEEDED = {"step", "loss", "perplexity"}
#: Drawing takes a third of a second, which may be longer than an epoch of a small dataset.
_SECONDS_BETWEEN_PICTURES = 60.0
#: TensorBoard sees only what is flushed, but flushing waits for the disk.
_SECONDS_BETWEEN_FLUSHES = 30.0


class TrainingLog:
    """Writes the logs of a run folder; for a resumed run, continues after `step`.

    Columns of structures whose names were written otherwise before are kept. Raises InputError for
    a log of another program, OutputError if nothing can be written.
    """

    def __init__(self, folder: Path, labels: LabelSet, step: int) -> None:
        self._folder = folder
        self._names = [label.name for label in labels]
        # Steps after the last save are repeated, so their rows are dropped.
        self._rows = [row for row in _read(folder / LOG_FILE) if int(row["step"]) <= step]
        named = [f"Dice {name}" for name in self._names]
        columns = list(dict.fromkeys([*_COLUMNS, *named, *chain.from_iterable(self._rows)]))
        _rewrite(folder / LOG_FILE, columns, self._rows)
        self._file = (folder / LOG_FILE).open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns)
        self._events = _Events(folder / TENSORBOARD_FOLDER, step + 1)
        self._drawn = time.monotonic()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()
        self._draw()

    def add(self, progress: Progress) -> None:
        """Write one step, and draw the curves from time to time."""
        dice = dict(zip(self._names, progress.dice or (), strict=bool(progress.dice)))
        row = {
            "step": progress.step,
            "epoch": progress.epoch,
            "done": f"{progress.done:.5f}",
            "loss": f"{progress.loss:.5f}",
            "learning rate": f"{progress.learning_rate:.3e}",
            "seconds": f"{progress.seconds:.1f}",
            "loading": f"{progress.loading:.1f}",
            "perplexity": "" if progress.perplexity is None else f"{progress.perplexity:.1f}",
            **{f"Dice {name}": f"{score:.4f}" for name, score in dice.items()},
        }
        self._rows.append(row)
        self._writer.writerow(row)
        self._file.flush()
        scalars = {"loss": progress.loss, "learning rate": progress.learning_rate}
        # Dice is NaN for a structure that no tuning scan has.
        scalars |= {f"Dice/{name}": score for name, score in dice.items() if math.isfinite(score)}
        self._events.add(scalars, progress.step)
        if dice and time.monotonic() - self._drawn > _SECONDS_BETWEEN_PICTURES:
            self._draw()
            self._drawn = time.monotonic()

    def _draw(self) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4))
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.08, right=0.97, bottom=0.14, wspace=0.25)
        if self._rows:
            steps = [int(row["step"]) for row in self._rows]
            losses = [float(row["loss"]) for row in self._rows]
            left.plot(steps, losses, color="0.85", linewidth=0.5)
            left.plot(steps, list(_smoothed(losses)), color="C0")
            left.set_yscale("log")
        left.set(xlabel="step", ylabel="loss", title="Training")
        for name in self._names:
            scored = [row for row in self._rows if row.get(f"Dice {name}")]
            right.plot(
                [int(row["step"]) for row in scored],
                [float(row[f"Dice {name}"]) for row in scored],
                marker=".",
                label=in_charts(name),
            )
        right.set(xlabel="step", ylabel="Dice", title="Tuning scans")
        right.grid(alpha=0.3)
        right.legend()
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=100)
        # Windows refuses that while a program that shows the picture holds it open. No run must end
        # for it: the log has all numbers, and the picture is drawn again.
        with suppress(OutputError):
            replace_bytes(self._folder / CURVES_FILE, picture.getbuffer())


class _Events:
    """TensorBoard events of a run. Events from step `first` on, of before a resume, are discarded.

    They are written without a thread. tensorboardX's SummaryWriter uses one with a queue: if Ctrl-C
    interrupts the main thread while it holds the queue's lock, closing waits for ever.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._write(first, session_log=SessionLog(status=SessionLog.START))
        self._flushed = time.monotonic()

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Write values by name for one step."""
        from tensorboardX.summary import scalar

        for name, value in scalars.items():
            self._write(step, summary=scalar(name, value))
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, without one that a crash cut short; empty if there is no log."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if _NEEDED - set(reader.fieldnames or _NEEDED):
                raise ValueError
            rows = [row for row in reader if row["perplexity"] is not None]
        for row in rows:
            row.pop(None, None)  # more values than columns
            int(row["step"]), float(row["loss"])
            # Raises ValueError for text; scores of structures without tuning scans are empty.
            _ = [float(row[name]) for name in row if name.startswith("Dice ") and row[name]]
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"Expected the log of a training run in {path}, but it has other columns or values; "
            "move it elsewhere."
        ) from error
    return rows


def _rewrite(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    replace_bytes(path, text.getvalue().encode())


def _smoothed(values: list[float]) -> Iterator[float]:
    """Exponential moving average, as TensorBoard draws it."""
    mean = values[0] if values else 0.0
    for value in values:
        mean += 0.02 * (value - mean)
        yield mean
