"""`l2gnet inspect`: the folder that it writes, as people and other programs read it."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from made_up_traces import new_trace
from matplotlib.image import imread

from l2gnet_core.inspect.codes import code_colors
from l2gnet_core.inspect.page import _table
from l2gnet_core.inspect.report import FILES
from l2gnet_core.models.card import CodeStatistics
from l2gnet_core.models.checkpoint import save_model
from l2gnet_core.network.config import preset
from l2gnet_core.network.model import build
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.phantom import DRAWN
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting.predict import segment

NAMES = LabelSet.from_names({1: '<script>alert("1")</script>', 2: "a & $b$", 5: "_c"})


class Reader(HTMLParser):
    """Tags and text of a page; tags left open, and links out of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.sources, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.sources += [given[key] for key in ("src", "href", "action") if key in given]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def png_size(content: bytes) -> tuple[int, int]:
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


@pytest.fixture
def named(make_model, tmp_path):
    """A model with names that contain markup."""
    model = make_model(NAMES, codes=CodeStatistics((1,) * 32, (0.01, 0.02)))
    card = replace(model.card, name='<b>"tiny"&', data='<i>"&', licence="<u>&")
    path = tmp_path / "models" / "<b>&named.safetensors"
    path.parent.mkdir()
    save_model(path, model.network, card)
    return replace(model, card=card), path


def test_the_folder_holds_a_page_pictures_tables_and_maps(
    l2gnet,
    save_scan,
    scan,
    named,
    tmp_path,
):
    model, path = named
    secret = save_scan(tmp_path / "Jane_Doe_1970.nii.gz", scan, shift=7.0)
    out = tmp_path / "out"
    code, text, err = l2gnet("inspect", secret, "-o", out, "--model", path)
    assert (code, text) == (0, "")
    assert "%" not in err

    trace = new_trace(model, scan, Grid(scan.shape), 0)
    mask = segment(model, scan, Grid(scan.shape), 0, trace=trace)

    stored = nib.load(secret)
    maps = sorted(one.name for one in out.glob("*.nii.gz"))
    assert maps == [
        "codes.nii.gz",
        "plan.nii.gz",
        "references.nii.gz",
        "uncertainty-combined.nii.gz",
        "uncertainty-neighbours.nii.gz",
        "uncertainty-plan.nii.gz",
        "uncertainty-quantisation.nii.gz",
        "uncertainty-softmax.nii.gz",
    ]
    for name in set(maps) - {"plan.nii.gz"}:
        written = nib.load(out / name)
        assert written.shape == stored.shape
        np.testing.assert_array_equal(written.affine, stored.affine)
        for form in ("get_qform", "get_sform"):
            for one, other in zip(
                getattr(written, form)(coded=True), getattr(stored, form)(coded=True), strict=True
            ):
                np.testing.assert_array_equal(one, other)
    codes = np.asarray(nib.load(out / "codes.nii.gz").dataobj).T
    np.testing.assert_array_equal(codes, trace.cells.on_scan(trace.codes) + 1)
    softmax = np.asarray(nib.load(out / "uncertainty-softmax.nii.gz").dataobj).T
    np.testing.assert_array_equal(softmax, trace.entropy)

    # A cell of the plan lies where the voxels of its code do, in mm.
    plan = nib.load(out / "plan.nii.gz")
    rows = np.asarray(plan.dataobj)
    assert rows.shape == (4, 3, 3, 8)
    np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-5)
    into_scan = np.linalg.inv(stored.affine) @ plan.affine
    for cell in np.argwhere(np.ones(rows.shape[:3], bool)):
        voxel = into_scan[:3] @ [*cell, 1]
        x, y, z = np.rint(voxel - 1e-6).astype(int)
        if x < 53 and y < 41:
            code = codes[z, y, x] - 1
            np.testing.assert_array_equal(rows[tuple(cell)], trace.plan_rows[z, code])

    told = json.loads((out / "inspect.json").read_text())
    assert told["model"] == '<b>"tiny"&'
    # As `--axis`, and in the order of shape and box_zyx.
    assert stored.shape[told["slicing_axis"]] == told["shape"][told["slicing_axis_zyx"]] == 3
    assert sum(row["cells"] for row in told["usage"]) == trace.codes.size
    assert len(told["usage"]) + len(told["unused_codes"]) == told["codes"] == 32
    assert sorted(one["slice"] for one in told["check_first"]) == [0, 1, 2]
    # The fit to hearts is not valid for these structures.
    assert set(told["check_first"][0]) == {"slice", "voxels_expected_wrong"}
    first = told["usage"][0]
    assert sum(first["voxels"].values()) == (codes == first["code"]).sum()
    assert first["voxels"]["_c"] == ((codes == first["code"]) & (mask == 5)).sum()
    (z0, z1), (y0, y1), (x0, x1) = first["examples"][0]["box_zyx"]
    assert (codes[z0:z1, y0:y1, x0:x1] == first["code"]).all()
    assert told["percentile_of_training_scans"] in (0, 50, 100)
    matrix = json.loads((out / "plan.json").read_text())
    assert np.sum(matrix["plan"]) == pytest.approx(1, abs=1e-3)
    assert len(matrix["codes"]) == len(told["usage"])

    written = (out / "index.html").read_text(encoding="utf-8")
    page = Reader(written)
    assert page.tags.count("img") == 4
    assert "script" not in page.tags
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    text = "".join(page.text)
    # In the legend, the table of codes, and twice in the table of structures.
    assert text.count('<script>alert("1")</script>') >= 4
    assert 'What <b>"tiny"& saw' in text
    assert 'seen by the model <b>"tiny"& (l2gnet)' in text
    assert "http" not in text
    assert "Dice" not in text
    for name in ("slices", "usage", "plan", "references"):
        width, height = png_size((out / f"{name}.png").read_bytes())
        assert 500 < width < 1600
        assert height > 200
    drawn = np.rint(255 * imread(out / "slices.png")[..., :3])
    for code in np.unique(trace.codes):
        assert (drawn == code_colors(trace.vectors)[code]).all(-1).any()
    for file in out.iterdir():
        assert b"Jane_Doe" not in file.read_bytes()


def test_tables_escape_what_they_hold():
    rows = [['&"', "<b>"], ["1", "2"]]
    assert _table(["<i>", "receives from"], rows) == (
        "<table><tr><th>&lt;i&gt;</th><th class=text>receives from</th></tr>"
        "<tr><td>&amp;&quot;</td><td class=text>&lt;b&gt;</td></tr>"
        "<tr><td>1</td><td class=text>2</td></tr></table>"
    )


def test_dice_is_expected_of_hearts_alone(l2gnet, image, make_model, tmp_path, monkeypatch):
    drawn = dict.fromkeys(("slices", "usage", "plan", "references"), b"")
    monkeypatch.setattr("l2gnet_core.inspect.report.pictures", lambda findings: drawn)
    # With one more taught organ, the mean would include it.
    for names, told in ((DRAWN, True), ([*DRAWN, "aorta"], False)):
        model = make_model(LabelSet.from_names(dict(enumerate(names, 1))))
        path = save_model(tmp_path / "m.safetensors", model.network, model.card)
        assert l2gnet("inspect", image, "-o", tmp_path / "out", "--model", path)[0] == 0
        first = json.loads((tmp_path / "out" / "inspect.json").read_text())["check_first"][0]
        assert ("expected_error" in first) == told
        assert ("xpected Dice" in (tmp_path / "out" / "index.html").read_text()) == told


def test_a_look_is_written_over_and_nothing_stays_of_another_model(
    l2gnet,
    image,
    make_model,
    model_file,
    tmp_path,
):
    card, out, models = make_model().card, tmp_path / "out", [model_file, model_file]
    for architecture in ("vqunet", "synergynet"):
        network = build(preset("tiny", 4, architecture=architecture))
        models.append(save_model(tmp_path / f"{architecture}.safetensors", network, card))
    names, pages = [], []
    for model in models:
        assert l2gnet("inspect", image, "-o", out, "--model", model)[0] == 0
        names.append({file.name for file in out.iterdir()})
        pages.append((out / "index.html").read_bytes())
    # The same results give the same page.
    assert pages[0] == pages[1]
    assert b"cannot be said" in pages[0]
    assert "plan.json" in names[1]
    for left, page in zip(names[2:], pages[2:], strict=True):
        assert {"codes.nii.gz", "index.html", "usage.png"} <= left
        assert not any("plan" in name or "reference" in name for name in left)
        assert b"Transport" not in page


def test_a_look_that_is_broken_off_leaves_nothing_of_an_earlier_one(
    l2gnet, image, model_file, tmp_path, monkeypatch
):
    def stopped(findings):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    out.mkdir()
    for name in FILES:
        (out / name).write_text('{"model": "m", "usage": [], "check_first": []}')
    monkeypatch.setattr("l2gnet_core.inspect.report.pictures", stopped)
    assert l2gnet("inspect", image, "-o", out, "--model", model_file)[0] == 130
    left = {file.name for file in out.iterdir()}
    assert "codes.nii.gz" in left
    assert not any(name.endswith((".html", ".png")) for name in left)


@pytest.mark.parametrize("architecture", ["unet", "transunet"])
def test_models_without_codes_are_refused(
    refused,
    image,
    make_model,
    tmp_path,
    architecture,
):
    network = build(preset("tiny", 4, architecture=architecture))
    path = save_model(tmp_path / "m.safetensors", network, make_model().card)
    out = tmp_path / "out"
    assert architecture in refused("inspect", image, "-o", out, "--model", path)
    assert not out.exists()


def test_one_frame_of_a_series_is_looked_at(
    l2gnet,
    refused,
    save_scan,
    scan,
    model_file,
    tmp_path,
    monkeypatch,
):
    # Pictures take longest, and this test does not need them.
    drawn = dict.fromkeys(("slices", "usage", "plan", "references"), b"")
    monkeypatch.setattr("l2gnet_core.inspect.report.pictures", lambda findings: drawn)
    series = save_scan(tmp_path / "series.nii.gz", np.stack([scan, scan[:, ::-1]]))
    alone = save_scan(tmp_path / "alone.nii.gz", scan[:, ::-1])
    model = ("--model", model_file)
    found = []
    for path, more in ((series, ("--frame", "1")), (alone, ())):
        out = tmp_path / path.stem
        code, _, err = l2gnet("inspect", path, "-o", out, *model, *more)
        assert code == 0
        assert ("frame 1" in err) == bool(more)
        found.append(nib.load(out / "codes.nii.gz"))
    assert found[0].shape == found[1].shape
    np.testing.assert_array_equal(found[0].dataobj, found[1].dataobj)
    assert "0 and 1" in refused("inspect", series, "-o", tmp_path / "x", *model, "--frame", "2")


def test_bad_input_ends_with_two_and_one_line(
    refused,
    image,
    model_file,
    tmp_path,
):
    model = ("--model", model_file)
    assert "is a file" in refused("inspect", image, "-o", image, *model)
    assert "another place than that of scans" in refused(
        "inspect", image, "-o", image.parent, *model
    )
    assert list(image.parent.iterdir()) == [image]
    assert "no.nii" in refused("inspect", tmp_path / "no.nii", "-o", tmp_path / "out", *model)
    assert "three letters" in refused(
        "inspect", image, "-o", tmp_path / "out", *model, "--orientation", "LPX"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["index.html", "plan.json", "inspect.json"])
def test_files_of_others_are_neither_replaced_nor_deleted(
    refused, image, make_model, tmp_path, name
):
    card = make_model().card
    path = save_model(
        tmp_path / "m.safetensors", build(preset("tiny", 4, architecture="vqunet")), card
    )
    mine = tmp_path / "out" / name
    mine.parent.mkdir()
    mine.write_text('{"model": "my study"}')
    assert f"{mine} is there already" in refused(
        "inspect", image, "-o", mine.parent, "--model", path
    )
    assert mine.read_text() == '{"model": "my study"}'
    assert list(mine.parent.iterdir()) == [mine]


def test_scans_of_any_shape_are_drawn(l2gnet, save_scan, model_file, tmp_path):
    rng = np.random.default_rng(0)
    for number, shape in enumerate([(1, 20, 6), (2, 1, 5)]):
        scan = rng.integers(0, 100, shape).astype(np.int16)
        path = save_scan(tmp_path / f"{number}.nii", scan * (number != 1))  # one is black
        out = tmp_path / f"out{number}"
        assert l2gnet("inspect", path, "-o", out, "--model", model_file, "--axis", "2")[0] == 0
        assert (out / "index.html").is_file()
