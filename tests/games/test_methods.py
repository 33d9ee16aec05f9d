"""SimGD, ConOpt and JARE against closed forms and finite differences."""

import pytest
import torch
from torch import nn

from pcgan_lightning.games import JARE, ConOpt, Game, SimGD
from pcgan_lightning.losses import HingeLoss, NonSaturatingLoss, SaturatingLoss, WassersteinLoss
from pcgan_lightning.spectra import precondition

SIDES = ("both", "generator", "discriminator")


class Quadratic:
    """l_G = phi'A phi / 2 + phi'B theta and l_D = theta'C theta / 2 - phi'E theta, with A and C symmetric."""

    def __init__(self, n=3, m=4):
        self.a, self.c = (x + x.T for x in (torch.randn(k, k, dtype=torch.float64) for k in (n, m)))
        self.b, self.e = torch.randn(2, n, m, dtype=torch.float64)
        self.phi = torch.randn(n, dtype=torch.float64, requires_grad=True)
        self.theta = torch.randn(m, dtype=torch.float64, requires_grad=True)

    def losses(self):
        phi, theta = self.phi, self.theta
        return phi @ self.a @ phi / 2 + phi @ self.b @ theta, theta @ self.c @ theta / 2 - phi @ self.e @ theta

    def directions(self, method):
        (for_phi,), (for_theta,) = method(*self.losses(), [self.phi], [self.theta])
        return for_phi, for_theta

    def gradients(self):
        return self.a @ self.phi + self.b @ self.theta, self.c @ self.theta - self.e.T @ self.phi


@pytest.mark.parametrize("players", SIDES)
def test_quadratic_game(players):
    """With g_phi = A phi + B theta and g_theta = C theta - E' phi, half the squares' derivatives are linear in them."""
    game, gamma = Quadratic(), 0.7
    g_phi, g_theta = (g.detach() for g in game.gradients())
    cross = -game.e @ g_theta, game.b.T @ g_phi  # of the other player's square
    own = game.a @ g_phi, game.c @ g_theta
    on = [players in ("both", side) for side in SIDES[1:]]
    expected = {
        SimGD(): (g_phi, g_theta),
        ConOpt(gamma, players): (
            g_phi + gamma * on[0] * (own[0] + cross[0]),
            g_theta + gamma * on[1] * (own[1] + cross[1]),
        ),
        JARE(gamma, players): (g_phi + gamma * on[0] * cross[0], g_theta + gamma * on[1] * cross[1]),
    }
    for method, pair in expected.items():
        for found, value in zip(game.directions(method), pair, strict=True):
            torch.testing.assert_close(found, value)
            assert not found.requires_grad
    assert game.phi.grad is None
    assert game.theta.grad is None


class SmallGame:
    """A smooth image GAN in float64, its discriminator with PC-layers or without."""

    def __init__(self, loss, degree=None):
        self.generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 18), nn.Unflatten(1, (2, 3, 3)))
        self.discriminator = nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.Softplus(), nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0)
        )
        self.generator.double()
        self.discriminator.double()
        if degree is not None:
            precondition(self.discriminator, degree, "all")
        self.real, self.latents = torch.randn(5, 2, 3, 3).double(), torch.randn(4, 2).double()
        self.loss = loss
        self.players = [list(network.parameters()) for network in (self.generator, self.discriminator)]

    def losses(self):
        real, fake = self.discriminator(self.real), self.discriminator(self.generator(self.latents))
        return self.loss.generator(fake), self.loss.discriminator(real, fake)

    def squares(self):
        """Return half the squared gradients of both players, numbers."""
        pairs = zip(self.losses(), self.players, strict=True)
        found = [torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True) for loss, own in pairs]
        return [sum(g.square().sum().item() for g in gradients if g is not None) / 2 for gradients in found]


@pytest.mark.parametrize(
    ("loss", "degree"),
    [(NonSaturatingLoss(), None), (SaturatingLoss(), 1), (WassersteinLoss(), 7), (NonSaturatingLoss(), 7)],
)
def test_gradient_by_finite_differences(loss, degree):
    """Of half the squared gradients, also through PC-layers, whose singular vectors are constants."""
    game = SmallGame(loss, degree)
    plain = SimGD()(*game.losses(), *game.players)
    methods = {ConOpt(1.0): ((0, 1), (0, 1)), JARE(1.0): ((1,), (0,))}
    directions = {method: method(*game.losses(), *game.players) for method in methods}
    for player, parameters in enumerate(game.players):
        for i, parameter in enumerate(parameters):
            step = 1e-5 * torch.randn_like(parameter)
            with torch.no_grad():
                parameter += step
            above = game.squares()
            with torch.no_grad():
                parameter -= 2 * step
            below = game.squares()
            with torch.no_grad():
                parameter += step
            for method, sources in methods.items():
                found = ((directions[method][player][i] - plain[player][i]) * step).sum().item() / 1e-5
                expected = sum(above[s] - below[s] for s in sources[player]) / 2e-5
                # Central differences of step h err by h^2 and by rounding / h.
                assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_zero_gamma_is_simultaneous_descent_without_a_second_backward(monkeypatch):
    """Two first gradients, neither with a graph."""
    game, asked = SmallGame(HingeLoss()), []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: asked.append(k.get("create_graph", False)) or grad(*a, **k)
    )
    plain = SimGD()(*game.losses(), *game.players)
    for method in (ConOpt(0.0), JARE(0.0)):
        torch.testing.assert_close(method(*game.losses(), *game.players), plain, rtol=0, atol=0)
    assert asked == [False] * 6


@pytest.mark.parametrize(
    ("method", "graphs", "passes"),
    [
        (ConOpt(1.0), [True, True], 1),
        (ConOpt(1.0, "generator"), [True, True], 1),
        (JARE(1.0), [True, True], 2),
        (JARE(1.0, "generator"), [False, True], 1),
        (JARE(1.0, "discriminator"), [True, False], 1),
    ],
)
def test_no_pass_more_than_needed(method, graphs, passes, monkeypatch):
    game, asked = SmallGame(NonSaturatingLoss()), []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: asked.append(k.get("create_graph", False)) or grad(*a, **k)
    )
    method(*game.losses(), *game.players)
    assert asked == graphs + [False] * passes


def test_unused_parameters_count_as_zero():
    """One that a loss never sees, and a last bias, which no mixed derivative reaches."""
    game = SmallGame(WassersteinLoss())
    game.players[0].append(torch.ones(3, dtype=torch.float64, requires_grad=True))
    plain = SimGD()(*game.losses(), *game.players)
    for method in (ConOpt(2.0), JARE(2.0)):
        generator, discriminator = method(*game.losses(), *game.players)
        assert torch.equal(generator[-1], torch.zeros(3, dtype=torch.float64))
        assert torch.equal(discriminator[-1], plain[1][-1])


def test_processes_with_parts_of_the_batch():
    """Two games of half the batch each, in lockstep, take the step of the whole batch."""
    loss = NonSaturatingLoss()
    game = SmallGame(loss)
    halves = game.real[:4].chunk(2), game.latents.chunk(2)
    game.real = game.real[:4]

    def half(i, mean):
        scores = game.discriminator(halves[0][i]), game.discriminator(game.generator(halves[1][i]))
        return method(loss.generator(scores[1]), loss.discriminator(*scores), *game.players, mean)

    for method in (SimGD(), ConOpt(5.0), JARE(5.0)):
        whole = method(*game.losses(), *game.players)
        means: list = []
        while len(_messages(half, 0, means)) > len(means):
            # What a process says depends on the means that it got before.
            said = [_messages(half, i, means)[len(means)] for i in (0, 1)]
            means.append(tuple((a + b) / 2 for a, b in zip(*said, strict=True)))
        answers = iter(means)
        torch.testing.assert_close(half(0, lambda _, answers=answers: next(answers)), whole)


def _messages(half, process, means):
    """Return what a process says, when it is answered with these means as far as they go."""
    said = []
    half(process, lambda own: said.append(own) or (means[len(said) - 1] if len(said) <= len(means) else own))
    return said


class OnceDifferentiable(torch.autograd.Function):
    """x^2 with a gradient that has none."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_errors():
    phi, theta = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    for kind in (ConOpt, JARE):
        with pytest.raises(ValueError, match="argument `gamma` must not be negative, got -1"):
            kind(-1)
        with pytest.raises(ValueError, match="argument `gamma` must not be negative, got nan"):
            kind(float("nan"))
        with pytest.raises(ValueError, match="argument `players` must be one of both, generator, discriminator, got"):
            kind(1.0, "neither")
    with pytest.raises(ValueError, match="`generator_parameters` must require gradients, got some that do not"):
        SimGD()(phi @ theta, phi @ theta, [phi.detach()], [theta])
    with pytest.raises(ValueError, match="`discriminator_loss` must depend on `discriminator_parameters`, got none"):
        SimGD()(phi @ theta, phi.sum(), [phi], [theta])
    with pytest.raises(ValueError, match="`generator_loss` must depend on `generator_parameters`, got none of the 1"):
        SimGD()((phi @ theta).detach(), phi @ theta, [phi], [theta])
    with pytest.raises(ValueError, match="`generator_loss` must depend on `generator_parameters`, got none of the 0"):
        SimGD()(phi @ theta, phi @ theta, [], [theta])
    # The fake batch detached: the generator's step does not move the discriminator's gradient.
    message = "`discriminator_loss` must have a gradient that depends on `generator_parameters`, got none that does"
    with pytest.raises(ValueError, match=message):
        JARE()(phi @ theta, phi.detach() @ theta, [phi], [theta])
    once = OnceDifferentiable.apply(phi * theta).sum()
    with pytest.raises(ValueError, match="`generator_loss` or `discriminator_loss` must be twice differentiable, got"):
        ConOpt()(once, once, [phi], [theta])
    assert len(SimGD()(once, once, [phi], [theta])) == 2


def test_other_failures_of_the_second_backward_are_not_renamed():
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("out of everything")

    phi, theta = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="out of everything"):
        JARE(1.0, "generator")(phi @ theta, Failing.apply(phi) @ theta, [phi], [theta])


def test_detached_samples():
    """ConOpt would silently lose the half that needs the other player."""
    x, y = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    fake = 2 * x
    losses = lambda: ((fake * y).sum() + (x**2).sum(), -(fake.detach() * y).sum() + y.square().sum())  # noqa: E731
    for method in (ConOpt(1.0), JARE(1.0)):
        with pytest.raises(ValueError, match="argument `discriminator_loss` must have a gradient that depends on"):
            method(*losses(), [x], [y])
        fake = 2 * x
    SimGD()(*losses(), [x], [y])


def test_losses_that_are_no_scalars():
    x, y = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    for method in (SimGD(), JARE(1.0)):
        with pytest.raises(ValueError, match=r"argument `generator_loss` must be a scalar, got shape \(2,\)"):
            method(x * y, -(x * y).sum(), [x], [y])


@pytest.mark.parametrize(
    ("kind", "players"), [(ConOpt, "both"), (ConOpt, "generator"), (JARE, "both"), (JARE, "discriminator")]
)
def test_the_regularised_game(kind, players):
    """Its update direction is what the method descends along."""
    torch.manual_seed(0)
    x, y = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    losses = lambda: ((x * y).tanh().sum() + x.pow(3).sum(), (x.sin() * y.square()).sum())  # noqa: E731
    method = kind(0.7, players)
    expected = torch.cat([g.flatten() for gs in method(*losses(), [x], [y]) for g in gs])
    found = method.regularized(Game(losses, [x], [y])).update_direction()
    torch.testing.assert_close(-found, expected, rtol=1e-12, atol=1e-13)
