"""How much work is a good mask? Rounds of correct → fine-tune → predict, with rivals beside them.

    python benchmarks/annotation_effort.py prepare [BASE …] [--device cuda]
    python benchmarks/annotation_effort.py start [--part tuning]
    python benchmarks/annotation_effort.py tune [scan | organ | project] [--variants NAME …]
    python benchmarks/annotation_effort.py run [scan | organ | project …] [--methods NAME …]
    python benchmarks/annotation_effort.py

`prepare` trains the models to adapt. `start` prints how good each model is on its shifted scans.
`tune` compares settings on tuning volumes. `run` does everything on test volumes. Without a command
the tables of the finished results are printed and docs/annotation_effort.png is drawn.

Each command does only what is missing, one volume and method at a time, and can be stopped and
started again. If a model has other weights, its results start over. `--domains`, `--volumes N` (of
each domain) and `--steps N` (in place of seconds) reduce the work. _shifts.py holds the suite,
docs/benchmarks.md describes what is measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from _effort_results import HERE, RESULTS, Bench, ready, run_folder
from _effort_runs import (
    ORGAN_METHODS,
    VARIANTS,
    project_methods,
    run_organ,
    run_project,
    run_scan,
    start,
    tune,
)
from _effort_tables import print_start, print_tables, print_tuned
from _rivals import METHODS
from _shifts import BASES, SHARED, START, STUDIES, domains, training_dataset

from l2gnet_core.augmentation.views import Augmentation
from l2gnet_core.models.catalog import find_model
from l2gnet_core.models.checkpoint import SPLIT_FILE, load_model
from l2gnet_core.training.loop import TrainingConfig
from l2gnet_core.training.run import train_dataset
from l2gnet_core.training.run_folder import RunSettings


def prepare(name: str, data: Path, device: str) -> None:
    """Train a base, or resume its training."""
    base = BASES[name]
    assert base is not None
    folder, study = run_folder(name), STUDIES[base.study]
    dataset, split = training_dataset(base, data)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {part: list(getattr(split, part)) for part in ("train", "tuning", "test")}
    (folder / SPLIT_FILE).write_text(json.dumps(parts, indent=1))
    start = find_model("cardiac-cine") if base.change else None
    settings = RunSettings(
        dataset,
        folder,
        slices=load_model(start).network.config.in_channels if start else 3,
        slicing=study.slicing,
        oriented=study.oriented,
        device=device,
        resume=True,
        start=start,
    )
    # A model that is already trained needs a smaller learning rate.
    rate = 1e-3 if start else TrainingConfig.learning_rate
    training = TrainingConfig(steps=base.steps, batch=8, learning_rate=rate)
    for progress in train_dataset(settings, training, Augmentation(size=study.size)):
        if progress.step % 50 == 0:
            print(f"{name}: {progress.step}/{base.steps}, loss {progress.loss:.3f}, "
                  f"{progress.seconds / 60:.1f} min", flush=True)  # fmt: skip


def main() -> None:
    """Run the command that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command")
    preparing = commands.add_parser("prepare")
    preparing.add_argument("bases", nargs="*", default=[n for n, base in BASES.items() if base])
    preparing.add_argument("--device", default="cpu")
    starting = commands.add_parser("start")
    starting.add_argument("--part", default="tuning", choices=["tuning", "test"])
    tuning = commands.add_parser("tune")
    tuning.add_argument("kind", nargs="?", default="scan", choices=list(VARIANTS))
    every = sorted({name for some in VARIANTS.values() for name in some})
    tuning.add_argument("--variants", nargs="*", default=[], choices=every, metavar="NAME")
    running = commands.add_parser("run")
    running.add_argument("kinds", nargs="*", default=list(VARIANTS))
    running.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    running.add_argument("--rounds", nargs="*", type=int, default=[1, 3, 5])
    for command in (preparing, starting, tuning, running):
        command.add_argument("--data", type=Path, default=SHARED)
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
    for command in (starting, tuning, running):
        command.add_argument("--domains", nargs="*", default=[])
        command.add_argument("--volumes", type=int)
        command.add_argument("--results", type=Path, default=RESULTS)
    for command in (tuning, running):
        command.add_argument("--seconds", type=float)
        command.add_argument("--steps", type=int)
        command.add_argument("--everything", action="store_true", help="also out of START")
    options = parser.parse_args()
    if options.command is None:
        print_tables(RESULTS / "test", HERE.parent / "docs" / "annotation_effort.png")
        return
    torch.set_num_threads(options.threads)
    if options.command == "prepare":
        for name in options.bases:
            prepare(name, options.data, options.device)
        return
    part = {"run": "test", "tune": "tuning"}.get(options.command) or options.part
    limit = {}
    if options.command != "start" and (options.steps or options.seconds):
        limit = {"seconds": options.seconds, "steps": options.steps}
    everything = getattr(options, "everything", False)
    bench = Bench(options.data, part, limit, options.volumes, options.results, everything)
    suite = domains(options.data)
    wanted = [suite[name] for name in options.domains or suite]
    wanted = [domain for domain in wanted if ready(domain)]
    shifted = [domain for domain in wanted if domain.organ is None]
    organs = [domain for domain in wanted if domain.organ is not None]
    if options.command == "start":
        print_start({
            domain.name: [start(bench, domain, s)["mean"] for s in bench.some(domain.single[part])]
            for domain in shifted
        }, START)  # fmt: skip
    elif options.command == "tune":
        of_kind = organs if options.kind == "organ" else shifted
        tune(bench, options.kind, of_kind, options.variants)
        compared = options.variants or list(VARIANTS[options.kind])
        print_tuned(bench.results / "tuning", options.kind, compared)
    else:
        for domain in shifted if "scan" in options.kinds else []:
            run_scan(bench, domain, [m for m in METHODS if m in options.methods], options.rounds)
        for domain in organs if "organ" in options.kinds else []:
            run_organ(bench, domain, [m for m in ORGAN_METHODS if m in options.methods])
        for domain in shifted if "project" in options.kinds else []:
            run_project(bench, domain, project_methods(options.methods))
        print_tables(bench.results / "test", None)


if __name__ == "__main__":
    main()
