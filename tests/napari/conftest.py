"""What the GUI tests share: small models, scans, and a viewer that leaves no thread behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from gui import open_scan, run
from npe2 import PluginManager
from superqt.utils import WorkerBase

from l2gnet_core.models.card import Expectations, ModelCard
from l2gnet_core.models.checkpoint import save_model
from l2gnet_core.network.config import preset
from l2gnet_core.network.model import build
from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.correct.widget import CorrectWidget
from napari_l2gnet.jobs.session import Session
from napari_l2gnet.jobs.worker import URGENT
from napari_l2gnet.segment.widget import SegmentWidget

NAMES = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}


@pytest.fixture(autouse=True)
def projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where work is saved: never among the user's own."""
    folder = tmp_path / "projects"
    monkeypatch.setenv("L2GNET_PROJECTS", str(folder))
    return folder


@pytest.fixture(autouse=True, scope="session")
def plugins_are_looked_for_once() -> Iterator[None]:
    """Each new viewer reads what is installed again, which takes 0.1 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManager, "discover", lru_cache(PluginManager.discover))
        yield


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    WorkerBase.await_workers(10_000)
    for thread in threading.enumerate():
        if thread.name == URGENT:
            thread.join(10)


@pytest.fixture(autouse=True)
def what_is_loaded_is_no_garbage() -> Iterator[None]:
    """napari's own fixture collects garbage several times for each viewer, 0.3 s each if it has to
    look at all that is imported and cached."""
    yield
    gc.collect()
    gc.freeze()


def save_untrained(
    folder: Path, name: str, seed: int = 0, labels: dict[int, str] = NAMES, **card: Any
) -> Path:
    """Save a model that labels noise, another with each seed."""
    import torch

    torch.manual_seed(seed)
    network = build(preset("tiny", classes=len(labels) + 1))
    # Untrained logits hardly differ: without this one class would take every voxel.
    torch.nn.init.normal_(network.decoder.head.weight, std=3)
    torch.nn.init.zeros_(network.decoder.head.bias)
    saved = ModelCard(name, LabelSet.from_names(labels), **card)
    return save_model(folder / f"{name}.safetensors", network.eval(), saved)


@pytest.fixture
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's models with two untrained ones: "scribbler", and "sided", which tells
    left from right and sees axial slices."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("L2GNET_MODELS", str(folder))
    expects = Expectations("MR", pixel=(0.6, 3.5), slice=(4, 20))
    save_untrained(folder, "scribbler", expects=expects)
    save_untrained(folder, "sided", oriented=True, slicing="axial")
    return folder


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    """A short-axis-like NIfTI scan, 48×40 pixels, 6 slices, with axes flipped and a qform."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(12, 10, 6)).repeat(4, 0).repeat(4, 1)
    data = ((smooth - smooth.min()) * 300).astype(np.int16)
    image = nib.Nifti1Image(data, np.diag([-1.4, -1.4, 8.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 2)
    path = tmp_path / "scan.nii.gz"
    nib.save(image, path)
    return path


@pytest.fixture
def segment_widget(
    make_napari_viewer: Callable[..., Any], user_models: Path
) -> Callable[[], tuple[Any, SegmentWidget]]:
    """Makes a viewer with the docked widget, "scribbler" chosen."""

    def make() -> tuple[Any, SegmentWidget]:
        viewer = make_napari_viewer()
        widget = SegmentWidget(viewer, Session())
        viewer.window.add_dock_widget(widget, name="Segment")
        widget.model.setCurrentText("scribbler")
        return viewer, widget

    return make


@pytest.fixture
def correct_widget(
    segment_widget: Callable[[], tuple[Any, SegmentWidget]], scan_file: Path, qtbot: Any
) -> Callable[[], tuple[Any, SegmentWidget, CorrectWidget]]:
    """Makes a viewer with a segmented scan and both widgets docked."""

    def make() -> tuple[Any, SegmentWidget, CorrectWidget]:
        viewer, segment = segment_widget()
        open_scan(viewer, scan_file)
        run(qtbot, segment)
        correct = CorrectWidget(viewer, segment.session)
        with qtbot.waitSignal(correct.ready, timeout=30_000):
            viewer.window.add_dock_widget(correct, name="Correct & fine-tune")
        return viewer, segment, correct

    return make
