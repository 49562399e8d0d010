"""The card of a fine-tuned model, which says where the model comes from."""

from __future__ import annotations

from dataclasses import asdict, replace

from l2gnet_core.finetuning.guard import Verdict
from l2gnet_core.finetuning.plan import Plan, Setup
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.models.weights import model_hash
from l2gnet_core.preprocessing.scan_kind import KindAppearance
from l2gnet_core.scans.fingerprint import SCANS, fingerprints


def with_provenance(model: Model, plan: Plan, verdict: Verdict, steps: int) -> Model:
    """A new model with its card. Scans are recorded by fingerprints, which do not identify
    patients. steps: of the main run."""
    setup = plan.setup
    old = setup.old.card
    model = replace(model, card=_shown(model.card, setup))
    settings = asdict(plan.config)
    del settings["names"]  # The card's labels have them.
    entry = {
        "parent": old.name,
        "parent_sha256": model_hash(setup.old),
        "scans": len(setup.images),
        SCANS: sorted({mark for one in setup.corrections for mark in fingerprints(one.scan)}),
        "steps": steps,
        "settings": settings,
        "verdict": verdict.to_json(),
    }
    weakness = (
        "Fine-tuned to a single scan: for this one, not for others."
        if plan.config.kind == "scan"
        else "Fine-tuned: how well it does on the patients it was tested on is not known."
    )
    card = replace(
        model.card,
        name=f"{old.name.split('+')[0]}+{model_hash(model)[:8]}",
        scores={},
        clean_up=old.clean_up.sparing(set(model.card.labels.names) - set(old.labels.names)),
        weaknesses=(*(text for text in old.weaknesses if text != weakness), weakness),
        history=(*old.history, entry),
    )
    return replace(model, card=card)


def _shown(card: ModelCard, setup: Setup) -> ModelCard:
    """A new model's card with the appearance in which it is shown scans.

    A model for one scan is shown every scan in the appearance that was found. A project's model is
    shown only scans of the same kind in it, and others as before.
    """
    old, found = setup.old.card, card.appearance
    if not setup.changes(found):
        return replace(card, appearance=old.appearance, kinds=old.kinds)
    if setup.config.kind == "scan":
        return card
    kinds = (KindAppearance(setup.kind, found), *old.kinds)
    return replace(card, appearance=old.appearance, kinds=kinds)
