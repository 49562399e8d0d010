"""Masks from elsewhere: which are offered, what their labels mean, where their voxels lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.layers._layer_actions import _duplicate_layer

from l2gnet_core.errors import InputError
from l2gnet_core.files import read_any
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.storage_order import Fit
from l2gnet_core.scans.volume import Grid
from napari_l2gnet.annotating.take_over import OtherOrgans, candidates, take_over, why_none
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.reader import read
from napari_l2gnet.scans.layers import filed_grid, to_layer_data
from napari_l2gnet.scans.on_grid import fit_of

NAMES = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
CARD = ModelCard("model", LabelSet.from_names(NAMES))
SHAPE = (4, 6, 5)
# A tilted grid: napari shows such a scan untilted, and only the file says where it lies.
_c, _s = np.cos(0.3), np.sin(0.3)
TILTED = np.array(
    [[-1.4 * _c, 1.4 * _s, 0, 50], [-1.4 * _s, -1.4 * _c, 0, -30], [0, 0, 8, 12], [0, 0, 0, 1]]
)
STRAIGHT = np.array([[-1.4, 0, 0, 50], [0, -1.4, 0, -30], [0, 0, 8, 12.0], [0, 0, 0, 1]])


def layer_of(data: Any, affine: np.ndarray, kind: str = "image", **more: Any) -> Layer:
    grid = Grid(data.shape, affine=affine, units="mm", oriented=True, name="other")
    return Layer.create(*to_layer_data(grid.volume(data), kind, **more))


def new_mask(affine: np.ndarray = STRAIGHT) -> MaskLayer:
    viewer = ViewerModel()
    scan = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = viewer.add_layer(layer_of(scan, affine))
    return MaskLayer.add(viewer, image, filed_grid(image), CARD, axis=0)


def theirs() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)


def stored(order: tuple[int, ...], flips: tuple[int, ...], box: Any, affine: np.ndarray) -> Any:
    """A part of `theirs` along other axes: voxels, and their affine (x, y, z)."""
    index = np.moveaxis(np.indices(SHAPE), 0, -1)[box]
    index = np.flip(index.transpose(*order, 3), flips)
    first, matrix = index[0, 0, 0][::-1], affine.copy()
    for axis in range(3):
        step = np.take(index, 1, axis)[0, 0] - index[0, 0, 0]
        matrix[:3, 2 - axis] = affine[:3, :3] @ step[::-1]
    matrix[:3, 3] = affine[:3, :3] @ first + affine[:3, 3]
    data = np.flip(theirs()[box].transpose(order), flips)
    return data, matrix


@pytest.mark.parametrize("affine", [STRAIGHT, TILTED], ids=["straight", "tilted"])
@pytest.mark.parametrize(
    ("order", "flips", "box"),
    [
        ((0, 1, 2), (), np.s_[:, :, :]),
        ((0, 1, 2), (1,), np.s_[:, :, :]),
        ((2, 0, 1), (0, 2), np.s_[:, :, :]),
        ((1, 2, 0), (2,), np.s_[1:3, 2:5, 1:4]),
    ],
)
def test_a_mask_of_other_axes_or_a_part_comes_onto_the_grid(
    affine: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...], box: Any
) -> None:
    mask = new_mask(affine)
    # Headers hold float32, and tools round.
    data, matrix = stored(order, flips, box, affine)
    other = mask.viewer.add_layer(layer_of(data, matrix + 1e-5, "labels"))
    assert candidates(mask.viewer, mask) == [other]
    take_over(mask, other)
    whole = np.zeros(SHAPE, np.uint8)
    whole[box] = theirs()[box]
    np.testing.assert_array_equal(mask.layer.data, whole)


def test_every_frame_of_a_series_comes_onto_the_grid() -> None:
    frames = np.stack([theirs(), theirs() // 2])
    fit = Fit(order=(0, 2, 1), backwards=(False, True, False), start=(0, 0, 0))
    turned = frames[..., ::-1, :].swapaxes(2, 3)
    np.testing.assert_array_equal(fit.bring(turned, frames.shape), frames)


@pytest.mark.parametrize(
    "data", [theirs()[:, :, :3], np.pad(theirs(), ((0, 0), (0, 0), (0, 2)))], ids=["less", "more"]
)
def test_a_mask_of_another_size_that_begins_where_the_scan_does_is_of_another(data: Any) -> None:
    # Scans of a study share one origin.
    mask = new_mask()
    mask.viewer.add_layer(layer_of(data, STRAIGHT, "labels"))
    assert not candidates(mask.viewer, mask)


def test_what_a_mask_has_around_the_scan_is_cut_away_unless_it_is_labelled() -> None:
    mask, affine = new_mask(), STRAIGHT.copy()
    affine[:3, 3] -= affine[:3, :3] @ [2, 1, 0]
    larger = np.pad(theirs(), ((0, 1), (1, 0), (2, 3)))
    other = mask.viewer.add_layer(layer_of(larger, affine, "labels"))
    assert candidates(mask.viewer, mask) == [other]
    assert not take_over(mask, other).part
    np.testing.assert_array_equal(mask.layer.data, theirs())
    other.data[-1] = 1
    with pytest.raises(InputError, match=r"but 70 labelled voxels of .* lie outside it"):
        take_over(mask, other)
    np.testing.assert_array_equal(mask.layer.data, theirs())


@pytest.mark.parametrize(
    ("shape", "change", "why"),
    [
        ((4, 6, 4), (0, 3, 0.7), "4 × 6 × 4 voxels, not 4 × 6 × 5"),
        ((4, 6, 5), (0, 3, 0.7), "lies at another place"),
        ((4, 6, 5), (0, 3, 140), "lies at another place"),
        ((4, 6, 5), (2, 2, -4), "voxels of the size 4 × 1.4 × 1.4, not 8 × 1.4 × 1.4"),
        ((2, 4, 6, 5), (0, 3, 0), "2 × 4 × 6 × 5 voxels, not 4 × 6 × 5"),
    ],
)
def test_a_mask_that_lies_elsewhere_is_told(shape: Any, change: Any, why: str) -> None:
    mask, affine = new_mask(), STRAIGHT.copy()
    assert "Drag the mask's file" in why_none(mask.viewer, mask)
    row, column, by = change
    affine[row, column] += by
    mask.viewer.add_layer(layer_of(np.ones(shape, np.uint8), affine, "labels"))
    assert why in why_none(mask.viewer, mask)
    assert not candidates(mask.viewer, mask)


def test_a_layer_that_a_person_moved_lies_elsewhere() -> None:
    mask = new_mask()
    other = mask.viewer.add_layer(layer_of(theirs(), STRAIGHT, "labels"))
    other.translate = (8, 0, 0)
    assert fit_of(other, mask.layer) is None
    with pytest.raises(InputError, match="was moved"):
        take_over(mask, other)


def test_organs_of_slicer_go_by_their_names(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.array([1, 3, 2, 0], np.uint8).repeat(30).reshape(SHAPE))
    image.SetSpacing((1.4, 1.4, 8))
    for number, (value, name) in enumerate({1: "Left Ventricle ", 3: "right ventricle"}.items()):
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Name", name)
    path = tmp_path / "a.seg.nrrd"
    sitk.WriteImage(image, str(path))
    mask = new_mask(read_any(path)[0].affine)
    other = mask.viewer.add_layer(Layer.create(*read(str(path))[0]))
    with pytest.raises(InputError, match="none for 2; give it one"):
        take_over(mask, other)
    other.data[other.data == 2] = 1
    take_over(mask, other)
    assert mask.layer.data[:, 0, 0].tolist() == [3, 1, 3, 0]


def test_two_organs_of_one_name_are_told_apart_by_id_or_refused() -> None:
    mask = new_mask()
    # As a mask of an earlier version may have them.
    mask.relabel(LabelSet.from_names({**NAMES, 4: "cyst", 5: "Cyst"}))
    other = layer_of(np.full(SHAPE, 4), STRAIGHT, "labels", names={4: "cyst"})
    take_over(mask, mask.viewer.add_layer(other))
    assert (mask.layer.data == 4).all()
    other = layer_of(np.full(SHAPE, 2), STRAIGHT, "labels", names={2: "cyst"})
    with pytest.raises(InputError, match="4 and 5 of this mask are both the cyst; rename one"):
        take_over(mask, mask.viewer.add_layer(other))


def test_names_of_other_plugins_count_and_made_up_ones_do_not() -> None:
    mask = new_mask()
    data = np.full(SHAPE, 3)
    other = mask.viewer.add_layer(layer_of(data, STRAIGHT, "labels", colors={3: "#ff0000"}))
    take_over(mask, other)
    assert (mask.layer.data == 3).all()
    names = ["background", "spleen", None, "MYOCARDIUM"]
    other.features = pd.DataFrame({"index": [0, 1, np.nan, 3], "name": names})
    take_over(mask, other)
    assert (mask.layer.data == 2).all()
    other.data[0] = 1
    with pytest.raises(OtherOrgans, match="has spleen, too; add that organ with New … first") as no:
        take_over(mask, other)
    assert (no.value.shared, no.value.others) == (("myocardium",), ("spleen",))
    assert (mask.layer.data == 2).all()


@pytest.mark.parametrize(
    ("names", "expected", "kept"),
    [
        # The left ventricle, of which the file says nothing, stays but under another organ.
        ({1: "spleen", 2: "liver", 3: "myocardium"}, [2, 1, 0, 3], ["right", "left"]),
        ({1: "spleen", 2: "RV", 3: "myocardium", 4: "right ventricle"}, [2, 0, 0, 3], ["left"]),
    ],
)
def test_other_organs_of_a_mask_are_background_if_only_shared_ones_are_taken(
    names: dict[int, str], expected: list[int], kept: list[str]
) -> None:
    mask = new_mask()
    mask.layer.data_setitem(np.unravel_index(range(120), SHAPE), np.repeat([1, 1, 3, 3], 30))
    voxels = np.repeat(np.uint8([3, 0, 2, 0]), 30).reshape(SHAPE)
    other = mask.viewer.add_layer(layer_of(voxels, STRAIGHT, "labels", names=names))
    taken = take_over(mask, other, only_shared=True)
    assert mask.layer.data[:, 0, 0].tolist() == expected
    assert [name.removesuffix(" ventricle") for name in taken.kept] == kept
    # Nothing is left that differs.
    assert take_over(mask, other, only_shared=True).voxels == 0


def test_a_mask_that_shares_no_organ_or_has_none_with_a_name_is_refused() -> None:
    mask = new_mask()
    six = np.arange(120).reshape(SHAPE) % 6
    ribs = {id: f"rib {id}" for id in range(1, 6)}
    for names, why in ((ribs, "has rib 1, rib 2, rib 3 and 2 more, too"), ({}, "the label 4, too")):
        other = mask.viewer.add_layer(layer_of(six, STRAIGHT, "labels", names=names))
        with pytest.raises(InputError, match=why) as refused:
            take_over(mask, other, only_shared=True)
        assert not isinstance(refused.value, OtherOrgans)


def test_ids_that_no_organ_can_have_are_told() -> None:
    mask = new_mask()
    other = mask.viewer.add_layer(layer_of(np.full(SHAPE, 300), STRAIGHT, "labels"))
    other.data[0] = 9
    with pytest.raises(InputError, match=r"up to 255, .* has the label 300, too; give it"):
        take_over(mask, other)
    other.data[1:] = 9
    with pytest.raises(InputError, match="label 9, too; add that organ with New"):
        take_over(mask, other)


@pytest.mark.parametrize("dtype", [bool, np.int16, np.uint8, np.float32, np.float64])
def test_a_mask_that_opens_as_an_image_is_offered(dtype: Any) -> None:
    mask = new_mask()
    other = mask.viewer.add_layer(layer_of(theirs(), STRAIGHT))
    other.data = data = theirs().astype(dtype)
    assert isinstance(other, Image)
    assert candidates(mask.viewer, mask) == [other]
    take_over(mask, other)
    np.testing.assert_array_equal(mask.layer.data, data)


@pytest.mark.parametrize(
    ("data", "more", "expected", "kept"),
    [
        ([0, 1, 1, 0], {"names": {1: "myocardium"}}, [1, 2, 2, 3], ("right", "left")),
        ([0, 2, 2, 0], {}, [1, 2, 2, 3], ("right", "left")),
        ([2, 0, 3, 0], {}, [2, 0, 3, 0], ()),
        # What is named is told, even if there is none of it.
        ([0, 0, 0, 0], {"names": {5: "myocardium", 6: "Left ventricle"}}, [1, 0, 0, 0], ("right",)),
        ([0, 0, 0, 0], {}, [1, 2, 2, 3], ("right", "myocardium", "left")),
        ([0, 0, 0, 0], {"names": NAMES}, [0, 0, 0, 0], ()),
    ],
)
def test_organs_of_which_a_mask_says_nothing_stay(
    data: Any, more: Any, expected: list[int], kept: tuple[str, ...]
) -> None:
    mask = new_mask()
    mask.layer.data_setitem(np.unravel_index(range(120), SHAPE), np.repeat([1, 2, 2, 3], 30))
    before = mask.layer.data.copy()
    voxels = np.repeat(np.uint8(data), 30).reshape(SHAPE)
    other = layer_of(voxels, STRAIGHT, "labels", **more)
    taken = take_over(mask, mask.viewer.add_layer(other))
    assert mask.layer.data[:, 0, 0].tolist() == expected
    assert tuple(name.removesuffix(" ventricle") for name in taken.kept) == kept
    if taken.voxels:
        mask.layer.undo()
    np.testing.assert_array_equal(mask.layer.data, before)


def test_a_mask_of_floats_keeps_its_names() -> None:
    mask = new_mask()
    names = {1: "left ventricle"}
    take_over(mask, mask.viewer.add_layer(layer_of(np.ones(SHAPE, "f4"), STRAIGHT, names=names)))
    assert (mask.layer.data == 3).all()


@pytest.mark.parametrize(
    "data",
    [
        np.arange(120).reshape(SHAPE),
        np.full(SHAPE, -1),
        np.full(SHAPE, 0.5),
        np.full(SHAPE, np.nan),
        np.full(SHAPE, 65536),
        da.ones(SHAPE),
    ],
)
def test_scans_are_not_offered(data: Any) -> None:
    mask = new_mask()
    other = mask.viewer.add_image(data, affine=mask.layer.affine, scale=mask.layer.scale)
    assert not candidates(mask.viewer, mask)
    assert f'"{other.name}" ' in why_none(mask.viewer, mask)


def test_the_scan_is_not_offered_and_new_values_are_looked_at() -> None:
    mask = new_mask()
    mask.viewer.layers[0].data[...] = 1
    assert not candidates(mask.viewer, mask)
    other = mask.viewer.add_layer(layer_of(np.full(SHAPE, 0.5), STRAIGHT))
    assert not candidates(mask.viewer, mask)
    other.data = np.ones(SHAPE)
    assert candidates(mask.viewer, mask) == [other]
    other.data[0] = 0.5
    with pytest.raises(InputError, match="whole numbers from 0 to 65534"):
        take_over(mask, other)


def test_a_copy_is_offered_and_no_mask_that_is_still_written_to() -> None:
    mask = new_mask()
    layers = mask.viewer.layers
    second = MaskLayer.add(mask.viewer, layers[0], mask.grid, CARD, axis=0)
    assert not candidates(mask.viewer, mask)
    layers.selection.active = second.layer
    _duplicate_layer(layers)
    (copy,) = candidates(mask.viewer, mask)
    assert isinstance(copy, Labels)
    copy.data[1] = 2
    take_over(mask, copy)
    np.testing.assert_array_equal(mask.layer.data, copy.data)
