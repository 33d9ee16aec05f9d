r"""An upper bound of a network's Lipschitz constant, from the norms of its layers."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pcgan_lightning.spectra.convolutions import (
    ConvolutionOperator,
    convolution_norm_bound,
    gram_iteration,
    run_with_zeros,
)
from pcgan_lightning.spectra.matrices import MatrixLayout, is_convolution, weight_layers
from pcgan_lightning.spectra.singular_values import check_finite

# Elementwise functions and their steepest slopes (to above), and rearrangements of numbers.
SLOPES = {"relu": 1, "relu_": 1, "relu6": 1, "tanh": 1, "sigmoid": 0.25, "softplus": 1, "logsigmoid": 1, "hardtanh": 1}
SLOPES |= {"softsign": 1, "gelu": 1.13, "silu": 1.1, "abs": 1, "neg": 1, "clone": 1, "detach": 1, "to": 1}
SLOPES |= dict.fromkeys(["flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose"], 1)
SLOPES |= dict.fromkeys(["chunk", "split", "tensor_split", "unbind", "contiguous", "float", "double", "mT", "T"], 1)
REPETITIONS = {"__getitem__", "index_select", "repeat", "expand", "interpolate"}  # of numbers, or fewer of them
SUMS = {"add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "__rsub__"}
PRODUCTS = {"mul", "__mul__", "__rmul__", "__imul__"}
# What is no tensor, and says nothing of the numbers in one.
PROPERTIES = {
    "size",
    "dim",
    "ndimension",
    "numel",
    "nelement",
    "stride",
    "is_contiguous",
    "is_floating_point",
    "__len__",
}
PROPERTIES |= {"is_complex", "element_size", "get_device", "__hash__", "__repr__", "__format__", "register_hook"}


class LipschitzBound(NamedTuple):
    """A bound, and what in the network it knows nothing of.

    Attributes:
        value: the bound; infinite where something is not known.
        unknown: names of torch's functions without a bound, used or not. Where there are none, the bound is certified.
    """

    value: float
    unknown: tuple[str, ...]


@torch.inference_mode(False)
@torch.no_grad()
def lipschitz_bound(network: nn.Module, input_shape: Sequence[int]) -> LipschitzBound:
    r"""Return an upper bound of :math:`\|f(x) - f(y)\| / \|x - y\|`, from the norms of a network's layers.

    Along one forward pass in evaluation mode norms of layers multiply, and sums of branches add. A convolution counts
    with the certified bound of its norm as an operator, a linear layer with one of its matrix.

    Args:
        network: of convolutions, linear layers, batch normalisation, pooling, sums and activations.
        input_shape: of one input, without the batch.

    Raises:
        ValueError: for a shape that the network cannot take, or a weight that is not finite.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> network[0].weight.data = 3 * torch.eye(2)
        >>> 3 <= lipschitz_bound(network, (2,)).value <= 1.05 * 3
        True
    """
    constants = _Constants()
    hooks: list[Any] = []
    for name, layer in weight_layers(network).items():
        check_finite(name, layer.weight)
        hooks.append(layer.register_forward_pre_hook(constants.enter))
        hooks.append(layer.register_forward_hook(constants.leave))
    try:
        output = run_with_zeros(network, input_shape, constants.start)
    finally:
        for hook in hooks:
            hook.remove()
    value = constants.of_output(output)
    return LipschitzBound(value, tuple(constants.unknown))


class _Known(NamedTuple):
    tensor: Tensor  # kept, lest another come to have the same id or memory
    version: int  # of its memory, which torch counts up with each write
    constant: float


class _Constants(TorchFunctionMode):
    """The Lipschitz constant of every tensor that a forward pass makes, as a function of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, _Known] = {}
        self.unknown: list[str] = []
        self.writers: dict[int, tuple[str, Tensor]] = {}  # memory -> what has written into it
        self.inside = False  # a layer whose norm is known as a whole

    def start(self, images: Tensor) -> "_Constants":
        self.keep(images, 1.0)
        return self

    def keep(self, tensor: Tensor, constant: float) -> None:
        self.known[id(tensor)] = _Known(tensor, tensor._version, constant)

    def name(self, unknown: str) -> float:
        if unknown not in self.unknown:
            self.unknown.append(unknown)
        return math.inf

    def of(self, tensor: Tensor) -> float:
        known = self.known.get(id(tensor))
        if known is not None and known.version == tensor._version:
            return known.constant
        memory = tensor.untyped_storage().data_ptr()
        return self.name(f"{self.writers[memory][0]} through a view") if memory in self.writers else 0.0

    def of_output(self, output: Any) -> float:
        constant = self.of(output) if isinstance(output, Tensor) else self.name(f"an output of {type(output).__name__}")
        return math.inf if self.unknown else constant

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
        self.keep(output, norm.item() * self.of(inputs[0]))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
        versions = [tensor._version for tensor in given]
        # Before the call, which may change a tensor in place.
        inputs = [] if self.inside else [(tensor, self.of(tensor)) for tensor in given]
        result = func(*args, **options)
        if not any(constant for _, constant in inputs):
            return result
        name, attribute = func.__name__, func.__name__ == "__get__"
        name = func.__self__.__name__ if attribute else name  # type: ignore[attr-defined]  # of what a property gets
        for tensor, version in zip(given, versions, strict=True):
            if tensor._version != version:
                self.writers[tensor.untyped_storage().data_ptr()] = name, tensor
        # What is written into keeps nothing of what it was worth.
        made = args[0] if name == "__setitem__" else result
        outputs = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        if not outputs and result is not None and not attribute and name not in PROPERTIES:
            self.name(name)  # numbers of Python, say, which nothing follows
        for output in outputs:
            constant = _constant(name, inputs, args, options, output, func)
            if constant == math.inf and all(c < math.inf for _, c in inputs):
                self.name(name)
            self.keep(output, constant)
        return result


def _constant(
    name: str,
    inputs: list[tuple[Tensor, float]],
    args: tuple,
    options: dict,
    result: Tensor,
    func: Callable[..., Any],
) -> float:
    """Return the constant of what a function of torch has made of tensors with these constants."""
    (first, before), ratio = inputs[0], result.numel() / max(1, inputs[0][0].numel())
    if not result.is_floating_point():
        return math.inf
    if name in SUMS and "alpha" not in options:
        return sum(constant * math.sqrt(result.numel() / tensor.numel()) for tensor, constant in inputs)
    if name in ("cat", "concat", "stack"):
        return math.hypot(*(constant for _, constant in inputs))
    if any(constant > 0 for _, constant in inputs[1:]):
        return math.inf
    if name in SLOPES:
        return before * SLOPES[name]
    if name == "leaky_relu":
        return before * max(1.0, abs(options.get("negative_slope", args[1] if len(args) > 1 else 0.01)))
    if name == "dropout":
        given = dict(zip(("input", "p", "training"), args, strict=False)) | options
        return before if not given.get("training", given.get("train", True)) or given.get("p") == 0 else math.inf
    if name == "sum":
        return before / math.sqrt(ratio)
    if name == "mean":
        return before * math.sqrt(ratio)
    if name in REPETITIONS and options.get("mode", "nearest").startswith("nearest"):
        return before * math.sqrt(_most_repetitions(func, first, args, options))
    if name == "batch_norm" and not options.get("training", args[5] if len(args) > 5 else False):
        return before * _batch_norm(args, options)
    if name in PRODUCTS and len(inputs) == 1:
        return before * max(abs(x) for x in (*args, *options.values()) if isinstance(x, (int, float)))
    if name.startswith(("avg_pool", "max_pool")):
        return before * _pooling(name, first.ndim - 2, args, options)
    return math.inf


def _most_repetitions(func: Callable[..., Any], tensor: Tensor, args: tuple, options: dict) -> int:
    """Return how often the most repeated number stands in what a function makes of them."""
    numbers = torch.arange(tensor.numel(), dtype=torch.float64, device=tensor.device).view(tensor.shape)
    found = func(numbers, *args[1:], **{name: numbers if x is tensor else x for name, x in options.items()})
    return int(found.long().flatten().bincount().max()) if found.numel() else 0


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
