"""How fast the two players move, beside each other."""

import math
from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks.loggers import log_picture
from pcgan_lightning.callbacks.monitors._figures import balance_figure
from pcgan_lightning.callbacks.monitors._steps import StepMonitor, named_gradients
from pcgan_lightning.callbacks.targets import Target
from pcgan_lightning.spectra import original_parameters


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
        series: ``{"iteration": [...], "gradient_ratio": [...], "players": {player: {"iteration": [...],
            "relative_speed": [...], "relative_step": [...], "gradient": [...]}}}``, one entry a measurement.

    Raises:
        ValueError: for an interval below 1; before training, for a target that no optimizer trains.
    """

    def __init__(self, every_n_steps: int = 100, targets: Sequence[Target] = ("generator", "discriminator")) -> None:
        super().__init__(every_n_steps, targets)
        self.series |= {"iteration": [], "gradient_ratio": []}
        self._before: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def before(self, player: str, network: nn.Module) -> None:
        """Remember the parameters."""
        self._before[player] = {name: p.detach().clone() for name, p in original_parameters(network).items()}

    @torch.no_grad()
    def look(self, player: str, network: nn.Module, optimizer: Optimizer) -> Tensor:
        """Return the relative speed, the relative step and the sum of the gradients' norms."""
        named, before = named_gradients(network), self._before.pop(player)
        parameters, weights = [p.detach() for p in named.values()], [before[name] for name in named]
        rate_of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        norms = torch.stack(torch._foreach_norm([p.grad for p in named.values()]))
        rates = torch.tensor([rate_of.get(p, 0.0) for p in named.values()], dtype=norms.dtype, device=norms.device)
        size = _joint_norm(weights)
        speed = torch.linalg.vector_norm(norms * rates) / size
        step = _joint_norm(torch._foreach_sub(parameters, weights)) / size
        return torch.stack([speed, step, norms.sum()])

    def record(self, iteration: int, seen: Mapping[str, Tensor]) -> dict[str, float]:
        """Extend the players' series, and the ratio once all have been seen."""
        metrics = {}
        for player, values in seen.items():
            found = dict(zip(("relative_speed", "relative_step", "gradient"), values.tolist(), strict=True))
            entry = self.series["players"].setdefault(player, {})
            for key, value in ({"iteration": iteration} | found).items():
                entry.setdefault(key, []).append(value)
            metrics |= {f"balance/{player}/{key}": value for key, value in found.items()}
        gradients = [entry["gradient"] for entry in self.series["players"].values()]
        if len(gradients) == len(self.targets):
            ratio = sum(g[-1] / g[0] if g[0] else math.nan for g in gradients)
            self.series["iteration"].append(iteration)
            self.series["gradient_ratio"].append(ratio)
            metrics["balance/gradient_ratio"] = ratio
        return metrics

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Draw the figure."""
        if self.series["iteration"]:
            log_picture(trainer, "balance", "balance.png", balance_figure(self.series))


def _joint_norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
