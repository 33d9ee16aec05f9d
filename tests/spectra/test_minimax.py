"""`fit_minimax`: Eq. (3) of PC-GAN, by what characterises the best approximation."""

import math
import re

import numpy as np
import pytest
from numpy.polynomial.polynomial import polyval

from pcgan_lightning.spectra import Polynomial, fit_minimax, fit_polynomial

POINTS = 4001
GRID = np.linspace(0, 1.1, POINTS)
# HiGHS solves to 1e-7 of its rows.
SOLVED = 1e-6


def g(polynomial, x, derivative=0):
    powers = np.zeros(polynomial.degree + 1)
    powers[1::2] = polynomial.coefficients
    return polyval(x, np.polynomial.polynomial.polyder(powers, derivative))


def error(polynomial, cutoff, x=GRID):
    return g(polynomial, x) - np.minimum(x / cutoff, 1)


def alternations(signed, largest):
    """How often an error reaches its largest size with another sign than before."""
    reached = np.sign(signed[np.abs(signed) > largest - SOLVED])
    return 1 + np.count_nonzero(np.diff(reached))


@pytest.mark.parametrize("cutoff", [0.3, 0.55, 1.0])
def test_a_single_term_in_closed_form(cutoff):
    """The error 1 - c b at the bend is as large as c U - 1 at the end: c = 2 / (b + U)."""
    (c,) = fit_minimax(cutoff, 1, fix_one=False).coefficients
    assert c == pytest.approx(2 / (cutoff + 1.1), rel=2e-4)  # the bend may lie half a spacing of 1.1/4000 off the grid
    assert fit_minimax(cutoff, 1).coefficients == (1.0,)


# Chebyshev: of n unknowns the best leaves an error that alternates at n + 1 points or more, and no other does.
@pytest.mark.parametrize(("cutoff", "degree"), [(0.8, 3), (0.6, 5), (0.4, 7), (0.3, 9), (0.15, 17)])
def test_the_error_alternates(cutoff, degree):
    terms = (degree + 1) // 2
    free, fixed = fit_minimax(cutoff, degree, fix_one=False), fit_minimax(cutoff, degree)
    errors = error(free, cutoff), error(fixed, cutoff)
    assert alternations(errors[0], np.abs(errors[0]).max()) >= terms + 1
    # Under g(1) = 1 the unknowns multiply x^(2t + 1) - x = x (x^2 - 1) q(x^2), which changes its sign at 1.
    assert alternations(errors[1] * np.sign(1 - GRID), np.abs(errors[1]).max()) >= terms
    assert math.fsum(fixed.coefficients) == pytest.approx(1, abs=1e-9)
    least_squares = np.abs(error(fit_polynomial(cutoff, degree), cutoff)).max()
    assert np.abs(errors[0]).max() < np.abs(errors[1]).max() + SOLVED < least_squares


@pytest.mark.parametrize(("cutoff", "degree", "slope"), [(0.3, 9, 0.0), (0.15, 17, -0.3), (0.4, 7, 0.9)])
def test_minimum_slope(cutoff, degree, slope):
    bounded, free = fit_minimax(cutoff, degree, minimum_slope=slope), fit_minimax(cutoff, degree)
    assert g(free, GRID, 1).min() < slope - 0.1
    assert g(bounded, GRID, 1).min() == pytest.approx(slope, abs=SOLVED * 10)  # slopes are up to 10 times g's size
    other = fit_polynomial(cutoff, degree, minimum_slope=slope)  # keeps the same bound and constraint
    assert np.abs(error(bounded, cutoff)).max() < np.abs(error(other, cutoff)).max()


def test_a_polynomial_target_is_found():
    target = Polynomial((2.0, -1.5, 0.5))
    np.testing.assert_allclose(g(fit_minimax(target, 7, (0.2, 1.0)), GRID), g(target, GRID), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 4}, "`degree` must be odd and positive, got 4"),
        ({"interval": (1.0, 0.5)}, "`interval` must satisfy 0 <= lower < upper, got (1.0, 0.5)"),
        ({"points": 2}, "`points` must be more than 2 for degree 3, got 2"),
        ({"minimum_slope": 1.0}, "`minimum_slope` must be less than 1, the slope of g(x) = x, got 1.0"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(f"argument {message}")):
        fit_minimax(**({"target": 0.8, "degree": 3} | change))
