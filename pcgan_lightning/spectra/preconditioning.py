"""Putting PC-layers on the layers of any network, from outside, and taking them off."""

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Literal, Optional, TypeVar, Union, get_args

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pcgan_lightning.arguments import require_one_of
from pcgan_lightning.spectra.convolutions import ConvolutionOperator, InputShape, convolution_operators
from pcgan_lightning.spectra.convolutions.pc_layer import OperatorPreconditioner
from pcgan_lightning.spectra.forward_passes import compute_together
from pcgan_lightning.spectra.matrices import MatrixLayout, WeightLayer, is_convolution, weight_layers
from pcgan_lightning.spectra.pc_layer import (
    Preconditioner,
    Scale,
    original_weight,
    preconditioner_of,
    weight_parametrizations,
)
from pcgan_lightning.spectra.polynomials import Polynomial, as_polynomial
from pcgan_lightning.spectra.spectral_norm import (
    parametrized_spectral_norm,
    remove_spectral_norm_hook,
    spectral_norm_hook,
    take_over_vectors,
)
from pcgan_lightning.spectra.svd import orthogonal_svd, remove_svd

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LayerChoice = Union[Literal["convolutions", "all"], Collection[str], Callable[[str, nn.Module], bool]]
Norm = Literal["matrix", "operator"]


def precondition(
    module: ModuleT,
    degree: Union[int, Polynomial] = 3,
    layers: LayerChoice = "convolutions",
    normalize_rest: bool = True,
    norm: Norm = "matrix",
    input_shape: Optional[InputShape] = None,
    hold_norm: bool = False,
    scale: Scale = "unit",
) -> ModuleT:
    r"""Put a PC-layer :math:`g(SN(W))` on the weights of a network, in place.

    Works on Linear, Conv1d-3d and ConvTranspose1d-3d, whatever the network. The Parameter objects stay the same, so
    an optimizer made before or after works on unchanged. A spectral norm of torch (either kind) on a layer is
    replaced, its singular vectors taken over. Called again, it changes the polynomials and keeps the vectors.

    Args:
        module: the network, or one layer.
        degree: 1, 3, 5, 7 or 9 for a published polynomial (1: plain spectral normalisation), 11 to 17 for a fitted
            one, or a :class:`Polynomial`.
        layers: which layers get the polynomial: ``"convolutions"`` (as the authors did), ``"all"``, a collection of
            layer names, or a function of (name, layer).
        normalize_rest: whether the other layers get spectral normalisation (degree 1) or are left as they are.
        norm: what convolutions are divided by: ``"matrix"``, the norm of the reshaped weight, or ``"operator"``, that
            of the convolution on images as they come, up to sqrt(kh kw) larger. The polynomial acts on the reshaped
            matrix in both cases.
        input_shape: for ``norm="operator"``, the shape of one input of the network, e.g. ``(3, 32, 32)``, or the
            spatial size of each convolution's inputs by layer name.
        hold_norm: for ``norm="operator"``, whether the norm is a constant for the gradient.
        scale: what g(SN(W)) is multiplied by, the degree-1 layers' too: ``"unit"``, by 1; ``"norm"``, by the norm that
            W was divided by, as a constant for the gradient; ``"learnable"``, by a trainable number of each layer,
            which starts at that norm: make the optimizer afterwards then. Called again, it keeps that number.

    Returns:
        `module` itself.

    Raises:
        ValueError: for an unknown degree, norm, scale or layer name, a module without a weight matrix, a zero or
            uninitialised weight, or a weight under another parametrization.

    Example:
        >>> from torch import nn
        >>> from pcgan_lightning.spectra import preconditioners
        >>> net = precondition(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 1)), degree=7)
        >>> [p.polynomial.degree for p in preconditioners(net).values()]
        [7, 1]
    """
    polynomial = as_polynomial(degree)
    require_one_of(("matrix", "operator"), norm=norm)
    require_one_of(get_args(Scale), scale=scale)
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
    operators = convolution_operators(module, input_shape) if norm == "operator" else {}
    for name, layer in affected.items():
        _attach(layer, polynomial if name in chosen else as_polynomial(1), operators.get(name), hold_norm, scale)
    compute_together(module)
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
    """Fold g(SN(W)), with its scale, into plain weights, in place: outputs and Parameter objects stay the same.

    Layers without a PC-layer are left alone. Returns `module` itself.
    """
    layers = [layer for layer in weight_layers(module).values() if preconditioner_of(layer) is not None]
    # All weights before the first is written, since layers may share one.
    for layer, weight in [(layer, layer.weight.detach().clone()) for layer in layers]:
        # Copies of a layer share the class that torch made for it, and torch takes the property off the class.
        shared = type(layer)
        layer.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.weight.data.copy_(weight)
        # torch puts the weight behind the bias; optimizers of a fresh network have it first.
        for name in [n for n in layer._parameters if n != "weight"]:
            layer._parameters[name] = layer._parameters.pop(name)
    compute_together(module)
    return module


def original_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by the names and in the order they have without any PC-layer.

    ``module.named_parameters()`` has a parametrised weight behind its layer's bias, under a longer name. An optimizer
    over these instead has the same state, entry by entry, with and without preconditioning.
    """
    found: dict[nn.Parameter, str] = {}
    for path, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        if preconditioner_of(layer) is not None:
            own = {"weight": original_weight(layer)} | own
        for name, parameter in own.items():
            found.setdefault(parameter, f"{path}.{name}" if path else name)
    # Those of a parametrization itself are found at their layer first.
    return {name: parameter for parameter, name in found.items()}


def match_preconditioning(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = "") -> None:
    """Put PC-layers or SVD parametrizations on, or take them off, so that `module` can load `state_dict` strictly.

    Args:
        module: a freshly built network, the one that computes its PC-layers together.
        state_dict: the state of a network of the same architecture, of which some layers may be preconditioned.
        prefix: what stands before the names of `module` in the keys, e.g. ``"discriminator."``.
    """
    for name, layer in weight_layers(module).items():
        path = f"{prefix}{name}." if layer is not module else prefix
        saved = f"{path}parametrizations.weight.0._extra_state"
        if f"{path}parametrizations.weight.original1" in state_dict:
            orthogonal_svd(remove_preconditioning(layer))
        elif saved in state_dict:
            remove_svd(layer)
            before = saved.removesuffix("_extra_state")
            # Feature maps in the place of singular vectors: those of the layer's inputs tell their size.
            inputs = state_dict[before + ("u" if MatrixLayout.of_layer(layer).transposed else "v")]
            held = state_dict.get(f"{before}held_norm")
            operator = None if held is None else ConvolutionOperator.of_layer(layer, inputs.shape[1:])
            polynomial = Polynomial(tuple(state_dict[saved].tolist()))
            _attach(layer, polynomial, operator, bool(held), _saved_scale(state_dict, before))
        elif f"{path}weight" in state_dict:
            remove_svd(remove_preconditioning(layer))
    compute_together(module)


def _saved_scale(state_dict: Mapping[str, Tensor], prefix: str) -> Scale:
    if f"{prefix}scale" in state_dict:
        return "learnable"
    return "norm" if f"{prefix}keeps_norm" in state_dict else "unit"


def _check_weight(name: str, layer: WeightLayer) -> None:
    rule = f"layer {name!r} can't be preconditioned:"
    if preconditioner_of(layer) is not None:
        return
    chain = weight_parametrizations(layer)
    if chain is not None:
        if parametrized_spectral_norm(layer) is None:
            kinds = [type(p).__name__ for p in chain]
            raise ValueError(f"{rule} its weight must have no other parametrization, got {kinds}")
        weight: Optional[Tensor] = chain.original
    else:
        weight = layer._parameters.get("weight_orig" if spectral_norm_hook(layer) else "weight")
    if weight is None or nn.parameter.is_lazy(weight):
        raise ValueError(f"{rule} its weight must be an initialised Parameter, got {type(layer).__name__}")
    if not weight.is_floating_point():
        raise ValueError(f"{rule} its weight must be of a real floating dtype, got {weight.dtype}")
    if not weight.is_meta and not weight.isfinite().all():
        raise ValueError(f"{rule} its weight must be finite, got NaN or infinity")
    if not weight.is_meta and not weight.any():
        raise ValueError(f"{rule} its weight must not be zero, since SN(W) = W / ||W||")


def _attach(
    layer: WeightLayer,
    polynomial: Polynomial,
    operator: Optional[ConvolutionOperator] = None,
    held: bool = False,
    scale: Scale = "unit",
) -> None:
    """Put a PC-layer on one layer, in the place of torch's spectral norm where there is one."""
    layout = MatrixLayout.of_layer(layer)

    def make(weight: Tensor) -> Preconditioner:
        if operator is None:
            return Preconditioner(weight, layout, polynomial)
        return OperatorPreconditioner(weight, layout, polynomial, operator, held)

    existing = preconditioner_of(layer)
    if existing is not None and getattr(existing, "operator", None) == operator:
        existing.polynomial = polynomial
        if isinstance(existing, OperatorPreconditioner):
            existing.hold(held)
        existing.set_scale(scale, original_weight(layer))
        return
    chain, former = weight_parametrizations(layer), parametrized_spectral_norm(layer)
    if chain is not None:
        new = make(chain.original)
        if former is not None and operator is None:
            take_over_vectors(new, chain.original, former.dim, former.get_buffer("_u"), former.get_buffer("_v"))
        if existing is not None:
            new.scale = existing.scale  # which an optimizer may hold
        chain[0] = new.train(layer.training)
    else:
        vectors = remove_spectral_norm_hook(layer)
        new = make(layer.weight)
        if vectors is not None and operator is None:
            take_over_vectors(new, layer.weight, *vectors)
        # `unsafe` skips the trial evaluation; shape and dtype are kept by construction.
        parametrize.register_parametrization(layer, "weight", new, unsafe=True)
    new.set_scale(scale, original_weight(layer))
    new.follow(layer)
