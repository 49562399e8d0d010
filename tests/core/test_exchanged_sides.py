"""Scans whose file is wrong about their orientation are told of."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.config import preset
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.exchanged_sides import exchanged_sides
from l2gnet_core.segmenting.files import SegmentJob, segment_file
from l2gnet_core.segmenting.slice_view import field_of, shown_scan

ORGAN = LabelSet.from_names({1: "organ"})
CARD = ModelCard(name="m", labels=ORGAN, slicing="axial", oriented=True)
AFFINE = np.diag([1.5, 1.5, 4.0, 1])  # RAS+


def body() -> np.ndarray:
    """A (x,y,z) scan, RAS+: an organ in front on the left, darker in two rings outside."""
    x, y, _ = np.mgrid[0:64, 0:64, 0:9]
    apart = np.hypot(x - 16, y - 48)
    return np.select([apart < 6, apart < 10, apart < 14], [1000, 750, 500], 100).astype(np.int16)


class Knows(torch.nn.Module):
    """Finds bright pixels; the darker rings only where they should be, and there it is surer.
    sides: does it tell the sides of the picture apart, or only its top from its bottom?"""

    def __init__(self, sides: bool) -> None:
        super().__init__()
        self.config = preset("tiny", 2)
        self.sides = sides

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        height, width = images.shape[2:]
        wrong = (torch.arange(height) >= height / 2).float()[:, None].expand(-1, width)
        if self.sides:
            wrong = wrong + (torch.arange(width) >= width / 2)
        found = images[:, 0] > 0.3 + 0.25 * wrong
        logits = torch.where(found, 4 - wrong, -4.0)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(logits), logits], 1))


def told(
    scan: np.ndarray, sides: bool, card: ModelCard = CARD, network: Knows | None = None
) -> str | None:
    grid = Grid(scan.T.shape, affine=AFFINE, units="mm", oriented=True, stored_axes=(2, 1, 0))
    shown = shown_scan(card, scan.T, grid, 0, field_of(card, grid, 0, scan.T))
    steps = exchanged_sides(Model(network or Knows(sides), card), shown, grid, "cpu")
    return next((said for said in steps if said), None)


# The picture's columns grow to the left: the organ, stored on the left of RAS+, is in the left
# half of the picture, where the network looks for it, if x grows to the left.
RIGHT_WAY = np.s_[::-1]


@pytest.mark.parametrize(
    ("sides", "flips", "exchanged"),
    [
        (True, (1, 1), None),
        (True, (-1, 1), "Left and right"),
        (True, (1, -1), "Front and back"),
        (True, (-1, -1), "Front and back as well as left and right"),
        (False, (-1, 1), None),
        (False, (1, -1), "Front and back"),
        (False, (-1, -1), "Front and back"),
    ],
)
def test_what_the_model_knows_better_the_other_way_round_is_named(sides, flips, exchanged):
    scan = body()[RIGHT_WAY][:: flips[0], :: flips[1]]
    said = told(scan, sides)
    if exchanged is None:
        assert said is None
    else:
        assert said.startswith(f"{exchanged} may be exchanged")
        assert "said to grow to RAS" in said


def test_nothing_is_checked_where_it_tells_nothing():
    turned = body()[RIGHT_WAY][:, ::-1]
    assert told(turned, True) is not None
    assert told(turned, True, replace(CARD, oriented=False)) is None
    assert told(turned[:, :, :5], True) is None


def test_a_scan_that_lies_as_it_should_gets_a_quick_look():
    scan = body()[RIGHT_WAY]
    grid = Grid(scan.T.shape, affine=AFFINE, units="mm", oriented=True, stored_axes=(2, 1, 0))
    shown = shown_scan(CARD, scan.T, grid, 0, field_of(CARD, grid, 0, scan.T))
    seen: list[int] = []
    network = Knows(True)
    network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    assert not any(exchanged_sides(Model(network, CARD), shown, grid, "cpu"))
    assert sum(seen) == 9  # three slices, as they are and with either side reversed


class Glimpses(Knows):
    """Finds the organ in four pixels of the picture at most."""

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        logits = torch.full_like(images[:, 0], -20.0)
        logits[:, 14:16, 14:16] = torch.where(images[:, 0, 14:16, 14:16] > 0.9, 4.0, -20.0)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(logits), logits], 1))


def test_a_few_pixels_more_tell_nothing():
    scan = body()[RIGHT_WAY][::-1]
    assert told(scan, True) is not None
    assert told(scan, True, network=Glimpses(True)) is None


def test_the_command_warns(tmp_path):
    model = Model(Knows(True), CARD)
    for flip, count in ((1, 0), (-1, 1)):
        image = nib.Nifti1Image(body()[RIGHT_WAY][:, ::flip], AFFINE)
        image.header.set_xyzt_units("mm")
        nib.save(image, tmp_path / "a.nii")
        job = SegmentJob(tmp_path / "a.nii", tmp_path / "mask.nii")
        warnings = segment_file(job, model, "cpu")["warnings"]
        assert sum("may be exchanged" in one for one in warnings) == count
