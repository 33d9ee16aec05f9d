r"""The power iteration that moves the singular vectors of PC-layers, and the hook that calls it.

It runs once after each step of a torch optimizer that holds the weight, found by a hook on torch's optimizers; nothing
else moves the vectors, so that several forwards in one iteration agree, evaluation has no side effect and resuming is
exact.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from pcgan_lightning.spectra.batches import batches_of, stacked
from pcgan_lightning.spectra.convolutions.pc_layer import OperatorPreconditioner
from pcgan_lightning.spectra.followed_layers import FOLLOWED_LAYERS
from pcgan_lightning.spectra.matrices import weight_layers
from pcgan_lightning.spectra.pc_layer import original_weight, preconditioner_of
from pcgan_lightning.spectra.svd import rescale


def power_iteration(module: nn.Module, iterations: int = 1) -> None:
    r"""Move u and v of every PC-layer towards the leading singular vectors, in place.

    One iteration is :math:`u \leftarrow W v / \|W v\|`, :math:`v \leftarrow W^\top u / \|W^\top u\|`. It runs by
    itself after every step of a ``torch.optim.Optimizer`` whose groups hold the weight's Parameter itself. Call it with
    1 after every step where the optimizer holds something else (flattened or partitioned parameters), and with ten or
    more after replacing weights by hand: after one, the norm of a new matrix is still underestimated by a fifth.
    Layers of equal matrix shape are iterated as one batch.
    """
    _power_iterate([layer for layer in weight_layers(module).values() if preconditioner_of(layer)], iterations)


@torch.no_grad()
def _power_iterate(layers: Iterable[nn.Module], iterations: int = 1) -> None:
    found = [(p, original_weight(layer)) for layer in layers if (p := preconditioner_of(layer))]
    for p, weight in found:
        if isinstance(p, OperatorPreconditioner):
            p.iterate(weight, iterations)
    active = [(p, p.matrices(weight)) for p, weight in found if not isinstance(p, OperatorPreconditioner)]
    if iterations < 1:
        return
    old: list[Tensor] = []
    new: list[Tensor] = []
    devices = [m.device for _, m in active]
    kinds = [(m.dtype, m.device) for _, m in active]
    for indices in batches_of([(m.shape[1], m.shape[2]) for _, m in active], kinds, [d.type for d in devices]):
        own = [active[i] for i in indices]
        u, v = _iterated(stacked([m for _, m in own]), stacked([p.v.to(m.dtype) for p, m in own]), iterations)
        counts = [len(m) for _, m in own]
        for (p, m), some_u, some_v in zip(own, u.split(counts), v.split(counts), strict=True):
            old += [p.u, p.v]
            new += [some_u[:, : m.shape[1]], some_v[:, : m.shape[2]]]
    if old:
        torch._foreach_copy_(old, new)  # one call for all on an accelerator


def _iterated(matrices: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return u ``[batch, rows]`` and v ``[batch, cols]`` of matrices after at least one iteration."""
    for _ in range(iterations):
        u = _of_unit_length((matrices @ v.unsqueeze(-1)).squeeze(-1))
        v = _of_unit_length((matrices.mT @ u.unsqueeze(-1)).squeeze(-1))
    return u, v


def _of_unit_length(vectors: Tensor) -> Tensor:
    """Return vectors over their lengths; zeros, which a weight of 0 leaves and would stay, become equal entries."""
    equal = vectors.shape[-1] ** -0.5
    return (vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)).nan_to_num_(equal, equal, -equal)


def _after_optimizer_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    layers = FOLLOWED_LAYERS.of_optimizer(optimizer)
    if layers:
        _power_iterate(layers)
    for layer in layers:
        rescale(layer)


register_optimizer_step_post_hook(_after_optimizer_step)
