r"""Preconditioning polynomials g(x) = x (c0 + c1 x^2 + ... + ck x^(2k)) and how they are fitted.

Paper: "Precondition layer and its use for GANs", Section 3.3, Eq. (3)-(5).
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor

from pcgan_lightning.spectra.matrix_polynomials import power_series

# Each costs a product of matrices for each layer in each update; the published ones have up to five.
MAXIMUM_TERMS = 100


@dataclass(frozen=True)
class Polynomial:
    r"""An odd polynomial :math:`g(x) = x \sum_{t=0}^{k} c_t x^{2t}` of degree :math:`2k + 1`.

    Calling it evaluates g on numbers; :meth:`of_matrix` applies it to the singular values of a matrix.

    Args:
        coefficients: :math:`(c_0, \dots, c_k)`, finite, at least one. ``(1.0,)`` is the identity, which turns
            the PC-layer into plain spectral normalisation.

    Example:
        >>> Polynomial((1.507, -0.507)).degree
        3
    """

    coefficients: Sequence[float]

    def __post_init__(self) -> None:
        coefficients = tuple(float(c) for c in self.coefficients)
        if len(coefficients) > MAXIMUM_TERMS:
            raise ValueError(f"argument `coefficients` must be at most {MAXIMUM_TERMS}, got {len(coefficients):,}")
        if not coefficients or not all(map(math.isfinite, coefficients)):
            raise ValueError(f"argument `coefficients` must be one or more finite numbers, got {self.coefficients}")
        object.__setattr__(self, "coefficients", coefficients)

    @property
    def degree(self) -> int:
        """Degree of g: twice the number of coefficients minus one."""
        return 2 * len(self.coefficients) - 1

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate g elementwise by Horner's rule in x^2; any shape, dtype of `x`."""
        square = x * x
        value: Union[float, Tensor] = self.coefficients[-1]
        for c in reversed(self.coefficients[:-1]):
            value = value * square + c
        return x * value

    def of_matrix(self, matrix: Tensor) -> Tensor:
        r"""Return :math:`g(A) = p(A A^\top) A` with :math:`g(x) = p(x^2) x`, for each matrix of a batch.

        The singular vectors stay, and each singular value becomes :math:`|g(\sigma_i)|` (Claim 3.2). All
        products but two are of the smaller of the two Gram matrices, since :math:`p(A A^\top) A = A p(A^\top A)`;
        degree 17 takes as many as degree 9.

        Args:
            matrix: batch of matrices, ``[batch, rows, cols]``, floating point.

        Returns:
            Tensor of the shape and dtype of `matrix`.
        """
        c0, *higher = self.coefficients
        if not higher:
            return c0 * matrix if c0 != 1.0 else matrix
        wide = matrix.shape[-2] <= matrix.shape[-1]
        gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
        series = power_series(gram, higher).value  # p(G) - c0 I
        left, right = (series, matrix) if wide else (matrix, series)
        return torch.baddbmm(matrix, left, right, beta=c0)


# From the authors' public code; each has g(1) = 1 and was fitted to PL_b on [0, 1.1] (Figure 3, `fit_polynomial`).
PUBLISHED_POLYNOMIALS: dict[int, Polynomial] = {
    1: Polynomial((1.0,)),
    3: Polynomial((1.507, -0.507)),
    5: Polynomial((2.083, -1.643, 0.560)),
    7: Polynomial((2.909, -4.649, 4.023, -1.283)),
    9: Polynomial((3.625, -9.261, 14.097, -10.351, 2.890)),
}

# The cutoff b of the target PL_b to which each published polynomial was fitted (Section 3.4).
PUBLISHED_CUTOFFS: dict[int, float] = {3: 0.8, 5: 0.6, 7: 0.4, 9: 0.3}

# Beyond, the cancelling terms of the fit cost float32 more than 1e-4 of the largest singular value.
MAXIMUM_DEGREE = 17


def as_polynomial(degree: "int | Polynomial") -> Polynomial:
    """Return what a degree stands for; a :class:`Polynomial` is returned as it is.

    Up to 9 that is the published polynomial, from 11 to 17 the fit to PL_b with b = :func:`fitted_cutoff`.

    Raises:
        ValueError: for an even degree, or one out of range.
    """
    if isinstance(degree, Polynomial):
        return degree
    if not isinstance(degree, int) or isinstance(degree, bool) or degree % 2 == 0 or not 0 < degree <= MAXIMUM_DEGREE:
        raise ValueError(f"argument `degree` must be odd, from 1 to {MAXIMUM_DEGREE}, or a Polynomial, got {degree!r}")
    return PUBLISHED_POLYNOMIALS[degree] if degree in PUBLISHED_POLYNOMIALS else _fitted(degree)


def fitted_cutoff(degree: int) -> float:
    """Return the cutoff b for a degree past 9: 2.6 / degree, rounded down to hundredths (0.15 at degree 17).

    By this rule g overshoots on [0, 1.1] as that of degree 9 does: its largest value is 1.022.
    """
    return 260 // degree / 100


@functools.cache
def _fitted(degree: int) -> Polynomial:
    return fit_polynomial(fitted_cutoff(degree), degree)


def piecewise_linear(cutoff: float) -> Callable[[Tensor], Tensor]:
    r"""Return the target :math:`PL_b(x) = \min(x / b, 1)` with b = `cutoff` in (0, 1] (Section 3.3)."""
    if not 0.0 < cutoff <= 1.0:
        raise ValueError(f"argument `cutoff` must be in (0, 1], got {cutoff}")
    return lambda x: (x / cutoff).clamp(max=1.0)


def fit_polynomial(
    target: "float | Callable[[Tensor], Tensor]",
    degree: int,
    interval: tuple[float, float] = (0.0, 1.1),
    weight_exponent: float = 4.0,
    fix_one: bool = True,
    points: int = 4001,
    minimum_slope: Optional[float] = None,
) -> Polynomial:
    r"""Fit a preconditioning polynomial by weighted least squares.

    .. math:: \min_c \sum_i w(x_i) \Big| x_i \sum_{t=0}^{k} c_t x_i^{2t} - f(x_i) \Big|^2, \quad w(x) = x^\alpha

    on equally spaced :math:`x_i` (Eq. 5), subject to :math:`g(1) = \sum_t c_t = 1` if `fix_one`. With the defaults it
    lands within 5e-3 (sup norm on the interval) of every published polynomial.

    Args:
        target: f, a function of a float64 tensor, or a number b in (0, 1] for the piecewise linear :math:`PL_b`.
        degree: odd degree of g, at least 1.
        interval: :math:`[\gamma_L, \gamma_U]` with :math:`0 \le \gamma_L < \gamma_U`; the paper's [0, 1.1] leaves
            room for a spectral norm that one power iteration underestimates by up to a tenth.
        weight_exponent: :math:`\alpha \ge 0` of the weight.
        fix_one: whether g(1) = 1 is imposed.
        points: number of grid points, more than the number of coefficients.
        minimum_slope: less than 1; g'(x) is at least this at all grid points. Where g falls, gradients through it
            change their sign. None: no bound; the published polynomials go down to -0.43.

    Returns:
        The fitted polynomial.

    Raises:
        ValueError: for an even or non-positive degree, an empty interval, a negative exponent, too few points or too
            large a slope.
    """
    if weight_exponent < 0:
        raise ValueError(f"argument `weight_exponent` must be at least 0, got {weight_exponent}")
    problem = fit_problem(target, degree, interval, fix_one, points, minimum_slope)
    root_weight = problem.x ** (weight_exponent / 2)
    matrix, right = root_weight[:, None] * problem.basis, root_weight * problem.right
    # A single free-standing term under the constraint leaves nothing to fit: g(x) = x.
    solution = torch.linalg.lstsq(matrix, right[:, None]).solution[:, 0]
    slopes, known = problem.slopes, problem.known_slope
    if minimum_slope is not None and (slopes @ solution + known).min() < minimum_slope:
        solution = _bounded_least_squares(matrix, right, slopes, minimum_slope - known)
    return problem.polynomial(solution)


class FitProblem(NamedTuple):
    r"""A fit on equally spaced points as a linear problem: of the unknowns c, ``basis @ c`` shall be near ``right``.

    The slope of g is ``slopes @ c + known_slope``. With :math:`g(1) = 1` imposed, :math:`c_0` is none of the unknowns.
    """

    x: Tensor
    basis: Tensor
    right: Tensor
    slopes: Tensor
    known_slope: Tensor
    fix_one: bool

    def polynomial(self, unknowns: Tensor) -> Polynomial:
        """Return g."""
        coefficients = unknowns.tolist()
        if self.fix_one:
            coefficients.insert(0, 1.0 - sum(coefficients))
        return Polynomial(tuple(coefficients))


def fit_problem(
    target: "float | Callable[[Tensor], Tensor]",
    degree: int,
    interval: tuple[float, float],
    fix_one: bool,
    points: int,
    minimum_slope: Optional[float],
) -> FitProblem:
    """Return what :func:`fit_polynomial` and :func:`fit_minimax` share, checked."""
    if degree < 1 or degree % 2 == 0:
        raise ValueError(f"argument `degree` must be odd and positive, got {degree}")
    lower, upper = interval
    if not 0.0 <= lower < upper:
        raise ValueError(f"argument `interval` must satisfy 0 <= lower < upper, got {interval}")
    terms = (degree + 1) // 2
    if points <= terms:
        raise ValueError(f"argument `points` must be more than {terms} for degree {degree}, got {points}")
    if minimum_slope is not None and not minimum_slope < 1:
        raise ValueError(f"argument `minimum_slope` must be less than 1, the slope of g(x) = x, got {minimum_slope}")
    f = target if callable(target) else piecewise_linear(target)

    x = torch.linspace(lower, upper, points, dtype=torch.float64)
    powers = torch.arange(1, degree + 1, 2)
    basis, right = x[:, None] ** powers, f(x)  # [points, terms], [points]
    slopes = powers * x[:, None] ** (powers - 1)
    if not fix_one:
        return FitProblem(x, basis, right, slopes, torch.zeros(points, dtype=torch.float64), fix_one)
    # Eliminate c0 = 1 - c1 - ... - ck, so that the constraint holds exactly.
    return FitProblem(x, basis[:, 1:] - basis[:, :1], right - x, slopes[:, 1:] - slopes[:, :1], slopes[:, 0], fix_one)


def _bounded_least_squares(matrix: Tensor, right: Tensor, bounded: Tensor, bounds: Tensor) -> Tensor:
    r"""Return the x of least :math:`\|M x - r\|` with :math:`B x \ge h`, in float64.

    With M = Q R it is the shortest z = R x - Q^T r, whose bounds are G z >= d: a problem of non-negative least squares
    (Lawson and Hanson, 1974, Chapter 23).
    """
    from scipy.optimize import nnls  # takes half a second to import, which only this needs

    q, r = torch.linalg.qr(matrix)
    start = torch.linalg.solve_triangular(r, (q.T @ right)[:, None], upper=True)[:, 0]
    g = torch.linalg.solve_triangular(r, bounded, upper=True, left=False)
    d = bounds - bounded @ start
    system = torch.cat([g.T, d[None]])
    target = torch.zeros(len(system), dtype=torch.float64)
    target[-1] = 1.0
    residual = system @ torch.from_numpy(nnls(system.numpy(), target.numpy())[0]) - target
    z = -residual[:-1] / residual[-1]
    return start + torch.linalg.solve_triangular(r, z[:, None], upper=True)[:, 0]
