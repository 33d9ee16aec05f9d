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


def power_series(gram: Tensor, coefficients: Sequence[float]) -> Tensor:
    r"""Return :math:`c_1 G + c_2 G^2 + \dots + c_k G^k` for each matrix of a batch.

    Horner's rule takes k - 1 products of matrices, and is used up to k = 4. Eight terms take three products by
    :func:`eight_term_scheme` where its coefficients are real; others are cut into blocks by Paterson and Stockmeyer
    (1973), which takes about :math:`2 \sqrt k`.

    Args:
        gram: G, symmetric matrices ``[batch, m, m]``.
        coefficients: :math:`(c_1, \dots, c_k)`, at least one.
    """
    if len(coefficients) == 8 and (scheme := eight_term_scheme(tuple(coefficients))) is not None:
        return _eight_terms(gram, scheme)
    return _blocks(gram, coefficients, block_size(len(coefficients)))


def block_size(terms: int) -> int:
    """Return the size of Paterson's and Stockmeyer's blocks that takes the fewest products; 1 is Horner's rule."""
    if terms <= HORNER_TERMS:
        return 1
    # The powers up to G^s, and a product for each further block; the last one is free where it is a number alone.
    return min(range(1, terms + 1), key=lambda s: s - 1 + terms // s - (terms % s == 0))


def _blocks(gram: Tensor, coefficients: Sequence[float], size: int) -> Tensor:
    powers = [gram]
    while len(powers) < size:
        powers.append(powers[-1] @ gram)
    constants = (0.0, *coefficients)
    blocks = [constants[start : start + size] for start in range(0, len(constants), size)]

    def without_constant(block: Sequence[float]) -> Optional[Tensor]:
        terms = [c * power for c, power in zip(block[1:], powers, strict=False)]
        return functools.reduce(torch.add, terms) if terms else None

    *lower, highest = blocks
    series, constant = without_constant(highest), highest[0]
    for block in reversed(lower):
        # (series + constant I) G^s + the block.
        rest = without_constant(block)
        if series is None:
            series = constant * powers[-1] if rest is None else torch.add(rest, powers[-1], alpha=constant)
        elif rest is None:
            series = torch.baddbmm(powers[-1], powers[-1], series, beta=constant)
        else:
            series = torch.baddbmm(torch.add(rest, powers[-1], alpha=constant), powers[-1], series)
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


def _eight_terms(gram: Tensor, scheme: EightTerms) -> Tensor:
    scale, a2, a3, a4, a5, a6, a7, a8 = scheme
    square = gram @ gram
    y = square @ torch.add(square, gram, alpha=a2)
    right = torch.add(y, square, alpha=a5)
    left = torch.add(torch.add(y, square, alpha=a3), gram, alpha=a4)
    rest = torch.add(torch.add(a6 * y, square, alpha=a7), gram, alpha=a8)
    return torch.baddbmm(rest, left, right, beta=scale, alpha=scale)
