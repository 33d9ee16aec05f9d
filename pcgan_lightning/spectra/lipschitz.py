r"""An upper bound of a network's Lipschitz constant, from the norms of its layers."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pcgan_lightning.spectra.convolutions import (
    ConvolutionOperator,
    convolution_norm_bound,
    gram_iteration,
    run_with_zeros,
)
from pcgan_lightning.spectra.matrices import MatrixLayout, is_convolution, weight_layers

# Elementwise functions and their steepest slopes (to above), and rearrangements of numbers.
SLOPES = {"relu": 1, "relu_": 1, "relu6": 1, "tanh": 1, "sigmoid": 0.25, "softplus": 1, "logsigmoid": 1, "hardtanh": 1}
SLOPES |= {"softsign": 1, "gelu": 1.13, "silu": 1.1, "abs": 1, "neg": 1, "dropout": 1, "clone": 1, "detach": 1, "to": 1}
SLOPES |= dict.fromkeys(["flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose"], 1)
SLOPES |= dict.fromkeys(["chunk", "split", "tensor_split", "unbind"], 1)
SLOPES |= dict.fromkeys(["contiguous", "__getitem__", "float", "double", "mT"], 1)
SUMS = {"add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "__rsub__"}
PRODUCTS = {"mul", "__mul__", "__rmul__", "__imul__"}


class LipschitzBound(NamedTuple):
    """A bound, and what in the network it knows nothing of.

    Attributes:
        value: the bound; infinite where something is not known.
        unknown: names of torch's functions without a bound. Where there are none, the bound is certified.
    """

    value: float
    unknown: tuple[str, ...]


@torch.no_grad()
def lipschitz_bound(network: nn.Module, input_shape: Sequence[int]) -> LipschitzBound:
    r"""Return an upper bound of :math:`\|f(x) - f(y)\| / \|x - y\|`, from the norms of a network's layers.

    Along one forward pass in evaluation mode norms of layers multiply, and sums of branches add. A convolution counts
    with the certified bound of its norm as an operator, a linear layer with one of its matrix.

    Args:
        network: of convolutions, linear layers, batch normalisation, pooling, sums and activations.
        input_shape: of one input, without the batch.

    Raises:
        ValueError: for a shape that the network cannot take.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> network[0].weight.data = 3 * torch.eye(2)
        >>> 3 <= lipschitz_bound(network, (2,)).value <= 1.05 * 3
        True
    """
    constants = _Constants()
    hooks: list[Any] = []
    for layer in weight_layers(network).values():
        hooks.append(layer.register_forward_pre_hook(constants.enter))
        hooks.append(layer.register_forward_hook(constants.leave))
    try:
        output = run_with_zeros(network, input_shape, constants.start)
    finally:
        for hook in hooks:
            hook.remove()
    value = constants.of_output(output)
    return LipschitzBound(value, tuple(constants.unknown))


class _Constants(TorchFunctionMode):
    """The Lipschitz constant of every tensor that a forward pass makes, as a function of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, float]] = {}  # the tensors, too, lest another come to have the same id
        self.unknown: list[str] = []
        self.inside = False  # a layer whose norm is known as a whole

    def start(self, images: Tensor) -> "_Constants":
        self.known[id(images)] = images, 1.0
        return self

    def of(self, tensor: Tensor) -> float:
        return self.known.get(id(tensor), (tensor, 0.0))[1]

    def of_output(self, output: Any) -> float:
        if isinstance(output, Tensor):
            return self.of(output)
        self.unknown.append(f"an output of {type(output).__name__}")
        return math.inf

    def enter(self, layer: nn.Module, inputs: tuple) -> None:
        self.inside = True

    def leave(self, layer: Any, inputs: tuple, output: Tensor) -> None:
        self.inside = False
        if is_convolution(layer):
            size = inputs[0].shape[-len(layer.kernel_size) :]
            norm = convolution_norm_bound(layer.weight, ConvolutionOperator.of_layer(layer, size))
        else:
            matrices = MatrixLayout.of_layer(layer).to_matrices(layer.weight)
            norm = gram_iteration(matrices.to(torch.promote_types(matrices.dtype, torch.float32)))
        self.known[id(output)] = output, norm.item() * self.of(inputs[0])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        # Before the call, which may change a tensor in place.
        given = args[0] if args and isinstance(args[0], (list, tuple)) else [*args, *options.values()]
        inputs = [(t, self.of(t)) for t in given if isinstance(t, Tensor)]
        result = func(*args, **options)
        if not self.inside and any(constant for _, constant in inputs):
            name = getattr(func, "__name__", str(func))
            # What is written into keeps nothing of what it was worth.
            made = args[0] if name == "__setitem__" else result
            outputs = [t for t in (made if isinstance(made, (list, tuple)) else [made]) if isinstance(t, Tensor)]
            for output in outputs:
                constant = _constant(name, inputs, args, options, output)
                if constant == math.inf and all(c < math.inf for _, c in inputs) and name not in self.unknown:
                    self.unknown.append(name)
                self.known[id(output)] = output, constant
        return result


def _constant(name: str, inputs: list[tuple[Tensor, float]], args: tuple, options: dict, result: Tensor) -> float:
    """Return the constant of what a function of torch has made of tensors with these constants."""
    (first, before), ratio = inputs[0], result.numel() / max(1, inputs[0][0].numel())
    alone = all(constant == 0 for _, constant in inputs[1:])
    if name in SUMS and "alpha" not in options:
        return sum(constant * math.sqrt(result.numel() / tensor.numel()) for tensor, constant in inputs)
    if name in ("cat", "concat", "stack"):
        return math.hypot(*(constant for _, constant in inputs))
    if not alone:
        return math.inf
    if name in SLOPES:
        return before * SLOPES[name]
    if name == "leaky_relu":
        return before * max(1.0, abs(options.get("negative_slope", args[1] if len(args) > 1 else 0.01)))
    if name == "sum":
        return before / math.sqrt(ratio)
    if name == "mean":
        return before * math.sqrt(ratio)
    if name == "interpolate" and options.get("mode", "nearest") == "nearest" and ratio == int(ratio):
        return before * math.sqrt(ratio)
    if name == "batch_norm" and not options.get("training", args[5] if len(args) > 5 else False):
        return before * _batch_norm(args, options)
    if name in PRODUCTS and len(inputs) == 1:
        return before * max(abs(x) for x in args if isinstance(x, (int, float)))
    if name.startswith(("avg_pool", "max_pool")):
        return before * _pooling(name, first.ndim - 2, args, options)
    return math.inf


def _batch_norm(args: tuple, options: dict) -> float:
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | options
    scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
    return float((scale if given.get("weight") is None else scale * given["weight"]).abs().max())


def _pooling(name: str, dimensions: int, args: tuple, options: dict) -> float:
    given = dict(zip(("input", "kernel_size", "stride", "padding"), args, strict=False)) | options
    kernel, stride = given["kernel_size"], given.get("stride") or given["kernel_size"]
    kernels = kernel if isinstance(kernel, (list, tuple)) else [kernel] * dimensions
    strides = stride if isinstance(stride, (list, tuple)) else [stride] * dimensions
    # How many windows a pixel lies in; an average over k numbers makes them shorter by the root of k.
    windows = math.prod(-(-k // s) for k, s in zip(kernels, strides, strict=True))
    if name.startswith("max"):
        return math.sqrt(windows) if given.get("dilation", 1) == 1 else math.inf
    if given.get("padding", 0) not in (0, (0, 0)) and not given.get("count_include_pad", True):
        return math.inf
    return math.sqrt(windows / math.prod(kernels)) if not given.get("divisor_override") else math.inf
