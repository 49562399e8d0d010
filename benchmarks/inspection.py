"""Does the model's doubt lead to its mistakes? `l2gnet_core.inspect` on patients apart.

    python benchmarks/inspection.py run [test|tuning] [--only clean noise …] [--cache FOLDER]
    python benchmarks/inspection.py fit [--cache FOLDER]
    python benchmarks/inspection.py cost
    python benchmarks/inspection.py [table]

`run` measures what is missing, one volume after the other, and can be stopped and started again at
any time. Scores lie in benchmarks/results/inspection/. `table` prints the finished ones. `fit`
prints the constants of `l2gnet_core.inspect.uncertainty`. They are fitted on the card's tuning
patients and on corrupted scans of every fifth training patient, never on test patients. `cost`
measures how much time recording a trace adds to segmenting. `--cache` keeps what the model saw, so
that nothing is segmented twice; the cache holds patients' masks.

The measures are of `cardiac-cine` on ACDC, as stored and in the five corruptions of
`_corruptions.py`:

- Voxels: area under the ROC curve for finding wrong voxels among those within 5 pixels of a
  predicted or true border.
- Slices: Spearman's rank correlation of predicted and true Dice (mean of a slice's structures).
- Order: area over the curve of mean Dice per corrected slice, where a corrected slice equals the
  truth. "closed earlier" says how much smaller the area of our order is than that of another.
- Similar: the same mistakes are planted into all slices of the answer, and one slice is marked.

All are computed by volume. Means are over patients, intervals (95 %) by bootstrap over patients.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from _inspection_fit import fit
from _inspection_measures import scores
from _inspection_scans import WAYS, frames, seen
from _inspection_tables import print_tables

from l2gnet_core.files import read_volume
from l2gnet_core.models.catalog import find_model
from l2gnet_core.models.checkpoint import Model, load_model
from l2gnet_core.scans.volume import slicing_axis
from l2gnet_core.segmenting import predict
from l2gnet_core.segmenting.slice_view import field_of
from l2gnet_core.segmenting.trace import empty_trace

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "inspection"
BESIDE = HERE.parents[1] / "shared" / "data" / "acdc"


def run(model: Model, data: Path, part: str, ways: list[str], cache: Path | None) -> None:
    """Measure the volumes of a part that have no scores yet."""
    path = RESULTS / f"{part}.json"
    done = json.loads(path.read_text()) if path.is_file() else {}
    labels = list(model.card.labels.names)
    for way in ways:
        for file in frames(model, data, part):
            key = f"{file.name.split('.')[0]}, {way}"
            if key in done:
                continue
            started = time.perf_counter()
            done[key] = rounded(scores(seen(model, file, way, cache), labels))
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{json.dumps(name)}: {json.dumps(one)}" for name, one in done.items()]
            path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
            print(f"{key}: {time.perf_counter() - started:.1f} s", flush=True)


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def cost(model: Model, data: Path, turns: int = 5) -> None:
    """Print the share of processor time that recording takes when one tuning scan is segmented. It
    is timed by itself, because two whole runs differ by more."""
    volume = read_volume(frames(model, data, "tuning")[0])
    axis = slicing_axis(volume, model.card.slicing)
    spent: list[float] = []

    def timed(function: Callable, *given):
        started = time.process_time()
        result = function(*given)
        spent.append(time.process_time() - started)
        return result

    original = predict.slice_traces
    predict.slice_traces = partial(timed, original)
    shares = []
    for _ in range(turns):
        spent.clear()
        started = time.process_time()
        field = field_of(model.card, volume, axis, volume.data)
        trace = empty_trace(model, volume, axis, field)
        trace.add = partial(timed, trace.add)
        predict.segment(model, volume.data, volume, axis, field=field, trace=trace)
        total = time.process_time() - started
        shares.append(sum(spent) / (total - sum(spent)))
    predict.slice_traces = original
    print(f"{100 * median(shares):.2f} % more processor time, median of {turns}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "command", nargs="?", default="table", choices=("run", "fit", "cost", "table")
    )
    parser.add_argument("part", nargs="?", default="test", choices=("test", "tuning"))
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--data", type=Path, default=BESIDE)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    if options.command == "table":
        for file in sorted(RESULTS.glob("*.json")):
            print_tables(file.stem, list(json.loads(file.read_text()).values()))
        return
    if not options.data.is_dir():
        parser.error(f"expected ACDC's images/ and labels/ in {options.data}; use --data")
    model = load_model(find_model("cardiac-cine"))
    if options.command == "run":
        run(model, options.data, options.part, options.only, options.cache)
    elif options.command == "fit":
        fit(model, options.data, options.cache)
    else:
        cost(model, options.data)


if __name__ == "__main__":
    main()
