"""The tables and the figure of `annotation_effort.py`, made from the finished results."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from _annotator import recovered
from _effort_results import outdated
from _rivals import METHODS

#: The goals are about this number of corrected slices.
GOAL_SLICES = 3
#: Gains: at or above the first a volume counts as unharmed; none may be below the second.
HARMLESS, HARMFUL = -0.005, -0.02
Result = dict[str, Any]


def results(folder: Path) -> list[Result]:
    """All results in a part's folder that were made with the present weights, with their domain."""
    found = []
    for file in sorted(folder.glob("*/*.json")):
        result = json.loads(file.read_text())
        if not outdated(result):
            found.append({"domain": file.parent.name, **result})
    return found


def mean(scores: Mapping[str, float]) -> float:
    return fmean(scores.values())


def gains(rounds: Iterable[Result]) -> str:
    """Cells of a table: mean gain, share of unharmed volumes, worst gain, and how often the guard
    kept the old model."""
    some = list(rounds)
    values = [one["gain"] for one in some]
    unharmed = sum(value >= HARMLESS for value in values) / len(values)
    verdicts = [one["kept"] for one in some if one.get("kept") is not None]
    refused = f"{verdicts.count(False)} of {len(verdicts)}" if verdicts else "–"
    return f"{fmean(values):+.4f} | {unharmed:.0%} | {min(values):+.4f} | {refused}"


def print_start(found: Mapping[str, Sequence[float]], wanted: tuple[float, float]) -> None:
    """How good the bases are on their shifted scans."""
    low, high = wanted
    print("\n| domain | volumes | mean Dice | lowest | highest | in range |")
    print("|---" * 6 + "|")
    for domain, scores in found.items():
        within = sum(low <= score <= high for score in scores)
        print(
            f"| {domain} | {len(scores)} | {fmean(scores):.3f} | {min(scores):.3f} "
            f"| {max(scores):.3f} | {within} |"
        )


def print_tuned(folder: Path, kind: str, names: Sequence[str]) -> None:
    """Compare settings on the volumes that all of them have finished."""
    found = results(folder)
    if kind == "project":
        projects = [r for r in found if "recovered" in r]
        compared = [r for r in projects if r["method"].removeprefix("tune ") in names]
        print_projects(compared, natives(found))
        return
    grouped: dict[str, dict[tuple[str, str], Result]] = {name: {} for name in names}
    for result in found:
        if result.get("kind") == kind and result["method"] in grouped:
            group = grouped[result["method"]]
            group[result["domain"], result["scan"]] = result["rounds"][0]
    shared = set.intersection(*(set(group) for group in grouped.values()))
    print(
        "\n| settings | volumes | Dice | gain | ≥ −0.005 | worst | guard's no | steps | seconds |"
    )
    print("|---" * 9 + "|")
    for name, group in grouped.items():
        some = [group[key] for key in sorted(shared)]
        if not some:
            continue
        after = fmean(mean(one["after"]) for one in some)
        steps = fmean(one.get("steps", 0) for one in some)
        seconds = fmean(one["seconds"] for one in some)
        print(
            f"| {name} | {len(some)} | {after:.4f} | {gains(some)} | {steps:.0f} | {seconds:.1f} |"
        )


def print_tables(folder: Path, picture: Path | None) -> None:
    """Print all finished results, and draw the effort curve into `picture`."""
    found = results(folder)
    scans = [r for r in found if "rounds" in r and "pick" not in r and "patient" in r]
    print_goal(scans)
    print_curve(scans)
    print_organs([r for r in found if "pick" in r])
    print_projects([r for r in found if "recovered" in r], natives(found))
    if picture is not None and scans:
        draw(scans, picture)


def by_method(found: Sequence[Result]) -> dict[str, list[Result]]:
    """Results grouped, in the order of `METHODS`."""
    grouped = {name: [r for r in found if r["method"] == name] for name in METHODS}
    return {name: group for name, group in grouped.items() if group}


def print_goal(found: Sequence[Result]) -> None:
    """Dice of the untouched slices after three corrections, over all domains and in each."""
    if not found:
        return
    print(f"\n### {GOAL_SLICES} corrected slices: the others\n")
    print("| method | domain | volumes | before | gain | ≥ −0.005 | worst | guard's no | seconds |")
    print("|---" * 9 + "|")
    for name, group in by_method(found).items():
        places = ["all", *dict.fromkeys(r["domain"] for r in group)] if name == "ours" else ["all"]
        for place in places:
            some = [
                one
                for result in group
                for one in result["rounds"]
                if len(one["slices"]) == GOAL_SLICES and place in ("all", result["domain"])
            ]
            if some:
                before = fmean(mean(one["before"]) for one in some)
                seconds = fmean(one["seconds"] for one in some)
                print(
                    f"| {name} | {place} | {len(some)} | {before:.3f} | {gains(some)} "
                    f"| {seconds:.1f} |"
                )


def curve(found: Sequence[Result]) -> dict[str, dict[int, tuple[int, float, float, float]]]:
    """By method and number of corrected slices: (volumes, mean Dice of the untouched slices, mean
    Dice of the whole scan, seconds). Only volumes that all methods have finished count."""
    grouped = by_method(found)
    key = {name: {(r["domain"], r["patient"], r["scan"]): r for r in group}
           for name, group in grouped.items()}  # fmt: skip
    shared = set.intersection(*(set(some) for some in key.values())) if key else set()
    lines: dict[str, dict[int, tuple[int, float, float, float]]] = {}
    for name, of in key.items():
        by_count: dict[int, list[Result]] = defaultdict(list)
        for volume in sorted(shared):
            for one in of[volume]["rounds"]:
                by_count[len(one["slices"])].append(one)
        lines[name] = {
            count: (
                len(some),
                fmean(mean(one["after"]) for one in some),
                fmean(one["whole"] for one in some),
                fmean(one["seconds"] for one in some),
            )
            for count, some in sorted(by_count.items())
        }
    return lines


def print_curve(found: Sequence[Result]) -> None:
    """Dice against slices corrected."""
    lines = {name: line for name, line in curve(found).items() if line}
    if not lines:
        return
    print("\n### Dice of the untouched slices (of the whole scan; seconds) by slices corrected\n")
    counts = sorted({count for line in lines.values() for count in line})
    volumes = {count: max(line[count][0] for line in lines.values() if count in line)
               for count in counts}  # fmt: skip
    print("| method | " + " | ".join(f"{c} ({volumes[c]} volumes)" for c in counts) + " |")
    print("|---" * (len(counts) + 1) + "|")
    for name, line in lines.items():
        cells = [
            f"{line[c][1]:.3f} ({line[c][2]:.3f}; {line[c][3]:.1f} s)" if c in line else "–"
            for c in counts
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def print_organs(found: Sequence[Result]) -> None:
    """A new organ from five painted slices."""
    if not found:
        return
    print("\n### A new organ from five painted slices: Dice on the other slices\n")
    print(
        "| organ | slices | method | volumes | Dice | seconds | the other organs before → after |"
    )
    print("|---" * 7 + "|")
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in found:
        key = (result["domain"], result["pick"], result["method"])
        groups[key].append(result["rounds"][0])
    for (domain, pick, name), some in groups.items():
        score = fmean(mean(one["after"]) for one in some)
        seconds = fmean(one["seconds"] for one in some)
        others = [fmean(one["others"][when] for one in some) for when in ("before", "after")]
        # These methods know only the new organ.
        alone = name == "random forest" or "interpolation" in name
        known = "–" if alone else "{:.3f} → {:.3f}".format(*others)
        print(
            f"| {domain} | {pick} | {name} | {len(some)} | {score:.3f} | {seconds:.1f} | {known} |"
        )


def natives(found: Sequence[Result]) -> dict[str, float]:
    """Dice of the models that learnt from a domain's kind of scan, by domain."""
    return {result["domain"]: result["native"] for result in found if "native" in result}


def print_projects(found: Sequence[Result], native: Mapping[str, float]) -> None:
    """Five corrected volumes of a domain. The gap to recover ends at the old model's Dice on scans
    of the kind that it learnt from. A second gap ends at the Dice of a model that learnt from the
    domain's kind, if there is one."""
    if not found:
        return
    print("\n### Five corrected volumes: further volumes of the domain, and the original task\n")
    print(
        "| domain | method | before → after | in domain | gap recovered | model of the domain "
        "| of that gap | original task falls by | guard | steps | seconds |"
    )
    print("|---" * 11 + "|")
    for result in found:
        shifted, usual = result["means"]["shifted"], result["means"]["usual"]
        best = native.get(result["domain"])
        other = "– | –"
        if best is not None:
            other = f"{best:.3f} | {recovered(shifted['before'], shifted['after'], best):.0%}"
        print(
            f"| {result['domain']} | {result['method'].removeprefix('tune ')} "
            f"| {shifted['before']:.3f} → {shifted['after']:.3f} | {usual['before']:.3f} "
            f"| {result['recovered']:.0%} | {other} | {result['forgotten']:+.4f} "
            f"| {'yes' if result['kept'] else 'no'} | {result['steps']} | {result['seconds']:.0f} |"
        )


def draw(found: Sequence[Result], file: Path) -> None:
    """The effort curve: Dice of the untouched slices, and of the whole scan, against slices
    corrected. Methods measured at one number of slices alone have no line."""
    from matplotlib.figure import Figure

    lines = {name: line for name, line in curve(found).items() if len(line) > 1}
    if not lines:
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for number, name in enumerate(lines):
        line = lines[name]
        for axis, place in zip(axes, (1, 2), strict=True):
            axis.plot(
                list(line),
                [values[place] for values in line.values()],
                marker="o" if number < 10 else "s",
                color=f"C{number % 10}",
                linestyle="-" if name.startswith("ours") else "--",
                linewidth=2 if name.startswith("ours") else 1.2,
                # The best lines nearly coincide: ours is drawn over the others.
                zorder=3 if name.startswith("ours") else 2,
                label=name,
            )
    for axis, title in zip(axes, ("untouched slices", "whole scan"), strict=True):
        axis.set(xlabel="slices corrected", ylabel="mean Dice", title=title)
        axis.set_xticks(sorted({count for line in lines.values() for count in line}))
        axis.grid(alpha=0.3)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8)
    figure.savefig(file, dpi=110)
