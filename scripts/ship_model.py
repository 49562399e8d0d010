"""Combine a trained run and its written card into a bundled model.

    python scripts/ship_model.py RUN docs/cards/NAME.toml [--scores FILE] [--data DATASET]

RUN may also be a bundled model, to change its card. FILE is what `benchmarks/shipped.py MODEL
--json FILE` wrote for the run; without it the scores stay as they are. With DATASET, the codes
of the training scans are counted as networks see them with this card, at the size to which its
`sides` bring them.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from dataclasses import replace
from pathlib import Path

from l2gnet_core.datasets.loading import load_frames, open_dataset
from l2gnet_core.models.card import CodeStatistics, Expectations, ModelCard
from l2gnet_core.models.catalog import BUNDLED_FOLDER
from l2gnet_core.models.checkpoint import Model, load_model, save_model
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.training.run import statistics_of


def main() -> None:
    """Write src/l2gnet_core/models/NAME.safetensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("card", type=Path)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    model = load_model(options.run)
    written = tomllib.loads(options.card.read_text())
    colors = {int(id): color for id, color in written.pop("colors").items()}
    card = replace(
        model.card,
        labels=LabelSet.from_names(model.card.labels.names, colors),
        clean_up=CleanUp(**written.pop("clean_up")),
        expects=Expectations.from_json(written.pop("expects")),
        sides=tuple(written.pop("sides")) if "sides" in written else None,
        weaknesses=tuple(written.pop("weaknesses")),
        **written,
    )
    if options.scores is not None:
        card = replace(card, scores=_scores(options.scores, model.card.labels))
    if options.data is not None:
        card = replace(card, codes=_codes(model, card, options.data))
    BUNDLED_FOLDER.mkdir(exist_ok=True)
    # Half precision halves what every clone carries for ever; loading widens it again.
    path = save_model(BUNDLED_FOLDER / f"{card.name}.safetensors", model.network.half(), card)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _codes(model: Model, card: ModelCard, data: Path) -> CodeStatistics:
    learnt = set(card.split["train"])
    cases = [case for case in open_dataset(data).cases if case.patient in learnt]
    frames = [(case.patient, frame) for case in cases for frame in load_frames(case, card)]
    return statistics_of(model.network, frames)


def _scores(file: Path, labels: LabelSet) -> dict[str, dict[str, float]]:
    found = json.loads(file.read_text())["as stored"]
    return {
        name: {"dice": round(found[name], 4), "hd95": round(found[f"HD95 {name}"], 2)}
        for name in labels.names.values()
    }


if __name__ == "__main__":
    main()
