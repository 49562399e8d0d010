"""What a model sees of a scan: the same picture in any storage order, and the way back."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_volume import ORIENTATIONS, oriented_affine

from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, read_volume
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.config import preset
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid, Volume, default_affine, oriented_as, slicing_axis
from l2gnet_core.segmenting import predict
from l2gnet_core.segmenting.files import SegmentJob, segment_file
from l2gnet_core.segmenting.predict import predict_slices
from l2gnet_core.segmenting.slice_view import LONGEST_SIDE, slice_view
from l2gnet_core.segmenting.suitability import mismatches

SIDES = LabelSet.from_names({1: "right", 2: "left"})
#: Orientation codes for SimpleITK, (x, y, z): columns, rows, stack.
SEEN_AS = {"axial": "LPS", "coronal": "LIA", "sagittal": "PIR"}
#: A rotation out of the scanner's axes by less than 45°, as in oblique scans.
TILT = nib.eulerangles.euler2mat(0.35, -0.25, 0.3)


def card(**fields) -> ModelCard:
    return ModelCard(**{"name": "m", "labels": SIDES, "slicing": "axial", **fields})


def body() -> np.ndarray:
    """A (x,y,z) scan, RAS+, without any symmetry: two bright organs, a dark one, a slope."""
    x, y, z = np.mgrid[0:32, 0:48, 0:7]
    scan = 100.0 + x + 2 * y + 6 * z
    scan[np.hypot(x - 8, y - 30) + abs(z - 3) < 7] = 400
    scan[np.hypot(x - 23, y - 28) + abs(z - 3) < 7] = 400
    scan[np.hypot(x - 20, y - 10) + abs(z - 5) < 6] = 20
    return scan.astype(np.int16)


def stored_as(codes: str, tilt: np.ndarray | None = None) -> nib.Nifti1Image:
    """The body as a file whose axes have the order and direction of the codes."""
    # Each axis has a length of its own, but the pixels are no more oblong than is left as it is.
    affine = oriented_affine("RAS", (1.5, 1.45, 4.0))
    affine[:3, :3] = (np.eye(3) if tilt is None else tilt) @ affine[:3, :3]
    image = nib.Nifti1Image(body(), affine)
    to_codes = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    return image.as_reoriented(to_codes)


def as_itk(scan: np.ndarray, affine: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(scan)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


class Rule(torch.nn.Module):
    """A network that computes a function of (B,C,H,W) and remembers its inputs."""

    def __init__(self, rule, in_channels: int = 1) -> None:
        super().__init__()
        self.config = preset("tiny", 3, in_channels)
        self.rule = rule
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        self.seen.append(images)
        return SimpleNamespace(logits=self.rule(images))


def bright_by_side(images: torch.Tensor) -> torch.Tensor:
    """Bright pixels are right in the left half of the picture and left in the right half."""
    bright = images[:, images.shape[1] // 2] > 0.9
    left_half = torch.arange(images.shape[-1]) < images.shape[-1] / 2
    return torch.stack([~bright, bright & left_half, bright & ~left_half], 1) * 20.0


def bright_or_not(images: torch.Tensor) -> torch.Tensor:
    """A soft threshold at half the window."""
    slope = (images[:, images.shape[1] // 2] - 0.5) * 6
    return torch.stack([-slope, slope], 1)


def whole(model: Model, volume: Volume) -> np.ndarray:
    axis = slicing_axis(volume, model.card.slicing)
    mask = np.zeros(volume.shape, np.uint8)
    for done in predict_slices(model, volume.data, volume, axis):
        np.moveaxis(mask, axis, 0)[done.index] = done.labels
    return mask


@pytest.fixture
def one_slice_a_pass(monkeypatch):
    # Slices of a flipped stack are in other batches, which may be summed in another order.
    monkeypatch.setitem(predict.BATCH_PIXELS, "cpu", 1)


@pytest.mark.parametrize("tilt", [None, TILT], ids=["straight", "tilted"])
@pytest.mark.parametrize("plane", SEEN_AS)
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_oriented_models_see_what_simpleitk_orients(codes, plane, tilt):
    image = stored_as(codes, tilt)
    scan = np.asarray(image.dataobj).T
    grid = Grid(scan.shape, affine=image.affine, units="mm", oriented=True)
    view = slice_view(card(oriented=True, slicing=plane), grid, slicing_axis(grid, plane))
    wanted = sitk.DICOMOrient(as_itk(scan, image.affine), SEEN_AS[plane])
    np.testing.assert_array_equal(view.stack(scan), sitk.GetArrayFromImage(wanted))
    assert view.shape == view.stack(scan).shape
    for index in range(scan.shape[view.axes[0]]):
        picture = view.stack(scan)[view.place(index)]
        np.testing.assert_array_equal(view.stored(picture), scan.take(index, view.axes[0]))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", ["RAS", "PIL", "SAL"])
def test_models_without_left_and_right_see_the_scan_as_it_is_stored(codes, axis):
    scan = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    grid = Grid(scan.shape, affine=oriented_affine(codes), oriented=True)
    view = slice_view(card(), grid, axis)
    np.testing.assert_array_equal(view.stack(scan), np.moveaxis(scan, axis, 0))
    np.testing.assert_array_equal(view.stored(view.stack(scan)[1]), scan.take(1, axis))
    assert (view.place(1), view.step, view.size) == (1, 1, view.shape[1:])


@pytest.mark.usefixtures("one_slice_a_pass")
@pytest.mark.parametrize("tilt", [None, TILT], ids=["straight", "tilted"])
def test_all_storage_orders_get_one_mask_in_the_world(make_model, tmp_path, tilt):
    model = make_model(SIDES, in_channels=3, oriented=True, slicing="axial", spacing=(4, 1.6, 1.4))
    found = []
    # Of the tilted ones some do: which axis is which is told in the same way.
    for codes in ORIENTATIONS if tilt is None else ORIENTATIONS[::9]:
        path, mask = tmp_path / f"{codes}.nii", tmp_path / "masks" / f"{codes}.nii"
        nib.save(stored_as(codes, tilt), path)
        segment_file(SegmentJob(path, mask), model, "cpu")
        assert nib.load(mask).shape == nib.load(path).shape
        np.testing.assert_array_equal(nib.load(mask).affine, nib.load(path).affine)
        found.append(nib.as_closest_canonical(nib.load(mask)))
    voxels = [np.asarray(one.dataobj) for one in found]
    assert len(np.unique(voxels[0])) > 1
    assert not np.array_equal(voxels[0], voxels[0][::-1])
    for one, mask in zip(found, voxels, strict=True):
        np.testing.assert_array_equal(mask, voxels[0])
        np.testing.assert_allclose(one.affine, found[0].affine, atol=1e-4)


@pytest.mark.parametrize("tilt", [None, TILT], ids=["straight", "tilted"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_left_is_left_however_the_scan_is_stored(codes, tilt, tmp_path):
    image = stored_as(codes, tilt)
    nib.save(image, tmp_path / "a.nii")
    model = Model(Rule(bright_by_side), card(oriented=True))
    mask = whole(model, read_volume(tmp_path / "a.nii")).T
    world = {
        id: nib.affines.apply_affine(image.affine, np.argwhere(mask == id)).mean(0) for id in (1, 2)
    }
    across = np.eye(3)[0] if tilt is None else tilt[:, 0]
    # RAS+: what is right of the patient has the larger coordinate.
    assert (world[1] - world[2]) @ across > 15
    assert (mask == 1).sum() == pytest.approx((mask == 2).sum(), rel=0.1)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_letters_given_by_hand_stand_for_those_in_the_file(codes):
    image = stored_as(codes)
    stored = np.asarray(image.dataobj)
    # Once with the axes of NIfTI, which are stored x first, once with those of TIFF.
    for scan, axes, size in ((stored.T, (2, 1, 0), image.header.get_zooms()[::-1]),
                             (stored, (0, 1, 2), image.header.get_zooms())):  # fmt: skip
        size = tuple(float(s) for s in size)
        silent = Volume(scan, affine=default_affine(size), units="mm", stored_axes=axes)
        told = oriented_as(silent, codes.lower())
        assert "".join(told.axis_codes[a] for a in told.stored_axes) == codes
        assert told.spacing == pytest.approx(silent.spacing)
        assert (told.units, told.oriented, silent.oriented) == ("mm", True, False)
        mask = whole(Model(Rule(bright_by_side), card(oriented=True)), told)
        known = Volume(stored.T, affine=image.affine, units="mm", oriented=True)
        expected = whole(Model(Rule(bright_by_side), card(oriented=True)), known)
        np.testing.assert_array_equal(mask if axes == (2, 1, 0) else mask.T, expected)
    assert nib.aff2axcodes(oriented_as(Grid((3, 4, 5), stored_axes=(2, 1, 0)), codes).affine) == (
        *codes,
    )


@given(st.text("LRPAISlrpaisXY 1", max_size=5))
def test_other_letters_are_refused(letters):
    pairs = ["LR", "PA", "IS"]
    given = letters.strip().upper()
    good = sorted("".join(p for p in pairs if c in p) for c in given) == sorted(pairs)
    if good:
        assert oriented_as(Grid((1, 2, 3)), letters).oriented
        return
    with pytest.raises(InputError, match="three letters"):
        oriented_as(Grid((1, 2, 3)), letters)


def test_a_scan_that_says_its_orientation_is_believed(one_sentence):
    scan = Grid((4, 5, 6), affine=oriented_affine("LPS"), oriented=True, stored_axes=(2, 1, 0))
    assert oriented_as(scan, "LPS") is scan
    with pytest.raises(InputError, match="says LPS, not RAS") as error:
        oriented_as(scan, "RAS")
    one_sentence(error.value)


def test_a_scan_that_does_not_is_never_guessed(tmp_path, one_sentence):
    model = Model(Rule(bright_by_side), card(oriented=True))
    silent = nib.Nifti1Image(np.asarray(stored_as("LPI").dataobj), None)
    silent.header.set_zooms((1.5, 1.45, 4.0))
    silent.header.set_xyzt_units("mm")
    silent.header.set_sform(None, 0)
    silent.header.set_qform(None, 0)
    nib.save(silent, tmp_path / "a.nii")
    as_tiff = np.asarray(stored_as("SPR").dataobj).astype(np.uint16)  # as TIFF stores them: z first
    tifffile.imwrite(tmp_path / "b.tif", as_tiff, photometric="minisblack")
    nib.save(stored_as("RAS"), tmp_path / "c.nii")
    reference = whole(model, read_volume(tmp_path / "c.nii")).T
    for name, letters, to_ras in (("a.nii", "LPI", np.s_[::-1, ::-1, ::-1]),
                                  ("b.tif", "SPR", np.s_[:, ::-1, :])):  # fmt: skip
        job = SegmentJob(tmp_path / name, tmp_path / f"mask-{name}")
        with pytest.raises(InputError, match=r"--orientation") as error:
            segment_file(job, model, "cpu")
        one_sentence(error.value)
        assert not job.mask.exists()
        segment_file(job, model, "cpu", orientation=letters)
        mask = read_labels(job.mask).volume
        assert not mask.oriented  # the file's own grid: nothing is added to what it says
        array = mask.data.T if name == "a.nii" else mask.data.transpose(2, 1, 0)
        np.testing.assert_array_equal(array[to_ras], reference)
    written = nib.load(tmp_path / "mask-a.nii").header
    assert (int(written["qform_code"]), int(written["sform_code"])) == (0, 0)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(120, 180), st.integers(120, 180)),
    st.floats(0.6, 2.0),
    st.floats(0.6, 2.0),
    st.sampled_from(ORIENTATIONS),
)
def test_resampling_there_and_back_keeps_shape_and_place(size, rows, columns, codes):
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    # A soft ellipse, wide enough to span many pixels at either size.
    distance = np.hypot((y - size[0] * 0.45) / size[0], (x - size[1] * 0.55) / size[1])
    scan = np.stack([1000 / (1 + np.exp((distance - r) * 60)) for r in (0.3, 0.25)])
    labels = LabelSet.from_names({1: "one"})
    sees = card(labels=labels, spacing=(3.0, 1.0, 1.0), oriented=True)
    affine = default_affine((3.0, rows, columns))  # LPS: stored as it is seen
    as_seen = Volume(scan, affine=affine, units="mm", oriented=True)
    # The same thing in any storage order, by nibabel.
    image = nib.Nifti1Image(scan.T, as_seen.affine)
    image = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
        )
    )
    data = np.asarray(image.dataobj).T
    volume = Volume(data, affine=image.affine, units="mm", oriented=True)
    network = Rule(bright_or_not)
    mask = whole(Model(network, sees), volume)
    assert mask.shape == data.shape
    stride, seen = network.config.stride, network.seen[0].shape[-2:]
    wanted = [n * s for n, s in zip(size, (rows, columns), strict=True)]
    assert all(-1 <= s - w < stride + 1 for s, w in zip(seen, wanted, strict=True))
    window = np.percentile(data, (1, 99))
    truth = data > window.mean()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.98


def test_without_a_voxel_size_nothing_is_resampled_and_that_is_said(one_sentence):
    sees = card(spacing=(5.0, 1.0, 1.0))
    grid = Grid((8, 40, 60), affine=default_affine((2.5, 2, 2)), units="mm")
    view = slice_view(sees, grid, 0)
    assert (view.size, view.step) == ((80, 120), 2)
    assert mismatches(sees, grid, 0) == []
    silent = Grid((8, 40, 60), affine=default_affine((2.5, 2, 2)))
    view = slice_view(sees, silent, 0)
    assert (view.size, view.step) == ((40, 60), 1)
    (sentence,) = mismatches(sees, silent, 0)
    assert "1×1 mm" in sentence
    one_sentence(ValueError(sentence))
    # The size in pixels still counts where nothing better is known.
    assert slice_view(card(spacing=(5.0, 1.0, 1.0), sides=(80, 100)), silent, 0).size == (60, 90)


def test_an_absurd_voxel_size_asks_for_no_absurd_memory():
    grid = Grid((8, 40, 3000), affine=default_affine((1e-9, 1e6, 1e6)), units="mm")
    view = slice_view(card(spacing=(5.0, 1.0, 1.0)), grid, 0)
    assert (view.size, view.step) == ((LONGEST_SIDE, 3000), 8)
    grid = Grid((8, 40, 3000), affine=default_affine((1e9, 1e-6, 1e-6)), units="mm")
    view = slice_view(card(spacing=(5.0, 1.0, 1.0)), grid, 0)
    assert (view.size, view.step) == ((1, 1), 1)


@pytest.mark.parametrize(
    ("between", "step"), [(2.0, 3), (2.4, 2), (3.0, 2), (5.0, 1), (7.0, 1), (30.0, 1)]
)
@pytest.mark.parametrize("codes", ["LPS", "LPI"])
def test_neighbours_come_from_where_they_were_in_training(between, step, codes):
    scan = np.arange(16, dtype=np.float32)[:, None, None] * np.ones((16, 16, 16), np.float32)
    volume = Volume(scan, affine=oriented_affine(codes, (1, 1, between)), units="mm", oriented=True)
    network = Rule(bright_or_not, in_channels=3)
    model = Model(network, card(oriented=True, spacing=(5.5, 1, 1)))
    for index in range(16):
        list(predict_slices(model, scan, volume, 0, [index]))
    seen = torch.cat(network.seen)[:, :, 0, 0].numpy()
    low, high = np.percentile(scan, (1, 99))
    up = step if codes == "LPS" else -step  # always from below to above
    for index, three in enumerate(seen):
        slices = np.clip([index - up, index, index + up], 0, 15)
        np.testing.assert_allclose(three, np.clip((slices - low) / (high - low), 0, 1), atol=1e-6)
