"""The tensors of a module that must stay finite."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from pcgan_lightning.spectra import Preconditioner, original_parameters, preconditioners


class WatchedTensors:
    """Parameters, floating-point buffers, and what PC-layers divide by, by the names they have without PC-layers.

    Args:
        module: any module, with its PC-layers on.
        optimizers: of its training.

    Attributes:
        names: the name of each parameter, by its ``id``.
        weights: those that an optimizer holds.
        other_weights: the others: averages, constants.
        layers: names of the layers with a PC-layer.
    """

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        everything = original_parameters(module)
        parameters = {name: p for name, p in everything.items() if not _is_exact(p)}
        held = {id(p) for optimizer in optimizers for p in _parameters(optimizer)}
        self._optimizers = optimizers
        pc_layers = preconditioners(module)
        self._layers = [(p, everything[f"{name}.weight" if name else "weight"]) for name, p in pc_layers.items()]
        self.names = {id(p): name for name, p in parameters.items()}
        self.weights = {name: p for name, p in parameters.items() if id(p) in held}
        self.other_weights = {name: p for name, p in parameters.items() if id(p) not in held}
        self.layers = list(pc_layers)
        normalized = {id(weight) for _, weight in self._layers}
        self._plain_weights = {name: p for name, p in self.weights.items() if id(p) not in normalized}
        # The singular vectors are looked at by the norm that they make.
        vectors = {id(vector) for pc_layer, _ in self._layers for vector in (pc_layer.u, pc_layer.v)}
        # The owner and its key, since modules may put a new tensor in a buffer's place.
        self._buffers = [
            (f"{path}.{key}" if path else key, owner, key)
            for path, owner in module.named_modules()
            for key, buffer in owner.named_buffers(recurse=False)
            if not _is_exact(buffer) and id(buffer) not in vectors
        ]

    def gradients(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the gradients that an optimizer is about to use."""
        named = zip(self._names_in(optimizer), _parameters(optimizer), strict=True)
        return {name: p.grad for name, p in named if p.grad is not None}

    def buffers(self) -> dict[str, Tensor]:
        """Return the buffers that are there now."""
        found = ((name, owner._buffers.get(key)) for name, owner, key in self._buffers)
        return {name: buffer for name, buffer in found if buffer is not None}

    def saved(self, checkpoint: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
        """Return the weights, buffers and optimizers' states and learning rates of a checkpoint, on one device."""
        found = list(_leaves(checkpoint["state_dict"]))
        # A save by another trainer than the one that trained may have none.
        for optimizer, content in zip(self._optimizers, checkpoint["optimizer_states"], strict=False):
            found += _optimizer_leaves(content, self._names_in(optimizer))
        return {name: torch.as_tensor(value, device=device) for name, value in found}

    def _names_in(self, optimizer: Optimizer) -> list[str]:
        """Return the names of an optimizer's parameters, in its order."""
        parameters = enumerate(_parameters(optimizer))
        return [self.names.get(id(p)) or f"the optimizer's parameter {number}" for number, p in parameters]

    @torch.no_grad()
    def norms(self) -> Optional[Tensor]:
        """Return what the PC-layers divide by and its inverse, ``[2, n]``; None without any."""
        if not self._layers:
            return None
        norms = torch.stack([_norm_estimate(*layer) for layer in self._layers])
        return torch.stack([norms, norms.reciprocal()])

    def weights_beside(self, norms: Optional[Tensor]) -> Mapping[str, Tensor]:
        """Return the weights about which the norms say nothing."""
        # A norm that is finite was made of finite weights. Only a CPU can tell at once without being waited for.
        known = norms is not None and norms.is_cpu and bool(norms.isfinite().all())
        return self._plain_weights if known else self.weights


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _optimizer_leaves(content: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the numbers of an optimizer's state, and of those of the optimizers within it."""
    known = dict(enumerate(names))
    for key, value in content.items():
        if key == "state":
            yield from _leaves({f"state of {known.get(number, number)}": state for number, state in value.items()})
        elif key == "param_groups":
            yield from _leaves({f"learning rate of group {n}": group.get("lr") for n, group in enumerate(value)})
        elif isinstance(value, Mapping):
            yield from ((f"{key}'s {name}", number) for name, number in _optimizer_leaves(value, names))


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield floats and tensors of them in nested mappings and sequences, with the keys that lead to them."""
    if isinstance(tree, (Mapping, list, tuple)):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(value, f"{path}: {key}" if path else str(key))
    elif isinstance(tree, float) or (isinstance(tree, Tensor) and not _is_exact(tree)):
        yield path, tree


def _is_exact(tensor: Tensor) -> bool:
    """Return whether a tensor's numbers are whole, and finite as such."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def _norm_estimate(pc_layer: Preconditioner, weight: Tensor) -> Tensor:
    """Return what a PC-layer divides by, the ordinary kind of matrix in half as many operations."""
    u, v, layout = pc_layer.u, pc_layer.v, pc_layer.layout
    # Feature maps, where the norm is that of an operator, have more axes.
    if u.ndim == 2 and layout.groups == 1 and not layout.transposed and u.dtype == weight.dtype:
        return torch.dot(u[0], torch.mv(weight.flatten(1), v[0]))
    return pc_layer.spectral_norm(pc_layer.matrices(weight))
