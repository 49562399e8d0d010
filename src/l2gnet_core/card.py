"""Model cards: what a model is, what it knows, what it was trained on and how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

from numpy.typing import NDArray

from l2gnet_core.appearance import PLAIN, Appearance
from l2gnet_core.cleanup import CleanUp
from l2gnet_core.intensities import SOFT_TISSUE_OF_CT
from l2gnet_core.labels import Label, LabelSet
from l2gnet_core.scan_kind import KindAppearance, scan_profile


@dataclass(frozen=True)
class Expectations:
    """What scans a model was made for, as far as a file can show it; ranges are (low, high).

    `modality` is "MR" or "CT". `pixel` is the in-plane voxel size and `slice` the distance between
    slices, in mm. `volumes` gives, by structure name, the usual volume in mL.
    """

    modality: str = ""
    pixel: tuple[float, float] | None = None
    slice: tuple[float, float] | None = None
    volumes: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Expectations:
        """Read what `ModelCard.to_json` wrote: JSON has no tuples."""

        def pair(value: Any) -> tuple[float, float] | None:
            return None if value is None else (float(value[0]), float(value[1]))

        volumes = {name: (float(a), float(b)) for name, (a, b) in values["volumes"].items()}
        return cls(values["modality"], pair(values["pixel"]), pair(values["slice"]), volumes)


@dataclass(frozen=True)
class CodeStatistics:
    """Which codes a model's training scans use.

    `counts` has the cells of all training slices by code. `distances` are those of single
    scans from all other patients' together, ascending, a few dozen at most
    (`l2gnet_core.inspect.populations` says how they are measured).
    """

    counts: tuple[int, ...]
    distances: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CodeStatistics:
        """Read what `ModelCard.to_json` wrote: JSON has no tuples."""
        return cls(tuple(map(int, values["counts"])), tuple(map(float, values["distances"])))


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model but its weights; stored beside them in the checkpoint.

    `slicing` is "axial", "coronal", "sagittal" or "through-plane". `views` is the number of
    views over which predictions are averaged: 1, or 4 quarter turns for models without left and
    right, or 2 for those that have them: the slice and, where it may be mirrored, its mirror image.
    `oriented` models tell left from right: `l2gnet_core.slice_view` says which way round they see
    slices. `spacing` is the distance between slices, rows and columns, in mm, at which the network
    saw its training slices; where a scan's voxel size is known, its slices are resampled in plane
    to it. `sides` is the range, in pixels, of the longer side of the slices learnt from; slices
    outside of it are brought to its middle, unless `spacing` already says how large they are seen.
    `appearance` is how the network is shown slices at inference, by default as they are; `kinds`
    names scans that it is shown otherwise, the first that a scan is of counts. `clean_up` is how
    masks are tidied unless the user chooses otherwise. `scores` maps structure names to measures
    ({"dice": …, "hd95": …}) on the patients of `split["test"]`. `codes` says which codes the
    training scans use, for models that have codes. `history` tells each fine-tuning that the
    weights went through, those before a training that began with them too: the model it began with,
    on how much, how, what the guard found, and the fingerprints of the scans (z,y,x).
    """

    name: str
    labels: LabelSet
    architecture: str = "l2gnet"
    slicing: str = "through-plane"
    views: int = 1
    oriented: bool = False
    spacing: tuple[float, float, float] | None = None
    sides: tuple[int, int] | None = None
    appearance: Appearance = PLAIN
    kinds: tuple[KindAppearance, ...] = ()
    clean_up: CleanUp = field(default_factory=CleanUp)
    summary: str = ""
    data: str = ""
    licence: str = ""
    citation: str = ""
    expects: Expectations = field(default_factory=Expectations)
    split: Mapping[str, list[str]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    weaknesses: tuple[str, ...] = ()
    codes: CodeStatistics | None = None
    history: tuple[Mapping[str, Any], ...] = ()

    def seen_window(self, window: tuple[float, float], ct: bool) -> tuple[float, float]:
        """The two intensities that become 0 and 1 of a scan with this window (`intensity_window`),
        which is a CT in Hounsfield units (`is_ct`) or not.
        To a model of MR the organs of a CT, from air to bone, would all be one grey."""
        return SOFT_TISSUE_OF_CT if ct and self.expects.modality == "MR" else window

    def appearance_of(self, slices: NDArray[Any], window: tuple[float, float]) -> Appearance:
        """How the network is shown a scan's slices (n,H,W), of which `window` becomes 0 and 1."""
        if self.kinds:
            profile = scan_profile(slices, window)
            for known in self.kinds:
                if known.kind.holds(profile):
                    return known.appearance
        return self.appearance

    @property
    def shown(self) -> str:
        """How the network is shown scans, in words."""
        parts = [str(self.appearance)]
        parts += [f"some kinds of scan {known.appearance}" for known in self.kinds]
        return "; ".join(parts)

    def score(self, structure: str, measure: str, digits: int) -> str:
        """One of the `scores` with so many decimals; "" if there is none.

        Halves go up, as when a person rounds what the card holds: to the computer 0.9325 is a
        little less.
        """
        value = self.scores.get(structure, {}).get(measure)
        if value is None:
            return ""
        with localcontext() as context:
            context.rounding = ROUND_HALF_UP
            return f"{Decimal(str(value)):.{digits}f}"

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back."""
        return {**asdict(self), "labels": [asdict(label) for label in self.labels]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelCard:
        """Inverse of `to_json`."""
        return cls(
            **{
                **values,
                "labels": LabelSet(tuple(Label(**label) for label in values["labels"])),
                "spacing": _spacing(values.get("spacing")),
                "sides": tuple(values["sides"]) if values.get("sides") else None,
                # Cards of the first models have none of these.
                "appearance": Appearance(**values.get("appearance", {})),
                "kinds": tuple(map(KindAppearance.from_json, values.get("kinds", ()))),
                "clean_up": CleanUp.from_json(values.get("clean_up", {})),
                "expects": Expectations.from_json(values["expects"]),
                "weaknesses": tuple(values["weaknesses"]),
                "codes": CodeStatistics.from_json(values["codes"]) if values.get("codes") else None,
                "history": tuple(values.get("history", ())),
            }
        )


def _spacing(value: Any) -> tuple[float, float, float] | None:
    if value is None:
        return None
    between, rows, columns = (float(size) for size in value)
    if not all(0 < size < float("inf") for size in (between, rows, columns)):
        raise ValueError(f"{value} is no voxel size")
    return between, rows, columns
