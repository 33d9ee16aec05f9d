"""The convolutions of a network as operators: on which images they act, found by one forward pass or given."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pcgan_lightning.spectra.convolutions.operator import ConvolutionOperator
from pcgan_lightning.spectra.matrices import WeightLayer, is_convolution, weight_layers

InputShape = Union[Sequence[int], Mapping[str, Sequence[int]]]


def input_sizes(network: nn.Module, *inputs: Any) -> dict[str, tuple[int, ...]]:
    """Return the spatial size of the inputs of each convolution, by one forward pass of the network on these inputs.

    The pass is made in evaluation mode and without gradients. Convolutions that it does not reach are not among the
    found; of one that it reaches more than once, the larger size counts.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    with _following(network, sizes), torch.no_grad(), _evaluated(network):
        network(*inputs)
    return sizes


def convolution_operators(
    network: nn.Module, input_shape: Optional[InputShape] = None
) -> dict[str, ConvolutionOperator]:
    """Return the operator of each convolution of a network, by layer name.

    Args:
        network: a network, or one layer.
        input_shape: the shape of one input of the network without the batch, e.g. ``(3, 32, 32)``, for which a forward
            pass is made; or the spatial size of each convolution's inputs by layer name, see :func:`input_sizes`.

    Raises:
        ValueError: for no shape, or a convolution of unknown size or one that it cannot take.
    """
    layers = convolutions(network)
    if not layers:
        return {}
    if input_shape is None:
        raise ValueError(
            f"argument `input_shape` must be given where convolutions are operators, e.g. (3, 32, 32), got None "
            f"for {type(network).__name__}"
        )
    if isinstance(input_shape, Mapping):
        sizes = {name: tuple(size) for name, size in input_shape.items()}
    else:
        sizes = _sizes_for(network, tuple(input_shape))
    unknown = [name for name in layers if name not in sizes]
    if unknown:
        raise ValueError(f"argument `input_shape` must lead to a size for every convolution, got none for {unknown}")
    return {name: ConvolutionOperator.of_layer(layer, sizes[name]) for name, layer in layers.items()}


def convolutions(network: nn.Module) -> dict[str, Any]:
    """Return the convolutions among a network's weight layers, by name."""
    layers: dict[str, WeightLayer] = weight_layers(network)
    return {name: layer for name, layer in layers.items() if is_convolution(layer)}


def _sizes_for(network: nn.Module, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    if is_convolution(network):  # so that a size that it cannot take is refused in the words of the operator
        return {"weight": shape[1:]}
    found: dict[str, tuple[int, ...]] = {}
    with _following(network, found):
        run_with_zeros(network, shape)
    return found


def run_with_zeros(
    network: nn.Module,
    input_shape: Sequence[int],
    surroundings: Callable[[Tensor], AbstractContextManager] = nullcontext,
) -> Any:
    """Return what a network makes of one input of zeros, in evaluation mode, inside of a context made for the input."""
    first = next(network.parameters())
    images = torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype)
    try:
        with torch.no_grad(), _evaluated(network), surroundings(images):
            return network(images)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"argument `input_shape` must be one that {type(network).__name__} can take, got {tuple(input_shape)}: "
            f"{reason}"
        ) from error


@contextmanager
def _following(network: nn.Module, sizes: dict[str, tuple[int, ...]]) -> Iterator[None]:
    """Write down the sizes that a network's convolutions meet inside of the block."""

    def look(name: str, dimensions: int, images: Tensor) -> None:
        size = tuple(images.shape[-dimensions:])
        sizes[name] = tuple(map(max, size, sizes.get(name, size)))

    def follow(name: str, layer: Any) -> RemovableHandle:
        dimensions = len(layer.kernel_size)
        return layer.register_forward_pre_hook(lambda _, arguments: look(name, dimensions, arguments[0]))

    hooks = [follow(name, layer) for name, layer in convolutions(network).items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
