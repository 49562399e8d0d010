import locale
import logging
import sys
import threading

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from l2gnet_core.errors import InputError
from l2gnet_core.files import read_any, read_labels, read_volume, scans_in
from l2gnet_core.files.quiet import quiet_itk, quiet_logger

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
TURNED = (0.6, 0.8, 0.0, -0.8, 0.6, 0.0, 0.0, 0.0, 1.0)


def save(path, voxels, isVector=False, **pairs):
    image = sitk.GetImageFromArray(voxels, isVector=isVector)
    if image.GetDimension() == 3:
        image.SetDirection(TURNED)
        image.SetOrigin((-10, 20, 30))
        image.SetSpacing((0.7, 0.8, 2.5))
    for key, value in pairs.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return image


def raw_nrrd(path, header):
    path.write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nendian: little\nencoding: raw\n"
        + header.encode()
        + b"\n\n"
        + VOXELS.tobytes()
    )
    return read_volume(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_voxels_lie_where_simpleitk_has_them(tmp_path, name):
    theirs = save(tmp_path / name, VOXELS)
    volume = read_volume(tmp_path / name)
    assert np.array_equal(volume.data, VOXELS)
    for index in ((0, 0, 0), (5, 4, 3), (2, 0, 1)):
        x, y, z = theirs.TransformIndexToPhysicalPoint(index)
        assert (volume.affine @ [*index, 1])[:3] == pytest.approx([-x, -y, z])
    assert volume.has_ml
    assert volume.oriented
    assert volume.name == "a"
    assert [path.name for path in scans_in(tmp_path)] == [name]


@pytest.mark.parametrize("known", [True, False])
def test_on_windows_names_are_read_as_utf8_meanwhile(tmp_path, monkeypatch, known):
    here = ["German_Germany.1252"]

    def setlocale(category, name=None):
        assert category == locale.LC_CTYPE
        if name == ".UTF-8" and not known:  # before Windows 10 version 1803
            raise locale.Error
        here.extend([name] if name else [])
        return here[-1]

    save(tmp_path / "Müller.mha", VOXELS)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(locale, "setlocale", setlocale)
    for _ in range(2):
        assert np.array_equal(read_volume(tmp_path / "Müller.mha").data, VOXELS)
    once = [".UTF-8"] * known + ["German_Germany.1252"]
    assert here[1:] == 2 * once


def test_a_space_of_right_anterior_superior(tmp_path):
    volume = raw_nrrd(
        tmp_path / "a.nrrd",
        "space: right-anterior-superior\nspace directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)\n"
        "kinds: domain domain domain\nspace origin: (1,2,3)",
    )
    assert np.allclose(volume.affine, nib.affines.from_matvec(np.diag([0.7, 0.8, 2.5]), [1, 2, 3]))


def test_a_file_that_states_no_place(tmp_path):
    volume = raw_nrrd(tmp_path / "a.nrrd", "content: nothing more")
    assert not volume.oriented
    assert volume.units == "pixel"


def test_further_axes(tmp_path):
    series = np.stack([VOXELS, VOXELS + 1])
    save(tmp_path / "t.mha", series)
    assert np.array_equal(read_volume(tmp_path / "t.mha").data, series)
    save(tmp_path / "l.nrrd", np.moveaxis(series, 0, -1), isVector=True)
    listed = (tmp_path / "l.nrrd").read_bytes().replace(b"kinds: vector", b"kinds: list")
    (tmp_path / "l.nrrd").write_bytes(listed)
    assert np.array_equal(read_volume(tmp_path / "l.nrrd").data, series)
    save(tmp_path / "flat.nrrd", VOXELS[0])
    flat = read_volume(tmp_path / "flat.nrrd")
    assert np.array_equal(flat.data, VOXELS[:1])
    assert not flat.has_ml
    save(tmp_path / "rgb.mha", np.full((4, 5, 6, 3), 100, np.uint8), isVector=True)
    volume = read_volume(tmp_path / "rgb.mha")
    assert np.allclose(volume.data, np.full((4, 5, 6), 100))
    assert "brightness" in volume.warnings[0]


@pytest.mark.parametrize("name", ["v.nrrd", "v.mha"])
@pytest.mark.parametrize("mask", [False, True])
def test_values_of_a_voxel_are_no_frames(tmp_path, name, mask):
    vectors = np.stack([VOXELS, VOXELS + 1], -1).astype(np.int16 if not mask else np.uint8)
    save(tmp_path / name, vectors, isVector=True)
    volume, _ = read_any(tmp_path / name, mask)
    assert np.array_equal(volume.data, vectors[..., 0])
    assert f"{name} has 2 values a voxel; the first one is read." in volume.warnings


def segment(number, value, name, layer=0):
    return {
        f"Segment{number}_Name": name,
        f"Segment{number}_LabelValue": str(value),
        f"Segment{number}_Layer": str(layer),
        f"Segment{number}_Color": "0.5 0.25 1",
    }


def test_segments_of_slicer(tmp_path):
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[1, 2:4, 3], voxels[2] = 3, 7
    save(tmp_path / "a.seg.nrrd", voxels, **segment(0, 3, "liver"), **segment(1, 7, "left kidney"))
    labels = read_labels(tmp_path / "a.seg.nrrd")
    assert np.array_equal(labels.volume.data, voxels)
    assert labels.names == {3: "liver", 7: "left kidney"}
    assert labels.colors[3] == "#8040ff"
    assert labels.volume.name == "a"
    assert read_any(tmp_path / "a.seg.nrrd")[1].is_mask


def test_segments_without_numbers(tmp_path):
    # Older versions of 3D Slicer write a layer of zeros and ones for each segment.
    for count in (2, 3):
        layers = np.zeros((4, 5, 6, count), np.uint8)
        for k in range(count):
            layers[k, ..., k] = 1
        names = {f"Segment{k}_Name": f"organ {k}" for k in range(count)}
        save(tmp_path / "a.seg.nrrd", layers, isVector=True, **names)
        labels = read_labels(tmp_path / "a.seg.nrrd")
        assert labels.names == {k + 1: f"organ {k}" for k in range(count)}
        assert [labels.volume.data[k].max() for k in range(4)] == [
            *range(1, count + 1),
            *[0] * (4 - count),
        ]
        assert not labels.volume.warnings


def test_lengths_in_other_units(tmp_path):
    volume = raw_nrrd(
        tmp_path / "a.nrrd",
        'space: left-posterior-superior\nspace units: "um" "um" "um"\n'
        "space directions: (700,0,0) (0,800,0) (0,0,2500)\nspace origin: (1000,0,0)",
    )
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.7))
    assert volume.affine[0, 3] == pytest.approx(-1)
    assert not raw_nrrd(tmp_path / "b.nrrd", "spacings: nan nan nan").has_ml
    with pytest.raises(InputError, match="several units"):
        raw_nrrd(tmp_path / "c.nrrd", 'spacings: 1 1 1\nunits: "mm" "mm" "cm"')


def test_segments_that_overlap(tmp_path):
    layers = np.zeros((4, 5, 6, 2), np.uint8)
    layers[:2, ..., 0], layers[1:, ..., 1] = 1, 1
    save(
        tmp_path / "a.seg.nrrd",
        layers,
        isVector=True,
        **segment(0, 1, "liver"),
        **segment(1, 1, "tumour", layer=1),
    )
    labels = read_labels(tmp_path / "a.seg.nrrd")
    assert labels.names == {1: "liver", 2: "tumour"}
    assert np.array_equal(np.unique(labels.volume.data[0]), [1])
    assert (labels.volume.data[1:] == 2).all()
    assert "overlap, in 30 voxels" in labels.volume.warnings[0]
    assert "same number" in labels.volume.warnings[1]


def test_damaged_files_say_so(tmp_path, one_sentence, capfd):
    for name in ("a.nrrd", "a.mha"):
        save(tmp_path / name, VOXELS)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut{name}").write_bytes(whole[:-50])
        (tmp_path / f"text{name}").write_text("hello")
        lie = whole.replace(b"6 5 4", b"60000 50000 40000")
        assert lie != whole
        (tmp_path / f"lie{name}").write_bytes(lie)
        for what in ("cut", "text", "lie"):
            with pytest.raises(InputError, match=r"damaged|cut short") as error:
                read_volume(tmp_path / f"{what}{name}")
            one_sentence(error.value)
    for name in ("a.mhd", "a.nhdr"):
        save(tmp_path / name, VOXELS)
        (tmp_path / "a.raw").unlink()
        with pytest.raises(InputError, match=r"a\.raw, which is missing"):
            read_volume(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_only_our_own_reads_are_quiet(tmp_path, caplog):
    save(tmp_path / "a.nrrd", VOXELS)
    nib.save(nib.MGHImage(VOXELS.T, np.eye(4)), tmp_path / "a.mgz")
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    try:
        sitk.ProcessObject.SetGlobalWarningDisplay(True)
        with quiet_itk():
            assert read_volume(tmp_path / "a.nrrd").shape == VOXELS.shape
            # Another read of this process, still under way, stays quiet.
            assert not sitk.ProcessObject.GetGlobalWarningDisplay()
        assert sitk.ProcessObject.GetGlobalWarningDisplay()
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
    read_volume(tmp_path / "a.mgz")
    logger = logging.getLogger("nibabel.global")
    logger.error("of the application")
    with quiet_logger(logger.name):
        logger.error("of our read")
        other = threading.Thread(target=logger.error, args=("of another thread",))
        other.start()
        other.join()
    assert caplog.messages == ["of the application", "of another thread"]


def detached(path, sizes):
    """An NRRD header with its voxels in another file."""
    path.write_text(
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nendian: little\n"
        "encoding: raw\ndata file: voxels.raw\n"
    )
    (path.parent / "voxels.raw").write_bytes(VOXELS.tobytes())
    return path


def test_headers_that_claim_more_than_their_file_holds_take_no_memory(tmp_path, monkeypatch):
    header = detached(tmp_path / "a.nhdr", "6 5 4")
    assert np.array_equal(read_volume(header).data, VOXELS)
    # Some programs write the field's name so.
    header.write_text(header.read_text().replace("data file", "Data File"))
    assert np.array_equal(read_volume(header).data, VOXELS)
    monkeypatch.setattr(sitk.ImageFileReader, "Execute", lambda _: pytest.fail("voxels are read"))
    for name in ("a.nhdr", "a.nrrd"):
        with pytest.raises(InputError, match=r"do not fit into the size of voxels\.raw"):
            read_volume(detached(tmp_path / name, "60 50 40"))


def test_a_file_that_was_read_is_not_kept_mapped(tmp_path, mapped_files):
    # Windows would refuse to replace it for as long as the scan is open.
    file = tmp_path / "a.mgh"
    nib.save(nib.MGHImage(VOXELS.T.astype(np.uint8), np.eye(4)), file)
    volume = read_volume(file)
    assert str(file) not in mapped_files()
    assert np.array_equal(volume.data, VOXELS.astype(np.uint8))


def test_freesurfer_files_lie_where_nibabel_has_them(tmp_path, one_sentence):
    affine = nib.affines.from_matvec([[0, 0, -1], [-1, 0, 0], [0, 2, 0]], [4, 5, 6])
    nib.save(nib.MGHImage(VOXELS.T, affine), tmp_path / "a.mgz")
    volume = read_volume(tmp_path / "a.mgz")
    assert np.array_equal(volume.data, VOXELS)
    assert np.allclose(volume.affine, affine)
    assert volume.has_ml
    (tmp_path / "a.mgz").write_bytes((tmp_path / "a.mgz").read_bytes()[:60])
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "a.mgz")
    one_sentence(error.value)
