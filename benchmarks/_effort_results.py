"""Where `annotation_effort.py` keeps its results, and the models that it adapts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from _annotator import evenly
from _shifts import BASES, Domain, Part, Sample

from l2gnet_core.models.catalog import find_model
from l2gnet_core.models.checkpoint import MODEL_FILE, Model, load_model, read_card
from l2gnet_core.models.weights import weights_hash

HERE = Path(__file__).parent
RESULTS, RUNS = HERE / "results" / "effort", HERE / "runs"
#: Seconds that fine-tuning may take: one scan, a new organ, the project's model.
SECONDS = {"scan": 20.0, "organ": 60.0, "project": 120.0}


@dataclass(frozen=True)
class Bench:
    """The options of one call of `annotation_effort.py`."""

    data: Path
    part: Part
    limit: Mapping[str, Any]
    volumes: int | None = None
    results: Path = RESULTS
    everything: bool = False

    def file(self, domain: str, *names: str) -> Path:
        """The file of a result."""
        slug = "_".join(name.replace(",", "").replace(" ", "-") for name in names)
        return self.results / self.part / domain.replace(" ", "-") / f"{slug}.json"

    def some(self, samples: Sequence[Sample], most: int | None = None) -> list[Sample]:
        """At most `most` of the samples, evenly spread."""
        most = self.volumes if most is None else min(most, self.volumes or most)
        if most is None or most >= len(samples):
            return list(samples)
        return [samples[place] for place in evenly(range(len(samples)), most)]

    def limited(self, kind: str) -> dict[str, Any]:
        """The limit of fine-tuning, in steps or seconds."""
        return dict(self.limit) or {"seconds": SECONDS[kind], "steps": None}


def run_folder(base: str) -> Path:
    """The folder in which a base is trained."""
    return RUNS / f"effort_{base}"


@cache
def base_model(name: str) -> tuple[Model, str]:
    """A base, and a key of its weights: its name and their hash."""
    model = load_model(base_file(name))
    return model, f"{name} {weights_hash(model.network)[:12]}"


def base_file(name: str) -> Path:
    """The file of a base's weights, which may not exist yet."""
    return find_model(name) if BASES[name] is None else run_folder(name) / MODEL_FILE


def outdated(result: Mapping[str, Any]) -> bool:
    """Was a result made with other weights than the present ones? Without weights it counts."""
    name = result["model"].split()[0]
    return base_file(name).is_file() and base_model(name)[1] != result["model"]


def trained(base: str) -> bool:
    """Has the training of a base finished?"""
    if BASES[base] is None:
        return True
    file = base_file(base)
    # Training writes the code statistics last.
    return file.is_file() and read_card(file).codes is not None


def ready(domain: Domain) -> bool:
    """Is the base of a domain trained? If not, say so."""
    done = trained(domain.base)
    if not done:
        print(f"{domain.name}: left out, {domain.base} is not trained yet (prepare)", flush=True)
    return done


def finished(file: Path, model: str) -> dict[str, Any] | None:
    """The saved result, or None if there is none with these weights."""
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text())
    return result if result["model"] == model else None


def keep(file: Path, result: Mapping[str, Any]) -> None:
    """Write a result atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(rounded(result), indent=1))
    partial.replace(file)


def rounded(value: Any) -> Any:
    """Round all floats in a result to five decimals."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {str(key): rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, (list, tuple)) else value
