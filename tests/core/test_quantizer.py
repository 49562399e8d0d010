"""The codebook: nearest codes, straight-through gradient, moving average, restarts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core.inspect.codes import perplexity
from l2gnet_core.network.quantizer import Codebook

quick = settings(max_examples=20, deadline=None)
pytestmark = pytest.mark.usefixtures("seeded")


def started_codebook(codes=6, channels=4, decay=0.9, dead_share=0.0) -> Codebook:
    """A codebook after its first batch; without restarts by default."""
    codebook = Codebook(codes, channels, decay)
    codebook.started.fill_(True)
    codebook.dead_share = dead_share
    return codebook


@quick
@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 30), st.integers(1, 8))
def test_nearest_code_is_the_brute_force_one(seed, count, codes, channels):
    torch.manual_seed(seed)
    codebook, tokens = Codebook(codes, channels), torch.randn(2, count, channels)
    distances = (tokens[:, :, None] - codebook.vectors).square().sum(-1)
    chosen = distances.gather(-1, codebook.nearest(tokens)[..., None])[..., 0]
    # Distances are compared, not indices: two codes may be equally near.
    assert (chosen - distances.amin(-1)).abs().max() <= 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_tokens_come_out_as_codes_with_the_gradient_passed_straight_through(training):
    codebook = started_codebook().train(training)
    vectors = codebook.vectors.clone()
    tokens = torch.randn(2, 9, 4, requires_grad=True)
    quantized = codebook(tokens)
    assert quantized.codes.shape == (2, 9)
    assert torch.allclose(quantized.tokens, vectors[quantized.codes], atol=1e-6)
    weight = torch.randn(2, 9, 4)
    (gradient,) = torch.autograd.grad((quantized.tokens * weight).sum(), tokens)
    assert torch.equal(gradient, weight)


def test_commitment_is_the_mean_squared_distance_and_pulls_tokens_only():
    codebook = started_codebook().eval()
    tokens = torch.randn(2, 9, 4, requires_grad=True)
    quantized = codebook(tokens)
    away = tokens - codebook.vectors[quantized.codes]
    assert torch.allclose(quantized.commitment, away.square().mean())
    quantized.commitment.backward()
    assert torch.allclose(tokens.grad, 2 * away.detach() / away.numel())
    assert not list(codebook.parameters())  # moved by the average, not by the optimiser


def test_codebook_follows_the_moving_average():
    codebook = started_codebook(decay=0.9)
    codebook.counts.uniform_(1, 2)
    counts, sums = codebook.counts.clone(), codebook.sums.clone()
    tokens = torch.randn(3, 20, 4)
    codes = codebook(tokens).codes
    for code in range(6):
        mine = tokens[codes == code]
        count = 0.9 * counts[code] + 0.1 * len(mine)
        total = 0.9 * sums[code] + 0.1 * mine.sum(0)
        assert torch.allclose(codebook.counts[code], count, atol=1e-6)
        assert torch.allclose(codebook.sums[code], total, atol=1e-5)
        assert torch.allclose(codebook.vectors[code], total / count, atol=1e-5)


def test_a_code_converges_to_the_mean_of_its_tokens():
    codebook = started_codebook(codes=2, channels=1, decay=0.5)
    codebook.vectors.copy_(torch.tensor([[-1.0], [1.0]]))
    codebook.sums.copy_(codebook.vectors)
    for _ in range(40):
        codebook(torch.tensor([[[-3.0], [-2.0], [4.0]]]))
    assert codebook.vectors.flatten().tolist() == pytest.approx([-2.5, 4.0], abs=1e-4)


def test_first_batch_starts_every_code_at_a_token():
    codebook = Codebook(8, 4)
    codebook.dead_share = 0.0
    tokens = torch.randn(2, 30, 4) + 50
    assert not codebook.started
    codebook(tokens)
    assert codebook.started
    # After one step of the average, each code still lies among the tokens.
    assert (codebook.vectors - 50).abs().max() < 6


@pytest.mark.parametrize(("count", "distinct"), [(6, 6), (40, 12)])
def test_no_two_codes_start_at_the_same_token_while_there_are_others(count, distinct):
    codebook = Codebook(count, 4)
    codebook._start(torch.randn(2, 6, 4))
    assert len(codebook.vectors.unique(dim=0)) == distinct


def test_dead_codes_are_revived_at_tokens():
    codebook = started_codebook(dead_share=0.02)
    codebook.vectors[2] = 1000.0
    codebook.sums[2] = 1000.0 * 1e-6
    codebook.counts[2] = 1e-6
    tokens = torch.randn(2, 40, 4)
    codebook(tokens)
    distance = (tokens.flatten(0, 1) - codebook.vectors[2]).norm(dim=1).min()
    assert distance < 1e-4
    assert codebook.counts[2] > 0.02 * codebook.counts.mean()  # it is not dead again at once
    assert torch.isfinite(codebook.vectors).all()


def test_a_healthy_run_uses_most_codes():
    codebook = Codebook(32, 4, decay=0.9)
    tokens = torch.randn(8, 64, 4)
    for _ in range(60):
        codes = codebook(tokens[torch.randperm(8)[:4]]).codes
    assert perplexity(codes.flatten().bincount().numpy()) > 16


def test_evaluation_changes_nothing():
    codebook = Codebook(6, 4).eval()
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook(torch.randn(2, 30, 4))
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())


def test_autocast_does_not_reach_the_codebook():
    codebook = started_codebook().eval()
    tokens = torch.randn(1, 20, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = codebook(tokens)
    outside = codebook(tokens)
    assert inside.tokens.dtype == inside.commitment.dtype == torch.float32
    assert torch.equal(inside.tokens, outside.tokens)
