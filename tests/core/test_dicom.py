import locale

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import AXIAL, image, save_image, save_series
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    generate_uid,
)

from l2gnet_core.datasets.cases import find_cases
from l2gnet_core.errors import InputError
from l2gnet_core.files import dicom_series, read_labels, read_volume, scans_in, write_labels
from l2gnet_core.files.dicom_header import dicom_header_of
from l2gnet_core.segmenting.files import plan_jobs

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
OBLIQUE = (0.6, 0.8, 0, 0, 0, -1)
# As careless programs round them: of other lengths than 1, or not quite orthogonal.
ROUNDED = [
    (0.7, 0.7, 0, 0, 0, -1),
    (1, 0, 0, 0, 0.8, 0.7),
    (0.9, 0.4, 0, -0.4, 0.9, 0),
    (1, 0, 0, 0.0009, 1, 0),
]


def world(affine, index):
    return (affine @ [*index, 1])[:3]


@pytest.mark.parametrize(
    "along", [AXIAL, (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), OBLIQUE, *ROUNDED]
)
def test_slices_lie_where_simpleitk_has_them(tmp_path, along):
    save_series(tmp_path / "s", VOXELS, along=along)
    volume = read_volume(tmp_path / "s")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    theirs = reader.Execute()
    assert np.array_equal(volume.data, sitk.GetArrayFromImage(theirs))
    assert np.array_equal(volume.data, VOXELS)
    for index in ((0, 0, 0), (6, 5, 4), (3, 0, 2)):
        x, y, z = theirs.TransformIndexToPhysicalPoint(index)
        assert world(volume.affine, index) == pytest.approx([-x, -y, z], abs=1e-3)
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.8), abs=1e-4)
    assert volume.oriented
    assert volume.has_ml
    assert volume.name == "s"
    assert not volume.warnings


def test_a_file_stands_for_its_series(tmp_path):
    files = save_series(tmp_path, VOXELS)
    save_image(tmp_path / "scout", VOXELS[0], SeriesInstanceUID=generate_uid())
    (tmp_path / "notes.txt").write_text("of the nurse")
    volume = read_volume(files[2])
    assert np.array_equal(volume.data, VOXELS)
    assert volume.name == "3 soft tissue"
    with pytest.raises(InputError, match=r"holds 2 DICOM series; name a file .*IM0000.*scout"):
        read_volume(tmp_path)


def test_a_tilted_gantry_shears(tmp_path):
    save_series(tmp_path, VOXELS, step=(0, 1, 2.5))
    volume = read_volume(tmp_path)
    assert world(volume.affine, (0, 0, 4)) == pytest.approx([10, -24, 40])
    assert "tilted gantry" in volume.warnings[0]


def test_images_at_one_place_are_frames(tmp_path):
    frames = [VOXELS + 1000 * k for k in range(3)]
    for k, voxels in enumerate(frames):
        save_series(tmp_path / str(k), voxels, TriggerTime=100.0 * k)
        for path in (tmp_path / str(k)).iterdir():
            path.rename(tmp_path / f"{path.name}_{2 - k}")
        (tmp_path / str(k)).rmdir()
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.data, np.stack(frames))
    # The last slice of the last frame is missing.
    (tmp_path / f"IM{4 * 7 % 5:04}_0").unlink()
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.data, np.stack(frames[:2]))
    assert "the first 2 of each are shown" in volume.warnings[0]


def test_a_missing_slice_is_said_and_takes_the_millilitres(tmp_path):
    files = save_series(tmp_path, VOXELS)
    files[2].unlink()
    volume = read_volume(tmp_path)
    assert volume.shape == (4, 6, 7)
    assert "2.5 to 5 mm apart" in volume.warnings[0]
    assert not volume.has_ml


def test_copies_of_a_file_count_once(tmp_path):
    files = save_series(tmp_path, VOXELS)
    (tmp_path / "copy.dcm").write_bytes(files[0].read_bytes())
    for path in (tmp_path, tmp_path / "copy.dcm", *files):
        assert np.array_equal(read_volume(path).data, VOXELS)


def test_values_are_real_ones(tmp_path):
    save_series(tmp_path / "ct", VOXELS + 1000, RescaleSlope=1, RescaleIntercept=-1000)
    data = read_volume(tmp_path / "ct").data
    assert np.array_equal(data, VOXELS)
    assert data.dtype == np.int16
    save_series(tmp_path / "pet", VOXELS, RescaleSlope=0.5, RescaleIntercept=1)
    data = read_volume(tmp_path / "pet").data
    assert np.allclose(data, VOXELS * 0.5 + 1)
    assert data.dtype == np.float32


def test_compressed_files_are_decoded(tmp_path):
    uid, voxels = generate_uid(), np.tile(VOXELS, (1, 10, 10))
    before = locale.setlocale(locale.LC_ALL)
    for path in save_series(tmp_path, voxels):
        # GDCM's lossless JPEG 2000; ITK's writer gives each file its own series.
        packed = path.with_suffix(".dcm")
        sitk.WriteImage(sitk.ReadImage(str(path)), str(packed), useCompression=True)
        # It sets the locale of the whole process to C.
        locale.setlocale(locale.LC_ALL, before)
        path.unlink()
        one = pydicom.dcmread(packed)
        assert one.file_meta.TransferSyntaxUID.is_compressed
        one.SeriesInstanceUID = uid
        one.save_as(packed)
    assert np.array_equal(read_volume(tmp_path).data, voxels)


@pytest.mark.parametrize("along", [AXIAL, (0.9, 0.4, 0.1, -0.4, 0.9, 0.1)])
def test_one_slice_is_as_thick_as_it_says(tmp_path, along):
    save_series(tmp_path / "a", VOXELS[:1], along=along)
    volume = read_volume(tmp_path / "a")
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.8))
    assert volume.voxel_volume_ml == pytest.approx(0.0014)
    save_series(tmp_path / "b", VOXELS[:1], SliceThickness=None)
    assert not read_volume(tmp_path / "b").has_ml


def test_images_without_a_place_keep_their_numbers_order(tmp_path):
    for k, pixels in enumerate(VOXELS):
        save_image(tmp_path / f"{9 - k}.dcm", pixels, InstanceNumber=k)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.data, VOXELS)
    assert volume.units == "pixel"
    assert not volume.oriented


@pytest.mark.parametrize(
    "along", [(0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 0, 0), (1, 0, 0, 0, 0, 0), (2, 0, 0, 0, 2, 0)]
)
def test_directions_that_are_none_are_not_believed(tmp_path, along):
    for k, pixels in enumerate(VOXELS):
        said = {"ImagePositionPatient": [0, 0, 2.5 * k], "ImageOrientationPatient": list(along)}
        save_image(tmp_path / f"{9 - k}", pixels, InstanceNumber=k, PixelSpacing=[0.7, 0.8], **said)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.data, VOXELS)
    assert volume.axis_codes == ("S", "P", "L")
    assert not volume.oriented


def multi_frame(voxels):
    """An enhanced image whose frames are stored from the top down."""
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.7, 0.8], 2.5
    orientation.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    frames = []
    for k in range(len(voxels))[::-1]:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [-10, 20, 30 + 2.5 * k]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    one = image(
        voxels[::-1],
        SOPClassUID=EnhancedCTImageStorage,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
    one.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    return one


def frames_of(path, voxels, **attributes):
    """Write a multi-frame image; attributes of its frames are lists."""
    one = multi_frame(voxels)
    for number, frame in enumerate(one.PerFrameFunctionalGroupsSequence):
        for name, values in attributes.items():
            group, attribute = name.split("__")
            inner = Dataset()
            setattr(inner, attribute, values[number])
            setattr(frame, group, [inner])
    pydicom.dcmwrite(path, one, enforce_file_format=True)


def test_each_frame_has_a_scale_of_its_own(tmp_path):
    slopes = [1.5 + k for k in range(5)]
    one = multi_frame(VOXELS)
    for slope, frame in zip(slopes, one.PerFrameFunctionalGroupsSequence, strict=True):
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = slope, -7
        frame.PixelValueTransformationSequence = [scale]
    pydicom.dcmwrite(tmp_path / "all.dcm", one, enforce_file_format=True)
    expected = VOXELS[::-1] * np.array(slopes)[:, None, None] - 7
    assert np.allclose(read_volume(tmp_path / "all.dcm").data, expected[::-1])


def test_frames_in_many_directions_are_no_scan(tmp_path):
    turned = [AXIAL, AXIAL, (0, 1, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)]
    values = {"PlaneOrientationSequence__ImageOrientationPatient": [list(one) for one in turned]}
    frames_of(tmp_path / "scout.dcm", VOXELS, **values)
    with pytest.raises(InputError, match="holds 3 DICOM series; it is a localizer"):
        read_volume(tmp_path / "scout.dcm")


def test_descriptions_of_fewer_frames_are_damage(tmp_path):
    one = multi_frame(VOXELS)
    del one.PerFrameFunctionalGroupsSequence[0]
    pydicom.dcmwrite(tmp_path / "all.dcm", one, enforce_file_format=True)
    with pytest.raises(InputError, match="damaged"):
        read_volume(tmp_path / "all.dcm")


@pytest.mark.parametrize("count", [2_000_000_000, -1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_more_frames_than_there_can_be_are_damage(tmp_path, syntax, count):
    save_series(tmp_path, np.zeros((3, 256, 256), np.int16))
    one = image(np.zeros((2, 256, 256), np.int16), NumberOfFrames=count)
    one.file_meta.TransferSyntaxUID = syntax
    if syntax.is_compressed:
        one.PixelData = encapsulate([bytes(99)] * 2)
    pydicom.dcmwrite(tmp_path / "all.dcm", one, enforce_file_format=True)
    with pytest.raises(InputError, match="damaged"):
        read_volume(tmp_path / "all.dcm")
    # A damaged file does not hide the slices beside it.
    volume = read_volume(tmp_path)
    assert volume.shape == (3, 256, 256)
    assert "all.dcm" in volume.warnings[0]


def test_frames_that_say_no_place_have_no_millilitres(tmp_path):
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": list(AXIAL)}
    save_image(tmp_path / "us.dcm", VOXELS, PixelSpacing=[0.5, 0.5], **place)
    volume = read_volume(tmp_path / "us.dcm")
    assert volume.shape == (5, 6, 7)
    assert not volume.oriented
    assert not volume.has_ml


def test_frames_of_one_file(tmp_path):
    pydicom.dcmwrite(tmp_path / "all.dcm", multi_frame(VOXELS), enforce_file_format=True)
    volume = read_volume(tmp_path / "all.dcm")
    assert np.array_equal(volume.data, VOXELS)
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.8))
    assert world(volume.affine, (0, 0, 4)) == pytest.approx([10, -20, 40])


@pytest.mark.parametrize(
    "times",
    [
        {"AcquisitionNumber": [1, 2, 3, 4], "TriggerTime": [320, 317.5, 322.5, 317.5]},
        {"AcquisitionTime": ["093001", "093002", "093003", "093004"], "InstanceNumber": [None] * 4},
        {"TemporalPositionIdentifier": [1, 2, 3, 4], "InstanceNumber": [9, 3, 5, 1]},
    ],
)
def test_frames_come_in_the_order_of_time(tmp_path, times):
    for k in range(4):
        for z in range(2):
            values = {name: value[k] for name, value in times.items()}
            # Positions in headers vary, by less than the distance of two positions.
            values["ImagePositionPatient"] = [0, 0, 10 * z + (0.0051 if k % 2 else 0.0049)]
            (file,) = save_series(tmp_path / "s", VOXELS[:1] + 10 * k + z, **values)
            file.rename(tmp_path / str((4 * z + k) * 5 % 8))
    data = read_volume(tmp_path).data
    assert data.shape == (4, 2, 6, 7)
    assert (data[:, 0, 0, 0] - data[0, 0, 0, 0]).tolist() == [0, 10, 20, 30]
    assert np.array_equal(data[:, 1], data[:, 0] + 1)


def test_slices_that_were_not_copied_whole_are_said(tmp_path):
    files = save_series(tmp_path, VOXELS)
    files[-1].write_bytes(files[-1].read_bytes()[:300])
    files[0].write_bytes(b"")
    volume = read_volume(tmp_path)
    assert volume.shape == (3, 6, 7)
    assert "2 of the files beside" in volume.warnings[0]
    assert not volume.has_ml


def test_a_number_with_a_comma_costs_no_slice(tmp_path):
    files = save_series(tmp_path, VOXELS)
    raw = files[0].read_bytes()
    assert raw.count(b"2.5 ") == 1
    files[0].write_bytes(raw.replace(b"2.5 ", b"2,5 "))
    assert read_volume(tmp_path).shape == (5, 6, 7)


def test_what_differs_is_no_slice_of_the_same_scan(tmp_path):
    save_series(tmp_path, VOXELS, ImageType=["ORIGINAL", "PRIMARY", "W"])
    for path in tmp_path.iterdir():
        path.rename(tmp_path / f"W{path.name}")
    save_series(tmp_path, VOXELS, ImageType=["ORIGINAL", "PRIMARY", "F"])
    with pytest.raises(InputError, match="holds 2 DICOM series"):
        read_volume(tmp_path)
    assert read_volume(tmp_path / "IM0000").name == "3 soft tissue F"
    (tmp_path / "other").mkdir()
    save_series(tmp_path / "other", VOXELS)
    save_series(tmp_path / "coarse", VOXELS, spacing=(2.5, 1.4, 1.6))
    for path in (tmp_path / "coarse").iterdir():
        path.rename(tmp_path / "other" / f"C{path.name}")
    assert read_volume(tmp_path / "other" / "CIM0000").spacing[1:] == pytest.approx((1.4, 1.6))


def test_careless_numbers(tmp_path):
    save_series(tmp_path / "one", VOXELS, SOPInstanceUID="1.2.3")
    assert np.array_equal(read_volume(tmp_path / "one").data, VOXELS)
    for patient in ("A", "B"):
        save_series(tmp_path / patient, VOXELS, SeriesInstanceUID="", PatientID=patient)
        for path in (tmp_path / patient).iterdir():
            path.rename(tmp_path / f"{patient}{path.name}")
        (tmp_path / patient).rmdir()
    assert np.array_equal(read_volume(tmp_path / "AIM0000").data, VOXELS)
    # Voxels of a micro-CT are smaller than the variation in headers of other scanners.
    save_series(tmp_path / "micro", VOXELS, spacing=(0.009, 0.009, 0.009))
    assert read_volume(tmp_path / "micro").shape == (5, 6, 7)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_measured_values_are_not_turned(tmp_path, kind):
    voxels = (VOXELS + 1000).astype(kind)
    turned = {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": -1000}
    save_series(tmp_path / "ct", voxels, RescaleSlope=1, **turned)
    assert np.array_equal(read_volume(tmp_path / "ct").data, VOXELS)


def test_links_to_folders_are_followed(tmp_path):
    save_series(tmp_path / "data" / "p1", VOXELS)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "p1").symlink_to(tmp_path / "data" / "p1")
    assert scans_in(tmp_path / "images") == [tmp_path / "images" / "p1"]


def test_links_to_folders_that_are_not_there_are_scans_that_cannot_be_read(tmp_path):
    save_series(tmp_path / "p1", VOXELS)
    (tmp_path / "p2").symlink_to(tmp_path / "not_fetched")
    (tmp_path / ".lock").symlink_to("nobody")
    (tmp_path / "notes.txt").symlink_to("nowhere")
    assert scans_in(tmp_path) == [tmp_path / "p1", tmp_path / "p2"]
    with pytest.raises(InputError, match=r"p2 is a link to .*not_fetched, which is not there"):
        read_volume(tmp_path / "p2")
    # Beside slices, it may be one of them.
    (tmp_path / "p1" / "IM0009").symlink_to("nowhere")
    assert scans_in(tmp_path / "p1") == [tmp_path / "p1"]
    assert "IM0009): slices may be missing" in " ".join(read_volume(tmp_path / "p1").warnings)


def test_colours_are_read_as_brightness(tmp_path):
    save_image(
        tmp_path / "us.dcm",
        np.full((4, 5 * 3), 100, np.uint8),
        Columns=5,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    volume = read_volume(tmp_path / "us.dcm")
    assert volume.shape == (1, 4, 5)
    assert np.allclose(volume.data, 100)
    assert "brightness" in volume.warnings[0]


def test_what_is_no_scan_says_so(tmp_path):
    (tmp_path / "text.dcm").write_text("no image")
    save_image(tmp_path / "seg.dcm", VOXELS[0], Modality="SEG")
    save_image(tmp_path / "dose.dcm", VOXELS, Modality="RTDOSE")
    save_image(tmp_path / "mosaic.dcm", VOXELS[0], ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])
    cut = save_image(tmp_path / "cut" / "cut.dcm", VOXELS[0])
    cut.write_bytes(cut.read_bytes()[:-40])
    (tmp_path / "empty").mkdir()
    for name, words in {
        "text.dcm": "damaged or not a DICOM file|without an image",
        "seg.dcm": "DICOM segmentation",
        "mosaic.dcm": "dcm2niix",
        "dose.dcm": "radiation dose",
        "cut/cut.dcm": "cut short",
        "empty": "holds no DICOM images",
    }.items():
        with pytest.raises(InputError, match=words) as error:
            read_volume(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_mask_lies_on_its_series(tmp_path):
    save_series(tmp_path / "s", VOXELS, along=OBLIQUE)
    volume = read_volume(tmp_path / "s")
    write_labels(tmp_path / "m.nii.gz", (volume.data > 0).astype(np.uint8), volume, {1: "bone"})
    mask = read_labels(tmp_path / "m.nii.gz")
    assert np.allclose(mask.volume.affine, volume.affine, atol=1e-4)
    assert np.array_equal(mask.volume.data, volume.data > 0)
    assert b"Doe" not in (tmp_path / "m.nii.gz").read_bytes()


def test_folders_of_series_are_scans(tmp_path):
    for name in ("one", "two"):
        save_series(tmp_path / "in" / name, VOXELS, SeriesInstanceUID=generate_uid())
    one = tmp_path / "in" / "one"
    assert scans_in(tmp_path / "in") == [one, tmp_path / "in" / "two"]
    assert scans_in(one) == [one]
    assert plan_jobs([one], tmp_path / "m.nii.gz")[0].mask == tmp_path / "m.nii.gz"
    masks = [job.mask.name for job in plan_jobs([tmp_path / "in"], tmp_path / "out")]
    assert masks == ["one.nii.gz", "two.nii.gz"]


def test_a_nested_series_is_called_after_its_outermost_folder(tmp_path):
    for name in ("p1", "p2"):
        save_series(tmp_path / name / "study" / "ser", VOXELS, SeriesInstanceUID=generate_uid())
    save_series(tmp_path / "p2" / "scout", VOXELS[:1])
    p1, p2 = tmp_path / "p1", tmp_path / "p2"
    assert scans_in(tmp_path) == [p1, p2 / "scout", p2 / "study"]
    assert read_volume(p1).name == "p1"
    assert [job.mask.name for job in plan_jobs([p1], tmp_path / "m.nii.gz")] == ["m.nii.gz"]


def test_slices_named_one_by_one_are_one_scan(tmp_path):
    files = save_series(tmp_path / "s", VOXELS)
    assert [job.image for job in plan_jobs(files, tmp_path / "m.nii.gz")] == files[:1]
    masks = [job.mask.name for job in plan_jobs(files, tmp_path / "out")]
    assert masks == ["IM0000.nii.gz"]


def test_masks_are_kept_away_from_slices(tmp_path, refused):
    files = save_series(tmp_path / "s", VOXELS)
    for scan in (tmp_path / "s", files[0]):
        with pytest.raises(InputError, match="among its slices"):
            plan_jobs([scan], tmp_path / "s" / "m.nii.gz")
        assert "among its slices" in refused("inspect", scan, "-o", tmp_path / "s" / "look")
    scan = read_volume(tmp_path / "s")
    write_labels(tmp_path / "s" / "m.nii.gz", np.zeros(scan.shape, np.uint8), scan)
    with pytest.raises(InputError, match=r"holds DICOM images and m\.nii\.gz beside them"):
        scans_in(tmp_path / "s")
    # In a folder beside a mask, a series would be left out.
    (tmp_path / "s" / "m.nii.gz").rename(tmp_path / "m.nii.gz")
    with pytest.raises(InputError, match=r"holds m\.nii\.gz, and DICOM images in s; move one"):
        scans_in(tmp_path)


def test_a_dataset_of_series(tmp_path, monkeypatch):
    for name in ("p1", "p2"):
        save_series(tmp_path / "images" / name, VOXELS, SeriesInstanceUID=generate_uid())
        scan = read_volume(tmp_path / "images" / name)
        (tmp_path / "labels").mkdir(exist_ok=True)
        labels = (scan.data > 0).astype(np.uint8)
        write_labels(tmp_path / "labels" / f"{name}.nii.gz", labels, scan, {1: "bone"})
    read = []
    monkeypatch.setattr(
        dicom_series, "dicom_header_of", lambda path: read.append(path) or dicom_header_of(path)
    )
    cases, findings = find_cases(tmp_path)
    assert len(read) == 2 * len(VOXELS)
    assert [case.name for case in cases] == ["p1", "p2"]
    assert not findings
    image, labels = cases[0].read()
    assert np.array_equal(labels.volume.data, image.data > 0)


def test_segment_reads_a_folder(tmp_path, scan, l2gnet, model_file):
    save_series(tmp_path / "s", scan, spacing=(10, 1.5, 1.5))
    mask = tmp_path / "m.nii.gz"
    code, _, errors = l2gnet("segment", tmp_path / "s", "-o", mask, "--model", model_file)
    assert code == 0, errors
    assert read_labels(mask).volume.shape == scan.shape
