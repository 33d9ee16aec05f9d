r"""The preconditioning polynomial of least greatest error, beside the least squares of ``fit_polynomial``.

Paper: "Precondition layer and its use for GANs", Section 3.3, Eq. (3).
"""

from collections.abc import Callable
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from pcgan_lightning.spectra.polynomials import FitProblem, Polynomial, fit_problem


def fit_minimax(
    target: "float | Callable[[Tensor], Tensor]",
    degree: int,
    interval: tuple[float, float] = (0.0, 1.1),
    fix_one: bool = True,
    points: int = 4001,
    minimum_slope: Optional[float] = None,
) -> Polynomial:
    r"""Fit a preconditioning polynomial by the sup norm.

    .. math:: \min_{g \in G_k} \max_{x \in [\gamma_L, \gamma_U]} |g(x) - f(x)|

    (Eq. 3) on equally spaced points, by linear programming. It comes closer to f than
    :func:`~pcgan_lightning.spectra.fit_polynomial`, and has falling stretches that are much steeper: at degree 9 the
    slope goes down to -1.4 instead of -0.2, at degree 17 to -11 instead of -0.3. Where g falls, gradients through it
    change their sign; `minimum_slope` bounds it.

    Args:
        target: f, a function of a float64 tensor, or a number b in (0, 1] for the piecewise linear :math:`PL_b`.
        degree: odd degree of g, at least 1.
        interval: :math:`[\gamma_L, \gamma_U]` with :math:`0 \le \gamma_L < \gamma_U`.
        fix_one: whether g(1) = 1 is imposed, as for all polynomials here; Eq. (3) as printed does not.
        points: number of grid points, more than the number of coefficients.
        minimum_slope: less than 1; g'(x) is at least this at all grid points, to 1e-5. None: no bound.

    Returns:
        The fitted polynomial.

    Raises:
        ValueError: for an even or non-positive degree, an empty interval, too few points or too large a slope.

    Example:
        >>> g = fit_minimax(0.4, 1, fix_one=False)  # c x with c = 2 / (b + 1.1) errs as much at b as at 1.1
        >>> round(g.coefficients[0], 3)
        1.333
    """
    problem = fit_problem(target, degree, interval, fix_one, points, minimum_slope)
    if not problem.basis.shape[1]:
        return problem.polynomial(problem.right[:0])  # g(x) = x: the constraint leaves nothing to fit
    return problem.polynomial(_least_greatest_error(problem, minimum_slope))


def _least_greatest_error(problem: FitProblem, minimum_slope: Optional[float]) -> Tensor:
    r"""Return the c of least t with :math:`-t \le B c - r \le t` at all points, and the slopes bounded."""
    from scipy.optimize import linprog  # takes half a second to import, which only this needs

    # Powers of x are nearly parallel: the solver sees orthogonal columns of size 1, z = R c, in their place.
    points = len(problem.x)
    orthogonal, triangle = torch.linalg.qr(problem.basis)
    orthogonal, triangle = orthogonal * points**0.5, triangle / points**0.5
    ones = torch.ones(points, 1, dtype=torch.float64)
    rows, bounds = [torch.cat([sign * orthogonal, -ones], 1) for sign in (1, -1)], [problem.right, -problem.right]
    if minimum_slope is not None:
        slopes = torch.linalg.solve_triangular(triangle, problem.slopes, upper=True, left=False)
        rows.append(torch.cat([-slopes, 0 * ones], 1))
        bounds.append(problem.known_slope - minimum_slope)
    cost = np.append(np.zeros(orthogonal.shape[1]), 1.0)
    found = linprog(cost, torch.cat(rows).numpy(), torch.cat(bounds).numpy(), bounds=(None, None), method="highs-ds")
    if not found.success:
        raise RuntimeError(f"the linear program was not solved: {found.message}")
    z = torch.from_numpy(found.x[:-1, None])
    return torch.linalg.solve_triangular(triangle, z, upper=True)[:, 0]
