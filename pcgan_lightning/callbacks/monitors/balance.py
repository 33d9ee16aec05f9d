"""How fast the two players move, beside each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Union

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from pcgan_lightning.callbacks.monitors._steps import StepMonitor, named_gradients
from pcgan_lightning.callbacks.targets import Target
from pcgan_lightning.games import PLAYERS
from pcgan_lightning.report import draw_line
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

    def __init__(self, every_n_steps: int = 100, targets: Sequence[Target] = PLAYERS) -> None:
        super().__init__(every_n_steps, targets)
        self.series |= {"iteration": [], "gradient_ratio": []}
        self._before: dict[str, dict[str, Tensor]] = {}

    @override
    @torch.no_grad()
    def before(self, player: str, network: nn.Module) -> None:
        self._before[player] = {name: p.detach().clone() for name, p in original_parameters(network).items()}

    @override
    @torch.no_grad()
    def look(self, player: str, network: nn.Module, optimizer: Optimizer) -> Tensor:
        """Return the relative speed, the relative step and the sum of the gradients' norms."""
        named, before = named_gradients(network), self._before.pop(player)
        parameters, weights = [p.detach() for p in named.values()], [before[name] for name in named]
        rate_of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        norms = torch.stack(torch._foreach_norm([p.grad for p in named.values() if p.grad is not None]))
        rates = torch.tensor([rate_of.get(p, 0.0) for p in named.values()], dtype=norms.dtype, device=norms.device)
        size = _joint_norm(weights)
        speed = torch.linalg.vector_norm(norms * rates) / size
        step = _joint_norm(torch._foreach_sub(parameters, weights)) / size
        return torch.stack([speed, step, norms.sum()])

    @override
    def record(self, iteration: int, found: Mapping[str, Tensor]) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for player, values in found.items():
            named = dict(zip(("relative_speed", "relative_step", "gradient"), values.tolist(), strict=True))
            entry = self.series["players"].setdefault(player, {})
            for key, value in ({"iteration": iteration} | named).items():
                entry.setdefault(key, []).append(value)
            numbers |= {f"balance/{player}/{key}": value for key, value in named.items()}
        gradients = [entry["gradient"] for entry in self.series["players"].values()]
        if len(gradients) == len(self.targets):
            ratio = sum(g[-1] / g[0] if g[0] else math.nan for g in gradients)
            self.series["iteration"].append(iteration)
            self.series["gradient_ratio"].append(ratio)
            numbers["balance/gradient_ratio"] = ratio
        return numbers

    @override
    def figures(self) -> dict[str, Figure]:
        if not self.series["iteration"]:
            return {}
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        axes = figure.subplots(1, 3)
        titles = {"relative_speed": "step size * gradient / weights", "relative_step": "step / weights"}
        for axis, (key, title) in zip(axes, titles.items(), strict=False):
            for player, entry in self.series["players"].items():
                draw_line(axis, (entry["iteration"], entry[key]), player, label=player)
            axis.set_title(title, fontsize=10)
            axis.set_yscale("log")
            axis.legend(fontsize=8)
        draw_line(axes[2], (self.series["iteration"], self.series["gradient_ratio"]), "ratio", color="black")
        axes[2].set_title("gradients / their first values, summed", fontsize=10)
        for axis in axes:
            axis.set_xlabel("iteration")
            axis.grid(alpha=0.3)
        return {"balance": figure}


def _joint_norm(tensors: Union[list[Tensor], tuple[Tensor, ...]]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
