r"""The PC-layer: a weight reparametrised as :math:`g(SN(W))`.

Paper: "Precondition layer and its use for GANs", Section 3.2. The forward is a pure function of the weight, the two
singular vectors and the coefficients.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.utils import parametrize

from pcgan_lightning.arguments import require_one_of
from pcgan_lightning.spectra.batches import Member, fits, preconditioned
from pcgan_lightning.spectra.followed_layers import FOLLOWED_LAYERS, Followed
from pcgan_lightning.spectra.matrices import MatrixLayout, weight_layers, without_autocast
from pcgan_lightning.spectra.polynomials import Polynomial
from pcgan_lightning.spectra.shared_weights import Kept, kept_weights, origin_of

Scale = Literal["unit", "norm", "learnable"]
EPSILON = 1e-12  # of the first vectors' normalisation, as in torch's own spectral norm


class Preconditioner(nn.Module):
    r"""Parametrization :math:`W \mapsto g(W / \tilde\sigma)` with :math:`\tilde\sigma = u^\top W v` (PC-layer).

    The gradient flows through :math:`\tilde\sigma`; u and v are constants. With g(x) = x this is spectral
    normalisation. Computed in at least float32 whatever the weight's dtype and autocast say, and returned in the
    weight's dtype. For a grouped convolution :math:`\tilde\sigma` is the largest over the diagonal blocks. Use
    :func:`precondition` to put it on a network. By :meth:`set_scale` the layer keeps its scale: the result is
    multiplied by :math:`\tilde\sigma`, as a constant, or by a trainable number.

    Args:
        weight: the weight tensor, for the initial u and v: its exact leading singular vectors.
        layout: how the weight is read as matrices ``[groups, rows, cols]``.
        polynomial: the preconditioning polynomial g; replaceable at any time.

    Attributes:
        u: left singular vectors, ``[groups, rows]``, a buffer.
        v: right singular vectors, ``[groups, cols]``, a buffer.
        polynomial: g. It travels in the ``state_dict`` as extra state.
        scale: what g(SN(W)) is multiplied by where that is trained, a scalar Parameter, or None.
        keeps_norm: a buffer of True where g(SN(W)) is multiplied by :math:`\tilde\sigma`, or None.
    """

    u: Tensor
    v: Tensor
    scale: nn.Parameter | None
    keeps_norm: Tensor | None

    def __init__(self, weight: Tensor, layout: MatrixLayout, polynomial: Polynomial) -> None:
        super().__init__()
        self.layout = layout
        self.polynomial = polynomial
        u, v = leading_singular_vectors(self.matrices(weight.detach()))
        self.register_buffer("u", u)
        self.register_buffer("v", v)
        # Of these, what is None has no key in the state.
        self.register_parameter("scale", None)
        self.register_buffer("keeps_norm", None)
        self._followed: Followed | None = None

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the weight's matrices ``[groups, rows, cols]`` in at least float32."""
        matrices = self.layout.to_matrices(weight)
        return matrices.to(torch.promote_types(matrices.dtype, torch.float32))

    def spectral_norm(self, matrices: Tensor) -> Tensor:
        r"""Return the estimate :math:`\max_{groups} u^\top W v`, a scalar."""
        u, v = self.u.to(matrices.dtype), self.v.to(matrices.dtype)
        return torch.linalg.vecdot(u, (matrices @ v.unsqueeze(-1)).squeeze(-1)).amax()

    @torch.no_grad()
    def exact_norm(self, weight: Tensor) -> Tensor:
        """Return what :meth:`spectral_norm` estimates, the largest singular value over the groups, a scalar."""
        matrices = self.matrices(weight)
        small = matrices.double() if matrices.shape[1] <= matrices.shape[2] else matrices.double().mT
        # The largest eigenvalue of the Gram matrix is right to the last digit, unlike the small ones.
        return torch.linalg.eigvalsh(small @ small.mT).amax().sqrt().to(matrices.dtype)

    @property
    def scale_kind(self) -> Scale:
        """What g(SN(W)) is multiplied by: ``"unit"``, nothing, ``"norm"`` or ``"learnable"``."""
        if self.scale is not None:
            return "learnable"
        return "unit" if self.keeps_norm is None else "norm"

    def set_scale(self, kind: Scale, weight: Tensor) -> None:
        """Choose what g(SN(W)) is multiplied by; a trainable scale starts at the estimate of the weight's norm."""
        require_one_of(get_args(Scale), scale=kind)
        if kind == "learnable" and self.scale is None:
            with torch.no_grad():
                norm = self.spectral_norm(self.matrices(weight)).to(weight.dtype)
            self.scale = nn.Parameter(norm, requires_grad=weight.requires_grad)
        elif kind != "learnable":
            self.scale = None
        self.keeps_norm = torch.ones((), dtype=torch.bool, device=weight.device) if kind == "norm" else None

    def forward(self, weight: Tensor) -> Tensor:
        """Return g(SN(weight)) times its scale, of the shape and dtype of `weight`."""
        return self.scaled(self.unscaled(weight), weight)

    def scaled(self, result: Tensor, weight: Tensor) -> Tensor:
        """Return what g made of a weight, or of its singular values, times the layer's scale."""
        if self.scale is not None:
            return result * self.scale
        if self.keeps_norm is None:
            return result
        with torch.no_grad(), without_autocast(weight.device.type):
            norm = self.spectral_norm(self.matrices(weight))
        return result * norm

    def unscaled(self, weight: Tensor) -> Tensor:
        """Return g(SN(weight)), of the shape and dtype of `weight`; the same one inside of ``shared_weights``."""
        kept = kept_weights()
        if kept is None or (origin := self.origin(weight)) is None:
            return self._compute(weight)
        found = kept.get(id(self))
        if found is None or found.origin != origin:
            found = self.keep(kept, origin, weight, self._compute(weight))
        return found.weight

    def origin(self, weight: Tensor) -> tuple | None:
        """Return what decides g(SN(weight)), None where torch does not count all changes of it."""
        return origin_of((self.polynomial, id(weight)), (weight, self.u, self.v))

    def keep(self, kept: dict[int, Kept], origin: tuple, weight: Tensor, result: Tensor) -> Kept:
        """Have the result of a weight shared."""
        alive = weight, *(t.detach() for t in (weight, self.u, self.v))
        kept[id(self)] = found = Kept(origin, alive, result)
        return found

    def member(self, weight: Tensor) -> Member | None:
        """Return what a batch needs to compute this layer, None where it must be computed on its own."""
        if type(self).spectral_norm is not Preconditioner.spectral_norm or not fits(weight, self.layout):
            return None
        return Member(weight, self.layout, self.u, self.v, self.polynomial)

    def _compute(self, weight: Tensor) -> Tensor:
        member = self.member(weight)
        if member is not None:
            return preconditioned([member])[0]
        with without_autocast(weight.device.type):
            matrices = self.matrices(weight)
            matrices = self.polynomial.of_matrix(matrices / self.spectral_norm(matrices))
            return self.layout.to_weight(matrices, weight.shape).to(weight.dtype)

    def effective_values(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return the singular values of the effective weight, in descending order, from those of SN(W)."""
        # Claim 3.2: the singular values of g(A) are |g(sigma)|, so that one SVD serves both.
        return self.scaled(self.polynomial(values), weight).abs().sort(descending=True).values

    def get_extra_state(self) -> Tensor:
        """Return the coefficients of the current polynomial, ``[terms]``, float64."""
        return torch.tensor(self.polynomial.coefficients, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the polynomial of a checkpoint."""
        self.polynomial = Polynomial(tuple(state.tolist()))

    def extra_repr(self) -> str:
        """Show the degree in the printed network, and the scale where it is not 1."""
        scale = "" if self.scale_kind == "unit" else f", scale={self.scale_kind!r}"
        return f"degree={self.polynomial.degree}{scale}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = self.u, self.v
        super()._apply(fn, recurse)
        if self._followed is not None:
            # Next, torch may put another Parameter in the weight's place.
            FOLLOWED_LAYERS.look_again(self._followed)
        # A half-precision network keeps float32 singular vectors, lest the estimate be off by a rounding of 2^-9.
        for name, buffer in zip(("u", "v"), before, strict=True):
            if getattr(self, name).dtype.itemsize < 4:
                setattr(self, name, buffer.to(getattr(self, name).device))
        return self

    def __deepcopy__(self, memo: dict) -> "Preconditioner":
        replica = self.__class__.__new__(self.__class__)
        memo[id(self)] = replica
        replica.__dict__ = copy.deepcopy(self.__dict__, memo)
        # A copied layer trains on its own, so optimizer steps must find it as well.
        layer = memo.get(id(self._followed.layer())) if self._followed is not None else None
        replica._followed = None
        if layer is not None:
            replica.follow(layer)
        return replica

    def follow(self, layer: nn.Module) -> None:
        """Move u and v whenever an optimizer has stepped on this layer's weight."""
        self._followed = FOLLOWED_LAYERS.add(layer)

    def expect(self, weight: nn.Parameter) -> None:
        """Follow the layer to another Parameter that takes the place of its weight."""
        if self._followed is not None:
            FOLLOWED_LAYERS.expect(self._followed, weight)


def _follow_to_new_weight(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
    if isinstance(module, parametrize.ParametrizationList) and name == "original" and parameter is not None:
        first = next(iter(module), None)
        if isinstance(first, Preconditioner):
            first.expect(parameter)


# Called before an assignment or `load_state_dict(assign=True)` replaces a Parameter of any module.
register_module_parameter_registration_hook(_follow_to_new_weight)


def preconditioners(module: nn.Module) -> dict[str, Preconditioner]:
    """Return the PC-layers of a network by layer name; assign their ``polynomial`` to switch it."""
    found = ((name, preconditioner_of(layer)) for name, layer in weight_layers(module).items())
    return {name: p for name, p in found if p is not None}


def weight_parametrizations(layer: nn.Module) -> parametrize.ParametrizationList | None:
    """Return what ``torch.nn.utils.parametrize`` has put on a layer's weight, if anything."""
    parametrizations: Any = getattr(layer, "parametrizations", None)
    return parametrizations.weight if parametrize.is_parametrized(layer, "weight") else None


def original_weight(layer: nn.Module) -> Tensor:
    """Return the weight the optimizer owns: W itself where the layer computes g(SN(W))."""
    chain = weight_parametrizations(layer)
    if chain is not None:
        return chain.original
    return layer.weight  # type: ignore[return-value]  # torch types what a module holds as Tensor or Module


def preconditioner_of(layer: nn.Module) -> Preconditioner | None:
    """Return the PC-layer on a layer's weight, if there is one."""
    chain = weight_parametrizations(layer)
    first = None if chain is None else chain[0]
    return first if isinstance(first, Preconditioner) else None


def leading_singular_vectors(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact u ``[batch, rows]``, v ``[batch, cols]`` of the largest singular values."""
    wide = matrices.shape[1] <= matrices.shape[2]
    small = matrices if wide else matrices.mT
    # float64, because the Gram matrix squares the condition number.
    gram = small.double() @ small.mT.double()
    first = torch.linalg.eigh(gram).eigenvectors[..., -1].to(matrices.dtype)  # [batch, min(rows, cols)]
    second = nn.functional.normalize((small.mT @ first.unsqueeze(-1)).squeeze(-1), dim=-1, eps=EPSILON)
    u, v = (first, second) if wide else (second, first)
    return u.contiguous(), v.contiguous()
