"""How far the power iteration of PC-layers is from the exact spectral norm: Figure 5 of PC-GAN."""

import math
from typing import Any

import lightning.pytorch as pl
from matplotlib.figure import Figure
from typing_extensions import override

from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.targets import Target
from pcgan_lightning.report import draw_line, layer_colors
from pcgan_lightning.spectra import original_weight, preconditioners

FITTED = 1.1  # the preconditioning polynomials are fitted to singular values of up to so much


Numbers = dict[str, dict[str, float]]


class SpectralNormLogger(Monitor):
    r"""Log the spectral norm that each PC-layer divides by, beside the exact one.

    PC-GAN, Figure 5. Before the first iteration, every `every_n_steps` iterations and after the last:

    - ``spectral_norm/<layer>/estimate``: :math:`u^\top W v` with the vectors of the power iteration, one for an update;
    - ``spectral_norm/<layer>/exact``: the largest singular value of W, or with ``norm="operator"`` the norm of the
      convolution on images;
    - ``spectral_norm/<layer>/ratio``: estimate over exact, which is at most 1 since u and v have unit length. What goes
      into the polynomial has its largest singular value at the ratio's reciprocal, and the polynomials are fitted up
      to 1.1, so for ratios from 0.91 on;
    - ``spectral_norm/lowest_ratio``: the lowest of all layers.

    At the end ``spectra/spectral_norms.png`` in the run folder and the loggers.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        target: the network: a dotted name in the LightningModule, or a function of it.

    Attributes:
        series: ``{"iteration": [...], "layers": {name: {"estimate": [...], "exact": [...], "ratio": [...]}}}``, one
            entry a measurement.

    Raises:
        ValueError: for an interval below 1; at the first measurement, for a network without PC-layers.
    """

    first = 0

    def __init__(self, every_n_steps: int = 100, target: Target = "discriminator") -> None:
        super().__init__(every_n_steps, [target])
        self.series["layers"] = {}

    @override
    def measure(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any
    ) -> dict[str, dict[str, float]]:
        ((target, network),) = self.networks(pl_module).items()
        found = {}
        for name, pc_layer in preconditioners(network).items():
            weight = original_weight(network.get_submodule(name))
            estimate = pc_layer.spectral_norm(pc_layer.matrices(weight)).item()
            exact = pc_layer.exact_norm(weight).item()
            found[name] = {"estimate": estimate, "exact": exact, "ratio": estimate / exact if exact else math.nan}
        if not found:
            raise ValueError(f"argument `target` must be a network with PC-layers, got {target!r}, which has none")
        return found

    @override
    def record(self, iteration: int, found: Numbers) -> dict[str, float]:
        self.series["iteration"].append(iteration)
        for name, row in found.items():
            entry = self.series["layers"].setdefault(name, {key: [] for key in row})
            for key, value in row.items():
                entry[key].append(value)
        numbers = {f"spectral_norm/{name}/{key}": value for name, row in found.items() for key, value in row.items()}
        return numbers | {"spectral_norm/lowest_ratio": min(row["ratio"] for row in found.values())}

    @override
    def figures(self) -> dict[str, Figure]:
        figure = Figure(figsize=(8.5, 4), layout="constrained")
        axis = figure.subplots()
        for name, color in layer_colors(list(self.series["layers"])).items():
            ratios = self.series["layers"][name]["ratio"]
            draw_line(axis, (self.series["iteration"], ratios), name, color=color, label=name)
        axis.axhline(1 / FITTED, color="black", linestyle=":", label=f"1/{FITTED}")
        axis.set(xlabel="iteration", ylabel="estimated over exact spectral norm")
        axis.grid(alpha=0.3)
        figure.legend(loc="outside right center", fontsize=8)
        return {"spectra/spectral_norms": figure}
