r"""Upper bounds of a convolution's norm that hold for certain, cheap and differentiable."""

import math
from typing import Optional

import torch
from torch import Tensor

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.spectra.convolutions.fourier import chunked_blocks, small_grams
from pcgan_lightning.spectra.convolutions.norms import is_small
from pcgan_lightning.spectra.convolutions.operator import ConvolutionOperator

CLOSE = 1.05  # the bound over the norm, at most, with the iterations that are made by default


def convolution_norm_bound(weight: Tensor, operator: ConvolutionOperator, iterations: Optional[int] = None) -> Tensor:
    r"""Return an upper bound of a convolution's norm, never below it, a scalar that can be differentiated.

    Gram iteration (Delattre et al. 2023), :math:`G \leftarrow G^* G`, t times, in Fourier space:

    .. math:: \|A\| \le \|G_t\|_F^{2^{-t}} \le m^{2^{-t} / 2} \|A\|, \quad G_0 = A

    where m is the smaller side of a block. Small operators that are not circular are iterated as a matrix. A larger one
    is bounded by the circular convolution that encloses it: tight, as the image grows, for zeros; for padding that
    repeats pixels, looser by the root of how often.

    Args:
        weight: ``[out, in / groups, *kernel]``.
        operator: of the convolution.
        iterations: t, at least 1. Default: the fewest that are certain to lead to at most 5% above the block's norm.

    Raises:
        ValueError: for iterations below 1, or a weight that is not finite.
    """
    require_at_least(1, iterations=iterations)
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if not weight.isfinite().all():
        raise ValueError("argument `weight` must hold finite numbers, got some that are not")
    if not operator.is_circular and is_small(weight, operator):
        return gram_iteration(operator.dense(weight)[None], iterations)
    torus, factor = (operator, 1.0) if operator.is_circular else operator.enclosing()
    taps = math.prod(operator.kernel_size)
    bounds = [gram_iteration(blocks.flatten(0, 1), iterations) for blocks, _ in chunked_blocks(weight, torus)]
    # Each number in a block is a sum over the taps, which rounds as well.
    return torch.stack(bounds).amax() * (factor * (1 + 2 * taps * torch.finfo(weight.dtype).eps))


def gram_iteration(matrices: Tensor, iterations: Optional[int] = None) -> Tensor:
    """Return an upper bound of the largest norm of a batch of matrices ``[batch, rows, cols]``, a scalar."""
    smaller = min(matrices.shape[-2:])
    last = iterations or max(1, math.ceil(math.log2(max(1.0, math.log(smaller) / (2 * math.log(CLOSE))))))
    information = torch.finfo(matrices.dtype)
    # Divided by a power of two, exactly, so that no square is too large or too small for the dtype.
    unit = matrices.detach().abs().amax().clamp(min=information.tiny)
    unit = torch.ldexp(torch.ones_like(unit), unit.frexp().exponent - 1)
    matrices = matrices / unit
    scale = torch.linalg.matrix_norm(matrices.detach()).amax().clamp(min=information.tiny)
    grams = small_grams(matrices / scale)
    logarithms = grams.new_zeros(len(grams), dtype=scale.dtype)
    for step in range(1, last + 1):
        # Of the power 2^step of the norms.
        lengths = torch.linalg.matrix_norm(grams).clamp(min=information.tiny)
        logarithms = logarithms + lengths.log()
        with torch.no_grad():
            traces = grams.diagonal(dim1=-2, dim2=-1).sum(-1).real.clamp(min=information.tiny)
            lower = (logarithms + (lengths / traces).log()).amax()
        power = 2**step
        if step == last or (iterations is None and logarithms.amax() - lower <= power * math.log(CLOSE)):
            break
        # Matrices whose upper bound lies below the lower bound of another need not be looked at any more.
        kept = logarithms.detach() >= lower
        grams, logarithms = grams[kept] / lengths[kept, None, None], 2 * logarithms[kept]
        grams = grams @ grams.mH
    # Products of matrices round by at most so much, of which ever smaller roots are taken.
    rounding = 1 + 4 * (smaller + max(matrices.shape[-2:])) * information.eps
    return (logarithms / power).exp().amax() * scale * rounding * unit


def reshaped_norm_bound(weight: Tensor, operator: ConvolutionOperator) -> Tensor:
    r"""Return :math:`\sqrt{\prod \lceil k / s \rceil}` times the norm of the reshaped weight, an upper bound.

    The rows of the reshaped weight are the outputs of the operator, which for a transposed convolution are the layer's
    inputs. The factor is the root of how many patches a pixel lies in (with dilation d, every gcd(s, d)-th place) and
    of how often the padding repeats a pixel.
    """
    matrices = weight.to(torch.promote_types(weight.dtype, torch.float32))
    matrices = matrices.unflatten(0, (operator.groups, -1)).flatten(2)
    torus, factor = operator.enclosing()
    for k, s, d in zip(torus.kernel_size, torus.stride, torus.dilation, strict=True):
        factor *= math.sqrt(-(-k * math.gcd(s, d) // s))
    return factor * torch.linalg.matrix_norm(matrices, 2).amax()
