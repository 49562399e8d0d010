"""Evidence for the guard: what the old and the new model know apart from the corrections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from l2gnet_core.finetuning.guard import Evidence, Improvement, code_distance
from l2gnet_core.finetuning.lost_structures import lost_shares, unpainted_answers
from l2gnet_core.finetuning.plan import LearntScans, Plan
from l2gnet_core.finetuning.rehearsal import KNOWN, heart_dice
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.relay import Stoppable


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the old model knows apart from the corrections: mean Dice on a drawn heart, distance of
    its codes' frequencies from those in training (None where it has none), and its answers for
    structures that nobody painted (`unpainted_answers`)."""

    heart: float | None
    codes: float | None
    unpainted: list[NDArray[Any]]


def old_knowledge(plan: Plan, scans: LearntScans) -> Stoppable[Knowledge]:
    """What the old model knows, before anything is learnt."""
    base, device = plan.setup.base, plan.setup.device
    heart = yield from heart_dice(base, device)
    codes = yield from code_distance(base.network, scans.whole(base.card.appearance))
    return Knowledge(heart, codes, (yield from _unpainted(plan, base)))


def evidence_of(
    model: Model, mix: float, dice: Improvement, before: Knowledge, plan: Plan, scans: LearntScans
) -> Stoppable[Evidence]:
    """What the guard needs to know of a new model beside the old one.

    mix: the share of the new weights in it. dice: on slices left out.
    """
    setup = plan.setup
    appearance = model.card.appearance
    changed = setup.changes(appearance)
    heart, codes, lost = before.heart, before.codes, {}
    if mix:
        heart = yield from heart_dice(model, setup.device)
    if mix or changed:
        codes = yield from code_distance(model.network, scans.whole(appearance))
        now = yield from _unpainted(plan, model)
        lost = lost_shares(before.unpainted, now, setup.old.card.labels.names)
    knew_heart = before.heart is not None and before.heart >= KNOWN
    return Evidence(
        mix=mix,
        slices=sum(len(correction.slices) for correction in setup.corrections),
        dice=dice,
        heart=_pair(before.heart, heart) if knew_heart else None,
        codes=_pair(before.codes, codes),
        appearance=appearance if changed else None,
        lost=lost,
        alike=plan.config.kind == "project",
        anew=plan.anew,
        partly=any(one.partly_labelled for one in setup.corrections),
    )


def _unpainted(plan: Plan, model: Model) -> Stoppable[list[NDArray[Any]]]:
    """A model's answers for structures that nobody painted; empty if the limits allow any."""
    if plan.config.limits.most_lost >= 1:
        return []
    return (yield from unpainted_answers(model, plan.setup.corrections, plan.setup.device))


def _pair(before: float | None, after: float | None) -> tuple[float, float] | None:
    return None if before is None or after is None else (before, after)
