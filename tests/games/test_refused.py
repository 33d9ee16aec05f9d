"""What games and methods refuse, and how they say it."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid, scaled_dot_product_attention

from pcgan_lightning.games import (
    JARE,
    BimodalGame,
    ConOpt,
    ExtraGradient,
    Game,
    LinearGAN,
    SimGD,
    SymplecticGradientAdjustment,
    conditioning_iterations,
    leading_eigenvalues,
    phase_iterations,
)


class Square(torch.autograd.Function):
    """x^2, whose gradient cannot be differentiated; `Detached` and `Failing` spoil it in other ways."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Detached(Square):
    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0].detach() * gradient


class Failing(Square):
    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("out of everything")


def leaf(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


X, Y, UNUSED = leaf(1.0), leaf(2.0), torch.zeros(2, 3, requires_grad=True)
PHI, THETA = leaf(1.0, 1.0), leaf(1.0, 1.0)
Q = torch.randn(1, 1, 8, 4, dtype=torch.float64, requires_grad=True)


def game(losses, generator=(X,), discriminator=(Y,)):
    return Game(losses, generator, discriminator).linearize()


def bilinear():
    return Game.zero_sum(lambda: logsigmoid(X * Y).sum(), [X], [Y])


def zero_sum(value, generator=PHI, discriminator=THETA):
    return Game.zero_sum(value, [generator], [discriminator])


def once():
    return Square.apply(PHI).sum()


def attention():
    return (scaled_dot_product_attention(Q, Q, Q).square() * Y).sum()


def nothing_may_be_computed():
    raise AssertionError


def played(method, generator_loss, discriminator_loss, generator=(PHI,), discriminator=(THETA,)):
    return method(generator_loss, discriminator_loss, generator, discriminator)


def eigenvalues(**arguments):
    ones = torch.ones(30, dtype=torch.float64, requires_grad=True)
    return leading_eigenvalues(Game(lambda: ((ones**2).sum(), (THETA**2).sum()), [ones], [THETA]), **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        # Games
        (lambda: game(None, []), "argument `generator` must hold at least one parameter, got none"),
        (
            lambda: game(None, [X], [torch.zeros(1)]),
            "`discriminator` must hold tensors that require grad, got",
        ),
        (lambda: game(None, [X], [Y, X]), "must share no parameter, got one in both"),
        (
            lambda: game(lambda: (X.sum(), Y.sum()), [X], [Y, UNUSED]),
            r"`discriminator` must hold parameters that the discriminator's loss depends on, got number 1 of shape "
            r"\(2, 3\) that is not in its graph",
        ),
        (lambda: game(lambda: (Y.sum(), Y.sum())), "argument `generator` must hold .* got number 0 of shape"),
        (lambda: game(lambda: (torch.stack([X, X]), Y.sum())), r"must return two scalars, got \(2, 1\), \(\)"),
        (lambda: game(lambda: (X.sum(), 3.0)), r"must return two scalars, got \(\), float"),
        (lambda: game(lambda: (X.sum(),)), r"must return two scalars, got \(\)"),
        (lambda: game(lambda: (X.sum(), Y.sum().detach())), "require grad, got a discriminator's that does not"),
        (lambda: bilinear().jvp(torch.ones(3)), r"argument `vector` must have shape \(2,\), got \(3,\)"),
        (lambda: bilinear().vjp(torch.ones(2, 1)), r"argument `vector` must have shape \(2,\), got \(2, 1\)"),
        (lambda: bilinear().regularized(other=-1.0), "argument `other` must not be negative, got -1"),
        (lambda: bilinear().regularized(other=1.0, players="x"), "`players` must be one of both, .*, got 'x'"),
        (
            lambda: bilinear().regularized(other=torch.ones(3, 1)).update_direction(),
            r"argument `other` must broadcast to every gradient, got shape \(3, 1\) for",
        ),
        (
            lambda: Game(nothing_may_be_computed, [torch.zeros(120_000 - 1, requires_grad=True)], [Y]).jacobian(),
            "at least the game's 120,000 parameters, got 4,096; the Jacobian would take 115.2 GB",
        ),
        (lambda: bilinear().jacobian(max_parameters=1), "2 parameters, got 1; the Jacobian would take 0.0 MB"),
        # Missing second derivatives, which must not pass for 0: alone, beside other terms, in a third derivative,
        # in flash attention, which torch takes on a CPU too, and behind a cut.
        (lambda: zero_sum(lambda: once() * THETA.sum()).jvp(torch.ones(4)), "`losses` must be twice diff.* marked"),
        (lambda: zero_sum(lambda: once() * THETA.sum()).vjp(torch.ones(4)), "`losses` must be twice diff.* marked"),
        (lambda: zero_sum(lambda: once() + PHI @ THETA + PHI @ PHI).jacobian(), "`losses` must be twice diff.* marked"),
        (
            lambda: zero_sum(lambda: once() * THETA.sum()).regularized(other=1.0).update_direction(),
            "`losses` must be twice differentiable",
        ),
        (lambda: zero_sum(attention, Q, Y).jvp(torch.ones(33)), "`losses` must be twice .* got derivative for .* not"),
        (
            lambda: game(lambda: (X.square().sum(), Detached.apply(Y).sum())),
            "got a gradient of the discriminator's parameter number 0 that changes with",
        ),
        # Methods
        *(
            (lambda kind=kind, arguments=arguments: kind(*arguments), message)
            for kind in (ConOpt, JARE)
            for arguments, message in [
                ((-1,), "argument `gamma` must not be negative, got -1"),
                ((math.nan,), "argument `gamma` must not be negative, got nan"),
                ((1.0, "neither"), "argument `players` must be one of both, generator, discriminator, got 'neither'"),
            ]
        ),
        (lambda: SymplecticGradientAdjustment(-1), "argument `strength` must be positive, got -1"),
        (lambda: played(ExtraGradient(), PHI @ THETA, PHI @ THETA), "`look_ahead` must be given .*, got None"),
        (
            lambda: played(SimGD(), PHI @ THETA, PHI @ THETA, [PHI.detach()]),
            "`generator_parameters` must require gradients, got some that do not",
        ),
        (
            lambda: played(SimGD(), PHI @ THETA, PHI.sum()),
            "`discriminator_loss` must depend on `discriminator_parameters`, got none of the 1",
        ),
        (lambda: played(SimGD(), (PHI @ THETA).detach(), PHI @ THETA), "`generator_loss` must depend on .* of the 1"),
        (lambda: played(SimGD(), PHI @ THETA, PHI @ THETA, []), "`generator_loss` must depend on .* none of the 0"),
        *(
            (lambda method=method: played(method, PHI * THETA, PHI @ THETA), r"must be a scalar, got shape \(2,\)")
            for method in (SimGD(), JARE(1.0))
        ),
        # Detached samples: ConOpt would silently lose the half that needs the other player.
        *(
            (
                lambda method=method: played(method, PHI @ THETA, PHI.detach() @ THETA + THETA @ THETA),
                "`discriminator_loss` must have a gradient that depends on `generator_parameters`, got none that does",
            )
            for method in (ConOpt(), JARE(), SymplecticGradientAdjustment())
        ),
        (
            lambda: played(ConOpt(), *[Square.apply(PHI * THETA).sum()] * 2),
            "`generator_loss` or `discriminator_loss` must be twice differentiable, got a function marked",
        ),
        # Small games and eigenvalues
        (lambda: BimodalGame(dimension=4), "argument `dimension` must be at least 8, got 4"),
        (lambda: BimodalGame(correlation=1.0), r"argument `correlation` must be in \(0, 1\), got 1.0"),
        (lambda: BimodalGame(discriminator_neurons=0), "argument `discriminator_neurons` must be positive, got 0"),
        (lambda: BimodalGame(generator_neurons=-1), "argument `generator_neurons` must be positive, got -1"),
        (lambda: BimodalGame(generator_scale=0.0), "argument `generator_scale` must be positive, got 0.0"),
        (lambda: BimodalGame(16).play("adam", 0.1, 0.1, 5), "`rule` must be 'sgda' or 'nsgda', got 'adam'"),
        (lambda: BimodalGame(16).play("sgda", -0.1, 0.1, 5), "`discriminator_rate` must not be negative, got -0.1"),
        (lambda: BimodalGame(16).play("sgda", 0.1, -0.1, 5), "`generator_rate` must not be negative, got -0.1"),
        (lambda: BimodalGame(16).play("sgda", 0.1, 0.1, 0), "argument `iterations` must be at least 1, got 0"),
        (
            lambda: BimodalGame(16).play("nsgda", 0.1, 0.1, 1, range(1)).modes_recovered(0.82),  # 1 / log 16 = 0.36
            "argument `threshold` must be above the average's cosine 0.8248, at most 1, got 0.82",
        ),
        (lambda: LinearGAN(1.0, 1.0), r"argument `mean` must have at least one entry, got shape \(\)"),
        (lambda: LinearGAN([1.0], 0.0), "argument `sigma` must be positive, got 0"),
        (lambda: LinearGAN([1.0], 1.0).game(other=-1.0), "argument `other` must not be negative, got -1"),
        (lambda: LinearGAN([1.0], 1.0).game(samples=0), "argument `samples` must be at least 1, got 0"),
        (lambda: LinearGAN([1.0], 1.0).play(-0.1, 5), "argument `step_size` must not be negative, got -0.1"),
        (lambda: LinearGAN([1.0], 1.0).play(0.1, 0), "argument `iterations` must be at least 1, got 0"),
        (lambda: LinearGAN([1.0], 1.0).eigenvalues(own=-2.0), "argument `own` must not be negative, got -2"),
        (lambda: eigenvalues(count=0), "argument `count` must be at least 1, got 0"),
        (lambda: eigenvalues(tolerance=0.0), "argument `tolerance` must be positive, got 0"),
        (lambda: eigenvalues(which="least"), "`which` must be one of modulus, real, imaginary, got 'least'"),
        (lambda: eigenvalues(max_products=39), "`max_products` must be at least 40 for 6 eigenvalues, got 39"),
        (
            lambda: leading_eigenvalues(zero_sum(lambda: math.nan * PHI @ PHI + PHI @ THETA)),
            "argument `game` must have a finite Jacobian",
        ),
        (lambda: phase_iterations(-1.0, 10), "argument `phase` must be at least 0, got -1"),
        (lambda: phase_iterations(1.0, 1), "argument `reduction` must be more than 1, got 1"),
        (lambda: conditioning_iterations(0.5, 10), "argument `conditioning` must be at least 1, got 0.5"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    assert (X.item(), Y.item()) == (1.0, 2.0)  # where it looked around, it came back


def test_what_is_not_refused():
    """What needs no second derivative, and constant gradients beside others: the graph survives the look around."""
    for loss in (Square.apply(PHI * THETA).sum(), PHI @ THETA - PHI.detach() @ THETA.square()):
        assert len(played(SimGD(), loss, loss)) == 2
    assert Game(lambda: (X.square().sum(), Y.sum()), [X], [Y]).jacobian().tolist() == [[-2, 0], [0, 0]]


def test_other_failures_are_not_renamed():
    with pytest.raises(RuntimeError, match="out of everything"):
        played(JARE(1.0, "generator"), PHI @ THETA, Failing.apply(PHI) @ THETA)
