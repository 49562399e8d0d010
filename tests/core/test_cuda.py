"""The same on a GPU as on the CPU, where there is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2gnet_core.finetuning.config import SCAN
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.scans.phantom import cardiac_phantom
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import predict_slices

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def mask_of(model: Model, scan: np.ndarray, device: str) -> np.ndarray:
    done = predict_slices(model, scan, Grid(scan.shape), 0, device=device)
    return np.stack([one.labels for one in done if one is not None])


def devices_of(model: Model) -> set[str]:
    return {one.device.type for one in model.network.state_dict().values()}


def test_a_gpu_gives_the_mask_of_the_cpu(heart_model):
    scan = cardiac_phantom(2, shape=(3, 96, 96)).image
    on_cpu = mask_of(heart_model, scan, "cpu")
    on_gpu = mask_of(heart_model, scan, "cuda")
    assert devices_of(heart_model) == {"cpu"}
    # Half precision moves borders by a pixel here and there.
    assert (on_cpu == on_gpu).mean() > 0.99


def test_a_model_is_fine_tuned_on_a_gpu(heart_model):
    phantom = cardiac_phantom(2, shape=(3, 96, 96))
    correction = Correction(phantom.image, Grid(phantom.image.shape), 0, phantom.labels, (0, 2))
    config = replace(SCAN, seconds=None, steps=3)
    *_, last = finetune(heart_model, [correction], config, device="cuda")
    assert devices_of(heart_model) == {"cpu"}
    assert last.result.device == "cuda"
    assert all(torch.isfinite(one).all() for one in last.result.model.network.parameters())
