"""SGA and ExtraGradient against dense Jacobians and exact matrix formulas."""

from functools import partial

import pytest
import torch

from pcgan_lightning.games import JARE, ExtraGradient, Game, LinearGAN, SymplecticGradientAdjustment, trial_step

SGA = SymplecticGradientAdjustment


def linear_gan(offset=0.3):
    """The game of a linear GAN in three dimensions, away from its equilibrium."""
    game = LinearGAN(torch.tensor([0.5, -1.0, 0.3]), 0.7).game()
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in game.parameters:
            parameter += offset * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return game


def rotated_game(curvature):
    """Two quadratic losses that are no zero-sum game: xi = J w with a random J, but for the curvatures."""
    source = torch.Generator().manual_seed(2)
    b, e = torch.randn(2, 3, 4, generator=source, dtype=torch.float64)
    x, y = (torch.randn(k, generator=source, dtype=torch.float64).requires_grad_() for k in (3, 4))
    return Game(lambda: (curvature * x @ x / 2 + x @ b @ y, curvature * y @ y / 2 + x @ e @ y), [x], [y])


def directions(method, game, **options):
    """What the method descends along, in one row."""
    found = method(*game.losses(), game.generator, game.discriminator, **options)
    assert not any(piece.requires_grad for pieces in found for piece in pieces)
    return torch.cat([piece.flatten() for pieces in found for piece in pieces])


@pytest.mark.parametrize("game", [linear_gan(), rotated_game(2.0)], ids=["linear GAN", "no zero-sum game"])
def test_adjustment_by_the_dense_jacobian(game):
    xi, jacobian = -game.update_direction(), -game.jacobian()
    expected = xi + 0.7 * (jacobian.T - jacobian) @ xi / 2
    torch.testing.assert_close(directions(SGA(0.7, align=False), game), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("curvature", [5.0, -5.0])
def test_alignment_turns_towards_stable_points_and_away_from_others(curvature):
    """Near a stable point (J + J^T > 0) the sign is positive, near an unstable one negative: Algorithm 1."""
    game = rotated_game(curvature)
    xi, jacobian = -game.update_direction(), -game.jacobian()
    adjustment, of_square = (jacobian.T - jacobian) @ xi / 2, jacobian.T @ xi
    criterion = (xi @ of_square) * (adjustment @ of_square) / len(xi) + 0.1
    sign = criterion.sign()
    torch.testing.assert_close(directions(SGA(0.7), game), xi + 0.7 * sign * adjustment, rtol=1e-12, atol=1e-13)
    assert sign == (1 if curvature > 0 else -1)


def test_adjustment_of_a_zero_sum_game_is_jare():
    """J's diagonal blocks are symmetric and drop out; the others are half of the other's squared gradient."""
    game = linear_gan()
    expected = directions(JARE(0.7), game)
    torch.testing.assert_close(directions(SGA(0.7, align=False), game), expected, rtol=1e-12, atol=1e-14)


def test_adjustment_over_processes():
    """Two halves of the batch: gradients and products are means before they meet each other."""
    x, y = (torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    parts = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = lambda b: (torch.sin(x @ b @ y), torch.cos(y @ b @ x) + y @ y)  # noqa: E731
    halves = [Game(partial(losses, part), [x], [y]) for part in parts]
    both = Game(lambda: tuple((a + b) / 2 for a, b in zip(*(half.losses() for half in halves), strict=True)), [x], [y])
    said = [[], []]
    for _ in range(4):  # what a process says depends on the answers that it got before
        answers = [tuple((a + b) / 2 for a, b in zip(*pair, strict=True)) for pair in zip(*said, strict=True)]
        said = [[], []]
        for own, half in zip(said, halves, strict=True):

            def mean(tensors, own=own, answers=answers):
                own.append(tensors)
                return answers[len(own) - 1] if len(own) <= len(answers) else tensors

            found = directions(SGA(0.5), half, mean_over_processes=mean)
    torch.testing.assert_close(found, directions(SGA(0.5), both), rtol=1e-12, atol=1e-13)


def test_detached_samples_are_refused():
    x, y = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    with pytest.raises(ValueError, match="argument `discriminator_loss` must have a gradient that depends on"):
        SGA()((x * y).sum(), -(x.detach() * y).sum() + y.square().sum(), [x], [y])


def ahead_of(game, make_optimizer):
    """The look-ahead of a game whose players have an optimizer each, and these optimizers."""
    players = game.generator, game.discriminator
    optimizers = [make_optimizer(own) for own in players]
    return partial(trial_step, players=players, optimizers=optimizers, losses=game.losses), optimizers


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


@pytest.mark.parametrize("game", [linear_gan(), rotated_game(2.0)], ids=["linear GAN", "no zero-sum game"])
def test_extrapolation_is_the_gradient_ahead(game):
    """xi at w - eta xi(w); the parameters are back at w."""
    before = [p.detach().clone() for p in game.parameters]
    look_ahead, _ = ahead_of(game, sgd(0.2))
    found = directions(ExtraGradient(), game, look_ahead=look_ahead)
    for parameter, value in zip(game.parameters, before, strict=True):
        assert torch.equal(parameter, value)
    with torch.no_grad():
        for own, gradients in zip((game.generator, game.discriminator), game.gradients(), strict=True):
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter -= 0.2 * gradient
    torch.testing.assert_close(found, -game.update_direction(), rtol=1e-13, atol=1e-14)
    with torch.no_grad():
        for parameter, value in zip(game.parameters, before, strict=True):
            parameter.copy_(value)


def test_an_iteration_multiplies_the_error_by_a_polynomial_of_the_jacobian():
    """Near the equilibrium of the linear GAN: I + eta A + (eta A)^2, with A in closed form."""
    gan, rate, offset = LinearGAN(torch.tensor([0.5, -1.0]), 0.7), 0.8, 1e-7
    game = gan.game()
    start = offset * torch.randn(4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        for parameter, piece in zip(game.parameters, start.chunk(2), strict=True):
            parameter += piece
    look_ahead, optimizers = ahead_of(game, sgd(rate))
    (phi,), (theta,) = ExtraGradient()(*game.losses(), game.generator, game.discriminator, look_ahead=look_ahead)
    game.generator[0].grad, game.discriminator[0].grad = phi, theta
    for optimizer in optimizers:
        optimizer.step()
    error = torch.cat([game.generator[0] - gan.mean, game.discriminator[0]]).detach()
    step = rate * gan.jacobian()
    expected = start + step @ start + step @ step @ start
    # What is left out is quadratic in the offset; phi around 1 rounds at 1e-16.
    torch.testing.assert_close(error, expected, rtol=0, atol=1e2 * offset**2 + 1e-15)


def test_optimizers_remember_both_steps():
    """ExtraAdam: the second moment's average has seen the gradients at both points."""
    game = rotated_game(2.0)
    look_ahead, optimizers = ahead_of(game, lambda own: torch.optim.Adam(own, 0.1, (0.0, 0.5)))
    here = game.gradients()
    ahead = ExtraGradient()(*game.losses(), game.generator, game.discriminator, look_ahead=look_ahead)
    for player, (own, optimizer) in enumerate(zip((game.generator, game.discriminator), optimizers, strict=True)):
        own[0].grad = ahead[player][0]
        optimizer.step()
        state = optimizer.state[own[0]]
        assert state["step"] == 2
        expected = here[player][0].square() / 4 + ahead[player][0].square() / 2
        torch.testing.assert_close(state["exp_avg_sq"], expected)


def test_arguments():
    game = linear_gan()
    with pytest.raises(ValueError, match=r"^argument `strength` must be positive, got -1$"):
        SGA(-1)
    with pytest.raises(ValueError, match=r"^argument `look_ahead` must be given .*, got None$"):
        directions(ExtraGradient(), game)
    assert [method.init_args for method in (SGA(2.0), ExtraGradient())] == [{"strength": 2.0, "align": True}, {}]
    assert [method.twice_differentiated for method in (SGA(), ExtraGradient(), JARE(), JARE(0.0))] == [1, 0, 1, 0]
    assert repr(SGA(2.0)) == "SymplecticGradientAdjustment(strength=2.0, align=True)"
