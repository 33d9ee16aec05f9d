"""A look at the updates of a player's optimizer, in anyone's training loop."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.targets import Target, completed_iterations
from pcgan_lightning.games import PLAYERS
from pcgan_lightning.spectra import original_parameters


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


class StepMonitor(Monitor):
    """Base of the monitors that look at both players' updates, right when an optimizer makes them.

    A subclass defines :meth:`look`, perhaps :meth:`before`, and ``record``, which gets what was seen of some players.
    A player is looked at in the first iteration and in every `every_n_steps`-th; one that is not updated then, in the
    iteration of its next update.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        targets: the players: dotted names in the LightningModule, or functions of it.
    """

    first = 1
    at_end = False

    def __init__(self, every_n_steps: int = 100, targets: Sequence[Target] = PLAYERS) -> None:
        super().__init__(every_n_steps, targets)
        self.series = {"players": {}}
        self._hooks: list[Any] = []
        self._awaited: set[str] = set()
        self._seen: dict[str, Any] = {}

    def check(self, player: str, optimizer: Optimizer) -> None:
        """Refuse an optimizer that cannot be looked at."""

    def before(self, player: str, network: nn.Module) -> None:
        """Remember what the update will change; the gradients may not be known yet."""

    def look(self, player: str, network: nn.Module, optimizer: Optimizer) -> Any:
        """Return what is to be seen right after an update; of several in an iteration the last one counts."""
        raise NotImplementedError

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        for name, network in self.networks(pl_module).items():
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

    @override
    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        if self.due(completed_iterations(trainer)):
            self._awaited = set(self.networks(pl_module))

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._seen:
            seen, self._seen = self._seen, {}
            self._awaited -= seen.keys()
            self.take_up(trainer, seen)

    @override
    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        self._awaited, self._seen = set(), {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"awaited": sorted(self._awaited)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._awaited = set(state_dict["awaited"])
