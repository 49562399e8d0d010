"""Training in other processes: two that share the work, and one that is killed."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from l2gnet_core.models.checkpoint import MODEL_FILE
from l2gnet_core.training.log import LOG_FILE

#: 6 steps of 8 slices; every step is saved, so that a kill may fall between any two.
TRAIN = """
import sys
from pathlib import Path
from l2gnet_core.augmentation.views import Augmentation
from l2gnet_core.datasets.loading import open_dataset
from l2gnet_core.training.loop import TrainingConfig
from l2gnet_core.training.run_folder import RunSettings
from l2gnet_core.training.run import train_dataset

dataset, folder, architecture, devices, epochs = sys.argv[1:]
settings = RunSettings(open_dataset(Path(dataset)), Path(folder), architecture=architecture,
                       preset="tiny", resume=True, devices=int(devices))
how = TrainingConfig(epochs=int(epochs), batch=4, save_every_seconds=0.0, learning_rate=5e-3)
for progress in train_dataset(settings, how, Augmentation(size=48)):
    print(progress.step, flush=True)
"""
#: In float32 the order of sums sometimes decides which of two codes is nearest, and runs diverge.
#: In float64 only faults of the processes make them differ.
PRECISELY = """
from l2gnet_core.training import loop, run
from l2gnet_core.network.model import build
loop.precision = lambda device: "64-true"
run.build = lambda config: build(config).double()
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    import nibabel as nib

    folder = tmp_path_factory.mktemp("data")
    for patient in range(6):
        rng = np.random.default_rng(patient)
        y, x = np.mgrid[0:48, 0:48]
        near = (np.hypot(y - rng.uniform(18, 30), x - rng.uniform(18, 30)) < 9).astype(np.uint8)
        labels = np.stack([near, near])
        images = (60 + 120 * labels + rng.normal(0, 9, labels.shape)).astype(np.int16)
        for part, array in (("images", images), ("labels", labels)):
            (folder / part).mkdir(exist_ok=True)
            nib.save(
                nib.Nifti1Image(array.T, np.diag([1.0, 1, 5, 1])),
                folder / part / f"p{patient}.nii.gz",
            )
    return folder


def start(dataset: Path, folder: Path, architecture="l2gnet", devices=1, epochs=3, before=""):
    source = Path(__file__).parents[2] / "src"
    script = folder.parent / "train.py"
    if not script.exists():  # Another process may be about to read it.
        script.write_text(before + TRAIN)
    return subprocess.Popen(
        [sys.executable, script, *map(str, (dataset, folder, architecture, devices, epochs))],
        env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors


def losses(folder: Path) -> list[float]:
    return [float(value) for value in logged(folder, "loss")]


def logged(folder: Path, column: str) -> list[str]:
    with (folder / LOG_FILE).open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "architecture",
    [
        "l2gnet",
        *(pytest.param(a, marks=pytest.mark.long) for a in ("unet", "vqunet", "synergynet")),
    ],
)
def test_two_processes_learn_what_one_does_with_the_whole_batch(dataset, tmp_path, architecture):
    one, two = tmp_path / "one", tmp_path / "two"
    runs = [
        start(dataset, folder, architecture, devices, before=PRECISELY)
        for folder, devices in ((one, 1), (two, 2))
    ]
    for process in runs:
        finish(process)
    assert len(losses(one)) == len(losses(two)) == 6
    assert np.abs(np.subtract(losses(one), losses(two))).max() < 1e-4
    assert logged(one, "perplexity") == logged(two, "perplexity")
    # Not only progress, but also the weights are equal.
    one, two = (
        {name: values.double() for name, values in load_file(folder / MODEL_FILE).items()}
        for folder in (one, two)
    )
    apart = {name: float((one[name] - two[name]).norm() / one[name].norm()) for name in one}
    assert max(apart.values()) < 1e-6


def kill_and_resume(dataset: Path, folder: Path, kills: int, epochs: int, seed: int) -> None:
    """Kill the run at random moments, then let it end."""
    rng = random.Random(seed)
    for _ in range(kills):
        process = start(dataset, folder, epochs=epochs)
        for _ in range(rng.randint(1, 2)):
            if not process.stdout.readline():
                break
        time.sleep(rng.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(dataset, folder, epochs=epochs))


@pytest.mark.parametrize(
    ("kills", "epochs"), [pytest.param(*n, marks=pytest.mark.long) for n in ((1, 3), (10, 20))]
)
def test_a_killed_run_ends_as_an_undisturbed_one_bit_for_bit(dataset, tmp_path, kills, epochs):
    finish(start(dataset, tmp_path / "whole", epochs=epochs))
    kill_and_resume(dataset, tmp_path / "killed", kills, epochs, seed=kills)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    one, other = (load_file(tmp_path / name / MODEL_FILE) for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
