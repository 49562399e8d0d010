"""Settings of fine-tuning: of a model for one scan, and of a project's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from l2gnet_core.augmentation.views import Augmentation
from l2gnet_core.errors import InputError
from l2gnet_core.finetuning.guard import Limits

#: Milder random views than in training, since few scans are learnt. Slices up to this size are not
#: cropped: instance normalisation then sees what it sees at inference.
MILD = Augmentation(
    size=256,
    scale=(0.85, 1.18),
    stretch=0.05,
    turn=15.0,
    on_structure=0.7,
    gamma=(0.8, 1.25),
    gain=(0.9, 1.1),
    offset=0.05,
    noise=0.03,
    blur=0.8,
    bias=0.25,
)


@dataclass(frozen=True)
class FineTuneConfig:
    """How to fine-tune. `SCAN`, `ORGAN` and `PROJECT` are the usual settings.

    kind: "scan" adapts a model to one scan, for use on that scan; "project" learns from several
        scans and must not forget. A project's folds leave out whole scans, if there are several.
    seconds, steps: the budget, of which exactly one is set. seconds: of all runs and checks
        together. steps: of the main run.
    seed: of all random numbers.
    batch, replay: number of corrected slices, and of slices with the old model's answers, in each
        step.
    learning_rate: the peak of AdamW's schedule.
    pull: decay towards the old weights, relative to the learning rate: each step moves a weight by
        the share learning_rate × pull of its distance to the old one (L2-SP: Li et al., "Explicit
        Inductive Bias for Transfer Learning", ICML 2018).
    phantoms: share, 0 to 1, of the replayed slices that are drawn hearts, if the model knows these;
        the rest are untouched slices of the scans.
    soft_targets: weight of the loss on the old model's answers beside the segmentation loss: on
        replayed slices (Li and Hoiem, "Learning without Forgetting", ECCV 2016), and in the
        background of corrected ones for structures that nobody painted.
    mixes: shares of the new weights, 0 to 1, among which the slices left out choose (WiSE-FT:
        Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    mix_tolerance: Dice, 0 to 1. Among mixes that are no more than this below the best, the one
        nearest to cautious_mix is taken.
    cautious_mix: the mix of previews, and of a model with a single corrected slice.
    folds: number of test runs that leave slices out, at most.
    fold_share: length of a test run as a share of the main run's.
    adapts_appearance: search, before any weight changes, for the appearance in which the scans suit
        the model. A project's model is shown only similar scans in it.
    learns_anew: drop the constraints (`unconstrained`) if the model hardly knows the scan; for
        `kind` "scan" alone.
    keeps_unmarked: in slices that are labelled in part, learn a little of the old model's answers
        where nothing is marked (`old_answers`); not beside new structures, nor if the model learns
        the scan anew.
    views: random changes of the slices that are learnt from.
    limits: what the guard allows.
    names: of new structures, by id.
    """

    kind: Literal["scan", "project"] = "scan"
    seconds: float | None = 20.0
    steps: int | None = None
    seed: int = 0
    batch: int = 1
    learning_rate: float = 5e-4
    pull: float = 10.0
    replay: int = 0
    phantoms: float = 0.0
    soft_targets: float = 0.5
    mixes: tuple[float, ...] = (0.5,)
    mix_tolerance: float = 0.005
    cautious_mix: float = 0.5
    folds: int = 3
    fold_share: float = 0.3
    adapts_appearance: bool = True
    learns_anew: bool = True
    keeps_unmarked: bool = True
    views: Augmentation = MILD
    limits: Limits = field(default_factory=Limits)
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None):
            raise InputError("Expected either seconds or steps to fine-tune for; give one of them.")

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FineTuneConfig:
        """Inverse of `to_json`, also after JSON, which has no tuples and no numbers as keys."""
        return cls(
            **{
                **values,
                "mixes": _tuples(values["mixes"]),
                "views": Augmentation(**{n: _tuples(v) for n, v in values["views"].items()}),
                "limits": Limits(**values["limits"]),
                "names": {int(id): name for id, name in values["names"].items()},
            }
        )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


#: For one scan. Its limits are wide: short test runs on two or three slices show only that
#: something went badly wrong. A scan that needs fine-tuning uses other codes than training scans
#: do, and worse slices say little: at half of the new weights the rest of a scan hardly ever gets
#: worse.
SCAN = FineTuneConfig(
    fold_share=0.15,
    mix_tolerance=0.1,
    limits=Limits(
        least_gain=-0.1,
        most_structure_loss=0.1,
        most_code_drift=0.3,
        most_worse=1.0,
        # In a new appearance the model may rightly drop what it found before.
        most_lost=1.0,
    ),
)
#: To teach new structures in one scan. The old weights know nothing of them, so none are mixed in.
#: Old answers on other slices keep the structures that nobody painted. The limits are wide, because
#: test runs on two or three slices do not yet know the new structures, and still change the others.
ORGAN = FineTuneConfig(
    learns_anew=False,
    replay=1,
    soft_targets=1.0,
    mixes=(1.0,),
    mix_tolerance=0.1,
    cautious_mix=1.0,
    folds=2,
    limits=Limits(least_gain=-0.1, most_structure_loss=0.25, most_code_drift=0.3, most_worse=1.0),
)
#: For a project's model, which learns from several scans and must not forget.
PROJECT = FineTuneConfig(
    kind="project",
    learns_anew=False,
    batch=2,
    pull=20.0,
    replay=1,
    fold_share=0.15,
    phantoms=0.5,
    soft_targets=1.0,
    limits=Limits(most_forgotten=0.01, most_code_drift=0.1),
)


def unconstrained(config: FineTuneConfig) -> FineTuneConfig:
    """Settings for one scan, without what keeps the new model near the old one.

    For a model that hardly knows the scan (`l2gnet_core.finetuning.familiarity`): mixing in its
    weights would mix in wrong answers, and what it knows of other scans is not needed for this one.
    """
    limits = replace(config.limits, most_forgotten=1.0)
    return replace(
        config,
        pull=0.0,
        soft_targets=0.0,
        learning_rate=1.5e-3,
        mixes=(1.0,),
        cautious_mix=1.0,
        limits=limits,
    )


def settings(several: bool, new: bool) -> FineTuneConfig:
    """The usual settings. several: for a project's model, not for one scan. new: with structures
    that the model does not have."""
    if several:
        return PROJECT
    return ORGAN if new else SCAN
