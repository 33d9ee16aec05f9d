"""How much of a mixture of Gaussians a generator has found."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcgan_lightning.arguments import require_positive


@dataclass(frozen=True)
class MixtureCoverage:
    """What samples show of a mixture's modes.

    Attributes:
        modes_covered: number of covered modes, 0..K.
        high_quality_share: share of the samples that are of high quality, 0..1.
        shares: share of the samples that are of high quality and nearest to each mode, ``[K]``; they add up to
            ``high_quality_share``.
    """

    modes_covered: int
    high_quality_share: float
    shares: Tensor


def mode_coverage(
    samples: Tensor, centers: Tensor, std: float, deviations: float = 3.0, minimum_share: float = 0.008
) -> MixtureCoverage:
    r"""Count the modes that samples cover, and the samples near a mode.

    A sample is of high quality if it lies within `deviations` standard deviations of its nearest mode (Srivastava et
    al., "VEEGAN", 2017, with 3 of them). A mode is covered if it is the nearest one of enough high-quality samples. In
    the plane, :math:`1 - e^{-9/2} = 98.9\%` of the mixture's own samples are of high quality.

    Args:
        samples: ``[N, d]``, N at least 1. One that is not finite is of no quality.
        centers: of the modes, ``[K, d]``.
        std: standard deviation of every mode in every direction, positive.
        deviations: positive.
        minimum_share: the least share of all samples that covers a mode, in (0, 1]. Default: 20 of 2,500, a sixteenth
            of what each of eight modes should get, so that a few stray samples do not count as a mode.

    Raises:
        ValueError: for arguments out of range, or of other shapes.
    """
    if samples.ndim != 2 or centers.ndim != 2 or samples.shape[1] != centers.shape[1] or not len(samples):
        raise ValueError(
            "argument `samples` must have shape [N, d] and `centers` [K, d], with N at least 1, got "
            f"{list(samples.shape)} and {list(centers.shape)}"
        )
    require_positive(std=std, deviations=deviations)
    if not 0.0 < minimum_share <= 1.0:
        raise ValueError(f"argument `minimum_share` must be in (0, 1], got {minimum_share}")
    # Not `torch.cdist`, whose expanded square loses the digits that tell a narrow mode.
    distances, nearest = (samples[:, None] - centers.to(samples)).norm(dim=2).min(dim=1)
    counts = torch.bincount(nearest[distances <= deviations * std], minlength=len(centers))
    shares = counts.double() / len(samples)
    return MixtureCoverage(int((shares >= minimum_share).sum()), shares.sum().item(), shares)
