"""The offer to resume saved work on a scan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

from napari import Viewer
from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from l2gnet_core.errors import InputError
from l2gnet_core.project.events import Found
from l2gnet_core.project.folder import (
    FoundProject,
    ProjectFolder,
    any_of_shape,
    find_projects,
    open_project,
    projects_folder,
)
from l2gnet_core.project.history import History, SavedVersion
from l2gnet_core.project.scans import identify
from l2gnet_core.project.state import ModelId, ProjectState, SliceKey, slice_of
from l2gnet_core.scans.volume import Volume
from napari_l2gnet.annotating.annotation import Version
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.jobs.worker import Job
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.script_watch import ScriptWatch
from napari_l2gnet.masks.segmentation import Segmentation
from napari_l2gnet.saving.autosave import keep
from napari_l2gnet.scans.layers import volume_of
from napari_l2gnet.scans.orientation import give_orientation, given_orientation


@dataclass(frozen=True, eq=False)
class Work:
    """Saved work that is read and whose project is held.

    segmentation: as it was saved, not shown yet. scripts: finds later writes to it. versions: of
    its model, the first one first. shown: number of the version that the mask shows. problem:
    sentences about slices, lines of the history and models that cannot be read or found, else "".
    """

    folder: ProjectFolder
    state: ProjectState
    segmentation: Segmentation
    scripts: ScriptWatch
    versions: list[Version]
    shown: int
    problem: str = ""


def find_work(volume: Volume) -> Generator[list[FoundProject], None, None]:
    """Look for projects of a scan. Reads all of it only if a project has its shape."""
    if any_of_shape(volume.shape):
        yield find_projects(identify(volume))


def read_work(path: Path) -> Generator[Work, None, None]:
    """Hold a project and read it; meant for a thread of its own. Raises InputError."""
    folder = open_project(path)
    folder.hold()
    try:
        state = folder.read_state()
        damaged: set[SliceKey] = set()
        slices, saved = folder.read_slices(state, damaged)
        folder.set_aside(damaged)
        lost = (state.on_disk | damaged) - saved
        painted = {place for place in saved if slice_of(slices.by_person, place, state.axis).any()}
        # After a crash the state may be wrong about these; autosave looks at them again.
        unsure = painted ^ state.touched
        state = _with_slices(state, saved)
        segmentation = Segmentation.resumed(state.grid, state, slices)
        segmentation.changed |= unsure
        if unsettled := state.unsettled | lost:
            segmentation.events.append(Found(segmentation.answers(sorted(unsettled))))
        scripts = ScriptWatch(segmentation, as_saved=True)
        versions, shown, problems = _versions(folder.history, state.model)
        problem = " ".join(filter(None, (_left_out(lost, state, folder.path), *problems)))
    except BaseException:
        folder.release()
        raise
    yield Work(folder, state, segmentation, scripts, versions, shown, problem)


def _versions(history: History, model: ModelId | None) -> tuple[list[Version], int, list[str]]:
    """The versions of a project's model, the number of the one that answers, and sentences about
    what cannot be found. model: the one that answers."""
    versions, problems = [Version("original", "original", 0)], []
    numbers: dict[ModelId, int] = {}
    damaged: set[int] = set()
    found = history.versions(damaged)
    if model is not None and all(one.model != model for one in found):
        # The line that named it is lost, but its weights may be there.
        found.append(SavedVersion(model, model, "file" if found else "original"))
        problems.append(_lost_history(history))
    elif damaged:
        problems.append(_lost_history(history))
    for saved in found:
        path = None
        try:
            path = history.models.path(saved.model)
        except InputError as error:
            problems.append(str(error))
        if saved.kind == "original":
            versions[0].path, numbers[saved.model] = path, 0
        elif path is not None:
            numbers[saved.model] = len(versions)
            name = saved.model.name if saved.kind == "file" else f"v{len(versions)}"
            parent = numbers.get(saved.parent, 0)
            versions.append(Version(name, saved.kind, parent, None, saved.verdict, path=path))
    return versions, 0 if model is None else numbers.get(model, 0), problems


def _lost_history(history: History) -> str:
    return (
        f"Expected every line of {history.file}, but some are missing or damaged; the mask is "
        "back, but versions of the model may be missing from the list."
    )


def _left_out(lost: Collection[SliceKey], state: ProjectState, folder: Path) -> str:
    """A sentence about slices that were not brought back; "" if all were."""
    if not lost:
        return ""
    series = state.shape[0] > 1
    names = [f"{frame} · {index}" if series else str(index) for frame, index in sorted(lost)]
    one = len(names) == 1
    return (
        f"Expected all slices of the saved work in {folder}, but slice{'' if one else 's'} "
        f"{', '.join(names)} {'is' if one else 'are'} missing or damaged; everything else is back, "
        f"so segment or paint {'this slice' if one else 'these slices'} again."
    )


def _with_slices(state: ProjectState, saved: frozenset[SliceKey]) -> ProjectState:
    # Slices whose files are missing, as after an incomplete copy, count as not segmented.
    return replace(
        state,
        finished=state.finished & saved,
        reviewed=state.reviewed & saved,
        touched=state.touched & saved,
        unreviewed_organs=frozenset(
            (place, organ) for place, organ in state.unreviewed_organs if place in saved
        ),
    )


def shown_again(
    work: Work, viewer: Viewer, layer: Image, widget: QWidget | None
) -> MaskLayer | None:
    """Show saved work as a mask of its own, saved from now on; None if the scan is not open any
    more."""
    state = work.state
    stored = volume_of(layer) if layer in viewer.layers else None
    if stored is None or stored.shape != state.grid.shape:
        return None
    if state.orientation and not given_orientation(layer, stored.stored_axes):
        give_orientation(layer, state.orientation, stored.stored_axes)
    # The layer's scale may have been set by hand since.
    work.segmentation.grid = stored.grid

    def begin(mask: MaskLayer) -> None:
        annotation_of(mask).resume(work.versions, work.shown)
        mask.name_coverage()
        keep(mask, stored, widget, work.folder, work.scripts)

    return MaskLayer.show(viewer, layer, work.segmentation, state.labels, begin)


class ResumeOffer(QWidget):
    """A line about saved work on the chosen scan, with buttons to resume it or to start anew."""

    #: The `Work` to show, and the scan's layer.
    resumed = Signal(object, object)
    #: Why work cannot be resumed, in a sentence.
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.line = QLabel()
        self.line.setWordWrap(True)
        self.resume = QPushButton("Resume")
        self.resume.setToolTip("Restore the mask as it was, with everything that you painted")
        self.anew = QPushButton("Start anew")
        self.anew.setToolTip("Begin a new mask, saved separately. The saved work is kept")
        buttons = QHBoxLayout()
        buttons.addWidget(self.resume)
        buttons.addWidget(self.anew)
        buttons.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addWidget(self.line)
        layout.addLayout(buttons)
        self.hide()
        self._layer: Image | None = None
        self._found: list[FoundProject] = []
        self._open_here: set[Path] = set()
        # Scans for which nothing is offered any more.
        self._anew: WeakSet[Image] = WeakSet()
        self._job: Job | None = None
        self.resume.clicked.connect(self._on_resume)
        self.anew.clicked.connect(self._on_anew)

    def look_for(
        self,
        layer: Image | None,
        volume: Volume | None,
        open_here: Sequence[Path],
        again: bool = False,
    ) -> None:
        """Look for work on a layer's scan. open_here: projects that are open in this window and not
        offered. again: look even if that was done before, as after a mask was deleted."""
        if again:
            self._anew.discard(layer)
        elif layer is self._layer:
            return
        self._layer, self._found, self._open_here = layer, [], set(open_here)
        self.hide()
        if self._job is not None:
            self._job.cancel()
        if volume is not None and layer not in self._anew and projects_folder().is_dir():
            self._start(find_work(volume), self._on_found)

    def _start(self, steps: Generator[Any, None, None], then: Callable[[Any], None]) -> None:
        job = self._job = Job(steps, self)
        job.yielded.connect(then)
        job.failed.connect(self._on_failed)
        for ended in (job.finished, job.cancelled, job.failed):
            ended.connect(lambda _="": self._let_go(job))
        job.start()

    def _let_go(self, job: Job) -> None:
        if self._job is job:
            self._job = None
        job.deleteLater()

    def _on_found(self, found: list[FoundProject]) -> None:
        self._found = [one for one in found if one.path not in self._open_here]
        self._show()

    def _show(self) -> None:
        if self._found:
            first, *others = self._found
            broken = [] if first.problem else [one for one in others if one.problem][:1]
            now = datetime.now(UTC)
            self.line.setText(" ".join(sentence(one, now) for one in (first, *broken)))
            self.line.setToolTip(str(self._found[0].path))
            self.resume.setVisible(not self._found[0].problem)
            self.resume.setEnabled(True)
        self.setVisible(bool(self._found))

    def _on_resume(self) -> None:
        self.resume.setEnabled(False)
        self._start(read_work(self._found[0].path), self._on_read)

    def _on_read(self, work: Work) -> None:
        # There may be other work on the same scan.
        self._found = [one for one in self._found if one.path != work.folder.path]
        self._show()
        self.resumed.emit(work, self._layer)

    def _on_failed(self, problem: str) -> None:
        self.resume.setEnabled(True)
        self.failed.emit(problem)

    def _on_anew(self) -> None:
        if self._layer is not None:
            self._anew.add(self._layer)
        self._found = []
        self._show()


def sentence(found: FoundProject, now: datetime) -> str:
    """As in "Work on this scan was saved 3 min ago (model, 5 slices painted or accepted)."."""
    if found.problem:
        return f"Saved work on this scan cannot be resumed. {found.problem}"
    count = f"{found.worked_on} slice{'s' * (found.worked_on != 1)} painted or accepted"
    return f"Work on this scan was saved {_ago(found.saved, now)} ({found.model}, {count})."


def _ago(then: datetime, now: datetime) -> str:
    minutes = max(0.0, (now - then).total_seconds() / 60)
    if minutes < 1.5:
        return "a minute ago"
    if minutes < 90:
        return f"{minutes:.0f} min ago"
    if minutes < 36 * 60:
        return f"{minutes / 60:.0f} h ago"
    return f"on {then.astimezone():%Y-%m-%d}"
