"""The experiments of `annotation_effort.py`: each runs whatever is missing for one domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
from _annotator import (
    chosen,
    dice,
    doubted,
    evenly,
    holding,
    mean,
    recovered,
    rounds,
    taught_and_judged,
)
from _effort_results import Bench, base_model, finished, keep, rounded, trained
from _finetune_variants import (
    ORGAN_VARIANTS,
    PROJECT_VARIANTS,
    SCAN_VARIANTS,
    UNGUARDED,
    Variant,
    finetuned,
)
from _rivals import METHODS, Answer, Task
from _shifts import START, STUDIES, Domain, Sample, Scan, read

from l2gnet_core.finetuning.config import FineTuneConfig
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.models.weights import mixed
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import segment

#: How many slices of a new organ are painted; do they include its first and last slice?
PAINTED, PICKS = 5, {"evenly": False, "ends": True}
#: The most volumes that judge a project's model.
MOST_JUDGED = 12
ORGAN_METHODS = (
    "ours", "guided interpolation", "interpolation", "random forest", "naive", "from scratch"
)  # fmt: skip
VARIANTS = {"scan": SCAN_VARIANTS, "organ": ORGAN_VARIANTS, "project": PROJECT_VARIANTS}
#: The settings that are tested, picked with `tune`.
PICKED = {"scan": "as it is", "organ": "as it is", "project": "as it is"}


def start(bench: Bench, domain: Domain, sample: Sample) -> dict[str, Any]:
    """Dice of a scan as the base segments it, and the order of its queue; saved once."""
    model, known = base_model(domain.base)
    file = bench.file(domain.name, sample.name, "start")
    if found := finished(file, known):
        return found
    scan = read(sample, model.card, bench.data)
    mask, proposed = doubted(model, scan.scan, scan.grid, scan.axis)
    scores = dice(mask, scan.truth, scan.axis, model.card.labels.names)
    result = {"model": known, "dice": scores, "mean": mean(scores), "proposed": proposed}
    keep(file, result)
    return rounded(result)


def in_range(bench: Bench, domain: Domain, sample: Sample) -> bool:
    """Is the base's Dice on a scan within `START`?"""
    return bench.everything or START[0] <= start(bench, domain, sample)["mean"] <= START[1]


def task_of(bench: Bench, domain: Domain, variant: Variant, sample: Sample) -> Task:
    """The task to correct a scan, or to paint the domain's organ in it."""
    model, _ = base_model(domain.base)
    names = model.card.labels.names
    if domain.organ is not None:
        names = {domain.organ: STUDIES[sample.study].names[domain.organ]}
    scan = read(sample, model.card, bench.data)
    mask = segment(model, scan.scan, scan.grid, scan.axis)
    limit = bench.limited("scan" if domain.organ is None else "organ")
    return Task(model, scan, names, variant, mask, limit)


def judged(task: Task, slices: Sequence[int], answer: Answer) -> dict[str, Any]:
    """The scores of one round: Dice of the untouched slices before and after, and of the whole
    scan with the corrected slices copied in."""
    scan = task.scan
    scores = {
        when: dice(mask, scan.truth, scan.axis, task.names, slices)
        for when, mask in (("before", task.start), ("after", answer.mask))
    }
    whole = answer.mask.copy()
    for index in slices:
        np.moveaxis(whole, scan.axis, 0)[index] = np.take(task.painted, index, scan.axis)
    return {
        "slices": list(slices),
        **scores,
        "gain": mean(scores["after"]) - mean(scores["before"]),
        "whole": mean(dice(whole, scan.truth, scan.axis, task.names)),
        "seconds": answer.seconds,
        **answer.more,
    }


def run_scan(bench: Bench, domain: Domain, methods: Sequence[str], counts: Sequence[int]) -> None:
    """Rounds of corrections on single scans."""
    variant = SCAN_VARIANTS[PICKED["scan"]]
    samples = [s for s in domain.single[bench.part] if in_range(bench, domain, s)]
    known = base_model(domain.base)[1]
    for sample in bench.some(samples):
        files = {name: bench.file(domain.name, sample.name, name) for name in methods}
        missing = [name for name in methods if not finished(files[name], known)]
        if not missing:
            continue
        task = task_of(bench, domain, variant, sample)
        for name in missing:
            result = {
                "model": known,
                "patient": sample.frame.patient,
                "scan": sample.name,
                "method": name,
            }
            result["rounds"] = scan_rounds(bench, domain, task, name, counts)
            keep(files[name], result)
            gains = ", ".join(f"{one['gain']:+.3f}" for one in result["rounds"])
            print(f"{domain.name}, {sample.name}, {name}: {gains}", flush=True)


def scan_rounds(
    bench: Bench, domain: Domain, task: Task, name: str, counts: Sequence[int]
) -> list[dict[str, Any]]:
    """The scores of a method in each round."""
    scan, method, found = task.scan, METHODS[name], []
    due = rounds(scan.truth.shape[scan.axis], counts)
    if name == "ours":
        proposed = start(bench, domain, scan.sample)["proposed"]
        slices: list[int] = []
        for count in due:
            slices = chosen(slices, proposed, count)
            answer = method(task, slices)
            proposed = answer.proposed
            found.append(judged(task, slices, answer))
        return found
    if name.endswith(", evenly"):
        held = holding(scan.truth, scan.axis, list(task.names))
        plan = [evenly(held, count) for count in due]
    else:
        file = bench.file(domain.name, scan.sample.name, "ours")
        ours = finished(file, base_model(domain.base)[1])
        if ours is None:
            raise SystemExit(f"Expected 'ours' before '{name}', which corrects the same slices.")
        plan = [one["slices"] for one in ours["rounds"] if len(one["slices"]) in due]
    return [judged(task, slices, method(task, slices)) for slices in plan]


def run_organ(bench: Bench, domain: Domain, methods: Sequence[str]) -> None:
    """Teach each scan a structure that the base does not have, from a few painted slices."""
    variant, known = ORGAN_VARIANTS[PICKED["organ"]], base_model(domain.base)[1]
    for sample in bench.some(domain.scans[bench.part]):
        wanted = {
            (name, pick): bench.file(domain.name, sample.name, name, pick)
            for pick in PICKS
            for name in methods
        }
        missing = [key for key, file in wanted.items() if not finished(file, known)]
        if not missing:
            continue
        task = task_of(bench, domain, variant, sample)
        for name, pick in missing:
            result = organ_round(task, name, pick)
            print(f"{domain.name}, {sample.name}, {name}, {pick}: {mean(result['after']):.3f}",
                  flush=True)  # fmt: skip
            who = {"model": known, "patient": sample.frame.patient, "method": name, "pick": pick}
            keep(wanted[name, pick], {**who, "rounds": [result]})


def organ_round(task: Task, name: str, pick: str) -> dict[str, Any]:
    """The scores of one method on a new organ, and Dice of the other organs."""
    scan = task.scan
    held = holding(scan.truth, scan.axis, list(task.names))
    slices = evenly(held, PAINTED, PICKS[pick])
    answer = METHODS[name](task, slices)
    others = {
        when: mean(dice(mask, scan.truth, scan.axis, task.model.card.labels.names, slices))
        for when, mask in (("before", task.start), ("after", answer.mask))
    }
    return {**judged(task, slices, answer), "others": others}


def run_project(bench: Bench, domain: Domain, variants: Mapping[str, Variant]) -> None:
    """Fine-tune on five corrected volumes of a domain; score further volumes of the domain and the
    original task."""
    model, known = base_model(domain.base)
    every = {sample: sample.frame.patient for sample in domain.scans[bench.part]}
    taught, further = taught_and_judged(every)
    teaching = {sample.frame.patient for sample in taught}
    usual = [s for s in domain.usual[bench.part] if s.frame.patient not in teaching]
    judges = {"shifted": bench.some(further, MOST_JUDGED), "usual": bench.some(usual, MOST_JUDGED)}
    if domain.native is not None and trained(domain.native):
        judge_native(bench, domain.name, domain.native, judges["shifted"])
    for name, variant in variants.items():
        file = bench.file(domain.name, "project", name)
        if finished(file, known):
            continue
        config = replace(variant.config, **bench.limited("project"))
        corrections = [whole_correction(read(s, model.card, bench.data)) for s in taught]
        result = finetuned(model, corrections, replace(variant, config=config))
        after = result.model
        if name == "half mixed":
            after = Model(mixed(model.network, after.network, 0.5), after.card)
        scores = {
            kind: {
                when: [mean(whole_dice(bench, one, sample)) for sample in samples]
                for when, one in (("before", model), ("after", after))
            }
            for kind, samples in judges.items()
        }
        means = {
            kind: {when: fmean(some) for when, some in of.items()} for kind, of in scores.items()
        }
        told = {
            "recovered": recovered(
                means["shifted"]["before"], means["shifted"]["after"], means["usual"]["before"]
            ),
            "forgotten": means["usual"]["before"] - means["usual"]["after"],
        }
        print(f"{domain.name}, project, {name}: {rounded(told)}", flush=True)
        keep(
            file,
            {
                "model": known,
                "method": name,
                **told,
                "means": means,
                "scores": scores,
                "seconds": result.seconds,
                "steps": result.all_steps,
                **result.verdict.to_json(),
            },
        )


def judge_native(bench: Bench, name: str, native: str, samples: Sequence[Sample]) -> None:
    """Score a model that learnt from the domain's kind of scan on the same volumes."""
    model, known = base_model(native)
    file = bench.file(name, "native")
    if not finished(file, known):
        scores = [mean(whole_dice(bench, model, sample)) for sample in samples]
        keep(file, {"model": known, "native": fmean(scores), "scores": scores})


def whole_correction(scan: Scan) -> Correction:
    """A correction with every slice of a scan."""
    every = tuple(range(scan.truth.shape[scan.axis]))
    return Correction(scan.scan, scan.grid, scan.axis, scan.truth, every)


def whole_dice(bench: Bench, model: Model, sample: Sample) -> dict[str, float]:
    """Dice of a scan as a model segments it."""
    scan = read(sample, model.card, bench.data)
    mask = segment(model, scan.scan, scan.grid, scan.axis)
    return dice(mask, scan.truth, scan.axis, model.card.labels.names)


def project_methods(methods: Sequence[str]) -> dict[str, Variant]:
    """The settings of ours and of its rivals, by name."""
    plain = FineTuneConfig(
        kind="project", learns_anew=False, folds=0, limits=UNGUARDED, pull=0.0, cautious_mix=1.0
    )
    every = {
        "ours": PROJECT_VARIANTS[PICKED["project"]],
        "half mixed": Variant(plain),
        "naive": Variant(plain),
    }
    return {name: variant for name, variant in every.items() if name in methods}


def tune(bench: Bench, kind: str, suite: Sequence[Domain], names: Sequence[str]) -> None:
    """Compare settings on tuning volumes."""
    variants = {name: v for name, v in VARIANTS[kind].items() if not names or name in names}
    for domain in suite:
        if kind == "project":
            tuned = {f"tune {name}": variant for name, variant in variants.items()}
            run_project(bench, domain, tuned)
            continue
        samples = list(domain.scans[bench.part])
        if kind == "scan":
            samples = [s for s in domain.single[bench.part] if in_range(bench, domain, s)]
        known = base_model(domain.base)[1]
        for sample in bench.some(samples):
            files = {name: bench.file(domain.name, sample.name, "tune", name) for name in variants}
            missing = [name for name in variants if not finished(files[name], known)]
            if not missing:
                continue
            task = task_of(bench, domain, variants[missing[0]], sample)
            for name in missing:
                task.variant = variants[name]
                if kind == "organ":
                    result = organ_round(task, "ours", "evenly")
                else:
                    slices = start(bench, domain, sample)["proposed"][:3]
                    result = judged(task, slices, METHODS["ours"](task, slices))
                print(f"{domain.name}, {sample.name}, {name}: {result['gain']:+.4f}", flush=True)
                who = {"model": known, "kind": kind, "scan": sample.name, "method": name}
                keep(files[name], {**who, "rounds": [result]})
