"""Labels on a scan's voxels are brought into its storage order."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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
            (data[1:], nib.affines.from_matvec(TILTED[:3, :3], (TILTED @ [1, 0, 0, 1])[:3])),
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
