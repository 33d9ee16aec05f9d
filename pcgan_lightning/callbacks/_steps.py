"""A look at the steps of a player's optimizer, in anyone's training loop."""

from collections.abc import Callable, Sequence
from typing import Any, Optional

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks._targets import (
    Target,
    check_interval,
    completed_iterations,
    resolve_target,
    target_name,
)
from pcgan_lightning.spectra import original_parameters


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


class StepMonitor(Callback):
    """Base of the callbacks that look at both players' steps and keep a series of what they see.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        targets: the players: dotted names in the LightningModule, or functions of it.
    """

    def __init__(self, every_n_steps: int, targets: Sequence[Target]) -> None:
        self.every_n_steps = check_interval(every_n_steps)
        self.targets = tuple(targets)
        self.series: dict[str, Any] = {"iteration": [], "players": {}}
        self._hooks: Optional[DuringIterations] = None

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a wrong target before anything runs."""
        players_of(pl_module, self.targets)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Listen to the optimizers' steps."""
        self._hooks = DuringIterations(trainer, self.every_n_steps)
        for name, network in players_of(pl_module, self.targets).items():
            self.listen(self._hooks, name, network, optimizer_of(trainer, name, network))

    def listen(self, hooks: DuringIterations, player: str, network: nn.Module, optimizer: Optimizer) -> None:
        """Put the hooks on one player's optimizer."""
        raise NotImplementedError

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Stop listening."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def state_dict(self) -> dict[str, Any]:
        """Return the series measured so far."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's series."""
        self.series = state_dict["series"]
