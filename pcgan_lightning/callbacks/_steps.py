"""A look at the steps of a player's optimizer, in anyone's training loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks._targets import Target, completed_iterations, resolve_target, target_name
from pcgan_lightning.spectra import original_parameters

Players = Mapping[str, nn.Module]


def players_of(pl_module: "pl.LightningModule", targets: Sequence[Target]) -> dict[str, nn.Module]:
    """Return the networks of both players by name."""
    return {target_name(target): resolve_target(pl_module, target) for target in targets}


def optimizer_of(trainer: "pl.Trainer", name: str, network: nn.Module) -> Optimizer:
    """Return the optimizer that holds a network's parameters.

    Raises:
        ValueError: if there is none.
    """
    own = {id(p) for p in original_parameters(network).values()}
    for optimizer in trainer.optimizers:
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            return optimizer
    raise ValueError(f"argument `targets` must be networks that an optimizer trains, got {name!r}, which none does")


def named_gradients(network: nn.Module) -> dict[str, Tensor]:
    """Return the network's parameters that have a gradient, by the names they have without any PC-layer."""
    return {name: p for name, p in original_parameters(network).items() if p.grad is not None}


class DuringIterations:
    """Hooks on optimizers that are heard in chosen iterations only, and can be taken off.

    Args:
        trainer: whose iterations.
        every_n_steps: hear the first iteration and every so many.
    """

    def __init__(self, trainer: "pl.Trainer", every_n_steps: int) -> None:
        self.trainer = trainer
        self.every_n_steps = every_n_steps
        self.handles: list[Any] = []

    def is_due(self) -> bool:
        """Return whether the iteration that is going on, or has just ended, is one of the chosen."""
        number = completed_iterations(self.trainer)
        return number == 1 or number % self.every_n_steps == 0

    def before_step(self, optimizer: Optimizer, look: Callable[[], None]) -> None:
        """Call `look` before each of the optimizer's steps in a chosen iteration."""
        self.handles.append(optimizer.register_step_pre_hook(lambda *_: look() if self.is_due() else None))

    def after_step(self, optimizer: Optimizer, look: Callable[[], None]) -> None:
        """Call `look` after each of the optimizer's steps in a chosen iteration."""
        self.handles.append(optimizer.register_step_post_hook(lambda *_: look() if self.is_due() else None))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
