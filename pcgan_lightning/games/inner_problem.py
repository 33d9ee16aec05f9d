r"""The discriminator's inner problem of a Dualing GAN, its dual, and a solver of both by products alone.

Li et al., "Dualing GANs", 2017. A sample has the sign y = +1 if it is real and -1 if it is generated, and the weight
p = 1/(2n) of its kind. Where scores are linear in what is looked for, :math:`F(x) = a + s^\top \nabla F(x)`, let
:math:`u = y \nabla F(x)` and :math:`o = y a`; the rows of U are the samples' u. Then

.. math::
    \min_s \tfrac{C}{2} \|w + s\|^2 + \sum_i p_i \log(1 + e^{-(o_i + u_i^\top s)})
        \quad\text{subject to}\quad \tfrac12 \|s\|^2 \le \Delta.

Linear scores are the case w = 0, o = 0 without a trust region.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Optional, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pcgan_lightning.arguments import require_at_least, require_not_negative, require_positive

# Conjugate gradients end when as many more steps as there were, each like the last, would change the dual's slope along
# the direction by so much of it (after Nash and Sofer, 1990), or by the relative gap of it where that is less: half the
# products of exact directions, and as robust.
ACCURACY = 0.1

Total = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class LinearMap(Protocol):
    """U by its products, ``[N, P]``; see :class:`Linearization`."""

    def vjp(self, vector: Tensor, create_graph: bool = False) -> Tensor:
        """Return U^T c, ``[P]``, of c ``[N]``."""

    def jvp(self, vector: Tensor) -> Tensor:
        """Return U s, ``[N]``, of s ``[P]``."""


@dataclass(frozen=True)
class MatrixMap:
    """U as a matrix ``[N, P]``."""

    matrix: Tensor

    def vjp(self, vector: Tensor, create_graph: bool = False) -> Tensor:
        """Return U^T c."""
        return vector @ (self.matrix if create_graph else self.matrix.detach())

    def jvp(self, vector: Tensor) -> Tensor:
        """Return U s."""
        return self.matrix.detach() @ vector


class DualPoint(NamedTuple):
    r"""A point of the dual, and what it says of the primal.

    Attributes:
        logits: :math:`\alpha`, ``[N]``, with :math:`\lambda = p\,\sigma(\alpha)`, always in its box.
        step: s, ``[P]``, in the trust region.
        multiplier: :math:`\beta \ge 0` of the trust region, in closed form; a scalar.
        value: of the dual, a lower bound of the primal's least; a scalar.
    """

    logits: Tensor
    step: Tensor
    multiplier: Tensor
    value: Tensor


class Solution(NamedTuple):
    """Where a solver has stopped.

    Attributes:
        point: of the dual.
        primal: the primal's value at ``point.step``, at least the dual's; a scalar.
    """

    point: DualPoint
    primal: Tensor


def check_problem(weight_decay: float, trust_region: Optional[float] = None) -> None:
    r"""Refuse C or :math:`\Delta` that is not positive and finite."""
    require_positive(weight_decay=weight_decay, trust_region=trust_region)
    require_not_negative(weight_decay=weight_decay, trust_region=trust_region)


def binary_entropy(logits: Tensor) -> Tensor:
    r"""Return :math:`H(u) = -u \log u - (1-u) \log(1-u)` of :math:`u = \sigma(\alpha)`, 0 at u = 0 and at u = 1."""
    # 1 - u is sigma(-alpha), which does not lose its digits where u is nearly 1. Of a larger number, sigma is 0.
    a = logits.clamp(-1e3, 1e3)
    return -(a.sigmoid() * logsigmoid(a) + (-a).sigmoid() * logsigmoid(-a))


@dataclass(frozen=True)
class InnerProblem:
    r"""The discriminator's problem at one point of the generator; all sums are over the samples of all processes.

    The dual, with :math:`q = U^\top\lambda - Cw`, is to maximise over :math:`0 \le \lambda \le p`, :math:`\beta \ge 0`

    .. math::
        \tfrac{C}{2} \|w\|^2 - \frac{\|q\|^2}{2(C + \beta)} - \beta\Delta - \lambda^\top o
            + \sum_i p_i H(\lambda_i / p_i)

    with :math:`s = q / (C + \beta)`, :math:`\beta = \max(0, \|q\| / \sqrt{2\Delta} - C)`.

    Args:
        rows: U, this process's N samples.
        offsets: o, ``[N]``.
        weights: p, ``[N]``.
        center: w, ``[P]``.
        weight_decay: C, positive.
        trust_region: :math:`\Delta`, positive. None: there is none.
        total: function that returns the sums of tensors over all processes.

    Raises:
        ValueError: for C or :math:`\Delta` that is not positive and finite.
    """

    rows: LinearMap
    offsets: Tensor
    weights: Tensor
    center: Tensor
    weight_decay: float
    trust_region: Optional[float] = None
    total: Total = lambda tensors: tensors

    def __post_init__(self) -> None:
        check_problem(self.weight_decay, self.trust_region)

    def at(self, logits: Tensor) -> DualPoint:
        """Return the dual at logits ``[N]``; one product with U^T."""
        dual = self.weights * logits.sigmoid()
        own = (self.weights * binary_entropy(logits) - dual * self.offsets.detach()).sum()
        pulled, terms = self.total((self.rows.vjp(dual), own))
        q, c = pulled - self.weight_decay * self.center, self.weight_decay
        length, multiplier = q.norm(), q.new_zeros(())
        if self.trust_region is not None:
            multiplier = (length / math.sqrt(2 * self.trust_region) - c).clamp(min=0)
            terms = terms - multiplier * self.trust_region
        value = c / 2 * self.center.square().sum() - length.square() / (2 * (c + multiplier)) + terms
        return DualPoint(logits, q / (c + multiplier), multiplier, value)

    def margins(self, step: Tensor) -> Tensor:
        """Return y F(x) after a step, ``[N]``; one product with U."""
        return self.offsets.detach() + self.rows.jvp(step)

    def primal(self, step: Tensor, margins: Optional[Tensor] = None) -> Tensor:
        """Return the primal at a step ``[P]``, whose margins may be known."""
        margins = self.margins(step) if margins is None else margins
        (losses,) = self.total((-(self.weights * logsigmoid(margins)).sum(),))
        return self.weight_decay / 2 * (self.center + step).square().sum() + losses

    def saddle(self, point: DualPoint) -> Tensor:
        r"""Return :math:`\lambda^\top (o + U s)`, this process's part, with the graph of the generated samples.

        Minus its gradient by the generator's parameters is that of the dual, since :math:`\lambda` and s are optimal or
        held: the envelope theorem.
        """
        dual = self.weights * point.logits.sigmoid()
        return dual @ self.offsets + self.rows.vjp(dual, create_graph=True) @ point.step

    def solve(
        self, logits: Optional[Tensor] = None, iterations: int = 100, products: int = 1000, tolerance: float = 1e-14
    ) -> Solution:
        r"""Climb the dual by Newton's method, its linear systems solved by conjugate gradients; it never falls.

        Args:
            logits: where to begin, ``[N]``. None: at :math:`-o`, which is optimal if s = 0 is.
            iterations: Newton's, at most.
            products: with :math:`U^\top U`, of one iteration, at most.
            tolerance: relative gap between primal and dual at which it ends.

        Raises:
            ValueError: for arguments out of range.
        """
        require_at_least(0, iterations=iterations, products=products)
        point = self.at(-self.offsets.detach() if logits is None else logits)
        for _ in range(iterations):
            margins = self.margins(point.step)
            primal = self.primal(point.step, margins)
            if primal - point.value <= tolerance * primal.abs():
                return Solution(point, primal)
            gap = ((primal - point.value) / primal.abs()).clamp(torch.finfo(primal.dtype).eps, ACCURACY)
            higher = self._climb(point, margins, products, gap)
            if higher is None:  # but for rounding
                return Solution(point, primal)
            point = higher
        return Solution(point, self.primal(point.step))

    def _climb(self, point: DualPoint, margins: Tensor, products: int, accuracy: Tensor) -> Optional[DualPoint]:
        """Return a higher point along Newton's direction, None where rounding hides it."""
        rounding = 4 * torch.finfo(point.value.dtype).eps * point.value.abs()
        while True:
            direction, slope, taken = self._direction(point, margins, products, accuracy)
            for halvings in range(30):
                length = 0.5**halvings
                found = self.at(point.logits + length * direction)
                if found.value >= point.value + 1e-4 * length * slope - rounding:
                    return found
            if taken == 0:
                return None
            # Rounding has cost conjugate gradients their conjugacy. The direction after fewer products still climbs.
            products = taken // 2

    def _direction(
        self, point: DualPoint, margins: Tensor, products: int, accuracy: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        r"""Return Newton's direction in the logits, the dual's slope along it, which is positive, and the products.

        The dual's gradient by :math:`\lambda` is :math:`\rho = -\alpha - m` with the margins m, its Hessian
        :math:`-U M U^\top - S^{-1}` with :math:`S = p\,\sigma(\alpha)\sigma(-\alpha)` and M = ds/dq, the projection
        :math:`\Pi` along s (if the region is active) over :math:`C + \beta`. With :math:`y = M U^\top \delta\lambda`,
        :math:`(C + \beta + \Pi U^\top S U \Pi) y = \Pi U^\top S \rho` and :math:`\delta\alpha = \rho - U y`, which no
        saturated sample makes large. Stopped early, conjugate gradients still give a direction that climbs.
        """
        residual = -point.logits - margins
        curvature = self.weights * point.logits.sigmoid() * (-point.logits).sigmoid()
        shift = self.weight_decay + point.multiplier
        along = point.step / point.step.norm() if point.multiplier > 0 else None

        def project(vector: Tensor) -> Tensor:
            return vector if along is None else vector - (along @ vector) * along

        pulled, slope = self.total((self.rows.vjp(curvature * residual), (curvature * residual.square()).sum()))
        search = remaining = project(pulled)
        image = torch.zeros_like(margins)
        square, taken = remaining @ remaining, 0
        for number in range(1, products + 1):
            if square == 0:
                break
            pushed, taken = self.rows.jvp(search), number
            (pulled,) = self.total((self.rows.vjp(curvature * pushed),))
            product = shift * search + project(pulled)
            length = square / (search @ product)
            image = image + length * pushed
            fall = length * square
            slope = slope - fall
            if number * fall <= accuracy * slope:
                break
            remaining = remaining - length * product
            former, square = square, remaining @ remaining
            search = remaining + square / former * search
        return residual - image, slope, taken
