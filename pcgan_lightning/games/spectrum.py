r"""Eigenvalues of a game's Jacobian, and what they say about convergence.

Paper: "Towards a better understanding and regularization of GAN training dynamics", Corollaries 1 and 2. Near an
equilibrium, a step of size :math:`\eta` multiplies the error along an eigenvector by :math:`1 + \eta\lambda`, where

.. math:: |1 + \eta\lambda|^2 = 1 + 2\eta\,\mathrm{Re}\,\lambda + \eta^2 |\lambda|^2.
"""

from typing import Literal, Optional, Union, get_args

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs
from torch import Tensor

from pcgan_lightning.arguments import require_at_least, require_one_of, require_positive
from pcgan_lightning.games.game import Game

Leading = Literal["modulus", "real", "imaginary"]
_ARPACK = {"modulus": "LM", "real": "LR", "imaginary": "LI"}
_KEYS = {"modulus": torch.abs, "real": torch.real, "imaginary": lambda values: values.imag.abs()}


class EigenvaluesNotConverged(RuntimeError):
    """Fewer eigenvalues than asked for converged.

    Attributes:
        eigenvalues: those that did, complex128.
    """

    def __init__(self, message: str, eigenvalues: Tensor) -> None:
        super().__init__(message)
        self.eigenvalues = eigenvalues


def leading_eigenvalues(
    game: Game,
    count: int = 6,
    which: Leading = "modulus",
    tolerance: Optional[float] = None,
    max_products: int = 1000,
) -> Tensor:
    r"""Return the leading eigenvalues of a game's Jacobian, without forming it.

    ARPACK's restarted Arnoldi iteration, through scipy, over Jacobian-vector products; it keeps max(2 count + 1, 20)
    vectors of the game's size in float64. A game no larger than that is done densely.

    Args:
        game: of any size.
        count: how many; of a conjugate pair at the end only one may be returned.
        which: those of largest modulus, largest real part (the least stable) or largest absolute imaginary part.
        tolerance: relative error of each eigenvalue of a normal matrix. None: the square root of the parameters'
            precision, 1.5e-8 in float64 and 3.5e-4 in float32, whose products allow no less.
        max_products: the most Jacobian-vector products, each of which takes about as long as one backward pass
            through the gradients.

    Returns:
        ``[count]``, complex128 on the CPU, the leading one first; fewer for a game of fewer parameters.

    Raises:
        ValueError: for arguments out of range, products that are not finite, and as :meth:`Game.linearize`.
        EigenvaluesNotConverged: when fewer than `count` converged within `max_products`.
    """
    require_at_least(1, count=count)
    require_one_of(get_args(Leading), which=which)
    if max_products < least_products(count):
        raise ValueError(
            f"argument `max_products` must be at least {least_products(count)} for {count} eigenvalues, got "
            f"{max_products}"
        )
    linear = game.linearize()
    if tolerance is None:
        tolerance = torch.finfo(linear.direction.dtype).eps ** 0.5
    require_positive(tolerance=tolerance)

    def product(vector: np.ndarray) -> np.ndarray:
        found = linear.jvp(torch.from_numpy(vector)).to("cpu", torch.float64)
        if not found.isfinite().all():
            raise ValueError("argument `game` must have a finite Jacobian, got a product that is not finite")
        return found.numpy()

    if game.size <= _basis(count):
        matrix = np.stack([product(row) for row in np.eye(game.size)], axis=1)
        return _leading(_dense(matrix), which)[:count]
    # A start of our own: ARPACK's comes from numpy's global random state.
    start = torch.randn(game.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    if not product(start).any():  # ARPACK refuses a matrix that maps its start to 0
        return torch.zeros(count, dtype=torch.complex128)
    operator = LinearOperator((game.size, game.size), matvec=product, dtype=np.float64)
    try:
        return _leading(torch.from_numpy(_arnoldi(operator, start, count, which, tolerance, max_products)), which)
    except ArpackNoConvergence as error:
        converged = _leading(torch.as_tensor(error.eigenvalues, dtype=torch.complex128), which)
        raise EigenvaluesNotConverged(
            f"argument `max_products` must be larger for {count} eigenvalues of this game, got {max_products}, after "
            f"which {len(converged)} had converged",
            converged,
        ) from error


def _arnoldi(
    operator: LinearOperator, start: np.ndarray, count: int, which: Leading, tolerance: float, max_products: int
) -> np.ndarray:
    basis = _basis(count)
    return eigs(
        operator,
        k=count,
        which=_ARPACK[which],
        v0=start,
        ncv=basis,
        tol=tolerance,
        maxiter=(max_products - 1 - basis) // (basis - count),  # each restart takes as many products
        return_eigenvectors=False,
    )


def every_eigenvalue(game: Game, max_parameters: int = 4096) -> Tensor:
    """Return all eigenvalues of a small game's Jacobian, complex128 ``[size]`` on the CPU, the largest modulus first.

    Args:
        game: see :meth:`Game.jacobian`.
        max_parameters: the largest game to do that for.
    """
    return _leading(_dense(game.jacobian(max_parameters).to("cpu", torch.float64).numpy()), "modulus")


def _dense(matrix: np.ndarray) -> Tensor:
    # numpy's solver also takes matrices of low rank, on which torch's gives up.
    return torch.from_numpy(np.linalg.eigvals(matrix)).to(torch.complex128)


def least_products(count: int) -> int:
    """Return the fewest products that :func:`leading_eigenvalues` may be asked to do with: one restart's."""
    return 2 * _basis(count)


def _basis(count: int) -> int:
    return max(2 * count + 1, 20)


def _leading(eigenvalues: Tensor, which: Leading) -> Tensor:
    return eigenvalues[_KEYS[which](eigenvalues).argsort(descending=True, stable=True)]


def phase_factor(eigenvalues: Tensor, negligible: float = 0.0) -> Tensor:
    r"""Return :math:`\zeta = \max_k |\mathrm{Im}\,\lambda_k / \mathrm{Re}\,\lambda_k|`.

    An imaginary eigenvalue makes it infinite; the eigenvalue 0 has no phase and counts as real. The factor of some
    eigenvalues is at most that of all.

    Args:
        eigenvalues: ``[..., K]``, K at least 1, real or complex.
        negligible: eigenvalues of at most this part of the largest modulus count as 0. What a solver makes of a true 0
            is rounding noise with a phase of its own, and a game has as many of them as the generator has more
            parameters than the discriminator (Theorem 4).

    Returns:
        ``[...]`` of the real dtype, 0 where all are real, NaN where one is.
    """
    imaginary = eigenvalues.imag.abs() if eigenvalues.is_complex() else torch.zeros_like(eigenvalues)
    moduli = eigenvalues.abs()
    real = (imaginary == 0) | (moduli <= negligible * moduli.amax(-1, keepdim=True))
    return torch.where(real, 0.0 * moduli, imaginary / eigenvalues.real.abs()).amax(-1)


def conditioning_factor(eigenvalues: Tensor, negligible: float = 0.0) -> Tensor:
    r"""Return :math:`\tau = \max_{j, k} |\lambda_j / \lambda_k|`.

    The eigenvalue 0 makes it infinite. The factor of some eigenvalues is at most that of all.

    Args:
        eigenvalues: ``[..., K]``, K at least 1, real or complex.
        negligible: see :func:`phase_factor`.

    Returns:
        ``[...]`` of the real dtype, at least 1.
    """
    moduli = eigenvalues.abs()
    largest, least = moduli.amax(-1), moduli.amin(-1)
    return torch.where(least <= negligible * largest, torch.inf, largest / least)


def largest_step_size(eigenvalues: Tensor) -> Tensor:
    r"""Return below which step size all errors shrink, :math:`\min_k -2\,\mathrm{Re}\,\lambda_k / |\lambda_k|^2`.

    In the linear GAN under SimGD, where all :math:`\lambda_j \lambda_k` of a pair are 1/4, it is
    :math:`4 / \sqrt{1 + \zeta^2}` when all eigenvalues are complex (Corollary 1) and :math:`4 / \sqrt\tau` when all are
    real (Corollary 2); :math:`\zeta` and :math:`\tau` alone do not decide it in other games.

    Args:
        eigenvalues: ``[..., K]``.

    Returns:
        ``[...]`` of the real dtype, 0 where no step size converges.
    """
    bounds = -2 * eigenvalues.real / eigenvalues.abs().square()
    return torch.where(eigenvalues.real < 0, bounds, 0.0).amin(-1)


def best_step_size(eigenvalues: Tensor) -> Tensor:
    r"""Return the step size that minimises :math:`\max_k |1 + \eta\lambda_k|`, the error's factor per iteration.

    A maximum of parabolas in :math:`\eta` is least at the lowest point of one or where two cross.

    Args:
        eigenvalues: ``[..., K]``; time and memory grow with K^3.

    Returns:
        ``[...]`` of the real dtype, 0 where no step size converges.
    """
    real, squares = eigenvalues.real, eigenvalues.abs().square()
    crossings = 2 * (real[..., None, :] - real[..., None]) / (squares[..., None] - squares[..., None, :])
    candidates = torch.cat([-real / squares, crossings.flatten(-2), torch.zeros_like(real[..., :1])], -1)
    candidates = torch.where(candidates.isfinite() & (candidates > 0), candidates, 0.0)[..., None]
    factors = (1 + 2 * candidates * real[..., None, :] + candidates.square() * squares[..., None, :]).amax(-1)
    factor, best = factors.min(-1, keepdim=True)
    return torch.where(factor < 1, candidates.squeeze(-1).gather(-1, best), 0.0).squeeze(-1)


def phase_iterations(phase: Union[float, Tensor], reduction: float) -> Tensor:
    r"""Return the fewest iterations that :math:`\zeta` allows, :math:`2 \log(C_0/\epsilon) / \log(1 + 1/\zeta^2)`.

    Corollary 1. It holds in every game: no step size makes :math:`|1 + \eta\lambda|^2` less than
    :math:`\zeta^2 / (1 + \zeta^2)`, and :math:`\eta = -\mathrm{Re}\,\lambda / |\lambda|^2` reaches that.

    Args:
        phase: :math:`\zeta \ge 0`.
        reduction: :math:`C_0/\epsilon > 1`, by how much the error has to shrink.

    Raises:
        ValueError: for arguments out of range.
    """
    phase = _at_least("phase", phase, 0.0)
    return 2 * _log_of(reduction) / torch.log1p(phase**-2)


def conditioning_iterations(conditioning: Union[float, Tensor], reduction: float) -> Tensor:
    r"""Return the fewest iterations that :math:`\tau` allows, :math:`\log(\epsilon/C_1) / \log(1 - 2/\tau)`.

    Corollary 2, of real eigenvalues in every game: a stable step is shorter than :math:`2 / |\lambda|_{\max}`, and
    leaves more than :math:`1 - 2/\tau` of the error along the eigenvector of :math:`|\lambda|_{\min}`.

    Args:
        conditioning: :math:`\tau \ge 1`; up to 2 the bound is 0.
        reduction: :math:`C_1/\epsilon > 1`, by how much the error has to shrink.

    Raises:
        ValueError: for arguments out of range.
    """
    conditioning = _at_least("conditioning", conditioning, 1.0)
    return _log_of(reduction) / -torch.log1p(-2 / conditioning.clamp_min(2.0))


def _at_least(name: str, values: Union[float, Tensor], bound: float) -> Tensor:
    values = torch.as_tensor(values, dtype=torch.float64)
    if not (values >= bound).all():
        raise ValueError(f"argument `{name}` must be at least {bound:g}, got {values.min():g}")
    return values


def _log_of(reduction: float) -> float:
    if not reduction > 1:
        raise ValueError(f"argument `reduction` must be more than 1, got {reduction}")
    return float(np.log(reduction))
