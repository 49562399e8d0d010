"""Segmentation of scans slice by slice: order, independence, memory, cancelling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_traces import new_trace

from l2gnet_core.errors import InputError
from l2gnet_core.finetuning.config import SCAN
from l2gnet_core.finetuning.correction_views import CorrectedScan
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.models.card import Expectations
from l2gnet_core.models.checkpoint import load_model
from l2gnet_core.network.device import choose_device, on_device
from l2gnet_core.preprocessing.images import pad_to_multiple
from l2gnet_core.preprocessing.intensities import intensity_window, is_ct, normalise
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.phantom import cardiac_phantom
from l2gnet_core.scans.volume import Grid, Volume
from l2gnet_core.segmenting import predict
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.files import segmented
from l2gnet_core.segmenting.predict import label_lookup, outward, predict_slices, segment
from l2gnet_core.segmenting.slice_view import slice_view, usual_size


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def calls(monkeypatch):
    """The sizes of the batches that were computed."""
    sizes, compute = [], predict._answers

    def counted(model, images, *more):
        sizes.append(len(images))
        return compute(model, images, *more)

    monkeypatch.setattr(predict, "_answers", counted)
    return sizes


def sliced(model, scan, axis=0, *more, **options):
    """Slices of a scan without orientation or spacing."""
    return predict_slices(model, scan, Grid(scan.shape), axis, *more, **options)


def whole(model, scan, axis=0, **options) -> np.ndarray:
    """The mask of the scan, put together from its slices."""
    mask = np.full(scan.shape, 255, np.uint8)
    target = np.moveaxis(mask, axis, 0)
    for done in sliced(model, scan, axis, **options):
        if done is not None:
            target[done.index] = done.labels
    return mask


def agree(a: np.ndarray, b: np.ndarray) -> bool:
    # Batches of other sizes may be summed in another order, which can flip a voxel.
    return a.shape == b.shape and np.mean(a != b) < 1e-3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.data())
def test_outward_begins_at_the_slice_on_screen(count, data):
    first = data.draw(st.integers(0, count - 1))
    order = outward(first, count)
    assert sorted(order) == list(range(count))
    assert order[0] == first
    distances = [abs(index - first) for index in order]
    assert distances == sorted(distances)


def test_every_slice_comes_once_in_its_own_size_with_the_cards_ids(model, scan):
    done = list(sliced(model, scan, 0))
    assert [slice.index for slice in done] == [0, 1, 2]
    assert all(slice.labels.shape == (41, 53) for slice in done)  # no multiple of the stride
    assert all(slice.labels.dtype == np.uint8 for slice in done)
    assert all((slice.device, slice.notice) == ("cpu", None) for slice in done)
    found = set(np.unique([slice.labels for slice in done]))
    assert found <= {0, 1, 2, 3}
    assert len(found) > 1  # the tests here need an untrained model with several answers


def test_what_the_network_saw_comes_with_each_slice(model, scan):
    slices = [*sliced(model, scan, 1, [3, 7], traced=True), *sliced(model, scan, 1, [7])]
    alone = next(sliced(model, scan, 1, [3], traced=True)).trace
    np.testing.assert_array_equal(slices[0].trace.codes, alone.codes)
    assert (slices[0].trace.entropy != slices[1].trace.entropy).any()
    assert slices[2].trace is None


def test_slices_come_in_the_order_wanted(model, scan):
    assert [done.index for done in sliced(model, scan, 0, [2, 0])] == [2, 0]
    assert [done.index for done in sliced(model, scan, 1, range(40, 30, -3))] == [
        40, 37, 34, 31,
    ]  # fmt: skip
    assert list(sliced(model, scan, 0, [])) == []


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_comes_out_the_same_alone_and_among_others(model, scan, axis):
    mask = whole(model, scan, axis)
    middle = scan.shape[axis] // 2
    (alone,) = sliced(model, scan, axis, [middle])
    assert agree(alone.labels, mask.take(middle, axis))
    assert len(np.unique(mask)) > 1


@pytest.mark.parametrize("axis", [1, 2])
def test_any_axis_is_like_the_first_of_the_scan_turned(model, scan, axis):
    turned = np.ascontiguousarray(np.moveaxis(scan, axis, 0))
    assert agree(np.moveaxis(whole(model, scan, axis), axis, 0), whole(model, turned))


def test_with_four_views_the_answer_turns_with_the_scan(make_model, scan):
    scan = scan[:, :32, :48]  # a multiple of the stride: padding goes to one side only
    model = make_model(views=4)
    upright = whole(model, scan)
    turned = whole(model, np.rot90(scan, axes=(1, 2)))
    assert agree(np.rot90(turned, -1, axes=(1, 2)), upright)
    one_view = make_model()
    assert not agree(
        np.rot90(whole(one_view, np.rot90(scan, axes=(1, 2))), -1, axes=(1, 2)),
        whole(one_view, scan),
    )


def test_with_two_views_a_mirrored_patient_has_the_mirrored_answer(make_model, scan):
    scan = scan[:, :32, :48]
    sides = LabelSet.from_names({4: "left kidney", 2: "spleen", 9: "right kidney"})
    swapped = np.arange(10, dtype=np.uint8)
    swapped[[4, 9]] = 9, 4
    grid = Grid(scan.shape, affine=np.diag([-1.0, -1.0, 3.0, 1.0]), units="mm", oriented=True)

    def answer(model, scan, axis=0):
        done = [one for one in predict_slices(model, scan, grid, axis) if one is not None]
        return np.stack([one.labels for one in done])

    def mirrored(model):
        return swapped[answer(model, scan[:, :, ::-1])][:, :, ::-1]

    model = make_model(sides, oriented=True, slicing="axial", views=2)
    assert len(np.unique(answer(model, scan))) > 2
    assert agree(mirrored(model), answer(model, scan))
    one_view = make_model(sides, oriented=True, slicing="axial")
    assert not agree(mirrored(one_view), answer(one_view, scan))
    # For these, a mirror image does not help.
    odd = LabelSet.from_names({**sides.names, 5: "left adrenal"})
    for labels, axis in ((odd, 0), (sides, 2)):
        one, two = (
            make_model(labels, oriented=True, slicing="axial", views=views) for views in (1, 2)
        )
        assert agree(*(answer(each, scan, axis) for each in (one, two)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 16, 16), (1, 15, 17), (3, 1, 40)])
def test_odd_sizes(model, shape):
    scan = np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)
    for axis in range(3):
        assert (whole(model, scan, axis) < 4).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64, ">i2"])
def test_the_type_of_the_voxels_does_not_matter(model, scan, dtype):
    scaled = (scan // 4).clip(0, 255)
    reference = whole(model, scaled.astype(np.int16))
    assert agree(whole(model, scaled.astype(dtype)), reference)


def test_a_network_of_three_slices_sees_each_amid_its_neighbours(make_model, scan):
    model = make_model(in_channels=3)
    mask = whole(model, scan)
    # A slice has the same answer alone, in another order, and in the whole scan.
    (last,) = sliced(model, scan, 0, [2])
    assert agree(last.labels, mask[2])
    changed = scan.copy()
    changed[2] = changed[2, ::-1]
    again = whole(model, changed)
    assert agree(again[0], mask[0])  # two slices away
    assert not agree(again[1], mask[1])
    # The network is given the slice below, the slice itself and the slice above.
    scaled = normalise(scan, intensity_window(scan))
    window = pad_to_multiple(torch.from_numpy(scaled)[None, [0, 1, 2]], model.network.config.stride)
    with torch.inference_mode():
        expected = model.network(window).logits.argmax(1)[0, :41, :53]
    assert agree(label_lookup(model.card)[expected], mask[1])


def test_a_read_only_scan_in_any_layout_is_left_alone(model, scan):
    stored = np.asfortranarray(scan)
    stored.flags.writeable = False
    assert agree(whole(model, stored), whole(model, scan))


def test_a_constant_scan_holds_nothing(model):
    assert not whole(model, np.full((2, 20, 20), 7)).any()


@pytest.mark.parametrize("value", [0, 100])
def test_a_slice_that_holds_nothing_gets_nothing_of_its_neighbours(make_model, scan, value):
    model, gap = make_model(in_channels=3), scan.copy()
    gap[1] = value
    trace = new_trace(model, gap, Grid(scan.shape), 0)
    mask = segment(model, gap, Grid(scan.shape), 0, trace=trace)
    assert whole(model, scan)[1].any()
    assert not mask[1].any()
    assert mask[0].any()
    # Nor is there any doubt about it.
    assert not trace.entropy[1].any()


def test_a_ct_is_shown_to_models_of_mr_in_a_soft_tissue_window(make_model, scan):
    ct = (scan - scan.mean()) / scan.std() * 80 + 40
    ct[:, :4] = -1000
    ct[:, -1] = 1500
    of_mr, of_ct = (make_model(expects=Expectations(modality=what)) for what in ("MR", "CT"))
    windowed = np.clip(ct, -160, 240)
    # The window of the clipped scan is its whole range.
    assert intensity_window(windowed) == (-160, 240)
    assert agree(whole(of_mr, ct), whole(of_mr, windowed))
    assert not agree(whole(of_ct, ct), whole(of_ct, windowed))
    grid, labels = Grid(ct.shape), np.ones(ct.shape, np.uint8)
    seen, same = (
        CorrectedScan.of(Correction(one, grid, 0, labels, (0,)), of_mr.card)
        for one in (ct, windowed)
    )
    torch.testing.assert_close(seen.image, same.image)


def test_mr_with_values_below_zero_is_no_ct():
    heart = cardiac_phantom(0).image.astype(np.float64)
    heart *= 255 / heart.max()
    z_score = (heart - heart.mean()) / heart.std()
    for mr in (heart - 500, 2 * heart - 500, 8 * heart - 1024, 1000 * z_score):
        assert not is_ct(mr.astype(np.int16))
    assert is_ct(np.where(heart < 40, -1000, heart / 2))


def test_ids_above_255_need_two_bytes(make_model, scan):
    labels = LabelSet.from_names({20: "small", 300: "large"})
    assert label_lookup(make_model(labels).card).tolist() == [0, 20, 300]
    done = next(sliced(make_model(labels), scan, 0))
    assert done.labels.dtype == np.uint16
    assert set(np.unique(done.labels)) <= {0, 20, 300}


def test_batches_hold_as_many_slices_as_the_device_likes(model, scan, calls, monkeypatch):
    monkeypatch.setitem(predict.BATCH_PIXELS, "cpu", 2 * 41 * 53)
    assert [done.ahead for done in sliced(model, scan, 0)] == [1, 0, 0]
    assert calls == [2, 1]
    calls.clear()
    monkeypatch.setitem(predict.BATCH_PIXELS, "cpu", 1)
    list(sliced(model, scan, 0))
    assert calls == [1, 1, 1]


def test_when_memory_is_short_smaller_batches_do(model, scan, monkeypatch):
    wanted = whole(model, scan, 1)
    sizes, compute = [], predict._answers

    def greedy(model, images, *more):
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return compute(model, images, *more)

    monkeypatch.setattr(predict, "_answers", greedy)
    monkeypatch.setitem(predict.BATCH_PIXELS, "cpu", 4 * 3 * 53)
    done = list(sliced(model, scan, 1))
    assert sizes == [4, 2, *[1] * 41]  # the smaller size is kept
    assert [slice.index for slice in done] == list(range(41))
    assert agree(np.stack([slice.labels for slice in done], 1), wanted)
    # One notice, with the slice that came late.
    assert "smaller batches (1)" in done[0].notice
    assert all(slice.notice is None for slice in done[1:])


def test_when_the_gpu_does_not_suffice_the_cpu_does(model, scan, monkeypatch, pretended_gpu):
    wanted, place = whole(model, scan), predict.on_device

    def no_gpu(network, device):
        if device == "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return place(network, device)

    monkeypatch.setattr(predict, "on_device", no_gpu)
    done = list(sliced(model, scan, 0, device="cuda"))
    assert [slice.device for slice in done] == ["cpu"] * 3
    assert "CPU" in done[0].notice
    assert agree(np.stack([slice.labels for slice in done]), wanted)


def test_a_network_is_copied_to_another_device_and_stays_on_its_own(model):
    assert on_device(model.network, "cpu") is model.network
    # A device without memory, which any machine has.
    there = on_device(model.network.requires_grad_(False), "meta")
    tensors = [(*net.parameters(), *net.buffers()) for net in (model.network, there)]
    for own, copied in zip(*tensors, strict=True):
        assert (own.device.type, copied.device.type) == ("cpu", "meta")
        assert (copied.stride(), copied.requires_grad) == (own.stride(), False)


def test_whatever_is_computed_with_a_model_it_is_not_moved(model, scan, monkeypatch):
    moved, move = [], torch.nn.Module.to

    def noted(self, *where, **how):
        moved.append(self)
        return move(self, *where, **how)

    monkeypatch.setattr(torch.nn.Module, "to", noted)
    whole(model, scan)
    labels = np.where(scan > scan.mean(), 1, 0).astype(np.uint8)
    correction = Correction(scan, Grid(scan.shape), 0, labels, (1,))
    for _ in finetune(model, [correction], replace(SCAN, seconds=None, steps=1)):
        pass
    assert model.network not in moved


def test_when_nothing_suffices_the_error_is_passed_on(model, scan, monkeypatch):
    def never(*_):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(predict, "_answers", never)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(sliced(model, scan, 0))


def test_closing_the_generator_cancels(model, scan, calls, monkeypatch):
    monkeypatch.setitem(predict.BATCH_PIXELS, "cpu", 1)
    slices = sliced(model, scan, 0, outward(1, 3))
    assert next(slices).index == 1
    # The caller may train between slices: no mode leaks out of the generator.
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    slices.close()
    assert calls == [1]
    assert list(slices) == []
    assert agree(whole(model, scan), whole(model, scan))  # and the model still works


def test_between_the_views_of_a_slice_there_is_a_moment_to_stop(make_model, scan, monkeypatch):
    monkeypatch.setitem(predict.BATCH_PIXELS, "cpu", 1)
    done = list(sliced(make_model(views=4), scan, 0))
    assert [result is None for result in done] == [True, True, True, False] * 3


@pytest.mark.parametrize(
    ("side", "seen"),
    [
        ((256, 216), (256, 216)),
        ((300, 10), (300, 10)),
        ((500, 400), (250, 200)),
        ((128, 128), (192, 192)),
        ((180, 60), (250, 83)),
    ],
)
def test_slices_of_unusual_size_are_brought_to_a_usual_one(make_model, side, seen):
    assert usual_size(make_model().card, *side) == side
    assert usual_size(make_model(sides=(200, 300)).card, *side) == seen


@pytest.mark.parametrize(
    ("units", "pixel", "seen"),
    [
        ("mm", 3.0, (219, 250)),
        ("mm", 2.0, (210, 240)),
        ("mm", 1.5, (158, 180)),
        ("pixel", 3.0, (158, 180)),
    ],
)
def test_only_large_pixels_are_enlarged_by_more_than_half(make_model, units, pixel, seen):
    card = make_model(sides=(200, 300)).card
    affine = np.diag([pixel, pixel, 9, 1])
    grid = Grid(affine=affine, units=units, shape=(20, 105, 120))
    assert slice_view(card, grid, 0).size == seen


@pytest.mark.parametrize(
    ("units", "pixel", "sides", "seen"),
    [
        ("mm", (2.0, 1.0), None, (210, 120)),
        ("mm", (1.0, 2.0), (200, 300), (105, 240)),
        ("mm", (3.0, 4.5), (200, 300), (146, 250)),  # 105×180, enlarged by 1.39
        ("mm", (1.0, 1.04), None, (105, 120)),
        ("mm", (5.0, 1.0), None, (105, 120)),  # a cut across thick slices
        ("pixel", (2.0, 1.0), None, (105, 120)),
    ],
)
def test_oblong_pixels_are_seen_as_squares(make_model, units, pixel, sides, seen):
    grid = Grid(affine=np.diag([*pixel[::-1], 9, 1]), units=units, shape=(20, 105, 120))
    assert slice_view(make_model(sides=sides).card, grid, 0).size == seen


def test_a_resized_scan_gets_a_mask_of_its_own_size(make_model):
    def drawn(rows: int, columns: int) -> np.ndarray:
        """The same smooth picture at any number of pixels."""
        coarse = torch.rand(3, 1, 7, 9, generator=torch.Generator().manual_seed(0))
        fine = torch.nn.functional.interpolate(coarse, (rows, columns), mode="bicubic")
        return (1000 * fine[:, 0]).to(torch.int16).numpy()

    model, resizing = make_model(), make_model(sides=(46, 60))
    mask = whole(resizing, drawn(82, 106))  # to 53, as the smaller scan is
    assert mask.shape == (3, 82, 106)
    # The same picture at twice the pixels gives the same answer, except at borders.
    same = np.mean(mask[:, ::2, ::2] == whole(model, drawn(41, 53)))
    assert same > 0.75
    assert same > np.mean(whole(model, drawn(82, 106))[:, ::2, ::2] == whole(model, drawn(41, 53)))


def test_the_device_is_chosen_with_a_reason(monkeypatch, one_sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu") == ("cpu", "CPU: chosen")
    device, why = choose_device("auto")
    assert device == "cpu"
    assert "CUDA" in why
    for wanted in ("cuda", "cuda:0", "mps"):
        with pytest.raises(InputError) as error:
            choose_device(wanted)
        one_sentence(error.value)


def test_a_gpu_is_chosen_where_there_is_one(pretended_gpu):
    assert choose_device("auto") == choose_device("cuda") == ("cuda", "GPU: H100")
    assert choose_device("cpu")[0] == "cpu"


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_scripts_are_told_of_devices_that_are_not_there(
    model, model_file, scan, monkeypatch, device
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    labels = np.ones(scan.shape, np.uint8)
    correction = Correction(scan, Grid(scan.shape), 0, labels, (1,))
    for begin in (
        lambda: load_model(model_file, device),
        lambda: segmented(Volume(scan), model, device),
        lambda: next(finetune(model, [correction], device=device)),
    ):
        with pytest.raises(InputError, match="device"):
            begin()


def test_scripts_may_leave_the_device_to_be_chosen(model_file, scan, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = load_model(model_file, "auto")
    chosen = segmented(Volume(scan), model, "auto").masks
    assert np.array_equal(chosen, segmented(Volume(scan), model, "cpu").masks)
