"""How callbacks find the network they work on, and the iteration they are at."""

from collections.abc import Callable
from typing import Any, Protocol, Union, cast

import lightning.pytorch as pl
from torch import nn

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.spectra import weight_layers

Target = Union[str, Callable[[nn.Module], nn.Module]]


def resolve_target(pl_module: nn.Module, target: Target) -> nn.Module:
    """Return the target of a callback inside a LightningModule.

    Args:
        pl_module: any LightningModule.
        target: dotted name of a submodule, or a function of the LightningModule.

    Raises:
        ValueError: if there is no such submodule, or it holds no weight matrix.
    """
    found = target(pl_module) if callable(target) else dict(pl_module.named_modules()).get(target)
    owner = type(pl_module).__name__
    if not isinstance(found, nn.Module):
        names = [name for name, _ in pl_module.named_children()]
        raise ValueError(f"argument `target` must name a submodule of {owner} (it has {names}), got {target!r}")
    if not weight_layers(found):
        raise ValueError(
            f"argument `target` must hold a Linear, Conv or ConvTranspose layer, got {target!r} of {owner}, "
            f"a {type(found).__name__} without any"
        )
    return found


def target_name(target: Target) -> str:
    """Return a target's name: its path, or the name of the function."""
    return target if isinstance(target, str) else getattr(target, "__qualname__", type(target).__qualname__)


def completed_iterations(trainer: "pl.Trainer") -> int:
    """Return the number of training batches so far, this one included; kept in Lightning's checkpoints.

    Counted in batches, because ``trainer.global_step`` counts every optimizer's steps in modules of others.
    """
    return trainer.fit_loop.total_batch_idx + 1


class Connected(Protocol):
    """What Lightning's connectors set on a trainer, where no type checker sees it.

    Attributes:
        callbacks: of the trainer, in their order.
        datamodule: None where there are loaders alone.
        fast_dev_run: number of batches of a trial, which leaves no files; false where it is none.
        log_every_n_steps: interval of logging.
    """

    callbacks: list[pl.Callback]
    datamodule: Any
    fast_dev_run: Union[int, bool]
    log_every_n_steps: int


def connected(trainer: "pl.Trainer") -> Connected:
    """Return the trainer itself, for what its connectors set."""
    return cast(Connected, trainer)


def check_interval(every_n_steps: int) -> int:
    """Return `every_n_steps` if it is a possible interval."""
    require_at_least(1, every_n_steps=every_n_steps)
    return every_n_steps
