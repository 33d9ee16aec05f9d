"""The block form of the Jacobian at constructed equilibria of small networks, under every regularisation."""

import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid

from pcgan_lightning.games import Game, equilibrium_blocks, equilibrium_jacobian


class Twins(nn.Module):
    """A network minus its copy: 0 everywhere, with derivatives by all parameters."""

    def __init__(self, make):
        super().__init__()
        self.first, self.second = make(), make()
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, x):
        return self.first(x) - self.second(x)


def silent(network):
    """The last layer is 0, and so is the network."""
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
    return network


def perceptron():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def equilibrium(discriminator, hidden=2, saturating=True):
    """A generator whose samples are the data, before a discriminator that is 0."""
    generator = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()
    latents = torch.randn(7, 2).double()
    real = generator(latents).detach()

    def losses():
        on_fake = discriminator(generator(latents))
        value = logsigmoid(discriminator(real)).mean() + logsigmoid(-on_fake).mean()
        return value if saturating else -logsigmoid(on_fake).mean(), -value

    game = Game(losses, list(generator.parameters()), list(discriminator.parameters()))
    return game, lambda: generator(latents), discriminator


@pytest.mark.parametrize(
    ("own", "other", "make", "saturating"),
    [
        (0.0, 0.0, lambda: silent(perceptron()), True),
        (0.0, 3.0, lambda: Twins(perceptron), True),
        (3.0, 3.0, lambda: silent(perceptron()), False),
        (3.0, 3.0, lambda: Twins(perceptron), True),
        (2.0, 0.0, lambda: Twins(perceptron), False),
    ],
)
def test_block_form_is_autograds_jacobian(make, own, other, saturating):
    """Lemma 3, and its extension to ConOpt and JARE."""
    game, generate, discriminator = equilibrium(make(), saturating=saturating)
    assert game.update_direction().abs().max() < 1e-15
    p, q = equilibrium_blocks(generate, discriminator, game.generator, game.discriminator)
    assert min(p.abs().max(), q.abs().max()) > 0.01
    expected = equilibrium_jacobian(p, q, own, other)
    torch.testing.assert_close(game.regularized(own, other).jacobian(), expected, rtol=1e-10, atol=1e-12)


def test_theorem_4_and_its_zeros():
    """lambda^2 - a1 lambda + a2 = 0 with Rayleigh quotients of Q and P^T P; zeros where n is larger than m."""
    n, m = 7, 4
    p, q = torch.randn(n, m).double(), torch.randn(m, m).double()
    q = -q @ q.T
    values, vectors = torch.linalg.eig(equilibrium_jacobian(p, q))
    y = vectors[n:]
    moved = y.abs().square().sum(0) > 1e-12
    assert moved.sum() == 2 * m
    assert values[~moved].abs().max() < 1e-12
    y = y[:, moved] / y[:, moved].norm(dim=0)
    a1, a2 = ((y.conj() * (x.to(y.dtype) @ y)).sum(0) for x in (q, p.T @ p))
    assert (values[moved] ** 2 - a1 * values[moved] + a2).abs().max() < 1e-10


def test_theorem_5_in_the_limit():
    """JARE's eigenvalues over gamma are those of -P^T P and of -P P^T, to order gamma^-1/2."""
    n, m = 5, 3
    p, q = torch.randn(n, m).double(), torch.randn(m, m).double()
    q = -q @ q.T
    limit = torch.cat([torch.linalg.eigvalsh(-p @ p.T), torch.linalg.eigvalsh(-p.T @ p)]).sort().values
    errors = []
    for gamma in (1e4, 1e6):
        found = torch.linalg.eigvals(equilibrium_jacobian(p, q, other=gamma)).real.sort().values / gamma
        errors.append((found - limit).abs().max())
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
