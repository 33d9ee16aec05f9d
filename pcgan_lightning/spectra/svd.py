r"""Weights parametrised by their singular value decomposition, the baseline "SVD" of PC-GAN's tables.

Jiang et al., "On computation and generalization of generative adversarial networks under spectrum control" (2019).
"""

import operator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pcgan_lightning.spectra.followed_layers import FOLLOWED_LAYERS
from pcgan_lightning.spectra.matrices import MatrixLayout, weight_layers, without_autocast
from pcgan_lightning.spectra.pc_layer import weight_parametrizations
from pcgan_lightning.spectra.spectral_norm import spectral_norm_hook

ModuleT = TypeVar("ModuleT", bound=nn.Module)
SMALLEST = 1e-3  # where d crosses 0: log d becomes log sqrt(d^2 + this^2), and nothing is divided by less


class OrthogonalSVD(nn.Module):
    r"""Parametrization :math:`W = U^\top \mathrm{diag}(d / \max |d|) V` with r = min(rows, cols).

    U ``[groups, r, rows]``, d ``[groups, r]`` and V ``[groups, r, cols]`` are the parameters. The largest :math:`|d|`
    (at least 0.001) is a constant to the gradient; after each step of an optimizer that holds d it is divided out of d
    itself. While U and V have orthonormal rows, the singular values of W are :math:`|d|`.

    Args:
        layout: how the weight is read as matrices ``[groups, rows, cols]``.
        shape: of the weight.
    """

    def __init__(self, layout: MatrixLayout, shape: torch.Size) -> None:
        super().__init__()
        self.layout = layout
        self.shape = shape

    def forward(self, u: Tensor, d: Tensor, v: Tensor) -> Tensor:
        """Return the weight."""
        with without_autocast(u.device.type):
            u, d, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (u, d, v))
            scaled = (d / largest(d)).unsqueeze(-2)
            return self.layout.to_weight((u.mT * scaled) @ v, self.shape).to(u.dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the singular vectors of a weight with d = 1: it starts as its own nearest orthogonal matrix."""
        matrices = self.layout.to_matrices(weight.detach())
        left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
        u, v = left.mT.to(weight.dtype).contiguous(), right.to(weight.dtype).contiguous()
        return u, torch.ones_like(u[..., 0]), v


def orthogonal_svd(module: ModuleT) -> ModuleT:
    r"""Parametrise every weight of a network as :math:`U^\top \mathrm{diag}(d) V`, in place, the last layer included.

    Make the optimizer afterwards: U, d and V are new Parameters. A layer that has them already is left alone. The
    penalty that keeps U and V orthogonal and d large is :func:`d_optimal_penalty`.

    Returns:
        `module` itself.

    Raises:
        ValueError: for a module without a weight matrix, or a layer with a PC-layer, a spectral norm or another
            parametrization; nothing is changed then.
    """
    layers = {name: layer for name, layer in weight_layers(module).items() if svd_of(layer) is None}
    if not weight_layers(module):
        raise ValueError(
            f"argument `module` must hold a Linear, Conv or ConvTranspose layer, got {type(module).__name__}"
        )
    for name, layer in layers.items():
        chain = weight_parametrizations(layer)
        if chain is not None or spectral_norm_hook(layer) is not None:
            kinds = [type(p).__name__ for p in chain] if chain is not None else ["SpectralNorm"]
            raise ValueError(
                f"layer {name!r} can't be parametrised by its SVD: its weight must have no other parametrization, "
                f"got {kinds}"
            )
    for layer in layers.values():
        new = OrthogonalSVD(MatrixLayout.of_layer(layer), layer.weight.shape)
        # `unsafe`, since the weight that it starts with is another one.
        parametrize.register_parametrization(layer, "weight", new, unsafe=True)
        FOLLOWED_LAYERS.add(layer)
    return module


def remove_svd(module: ModuleT) -> ModuleT:
    """Fold U, d and V into plain weights, in place: new Parameters, the same outputs. Returns `module` itself."""
    for layer in weight_layers(module).values():
        if svd_of(layer) is not None:
            # Copies of a layer share the class that torch made for it, and torch takes the property off the class.
            shared = type(layer)
            layer.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module


def svd_of(layer: nn.Module) -> parametrize.ParametrizationList | None:
    """Return what holds a layer's U, d and V as ``original0`` to ``original2``, if there is such a thing."""
    chain = weight_parametrizations(layer)
    return chain if chain is not None and isinstance(chain[0], OrthogonalSVD) else None


def svd_factors(module: nn.Module) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return U ``[groups, r, rows]``, d ``[groups, r]`` and V ``[groups, r, cols]`` of each such layer by its name."""
    found = ((name, svd_of(layer)) for name, layer in weight_layers(module).items())
    names = [f"original{number}" for number in range(3)]
    return {name: operator.attrgetter(*names)(chain) for name, chain in found if chain is not None}


def d_optimal_penalty(module: nn.Module, spectrum_weight: float = 0.1) -> Tensor:
    r"""Return the D-optimal regularisation, a scalar.

    .. math:: \sum_l \|U_l U_l^\top - I\|_F^2 + \|V_l V_l^\top - I\|_F^2 - \alpha \, \mathrm{mean} \log |d_l|

    Since d may cross 0, where the authors' code has NaN, :math:`\log \sqrt{d^2 + 10^{-6}}` stands for the logarithm.

    Args:
        module: a network under :func:`orthogonal_svd`.
        spectrum_weight: :math:`\alpha`.

    Raises:
        ValueError: for a network without such layers.
    """
    factors = svd_factors(module).values()
    if not factors:
        raise ValueError(
            f"argument `module` must have layers under `orthogonal_svd`, got {type(module).__name__} without any"
        )
    terms = []
    for u, d, v in factors:
        with without_autocast(u.device.type):  # in half precision the deviations from I are mostly rounding
            for x in (u, v):
                terms.append((x @ x.mT - torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)).square().sum())
            terms.append(-0.5 * spectrum_weight * (d.square() + SMALLEST**2).log().mean())
    return torch.stack(terms).sum()


@torch.no_grad()
def rescale(layer: nn.Module) -> None:
    """Divide a layer's d by its largest absolute value, in place; W stays the same unless all of d is below 1e-3."""
    chain = svd_of(layer)
    if chain is not None:
        d: Tensor = operator.attrgetter("original1")(chain)
        d.div_(largest(d))


def largest(d: Tensor) -> Tensor:
    """Return what d is divided by; a layer of one singular value may have it at 0."""
    return d.detach().abs().max().clamp(min=SMALLEST)
