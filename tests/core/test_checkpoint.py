"""Model files: nothing is lost, no code runs, and other files are refused in one sentence."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from l2gnet_core.errors import InputError, OutputError
from l2gnet_core.models.card import CodeStatistics, Expectations, ModelCard
from l2gnet_core.models.catalog import find_model, models, odd_models, user_folder
from l2gnet_core.models.checkpoint import FORMAT, MODEL_FILE, load_model, read_card, save_model
from l2gnet_core.models.weights import model_hash
from l2gnet_core.preprocessing import appearance
from l2gnet_core.preprocessing.scan_kind import KindAppearance, ScanKind
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import Label, LabelSet

CARD = ModelCard(
    name="heart",
    labels=LabelSet((Label(1, "rechter Ventrikel – größer", "#112233"), Label(7, "LV", "#445566"))),
    slicing="axial",
    views=4,
    oriented=True,
    spacing=(3.0, 0.9, 1.1),
    clean_up=CleanUp(largest_piece=True),
    summary="A heart.",
    data="ACDC",
    licence="CC BY-NC-SA 4.0",
    citation="Somebody 2020",
    expects=Expectations("MR", (0.7, 2.5), None, {"LV": (20.0, 400.0)}),
    split={"train": ["a", "b"], "tuning": ["c"], "test": ["d"]},
    training={"steps": 3, "settings": {"scale": [0.6, 1.6]}},
    scores={"LV": {"dice": 0.9, "hd95": 3.0}},
    weaknesses=("Apex.", "Base."),
    codes=CodeStatistics((3, 0, 5), (0.1, 0.25)),
)


HEAD = "decoder.head.weight"


def metadata_of(content: bytes) -> dict[str, str]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])["__metadata__"]


def test_a_card_survives_json_and_a_file(tmp_path, make_model):
    assert ModelCard.from_json(json.loads(json.dumps(CARD.to_json()))) == CARD
    path = save_model(tmp_path / "heart.safetensors", make_model().network, CARD)
    assert read_card(path) == CARD
    values = {**CARD.to_json(), "codes": None}
    assert ModelCard.from_json(values).codes is None
    del values["appearance"]
    with pytest.raises(KeyError, match="appearance"):
        ModelCard.from_json(values)


@pytest.mark.parametrize("spacing", [[1, 2], [1, 2, 0], [1, -2, 3], [1, 2, "x"], 3, [1, 2, 1e999]])
def test_cards_with_senseless_voxel_sizes_are_refused(spacing, tmp_path, make_model, one_sentence):
    card = replace(CARD, spacing=spacing)
    with pytest.raises(InputError) as error:
        save_model(tmp_path / "m.safetensors", make_model().network, card)
    one_sentence(error.value)


def test_a_model_survives_a_file(tmp_path, make_model):
    model = make_model()
    for index in range(2):  # the second overwrites the first
        path = save_model(tmp_path / MODEL_FILE, model.network, model.card)
        for at in (path, tmp_path):  # the file, and the folder of a run
            loaded = load_model(at)
            assert not loaded.network.training
            assert loaded.card == model.card
            assert loaded.network.config == model.network.config
            state = model.network.state_dict()
            for name, tensor in loaded.network.state_dict().items():
                assert torch.equal(tensor, state[name]), (index, name)
    image = torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        assert torch.equal(loaded.network(image).codes, model.network(image).codes)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL_FILE]  # nothing left beside it


def test_paths_may_be_text(tmp_path, make_model, one_sentence):
    model, path = make_model(), str(tmp_path / "heart.safetensors")
    assert str(save_model(path, model.network, model.card)) == path
    assert load_model(path).card == model.card
    # A model's name is no path.
    with pytest.raises(InputError, match=r"catalog\.find_model") as error:
        load_model("cardiac-cine")
    one_sentence(error.value)


def test_a_model_file_is_plain_safetensors(model_file):
    content = model_file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert header["__metadata__"]["format"] == FORMAT
    # A pickle would start with its own bytes, and safetensors cannot contain one.
    assert set(header.pop("__metadata__")) == {"format", "network", "card", "weights_sha256"}
    assert {entry["dtype"] for entry in header.values()} <= {"F32", "BOOL", "I64"}


def damaged(model_file, tmp_path):
    """Files that are no models, by their defect."""
    content = model_file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])

    def with_header(header) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    def with_metadata(**changes) -> bytes:
        metadata = {**header["__metadata__"], **changes}
        return with_header(
            {**header, "__metadata__": {k: v for k, v in metadata.items() if v is not None}}
        )

    card, network = (json.loads(header["__metadata__"][key]) for key in ("card", "network"))
    yield "empty", b""
    yield "short", content[:5]
    yield "header cut", content[: 8 + length // 2]
    yield "huge header", struct.pack("<Q", 2**63) + content[8:]
    yield "text", b"These are not the weights you are looking for."
    yield "pickle", b"\x80\x04\x95" + b"\x00" * 100
    yield "header is a list", with_header([1, 2])
    yield "no metadata", with_header({**header, "__metadata__": None})
    yield "foreign format", with_metadata(format="pt")
    yield "format of the future", with_metadata(format="l2gnet-2")
    yield "no card", with_metadata(card=None)
    yield "no network", with_metadata(network=None)
    yield "card no JSON", with_metadata(card="{")
    yield "card a list", with_metadata(card="[]")
    yield "card too deep", with_metadata(card="[" * 100_000)
    yield "card of the future", with_metadata(card=json.dumps({**card, "aura": "blue"}))
    yield "network of the future", with_metadata(network=json.dumps({**network, "heads": 8}))
    for name, value in (
        ("architecture", "l2gnet2"),
        ("normalisation", "batch"),
        ("tokens", "whitened"),
        ("widths", [8, "8", 16, 16, 32]),
        ("widths", 8),
        ("codes", -1),
        ("references", 2.5),
        ("supervised", "1"),
        ("epsilon", 0),
    ):
        other = json.dumps({**network, name: value})
        yield f"{name} of the future {value}", with_metadata(network=other)


def test_whatever_is_no_model_is_refused_in_one_sentence(model_file, tmp_path, one_sentence):
    for what, content in damaged(model_file, tmp_path):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        for read in (read_card, load_model):
            try:
                read(path)
            except InputError as error:
                one_sentence(error)
            else:
                pytest.fail(f"{what} was read by {read.__name__}")


def test_what_cannot_be_opened_or_is_newer_is_no_foreign_file(model_file, one_sentence):
    content = model_file.read_bytes()
    newer = content.replace(b'"format":"' + FORMAT.encode(), b'"format":"l2gnet-2')
    assert newer != content
    model_file.write_bytes(newer)
    for path, says in (
        (model_file, "has l2gnet-2; update"),
        (model_file.parent, "cannot be opened"),
    ):
        with pytest.raises(InputError, match=says) as error:
            read_card(path)
        one_sentence(error.value)


def test_truncated_or_foreign_weights_are_refused(model_file, tmp_path, one_sentence):
    content = model_file.read_bytes()
    path = tmp_path / "bad.safetensors"
    (length,) = struct.unpack("<Q", content[:8])
    metadata = metadata_of(content)
    for cut in (len(content) - 1, len(content) // 2, 8 + length):
        path.write_bytes(content[:cut])
        assert read_card(path).name == "tiny"  # the card is complete, the weights are not
        with pytest.raises(InputError, match="weights") as error:
            load_model(path)
        one_sentence(error.value)
    # Widths that are no multiple of eight groups.
    network = {**json.loads(metadata["network"]), "normalisation": "group", "widths": [9, 9]}
    save_file({}, path, {**metadata, "network": json.dumps(network)})
    with pytest.raises(InputError, match="weights"):
        load_model(path)
    # Complete weights of another network.
    save_file({HEAD: torch.zeros(2, 2)}, path, metadata)
    with pytest.raises(InputError, match="weights"):
        load_model(path)


def test_a_file_is_not_kept_mapped_while_an_error_is_shown(model_file, mapped_files):
    # Windows would refuse to replace it, although the sentence asks for that.
    metadata = metadata_of(model_file.read_bytes())
    save_file({HEAD: torch.zeros(2, 2)}, model_file, metadata)
    with pytest.raises(InputError, match="copy or download the file again") as error:
        load_model(model_file)
    assert str(model_file) not in mapped_files()
    assert error.value.__traceback__ is not None


def test_weights_that_are_not_as_saved_are_refused(model_file, make_model, one_sentence):
    whole = model_file.read_bytes()
    # As after a broken download: the right length, with a hole.
    at = len(whole) * 3 // 4
    model_file.write_bytes(whole[:at] + bytes(256) + whole[at + 256 :])
    with pytest.raises(InputError, match="as they were saved") as error:
        load_model(model_file)
    one_sentence(error.value)
    # Nor are weights without a hash.
    metadata = metadata_of(whole)
    del metadata["weights_sha256"]
    weights = make_model().network.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, model_file, metadata)
    with pytest.raises(InputError, match="as they were saved"):
        load_model(model_file)


def test_weights_that_are_no_numbers_are_refused(model_file, make_model, one_sentence):
    model = make_model()
    with torch.no_grad():
        model.network.decoder.head.weight[0] = torch.nan
    with pytest.raises(InputError, match="finite weights") as error:
        load_model(save_model(model_file, model.network, model.card))
    one_sentence(error.value)


def test_models_that_are_shipped_in_half_precision_are_whole(model_file, make_model):
    model = make_model()
    save_model(model_file, model.network.half(), model.card)
    assert load_model(model_file).network.state_dict()[HEAD].dtype == torch.float32


@dataclass(frozen=True)
class Appearance(appearance.Appearance):
    """As a later version may have it, under the same name."""

    sharpness: float = 0.0


@pytest.mark.parametrize("kind", [appearance.Appearance, Appearance])
def test_the_hash_of_a_model_never_changes(make_model, kind):
    """Projects find their models by it."""
    quantiles, logarithms = (0.1, 0.2, 0.3, 0.4), (-1.5, 0.0)
    like_these = ScanKind(quantiles + logarithms, (0.2, 0.3, 0.4, 0.5, -1.0, 0.25))
    known = KindAppearance(like_these, kind(0.6, zoom=2**0.5))
    model = make_model(appearance=kind(1 / 0.6, 1.0), kinds=(known,))
    assert model_hash(model, "ab" * 32) == (
        "2a8303630606296c20d92210a95a9b83fdb23ee24b2720b5158e1b9332484195"
    )


def test_whatever_decides_how_scans_are_shown_counts_in_the_hash(make_model):
    model, shown, ends = make_model(), appearance.Appearance(0.6), (0.0,) * 6
    known = KindAppearance(ScanKind(ends, ends), shown)
    shows = [replace(shown, **{one.name: 1.5}) for one in fields(shown)]
    kinds = [replace(known.kind, **{one.name: (*ends[1:], 9.0)}) for one in fields(known.kind)]
    cards = [
        *({"appearance": one} for one in (shown, *shows)),
        *({"kinds": (replace(known, appearance=one),)} for one in (shown, *shows)),
        *({"kinds": (replace(known, kind=one),)} for one in kinds),
        {"kinds": (known, known)},
    ]
    models = [replace(model, card=replace(model.card, **values)) for values in cards]
    assert len({model_hash(one, "ab" * 32) for one in models}) == len(cards)


def test_missing_models_are_refused(tmp_path, one_sentence):
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(InputError, match=r"model\.safetensors") as error:
            load_model(path)
        one_sentence(error.value)
    with pytest.raises(InputError):
        read_card(tmp_path)


def test_a_failed_save_leaves_the_old_model(model_file, make_model):
    before = model_file.read_bytes()
    unsaveable = ModelCard(name="x", labels=CARD.labels, training={"steps": np.float32(1)})
    with pytest.raises(TypeError):
        save_model(model_file, make_model().network, unsaveable)
    assert model_file.read_bytes() == before
    with pytest.raises(OutputError):
        save_model(model_file.parent / "nowhere" / "m.safetensors", make_model().network, CARD)


def test_reading_cards_imports_no_torch(model_file, run_python, monkeypatch):
    monkeypatch.setenv("L2GNET_MODELS", str(model_file.parent))
    code = (
        "import sys; from pathlib import Path\n"
        "from l2gnet_core.models.checkpoint import read_card\n"
        "from l2gnet_core.models.catalog import models\n"
        f"assert read_card(Path({str(model_file)!r})).name == 'tiny'\n"
        "assert 'model' in [entry.name for entry in models()]\n"
        "print(sorted({'torch', 'safetensors', 'nibabel', 'napari'} & set(sys.modules)))"
    )
    result = run_python("-c", code)
    assert result.stderr == ""
    assert result.stdout.strip() == "[]"


def test_the_catalog_lists_what_is_readable_and_finds_by_name(
    model_file, tmp_path, monkeypatch, one_sentence
):
    monkeypatch.setenv("L2GNET_MODELS", str(model_file.parent))
    assert user_folder() == model_file.parent
    for what, content in damaged(model_file, tmp_path):
        (model_file.parent / f"{what}.safetensors").write_bytes(content)
    (model_file.parent / "._model.safetensors").write_bytes(b"What macOS leaves beside a file.")
    mine = [entry for entry in models() if not entry.bundled]
    assert [entry.name for entry in mine] == ["model"]
    # A file that is left out is reported, in the same words as if it is asked for.
    odd = odd_models()
    assert len(odd) == len(list(damaged(model_file, tmp_path)))
    with pytest.raises(InputError) as error:
        load_model(find_model("card no JSON"))
    assert str(error.value) in odd
    assert mine[0].card.labels.names[2] == "myocardium"
    assert find_model("model") == model_file
    assert find_model(str(model_file)) == model_file
    assert find_model(str(model_file.parent)) == model_file
    with pytest.raises(InputError, match=r"'liver'.*model") as error:
        find_model("liver")
    one_sentence(error.value)
