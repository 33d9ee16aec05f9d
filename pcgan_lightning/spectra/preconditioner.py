r"""The PC-layer: weights reparametrised as :math:`g(SN(W))`, put on any network from outside.

Paper: "Precondition layer and its use for GANs", Section 3.2. The forward is a pure function of the weight, the two
singular vectors and the coefficients. The power iteration that moves the vectors runs once after each step of a torch
optimizer that holds the weight, found by a hook on torch's optimizers; nothing else moves them, so that several
forwards in one step agree, evaluation has no side effect and resuming is exact.
"""

import contextlib
import copy
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal, TypeVar, Union

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, remove_spectral_norm
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from pcgan_lightning.spectra.matrices import MatrixLayout, batch_by_shape, is_convolution, weight_layers
from pcgan_lightning.spectra.polynomials import Polynomial, published_polynomial

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LayerChoice = Union[Literal["convolutions", "all"], Collection[str], Callable[[str, nn.Module], bool]]

_EPSILON = 1e-12  # of the power iteration's normalisations, as in torch's own spectral norm


class Preconditioner(nn.Module):
    r"""Parametrization :math:`W \mapsto g(W / \tilde\sigma)` with :math:`\tilde\sigma = u^\top W v` (PC-layer).

    The gradient flows through :math:`\tilde\sigma`; u and v are constants. With g(x) = x this is spectral
    normalisation. Computed in at least float32 whatever the weight's dtype and autocast say, and returned in the
    weight's dtype. For a grouped convolution :math:`\tilde\sigma` is the largest over the diagonal blocks. Use
    :func:`precondition` to put it on a network.

    Args:
        weight: the weight tensor, for the initial u and v: its exact leading singular vectors.
        layout: how the weight is read as matrices ``[groups, rows, cols]``.
        polynomial: the preconditioning polynomial g; replaceable at any time.

    Attributes:
        u: left singular vectors, ``[groups, rows]``, a buffer.
        v: right singular vectors, ``[groups, cols]``, a buffer.
        polynomial: g. It travels in the ``state_dict`` as extra state.
    """

    def __init__(self, weight: Tensor, layout: MatrixLayout, polynomial: Polynomial) -> None:
        super().__init__()
        self.layout = layout
        self.polynomial = polynomial
        u, v = _leading_singular_vectors(self.matrices(weight.detach()))
        self.register_buffer("u", u)
        self.register_buffer("v", v)
        self._layer: weakref.ref[nn.Module] | None = None

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the weight's matrices ``[groups, rows, cols]`` in at least float32."""
        matrices = self.layout.to_matrices(weight)
        return matrices.to(torch.promote_types(matrices.dtype, torch.float32))

    def spectral_norm(self, matrices: Tensor) -> Tensor:
        r"""Return the estimate :math:`\max_{groups} u^\top W v`, a scalar."""
        u, v = self.u.to(matrices.dtype), self.v.to(matrices.dtype)
        return torch.linalg.vecdot(u, (matrices @ v.unsqueeze(-1)).squeeze(-1)).amax()

    def forward(self, weight: Tensor) -> Tensor:
        """Return g(SN(weight)), of the shape and dtype of `weight`."""
        with _without_autocast(weight.device.type):
            matrices = self.matrices(weight)
            matrices = self.polynomial.of_matrix(matrices / self.spectral_norm(matrices))
            return self.layout.to_weight(matrices, weight.shape).to(weight.dtype)

    def get_extra_state(self) -> Tensor:
        """Return the coefficients of the current polynomial, ``[terms]``, float64."""
        return torch.tensor(self.polynomial.coefficients, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the polynomial of a checkpoint."""
        self.polynomial = Polynomial(tuple(state.tolist()))

    def extra_repr(self) -> str:
        """Show the degree in the printed network."""
        return f"degree={self.polynomial.degree}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = self.u, self.v
        super()._apply(fn, recurse)
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
        layer = memo.get(id(self._layer())) if self._layer is not None else None
        if layer is not None:
            replica.follow(layer)
        return replica

    def follow(self, layer: nn.Module) -> None:
        """Move u and v whenever an optimizer has stepped on this layer's weight."""
        self._layer = weakref.ref(layer)
        _FOLLOWED_LAYERS[id(layer)] = layer


# Layers whose power iteration follows the optimizers, by id; weak, so that a network can be collected, and ordered,
# so that two equal runs batch them alike.
_FOLLOWED_LAYERS: "weakref.WeakValueDictionary[int, nn.Module]" = weakref.WeakValueDictionary()


def _after_optimizer_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    if not _FOLLOWED_LAYERS:
        return
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    _power_iterate(
        layer for layer in _FOLLOWED_LAYERS.values() if _preconditioner(layer) and id(original_weight(layer)) in stepped
    )


register_optimizer_step_post_hook(_after_optimizer_step)


def precondition(
    module: ModuleT,
    degree: Union[int, Polynomial] = 3,
    layers: LayerChoice = "convolutions",
    normalize_rest: bool = True,
) -> ModuleT:
    r"""Put a PC-layer :math:`g(SN(W))` on the weights of a network, in place.

    Works on Linear, Conv1d-3d and ConvTranspose1d-3d, whatever the network. The Parameter objects stay the same, so
    an optimizer made before or after works on unchanged. A spectral norm of torch (either kind) on a layer is
    replaced, its singular vectors taken over. Called again, it changes the polynomials and keeps the vectors.

    Args:
        module: the network, or one layer.
        degree: 1, 3, 5, 7 or 9 for a published polynomial (1: plain spectral normalisation), or a
            :class:`Polynomial`.
        layers: which layers get the polynomial: ``"convolutions"`` (as the authors did), ``"all"``, a collection of
            layer names, or a function of (name, layer).
        normalize_rest: whether the other layers get spectral normalisation (degree 1) or are left as they are.

    Returns:
        `module` itself.

    Raises:
        ValueError: for an unknown degree or layer name, a module without a weight matrix, a zero or uninitialised
            weight, or a weight under another parametrization.

    Example:
        >>> from torch import nn
        >>> net = precondition(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 1)), degree=7)
        >>> [p.polynomial.degree for p in preconditioners(net).values()]
        [7, 1]
    """
    polynomial = published_polynomial(degree)
    found = weight_layers(module)
    if not found:
        raise ValueError(
            f"argument `module` must hold a Linear, Conv or ConvTranspose layer, got {type(module).__name__}"
        )
    chosen = chosen_layers(module, layers)
    if not chosen and polynomial.degree > 1:
        warnings.warn(
            f"layers={layers!r} chooses none of {list(found)}: the polynomial of degree {polynomial.degree} is applied "
            "nowhere. For linear layers say layers='all'.",
            stacklevel=2,
        )
    affected = {name: layer for name, layer in found.items() if name in chosen or normalize_rest}
    for name, layer in affected.items():
        _check_weight(name, layer)
    for name, layer in affected.items():
        _attach(layer, polynomial if name in chosen else published_polynomial(1))
    return module


def chosen_layers(module: nn.Module, layers: LayerChoice = "convolutions") -> list[str]:
    """Return the names of the weight layers that `layers` chooses; arguments as in :func:`precondition`."""
    found = weight_layers(module)
    if callable(layers):
        return [name for name, layer in found.items() if layers(name, layer)]
    if layers == "all":
        return list(found)
    if layers == "convolutions":
        return [name for name, layer in found.items() if is_convolution(layer)]
    if isinstance(layers, str):
        raise ValueError(
            f"argument `layers` must be 'convolutions', 'all', a collection of names or a function, got {layers!r}"
        )
    layers = set(layers)
    unknown = sorted(layers - set(found))
    if unknown:
        raise ValueError(
            f"argument `layers` must name weight layers of the module, got {unknown}; it has {list(found)}"
        )
    return [name for name in found if name in layers]


def remove_preconditioning(module: ModuleT) -> ModuleT:
    """Fold g(SN(W)) into plain weights, in place: outputs and Parameter objects stay the same.

    Layers without a PC-layer are left alone. Returns `module` itself.
    """
    layers = [layer for layer in weight_layers(module).values() if _preconditioner(layer) is not None]
    # All weights before the first is written, since layers may share one.
    for layer, weight in [(layer, layer.weight.detach().clone()) for layer in layers]:
        _FOLLOWED_LAYERS.pop(id(layer), None)
        # Copies of a layer share the class that torch made for it, and torch takes the property off the class.
        shared = type(layer)
        layer.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.weight.data.copy_(weight)
        # torch puts the weight behind the bias; optimizers of a fresh network have it first.
        for name in [n for n in layer._parameters if n != "weight"]:
            layer._parameters[name] = layer._parameters.pop(name)
    return module


def original_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by the names and in the order they have without any PC-layer.

    ``module.named_parameters()`` has a parametrised weight behind its layer's bias, under a longer name. An optimizer
    over these instead has the same state, entry by entry, with and without preconditioning.
    """
    found: dict[nn.Parameter, str] = {}
    for path, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        if _preconditioner(layer) is not None:
            own = {"weight": original_weight(layer)} | own
        for name, parameter in own.items():
            found.setdefault(parameter, f"{path}.{name}" if path else name)
    # Those of a parametrization itself are found at their layer first.
    return {name: parameter for parameter, name in found.items()}


def preconditioners(module: nn.Module) -> dict[str, Preconditioner]:
    """Return the PC-layers of a network by layer name; assign their ``polynomial`` to switch it."""
    found = ((name, _preconditioner(layer)) for name, layer in weight_layers(module).items())
    return {name: p for name, p in found if p is not None}


def power_iteration(module: nn.Module, iterations: int = 1) -> None:
    r"""Move u and v of every PC-layer towards the leading singular vectors, in place.

    One iteration is :math:`u \leftarrow W v / \|W v\|`, :math:`v \leftarrow W^\top u / \|W^\top u\|`. It runs by
    itself after every step of a ``torch.optim.Optimizer`` whose groups hold the weight's Parameter itself. Call it with
    1 after every step where the optimizer holds something else (flattened or partitioned parameters), and with ten or
    more after replacing weights by hand: after one, the norm of a new matrix is still underestimated by a fifth.
    Layers of equal matrix shape are iterated as one batch.
    """
    _power_iterate([layer for layer in weight_layers(module).values() if _preconditioner(layer)], iterations)


def match_preconditioning(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = "") -> None:
    """Put PC-layers on, or take them off, so that `module` can load `state_dict` strictly.

    Args:
        module: a freshly built network.
        state_dict: the state of a network of the same architecture, of which some layers may be preconditioned.
        prefix: what stands before the names of `module` in the keys, e.g. ``"discriminator."``.
    """
    for name, layer in weight_layers(module).items():
        path = f"{prefix}{name}." if layer is not module else prefix
        saved = f"{path}parametrizations.weight.0._extra_state"
        if saved in state_dict:
            _attach(layer, Polynomial(tuple(state_dict[saved].tolist())))
        elif f"{path}weight" in state_dict:
            remove_preconditioning(layer)


def original_weight(layer: nn.Module) -> Tensor:
    """Return the weight the optimizer owns: W itself where the layer computes g(SN(W))."""
    if parametrize.is_parametrized(layer, "weight"):
        return layer.parametrizations.weight.original
    return layer.weight


def _preconditioner(layer: nn.Module) -> Preconditioner | None:
    if parametrize.is_parametrized(layer, "weight"):
        first = layer.parametrizations.weight[0]
        return first if isinstance(first, Preconditioner) else None
    return None


def _check_weight(name: str, layer: nn.Module) -> None:
    rule = f"layer {name!r} can't be preconditioned:"
    if _preconditioner(layer) is not None:
        return
    if parametrize.is_parametrized(layer, "weight"):
        kinds = [type(p).__name__ for p in layer.parametrizations.weight]
        if not _has_parametrized_spectral_norm(layer):
            raise ValueError(f"{rule} its weight must have no other parametrization, got {kinds}")
        weight = original_weight(layer)
    else:
        weight = layer._parameters.get("weight_orig" if spectral_norm_hook(layer) else "weight")
    if weight is None or isinstance(weight, nn.parameter.UninitializedTensorMixin):
        raise ValueError(f"{rule} its weight must be an initialised Parameter, got {type(layer).__name__}")
    if not weight.is_floating_point():
        raise ValueError(f"{rule} its weight must be of a real floating dtype, got {weight.dtype}")
    if not weight.is_meta and not weight.isfinite().all():
        raise ValueError(f"{rule} its weight must be finite, got NaN or infinity")
    if not weight.is_meta and not weight.any():
        raise ValueError(f"{rule} its weight must not be zero, since SN(W) = W / ||W||")


def _attach(layer: nn.Module, polynomial: Polynomial) -> None:
    """Put a PC-layer on one layer, in the place of torch's spectral norm where there is one."""
    existing = _preconditioner(layer)
    if existing is not None:
        existing.polynomial = polynomial
        return
    layout = MatrixLayout.of_layer(layer)
    if _has_parametrized_spectral_norm(layer):
        former = layer.parametrizations.weight[0]
        new = Preconditioner(original_weight(layer), layout, polynomial)
        _take_over_vectors(new, original_weight(layer), former.dim, former._u, former._v)
        layer.parametrizations.weight[0] = new.train(layer.training)
    else:
        vectors = _remove_spectral_norm_hook(layer)
        new = Preconditioner(layer.weight, layout, polynomial)
        if vectors is not None:
            _take_over_vectors(new, layer.weight, *vectors)
        # `unsafe` skips the trial evaluation; shape and dtype are kept by construction.
        parametrize.register_parametrization(layer, "weight", new, unsafe=True)
    new.follow(layer)


def _has_parametrized_spectral_norm(layer: nn.Module) -> bool:
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    chain = layer.parametrizations.weight
    return len(chain) == 1 and isinstance(chain[0], parametrizations._SpectralNorm)


def spectral_norm_hook(layer: nn.Module) -> SpectralNorm | None:
    """Return the hook of ``torch.nn.utils.spectral_norm`` on a layer's weight, if there is one."""
    hooks = (h for h in layer._forward_pre_hooks.values() if isinstance(h, SpectralNorm))
    return next((h for h in hooks if h.name == "weight"), None)


def _remove_spectral_norm_hook(layer: nn.Module) -> tuple[int, Tensor, Tensor] | None:
    """Undo torch.nn.utils.spectral_norm without normalising, keeping the Parameter; return its u and v."""
    hook = spectral_norm_hook(layer)
    if hook is None:
        return None
    weight, u, v = layer.weight_orig, layer.weight_u.clone(), layer.weight_v.clone()
    remove_spectral_norm(layer)
    for key, pre in list(layer._load_state_dict_pre_hooks.items()):
        if isinstance(getattr(pre, "hook", pre), SpectralNormLoadStateDictPreHook):
            del layer._load_state_dict_pre_hooks[key]
    # torch leaves a new Parameter that holds the normalised weight; the optimizer owns the original one.
    layer.register_parameter("weight", weight)
    return hook.dim, u, v


@torch.no_grad()
def _take_over_vectors(new: Preconditioner, weight: Tensor, dim: int, u: Tensor, v: Tensor) -> None:
    """Start from torch's u and v, unless they are of another matrix or worse than a tenth off the exact norm.

    torch's older kind starts at random and iterates only in forward, so that a fresh one knows nothing yet.
    """
    # A spectral norm along another axis, or across groups, has vectors of another matrix.
    if dim != int(new.layout.transposed) or new.layout.groups > 1:
        return
    matrices = new.matrices(weight)
    exact, exact_u, exact_v = new.spectral_norm(matrices), new.u.clone(), new.v.clone()
    new.u.copy_(u)
    new.v.copy_(v)
    good = 1.1 * new.spectral_norm(matrices) >= exact
    new.u.copy_(torch.where(good, new.u, exact_u))
    new.v.copy_(torch.where(good, new.v, exact_v))


def _leading_singular_vectors(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact u ``[batch, rows]``, v ``[batch, cols]`` of the largest singular values."""
    wide = matrices.shape[1] <= matrices.shape[2]
    small = matrices if wide else matrices.mT
    # float64, because the Gram matrix squares the condition number.
    gram = small.double() @ small.mT.double()
    first = torch.linalg.eigh(gram).eigenvectors[..., -1].to(matrices.dtype)  # [batch, min(rows, cols)]
    second = nn.functional.normalize((small.mT @ first.unsqueeze(-1)).squeeze(-1), dim=-1, eps=_EPSILON)
    u, v = (first, second) if wide else (second, first)
    return u.contiguous(), v.contiguous()


@torch.no_grad()
def _power_iterate(layers: Iterable[nn.Module], iterations: int = 1) -> None:
    active = [(p, p.matrices(original_weight(layer))) for layer in layers if (p := _preconditioner(layer))]

    def iterate(matrices: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        u, v = u.to(matrices.dtype), v.to(matrices.dtype)
        for _ in range(iterations):
            u = nn.functional.normalize((matrices @ v.unsqueeze(-1)).squeeze(-1), dim=-1, eps=_EPSILON)
            v = nn.functional.normalize((matrices.mT @ u.unsqueeze(-1)).squeeze(-1), dim=-1, eps=_EPSILON)
        return u, v

    results = batch_by_shape(iterate, [(matrices, p.u, p.v) for p, matrices in active])
    for (p, _), (u, v) in zip(active, results, strict=True):
        p.u.copy_(u)
        p.v.copy_(v)


def _without_autocast(device_type: str) -> contextlib.AbstractContextManager:
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
