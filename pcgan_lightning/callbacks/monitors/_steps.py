"""A look at the steps of a player's optimizer, in anyone's training loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks.loggers import log_scalars
from pcgan_lightning.callbacks.targets import (
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


class StepMonitor(Callback):
    """Base of the callbacks that look at both players' steps and keep a series of what they see.

    A subclass defines :meth:`look`, perhaps :meth:`before`, and :meth:`record`. A player is looked at in the first
    iteration and in every `every_n_steps`-th; one that makes no step then, in the iteration of its next step.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        targets: the players: dotted names in the LightningModule, or functions of it.
    """

    def __init__(self, every_n_steps: int = 100, targets: Sequence[Target] = ("generator", "discriminator")) -> None:
        self.every_n_steps = check_interval(every_n_steps)
        self.targets = tuple(targets)
        self.series: dict[str, Any] = {"players": {}}
        self._hooks: list[Any] = []
        self._awaited: set[str] = set()
        self._seen: dict[str, Any] = {}

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a wrong target before anything runs."""
        players_of(pl_module, self.targets)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Listen to the optimizers' steps."""
        for name, network in players_of(pl_module, self.targets).items():
            self._listen(name, network, optimizer_of(trainer, name, network))

    def _listen(self, player: str, network: nn.Module, optimizer: Optimizer) -> None:
        self.check(player, optimizer)

        def before(*_: Any) -> None:
            if player in self._awaited:
                self.before(player, network)

        def after(*_: Any) -> None:
            if player in self._awaited and named_gradients(network):
                self._seen[player] = self.look(player, network, optimizer)

        self._hooks += [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def check(self, player: str, optimizer: Optimizer) -> None:
        """Refuse an optimizer that cannot be looked at."""

    def before(self, player: str, network: nn.Module) -> None:
        """Remember what the step will change; the gradients may not be known yet."""

    def look(self, player: str, network: nn.Module, optimizer: Optimizer) -> Any:
        """Return what is to be seen right after a step; of several in an iteration the last one counts."""
        raise NotImplementedError

    def record(self, iteration: int, seen: Mapping[str, Any]) -> dict[str, float]:
        """Extend the series by what was seen of some players, and return what to log."""
        raise NotImplementedError

    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Await a step of every player in the iterations that are to be looked at."""
        iteration = completed_iterations(trainer)
        if iteration == 1 or iteration % self.every_n_steps == 0:
            self._awaited = set(players_of(pl_module, self.targets))

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Extend the series by what was seen in this iteration."""
        if self._seen:
            seen, self._seen = self._seen, {}
            self._awaited -= seen.keys()
            log_scalars(trainer, self.record(completed_iterations(trainer), seen))

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Stop listening."""
        while self._hooks:
            self._hooks.pop().remove()
        self._awaited, self._seen = set(), {}

    def state_dict(self) -> dict[str, Any]:
        """Return the series measured so far, and the players whose next step is awaited."""
        return {"series": self.series, "awaited": sorted(self._awaited)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's series."""
        self.series = state_dict["series"]
        self._awaited = set(state_dict["awaited"])
