"""The whole network: shapes, size, gradients, and that training and inference agree."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_numbers import code_to_code
from torch import nn

from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import save_model
from l2gnet_core.network.config import (
    ARCHITECTURES,
    PRESETS,
    WITH_CODES,
    NetworkConfig,
    differences,
    preset,
)
from l2gnet_core.network.losses import segmentation_loss
from l2gnet_core.network.model import build
from l2gnet_core.scans.labels import LabelSet

quick = settings(max_examples=8, deadline=None)
pytestmark = pytest.mark.usefixtures("seeded")


def tiny(classes=4, in_channels=1, fused=True):
    network = build(preset("tiny", classes, in_channels))
    if fused:
        # The fusion starts at zero, which would hide the transport.
        nn.init.normal_(network.bottleneck.fusion.weight, std=0.1)
    return network


@quick
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([1, 3]),
    st.integers(2, 6),
    st.booleans(),
)
def test_shapes_for_any_multiple_of_the_stride(batch, rows, columns, channels, classes, training):
    network = tiny(classes, channels).train(training)
    stride = network.config.stride
    assert stride == 16
    height, width = stride * rows, stride * columns
    output = network(torch.rand(batch, channels, height, width))
    assert output.logits.shape == (batch, classes, height, width)
    assert output.codes.shape == (batch, rows, columns)
    assert output.commitment.shape == ()
    count = rows * columns if training else max(len(c.unique()) for c in output.codes)
    assert output.plan.coupling.shape == (batch, count, network.config.references)
    assert torch.isfinite(output.logits).all()


def test_inference_over_codes_equals_training_over_tokens():
    network = tiny()
    network(torch.rand(4, 1, 64, 64))  # starts the codebook
    images = torch.rand(3, 1, 64, 96)
    network.eval()
    with torch.no_grad():
        by_code = network(images)
        network.train()
        # Training mode transports tokens, but the codebook must not move for a comparison.
        network.bottleneck.codebook.eval()
        by_token = network(images)
    assert torch.equal(by_code.codes, by_token.codes)
    scale = by_token.logits.abs().max()
    assert (by_code.logits - by_token.logits).abs().max() <= 1e-5 * scale
    codes = network.config.codes
    plans = [code_to_code(output.plan, codes) for output in (by_code, by_token)]
    assert (plans[0] - plans[1]).abs().max() <= 1e-6
    frequency = torch.stack([torch.bincount(c.flatten(), minlength=codes) for c in by_code.codes])
    assert (plans[0].sum(2) - frequency / by_code.codes[0].numel()).abs().max() <= 1e-6


def test_an_untrained_bottleneck_is_the_identity():
    network = tiny(fused=False).eval()
    image = torch.rand(2, 1, 48, 48)
    features = network.encoder(image)
    assert torch.equal(network(image).logits, network.decoder(features)[0])


def test_an_image_comes_out_the_same_alone_and_in_a_batch():
    network = tiny().eval()
    images = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        together = network(images).logits
        alone = torch.cat([network(image[None]).logits for image in images])
    assert (together - alone).abs().max() <= 1e-5 * together.abs().max()


@pytest.mark.parametrize("name", PRESETS)
def test_no_batch_normalisation(name):
    network = build(preset(name, 4))
    kinds = {type(module).__name__ for module in network.modules()}
    assert not any("BatchNorm" in kind for kind in kinds)
    assert "Normalisation" in kinds


@pytest.mark.parametrize("normalisation", ["instance", "group"])
def test_channels_are_normalised_alone_or_in_groups(normalisation):
    network = build(replace(preset("tiny", 2), widths=(16, 16, 16), normalisation=normalisation))
    features = network.encoder.blocks[0][1](3 * torch.randn(2, 16, 8, 8) + 1)
    together = features.reshape(2, 16 if normalisation == "instance" else 8, -1)
    torch.testing.assert_close(together.mean(-1), torch.zeros(together.shape[:2]))
    deviation = together.std(-1, correction=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=1e-4, atol=1e-4)


def test_small_is_small(tmp_path):
    network = build(preset("small", 4))
    assert sum(p.numel() for p in network.parameters()) < 2_150_000
    card = ModelCard(name="small", labels=LabelSet.from_names({1: "one"}))
    path = save_model(tmp_path / "small.safetensors", network, card)
    assert path.stat().st_size < 12_000_000


def test_beside_the_fusion_the_reference_is_the_only_new_weight():
    network = build(preset("tiny", 4))
    names = {name for name, _ in network.bottleneck.named_parameters()}
    assert names == {"reference", "fusion.weight", "fusion.bias"}
    config = network.config
    assert network.bottleneck.reference.shape == (config.references, config.widths[-1])


def test_gradients_reach_everything_after_one_step():
    network = tiny(fused=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images, target = torch.rand(2, 1, 64, 64), torch.randint(4, (2, 64, 64))
    for _ in range(2):
        # In the first step the fusion is zero, and the reference gets no gradient.
        optimizer.zero_grad()
        segmentation_loss(network(images), target).backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    parts = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert parts == {"encoder", "bottleneck", "decoder"}


def test_the_transport_alone_passes_gradients_to_the_encoder():
    network = tiny()
    channels = network.config.widths[-1]
    with torch.no_grad():
        # Only the second part of [c; g], the result of transport, counts.
        network.bottleneck.fusion.weight[:, :channels] = 0
    features = torch.randn(2, channels, 4, 4, requires_grad=True)
    fused = network.bottleneck(features).features - features
    (gradient,) = torch.autograd.grad(fused.square().sum(), features)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_a_constant_image_gives_finite_numbers(epsilon, training):
    config = NetworkConfig(**{**preset("tiny", 4).__dict__, "epsilon": epsilon})
    network = build(config).train(training)
    nn.init.normal_(network.bottleneck.fusion.weight, std=0.1)
    for value in (0.0, 1.0):
        output = network(torch.full((2, 1, 48, 48), value))
        segmentation_loss(output, torch.zeros(2, 48, 48, dtype=torch.long)).backward()
        assert torch.isfinite(output.logits).all()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_autocast_keeps_the_transport_in_float32(training):
    network = tiny().train(training)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.rand(2, 1, 64, 64))
    assert output.logits.dtype == torch.bfloat16
    assert output.plan.coupling.dtype == torch.float32
    assert output.commitment.dtype == torch.float32
    mass = output.plan.row_mass
    assert (output.plan.coupling.sum(2) - mass).abs().max() <= 1e-6 * mass.max()


def test_the_same_seed_gives_the_same_weights():
    networks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        networks.append(build(preset("tiny", 4)).state_dict())
    one, same, other = networks
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_settings_survive_json():
    for name in PRESETS:
        config = preset(name, 5, in_channels=3)
        assert NetworkConfig.from_json(copy.deepcopy(config.to_json())) == config


def test_one_seed_gives_all_architectures_the_same_body():
    bodies = []
    for architecture in ARCHITECTURES:
        torch.manual_seed(3)
        weights = build(preset("tiny", 4, architecture=architecture, supervised=2)).state_dict()
        own = ("bottleneck", "decoder.gates")
        bodies.append({k: w for k, w in weights.items() if not k.startswith(own)})
    for body in bodies[1:]:
        assert body.keys() == bodies[0].keys()
        assert all(torch.equal(body[name], bodies[0][name]) for name in body)


# "plain": the tokens of earlier models.
@pytest.mark.parametrize(
    ("architecture", "tokens", "drawn"),
    [
        ("vqunet", "normalised", True),
        ("synergynet", "normalised", True),
        ("l2gnet", "normalised", False),
        ("l2gnet", "plain", True),
    ],
)
def test_which_features_are_drawn_to_their_codes(architecture, tokens, drawn):
    network = build(replace(preset("tiny", 4, architecture=architecture), tokens=tokens)).eval()
    assert bool(network(torch.rand(2, 1, 64, 64)).commitment > 0) is drawn


@pytest.mark.parametrize("architecture", WITH_CODES)
def test_smaller_features_are_no_cheaper_to_quantise(architecture):
    bottleneck = build(preset("tiny", 4, architecture=architecture)).bottleneck
    features = torch.randn(2, 32, 6, 6)
    bottleneck(features)
    bottleneck.codebook.eval()
    one, small = (bottleneck(scale * features) for scale in (1.0, 0.1))
    assert torch.equal(one.codes, small.codes)
    torch.testing.assert_close(one.commitment, small.commitment, rtol=1e-2, atol=0)


def test_references_begin_as_codes_and_the_plan_tells_codes_apart():
    torch.manual_seed(0)
    network = build(preset("small", 4))
    features = torch.relu(torch.randn(4, 256, 10, 10) + 1)
    output = network.bottleneck(features)
    vectors = network.bottleneck.codebook.vectors
    reference = network.bottleneck.reference.detach()
    assert torch.cdist(reference, vectors).amin(1).max() < 1.0
    network.eval()
    rows = network.bottleneck(features).plan.coupling.detach()
    rows = rows / rows.sum(-1, keepdim=True).clamp(min=1e-12)
    spread = torch.exp(-(rows * rows.clamp(min=1e-12).log()).sum(-1)).mean()
    assert spread < 0.8 * network.config.references
    assert output.plan.coupling.shape[-1] == network.config.references


def test_gates_keep_their_place_among_the_weights():
    # A saved optimiser knows weights by their order.
    network = build(preset("tiny", 4, architecture="attnunet", supervised=2))
    names = [name for name, _ in network.decoder.named_children()]
    assert names == ["ups", "gates", "blocks", "head", "coarser_heads"]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (preset("base", 3), "--preset base, not tiny"),
        (preset("tiny", 3, 3, "unet"), "--arch unet, not l2gnet, and --slices 3, not 1"),
        (preset("tiny", 5), "structures: 4, not 2"),
        (replace(preset("tiny", 3), codes=7), "--preset of its own, not tiny"),
        (replace(preset("tiny", 3), epsilon=0.5), "settings of another version"),
    ],
)
def test_what_tells_networks_apart_is_said_in_options(other, told):
    assert differences(other, preset("tiny", 3)) == told
