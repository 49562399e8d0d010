"""Does a fine-tuned model help, and does it still know what it knew?

Nothing here was learnt from: slices are left out in turn, phantoms have seeds of their own, and the
usual frequencies of codes come from the model's training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from l2gnet_core.preprocessing.appearance import Appearance

#: A slice whose Dice changes by no more than this is neither better nor worse.
_UNCHANGED = 0.005
#: Smaller changes of a Dice are not mentioned.
_UNTOLD = 0.0005
#: Smaller changes of the mean Dice are called unclear: gains of short test runs tell little of the
#: other slices (docs/benchmarks.md).
_CLEAR = 0.01
#: Share of a structure above which its loss is told of, where it is no objection.
_MOSTLY = 0.5
#: Mean Dice below which a rise is not called better: most of what was marked is still missed.
_HARDLY = 0.2


@dataclass(frozen=True)
class Limits:
    """What a fine-tuned model must achieve, and may lose, to be kept. All from 0 to 1.

    least_gain: rise of the mean Dice on slices left out; a negative one allows a fall.
    most_structure_loss: fall of the Dice of any structure there. most_forgotten: fall of the mean
    Dice on the drawn heart. most_code_drift: rise of the distance between the codes' frequencies in
    the scans and those in training. most_worse: share of the groups of slices left out that get
    worse. most_lost: for a structure, share of the old model's answer that is missing in the new
    one's, in slices that do not teach it: corrected ones in which nobody painted or checked it, and
    untouched ones that were held back.
    """

    least_gain: float = 0.001
    most_structure_loss: float = 0.02
    most_forgotten: float = 0.1
    most_code_drift: float = 0.15
    most_worse: float = 0.5
    most_lost: float = 0.3


@dataclass(frozen=True)
class Improvement:
    """Dice before and after by structure name, pooled over the corrected slices, each by a model
    that did not learn from it; empty with a single slice. parts: mean Dice before and after of each
    group of slices that were left out together."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    parts: tuple[tuple[float, float], ...] = ()

    def means(self) -> tuple[float, float]:
        """Mean Dice before and after."""
        before, after = (sum(dice.values()) / len(dice) for dice in (self.before, self.after))
        return before, after

    def gain(self) -> float:
        """Rise of the mean Dice as it is printed, to three digits; 0 if printed as unchanged."""
        return _printed_gain(*self.means())

    @property
    def clear(self) -> bool:
        """Is the rise or fall large enough to be called one?"""
        return abs(self.gain()) >= _CLEAR

    @property
    def hardly_learnt(self) -> bool:
        """Is most still missed after a clear rise? That is not to be called better."""
        return self.clear and self.gain() > 0 and self.means()[1] < _HARDLY

    def share_worse(self) -> float:
        """Share of the groups that got worse."""
        worse = sum(before - after > _UNCHANGED for before, after in self.parts)
        return worse / max(1, len(self.parts))


@dataclass(frozen=True)
class Evidence:
    """What is known of a fine-tuned model in comparison with the old one.

    mix: the share of the new weights in it. slices: how many were corrected. heart: mean Dice on
    the drawn heart before and after, None if the old model does not know it. codes: distance of the
    codes' frequencies from those in training, before and after, None without codes. appearance: the
    new one in which scans are shown to it, None if unchanged; alike: only scans that look like the
    corrected ones. lost: by name, the share of a structure that the new model no longer finds where
    nobody painted it. anew: the old model hardly knew the scan, so the new one was not kept near
    it. partly: some corrected slices are labelled in part; Dice is that of their marked voxels
    alone.
    """

    mix: float
    slices: int
    dice: Improvement
    heart: tuple[float, float] | None
    codes: tuple[float, float] | None
    appearance: Appearance | None = None
    lost: Mapping[str, float] = field(default_factory=dict)
    alike: bool = False
    anew: bool = False
    partly: bool = False

    @property
    def judged_on(self) -> str:
        """Of what Dice is, in words."""
        left_out = "slices left out of training"
        return f"what you marked in {left_out}" if self.partly else left_out

    @property
    def most_judged_on(self) -> str:
        """Most of that, in words."""
        return f"most {'of ' if self.partly else ''}{self.judged_on}"

    @property
    def nothing_new(self) -> bool:
        """Is the new model the same as the old one?"""
        return self.mix == 0 and self.appearance is None

    @property
    def nearly_lost(self) -> list[str]:
        """A sentence on structures that nobody painted, if most of them is gone."""
        gone = [name for name, share in self.lost.items() if share > _MOSTLY]
        if not gone:
            return []
        return [
            "In these slices the new model no longer finds most of the "
            f"{', '.join(gone)} where the old one did, and nobody painted it: if the old one was "
            "right, paint it, too, or keep the old model."
        ]

    @property
    def adapted(self) -> list[str]:
        """Sentences on how the model was adapted to the scan beyond its weights."""
        found = []
        if self.anew:
            found.append(
                "The old model hardly knew this scan, so the new one learnt it again from your "
                "slices alone."
            )
        if self.appearance is not None:
            which = "scans that look like these" if self.alike else "slices"
            found.append(f"From now on, the model sees {which} {self.appearance}.")
        return found


@dataclass(frozen=True)
class Verdict:
    """Whether a fine-tuned model was kept, why in one sentence, and on what evidence."""

    kept: bool
    reason: str
    evidence: Evidence

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to four digits."""
        values: dict[str, Any] = _rounded(asdict(self))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Verdict:
        """Read what `to_json` wrote."""
        evidence = values["evidence"]

        def pair(value: Any) -> tuple[float, float] | None:
            return None if value is None else (float(value[0]), float(value[1]))

        found = Evidence(
            mix=evidence["mix"],
            slices=evidence["slices"],
            dice=Improvement(
                evidence["dice"]["before"],
                evidence["dice"]["after"],
                tuple((before, after) for before, after in evidence["dice"]["parts"]),
            ),
            heart=pair(evidence["heart"]),
            codes=pair(evidence["codes"]),
            appearance=Appearance(**evidence["appearance"]) if evidence["appearance"] else None,
            lost=evidence["lost"],
            alike=evidence["alike"],
            anew=evidence["anew"],
            partly=evidence["partly"],
        )
        return cls(values["kept"], values["reason"], found)


def judged(limits: Limits, evidence: Evidence, known: Sequence[str]) -> Verdict:
    """The verdict on the evidence. known: names of the old model's structures."""
    objection = _objection(limits, evidence, known)
    if objection is not None:
        return Verdict(False, f"{objection}. The old model is kept.", evidence)
    if evidence.dice.before:
        before, after = evidence.dice.means()
        rise, where = _rise(before, after), evidence.judged_on
        if not evidence.dice.clear:
            said = f"{where} showed no clear change (mean Dice {rise})"
        elif after > before:
            said = f"the mean Dice on {where} rose {rise}"
        else:
            said = f"the mean Dice on {where} fell {rise}, which says little of the other slices"
        reason = f"Kept: in short test runs, {said}."
    elif evidence.dice.parts:
        # Slices were left out, but none of them shows a structure.
        reason = (
            "Kept on weak evidence: only background is marked, so no Dice could be compared. Look "
            "at the other slices."
        )
    else:
        reason = (
            "Kept on weak evidence: a single corrected slice cannot show whether the other slices "
            "got better. Correct a second slice to find out."
        )
    return Verdict(True, " ".join([reason, *evidence.adapted, *evidence.nearly_lost]), evidence)


def _objection(limits: Limits, evidence: Evidence, known: Sequence[str]) -> str | None:
    dice, heart, codes = evidence.dice, evidence.heart, evidence.codes
    if dice.before:
        before, after = dice.means()
        # If the old model is already right, no fall is allowed.
        right = before > 1 - _UNCHANGED and after <= before
        if evidence.nothing_new or right or after - before < limits.least_gain:
            helped = "hardly helped" if dice.gain() > 0 and evidence.mix else "did not help"
            return (
                f"In short test runs, fine-tuning {helped} on {evidence.judged_on} (mean Dice "
                f"{_rise(before, after)})"
            )
        falls = {
            name: dice.before[name] - dice.after[name] for name in known if name in dice.before
        }
        if dice.share_worse() > limits.most_worse:
            return (
                f"In short test runs, fine-tuning made {evidence.most_judged_on} worse (mean Dice "
                f"{_rise(before, after)})"
            )
        worst = max(falls, key=lambda name: falls[name], default="")
        if worst and falls[worst] > limits.most_structure_loss:
            return (
                f"In short test runs, fine-tuning made the {worst} worse on slices left out of "
                f"learning (Dice {_rise(dice.before[worst], dice.after[worst])})"
            )
    elif evidence.nothing_new:
        return "The settings use none of the new weights"
    gone = max(evidence.lost, key=lambda name: evidence.lost[name], default="")
    if gone and evidence.lost[gone] > limits.most_lost:
        return (
            f"Fine-tuning lost the {gone}: where nobody painted it, {evidence.lost[gone]:.0%} of "
            "what the old model found of it is missing"
        )
    if heart and heart[0] - heart[1] > limits.most_forgotten:
        return (
            f"Fine-tuning made the model forget: on the drawn test heart, the mean Dice fell "
            f"{_rise(*heart)}"
        )
    if codes and codes[1] - codes[0] > limits.most_code_drift:
        return (
            "Fine-tuning made the model use its codes too differently from training (distance "
            f"{_rise(*codes)})"
        )
    return None


def _rise(before: float, after: float) -> str:
    if not _printed_gain(before, after):
        return f"unchanged at {before:.3f}"
    return f"from {before:.3f} to {after:.3f}"


def _printed_gain(before: float, after: float) -> float:
    """The difference of two numbers as they are printed, so that all three agree."""
    if abs(after - before) < _UNTOLD:
        return 0.0
    return round(round(after, 3) - round(before, 3), 3)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, (list, tuple)) else value
