"""Where both players of a game stand, as a method of playing sees it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor
from torch.optim import Optimizer

from pcgan_lightning.games.derivatives import depends_on, first_gradients, require_differentiable
from pcgan_lightning.games.game import PLAYERS, put_back

Gradients = tuple[Tensor, ...]
Directions = tuple[Gradients, Gradients]
Losses = tuple[Tensor, Tensor]
Mean = Callable[[Gradients], Gradients]
LookAhead = Callable[[Directions], AbstractContextManager[Losses]]


@dataclass(frozen=True)
class Point:
    """Both losses at one point, the generator's first throughout.

    Attributes:
        losses: scalars with graphs.
        parameters: of both players.
        mean: function that returns the means of tensors over all processes.
        look_ahead: see :class:`GameMethod`.

    Raises:
        ValueError: for losses that are no scalars.
    """

    losses: Losses
    parameters: tuple[Gradients, Gradients]
    mean: Mean
    look_ahead: Optional[LookAhead] = None

    def __post_init__(self) -> None:
        for name, loss in zip(PLAYERS, self.losses, strict=True):
            if loss.numel() != 1:
                raise ValueError(f"argument `{name}_loss` must be a scalar, got shape {tuple(loss.shape)}")

    def names(self, *players: int) -> str:
        """Return what messages call the losses of players."""
        return " or ".join(f"`{PLAYERS[player]}_loss`" for player in players)

    def graphs(self, differentiable: Collection[int] = ()) -> Directions:
        """Return this process's gradients, zero where a loss does not depend on a parameter.

        Args:
            differentiable: the players whose gradients come with their graphs. With any, the losses' graph is kept.
        """
        # The generator's pass leaves the graph to the discriminator's, and both to those that follow.
        generator = self._gradients(0, retain_graph=True, create_graph=0 in differentiable)
        return generator, self._gradients(1, retain_graph=bool(differentiable), create_graph=1 in differentiable)

    def means(self, graphs: Directions) -> Directions:
        """Return gradients without their graphs, as means over all processes."""
        generator, discriminator = (self.mean(tuple(gradient.detach() for gradient in own)) for own in graphs)
        return generator, discriminator

    def gradients(self) -> Directions:
        """Return both players' gradients, detached, as means over all processes."""
        return self.means(self.graphs())

    @contextmanager
    def ahead(self, directions: Directions) -> Iterator["Point"]:
        """Give the point that a step along some directions leads to; the players stand there within the context."""
        if self.look_ahead is None:
            raise ValueError("argument `look_ahead` must be given for a method that needs the losses ahead, got None")
        with self.look_ahead(directions) as losses:
            yield Point(losses, self.parameters, self.mean)

    def split(self, vector: Tensor) -> Directions:
        """Return a vector over all parameters in pieces shaped as they are."""
        flat = [p for own in self.parameters for p in own]
        pieces = [piece.view_as(p) for piece, p in zip(vector.split([p.numel() for p in flat]), flat, strict=True)]
        count = len(self.parameters[0])
        return tuple(pieces[:count]), tuple(pieces[count:])

    def require_second_derivatives(self, graphs: Directions, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Refuse gradients that have no derivative by the other player's parameters, or none that autograd knows.

        Raises:
            ValueError: naming the loss.
        """
        for source, target in ((s, t) for s in sources for t in targets if s != t):
            if not any(depends_on(gradient, self.parameters[target]) for gradient in graphs[source]):
                require_differentiable(graphs[source], self.names(source))
                raise ValueError(
                    f"argument {self.names(source)} must have a gradient that depends on "
                    f"`{PLAYERS[target]}_parameters`, got none that does, as of generated samples that are detached"
                )
        require_differentiable((g for s in sources for g in graphs[s]), self.names(*sources))

    def _gradients(self, player: int, *, retain_graph: bool, create_graph: bool) -> Gradients:
        name, loss, parameters = PLAYERS[player], self.losses[player], self.parameters[player]
        if not all(p.requires_grad for p in parameters):
            raise ValueError(f"argument `{name}_parameters` must require gradients, got some that do not")
        gradients: Sequence[Optional[Tensor]] = ()
        if loss.requires_grad and parameters:
            gradients = first_gradients(
                loss, parameters, self.names(player), create_graph=create_graph, retain_graph=retain_graph
            )
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                f"argument `{name}_loss` must depend on `{name}_parameters`, got none of the {len(parameters)} in its "
                "graph"
            )
        return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True))


@contextmanager
def trial_step(
    directions: Directions,
    players: Sequence[Sequence[Tensor]],
    optimizers: Sequence[Optimizer],
    losses: Callable[[], Losses],
    buffers: Iterable[Tensor] = (),
) -> Iterator[Losses]:
    """Give both losses after a step of both optimizers, and put parameters and buffers back afterwards.

    What the optimizers remember of the step (moments, counts) stays.

    Args:
        directions: of both players, shaped as their parameters, which get them as their ``grad``.
        players: the parameters of generator and discriminator.
        optimizers: of both.
        losses: function that returns both losses at the present parameters.
        buffers: of the networks: statistics and singular vectors, which the step or the losses move.
    """
    with put_back([*players[0], *players[1], *buffers]):
        for parameters, gradients, optimizer in zip(players, directions, optimizers, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        yield losses()
