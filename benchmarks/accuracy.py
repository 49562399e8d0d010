"""Six architectures on one body, trained alike, on four datasets; L2GNet with one thing changed.

    python benchmarks/accuracy.py train [STUDY …] [--only VARIANT …] [--seeds N] [--device cuda]
        [--jobs N]
    python benchmarks/accuracy.py [table]

`train` does the missing runs, one after the other or `--jobs` at a time (networks this small leave
most of a GPU idle; set OMP_NUM_THREADS=1). It can be stopped and started again at any time. Run
folders lie in benchmarks/runs/, the scores of each finished run in benchmarks/results/. `table`
prints the finished runs.

All runs of a study have the same steps, batch, views, losses and learning rate; nothing is tuned
per architecture. The final weights (moving average) are scored on the test patients, without
test-time views and without tidying: Dice per volume; HD95 and surface Dice (tolerance one pixel, or
2 mm) in plane, per slice that holds the structure in both masks. Differences are paired by patient,
over the mean of the same seeds, with 95 % intervals over patients (Student's t). A variant is
"first" if the interval does not contain zero, otherwise "tied".
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from _corruptions import CORRUPTIONS, corrupted
from _studies import SHARED, STUDIES, Material, Study, read
from _variants import ABLATIONS, BY_VOLUME, VARIANTS, VolumeSampler
from scipy import stats
from torch import nn

from l2gnet_core.augmentation.sampling import Sampler, TrainingCase
from l2gnet_core.models.checkpoint import MODEL_FILE, save_model
from l2gnet_core.network.config import ARCHITECTURES
from l2gnet_core.preprocessing.images import neighbours, pad_to_multiple
from l2gnet_core.scores.metrics import agreement, dice_per_class
from l2gnet_core.training.loop import Trainer, TrainingConfig, make_fabric, saved_state

HERE = Path(__file__).parent
RESULTS, RUNS = HERE / "results", HERE / "runs"
BATCH = 8
#: The key of the tuning patients' scores in a result. Designs are chosen by these scores.
TUNING = "tuning"
TOLERANCE = {"pixels": 1.0, "mm": 2.0}


def result_file(study: str, variant: str, seed: int) -> Path:
    """The file of one run's scores."""
    return RESULTS / f"{study}_{variant.replace(' ', '-').replace(',', '')}_{seed}.json"


def runs(studies: Iterable[str], only: Iterable[str], seeds: int) -> list[tuple[str, str, int]]:
    """(study, variant, seed) of all runs that are asked for, the most informative first."""
    wanted, chosen = [], list(only)
    for study in studies:
        for seed in range(min(seeds, STUDIES[study].seeds)):
            wanted += [(study, variant, seed) for variant in (*ARCHITECTURES, "monai-unet")]
        if study == "acdc":
            # One seed shows which ablation deserves more; those named by --only get all seeds.
            wanted += [
                (study, variant, seed)
                for variant in ABLATIONS
                for seed in range(seeds if variant in chosen else 1)
            ]
    return [run for run in wanted if not chosen or run[1] in chosen]


@lru_cache(maxsize=1)
def material_of(study: str, data: Path) -> Material:
    """A study, read. Cached, because runs of one study follow each other."""
    return read(STUDIES[study], data)


def train(study: str, variant: str, seed: int, data: Path, device: str) -> None:
    """Train one run to its end, and score it."""
    print(f"{study}, {variant}, seed {seed}", flush=True)
    plan: Study = STUDIES[study]
    material = material_of(study, data)
    folder = RUNS / result_file(study, variant, seed).stem
    torch.manual_seed(seed)
    network = VARIANTS[variant](len(material.card.labels) + 1)
    training = TrainingConfig(steps=plan.steps, batch=BATCH, seed=seed)
    trainer = Trainer(network, training, folder, make_fabric(device))
    if (state := saved_state(folder)) is not None:
        trainer.resume(state)
    kind = VolumeSampler if variant in BY_VOLUME else Sampler
    sampler = kind(material.train, material.augmentation, 1, seed)
    saved = trainer.seconds
    for progress in trainer.run(sampler, []):
        if progress.seconds - saved > 60 or progress.done >= 1:
            trainer.save()
            saved = progress.seconds
    network = trainer.averaged_network()
    if variant in ARCHITECTURES:
        card = replace(material.card, name=folder.name, architecture=variant)
        save_model(folder / MODEL_FILE, network, card)
    scores = {
        "": score(network, material, material.test, plan.unit),
        TUNING: score(network, material, material.tuning, plan.unit),
    }
    if study == "acdc" and variant in ARCHITECTURES:
        for name in CORRUPTIONS:
            worse = [(patient, corrupted(frame, name)) for patient, frame in material.test]
            scores[name] = score(network, material, worse, plan.unit)
    RESULTS.mkdir(exist_ok=True)
    result = {
        "study": study,
        "variant": variant,
        "seed": seed,
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 2),
        "scores": scores,
    }
    result_file(study, variant, seed).write_text(json.dumps(result) + "\n")


def segment(network: nn.Module, frame: TrainingCase) -> torch.Tensor:
    """Classes (n,H,W) of a frame."""
    height, width = frame.image.shape[-2:]
    config, count, predicted = network.config, len(frame.image), []
    device = next(network.parameters()).device
    # One batch for the whole volume, because one ablation plans over all its slices.
    for indices in torch.arange(count).split(count):
        seen = neighbours(indices.tolist(), count, config.in_channels, frame.step)
        batch = pad_to_multiple(frame.image[seen].float(), config.stride)
        with torch.inference_mode():
            logits = network(batch.to(device)).logits
        predicted.append(logits.argmax(1)[:, :height, :width].cpu())
    return torch.cat(predicted)


def score(
    network: nn.Module, material: Material, test: list[tuple[str, TrainingCase]], unit: str
) -> list[dict[str, object]]:
    """One entry per frame: the patient, and per structure Dice, HD95 and surface Dice."""
    spacing = material.card.spacing[1:] if material.card.spacing else (1.0, 1.0)
    found = []
    for patient, frame in test:
        predicted = segment(network, frame)
        dice = dice_per_class(predicted, frame.classes, len(material.card.labels) + 1).tolist()
        structures = {}
        for number, label in enumerate(material.card.labels, 1):
            a, b = (predicted == number).numpy(), (frame.classes == number).numpy()
            both = np.flatnonzero(a.any((1, 2)) & b.any((1, 2)))
            slices = [agreement(a[z], b[z], spacing, TOLERANCE[unit]) for z in both]
            if not np.isnan(dice[number - 1]):
                structures[label.name] = {
                    "dice": round(dice[number - 1], 5),
                    "hd95": [round(s.hd95, 3) for s in slices if s],
                    "surface_dice": [round(s.surface_dice, 4) for s in slices if s],
                }
        found.append({"patient": patient, "structures": structures})
    return found


def finished() -> list[dict]:
    """The results of all finished runs."""
    return [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]


def by_patient(results: list[dict], scans: str = "") -> dict[str, float]:
    """Mean Dice per patient, over structures, frames and seeds: of the test patients as they are or
    under a corruption, or of the tuning patients."""
    dice = defaultdict(list)
    for result in results:
        for entry in result["scores"][scans]:
            values = [s["dice"] for s in entry["structures"].values()]
            dice[entry["patient"]].append(statistics.fmean(values))
    return {patient: statistics.fmean(values) for patient, values in dice.items()}


def pooled(results: list[dict], measure: str) -> float:
    """Mean over structures of the mean over their slices; NaN if no structure was ever found."""
    values = defaultdict(list)
    for result in results:
        for entry in result["scores"][""]:
            for name, structure in entry["structures"].items():
                values[name] += structure[measure]
    means = [statistics.fmean(v) for v in values.values() if v]
    return statistics.fmean(means) if means else float("nan")


def tuning_dice(results: list[dict]) -> str:
    """Mean Dice of the tuning patients; "–" for older runs that have no such scores."""
    if not all(TUNING in result["scores"] for result in results):
        return "–"
    return f"{statistics.fmean(by_patient(results, TUNING).values()):.4f}"


def difference(ours: dict[str, float], theirs: dict[str, float]) -> tuple[float, float, float]:
    """Mean paired difference and its 95 % interval by Student's t. A bootstrap over four patients
    would report a difference in one of five cases of pure noise."""
    gaps = [ours[patient] - theirs[patient] for patient in sorted(ours)]
    mean, spread = statistics.fmean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5
    reach = float(stats.t.ppf(0.975, len(gaps) - 1)) * spread
    return mean, mean - reach, mean + reach


def print_study(study: str, results: list[dict]) -> None:
    """One table: every variant, and L2GNet's lead over it."""
    grouped = defaultdict(list)
    for result in results:
        grouped[result["variant"]].append(result)
    unit = STUDIES[study].unit
    patients = len(by_patient(next(iter(grouped.values()))))
    print(f"\n### {study}: {patients} test patients, {results[0]['steps']} steps\n")
    print(
        "| variant | seeds | Dice | l2gnet − it (95 %) "
        f"| HD95 ({unit}) | surface Dice | Dice, tuning |"
    )
    print("|---" * 7 + "|")
    order = {name: place for place, name in enumerate(VARIANTS)}
    for name, group in sorted(grouped.items(), key=lambda item: order[item[0]]):
        theirs, lead = by_patient(group), "–"
        seeds = {r["seed"] for r in group}
        same = [r for r in grouped["l2gnet"] if r["seed"] in seeds]
        if same and name != "l2gnet":
            mean, low, high = difference(by_patient(same), theirs)
            verdict = "ahead" if low > 0 else "behind" if high < 0 else "tied"
            lead = f"{mean:+.4f} ({low:+.4f} … {high:+.4f}) {verdict}"
        print(
            f"| {name} | {len(group)} | {statistics.fmean(theirs.values()):.4f} | {lead} "
            f"| {pooled(group, 'hd95'):.2f} | {pooled(group, 'surface_dice'):.3f} "
            f"| {tuning_dice(group)} |"
        )


def print_corruptions(results: list[dict]) -> None:
    """Print by how much Dice falls under each corruption."""
    grouped = defaultdict(list)
    for result in results:
        if result["variant"] in ARCHITECTURES and set(CORRUPTIONS) <= set(result["scores"]):
            grouped[result["variant"]].append(result)
    if not grouped:
        return
    print("\n### acdc: fall of Dice under corruption\n")
    print("| variant | " + " | ".join(CORRUPTIONS) + " | mean | l2gnet's fall − its (95 %) |")
    print("|---" * (len(CORRUPTIONS) + 3) + "|")
    falls = {}
    for name, group in grouped.items():
        clean = by_patient(group)
        falls[name] = {
            corruption: {p: clean[p] - d for p, d in by_patient(group, corruption).items()}
            for corruption in CORRUPTIONS
        }
    mean = {
        name: {p: statistics.fmean(fall[c][p] for c in CORRUPTIONS) for p in fall["noise"]}
        for name, fall in falls.items()
    }
    for name, fall in falls.items():
        cells = [f"{statistics.fmean(fall[c].values()):.4f}" for c in CORRUPTIONS]
        gap = "–"
        if name != "l2gnet" and "l2gnet" in mean:
            gap = "{:+.4f} ({:+.4f} … {:+.4f})".format(*difference(mean["l2gnet"], mean[name]))
        overall = statistics.fmean(mean[name].values())
        print(f"| {name} | {' | '.join(cells)} | {overall:.4f} | {gap} |")


def main() -> None:
    """Train the missing runs, or print the finished ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    training = commands.add_parser("train")
    training.add_argument("studies", nargs="*", default=list(STUDIES))
    training.add_argument("--only", nargs="*", default=[], metavar="VARIANT")
    training.add_argument("--seeds", type=int, default=3)
    training.add_argument("--data", type=Path, default=SHARED)
    training.add_argument("--device", default="cpu")
    training.add_argument("--jobs", type=int, default=1)
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command != "train":
        results = finished()
        for study in STUDIES:
            of_study = [result for result in results if result["study"] == study]
            if of_study:
                print_study(study, of_study)
        print_corruptions([result for result in results if result["study"] == "acdc"])
        return
    wanted = runs(options.studies, options.only, options.seeds)
    missing = [run for run in wanted if not result_file(*run).is_file()]
    if options.jobs == 1:
        for run in missing:
            train(*run, options.data, options.device)
        return
    # A process that has used a GPU cannot be forked.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(train, *run, options.data, options.device): run for run in missing}
        failed = False
        for run in as_completed(running):
            # A failed run must not stop the others.
            if error := run.exception():
                print(f"{', '.join(map(str, running[run]))}: {error!r}", flush=True)
                failed = True
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
