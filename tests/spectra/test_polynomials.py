import math
import re

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pcgan_lightning.spectra import (
    PUBLISHED_CUTOFFS,
    PUBLISHED_POLYNOMIALS,
    Polynomial,
    as_polynomial,
    fit_polynomial,
    fitted_cutoff,
    modified_condition_number,
    piecewise_linear,
)

# From the authors' public code: c0, c1, ... of x (c0 + c1 x^2 + ...).
PUBLISHED = {
    1: (1.0,),
    3: (1.507, -0.507),
    5: (2.083, -1.643, 0.560),
    7: (2.909, -4.649, 4.023, -1.283),
    9: (3.625, -9.261, 14.097, -10.351, 2.890),
}
# degree -> cutoff b and the range of g on [b, 1.1], to three decimals.
CUTOFFS_AND_RANGES = {
    3: (0.8, 0.946, 1.0),
    5: (0.6, 0.938, 1.010),
    7: (0.4, 0.905, 1.019),
    9: (0.3, 0.870, 1.021),
}
DEGREES = list(PUBLISHED)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
SHAPES = [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1), (1, 1)]


def g(coefficients, x):
    """The odd polynomial, by numpy."""
    every_power = np.zeros(2 * len(coefficients))
    every_power[1::2] = coefficients
    return np.polynomial.polynomial.polyval(x, every_power)


def singular_value_decomposition(rows, cols, values, seed=0):
    """U [rows, m], V [cols, m] with orthonormal columns, and U diag(values) V^T, in float64."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(n, min(rows, cols))))[0] for n in (rows, cols))
    return u, v, u * values @ v.T


@pytest.mark.parametrize("degree", DEGREES)
def test_published_polynomials(degree):
    assert (list(PUBLISHED_POLYNOMIALS), list(PUBLISHED_CUTOFFS)) == (DEGREES, DEGREES[1:])
    polynomial = as_polynomial(degree)
    assert polynomial is PUBLISHED_POLYNOMIALS[degree] is as_polynomial(polynomial)
    assert polynomial.coefficients == PUBLISHED[degree]
    assert polynomial.degree == degree
    assert sum(polynomial.coefficients) == pytest.approx(1, rel=1e-14)
    if degree > 1:
        cutoff, lowest, highest = CUTOFFS_AND_RANGES[degree]
        assert PUBLISHED_CUTOFFS[degree] == cutoff
        x = torch.linspace(0, 1.1, 110_001, dtype=torch.float64)
        values = polynomial(x)
        # Half a unit of the third decimal, to which the range is known.
        assert values[x >= cutoff - 1e-9].min().item() == pytest.approx(lowest, abs=5e-4)
        assert values.max().item() == pytest.approx(highest, abs=5e-4)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("coefficients", [*PUBLISHED.values(), (-2.0, 0.0, 3.0), (0.5,)])
def test_values(coefficients, dtype):
    x = torch.linspace(-1.2, 1.2, 24, dtype=dtype).view(2, 3, 4)
    values = Polynomial(coefficients)(x)
    assert values.dtype == dtype
    # Horner loses a few roundings of the largest partial sum, sum |c| 1.2^9 < 210 at degree 9.
    rounding = 210 * 4 * torch.finfo(dtype).eps
    np.testing.assert_allclose(values.numpy(), g(coefficients, x.numpy()), rtol=0, atol=rounding)


def test_whole_numbers():
    # x of an integer dtype must not round the coefficients, nor whole coefficients x.
    assert Polynomial((1.5, -0.5))(torch.tensor([0, 1, 2])).tolist() == [0, 1, -1]
    assert Polynomial(torch.tensor([2, -1])) == Polynomial([2, -1]) == Polynomial((2.0, -1.0))


# --- Applied to matrices


# Every shape and every degree with both dtypes; of tall and wide ones every degree.
@pytest.mark.parametrize(
    ("rows", "cols", "degree", "dtype"),
    [
        (*shape, degree, list(TOLERANCE)[(s + d) % 2])
        for s, shape in enumerate(SHAPES)
        for d, degree in enumerate(DEGREES)
        if s < 2 or s % 5 == d
    ],
)
def test_of_matrix_changes_the_singular_values_alone(rows, cols, degree, dtype):
    # Claim 3.2 with the vectors: U diag(s) V^T -> U diag(g(s)) V^T, for two matrices of a batch.
    matrices, expected = [], []
    for seed in range(2):
        values = np.linspace(1.1 - 0.2 * seed, 0, min(rows, cols))  # a singular matrix, unless it is a vector
        u, v, matrix = singular_value_decomposition(rows, cols, values, seed)
        matrices.append(matrix)
        expected.append(u * g(PUBLISHED[degree], values) @ v.T)
    result = as_polynomial(degree).of_matrix(torch.tensor(np.stack(matrices), dtype=dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(result.numpy(), np.stack(expected), rtol=0, atol=TOLERANCE[dtype])


def small_products(polynomial, rows=3, cols=20):
    """The products of 3 x 3 matrices, which cost 2 * 3^3; the Gram matrix and the last one cost 2 * 3 * 3 * 20 each."""
    with FlopCounterMode(display=False) as counter:
        polynomial.of_matrix(torch.rand(1, rows, cols))
    return (counter.get_total_flops() - 2 * (2 * 3 * 3 * 20)) / (2 * 3**3)


@pytest.mark.parametrize(("rows", "cols", "degree"), [(3, 20, 3), (20, 3, 3), (3, 20, 9), (20, 3, 7)])
def test_of_matrix_works_on_the_smaller_side(rows, cols, degree):
    assert small_products(as_polynomial(degree), rows, cols) == (degree - 3) // 2


# --- Past degree 9

# p of degree 5, 6, 7, 8 in the Gram matrix; 9 and 10 by blocks of three and of two.
PRODUCTS = {11: 3, 13: 3, 15: 4, 17: 3, 19: 4, 21: 5}


@pytest.mark.parametrize("degree", PRODUCTS)
def test_fewest_products(degree):
    polynomial = as_polynomial(degree) if degree <= 17 else fit_polynomial(0.13, degree)
    assert small_products(polynomial) == PRODUCTS[degree]


# Degree 17 again with a highest coefficient below 0, with 0 in its place, and where no real scheme exists.
PAST_9 = {
    **{str(degree): as_polynomial(degree).coefficients for degree in (11, 13, 15, 17)},
    "negative": tuple(-c for c in as_polynomial(17).coefficients),
    "highest 0": (0.5, 0.25, -0.5, 1.0, 0.0, 0.25, -0.5, 0.5, 0.0),
    "only even blocks": (1.0, 0.5, 0.25, 0.0, -0.5, 0.0, 0.25, 0.0, -0.25),
    "no real scheme": (1.0, 0.0, 0.0, 0.0, 5.0, 0.0, 1.0, 2.0, 1.0),
    "19": fit_polynomial(0.13, 19).coefficients,
}


@pytest.mark.parametrize("rows", [6, 9])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("coefficients", PAST_9.values(), ids=PAST_9)
def test_of_matrix_past_degree_9(coefficients, dtype, rows):
    values = np.linspace(1.1, 0, 6)
    u, v, matrix = singular_value_decomposition(rows, 15 - rows, values)
    result = Polynomial(coefficients).of_matrix(torch.tensor(matrix[None], dtype=dtype))[0]
    # The terms reach 1e4 at degree 17 and 2e5 at 19, and cancel: that many roundings of float32, fewer by the schemes.
    tolerance = {torch.float32: 1e-4 if len(coefficients) < 10 else 1e-2, torch.float64: 1e-11}[dtype]
    np.testing.assert_allclose(result.numpy(), u * g(coefficients, values) @ v.T, rtol=0, atol=tolerance)


def test_a_scheme_without_real_coefficients_takes_another_product():
    assert small_products(Polynomial(PAST_9["no real scheme"])) == 4


@pytest.mark.parametrize("degree", [11, 13, 15, 17])
def test_degrees_past_9_are_fits_that_overshoot_like_degree_9(degree):
    polynomial = as_polynomial(degree)
    assert polynomial.degree == degree
    x = torch.linspace(0, 1.1, 110_001, dtype=torch.float64)
    assert polynomial(x).max().item() == pytest.approx(1.022, abs=5e-4)
    # The rule's b is the smallest in hundredths: one less would overshoot more.
    assert fit_polynomial(fitted_cutoff(degree) - 0.01, degree)(x).max().item() > 1.0225


# facts: s_min of a log-spaced spectrum -> modified condition numbers after degrees 7, 9, 17.
@pytest.mark.parametrize(
    ("smallest", "expected"),
    [(0.005, (53.6, 43.1, 25.3)), (0.01, (27.8, 22.4, 13.1)), (0.03, (9.8, 7.9, 4.7)), (0.1, (3.2, 2.6, 1.6))],
)
def test_conditions_of_log_spaced_spectra(smallest, expected):
    values = torch.from_numpy(np.geomspace(smallest, 1, 200))
    for degree, condition in zip((7, 9, 17), expected, strict=True):
        found = modified_condition_number(as_polynomial(degree)(values)).item()
        assert found == pytest.approx(condition, rel=0.01, abs=0.05)  # known to one decimal


@pytest.mark.parametrize(
    ("cutoff", "degree", "slope"), [(0.3, 9, 0.0), (0.15, 17, 0.0), (0.15, 17, 0.99), (0.4, 7, -0.1)]
)
def test_minimum_slope(cutoff, degree, slope):
    free, bounded = fit_polynomial(cutoff, degree), fit_polynomial(cutoff, degree, minimum_slope=slope)
    x = np.linspace(0, 1.1, 4001)
    slopes = sum((2 * t + 1) * c * x ** (2 * t) for t, c in enumerate(bounded.coefficients))
    assert slopes.min() == pytest.approx(slope, abs=1e-8)  # the bound is met, and not by more than it must
    assert math.fsum(bounded.coefficients) == pytest.approx(1, abs=1e-9)

    # The best: no step within the bounds, towards the free fit or a random polynomial of the same kind, comes closer.
    def error(coefficients):
        return (x**4 * (g(coefficients, x) - np.minimum(x / cutoff, 1)) ** 2).sum()

    own = np.array(bounded.coefficients)
    assert error(free.coefficients) < error(own)
    identity = np.eye(len(own))[0]
    for other in (identity, np.array(fit_polynomial(0.9, degree, minimum_slope=max(slope, 0.5)).coefficients)):
        assert error(0.999 * own + 0.001 * other) > error(own)


def test_a_slope_that_is_there_anyway_changes_nothing():
    assert fit_polynomial(0.3, 9, minimum_slope=-0.5) == fit_polynomial(0.3, 9)


# --- The fit


@pytest.mark.parametrize("degree", CUTOFFS_AND_RANGES)
def test_fit_lands_on_the_as_polynomials(degree):
    fitted = fit_polynomial(CUTOFFS_AND_RANGES[degree][0], degree)
    x = np.linspace(0, 1.1, 12_345)  # not the grid of the fit
    assert np.abs(g(fitted.coefficients, x) - g(PUBLISHED[degree], x)).max() < 5e-3


@pytest.mark.parametrize(
    ("degree", "interval", "weight_exponent", "fix_one"),
    [
        (1, (0.2, 1.0), 0.0, False),
        (3, (0.0, 1.1), 4.0, True),
        (5, (0.0, 2.0), 1.0, False),
        (5, (0.2, 1.0), 0.0, True),
        (9, (0.0, 1.1), 4.0, False),
        (9, (0.0, 2.0), 1.0, True),
    ],
)
def test_fit_solves_the_normal_equations(degree, interval, weight_exponent, fix_one):
    fitted = fit_polynomial(0.5, degree, interval, weight_exponent, fix_one, points=501)
    x = np.linspace(*interval, 501)
    basis = np.stack([x ** (2 * t + 1) for t in range((degree + 1) // 2)], axis=1)
    weight, target = x**weight_exponent, np.minimum(x / 0.5, 1)
    # Lagrange: B^T W B c + lambda 1 = B^T W f, 1^T c = 1.
    left, right = basis.T * weight @ basis, basis.T * weight @ target
    if fix_one:
        ones = np.ones((len(left), 1))
        left, right = np.block([[left, ones], [ones.T, np.zeros((1, 1))]]), np.append(right, 1)
    expected = np.linalg.solve(left, right)[: basis.shape[1]]
    # The normal equations square a condition number of up to 1e5: the reference is good to 1e-16 * 1e10.
    np.testing.assert_allclose(g(fitted.coefficients, x), basis @ expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("degree", [1, 3, 9, 15])
def test_fit_keeps_the_constraint_exactly(degree):
    # As many points as one more than terms are enough.
    coefficients = fit_polynomial(0.3, degree, points=(degree + 1) // 2 + 1).coefficients
    # One rounding for each of the terms.
    rounding = len(coefficients) * np.finfo(float).eps * sum(map(abs, coefficients))
    assert math.fsum(coefficients) == pytest.approx(1, rel=0, abs=rounding)


@pytest.mark.parametrize("fix_one", [True, False])
def test_fit_recovers_a_polynomial_target(fix_one):
    coefficients = fit_polynomial(Polynomial((2.0, -1.5, 0.5)), 7, fix_one=fix_one).coefficients
    np.testing.assert_allclose(coefficients, [2, -1.5, 0.5, 0], rtol=0, atol=1e-10)


def test_piecewise_linear():
    x = torch.tensor([0.0, 0.1, 0.4, 0.7, 1.1])
    assert piecewise_linear(0.4)(x).tolist() == pytest.approx([0, 0.25, 1, 1, 1])
    assert torch.equal(piecewise_linear(1.0)(x), torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0]))


@pytest.mark.parametrize(
    ("function", "values", "message"),
    [
        (as_polynomial, (0, 2, -3, 19, True, 3.5, "3", None), "`degree` must be odd, from 1 to 17, or a Polynomial"),
        (Polynomial, ((), (math.nan,), (1.0, math.inf), (-math.inf, 1.0)), "`coefficients` must be one or more finite"),
        (lambda degree: fit_polynomial(0.8, degree), (0, 4, -3), "`degree` must be odd and positive"),
        (lambda b: fit_polynomial(b, 3), (0.0, 1.5, math.nan), r"`cutoff` must be in \(0, 1\]"),
        (
            lambda interval: fit_polynomial(0.8, 3, interval),
            ((0.5, 0.5), (-0.1, 1.0), (1.0, 0.0)),
            "`interval` must satisfy 0 <= lower < upper",
        ),
        (lambda exponent: fit_polynomial(0.8, 3, weight_exponent=exponent), (-1.0,), "`weight_exponent` must be at"),
        (
            lambda slope: fit_polynomial(0.8, 3, minimum_slope=slope),
            (1.0, math.nan),
            "`minimum_slope` must be less than",
        ),
        (lambda count: fit_polynomial(0.8, 3, points=count), (2,), "`points` must be more than 2 for degree 3"),
    ],
)
def test_refused(function, values, message):
    for value in values:
        with pytest.raises(ValueError, match=rf"argument {message}.*, got {re.escape(repr(value))}"):
            function(value)


@pytest.mark.parametrize("leading", [1e-2, 1e-4, 1e-8, 1e-300])
def test_a_small_leading_coefficient_costs_no_accuracy(leading):
    polynomial = Polynomial((3.0, -9.0, 14.0, -10.0, 3.0, 0.5, 0.3, 0.2, leading))
    values = torch.linspace(0.01, 1, 12)
    found = polynomial.of_matrix(torch.diag(values)[None])[0].diagonal()
    torch.testing.assert_close(found, polynomial(values.double()).float(), rtol=0, atol=1e-4)
