"""Gradients, products and Jacobians of games, against closed forms, finite differences and each other."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid, scaled_dot_product_attention, softplus

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


def moved(game, vector, function):
    """Evaluate after a step along a flat vector, and step back."""
    pieces = vector.split([p.numel() for p in game.parameters])
    kept = [p.detach().clone() for p in game.parameters]
    for p, piece in zip(game.parameters, pieces, strict=True):
        p.data += piece.view_as(p)
    result = function()
    for p, before in zip(game.parameters, kept, strict=True):
        p.data.copy_(before)
    return result


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
    assert matrix.shape == (game.size, game.size)
    source = torch.Generator().manual_seed(1)
    for _ in range(3):
        u = torch.randn(game.size, generator=source, dtype=torch.float64)
        torch.testing.assert_close(linear.jvp(u), matrix @ u, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(linear.vjp(u), matrix.T @ u, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(game.jvp(u), linear.jvp(u), rtol=0, atol=0)
        torch.testing.assert_close(game.vjp(u), linear.vjp(u), rtol=0, atol=0)
        above, below = (moved(game, h * u, game.update_direction) for h in (1e-5, -1e-5))
        # Central differences of step h err by h^2 and by rounding / h.
        torch.testing.assert_close(linear.jvp(u), (above - below) / 2e-5, rtol=1e-6, atol=1e-8)


def test_update_direction_goes_down_both_losses(game):
    """By finite differences of each loss, in its own player's parameters."""
    direction = game.update_direction()
    torch.testing.assert_close(game.linearize().direction, direction, rtol=1e-12, atol=1e-14)
    source = torch.Generator().manual_seed(1)
    for player in range(2):
        u = torch.randn(game.size, generator=source, dtype=torch.float64)
        u[game.sizes[0] :] *= player
        u[: game.sizes[0]] *= 1 - player
        above, below = (moved(game, h * u, lambda: game.losses()[player].item()) for h in (1e-5, -1e-5))  # noqa: B023
        assert -(direction @ u).item() == pytest.approx((above - below) / 2e-5, rel=1e-6, abs=1e-9)


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


def test_in_the_midst_of_no_grad_and_inference():
    game = small_gan()
    expected = game.jvp(torch.ones(game.size))
    with torch.no_grad():
        torch.testing.assert_close(game.jvp(torch.ones(game.size)), expected)
    with torch.inference_mode():
        torch.testing.assert_close(game.jvp(torch.ones(game.size)), expected)


def leaf(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_affine_losses_have_a_jacobian_of_zero():
    x, y = leaf(1.0, 2.0), leaf(3.0)
    game = Game(lambda: (x.sum(), (y - 5).sum()), [x], [y])
    assert not game.jacobian().any()
    assert not game.jvp(torch.ones(3)).any()


def test_a_piecewise_linear_network_has_derivatives():
    """Two layers with ReLU are bilinear in their weights between the kinks."""
    x, y = leaf(1.5), leaf(2.0)
    game = Game.zero_sum(lambda: (x.relu() * y.relu()).sum(), [x], [y])
    assert game.jacobian().tolist() == [[0, -1], [1, 0]]


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class Detached(OnceDifferentiable):
    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0].detach() ** 2 * gradient


def test_losses_without_second_derivatives():
    x, y = leaf(1.0), leaf(2.0)
    game = Game.zero_sum(lambda: OnceDifferentiable.apply(x).sum() * y.sum(), [x], [y])
    for product in (game.jvp, game.vjp):
        with pytest.raises(ValueError, match="argument `losses` must be twice differentiable, got a function marked"):
            product(torch.ones(2))
    # Flash attention, which torch takes on a CPU too, has no second derivative.
    q = torch.randn(1, 1, 8, 4, dtype=torch.float64, requires_grad=True)
    game = Game.zero_sum(lambda: (scaled_dot_product_attention(q, q, q).square() * y).sum(), [q], [y])
    with pytest.raises(ValueError, match=r"argument `losses` must be twice differentiable, got derivative for .* not"):
        game.jvp(torch.ones(33))
    game = Game(lambda: ((x**2).sum(), Detached.apply(y).sum()), [x], [y])
    with pytest.raises(ValueError, match="got a gradient of the discriminator's parameter number 0 that changes with"):
        game.jacobian()
    assert (x.item(), y.item()) == (1.0, 2.0)  # it looked around, and came back
    # One constant gradient beside one that is not: the graph survives the look around.
    assert Game(lambda: ((x**2).sum(), y.sum()), [x], [y]).jacobian().tolist() == [[-2, 0], [0, 0]]


def test_too_large_a_game():
    def losses():
        raise AssertionError("nothing may be computed")

    x = torch.zeros(60_000, requires_grad=True)
    game = Game(losses, [x], [torch.zeros(60_000, requires_grad=True)])
    message = "at least the game's 120,000 parameters, got 4,096; the Jacobian would take 57.6 GB"
    with pytest.raises(ValueError, match=message):
        game.jacobian()
    with pytest.raises(ValueError, match=r"3 parameters, got 2; the Jacobian would take 0.0 MB"):
        Game(losses, [leaf(1.0)], [leaf(1.0, 2.0)]).jacobian(max_parameters=2)


X, Y, UNUSED = leaf(1.0), leaf(2.0), torch.zeros(2, 3, requires_grad=True)


@pytest.mark.parametrize(
    ("losses", "generator", "discriminator", "message"),
    [
        (lambda: (X.sum(), Y.sum()), [], [Y], "argument `generator` must hold at least one parameter, got none"),
        (lambda: (X.sum(), Y.sum()), [X], [torch.zeros(1)], "`discriminator` must hold tensors that require grad"),
        (lambda: (X.sum(), Y.sum()), [X], [Y, X], "must share no parameter, got one in both"),
        (
            lambda: (X.sum(), Y.sum()), [X], [Y, UNUSED],
            r"argument `discriminator` must hold parameters that the discriminator's loss depends on, got number 1 of "
            r"shape \(2, 3\) that is not in its graph",
        ),
        (lambda: (Y.sum(), Y.sum()), [X], [Y], "argument `generator` must hold .* got number 0 of shape"),
        (lambda: (torch.stack([X, X]), Y.sum()), [X], [Y], r"must return two scalars, got \(2, 1\), \(\)"),
        (lambda: (X.sum(),), [X], [Y], r"must return two scalars, got \(\)"),
        (lambda: (X.sum(), 3.0), [X], [Y], r"must return two scalars, got \(\), float"),
        (lambda: (X.sum(), Y.sum().detach()), [X], [Y], "require grad, got a discriminator's that does not"),
    ],
)  # fmt: skip
def test_games_that_are_none(losses, generator, discriminator, message):
    with pytest.raises(ValueError, match=message):
        Game(losses, generator, discriminator).linearize()


def test_vectors_and_weights_that_are_none():
    game = Game.zero_sum(lambda: logsigmoid(X * Y).sum(), [X], [Y])
    with pytest.raises(ValueError, match=r"argument `vector` must have shape \(2,\), got \(3,\)"):
        game.jvp(torch.ones(3))
    with pytest.raises(ValueError, match=r"argument `vector` must have shape \(2,\), got \(2, 1\)"):
        game.vjp(torch.ones(2, 1))
    with pytest.raises(ValueError, match="argument `other` must not be negative, got -1"):
        game.regularized(other=-1.0)


def test_once_differentiable_beside_other_terms():
    """Its missing derivative must not pass for 0 where other terms have one; nor may a third derivative be missing."""
    x, y = leaf(1.0, 2.0), leaf(1.0, 2.0)
    cube = lambda: OnceDifferentiable.apply(x).sum()  # noqa: E731
    game = Game(lambda: (cube() + (x * y).sum() + (x**2).sum(), -(x * y).sum()), [x], [y])
    with pytest.raises(ValueError, match="argument `losses` must be twice differentiable"):
        game.jacobian()
    game = Game.zero_sum(lambda: cube() * y.sum(), [x], [y]).regularized(other=1.0)
    with pytest.raises(ValueError, match="argument `losses` must be twice differentiable"):
        game.update_direction()


def test_parameters_outside_the_game():
    """A gradient that depends on other tensors only is constant in this game."""
    x, y, w = (torch.tensor(value, requires_grad=True) for value in (1.0, 2.0, 3.0))
    game = Game(lambda: (x * w, y * w), [x], [y])
    assert torch.equal(game.jvp(torch.ones(2)), torch.zeros(2))
    assert torch.equal(game.jacobian(), torch.zeros(2, 2))


def test_weights_of_the_regulariser():
    x, y = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    game = Game.zero_sum(lambda: (x * y).sum(), [x], [y])
    assert game.regularized() is game
    with pytest.raises(ValueError, match=r"argument `other` must broadcast to every gradient, got shape \(3, 1\) for"):
        game.regularized(other=torch.ones(3, 1)).update_direction()
    # Each half alone: the other player's direction is that without a regulariser.
    both, half = game.regularized(other=2.0), game.regularized(other=2.0, players="generator")
    assert torch.equal(half.update_direction()[:2], both.update_direction()[:2])
    assert torch.equal(half.update_direction()[2:], game.update_direction()[2:])
    with pytest.raises(ValueError, match="argument `players` must be one of both, generator, discriminator, got 'x'"):
        game.regularized(other=1.0, players="x")
