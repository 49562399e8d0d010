"""Reading and writing NIfTI, compared with nibabel and SimpleITK."""

from __future__ import annotations

import gzip
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from test_volume import ORIENTATIONS, oriented_affine

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.files import LabelText, read_any, read_labels, read_volume, write_labels
from l2gnet_core.files.nifti import write_map
from l2gnet_core.scans.volume import NoSizeStated, Volume, default_affine

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd_formats"
shared = pytest.mark.shared
needs_odd = pytest.mark.skipif(not ODD.is_dir(), reason=f"needs {ODD}")
GEOMETRY = [
    *("dim", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
    *("xyzt_units", "dim_info", "toffset"),
]


def save(path, data, affine=None, kind=nib.Nifti1Image, **header):
    image = kind(data, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def with_header(path, qform, sform=0, shape=(7, 6, 5), **fields):
    """A scan whose header has these fields, without nibabel's mends."""
    image = nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([-1.5, 2, 8, 1]))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, qform)
    image.set_sform(image.affine, sform)
    header = image.header.copy()
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + image.to_bytes()[348:])
    return path


def some_labels(shape, seed=0, top=4):
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.int64)


def assert_one_sentence(error: pytest.ExceptionInfo) -> None:
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert "Traceback" not in text
    assert 20 < len(text) < 400


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_orientations_come_back_exactly(codes, tmp_path):
    data = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    path = save(tmp_path / "image.nii", data, oriented_affine(codes))
    v = read_volume(path)
    assert np.array_equal(v.data, data.transpose(2, 1, 0))
    assert np.array_equal(v.affine, nib.load(path).affine)
    assert (v.units, v.stored_axes, v.name, v.oriented) == ("mm", (2, 1, 0), "image", True)
    labels = some_labels(v.shape)
    mask = write_labels(tmp_path / "mask.nii.gz", labels, v)
    written = nib.load(mask)
    assert np.array_equal(np.asarray(written.dataobj), labels.transpose(2, 1, 0))
    before = nib.load(path).header
    for key in GEOMETRY:
        assert np.array_equal(before[key], written.header[key]), key
    ours, theirs = sitk.ReadImage(str(mask)), sitk.ReadImage(str(path))
    assert ours.GetDirection() == theirs.GetDirection()
    assert ours.GetOrigin() == theirs.GetOrigin()
    assert ours.GetSpacing() == theirs.GetSpacing()
    assert np.array_equal(sitk.GetArrayFromImage(ours), labels)


@settings(deadline=None, max_examples=30)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 12)] * 3),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    big=st.booleans(),
    version=st.sampled_from([1, 2]),
)
def test_oblique_headers_come_back_to_the_bit(
    tmp_path_factory, angles, spacing, codes, big, version
):
    folder = tmp_path_factory.mktemp("oblique")
    rotation = nib.eulerangles.euler2mat(*angles)
    affine = nib.affines.from_matvec(rotation * np.array(spacing), [1.5, -2.5, 3.5])
    header_type = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[version]
    image_type = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    header = header_type(endianness=">" if big else "<")
    header.set_data_dtype(np.int16)
    image = image_type(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine, header)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    nib.save(image, folder / "image.nii.gz")
    v = read_volume(folder / "image.nii.gz")
    assert np.allclose(v.affine, nib.load(folder / "image.nii.gz").affine)
    assert v.oriented == (max(codes) > 0)
    mask = nib.load(write_labels(folder / "mask.nii.gz", some_labels(v.shape), v))
    before = nib.load(folder / "image.nii.gz").header
    assert type(mask.header) is type(before)
    assert mask.header.endianness == before.endianness
    for key in GEOMETRY:
        assert before[key].tobytes() == mask.header[key].tobytes(), key


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 1), (7, 6, 5), (7, 6, 5, 1), (7, 6, 5, 3)])
def test_stored_shape_comes_back(shape, tmp_path):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    v = read_volume(save(tmp_path / "i.nii", data))
    x, y, z, t = (*shape, 1, 1)[:4]
    assert v.shape == ((t, z, y, x) if t > 1 else (z, y, x))
    mask = nib.load(write_labels(tmp_path / "m.nii", some_labels(v.shape), v))
    assert mask.shape == shape


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nii", "m.tif", "m.ome.tif"])
def test_a_series_of_one_frame_is_written_as_the_scan_that_it_is_read_as(name, tmp_path):
    like = Volume(np.zeros((1, 3, 4, 5)), affine=oriented_affine("LAS"), units="mm")
    labels = some_labels(like.shape)
    again = read_labels(write_labels(tmp_path / name, labels, like, {1: "heart"}))
    assert np.array_equal(again.volume.data, labels[0])
    np.testing.assert_allclose(again.volume.affine, like.affine, atol=1e-5)
    assert again.names == {1: "heart"}
    write_map(tmp_path / "map.nii.gz", labels / 7, like.grid)
    assert read_volume(tmp_path / "map.nii.gz").shape == (3, 4, 5)


def test_one_frame_keeps_the_grid_of_its_series_and_a_part_its_own_place(tmp_path):
    path = save(tmp_path / "i.nii", np.zeros((7, 6, 5, 3), np.int16), oriented_affine("LAS"))
    series = read_volume(path).grid
    mask = nib.load(write_labels(tmp_path / "m.nii", some_labels((5, 6, 7)), series.frame))
    assert mask.shape == (7, 6, 5)
    assert np.array_equal(mask.affine, nib.load(path).affine)
    assert mask.header["sform_code"] == nib.load(path).header["sform_code"]
    moved = oriented_affine("LAS")
    moved[:3, 3] += 9
    part = replace(series, shape=(2, 3, 4), affine=moved)
    mask = nib.load(write_labels(tmp_path / "p.nii", some_labels((2, 3, 4)), part))
    assert np.allclose(mask.affine, moved)


@pytest.mark.parametrize(
    ("top", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)]
)
def test_ids_are_never_renumbered(top, dtype, tmp_path):
    v = read_volume(save(tmp_path / "i.nii", np.zeros((4, 4, 4), np.float32)))
    labels = np.zeros((4, 4, 4), np.int32)
    labels[1, 2, 3] = top
    back = read_labels(write_labels(tmp_path / "m.nii.gz", labels, v)).volume.data
    assert back.dtype == dtype
    assert np.array_equal(back, labels)


@pytest.mark.parametrize(
    "labels",
    [np.full((2, 2, 2), -1), np.full((2, 2, 2), 65536), np.full((2, 2, 2), 0.5), np.zeros((2, 2))],
)
def test_what_is_no_mask_is_not_written(labels, tmp_path):
    like = Volume(np.zeros((2, 2, 2)))
    with pytest.raises(InputError) as error:
        write_labels(tmp_path / "m.nii", labels, like)
    assert_one_sentence(error)
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.integers(1, 65535), st.text(st.characters(codec="utf-8"), max_size=40), max_size=6
    ),
    st.sampled_from([".nii", ".nii.gz", ".tif", ".ome.tif"]),
)
def test_names_and_colours_travel(tmp_path_factory, names, suffix):
    path = tmp_path_factory.mktemp("names") / f"m{suffix}"
    colors = {label: f"#{label * 199 % 0xFFFFFF:06x}" for label in names}
    write_labels(path, some_labels((3, 4, 5)), Volume(np.zeros((3, 4, 5))), names, colors)
    back = read_labels(path)
    assert back.names == names
    assert back.colors == colors


_TABLE = (
    '<Label Key="0" Red="1" Green="1" Blue="1" Alpha="0"><![CDATA[???]]></Label>'
    '<Label Key="1" Red="0.0" Green="1.0" Blue="0.5" Alpha="1"><![CDATA[spleen]]></Label>'
    '<Label Key="90" Red="1" Green="2" Blue="0" Alpha="1">brain stem</Label>'
)


def caret(kind="Label", table=_TABLE):
    """The extension in which Connectome Workbench and TotalSegmentator name labels."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension> <VolumeInformation Index="0"> '
        f"<LabelTable>{table}</LabelTable> <VolumeType><![CDATA[{kind}]]></VolumeType>"
        "</VolumeInformation></CaretExtension>\n   "
    ).encode()


@pytest.mark.parametrize("code", [0, 30])
def test_labels_in_caret_s_table_have_names_and_colours(code, tmp_path):
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"by hand"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(code, caret()))
    nib.save(image, tmp_path / "m.nii.gz")
    text = read_any(tmp_path / "m.nii.gz")[1]
    assert text.is_mask
    assert text.names == {1: "spleen", 90: "brain stem"}
    assert text.colors == {1: "#00ff80", 90: "#ffff00"}


@pytest.mark.parametrize(
    "content",
    [
        caret("Functional"),
        caret(table='<Label Key="one">'),
        caret(table='<Label Key="1">spleen</Label>'),
        caret(table='<Label Key="one" Red="0" Green="0" Blue="0">spleen</Label>'),
        caret().replace(b"UTF-8", b"UTF-x"),
        b"<CaretExtension/>",
    ],
)
def test_other_text_of_caret_names_no_labels(content, tmp_path):
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, content))
    nib.save(image, tmp_path / "m.nii")
    assert read_any(tmp_path / "m.nii")[1] == LabelText()


def test_nothing_about_the_patient_is_carried_over(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4))
    for key in ("descrip", "db_name", "intent_name", "aux_file"):
        image.header[key] = b"Jane Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "i.nii")
    v = read_volume(tmp_path / "i.nii")
    assert b"Jane" not in write_labels(tmp_path / "m.nii", np.zeros(v.shape), v).read_bytes()


def test_slope_and_intercept_apply_to_scans_and_not_to_masks(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(np.array([[[0.0, 100.0, 250.0]]]), np.eye(4), header)
    image.header.set_slope_inter(2.5, -1024)
    nib.save(image, tmp_path / "i.nii")
    v = read_volume(tmp_path / "i.nii")
    assert v.data.dtype == np.float32
    assert np.allclose(v.data.ravel(), np.asarray(nib.load(tmp_path / "i.nii").dataobj).ravel())
    mask = nib.load(write_labels(tmp_path / "m.nii", np.full(v.shape, 7), v))
    assert mask.header.get_slope_inter() in ((1.0, 0.0), (None, None))
    assert set(np.unique(np.asarray(mask.dataobj))) == {7}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("top", [1, 4, 23])
def test_a_mask_that_was_edited_as_floats_is_one_still(dtype, top, tmp_path):
    labels = some_labels((5, 6, 7), top=top + 1)
    before = nib.Nifti1Image(labels.astype(dtype), np.eye(4))
    edited = nib.Nifti1Image(before.get_fdata(), before.affine, before.header)
    nib.save(edited, tmp_path / "m.nii.gz")
    assert nib.load(tmp_path / "m.nii.gz").dataobj.slope != 1
    assert np.array_equal(read_labels(tmp_path / "m.nii.gz").volume.data, labels.T)
    shares = nib.Nifti1Image(labels / top * 0.8, before.affine, before.header)
    nib.save(shares, tmp_path / "p.nii.gz")
    with pytest.raises(InputError, match="choose a mask"):
        read_labels(tmp_path / "p.nii.gz")


@pytest.mark.parametrize("slope", [1 / 255, 0.01, 1e-6])
def test_labels_in_steps_of_a_small_slope_are_not_taken_for_none(slope, tmp_path):
    image = nib.Nifti1Image(some_labels((5, 6, 7), top=4).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(slope, 0)
    nib.save(image, tmp_path / "m.nii")
    with pytest.raises(InputError, match="holds fractions where whole label numbers are expected"):
        read_labels(tmp_path / "m.nii")


def test_colour_becomes_brightness_and_says_so(tmp_path):
    data = np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    data["G"] = 100
    v = read_volume(save(tmp_path / "i.nii", data))
    assert np.allclose(v.data, 58.7)
    assert "colour" in v.warnings[0]


def test_what_is_not_finite_counts_as_the_lowest_value(tmp_path):
    data = np.arange(-3, 24, dtype=np.float32).reshape(3, 3, 3)
    data[0, 0, 1], data[2, 2, 2] = np.nan, np.inf
    v = read_volume(save(tmp_path / "i.nii", data))
    assert v.data.min() == -3
    assert np.isfinite(v.data).all()
    assert "2 voxels" in v.warnings[0]
    nothing = read_volume(save(tmp_path / "n.nii", np.full((2, 2, 2), np.nan, np.float32)))
    assert not nothing.data.any()


def test_sform_counts_and_the_quarrel_is_said(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.set_sform(np.diag([2.0, 2, 2, 1]), 1)
    image.set_qform(np.diag([-2.0, -2, 2, 1]), 1)
    nib.save(image, tmp_path / "i.nii")
    v = read_volume(tmp_path / "i.nii")
    assert np.array_equal(v.affine, np.diag([2.0, 2, 2, 1]))
    assert "sform counts" in v.warnings[0]


def test_a_quarrel_in_metres_is_told_in_millimetres(tmp_path):
    image = nib.Nifti1Image(np.zeros((8, 8, 4), np.int16), np.diag([0.001, 0.001, 0.005, 1]))
    image.header.set_xyzt_units("meter")
    image.set_qform(image.affine, 1)
    moved = image.affine.copy()
    moved[0, 3] = 0.02
    image.set_sform(moved, 1)
    nib.save(image, tmp_path / "i.nii")
    v = read_volume(tmp_path / "i.nii")
    assert "differ by up to 20 mm" in v.warnings[0]
    assert v.affine[0, 3] == pytest.approx(20)


def test_a_singular_sform_is_passed_over(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.diag([3.0, 3, 3, 1]))
    image.set_qform(np.diag([3.0, 3, 3, 1]), 1)
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = 0
    image.header["sform_code"] = 1
    image._affine = None
    nib.save(image, tmp_path / "i.nii")
    v = read_volume(tmp_path / "i.nii")
    assert v.spacing == pytest.approx((3, 3, 3))
    assert "passed over" in v.warnings[0]


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_an_intercept_that_is_no_number_is_left_out(intercept, tmp_path):
    image = nib.Nifti1Image(np.full((3, 4, 5), 7, np.int16), np.eye(4))
    nib.save(image, tmp_path / "i.nii")
    header = bytearray((tmp_path / "i.nii").read_bytes())
    header[112:120] = np.array([2, intercept], np.float32).tobytes()
    (tmp_path / "i.nii").write_bytes(header)
    v = read_volume(tmp_path / "i.nii")
    assert (np.asarray(v.data) == 14).all()
    assert "nothing is added" in v.warnings[-1]


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001)])
def test_other_units_become_mm_as_itk_has_it(unit, factor, tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "i.nii")
    v = read_volume(tmp_path / "i.nii")
    assert v.spacing == pytest.approx((4 * factor, 3 * factor, 2 * factor))
    assert sitk.ReadImage(str(tmp_path / "i.nii")).GetSpacing() == pytest.approx(v.spacing[::-1])
    mask = nib.load(write_labels(tmp_path / "m.nii", np.zeros(v.shape), v))
    assert mask.header.get_xyzt_units()[0] == unit


@pytest.mark.parametrize("qform", [0, 1])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pixdim", [0, 1.5, 2, 8, 1, 1, 1, 1]),
        ("pixdim", [1, -1.5, 2, 8, 1, 1, 1, 1]),
        ("pixdim", [1, 1.5, -2, -8, 1, 1, 1, 1]),
        ("pixdim", [1, 1.5, 0, 8, 1, 1, 1, 1]),
        ("qform_code", 200),
        ("sform_code", 9),
    ],
)
def test_a_header_that_is_mended_when_read_gives_a_mask_in_its_place(field, value, qform, tmp_path):
    path = with_header(tmp_path / "i.nii", qform, **{field: value})
    scan = read_volume(path)
    mask = write_labels(tmp_path / "m.nii.gz", some_labels(scan.shape), scan)
    assert np.array_equal(read_volume(mask).affine, scan.affine)
    assert np.array_equal(nib.load(mask).affine, nib.load(path).affine)
    if field == "pixdim":  # of unknown codes ITK makes something else than we and nibabel do
        ours, theirs = sitk.ReadImage(str(mask)), sitk.ReadImage(str(path))
        assert ours.GetDirection() == theirs.GetDirection()
        assert ours.GetOrigin() == theirs.GetOrigin()
        assert ours.GetSpacing() == theirs.GetSpacing()


@pytest.mark.parametrize("missing", [0, np.nan, np.inf])
@pytest.mark.parametrize("qform", [0, 1])
def test_a_header_without_a_voxel_size_gives_none(qform, missing, tmp_path):
    scan = read_volume(
        with_header(tmp_path / "i.nii", qform, pixdim=[1, missing, 2, 8, 1, 1, 1, 1])
    )
    assert (scan.units, scan.has_ml, scan.oriented) == ("pixel", False, qform == 1)
    assert scan.spacing == (8, 2, 1)
    [warning] = [one for one in scan.warnings if isinstance(one, NoSizeStated)]
    assert warning.startswith("i.nii")
    again = read_volume(write_labels(tmp_path / "m.nii", np.zeros(scan.shape), scan))
    assert again.units == "pixel"
    # With an sform, these fields are of no importance.
    path = with_header(tmp_path / "s.nii", qform, 1, pixdim=[1, missing, 2, 8, 1, 1, 1, 1])
    assert read_volume(path).units == "mm"


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 1)])
def test_a_flat_image_without_a_thickness_is_in_mm_without_ml(shape, tmp_path):
    flat = with_header(tmp_path / "i.nii", 0, pixdim=[1, 1.5, 2, 0, 1, 1, 1, 1], shape=shape)
    assert (read_volume(flat).units, read_volume(flat).has_ml) == ("mm", False)
    assert not read_volume(flat).warnings
    thick = with_header(tmp_path / "t.nii", 0, pixdim=[1, 1.5, 2, 8, 1, 1, 1, 1], shape=shape)
    assert read_volume(thick).has_ml


def test_an_analyze_header_without_a_voxel_size_gives_none(tmp_path):
    nib.save(nib.Spm2AnalyzeImage(np.zeros((7, 6, 5), np.int16), np.eye(4)), tmp_path / "a.img")
    header = nib.load(tmp_path / "a.img").header
    header["pixdim"][1:4] = [1.5, 0, 8]
    (tmp_path / "a.hdr").write_bytes(header.binaryblock)
    (tmp_path / "a.mat").unlink()
    scan = read_volume(tmp_path / "a.img")
    assert (scan.units, scan.spacing) == ("pixel", (8, 1, 1.5))
    mask = write_labels(tmp_path / "m.nii", np.zeros(scan.shape), scan)
    assert read_volume(mask).units == "pixel"


def test_pairs_and_wrong_gz_names(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nib.save(nib.Nifti1Pair(data, np.eye(4)), tmp_path / "p.img")
    for name in ("p.img", "p.hdr"):
        v = read_volume(tmp_path / name)
        assert np.array_equal(v.data, data.T)
        assert nib.load(write_labels(tmp_path / "m.nii", data.T, v)).shape == (3, 4, 5)
    save(tmp_path / "i.nii", data)
    (tmp_path / "i.nii").rename(tmp_path / "i.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "i.nii.gz").data, data.T)
    (tmp_path / "j.nii").write_bytes(gzip.compress((tmp_path / "i.nii.gz").read_bytes()))
    assert np.array_equal(read_volume(tmp_path / "j.nii").data, data.T)
    (tmp_path / "p.img").unlink()
    with pytest.raises(InputError, match="half of a pair"):
        read_volume(tmp_path / "p.hdr")


@settings(deadline=None, max_examples=40)
@given(cut=st.floats(0, 0.999), packed=st.booleans())
def test_files_cut_short_give_one_sentence(tmp_path_factory, cut, packed):
    folder = tmp_path_factory.mktemp("cut")
    data = np.random.default_rng(0).integers(0, 999, (9, 8, 7)).astype(np.int16)
    whole = save(folder / ("i.nii.gz" if packed else "i.nii"), data).read_bytes()
    path = folder / ("c.nii.gz" if packed else "c.nii")
    # The last 8 bytes of a gzip file are its checksum and length; the stream ends just before.
    path.write_bytes(whole[: int(cut * (len(whole) - 24))])
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert_one_sentence(error)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_that_begin_at_no_byte_begin_behind_the_header(kind, tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    raw = bytearray(save(tmp_path / "i.nii", data, kind=kind).read_bytes())
    place = slice(108, 112) if kind is nib.Nifti1Image else slice(168, 176)
    raw[place] = bytes(place.stop - place.start)
    (tmp_path / "i.nii").write_bytes(raw)
    assert np.array_equal(read_volume(tmp_path / "i.nii").data, data.T)


def test_a_flipped_bit_in_a_gzip_stream_is_found(tmp_path):
    data = np.arange(504, dtype=np.int16).reshape(9, 8, 7)
    plain = save(tmp_path / "i.nii", data).read_bytes()
    packed = bytearray(gzip.compress(plain, 0))  # uncompressed: damaged bytes can still be read
    path = tmp_path / "i.nii.gz"
    for behind in (b"", b"\0" * 99, b"garbage", gzip.compress(b"more")):
        path.write_bytes(packed + behind)
        assert np.array_equal(read_volume(path).data, data.T)
    packed[-200] ^= 1
    path.write_bytes(packed)
    with pytest.raises(InputError, match="damaged") as error:
        read_volume(path)
    assert_one_sentence(error)


@settings(deadline=None, max_examples=50)
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_broken_headers_never_end_in_a_traceback(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("broken")
    problem = ""
    raw = bytearray(save(folder / "i.nii", np.zeros((5, 4, 3), np.int16)).read_bytes())
    for position, value in changes:
        raw[position] = value
    (folder / "i.nii").write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            v = read_volume(folder / "i.nii")
            write_labels(folder / "m.nii", np.zeros(v.shape), v)
        except InputError as error:
            problem = str(error)
    assert "\n" not in problem


def test_a_lying_header_is_found_before_memory_is_asked_for(tmp_path):
    path = save(tmp_path / "i.nii", np.zeros((4, 4, 4), np.int16))
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([30000] * 3, "<i2").tobytes()
    path.write_bytes(raw)
    packed = tmp_path / "i.nii.gz"
    packed.write_bytes(gzip.compress(raw))
    for lying in (path, packed):
        with pytest.raises(InputError, match="claims 54,000,000,000,000 bytes"):
            read_volume(lying)


def test_missing_empty_folder_pointer_unknown(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "empty.nii").touch()
    (tmp_path / "pointer.nii.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "scan.dcm").write_bytes(b"x")
    (tmp_path / "text.nii").write_text("hello " * 200)
    (tmp_path / "notes.xyz").write_text("hello")
    for name, word in {
        "folder.nii": "folder",
        "empty.nii": "empty",
        "pointer.nii.gz": "Git LFS",
        "scan.dcm": "DICOM",
        "text.nii": "not a NIfTI",
        "missing.nii": "no file",
        "missing.xyz": "no file",
        "notes.xyz": r"\.nii\.gz",
    }.items():
        with pytest.raises(InputError, match=word) as error:
            read_volume(tmp_path / name)
        assert_one_sentence(error)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    v = Volume(np.zeros((3, 4, 5)), affine=default_affine((2, 1, 1)), units="mm")
    path = write_labels(tmp_path / "m.nii.gz", some_labels(v.shape), v)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_labels(path, np.zeros(v.shape), v)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.nii.gz"]


def test_a_mask_that_does_not_read_back_is_not_claimed(tmp_path, monkeypatch):
    v = Volume(np.zeros((3, 4, 5)))
    from l2gnet_core.files import nifti

    real = nifti.read
    monkeypatch.setattr(nifti, "read", lambda p: (v, real(p)[1]))
    with pytest.raises(OutputError, match="read back"):
        write_labels(tmp_path / "m.nii", np.ones(v.shape), v)
    assert list(tmp_path.iterdir()) == []


def test_where_to_write(tmp_path):
    v = Volume(np.zeros((3, 4, 5)))
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "loop.nii").symlink_to(tmp_path / "back.nii")
    (tmp_path / "back.nii").symlink_to(tmp_path / "loop.nii")
    for name, word in {
        "m.png": "saved as",
        "none/m.nii": "does not exist",
        "folder.nii": "folder.nii is a folder: give the name",
        "loop.nii": "loop.nii is a link that leads back to itself",
        f"{'m' * 250}.nii.gz": "cannot be written",
    }.items():
        with pytest.raises(InputError, match=word) as error:
            write_labels(tmp_path / name, np.zeros(v.shape), v)
        assert_one_sentence(error)
    assert (tmp_path / "loop.nii").is_symlink()
    (tmp_path / "real.nii").touch()
    (tmp_path / "link.nii").symlink_to(tmp_path / "real.nii")
    write_labels(tmp_path / "link.nii", np.zeros(v.shape), v)
    assert (tmp_path / "link.nii").is_symlink()
    assert (tmp_path / "real.nii").stat().st_size > 352


def test_equal_masks_give_equal_bytes(tmp_path):
    v = Volume(np.zeros((3, 4, 5)))
    a = write_labels(tmp_path / "a.nii.gz", some_labels(v.shape), v).read_bytes()
    assert a == write_labels(tmp_path / "b.nii.gz", some_labels(v.shape), v).read_bytes()


def test_scans_are_not_taken_for_masks(tmp_path):
    path = save(tmp_path / "i.nii", np.array([[[-1, 3]]], np.int16))
    with pytest.raises(InputError, match="choose a mask"):
        read_labels(path)
    assert not read_any(path)[1].is_mask


@shared
@needs_odd
def test_nifti_space_comes_back(tmp_path):
    paths = sorted((ODD / "niivue" / "nifti_space").glob("*.nii.gz"))
    assert len(paths) == 24
    for path in paths:
        check_round_trip(path, tmp_path / path.name)


def check_round_trip(path, mask):
    v = read_volume(path)
    labels = some_labels(v.shape)
    before, after = nib.load(path), nib.load(write_labels(mask, labels, v))
    assert before.shape == after.shape
    assert np.array_equal(before.affine, after.affine)
    assert np.array_equal(v.affine, before.affine)
    for key in GEOMETRY:
        assert before.header[key].tobytes() == after.header[key].tobytes(), key
    assert np.array_equal(np.asarray(after.dataobj), labels.T)


@shared
@needs_odd
def test_every_odd_file_reads_or_says_why_not(capfd):
    files = sorted(p for p in ODD.rglob("*") if p.is_file())
    assert len(files) == 113
    readable = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in files:
            started = time.perf_counter()
            problem = "."
            try:
                volume = read_volume(path)
            except InputError as error:
                problem = str(error)
            else:
                assert np.isfinite(volume.data).all()
                readable += 1
            assert problem.endswith("."), problem
            assert "\n" not in problem
            assert time.perf_counter() - started < 3, path
    assert readable >= 80
    assert capfd.readouterr() == ("", "")
