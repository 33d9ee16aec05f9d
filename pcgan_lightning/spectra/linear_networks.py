r"""Deep pyramid linear networks, and how fast gradient descent fits them: Theorem 1 of the PC-GAN paper.

Paper: "Precondition layer and its use for GANs", Section 2. The network is :math:`F(x) = W_L \cdots W_1 x` with widths
:math:`n \le d_0 \le \dots \le d_r \ge \dots \ge d_L` for n samples X, the loss is :math:`\frac12 \|e\|^2` with
:math:`e = F(X) - Y`, and R is where :math:`\tau_l \ge \sigma_{\max}(W_l) \ge \sigma_{\min}(W_l) \ge \mu_l` for all l.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Optional

import torch
from torch import Tensor, nn

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.spectra.power_iterations import power_iteration
from pcgan_lightning.spectra.shared_weights import shared_weights


def linear_network(widths: Sequence[int], condition_number: Optional[float] = 1.0, seed: int = 0) -> nn.Sequential:
    """Return a deep pyramid linear network without biases, in float64.

    Args:
        widths: d_0, ..., d_L, rising to the widest of the layers 1 to L and falling from there.
        condition_number: of each weight. Its singular values are log-spaced from 1 down to the reciprocal; 1 is the
            orthogonal initialisation. None: Gaussian entries of variance 1 / d_{l-1}.
        seed: of the weights.

    Raises:
        ValueError: for widths that are no pyramid, or a condition number below 1.
    """
    if not _is_pyramid(widths):
        raise ValueError(f"argument `widths` must rise to the widest layer and fall from there, got {tuple(widths)}")
    require_at_least(1, condition_number=condition_number)
    layers = [nn.Linear(cols, rows, bias=False, dtype=torch.float64) for cols, rows in pairwise(widths)]
    source = torch.Generator().manual_seed(seed)
    for layer in layers:
        weight = torch.randn(layer.weight.shape, generator=source, dtype=torch.float64)
        if condition_number is None:
            weight /= layer.in_features**0.5
        else:
            left, old, right = torch.linalg.svd(weight, full_matrices=False)
            weight = left * torch.logspace(0, -math.log10(condition_number), len(old), dtype=old.dtype) @ right
        layer.weight.data.copy_(weight)
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class SpectralRegion:
    r"""The region R: for each layer, bounds of the singular values of its (effective) weight.

    The paper leaves :math:`\mu_l` free, but above 1 its bound may be wrong: for one weight w = 10 with
    :math:`\tau_1 = \mu_1 = 10`, x = 1 and a small e(0), :math:`\mu / \beta` is nearly 1, and :math:`\|e\|^2` falls to
    0.98 of itself. The gradient by the widest layer, which its proof rests on, does not hold that layer's own weight.

    Args:
        bounds: :math:`(\mu_l, \tau_l)` of each layer, :math:`0 < \mu_l \le 1 \le \tau_l`; others are refused.
    """

    bounds: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not all(0 < lower <= 1 <= upper < math.inf for lower, upper in self.bounds):
            raise ValueError(f"argument `bounds` must be pairs with 0 < lower <= 1 <= upper, got {self.bounds}")

    @classmethod
    def around(cls, network: nn.Sequential, below: float = 0.7, above: float = 1.2) -> "SpectralRegion":
        """Return the region from `below` times each smallest to `above` times each largest singular value."""
        found = _extreme_singular_values(network)
        return cls(tuple((min(1.0, below * low), max(1.0, above * high)) for low, high in found))

    def contains(self, network: nn.Sequential) -> bool:
        """Whether the weights that the network uses lie in the region."""
        pairs = zip(_extreme_singular_values(network), self.bounds, strict=True)
        return all(lower <= smallest and largest <= upper for (smallest, largest), (lower, upper) in pairs)

    def constants(self, inputs: Tensor, initial_error: Tensor) -> tuple[float, float]:
        r"""Return the theorem's constants for X ``[n, d_0]``, one sample a row, and e(0) ``[n, d_L]``.

        .. math::
            \beta = L \|X\|_2 \tau_L \cdots \tau_1 (\|e(0)\| + \|X\|_F \tau_L \cdots \tau_1) \qquad
            \mu = (\mu_1 \cdots \mu_L)^2 \sigma_{\min}(X)^2

        Raises:
            ValueError: for linearly dependent samples, as more than d_0 are.
        """
        rank = int(torch.linalg.matrix_rank(inputs))
        if rank < len(inputs):
            raise ValueError(f"argument `inputs` must have linearly independent rows, got {len(inputs)} of rank {rank}")
        values = torch.linalg.svdvals(inputs)
        mu, tau = (math.prod(bounds) for bounds in zip(*self.bounds, strict=True))
        beta = len(self.bounds) * values[0] * tau * (initial_error.norm() + inputs.norm() * tau)
        return beta.item(), (mu * values[-1].item()) ** 2


@dataclass(frozen=True)
class Descent:
    r"""A run of gradient descent, to be set beside :math:`\|e(k+1)\|^2 \le (1 - \mu/\beta) \|e(k)\|^2`, Equation (2).

    Attributes:
        beta, mu: the constants; the learning rate was :math:`1 / \beta`.
        errors: :math:`\|e(k)\|^2` for k = 0, 1, ..., ``[iterations + 1]``.
        left: the first k at which the weights were not in R, or None.
        rounding: how much of :math:`\|e\|` may be rounding.
    """

    beta: float
    mu: float
    errors: Tensor
    left: Optional[int]
    rounding: float

    @property
    def bound(self) -> Tensor:
        r"""What the theorem promises as long as the weights are in R: :math:`(1 - \mu/\beta)^k \|e(0)\|^2`."""
        logarithm = math.log1p(-self.mu / self.beta)  # the ratio may be far below 1e-16
        return self.errors[0] * (logarithm * torch.arange(len(self.errors), dtype=torch.float64)).exp()

    def violations(self) -> list[int]:
        """Return every k up to which the weights were in R, and for which (2) is false by more than rounding."""
        before, after = self.errors[:-1][: self.left], self.errors[1:][: self.left]
        excess = after - (1 - self.mu / self.beta) * before
        # Rounding changes each of the two squares by up to 2 |e| times that of |e|.
        return (excess > 4 * self.rounding * before.sqrt()).nonzero().flatten().tolist()

    def iterations_to(self, ratio: float) -> Optional[int]:
        r"""Return the first k with :math:`\|e(k)\|^2` at most `ratio` of :math:`\|e(0)\|^2`, None without one."""
        found = (self.errors <= ratio * self.errors[0]).nonzero()
        return int(found[0]) if len(found) else None


def gradient_descent(
    network: nn.Sequential,
    inputs: Tensor,
    targets: Tensor,
    iterations: int,
    region: Optional[SpectralRegion] = None,
    until: float = 0.0,
) -> Descent:
    r"""Train a deep pyramid linear network, in place, by gradient descent with learning rate :math:`1 / \beta`.

    Without PC-layers this is what the theorem speaks of. With them, R and the constants are those of the effective
    weights g(SN(W)), but the descent is in W: the theorem does not cover that, and what happens is only measured.

    Args:
        network: linear layers without biases.
        inputs: X ``[n, d_0]``, one sample a row.
        targets: Y ``[n, d_L]``.
        iterations: how many, at most.
        region: R; None: :meth:`SpectralRegion.around` the network.
        until: the ratio of squared errors at which to stop earlier.

    Raises:
        ValueError: for arguments that do not fit one another, or linearly dependent samples.
    """
    require_at_least(0, iterations=iterations)
    _check(network, inputs, targets)
    region = region or SpectralRegion.around(network)
    if len(region.bounds) != len(network):
        raise ValueError(f"argument `region` must have bounds for {len(network)} layers, got {len(region.bounds)}")
    beta, mu = region.constants(inputs, (network(inputs) - targets).detach())
    parameters = list(network.parameters())
    errors: list[float] = []
    left: Optional[int] = None
    for k in range(iterations + 1):
        with shared_weights():
            error = network(inputs) - targets
            if left is None and not region.contains(network):
                left = k
        errors.append(error.square().sum().item())
        if k == iterations or errors[k] <= until * errors[0]:
            break
        gradients = torch.autograd.grad(error.square().sum() / 2, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=1 / beta)
        power_iteration(network)  # of PC-layers, as after an optimizer's update
    scale = inputs.norm().item() * math.prod(upper for _, upper in region.bounds) + targets.norm().item()
    rounding = len(network) * torch.finfo(inputs.dtype).eps * scale
    return Descent(beta, mu, torch.tensor(errors, dtype=torch.float64), left, rounding)


def _check(network: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    if not 0 < len(layers) == len(network) or any(layer.bias is not None for layer in layers):
        raise ValueError(f"argument `network` must be linear layers without biases, got {list(network)}")
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    if not _is_pyramid(widths):
        raise ValueError(f"argument `network` must rise to its widest layer and fall from there, got widths {widths}")
    if targets.shape != (len(inputs), widths[-1]):
        raise ValueError(f"argument `targets` must be of {len(inputs)} x {widths[-1]}, got {tuple(targets.shape)}")


def _extreme_singular_values(network: nn.Sequential) -> list[tuple[float, float]]:
    """Return the smallest and the largest singular value of each effective weight."""
    values = [torch.linalg.svdvals(layer.weight.detach()) for layer in network if isinstance(layer, nn.Linear)]
    return [(v[-1].item(), v[0].item()) for v in values]


def _is_pyramid(widths: Sequence[int]) -> bool:
    """Whether the widths rise to some d_r with r of at least 1, and fall from there."""
    rising = [a < b for a, b in pairwise(widths) if a != b]
    return len(widths) > 1 and min(widths) > 0 and widths[0] <= widths[1] and rising == sorted(rising, reverse=True)
