"""Settings of fine-tuning: of a model for one scan, and of a project's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from l2gnet_core.augment import Augmentation
from l2gnet_core.errors import InputError
from l2gnet_core.guard import Limits

#: Views that stray less than in training: there is one scan to learn, not all of them. Slices come
#: whole, up to this size: normalisation sees what it will see in use, and in crops it does not.
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
    """How to fine-tune; `SCAN` and `PROJECT` are the two kinds. Exactly one of `seconds` (checks
    included) and `steps` (of the main run) is set.

    kind: "scan" bends to one volume, to be used there; "project" learns over scans and must not
        forget. With several corrections its folds leave out whole scans.
    batch, replay: corrected slices and old answers in each step. phantoms: share of the latter that
        are drawn hearts, where the model knows them; the rest are untouched slices of the scans.
    soft_targets: weight of the loss on old answers. pull: by how much of learning_rate the
        weights go back towards the old ones, per step.
    mixes: shares of the new weights to choose from by leaving slices out. mix_tolerance: Dice by
        which one must be better to be taken instead of one nearer to cautious_mix, which is also
        the share with a single corrected slice, and of previews. folds: at most so many runs leave
        some out, each fold_share as long as the main one.
    adapts_appearance: does it look for the appearance in which the scans suit the model, before
        weights are changed? A project's model is shown only scans so that look like these.
    learns_anew: does it let go of a model that hardly knows the scan (`anew`)? Of one scan alone.
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
                # Settings of before there was any of it.
                "adapts_appearance": False,
                "learns_anew": False,
                **values,
                "mixes": _tuples(values["mixes"]),
                "views": Augmentation(**{n: _tuples(v) for n, v in values["views"].items()}),
                "limits": Limits(**{"most_worse": 1.0, "most_lost": 1.0, **values["limits"]}),
                "names": {int(id): name for id, name in values["names"].items()},
            }
        )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


# A scan that needs fine-tuning has other codes than those of training: that is no objection. Nor is
# a slice that got worse: halfway to the new weights the rest of a scan hardly ever does, and a
# model that is refused helps nobody. What learns from two slices in short runs can tell no more
# than that something went badly wrong.
SCAN = FineTuneConfig(
    fold_share=0.15,
    mix_tolerance=0.1,
    # Another appearance may rightly take away what the old model found.
    limits=Limits(least_gain=-0.1, most_structure_loss=0.1, most_code_drift=0.3, most_lost=1.0),
)
#: To teach new structures in one scan: nothing of them is there to keep, and halfway is nowhere.
#: The old answers on other slices keep the structures that nobody painted.
ORGAN = FineTuneConfig(
    learns_anew=False,
    learning_rate=2e-3,
    pull=0.0,
    replay=1,
    soft_targets=1.0,
    mixes=(1.0,),
    cautious_mix=1.0,
    folds=2,
    limits=Limits(most_code_drift=0.3),
)
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
    """Settings for one scan, changed for a model that hardly knows it (`l2gnet_core.familiarity`):
    halfway to the new weights half of it would be the model that finds nothing, and what it knows
    of other scans it needs no more for this one."""
    limits = replace(config.limits, most_forgotten=1.0)
    return replace(
        config, pull=0.0, learning_rate=1.5e-3, mixes=(1.0,), cautious_mix=1.0, limits=limits
    )


def settings(several: bool, new: bool) -> FineTuneConfig:
    """The usual settings: for the project's model or one scan's, and for structures that the model
    does not have."""
    if several:
        return PROJECT
    return ORGAN if new else SCAN
