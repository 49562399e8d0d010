"""Reading and writing TIFF: axes, voxel size, names."""

from __future__ import annotations

import struct

import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from test_volume import oriented_affine

from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, read_volume, write_labels
from l2gnet_core.scans.volume import Volume, default_affine

size = st.floats(0.01, 50)
GREY = {"photometric": "minisblack"}
data = np.random.default_rng(0).integers(0, 999, (4, 5, 6)).astype(np.uint16)


@settings(deadline=None, max_examples=15)
@given(z=size, y=size, x=size, unit=st.sampled_from(["mm", "cm", "um", "micron", "\\u00B5m"]))
def test_imagej_voxel_size_survives_both_ways(tmp_path_factory, z, y, x, unit):
    folder = tmp_path_factory.mktemp("imagej")
    tifffile.imwrite(
        folder / "i.tif",
        data,
        imagej=True,
        resolution=(1 / x, 1 / y),
        metadata={"axes": "ZYX", "spacing": z, "unit": unit},
    )
    factor = {"mm": 1, "cm": 10}.get(unit, 1e-3)
    v = read_volume(folder / "i.tif")
    assert v.units == "mm"
    assert v.spacing == pytest.approx((z * factor, y * factor, x * factor), rel=1e-5)
    assert np.array_equal(v.data, data)
    mask = write_labels(folder / "m.tif", data % 3, v)
    assert read_volume(mask).spacing == pytest.approx(v.spacing, rel=1e-5)
    with tifffile.TiffFile(mask) as tif:
        assert tif.is_imagej
        assert tif.imagej_metadata["unit"] == "mm"
        assert tif.imagej_metadata["spacing"] == pytest.approx(z * factor)
        numerator, denominator = tif.pages[0].tags["XResolution"].value
        assert denominator / numerator == pytest.approx(x * factor, rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(z=size, y=size, x=size, unit=st.sampled_from(["mm", "µm", "nm", None]))
def test_ome_voxel_size_survives_both_ways(tmp_path_factory, z, y, x, unit):
    folder = tmp_path_factory.mktemp("ome")
    metadata = {"axes": "ZYX"}
    for letter, value in zip("ZYX", (z, y, x), strict=True):
        metadata[f"PhysicalSize{letter}"] = value
        if unit:
            metadata[f"PhysicalSize{letter}Unit"] = unit
    tifffile.imwrite(folder / "i.ome.tif", data, ome=True, metadata=metadata)
    factor = {"mm": 1, "nm": 1e-6}.get(unit, 1e-3)
    v = read_volume(folder / "i.ome.tif")
    assert v.name == "i"
    if min(x, y, z) * factor <= 1.001e-7:
        return  # Smaller than an atom, so not plausible.
    assert v.spacing == pytest.approx((z * factor, y * factor, x * factor), rel=1e-6)
    mask = write_labels(folder / "m.tif", data % 3, v)
    with tifffile.TiffFile(mask) as tif:
        assert tif.is_ome
    back = read_volume(mask)
    assert back.units == "mm"
    assert back.spacing == pytest.approx(v.spacing, rel=1e-6)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20, 20), "CENTIMETER", 0.5),
        ((50.8, 50.8), "INCH", 0.5),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((28.35, 28.35), "CENTIMETER", None),
        ((20, 20), "NONE", None),
        ((1, 1), "INCH", None),
    ],
)
def test_plain_resolution_counts_where_it_is_no_print_size(resolution, unit, expected, tmp_path):
    tifffile.imwrite(
        tmp_path / "i.tif", data[0], resolution=resolution, resolutionunit=unit, metadata=None
    )
    v = read_volume(tmp_path / "i.tif")
    assert v.units == ("pixel" if expected is None else "mm")
    assert v.spacing == pytest.approx((expected or 1.0,) * 3)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        (72, "inch", None),
        (300, "inch", None),
        (150 / 2.54, "cm", None),
        (50.8, "inch", 0.5),
        (10, "cm", 1.0),
        (72, "mm", 1 / 72),
    ],
)
def test_fijis_resolution_counts_where_it_is_no_print_size(resolution, unit, expected, tmp_path):
    tifffile.imwrite(
        tmp_path / "i.tif",
        data,
        imagej=True,
        resolution=(resolution, resolution),
        metadata={"axes": "ZYX", "unit": unit},
    )
    v = read_volume(tmp_path / "i.tif")
    assert v.units == ("pixel" if expected is None else "mm")
    assert v.spacing == pytest.approx((expected or 1.0,) * 3)


def test_an_unknown_slice_distance_is_said(tmp_path):
    tifffile.imwrite(
        tmp_path / "i.tif",
        data,
        imagej=True,
        resolution=(2, 2),
        metadata={"axes": "ZYX", "unit": "mm"},
    )
    v = read_volume(tmp_path / "i.tif")
    assert v.spacing == pytest.approx((0.5, 0.5, 0.5))
    assert "distance between its slices" in v.warnings[0]
    assert v.has_ml
    options = {"imagej": True, "resolution": (2, 2)}
    for spacing in ({}, {"spacing": 3.0}):
        metadata = {"axes": "YX", "unit": "mm", **spacing}
        tifffile.imwrite(tmp_path / "f.tif", data[0], metadata=metadata, **options)
        flat = read_volume(tmp_path / "f.tif")
        assert flat.units == "mm"
        assert flat.has_ml == bool(spacing)


AXES = {
    "YX": ((5, 6), (1, 5, 6)),
    "ZYX": ((4, 5, 6), (4, 5, 6)),
    "TYX": ((4, 5, 6), (4, 1, 5, 6)),
    "TZYX": ((3, 4, 5, 6), (3, 4, 5, 6)),
    "IYX": ((4, 5, 6), (4, 5, 6)),
    "QYX": ((4, 5, 6), (4, 5, 6)),
}


@pytest.mark.parametrize(
    ("kind", "axes"),
    # ImageJ and OME name their axes; plain files do not.
    [(k, a) for k in ("plain", "imagej", "ome") for a in AXES if k == "plain" or a[0] not in "IQ"],
)
def test_axes(kind, axes, tmp_path):
    shape, expected = AXES[axes]
    stored = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    options = {} if kind == "plain" else {kind: True}
    tifffile.imwrite(tmp_path / "i.tif", stored, metadata={"axes": axes}, **GREY, **options)
    v = read_volume(tmp_path / "i.tif")
    assert v.shape == expected
    assert np.array_equal(v.data.ravel(), stored.ravel())
    assert v.stored_axes == (0, 1, 2)
    back = read_labels(write_labels(tmp_path / "m.tif", v.data % 5, v)).volume
    assert np.array_equal(back.data, v.data % 5)
    assert tifffile.imread(tmp_path / "m.tif").shape == shape


def test_colours_are_no_labels(tmp_path, one_sentence):
    labels = np.zeros((6, 7), np.uint8)
    labels[2:4, 1:5] = 255
    tifffile.imwrite(tmp_path / "grey.tif", np.stack([labels] * 3, -1), photometric="rgb")
    assert np.array_equal(read_labels(tmp_path / "grey.tif").volume.data[0], labels)
    red = np.stack([labels, labels * 0, labels * 0], -1)
    tifffile.imwrite(tmp_path / "red.tif", red, photometric="rgb")
    with pytest.raises(InputError, match=r"red.tif is a colour image where label numbers") as error:
        read_labels(tmp_path / "red.tif")
    one_sentence(error.value)


def test_colour_and_channels(tmp_path):
    rgb = np.zeros((5, 6, 3), np.uint8)
    rgb[..., 1] = 100
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    v = read_volume(tmp_path / "rgb.tif")
    assert v.shape == (1, 5, 6)
    assert np.allclose(v.data, 58.7)
    assert "colour" in v.warnings[0]
    channels = np.stack([data, data + 1], axis=1)
    tifffile.imwrite(tmp_path / "c.tif", channels, imagej=True, metadata={"axes": "ZCYX"})
    v = read_volume(tmp_path / "c.tif")
    assert np.array_equal(v.data, data)
    assert "2 channels" in v.warnings[0]
    tifffile.imwrite(tmp_path / "q.tif", np.zeros((2, 3, 4, 5, 6), np.uint8), **GREY)
    with pytest.raises(InputError, match="axes"):
        read_volume(tmp_path / "q.tif")


@pytest.mark.parametrize("shape", [(1, 4, 5, 6), (4, 1, 5, 6), (1, 4, 1, 5, 6), (4, 1, 1, 5, 6)])
def test_nameless_axes_of_one_value_are_none(tmp_path, shape):
    stored = np.arange(120, dtype=np.uint8).reshape(shape)
    tifffile.imwrite(tmp_path / "q.tif", stored, **GREY)
    assert np.array_equal(read_volume(tmp_path / "q.tif").data, stored.reshape(4, 5, 6))


@pytest.mark.parametrize("dtype", ["bool", "i1", ">u2", "f2", "f4", "f8", "i4", "u8"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_all_kinds_of_numbers(dtype, options, tmp_path):
    values = (data % 2).astype(dtype)
    byteorder = ">" if dtype.startswith(">") else "<"
    tifffile.imwrite(tmp_path / "i.tif", values, byteorder=byteorder, **GREY, **options)
    v = read_volume(tmp_path / "i.tif")
    assert np.array_equal(v.data, data % 2)
    assert v.data.dtype.isnative
    assert v.data.dtype.kind in "iuf"


def test_nan_in_tiff(tmp_path):
    values = data.astype(np.float32)
    values[0, 0, 0] = np.nan
    tifffile.imwrite(tmp_path / "i.tif", values, **GREY)
    v = read_volume(tmp_path / "i.tif")
    assert v.data[0, 0, 0] == v.data.min()
    assert v.warnings


def test_a_tiff_image_can_have_a_nifti_mask(tmp_path):
    v = Volume(data, affine=default_affine((3, 2, 1)), units="mm", name="i")
    mask = nib.load(write_labels(tmp_path / "m.nii.gz", data % 4, v))
    assert mask.shape == (6, 5, 4)
    assert np.array_equal(np.asarray(mask.dataobj).T, data % 4)
    # ITK's identity: columns to the left, rows to the back.
    assert nib.aff2axcodes(mask.affine) == ("L", "P", "S")
    assert mask.header.get_zooms() == pytest.approx((1, 2, 3))
    back = read_volume(tmp_path / "m.nii.gz")
    assert not back.oriented
    plain = Volume(data, name="i")
    assert read_volume(write_labels(tmp_path / "p.nii", data % 4, plain)).units == "pixel"


@pytest.mark.parametrize("name", ["m.tif", "m.ome.tif"])
def test_a_nifti_image_can_have_a_tiff_mask(name, tmp_path):
    nib.save(nib.Nifti1Image(data.T.astype(np.int16), oriented_affine("LAS")), tmp_path / "i.nii")
    v = read_volume(tmp_path / "i.nii")
    back = read_labels(write_labels(tmp_path / name, data % 4, v, {1: "a"})).volume
    assert np.array_equal(back.data, data % 4)
    assert back.spacing == pytest.approx((3, 2, 1))
    # Our own masks store their affine, so that they are shown on their image.
    assert np.allclose(back.affine, v.affine)
    assert back.oriented


@settings(deadline=None, max_examples=40)
@given(cut=st.floats(0, 0.98), kind=st.integers(0, 3))
def test_stacks_cut_short_give_one_sentence(tmp_path_factory, cut, kind):
    folder = tmp_path_factory.mktemp("cut")
    named = {"metadata": {"axes": "ZYX"}}
    kinds = (
        {"compression": "zlib"},
        {"imagej": True, **named},
        {"ome": True, **named},
        {"metadata": None},
    )
    options = kinds[kind]
    tifffile.imwrite(folder / "i.tif", data, **GREY, **options)
    whole = (folder / "i.tif").read_bytes()
    (folder / "i.tif").write_bytes(whole[: int(cut * len(whole))])
    problem = "."
    try:
        v = read_volume(folder / "i.tif")
    except InputError as error:
        problem = str(error)
    else:  # only tags after the voxels may be missing
        assert np.array_equal(v.data, data)
    assert problem.endswith(".")
    assert "\n" not in problem


@settings(deadline=None, max_examples=60)
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_broken_tags_never_end_in_a_traceback(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("broken")
    tifffile.imwrite(folder / "i.tif", data[0], metadata=None, **GREY)
    raw = bytearray((folder / "i.tif").read_bytes())
    for position, value in changes:
        raw[position % len(raw)] = value
    (folder / "i.tif").write_bytes(raw)
    problem = ""
    try:
        read_volume(folder / "i.tif")
    except InputError as error:
        problem = str(error)
    assert "\n" not in problem


def test_a_lying_stack_is_found_before_memory_is_asked_for(tmp_path):
    tifffile.imwrite(tmp_path / "i.tif", data[0], metadata=None, **GREY)
    with tifffile.TiffFile(tmp_path / "i.tif", mode="r+") as tif:
        tif.pages[0].tags["ImageWidth"].overwrite(60000)
        tif.pages[0].tags["ImageLength"].overwrite(60000)
    with pytest.raises(InputError):
        read_volume(tmp_path / "i.tif")


@pytest.mark.parametrize(
    "content", [b"II*\0", b"hello", b"II*\0" + struct.pack("<I", 2**31), b"\0" * 500]
)
def test_what_is_no_tiff(content, tmp_path, capfd):
    (tmp_path / "i.tif").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "i.tif")
    assert str(error.value).endswith(".")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package"),
        # The error for Zstandard before Python 3.14.
        ModuleNotFoundError("No module named 'compression'", name="compression"),
    ],
)
def test_a_compression_that_needs_one_more_package_is_no_damage(tmp_path, monkeypatch, error):
    def asarray(*_):
        raise error

    tifffile.imwrite(tmp_path / "a.tif", data, **GREY)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", asarray)
    with pytest.raises(InputError, match="run pip install imagecodecs"):
        read_volume(tmp_path / "a.tif")
