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
    """Each thread's own: the weights by the identity of their PC-layer, None outside of :func:`shared_weights`."""

    kept: Optional[dict[int, Kept]] = None


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


def kept_weights() -> Optional[dict[int, Kept]]:
    """Return this thread's weights, None outside of :func:`shared_weights` and while torch records a graph."""
    # Asked first, so that torch.compile meets no thread-local object.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    return _cache.kept


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
