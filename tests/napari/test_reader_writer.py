"""Files to layers and back, in a real viewer where it matters."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
import tifffile
from dicom_files import save_series
from napari.layers import Image, Labels, Layer
from napari.plugins._npe2 import file_extensions_string_for_layers
from napari.utils.notifications import notification_manager

from l2gnet_core.errors import InputError
from l2gnet_core.files import read_labels, read_volume, write_labels
from l2gnet_core.scans.volume import Grid, Volume
from napari_l2gnet.reader import get_reader
from napari_l2gnet.scans.layers import (
    GRID_KEY,
    display_of,
    shown_index,
    to_layer_data,
    transform_of,
    volume_of,
)
from napari_l2gnet.writer import SaveError, write_layers
from napari_l2gnet.writer import write_nifti as save_layer

MANIFEST = Path(__file__).parents[2] / "napari.yaml"
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]
DIRECTION = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
NAMES = {1: "right ventricle", 3: "left ventricle"}
COLORS = {1: "#ff8000", 3: "#0080ff"}


def affine_of(codes, spacing=(1.0, 2.0, 3.0)):
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[:3, 3] = (10, -20, 30)
    for axis, letter in enumerate(codes):
        world, sign = DIRECTION[letter]
        affine[world, axis] = sign * spacing[axis]
    return affine


def scan(codes="LPS", shape=(4, 5, 6), **kwargs):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Volume(data, affine=affine_of(codes), units="mm", oriented=True, name="scan", **kwargs)


def layer_of(volume, *args):
    return Layer.create(*to_layer_data(volume, *args))


@pytest.fixture
def nifti(tmp_path):
    path = tmp_path / "heart.nii.gz"
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(6, 5, 4), affine_of("RAS"))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_how_every_orientation_is_shown(codes):
    volume = scan(codes)
    layer = layer_of(volume)
    assert np.array_equal(layer.data, volume.data)
    assert layer.scale == pytest.approx((3, 2, 1))
    in_place = [letter in pair for letter, pair in zip(codes, ("LR", "AP", "SI"), strict=True)]
    if all(in_place):
        for index in itertools.product((0, 3), (0, 4), (0, 5)):
            x, y, z = (volume.affine @ [*index[::-1], 1])[:3]
            assert layer.data_to_world(index) == pytest.approx((z, -y, -x))
        assert tuple(layer.axis_labels) == ("S", "P", "L")
    else:
        corners = [layer.data_to_world(i) for i in itertools.product((0, 3), (0, 4), (0, 5))]
        assert np.min(corners, axis=0) == pytest.approx((0, 0, 0))
        assert np.max(corners, axis=0) == pytest.approx((9, 8, 5))
        assert set(layer.axis_labels[1:]) <= set("LPI")
        # The slider shows the file's own slice numbers.
        assert layer.data_to_world((2, 0, 0))[0] == pytest.approx(6)
        # The label tells the truth: a step along the axis goes where it says.
        for axis, letter in enumerate(layer.axis_labels):
            start = np.array(layer.data_to_world((1, 1, 1)))
            step = np.eye(3)[axis] * layer.scale[axis]
            index = np.array(layer.world_to_data(start + step)) - 1
            moved = volume.affine[:3, :3] @ index[::-1]
            world, sign = DIRECTION[letter]
            assert sign * moved[world] > 0
    assert [str(u) for u in layer.units] == ["millimeter"] * 3


def test_oblique_scans_are_shown_in_their_own_grid():
    tilt = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.2, 0.1) * (1, 2, 3), (1, 2, 3))
    volume = Volume(np.zeros((4, 5, 6)), affine=tilt, units="mm", oriented=True)
    display = display_of(volume)
    # Axes are turned round at most, never tilted.
    np.testing.assert_array_equal(np.abs(display["affine"][:3, :3]), np.eye(3))
    assert display["axis_labels"] == ("≈S", "≈P", "≈L")
    assert np.array_equal(volume_of(layer_of(volume)).affine, tilt)


def test_rounding_in_a_header_is_no_tilt():
    affine = affine_of("LPS")
    affine[0, 1] = 1e-5
    affine[:3, 3] = 10, 20, 30
    display = display_of(Volume(np.zeros((4, 5, 6)), affine=affine))
    # Shown at its place among the patient's axes (S, P, L), not in a grid of its own.
    assert display["affine"][:3, 3].tolist() == [30, -20, -10]


@pytest.mark.parametrize("codes", ["RAS", "LPI", "LAS", "PIL", "SRA"])
def test_slicing_and_painting_reach_the_right_voxels(make_napari_viewer, codes):
    viewer = make_napari_viewer()
    volume = scan(codes)
    image = viewer._add_layer_from_data(*to_layer_data(volume))[0]
    labels = viewer.add_labels(np.zeros(volume.shape, np.uint8), **transform_of(image))
    assert tuple(viewer.dims.axis_labels) == tuple(image.axis_labels)
    for step in range(4):
        viewer.dims.set_current_step(0, step)
        index = shown_index(image, viewer.dims.point)[0]
        assert np.array_equal(np.asarray(image._slice.image.raw), volume.data[index])
    labels.brush_size = 1  # a brush of one voxel
    for voxel in ((0, 0, 0), (2, 3, 4), (3, 4, 5)):
        world = image.data_to_world(voxel)
        viewer.dims.set_point(0, world[0])
        labels.paint(labels.world_to_data(world), 7)
        assert labels.data[voxel] == 7
        assert labels.get_value(world, world=True) == 7
        assert image.get_value(world, world=True) == volume.data[voxel]
    assert np.count_nonzero(labels.data) == 3


def test_a_time_series_keeps_its_frames():
    volume = scan("RAS", (2, 4, 5, 6))
    layer = layer_of(volume)
    assert tuple(layer.axis_labels) == ("time", "S", "P", "L")
    assert [str(u) for u in layer.units] == ["pixel", *["millimeter"] * 3]
    assert layer.data_to_world((1, 0, 0, 0))[0] == 1
    again = volume_of(layer)
    assert len(list(again.frames)) == 2
    layer.metadata = {}
    assert np.allclose(volume_of(layer).affine, volume.affine)


def test_the_metadata_is_light():
    volume = scan("RAS", (40, 50, 60))
    grid = layer_of(volume).metadata[GRID_KEY]
    assert isinstance(grid, Grid)
    assert len(pickle.dumps(grid)) < 2000


@pytest.mark.parametrize("codes", ["RAS", "LPI", "RAI"])
def test_a_layer_without_metadata_gives_the_same_geometry(codes):
    volume = scan(codes)
    layer = layer_of(volume)
    layer.metadata = {}
    again = volume_of(layer)
    assert np.allclose(again.affine, volume.affine)
    assert (again.units, again.oriented) == ("mm", True)


def test_the_current_data_counts_and_only_while_the_grid_fits():
    layer = layer_of(scan("RAS"))
    layer.data = layer.data + 1
    assert volume_of(layer).data[0, 0, 0] == 1
    assert volume_of(layer).name == "scan"
    layer.data = np.zeros((2, 5, 6), np.float32)
    assert volume_of(layer).shape == (2, 5, 6)
    assert volume_of(layer).spacing == pytest.approx((3, 2, 1))


def test_a_voxel_size_set_by_hand_counts(tmp_path):
    tifffile.imwrite(tmp_path / "i.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack")
    layer = Layer.create(*get_reader(str(tmp_path / "i.tif"))(str(tmp_path / "i.tif"))[0])
    assert volume_of(layer).units == "pixel"
    layer.units = ("mm", "mm", "mm")
    assert volume_of(layer).units == "mm"
    layer.scale, layer.units = (5, 0.5, 0.5), ("mm", "mm", "mm")
    again = volume_of(layer)
    assert (again.units, again.spacing) == ("mm", pytest.approx((5, 0.5, 0.5)))
    layer.units = ("um", "um", "um")
    assert volume_of(layer).spacing == pytest.approx((5e-3, 5e-4, 5e-4))


@pytest.mark.parametrize("codes", ["RAS", "PIL"])
def test_a_voxel_size_that_a_file_states_counts_whatever_is_set_by_hand(codes):
    layer = layer_of(scan(codes))
    filed = volume_of(layer)
    layer.scale, layer.units = np.multiply(layer.scale, 2), ("um", "um", "um")
    volume = volume_of(layer)
    assert (volume.units, volume.oriented) == ("mm", True)
    np.testing.assert_array_equal(volume.affine, filed.affine)
    # Of other data than the file's only the layer knows the size.
    layer.data = layer.data[:-1]
    assert volume_of(layer).spacing == pytest.approx(np.multiply(filed.spacing, 2e-3))


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_any_layer_becomes_a_volume():
    flat = volume_of(Image(np.zeros((5, 6)), scale=(2, 1), units=("um", "um")))
    assert flat.shape == (1, 5, 6)
    assert flat.spacing[1:] == pytest.approx((0.002, 0.001))
    assert not flat.oriented
    assert not flat.has_ml
    turned = Image(
        np.zeros((4, 5, 6)),
        scale=(3, 2, 1),
        rotate=(10, 20, 30),
        translate=(1, 2, 3),
        shear=[0.1, 0, 0],
    )
    volume = volume_of(turned)
    for index in ((0, 0, 0), (1, 2, 3)):
        s, p, left = turned.data_to_world(index)
        assert (volume.affine @ [*index[::-1], 1])[:3] == pytest.approx((-left, -p, s))
    with pytest.raises(InputError, match="5 axes"):
        volume_of(Image(np.zeros((2, 2, 2, 2, 2))))
    with pytest.raises(InputError, match="colour"):
        volume_of(Image(np.zeros((5, 6, 3), np.uint8), rgb=True))


def test_lazy_data_stays_lazy_and_pyramids_give_their_finest_level():
    touched = []

    def block(block_info=None):
        touched.append(block_info[None]["chunk-location"])
        return np.full((1, 4, 5, 6), len(touched), np.float32)

    lazy = da.map_blocks(
        block, chunks=((1,) * 3, (4,), (5,), (6,)), dtype=np.float32, meta=np.empty(0, np.float32)
    )
    layer = Image(lazy, contrast_limits=(0, 1), cache=False)
    before = len(touched)
    volume = volume_of(layer)
    assert len(touched) == before
    frame = next(iter(volume.frames))
    assert isinstance(frame, np.ndarray)
    assert len(touched) == before + 1
    pyramid = Image([np.ones((8, 8, 8)), np.ones((4, 4, 4))], multiscale=True, scale=(2, 1, 1))
    assert volume_of(pyramid).shape == (8, 8, 8)
    assert volume_of(pyramid).spacing == pytest.approx((2, 1, 1))


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_the_whole_transform_is_copied():
    image = Image(
        np.zeros((4, 5, 6)),
        scale=(3, 2, 1),
        translate=(1, 2, 3),
        rotate=(10, 20, 30),
        shear=(0.1, 0.2, 0.3),
        affine=affine_of("LAS"),
        units=("mm",) * 3,
        axis_labels=("a", "b", "c"),
    )
    labels = Labels(np.zeros((4, 5, 6), np.uint8), **transform_of(image))
    for index in ((0, 0, 0), (1, 2, 3)):
        assert labels.data_to_world(index) == pytest.approx(image.data_to_world(index))
    assert labels.units == image.units
    assert labels.axis_labels == image.axis_labels


def test_reader_takes_what_it_knows(nifti, tmp_path):
    assert get_reader("scan.png") is None
    assert get_reader([str(nifti), "scan.png"]) is None
    assert get_reader([]) is None
    (data, arguments, kind), *_ = get_reader(str(nifti))(str(nifti))
    assert (kind, arguments["name"], data.shape) == ("image", "heart", (4, 5, 6))
    assert len(get_reader([str(nifti)] * 2)([str(nifti)] * 2)) == 2


def test_scans_open_so_that_something_is_to_be_seen():
    ct = np.linspace(-150, 250, 1000).reshape(10, 10, 10)
    ct[:, :3] = -1000
    assert to_layer_data(Volume(ct))[1]["contrast_limits"] == (-160, 240)
    specks = np.linspace(0, 100, 1000).reshape(10, 10, 10)
    assert "contrast_limits" not in to_layer_data(Volume(specks))[1]
    # Of bytes napari would take 0 to 255: of a mask without names all is black.
    mask = (np.arange(1000).reshape(10, 10, 10) % 4).astype(np.uint8)
    assert to_layer_data(Volume(mask))[1]["contrast_limits"] == (0, 3)
    assert "contrast_limits" not in to_layer_data(Volume(60 * mask))[1]
    specks[-1, -1, -5:] = 4000
    low, high = to_layer_data(Volume(np.stack([specks] * 3)))[1]["contrast_limits"]
    assert low == pytest.approx(1, abs=0.2)
    assert high == pytest.approx(99, abs=1)


def test_masks_open_as_labels_with_names_and_colours(nifti, tmp_path):
    volume = read_volume(nifti)
    for name in ("m.nii.gz", "m.tif", "m.ome.tif"):
        path = str(write_labels(tmp_path / name, volume.data % 4, volume, NAMES, COLORS))
        layer = Layer.create(*get_reader(path)(path)[0])
        assert isinstance(layer, Labels)
        assert layer.data.dtype == np.uint8
        assert dict(zip(layer.features["index"], layer.features["name"], strict=True)) == {
            0: "background",
            **NAMES,
        }
        assert layer.colormap.map(3)[:3] == pytest.approx((0, 0.5, 1), abs=0.01)
        # It lies on its image.
        image = layer_of(volume)
        assert layer.data_to_world((1, 2, 3)) == pytest.approx(image.data_to_world((1, 2, 3)))


def test_a_script_gets_the_sentence_as_an_exception(tmp_path):
    (tmp_path / "broken.nii").write_bytes(b"x" * 100)
    path = str(tmp_path / "broken.nii")
    with pytest.raises(InputError, match="cut short"):
        get_reader(path)(path)


def test_a_person_gets_the_sentence_as_a_notification(tmp_path, make_napari_viewer, qtbot, capfd):
    from qtpy.QtCore import QTimer

    path = tmp_path / "broken.nii"
    path.write_bytes(b"x" * 100)
    viewer = make_napari_viewer()
    results = []
    notification_manager.records.clear()
    QTimer.singleShot(0, lambda: results.append(get_reader(str(path))(str(path))))
    qtbot.waitUntil(lambda: bool(results))
    assert results == [[(None,)]]
    assert [str(r.severity) for r in notification_manager.records] == ["error"]
    assert "cut short" in notification_manager.records[0].message
    assert not viewer.layers
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_layer_saves_onto_its_scans_own_grid(nifti, tmp_path):
    layer = Layer.create(*get_reader(str(nifti))(str(nifti))[0])
    painted = Labels(
        (layer.data % 4).astype(np.uint8),
        **transform_of(layer),
        metadata=layer.metadata,
        features={"index": [0, *NAMES], "name": ["background", *NAMES.values()]},
        colormap={None: "white", 0: "transparent", **COLORS},
    )
    target = str(tmp_path / "m.nii.gz")
    assert save_layer(target, *painted.as_layer_data_tuple()[:2]) == [target]
    before, after = nib.load(nifti), nib.load(target)
    assert np.array_equal(before.affine, after.affine)
    assert (after.header["qform_code"], after.header["sform_code"]) == (1, 1)
    back = read_labels(target)
    assert (back.names, back.colors) == (NAMES, COLORS)
    assert np.array_equal(back.volume.data, painted.data)


def test_labels_layers_of_others_save_where_they_lie(tmp_path):
    layer = Labels(
        np.eye(5, dtype=np.int32)[None].repeat(4, axis=0) * 300,
        scale=(3, 2, 1),
        translate=(1, 2, 3),
        units=("mm",) * 3,
    )
    target = str(tmp_path / "m.nii")
    save_layer(target, *layer.as_layer_data_tuple()[:2])
    image = nib.load(target)
    assert image.get_data_dtype() == np.uint16
    assert np.array_equal(np.asarray(image.dataobj).T, layer.data)
    assert image.affine @ [0, 0, 0, 1] == pytest.approx([-3, -2, 1, 1])
    flat = Labels(np.ones((5, 6), np.uint8))
    save_layer(str(tmp_path / "f.tif"), *flat.as_layer_data_tuple()[:2])
    assert read_labels(tmp_path / "f.tif").volume.data.sum() == 30


def test_a_failed_save_is_loud(tmp_path):
    layer = Labels(np.full((4, 5, 6), -1))
    with pytest.raises(SaveError, match="0 to 65535") as error:
        save_layer(str(tmp_path / "m.nii"), *layer.as_layer_data_tuple()[:2])
    assert not isinstance(error.value, ValueError)
    assert list(tmp_path.iterdir()) == []


def test_through_naparis_own_doors(nifti, tmp_path, make_napari_viewer, npe2pm):
    with npe2pm.tmp_plugin(manifest=MANIFEST):
        viewer = make_napari_viewer()
        (image,) = viewer.open(nifti, plugin="napari-l2gnet")
        labels = viewer.add_labels(
            (image.data % 3).astype(np.uint8), **transform_of(image), metadata=image.metadata
        )
        for name in ("m.nii.gz", "m.nii", "m.tif"):
            assert labels.save(str(tmp_path / name), plugin="napari-l2gnet") == [
                str(tmp_path / name)
            ]
            (again,) = viewer.open(tmp_path / name, plugin="napari-l2gnet")
            assert isinstance(again, Labels)
            assert np.array_equal(again.data, labels.data)
            assert again.data_to_world((3, 4, 5)) == pytest.approx(image.data_to_world((3, 4, 5)))
        (tmp_path / "broken.nii").write_bytes(b"x")
        with pytest.raises(InputError, match="cut short"):
            viewer.open(tmp_path / "broken.nii", plugin="napari-l2gnet")
        labels.data = labels.data.astype(np.int32) - 5
        with pytest.raises(SaveError):
            labels.save(str(tmp_path / "bad.nii"), plugin="napari-l2gnet")


def test_naparis_dialog_gives_a_name_without_a_suffix(nifti, tmp_path, make_napari_viewer, npe2pm):
    with npe2pm.tmp_plugin(manifest=MANIFEST):
        viewer = make_napari_viewer()
        viewer.open(nifti, plugin="napari-l2gnet")
        labels = viewer.add_labels(np.ones((4, 5, 6), np.uint8), name="heart1.5 · model")
        kinds, writers = file_extensions_string_for_layers([labels])
        for kind, writer in zip(kinds.split(";;"), writers, strict=True):
            suffix = {"NIfTI mask": ".nii.gz", "TIFF mask": ".tif"}.get(writer.display_name)
            if not kind.startswith("L2GNet") or suffix is None:
                continue
            path, there = str(tmp_path / labels.name), tmp_path / f"{labels.name}{suffix}"
            assert viewer.layers.save(path, selected=True, _writer=writer) == [str(there)]
            written = there.read_bytes()
            # The dialog has asked about a file of another name.
            with pytest.raises(SaveError, match=f"{suffix} exists already"):
                viewer.layers.save(path, selected=True, _writer=writer)
            labels.data = labels.data + 1
            assert viewer.layers.save(str(there), selected=True, _writer=writer) == [str(there)]
            assert there.read_bytes() != written
    assert len(list(tmp_path.glob("heart1.5 *"))) == 2


def test_no_scan_is_replaced_by_a_mask(nifti, tmp_path, make_napari_viewer, npe2pm):
    link = tmp_path / "link.nii"
    link.symlink_to(nifti)
    series = tmp_path / "series"
    slices = save_series(series, np.ones((3, 5, 6), np.int16))
    among = tmp_path / "slice.tif"
    among.symlink_to(slices[0])
    with npe2pm.tmp_plugin(manifest=MANIFEST):
        viewer = make_napari_viewer()
        scan, _ = (viewer.open(one, plugin="napari-l2gnet")[0] for one in (nifti, series))
        mask = viewer.add_labels(
            np.ones((4, 5, 6), np.uint8), metadata={**scan.metadata, "image": scan}
        )
        before = {file: file.read_bytes() for file in (nifti, *slices)}
        for file in (nifti, link, among):
            with pytest.raises(SaveError, match=f"{file.name} is a scan; choose another name"):
                mask.save(str(file), plugin="napari-l2gnet")
        # The mask's own scan may be gone.
        viewer.layers.remove(scan)
        with pytest.raises(SaveError, match="is a scan"):
            mask.save(str(nifti), plugin="napari-l2gnet")
        assert {file: file.read_bytes() for file in before} == before
        # A mask that was opened is none.
        path = mask.save(str(tmp_path / "mask.nii.gz"), plugin="napari-l2gnet")[0]
        (again,) = viewer.open(path, plugin="napari-l2gnet")
        assert again.save(path, plugin="napari-l2gnet") == [path]


def test_new_labels_over_a_tilted_scan_save_onto_its_grid(tmp_path, make_napari_viewer, npe2pm):
    turn = nib.eulerangles.euler2mat(0.3, 0.2, 0.1)
    tilt = nib.affines.from_matvec(turn * (1, 2, 3), (40, 50, 60))
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), tilt), tmp_path / "tilted.nii")
    with npe2pm.tmp_plugin(manifest=MANIFEST):
        viewer = make_napari_viewer()
        viewer.open(tmp_path / "tilted.nii", plugin="napari-l2gnet")
        viewer._new_labels()
        labels = viewer.layers.selection.active
        assert not labels.metadata
        labels.save(str(tmp_path / "m.nii"), plugin="napari-l2gnet")
        np.testing.assert_allclose(nib.load(tmp_path / "m.nii").affine, tilt, atol=1e-5)
        # Elsewhere than the scan nobody knows where it lies, and no file says that it does.
        labels.scale = (3, 2, 1.5)
        labels.save(str(tmp_path / "n.nii"), plugin="napari-l2gnet")
        assert not read_volume(tmp_path / "n.nii").oriented


def saved_together(folder, *layers):
    return [
        Path(f).name for f in write_layers(str(folder), [x.as_layer_data_tuple() for x in layers])
    ]


def test_all_layers_save_where_they_lie(nifti, tmp_path, make_napari_viewer, npe2pm):
    with npe2pm.tmp_plugin(manifest=MANIFEST):
        viewer = make_napari_viewer()
        (image,) = viewer.open(nifti, plugin="napari-l2gnet")
        place = {**transform_of(image), "metadata": image.metadata}
        viewer.add_labels((image.data % 3).astype(np.uint8), name="a/b", **place)
        viewer.add_image(image.data / 7.0, name="heart", **place)
        # Before napari's own folder of TIFFs.
        written = viewer.layers.save(str(tmp_path / "all"))
        assert [Path(f).name for f in written] == ["heart.nii.gz", "a_b.nii.gz", "heart [1].nii.gz"]
        for file, layer in zip(written, list(viewer.layers), strict=True):
            (again,) = viewer.open(file, plugin="napari-l2gnet")
            assert type(again) is type(layer)
            assert np.allclose(again.data, layer.data)
            assert again.data_to_world((3, 4, 5)) == pytest.approx(layer.data_to_world((3, 4, 5)))


def test_all_kinds_of_layers_save(tmp_path):
    labels = Labels(np.ones((4, 5, 6), np.uint8), name="mask")
    holes = np.linspace(0, 1, 30).reshape(5, 6)
    holes[0, 0] = np.nan
    layers = [
        labels,
        Labels(np.ones((4, 5, 6), np.int64), name="Mask"),
        Image(holes, name="doubt"),
        Image(np.zeros((4, 5, 6), np.float16), name="half"),
        Image(np.ones((4, 5, 6), bool), name="..."),
        Image(np.zeros((8, 8, 3), np.uint8), rgb=True, name="photo"),
        Image(np.ones((8, 8, 3), np.uint8), rgb=True, name="photo"),
    ]
    assert saved_together(tmp_path / "new.nii.gz", *layers) == [
        "mask.nii.gz",
        "Mask 2.nii.gz",
        "doubt.nii.gz",
        "half.nii.gz",
        "layer.nii.gz",
        "photo.tif",
        "photo 2.tif",
    ]
    with pytest.raises(SaveError, match="new or an empty folder"):
        saved_together(tmp_path / "new", labels)
    # One that cannot be saved does not take the others along.
    with pytest.raises(SaveError, match=r"1 of 2 layers.* 2 to 4 are expected"):
        saved_together(tmp_path / "five", Image(np.zeros((2, 2, 2, 2, 2)), name="five"), labels)
    assert read_labels(tmp_path / "five" / "mask.nii.gz").volume.data.sum() == 120
    with pytest.raises(SaveError, match="cannot be created"):
        saved_together(tmp_path / "new" / "mask.nii.gz" / "in a file", labels)
