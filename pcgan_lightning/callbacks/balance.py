"""How fast the two players move, beside each other."""

from collections.abc import Sequence
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks._figures import balance_figure
from pcgan_lightning.callbacks._loggers import log_picture, log_scalars
from pcgan_lightning.callbacks._steps import DuringIterations, named_gradients, optimizer_of, players_of
from pcgan_lightning.callbacks._targets import Target, check_interval, completed_iterations


class BalanceLogger(Callback):
    r"""Log the relative update speeds of both players, and the ratio of gradients to their initial ones.

    "Dissecting adaptive methods in GANs", Figures 1 and 3a. In the first iteration and in every `every_n_steps`-th one,
    at a player's last update, before its step:

    - ``balance/<player>/relative_speed``: :math:`\eta \|g\| / \|Y\|` with the learning rate :math:`\eta`, the
      gradient g and the parameters Y. For SGDA it is what the step changes; adaptive steps are longer or shorter;
    - ``balance/<player>/relative_step``: :math:`\|\Delta Y\| / \|Y\|`, what the step does change;
    - ``balance/<player>/gradient``: the sum of the norms of the parameters' gradients;
    - ``balance/gradient_ratio``: :math:`\sum_{players} \text{gradient}_t / \text{gradient}_0`, 2 at the start; it
      goes to 0 where training converges to a stationary point.

    At the end ``balance.png`` in the run folder and the loggers.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        targets: the players: dotted names in the LightningModule, or functions of it.

    Attributes:
        series: ``{"iteration": [...], "players": {player: {"relative_speed": [...], "relative_step": [...],
            "gradient": [...]}}, "gradient_ratio": [...]}``, one entry a measurement.

    Raises:
        ValueError: for an interval below 1; before training, for a target that no optimizer trains.
    """

    def __init__(self, every_n_steps: int = 100, targets: Sequence[Target] = ("generator", "discriminator")) -> None:
        self.every_n_steps = check_interval(every_n_steps)
        self.targets = tuple(targets)
        self.series: dict[str, Any] = {"iteration": [], "players": {}, "gradient_ratio": []}
        self._before: dict[str, list[Tensor]] = {}
        self._latest: dict[str, Tensor] = {}
        self._hooks: Optional[DuringIterations] = None

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a wrong target before anything runs."""
        players_of(pl_module, self.targets)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Listen to the optimizers' steps."""
        self._hooks = DuringIterations(trainer, self.every_n_steps)
        for name, network in players_of(pl_module, self.targets).items():
            optimizer = optimizer_of(trainer, name, network)
            self._hooks.before_step(optimizer, lambda n=name, net=network: self._remember(n, net))
            self._hooks.after_step(optimizer, lambda n=name, o=optimizer, net=network: self._look(n, o, net))

    @torch.no_grad()
    def _remember(self, player: str, network: nn.Module) -> None:
        self._before[player] = [p.detach().clone() for p in named_gradients(network).values()]

    @torch.no_grad()
    def _look(self, player: str, optimizer: Optimizer, network: nn.Module) -> None:
        parameters = [p.detach() for p in named_gradients(network).values()]
        before = self._before.pop(player)
        rate_of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        rates = [rate_of.get(p, 0.0) for p in named_gradients(network).values()]
        norms = torch.stack(torch._foreach_norm([p.grad for p in named_gradients(network).values()]))
        size = _joint_norm(before)
        speed = torch.linalg.vector_norm(norms * torch.tensor(rates).to(norms)) / size
        step = _joint_norm(torch._foreach_sub(parameters, before)) / size
        self._latest[player] = torch.stack([speed, step, norms.sum()])

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Extend the series by what was seen in this iteration."""
        if self._hooks is None or not self._hooks.is_due() or len(self._latest) < len(self.targets):
            return
        self.series["iteration"].append(completed_iterations(trainer))
        metrics, ratio = {}, 0.0
        for player, seen in self._latest.items():
            entry = self.series["players"].setdefault(player, {})
            for key, value in zip(("relative_speed", "relative_step", "gradient"), seen.tolist(), strict=True):
                entry.setdefault(key, []).append(value)
                metrics[f"balance/{player}/{key}"] = value
            first, now = entry["gradient"][0], entry["gradient"][-1]
            ratio += now / first if first else float("nan")
        self.series["gradient_ratio"].append(ratio)
        self._latest = {}
        log_scalars(trainer, metrics | {"balance/gradient_ratio": ratio})

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Draw the figure."""
        if self.series["iteration"]:
            log_picture(trainer, "balance", "balance.png", balance_figure(self.series))

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


def _joint_norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
