"""Do again, without a window, what a project did, and compare the outcome with what was saved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from l2gnet_core.checkpoint import Model
from l2gnet_core.errors import InputError
from l2gnet_core.files import WRITABLE, suffix_of, write_labels
from l2gnet_core.finetune import finetune
from l2gnet_core.finetune_config import FineTuneConfig
from l2gnet_core.learner import Pace
from l2gnet_core.predict import predict_slices
from l2gnet_core.project.array_delta import ArrayDelta
from l2gnet_core.project.folder import ProjectFolder
from l2gnet_core.project.history import Entry
from l2gnet_core.project.models import id_of
from l2gnet_core.project.scans import seen_grid
from l2gnet_core.project.state import ModelId, ProjectState, SliceKey, places_from_json, slice_of
from l2gnet_core.segment_files import require_replaceable

MASK_FILE = "mask.nii.gz"


@dataclass(frozen=True)
class Replay:
    """What came out. mask: on the scan's grid, as are `state.labels`. different: voxels that are
    not as saved, by slice. learnt: for each fine-tuning whose result was kept, parent, model and
    whether the weights came out the same."""

    mask: NDArray[Any]
    state: ProjectState
    different: dict[SliceKey, int]
    learnt: list[dict[str, Any]]

    @property
    def equal(self) -> bool:
        """Are all voxels, and all weights, as saved?"""
        return not self.different and all(one["equal"] for one in self.learnt)

    def to_json(self, file: Path) -> dict[str, Any]:
        """What `--json` says."""
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
    """Progress: the share that is behind, and what is being done; the result on the last alone."""

    done: float
    message: str
    result: Replay | None = None


def mask_file(output: Path) -> Path:
    """The file for a replayed mask: `output` itself if it is called so, else one in that folder.

    Raises InputError for a file of another kind, and for one that is there and no mask of l2gnet's.
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
    """Write the mask on the scan's grid. Raises OutputError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    labels = replay.state.labels
    write_labels(file, replay.mask, replay.state.grid, labels.names, labels.colors)


def replay(project: ProjectFolder, device: str = "cpu") -> Iterator[ReplayStep]:
    """Do again what a project did: segment, fine-tune, accept, tidy, and put a person's voxels in.

    A slice that is reviewed is a person's as a whole. Raises InputError for a damaged project.
    """
    state = project.read_state()
    project.require_whole(state)
    entries = _whole(project.history.entries())
    again = _Again(project, state, device)
    for number, entry in enumerate(entries):
        try:
            for message in again.do(entry):
                yield ReplayStep(number / len(entries), message)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"Expected a history that this version knows in {project.path}, but entry "
                f"{number + 1} ({entry['what']}) is another; update napari-l2gnet."
            ) from error
    saved, there = project.read_slices(state)
    mine = saved.by_person.copy()
    # What a crash left unsettled counts as it was found, and resuming notes it so.
    for place in state.reviewed | state.unsettled:
        slice_of(mine, place, state.axis)[...] = True
    mask = np.where(mine, saved.labels, again.answer).astype(saved.labels.dtype)
    others = np.moveaxis(mask != saved.labels, 1 + state.axis, 1).sum((2, 3))
    # A crash may have come before all slices were saved.
    different = {place: int(others[place]) for place in sorted(there) if others[place]}
    result = Replay(mask.reshape(state.grid.shape), state, different, again.learnt)
    yield ReplayStep(1.0, "Done", result)


def _whole(entries: Sequence[Entry]) -> list[Entry]:
    """Runs that were noted in parts, as slices were saved, in one: sums come out the same in the
    last bit only with the same slices in a batch. Nothing in between is about answers."""
    whole: list[Entry] = []
    last: dict[str, int] = {}
    for entry in entries:
        what = entry["what"]
        goes_on = entry.get("goes_on") or (what == "tidied" and entry.get("tidying") is None)
        if goes_on and what in last:
            first = whole[last[what]]
            more = {
                name: first[name] + entry[name] for name in ("places", "spared") if name in first
            }
            whole[last[what]] = {**first, **more}
        else:
            last[what] = len(whole)
            whole.append(entry)
    return whole


@dataclass
class _Again:
    """The mask in the making: what the models answer, raw and as shown."""

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
        # What each model said of the whole scan, and which the first one was.
        self._said: dict[str, NDArray[Any]] = {}
        self._first = ""
        # Accepted answers can be undone, as strokes can.
        self._undo: list[tuple[ArrayDelta, ArrayDelta]] = []
        self._redo: list[tuple[ArrayDelta, ArrayDelta]] = []

    def do(self, entry: Entry) -> Iterator[str]:
        """Do again what one line says, pausing where it can be stopped."""
        what, history = entry["what"], self.project.history
        if what == "segmented":
            self._first = entry["model"]["sha256"]
            yield from self._answer(entry)
        elif what in ("accepted", "rolled back", "interpolated"):
            before = self._raw.copy(), self.answer.copy()
            self._said.setdefault(self._first, before[0])
            if what == "interpolated":
                self._fill(history.answers(entry))
            else:
                yield from self._answer(entry)
                self._fill(history.filled(entry))
            if entry["undoable"]:
                self._step(*before)
        elif what == "found":
            self._fill(history.answers(entry))
        elif what == "tidied":
            yield "Tidying"
            before = self._raw, self.answer.copy()
            tidying, places = history.tidying(entry["tidying"]), places_from_json(entry["places"])
            self._put(self.answer, tidying.whole(self._raw, self.state.axis), places)
            # Projects of before have no such steps.
            if entry.get("undoable"):
                self._step(*before)
        elif what in ("undone", "redone"):
            back = what == "undone"
            taken, given = (self._undo, self._redo) if back else (self._redo, self._undo)
            given.append(taken.pop())
            raw, answer = given[-1]
            raw.into(self._raw, back)
            answer.into(self.answer, back)
        elif what == "fine-tuned":
            yield from self._learn(entry)
        elif what not in ("reviewed", "not reviewed", "discarded"):
            raise KeyError(what)

    def _step(self, raw: NDArray[Any], answer: NDArray[Any]) -> None:
        """What was before can be had back."""
        deltas = ArrayDelta.between(raw, self._raw), ArrayDelta.between(answer, self.answer)
        self._undo.append(deltas)
        self._redo.clear()

    def _fill(self, slices: Mapping[SliceKey, Mapping[str, NDArray[Any]]]) -> None:
        """Take in what was interpolated, or found."""
        for place, arrays in slices.items():
            slice_of(self._raw, place, self.state.axis)[...] = arrays["raw"]
            slice_of(self.answer, place, self.state.axis)[...] = arrays["labels"]

    def _answer(self, entry: Entry) -> Iterator[str]:
        """Take a model's answer in, tidied as it was then."""
        id = ModelId(**entry["model"])
        places, spared = (places_from_json(entry[name]) for name in ("places", "spared"))
        if entry["remembered"]:
            raw = self._said[id.sha256]
            everywhere = np.ndindex(self.state.shape[0], self.state.shape[1 + self.state.axis])
            places = [(frame, index) for frame, index in everywhere]
        else:
            # Those that are spared are segmented, too: batches and tidying are to be the same.
            raw = self._raw.copy()
            yield from self._segment(id, places, raw)
            if entry["what"] != "segmented":
                self._said[id.sha256] = raw
        answer = raw
        if entry["tidying"]:
            tidying = self.project.history.tidying(entry["tidying"])
            answer = tidying.whole(raw, self.state.axis)
        taken = set(places) - set(spared)
        self._put(self._raw, raw, taken)
        self._put(self.answer, answer, taken)

    def _segment(self, id: ModelId, places: Sequence[SliceKey], raw: NDArray[Any]) -> Iterator[str]:
        yield f"Loading {id.name}"
        model = self._model(id)
        frames: dict[int, list[int]] = {}
        for frame, index in places:
            frames.setdefault(frame, []).append(index)
        for frame, indices in frames.items():
            scan, axis = self._scan[frame], self.state.axis
            for done in predict_slices(model, scan, self._grid, axis, indices, self.device):
                yield f"Segmenting with {id.name}"
                if done is not None:
                    slice_of(raw, (frame, done.index), axis)[...] = done.labels

    def _put(self, array: NDArray[Any], new: NDArray[Any], places: Collection[SliceKey]) -> None:
        for place in places:
            slice_of(array, place, self.state.axis)[...] = slice_of(new, place, self.state.axis)

    def _learn(self, entry: Entry) -> Iterator[str]:
        """Fine-tune again. Where it does not come out the same, the saved model goes on."""
        if not entry["kept"]:
            return  # the old model stayed: nothing came of it
        parent, id = ModelId(**entry["parent"]), ModelId(**entry["model"])
        corrections = self.project.history.corrections(entry)
        config = FineTuneConfig.from_json(entry["config"])
        pace = Pace.from_json(entry["pace"])
        result, device = None, self.device if entry["device"] != "cpu" else "cpu"
        with _threads(int(entry["threads"])):
            steps = finetune(self._model(parent), corrections, config, device, pace)
            for progress in steps:
                result = progress.result
                yield f"Fine-tuning {parent.name}"
        assert result is not None
        equal = id_of(result.model).sha256 == id.sha256
        self.learnt.append({"parent": parent.name, "model": id.name, "equal": equal})
        if equal:
            self._models[id.sha256] = result.model

    def _model(self, id: ModelId) -> Model:
        if id.sha256 not in self._models:
            self._models[id.sha256] = self.project.history.models.load(id, self.device)
        return self._models[id.sha256]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads as a run had whose sums are to come out the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
