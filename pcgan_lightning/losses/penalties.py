r"""Penalties on the discriminator: on its gradient by the input, exact for every sample, or on its weights."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pcgan_lightning.arguments import RecordsArguments, require_not_negative
from pcgan_lightning.spectra import d_optimal_penalty


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


class DOptimalPenalty(DiscriminatorPenalty):
    r"""The regularisation of the SVD baseline: `weight` times :func:`~pcgan_lightning.spectra.d_optimal_penalty`.

    It needs no images, and a discriminator under ``orthogonal_svd``, as the callback ``SVDParametrization`` makes it.

    Args:
        weight: not negative; 10 in the authors' code.
        spectrum_weight: :math:`\alpha \ge 0` of the logarithm of the singular values; 0.1 there.
    """

    def __init__(self, weight: float = 10.0, spectrum_weight: float = 0.1) -> None:
        super().__init__(weight)
        require_not_negative(spectrum_weight=spectrum_weight)
        self.spectrum_weight = spectrum_weight

    def __call__(self, discriminator: nn.Module, real: Tensor, fake: Tensor, mixing: Tensor) -> Tensor:
        """Return the weighted regularisation of all layers."""
        return self.weight * d_optimal_penalty(discriminator, self.spectrum_weight)


def gradient_norms(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Return for each image ``[N]`` the norm of its score's gradient, in at least float32, differentiable."""
    images = images.detach().requires_grad_(True)
    scores = discriminator(images)
    # The sum's gradient is each score's own, since no score depends on another's image.
    (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    wide = torch.promote_types(gradients.dtype, torch.float32)
    return torch.linalg.vector_norm(gradients.flatten(1).to(wide), dim=1)
