r"""The Jacobian of a GAN at an equilibrium, from its two blocks.

Paper: "Towards a better understanding and regularization of GAN training dynamics", Lemma 3 and Theorems 4 and 5. The
objective is :math:`f(\phi, \theta) = E[g_1(D_\theta(x))] + E[g_2(D_\theta(G_\phi(z)))]`, which G minimises and D
maximises. At an equilibrium, G's distribution is that of the data and D = 0 around all of it (Assumption 1), so that

.. math::
    A = \begin{bmatrix} 0 & -P \\ P^T & Q \end{bmatrix}, \qquad
    P = g_2'(0)\, E_z[\nabla_\phi G_\phi(z)\, \nabla^2_{x\theta} D_\theta(x)]_{x = G_\phi(z)}, \qquad
    Q = (g_1''(0) + g_2''(0))\, E_x[\nabla_\theta D_\theta(x)\, \nabla_\theta D_\theta(x)^T]

(Equations 8 and 9). With n numbers in :math:`\phi` and m in :math:`\theta`, P is n x m and Q m x m; the paper prints
P as m x n, which fits neither Equation 8 nor the m eigenvalues of :math:`P^T P` in Equation 11.
"""

from collections.abc import Callable, Sequence
from typing import Union

import torch
from torch import Tensor

# Of g1(t) = log sigma(t) and g2(t) = log sigma(-t): g2'(0), and g1''(0) + g2''(0).
SLOPE, CURVATURE = -0.5, -0.5


def equilibrium_blocks(
    generate: Callable[[], Tensor],
    discriminator: Callable[[Tensor], Tensor],
    generator_parameters: Sequence[Tensor],
    discriminator_parameters: Sequence[Tensor],
    slope: float = SLOPE,
    curvature: float = CURVATURE,
) -> tuple[Tensor, Tensor]:
    r"""Return P and Q of Equation 9, as means over the samples of the generator, which are also the data's.

    The defaults belong to the log loss. The generator's loss may also be the non-saturating one, whose slope at 0 is
    the same. Nothing here asks whether the point is an equilibrium.

    Args:
        generate: returns samples G(z) of fixed latents, ``[N, ...]``.
        discriminator: samples -> N raw scores, each of its own sample alone.
        generator_parameters: :math:`\phi`, n numbers.
        discriminator_parameters: :math:`\theta`, m numbers.
        slope: :math:`g_2'(0)`.
        curvature: :math:`g_1''(0) + g_2''(0)`.

    Returns:
        P, ``[n, m]``, and Q, ``[m, m]``.
    """
    with torch.enable_grad():
        samples = generate()
        at = samples.detach().requires_grad_()
        scores = discriminator(at).flatten()
        (slopes,) = torch.autograd.grad(scores.sum(), at, create_graph=True)
    by_generator = _jacobian(samples, generator_parameters)  # [N d, n]
    mixed = _jacobian(slopes, discriminator_parameters)  # [N d, m]
    by_discriminator = _jacobian(scores, discriminator_parameters)  # [N, m]
    count = len(scores)
    return slope / count * by_generator.T @ mixed, curvature / count * by_discriminator.T @ by_discriminator


def equilibrium_jacobian(
    p: Tensor, q: Tensor, own: Union[float, Tensor] = 0.0, other: Union[float, Tensor] = 0.0
) -> Tensor:
    r"""Return A at the equilibrium, under SimGD, ConOpt, JARE or between them.

    .. math::
        A = \begin{bmatrix}
            -\beta P P^T & -P - \beta P Q \\ P^T - \alpha Q P^T & Q - \beta P^T P - \alpha Q^2
        \end{bmatrix}

    with :math:`\alpha` and :math:`\beta` the weights `own` and `other` of :meth:`Game.regularized`: 0 and 0 in SimGD
    (Equation 8), 0 and :math:`\gamma` in JARE, :math:`\gamma` and :math:`\gamma` in ConOpt, where it is
    :math:`J - \gamma J^T J` with J that of SimGD.

    As :math:`\gamma` grows, JARE's eigenvalues over :math:`\gamma` approach those of :math:`-P^T P` and of
    :math:`-P P^T`. Theorem 5 prints the former only; both have the same ones, but for \|n - m\| times 0. Likewise
    Theorem 4, :math:`\lambda = (a_1 \pm \sqrt{a_1^2 - 4 a_2})/2`, is silent about the eigenvectors without a part in
    :math:`\theta`: their eigenvalue is 0, and there are at least n - m of them. So a generator with more parameters
    than the discriminator has no strictly stable equilibrium.

    Args:
        p: P, ``[..., n, m]``.
        q: Q, ``[..., m, m]``, symmetric.
        own: :math:`\alpha`, broadcast against ``[..., 1, 1]``.
        other: :math:`\beta`, the same.

    Returns:
        ``[..., n + m, n + m]``, the generator's block first.
    """
    weights = (torch.as_tensor(weight) for weight in (own, other))
    batch = torch.broadcast_shapes(p.shape[:-2], q.shape[:-2], *(weight.shape[:-2] for weight in weights))
    p, q = (block.expand(*batch, *block.shape[-2:]) for block in (p, q))
    pt = p.mT
    top = torch.cat([-other * (p @ pt), -p - other * (p @ q)], -1)
    bottom = torch.cat([pt - own * (q @ pt), q - other * (pt @ p) - own * (q @ q)], -1)
    return torch.cat([top, bottom], -2)


def _jacobian(outputs: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Return the derivatives of all outputs by all inputs, ``[outputs, inputs]``, without a graph."""
    rows = []
    for output in outputs.flatten():
        found = torch.autograd.grad(output, inputs, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([piece.flatten() for piece in found]))
    return torch.stack(rows)
