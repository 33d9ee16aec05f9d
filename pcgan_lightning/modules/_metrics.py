"""Where the metrics of an iteration go."""

from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from torch import Tensor

from pcgan_lightning.modules._processes import mean_over_processes


def publish(trainer: "pl.Trainer", metrics: Mapping[str, Tensor]) -> None:
    """Give an iteration's metrics to callbacks, a progress bar that is drawn now, and the loggers at their interval.

    To the first two as ``LightningModule.log`` would, without its bookkeeping. To the loggers at once, with this
    iteration's number, not after the iteration as Lightning would have it: a checkpoint of this iteration must not be
    ahead of them, or a run that is killed then goes on with a gap.

    Args:
        trainer: of a running fit.
        metrics: scalars, weighed by this process's share.
    """
    iteration = trainer.global_step
    trainer.callback_metrics.update({name: value.detach() for name, value in metrics.items()})
    losses = {name: value for name, value in metrics.items() if name.startswith("loss/")}
    if losses and _bar_is_due(trainer):
        shown = torch.stack([*losses.values()]).tolist()
        trainer.progress_bar_metrics.update(zip(losses, shown, strict=True))
    interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it later
    if interval and iteration % interval == 0:
        (means,) = mean_over_processes(trainer, [torch.stack(list(metrics.values()))])
        values = dict(zip(metrics, means.tolist(), strict=True))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=iteration)


def _bar_is_due(trainer: "pl.Trainer") -> bool:
    """Return whether a progress bar may show this iteration's losses, for which the device would be waited for."""
    bar = trainer.progress_bar_callback
    if bar is None:
        return False
    last = trainer.global_step == trainer.max_steps or trainer.should_stop
    return last or trainer.global_step % getattr(bar, "refresh_every_n_steps", 1) == 0
