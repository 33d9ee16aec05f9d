r"""What both players descend along from one point: SimGD, ConOpt, JARE, SGA, ExtraGradient.

:math:`\phi` are the generator's parameters, :math:`\theta` the discriminator's. Each player minimises a loss of its
own, :math:`l_G(\phi, \theta)` and :math:`l_D(\phi, \theta)`; the papers' f of a zero-sum game is :math:`l_G = -l_D`.
:math:`\xi = (\nabla_\phi l_G, \nabla_\theta l_D)` and J is its Jacobian. Squared norms run over all parameters of a
player.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Optional, get_args

import torch
from torch import Tensor
from typing_extensions import override

from pcgan_lightning.arguments import RecordsArguments, require_not_negative, require_one_of, require_positive
from pcgan_lightning.games.derivatives import (
    flat,
    gradients_of,
    missing_derivative,
)
from pcgan_lightning.games.game import PLAYERS, Game, Players
from pcgan_lightning.games.linearization import Linearization
from pcgan_lightning.games.point import Gradients, LookAhead, Mean, Point


class GameMethod(RecordsArguments, ABC):
    """What each player descends along, from both losses at one point; subclasses define :meth:`directions`.

    PC-layers and spectral norms count as in training, with their singular vectors held: what one player's gradient owes
    to the other's parameters is exact, what it owes to its own leaves out how the vectors would move.
    """

    def __init__(self) -> None:
        """Take no arguments."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.init_args.items())})"

    @property
    def twice_differentiated(self) -> bool:
        """Whether gradients are differentiated again."""
        return False

    def regularized(self, game: Game) -> Game:
        """Return the game whose simultaneous gradient is what this method descends along; `game` if there is none."""
        return game

    @abstractmethod
    def directions(self, point: Point) -> tuple[Gradients, Gradients]:
        """Return what both players descend along, detached, shaped as their parameters."""

    def __call__(
        self,
        generator_loss: Tensor,
        discriminator_loss: Tensor,
        generator_parameters: Iterable[Tensor],
        discriminator_parameters: Iterable[Tensor],
        mean_over_processes: Mean = lambda gradients: gradients,
        look_ahead: Optional[LookAhead] = None,
    ) -> tuple[Gradients, Gradients]:
        """Return the gradients that the players descend along, detached, one for each of their parameters.

        The losses' graph is used up, as by ``backward()``. A parameter that a derivative does not reach (a last bias,
        say, in a mixed one) counts as zero there.

        Args:
            generator_loss: scalar with a graph, minimised by the generator.
            discriminator_loss: the same of the discriminator; the two may share their graph.
            generator_parameters: floating tensors that require gradients.
            discriminator_parameters: the same of the discriminator.
            mean_over_processes: function that returns the means of tensors over all processes, where each has a part
                of the batch. A squared norm is not linear in the batch: it needs the whole batch's gradient.
            look_ahead: function of both players' directions that returns a context, in which the parameters are those
                after a step along them, and which gives both losses there; such as :func:`trial_step` with its other
                arguments. Methods that stay at one point do not need it.

        Raises:
            ValueError: for parameters that do not require gradients, a loss that depends on none of its player's,
                second derivatives that are needed and missing, or a missing `look_ahead`.
        """
        players = tuple(generator_parameters), tuple(discriminator_parameters)
        return self.directions(Point((generator_loss, discriminator_loss), players, mean_over_processes, look_ahead))


class SimGD(GameMethod):
    r"""Simultaneous gradient descent: :math:`\xi`, both gradients at the same point."""

    def directions(self, point: Point) -> tuple[Gradients, Gradients]:
        """Return the gradients."""
        return point.gradients()


class ExtraGradient(GameMethod):
    r"""Extrapolation: :math:`\xi(\omega')` at the point :math:`\omega'` that a step along :math:`\xi(\omega)` leads to.

    Gidel et al., "A variational inequality perspective on generative adversarial networks", 2019, Algorithms 2 and 4.
    The step to :math:`\omega'` is one of the players' own optimizers, of their learning rates; their states (moments,
    numbers of steps) go through both steps, as in the paper's ExtraAdam. Both gradients are of the same samples, where
    the paper draws new ones. Parameters and buffers are those of :math:`\omega` again before the update.
    """

    def directions(self, point: Point) -> tuple[Gradients, Gradients]:
        """Return the gradients at the point ahead."""
        with point.ahead(point.gradients()) as ahead:
            return ahead.gradients()


class SymplecticGradientAdjustment(GameMethod):
    r"""SGA: :math:`\xi + \lambda A^\top \xi` with :math:`A = (J - J^\top)/2`, the part of J that makes players rotate.

    Balduzzi et al., "The mechanics of n-player differentiable games", 2018, Algorithm 1.

    Args:
        strength: :math:`|\lambda| > 0`; in a zero-sum game a positive :math:`\lambda` is JARE's :math:`\gamma`.
        align: whether the sign is that of :math:`\langle\xi, J^\top\xi\rangle \langle A^\top\xi, J^\top\xi\rangle / d +
            1/10` with d parameters: towards stable points, away from unstable ones. Otherwise it is positive.
    """

    def __init__(self, strength: float = 1.0, align: bool = True) -> None:
        require_positive(strength=strength)
        self.strength, self.align = strength, align

    @property
    @override
    def twice_differentiated(self) -> bool:
        return True

    def directions(self, point: Point) -> tuple[Gradients, Gradients]:
        """Return the adjusted gradients."""
        graphs = point.graphs(differentiable=(0, 1))
        point.require_second_derivatives(graphs, (0, 1), (0, 1))
        xi = flat(sum(point.means(graphs), ()))
        jacobian = Linearization(flat(sum(graphs, ())), sum(point.parameters, ()), point.names(0, 1))
        transposed, forward = point.mean((jacobian.vjp(xi), jacobian.jvp(xi)))
        adjustment = (transposed - forward) / 2
        sign = torch.sign((xi @ transposed) * (adjustment @ transposed) / len(xi) + 0.1) if self.align else 1.0
        return point.split(xi + self.strength * sign * adjustment)


class GradientPass(NamedTuple):
    r"""One backward pass through gradients, of :math:`\frac12 \sum_s \|\nabla_s l_s\|^2` over the sources s.

    Attributes:
        sources: whose squared gradients, by index: 0 the generator, 1 the discriminator.
        targets: by whose parameters they are differentiated.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]


class SquaredGradientMethod(GameMethod):
    r"""Base of the methods that add :math:`\frac\gamma2 \|\nabla l\|^2` of some players to losses; by double backward.

    No squared norm is formed: the gradient of :math:`\frac12 \|g\|^2` is g, held constant, times g's Jacobian.

    Args:
        gamma: :math:`\gamma \ge 0`, the regulariser's factor; with 0 nothing is differentiated twice.
        players: whose gradient gets the regulariser: "both", "generator" or "discriminator".

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(self, gamma: float = 10.0, players: Players = "both") -> None:
        require_not_negative(gamma=gamma)
        require_one_of(get_args(Players), players=players)
        self.gamma = gamma
        self.players = players

    @property
    def twice_differentiated(self) -> bool:
        """Whether there is a regulariser."""
        return self.gamma > 0

    @property
    def targets(self) -> tuple[int, ...]:
        """The players whose gradients get the regulariser, by index."""
        return (0, 1) if self.players == "both" else (PLAYERS.index(self.players),)

    @abstractmethod
    def passes(self) -> Sequence[GradientPass]:
        """Return the backward passes through gradients that the regulariser takes."""

    def directions(self, point: Point) -> tuple[Gradients, Gradients]:
        """Return the gradients plus gamma times those of the halves of squared gradients."""
        passes = self.passes() if self.twice_differentiated else ()
        graphs = point.graphs(differentiable={source for sources, _ in passes for source in sources})
        first = point.means(graphs)
        total = list(first)
        for number, (sources, targets) in enumerate(passes, start=1):
            point.require_second_derivatives(graphs, sources, targets)
            pairs = [pair for s in sources for pair in zip(graphs[s], first[s], strict=True) if pair[0].requires_grad]
            products = _products(
                pairs, [point.parameters[t] for t in targets], number < len(passes), point.names(*sources)
            )
            for target, own in zip(targets, products, strict=True):
                if all(product is None for product in own):
                    reached = f"none that reaches `{PLAYERS[target]}_parameters`"
                    raise missing_derivative(point.names(*sources), reached)
                means = iter(point.mean(tuple(product for product in own if product is not None)))
                total[target] = tuple(
                    gradient if product is None else gradient.add(next(means), alpha=self.gamma)
                    for gradient, product in zip(first[target], own, strict=True)
                )
        return total[0], total[1]


class ConOpt(SquaredGradientMethod):
    r"""Consensus optimisation: each player gets the gradient of both squared gradients.

    .. math::
        \nabla_\phi l_G + \tfrac{\gamma}{2} \nabla_\phi (\|\nabla_\phi l_G\|^2 + \|\nabla_\theta l_D\|^2), \qquad
        \nabla_\theta l_D + \tfrac{\gamma}{2} \nabla_\theta (\|\nabla_\phi l_G\|^2 + \|\nabla_\theta l_D\|^2)

    Mescheder et al., "The numerics of GANs", 2017, Section 4. One pass through the gradients serves both players.

    Args:
        gamma: :math:`\gamma \ge 0`.
        players: whose gradient gets the regulariser: "both", "generator" or "discriminator".
    """

    def passes(self) -> Sequence[GradientPass]:
        """Return one pass, of the sum of both."""
        return [GradientPass((0, 1), self.targets)]

    def regularized(self, game: Game) -> Game:
        """Return the game with both squared gradients in the losses."""
        return game.regularized(self.gamma, self.gamma, self.players)


class JARE(SquaredGradientMethod):
    r"""Jacobian regularisation: each player gets the gradient of the other's squared gradient alone.

    .. math::
        \nabla_\phi l_G + \tfrac{\gamma}{2} \nabla_\phi \|\nabla_\theta l_D\|^2, \qquad
        \nabla_\theta l_D + \tfrac{\gamma}{2} \nabla_\theta \|\nabla_\phi l_G\|^2

    Nie and Patel, "Towards a better understanding and regularization of GAN training dynamics", 2019, the updates
    before Theorem 3. No player needs second derivatives by its own parameters alone.

    Args:
        gamma: :math:`\gamma \ge 0`.
        players: whose gradient gets the regulariser: "both", "generator" or "discriminator".
    """

    def passes(self) -> Sequence[GradientPass]:
        """Return one pass for each regularised player, by its own parameters alone."""
        return [GradientPass((1 - target,), (target,)) for target in self.targets]

    def regularized(self, game: Game) -> Game:
        """Return the game with the other's squared gradient in each loss."""
        return game.regularized(0.0, self.gamma, self.players)


def _products(
    pairs: Sequence[tuple[Tensor, Tensor]], parameters: Sequence[Gradients], retain_graph: bool, names: str
) -> list[tuple[Optional[Tensor], ...]]:
    """Return for each target the derivatives of gradients along their values, pairs of (with graph, value)."""
    inputs = [p for own in parameters for p in own]
    products: Sequence[Optional[Tensor]] = [None] * len(inputs)
    if pairs:
        graphs, values = zip(*pairs, strict=True)
        products = gradients_of(graphs, inputs, values, names, retain_graph=retain_graph)
    remaining = iter(products)
    return [tuple(islice(remaining, len(own))) for own in parameters]
