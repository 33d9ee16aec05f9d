r"""The PC-layer whose weight is divided by the norm of the convolution as an operator."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pcgan_lightning.spectra.convolutions.norms import convolution_norm, power_iterate, random_images, weight_gradient
from pcgan_lightning.spectra.convolutions.operator import ConvolutionOperator
from pcgan_lightning.spectra.matrices import MatrixLayout
from pcgan_lightning.spectra.pc_layer import Preconditioner
from pcgan_lightning.spectra.polynomials import Polynomial

START = 200  # iterations at most from a random start, until one changes the norm by less than 1e-5


class OperatorPreconditioner(Preconditioner):
    r"""Parametrization :math:`W \mapsto g(W / \tilde\sigma)`, :math:`\tilde\sigma` the norm of the convolution.

    As :class:`Preconditioner`, with feature maps u and v in the place of the singular vectors of the reshaped matrix.
    :math:`\tilde\sigma = u^\top W v` is linear in W, so that its gradient, found when u and v move, is all that forward
    needs of them. The polynomial acts on the reshaped matrix as before: for degrees above 1 the operator's singular
    values are not g of what they were.

    Args:
        weight: the weight tensor.
        layout: how the weight is read as matrices.
        polynomial: g.
        operator: of the convolution, on the images that it sees.
        held: whether :math:`\tilde\sigma` is a constant for the gradient, or differentiated.

    Attributes:
        u: the leading outputs, ``[out, *output_size]``, a buffer.
        v: the leading images, ``[in, *image_size]``, a buffer.
        gradient: of :math:`\tilde\sigma`, for each group, ``[groups, rows, cols]``, a buffer.
        held: whether it is held; saved in a buffer, `held_norm`.
    """

    gradient: Tensor
    held_norm: Tensor

    def __init__(
        self,
        weight: Tensor,
        layout: MatrixLayout,
        polynomial: Polynomial,
        operator: ConvolutionOperator,
        held: bool = False,
    ) -> None:
        super().__init__(weight, layout, polynomial)
        self.operator = operator
        self.held = held
        self.register_buffer("gradient", torch.zeros_like(self.matrices(weight.detach())))
        self.register_buffer("held_norm", torch.tensor(held))
        exact = weight.detach().to(self.gradient.dtype)
        v, before = random_images(exact, operator), 0.0
        for _ in range(START):
            _, v, sigma = power_iterate(exact, operator, v)
            if sigma.item() <= (1 + 1e-5) * before:
                break
            before = sigma.item()
        self.u = torch.zeros(weight.shape[0], *operator.output_size, dtype=v.dtype, device=v.device)
        self.v = v
        self.iterate(weight)

    def spectral_norm(self, matrices: Tensor) -> Tensor:
        r"""Return the estimate :math:`\max_{groups} u^\top W v` of the operator's norm, a scalar."""
        norm = (self.gradient.to(matrices.dtype) * matrices).sum((1, 2)).amax()
        return norm.detach() if self.held else norm

    @torch.no_grad()
    def exact_norm(self, weight: Tensor) -> Tensor:
        """Return what :meth:`spectral_norm` estimates, the norm of the convolution on images, a scalar."""
        return convolution_norm(weight, self.operator)

    def hold(self, held: bool) -> None:
        """Make the norm a constant for the gradient, or not."""
        self.held = held
        self.held_norm.fill_(held)

    @torch.no_grad()
    def iterate(self, weight: Tensor, iterations: int = 1) -> None:
        """Move u and v by power iterations on feature maps, and the gradient with them, in place."""
        exact = weight.detach().to(self.gradient.dtype)
        u, v, _ = power_iterate(exact, self.operator, self.v.to(exact.dtype), iterations)
        self.u.copy_(u)
        self.v.copy_(v)
        self.gradient.copy_(self.matrices(weight_gradient(self.operator, exact, u, v)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = self.gradient
        super()._apply(fn, recurse)
        if self.gradient.dtype.itemsize < 4:  # as for u and v
            self.gradient = before.to(self.gradient.device)
        return self
