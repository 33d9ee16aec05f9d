"""The linear GAN: theorems against autograd, Monte-Carlo Jacobians, and how long games take."""

import math

import numpy as np
import pytest
import torch

from pcgan_lightning.games import (
    LinearGAN,
    best_step_size,
    conditioning_factor,
    conditioning_iterations,
    largest_step_size,
    phase_factor,
    phase_iterations,
)
from pcgan_lightning.games.linear_gan import LinearRun


def random_settings(count):
    """Dimension 1 to 6, sigma in (0.1, 2), ||v|| up to some 4, gamma from 0.03 to 30."""
    source = torch.Generator().manual_seed(0)
    for _ in range(count):
        n = int(torch.randint(1, 7, (), generator=source))
        a, b, c = torch.rand(3, generator=source, dtype=torch.float64).tolist()
        mean = 2 * b * torch.randn(n, generator=source, dtype=torch.float64)
        yield LinearGAN(mean, 0.1 + 1.9 * a), 10 ** (3 * c - 1.5)


def largest_error(found, expected):
    """The largest relative error, each expected value paired with its own found one."""
    found, errors = found.tolist(), []
    for value in expected.tolist():
        nearest = min(found, key=lambda other: abs(other - value))
        found.remove(nearest)
        errors.append(abs(nearest - value) / abs(value))
    assert not found
    return max(errors)


@pytest.mark.parametrize("method", ["SimGD", "JARE", "ConOpt", "own half"])
def test_theorems_1_and_3(method):
    """Eigenvalues of autograd's Jacobian, at 20 random settings."""
    for gan, gamma in random_settings(20):
        own = gamma if method in ("ConOpt", "own half") else 0.0
        other = gamma if method in ("JARE", "ConOpt") else 0.0
        jacobian = gan.game(own, other).jacobian()
        torch.testing.assert_close(jacobian, gan.jacobian(own, other), rtol=1e-11, atol=1e-12)
        assert largest_error(torch.linalg.eigvals(jacobian), gan.eigenvalues(own, other)) < 1e-9


def test_small_eigenvalues_do_not_cancel():
    """The slow one of a pair is 1 / (4 x the fast one), also where it is 1e-9 of it."""
    near, far = LinearGAN(torch.tensor([3e4]), 1.0).eigenvalues().real
    assert (near * far).item() == pytest.approx(0.25, rel=1e-15)
    assert near.item() == pytest.approx(-0.5 / (9e8 + 1), rel=1e-12)


def test_a_batch_is_its_games():
    means, sigmas = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.8, 1.5])
    weights = torch.tensor([[0.0, 1.0, 5.0], [2.0, 0.0, 5.0]])
    gans = LinearGAN(means, sigmas)
    matrices, values = gans.jacobian(weights, 2.0), gans.eigenvalues(weights, 2.0)
    for i in range(2):
        for j in range(3):
            one = LinearGAN(means[i, j], sigmas[j])
            torch.testing.assert_close(matrices[i, j], one.jacobian(weights[i, j], 2.0))
            torch.testing.assert_close(values[i, j], one.eigenvalues(weights[i, j], 2.0))
    found = torch.linalg.eigvals(gans.game(weights, 2.0).jacobian())
    assert largest_error(found, values.flatten()) < 1e-9
    # A batch of weights on one game.
    one = LinearGAN(means[0, 0], 1.0)
    torch.testing.assert_close(one.jacobian(weights[1], 2.0)[2], one.jacobian(5.0, 2.0))
    with pytest.raises(ValueError, match="argument `other` must broadcast to every gradient"):
        one.game(other=weights[1]).update_direction()


@pytest.mark.slow
def test_monte_carlo_converges_at_its_rate():
    """The error of the Jacobian falls with N^-1/2: the slope of root mean squares over 40 draws at four sizes."""
    gan, other = LinearGAN(torch.tensor([1.0, -0.5]), 0.8), 2.0
    exact, sizes = gan.jacobian(other=other), [100, 400, 1600, 6400]
    errors = []
    for size in sizes:
        games = [gan.game(other=other, samples=size, seed=seed) for seed in range(40)]
        errors.append(math.sqrt(np.mean([(game.jacobian() - exact).square().sum().item() for game in games])))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    # Each error is known to 1 / sqrt(2 x 40 x several entries), some 6%; over a factor of 64 that is 0.03 of slope.
    assert slope == pytest.approx(-0.5, abs=0.08)
    assert errors[-1] < 0.1


def test_steps_are_those_of_the_game():
    """play()'s closed form against autograd, on samples and on sigma points, off the equilibrium."""
    gan = LinearGAN(torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.5, -1.0]]), torch.tensor([0.7, 1.2]))
    own, other, step = torch.tensor([0.0, 3.0]), torch.tensor([1.5, 0.7]), torch.tensor([0.1, 0.2])
    for samples in (None, 16):
        run = gan.play(step, 1, own, other, samples, seed=5, offset=0.3)
        game = gan.game(own, other, samples, seed=5)
        for parameter in game.parameters:
            parameter.data += 0.3
        moved = game.update_direction().view(2, 2, 3).transpose(0, 1) * step[:, None, None].double()
        torch.testing.assert_close(run.error[1] - run.error[0], moved, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(run.error[0], torch.full((2, 2, 3), 0.3).double())


def test_what_is_recorded():
    gan = LinearGAN(torch.tensor([[0.0, 2.0], [1.0, 0.5]]), 0.7)
    every, some = gan.play(0.1, 25, samples=4), gan.play(0.1, 25, samples=4, record_every=10)
    assert some.iteration.tolist() == [0, 10, 20, 25]
    assert torch.equal(some.error, every.error[some.iteration])
    assert not torch.equal(every.error, gan.play(0.1, 25, samples=4, seed=1).error)


def test_each_step_draws_its_own_samples():
    """So steps differ, however short they are; on the sigma points they do not."""
    gan = LinearGAN(torch.tensor([0.0, 2.0]), 0.7)
    for samples, different in ((4, True), (None, False)):
        first, second = gan.play(1e-6, 2, samples=samples).error.diff(dim=0)
        assert torch.allclose(first, second, rtol=1e-3) != different


def test_iterations_to_a_solution():
    """From the last moment outside on; never, if that is the last of all or nothing is a number any more."""
    rows = torch.tensor([[4.0, 4.0, 0.1, 4.0], [0.5, 4.0, 0.1, 0.5], [2.0, 4.0, 0.1, 0.5], [0.5, 4.0, 0.1, torch.nan]])
    run = LinearRun(torch.tensor([0, 10, 20, 25]), rows[..., None, None].double())
    assert run.iterations_to(1.0).tolist() == [25, torch.inf, 0, torch.inf]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gans", "factor", "power", "largest", "fewest", "offset"),
    [
        # All eigenvalues complex. The start lies across v, where the slow pair is.
        (
            LinearGAN([0.7, -0.7], torch.logspace(-0.5, -0.15, 6)),
            phase_factor, 2, lambda zeta: 4 / (1 + zeta**2).sqrt(), phase_iterations, 0.01,
        ),
        # All eigenvalues real.
        (
            LinearGAN(torch.logspace(0.2, 0.7, 6)[:, None] * torch.tensor([[0.6, 0.8]]), 1.5),
            conditioning_factor, 1, lambda tau: 4 / tau.sqrt(), conditioning_iterations, 0.001,
        ),
    ],
)  # fmt: skip
def test_corollaries_1_and_2(gans, factor, power, largest, fewest, offset):
    """The nonlinear game takes zeta^2 or tau times as long, at the best step."""
    values = gans.eigenvalues()
    ratios = factor(values)
    torch.testing.assert_close(largest_step_size(values), largest(ratios))
    assert ratios.max() / ratios.min() > 4
    run = gans.play(best_step_size(values), 8000, offset=offset)
    counts = run.iterations_to(run.distance()[0, 0].item() * 1e-3)
    assert np.polyfit(ratios.log().numpy(), counts.log().numpy(), 1)[0] == pytest.approx(power, abs=0.1)
    # The constant in front of the error is not known; it shifts the count by some log 2.
    assert ((counts / fewest(ratios, 1e3) - 1).abs() < 0.15).all()


@pytest.mark.slow
def test_steps_just_above_the_bound_diverge():
    gans = LinearGAN(torch.tensor([[0.3, 0.4], [2.0, 1.0]]), 0.8)
    bound = largest_step_size(gans.eigenvalues(other=1.0))
    for factor, within in ((0.97, True), (1.03, False)):
        distance = gans.play(factor * bound, 2000, other=1.0, offset=1e-4).distance()
        assert ((distance[-1] < distance[0]) == within).all()
