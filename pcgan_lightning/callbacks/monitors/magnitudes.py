"""Adam's magnitude per layer over a run, and from it constant step sizes for nSGDA."""

import json
import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from pcgan_lightning.callbacks.loggers import run_folder
from pcgan_lightning.callbacks.monitors._steps import StepMonitor, named_gradients
from pcgan_lightning.callbacks.targets import connected
from pcgan_lightning.optim import AdaDir, AdaNSGDA, adam_oracle, layer_name
from pcgan_lightning.report import draw_line
from pcgan_lightning.runs import write_whole


class AdaptiveMagnitudeLogger(StepMonitor):
    r"""Log :math:`\|A\|` of each layer, A Adam's oracle, over a run with Adam, AdaNSGDA or AdaDir.

    "Dissecting adaptive methods in GANs", Figures 2b, 2c and 5b. In the first iteration and in every
    `every_n_steps`-th one, at a player's last update:

    - ``magnitude/<player>/<layer>`` to the loggers;
    - at the end ``magnitudes/<player>.png``, each layer's ratio to its first value;
    - at the end ``layer_scales/<player>.json``, each layer's mean over the run, which
      ``NSGDA(layer_scales=FILE)`` takes as the constants of its layers (Section 4, StyleGAN2).

    Args:
        every_n_steps: iterations (training batches) between measurements.
        targets: the players: dotted names in the LightningModule, or functions of it.

    Attributes:
        series: ``{"players": {player: {"iteration": [...], "layers": {layer: [...]}}}}``, one entry a measurement.

    Raises:
        ValueError: for an interval below 1; before training, for a target that no optimizer trains.
        TypeError: before training, for an optimizer that has no A.
    """

    @override
    def check(self, player: str, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, (Adam, AdaNSGDA, AdaDir)):
            raise TypeError(
                f"AdaptiveMagnitudeLogger needs Adam, AdaNSGDA or AdaDir, got {type(optimizer).__name__} for {player}"
            )

    @override
    @torch.no_grad()
    def look(self, player: str, network: nn.Module, optimizer: Optimizer) -> tuple[list[str], Tensor]:
        """Return the layers' names and norms of A."""
        return layer_magnitudes(optimizer, network)

    @override
    def record(self, iteration: int, found: Mapping[str, tuple[list[str], Tensor]]) -> dict[str, float]:
        """Extend the series and return the numbers to log; a layer without a gradient has NaN."""
        numbers: dict[str, float] = {}
        for player, (layers, norms) in found.items():
            series = self.series["players"].setdefault(player, {"iteration": [], "layers": {}})
            values = dict(zip(layers, norms.tolist(), strict=True))
            for layer in [*series["layers"], *(new for new in values if new not in series["layers"])]:
                earlier = series["layers"].setdefault(layer, [math.nan] * len(series["iteration"]))
                earlier.append(values.get(layer, math.nan))
            series["iteration"].append(iteration)
            numbers |= {f"magnitude/{player}/{layer}": value for layer, value in values.items()}
        return numbers

    @override
    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if trainer.is_global_zero and not connected(trainer).fast_dev_run:
            for player in self.series["players"]:
                path = run_folder(trainer) / "layer_scales" / f"{player}.json"
                write_whole(path, json.dumps(self.means(player), indent=2) + "\n")
        super().on_train_end(trainer, pl_module)

    @override
    def figures(self) -> dict[str, Figure]:
        return {f"magnitudes/{player}": _figure(**series) for player, series in self.series["players"].items()}

    def means(self, player: str) -> dict[str, float]:
        """Return each layer's mean over the run."""
        layers = self.series["players"][player]["layers"]
        known = {layer: [value for value in values if not math.isnan(value)] for layer, values in layers.items()}
        return {layer: sum(values) / len(values) for layer, values in known.items() if values}


def layer_magnitudes(optimizer: Optimizer, network: nn.Module) -> tuple[list[str], Tensor]:
    """Return the layers of a network and the norms ``[layers]`` of A on them, right after a step."""
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    squares: dict[str, list[Tensor]] = {}
    for name, parameter in named_gradients(network).items():
        if parameter in group_of:
            group, state = group_of[parameter], optimizer.state[parameter]
            kind: Any = getattr(optimizer, "oracle", "adam")
            (a,) = adam_oracle([parameter], [state], group["betas"], group["eps"], kind)
            squares.setdefault(layer_name(name), []).append(a.float().square().sum())
    return list(squares), torch.stack([torch.stack(parts).sum().sqrt() for parts in squares.values()])


def _figure(iteration: list[int], layers: dict[str, list[float]]) -> Figure:
    """Draw each layer's magnitude over its first value, as in Figures 2b and 5b of the paper."""
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axis = figure.subplots()
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(layers)))
    for (name, values), color in zip(layers.items(), colors, strict=True):
        first = next((v for v in values if v and not math.isnan(v)), math.nan)
        label = name or "(root)"
        draw_line(axis, (iteration, [v / first for v in values]), label, color=color, label=label, lw=1)
    axis.set(xlabel="iteration", ylabel="adaptive magnitude / its first value")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=7)
    return figure
