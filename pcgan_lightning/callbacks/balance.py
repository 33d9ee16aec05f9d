"""How fast the two players move, beside each other."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks._figures import balance_figure
from pcgan_lightning.callbacks._loggers import log_picture, log_scalars
from pcgan_lightning.callbacks._steps import DuringIterations, StepMonitor, named_gradients
from pcgan_lightning.callbacks._targets import Target, completed_iterations


class BalanceLogger(StepMonitor):
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
        super().__init__(every_n_steps, targets)
        self.series["gradient_ratio"] = []
        self._before: dict[str, list[Tensor]] = {}
        self._latest: dict[str, Tensor] = {}

    def listen(self, hooks: DuringIterations, player: str, network: nn.Module, optimizer: Optimizer) -> None:
        """Look before and after each step."""
        hooks.before_step(optimizer, lambda: self._remember(player, network))
        hooks.after_step(optimizer, lambda: self._look(player, optimizer, network))

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


def _joint_norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
