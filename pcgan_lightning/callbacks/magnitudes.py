"""Adam's magnitude per layer over a run, and from it constant step sizes for nSGDA."""

import json
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks._figures import magnitude_figure
from pcgan_lightning.callbacks._loggers import log_picture, log_scalars, run_folder
from pcgan_lightning.callbacks._steps import DuringIterations, StepMonitor, named_gradients
from pcgan_lightning.callbacks._targets import Target, completed_iterations
from pcgan_lightning.optim import AdaDir, AdaNSGDA
from pcgan_lightning.optim.blocks import layer_name
from pcgan_lightning.optim.normalized import adam_oracle


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
        series: ``{"iteration": [...], "players": {player: {layer: [...]}}}``, one entry a measurement.

    Raises:
        ValueError: for an interval below 1; before training, for a target that no optimizer trains.
        TypeError: before training, for an optimizer that has no A.
    """

    def __init__(self, every_n_steps: int = 100, targets: Sequence[Target] = ("generator", "discriminator")) -> None:
        super().__init__(every_n_steps, targets)
        self._latest: dict[str, tuple[list[str], Tensor]] = {}

    def listen(self, hooks: DuringIterations, player: str, network: nn.Module, optimizer: Optimizer) -> None:
        """Look after each step of an optimizer that has an A."""
        if not isinstance(optimizer, (Adam, AdaNSGDA, AdaDir)):
            raise TypeError(
                f"AdaptiveMagnitudeLogger needs Adam, AdaNSGDA or AdaDir, got {type(optimizer).__name__} for {player}"
            )
        hooks.after_step(optimizer, lambda: self._look(player, optimizer, network))

    @torch.no_grad()
    def _look(self, player: str, optimizer: Optimizer, network: nn.Module) -> None:
        self._latest[player] = layer_magnitudes(optimizer, network)

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Extend the series by what was seen in this iteration."""
        if self._hooks is None or not self._hooks.is_due() or not self._latest:
            return
        self.series["iteration"].append(completed_iterations(trainer))
        metrics = {}
        for player, (layers, values) in self._latest.items():
            for layer, value in zip(layers, values.tolist(), strict=True):
                self.series["players"].setdefault(player, {}).setdefault(layer, []).append(value)
                metrics[f"magnitude/{player}/{layer}"] = value
        self._latest = {}
        log_scalars(trainer, metrics)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Draw the figures and save the means."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            for player, layers in self.series["players"].items():
                picture = magnitude_figure(self.series["iteration"], layers)
                log_picture(trainer, f"magnitudes/{player}", f"magnitudes/{player}.png", picture)
                path = run_folder(trainer) / "layer_scales" / f"{player}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(self.means(player), indent=2) + "\n")

    def means(self, player: str) -> dict[str, float]:
        """Return each layer's mean over the run."""
        return {layer: sum(values) / len(values) for layer, values in self.series["players"][player].items()}


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
