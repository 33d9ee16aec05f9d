"""Inner problems of real and generated samples, from their features or from the graph of their scores."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from pcgan_lightning.games.derivatives import flat
from pcgan_lightning.games.inner_problem import InnerProblem, MatrixMap, Total
from pcgan_lightning.games.linearization import Linearization


class ScoredSamples(NamedTuple):
    """Scores of real samples ``[n]`` and of generated ones ``[m]``, put together.

    Attributes:
        scores: of this process's samples, ``[n + m]``, with their graph, in at least float32.
        signs: +1 for real, -1 for generated ones.
        weights: 1/(2n) and 1/(2m), with n and m those of all processes.
    """

    scores: Tensor
    signs: Tensor
    weights: Tensor

    @classmethod
    def of(cls, real_scores: Tensor, fake_scores: Tensor, total: Total = lambda tensors: tensors) -> "ScoredSamples":
        """Put scores together.

        Raises:
            ValueError: for scores that are no rows, or fewer than two samples of a kind.
        """
        kinds = {"real_scores": real_scores, "fake_scores": fake_scores}
        for name, scores in kinds.items():
            if scores.ndim != 1:
                raise ValueError(f"argument `{name}` must have shape [N], got {tuple(scores.shape)}")
        scores = torch.cat([real_scores, fake_scores])
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        counts = total(tuple(scores.new_tensor(len(kind)) for kind in kinds.values()))
        for name, count in zip(kinds, counts, strict=True):
            if count < 2:
                raise ValueError(f"argument `{name}` must hold at least 2 samples, got {int(count)}")
        ones = torch.ones_like(real_scores, dtype=scores.dtype), torch.ones_like(fake_scores, dtype=scores.dtype)
        weights = torch.cat([one / (2 * count) for one, count in zip(ones, counts, strict=True)])
        return cls(scores, torch.cat([ones[0], -ones[1]]), weights)


def linear_problem(
    real_features: Tensor,
    fake_features: Tensor,
    weight_decay: float,
    trust_region: Optional[float] = None,
) -> InnerProblem:
    r"""Return the inner problem of linear scores :math:`w^\top \phi(x)`, whose solution's step is w itself.

    Args:
        real_features: ``[n, d]``.
        fake_features: ``[m, d]``, of the generated samples.
        weight_decay: C, positive.
        trust_region: see :class:`InnerProblem`.

    Raises:
        ValueError: for features of different size, or fewer than two samples of a kind.
    """
    shapes = tuple(real_features.shape), tuple(fake_features.shape)
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"argument `real_features` must have shape [n, d] and `fake_features` [m, d], got {shapes[0]} and "
            f"{shapes[1]}"
        )
    real_zeros, fake_zeros = (features.new_zeros(len(features)) for features in (real_features, fake_features))
    samples = ScoredSamples.of(real_zeros, fake_zeros)
    rows = MatrixMap(torch.cat([real_features, -fake_features]).to(samples.scores.dtype))
    center = samples.scores.new_zeros(shapes[0][1])
    return InnerProblem(rows, samples.scores, samples.weights, center, weight_decay, trust_region)


def score_problem(
    samples: ScoredSamples,
    parameters: tuple[Tensor, ...],
    weight_decay: float,
    trust_region: Optional[float] = None,
    total: Total = lambda tensors: tensors,
) -> InnerProblem:
    """Return the inner problem with the scores linearised at the parameters.

    It works by products: a backward pass through the scores for one with U^T, one through that for one with U. It takes
    the memory of both graphs, whatever the number of samples and parameters; no sample's gradient is formed.

    Args:
        samples: with the graph of their scores.
        parameters: w, of the discriminator.
        weight_decay: see :class:`InnerProblem`, as for all further arguments.
        trust_region: the same.
        total: the same.
    """
    offsets = samples.signs * samples.scores
    center = flat([p.detach() for p in parameters]).to(offsets.dtype)
    rows = Linearization(offsets, parameters, "`real_scores` and `fake_scores`", unchecked=True)
    return InnerProblem(rows, offsets, samples.weights, center, weight_decay, trust_region, total)
