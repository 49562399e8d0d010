"""Repeat what was done in a project, without napari, and compare the result with the saved one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from l2gnet_core.errors import InputError
from l2gnet_core.files import WRITABLE, suffix_of, write_labels
from l2gnet_core.finetuning.config import FineTuneConfig
from l2gnet_core.finetuning.learner import Pace
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.project.array_delta import ArrayDelta
from l2gnet_core.project.entries import (
    OTHER_FORM,
    AnswerEntry,
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
)
from l2gnet_core.project.events import Tidying
from l2gnet_core.project.folder import ProjectFolder
from l2gnet_core.project.models import id_of
from l2gnet_core.project.scans import seen_grid
from l2gnet_core.project.state import ModelId, ProjectState, SliceKey, slice_of
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.files import require_replaceable
from l2gnet_core.segmenting.predict import predict_slices

MASK_FILE = "mask.nii.gz"
#: "labels" and "raw" answers by slice.
_Slices = Mapping[SliceKey, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    mask: on the scan's grid, with the ids of `state.labels`. different: by slice, the number of
    voxels that differ from the saved mask. learnt: for each fine-tuning whose result was kept,
    "parent", "model" and whether the weights are "equal".
    """

    mask: NDArray[Any]
    state: ProjectState
    different: dict[SliceKey, int]
    learnt: list[dict[str, Any]]

    @property
    def equal(self) -> bool:
        """Are all voxels and all weights equal to the saved ones?"""
        return not self.different and all(one["equal"] for one in self.learnt)

    def to_json(self, file: Path) -> dict[str, Any]:
        """The report of `l2gnet replay --json`."""
        return {
            "mask": str(file),
            "equal": self.equal,
            "different_voxels": sum(self.different.values()),
            "different_slices": [
                {"frame": frame, "slice": index, "voxels": count}
                for (frame, index), count in sorted(self.different.items())
            ],
            "model": self.state.model and self.state.model.name,
            "finetuned": self.learnt,
            "labels": self.state.labels.names,
        }


@dataclass(frozen=True)
class ReplayStep:
    """Progress. done: share of the entries, 0 to 1. message: what is being done. result: on the
    last step only."""

    done: float
    message: str
    result: Replay | None = None


def mask_file(output: Path) -> Path:
    """The file for a replayed mask: `output` if it has a mask's suffix, else a file in that folder.

    Raises InputError for other suffixes, and for an existing file that l2gnet did not write.
    """
    suffix = suffix_of(output)
    if suffix in WRITABLE and not output.is_dir():
        require_replaceable(output)
        return output
    if not output.is_dir() and (suffix or output.exists()):
        raise InputError(
            f"Expected a folder or one of {', '.join(WRITABLE)} to write the mask to, but {output} "
            "is neither; choose another output, or make that folder first."
        )
    require_replaceable(output / MASK_FILE)
    return output / MASK_FILE


def write_replay(replay: Replay, file: Path) -> None:
    """Write the mask in the scan's grid. Raises OutputError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    labels = replay.state.labels
    write_labels(file, replay.mask, replay.state.grid, labels.names, labels.colors)


def replay(project: ProjectFolder, device: str = "cpu") -> Iterator[ReplayStep]:
    """Repeat what was done in a project: segment, fine-tune, accept, tidy; then add painted voxels.

    Reviewed slices count as painted as a whole. Raises InputError for a damaged project.
    """
    state = project.read_state()
    project.require_whole(state)
    entries = _whole(_known(project))
    recalled = (
        one.model.sha256 for one in entries if isinstance(one, AnswerEntry) and one.remembered
    )
    again = _Again(project, state, device, Counter(recalled))
    for number, entry in enumerate(entries):
        try:
            messages = again.prepare(entry)
        except InputError:
            raise
        except OTHER_FORM as error:
            raise _unknown(project, number, entry) from error
        # Outside of the try, because an error here is a bug, not a fault of the project.
        for message in messages:
            yield ReplayStep(number / len(entries), message)
    saved, there = project.read_slices(state)
    mine = saved.by_person.copy()
    # Slices that a crash left unsettled are taken as they are, as resuming does.
    for place in state.reviewed | state.unsettled:
        slice_of(mine, place, state.axis)[...] = True
    mask = np.where(mine, saved.labels, again.answer).astype(saved.labels.dtype)
    others = np.moveaxis(mask != saved.labels, 1 + state.axis, 1).sum((2, 3))
    # Only saved slices are compared: a crash may have come before all were saved.
    different = {place: int(others[place]) for place in sorted(there) if others[place]}
    result = Replay(mask.reshape(state.grid.shape), state, different, again.learnt)
    yield ReplayStep(1.0, "Done", result)


def _known(project: ProjectFolder) -> list[KnownEntry]:
    """The entries of the history. Raises InputError for one that this version does not know."""
    known: list[KnownEntry] = []
    for number, entry in enumerate(project.history.entries()):
        if isinstance(entry, UnknownEntry):
            raise _unknown(project, number, entry)
        known.append(entry)
    return known


def _unknown(project: ProjectFolder, number: int, entry: Entry) -> InputError:
    return InputError(
        f"Expected a history that this version knows in {project.path}, but entry {number + 1} "
        f"({entry.what}) is another; update napari-l2gnet."
    )


def _whole(entries: Sequence[KnownEntry]) -> list[KnownEntry]:
    """Merge entries of one run, which is noted in parts as its slices are saved.

    Results are bitwise equal only if batches hold the same slices. Entries between the parts do
    not concern answers.
    """
    whole: list[KnownEntry] = []
    last: dict[str, int] = {}
    for entry in entries:
        at = last.get(entry.what, len(whole))
        match entry, whole[at : at + 1]:
            case AnswerEntry(goes_on=True) as more, [AnswerEntry() as first]:
                whole[at] = first.and_then(more)
            case TidiedEntry(tidying=None) as more, [TidiedEntry() as first]:
                whole[at] = first.and_then(more)
            case _:
                last[entry.what] = len(whole)
                whole.append(entry)
    return whole


@dataclass
class _Again:
    """A replay in progress.

    recalled: how many entries to come are remembered answers, by the model's hash. answer: of the
    models as shown, (t,z,y,x).
    """

    project: ProjectFolder
    state: ProjectState
    device: str
    recalled: Counter[str]
    learnt: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._scan = self.project.read_voxels(self.state).reshape(self.state.shape)
        grid = self.state.grid
        self._grid = seen_grid(grid, self.state.orientation).frame
        self._raw = np.zeros(self.state.shape, np.uint16)
        self.answer = np.zeros_like(self._raw)
        self._models: dict[str, Model] = {}
        # Answers for the whole scan that are recalled later, by the model's hash, and the hash of
        # the first model.
        self._said: dict[str, NDArray[Any]] = {}
        self._first = ""
        # Changes of (raw, answer) that can be undone or redone, the latest one last.
        self._undo: list[tuple[ArrayDelta, ArrayDelta]] = []
        self._redo: list[tuple[ArrayDelta, ArrayDelta]] = []

    # ------------------------------------------------------------------ reading

    def prepare(self, entry: KnownEntry) -> Iterator[str]:
        """Read what an entry of the history needs; iterating over the result does it again.

        The iterator yields a message at each point where it can be stopped. Raises one of
        OTHER_FORM for an entry that does not fit the project, InputError for damaged files.
        """
        match entry:
            case AnswerEntry():
                return self._prepared_answer(entry)
            case InterpolatedEntry(file, undoable):
                return self._interpolate(self._slices(file), undoable)
            case FoundEntry(file):
                return self._find(self._slices(file))
            case TidiedEntry(places):
                self._require_inside(places)
                if entry.tidying is None:
                    raise ValueError("a part of a tidying without its beginning")
                return self._tidy(self._tidying(entry.tidying), places, entry.undoable)
            case SteppedEntry(what):
                if not (self._undo if what == "undone" else self._redo):
                    raise IndexError(what)
                return self._move(back=what == "undone")
            case FineTunedEntry(kept=True):
                corrections = self.project.history.corrections(entry)
                config, pace = FineTuneConfig.from_json(entry.config), Pace.from_json(entry.pace)
                return self._learn(entry, corrections, config, pace)
            # Where the old model stayed, there is nothing to do again.
            case FineTunedEntry() | ReviewedEntry() | DiscardedEntry():
                return iter(())

    def _prepared_answer(self, entry: AnswerEntry) -> Iterator[str]:
        self._require_inside(entry.places)
        self._require_inside(entry.spared)
        tidying = self._tidying(entry.tidying) if entry.tidying else None
        filled = self._slices(entry.filled)
        if entry.remembered and entry.model.sha256 not in (*self._said, self._first):
            raise KeyError(entry.model.name)
        return self._take(entry, tidying, filled)

    def _tidying(self, entry: TidyingEntry) -> Tidying:
        tidying = self.project.history.tidying(entry)
        for place, one in tidying.painted.items():
            self._require_fits(place, one.labels, one.by_person)
        return tidying

    def _slices(self, file: str | None) -> _Slices:
        """The slices in a file, with "labels" and "raw"."""
        slices = self.project.history.slices(file)
        for place, arrays in slices.items():
            self._require_fits(place, arrays["labels"], arrays["raw"])
        return slices

    def _require_inside(self, places: Iterable[SliceKey]) -> None:
        """Raise IndexError for a slice that the mask does not have."""
        frames, count = self.state.shape[0], self.state.shape[1 + self.state.axis]
        if not all(0 <= frame < frames and 0 <= index < count for frame, index in places):
            raise IndexError("a slice outside of the mask")

    def _require_fits(self, place: SliceKey, *arrays: NDArray[Any]) -> None:
        """Raise IndexError or ValueError for arrays that are no slice of the mask at this place."""
        self._require_inside([place])
        shape = slice_of(self.answer, place, self.state.axis).shape
        if any(array.shape != shape for array in arrays):
            raise ValueError("slices of another shape")

    # ------------------------------------------------------------------ doing

    def _take(self, entry: AnswerEntry, tidying: Tidying | None, filled: _Slices) -> Iterator[str]:
        """Take a model's answer in, tidied as it was then."""
        before = self._raw.copy(), self.answer.copy()
        first = entry.what == "segmented"
        if first:
            self._first = entry.model.sha256
        else:
            self._keep_first(before[0])
        places: Sequence[SliceKey] = entry.places
        if entry.remembered:
            raw = self._recall(entry.model.sha256)
            everywhere = np.ndindex(self.state.shape[0], self.state.shape[1 + self.state.axis])
            places = [(frame, index) for frame, index in everywhere]
        else:
            # Spared slices are segmented too, because batches and tidying depend on them. They
            # keep only what they show.
            raw = self._raw.copy()
            yield from self._segment(entry.model, places, raw)
            if not first and self.recalled[entry.model.sha256]:
                self._said[entry.model.sha256] = raw
        answer = tidying.whole(raw, self.state.axis) if tidying else raw
        taken = set(places) - set(entry.spared)
        self._put(self._raw, raw, places)
        self._put(self.answer, answer, taken)
        self._fill(filled)
        if entry.undoable and not first:
            self._remember_change(*before)

    def _keep_first(self, raw: NDArray[Any]) -> None:
        """Keep the first model's answer, which is complete when something else is taken in."""
        if self.recalled[self._first]:
            self._said.setdefault(self._first, raw)

    def _recall(self, model: str) -> NDArray[Any]:
        """A model's last answer; it is kept no longer than it is needed."""
        self.recalled[model] -= 1
        return self._said[model] if self.recalled[model] else self._said.pop(model)

    def _interpolate(self, slices: _Slices, undoable: bool) -> Iterator[str]:
        yield from ()
        before = self._raw.copy(), self.answer.copy()
        self._keep_first(before[0])
        self._fill(slices)
        if undoable:
            self._remember_change(*before)

    def _find(self, slices: _Slices) -> Iterator[str]:
        yield from ()
        self._fill(slices)

    def _tidy(
        self, tidying: Tidying, places: Collection[SliceKey], undoable: bool
    ) -> Iterator[str]:
        yield "Tidying"
        before = self._raw, self.answer.copy()
        self._put(self.answer, tidying.whole(self._raw, self.state.axis), places)
        if undoable:
            self._remember_change(*before)

    def _move(self, back: bool) -> Iterator[str]:
        """Undo the last change, or redo the one undone last."""
        yield from ()
        taken, given = (self._undo, self._redo) if back else (self._redo, self._undo)
        given.append(taken.pop())
        raw, answer = given[-1]
        raw.into(self._raw, back)
        answer.into(self.answer, back)

    def _remember_change(self, raw: NDArray[Any], answer: NDArray[Any]) -> None:
        """Make the change since (raw, answer) one that can be undone."""
        deltas = ArrayDelta.between(raw, self._raw), ArrayDelta.between(answer, self.answer)
        self._undo.append(deltas)
        self._redo.clear()

    def _fill(self, slices: _Slices) -> None:
        """Take in labels that no model gave: interpolated ones, or those found after a crash."""
        for place, arrays in slices.items():
            slice_of(self._raw, place, self.state.axis)[...] = arrays["raw"]
            slice_of(self.answer, place, self.state.axis)[...] = arrays["labels"]

    def _segment(self, id: ModelId, places: Sequence[SliceKey], raw: NDArray[Any]) -> Iterator[str]:
        """Write a model's raw answer for these slices into `raw`."""
        yield f"Loading {id.name}"
        model = self._model(id)
        frames: dict[int, list[int]] = {}
        for frame, index in places:
            frames.setdefault(frame, []).append(index)
        for frame, indices in frames.items():
            scan, axis = self._scan[frame], self.state.axis
            for done in predict_slices(model, scan, self._grid, axis, indices, device=self.device):
                yield f"Segmenting with {id.name}"
                if done is not None:
                    slice_of(raw, (frame, done.index), axis)[...] = done.labels

    def _put(self, array: NDArray[Any], new: NDArray[Any], places: Collection[SliceKey]) -> None:
        for place in places:
            slice_of(array, place, self.state.axis)[...] = slice_of(new, place, self.state.axis)

    def _learn(
        self,
        entry: FineTunedEntry,
        corrections: Sequence[Correction],
        config: FineTuneConfig,
        pace: Pace,
    ) -> Iterator[str]:
        """Fine-tune again. If other weights come out, replay goes on with the saved model."""
        parent, result = self._model(entry.parent), None
        device = self.device if entry.device != "cpu" else "cpu"
        with _threads(entry.threads):
            steps = finetune(parent, corrections, config, device, pace)
            for progress in steps:
                result = progress.result
                yield f"Fine-tuning {entry.parent.name}"
        assert result is not None
        equal = id_of(result.model).sha256 == entry.model.sha256
        self.learnt.append({"parent": entry.parent.name, "model": entry.model.name, "equal": equal})
        if equal:
            self._models[entry.model.sha256] = result.model

    def _model(self, id: ModelId) -> Model:
        if id.sha256 not in self._models:
            self._models[id.sha256] = self.project.history.models.load(id, self.device)
        return self._models[id.sha256]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Use `count` threads, as the saved run did: floating-point sums depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
