"""Model cards: what a model is, what it was trained on, and how well it scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

from numpy.typing import NDArray

from l2gnet_core.preprocessing.appearance import PLAIN, Appearance
from l2gnet_core.preprocessing.intensities import SOFT_TISSUE_OF_CT
from l2gnet_core.preprocessing.scan_kind import KindAppearance, scan_profile
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import Label, LabelSet


@dataclass(frozen=True)
class Expectations:
    """The scans that a model was made for, as far as a file shows it; ranges are (low, high).

    modality: "MR", "CT" or "". pixel: in-plane voxel size in mm. slice: distance between slices in
    mm. volumes: the usual volume in mL by structure name.
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

    counts: number of cells of all training slices, by code. distances: of single scans from those
    of all other patients together, ascending, a few dozen at most
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
    """Everything about a model except its weights; stored with them in the checkpoint.

    slicing: "axial", "coronal", "sagittal" or "through-plane".
    views: number of views over which predictions are averaged: 1; or 4 quarter turns for models
        without left and right; or 2 for models with them, the slice and, if it may be mirrored, its
        mirror image.
    oriented: does the model tell left from right? `l2gnet_core.segmenting.slice_view` says in which
        orientation it sees slices.
    spacing: distance between slices, rows and columns, in mm, in training. If a scan's voxel size
        is known, its slices are resampled in plane to it.
    sides: range, in pixels, of the longer side of the training slices. Other slices are resized to
        its middle, unless `spacing` decides their size.
    appearance: how the network is shown slices at inference. kinds: kinds of scans that are shown
        in another appearance; the first that fits a scan counts.
    clean_up: how masks are tidied unless the user chooses otherwise.
    split: patients by part: "train", "tuning", "test".
    scores: measures ({"dice": …, "hd95": …}) by structure name, on the patients of `split["test"]`.
    codes: which codes the training scans use; None without codes.
    history: an entry for each fine-tuning of these weights, also before a training that started
        from them: the model before, settings, verdict, and fingerprints of the scans (z,y,x).
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
        """The two intensities that become 0 and 1 in a scan with this `intensity_window`. ct: is it
        one (`is_ct`)? To a model of MR a CT is shown in the window of soft tissue: in one from air
        to bone, all organs would have the same grey."""
        return SOFT_TISSUE_OF_CT if ct and self.expects.modality == "MR" else window

    def appearance_of(self, slices: NDArray[Any], window: tuple[float, float]) -> Appearance:
        """The appearance for a scan's slices (n,H,W), in which `window` becomes 0 and 1."""
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
        """One of the `scores` with this number of decimals; "" if there is none.

        Halves are rounded up in decimal: as a binary number, 0.9325 is a little less.
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
                "spacing": _spacing(values["spacing"]),
                "sides": tuple(values["sides"]) if values["sides"] else None,
                "appearance": Appearance(**values["appearance"]),
                "kinds": tuple(map(KindAppearance.from_json, values["kinds"])),
                "clean_up": CleanUp.from_json(values["clean_up"]),
                "expects": Expectations.from_json(values["expects"]),
                "weaknesses": tuple(values["weaknesses"]),
                "codes": CodeStatistics.from_json(values["codes"]) if values["codes"] else None,
                "history": tuple(values["history"]),
            }
        )


def _spacing(value: Any) -> tuple[float, float, float] | None:
    if value is None:
        return None
    between, rows, columns = (float(size) for size in value)
    if not all(0 < size < float("inf") for size in (between, rows, columns)):
        raise ValueError(f"{value} is no voxel size")
    return between, rows, columns
