"""Optimizers whose steps have a length that is decided block by block."""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, Optional, Union, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from pcgan_lightning.arguments import require_not_negative, require_one_of

Scope = Literal["global", "layer", "tensor"]

# What torch's parametrizations put between a layer's name and its weight's, or that of a parameter of their own.
_PARAMETRIZED = re.compile(r"\.?\bparametrizations\.\w+\.(original\d*|\d+\.\w+)$")


class BlockwiseOptimizer(Optimizer):
    """Base of the optimizers that compare norms of blocks of parameters.

    A subclass defines :meth:`direction`. Norms and factors are computed in at least float32 (where a norm below 1e-22
    counts as zero), and no step waits for the device.

    Args:
        params: parameters, groups of them, or for ``scope="layer"`` pairs of names and parameters, as
            ``module.named_parameters()`` gives them.
        defaults: the options of a group, ``lr`` and ``eps`` among them.
        scope: what one norm covers: "global" (all that the optimizer holds), "layer" (the parameters that one module
            owns) or "tensor".

    Raises:
        ValueError: for options out of range, or "layer" without names; at a step, for sparse gradients.
    """

    kept_in_copies: tuple[str, ...] = ("scope", "_block_of", "_keys", "_index")

    def __init__(self, params: ParamsT, defaults: dict[str, Any], scope: Scope) -> None:
        require_one_of(get_args(Scope), scope=scope)
        self.scope = scope
        self._block_of: dict[Tensor, int] = {}
        self._keys: dict[Any, int] = {}
        self._index: Optional[tuple[list[int], Tensor]] = None
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs; torch's optimizers copy their groups, state and defaults alone."""
        own = {name: value for name, value in vars(self).items() if name in self.kept_in_copies}
        return super().__getstate__() | own

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, and find the block of each of its parameters."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        require_not_negative(lr=group["lr"], eps=group["eps"])
        known = [name for earlier in self.param_groups[:-1] for name in earlier.get("param_names", [])]
        for name in group.get("param_names", []):
            if name in known:
                raise ValueError(f"argument `params` must have names of their own, got {name!r} in two groups")
        if self.scope == "layer" and "param_names" not in group:
            raise ValueError(
                "argument `params` must be named for scope 'layer' and for layer scales, such as "
                "module.named_parameters(), got parameters without names"
            )
        names = group.get("param_names", [""] * len(group["params"]))
        for parameter, name in zip(group["params"], names, strict=True):
            key = {"global": None, "layer": layer_name(name), "tensor": parameter}[self.scope]
            self._block_of[parameter] = self._keys.setdefault(key, len(self._keys))

    def direction(self, members: list[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], Tensor]:
        """Return what the parameters are moved along, without the learning rate and its sign.

        Args:
            members: the parameters that have a gradient, each with its group.

        Returns:
            One tensor for each of them, and the factors ``[members]`` that these are to be multiplied by.
        """
        raise NotImplementedError

    def signed_rate(self, group: dict[str, Any]) -> float:
        """Return what the direction is multiplied by: the learning rate, negative to go down."""
        return group["lr"] if group["maximize"] else -group["lr"]

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """Make one step; with a closure, evaluate it first and return its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        members = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.layout != torch.strided for p, _ in members):
            raise ValueError("argument `params` must have dense gradients, got sparse ones")
        if members:
            tensors, factors = self.direction(members)
            factors = factors * like(factors, [self.signed_rate(group) for _, group in members])
            torch._foreach_addcmul_([p for p, _ in members], tensors, list(factors.unbind()))
        return loss

    def block_norms(self, members: list[tuple[Tensor, dict[str, Any]]], tensors: list[Tensor]) -> Tensor:
        """Return for each tensor the Euclidean norm of all tensors of its block, ``[members]``."""
        wide = functools.reduce(torch.promote_types, {tensor.dtype for tensor in tensors}, torch.float32)
        norms = torch.stack(torch._foreach_norm(tensors, 2, dtype=wide))
        if self.scope == "tensor":
            return norms
        if self.scope == "global":
            return torch.linalg.vector_norm(norms).expand(len(norms))
        blocks = [self._block_of[p] for p, _ in members]
        if self._index is None or self._index[0] != blocks or self._index[1].device != norms.device:
            self._index = (blocks, torch.tensor(blocks, device=norms.device))
        index = self._index[1]
        squares = norms.new_zeros(len(self._keys)).index_add_(0, index, norms.square())
        return squares.sqrt()[index]


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradients of parameters that have one."""
    return [p.grad for p in parameters if p.grad is not None]


def layer_name(parameter_name: str) -> str:
    """Return the name of the layer that owns a parameter, whether or not it is parametrised.

    Example:
        >>> layer_name("blocks.0.conv1.bias"), layer_name("blocks.0.conv1.parametrizations.weight.original")
        ('blocks.0.conv1', 'blocks.0.conv1')
    """
    plain = _PARAMETRIZED.sub("", parameter_name)
    return plain if plain != parameter_name else parameter_name.rpartition(".")[0]


def quotient(numerator: Tensor, norms: Tensor, eps: list[float]) -> Tensor:
    """Return numerator / (norms + eps), and 0 where the norm is 0."""
    return torch.where(norms > 0, numerator / (norms + like(norms, eps)), 0.0)


def like(tensor: Tensor, values: list[float]) -> Union[float, Tensor]:
    """Return numbers in a tensor's precision and place; one number where they are all the same."""
    # A number needs no copy to the device, which the host would wait for.
    same = len(set(values)) == 1
    return values[0] if same else torch.tensor(values, dtype=tensor.dtype, device=tensor.device)
