"""What comes after a training batch, as the callbacks that save checkpoints have to know."""

from typing import Any

import lightning.pytorch as pl


def validation_follows(trainer: "pl.Trainer") -> bool:
    """Return, from ``on_train_batch_end``, whether validation images are looked at before the next batch."""
    loop = trainer.fit_loop.epoch_loop
    fetcher: Any = trainer.fit_loop._data_fetcher  # within an epoch there is one
    if not loop._should_check_val_fx(fetcher):
        return False
    loop.val_loop.setup_data()  # does nothing where it was done
    return not loop.val_loop.skip


def run_ends(trainer: "pl.Trainer", in_epoch: bool = True) -> bool:
    """Return whether the run ends with this iteration.

    Args:
        trainer: the trainer.
        in_epoch: whether the hook that asks comes before the end of the epoch.
    """
    loop = trainer.fit_loop
    tracker: Any = loop.epoch_progress.current  # of a kind that has `processed`
    epochs = tracker.processed + int(in_epoch and loop.epoch_loop._num_ready_batches_reached())
    return (
        0 < trainer.max_steps <= trainer.global_step
        or 0 < (loop.max_epochs or 0) <= epochs
        or (trainer.should_stop and loop._can_stop_early)
    )


def begin_next_epoch(trainer: "pl.Trainer") -> None:
    """Let Lightning begin an epoch, from ``on_train_start`` of a run resumed at the last batch of the one before.

    It ends the former epoch by itself, but takes the next for one that had begun: its counts would be too small, and
    the run too long when it is resumed a second time.
    """
    loop = trainer.fit_loop
    in_last_batch = loop.epoch_loop.restarted_on_train_batch_end and loop.epoch_loop.batch_progress.is_last_batch
    if in_last_batch and loop.restarted_mid_epoch:
        loop.reset_restart_stage()
