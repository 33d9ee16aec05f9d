r"""The linear GAN of "Towards a better understanding and regularization of GAN training dynamics" (JARE).

The data are :math:`x \sim N(v, \sigma^2 I)` in n dimensions, :math:`G(z) = z + \phi` with :math:`z \sim N(0, \sigma^2
I)`, and :math:`D(x) = \theta^T x`. G minimises what D maximises,

.. math:: f(\phi, \theta) = E[\log\sigma(\theta^T x)] + E[\log\sigma(-\theta^T (z + \phi))],

with the equilibrium :math:`\phi = v, \theta = 0`. Everything is in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Union

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.games.equilibria import CURVATURE, SLOPE, equilibrium_jacobian
from pcgan_lightning.games.game import Game


@dataclass
class LinearRun:
    r"""What linear GANs did over time.

    Attributes:
        iteration: ``[T]``.
        error: :math:`(\phi - v, \theta)` at those moments, ``[T, ..., 2, n]``.
    """

    iteration: Tensor
    error: Tensor

    def distance(self) -> Tensor:
        """Return the Euclidean distance to the equilibrium, ``[T, ...]``."""
        return self.error.flatten(-2).norm(dim=-1)

    def iterations_to(self, epsilon: float) -> Tensor:
        r"""Return from which recorded iteration on the distance stays at most :math:`\epsilon`, ``[...]``.

        Infinite where the last one is still larger, or not a number.

        Args:
            epsilon: the distance of an :math:`\epsilon`-error solution.
        """
        outside = ~(self.distance() <= epsilon)
        times = torch.cat([self.iteration.double(), torch.tensor([torch.inf], dtype=torch.float64)])
        moments = torch.arange(1, len(self.iteration) + 1).view(-1, *[1] * (outside.ndim - 1))
        return times[torch.where(outside, moments, 0).amax(0)]


class LinearGAN:
    r"""The game, or a batch of games of one dimension, which do not touch each other.

    `own` and `other` are the weights of :meth:`Game.regularized`, one for all games or one for each: SimGD is 0 and 0,
    JARE 0 and :math:`\gamma`, ConOpt :math:`\gamma` and :math:`\gamma`.

    Args:
        mean: v, ``[..., n]``.
        sigma: :math:`\sigma > 0`, one for all games or ``[...]``.

    Attributes:
        mean: v, ``[..., n]``.
        sigma: ``[...]``.

    Raises:
        ValueError: for a mean that is no vector, or a sigma that is not positive.

    Example:
        >>> gan = LinearGAN(torch.tensor([0.0, 1.0]), sigma=1.0)
        >>> gan.eigenvalues().real.sort().values  # pairs of s = 1 and s = 2, the latter twice -1/2
        tensor([-0.5000, -0.5000, -0.2500, -0.2500], dtype=torch.float64)
    """

    def __init__(self, mean: Union[Tensor, Sequence[float]], sigma: Union[float, Tensor]) -> None:
        mean = torch.as_tensor(mean, dtype=torch.float64)
        if mean.ndim < 1 or not mean.shape[-1]:
            raise ValueError(f"argument `mean` must have at least one entry, got shape {tuple(mean.shape)}")
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        if not (sigma > 0).all():
            raise ValueError(f"argument `sigma` must be positive, got {sigma.min():g}")
        shape = torch.broadcast_shapes(mean.shape[:-1], sigma.shape)
        self.mean = mean.expand(*shape, mean.shape[-1])
        self.sigma = sigma.expand(shape)

    @property
    def dimension(self) -> int:
        """The dimension n."""
        return self.mean.shape[-1]

    def second_moments(self) -> Tensor:
        r"""Return the eigenvalues s of :math:`E[x x^T]`, :math:`\sigma^2 + \|v\|^2` first, ``[..., n]``."""
        variance = self.sigma.square()[..., None].repeat(*[1] * self.sigma.ndim, self.dimension)
        variance[..., 0] += self.mean.square().sum(-1)
        return variance

    def eigenvalues(self, own: Union[float, Tensor] = 0.0, other: Union[float, Tensor] = 0.0) -> Tensor:
        r"""Return the Jacobian's eigenvalues at the equilibrium, in closed form.

        For each eigenvalue s of :math:`E[x x^T]`, :math:`\sigma^2 + \|v\|^2` once and :math:`\sigma^2` n - 1 times
        (the paper does not say how often),

        .. math::
            \text{SimGD: } \frac{-s \pm \sqrt{s^2 - 4}}{4} \qquad
            \text{JARE: } \frac{-(s + \gamma) \pm \sqrt{(s + \gamma)^2 - (\gamma^2 + 4)}}{4} \qquad
            \text{ConOpt: } \frac{-T \pm \sqrt{T^2 - 4(\gamma^2 + 2 \gamma s + 4)}}{8}

        with :math:`T = 2s + 2\gamma + \gamma s^2` (Theorems 1 and 3; ConOpt's is ours). All are cases of trace
        :math:`-(2s + \alpha s^2 + 2\beta)/4` and determinant :math:`(\beta^2 + 2 \alpha s + 4)/16`, where
        :math:`\alpha` is `own` and :math:`\beta` is `other`. The theorems speak of a neighbourhood: they are exact at
        the equilibrium, and the Jacobian is continuous.

        Args:
            own: :math:`\alpha`, a number or ``[...]``.
            other: :math:`\beta`, the same.

        Returns:
            complex128 ``[..., 2 n]``: the larger real parts first, in the order of :meth:`second_moments`.

        Raises:
            ValueError: for a negative weight.
        """
        s = self.second_moments()
        alpha, beta = _columns(own=own, other=other)
        half_trace = -(2 * s + alpha * s.square() + 2 * beta) / 8
        determinant = (beta.square() + 2 * alpha * s + 4) / 16
        root = (half_trace.square() - determinant).to(torch.complex128).sqrt()
        far = half_trace - root
        # The near one's real part would cancel; the product of both is the determinant.
        near = torch.where(root.imag > 0, half_trace + root, determinant / far)
        return torch.cat([near, far], -1)

    def jacobian(self, own: Union[float, Tensor] = 0.0, other: Union[float, Tensor] = 0.0) -> Tensor:
        r"""Return the Jacobian at the equilibrium, with :math:`P = -I/2` and :math:`Q = -E[x x^T]/2` (Lemma 3).

        Args:
            own: a number or ``[...]``.
            other: the same.

        Returns:
            ``[..., 2 n, 2 n]``.

        Raises:
            ValueError: for a negative weight.
        """
        identity = torch.eye(self.dimension, dtype=torch.float64)
        moment = self.sigma.square()[..., None, None] * identity + self.mean[..., None] * self.mean[..., None, :]
        own, other = (weight[..., None] for weight in _columns(own=own, other=other))
        return equilibrium_jacobian(SLOPE * identity.expand_as(moment), CURVATURE * moment, own, other)

    def game(
        self,
        own: Union[float, Tensor] = 0.0,
        other: Union[float, Tensor] = 0.0,
        samples: Optional[int] = None,
        seed: int = 0,
    ) -> Game:
        r"""Return the game on samples, at the equilibrium, where its parameters may be moved in place.

        A batch is one game, the direct sum of its games: the Jacobian has the eigenvalues of all.

        Args:
            own: a number or ``[...]``.
            other: the same.
            samples: how many x and as many z are drawn, the same standard normal numbers for all games of a batch.
                None: the sigma points :math:`\pm\sigma\sqrt n e_i` around each mean, which have exactly its mean and
                covariance; nothing else enters the Jacobian at the equilibrium.
            seed: of the samples.

        Raises:
            ValueError: for a negative weight, or no samples.
        """
        noise = self._noise(samples, torch.Generator().manual_seed(seed))
        phi, theta = (x.clone().requires_grad_() for x in (self.mean, torch.zeros_like(self.mean)))

        def value() -> Tensor:
            scores = (self._points(noise, phi) @ theta[..., None, :, None]).squeeze(-1)  # [..., 2, samples]
            return logsigmoid(scores[..., 0, :]).mean(-1).sum() + logsigmoid(-scores[..., 1, :]).mean(-1).sum()

        own, other = _columns(own=own, other=other)
        return Game.zero_sum(value, [phi], [theta]).regularized(own, other)

    def play(
        self,
        step_size: Union[float, Tensor],
        iterations: int,
        own: Union[float, Tensor] = 0.0,
        other: Union[float, Tensor] = 0.0,
        samples: Optional[int] = None,
        seed: int = 0,
        offset: float = 0.05,
        record_every: int = 1,
    ) -> LinearRun:
        r"""Play the game by simultaneous steps, all games of the batch at once.

        Args:
            step_size: :math:`\eta`, a number or ``[...]``.
            iterations: steps.
            own: a number or ``[...]``.
            other: the same.
            samples: x and z drawn for each step, see :meth:`game`; None: always the sigma points.
            seed: of the samples.
            offset: what each entry of :math:`\phi - v` and :math:`\theta` begins with; 0.05 in the authors' code.
            record_every: steps between recorded moments.

        Raises:
            ValueError: for arguments out of range.
        """
        require_at_least(1, iterations=iterations, record_every=record_every)
        step_size, own, other = _columns(step_size=step_size, own=own, other=other)
        source = torch.Generator().manual_seed(seed)
        noise = self._noise(samples, source)
        phi, theta = self.mean + offset, torch.full_like(self.mean, offset)
        moments, errors = [], []
        for t in range(iterations + 1):
            if t % record_every == 0 or t == iterations:
                moments.append(t)
                errors.append(torch.stack([phi - self.mean, theta], -2))
            down, up = self._gradients(phi, theta, noise, own, other)
            phi, theta = phi - step_size * down, theta + step_size * up
            if samples is not None:
                noise = self._noise(samples, source)
        return LinearRun(torch.tensor(moments), torch.stack(errors))

    def _noise(self, samples: Optional[int], source: torch.Generator) -> Tensor:
        """Return points of N(0, I) for x and for z, ``[2, samples, n]``."""
        if samples is None:
            axes = self.dimension**0.5 * torch.eye(self.dimension, dtype=torch.float64)
            return torch.cat([axes, -axes]).expand(2, -1, -1)
        require_at_least(1, samples=samples)
        return torch.randn(2, samples, self.dimension, generator=source, dtype=torch.float64)

    def _points(self, noise: Tensor, phi: Tensor) -> Tensor:
        """Return x and G(z), ``[..., 2, samples, n]``."""
        return self.sigma[..., None, None, None] * noise + torch.stack([self.mean, phi], -2)[..., None, :]

    def _gradients(
        self, phi: Tensor, theta: Tensor, noise: Tensor, own: Tensor, other: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Return what :math:`\phi` goes down and :math:`\theta` goes up, in closed form: many times faster here.

        With the label y (1 for x, 0 for G(z)) and the probability p of a point, the derivative of f by its score is
        y - p, and the second derivative -p (1 - p).
        """
        points = self._points(noise, phi)
        p = (points @ theta[..., None, :, None]).squeeze(-1).sigmoid()  # [..., 2, samples]
        first, second = torch.tensor([[1.0], [0.0]], dtype=p.dtype) - p, -p * (1 - p)
        on_fake = first[..., 1, :].mean(-1, keepdim=True)
        by_theta = (first[..., None] * points).mean(-2).sum(-2)
        by_phi = on_fake * theta
        # Halves of the gradients of |by_theta|^2 (twice) and of |by_phi|^2 (twice).
        along = second * (points @ by_theta[..., None, :, None]).squeeze(-1)
        length = (theta * by_phi).sum(-1, keepdim=True)
        theta_by_theta = (along[..., None] * points).mean(-2).sum(-2)
        theta_by_phi = along[..., 1, :].mean(-1, keepdim=True) * theta + on_fake * by_theta
        phi_by_phi = second[..., 1, :].mean(-1, keepdim=True) * length * theta
        phi_by_theta = (second[..., 1, :, None] * points[..., 1, :, :]).mean(-2) * length + on_fake * by_phi
        return (
            by_phi + own * phi_by_phi + other * theta_by_phi,
            by_theta - own * theta_by_theta - other * phi_by_theta,
        )


def _columns(**weights: Union[float, Tensor]) -> list[Tensor]:
    """Return weights of games as float64, to be broadcast over vectors, if none is negative."""
    columns = [torch.as_tensor(weight, dtype=torch.float64)[..., None] for weight in weights.values()]
    for name, column in zip(weights, columns, strict=True):
        if not (column >= 0).all():
            raise ValueError(f"argument `{name}` must not be negative, got {column.min():g}")
    return columns
