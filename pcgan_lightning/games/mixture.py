"""A mixture of Gaussians on a circle, and how much of it a generator has found."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ModeCoverage:
    """What samples show of a mixture's modes.

    Attributes:
        modes_covered: Number of covered modes, 0..K.
        high_quality_share: Share of the samples that are of high quality, 0..1.
        shares: Share of the samples that are of high quality and nearest to each mode, ``[K]``; they add up to
            ``high_quality_share``.
    """

    modes_covered: int
    high_quality_share: float
    shares: Tensor


def ring_of_modes(modes: int = 8, radius: float = 2.0) -> Tensor:
    r"""Return the modes' centres :math:`r(\cos 2\pi k/K, \sin 2\pi k/K)`, float32 ``[modes, 2]``.

    Args:
        modes: K, at least 1. Default: the 8 of JARE's mixture.
        radius: r, positive. Default: that of JARE's mixture, mu / 2 with mu = 4.

    Raises:
        ValueError: For arguments out of range.
    """
    if modes < 1:
        raise ValueError(f"argument `modes` must be at least 1, got {modes}")
    if radius <= 0:
        raise ValueError(f"argument `radius` must be positive, got {radius}")
    angles = 2 * math.pi / modes * torch.arange(modes, dtype=torch.float64)
    return (radius * torch.stack([angles.cos(), angles.sin()], dim=1)).float()


def mode_coverage(
    samples: Tensor, centers: Tensor, std: float, deviations: float = 3.0, minimum_share: float = 0.008
) -> ModeCoverage:
    r"""Count the modes that samples cover, and the samples near a mode.

    A sample is of high quality if it lies within `deviations` standard deviations of its nearest mode (Srivastava et
    al., "VEEGAN", 2017, with 3 of them). A mode is covered if it is the nearest one of enough high-quality samples. In
    the plane, :math:`1 - e^{-9/2} = 98.9\%` of the mixture's own samples are of high quality.

    Args:
        samples: ``[N, d]``, N at least 1. One that is not finite is of no quality.
        centers: Of the modes, ``[K, d]``.
        std: Standard deviation of every mode in every direction, positive.
        deviations: Positive.
        minimum_share: The least share of all samples that covers a mode, in (0, 1]. Default: 20 of 2,500, a sixteenth
            of what each of eight modes should get, so that a few stray samples do not count as a mode.

    Raises:
        ValueError: For arguments out of range, or of other shapes.
    """
    if samples.ndim != 2 or centers.ndim != 2 or samples.shape[1] != centers.shape[1] or not len(samples):
        raise ValueError(
            "argument `samples` must have shape [N, d] and `centers` [K, d], with N at least 1, got "
            f"{list(samples.shape)} and {list(centers.shape)}"
        )
    for name, value in (("std", std), ("deviations", deviations)):
        if value <= 0:
            raise ValueError(f"argument `{name}` must be positive, got {value}")
    if not 0.0 < minimum_share <= 1.0:
        raise ValueError(f"argument `minimum_share` must be in (0, 1], got {minimum_share}")
    # Not `torch.cdist`, whose expanded square loses the digits that tell a narrow mode.
    distances, nearest = (samples[:, None] - centers.to(samples)).norm(dim=2).min(dim=1)
    counts = torch.bincount(nearest[distances <= deviations * std], minlength=len(centers))
    shares = counts.double() / len(samples)
    return ModeCoverage(int((shares >= minimum_share).sum()), shares.sum().item(), shares)
