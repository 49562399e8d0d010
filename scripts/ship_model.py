"""Put a trained run and its written card together as a bundled model.

    python scripts/ship_model.py RUN docs/cards/NAME.toml [--scores FILE]

FILE is what `benchmarks/shipped.py MODEL --json FILE` wrote for the run.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from dataclasses import replace
from pathlib import Path

from l2gnet_core.card import Expectations
from l2gnet_core.catalog import BUNDLED_FOLDER
from l2gnet_core.checkpoint import load_model, save_model
from l2gnet_core.cleanup import CleanUp
from l2gnet_core.labels import LabelSet


def main() -> None:
    """Write src/l2gnet_core/models/NAME.safetensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("card", type=Path)
    parser.add_argument("--scores", type=Path)
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
        scores=_scores(options.scores, model.card.labels),
        **written,
    )
    BUNDLED_FOLDER.mkdir(exist_ok=True)
    # Half precision halves what every clone carries for ever; loading widens it again.
    path = save_model(BUNDLED_FOLDER / f"{card.name}.safetensors", model.network.half(), card)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _scores(file: Path | None, labels: LabelSet) -> dict[str, dict[str, float]]:
    if file is None:
        return {}
    found = json.loads(file.read_text())["as stored"]
    return {
        name: {"dice": round(found[name], 4), "hd95": round(found[f"HD95 {name}"], 2)}
        for name in labels.names.values()
    }


if __name__ == "__main__":
    main()
