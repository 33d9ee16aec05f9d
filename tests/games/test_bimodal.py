"""The bimodal game: gradients, updates, independence of seeds, and the two theorems."""

import math

import pytest
import torch

from pcgan_lightning.games import BimodalGame, BimodalPlayers
from pcgan_lightning.games.bimodal import OUTGROWN
from pcgan_lightning.optim import NSGDA


def value(game, players, real, neuron):
    """log D(x) + log(1 - D(G(z))), written down again with z as a vector."""
    z = torch.nn.functional.one_hot(neuron, game.generator_neurons).double()
    fake = torch.einsum("snd,sn->sd", players.v, z)

    def scores(x):
        return players.a * (torch.einsum("smd,sd->sm", players.w, x) ** 3).sum(1) + players.b / math.sqrt(
            game.dimension
        )

    logsigmoid = torch.nn.functional.logsigmoid
    return logsigmoid(scores(real)) + logsigmoid(-scores(fake))


def test_gradients_are_autograds():
    game = BimodalGame(dimension=20)
    shapes = (game.discriminator_neurons, 20), (), (), (game.generator_neurons, 20)
    players = BimodalPlayers(*((0.7 * torch.randn(5, *s).double()).requires_grad_() for s in shapes))
    real, neuron = game.modes[torch.tensor([0, 1, 1, 0, 1])], torch.tensor([0, 3, 5, 1, 0])
    expected = torch.autograd.grad(value(game, players, real, neuron).sum(), players)
    for found, gradient in zip(game.gradients(players, real, neuron), expected, strict=True):
        torch.testing.assert_close(found.detach(), gradient, rtol=1e-12, atol=1e-12)


def test_setting():
    """Assumption 1 and Parametrization 3.1: unit modes of correlation 1 / log d, log d and 2 log d neurons."""
    game = BimodalGame(dimension=1000)
    gram = game.modes @ game.modes.T
    expected = torch.tensor([[1.0, 1 / math.log(1000)], [1 / math.log(1000), 1.0]], dtype=torch.float64)
    torch.testing.assert_close(gram, expected)
    assert (game.discriminator_neurons, game.generator_neurons) == (7, 14)
    start = game.initial(range(200))
    for neurons in (start.w, start.v):
        assert neurons.norm(dim=2).mean().item() == pytest.approx(0.1, rel=0.01)
    assert torch.equal(start.b, torch.zeros(200, dtype=torch.float64))


def norm(tensors):
    return torch.cat([t.flatten() for t in tensors]).norm().item()


@pytest.mark.parametrize("rule", ["sgda", "nsgda"])
def test_steps_are_those_of_the_optimizers(rule):
    """One game, played again by autograd and this package's NSGDA, or torch's SGD."""
    game = BimodalGame(dimension=12, discriminator_scale=0.8, generator_scale=0.8)
    run = game.play(rule, 0.05, 0.03, 30, range(4, 5), record_every=10)
    players = BimodalPlayers(*(torch.nn.Parameter(p) for p in game.initial(range(4, 5))))
    make = NSGDA if rule == "nsgda" else torch.optim.SGD
    up, down = make(players[:3], lr=0.05, maximize=True), make(players[3:], lr=0.03)
    modes, neurons = game._draws(range(4, 5), 31)
    speeds = []
    for t in range(31):
        if t == 30:
            final = [p.detach().clone() for p in players]
        for p in players:
            p.grad = None
        value(game, players, game.modes[modes[:, t]], neurons[:, t]).sum().backward()
        before = [p.detach().clone() for p in players]
        up.step()
        down.step()
        moved = [p.detach() - b for p, b in zip(players, before, strict=True)]
        speeds.append([norm(moved[own]) / norm(before[own]) for own in (slice(3), slice(3, None))])
    for found, expected in zip(run.players, final, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    found = torch.cat([run.discriminator_speed, run.generator_speed], 1)
    torch.testing.assert_close(found, torch.tensor([speeds[t] for t in (0, 10, 20, 30)]).double())


def test_a_seed_does_not_depend_on_the_others():
    game = BimodalGame(dimension=16)
    together = game.play("nsgda", 0.05, 0.04, 100, range(3, 8))
    alone = game.play("nsgda", 0.05, 0.04, 100, range(5, 6))
    # Batched products may sum in another order.
    torch.testing.assert_close(together.players.v[2], alone.players.v[0], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(together.players.v[1], together.players.v[2])


def test_a_longer_game_begins_like_a_shorter_one():
    game = BimodalGame(dimension=16)
    short, long = (game.play("nsgda", 0.05, 0.04, n, range(2), record_every=50) for n in (50, 150))
    assert torch.equal(short.generator_cosines[1], long.generator_cosines[1])
    modes, neurons = game._draws(range(50), 400)
    assert modes.double().mean().item() == pytest.approx(0.5, abs=0.015)  # 4 standard deviations
    counts = neurons.flatten().bincount(minlength=game.generator_neurons) / neurons.numel()
    assert counts.tolist() == pytest.approx([1 / game.generator_neurons] * game.generator_neurons, abs=0.011)


def test_what_is_recorded():
    game = BimodalGame(dimension=16)
    run = game.play("nsgda", 0.05, 0.04, 95, range(3), record_every=20)
    assert run.iteration.tolist() == [0, 20, 40, 60, 80, 95]
    assert run.generator_speed.shape == run.discriminator_speed.shape == (6, 3)
    directions = [game.modes[0], game.modes[1], game.modes.sum(0)]
    for neurons, found in ((run.players.v, run.generator_cosines), (run.players.w, run.discriminator_cosines)):
        expected = [torch.cosine_similarity(neurons, direction, dim=2) for direction in directions]
        torch.testing.assert_close(found[-1], torch.stack(expected, -1))


def test_counting_modes():
    """A neuron along each mode, one mode twice, and the average of both, which is neither."""
    game = BimodalGame(dimension=16)
    run = game.play("nsgda", 0.05, 0.04, 1, range(3))
    u1, u2 = game.modes
    rest = torch.zeros(game.generator_neurons - 2, 16, dtype=torch.float64)
    rest[:, 5] = 1.0
    v = torch.stack([torch.cat([torch.stack(pair), rest]) for pair in ((u1, u2), (u1, u1), (u1 + u2, u1 + u2))])
    run.generator_cosines = game._cosines(v)[None]
    assert run.modes_recovered().tolist() == [[2, 1, 0]]


@pytest.mark.slow
def test_theorem_3_1_sgda_recovers_at_most_an_average():
    """At every recorded time: not both modes, though the generator does learn. The notebook: 100 seeds, every ratio."""
    run = BimodalGame().play("sgda", 0.1, 0.1, 4000, range(20))
    assert not (run.modes_recovered() == 2).any()
    average = (run.generator_cosines[-1, ..., 2] > 0.95).any(1).double().mean()
    assert average > 0.8
    assert (run.players.v.norm(dim=2).amax(1) > OUTGROWN / 2).double().mean() > 0.5


@pytest.mark.slow
def test_theorem_3_2_nsgda_recovers_both_modes():
    run = BimodalGame().play("nsgda", 0.05, 0.05 / 1.1, 2000, range(20))
    assert (run.modes_recovered()[-1] == 2).double().mean() >= 0.9


def test_a_game_without_gradient_stands_still():
    """With a slope of 0, nothing of D's first output reaches G."""
    game = BimodalGame(dimension=16, slope=0.0)
    run = game.play("nsgda", 0.05, 0.04, 1, range(2))
    assert torch.equal(run.players.v, game.initial(range(2)).v)
