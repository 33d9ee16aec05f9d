"""Gradients, products and Jacobians of games, against closed forms, finite differences and each other."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from pcgan_lightning.games import Game
from pcgan_lightning.spectra import precondition


def mlp(*widths):
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def small_gan(degree=None):
    """A smooth GAN that is not zero-sum: the generator's loss does not saturate."""
    torch.manual_seed(0)
    generator, discriminator = mlp(2, 4, 3), mlp(3, 5, 1)
    if degree is not None:
        precondition(discriminator, degree, "all")
    latents, real = torch.randn(6, 2).double(), torch.randn(5, 3).double() + 1

    def losses():
        fake = discriminator(generator(latents))
        return softplus(-fake).mean(), softplus(fake).mean() + softplus(-discriminator(real)).mean()

    return Game(losses, list(generator.parameters()), list(discriminator.parameters()))


def slope(game, vector, function):
    """The derivative along a flat vector. Central differences of step h err by h^2 and by rounding / h."""
    values, pieces = [], vector.split([p.numel() for p in game.parameters])
    for step in (1e-5, -2e-5, 1e-5):
        for p, piece in zip(game.parameters, pieces, strict=True):
            p.data += step * piece.view_as(p)
        values.append(function())
    return (values[0] - values[1]) / 2e-5


GAMES = {
    "smooth": small_gan,
    "PC-layers": lambda: small_gan(degree=3),
    "ConOpt": lambda: small_gan().regularized(own=0.7, other=0.7),
    "JARE": lambda: small_gan().regularized(other=3.0),
    "JARE on PC-layers": lambda: small_gan(degree=7).regularized(other=3.0),
}


@pytest.fixture(params=GAMES)
def game(request):
    return GAMES[request.param]()


def test_products_are_those_of_the_matrix_and_of_finite_differences(game):
    matrix, linear = game.jacobian(), game.linearize()
    source = torch.Generator().manual_seed(1)
    for _ in range(2):
        u = torch.randn(game.size, generator=source, dtype=torch.float64)
        jvp, vjp = linear.jvp(u), linear.vjp(u)
        torch.testing.assert_close(jvp, matrix @ u, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(vjp, matrix.T @ u, rtol=1e-10, atol=1e-12)
        assert torch.equal(game.jvp(u), jvp)
        assert torch.equal(game.vjp(u), vjp)
        torch.testing.assert_close(jvp, slope(game, u, game.update_direction), rtol=1e-6, atol=1e-8)
        linear = game.linearize()  # the parameters were moved in place


def test_update_direction_goes_down_both_losses(game):
    """By finite differences of each loss, in its own player's parameters."""
    direction = game.update_direction()
    torch.testing.assert_close(game.linearize().direction, direction, rtol=1e-12, atol=1e-14)
    for player, own in enumerate((slice(0, game.sizes[0]), slice(game.sizes[0], None))):
        u = torch.zeros_like(direction)
        u[own] = torch.randn_like(u[own])
        expected = slope(game, u, lambda: game.losses()[player].item())  # noqa: B023
        assert -(direction @ u).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_bilinear_game():
    """f = x^T B y + x^T C x / 2: v = (-B y - C x, B^T x)."""
    torch.manual_seed(0)
    x, y, b, c = (torch.randn(s, dtype=torch.float64) for s in [(2,), (3,), (2, 3), (2, 2)])
    c = c + c.T
    x, y = x.requires_grad_(), y.requires_grad_()
    game = Game.zero_sum(lambda: x @ b @ y + x @ c @ x / 2, [x], [y])
    assert (game.sizes, game.size) == ((2, 3), 5)
    direction = torch.cat([-b @ y - c @ x, b.T @ x]).detach()
    torch.testing.assert_close(game.update_direction(), direction)
    jacobian = torch.cat([torch.cat([-c, -b], 1), torch.cat([b.T, torch.zeros(3, 3).double()], 1)])
    torch.testing.assert_close(game.jacobian(), jacobian)
    # JARE: + gamma/2 |B^T x|^2 for x, + gamma/2 |B y + C x|^2 for y.
    expected = direction - 3 * torch.cat([b @ b.T @ x, b.T @ (b @ y + c @ x)]).detach()
    torch.testing.assert_close(game.regularized(other=3.0).update_direction(), expected)
    # ConOpt: v - gamma A^T v.
    expected = direction - 3 * jacobian.T @ direction
    torch.testing.assert_close(game.regularized(own=3.0, other=3.0).update_direction(), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_in_the_midst_of_other_modes(mode):
    game = small_gan()
    expected = game.jvp(torch.ones(game.size))
    with mode():
        torch.testing.assert_close(game.jvp(torch.ones(game.size)), expected)


def leaf(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


X, Y, OTHER = leaf(1.5), leaf(2.0), leaf(3.0)


@pytest.mark.parametrize(
    ("losses", "jacobian"),
    [
        (lambda: (X.sum(), (Y - 5).sum()), [[0, 0], [0, 0]]),  # affine
        (lambda: ((X * OTHER).sum(), (Y * OTHER).sum()), [[0, 0], [0, 0]]),  # gradients of other tensors alone
        # Two layers with ReLU are bilinear in their weights between the kinks.
        (lambda: ((X.relu() * Y.relu()).sum(), -(X.relu() * Y.relu()).sum()), [[0, -1], [1, 0]]),
    ],
)
def test_jacobians_that_vanish_in_part(losses, jacobian):
    game = Game(losses, [X], [Y])
    assert game.jacobian().tolist() == jacobian
    assert game.jvp(torch.ones(2)).tolist() == [sum(row) for row in jacobian]


def test_half_a_regulariser():
    """The other player's direction is that without one."""
    x, y = leaf(1.0, 2.0), leaf(1.0, 2.0)
    game = Game.zero_sum(lambda: (x * y).sum(), [x], [y])
    assert game.regularized() is game
    both, half = game.regularized(other=2.0), game.regularized(other=2.0, players="generator")
    assert torch.equal(half.update_direction(), torch.cat([both.update_direction()[:2], game.update_direction()[2:]]))
