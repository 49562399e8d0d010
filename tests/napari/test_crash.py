"""kill -9 during annotation: all that was done two seconds earlier is saved."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from annotator import checksum

from l2gnet_core.project.entries import FineTunedEntry
from l2gnet_core.project.folder import ProjectFolder, open_project
from l2gnet_core.project.state import SliceState, slice_of

#: Seconds of work that may be lost.
LOST = 2.0


def annotate_and_kill(projects: Path, log: Path, seed: int, seconds: float) -> float:
    """Run and kill an annotator. Returns the time when it was killed."""
    source = Path(__file__).parents[2] / "src"
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("annotator.py"), log, str(seed)],
        env={
            **os.environ,
            "PYTHONPATH": str(source),
            "L2GNET_PROJECTS": str(projects),
            "OMP_NUM_THREADS": "1",
            "QT_QPA_PLATFORM": "offscreen",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    started = process.stdout.readline()
    time.sleep(seconds)
    killed = time.time()
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert started, errors
    assert process.returncode == -signal.SIGKILL, errors
    return killed


def check(project: ProjectFolder, log: Path, killed: float) -> None:
    """Everything that was done long enough before is saved, or something newer is."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    old = [line for line in lines if line[0] <= killed - LOST]
    assert len(old) > 5
    allowed: list[Any] = [old[-1], *lines[len(old) :]]
    state = project.read_state()
    project.require_whole(state)
    slices, _ = project.read_slices(state)
    for index in range(state.shape[1]):
        saved = SliceState(
            *(slice_of(a, (0, index), 0) for a in (slices.labels, slices.by_person, slices.raw))
        )
        assert checksum(saved) in {line[1][index] for line in allowed}, index
    assert sorted(index for _, index in state.reviewed) in [line[2] for line in allowed]
    assert state.model is not None
    assert state.model.name in {line[4] for line in allowed}
    # Every version up to then is there and loads.
    versions = {version.model.name: version for version in project.history.versions(set())}
    assert set(old[-1][3]) <= versions.keys()
    assert len(old[-1][3]) > 1
    for name, version in versions.items():
        assert project.history.models.load(version.model).card.name == name
    for entry in project.history.entries():
        if isinstance(entry, FineTunedEntry):
            assert len(project.history.corrections(entry)) == 1


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.long)])
def test_nothing_older_than_two_seconds_is_lost(kills: int, projects: Path, tmp_path: Path) -> None:
    rng = random.Random(kills)
    for seed in range(kills):
        log = tmp_path / f"log{seed}"
        killed = annotate_and_kill(projects, log, seed, LOST + rng.uniform(0.8, 1.2 * kills))
        # Still one project, although several processes went on with it.
        (folder,) = projects.iterdir()
        check(open_project(folder), log, killed)
