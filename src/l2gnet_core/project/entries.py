"""The lines of a project's history: how each is written as JSON, and read.

Each class has the fields of the event in `events` that it is made of, with hashes in place of
models and names of files in place of arrays. The order of `to_json` is that of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias

from l2gnet_core.project.scans import grid_from_json, grid_to_json
from l2gnet_core.project.state import ModelId, SliceKey, places_from_json, places_to_json
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.volume import Grid

#: What reading raises for a line of another form than this version writes.
OTHER_FORM = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True)
class TidyingEntry:
    """A `Tidying`. painted: the file of what was painted, None if nothing was."""

    choices: CleanUp
    painted: str | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.choices), "painted": self.painted}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TidyingEntry:
        choices = {one.name: values[one.name] for one in fields(CleanUp)}
        return cls(CleanUp.from_json(choices), values["painted"])


@dataclass(frozen=True)
class AnswerEntry:
    """An `Answered`. filled: a file, None if no slice was filled in."""

    what: Literal["segmented", "accepted", "rolled back"]
    model: ModelId
    places: tuple[SliceKey, ...]
    spared: tuple[SliceKey, ...]
    tidying: TidyingEntry | None
    device: str
    remembered: bool
    undoable: bool
    filled: str | None
    goes_on: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "model": asdict(self.model),
            "places": places_to_json(self.places),
            "spared": places_to_json(self.spared),
            "tidying": self.tidying and self.tidying.to_json(),
            "device": self.device,
            "remembered": self.remembered,
            "undoable": self.undoable,
            "filled": self.filled,
            "goes_on": self.goes_on,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AnswerEntry:
        return cls(
            what=values["what"],
            model=ModelId(**values["model"]),
            places=_places(values["places"]),
            spared=_places(values["spared"]),
            tidying=_tidying(values["tidying"]),
            device=values["device"],
            remembered=values["remembered"],
            undoable=values["undoable"],
            filled=values["filled"],
            goes_on=values["goes_on"],
        )

    def and_then(self, more: AnswerEntry) -> AnswerEntry:
        """The run of which both are parts."""
        return replace(self, places=self.places + more.places, spared=self.spared + more.spared)


@dataclass(frozen=True)
class InterpolatedEntry:
    """An `Interpolated`. slices: a file."""

    what: ClassVar[str] = "interpolated"
    slices: str
    undoable: bool

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "slices": self.slices, "undoable": self.undoable}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InterpolatedEntry:
        return cls(values["slices"], values["undoable"])


@dataclass(frozen=True)
class FoundEntry:
    """A `Found`. slices: a file."""

    what: ClassVar[str] = "found"
    slices: str

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "slices": self.slices}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FoundEntry:
        return cls(values["slices"])


@dataclass(frozen=True)
class TidiedEntry:
    """A `Tidied`."""

    what: ClassVar[str] = "tidied"
    places: tuple[SliceKey, ...]
    tidying: TidyingEntry | None
    undoable: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "places": places_to_json(self.places),
            "tidying": self.tidying and self.tidying.to_json(),
            "undoable": self.undoable,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TidiedEntry:
        places, tidying = _places(values["places"]), _tidying(values["tidying"])
        return cls(places, tidying, values["undoable"])

    def and_then(self, more: TidiedEntry) -> TidiedEntry:
        """The tidying of which both are parts."""
        return replace(self, places=self.places + more.places)


@dataclass(frozen=True)
class SteppedEntry:
    """A `Stepped`."""

    what: Literal["undone", "redone"]

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SteppedEntry:
        return cls(values["what"])


@dataclass(frozen=True)
class ReviewedEntry:
    """A `Reviewed`."""

    what: Literal["reviewed", "not reviewed"]
    places: tuple[SliceKey, ...]

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "places": places_to_json(self.places)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ReviewedEntry:
        return cls(values["what"], _places(values["places"]))


@dataclass(frozen=True)
class CorrectionEntry:
    """A `Correction` of a fine-tuning, without its labels and weights.

    scan: the hash of its voxels. image: a number, equal for all corrections of one image.
    """

    scan: str
    grid: Grid
    axis: int
    slices: tuple[int, ...]
    unmarked: int | None
    checked: Mapping[int, list[int]]
    image: int

    def to_json(self) -> dict[str, Any]:
        return {
            "scan": self.scan,
            "grid": grid_to_json(self.grid),
            "axis": self.axis,
            "slices": list(self.slices),
            "unmarked": self.unmarked,
            "checked": {str(at): ids for at, ids in self.checked.items()},
            "image": self.image,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CorrectionEntry:
        return cls(
            scan=values["scan"],
            grid=grid_from_json(values["grid"]),
            axis=int(values["axis"]),
            slices=tuple(values["slices"]),
            unmarked=values["unmarked"],
            checked={int(at): ids for at, ids in values["checked"].items()},
            image=values["image"],
        )


@dataclass(frozen=True)
class FineTunedEntry:
    """A `FineTuned`.

    model: the new one. verdict, config, pace: as plain values, because whoever only opens a project
    must not depend on the settings of fine-tuning. arrays: the file of the corrections' labels and
    weights. threads: their number, on which floating-point sums depend.
    """

    what: ClassVar[str] = "fine-tuned"
    parent: ModelId
    model: ModelId
    kept: bool
    verdict: Mapping[str, Any]
    config: Mapping[str, Any]
    corrections: tuple[CorrectionEntry, ...]
    arrays: str
    pace: Mapping[str, Any]
    device: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "parent": asdict(self.parent),
            "model": asdict(self.model),
            "kept": self.kept,
            "verdict": self.verdict,
            "config": self.config,
            "corrections": [one.to_json() for one in self.corrections],
            "arrays": self.arrays,
            "pace": self.pace,
            "device": self.device,
            "threads": self.threads,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FineTunedEntry:
        return cls(
            parent=ModelId(**values["parent"]),
            model=ModelId(**values["model"]),
            kept=values["kept"],
            verdict=values["verdict"],
            config=values["config"],
            corrections=tuple(map(CorrectionEntry.from_json, values["corrections"])),
            arrays=values["arrays"],
            pace=values["pace"],
            device=values["device"],
            threads=int(values["threads"]),
        )


@dataclass(frozen=True)
class DiscardedEntry:
    """A `Discarded`."""

    what: ClassVar[str] = "discarded"
    model: ModelId

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "model": asdict(self.model)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DiscardedEntry:
        return cls(ModelId(**values["model"]))


@dataclass(frozen=True)
class UnknownEntry:
    """A line that this version does not know, as a newer version may write it. names_model: does it
    name a model?"""

    what: Any
    names_model: bool


KnownEntry: TypeAlias = (
    AnswerEntry
    | InterpolatedEntry
    | FoundEntry
    | TidiedEntry
    | SteppedEntry
    | ReviewedEntry
    | FineTunedEntry
    | DiscardedEntry
)
Entry: TypeAlias = KnownEntry | UnknownEntry

_KINDS: Mapping[str, type[KnownEntry]] = {
    "segmented": AnswerEntry,
    "accepted": AnswerEntry,
    "rolled back": AnswerEntry,
    "interpolated": InterpolatedEntry,
    "found": FoundEntry,
    "tidied": TidiedEntry,
    "undone": SteppedEntry,
    "redone": SteppedEntry,
    "reviewed": ReviewedEntry,
    "not reviewed": ReviewedEntry,
    "fine-tuned": FineTunedEntry,
    "discarded": DiscardedEntry,
}


def entry_from_json(values: Mapping[str, Any]) -> Entry:
    """A line with "what" and further values."""
    try:
        return _KINDS[values["what"]].from_json(values)
    except OTHER_FORM:
        return UnknownEntry(values["what"], "model" in values)


def _places(values: Any) -> tuple[SliceKey, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values} is no list of slices")
    return tuple(places_from_json(values))


def _tidying(values: Mapping[str, Any] | None) -> TidyingEntry | None:
    return None if values is None else TidyingEntry.from_json(values)
