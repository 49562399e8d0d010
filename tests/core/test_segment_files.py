"""Segmenting files: where each mask is written, and what is reported of it."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from unicodedata import normalize

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch

from l2gnet_core.errors import InputError
from l2gnet_core.files import format_of, read_labels, read_volume, write_labels
from l2gnet_core.models.card import Expectations, ModelCard
from l2gnet_core.scans.cleanup import CleanUp, keep_largest_component, tidy
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid, NoSizeStated, Volume
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.files import SegmentJob, plan_jobs, segment_file, segmented
from l2gnet_core.segmenting.predict import predict_slices
from l2gnet_core.segmenting.slice_view import field_of
from l2gnet_core.segmenting.suitability import NoVoxelSize, doubts, mismatches, voxel_counts

# Names of labels, as TotalSegmentator writes them into a header.
BY_ANOTHER_TOOL = b"""<CaretExtension><VolumeInformation><LabelTable>
<Label Key="1" Red="0" Green="1" Blue="0"><![CDATA[spleen]]></Label>
</LabelTable><VolumeType><![CDATA[Label]]></VolumeType></VolumeInformation></CaretExtension>"""


@pytest.fixture
def touch(tmp_path):
    """Empty files: planning looks at names only."""

    def make(*names: str) -> list[Path]:
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return paths

    return make


def names(jobs: list[SegmentJob], folder: Path) -> list[tuple[str, str]]:
    return [(str(job.image.relative_to(folder)), str(job.mask.relative_to(folder))) for job in jobs]


def test_one_image_becomes_the_file_or_goes_into_the_folder(touch, tmp_path):
    (image,) = touch("a.nii.gz")
    mask = tmp_path / "new" / "mask.nii"
    assert plan_jobs([image], mask) == [SegmentJob(image, mask)]
    # A pattern may match one file, and the folder may be new.
    for _ in range(2):
        assert plan_jobs([image], tmp_path / "out") == [
            SegmentJob(image, tmp_path / "out" / "a.nii.gz")
        ]
        (tmp_path / "out").mkdir(exist_ok=True)


def test_several_images_keep_their_names_in_a_folder(touch, tmp_path):
    images = touch("a.nii.gz", "b.nii", "c.ome.tif", "d.tiff")
    jobs = plan_jobs(images, tmp_path / "out")
    assert [job.mask for job in jobs] == [tmp_path / "out" / image.name for image in images]


def test_a_folder_gives_its_scans_and_nothing_else(touch, tmp_path):
    touch("in/b.nii.gz", "in/a.tif", "in/notes.txt", "in/sub/c.nii")
    # The first is of macOS, beside a deleted scan; the second is no DICOM file.
    touch("in/._b.nii.gz", "in/._IM1.dcm")
    (tmp_path / "in" / "d.nii").mkdir()
    assert names(plan_jobs([tmp_path / "in"], tmp_path / "out"), tmp_path) == [
        ("in/a.tif", "out/a.tif"),
        ("in/b.nii.gz", "out/b.nii.gz"),
    ]


def test_a_pair_of_header_and_image_is_one_scan_written_as_nifti(touch, tmp_path):
    touch("in/a.hdr", "in/a.img", "in/b.img")
    assert names(plan_jobs([tmp_path / "in"], tmp_path / "out"), tmp_path) == [
        ("in/a.hdr", "out/a.nii.gz"),
        ("in/b.img", "out/b.nii.gz"),
    ]


def test_plans_that_would_harm_are_refused_before_anything_is_written(
    touch, tmp_path, one_sentence
):
    a, b, same_name, _, link, taken = touch(
        "a.nii", "b.nii", "other/a.nii", "empty/x.txt", "link.nii", "taken"
    )
    link.unlink()
    link.symlink_to(a)
    loop = tmp_path / "loop.nii"
    loop.symlink_to(loop)
    for images, output, says in (
        ([a], a, "choose another output"),
        ([a], link, "choose another output"),  # the image by another name
        ([a], loop, "leads back to itself"),
        ([a], tmp_path, "choose another output"),  # into the image's own folder
        ([a, b], tmp_path, "choose another output"),
        ([tmp_path / "other"], tmp_path / "other", "choose another output"),
        ([a, same_name], tmp_path / "out", "different file names"),
        ([a, b], tmp_path / "mask.nii", "names a file"),
        ([tmp_path / "other"], b, "names a file"),
        ([a], tmp_path / "mask.mha", "not as mask.mha; if that is to be a folder, make it"),
        ([a], taken, "not as taken"),
        ([tmp_path / "nowhere.nii"], tmp_path / "mask.nii", "no file"),
        ([a, tmp_path / "nowhere.nii"], tmp_path / "out", "no file"),
        ([tmp_path / "empty"], tmp_path / "out", "no file that can be read"),
    ):
        with pytest.raises(InputError, match=says) as error:
            plan_jobs(images, output)
        one_sentence(error.value)
    assert not (tmp_path / "out").exists()


def test_names_that_are_one_on_a_mac_are_refused_there(touch, tmp_path, monkeypatch, one_sentence):
    first = touch("one/Äorta.nii.gz")[0]
    for other in touch("two/äorta.nii.gz", f"three/{normalize('NFD', 'Äorta')}.nii.gz"):
        assert len(plan_jobs([first, other], tmp_path / "out")) == 2
        with monkeypatch.context() as on_mac:
            on_mac.setattr(sys, "platform", "darwin")
            with pytest.raises(InputError, match="different file names") as error:
                plan_jobs([first, other], tmp_path / "out")
        one_sentence(error.value)


def test_planning_takes_twice_the_work_for_twice_the_scans(touch, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(
        "l2gnet_core.segmenting.files.format_of",
        lambda path: looked.append(path) or format_of(path),
    )
    per_scan = []
    for count in (4, 16):
        images = touch(*(f"{count}/{n}.nii.gz" for n in range(count)))
        looked.clear()
        plan_jobs(images, tmp_path / "out")
        per_scan.append(len(looked) / count)
    assert per_scan[0] == per_scan[1]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".tif", ".ome.tif"])
def test_a_scan_that_lies_where_a_mask_would_is_not_replaced(tmp_path, one_sentence, suffix):
    image, target = tmp_path / f"in/a{suffix}", tmp_path / f"out/a{suffix}"
    image.parent.mkdir()
    image.touch()
    target.parent.mkdir()
    if "nii" in suffix:
        there = nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4))
        if suffix == ".nii.gz":
            there.header.extensions.append(nib.nifti1.Nifti1Extension(0, BY_ANOTHER_TOOL))
        nib.save(there, target)
    else:
        tifffile.imwrite(target, np.ones((3, 4, 5), np.uint16), photometric="minisblack")
    for output in (target, target.parent):
        with pytest.raises(InputError, match="no mask that l2gnet wrote") as error:
            plan_jobs([image], output)
        one_sentence(error.value)
    # Masks of an earlier run are replaced, and files that cannot be read.
    like = Grid((3, 4, 5))
    write_labels(target, np.ones(like.shape, np.uint8), like, {1: "one"})
    assert plan_jobs([image], target) == [SegmentJob(image, target)]
    for unreadable in (b"", b"nonsense" * 50):
        target.write_bytes(unreadable)
        assert plan_jobs([image], target.parent) == [SegmentJob(image, target)]


def test_a_mask_lies_on_its_image_and_the_report_says_what_is_in_it(
    make_model, save_scan, scan, tmp_path
):
    model = make_model()
    image = save_scan(tmp_path / "a.nii.gz", scan, (8.0, 1.5, 1.25), shift=17.0)
    job = SegmentJob(image, tmp_path / "new" / "folder" / "mask.nii.gz")
    report = segment_file(job, model, "cpu")

    stored, mask = nib.load(image), nib.load(job.mask)
    assert mask.shape == stored.shape
    assert np.array_equal(mask.affine, stored.affine)
    found = read_labels(job.mask)
    wanted = np.stack([done.labels for done in predict_slices(model, scan, read_volume(image), 0)])
    assert np.mean(found.volume.data != wanted) < 1e-3
    assert found.names == model.card.labels.names

    assert report["image"] == str(image)
    assert report["mask"] == str(job.mask)
    assert report["slicing_axis"] == 2  # NIfTI stores (x, y, z)
    assert set(report["seconds"]) == {"read", "segment", "write"}
    for row in report["labels"]:
        assert row["name"] == model.card.labels.names[row["id"]]
        assert row["voxels"] == (found.volume.data == row["id"]).sum()
        assert row["volume_ml"] == pytest.approx(row["voxels"] * 8 * 1.5 * 1.25 / 1000, abs=1e-3)
    assert sum(row["voxels"] for row in report["labels"]) > 0


def test_masks_are_tidied_as_the_card_says_unless_raw(make_model, save_scan, scan, tmp_path):
    choices = CleanUp(largest_piece=True, fill_holes=True)
    image = save_scan(tmp_path / "a.nii.gz", scan)
    found = {}
    for name, model, raw in (
        ("plain", make_model(), False),
        ("tidy", make_model(clean_up=choices), False),
        ("raw", make_model(clean_up=choices), True),
    ):
        report = segment_file(SegmentJob(image, tmp_path / f"{name}.nii.gz"), model, "cpu", raw=raw)
        found[name] = read_labels(tmp_path / f"{name}.nii.gz").volume.data
        # The counts are those of the file.
        counts = [row["voxels"] for row in report["labels"]]
        assert counts == [(found[name] == row["id"]).sum() for row in report["labels"]]
    assert np.array_equal(found["raw"], found["plain"])
    assert not np.array_equal(found["tidy"], found["plain"])
    assert np.array_equal(found["tidy"], tidy(found["plain"], 0, choices))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_counts_in_the_stored_array(make_model, save_scan, scan, tmp_path, axis):
    model = make_model()
    image = save_scan(tmp_path / "a.nii.gz", scan)
    report = segment_file(SegmentJob(image, tmp_path / "m.nii.gz"), model, "cpu", axis)
    assert report["slicing_axis"] == axis
    along = 2 - axis  # stored (x, y, z) is (z, y, x) here
    wanted = np.zeros(scan.shape, np.uint8)
    target = np.moveaxis(wanted, along, 0)
    for done in predict_slices(model, scan, read_volume(image), along):
        target[done.index] = done.labels
    assert np.mean(read_labels(tmp_path / "m.nii.gz").volume.data != wanted) < 1e-3


def test_what_a_person_says_stays_also_of_structures_that_the_model_does_not_have(
    make_model, save_scan, scan, tmp_path
):
    labels = np.zeros(scan.shape, np.uint8)
    labels[1, :8, :8], labels[2] = 7, 9
    correction = Correction(scan, Grid(scan.shape), 0, labels, (1,))
    job = SegmentJob(save_scan(tmp_path / "a.nii.gz", scan), tmp_path / "m.nii.gz")
    report = segment_file(job, make_model(), "cpu", correction=correction)
    mask = read_labels(job.mask).volume.data
    assert np.array_equal(mask[1], labels[1])
    assert not (mask == 9).any()
    assert any("does not have structure 7:" in warning for warning in report["warnings"])
    assert any("without right ventricle, myocardium" in text for text in report["warnings"])
    for frame in (-1, 1):
        with pytest.raises(InputError, match=f"between 0 and 0 of this scan, but got {frame}"):
            segmented(Volume(scan), make_model(), "cpu", None, False, None, correction, frame)


@pytest.mark.parametrize("axis", [0, 1])
def test_arrays_that_are_not_plain_are_segmented_as_files_of_them_are(make_model, scan, axis):
    model, odd = make_model(), scan.astype(np.float32)
    odd[1, :3], odd[0, 0, 0] = np.nan, np.inf
    plain = np.where(np.isfinite(odd), odd, scan.min())
    wanted = segmented(Volume(plain), model, "cpu", axis)
    found = segmented(Volume(odd), model, "cpu", axis)
    assert np.array_equal(found.masks, wanted.masks)
    assert not wanted.warnings
    assert any("not finite numbers" in warning for warning in found.warnings)
    grid, raw = Grid(odd.shape), segmented(Volume(plain), model, "cpu", axis, raw=True).masks[0]
    for known in (None, field_of(model.card, grid, axis, plain)):
        slices = predict_slices(model, odd, grid, axis, field=known)
        alone = np.stack([done.labels for done in slices], axis)
        assert np.array_equal(alone, raw)


def test_arrays_of_no_real_numbers_are_refused(make_model, scan, one_sentence):
    model = make_model()
    yes_or_no = segmented(Volume(scan > 80), model, "cpu").masks
    assert np.array_equal(yes_or_no, segmented(Volume((scan > 80) * 1), model, "cpu").masks)
    for odd in (scan + 1j, scan.astype(object)):
        with pytest.raises(InputError, match=r"complex|object") as error:
            segmented(Volume(odd), model, "cpu")
        one_sentence(error.value)


def test_a_time_series_is_segmented_frame_by_frame(make_model, save_scan, scan, tmp_path):
    model = make_model()
    series = np.stack([scan, scan[:, ::-1] // 2])
    image = save_scan(tmp_path / "a.nii.gz", series)
    report = segment_file(SegmentJob(image, tmp_path / "m.nii.gz"), model, "cpu")
    found = read_labels(tmp_path / "m.nii.gz").volume
    assert found.data.shape == series.shape
    for frame, mask in zip(series, found.data, strict=True):
        # Each frame has its own window, so its answer is the same as alone.
        alone = np.stack(
            [done.labels for done in predict_slices(model, frame, Grid(frame.shape), 0)]
        )
        assert np.mean(mask != alone) < 1e-3
    row = report["labels"][0]
    voxels = (found.data == row["id"]).sum((1, 2, 3))
    assert row["voxels"] == voxels.tolist()
    assert row["volume_ml"] == pytest.approx(voxels * 8 * 1.5 * 1.5 / 1000, abs=1e-3)


def test_the_smallest_voxels_have_a_volume(make_model, save_scan, scan, tmp_path):
    image = save_scan(tmp_path / "a.nii.gz", scan, (0.01, 0.002, 0.002))
    report = segment_file(SegmentJob(image, tmp_path / "m.nii.gz"), make_model(), "cpu")
    for row in report["labels"]:
        assert row["volume_ml"] == pytest.approx(row["voxels"] * 4e-11, rel=1e-5)
    assert sum(row["volume_ml"] for row in report["labels"]) > 0


def test_without_a_voxel_size_there_are_no_millilitres(make_model, scan, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", scan.astype(np.uint16), photometric="minisblack")
    model = make_model(expects=Expectations("MR", (0.7, 2.5)))
    report = segment_file(SegmentJob(tmp_path / "a.tif", tmp_path / "m.tif"), model, "cpu")
    assert {row["volume_ml"] for row in report["labels"]} == {None}
    assert any("no voxel size" in warning for warning in report["warnings"])
    torch.nn.init.zeros_(model.network.decoder.head.weight)
    torch.nn.init.zeros_(model.network.decoder.head.bias)
    report = segment_file(SegmentJob(tmp_path / "a.tif", tmp_path / "none.tif"), model, "cpu")
    assert report["warnings"][-1].startswith("No right ventricle, myocardium, left ventricle found")
    assert read_labels(tmp_path / "m.tif").volume.data.shape == scan.shape


def test_a_missing_voxel_size_is_told_once(make_model, scan):
    volume = Volume(scan, warnings=(NoSizeStated("a.nii states no voxel size."),))
    expects = Expectations("MR", (0.7, 2.5))
    for model, says in ((make_model(), "states no"), (make_model(expects=expects), "gives no")):
        [told] = segmented(volume, model, "cpu").warnings
        assert f"{says} voxel size" in told


def test_ids_above_255_are_written_as_they_are(make_model, save_scan, scan, tmp_path):
    model = make_model(LabelSet.from_names({20: "small", 300: "large"}))
    image = save_scan(tmp_path / "a.nii.gz", scan)
    report = segment_file(SegmentJob(image, tmp_path / "m.nii.gz"), model, "cpu")
    found = read_labels(tmp_path / "m.nii.gz").volume.data
    counts = {row["id"]: row["voxels"] for row in report["labels"]}
    assert counts == {id: (found == id).sum() for id in (20, 300)}
    assert set(np.unique(found)) <= {0, 20, 300}


LABELS = LabelSet.from_names({1: "right ventricle", 2: "left ventricle"})


def card(**expects) -> ModelCard:
    return ModelCard(name="m", labels=LABELS, expects=Expectations(**expects))


def volume(spacing=(8.0, 1.5, 1.5), units="mm") -> Volume:
    affine = np.diag([*spacing[::-1], 1.0])
    return Volume(np.zeros((4, 6, 6), np.int16), affine=affine, units=units)


def values(low: float, high: float) -> np.ndarray:
    """A scan from low to high; a CT where it goes below air."""
    scan = np.linspace(low, high, 144).reshape(4, 6, 6)
    return scan if low > -1000 else np.where(scan < high / 2, low, scan / 4)


def all_mismatches(of: ModelCard, grid: Grid, axis: int, scan: np.ndarray) -> list[str]:
    """Those of the intensities, too."""
    return mismatches(of, grid, axis, field_of(of, grid, axis, scan))


HEART = {"modality": "MR", "pixel": (0.7, 2.5), "slice": (4.0, 12.0)}


def test_a_fitting_scan_raises_no_eyebrow():
    assert all_mismatches(card(**HEART), volume(), 0, values(0, 500)) == []
    assert all_mismatches(card(), volume((0.1, 90, 90)), 0, values(-1000, 500)) == []
    for ends in ((-1000, 500), (0, 1500)):  # as measured, and with 1024 added
        assert all_mismatches(card(modality="CT"), volume(), 0, values(*ends)) == []


def test_padding_says_nothing_of_the_scanner():
    rng = np.random.default_rng(0)
    scan = np.pad(rng.uniform(0, 500, (4, 70, 70)), ((0, 0), (300, 300), (300, 300)))
    grid = Grid(scan.shape, affine=np.diag([1.5, 1.5, 8, 1]), units="mm")
    assert all_mismatches(card(**HEART), grid, 0, scan) == []
    # Values outside of a field of view, or of air, do not make a CT.
    scan[scan == 0] = -2000
    assert all_mismatches(card(**HEART), grid, 0, scan) == []


@pytest.mark.parametrize(
    ("expects", "grid", "axis", "ends", "says"),
    [
        (HEART, volume(), 0, (5.0, 5.0), "one intensity"),
        (HEART, volume(), 0, (-1000.0, 500.0), "CT"),
        ({"modality": "CT"}, volume(), 0, (0.0, 500.0), "not look like a CT"),
        (HEART, volume((8.0, 0.2, 0.2)), 0, (0.0, 500.0), "0.2×0.2 mm"),
        (HEART, volume((8.0, 1.5, 4.0)), 0, (0.0, 500.0), "1.5×4 mm"),
        (HEART, volume((1.0, 1.5, 1.5)), 0, (0.0, 500.0), "1 mm apart"),
        (HEART, volume(units="pixel"), 0, (0.0, 500.0), "no voxel size"),
    ],
)
def test_a_scan_of_another_kind_is_named(expects, grid, axis, ends, says, one_sentence):
    (sentence,) = all_mismatches(card(**expects), grid, axis, values(*ends))
    assert says in sentence
    one_sentence(ValueError(sentence))


def test_a_missing_voxel_size_is_told_apart_from_other_warnings():
    (warning,) = mismatches(card(**HEART), volume(units="pixel"), 0)
    assert isinstance(warning, NoVoxelSize)
    assert warning == f"The file gives no voxel size: {warning.consequence}"
    assert not isinstance(mismatches(card(**HEART), volume((8.0, 0.2, 0.2)), 0)[0], NoVoxelSize)


def test_a_flat_image_of_no_thickness_has_no_slices_apart_and_no_ml():
    grid = Grid((1, 70, 70), affine=np.diag([1.5, 1.5, 1.5, 1]), units="mm")
    (sentence,) = mismatches(card(**HEART), grid, 0)
    assert "1.5 mm apart" in sentence
    assert grid.has_ml
    flat = replace(grid, thickness_stated=False)
    assert mismatches(card(**HEART), flat, 0) == []
    assert not flat.has_ml
    assert not replace(grid, units="pixel").has_ml


def test_the_wrong_slicing_axis_shows_in_pixels_and_slices():
    found = all_mismatches(card(**HEART), volume(), 2, values(0, 500))
    assert len(found) == 2


def test_unusual_volumes_and_missing_structures_are_named():
    usual = card(volumes={"left ventricle": (20.0, 400.0)})
    assert doubts(usual, {1: 900, 2: 1000}, 0.1) == []
    (sentence,) = doubts(usual, {1: 900, 2: 9000}, 0.1)
    assert "900 mL" in sentence
    (sentence,) = doubts(usual, {1: 900, 2: 35620}, 0.1)
    assert "Left ventricle: 3562 mL" in sentence
    (sentence,) = doubts(usual, {1: 0, 2: 9000}, 0.1)
    assert "No right ventricle" in sentence
    # A missing structure is reported for voxels of any size, or of unknown size.
    (sentence,) = doubts(usual, {1: 900, 2: 1000}, 1e-9)
    assert "Left ventricle: 1e-06 mL" in sentence
    assert doubts(usual, {1: 900, 2: 1000}, None) == []
    (sentence,) = doubts(usual, {}, None)
    assert "right ventricle and left ventricle" in sentence
    many = replace(usual, labels=LabelSet.from_names({id: f"organ {id}" for id in range(1, 36)}))
    (sentence,) = doubts(many, {}, None)
    assert "No organ 1, organ 2, organ 3, organ 4 and 31 more found" in sentence


def test_voxels_are_counted_by_id():
    mask = np.array([[[0, 1, 1], [2, 2, 2]]], np.uint8)
    assert voxel_counts(mask, card().labels) == {1: 2, 2: 3}
    assert voxel_counts(np.zeros((1, 2, 2), np.uint8), card().labels) == {1: 0, 2: 0}
    # Other ids do not count.
    assert voxel_counts(mask * 100, card().labels) == {1: 0, 2: 0}


def test_counting_and_tidying_take_little_memory():
    mask = np.zeros((64, 128, 128), np.uint8)
    mask[1:-1] = 1
    mask[-1, -1, -1] = 1
    keep_largest_component(mask)  # imports SciPy, which does not count
    # Pieces have numbers of four bytes.
    tidied, counted = (
        partial(keep_largest_component, mask),
        partial(voxel_counts, mask, card().labels),
    )
    for work, most in ((tidied, 7), (counted, 1)):
        tracemalloc.start()
        work()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < most * mask.nbytes
