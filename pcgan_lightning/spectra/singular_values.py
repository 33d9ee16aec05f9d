r"""Exact singular values of weight matrices, and the (modified) condition numbers of them.

Paper: "Precondition layer and its use for GANs", Sections 1.2 and 3.4.
"""

import copy
from collections.abc import Callable
from typing import Literal, Optional, Union, overload

import torch
from torch import Tensor, nn

from pcgan_lightning.arguments import require_one_of
from pcgan_lightning.spectra.convolutions import (
    InputShape,
    convolution_operators,
    convolution_singular_values,
    is_small,
)
from pcgan_lightning.spectra.matrices import MatrixLayout, WeightLayer, batch_by_shape, weight_layers
from pcgan_lightning.spectra.pc_layer import original_weight, preconditioners, weight_parametrizations
from pcgan_lightning.spectra.spectral_norm import spectral_norm_hook

View = Literal["matrix", "operator"]


@overload
def singular_values(
    target: nn.Module,
    after_polynomial: bool = True,
    view: View = "matrix",
    input_shape: Optional[InputShape] = None,
) -> dict[str, Tensor]: ...


@overload
def singular_values(
    target: Tensor, after_polynomial: bool = True, view: View = "matrix", input_shape: Optional[InputShape] = None
) -> Tensor: ...


@torch.no_grad()
def singular_values(
    target: Union[nn.Module, Tensor],
    after_polynomial: bool = True,
    view: View = "matrix",
    input_shape: Optional[InputShape] = None,
) -> Union[Tensor, dict[str, Tensor]]:
    r"""Return all singular values, in descending order.

    Exact to rounding: from an SVD of float64 weights, and for lower precisions from the eigenvalues of the float64
    Gram matrix, whose error of 1e-8 :math:`\sigma_{\max}` lies below the rounding of float32 weights. Layers of equal
    matrix shape are computed in one batched call. Nothing of the network changes.

    Args:
        target: a network, whose Linear, Conv and ConvTranspose layers are measured; or a weight tensor (out, ...),
            flattened to (out, rest); or a vector of singular values, which is returned sorted.
        after_polynomial: for layers with a PC-layer, whether of the effective weight, g(SN(W)) times its scale, or of
            SN(W) before the polynomial. Other layers are measured as their forward uses them.
        view: of a convolution, ``"matrix"``, the weight flattened as above, or ``"operator"``, the linear map that it
            performs on images. That is exact for circular convolutions and for others of at most 512 rows or columns;
            of a larger one it is the spectrum of the circular convolution with the same kernel.
        input_shape: for ``view="operator"``, see :func:`convolution_operators`.

    Returns:
        For a network, name -> ``[min(rows, cols) * groups]`` (of an operator, all that it has) in at least float32 on
        the layer's device; for a tensor its own singular values.

    Raises:
        ValueError: for a network without weight matrices, a weight with a value that is not finite, or operators of
            unknown size.
    """
    require_one_of(("matrix", "operator"), view=view)
    if view == "operator" and isinstance(target, Tensor):
        raise ValueError("argument `target` must be a network or a layer for view='operator', got a tensor")
    if isinstance(target, Tensor):
        if target.ndim < 2:
            return target.sort(descending=True).values
        return _batched_singular_values({"weight": target.flatten(1).unsqueeze(0)})["weight"]

    layers = weight_layers(target)
    if not layers:
        raise ValueError(
            f"argument `target` must hold a Linear, Conv or ConvTranspose layer, got {type(target).__name__}"
        )
    if view == "operator":
        return _operator_singular_values(target, after_polynomial, input_shape)
    pc_layers = preconditioners(target)
    values = _batched_singular_values(
        {
            name: MatrixLayout.of_layer(layer).to_matrices(
                original_weight(layer) if name in pc_layers else _effective_weight(layer)
            )
            for name, layer in layers.items()
        }
    )
    for name, pc_layer in pc_layers.items():
        estimate = pc_layer.spectral_norm(pc_layer.matrices(original_weight(layers[name])))
        values[name] = values[name] / estimate.abs().to(values[name].dtype)
        if after_polynomial:
            values[name] = pc_layer.effective_values(values[name], original_weight(layers[name]))
    return values


@overload
def condition_number(
    target: nn.Module,
    after_polynomial: bool = True,
    view: View = "matrix",
    input_shape: Optional[InputShape] = None,
) -> dict[str, Tensor]: ...


@overload
def condition_number(
    target: Tensor, after_polynomial: bool = True, view: View = "matrix", input_shape: Optional[InputShape] = None
) -> Tensor: ...


def condition_number(
    target: Union[nn.Module, Tensor],
    after_polynomial: bool = True,
    view: View = "matrix",
    input_shape: Optional[InputShape] = None,
) -> Union[Tensor, dict[str, Tensor]]:
    r"""Return :math:`\kappa(A) = \sigma_{\max}(A) / \sigma_{\min}(A)`, infinite for a smallest value of exactly 0.

    Paper: Section 1.2. Arguments as in :func:`singular_values`.
    Returns a scalar tensor, or name -> scalar tensor for a network.
    """
    return _by_layer(lambda values: _ratio(values[0], values[-1]), target, after_polynomial, view, input_shape)


@overload
def modified_condition_number(
    target: nn.Module,
    after_polynomial: bool = True,
    view: View = "matrix",
    input_shape: Optional[InputShape] = None,
) -> dict[str, Tensor]: ...


@overload
def modified_condition_number(
    target: Tensor, after_polynomial: bool = True, view: View = "matrix", input_shape: Optional[InputShape] = None
) -> Tensor: ...


def modified_condition_number(
    target: Union[nn.Module, Tensor],
    after_polynomial: bool = True,
    view: View = "matrix",
    input_shape: Optional[InputShape] = None,
) -> Union[Tensor, dict[str, Tensor]]:
    r"""Return :math:`\tilde\kappa(A) = \sigma_{\max}(A) \big/ \frac{1}{m_0} \sum_{i=1}^{m_0} \sigma_i(A)`.

    The sum runs over the :math:`m_0 = \lceil m / 10 \rceil` smallest of the m singular values (Section 3.4; the
    authors' code rounds down instead). Infinite where those are all zero. Arguments as in :func:`singular_values`.
    Returns a scalar tensor, or name -> scalar tensor for a network.
    """

    def modified(values: Tensor) -> Tensor:
        smallest = -(-len(values) // 10)
        return _ratio(values[0], values[-smallest:].mean())

    return _by_layer(modified, target, after_polynomial, view, input_shape)


def _by_layer(
    function: Callable[[Tensor], Tensor],
    target: Union[nn.Module, Tensor],
    after_polynomial: bool,
    view: View,
    input_shape: Optional[InputShape],
) -> Union[Tensor, dict[str, Tensor]]:
    values = singular_values(target, after_polynomial, view, input_shape)
    if isinstance(values, Tensor):
        return function(values)
    return {name: function(v) for name, v in values.items()}


def _ratio(largest: Tensor, smallest: Tensor) -> Tensor:
    # A zero matrix has no condition; infinity keeps comparisons and averages meaningful where 0/0 would not.
    return torch.where(smallest > 0, largest / smallest, torch.inf)


def _effective_weight(layer: WeightLayer) -> Tensor:
    """Return the weight that forward uses, without the side effects a parametrization may have in training mode."""
    hook = spectral_norm_hook(layer)
    if hook is not None:
        # The attribute `weight` is what the last forward used, before the optimizer's last step.
        return hook.compute_weight(layer, do_power_iteration=False)
    chain = weight_parametrizations(layer)
    return layer.weight if chain is None else copy.deepcopy(chain).eval()()


def _operator_singular_values(
    network: nn.Module, after_polynomial: bool, input_shape: Optional[InputShape]
) -> dict[str, Tensor]:
    operators, pc_layers = convolution_operators(network, input_shape), preconditioners(network)
    values = {}
    for name, layer in weight_layers(network).items():
        weight = _effective_weight(layer)
        if name in pc_layers and not after_polynomial:
            original, pc_layer = original_weight(layer), pc_layers[name]
            weight = original / pc_layer.spectral_norm(pc_layer.matrices(original)).to(original.dtype)
        check_finite(name, weight)
        if name in operators:
            operator = operators[name]
            exact = operator.is_circular or is_small(weight, operator)
            values[name] = convolution_singular_values(weight, operator if exact else operator.circular())
        else:
            values[name] = _batched_singular_values({name: MatrixLayout.of_layer(layer).to_matrices(weight)})[name]
    return values


def check_finite(name: str, values: Tensor) -> None:
    """Refuse a weight that is not finite, by its layer's name."""
    if not values.isfinite().all():
        raise ValueError(f"weight of layer {name!r} must be finite, got NaN or infinity")


def _batched_singular_values(matrices: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, m in matrices.items():
        check_finite(name, m)
    # [groups, small, large]: a matrix and its transpose have the same singular values, and may share a batch.
    oriented = [(m if m.shape[1] <= m.shape[2] else m.mT,) for m in matrices.values()]
    results = batch_by_shape(_svdvals, oriented)
    return {
        # The values of a block-diagonal matrix are those of all its blocks.
        name: values.flatten().sort(descending=True).values
        for name, (values,) in zip(matrices, results, strict=True)
    }


def _svdvals(matrices: Tensor) -> tuple[Tensor]:
    if matrices.dtype == torch.float64:
        return (torch.linalg.svdvals(matrices),)
    exact = matrices.double()
    squares = torch.linalg.eigvalsh(exact @ exact.mT).clamp(min=0)
    return (squares.sqrt().flip(-1).to(torch.promote_types(matrices.dtype, torch.float32)),)
