"""What processes that train together share: which samples of an update are whose, and means over them all."""

from collections.abc import Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """This process's part of the samples of one update, which stand in the order of the processes.

    Attributes:
        count: samples of this process.
        offset: samples of the processes before it.
        total: samples of all processes.
        processes: number of processes.
    """

    count: int
    offset: int
    total: int
    processes: int

    def weigh(self, mean: Tensor) -> Tensor:
        """Return what this process's mean adds to the mean of all samples, times the number of processes.

        The mean over processes of what this returns is the mean over samples, however uneven the parts are.
        """
        weight = self.count * self.processes / self.total
        return mean if weight == 1 else mean * weight


def shares_of(trainer: "pl.Trainer", batch_size: int, parts: int = 1) -> list[Share]:
    """Return this process's share of each of the parts into which ``tensor_split`` cuts the processes' batches.

    Args:
        trainer: of a running fit.
        batch_size: of this process's batch.
        parts: updates that share the batch.
    """
    world, rank = trainer.world_size, trainer.global_rank
    sizes = [batch_size] * world
    # Our own loaders give every process as many; others are asked, for the last batches may be uneven.
    if world > 1 and not getattr(trainer.train_dataloader, "equal_batches", False):
        own = torch.tensor([batch_size], device=trainer.strategy.root_device)
        found = [torch.empty_like(own) for _ in sizes]
        torch.distributed.all_gather(found, own)
        sizes = torch.cat(found).tolist()
    counts = [[size // parts + (part < size % parts) for size in sizes] for part in range(parts)]
    return [Share(own[rank], sum(own[:rank]), sum(own), world) for own in counts]


def mean_over_processes(trainer: "pl.Trainer", tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the means of tensors over all processes, exchanged in one message; they stay as they are."""
    if trainer.world_size == 1 or not tensors:
        return tuple(tensors)
    # A copy: the reduction is in place, while a graph may still need them.
    flat = trainer.strategy.reduce(torch.cat([t.detach().flatten() for t in tensors]), reduce_op="mean")
    parts = flat.split([t.numel() for t in tensors])
    return tuple(part.view_as(t) for part, t in zip(parts, tensors, strict=True))
