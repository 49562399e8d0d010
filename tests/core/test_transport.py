"""The invariants of the transport, with POT (Flamary et al., 2021) as oracle."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import ot
import ot.batch
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_numbers import code_to_code

from l2gnet_core.network.transport import (
    TransportPlan,
    cosine_cost,
    sinkhorn,
    transport_codes,
    transport_tokens,
)

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
epsilons = st.sampled_from([0.01, 0.03, 0.1, 0.3, 1.0])
iterations_ = st.integers(1, 12)


def some_codes(seed, batch=2, count=30, codes=12, references=7, channels=6, dtype=torch.float64):
    """A codebook, indices into it (not all of its codes occur), and a reference."""
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randn(codes, channels, generator=generator, dtype=dtype)
    reference = torch.randn(references, channels, generator=generator, dtype=dtype)
    # Squared, so that codes differ in frequency, and images in the number of codes that occur.
    draw = torch.rand(batch, count, generator=generator) ** 2
    spread = torch.linspace(0.3, 1, batch)[:, None] * codes
    return codebook, (draw * spread).long(), reference


def some_cost(seed, rows, references, dtype=torch.float64):
    """Cosine costs (1,rows,references) of random codes, and a mass for each row."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(1, rows, 6, generator=generator, dtype=torch.float64)
    reference = torch.randn(references, 6, generator=generator, dtype=torch.float64)
    mass = torch.rand(1, rows, generator=generator, dtype=torch.float64) + 0.05
    return cosine_cost(codes, reference).to(dtype), (mass / mass.sum()).to(dtype)


def uniform(rows, dtype=torch.float64):
    return torch.full((1, rows), 1 / rows, dtype=dtype)


def doubly_stochastic(plan: TransportPlan) -> torch.Tensor:
    """S = n P diag(1/s) Pᵀ of a plan over tokens."""
    coupling = plan.coupling
    scaled = coupling / coupling.sum(1, keepdim=True)
    return coupling.shape[1] * scaled @ coupling.transpose(1, 2)


@quick
@given(seeds, st.integers(1, 40), st.integers(1, 40), epsilons, iterations_)
def test_rows_are_exact_at_any_number_of_iterations(seed, rows, references, epsilon, iterations):
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        cost, mass = some_cost(seed, rows, references, dtype)
        coupling = sinkhorn(cost, mass, epsilon, iterations)
        assert coupling.dtype == dtype
        assert (coupling >= 0).all()
        assert ((coupling.sum(2) / mass) - 1).abs().max() <= tolerance


@quick
@given(seeds, st.integers(2, 30), st.integers(2, 20), st.sampled_from([0.05, 0.1, 0.5]))
def test_column_residual_falls_with_iterations(seed, rows, references, epsilon):
    cost, mass = some_cost(seed, rows, references)
    residuals = [
        float((sinkhorn(cost, mass, epsilon, n).sum(1) * references - 1).abs().max())
        for n in range(1, 30)
    ]
    # Each sweep averages the columns' ratios, so the largest deviation never grows.
    assert all(b <= a + 1e-12 for a, b in pairwise(residuals))
    assert residuals[-1] < residuals[0] or residuals[0] <= 1e-12


def test_column_residual_vanishes_at_convergence():
    cost, mass = some_cost(0, 30, 8)
    coupling = sinkhorn(cost, mass, 0.1, 2000)
    assert (coupling.sum(1) * 8 - 1).abs().max() < 1e-10


@quick
@given(
    seeds, st.integers(1, 40), st.integers(1, 30), st.sampled_from([0.05, 0.1, 1.0]), iterations_
)
def test_equals_pot_at_equal_iterations(seed, rows, references, epsilon, iterations):
    cost, _ = some_cost(seed, rows, references)
    ours = sinkhorn(cost, uniform(rows), epsilon, iterations)[0]
    theirs = ot.sinkhorn(
        np.full(rows, 1 / rows),
        np.full(references, 1 / references),
        cost[0].numpy(),
        epsilon,
        numItermax=iterations,
        stopThr=0,
        warn=False,
    )
    assert rows * references * np.abs(ours.numpy() - theirs).max() <= 1e-8

    cost32 = cost.float()
    ours32 = sinkhorn(cost32, uniform(rows, torch.float32), epsilon, iterations)[0]
    theirs32 = ot.sinkhorn(
        torch.full((rows,), 1 / rows),
        torch.full((references,), 1 / references),
        cost32[0],
        epsilon,
        numItermax=iterations,
        stopThr=0,
        warn=False,
    )
    assert rows * references * (ours32 - theirs32).abs().max() <= 1e-4
    # Also float32 against the oracle's float64.
    assert rows * references * np.abs(ours32.numpy() - theirs).max() <= 1e-4


@quick
@given(seeds, st.integers(1, 30), st.integers(1, 20), iterations_)
def test_equals_pot_at_equal_iterations_with_unequal_rows(seed, rows, references, iterations):
    cost, mass = some_cost(seed, rows, references)
    ours = sinkhorn(cost, mass, 0.1, iterations)[0].numpy()
    theirs = ot.sinkhorn(
        mass[0].numpy(),
        np.full(references, 1 / references),
        cost[0].numpy(),
        0.1,
        numItermax=iterations,
        stopThr=0,
        warn=False,
        # Ours starts at the row masses, so that codes go with tokens from the first iteration.
        warmstart=(mass[0].log().numpy(), np.zeros(references)),
    )
    assert rows * references * np.abs(ours - theirs).max() <= 1e-8


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pot_at_convergence(seed, epsilon):
    rows, references = 40, 16
    cost, mass = some_cost(seed, rows, references)
    theirs = ot.sinkhorn(
        mass[0].numpy(),
        np.full(references, 1 / references),
        cost[0].numpy(),
        epsilon,
        numItermax=20_000,
        stopThr=1e-13,
    )
    ours = sinkhorn(cost, mass, epsilon, 4000)[0].numpy()
    assert rows * references * np.abs(ours - theirs).max() <= 1e-8
    ours32 = sinkhorn(cost.float(), mass.float(), epsilon, 1000)[0].numpy()
    assert rows * references * np.abs(ours32 - theirs).max() <= 1e-4


@pytest.mark.parametrize("iterations", [1, 8])
def test_equals_pots_batched_solver_and_its_gradient(iterations):
    cost = torch.cat([some_cost(seed, 25, 9)[0] for seed in (0, 1, 2)])
    weight = torch.randn(cost.shape, generator=torch.Generator().manual_seed(0)).double()
    plans, gradients = [], []
    for solve in ("ours", "theirs"):
        leaf = cost.clone().requires_grad_()
        if solve == "ours":
            plan = sinkhorn(leaf, uniform(25).expand(3, -1), 0.1, iterations)
        else:
            # POT's batched solver updates rows first and ends on columns: transposed, it is ours.
            # Its default, grad="envelope", would give the plan no gradient.
            plan = ot.batch.solve_batch(
                leaf.transpose(1, 2),
                0.1,
                max_iter=iterations,
                tol=0,
                method="log_sinkhorn",
                grad="autodiff",
            ).plan.transpose(1, 2)
        (plan * weight).sum().backward()
        plans.append(plan.detach())
        gradients.append(leaf.grad)
    assert 25 * 9 * (plans[0] - plans[1]).abs().max() <= 1e-8
    assert 25 * 9 * (gradients[0] - gradients[1]).abs().max() <= 1e-8


def test_gradient_of_the_coupling_is_right():
    cost, mass = some_cost(3, 5, 4)
    assert torch.autograd.gradcheck(lambda c: sinkhorn(c, mass, 0.2, 5), cost.requires_grad_())


@quick
@given(seeds, st.integers(1, 30), st.integers(1, 12), epsilons, iterations_)
def test_tokens_attend_doubly_stochastically(seed, count, references, epsilon, iterations):
    codebook, codes, reference = some_codes(seed, count=count, references=references)
    tokens = codebook[codes]
    returned, plan = transport_tokens(tokens, codes, reference, epsilon, iterations)
    attention = doubly_stochastic(plan)
    assert (attention - attention.transpose(1, 2)).abs().max() <= 1e-12
    assert (attention.sum(2) - 1).abs().max() <= 1e-10
    assert torch.linalg.eigvalsh(attention).min() >= -1e-10
    assert (returned - attention @ tokens).abs().max() <= 1e-10


@quick
@given(seeds, st.integers(1, 60), st.integers(1, 20), epsilons, iterations_)
def test_codes_give_what_tokens_give(seed, count, references, epsilon, iterations):
    for dtype in (torch.float32, torch.float64):
        # At ε = 0.01 exponents reach 200, which float32 holds to five decimals.
        if dtype == torch.float32 and epsilon < 0.1:
            tolerance = 1e-6 / epsilon
        else:
            tolerance = 1e-5 if dtype == torch.float32 else 1e-11
        codebook, codes, reference = some_codes(
            seed, batch=3, count=count, references=references, dtype=dtype
        )
        arguments = (codes, reference, epsilon, iterations)
        by_token, _ = transport_tokens(codebook[codes], *arguments)
        by_code, plan = transport_codes(codebook, *arguments)
        assert by_code.dtype == dtype
        error = (by_code - by_token).flatten(1).norm(dim=1) / by_token.flatten(1).norm(dim=1)
        assert error.max() <= tolerance
        # Only codes that occur cost anything.
        assert plan.coupling.shape[1] == max(len(image.unique()) for image in codes)


@quick
@given(seeds, st.integers(1, 40), epsilons, iterations_)
def test_code_to_code_plan_is_the_sum_over_tokens(seed, count, epsilon, iterations):
    codebook, codes, reference = some_codes(seed, count=count)
    k = len(codebook)
    _, token_plan = transport_tokens(codebook[codes], codes, reference, epsilon, iterations)
    _, code_plan = transport_codes(codebook, codes, reference, epsilon, iterations)
    attention = doubly_stochastic(token_plan)
    for image in range(len(codes)):
        one_hot = torch.nn.functional.one_hot(codes[image], k).double()
        brute_force = one_hot.T @ attention[image] @ one_hot / count
        frequency = one_hot.mean(0)
        for plan in (token_plan, code_plan):
            between = code_to_code(plan, k)[image]
            assert (between - brute_force).abs().max() <= 1e-12
            assert (between >= 0).all()
            assert (between - between.T).abs().max() <= 1e-14
            assert (between.sum(0) - frequency).abs().max() <= 1e-12
            assert (between.sum(1) - frequency).abs().max() <= 1e-12
            assert between.sum() == pytest.approx(1)


@quick
@given(seeds, st.integers(1, 40))
def test_permuting_tokens_permutes_what_they_get(seed, count):
    codebook, codes, reference = some_codes(seed, count=count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for solve in (
        lambda c: transport_tokens(codebook[c], c, reference, 0.1, 8),
        lambda c: transport_codes(codebook, c, reference, 0.1, 8),
    ):
        returned, plan = solve(codes)
        permuted, permuted_plan = solve(codes[:, order])
        assert (permuted - returned[:, order]).abs().max() <= 1e-12
        ours, theirs = code_to_code(plan, 12), code_to_code(permuted_plan, 12)
        assert (ours - theirs).abs().max() <= 1e-12


def test_codes_and_tokens_agree_in_the_references_gradient():
    codebook, codes, reference = some_codes(5, batch=3)
    gradients = []
    for solve in (
        lambda r: transport_tokens(codebook[codes], codes, r, 0.1, 8),
        lambda r: transport_codes(codebook, codes, r, 0.1, 8),
    ):
        leaf = reference.clone().requires_grad_()
        solve(leaf)[0].square().sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 0
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-10 * gradients[0].abs().max()


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
@pytest.mark.parametrize("content", ["constant", "two codes", "opposite", "zero", "random"])
def test_float32_stays_finite(epsilon, content):
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(64, 16, generator=generator)
    codebook = torch.randn(32, 16, generator=generator)
    codes = torch.randint(32, (2, 100), generator=generator)
    if content == "constant":
        codes = torch.full_like(codes, 7)
    elif content == "two codes":
        # The second image holds one code, so its second row is padding.
        codes = torch.stack([codes[0] % 2, torch.zeros_like(codes[0])])
    elif content == "opposite":
        codebook[:16], codebook[16:] = reference[0], -reference[0]
    elif content == "zero":
        codebook[:] = 0
    for by_code in (False, True):
        leaves = [t.clone().requires_grad_() for t in (codebook, reference)]
        if by_code:
            returned, plan = transport_codes(leaves[0], codes, leaves[1], epsilon, 8)
        else:
            returned, plan = transport_tokens(leaves[0][codes], codes, leaves[1], epsilon, 8)
        returned.square().sum().backward()
        for tensor in (returned, plan.coupling, code_to_code(plan, 32)):
            assert torch.isfinite(tensor).all()
        assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_one_reference_gives_every_token_the_mean_code():
    # Closed form: with R = 1 all mass goes to one reference.
    codebook, codes, _ = some_codes(0)
    returned, _ = transport_tokens(codebook[codes], codes, torch.ones(1, 6).double(), 0.1, 1)
    mean = codebook[codes].mean(1, keepdim=True)
    assert (returned - mean).abs().max() <= 1e-12


def test_images_of_a_batch_do_not_meet():
    codebook, codes, reference = some_codes(0, batch=3)
    together, _ = transport_codes(codebook, codes, reference, 0.1, 8)
    alone = [transport_codes(codebook, one[None], reference, 0.1, 8)[0] for one in codes]
    assert (together - torch.cat(alone)).abs().max() <= 1e-12


@pytest.mark.parametrize("by_code", [False, True])
def test_half_precision_is_left_outside(by_code):
    codebook, codes, reference = some_codes(0, count=49, dtype=torch.float32)

    def solve(codebook):
        if by_code:
            return transport_codes(codebook, codes, reference, 0.1, 8)
        return transport_tokens(codebook[codes], codes, reference, 0.1, 8)

    wanted, _ = solve(codebook)
    with torch.autocast("cpu", torch.bfloat16):
        returned, plan = solve(codebook)
    assert returned.dtype == plan.coupling.dtype == torch.float32
    assert torch.equal(returned, wanted)
    # Tokens in bfloat16 are rounded already, but masses must not be: 1/49 in bfloat16 is off by a
    # thousandth.
    with torch.autocast("cpu", torch.bfloat16):
        _, plan = solve(codebook.bfloat16())
    assert plan.coupling.dtype == plan.row_mass.dtype == torch.float32
    assert (plan.coupling.sum((1, 2)) - 1).abs().max() <= 1e-5
