"""Repeat what was done in a project, without napari, and compare the result with the saved one."""

from __future__ import annotations

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
from l2gnet_core.project.events import Tidying
from l2gnet_core.project.folder import ProjectFolder
from l2gnet_core.project.history import Entry
from l2gnet_core.project.models import id_of
from l2gnet_core.project.scans import seen_grid
from l2gnet_core.project.state import ModelId, ProjectState, SliceKey, places_from_json, slice_of
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.files import require_replaceable
from l2gnet_core.segmenting.predict import predict_slices

MASK_FILE = "mask.nii.gz"
#: "labels" and "raw" answers by slice.
_Slices = Mapping[SliceKey, Mapping[str, NDArray[Any]]]
# What decoding raises for a line of another form than this version writes.
_OTHER_FORM = (KeyError, TypeError, ValueError, IndexError, AttributeError)


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
    entries = _whole(project, project.history.entries())
    again = _Again(project, state, device)
    for number, entry in enumerate(entries):
        try:
            messages = again.prepare(entry)
        except InputError:
            raise
        except _OTHER_FORM as error:
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


def _unknown(project: ProjectFolder, number: int, entry: Entry) -> InputError:
    return InputError(
        f"Expected a history that this version knows in {project.path}, but entry {number + 1} "
        f"({entry['what']}) is another; update napari-l2gnet."
    )


def _whole(project: ProjectFolder, entries: Sequence[Entry]) -> list[Entry]:
    """Merge entries of one run, which is noted in parts as its slices are saved.

    Results are bitwise equal only if batches hold the same slices. Entries between the parts do
    not concern answers. Raises InputError for a part that lacks what it adds.
    """
    whole: list[Entry] = []
    last: dict[str, int] = {}
    for number, entry in enumerate(entries):
        what = entry["what"]
        goes_on = entry.get("goes_on") or (what == "tidied" and entry.get("tidying") is None)
        try:
            if goes_on and what in last:
                first = whole[last[what]]
                more = {n: first[n] + entry[n] for n in ("places", "spared") if n in first}
                whole[last[what]] = {**first, **more}
                continue
            last[what] = len(whole)
        except _OTHER_FORM as error:
            raise _unknown(project, number, entry) from error
        whole.append(entry)
    return whole


@dataclass(frozen=True)
class _Answer:
    """A decoded line "segmented", "accepted" or "rolled back"; see `Answered`.

    first: is it "segmented"?
    """

    first: bool
    model: ModelId
    places: list[SliceKey]
    spared: list[SliceKey]
    remembered: bool
    tidying: Tidying | None
    filled: _Slices
    undoable: bool


@dataclass(frozen=True)
class _Learning:
    """A decoded line "fine-tuned" whose result was kept; see `FineTuned`."""

    parent: ModelId
    model: ModelId
    corrections: list[Correction]
    config: FineTuneConfig
    pace: Pace
    device: str
    threads: int


@dataclass
class _Again:
    """A replay in progress. answer: of the models as shown, (t,z,y,x)."""

    project: ProjectFolder
    state: ProjectState
    device: str
    learnt: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._scan = self.project.read_voxels(self.state).reshape(self.state.shape)
        grid = self.state.grid
        self._grid = seen_grid(grid, self.state.orientation).frame
        self._raw = np.zeros(self.state.shape, np.uint16)
        self.answer = np.zeros_like(self._raw)
        self._models: dict[str, Model] = {}
        # Answers for the whole scan by the model's hash, and the hash of the first model.
        self._said: dict[str, NDArray[Any]] = {}
        self._first = ""
        # Changes of (raw, answer) that can be undone or redone, the latest one last.
        self._undo: list[tuple[ArrayDelta, ArrayDelta]] = []
        self._redo: list[tuple[ArrayDelta, ArrayDelta]] = []

    # ------------------------------------------------------------------ decoding

    def prepare(self, entry: Entry) -> Iterator[str]:
        """Decode one line of the history; iterating over the result does it again.

        The iterator yields a message at each point where it can be stopped. Raises KeyError,
        TypeError, ValueError, IndexError or AttributeError for a line that this version does not
        know, InputError for damaged files.
        """
        what, history = entry["what"], self.project.history
        if what in ("segmented", "accepted", "rolled back"):
            return self._take(self._decoded_answer(entry))
        if what == "interpolated":
            return self._interpolate(self._checked(history.answers(entry)), entry["undoable"])
        if what == "found":
            return self._find(self._checked(history.answers(entry)))
        if what == "tidied":
            tidying, places = self._tidying(entry["tidying"]), self._places(entry["places"])
            return self._tidy(tidying, places, entry["undoable"])
        if what in ("undone", "redone"):
            if not (self._undo if what == "undone" else self._redo):
                raise IndexError(what)
            return self._move(back=what == "undone")
        if what == "fine-tuned":
            # Where the old model stayed, there is nothing to do again.
            return self._learn(self._decoded_learning(entry)) if entry["kept"] else iter(())
        if what in ("reviewed", "not reviewed", "discarded"):
            return iter(())
        raise KeyError(what)

    def _decoded_answer(self, entry: Entry) -> _Answer:
        first = entry["what"] == "segmented"
        answer = _Answer(
            first=first,
            model=ModelId(**entry["model"]),
            places=self._places(entry["places"]),
            spared=self._places(entry["spared"]),
            remembered=entry["remembered"],
            tidying=self._tidying(entry["tidying"]) if entry["tidying"] else None,
            filled={} if first else self._checked(self.project.history.filled(entry)),
            undoable=not first and entry["undoable"],
        )
        if answer.remembered and answer.model.sha256 not in (*self._said, self._first):
            raise KeyError(answer.model.name)
        return answer

    def _decoded_learning(self, entry: Entry) -> _Learning:
        return _Learning(
            parent=ModelId(**entry["parent"]),
            model=ModelId(**entry["model"]),
            corrections=self.project.history.corrections(entry),
            config=FineTuneConfig.from_json(entry["config"]),
            pace=Pace.from_json(entry["pace"]),
            device=self.device if entry["device"] != "cpu" else "cpu",
            threads=int(entry["threads"]),
        )

    def _tidying(self, values: Mapping[str, Any]) -> Tidying:
        tidying = self.project.history.tidying(values)
        self._checked(
            {
                at: {"labels": one.labels, "raw": one.by_person}
                for at, one in tidying.painted.items()
            }
        )
        return tidying

    def _places(self, values: Iterable[Iterable[int]]) -> list[SliceKey]:
        """Slices of a line. Raises IndexError for one that the mask does not have."""
        places = places_from_json(values)
        frames, count = self.state.shape[0], self.state.shape[1 + self.state.axis]
        if not all(0 <= frame < frames and 0 <= index < count for frame, index in places):
            raise IndexError("a slice outside of the mask")
        return places

    def _checked(self, slices: _Slices) -> _Slices:
        """Slices with "labels" and "raw". Raises KeyError, IndexError or ValueError if they lack
        one, or do not fit the mask."""
        self._places(slices)
        for place, arrays in slices.items():
            shape = slice_of(self.answer, place, self.state.axis).shape
            if not arrays["labels"].shape == arrays["raw"].shape == shape:
                raise ValueError("slices of another shape")
        return slices

    # ------------------------------------------------------------------ doing

    def _take(self, entry: _Answer) -> Iterator[str]:
        """Take a model's answer in, tidied as it was then."""
        before = self._raw.copy(), self.answer.copy()
        if entry.first:
            self._first = entry.model.sha256
        else:
            self._said.setdefault(self._first, before[0])
        places = entry.places
        if entry.remembered:
            raw = self._said[entry.model.sha256]
            everywhere = np.ndindex(self.state.shape[0], self.state.shape[1 + self.state.axis])
            places = [(frame, index) for frame, index in everywhere]
        else:
            # Spared slices are segmented too, because batches and tidying depend on them. They
            # keep only what they show.
            raw = self._raw.copy()
            yield from self._segment(entry.model, places, raw)
            if not entry.first:
                self._said[entry.model.sha256] = raw
        answer = entry.tidying.whole(raw, self.state.axis) if entry.tidying else raw
        taken = set(places) - set(entry.spared)
        self._put(self._raw, raw, places)
        self._put(self.answer, answer, taken)
        self._fill(entry.filled)
        if entry.undoable:
            self._remember_change(*before)

    def _interpolate(self, slices: _Slices, undoable: bool) -> Iterator[str]:
        yield from ()
        before = self._raw.copy(), self.answer.copy()
        self._said.setdefault(self._first, before[0])
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

    def _learn(self, entry: _Learning) -> Iterator[str]:
        """Fine-tune again. If other weights come out, replay goes on with the saved model."""
        result = None
        with _threads(entry.threads):
            steps = finetune(
                self._model(entry.parent), entry.corrections, entry.config, entry.device, entry.pace
            )
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
