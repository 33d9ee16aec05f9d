"""Warnings of a game that has ended before its time."""

import inspect
import logging
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least, require_not_negative
from pcgan_lightning.callbacks.monitors.monitor import Monitor, can_sample
from pcgan_lightning.callbacks.targets import Target, completed_iterations, resolve_target
from pcgan_lightning.spectra import modified_condition_number

log = logging.getLogger(__name__)


class CollapseMonitor(Monitor):
    r"""Warn, in one line, when the discriminator has won, samples do not differ, or a spectrum has collapsed.

    Once an episode: again only after the number was on the good side in between. The counts live in the checkpoint, so
    that a resumed run warns as one that was never interrupted. Nothing of the training changes, and only the first
    process measures.

    - The discriminator's loss stays at 0 for `patience` measurements: it tells real from generated images without
      effort, and the generator's gradients vanish (or, for losses of differences, it says the same of all images).
    - Generated samples do not vary for `patience` measurements: their standard deviation over fixed latents, averaged
      over pixels. It is logged as ``collapse/sample_deviation``. It is of the generator itself, since a slow moving
      average begins with the hardly varying images of initial weights; for modules with ``fixed_latents`` and
      ``sample_images``, as those of this package.
    - A layer's modified condition number, of the weight after its polynomial, is past a bound.

    Args:
        every_n_steps: iterations (training batches) between measurements of loss and samples. Default: 100, at which
            they take less than a thousandth of the time.
        patience: measurements in a row after which to warn. Default: 5, so 500 iterations: before, even healthy
            generators vary little, and a loss may well be 0 for a moment.
        loss: what the discriminator's loss is logged as, with several processes that of the first. Nothing happens
            where there is none of this name.
        loss_bound: absolute value up to which the loss is at 0. Default: 1e-3; the hinge loss becomes 0 exactly, the
            others never do.
        count: how many samples, at least 2.
        deviation_bound: standard deviation up to which samples do not differ. Default: 0.01, hardly more than one of
            the 256 levels of an 8-bit image in [-1, 1].
        condition_every_n_steps: iterations between measurements of condition numbers, which take as long as an
            iteration. Default: 1000.
        condition_bound: modified condition number from which a spectrum has collapsed. Default: 100. In Table 1 of
            "Precondition layer and its use for GANs", the run that failed has a largest one of 114, no other has more
            than 23.
        target: the network whose condition numbers are measured: its dotted name in the LightningModule, or a function
            of it.

    Raises:
        ValueError: for arguments out of range; at setup, for a target that is missing.
    """

    at_end = False
    first_process_alone = True

    def __init__(
        self,
        every_n_steps: int = 100,
        patience: int = 5,
        loss: str = "loss/discriminator",
        loss_bound: float = 1e-3,
        count: int = 16,
        deviation_bound: float = 0.01,
        condition_every_n_steps: int = 1000,
        condition_bound: float = 100.0,
        target: Target = "discriminator",
    ) -> None:
        super().__init__(every_n_steps, [target])
        require_at_least(1, patience=patience, condition_every_n_steps=condition_every_n_steps)
        require_at_least(2, count=count)
        require_not_negative(loss_bound=loss_bound, deviation_bound=deviation_bound)
        if condition_bound < 1:
            raise ValueError(f"argument `condition_bound` must be at least 1, as every one is, got {condition_bound}")
        self.patience = patience
        self.loss = loss
        self.loss_bound = loss_bound
        self.count = count
        self.deviation_bound = deviation_bound
        self.condition_every_n_steps = condition_every_n_steps
        self.condition_bound = condition_bound
        self.target = target
        self._bad_in_a_row: dict[str, int] = {}

    @override
    def due(self, iteration: int) -> bool:
        return super().due(iteration) or (iteration > 0 and iteration % self.condition_every_n_steps == 0)

    @override
    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> dict[str, float]:
        iteration, deviation, warnings = completed_iterations(trainer), None, []
        if iteration % self.every_n_steps == 0:
            warnings += self._look_at_loss(trainer.callback_metrics.get(self.loss))
            deviation = self.sample_deviation(pl_module)
            warnings += self._look_at_samples(deviation)
        if iteration % self.condition_every_n_steps == 0:
            warnings += self._look_at_conditions(resolve_target(pl_module, self.target))
        for warning in warnings:
            log.warning("iteration %d: %s", iteration, warning)
        return {} if deviation is None else {"collapse/sample_deviation": deviation}

    @override
    def record(self, iteration: int, found: dict[str, float]) -> dict[str, float]:
        return found  # no series: what is remembered is how often in a row a measurement was bad

    def sample_deviation(self, pl_module: "pl.LightningModule") -> Optional[float]:
        """Return the samples' standard deviation over latents, averaged over pixels; None if there are no samples."""
        if not can_sample(pl_module):
            return None
        sampler: Any = pl_module
        averaged = "averaged" in inspect.signature(sampler.sample_images).parameters
        options = {"averaged": False} if averaged else {}
        samples = sampler.sample_images(sampler.fixed_latents(self.count), **options)
        return samples.float().std(dim=0).mean().item()

    def _look_at_loss(self, loss: Optional[Tensor]) -> list[str]:
        if loss is None or not self._begins("loss", abs(float(loss)) <= self.loss_bound, self.patience):
            return []
        return [
            f"{self.loss} has been at 0 (up to {self.loss_bound:g}) for {self.patience} measurements: the "
            "discriminator has nothing left to learn, nor to teach the generator"
        ]

    def _look_at_samples(self, deviation: Optional[float]) -> list[str]:
        if deviation is None or not self._begins("samples", deviation < self.deviation_bound, self.patience):
            return []
        return [
            f"samples of {self.count} latents have not differed for {self.patience} measurements: their standard "
            f"deviation is {deviation:.3g}, below {self.deviation_bound:g}"
        ]

    def _look_at_conditions(self, network: nn.Module) -> list[str]:
        try:
            found = modified_condition_number(network)
        except ValueError:  # weights that are not finite: a guard's business, and no condition
            return []
        conditions = dict(zip(found, torch.stack([v.double() for v in found.values()]).tolist(), strict=True))
        new = [n for n, v in conditions.items() if self._begins(f"condition/{n}", v > self.condition_bound, 1)]
        layers = ", ".join(f"{name} ({conditions[name]:.4g})" for name in new)
        return [f"modified condition numbers are past {self.condition_bound:g}: {layers}"] if new else []

    def _begins(self, what: str, bad: bool, patience: int) -> bool:
        """Count bad measurements in a row; return whether this one opens an episode."""
        self._bad_in_a_row[what] = self._bad_in_a_row.get(what, 0) + 1 if bad else 0
        return self._bad_in_a_row[what] == patience

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"bad_in_a_row": dict(self._bad_in_a_row)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._bad_in_a_row = dict(state_dict["bad_in_a_row"])
