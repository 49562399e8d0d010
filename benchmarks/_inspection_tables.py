"""The tables of `inspection.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import fmean

import numpy as np
from scipy.stats import spearmanr


def interval(values: dict[str, list[float]]) -> tuple[float, float, float]:
    """Mean over patients, and its 95 % interval by bootstrap over patients."""
    means = np.array([np.nanmean(v) for v in values.values() if not np.isnan(v).all()])
    drawn = np.random.default_rng(0).integers(len(means), size=(10_000, len(means)))
    low, high = np.percentile(means[drawn].mean(1), (2.5, 97.5))
    return float(means.mean()), float(low), float(high)


def by_patient(results: list[dict], measure: Callable[[dict], float]) -> dict[str, list[float]]:
    values = defaultdict(list)
    for result in results:
        values[result["patient"]].append(measure(result))
    return values


def rank_correlation(result: dict, name: str) -> float:
    """Rank correlation within a volume; nan if either side is the same in all slices."""
    true, said = np.array(result["dice"], float), np.array(result["predicted"][name])
    known = ~np.isnan(true)
    if len(np.unique(true[known])) < 2 or len(np.unique(said[known])) < 2:
        return float("nan")
    return float(spearmanr(true[known], said[known])[0])


def pooled_correlation(results: list[dict], name: str) -> float:
    """Rank correlation over the slices of all volumes."""
    true = np.concatenate([np.array(result["dice"], float) for result in results])
    said = np.concatenate([result["predicted"][name] for result in results])
    return float(spearmanr(true[~np.isnan(true)], said[~np.isnan(true)])[0])


def print_tables(part: str, results: list[dict]) -> None:
    """Print all tables of one part."""
    groups = {
        "clean": [result for result in results if result["way"] == "clean"],
        "made worse": [result for result in results if result["way"] != "clean"],
        "all": results,
    }
    for title, group in groups.items():
        if not group or (title == "all" and not (groups["clean"] and groups["made worse"])):
            continue
        patients = len({result["patient"] for result in group})
        print(f"\n### {part}, {title}: {patients} patients, {len(group)} volumes\n")
        if title != "all":
            print_doubts(group)
        print_orders(group)
    if groups["clean"]:
        print_similar(groups["clean"])


def print_doubts(group: list[dict]) -> None:
    print("| doubt | area under ROC | − softmax (95 %) | rank correlation by scan | pooled |")
    print("|---|---|---|---|---|")
    for name in group[0]["auc"]:
        area, *_ = interval(by_patient(group, lambda r, name=name: r["auc"][name]))
        lead = by_patient(group, lambda r, name=name: r["auc"][name] - r["auc"]["softmax"])
        told = "–" if name == "softmax" else "{:+.4f} ({:+.4f} … {:+.4f})".format(*interval(lead))
        ranks, *_ = interval(by_patient(group, lambda r, name=name: rank_correlation(r, name)))
        pooled = pooled_correlation(group, name)
        print(f"| {name} | {area:.4f} | {told} | {ranks:.3f} | {pooled:.3f} |")


def print_orders(group: list[dict]) -> None:
    print("\n| order of slices | gap | closed earlier by ours (95 %) |\n|---|---|---|")
    for name in ("ours", "softmax", "worst Dice", "uniform", "random", "oracle"):
        gap, *_ = interval(by_patient(group, lambda r, name=name: r["gap"][name]))
        print(f"| {name} | {gap:.4f} | {closed_earlier(group, name)} |")


def closed_earlier(group: list[dict], other: str) -> str:
    """By which share the gap of our order is smaller than that of another, over all volumes."""
    if other == "ours":
        return "–"
    ours, theirs = (
        np.array([fmean(v) for v in by_patient(group, lambda r, n=n: r["gap"][n]).values()])
        for n in ("ours", other)
    )
    drawn = np.random.default_rng(0).integers(len(ours), size=(10_000, len(ours)))
    shares = 1 - ours[drawn].mean(1) / theirs[drawn].mean(1)
    low, high = 100 * np.percentile(shares, (2.5, 97.5))
    return f"{100 * (1 - ours.mean() / theirs.mean()):+.1f} % ({low:+.1f} … {high:+.1f})"


def print_similar(group: list[dict]) -> None:
    print("\n| planted mistake | found again | worst scan | scans with ≥ 80 % | voxels held |")
    print("|---|---|---|---|---|")
    cases = defaultdict(list)
    for result in group:
        for name, pair in result["similar"].items():
            cases[name].append(pair)
    for name, pairs in cases.items():
        caught, held = np.array(pairs).T
        enough = f"{(caught >= 0.8).sum()} of {len(caught)}"
        print(
            f"| {name} | {100 * caught.mean():.0f} % | {100 * caught.min():.0f} % | {enough} "
            f"| {held.mean():.1f}× |"
        )
