"""The history of a project: one line of JSON for each event; arrays and models are in files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files.atomic import copy_files, replace_bytes
from l2gnet_core.project.entries import (
    OTHER_FORM,
    AnswerEntry,
    CorrectionEntry,
    DiscardedEntry,
    Entry,
    FineTunedEntry,
    FoundEntry,
    InterpolatedEntry,
    KnownEntry,
    ReviewedEntry,
    SteppedEntry,
    TidiedEntry,
    TidyingEntry,
    UnknownEntry,
    entry_from_json,
)
from l2gnet_core.project.events import (
    Answered,
    Discarded,
    Event,
    FineTuned,
    Found,
    Interpolated,
    Reviewed,
    Stepped,
    Tidied,
    Tidying,
)
from l2gnet_core.project.models import ModelStore, id_of
from l2gnet_core.project.scans import (
    identify,
    load_arrays,
    load_voxels,
    save_arrays,
    save_voxels,
    unnamed,
)
from l2gnet_core.project.state import ModelId, SliceKey, SliceState

if TYPE_CHECKING:
    from l2gnet_core.finetuning.guard import Verdict
    from l2gnet_core.segmenting.corrections import Correction


@dataclass(frozen=True)
class SavedVersion:
    """A model of a project; `History.models` loads it.

    kind: "original" for the first one, "scan" or "project" for a fine-tuned one, "file" for others.
    verdict: of a fine-tuned one.
    """

    model: ModelId
    parent: ModelId
    kind: Literal["original", "scan", "project", "file"]
    verdict: Verdict | None = None


class History:
    """Events on disk, in order. A last line that a crash cut short is ignored."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "history.jsonl"
        self._attached = folder / "attached"
        self.scans = folder / "scans"
        self.models = ModelStore(folder / "models")
        # By hash. Corrections of one scan share its voxels.
        self._in_use: WeakValueDictionary[str, NDArray[Any]] = WeakValueDictionary()
        # The lines and the small files, as they are on disk since `mend`.
        self._lines = b""
        self._arrays: dict[str, bytes] = {}
        # The history that this one goes on with, until that is written here.
        self._earlier: History | None = None

    def mend(self) -> None:
        """Delete a last line that a crash cut short, so that the next one is not appended to it."""
        whole = self._bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.truncate(self.file, end)
        self._lines = whole[:end]
        self._arrays = {file.name: file.read_bytes() for file in self._attached.glob("*.npz")}

    def is_as_left(self) -> bool:
        """Are there as many bytes of lines as were written?"""
        try:
            return self.file.stat().st_size == len(self._lines)
        except (FileNotFoundError, NotADirectoryError):
            return not self._lines or self._earlier is not None

    def go_on(self, earlier: History) -> None:
        """Begin with the events of another history, whose folder may be gone; they are written by
        `write_earlier`."""
        self._lines, self._arrays = earlier._lines, dict(earlier._arrays)
        self._earlier = earlier

    def write_earlier(self) -> None:
        """Write the history that this one goes on with, if that is not done yet.

        Models that are not in memory, and other scans, are copied if they are still in its folder.
        Raises OutputError.
        """
        earlier = self._earlier
        if earlier is None:
            return
        self.models.take_over(earlier.models)
        copy_files(earlier.scans, self.scans)
        if self._arrays:
            self._attached.mkdir(exist_ok=True)
        for name, content in self._arrays.items():
            replace_bytes(self._attached / name, content)
        replace_bytes(self.file, self._lines)
        self._earlier = None

    def add(self, event: Event) -> None:
        """Write one event, after the files that it refers to. Raises OutputError."""
        number = self._lines.count(b"\n")
        entry = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._entry(event, number).to_json(),
        }
        line = (json.dumps(entry) + "\n").encode()
        try:
            with self.file.open("ab") as file:
                at = file.tell()
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    # On a full disk, half a line must not stay before the next one.
                    os.truncate(self.file, at)
                    raise
        except OSError as error:
            raise OutputError(
                f"{self.file} cannot be written: {error.strerror or error}."
            ) from error
        self._lines += line

    def entries(self) -> list[Entry]:
        """All lines. Raises InputError for one that is damaged."""
        damaged: set[int] = set()
        found = self._readable(damaged)
        if damaged:
            raise InputError(
                f"Expected the history of a project in {self.file}, but a line of it is damaged; "
                "restore the project folder from a copy."
            )
        return [entry for _, entry in found]

    def _readable(self, damaged: set[int]) -> list[tuple[int, Entry]]:
        """The lines that can be read, with their numbers; those of the others go into `damaged`."""
        *lines, _ = self._bytes().split(b"\n")
        found = []
        for number, line in enumerate(lines, 1):
            try:
                values = json.loads(line)
                if not isinstance(values, dict) or "what" not in values:
                    raise ValueError("not an event")
                found.append((number, entry_from_json(values)))
            except (ValueError, RecursionError):
                damaged.add(number)
        return found

    def _bytes(self) -> bytes:
        try:
            return self.file.read_bytes()
        except FileNotFoundError:
            return b""

    # ------------------------------------------------------------------ events → lines

    def _entry(self, event: Event, number: int) -> KnownEntry:
        """The entry of an event, after the files that it refers to."""
        match event:
            case Answered():
                tidying, filled = self._tidying(event.tidying, number), None
                if event.filled:
                    filled = f"{number:05d}-filled.npz"
                    self._attach_slices(filled, event.filled, ("labels", "raw"))
                return AnswerEntry(
                    what=event.what,
                    model=self.models.keep(event.model),
                    places=tuple(event.places),
                    spared=tuple(sorted(event.spared)),
                    tidying=tidying,
                    device=event.device,
                    remembered=event.remembered,
                    undoable=event.undoable,
                    filled=filled,
                    goes_on=event.goes_on,
                )
            case Interpolated():
                return InterpolatedEntry(self._answers(event.slices, number), event.undoable)
            case Found():
                return FoundEntry(self._answers(event.slices, number))
            case Tidied():
                tidying = self._tidying(event.tidying, number)
                return TidiedEntry(tuple(event.places), tidying, event.undoable)
            case Stepped():
                return SteppedEntry(event.what)
            case Reviewed():
                places = tuple(sorted(event.places))
                return ReviewedEntry("reviewed" if event.reviewed else "not reviewed", places)
            case FineTuned():
                return self._fine_tuned(event, number)
            case Discarded():
                return DiscardedEntry(id_of(event.model))

    def _answers(self, slices: Mapping[SliceKey, SliceState], number: int) -> str:
        file = f"{number:05d}-answers.npz"
        self._attach_slices(file, slices, ("labels", "raw"))
        return file

    def _tidying(self, tidying: Tidying | None, number: int) -> TidyingEntry | None:
        if tidying is None:
            return None
        file = None
        if tidying.painted:
            file = f"{number:05d}-painted.npz"
            self._attach_slices(file, tidying.painted, ("labels", "by_person"))
        return TidyingEntry(tidying.choices, file)

    def _fine_tuned(self, event: FineTuned, number: int) -> FineTunedEntry:
        import torch

        from l2gnet_core.segmenting.corrections import image_numbers

        file, result = f"{number:05d}-corrections.npz", event.result
        arrays: dict[str, Any] = {}
        for i, correction in enumerate(event.corrections):
            for name in ("pictures", "picture_weights"):
                arrays[f"{i}-{name}"] = np.stack(getattr(correction, name))
        self._attach(file, arrays)
        images = image_numbers(event.corrections)
        return FineTunedEntry(
            parent=self.models.keep(event.parent),
            model=self.models.keep(result.model),
            kept=result.verdict.kept,
            verdict=result.verdict.to_json(),
            config=event.config.to_json(),
            corrections=tuple(map(self._correction, event.corrections, images)),
            arrays=file,
            pace=asdict(result.pace),
            device=event.device,
            threads=torch.get_num_threads(),
        )

    def _correction(self, correction: Correction, image: int) -> CorrectionEntry:
        grid = unnamed(correction.grid).frame
        volume = grid.volume(np.asarray(correction.scan))
        # A scan may be learnt from more than once, or be the project's own.
        voxels = identify(volume).voxels
        file = self.scan_file(voxels)
        if not file.exists():
            self.scans.mkdir(exist_ok=True)
            save_voxels(file, volume)
        return CorrectionEntry(
            scan=voxels,
            grid=grid,
            axis=correction.axis,
            slices=correction.slices,
            unmarked=correction.unmarked,
            checked={at: sorted(ids) for at, ids in correction.checked.items()},
            image=image,
        )

    def _attach_slices(
        self, file: str, slices: Mapping[SliceKey, SliceState], names: Sequence[str]
    ) -> None:
        parts = {
            f"{frame}-{index}-{name}": getattr(one, name)
            for (frame, index), one in slices.items()
            for name in names
        }
        self._attach(file, parts)

    def _attach(self, file: str, arrays: Mapping[str, Any]) -> None:
        self._attached.mkdir(exist_ok=True)
        save_arrays(self._attached / file, arrays)
        self._arrays[file] = (self._attached / file).read_bytes()

    def scan_file(self, voxels: str) -> Path:
        """The file of the voxels with this hash."""
        return self.scans / f"{voxels[:16]}.npy"

    # ------------------------------------------------------------------ lines → what they need

    def voxels(self, known: str) -> NDArray[Any]:
        """The voxels with a hash, (z,y,x) or (t,z,y,x); the same array again while it is in use.

        Raises InputError if they are damaged.
        """
        voxels = self._in_use.get(known)
        if voxels is None:
            voxels = self._in_use[known] = load_voxels(self.scan_file(known), known)
        return voxels

    def tidying(self, entry: TidyingEntry) -> Tidying:
        """A tidying with its painted slices."""
        painted = {}
        for place, arrays in self.slices(entry.painted).items():
            labels = arrays["labels"]
            painted[place] = SliceState(labels, arrays["by_person"], labels)
        return Tidying(entry.choices, painted)

    def slices(self, file: str | None) -> dict[SliceKey, dict[str, NDArray[Any]]]:
        """Arrays (H,W) by name, such as "labels" and "raw", by slice; none without a file."""
        found: dict[SliceKey, dict[str, NDArray[Any]]] = {}
        for name, array in (load_arrays(self._attached / file) if file else {}).items():
            frame, index, kind = name.split("-")
            found.setdefault((int(frame), int(index)), {})[kind] = array
        return found

    def versions(self, damaged: set[int]) -> list[SavedVersion]:
        """The models whose answers the mask can show, in order, the original one first.

        Fine-tuned models that were not kept or were discarded are left out. damaged: takes up the
        numbers, from 1, of lines that cannot be read and may have named others.
        """
        from l2gnet_core.finetuning.guard import Verdict

        first: SavedVersion | None = None
        found: dict[ModelId, SavedVersion] = {}
        accepted: set[ModelId] = set()
        answering: ModelId | None = None
        for number, entry in self._readable(damaged):
            match entry:
                case FineTunedEntry(parent, model, kept=True):
                    try:
                        kind, verdict = entry.config["kind"], Verdict.from_json(entry.verdict)
                    except OTHER_FORM:
                        damaged.add(number)
                        continue
                    found.setdefault(model, SavedVersion(model, parent, kind, verdict))
                case DiscardedEntry(model):
                    # An equal model may have been learnt and accepted before.
                    if model not in accepted:
                        found.pop(model, None)
                case AnswerEntry(what, model):
                    if what == "segmented":
                        first = SavedVersion(model, model, "original")
                    elif model not in found and (first is None or first.model != model):
                        found[model] = SavedVersion(model, answering or model, "file")
                    accepted.add(model)
                    answering = model
                case UnknownEntry(names_model=True):
                    damaged.add(number)
        return [*([first] if first else []), *found.values()]

    def corrections(self, entry: FineTunedEntry) -> list[Correction]:
        """The corrections of a fine-tuning."""
        from l2gnet_core.segmenting.corrections import Correction

        arrays = load_arrays(self._attached / entry.arrays)
        found = []
        for i, one in enumerate(entry.corrections):
            scan, slices = self.voxels(one.scan), list(one.slices)
            labels, weights = np.zeros(scan.shape, np.uint16), None
            np.moveaxis(labels, one.axis, 0)[slices] = arrays[f"{i}-pictures"]
            of_slices = arrays[f"{i}-picture_weights"]
            if (of_slices != 1).any():
                weights = np.ones(scan.shape, np.float32)
                np.moveaxis(weights, one.axis, 0)[slices] = of_slices
            found.append(
                Correction(
                    scan,
                    one.grid,
                    one.axis,
                    labels,
                    one.slices,
                    unmarked=one.unmarked,
                    weights=weights,
                    image=one.image,
                    checked=one.checked,
                )
            )
        return found
