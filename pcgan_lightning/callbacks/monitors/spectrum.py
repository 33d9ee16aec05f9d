"""The spectrum of a network over training: numbers to the loggers, Figures 1 and 2 of PC-GAN to the run folder."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import nn

from pcgan_lightning.callbacks.loggers import log_picture, log_scalars, log_table
from pcgan_lightning.callbacks.monitors._figures import condition_number_figure, singular_value_figure
from pcgan_lightning.callbacks.targets import Target, check_interval, completed_iterations, resolve_target, target_name
from pcgan_lightning.spectra import modified_condition_number, preconditioners, singular_values

TABLE_COLUMNS = ("layer", "degree", "sigma_max", "sigma_min", "condition_before", "condition_after")


def summarize_conditions(conditions: list[float]) -> dict[str, float]:
    """Return ``max``, ``second_max`` and ``mean`` over layers, as in Table 1; a single layer is its own second."""
    if not conditions:
        return {}
    ordered = sorted(conditions, reverse=True)
    return {"max": ordered[0], "second_max": ordered[:2][-1], "mean": sum(ordered) / len(ordered)}


class SpectrumLogger(Callback):
    r"""Log singular values and modified condition numbers of a network's weights.

    Before the first iteration, every `every_n_steps` iterations and after the last, exact and for all layers:

    - ``singular_value/<layer>/smallest_<i>`` and ``largest_<i>``, i = 1..k, of the effective weight;
    - ``condition/<layer>/before`` and ``/after``: :math:`\tilde\kappa` of SN(W) and of g(SN(W));
    - ``condition/max``, ``condition/second_max``, ``condition/mean``: over layers, after the polynomial (Table 1);
    - a table with one row a layer (W&B, TensorBoard).

    At the end: ``spectra/singular_values.png`` (Figure 1) and ``spectra/condition_numbers.png`` (Figure 2) in the run
    folder and the loggers. Works on layers with a PC-layer, with torch's spectral norm, or plain. The series live in
    the callback's state, so the pictures of a resumed run are whole.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        k: number of smallest and of largest singular values kept for each layer, at most all it has.
        target: the network: a dotted name in the LightningModule, or a function of it.
        prefix: put before every logged name and picture, e.g. ``"generator/"``, to tell two of these apart.

    Attributes:
        series: ``{"iteration": [...], "layers": {name: {"smallest": [[...]], "largest": [[...]], "before": [...],
            "after": [...]}}}``, one entry a measurement.
    """

    def __init__(
        self, every_n_steps: int = 1000, k: int = 5, target: Target = "discriminator", prefix: str = ""
    ) -> None:
        if k < 1:
            raise ValueError(f"argument `k` must be at least 1, got {k}")
        self.every_n_steps = check_interval(every_n_steps)
        self.k = k
        self.target = target
        self.prefix = prefix
        self.series: dict[str, Any] = {"iteration": [], "layers": {}}

    @property
    def state_key(self) -> str:
        """Tells the states of two loggers with different targets apart."""
        return self._generate_state_key(target=target_name(self.target))

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a wrong target before anything runs."""
        resolve_target(pl_module, self.target)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Measure the initial weights of a fresh run."""
        if not self.series["iteration"]:
            self.measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at the interval."""
        if completed_iterations(trainer) % self.every_n_steps == 0:
            self.measure(trainer, pl_module)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Measure the final weights and draw the two pictures."""
        series = self.series
        if series["iteration"][-1:] != [completed_iterations(trainer)]:
            self.measure(trainer, pl_module)
            # A run that is continued later must not remember where it happened to stop.
            self.series = _without_last(series)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            for key, draw in (
                ("singular_values", singular_value_figure),
                ("condition_numbers", condition_number_figure),
            ):
                log_picture(trainer, f"{self.prefix}spectra/{key}", f"{self.prefix}spectra/{key}.png", draw(series))

    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Measure now, extend the series and write them to the loggers."""
        rows = measure_layers(resolve_target(pl_module, self.target), self.k)
        self.series["iteration"].append(completed_iterations(trainer))
        metrics = {}
        for name, row in rows.items():
            entry = self.series["layers"].setdefault(name, {"smallest": [], "largest": [], "before": [], "after": []})
            for key, values in entry.items():
                values.append(row[key])
            for end in ("smallest", "largest"):
                metrics |= {f"singular_value/{name}/{end}_{i}": v for i, v in enumerate(row[end], start=1)}
            metrics |= {f"condition/{name}/{stage}": row[stage] for stage in ("before", "after")}
        metrics |= {f"condition/{key}": value for key, value in self.latest_summary.items()}
        log_scalars(trainer, {self.prefix + key: value for key, value in metrics.items()})
        log_table(
            trainer,
            f"{self.prefix}spectra/layers",
            TABLE_COLUMNS,
            [
                (name, row["degree"], row["largest"][0], row["smallest"][0], row["before"], row["after"])
                for name, row in rows.items()
            ],
        )

    @property
    def latest_summary(self) -> dict[str, float]:
        """``max``, ``second_max`` and ``mean`` of the latest remembered measurement; empty before the first."""
        return summarize_conditions([entry["after"][-1] for entry in self.series["layers"].values()])

    def state_dict(self) -> dict[str, Any]:
        """Return the series measured so far."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's series."""
        self.series = state_dict["series"]


def _without_last(series: dict[str, Any]) -> dict[str, Any]:
    layers = {n: {key: values[:-1] for key, values in e.items()} for n, e in series["layers"].items()}
    return {"iteration": series["iteration"][:-1], "layers": layers}


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
    after = {n: p.polynomial(before[n]).abs().sort(descending=True).values for n, p in pc_layers.items()}
    rows = {}
    for name, values in before.items():
        effective = after.get(name, values)
        rows[name] = {
            "smallest": effective.flip(0)[:k].tolist(),
            "largest": effective[:k].tolist(),
            "before": modified_condition_number(values).item(),
            "after": modified_condition_number(effective).item(),
            "degree": pc_layers[name].polynomial.degree if name in pc_layers else 0,
        }
    return rows
