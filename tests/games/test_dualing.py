"""The discriminator's inner problem and its dual, against scipy, finite differences and nSGDA."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from pcgan_lightning.games import (
    CostLinearization,
    LinearDual,
    ScoredSamples,
    ScoreLinearization,
    binary_entropy,
    linear_problem,
    score_problem,
)
from pcgan_lightning.optim import NSGDA
from pcgan_lightning.spectra import precondition


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_linear(seed):
    """Features of both kinds and C, over the ranges that a user may have."""
    rng = np.random.default_rng(seed)
    n, m, d = (round(2 * math.exp(rng.uniform(0, math.log(high / 2)))) for high in (500, 500, 200))
    real, fake = draw(n, max(1, d - 1), seed=seed) + rng.normal(), draw(m, max(1, d - 1), seed=1000 + seed)
    return real, fake, 10 ** rng.uniform(-3, 3)


def numpy_primal(rows, offsets, weights, center, decay):
    """The primal and its gradient, written out."""

    def primal(s):
        margins = offsets + rows @ s
        value = decay / 2 * ((center + s) @ (center + s)) + weights @ np.logaddexp(0, -margins)
        return value, decay * (center + s) - rows.T @ (weights * np.exp(-np.logaddexp(0, margins)))

    return primal


def solved_by_scipy(real, fake, decay):
    """The minimum over w of linear scores: BFGS, polished by Newton's method."""
    rows = torch.cat([real, -fake]).detach().numpy()
    weights = np.concatenate([np.full(len(x), 0.5 / len(x)) for x in (real, fake)])
    primal = numpy_primal(rows, 0, weights, 0, decay)
    w = minimize(primal, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 10_000}).x
    for _ in range(50):
        s = 1 / (1 + np.exp(np.clip(rows @ w, -700, 700)))
        hessian = decay * np.eye(len(w)) + rows.T @ (rows * (weights * s * (1 - s))[:, None])
        newton = np.linalg.solve(hessian, primal(w)[1])
        length = next(t for t in 0.5 ** np.arange(40) if primal(w - t * newton)[0] <= primal(w)[0] + 1e-15)
        w = w - length * newton
    return w, primal(w)[0]


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 60, 5))])
def test_linear_duality(first):
    """No gap between primal and dual, and w is that of an independent solver: 60 problems."""
    for seed in range(first, first + 5):
        real, fake, decay = random_linear(seed)
        problem = linear_problem(real, fake, decay)
        point, primal = problem.solve()
        assert primal - point.value >= -1e-13 * primal
        assert primal - point.value <= 1e-10 * primal
        w, least = solved_by_scipy(real, fake, decay)
        np.testing.assert_allclose(point.value, least, rtol=1e-10)
        assert np.linalg.norm(point.step.numpy() - w) <= 1e-6 * max(1, np.linalg.norm(w))


def test_dual_is_the_papers_formula():
    """At any lambda, not only at the best one, with 0 <= lambda <= 1/(2n)."""
    real, fake, decay = draw(5, 3, seed=0), draw(4, 3, seed=1), 0.3
    problem, logits = linear_problem(real, fake, decay), draw(9, seed=2)
    dual = torch.cat([logits[:5].sigmoid() / 10, logits[5:].sigmoid() / 8])
    w = (dual[:5] @ real - dual[5:] @ fake) / decay
    u = torch.cat([10 * dual[:5], 8 * dual[5:]])
    entropy = -u * u.log() - (1 - u) * (1 - u).log()
    value = -decay / 2 * w.square().sum() + entropy[:5].sum() / 10 + entropy[5:].sum() / 8
    found = problem.at(logits)
    torch.testing.assert_close(found.step, w)
    torch.testing.assert_close(found.value, value)


def test_entropy_near_its_ends():
    """H(u) is about u (1 + alpha) at alpha = -36 and -700, 0 at the ends, and the same at -alpha; no NaN."""
    logits = torch.tensor([-36.0, -700.0, -math.inf, 0.0], dtype=torch.float64)
    expected = torch.tensor([37 * math.exp(-36), 701 * math.exp(-700), 0.0, math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(binary_entropy(logits), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(binary_entropy(-logits), expected, rtol=1e-12, atol=0)


def test_envelope_theorem():
    """The dual's gradient in G's parameters is that of the solved primal, by a difference quotient of order 4."""
    real, latents, decay = draw(20, 3, seed=0), draw(15, 2, seed=1), 0.05
    theta = draw(2, 3, seed=2).requires_grad_()
    direction, h = draw(2, 3, seed=3), 1e-2

    def solved(t):
        return solved_by_scipy(real, torch.tanh(latents @ (theta + t * direction)).detach() + 1, decay)[1]

    problem = linear_problem(real, torch.tanh(latents @ theta) + 1, decay)
    point, _ = problem.solve(tolerance=0.0)  # the gap is of second order in lambda, and the gradient of first
    (gradient,) = torch.autograd.grad(problem.saddle(point), theta)
    quotients = [(8 * (solved(t) - solved(-t)) - solved(2 * t) + solved(-2 * t)) / (12 * t) for t in (h, h / 2)]
    expected = (16 * quotients[1] - quotients[0]) / 15  # Richardson: the error is of order h^6
    assert -(gradient * direction).sum().item() == pytest.approx(expected, rel=1e-8)


def small_players(seed=0, degree=None):
    torch.manual_seed(seed)
    generator = nn.Linear(2, 3).double()
    discriminator = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    if degree is not None:
        precondition(discriminator, degree, "all")
    return generator, discriminator


def small_scores(generator, discriminator, n=9, m=7):
    return discriminator(draw(n, 3, seed=5) + 1), discriminator(generator(draw(m, 2, seed=6)))


def brute_force(scores, signs, parameters, decay, region):
    """The linearised problem by SLSQP, from each sample's own gradient."""
    gradients = [torch.autograd.grad(score, parameters, retain_graph=True) for score in scores]
    rows = (signs[:, None] * torch.stack([torch.cat([g.flatten() for g in own]) for own in gradients])).numpy()
    center = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    weights = np.where(signs.numpy() > 0, 0.5 / 9, 0.5 / 7)
    primal = numpy_primal(rows, (signs * scores).detach().numpy(), weights, center, decay)
    inside = {"type": "ineq", "fun": lambda s: region - s @ s / 2, "jac": lambda s: -s}
    options = {"maxiter": 2000, "ftol": 1e-16}
    found = minimize(primal, 0 * center, jac=True, method="SLSQP", constraints=[inside], options=options)
    return found.x, found.fun


@pytest.mark.parametrize(("decay", "region", "active"), [(0.1, 1e-2, True), (1e-3, 1.0, True), (0.5, 50.0, False)])
@pytest.mark.parametrize("degree", [None, 3])
def test_score_linearization(decay, region, active, degree):
    """No gap, s in the region and that of a brute-force solver; with PC-layers as well."""
    players = small_players(degree=degree)
    real_scores, fake_scores = small_scores(*players)
    parameters = tuple(players[1].parameters())
    samples = ScoredSamples.of(real_scores, fake_scores)
    problem = score_problem(samples, parameters, decay, region)
    point, primal = problem.solve()
    assert abs(primal - point.value) <= 1e-9 * primal
    assert (point.multiplier > 0) == active
    assert point.step.square().sum() / 2 <= region * (1 + 1e-12)
    if active:
        assert point.step.square().sum().item() / 2 == pytest.approx(region, rel=1e-12)
    s, least = brute_force(samples.scores, samples.signs, parameters, decay, region)
    assert primal.item() == pytest.approx(least, rel=1e-9)
    np.testing.assert_allclose(point.step, s, atol=1e-4 * np.linalg.norm(s))  # SLSQP's own accuracy in s


def test_newton_climbs_and_few_products_do_too():
    """The dual never falls, whatever the budget; the whole budget converges in a few iterations."""
    for products in (0, 1, 3, 1000):
        real_scores, fake_scores = small_scores(*(players := small_players()))
        samples = ScoredSamples.of(real_scores, fake_scores)
        problem = score_problem(samples, tuple(players[1].parameters()), 1e-3, 0.5)
        found = [problem.solve(iterations=k, products=products, tolerance=0.0) for k in (0, 1, 2, 3, 7)]
        values = [point.value.item() for point, _ in found]
        assert all(b >= a - 1e-14 for a, b in pairwise(values))
        assert all(primal >= found[-1].point.value - 1e-14 for _, primal in found)
        assert values[3] > values[0] + 0.1 * (found[0].primal.item() - values[0]), products
    assert found[-1].primal - found[-1].point.value < 1e-13


def test_generator_climbs_the_linearised_dual():
    """By a difference quotient of the dual, solved anew at each point of the generator."""
    players = small_players()
    found = ScoreLinearization(1e-2, 0.05, iterations=50, products=100, tolerance=0.0)(
        *small_scores(*players), *(tuple(player.parameters()) for player in players)
    )
    directions = [draw(*p.shape, seed=9) for p in players[0].parameters()]

    def solved(t):
        moved = copy.deepcopy(players[0])
        for p, d in zip(moved.parameters(), directions, strict=True):
            p.data += t * d
        samples = ScoredSamples.of(*small_scores(moved, players[1]))
        return (
            score_problem(samples, tuple(players[1].parameters()), 1e-2, 0.05).solve(tolerance=0.0).point.value.item()
        )

    quotient = (solved(1e-5) - solved(-1e-5)) / 2e-5  # rounding 1e-16 / 1e-5, error of order 1e-10
    slope = -sum((g * d).sum() for g, d in zip(found.generator, directions, strict=True))
    assert slope.item() == pytest.approx(quotient, rel=1e-7)


def test_linear_dual_is_the_optimum():
    """From wherever w stands; scores that are not linear in w are refused."""
    real, fake, decay = draw(9, 4, seed=0), draw(7, 4, seed=1).requires_grad_(), 0.02
    w = draw(4, seed=2).requires_grad_()
    found = LinearDual(decay, 50, 0.0)(real @ w, fake @ w, [fake], [w])
    optimum, _ = solved_by_scipy(real, fake, decay)
    reached = w.detach() + found.step[0]
    torch.testing.assert_close(reached, torch.from_numpy(optimum), rtol=0, atol=1e-7)  # sqrt(eps / C)
    with pytest.raises(ValueError, match="must have scores that are linear in them for LinearDual, got ones that are"):
        LinearDual()((real @ w).exp(), fake @ w, [fake], [w])


def test_cost_linearization_is_a_step_of_nsgda():
    players = small_players()
    decay, region = 0.03, 0.02
    parameters = tuple(players[1].parameters())
    real_scores, fake_scores = small_scores(*players)
    found = CostLinearization(decay, region)(real_scores, fake_scores, players[0].parameters(), parameters)
    by_hand = copy.deepcopy(players[1])
    real_scores, fake_scores = small_scores(players[0], by_hand)
    softplus = nn.functional.softplus
    losses = softplus(-real_scores).mean() / 2 + softplus(fake_scores).mean() / 2
    whole = losses + decay / 2 * sum(p.square().sum() for p in by_hand.parameters())
    whole.backward(retain_graph=True, inputs=list(by_hand.parameters()))
    climbed = [-torch.autograd.grad(losses, p, retain_graph=True)[0] for p in players[0].parameters()]
    NSGDA(by_hand.parameters(), lr=math.sqrt(2 * region)).step()
    for p, s, expected in zip(parameters, found.step, by_hand.parameters(), strict=True):
        torch.testing.assert_close(p.detach() + s, expected.detach(), rtol=1e-12, atol=1e-12)
    assert found.record["dual/step"].item() == pytest.approx(math.sqrt(2 * region), rel=1e-12)
    assert all(map(torch.allclose, found.generator, climbed))


def nothing():
    return torch.zeros(3, requires_grad=True)


class Once(torch.autograd.Function):
    """x^2, differentiable once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def play(method, real=3, fake=3, generator=True, discriminator=True, function=torch.square):
    x, w = nothing(), nothing()
    scores = function(w[0]) * torch.ones(real), function(w[0]) * x.mean() * torch.ones(fake)
    return method(*scores, [x] if generator else [], [w] if discriminator else [])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_problem(nothing()[:, None], nothing()[:, None], 0.0), "`weight_decay` must be positive, got 0"),
        (lambda: ScoreLinearization(trust_region=-1.0), "argument `trust_region` must be positive, got -1.0"),
        (lambda: CostLinearization(weight_decay=0.0), "argument `weight_decay` must be positive, got 0.0"),
        (lambda: LinearDual(weight_decay=math.nan), "argument `weight_decay` must be positive, got nan"),
        (lambda: LinearDual(weight_decay=math.inf), "argument `weight_decay` must be finite, got inf"),
        (lambda: CostLinearization(trust_region=math.inf), "argument `trust_region` must be finite, got inf"),
        (lambda: LinearDual(iterations=0), "argument `iterations` must be at least 1, got 0"),
        (lambda: linear_problem(torch.zeros(3, 2), torch.zeros(3, 4), 1.0), r"got \(3, 2\) and \(3, 4\)"),
        (lambda: play(ScoreLinearization(), real=1), "argument `real_scores` must hold at least 2 samples, got 1"),
        (lambda: play(CostLinearization(), fake=1), "argument `fake_scores` must hold at least 2 samples, got 1"),
        (
            lambda: play(CostLinearization(), discriminator=False),
            "`discriminator_parameters` must hold .* none",
        ),
        (lambda: play(CostLinearization(), generator=False), "`generator_parameters` must hold tensors .* none"),
        (
            lambda: LinearDual()(nothing().bfloat16(), nothing(), [nothing()], [nothing()]),
            "argument `real_scores` must have at least 32 bits for LinearDual, got torch.bfloat16",
        ),
        (
            lambda: LinearDual()(nothing(), nothing(), [nothing()], [nothing().bfloat16()]),
            "argument `discriminator_parameters` must have at least 32 bits for LinearDual, got torch.bfloat16",
        ),
        (lambda: play(ScoreLinearization(), function=Once.apply), "must be twice differentiable, got a function"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_rounding_in_conjugate_gradients_does_not_end_the_climb():
    torch.manual_seed(0)
    real = torch.randn(64, 256, dtype=torch.float64).cos()
    fake = (torch.randn(64, 3, dtype=torch.float64) @ torch.randn(3, 256, dtype=torch.float64) / 2).cos()
    point, primal = linear_problem(real, fake, weight_decay=1e-4).solve(tolerance=1e-9)
    assert 0 <= primal - point.value <= 1e-9 * primal


def test_features_of_low_precision_are_solved_in_float32():
    torch.manual_seed(0)
    real, fake = torch.randn(8, 5).bfloat16() + 1, torch.randn(6, 5).bfloat16()
    point, primal = linear_problem(real, fake, weight_decay=0.1).solve(tolerance=1e-6)
    assert point.step.dtype == torch.float32
    assert abs(primal - point.value) <= 1e-5 * primal


def test_no_cost_gradient_is_no_step_whatever_the_region():
    w, theta = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    points = torch.randn(4, 3)
    update = CostLinearization(trust_region=20.0)(points @ w, (points + theta) @ w, [theta], [w])
    assert not update.step[0].any()
