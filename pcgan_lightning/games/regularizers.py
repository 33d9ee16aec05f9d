r"""Both players' gradients at the same point, alone or regularised: SimGD, ConOpt, JARE.

:math:`\phi` are the generator's parameters, :math:`\theta` the discriminator's. Each player minimises a loss of its
own, :math:`l_G(\phi, \theta)` and :math:`l_D(\phi, \theta)`; the paper's f of a zero-sum game is
:math:`l_G = -l_D`. Squared norms run over all parameters of a player.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, Optional

import torch
from torch import Tensor

from pcgan_lightning.games.game import PLAYERS, Game
from pcgan_lightning.games.linearization import NO_SECOND_DERIVATIVE, depends_on, holds_error

Players = Literal["both", "generator", "discriminator"]
Gradients = tuple[Tensor, ...]


class GradientPass(NamedTuple):
    r"""One backward pass through gradients, of :math:`\frac12 \sum_s \|\nabla_s l_s\|^2` over the sources s.

    Attributes:
        sources: whose squared gradients, by index: 0 the generator, 1 the discriminator.
        targets: by whose parameters they are differentiated.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]


class GameMethod(ABC):
    r"""What each player descends along, from both losses at one point; exact, by double backward.

    No squared norm is formed: the gradient of :math:`\frac12 \|g\|^2` is g, held constant, times g's Jacobian.
    PC-layers and spectral norms count as in training, with their singular vectors held: what one player's gradient owes
    to the other's parameters is exact, what it owes to its own (ConOpt) leaves out how the vectors would move.

    Args:
        gamma: :math:`\gamma \ge 0`, the regulariser's factor; with 0 nothing is differentiated twice.
        players: whose gradient gets the regulariser: "both", "generator" or "discriminator".

    Attributes:
        init_args: the constructor's arguments; checkpoints keep them.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(self, gamma: float, players: Players = "both") -> None:
        if not gamma >= 0.0:
            raise ValueError(f"argument `gamma` must not be negative, got {gamma}")
        if players not in ("both", *PLAYERS):
            raise ValueError(f"argument `players` must be 'both', 'generator' or 'discriminator', got {players!r}")
        self.gamma = gamma
        self.players = players
        self.init_args: dict[str, Any] = {"gamma": gamma, "players": players}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.init_args.items())})"

    @property
    def targets(self) -> tuple[int, ...]:
        """The players whose gradients get the regulariser, by index."""
        return (0, 1) if self.players == "both" else (PLAYERS.index(self.players),)

    @abstractmethod
    def passes(self) -> Sequence[GradientPass]:
        """Return the backward passes through gradients that the regulariser takes."""

    @abstractmethod
    def regularized(self, game: Game) -> Game:
        """Return the game whose simultaneous gradient is what this method descends along."""

    def __call__(
        self,
        generator_loss: Tensor,
        discriminator_loss: Tensor,
        generator_parameters: Iterable[Tensor],
        discriminator_parameters: Iterable[Tensor],
        mean_over_processes: Callable[[Gradients], Gradients] = lambda gradients: gradients,
    ) -> tuple[Gradients, Gradients]:
        """Return the gradients that the players descend along, detached, one for each of their parameters.

        The losses' graph is freed, as by ``backward()``; no ``grad`` attribute is touched. A parameter that a
        derivative does not reach (a last bias, say, in a mixed one) counts as zero there.

        Args:
            generator_loss: scalar with a graph, minimised by the generator.
            discriminator_loss: the same of the discriminator; the two may share their graph.
            generator_parameters: floating tensors that require gradients.
            discriminator_parameters: the same of the discriminator.
            mean_over_processes: function that returns the means of tensors over all processes, where each has a part
                of the batch. A squared norm is not linear in the batch: it needs the whole batch's gradient.

        Raises:
            ValueError: for parameters that do not require gradients, a loss that depends on none of its player's, or
                second derivatives that are needed and missing.
        """
        losses = generator_loss, discriminator_loss
        for name, loss in zip(PLAYERS, losses, strict=True):
            if loss.numel() != 1:
                raise ValueError(f"argument `{name}_loss` must be a scalar, got shape {tuple(loss.shape)}")
        parameters = tuple(generator_parameters), tuple(discriminator_parameters)
        passes = self.passes() if self.gamma > 0 else ()
        twice = {source for sources, _ in passes for source in sources}
        graphs = [
            # The generator's pass leaves the graph to the discriminator's, and both to those that follow.
            _first_gradients(i, losses[i], parameters[i], retain_graph=i == 0 or bool(passes), create_graph=i in twice)
            for i in (0, 1)
        ]
        first = [mean_over_processes(tuple(gradient.detach() for gradient in gradients)) for gradients in graphs]
        total = list(first)
        for number, (sources, targets) in enumerate(passes, start=1):
            for source, target in ((s, t) for s in sources for t in targets if s != t):
                if not any(depends_on(gradient, parameters[target]) for gradient in graphs[source]):
                    _check_differentiable(graphs[source], (source,))
                    raise ValueError(
                        f"argument `{PLAYERS[source]}_loss` must have a gradient that depends on "
                        f"`{PLAYERS[target]}_parameters`, got none that does; generated samples must not be detached"
                    )
            pairs = [pair for s in sources for pair in zip(graphs[s], first[s], strict=True) if pair[0].requires_grad]
            products = _products(pairs, [parameters[t] for t in targets], number < len(passes), sources)
            for target, own in zip(targets, products, strict=True):
                if all(product is None for product in own):
                    raise _no_second_derivatives(sources, f"none that reaches `{PLAYERS[target]}_parameters`")
                means = iter(mean_over_processes(tuple(product for product in own if product is not None)))
                total[target] = tuple(
                    gradient if product is None else gradient.add(next(means), alpha=self.gamma)
                    for gradient, product in zip(first[target], own, strict=True)
                )
        return total[0], total[1]


class SimGD(GameMethod):
    r"""Simultaneous gradient descent: :math:`(\nabla_\phi l_G, \nabla_\theta l_D)`, both at the same point."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.init_args = {}

    def passes(self) -> Sequence[GradientPass]:
        """Return none."""
        return ()

    def regularized(self, game: Game) -> Game:
        """Return the game itself."""
        return game


class ConOpt(GameMethod):
    r"""Consensus optimisation: each player gets the gradient of both squared gradients.

    .. math::
        \nabla_\phi l_G + \tfrac{\gamma}{2} \nabla_\phi (\|\nabla_\phi l_G\|^2 + \|\nabla_\theta l_D\|^2), \qquad
        \nabla_\theta l_D + \tfrac{\gamma}{2} \nabla_\theta (\|\nabla_\phi l_G\|^2 + \|\nabla_\theta l_D\|^2)

    Mescheder et al., "The numerics of GANs", 2017, Section 4. One pass through the gradients serves both players.

    Args:
        gamma: :math:`\gamma \ge 0`.
        players: whose gradient gets the regulariser: "both", "generator" or "discriminator".
    """

    def __init__(self, gamma: float = 10.0, players: Players = "both") -> None:
        super().__init__(gamma, players)

    def passes(self) -> Sequence[GradientPass]:
        """Return one pass, of the sum of both."""
        return [GradientPass((0, 1), self.targets)]

    def regularized(self, game: Game) -> Game:
        """Return the game with both squared gradients in the losses."""
        return game.regularized(self.gamma, self.gamma, self.players)


class JARE(GameMethod):
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

    def __init__(self, gamma: float = 10.0, players: Players = "both") -> None:
        super().__init__(gamma, players)

    def passes(self) -> Sequence[GradientPass]:
        """Return one pass for each regularised player, by its own parameters alone."""
        return [GradientPass((1 - target,), (target,)) for target in self.targets]

    def regularized(self, game: Game) -> Game:
        """Return the game with the other's squared gradient in each loss."""
        return game.regularized(0.0, self.gamma, self.players)


def _first_gradients(
    player: int, loss: Tensor, parameters: Gradients, retain_graph: bool, create_graph: bool
) -> Gradients:
    """Return a loss's gradients by its own player's parameters, zero where it does not depend on one."""
    name = PLAYERS[player]
    if not all(p.requires_grad for p in parameters):
        raise ValueError(f"argument `{name}_parameters` must require gradients, got some that do not")
    gradients: Sequence[Optional[Tensor]] = ()
    if loss.requires_grad and parameters:
        # Only if what comes in requires a gradient does a function without a second derivative leave a mark.
        seed = torch.ones_like(loss, requires_grad=True) if create_graph else None
        gradients = torch.autograd.grad(
            loss, parameters, seed, retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
        )
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            f"argument `{name}_loss` must depend on `{name}_parameters`, got none of the {len(parameters)} in its graph"
        )
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True))


def _products(
    pairs: Sequence[tuple[Tensor, Tensor]],
    parameters: Sequence[Gradients],
    retain_graph: bool,
    sources: tuple[int, ...],
) -> list[tuple[Optional[Tensor], ...]]:
    """Return for each target the derivatives of gradients along their values, pairs of (with graph, value)."""
    inputs = [p for own in parameters for p in own]
    products: Sequence[Optional[Tensor]] = [None] * len(inputs)
    if pairs:
        graphs, values = zip(*pairs, strict=True)
        _check_differentiable(graphs, sources)
        try:
            products = torch.autograd.grad(graphs, inputs, values, retain_graph=retain_graph, allow_unused=True)
        except RuntimeError as error:
            if not NO_SECOND_DERIVATIVE.search(str(error)):
                raise
            raise _no_second_derivatives(sources, str(error).splitlines()[0]) from error
    remaining = iter(products)
    return [tuple(islice(remaining, len(own))) for own in parameters]


def _check_differentiable(gradients: Iterable[Tensor], sources: tuple[int, ...]) -> None:
    """Refuse gradients of a function marked with ``once_differentiable``.

    Its mark leads to no parameter, so that ``torch.autograd.grad`` would pass it by and count the function as constant.
    """
    if holds_error([gradient.grad_fn for gradient in gradients]):
        raise _no_second_derivatives(sources, "a function marked with `once_differentiable`")


def _no_second_derivatives(sources: tuple[int, ...], found: str) -> ValueError:
    names = " or ".join(f"`{PLAYERS[source]}_loss`" for source in sources)
    return ValueError(f"argument {names} must have second derivatives, got {found}")
