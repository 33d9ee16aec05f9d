r"""Penalties on the gradient of the discriminator with respect to its input, exact for every sample."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pcgan_lightning.arguments import RecordsArguments, require_not_negative


class DiscriminatorPenalty(RecordsArguments, ABC):
    r"""A term that is added to the discriminator's loss.

    Args:
        weight: its factor, not negative.
    """

    def __init__(self, weight: float) -> None:
        require_not_negative(weight=weight)
        self.weight = weight

    @abstractmethod
    def __call__(self, discriminator: nn.Module, real: Tensor, fake: Tensor, mixing: Tensor) -> Tensor:
        """Return the weighted penalty, a scalar whose gradient reaches the discriminator's parameters.

        Args:
            discriminator: images -> raw scores ``[N]``, each of which depends on its own image alone (no batch
                normalisation).
            real: real images ``[N, ...]``.
            fake: generated images of the same shape.
            mixing: uniform random numbers in [0, 1), ``[N]``.
        """


class GradientPenalty(DiscriminatorPenalty):
    r"""WGAN-GP: :math:`\lambda\, E[(\|\nabla_{\hat x} D(\hat x)\|_2 - 1)^2]` (Gulrajani et al., 2017, Equation 3).

    :math:`\hat x = \alpha x + (1 - \alpha) G(z)` with one uniform :math:`\alpha` for each pair. The norm is that of
    each sample's own gradient: a critic whose gradient has norm 1 everywhere is not penalised, whatever the batch.

    Args:
        weight: :math:`\lambda \ge 0`.
    """

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__(weight)

    def __call__(self, discriminator: nn.Module, real: Tensor, fake: Tensor, mixing: Tensor) -> Tensor:
        """Return the weighted mean of (norm - 1)^2."""
        shares = mixing.view(-1, *[1] * (real.dim() - 1)).to(real)
        mixed = shares * real + (1 - shares) * fake
        return self.weight * (gradient_norms(discriminator, mixed) - 1).square().mean()


class R1Penalty(DiscriminatorPenalty):
    r"""R1: :math:`\frac{\gamma}{2} E[\|\nabla_x D(x)\|_2^2]` on real images (Mescheder et al., 2018, Equation 9).

    Args:
        weight: :math:`\gamma \ge 0`.
    """

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__(weight)

    def __call__(self, discriminator: nn.Module, real: Tensor, fake: Tensor, mixing: Tensor) -> Tensor:
        """Return half the weighted mean of the squared norms."""
        return self.weight / 2 * gradient_norms(discriminator, real).square().mean()


def gradient_norms(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Return for each image ``[N]`` the norm of its score's gradient, in at least float32, differentiable."""
    images = images.detach().requires_grad_(True)
    scores = discriminator(images)
    # The sum's gradient is each score's own, since no score depends on another's image.
    (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    wide = torch.promote_types(gradients.dtype, torch.float32)
    return torch.linalg.vector_norm(gradients.flatten(1).to(wide), dim=1)
