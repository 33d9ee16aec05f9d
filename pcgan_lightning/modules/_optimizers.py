"""The optimizer and the scheduler of a player."""

import math
from collections.abc import Callable
from typing import Optional, Union

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pcgan_lightning.modules.strategies import check_optimizers
from pcgan_lightning.optim import LinearDecay
from pcgan_lightning.spectra import original_parameters


def make_optimizer(player: str, network: nn.Module, make: Callable[..., Optimizer]) -> Optimizer:
    """Return the optimizer that `make` makes of a network's named parameters.

    Raises:
        ValueError: for a learning rate that is not finite, or an optimizer that is divided among processes.
    """
    optimizer = make(list(original_parameters(network).items()))
    check_optimizers([optimizer], f"{player}_optimizer")
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    if not all(math.isfinite(rate) for rate in rates):
        raise ValueError(f"argument `{player}_optimizer` must have a finite learning rate, its `lr`, got {rates}")
    return optimizer


def parameters_of(optimizer: Union[Optimizer, LightningOptimizer]) -> list[nn.Parameter]:
    """Return all that an optimizer moves."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def make_scheduler(
    player: str, optimizer: Optimizer, make: Optional[Callable[[Optimizer], LRScheduler]], iterations: int
) -> list[LRScheduler]:
    """Return the scheduler that `make` makes of an optimizer, or none.

    Args:
        player: whose it is.
        optimizer: what it changes.
        make: None for constant learning rates.
        iterations: of the whole run, over which a ``LinearDecay`` decays that was told nothing else; -1: not known.

    Raises:
        ValueError: for a scheduler that needs a metric, or more iterations than are known.
    """
    if make is None:
        return []
    scheduler = make(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(f"argument `{player}_scheduler` must not need a metric, got ReduceLROnPlateau")
    if isinstance(scheduler, LinearDecay) and scheduler.total_iterations is None:
        if iterations < 1:
            raise ValueError(
                f"argument `{player}_scheduler` needs `total_iterations`, or a trainer with `max_steps`, got -1"
            )
        scheduler.total_iterations = iterations
    return [scheduler]


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen."""
    return [p for p in network.parameters() if p.requires_grad]
