"""Gradients that are differentiated again, and how derivatives that are missing are told from those that are 0."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor

Tensors = Union[Tensor, Sequence[Tensor]]

# What autograd says of a function with a first derivative only; a compiled network is one.
_NO_SECOND_DERIVATIVE = re.compile(r"differentiate twice|double backward|derivative|is not implemented")


def gradients_of(
    outputs: Tensors,
    inputs: Sequence[Tensor],
    vectors: Optional[Tensors] = None,
    names: str = "`losses`",
    **options: Any,
) -> tuple[Optional[Tensor], ...]:
    """Return the gradients, None for inputs outside the graph.

    Args:
        outputs: see ``torch.autograd.grad``.
        inputs: the same.
        vectors: what the outputs' derivatives are multiplied by.
        names: of the arguments that are wrong where a derivative is missing.
        **options: of ``torch.autograd.grad``.

    Raises:
        ValueError: for a missing derivative.
    """
    try:
        return torch.autograd.grad(outputs, inputs, vectors, allow_unused=True, **options)
    except RuntimeError as error:
        if not _NO_SECOND_DERIVATIVE.search(str(error)):
            raise
        raise missing_derivative(names, str(error).splitlines()[0]) from error


def first_gradients(
    loss: Tensor,
    parameters: Sequence[Tensor],
    names: str = "`losses`",
    *,
    create_graph: bool,
    retain_graph: bool = True,
) -> tuple[Optional[Tensor], ...]:
    """Return a loss's gradients, made so that :func:`require_differentiable` can look at their graphs."""
    # Only if what comes in requires a gradient does a function without a second derivative leave a mark.
    seed = torch.ones_like(loss, requires_grad=True) if create_graph else None
    return gradients_of(loss, parameters, seed, names, create_graph=create_graph, retain_graph=retain_graph)


def require_differentiable(gradients: Iterable[Tensor], names: str = "`losses`") -> None:
    """Refuse gradients of a function marked with ``once_differentiable``.

    Its mark leads to no parameter, so that ``torch.autograd.grad`` would pass it by and count the function as constant.

    Raises:
        ValueError: naming the arguments.
    """
    if any(node.name().endswith("Error") for node in _nodes(gradient.grad_fn for gradient in gradients)):
        raise missing_derivative(names, "a function marked with `once_differentiable`")


def depends_on(tensor: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Return whether a tensor's graph leads to one of the parameters."""
    if any(tensor is parameter for parameter in parameters):
        return True
    leaves, inner = {id(p) for p in parameters}, {p.grad_fn for p in parameters} - {None}
    return any(node in inner or id(getattr(node, "variable", None)) in leaves for node in _nodes([tensor.grad_fn]))


def _nodes(starts: Iterable[Any]) -> Iterator[Any]:
    """Yield the nodes of the graph behind some of them, each once."""
    waiting, seen = [*starts], {None}
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting.extend(following for following, _ in node.next_functions)


def missing_derivative(names: str, found: str) -> ValueError:
    """Return the error for arguments whose second derivatives are needed and missing."""
    return ValueError(f"argument {names} must be twice differentiable, got {found}")


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return all entries of tensors in one row."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
