r"""Polynomials of symmetric matrices with few products of matrices.

A sum c1 G + ... + ck G^k is computed without its constant term, so that no identity matrix is ever formed.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor

# How much larger the terms of the scheme may be, taken together, than those of the polynomial: 3 times at degree 17.
GROWTH = 100
# Up to here Horner's rule, whose rounding the published polynomials have always had.
HORNER_TERMS = 4


class PowerSeries(NamedTuple):
    r"""The value :math:`S = c_1 G + \dots + c_k G^k` and what its derivative needs of the way there.

    Attributes:
        value: S, ``[batch, m, m]``.
        coefficients: :math:`(c_1, \dots, c_k)`.
        parts: the matrices on the way, in the order of the scheme that made them.
    """

    value: Tensor
    coefficients: tuple[float, ...]
    parts: tuple[Tensor, ...]

    def derivative(self, direction: Tensor) -> Tensor:
        """Return the derivative of S where G moves in a symmetric direction; it is its own adjoint."""
        scheme = _scheme(self.coefficients)
        if scheme is not None:
            return _eight_terms_derivative(self.parts, scheme, direction)
        return _blocks_derivative(self.parts, self.coefficients, direction)


def power_series(gram: Tensor, coefficients: Sequence[float]) -> PowerSeries:
    r"""Return :math:`c_1 G + c_2 G^2 + \dots + c_k G^k` for each matrix of a batch.

    Horner's rule takes k - 1 products of matrices, and is used up to k = 4. Eight terms take three products by
    :func:`eight_term_scheme` where its coefficients are real; others are cut into blocks by Paterson and Stockmeyer
    (1973), which takes about :math:`2 \sqrt k`. The derivative takes two products for each of them.

    Args:
        gram: G, symmetric matrices ``[batch, m, m]``.
        coefficients: :math:`(c_1, \dots, c_k)`, at least one.
    """
    coefficients = tuple(coefficients)
    scheme = _scheme(coefficients)
    value, parts = _blocks(gram, coefficients) if scheme is None else _eight_terms(gram, scheme)
    return PowerSeries(value, coefficients, parts)


def _scheme(coefficients: tuple[float, ...]) -> Optional["EightTerms"]:
    return eight_term_scheme(coefficients) if len(coefficients) == 8 else None


def block_size(terms: int) -> int:
    """Return the size of Paterson's and Stockmeyer's blocks that takes the fewest products; 1 is Horner's rule."""
    if terms <= HORNER_TERMS:
        return 1
    # The powers up to G^s, and a product for each further block; the last one is free where it is a number alone.
    return min(range(1, terms + 1), key=lambda s: s - 1 + terms // s - (terms % s == 0))


def _combination(factors: Sequence[float], matrices: Sequence[Tensor]) -> Optional[Tensor]:
    """Return a sum of matrices times numbers, None of none."""
    terms = [c * m for c, m in zip(factors, matrices, strict=False)]
    return functools.reduce(torch.add, terms) if terms else None


def _cut(coefficients: Sequence[float]) -> list[tuple[float, ...]]:
    """Return the blocks of coefficients, each of them for the powers 0 to s - 1, the highest first."""
    size = block_size(len(coefficients))
    constants = (0.0, *coefficients)
    return [tuple(constants[start : start + size]) for start in range(0, len(constants), size)][::-1]


def _blocks(gram: Tensor, coefficients: Sequence[float]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the series; the powers up to G^s, and the partial sums that are multiplied by G^s."""
    powers = [gram]
    while len(powers) < block_size(len(coefficients)):
        powers.append(powers[-1] @ gram)
    highest, *lower = _cut(coefficients)
    series, constant = _combination(highest[1:], powers), highest[0]
    sums = []
    for block in lower:
        # (series + constant I) G^s + the block.
        rest = _combination(block[1:], powers)
        if series is not None:
            sums.append(series)
            start = powers[-1] if rest is None else torch.add(rest, powers[-1], alpha=constant)
            series = torch.baddbmm(start, powers[-1], series, beta=constant if rest is None else 1)
        elif rest is None:
            series = constant * powers[-1]
        else:
            series = torch.add(rest, powers[-1], alpha=constant)
        constant = block[0]
    assert series is not None
    return series, (*powers, *sums)


def _blocks_derivative(parts: Sequence[Tensor], coefficients: Sequence[float], direction: Tensor) -> Tensor:
    size = block_size(len(coefficients))
    powers, sums = parts[:size], list(parts[size:])
    moved = [direction]  # the derivatives of the powers
    for power in powers[:-1]:
        moved.append(torch.baddbmm(power @ direction, moved[-1], powers[0]))
    highest, *lower = _cut(coefficients)
    series, constant = _combination(highest[1:], moved), highest[0]
    for block in lower:
        rest = _combination(block[1:], moved)
        if series is not None:
            start = moved[-1] if rest is None else torch.add(rest, moved[-1], alpha=constant)
            start = torch.baddbmm(start, sums.pop(0), moved[-1], beta=constant if rest is None else 1)
            series = torch.baddbmm(start, series, powers[-1])
        elif rest is None:
            series = constant * moved[-1]
        else:
            series = torch.add(rest, moved[-1], alpha=constant)
        constant = block[0]
    assert series is not None
    return series


class EightTerms(NamedTuple):
    r"""Coefficients of :math:`s ((y + a_3 G^2 + a_4 G)(y + a_5 G^2) + a_6 y + a_7 G^2 + a_8 G)`.

    Here :math:`y = G^2 (G^2 + a_2 G)`: three products in all.
    """

    scale: float
    a2: float
    a3: float
    a4: float
    a5: float
    a6: float
    a7: float
    a8: float


@functools.lru_cache(maxsize=64)
def eight_term_scheme(coefficients: tuple[float, ...]) -> Optional[EightTerms]:
    """Return the scheme of a polynomial of degree 8 without a constant term, None where none is real and well scaled.

    Comparing the terms from the highest on leaves one quadratic equation, for a5 (after Sastre, 2018).
    """
    scale = coefficients[-1]
    if scale == 0:
        return None
    p1, p2, p3, p4, p5, p6, p7 = (c / scale for c in coefficients[:-1])
    a2 = p7 / 2
    total = p6 - a2 * a2  # a3 + a5
    a4 = p5 - a2 * total
    # a2 a5^2 + linear a5 + free = 0
    linear, free = a4 - a2 * total, a2 * (p4 - a2 * a4) - p3
    found = []
    for a5 in _real_roots(a2, linear, free):
        a3 = total - a5
        found.append(EightTerms(scale, a2, a3, a4, a5, p4 - a2 * a4 - a3 * a5, p2, p1))
    # The smaller the coefficients, the less is lost where they cancel.
    best = min(found, key=lambda scheme: max(map(abs, scheme)), default=None)
    if best is None or not _size(best) <= GROWTH * sum(map(abs, coefficients)):
        return None
    return best


def _size(scheme: EightTerms) -> float:
    """Return what the scheme's terms come to at G = 1, all of them positive."""
    s, a2, a3, a4, a5, a6, a7, a8 = map(abs, scheme)
    return s * ((1 + a2 + a3 + a4) * (1 + a2 + a5) + a6 * (1 + a2) + a7 + a8)


def _real_roots(square: float, linear: float, free: float) -> tuple[float, ...]:
    if square == 0:
        return (-free / linear,) if linear else ()
    discriminant = linear * linear - 4 * square * free
    if discriminant < 0:
        return ()
    larger = -0.5 * (linear + math.copysign(math.sqrt(discriminant), linear))
    return (larger / square, free / larger) if larger else (0.0,)


def _eight_terms(gram: Tensor, scheme: EightTerms) -> tuple[Tensor, tuple[Tensor, ...]]:
    scale, a2, a3, a4, a5, a6, a7, a8 = scheme
    square = gram @ gram
    factor = torch.add(square, gram, alpha=a2)
    y = square @ factor
    right = torch.add(y, square, alpha=a5)
    left = torch.add(torch.add(y, square, alpha=a3), gram, alpha=a4)
    rest = torch.add(torch.add(a6 * y, square, alpha=a7), gram, alpha=a8)
    return torch.baddbmm(rest, left, right, beta=scale, alpha=scale), (gram, square, factor, left, right)


def _eight_terms_derivative(parts: Sequence[Tensor], scheme: EightTerms, direction: Tensor) -> Tensor:
    scale, a2, a3, a4, a5, a6, a7, a8 = scheme
    gram, square, factor, left, right = parts
    half = gram @ direction
    moved = half + half.mT  # of the square
    y = torch.baddbmm(square @ torch.add(moved, direction, alpha=a2), moved, factor)
    moved_right = torch.add(y, moved, alpha=a5)
    moved_left = torch.add(torch.add(y, moved, alpha=a3), direction, alpha=a4)
    series = torch.baddbmm(y, moved_left, right, beta=scale * a6, alpha=scale)
    series = torch.baddbmm(series, left, moved_right, alpha=scale)
    return torch.add(torch.add(series, moved, alpha=scale * a7), direction, alpha=scale * a8)
