r"""What the two players minimise, as functions of the discriminator's raw scores.

Throughout, :math:`x` is real, :math:`G(z)` is fake, :math:`D` returns a raw score (no sigmoid) and the
expectations are means over the batch.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from pcgan_lightning.arguments import RecordsArguments


class AdversarialLoss(RecordsArguments, ABC):
    r"""A pair of losses :math:`(L_D, L_G)`, each minimised by its own player.

    A subclass has no state. Scores may have any shape and any floating dtype:
    the mean runs over all their elements, in float32 or, for float64 scores, in float64. The two batches may
    differ in size.

    Example:
        >>> loss = NonSaturatingLoss()
        >>> loss.discriminator(torch.zeros(4), torch.zeros(4))  # 2 log 2
        tensor(1.3863)
    """

    def __init__(self) -> None:
        """Take no arguments."""

    @abstractmethod
    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return the discriminator's loss.

        Args:
            real_scores: scores of real images, ``[N]``.
            fake_scores: scores of generated images, ``[M]``.

        Returns:
            A scalar for the discriminator to minimise.
        """

    @abstractmethod
    def generator(self, fake_scores: Tensor) -> Tensor:
        """Return the generator's loss.

        Args:
            fake_scores: scores of generated images, ``[M]``.

        Returns:
            A scalar for the generator to minimise.
        """


class NonSaturatingLoss(AdversarialLoss):
    r"""The "log loss": cross-entropy, with a generator that never runs out of gradient.

    .. math::
        L_D &= -E[\log \sigma(D(x))] - E[\log \sigma(-D(G(z)))] \\
        L_G &= -E[\log \sigma(D(G(z)))]

    Goodfellow et al., "Generative adversarial nets", 2014, Section 3.
    """

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return the cross-entropy of real against fake."""
        return _cross_entropy(real_scores, fake_scores)

    def generator(self, fake_scores: Tensor) -> Tensor:
        """Return the cross-entropy of fakes that claim to be real."""
        return -logsigmoid(_widen(fake_scores)).mean()


class SaturatingLoss(AdversarialLoss):
    r"""The minimax game: the generator minimises exactly what the discriminator maximises.

    .. math::
        L_D &= -E[\log \sigma(D(x))] - E[\log \sigma(-D(G(z)))] \\
        L_G &= E[\log \sigma(-D(G(z)))]

    so that :math:`L_D + L_G` does not depend on the generator. Goodfellow et al., "Generative adversarial
    nets", 2014, Equation 1.
    """

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return the cross-entropy of real against fake."""
        return _cross_entropy(real_scores, fake_scores)

    def generator(self, fake_scores: Tensor) -> Tensor:
        """Return the part of minus the discriminator's loss that the generator can change."""
        return logsigmoid(-_widen(fake_scores)).mean()


class HingeLoss(AdversarialLoss):
    r"""The discriminator stops caring about scores beyond a margin of one.

    .. math::
        L_D &= E[\max(0, 1 - D(x))] + E[\max(0, 1 + D(G(z)))] \\
        L_G &= -E[D(G(z))]

    Lim and Ye, "Geometric GAN", 2017; Miyato et al., "Spectral normalization for generative adversarial
    networks", 2018.
    """

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return how far the scores stay short of +1 (real) and -1 (fake)."""
        return relu(1 - _widen(real_scores)).mean() + relu(1 + _widen(fake_scores)).mean()

    def generator(self, fake_scores: Tensor) -> Tensor:
        """Return minus the mean score."""
        return -_widen(fake_scores).mean()


class WassersteinLoss(AdversarialLoss):
    r"""Minus an estimate of the Wasserstein-1 distance, if something else keeps :math:`D` 1-Lipschitz.

    .. math::
        L_D &= E[D(G(z))] - E[D(x)] \\
        L_G &= -E[D(G(z))]

    Arjovsky et al., "Wasserstein GAN", 2017, Equation 2.
    """

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return the mean fake score minus the mean real score."""
        return _widen(fake_scores).mean() - _widen(real_scores).mean()

    def generator(self, fake_scores: Tensor) -> Tensor:
        """Return minus the mean score."""
        return -_widen(fake_scores).mean()


class LeastSquaresLoss(AdversarialLoss):
    r"""Regression to 1 for real and 0 for fake.

    .. math::
        L_D &= \tfrac12 E[(D(x) - 1)^2] + \tfrac12 E[D(G(z))^2] \\
        L_G &= \tfrac12 E[(D(G(z)) - 1)^2]

    Mao et al., "Least squares generative adversarial networks", 2017, in its 0-1 coding.
    """

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return half the squared errors against 1 (real) and 0 (fake)."""
        return ((_widen(real_scores) - 1).square().mean() + _widen(fake_scores).square().mean()) / 2

    def generator(self, fake_scores: Tensor) -> Tensor:
        """Return half the squared error of fakes against 1."""
        return (_widen(fake_scores) - 1).square().mean() / 2


def _widen(scores: Tensor) -> Tensor:
    """Cast half precision to float32, where a mean over a batch is safe, and leave float64 alone."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _cross_entropy(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    # logsigmoid, not softplus: torch's softplus(x) returns x itself from 20 on, which float64 can tell apart.
    return -logsigmoid(_widen(real_scores)).mean() - logsigmoid(-_widen(fake_scores)).mean()
