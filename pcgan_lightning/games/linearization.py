"""The Jacobian of a vector by parameters as a linear map."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from pcgan_lightning.games.derivatives import flat, gradients_of, require_differentiable


class Linearization:
    """The Jacobian A of a vector at one point, as a linear map; :meth:`Game.linearize` makes that of a game.

    It keeps the graphs of the gradient and of the transposed product, so that each product is one backward pass. It
    ends with the next change of the parameters in place.

    Args:
        direction: v, ``[rows]``, with its graph: the update direction of a game, or the scores of samples.
        parameters: all of them; in v's order where v is a game's.
        names: of the arguments that are wrong where a second derivative is missing.
        unchecked: whether v may come from a function marked with ``once_differentiable``, whose Jacobian would count as
            0; the gradients of a game have been looked through before.
    """

    def __init__(
        self, direction: Tensor, parameters: Sequence[Tensor], names: str = "`losses`", *, unchecked: bool = False
    ) -> None:
        self._direction = direction
        self._parameters = tuple(parameters)
        self._names = names
        self._unchecked = unchecked
        self._cotangent: Optional[Tensor] = None

    @property
    def direction(self) -> Tensor:
        """The vector v, ``[rows]``, without its graph."""
        return self._direction.detach()

    @torch.inference_mode(False)
    @torch.enable_grad()
    def vjp(self, vector: Tensor, create_graph: bool = False) -> Tensor:
        """Return A^T u, one number for each of the parameters'.

        Args:
            vector: u, ``[rows]``.
            create_graph: whether the product is to be differentiated.

        Raises:
            ValueError: for a vector of another shape, or losses without second derivatives.
        """
        return self._pull(self._checked(vector, len(self._direction)), create_graph)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def jvp(self, vector: Tensor) -> Tensor:
        r"""Return A u, by differentiating :math:`c \mapsto A^T c`, which is linear, in the direction u.

        That is reverse mode twice. Forward mode would need every operation of the losses to have a forward formula,
        and the parameters as arguments of the losses; this works with any loss that has second derivatives.

        Args:
            vector: u, one number for each of the parameters'.

        Raises:
            ValueError: for a vector of another shape, or losses without second derivatives.
        """
        vector = self._checked(vector, sum(p.numel() for p in self._parameters))
        if not self._direction.requires_grad:
            return torch.zeros_like(self._direction)
        if self._cotangent is None:
            self._cotangent = torch.zeros_like(self._direction, requires_grad=True)
            self._pulled = self._pull(self._cotangent, create_graph=True)
            if self._unchecked:
                require_differentiable([self._pulled], self._names)
        if not self._pulled.requires_grad:  # v depends on none of the parameters
            return torch.zeros_like(self._direction)
        (product,) = gradients_of(self._pulled, (self._cotangent,), vector, self._names, retain_graph=True)
        return torch.zeros_like(self._direction) if product is None else product

    def matrix(self) -> Tensor:
        """Return A, ``[size, size]``, row by row."""
        return torch.stack([self.vjp(row) for row in torch.eye(len(self._direction)).to(self._direction)])

    def _pull(self, vector: Tensor, create_graph: bool) -> Tensor:
        if not self._direction.requires_grad:  # v is constant
            return flat([torch.zeros_like(p) for p in self._parameters])
        found = gradients_of(
            self._direction, self._parameters, vector, self._names, create_graph=create_graph, retain_graph=True
        )
        pieces = zip(found, self._parameters, strict=True)
        return flat([torch.zeros_like(p) if piece is None else piece for piece, p in pieces])

    def _checked(self, vector: Tensor, size: int) -> Tensor:
        if vector.shape != (size,):
            raise ValueError(f"argument `vector` must have shape {(size,)}, got {tuple(vector.shape)}")
        return vector.to(self._direction)
