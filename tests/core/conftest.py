"""What several tests of the core share: one thread, small scans on disk, an untrained model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock

from l2gnet_core.cli import main
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import MODEL_FILE, Model, save_model
from l2gnet_core.network.config import preset
from l2gnet_core.network.losses import segmentation_loss
from l2gnet_core.network.model import SegmentationNetwork, build
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.phantom import cardiac_phantom

LABELS = LabelSet.from_names({1: "right ventricle", 2: "myocardium", 3: "left ventricle"})


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    # Tests are small: more threads only wait for each other on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """PyTorch says that it finds a GPU; nothing can be computed on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")


@pytest.fixture
def seeded():
    """The global generator in a known state, and untouched for whoever comes next."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """Untrained tiny models: nonsense, but the same nonsense for the same input."""

    def make(labels: LabelSet = LABELS, seed: int = 0, in_channels: int = 1, **card) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(preset("tiny", len(labels) + 1, in_channels))
            # As built, the fusion is zero and the decoder's answer nearly one class everywhere.
            torch.nn.init.normal_(network.bottleneck.fusion.weight, std=0.1)
            torch.nn.init.normal_(network.decoder.head.weight, std=1.0)
        network.eval().to(memory_format=torch.channels_last)
        return Model(network, ModelCard(name="tiny", labels=labels, **card))

    return make


@pytest.fixture(scope="session")
def heart_model(tmp_path_factory) -> Model:
    """A tiny network that knows the drawn heart, whose darkened scans it does not.

    Training comes out otherwise on every kind of processor. With this seed and length it answers
    both so clearly that tests need not care.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Trained once for all processes, each of which has a folder of its own in there.
        folder = folder.parent
    file = folder / "hearts.pt"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            torch.save(_trained_on_hearts().state_dict(), file)
    with torch.random.fork_rng(devices=[]):
        network = build(preset("tiny", 4))
    network.load_state_dict(torch.load(file, weights_only=True))
    network.eval().to(memory_format=torch.channels_last)
    return Model(network, ModelCard(name="hearts", labels=LABELS, sides=(64, 64)))


def _trained_on_hearts() -> SegmentationNetwork:
    drawn = [cardiac_phantom(seed, 0.0, (4, 64, 64)) for seed in range(10_000, 10_008)]
    scans = [normalise(p.image, intensity_window(p.image)) for p in drawn]
    images = torch.from_numpy(np.concatenate(scans))[:, None]
    labels = torch.from_numpy(np.concatenate([p.labels for p in drawn])).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(preset("tiny", 4))
        optimizer = torch.optim.AdamW(network.parameters(), 1.5e-2)
        for step in range(100):
            optimizer.param_groups[0]["lr"] = 1.5e-2 * (1 - step / 100)
            some = torch.randint(len(images), (5,))
            loss = segmentation_loss(network(images[some]), labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@pytest.fixture
def model_file(make_model, tmp_path) -> Path:
    """That model in a file, outside of any folder that a test segments."""
    folder = tmp_path / "model"
    folder.mkdir()
    model = make_model()
    return save_model(folder / MODEL_FILE, model.network, model.card)


@pytest.fixture
def save_scan() -> Callable[..., Path]:
    """Write (z,y,x) as NIfTI, which stores (x,y,z); spacing is (z,y,x) in mm."""

    def save(path: Path, data: np.ndarray, spacing=(8.0, 1.5, 1.5), shift=0.0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([*spacing[::-1], 1.0])
        affine[:3, 3] = shift
        image = nib.Nifti1Image(data.transpose(), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
        return path

    return save


@pytest.fixture
def scan() -> np.ndarray:
    """A (z,y,x) scan of odd size with structure at several scales."""
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[0:3, 0:41, 0:53]
    waves = np.sin(x / 5 + z) + np.cos(y / 7) + 0.3 * rng.standard_normal(x.shape)
    return (200 + 100 * waves).astype(np.int16)


@pytest.fixture
def l2gnet(capsys):
    """Run the command in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(l2gnet):
    """The command must end with 2 and one line on stderr, which is returned."""

    def run(*arguments: object) -> str:
        code, out, err = l2gnet(*arguments)
        assert code == 2
        assert out == ""
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert err.startswith("l2gnet: ")
        return err

    return run


@pytest.fixture
def image(save_scan, scan, tmp_path):
    return save_scan(tmp_path / "in" / "a.nii.gz", scan)


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess]:
    """Run code in an interpreter of its own: what it imports, and how it ends, is its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        source = str(Path(__file__).parents[2] / "src")
        paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def mapped_files() -> Callable[[], str]:
    """The files that this process has mapped into its memory, as Linux lists them. Windows refuses
    to replace or to delete such a file."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists what is mapped")
    return maps.read_text


@pytest.fixture
def one_sentence() -> Callable[[BaseException], None]:
    """Errors in the input are one sentence on one line."""

    def check(error: BaseException) -> None:
        text = str(error)
        assert text.endswith(".")
        assert "\n" not in text
        assert 20 < len(text) < 500

    return check


@pytest.fixture
def make_dataset(tmp_path, save_scan):
    """A dataset folder with a scan per name; a number repeats the scan of that seed."""

    def make(names, seeds=None, settings=None) -> Path:
        for index, name in enumerate(names):
            rng = np.random.default_rng(index if seeds is None else seeds[index])
            image = rng.integers(0, 500, (2, 9, 11)).astype(np.int16)
            labels = rng.integers(0, 3, (2, 9, 11)).astype(np.uint8)
            save_scan(tmp_path / "data" / "images" / f"{name}.nii.gz", image)
            save_scan(tmp_path / "data" / "labels" / f"{name}.nii.gz", labels)
        if settings is not None:
            (tmp_path / "data" / "dataset.json").write_text(json.dumps(settings))
        return tmp_path / "data"

    return make
