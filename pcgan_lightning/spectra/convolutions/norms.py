r"""Singular values and norms of convolutions as operators: exact, and by iteration.

All functions take a weight and the :class:`ConvolutionOperator` that says on which images it acts.
"""

import math

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from pcgan_lightning.spectra.convolutions.fourier import chunked_blocks, circular_singular_values, small_grams
from pcgan_lightning.spectra.convolutions.operator import ConvolutionOperator
from pcgan_lightning.spectra.matrices import started

SMALL = 512  # rows or columns of an operator that is written out as a matrix
SMALL_ENTRIES = 2**23
EPSILON = 1e-12  # of the power iteration's normalisations, as in torch's own spectral norm


def is_small(weight: Tensor, operator: ConvolutionOperator) -> bool:
    """Whether an operator is small enough to be written out as a matrix."""
    shape = operator.shape(weight)
    return min(shape) <= SMALL and math.prod(shape) <= SMALL_ENTRIES


@torch.no_grad()
def convolution_singular_values(weight: Tensor, operator: ConvolutionOperator) -> Tensor:
    r"""Return all singular values of a convolution, in descending order; exact to rounding.

    By the Fourier transform for circular convolutions, from the matrix itself for small ones of other padding.

    Args:
        weight: ``[out, in / groups, *kernel]``, as the layer has it.
        operator: see :meth:`ConvolutionOperator.of_layer`.

    Returns:
        As many as the outputs or the images have numbers, whichever is less; in at least float32.

    Raises:
        ValueError: for a large operator that is not circular.

    Example:
        >>> layer = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        >>> operator = ConvolutionOperator.of_layer(layer, (4, 4))
        >>> convolution_singular_values(torch.ones(1, 1, 3, 3), operator)[0].item()
        9.0
    """
    if operator.is_circular:
        return circular_singular_values(weight, operator)
    if not is_small(weight, operator):
        raise ValueError(
            f"argument `operator` must be circular or have at most {SMALL} rows or columns and {SMALL_ENTRIES:,} "
            f"entries, got {operator.shape(weight)}; take `operator.circular()` or `extreme_singular_values`"
        )
    values = torch.linalg.svdvals(operator.dense(weight.double()))
    return values.to(torch.promote_types(weight.dtype, torch.float32))


def convolution_norm(weight: Tensor, operator: ConvolutionOperator) -> Tensor:
    r"""Return the exact norm of a convolution, a scalar that can be differentiated.

    By the Fourier transform, from the matrix, or by Lanczos' method for large operators that are not circular, whose
    norm has no second derivative. Arguments as for :func:`convolution_singular_values`.
    """
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if operator.is_circular:
        best, largest = weight.new_zeros(()).double(), -1.0
        for blocks, _ in chunked_blocks(weight.double(), operator):
            with torch.no_grad():
                squares = torch.linalg.eigvalsh(small_grams(blocks))[..., -1].flatten()
            if squares.max().item() > largest:
                # Of one block alone the gradient is wanted.
                largest = squares.max().item()
                best = torch.linalg.svdvals(blocks.flatten(0, 1)[squares.argmax()])[0]
        return best.to(weight.dtype)
    if is_small(weight, operator):
        return torch.linalg.svdvals(operator.dense(weight))[0]
    v = _lanczos(weight.detach(), operator, "LA")[1]
    u = operator.apply(weight.detach(), v)
    return torch.vdot(u.flatten() / u.norm(), operator.apply(weight, v).flatten())


@torch.no_grad()
def extreme_singular_values(weight: Tensor, operator: ConvolutionOperator) -> tuple[float, float]:
    """Return the largest and the smallest singular value of a convolution of any padding.

    By Lanczos' method (ARPACK) in float64 for operators that are too large to be written out.

    Raises:
        RuntimeError: where the smallest is not found within 300 restarts, which many values as small may cause.
    """
    if operator.is_circular or is_small(weight, operator):
        values = convolution_singular_values(weight, operator)
        return values[0].item(), values[-1].item()
    largest, _ = _lanczos(weight, operator, "LA")
    smallest, _ = _lanczos(weight, operator, "SA")
    return largest, smallest


def power_iterate(
    weight: Tensor, operator: ConvolutionOperator, v: Tensor, iterations: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Iterate :math:`u \leftarrow W v / \|W v\|`, :math:`v \leftarrow W^\top u / \|W^\top u\|` on feature maps.

    Without reshaping, as in the talk "Spectral normalization in GANs". The blocks of a grouped convolution are iterated
    each by itself.

    Args:
        weight: ``[out, in / groups, *kernel]``.
        operator: of the convolution.
        v: where to start, ``[in, *image_size]``; of an earlier call, for a warm start.
        iterations: at least 1.

    Returns:
        u ``[out, *output_size]``, v, and the estimate :math:`\sigma = \|W^\top u\|`, the largest over the groups.
    """
    v = started(v.reshape(operator.groups, -1)).view(v.shape)
    u, sigma = v, v.new_zeros(())
    for _ in range(iterations):
        u, _ = _normalized(operator.apply(weight, v.unsqueeze(0))[0], operator.groups)
        v, lengths = _normalized(operator.adjoint(weight, u.unsqueeze(0))[0], operator.groups)
        sigma = lengths.amax()
    return u, v, sigma


def random_images(weight: Tensor, operator: ConvolutionOperator) -> Tensor:
    """Return feature maps ``[in, *image_size]`` of unit length to start an iteration from, always the same."""
    shape = (weight.shape[1] * operator.groups, *operator.image_size)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return _normalized(drawn.to(weight.device, weight.dtype), operator.groups)[0]


def weight_gradient(operator: ConvolutionOperator, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""Return :math:`\partial (u^\top W v) / \partial w` for each group's u and v, of the weight's shape."""
    with torch.enable_grad():
        variable = torch.zeros_like(weight).requires_grad_()
        product = (operator.apply(variable, v.unsqueeze(0))[0] * u).sum()
        return torch.autograd.grad(product, variable)[0]


def _normalized(maps: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return each group of channels at unit length, and the lengths."""
    blocks = maps.reshape(groups, -1)
    lengths = blocks.norm(dim=1)
    return (blocks / lengths.clamp(min=EPSILON).unsqueeze(1)).view(maps.shape), lengths


@torch.no_grad()
def _lanczos(weight: Tensor, operator: ConvolutionOperator, which: str) -> tuple[float, Tensor]:
    """Return an extreme singular value and images of it, ``[1, in, *image_size]``."""
    exact = weight.detach().double()
    rows, cols = operator.shape(weight)
    tall = rows >= cols
    images = (1, weight.shape[1] * operator.groups, *operator.image_size)
    outputs = (1, weight.shape[0], *operator.output_size)

    def gram(vector: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1)).to(weight.device)
        if tall:
            x = operator.adjoint(exact, operator.apply(exact, x.view(images)))
        else:
            x = operator.apply(exact, operator.adjoint(exact, x.view(outputs)))
        return x.flatten().cpu().numpy()

    size = min(rows, cols)
    start = np.random.default_rng(0).standard_normal(size)
    square = LinearOperator((size, size), matvec=gram, dtype=np.float64)
    try:
        values, vectors = eigsh(square, k=1, which=which, v0=start, ncv=min(size, 40), maxiter=300, tol=1e-8)
    except ArpackNoConvergence as error:
        raise RuntimeError(f"Lanczos' method found no singular value of {operator} in 300 restarts") from error
    found = torch.from_numpy(vectors[:, 0].copy()).to(weight.device)
    v = found.view(images) if tall else operator.adjoint(exact, found.view(outputs))
    return math.sqrt(max(values[0], 0.0)), (v / v.norm()).to(weight.dtype)
