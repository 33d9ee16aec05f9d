r"""Circular convolutions in Fourier space, where they fall apart into small matrices.

Sedghi et al., "The singular values of convolutional layers" (2019), for any stride, dilation and groups: the outputs of
stride s have n/s frequencies, and frequency q of the outputs hears the s frequencies q + r n/s of the image that look
alike to it. Frequencies q and -q of a real kernel have conjugate blocks, so that half of them tell all.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pcgan_lightning.spectra.convolutions.operator import ConvolutionOperator

CHUNK = 2**22  # complex numbers in the blocks that are looked at at once


def half_of_frequencies(output_size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return one of each pair q, -q, ``[count, dimensions]``, and how many of the pair's ends there are, 1 or 2."""
    axes = [torch.arange(m) for m in output_size]
    all_of_them = torch.cartesian_prod(*axes).view(-1, len(axes))
    sizes = torch.tensor(output_size)
    strides = torch.tensor([math.prod(output_size[i + 1 :]) for i in range(len(output_size))])
    own, mirrored = ((q * strides).sum(1) for q in (all_of_them, -all_of_them % sizes))
    first = own <= mirrored
    return all_of_them[first], torch.where(own == mirrored, 1, 2)[first]


def frequency_blocks(weight: Tensor, operator: ConvolutionOperator, frequencies: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{\sqrt s} \sum_a w_a e^{2 \pi i d a (q + r m) / n}` for these q and all r, side by side.

    Args:
        weight: real, ``[out, in / groups, *kernel]``.
        operator: a circular one.
        frequencies: q, ``[count, dimensions]``.

    Returns:
        ``[count, groups, out / groups, strides * in / groups]``, complex.
    """
    device = weight.device
    aliases = torch.tensor(list(itertools.product(*map(range, operator.stride))))
    taps = torch.tensor(list(itertools.product(*map(range, operator.kernel_size)))) * torch.tensor(operator.dilation)
    heard = frequencies.unsqueeze(1) + aliases * torch.tensor(operator.output_size)  # [count, aliases, dimensions]
    # Whole numbers until here, and of these only what exceeds whole turns, so that no large angle is rounded.
    turns = torch.zeros(*heard.shape[:2], len(taps), dtype=torch.float64)
    for i, n in enumerate(operator.image_size):
        turns += (heard[..., i : i + 1] * taps[:, i] % n).double() / n
    angles = 2 * math.pi * turns
    waves = torch.stack([angles.cos(), angles.sin()]) / math.sqrt(len(aliases))
    waves = waves.to(device, weight.dtype)  # [2, count, aliases, taps]
    kernels = weight.unflatten(0, (operator.groups, -1)).flatten(3)  # [groups, out, in, taps]
    parts = torch.einsum("cfrt,goit->cfgori", waves, kernels).flatten(-2)
    return torch.complex(parts[0], parts[1])


def small_grams(blocks: Tensor) -> Tensor:
    """Return the smaller of each block's two Gram matrices, Hermitian."""
    return blocks @ blocks.mH if blocks.shape[-2] <= blocks.shape[-1] else blocks.mH @ blocks


def chunked_blocks(weight: Tensor, operator: ConvolutionOperator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the blocks of half of the frequencies, so many at once as memory is good for, and their multiplicities."""
    frequencies, multiplicities = half_of_frequencies(operator.output_size)
    at_once = max(1, CHUNK // (weight[..., :1].numel() * math.prod(operator.stride)))
    at_once = max(1, at_once // math.prod(operator.kernel_size[1:]))
    for few, counts in zip(frequencies.split(at_once), multiplicities.split(at_once), strict=True):
        yield frequency_blocks(weight, operator, few), counts


def circular_singular_values(weight: Tensor, operator: ConvolutionOperator) -> Tensor:
    """Return all singular values of a circular convolution, in descending order, in the weight's dtype.

    From an SVD for float64, and from the eigenvalues of Gram matrices in float64 for lower precisions, whose error of
    1e-8 of the largest value lies below the rounding of such weights.
    """
    exact = weight.double()
    found = []
    for blocks, counts in chunked_blocks(exact, operator):
        if weight.dtype == torch.float64:
            values = torch.linalg.svdvals(blocks)
        else:
            values = torch.linalg.eigvalsh(small_grams(blocks)).clamp(min=0).sqrt()
        found.append(values.flatten(1).repeat_interleave(counts.to(weight.device), dim=0).flatten())
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.cat(found).to(dtype).sort(descending=True).values
