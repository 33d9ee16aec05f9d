r"""A two-player game: its simultaneous gradient and the Jacobian of that, as products or dense.

Paper: "Towards a better understanding and regularization of GAN training dynamics" (JARE). With the generator's
parameters :math:`\phi`, the discriminator's :math:`\theta`, and a loss that each of them minimises,

.. math::
    v = -(\nabla_\phi l_G,\ \nabla_\theta l_D), \qquad
    A = \frac{\partial v}{\partial (\phi, \theta)} = -\begin{bmatrix}
        \nabla^2_{\phi\phi} l_G & \nabla^2_{\phi\theta} l_G \\ \nabla^2_{\theta\phi} l_D & \nabla^2_{\theta\theta} l_D
    \end{bmatrix}.

Simultaneous gradient descent adds :math:`\eta v`; a stable equilibrium is where v = 0 and the eigenvalues of A have
negative real parts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Union, get_args

import torch
from torch import Tensor

from pcgan_lightning.arguments import require_one_of
from pcgan_lightning.games.derivatives import depends_on, first_gradients, flat, require_differentiable
from pcgan_lightning.games.linearization import Linearization

Player = Literal["generator", "discriminator"]
PLAYERS: tuple[Player, Player] = ("generator", "discriminator")
Players = Literal["both", "generator", "discriminator"]


class Game:
    r"""Two losses of two sets of parameters.

    Vectors over all parameters are flat ``[size]``: the generator's first, each tensor flattened, in the order given.
    Parametrized layers (PC-layers, spectral norms) take part by their original parameters, as
    ``network.parameters()`` lists them. Their singular vectors are constants: the first derivatives are right whatever
    the weights, but the discriminator's own second derivatives are those with the vectors held, as in training.

    Args:
        losses: returns :math:`(l_G, l_D)`, two scalars, and the same ones whenever it is called with the same
            parameters: samples and dropout masks have to be fixed, and generated samples must not be detached.
        generator: :math:`\phi`, tensors that require grad.
        discriminator: :math:`\theta`, tensors that require grad.

    Attributes:
        sizes: how many numbers :math:`\phi` and :math:`\theta` hold.
        size: their sum.

    Raises:
        ValueError: for players without parameters, with ones that need no gradient, or that share some.

    Example:
        >>> x, y = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
        >>> game = Game.zero_sum(lambda: x * y, [x], [y])
        >>> game.update_direction()
        tensor([-2.,  1.])
        >>> game.jvp(torch.tensor([3.0, 5.0]))  # [[0, -1], [1, 0]] is the Jacobian
        tensor([-5.,  3.])
    """

    def __init__(
        self, losses: Callable[[], tuple[Tensor, Tensor]], generator: Sequence[Tensor], discriminator: Sequence[Tensor]
    ) -> None:
        self._losses = losses
        self.generator, self.discriminator = tuple(generator), tuple(discriminator)
        for name, parameters in zip(PLAYERS, (self.generator, self.discriminator), strict=True):
            if not parameters:
                raise ValueError(f"argument `{name}` must hold at least one parameter, got none")
            for i, parameter in enumerate(parameters):
                if not parameter.requires_grad:
                    raise ValueError(
                        f"argument `{name}` must hold tensors that require grad, got number {i} that does not"
                    )
        if {*map(id, self.generator)} & {*map(id, self.discriminator)}:
            raise ValueError("arguments `generator` and `discriminator` must share no parameter, got one in both")
        self.sizes = sum(p.numel() for p in self.generator), sum(p.numel() for p in self.discriminator)
        self.size = sum(self.sizes)

    @classmethod
    def zero_sum(
        cls, value: Callable[[], Tensor], generator: Sequence[Tensor], discriminator: Sequence[Tensor]
    ) -> "Game":
        r"""Return the game in which the generator minimises a scalar value, and the discriminator maximises it."""

        def losses() -> tuple[Tensor, Tensor]:
            found = value()
            return found, -found

        return cls(losses, generator, discriminator)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All parameters, the generator's first."""
        return self.generator + self.discriminator

    @torch.inference_mode(False)
    @torch.enable_grad()
    def losses(self) -> tuple[Tensor, Tensor]:
        """Return both losses, with their graphs whatever the grad mode around the call.

        Raises:
            ValueError: for losses that are not two scalars, or that depend on no parameter.
        """
        found = tuple(self._losses())
        if len(found) != 2 or any(not isinstance(loss, Tensor) or loss.numel() != 1 for loss in found):
            shapes = [tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__ for loss in found]
            raise ValueError(
                f"argument `losses` must return two scalars, got {', '.join(map(str, shapes)) or 'nothing'}"
            )
        for name, loss in zip(PLAYERS, found, strict=True):
            if not loss.requires_grad:
                raise ValueError(
                    f"argument `losses` must return losses that require grad, got a {name}'s that does not"
                )
        return found

    @torch.inference_mode(False)
    def gradients(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        r"""Return :math:`\nabla_\phi l_G` and :math:`\nabla_\theta l_D`, shaped as the parameters, without graphs.

        Raises:
            ValueError: for losses that are not two scalars, or do not depend on a parameter of their own player.
        """
        return self._gradients(*self.losses(), create_graph=False)

    def update_direction(self) -> Tensor:
        r"""Return :math:`v = -(\nabla_\phi l_G, \nabla_\theta l_D)`, the step of simultaneous gradient descent.

        Returns:
            ``[size]``, without a graph.
        """
        generator, discriminator = self.gradients()
        return -flat(generator + discriminator)

    def regularized(
        self,
        own: Union[float, Tensor] = 0.0,
        other: Union[float, Tensor] = 0.0,
        players: Players = "both",
    ) -> "Game":
        r"""Return the game whose simultaneous gradient descent is ConOpt's, JARE's, or between them.

        Each player's loss gets
        :math:`\tfrac12(\textit{own} \|\nabla_{\text{own}} l_{\text{own}}\|^2
        + \textit{other} \|\nabla_{\text{other}} l_{\text{other}}\|^2)`, differentiated by that player's parameters:
        JARE is ``other=gamma`` and ConOpt ``own=gamma, other=gamma``. The Jacobian of this game takes third
        derivatives of the losses, which autograd gives.

        Args:
            own: :math:`\ge 0`; a tensor is broadcast over each gradient, before the sum of its squares.
            other: the same.
            players: whose loss is regularised.

        Raises:
            ValueError: for a negative weight, or unknown players.
        """
        for name, weight in (("own", own), ("other", other)):
            if not torch.as_tensor(weight >= 0).all():
                raise ValueError(f"argument `{name}` must not be negative, got {weight}")
        require_one_of(get_args(Players), players=players)
        if not any(isinstance(weight, Tensor) or weight for weight in (own, other)):
            return self

        def losses() -> tuple[Tensor, Tensor]:
            found = self.losses()
            gradients = self._differentiable_gradients(*found)
            for name, weight in (("own", own), ("other", other)):
                for g in gradients[0] + gradients[1]:
                    if isinstance(weight, Tensor) and torch.broadcast_shapes(weight.shape, g.shape) != g.shape:
                        raise ValueError(
                            f"argument `{name}` must broadcast to every gradient, got shape {tuple(weight.shape)} for "
                            f"{tuple(g.shape)}"
                        )
            penalties = [
                # A weight of 0 would be differentiated all the same.
                sum((weight * g.square()).sum() / 2 for g in player) if isinstance(weight, Tensor) or weight else 0.0
                for player in gradients
                for weight in (own, other)
            ]
            generator_own, generator_other, discriminator_own, discriminator_other = penalties
            added = generator_own + discriminator_other, discriminator_own + generator_other
            generator_loss, discriminator_loss = (
                loss + penalty if players in ("both", player) else loss
                for player, loss, penalty in zip(PLAYERS, found, added, strict=True)
            )
            return generator_loss, discriminator_loss

        return Game(losses, self.generator, self.discriminator)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def linearize(self) -> "Linearization":
        """Return A at the present parameters, for many products from one evaluation of the losses.

        Raises:
            ValueError: as :meth:`gradients`, and for a loss whose gradient has no derivative where it should.
        """
        generator, discriminator = self._differentiable_gradients(*self.losses())
        return Linearization(-flat(generator + discriminator), self.parameters)

    def jvp(self, vector: Tensor) -> Tensor:
        """Return A u, see :meth:`Linearization.jvp`."""
        return self.linearize().jvp(vector)

    def vjp(self, vector: Tensor) -> Tensor:
        """Return A^T u, see :meth:`Linearization.vjp`."""
        return self.linearize().vjp(vector)

    def jacobian(self, max_parameters: int = 4096) -> Tensor:
        r"""Return A as a matrix, ``[size, size]``, the generator's block first.

        It takes one backward pass for each parameter.

        Args:
            max_parameters: the largest game to do that for.

        Raises:
            ValueError: for a larger game, before anything is computed; see also :meth:`linearize`.
        """
        if self.size > max_parameters:
            width = max(parameter.element_size() for parameter in self.parameters)
            raise ValueError(
                f"argument `max_parameters` must be at least the game's {self.size:,} parameters, got "
                f"{max_parameters:,}; the Jacobian would take {_bytes(self.size**2 * width)}"
            )
        return self.linearize().matrix()

    def _gradients(
        self, generator_loss: Tensor, discriminator_loss: Tensor, create_graph: bool
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        found: list[tuple[Tensor, ...]] = []
        for name, loss, parameters in zip(
            PLAYERS, (generator_loss, discriminator_loss), (self.generator, self.discriminator), strict=True
        ):
            # Both losses may share a graph, which the first must not free.
            gradients = first_gradients(loss, parameters, create_graph=create_graph, retain_graph=True)
            own: list[Tensor] = []
            for i, (gradient, parameter) in enumerate(zip(gradients, parameters, strict=True)):
                if gradient is None:
                    raise ValueError(
                        f"argument `{name}` must hold parameters that the {name}'s loss depends on, got number {i} "
                        f"of shape {tuple(parameter.shape)} that is not in its graph"
                    )
                own.append(gradient)
            found.append(tuple(own))
        return found[0], found[1]

    def _differentiable_gradients(
        self, generator_loss: Tensor, discriminator_loss: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the gradients with their graphs, if these tell the truth.

        Two mistakes would pass for derivatives of 0: a function that may be differentiated once only raises nothing
        where its error node is not on the way to a parameter; and a gradient that was cut off its graph looks like
        that of an affine loss, whose derivative rightly is 0.
        """
        found = self._gradients(generator_loss, discriminator_loss, create_graph=True)
        named = [(name, i, g) for name, gs in zip(PLAYERS, found, strict=True) for i, g in enumerate(gs)]
        require_differentiable(gradient for _, _, gradient in named)
        self._require_constant([entry for entry in named if not depends_on(entry[2], self.parameters)])
        return found

    def _require_constant(self, suspects: list[tuple[Player, int, Tensor]]) -> None:
        """Raise for a gradient that changes when the parameters do."""
        if not suspects:
            return
        source = torch.Generator().manual_seed(0)
        with put_back(self.parameters):
            for parameter in self.parameters:
                value = parameter.data  # so that autograd does not see it
                noise = torch.randn(value.shape, generator=source, dtype=torch.float64).to(value)
                value += torch.finfo(value.dtype).eps ** 0.5 * (1 + value.abs()) * noise
            moved = dict(zip(PLAYERS, self.gradients(), strict=True))
        for name, i, gradient in suspects:
            # Between rounding, eps, and the change of a smooth gradient, its square root.
            tolerance = torch.finfo(gradient.dtype).eps ** 0.75 * gradient.abs().max()
            if (moved[name][i] - gradient).abs().max() > tolerance:
                raise ValueError(
                    f"argument `losses` must be twice differentiable, got a gradient of the {name}'s parameter number "
                    f"{i} that changes with the parameters but was cut off their graph"
                )


@contextmanager
def put_back(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Give tensors their former values afterwards, unseen by autograd: graphs that hold them stay usable."""
    kept = [(tensor.data, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        for value, before in kept:
            value.copy_(before)


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
