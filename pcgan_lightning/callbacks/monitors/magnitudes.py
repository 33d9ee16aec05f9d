"""Adam's magnitude per layer over a run, and from it constant step sizes for nSGDA."""

import json
import math
from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks.loggers import log_picture, run_folder
from pcgan_lightning.callbacks.monitors._figures import magnitude_figure
from pcgan_lightning.callbacks.monitors._steps import StepMonitor, named_gradients
from pcgan_lightning.optim import AdaDir, AdaNSGDA, adam_oracle, layer_name


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

    def check(self, player: str, optimizer: Optimizer) -> None:
        """Refuse an optimizer that has no A."""
        if not isinstance(optimizer, (Adam, AdaNSGDA, AdaDir)):
            raise TypeError(
                f"AdaptiveMagnitudeLogger needs Adam, AdaNSGDA or AdaDir, got {type(optimizer).__name__} for {player}"
            )

    @torch.no_grad()
    def look(self, player: str, network: nn.Module, optimizer: Optimizer) -> tuple[list[str], Tensor]:
        """Return the layers' names and norms of A."""
        return layer_magnitudes(optimizer, network)

    def record(self, iteration: int, seen: Mapping[str, tuple[list[str], Tensor]]) -> dict[str, float]:
        """Extend the series; a layer without a gradient has NaN."""
        metrics = {}
        for player, (layers, norms) in seen.items():
            series = self.series["players"].setdefault(player, {"iteration": [], "layers": {}})
            values = dict(zip(layers, norms.tolist(), strict=True))
            for layer in [*series["layers"], *(values.keys() - series["layers"].keys())]:
                earlier = series["layers"].setdefault(layer, [math.nan] * len(series["iteration"]))
                earlier.append(values.get(layer, math.nan))
            series["iteration"].append(iteration)
            metrics |= {f"magnitude/{player}/{layer}": value for layer, value in values.items()}
        return metrics

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Save the means and draw the figures."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            for player, series in self.series["players"].items():
                path = run_folder(trainer) / "layer_scales" / f"{player}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(self.means(player), indent=2) + "\n")
                picture = magnitude_figure(series["iteration"], series["layers"])
                log_picture(trainer, f"magnitudes/{player}", f"magnitudes/{player}.png", picture)

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
            kind = getattr(optimizer, "oracle", "adam")
            (a,) = adam_oracle([parameter], [state], group["betas"], group["eps"], kind)
            squares.setdefault(layer_name(name), []).append(a.float().square().sum())
    return list(squares), torch.stack([torch.stack(parts).sum().sqrt() for parts in squares.values()])
