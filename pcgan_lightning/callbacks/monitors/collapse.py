"""Warnings of a game that has ended before its time."""

import inspect
import logging
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.callbacks.loggers import log_scalars
from pcgan_lightning.callbacks.targets import Target, check_interval, completed_iterations, resolve_target
from pcgan_lightning.networks import evaluation_mode
from pcgan_lightning.spectra import modified_condition_number

_log = logging.getLogger(__name__)


class CollapseMonitor(Callback):
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
        deviation_bound: default: 0.01, hardly more than one of the 256 levels of an 8-bit image in [-1, 1].
        condition_every_n_steps: iterations between measurements of condition numbers, which take as long as an
            iteration. Default: 1000.
        condition_bound: default: 100. In Table 1 of "Precondition layer and its use for GANs", the run that failed has
            a largest one of 114, no other has more than 23.
        target: whose condition numbers: the dotted name of a network in the LightningModule, or a function of it.

    Raises:
        ValueError: for arguments out of range; at setup, for a target that is missing.
    """

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
        if patience < 1:
            raise ValueError(f"argument `patience` must be at least 1, got {patience}")
        if count < 2:
            raise ValueError(f"argument `count` must be at least 2, got {count}")
        for name, bound in (("loss_bound", loss_bound), ("deviation_bound", deviation_bound)):
            if bound < 0:
                raise ValueError(f"argument `{name}` must not be negative, got {bound}")
        if condition_every_n_steps < 1:
            raise ValueError(f"argument `condition_every_n_steps` must be at least 1, got {condition_every_n_steps}")
        if condition_bound < 1:
            raise ValueError(f"argument `condition_bound` must be at least 1, as every one is, got {condition_bound}")
        self.every_n_steps = check_interval(every_n_steps)
        self.patience = patience
        self.loss = loss
        self.loss_bound = loss_bound
        self.count = count
        self.deviation_bound = deviation_bound
        self.condition_every_n_steps = condition_every_n_steps
        self.condition_bound = condition_bound
        self.target = target
        self._bad_in_a_row: dict[str, int] = {}

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a wrong target before anything runs."""
        resolve_target(pl_module, self.target)

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at the intervals."""
        if not trainer.is_global_zero:
            return
        iteration = completed_iterations(trainer)
        if iteration % self.every_n_steps == 0:
            self._look_at_loss(trainer)
            self._look_at_samples(trainer, pl_module)
        if iteration % self.condition_every_n_steps == 0:
            self._look_at_conditions(trainer, pl_module)

    def _look_at_loss(self, trainer: "pl.Trainer") -> None:
        loss = trainer.callback_metrics.get(self.loss)
        if loss is not None and self._begins("loss", abs(float(loss)) <= self.loss_bound, self.patience):
            self._warn(
                trainer,
                f"{self.loss} has been at 0 (up to {self.loss_bound:g}) for {self.patience} measurements: the "
                "discriminator has nothing left to learn, nor to teach the generator",
            )

    def _look_at_samples(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        deviation = self.sample_deviation(pl_module)
        if deviation is None:
            return
        log_scalars(trainer, {"collapse/sample_deviation": deviation})
        if self._begins("samples", deviation < self.deviation_bound, self.patience):
            self._warn(
                trainer,
                f"samples of {self.count} latents have not differed for {self.patience} measurements: their standard "
                f"deviation is {deviation:.3g}, below {self.deviation_bound:g}",
            )

    def _look_at_conditions(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        try:
            found = modified_condition_number(resolve_target(pl_module, self.target))
        except ValueError:  # weights that are not finite: a guard's business, and no condition
            return
        conditions = dict(zip(found, torch.stack([v.double() for v in found.values()]).tolist(), strict=True))
        new = [n for n, v in conditions.items() if self._begins(f"condition/{n}", v > self.condition_bound, 1)]
        if new:
            layers = ", ".join(f"{name} ({conditions[name]:.4g})" for name in new)
            self._warn(trainer, f"modified condition numbers are past {self.condition_bound:g}: {layers}")

    @torch.no_grad()
    def sample_deviation(self, pl_module: "pl.LightningModule") -> Optional[float]:
        """Return the samples' standard deviation over latents, averaged over pixels; None if there are no samples."""
        sample = getattr(pl_module, "sample_images", None)
        if sample is None or not hasattr(pl_module, "fixed_latents"):
            return None
        itself = {"averaged": False} if "averaged" in inspect.signature(sample).parameters else {}
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        # Modules of others may draw numbers, or change their mode.
        with torch.random.fork_rng(devices), evaluation_mode(pl_module):
            samples = sample(pl_module.fixed_latents(self.count), **itself)
        return samples.float().std(dim=0).mean().item()

    def _begins(self, what: str, bad: bool, patience: int) -> bool:
        """Count bad measurements in a row; return whether this one opens an episode."""
        self._bad_in_a_row[what] = self._bad_in_a_row.get(what, 0) + 1 if bad else 0
        return self._bad_in_a_row[what] == patience

    def _warn(self, trainer: "pl.Trainer", message: str) -> None:
        _log.warning("iteration %d: %s", completed_iterations(trainer), message)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of bad measurements in a row."""
        return {"bad_in_a_row": dict(self._bad_in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's counts."""
        self._bad_in_a_row = dict(state_dict["bad_in_a_row"])
