"""Weights g(SN(W)) that several forward passes share."""

import contextlib
import threading
from collections.abc import Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn


class Kept(NamedTuple):
    """An effective weight, what it was computed from, and what keeps those places in memory from being used again."""

    origin: tuple
    alive: tuple[Tensor, ...]
    weight: Tensor


class _Cache(threading.local):
    """Each thread's own.

    Attributes:
        kept: the weights by the identity of their PC-layer, None outside of :func:`shared_weights` and of forward
            passes.
        passes: the networks whose forward pass is under way, and what each has opened as `kept`, if anything.
    """

    kept: Optional[dict[int, Kept]] = None

    def __init__(self) -> None:
        self.passes: list[tuple[nn.Module, Optional[dict[int, Kept]]]] = []


_cache = _Cache()


@contextlib.contextmanager
def shared_weights() -> Iterator[None]:
    """Compute g(SN(W)) once for all forward passes of this thread inside the block.

    A weight, vector or polynomial that changes meanwhile is seen, except for values written through ``weight.data``,
    which torch does not count. Since the passes share the graph of g(SN(W)), backpropagate through them together, or
    with ``retain_graph=True``. Other parametrizations than PC-layers are computed as without the block.
    ``torch.nn.utils.parametrize.cached`` does the same for all of them, but for all threads at once.

    Example:
        >>> from pcgan_lightning.spectra import precondition
        >>> layer = precondition(nn.Linear(3, 2), 3, "all")
        >>> with shared_weights():
        ...     layer.weight is layer.weight
        True
    """
    outer = _cache.kept
    if outer is None:
        _cache.kept = {}
    try:
        yield
    finally:
        _cache.kept = outer


def enter_pass(network: nn.Module) -> None:
    """Share weights until :func:`leave_pass`: the layers of one forward pass are used as if in the block."""
    if _is_recorded():
        return
    leave_pass(network)  # one that was interrupted
    opened: Optional[dict[int, Kept]] = None if _cache.kept is not None else {}
    if opened is not None:
        _cache.kept = opened
    _cache.passes.append((network, opened))


def leave_pass(network: nn.Module) -> None:
    """Forget what the forward pass of a network has opened, and of those within it."""
    if _is_recorded() or not any(under_way is network for under_way, _ in _cache.passes):
        return
    left = None
    while left is not network:
        left, opened = _cache.passes.pop()
        if opened is not None and opened is _cache.kept:
            _cache.kept = None


def kept_weights() -> Optional[dict[int, Kept]]:
    """Return this thread's weights, None where nothing is shared and while torch records a graph."""
    return None if _is_recorded() else _cache.kept


def _is_recorded() -> bool:
    # Asked first, so that torch.compile meets no thread-local object.
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def origin_of(constants: tuple, tensors: tuple[Tensor, ...]) -> Optional[tuple]:
    """Return what decides a value computed from these, None for tensors whose changes torch does not count."""
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return None
    try:
        places = tuple((t.data_ptr(), t._version, t.shape, t.stride(), t.dtype) for t in tensors)
    except RuntimeError:  # made in inference mode, or inside of a transform of torch.func
        return None
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), tensors[0].requires_grad
    return constants, places, modes
