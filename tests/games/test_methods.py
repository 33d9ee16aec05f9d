"""SimGD, ConOpt, JARE, SGA and ExtraGradient against closed forms, dense Jacobians and finite differences."""

from functools import partial

import pytest
import torch
from torch import nn

from pcgan_lightning.games import (
    JARE,
    ConOpt,
    ExtraGradient,
    Game,
    LinearGAN,
    SimGD,
    SymplecticGradientAdjustment,
    trial_step,
)
from pcgan_lightning.losses import HingeLoss, NonSaturatingLoss, SaturatingLoss, WassersteinLoss
from pcgan_lightning.spectra import precondition

SGA = SymplecticGradientAdjustment
SIDES = ("both", "generator", "discriminator")


class Quadratic(Game):
    """l_G = phi'A phi / 2 + phi'B theta and l_D = theta'C theta / 2 - phi'E theta, with A and C symmetric."""

    def __init__(self, curvature=None, n=3, m=4):
        source = torch.Generator().manual_seed(2)
        draw = partial(torch.randn, generator=source, dtype=torch.float64)
        self.b, self.e = draw(2, n, m)
        phi, theta = draw(n).requires_grad_(), draw(m).requires_grad_()
        if curvature is None:
            self.a, self.c = (x + x.T for x in (draw(n, n), draw(m, m)))
        else:
            self.a, self.c = (curvature * torch.eye(k, dtype=torch.float64) for k in (n, m))

        def losses():
            return (
                phi @ self.a @ phi / 2 + phi @ self.b @ theta,
                theta @ self.c @ theta / 2 - phi @ self.e @ theta,
            )

        super().__init__(losses, [phi], [theta])


def linear_gan():
    """The game of a linear GAN in three dimensions, away from its equilibrium."""
    game = LinearGAN([0.5, -1.0, 0.3], 0.7).game()
    for parameter in game.parameters:
        parameter.data += 0.3 * torch.randn_like(parameter)
    return game


def directions(method, game, **options):
    """What the method descends along, in one row."""
    found = method(*game.losses(), game.generator, game.discriminator, **options)
    assert not any(piece.requires_grad for pieces in found for piece in pieces)
    return torch.cat([piece.flatten() for pieces in found for piece in pieces])


@pytest.mark.parametrize("players", SIDES)
def test_quadratic_game(players):
    """With g_phi = A phi + B theta and g_theta = C theta - E' phi, half the squares' derivatives are linear in them."""
    game, gamma = Quadratic(), 0.7
    (phi,), (theta,) = game.generator, game.discriminator
    g = game.a @ phi + game.b @ theta, game.c @ theta - game.e.T @ phi
    own = game.a @ g[0], game.c @ g[1]
    cross = -game.e @ g[1], game.b.T @ g[0]  # of the other player's square
    on = [players in ("both", side) for side in SIDES[1:]]
    expected = {
        SimGD(): g,
        ConOpt(gamma, players): [g[p] + gamma * on[p] * (own[p] + cross[p]) for p in range(2)],
        JARE(gamma, players): [g[p] + gamma * on[p] * cross[p] for p in range(2)],
    }
    for method, pair in expected.items():
        torch.testing.assert_close(directions(method, game), torch.cat([*pair]).detach())
        torch.testing.assert_close(-method.regularized(game).update_direction(), torch.cat([*pair]).detach())
    assert phi.grad is theta.grad is None


@pytest.mark.parametrize("game", [linear_gan(), Quadratic(5.0), Quadratic(-5.0)], ids=["linear GAN", "stable", "not"])
def test_adjustment_by_the_dense_jacobian(game):
    """Near a stable point (J + J^T > 0) the sign is positive, near an unstable one negative: Algorithm 1."""
    xi, jacobian = -game.update_direction(), -game.jacobian()
    adjustment, of_square = (jacobian.T - jacobian) @ xi / 2, jacobian.T @ xi
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)
    close(directions(SGA(0.7, align=False), game), xi + 0.7 * adjustment)
    sign = ((xi @ of_square) * (adjustment @ of_square) / len(xi) + 0.1).sign()
    close(directions(SGA(0.7), game), xi + 0.7 * sign * adjustment)
    if isinstance(game, Quadratic):
        assert sign == game.a[0, 0].sign()
    else:  # zero-sum: J's symmetric diagonal blocks drop out, the others are half of the other's squared gradient
        close(directions(SGA(0.7, align=False), game), directions(JARE(0.7), game))


class SmallGame(Game):
    """A smooth image GAN in float64, its discriminator with PC-layers or without."""

    def __init__(self, loss, degree=None):
        self.g = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 18), nn.Unflatten(1, (2, 3, 3))).double()
        self.d = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Softplus(), nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0))
        self.d.double()
        if degree is not None:
            precondition(self.d, degree, "all")
        self.loss, self.real, self.latents = loss, torch.randn(4, 2, 3, 3).double(), torch.randn(4, 2).double()
        super().__init__(self.on, list(self.g.parameters()), list(self.d.parameters()))

    def on(self, part=slice(None)):
        """Both losses on a part of the batch."""
        real, fake = self.d(self.real[part]), self.d(self.g(self.latents[part]))
        return self.loss.generator(fake), self.loss.discriminator(real, fake)

    def squares(self):
        """Half the squared gradients of both players, numbers."""
        pairs = zip(self.losses(), (self.generator, self.discriminator), strict=True)
        found = [torch.autograd.grad(loss, own, retain_graph=True, materialize_grads=True) for loss, own in pairs]
        return [sum(g.square().sum().item() for g in gradients) / 2 for gradients in found]


@pytest.mark.parametrize(
    ("loss", "degree"),
    [(NonSaturatingLoss(), None), (SaturatingLoss(), 1), (WassersteinLoss(), 7), (NonSaturatingLoss(), 7)],
)
def test_gradient_by_finite_differences(loss, degree):
    """Of half the squared gradients, also through PC-layers, whose singular vectors are constants."""
    game = SmallGame(loss, degree)
    players = game.generator, game.discriminator
    plain = SimGD()(*game.losses(), *players)
    methods = {ConOpt(1.0): ((0, 1), (0, 1)), JARE(1.0): ((1,), (0,))}
    found = {method: method(*game.losses(), *players) for method in methods}
    for player, parameters in enumerate(players):
        for i, parameter in enumerate(parameters):
            step, squares = 1e-5 * torch.randn_like(parameter), []
            for factor in (1, -2, 1):
                parameter.data += factor * step
                squares.append(game.squares())
            for method, sources in methods.items():
                slope = ((found[method][player][i] - plain[player][i]) * step).sum().item() / 1e-5
                expected = sum(squares[0][s] - squares[1][s] for s in sources[player]) / 2e-5
                # Central differences of step h err by h^2 and by rounding / h.
                assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("method", "graphs", "passes"),
    [
        (SimGD(), [False, False], 0),
        (ConOpt(0.0), [False, False], 0),
        (JARE(0.0), [False, False], 0),
        (ConOpt(1.0), [True, True], 1),
        (ConOpt(1.0, "generator"), [True, True], 1),
        (JARE(1.0), [True, True], 2),
        (JARE(1.0, "generator"), [False, True], 1),
        (JARE(1.0, "discriminator"), [True, False], 1),
    ],
    ids=repr,
)
def test_no_pass_more_than_needed(method, graphs, passes, monkeypatch):
    """Two first gradients, with a graph only where they are differentiated again."""
    game, asked, grad = SmallGame(HingeLoss()), [], torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: asked.append(k.get("create_graph", False)) or grad(*a, **k)
    )
    found = directions(method, game)
    assert asked == graphs + [False] * passes
    if not passes:
        assert torch.equal(found, -game.update_direction())


def test_unused_parameters_count_as_zero():
    """One that a loss never sees, and a last bias, which no mixed derivative reaches."""
    game = SmallGame(WassersteinLoss())
    players = [*game.generator, torch.ones(3, dtype=torch.float64, requires_grad=True)], game.discriminator
    plain = SimGD()(*game.losses(), *players)
    for method in (ConOpt(2.0), JARE(2.0)):
        generator, discriminator = method(*game.losses(), *players)
        assert torch.equal(generator[-1], torch.zeros(3, dtype=torch.float64))
        assert torch.equal(discriminator[-1], plain[1][-1])


@pytest.mark.parametrize("method", [SimGD(), ConOpt(5.0), JARE(5.0), SGA(0.5)], ids=repr)
def test_processes_with_parts_of_the_batch(method):
    """Two halves of the batch, in lockstep, take the update of the whole batch."""
    game = SmallGame(NonSaturatingLoss())
    parts, means = (slice(0, 2), slice(2, 4)), []

    def play(part):
        """What a process says, answered with the means as far as they go, and where it goes."""
        said = []

        def mean(own):
            said.append(own)
            return means[len(said) - 1] if len(said) <= len(means) else own

        return said, method(*game.on(part), game.generator, game.discriminator, mean)

    while len(play(parts[0])[0]) > len(means):
        # What a process says depends on the means that it got before.
        said = [play(part)[0][len(means)] for part in parts]
        means.append(tuple((a + b) / 2 for a, b in zip(*said, strict=True)))
    whole = method(*game.losses(), game.generator, game.discriminator)
    torch.testing.assert_close(play(parts[0])[1], whole)


# --- ExtraGradient


def ahead_of(game, make_optimizer):
    """The look-ahead of a game whose players have an optimizer each, and these optimizers."""
    players = game.generator, game.discriminator
    optimizers = [make_optimizer(own) for own in players]
    return partial(trial_step, players=players, optimizers=optimizers, losses=game.losses), optimizers


@pytest.mark.parametrize("make", [linear_gan, Quadratic])
def test_extrapolation_is_the_gradient_ahead(make):
    """xi at w - eta xi(w); the parameters are back at w."""
    game = make()
    before = [p.detach().clone() for p in game.parameters]
    found = directions(ExtraGradient(), game, look_ahead=ahead_of(game, partial(torch.optim.SGD, lr=0.2))[0])
    for parameter, value, gradient in zip(game.parameters, before, sum(game.gradients(), ()), strict=True):
        assert torch.equal(parameter, value)
        parameter.data -= 0.2 * gradient
    torch.testing.assert_close(found, -game.update_direction(), rtol=1e-13, atol=1e-14)


def test_an_iteration_multiplies_the_error_by_a_polynomial_of_the_jacobian():
    """Near the equilibrium of the linear GAN: I + eta A + (eta A)^2, with A in closed form."""
    gan, rate, offset = LinearGAN([0.5, -1.0], 0.7), 0.8, 1e-7
    game, start = gan.game(), offset * torch.randn(4, dtype=torch.float64)
    for parameter, piece in zip(game.parameters, start.chunk(2), strict=True):
        parameter.data += piece
    look_ahead, optimizers = ahead_of(game, partial(torch.optim.SGD, lr=rate))
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
    game = Quadratic(2.0)
    look_ahead, optimizers = ahead_of(game, partial(torch.optim.Adam, lr=0.1, betas=(0.0, 0.5)))
    here = game.gradients()
    ahead = ExtraGradient()(*game.losses(), game.generator, game.discriminator, look_ahead=look_ahead)
    for player, (own, optimizer) in enumerate(zip((game.generator, game.discriminator), optimizers, strict=True)):
        own[0].grad = ahead[player][0]
        optimizer.step()
        state = optimizer.state[own[0]]
        assert state["step"] == 2
        expected = here[player][0].square() / 4 + ahead[player][0].square() / 2
        torch.testing.assert_close(state["exp_avg_sq"], expected)


def test_methods_say_what_they_are():
    assert [method.init_args for method in (SGA(2.0), ExtraGradient())] == [{"strength": 2.0, "align": True}, {}]
    assert [method.twice_differentiated for method in (SGA(), ExtraGradient(), JARE(), JARE(0.0))] == [1, 0, 1, 0]
    assert repr(SGA(2.0)) == "SymplecticGradientAdjustment(strength=2.0, align=True)"
