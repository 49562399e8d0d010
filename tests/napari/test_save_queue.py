"""What a save writes, in which order: a crash after any write leaves a consistent project."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from l2gnet_core.errors import OutputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.project.entries import AnswerEntry, TidiedEntry
from l2gnet_core.project.events import Found, Tidied, Tidying
from l2gnet_core.project.folder import ProjectFolder
from l2gnet_core.project.state import SliceKey, SliceState, slice_of
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from napari_l2gnet.annotating.annotation import Annotation
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.masks.undo import Adoption
from napari_l2gnet.saving.resume import read_work
from napari_l2gnet.saving.save_queue import Batch, SaveQueue

SHAPE = (3, 2, 2)
VOLUME = Grid(SHAPE).volume(np.arange(12).reshape(SHAPE))
#: A slice as bytes; whether it is finished and reviewed; the organs that its review covers.
Moment = tuple[bytes, bool, bool, frozenset[int]]


def seen(slices: SliceState) -> bytes:
    return b"".join(
        np.asarray(array, np.uint16).tobytes()
        for array in (slices.labels, slices.by_person, slices.raw)
    )


class Layer:
    """Strokes and answers on a mask, with undo and redo as napari's layer has them."""

    def __init__(self, segmentation: Segmentation) -> None:
        self.segmentation = segmentation
        self.done: list[tuple[Any, Any, Any]] = []
        self.taken_back: list[tuple[Any, Any, Any]] = []

    def _did(self, voxels: Any, before: Any, after: Any) -> None:
        if len(voxels):
            np.put(self.segmentation.shown, voxels, after)
            self.done.append((voxels, before, after))
            self.taken_back.clear()

    def stroke(self, index: int, label: int) -> None:
        voxels = np.array([4 * index, 4 * index + 1])
        before, after = np.take(self.segmentation.shown, voxels), np.full(2, label)
        self.segmentation.undo_history.stroke(voxels, before, after)
        self._did(voxels, before, after)

    def answer(self, label: int) -> None:
        """A new answer for the whole mask, in one step."""
        mask = self.segmentation
        whole = np.full_like(mask.raw, label)
        adoption: Adoption = mask.undo_history.adoption(whole, whole, 0, completes=mask.places)
        mask.undo_history.adopt(adoption)
        self._did(adoption.shown.voxels, adoption.shown.before, adoption.shown.after)

    def undo(self) -> None:
        if self.done:
            voxels, before, after = self.done.pop()
            np.put(self.segmentation.shown, voxels, before)
            self.taken_back.append((voxels, before, after))
            self.segmentation.undo_history.undone()

    def redo(self) -> None:
        if self.taken_back:
            voxels, before, after = self.taken_back.pop()
            np.put(self.segmentation.shown, voxels, after)
            self.done.append((voxels, before, after))
            self.segmentation.undo_history.redone()


@dataclass
class Work:
    """A mask that is worked on and saved, and all earlier states of each slice."""

    mask: Segmentation = field(
        default_factory=lambda: Segmentation(
            VOLUME.grid, ModelCard("model", LabelSet.from_names({1: "one", 2: "two"})), 0
        )
    )
    moments: dict[SliceKey, list[Moment]] = field(default_factory=dict)
    #: The newest moment of each slice that is known to be on disk.
    known: dict[SliceKey, int] = field(default_factory=dict)
    #: Slices that a run has put into the mask and not noted yet; was there nothing but runs?
    coming: list[SliceKey] = field(default_factory=list)
    of_runs: bool = True
    #: What a person does before each write of a save.
    meanwhile: list[Any] = field(default_factory=list)
    #: Writes until the disk is full; never if negative.
    room: int = -1

    def __post_init__(self) -> None:
        self.layer, self.queue = Layer(self.mask), SaveQueue(self.mask, None)
        self.annotation = Annotation(self.mask, "model")
        self.mask.saving.connect(self.note)
        self._remember()

    def note(self) -> None:
        """Note slices as a run does, by an event that needs no model."""
        if self.coming:
            self.mask.events.append(Tidied(Tidying(CleanUp()), self.coming))
        self.coming = []

    def do(self, name: str, index: int, label: int) -> None:
        place, label = (0, index), label if label in {0, *self.mask.card.labels.names} else 1
        if name == "stroke":
            self.layer.stroke(index, label)
        elif name == "put":
            self.mask.put(place, np.full((2, 2), label, np.uint8))
            self.coming.append(place)
        elif name == "review":
            self.annotation.review(place, place not in self.mask.reviewed)
        elif name == "organ":
            names = {**self.mask.card.labels.names, 3: "three"}
            self.mask.relabel(LabelSet.from_names(names))
        elif name == "look":
            self.queue.copy_changed(float("inf"))
        elif name == "answer":
            self.layer.answer(label)
            self.of_runs = False
        else:
            getattr(self.layer, name)()
        self._remember()

    def _remember(self) -> None:
        mask = self.mask
        for place in mask.places:
            organs = mask.card.labels.names.keys() - {
                o for at, o in mask.unreviewed_organs if at == place
            }
            finished, reviewed = place in mask.finished, place in mask.reviewed
            moment = (seen(mask.slice_state(place)), finished, reviewed, frozenset(organs))
            self.moments.setdefault(place, []).append(moment)

    def _batch(self) -> Batch | None:
        return self.queue.batch(self.mask.card.labels, "")

    def save(self, room: int, meanwhile: list[Any]) -> None:
        """room: writes until the disk is full; any number if negative."""
        self.room, self.meanwhile = room, list(meanwhile)
        batch = self._batch()
        if batch is not None:
            try:
                self.queue.write(batch, VOLUME)
                self.queue.settle(batch)
            except OutputError:
                self.queue.take_over(batch)
        self.room, self.meanwhile = -1, []

    def before_write(self) -> None:
        if self.meanwhile:
            self.do(*self.meanwhile.pop(0))
        if self.room == 0:
            raise OSError(28, "No space left on device")
        self.room -= 1

    def check(self) -> None:
        """What a crash at this moment would leave."""
        folder = self.queue.folder or ProjectFolder(next(projects().iterdir()))
        reader = ProjectFolder(folder.path)
        state = reader.read_state()
        slices, saved = reader.read_slices(state)
        # Every slice that the state names is there.
        assert state.finished <= saved
        assert state.reviewed <= saved
        assert set(np.unique(slices.labels)) <= {0, *state.labels.names}
        # The history can be replayed.
        entries = reader.history.entries()
        tidied = [one.places for one in entries if isinstance(one, AnswerEntry | TidiedEntry)]
        noted = {(frame, index) for places in tidied for frame, index in places}
        assert not self.of_runs or state.finished <= noted
        for place in saved:
            parts = (slices.labels, slices.by_person, slices.raw)
            on_disk = seen(SliceState(*(slice_of(array, place, 0) for array in parts)))
            moments = list(enumerate(self.moments[place]))
            # Nothing that was on disk before is lost.
            same = [(at, one) for at, one in moments if one[0] == on_disk]
            later = [at for at, _ in same if at >= self.known.get(place, 0)]
            assert later
            self.known[place] = later[0]
            # A reviewed slice was accepted in this state, with all organs that the review covers.
            if place in state.finished:
                assert any(finished for _, (_, finished, _, _) in same)
            if place in state.reviewed:
                organs = state.labels.names.keys() - {
                    o for at, o in state.unreviewed_organs if at == place
                }
                assert any(reviewed and organs <= spoken for _, (*_, reviewed, spoken) in same)

    def check_end(self) -> None:
        if not self.queue.begun:
            return
        # So that a batch takes a slice or two.
        for _ in range(4):
            self.do("look", 0, 0)
            self.save(-1, [])
        if self.queue.folder is None:  # all was taken back
            return
        self.queue.release()
        (work,) = read_work(self.queue.folder.path)
        again = work.segmentation
        for name in ("shown", "raw", "finished", "reviewed", "unreviewed_organs"):
            np.testing.assert_array_equal(getattr(again, name), getattr(self.mask, name), name)
        np.testing.assert_array_equal(again.by_person(), self.mask.by_person())
        assert not again.changed
        assert not again.events
        work.folder.release()


def projects() -> Path:
    return Path(os.environ["L2GNET_PROJECTS"])


class AtOnce:
    """A ThreadPoolExecutor without threads, so that the test decides what happens when."""

    def __init__(self, _: int) -> None: ...

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, call: Callable[..., None], *arguments: Any) -> Future[None]:
        future: Future[None] = Future()
        future.set_result(call(*arguments))
        return future


INDEX, LABEL = st.integers(0, 2), st.integers(0, 3)
DEEDS = st.tuples(
    st.sampled_from(
        ["stroke", "put", "review", "review", "organ", "answer", "undo", "redo", "look"]
    ),
    INDEX,
    LABEL,
)
SAVES = st.tuples(st.just("save"), st.integers(-3, 6), st.lists(DEEDS, max_size=4))


@settings(max_examples=12, deadline=None)
# A slice is accepted first of all; this is taken back, and another answer comes.
@example(steps=[("put", 0, 1), ("review", 0, 0), ("save", -1, [])])
@example(steps=[("review", 0, 0), ("save", -1, []), ("review", 0, 0), ("put", 0, 1)])
# An answer is undone, and an organ added, while slices are copied.
@example(
    steps=[
        *(("review", 2, 0), ("save", -1, []), ("answer", 0, 1)),
        ("save", -1, [("undo", 0, 0)]),
    ]
)
@example(
    steps=[
        *(("review", 0, 0), ("stroke", 1, 1)),
        ("save", -1, [("organ", 0, 0), ("stroke", 1, 3)]),
    ]
)
# A slice is painted on after it was copied, and already saved so.
@example(
    steps=[
        *(("stroke", 0, 0), ("review", 1, 0)),
        ("save", -1, [("stroke", 0, 0), ("look", 0, 0), ("stroke", 0, 1)]),
    ]
)
# More is painted than a batch takes.
@example(steps=[*(("stroke", index, 1) for index in range(3)), ("look", 0, 0), ("save", -1, [])])
# A slice whose review did not cover an organ is accepted again with it.
@example(
    steps=[
        *(("review", 0, 0), ("organ", 0, 0), ("save", -1, [])),
        *(("stroke", 0, 3), ("review", 0, 0), ("review", 0, 0), ("save", -1, [])),
    ]
)
@example(
    steps=[
        ("review", 0, 0),
        ("save", -1, [("stroke", 0, 0), ("review", 0, 0)]),
        *(("organ", 0, 0), ("review", 0, 0)),
    ]
)
# Everything that a full disk did not take is undone.
@example(steps=[("stroke", 0, 0), ("look", 0, 0), ("undo", 0, 0), ("save", 0, [])])
@given(steps=st.lists(st.one_of(DEEDS, SAVES), max_size=12))
def test_a_crash_after_any_write_leaves_what_holds_together(
    tmp_path_factory: Any, steps: list[Any]
) -> None:
    work, put = Work(), os.replace

    def put_and_check(source: Any, target: Any) -> None:
        work.before_write()
        put(source, target)
        # Nobody reads the scan's voxels here.
        if Path(target).suffix != ".npy":
            work.check()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2GNET_PROJECTS", str(tmp_path_factory.mktemp("projects")))
        patch.setattr("l2gnet_core.project.folder.ThreadPoolExecutor", AtOnce)
        patch.setattr("napari_l2gnet.saving.save_queue._AT_ONCE", 5)
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(os, "replace", put_and_check)
        for name, *rest in steps:
            (work.save if name == "save" else lambda *r, n=name: work.do(n, *r))(*rest)
        work.check_end()


def test_what_a_crash_left_unsettled_is_noted_as_it_was_found(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("L2GNET_PROJECTS", str(tmp_path))
    work = Work()
    for step in (("put", 0, 1), ("stroke", 1, 2), ("put", 1, 1)):
        work.do(*step)
    work.do("look", 0, 0)
    work.save(-1, [])
    work.do("put", 1, 0)
    put = os.replace

    # There is room for the note of what is about to be saved, but not for any of it.
    def full(source: Any, target: Any) -> None:
        if Path(target).name == "project.json" and (tmp_path / "written").exists():
            raise OSError(28, "No space left on device")
        put(source, target)
        (tmp_path / "written").touch()

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        work.save(-1, [])
    folder = work.queue.folder
    assert folder is not None
    assert folder.read_state().unsettled == {(0, 1)}
    work.queue.release()
    (again,) = read_work(folder.path)
    (event,) = again.segmentation.events
    assert isinstance(event, Found)
    # The model's answer, not the strokes over it.
    np.testing.assert_array_equal(event.slices[0, 1].labels, np.ones((2, 2)))
    queue = SaveQueue(again.segmentation, again.folder)
    batch = queue.batch(again.state.labels, "")
    assert batch is not None
    queue.write(batch, VOLUME)
    assert not folder.read_state().unsettled
    assert [one.what for one in folder.history.entries()][-1] == "found"
    queue.release()
