"""What was measured in training, on the device until it is read, and the first of it that was not finite."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Optional

import lightning.pytorch as pl
import torch
from torch import Tensor

TOGETHER = 2**18  # entries up to which copying them costs less than looking at each tensor
_NOWHERE = 2**62  # a position behind all others


class Measurement(NamedTuple):
    """Bounds of some tensors in one iteration.

    Attributes:
        pattern: of the sentence that tells of a tensor: its name and the iteration are filled in.
        names: of the tensors.
        iteration: when they were measured.
        values: ``[2, n]``, finite where the tensor's entries are.
    """

    pattern: str
    names: Sequence[str]
    iteration: int
    values: Tensor


class Ledger:
    """Measurements in the order in which they were made."""

    def __init__(self) -> None:
        self.measurements: list[Measurement] = []

    def __bool__(self) -> bool:
        return bool(self.measurements)

    @torch.no_grad()
    def measure(self, pattern: str, tensors: Mapping[str, Tensor], iteration: int) -> None:
        """Keep the bounds of tensors."""
        tensors = {n: _real(t) if t.is_sparse or t.is_complex() else t for n, t in tensors.items()}
        tensors = {n: t for n, t in tensors.items() if t.numel()}
        if tensors:
            self.keep(pattern, list(tensors), extremes(list(tensors.values())), iteration)

    def keep(self, pattern: str, names: Sequence[str], values: Tensor, iteration: int) -> None:
        """Keep values that are bounds already."""
        self.measurements.append(Measurement(pattern, names, iteration, values))

    def close(self, trainer: "pl.Trainer") -> Optional[str]:
        """Read and forget everything; return the first that was not finite, the same in all processes."""
        measurements, self.measurements = self.measurements, []
        finite = torch.cat([m.values for m in measurements], dim=1).isfinite().all(dim=0)
        # Of equal entries argmin returns the first.
        position = torch.where(finite.all(), _NOWHERE, finite.int().argmin())
        if trainer.world_size == 1:
            return _name(measurements, int(position))
        own = position.clone()
        first = trainer.strategy.reduce(position, reduce_op="min")
        if int(first) == _NOWHERE:
            return None
        owners = torch.where(own == first, trainer.global_rank, _NOWHERE)
        owner = int(trainer.strategy.reduce(owners, reduce_op="min"))
        name = _name(measurements, int(own))
        return trainer.strategy.broadcast(f"{name} (process {owner})", src=owner)


def extremes(tensors: list[Tensor]) -> Tensor:
    """Return bounds of real tensors' entries, ``[2, n]``, both finite if and only if all entries of a tensor are.

    No entry is added to another, so that no finite ones can overflow.
    """
    if tensors[0].is_cuda:  # one kernel for all; on CPUs torch's infinity norm is the slowest way
        return torch.stack(torch._foreach_norm(tensors, ord=math.inf)).expand(2, -1)
    if len(tensors) == 1 and tensors[0].numel() == 1:  # a loss
        return tensors[0].clone().view(1, 1).expand(2, 1)
    if tensors[0].is_cpu and sum(t.numel() for t in tensors) <= TOGETHER:
        # Most often all are finite, and one look at a copy of them all says so; a CPU's answer is there at once.
        bounds = torch.stack(torch.aminmax(torch.cat([t.flatten() for t in tensors])))
        if bool(bounds.isfinite().all()):
            return bounds[:, None].expand(2, len(tensors))
    pairs = [torch.aminmax(t) for t in tensors]
    return torch.stack([p.min for p in pairs] + [p.max for p in pairs]).view(2, -1)


def _real(tensor: Tensor) -> Tensor:
    """Return the entries of a sparse or complex tensor as real ones; both parts must be finite."""
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _name(measurements: Iterable[Measurement], position: int) -> Optional[str]:
    """Return what tells of the tensor at a position in the order of all measurements."""
    for pattern, names, iteration, _ in measurements:
        if position < len(names):
            return pattern.format(names[position], iteration)
        position -= len(names)
    return None
