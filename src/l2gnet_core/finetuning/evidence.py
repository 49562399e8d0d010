"""Evidence for the guard: what the old and the new model know apart from the corrections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from l2gnet_core.finetuning.correction_views import CorrectedScan
from l2gnet_core.finetuning.guard import Evidence, Improvement
from l2gnet_core.finetuning.lost_structures import (
    held_back_answers,
    lost_shares,
    unpainted_answers,
)
from l2gnet_core.finetuning.plan import LearntScans, Plan
from l2gnet_core.finetuning.rehearsal import KNOWN, heart_dice
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.preprocessing.images import network_input
from l2gnet_core.relay import Stoppable

#: Slices of each scan in which codes are counted, about.
_SLICES_FOR_CODES = 8


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the old model knows apart from the corrections: mean Dice on a drawn heart, distance of
    its codes' frequencies from those in training (None where it has none), and its answers where
    nobody painted them: in corrected slices (`unpainted_answers`) and in those held back."""

    heart: float | None
    codes: float | None
    unpainted: list[NDArray[Any]]


def old_knowledge(plan: Plan, scans: LearntScans) -> Stoppable[Knowledge]:
    """What the old model knows, before anything is learnt."""
    base, device = plan.setup.base, plan.setup.device
    heart = yield from heart_dice(base, device)
    codes = yield from _code_distance(plan, base, scans)
    return Knowledge(heart, codes, (yield from _unpainted(plan, base)))


def evidence_of(
    model: Model, mix: float, dice: Improvement, before: Knowledge, plan: Plan, scans: LearntScans
) -> Stoppable[Evidence]:
    """What the guard needs to know of a new model beside the old one.

    mix: the share of the new weights in it. dice: on slices left out.
    """
    setup = plan.setup
    changed = setup.changes(model.card.appearance)
    heart, codes, lost = before.heart, before.codes, {}
    if mix:
        heart = yield from heart_dice(model, setup.device)
    if mix or changed:
        codes = yield from _code_distance(plan, model, scans)
        now = yield from _unpainted(plan, model)
        lost = lost_shares(before.unpainted, now, setup.old.card.labels.names)
    knew_heart = before.heart is not None and before.heart >= KNOWN
    return Evidence(
        mix=mix,
        slices=sum(len(correction.slices) for correction in setup.corrections),
        dice=dice,
        heart=_pair(before.heart, heart) if knew_heart else None,
        codes=_pair(before.codes, codes),
        appearance=model.card.appearance if changed else None,
        lost=lost,
        alike=plan.config.kind == "project",
        anew=plan.anew,
        partly=any(one.partly_labelled for one in setup.corrections),
    )


def _code_distance(plan: Plan, model: Model, scans: LearntScans) -> Stoppable[float | None]:
    """`code_distance` between the scans, as the model is shown them, and the old one's training."""
    usual = usual_codes(plan.setup.base)
    if usual is None:
        return None
    return (yield from code_distance(model.network, scans.whole(model.card.appearance), usual))


def usual_codes(model: Model) -> Tensor | None:
    """How often codes occur in a model's training scans; None without codes."""
    book = model.network.codebook
    if book is None:
        return None
    known = model.card.codes
    if known is None or len(known.counts) != len(book.counts):
        # Its training was stopped: the codebook still knows the last views that were learnt from.
        return book.counts.double().cpu()
    return torch.tensor(known.counts, dtype=torch.float64)


def code_distance(
    network: SegmentationNetwork, scans: Sequence[CorrectedScan], usual: Tensor
) -> Stoppable[float]:
    """Total variation, 0 to 1, between how often codes occur in the scans and `usual`, (K,)."""
    device = next(network.parameters()).device
    found = torch.zeros_like(usual)
    for scan in scans:
        total = len(scan.image)
        apart = max(1, total // _SLICES_FOR_CODES)
        for place in range(apart // 2, total, apart):
            image = network_input(scan.image, [place], network.config, scan.step)
            seen = image.float().to(device)
            with torch.inference_mode():
                # The decoder is left out: it takes most of the time.
                codes = network.bottleneck(network.encoder(seen)[-1]).codes
            found += torch.bincount(codes.flatten().cpu(), minlength=len(found))
            yield
    return float((found / found.sum() - usual / usual.sum()).abs().sum() / 2)


def _unpainted(plan: Plan, model: Model) -> Stoppable[list[NDArray[Any]]]:
    """A model's answers where nobody painted them, in slices that do not teach them."""
    setup = plan.setup
    found = yield from unpainted_answers(model, setup.corrections, setup.device)
    apart = yield from held_back_answers(model, setup.corrections, setup.held_back, setup.device)
    return found + apart


def _pair(before: float | None, after: float | None) -> tuple[float, float] | None:
    return None if before is None or after is None else (before, after)
