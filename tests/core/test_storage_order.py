"""Labels on a scan's voxels are brought into its storage order."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from l2gnet_core.datasets.cases import Case, FilePair
from l2gnet_core.datasets.check import Survey
from l2gnet_core.datasets.loading import load_frames
from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, read_volume
from l2gnet_core.finetuning.correction_views import CorrectedScan
from l2gnet_core.finetuning.files import CorrectedFiles, read_correction
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.storage_order import in_order_of
from l2gnet_core.scans.volume import slicing_axis
from l2gnet_core.scores.evaluate import evaluate
from l2gnet_core.segmenting.corrections import Correction

SHAPE = (4, 5, 6)  # as the files store them: x, y, z
CODES = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]
CARD = ModelCard("a", LabelSet.from_names({1: "one", 2: "two"}))
# Tilted, as scans of hearts are: rotated about two axes.
_A, _B = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]), np.diag([-1.4, -1.4, 8.0])
_C = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
TILTED = nib.affines.from_matvec(_A @ _C @ _B, [30, -20, 15])


def stored(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """The same voxels at the same positions, stored in the order of these letters."""
    now = nib.orientations.io_orientation(image.affine)
    wanted = nib.orientations.axcodes2ornt(tuple(codes))
    return image.as_reoriented(nib.orientations.ornt_transform(now, wanted))


def save(path: Path, data: np.ndarray, affine: np.ndarray = TILTED) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return image


def at_voxel(*first: int) -> np.ndarray:
    """The affine of an array that begins at this voxel (x,y,z)."""
    return nib.affines.from_matvec(TILTED[:3, :3], (TILTED @ [*first, 1])[:3])


@pytest.fixture
def scan(tmp_path) -> Path:
    save(tmp_path / "scan.nii", np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16))
    return tmp_path / "scan.nii"


@pytest.fixture
def labels(tmp_path) -> nib.Nifti1Image:
    labels = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    return save(tmp_path / "labels.nii", labels)


@pytest.mark.parametrize("card", [CARD, replace(CARD, slicing="axial", oriented=True)])
def test_every_storage_order_gives_the_same_training_frame(tmp_path, scan, labels, card):
    files = FilePair(scan, tmp_path / "labels.nii")
    (expected,) = load_frames(Case.named("p1", files), card)
    assert len(set(CODES)) == 48
    for codes in CODES:
        nib.save(stored(labels, codes), tmp_path / "other.nii")
        (frame,) = load_frames(
            Case.named("p1", replace(files, labels=tmp_path / "other.nii")), card
        )
        assert frame.image.equal(expected.image)
        assert frame.classes.equal(expected.classes)


def test_every_storage_order_gives_the_same_scores(tmp_path, labels):
    data = np.asarray(labels.dataobj).copy()
    data[1:3] = 1
    masks = save(tmp_path / "mask.nii", data)
    pair = (tmp_path / "mask.nii", tmp_path / "labels.nii")
    (expected,) = evaluate([pair], 2.0)
    assert 0 < expected.structures["label 1"].dice < 1
    for codes in CODES:
        nib.save(stored(masks, codes), tmp_path / "other.nii")
        (scores,) = evaluate([(tmp_path / "other.nii", pair[1])], 2.0)
        assert scores == expected


def test_every_storage_order_gives_the_same_correction(tmp_path, scan, labels):
    files = CorrectedFiles(scan, tmp_path / "labels.nii", (1, 4))
    expected, _ = read_correction(files, CARD)
    for codes in CODES:
        nib.save(stored(labels, codes), tmp_path / "other.nii")
        correction, _ = read_correction(replace(files, labels=tmp_path / "other.nii"), CARD)
        assert correction.slices == expected.slices
        np.testing.assert_array_equal(correction.pictures, expected.pictures)


def test_every_storage_order_teaches_the_same(tmp_path, scan, labels):
    card = replace(CARD, slicing="axial", oriented=True)
    found = []
    for codes in CODES:
        for image, name in ((nib.load(scan), "scan"), (labels, "labels")):
            nib.save(stored(image, codes), tmp_path / f"{name}-{codes}.nii")
        volume = read_volume(tmp_path / f"scan-{codes}.nii")
        painted = read_labels(tmp_path / f"labels-{codes}.nii").volume.data
        axis = slicing_axis(volume, "axial")
        every = tuple(range(volume.shape[axis]))
        seen = CorrectedScan.of(Correction(volume.data, volume.grid, axis, painted, every), card)
        found.append((seen.image, seen.classes[np.argsort(seen.places)]))
    for image, classes in found:
        assert image.equal(found[0][0])
        assert classes.equal(found[0][1])


@pytest.fixture
def slicer(tmp_path, scan):
    """Write labels as 3D Slicer does, only around what is labelled; in another orientation, or with
    a margin of voxels of which some may lie outside the scan. Returns the labels on the scan, as
    ITK has them."""
    whole = sitk.ReadImage(str(scan))

    def write(path: Path, orientation: str = "", pad: tuple[int, int, int] = (0, 0, 0)):
        painted = np.zeros(SHAPE[::-1], np.uint8)
        painted[1:4, 2:4, 1:3] = np.random.default_rng(3).integers(1, 3, (3, 2, 2))
        image = sitk.GetImageFromArray(painted)
        image.CopyInformation(whole)
        part = sitk.RegionOfInterest(image, (2, 2, 3), (1, 2, 1))
        part = sitk.ConstantPad(part, pad, pad, 0)
        if orientation:
            part = sitk.DICOMOrient(part, orientation)
        for number, name in ((1, "one"), (2, "two")):
            part.SetMetaData(f"Segment{number}_ID", f"Segment_{number}")
            part.SetMetaData(f"Segment{number}_LabelValue", str(number))
            part.SetMetaData(f"Segment{number}_Name", name)
        sitk.WriteImage(part, str(path))
        kept = sitk.Resample(
            sitk.ReadImage(str(path)), whole, sitk.Transform(), sitk.sitkNearestNeighbor
        )
        np.testing.assert_array_equal(sitk.GetArrayFromImage(kept), painted)
        return painted

    return write


@pytest.mark.parametrize("pad", [(0, 0, 0), (2, 2, 4)], ids=["inside", "beyond"])
@pytest.mark.parametrize("orientation", ["", "RAS", "SPL", "AIR"])
def test_a_part_that_slicer_saved_is_as_good_as_the_whole(tmp_path, scan, slicer, orientation, pad):
    file, whole = tmp_path / "labels.seg.nrrd", tmp_path / "whole.nii"
    painted = slicer(file, orientation, pad)
    save(whole, painted.transpose(), nib.load(scan).affine)
    told: list[str] = []
    corrected, _ = read_correction(CorrectedFiles(scan, file, (1, 2)), CARD, tell=told.append)
    np.testing.assert_array_equal(corrected.pictures, painted[[1, 2]])
    assert told == [
        "labels.seg.nrrd holds a part of scan.nii: what it leaves out counts as background."
    ] * (not any(pad))
    case = Case.named("p1", FilePair(scan, file))
    volume, stored = case.read()
    np.testing.assert_array_equal(stored.volume.data, painted)
    np.testing.assert_array_equal(stored.volume.affine, volume.affine)
    assert stored.names == CARD.labels.names
    said = " ".join(stored.volume.warnings)
    assert ("hold a part of the scan" in said) == (not any(pad))
    assert ("stored along other axes" in said) == bool(orientation)
    # Also where the reference holds less than the prediction, or each has what the other lacks.
    save(tmp_path / "part.nii", painted.transpose()[:3, 1:], at_voxel(0, 1, 0))
    for pair in itertools.product((file, whole, tmp_path / "part.nii"), repeat=2):
        (scores,) = evaluate([pair], 2.0)
        assert {one.dice for one in scores.structures.values()} == {1}
        part = [word for word in scores.warnings if "holds a part" in word]
        assert bool(part) == (pair[0] != pair[1])


def test_labels_outside_the_scan_are_refused(tmp_path, scan, labels):
    more = np.pad(np.asarray(labels.dataobj), ((1, 1), (0, 0), (2, 0)), constant_values=1)
    file, outside = tmp_path / "more.nii", int(more.size - np.prod(SHAPE))
    save(file, more, at_voxel(-1, 0, -2))
    says = f"but {outside} labelled voxels of more lie outside it"
    with pytest.raises(InputError, match=says):
        read_correction(CorrectedFiles(scan, file, (1,)), CARD)
    for part, one in (("images", scan), ("labels", file)):
        (tmp_path / "data" / part).mkdir(parents=True)
        shutil.copy(one, tmp_path / "data" / part / "more.nii")
    survey = Survey(tmp_path / "data")
    list(survey.examine())
    (wrong,) = survey.errors
    assert says in wrong.sentence
    # Two masks are compared on all that both cover.
    (scores,) = evaluate([(file, tmp_path / "labels.nii")], 2.0)
    assert scores.structures["label 2"].dice == 1 > scores.structures["label 1"].dice > 0


def test_frames_stay_in_their_order(tmp_path):
    series = np.random.default_rng(2).integers(0, 3, (*SHAPE, 3)).astype(np.uint8)
    image = save(tmp_path / "a.nii", series)
    nib.save(stored(image, "SAL"), tmp_path / "b.nii")
    one, other = (read_volume(tmp_path / name) for name in ("a.nii", "b.nii"))
    assert other.shape != one.shape
    np.testing.assert_array_equal(in_order_of(one.grid, other).data, one.data)


def test_what_is_elsewhere_or_does_not_say_where_stays_as_it_is(tmp_path, labels):
    here = read_volume(tmp_path / "labels.nii")
    data = np.asarray(labels.dataobj)
    moved = TILTED.copy()
    moved[:3, 3] += 4
    for number, (voxels, affine) in enumerate(
        [
            (data, moved),
            (data, TILTED @ np.diag([-1, 1, 1, 1])),
            (data, TILTED @ np.diag([1, 1, 1.1, 1])),
            # Scans of a study, or whose origins were lost, begin at one voxel.
            (data[:3], TILTED),
            (np.pad(data, ((0, 0), (0, 0), (0, 1))), TILTED),
            (data, at_voxel(1, 0, 0)),
        ]
    ):
        save(tmp_path / f"{number}.nii", voxels, affine)
        other = read_volume(tmp_path / f"{number}.nii")
        assert in_order_of(here.grid, other) is other
    assert in_order_of(here.grid, here) is here
    silent = replace(read_volume(tmp_path / "0.nii"), oriented=False)
    assert in_order_of(here.grid, silent) is silent
    # Some files state the same direction for two axes.
    flat = replace(here.grid, affine=here.affine @ np.diag([1, 1, 0, 1]))
    assert in_order_of(flat, replace(here, affine=flat.affine)).data is here.data


def test_a_dataset_says_so_once_and_what_is_elsewhere_is_refused(tmp_path, scan, labels):
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    scan.rename(tmp_path / "data" / "images" / "p1.nii")
    file = tmp_path / "data" / "labels" / "p1.nii"
    nib.save(stored(labels, "SPR"), file)
    survey = Survey(tmp_path / "data")
    list(survey.examine())
    (told,) = [one for one in survey.findings if "stored along other axes" in one.sentence]
    assert told.kind == "warning"
    assert survey.errors == []
    save(file, np.asarray(labels.dataobj), TILTED @ np.diag([-1, 1, 1, 1]))
    with pytest.raises(InputError, match="mm apart"):
        load_frames(Case.named("p1", FilePair(tmp_path / "data/images/p1.nii", file)), CARD)
