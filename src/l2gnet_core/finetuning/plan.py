"""What is decided before any weight changes: which model learns from what, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from l2gnet_core.finetuning.appearance_search import AppearanceSearch, seen_as
from l2gnet_core.finetuning.config import FineTuneConfig, unconstrained
from l2gnet_core.finetuning.correction_views import CorrectedScan, OldAnswer
from l2gnet_core.finetuning.familiarity import hardly_known
from l2gnet_core.finetuning.folds import Fold, folds
from l2gnet_core.finetuning.learner import Clock
from l2gnet_core.finetuning.lost_structures import held_back
from l2gnet_core.finetuning.new_structures import taught_labels, with_room_for
from l2gnet_core.finetuning.old_answers import Answers, beside_marks, old_answers, only_mistakes
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.device import on_device
from l2gnet_core.preprocessing.appearance import Appearance
from l2gnet_core.preprocessing.scan_kind import ScanKind
from l2gnet_core.relay import Stoppable
from l2gnet_core.segmenting.corrections import Correction, image_numbers


@dataclass(frozen=True, eq=False)
class Setup:
    """What a fine-tuning begins with.

    old: the model to fine-tune. shown: the same on `device`, shown these scans in one appearance;
    if they have several, each scan keeps its own. base: a copy of that with room for new
    structures. new: which of its classes are new. one_appearance: do the scans have only one?
    """

    old: Model
    shown: Model
    base: Model
    new: Sequence[bool]
    corrections: Sequence[Correction]
    config: FineTuneConfig
    folds: Sequence[Fold]
    device: str
    one_appearance: bool

    @classmethod
    def of(
        cls, model: Model, corrections: Sequence[Correction], config: FineTuneConfig, device: str
    ) -> Setup:
        """The setup for a model and corrections. Raises InputError for labels that cannot be
        taught."""
        labels = taught_labels(model.card.labels, corrections, config.names)
        appearances = {correction.appearance_in(model.card) for correction in corrections}
        one_appearance = len(appearances) == 1
        shown = seen_as(model, appearances.pop()) if one_appearance else model
        shown = replace(shown, network=on_device(shown.network, device))
        base, new = with_room_for(shown, labels)
        left_out = folds(corrections, config)
        return cls(model, shown, base, new, corrections, config, left_out, device, one_appearance)

    @cached_property
    def held_back(self) -> list[tuple[int, ...]]:
        """Of each correction, the untouched slices from which nothing is learnt. There are some if
        new structures are taught in one scan: test runs on a part of so few slices do not tell
        whether the new model still knows the others."""
        apart = self.config.kind == "scan" and any(self.new)
        return [held_back(correction) if apart else () for correction in self.corrections]

    @cached_property
    def images(self) -> list[Correction]:
        """One correction of each image."""
        numbers = image_numbers(self.corrections)
        return list(dict(zip(numbers, self.corrections, strict=True)).values())

    @cached_property
    def kind(self) -> ScanKind:
        """The kind of scan that these are."""
        return ScanKind.of([correction.profile(self.old.card) for correction in self.images])

    def changes(self, appearance: Appearance) -> bool:
        """Does an appearance differ from the old model's?"""
        return appearance != self.shown.card.appearance

    def base_in(self, appearance: Appearance) -> Model:
        """The base model, shown these scans in an appearance."""
        return seen_as(self.base, appearance) if self.changes(appearance) else self.base


@dataclass(frozen=True, eq=False)
class Plan:
    """How the runs of a fine-tuning learn.

    config: the settings, `unconstrained` if the old model hardly knows these scans (anew).
    appearances: in which the runs are shown the scans, the main run's first. beside: for each
    correction what its slices teach beside their marks.
    """

    setup: Setup
    config: FineTuneConfig
    appearances: Sequence[Appearance]
    beside: Sequence[Mapping[int, OldAnswer]]
    anew: bool

    @property
    def mixes(self) -> tuple[float, ...]:
        """The shares of new weights to compare."""
        # Mix 0 in a new appearance is a candidate; in the old one it would be the old model.
        mixes = self.config.mixes
        return (0.0, *mixes) if self.config.adapts_appearance else mixes


class LearntScans:
    """The scans of a plan as networks see them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # Scans can be large: only those of one appearance at a time are kept.
        self._kept: tuple[Appearance, list[CorrectedScan]] | None = None

    def whole(self, appearance: Appearance) -> list[CorrectedScan]:
        """The scans in an appearance, with all corrected slices."""
        return self.without([() for _ in self._plan.setup.corrections], appearance)

    def without(self, fold: Fold, appearance: Appearance) -> list[CorrectedScan]:
        """The scans in an appearance, without the slices that a fold leaves out."""
        kept = [
            [k for k, index in enumerate(correction.slices) if index not in slices]
            for correction, slices in zip(self._plan.setup.corrections, fold, strict=True)
        ]
        scans = zip(self._in(appearance), kept, strict=True)
        left = [scan.only(some) for scan, some in scans if some]
        return [scan for scan in left if scan.teaches] or left

    def _in(self, appearance: Appearance) -> list[CorrectedScan]:
        if self._kept is None or self._kept[0] != appearance:
            self._kept = None
            setup = self._plan.setup
            card = setup.base_in(appearance).card
            each = zip(setup.corrections, self._plan.beside, setup.held_back, strict=True)
            scans = [CorrectedScan.of(one, card, old, apart) for one, old, apart in each]
            self._kept = appearance, scans
        return self._kept[1]


def appearances_of_runs(
    setup: Setup, said: Sequence[Answers], clock: Clock
) -> Stoppable[tuple[Appearance, ...]]:
    """The appearances in which the runs are shown the scans, the main run's first.

    said: the old model's `old_answers`.
    """
    if not setup.config.adapts_appearance:
        return _unchanged(setup)
    return (yield from clock.searched(_search(setup, said, clock)))


def _search(
    setup: Setup, said: Sequence[Answers], clock: Clock
) -> Stoppable[tuple[Appearance, ...]]:
    """The appearances that a search finds, or the old one.

    For a project there is a search only if its scans are of one narrow kind, by which further scans
    of that kind can be recognised. A single scan does not tell how much its kind varies.
    """
    adapts = setup.one_appearance
    if setup.config.kind == "project":
        adapts = adapts and len(setup.images) > 1 and setup.kind.narrow
    if not adapts:
        return _unchanged(setup)
    # With the old model: new structures do not tell how a scan should look.
    search = AppearanceSearch(
        setup.shown,
        setup.corrections,
        setup.device,
        clock.search_is_over,
        zooms=setup.config.kind == "scan",
        silent=[only_mistakes(*pair) for pair in zip(setup.corrections, said, strict=True)],
    )
    return (yield from search.agreed(setup.folds))


def _unchanged(setup: Setup) -> tuple[Appearance, ...]:
    return (setup.shown.card.appearance,) * (1 + len(setup.folds))


def planned(
    setup: Setup, said: Sequence[Answers], appearances: Sequence[Appearance]
) -> Stoppable[Plan]:
    """The plan for runs in these appearances. said: the old model's `old_answers`."""
    config, corrections = setup.config, setup.corrections
    base = setup.base_in(appearances[0])
    beside: list[dict[int, OldAnswer]] = [{} for _ in corrections]
    if any(setup.new):
        # Of new structures the old model says that they are background.
        return Plan(setup, config, appearances, beside, anew=False)
    if config.learns_anew and (yield from hardly_known(base, corrections, setup.device)):
        return Plan(setup, unconstrained(config), appearances, beside, anew=True)
    if config.keeps_unmarked:
        if setup.changes(appearances[0]):
            said = yield from old_answers(base, corrections, setup.device)
        beside = [beside_marks(*pair) for pair in zip(corrections, said, strict=True)]
    return Plan(setup, config, appearances, beside, anew=False)
