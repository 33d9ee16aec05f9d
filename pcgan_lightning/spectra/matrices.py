"""The matrices behind the weights of layers: which layers have one, how it is laid out, batching by shape."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR_LAYERS = (nn.Linear,)
WEIGHT_LAYERS = CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS + LINEAR_LAYERS
WeightLayer = Union[
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear
]


def is_convolution(layer: nn.Module) -> bool:
    """Whether `layer` is a convolution or transposed convolution of any dimension."""
    return isinstance(layer, CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS)


@dataclass(frozen=True)
class MatrixLayout:
    r"""How a layer's weight tensor is read as a batch of matrices ``[groups, rows, cols]``.

    A convolution (out, in, *kernel) is flattened to (out, in * prod(kernel)); a transposed convolution stores
    (in, out, *kernel), so its first two axes are exchanged before: rows are always outputs. A grouped convolution is
    block diagonal, one block for each group; its singular values are the union over the blocks.
    """

    groups: int = 1
    transposed: bool = False

    @classmethod
    def of_layer(cls, layer: nn.Module) -> "MatrixLayout":
        """Return the layout of a Linear, Conv or ConvTranspose layer."""
        return cls(getattr(layer, "groups", 1), isinstance(layer, TRANSPOSED_CONVOLUTIONS))

    def to_matrices(self, weight: Tensor) -> Tensor:
        """Return the matrices ``[groups, rows, cols]`` of a weight (a view where strides allow)."""
        if self.groups == 1 and not self.transposed:  # the usual case, in one operation
            return weight.reshape(1, weight.shape[0], -1)
        blocks = weight.unflatten(0, (self.groups, -1))
        if self.transposed:
            blocks = blocks.transpose(1, 2)
        return blocks.flatten(2)

    def to_weight(self, matrices: Tensor, shape: torch.Size) -> Tensor:
        """Return the weight of this `shape` whose matrices these are; inverse of :meth:`to_matrices`."""
        if self.transposed:
            matrices = matrices.unflatten(2, (shape[0] // self.groups, *shape[2:])).transpose(1, 2)
        return matrices.reshape(shape)


def weight_layers(module: nn.Module) -> dict[str, WeightLayer]:
    """Return the layers of `module` that hold a weight matrix, by name: Linear, Conv1d-3d, ConvTranspose1d-3d.

    The name is the path in ``module.named_modules()``, or ``"weight"`` where `module` itself is such a layer.
    """
    return {name or "weight": m for name, m in module.named_modules() if isinstance(m, WEIGHT_LAYERS)}


def batch_by_shape(
    function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """Call `function` once for each group of argument tuples of equal shapes, dtype and device.

    Args:
        function: takes tensors with a leading batch axis and returns a tuple of tensors with the same leading axis.
        arguments: one tuple of tensors ``[batch, ...]`` a layer.

    Returns:
        For each layer, in order, the tuple of results with its own batch size.
    """
    groups: dict[tuple, list[int]] = {}
    for index, tensors in enumerate(arguments):
        key = tuple((t.shape[1:], t.dtype, t.device) for t in tensors)
        groups.setdefault(key, []).append(index)
    results: list[tuple[Tensor, ...]] = [()] * len(arguments)
    for indices in groups.values():
        members = [arguments[i] for i in indices]
        # One layer alone needs no copy of its weight.
        stacked = members[0] if len(members) == 1 else tuple(torch.cat(ts) for ts in zip(*members, strict=True))
        sizes = [len(tensors[0]) for tensors in members]
        pieces = zip(*(out.split(sizes) for out in function(*stacked)), strict=True)
        for index, piece in zip(indices, pieces, strict=True):
            results[index] = piece
    return results


def started(vectors: Tensor) -> Tensor:
    """Return vectors ``[batch, n]``, those of zeros as 1 to n: a weight of 0 leaves zeros, which would stay so."""
    numbers = torch.arange(1, vectors.shape[-1] + 1, dtype=vectors.dtype, device=vectors.device)
    return torch.where(vectors.any(-1, keepdim=True), vectors, numbers)


def without_autocast(device_type: str) -> contextlib.AbstractContextManager:
    """Switch autocast off inside of the block."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
