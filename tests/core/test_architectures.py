"""Six architectures: what they share, and that they differ in the bottleneck."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import load_model, save_model
from l2gnet_core.network.bottlenecks import positions
from l2gnet_core.network.config import ARCHITECTURES, WITH_CODES, preset
from l2gnet_core.network.encoder_decoder import AttentionGate
from l2gnet_core.network.losses import segmentation_loss
from l2gnet_core.network.model import build
from l2gnet_core.scans.labels import LabelSet


def make(architecture: str, seed: int = 0):
    torch.manual_seed(seed)
    return build(preset("tiny", classes=3, architecture=architecture))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_size_gives_logits_of_that_size_and_codes_where_there_are_codes(architecture, seeded):
    network = make(architecture).eval()
    with torch.inference_mode():
        output = network(torch.rand(2, 1, 48, 80))
    assert output.logits.shape == (2, 3, 48, 80)
    assert (output.codes is not None) == (architecture in WITH_CODES)
    assert (output.plan is not None) == (architecture == "l2gnet")
    if output.codes is not None:
        assert output.codes.shape == (2, 3, 5)
    assert (network.codebook is not None) == (architecture in WITH_CODES)
    assert (network.reference is not None) == (architecture == "l2gnet")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_learns(architecture, seeded):
    network = make(architecture)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    # The first step moves the fusions that start at zero; the second reaches what is behind them.
    for _ in range(2):
        optimizer.zero_grad()
        output = network(torch.rand(2, 1, 32, 32))
        segmentation_loss(output, torch.randint(3, (2, 32, 32))).backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A bias of the keys shifts all scores of a softmax equally, so its gradient is zero.
        if "in_proj_bias" not in name:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_brings_the_architecture_back(architecture, tmp_path, seeded):
    network = make(architecture).eval()
    card = ModelCard("one", LabelSet.from_names({1: "a", 2: "b"}), architecture=architecture)
    loaded = load_model(save_model(tmp_path / "one.safetensors", network, card))
    assert loaded.network.config.architecture == loaded.card.architecture == architecture
    image = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        # Loaded weights are channels-last, which sums in another order.
        ours, its = network(image).logits, loaded.network(image).logits
    torch.testing.assert_close(its, ours, rtol=1e-3, atol=1e-3)


def test_body_and_its_first_weights_are_the_same_for_all(seeded):
    networks = {name: make(name) for name in ARCHITECTURES}
    for one, other in combinations(networks.values(), 2):
        assert [p.shape for p in one.encoder.parameters()] == [
            p.shape for p in other.encoder.parameters()
        ]
    for network in networks.values():
        for a, b in zip(
            network.encoder.parameters(), networks["unet"].encoder.parameters(), strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("architecture", ["synergynet", "l2gnet"])
def test_untrained_combined_bottlenecks_change_nothing(architecture, seeded):
    network = make(architecture).eval()
    features = torch.rand(2, 32, 3, 4)
    with torch.inference_mode():
        assert torch.equal(network.bottleneck(features).features, features)


def test_vqunet_passes_on_nothing_but_codes(seeded):
    network = make("vqunet").eval()
    with torch.inference_mode():
        output = network.bottleneck(torch.rand(2, 32, 3, 4))
    vectors = network.bottleneck.codebook.vectors
    assert torch.allclose(output.features, vectors[output.codes].permute(0, 3, 1, 2), atol=1e-5)


def test_a_gate_only_weakens_its_skip(seeded):
    gate = AttentionGate(16)
    skip = torch.randn(2, 16, 5, 6)
    gated = gate(skip, torch.randn(2, 16, 5, 6))
    assert (gated.abs() <= skip.abs()).all()
    assert (gated.sign() == skip.sign()).all()


def test_every_place_of_a_map_has_its_own_position():
    places = positions(torch.zeros(1, 32, 7, 9))
    assert places.shape == (63, 32)
    assert torch.cdist(places, places).add(torch.eye(63) * 9).min() > 0.1


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="no architecture 'resnet'"):
        build(preset("tiny", classes=3, architecture="resnet"))
