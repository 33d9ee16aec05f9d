"""The spectrum of a network over training: numbers to the loggers, Figures 1 and 2 of PC-GAN to the run folder."""

import math
from collections.abc import Sequence
from typing import Any, Optional

import lightning.pytorch as pl
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least, require_one_of
from pcgan_lightning.callbacks.loggers import log_table
from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.targets import Target, resolve_target, target_name
from pcgan_lightning.report import draw_condition_numbers, draw_singular_values
from pcgan_lightning.spectra import (
    View,
    convolution_norm_bound,
    convolution_operators,
    modified_condition_number,
    original_weight,
    preconditioners,
    singular_values,
    weight_layers,
)

TABLE_COLUMNS = ("layer", "degree", "sigma_max", "sigma_min", "condition_before", "condition_after")


def summarize_conditions(conditions: list[float]) -> dict[str, float]:
    """Return ``max``, ``second_max`` and ``mean`` over layers, as in Table 1; a single layer is its own second."""
    if not conditions:
        return {}
    ordered = sorted(conditions, reverse=True)
    return {"max": ordered[0], "second_max": ordered[:2][-1], "mean": sum(ordered) / len(ordered)}


class SpectrumLogger(Monitor):
    r"""Log singular values and modified condition numbers of a network's weights.

    Before the first iteration, every `every_n_steps` iterations and after the last, exact and for all layers:

    - ``singular_value/<layer>/smallest_<i>`` and ``largest_<i>``, i = 1..k, of the effective weight;
    - ``condition/<layer>/before`` and ``/after``: :math:`\tilde\kappa` of SN(W) and of g(SN(W));
    - ``condition/max``, ``condition/second_max``, ``condition/mean``: over layers, after the polynomial (Table 1);
    - a table with one row a layer (W&B, TensorBoard).

    With ``view="operator"``, for each convolution as it acts on images (see
    :func:`~pcgan_lightning.spectra.singular_values`), besides:

    - ``operator/<layer>/norm``, ``norm_ratio``, ``norm_bound`` and ``condition``: the norm of the effective weight's
      operator, that over the norm of the reshaped weight, the certified bound, and :math:`\tilde\kappa`.

    At the end: ``spectra/singular_values.png`` (Figure 1) and ``spectra/condition_numbers.png`` (Figure 2) in the run
    folder and the loggers; with ``view="operator"`` also ``spectra/operator_norms.png``, both views. Works on layers
    with a PC-layer, with torch's spectral norm, or plain. The series live in the callback's state, so the pictures of a
    resumed run are whole.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        k: number of smallest and of largest singular values kept for each layer, at most all it has.
        target: the network: a dotted name in the LightningModule, or a function of it.
        prefix: put before every logged name and picture, e.g. ``"generator/"``, to tell two of these apart.
        view: ``"matrix"``, weights as matrices alone, or ``"operator"``, convolutions as operators as well.
        input_shape: for ``view="operator"``, the shape of one input of the target, e.g. ``(3, 32, 32)``.

    Attributes:
        series: ``{"iteration": [...], "layers": {name: {"smallest": [[...]], "largest": [[...]], "before": [...],
            "after": [...]}}}``, one entry a measurement; with ``view="operator"`` also ``"operators"``, of which each
            layer has the numbers above.

    Raises:
        ValueError: for arguments out of range; at the first measurement, for a shape that the target cannot take.
    """

    first = 0

    def __init__(
        self,
        every_n_steps: int = 1000,
        k: int = 5,
        target: Target = "discriminator",
        prefix: str = "",
        view: View = "matrix",
        input_shape: Optional[Sequence[int]] = None,
    ) -> None:
        super().__init__(every_n_steps, [target])
        require_at_least(1, k=k)
        require_one_of(("matrix", "operator"), view=view)
        if view == "operator" and input_shape is None:
            raise ValueError("argument `input_shape` must be given for view='operator', e.g. (3, 32, 32), got None")
        self.view = view
        self.input_shape = input_shape
        self.k = k
        self.target = target
        self.prefix = prefix
        self.series["layers"] = {}
        if view == "operator":
            self.series["operators"] = {}

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(target=target_name(self.target))

    @override
    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> dict[str, dict[str, Any]]:
        network = resolve_target(pl_module, self.target)
        found = measure_layers(network, self.k)
        if self.view == "operator":
            assert self.input_shape is not None  # the constructor has looked
            for name, row in measure_operators(network, self.input_shape).items():
                found[name]["operator"] = row
        return found

    @override
    def record(self, iteration: int, found: dict[str, dict[str, Any]]) -> dict[str, float]:
        self.series["iteration"].append(iteration)
        numbers: dict[str, float] = {}
        for name, row in found.items():
            entry = self.series["layers"].setdefault(name, {"smallest": [], "largest": [], "before": [], "after": []})
            for key, values in entry.items():
                values.append(row[key])
            for end in ("smallest", "largest"):
                numbers |= {f"singular_value/{name}/{end}_{i}": v for i, v in enumerate(row[end], start=1)}
            numbers |= {f"condition/{name}/{stage}": row[stage] for stage in ("before", "after")}
            for key, value in row.get("operator", {}).items():
                self.series["operators"].setdefault(name, {}).setdefault(key, []).append(value)
                numbers[f"operator/{name}/{key}"] = value
        return numbers | {f"condition/{key}": value for key, value in self.latest_summary.items()}

    @override
    def show(self, trainer: "pl.Trainer", found: dict[str, dict[str, Any]]) -> None:
        rows = [
            (name, row["degree"], row["largest"][0], row["smallest"][0], row["before"], row["after"])
            for name, row in found.items()
        ]
        log_table(trainer, f"{self.prefix}spectra/layers", TABLE_COLUMNS, rows)

    @override
    def figures(self) -> dict[str, Figure]:
        iterations, layers = np.array(self.series["iteration"]), self.series["layers"]
        smallest = {
            name: {f"smallest {i}": (iterations, v) for i, v in enumerate(np.array(entry["smallest"]).T, start=1)}
            for name, entry in layers.items()
        }
        conditions = {
            name: {stage: (iterations, np.array(entry[stage])) for stage in ("before", "after")}
            for name, entry in layers.items()
        }
        across = min(4, len(layers))
        rows = math.ceil(len(layers) / across)
        first = Figure(figsize=(3.2 * across, 2.2 * rows + 0.5), layout="constrained")
        draw_singular_values(list(first.subplots(rows, across, sharex=True, sharey=True, squeeze=False).flat), smallest)
        largest = [values[0] for entry in layers.values() for values in entry["largest"]]
        extent = f"(largest: {min(largest):.2g} to {max(largest):.2g})"
        first.suptitle(f"The smallest singular values of each layer's effective weight {extent}")
        first.supxlabel("iteration")
        second = Figure(figsize=(8.5, 4.5), layout="constrained")
        axis = second.subplots()
        draw_condition_numbers(axis, conditions)
        axis.set(xlabel="iteration", ylabel="modified condition number")
        axis.set_title("Effective weights (solid), before the polynomial (dotted)")
        axis.grid(alpha=0.3)
        second.legend(loc="outside right center", fontsize=8)
        figures = {"spectra/singular_values": first, "spectra/condition_numbers": second}
        if self.series.get("operators"):
            figures["spectra/operator_norms"] = self._norms()
        return figures

    def _norms(self) -> Figure:
        """Draw the norm of each convolution as an operator, its bound, and that of the reshaped weight."""
        iterations, operators = self.series["iteration"], self.series["operators"]
        figure = Figure(figsize=(8.5, 4.5), layout="constrained")
        axis = figure.subplots()
        for number, (name, entry) in enumerate(operators.items()):
            norms = np.array(entry["norm"])
            lines = {"-": norms, "--": np.array(entry["norm_bound"]), ":": norms / np.array(entry["norm_ratio"])}
            for style, values in lines.items():
                marker = "o" if len(iterations) < 3 else ""
                label = name if style == "-" else None
                axis.plot(iterations, values, style, color=f"C{number % 10}", label=label, marker=marker)
        axis.set(xlabel="iteration", ylabel="norm")
        axis.set_title("As operators (solid), certified bounds (dashed), reshaped (dotted)")
        axis.grid(alpha=0.3)
        figure.legend(loc="outside right center", fontsize=8)
        return figure

    @property
    def latest_summary(self) -> dict[str, float]:
        """``max``, ``second_max`` and ``mean`` of the latest measurement; empty before the first."""
        return summarize_conditions([entry["after"][-1] for entry in self.series["layers"].values()])


def measure_layers(network: nn.Module, k: int) -> dict[str, dict[str, Any]]:
    r"""Measure every layer of a network.

    Args:
        network: any network with weight matrices.
        k: how many singular values to keep from each end.

    Returns:
        For each layer ``smallest`` (ascending) and ``largest`` (descending) effective singular values,
        :math:`\tilde\kappa` ``before`` and ``after`` the polynomial, and the ``degree`` (0: no PC-layer).
    """
    pc_layers = preconditioners(network)
    before = singular_values(network, after_polynomial=False)
    layers, rows = weight_layers(network), {}
    for name, values in before.items():
        pc_layer = pc_layers.get(name)
        effective = values if pc_layer is None else pc_layer.effective_values(values, original_weight(layers[name]))
        rows[name] = {
            "smallest": effective.flip(0)[:k].tolist(),
            "largest": effective[:k].tolist(),
            "before": modified_condition_number(values).item(),
            "after": modified_condition_number(effective).item(),
            "degree": 0 if pc_layer is None else pc_layer.polynomial.degree,
        }
    return rows


def measure_operators(network: nn.Module, input_shape: Sequence[int]) -> dict[str, dict[str, float]]:
    """Measure every convolution of a network as an operator.

    Args:
        network: any network.
        input_shape: of one input, without the batch.

    Returns:
        For each convolution ``norm``, ``norm_ratio`` to that of the reshaped weight, the certified ``norm_bound`` and
        the modified ``condition`` number, of the effective weight.
    """
    operators = convolution_operators(network, input_shape)
    matrices, values = singular_values(network), singular_values(network, view="operator", input_shape=input_shape)
    rows = {}
    for name, operator in operators.items():
        norm, weight = values[name][0].item(), network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        rows[name] = {
            "norm": norm,
            "norm_ratio": norm / matrices[name][0].item(),
            "norm_bound": convolution_norm_bound(weight, operator).item(),
            "condition": modified_condition_number(values[name]).item(),
        }
    return rows
