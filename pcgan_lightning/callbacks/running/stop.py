"""Signals that end a run: held until the iteration is whole, saved, and told in one line."""

import errno
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Optional, Union

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from pcgan_lightning.callbacks.running._endings import begin_next_epoch, run_ends, validation_follows
from pcgan_lightning.callbacks.targets import connected
from pcgan_lightning.runs import LAST_CHECKPOINT

log = logging.getLogger("lightning.pytorch")
INTERRUPTED = 130  # what shells give a command that Ctrl-C ended


class LostProcessError(ConnectionError):
    """Another process of the run has ended, without which this one can't go on."""


class StopOnSignal(Callback):
    """Let SIGTERM, SIGHUP, Ctrl-C and SLURM's requeue signal end a run in good order, and tell of lost processes.

    They are held until the iteration is over, with the validation that follows it; then ``last.ckpt`` is saved and the
    process exits, without the work that comes after a whole training. With several processes all stop at the same
    iteration, whichever got the signal. The exit status is 0 after SIGTERM and SIGHUP, which a terminal sends that is
    closed, and 130 after Ctrl-C; a second Ctrl-C interrupts at once. A signal in the last iteration lets the run come
    to its end. Where SIGHUP is ignored, as under ``nohup``, it stays so.

    The requeue signal, where Lightning runs under SLURM with automatic requeueing, makes Lightning save
    ``hpc_ckpt_<n>.ckpt`` and requeue the job, but at the iteration's end as well; the exit status is 0.

    It takes the place of Lightning's own handlers while the run trains, and works with any LightningModule. If an
    error ends the process that launched others, those are killed at once: they would wait for it, or fail in turn. If
    one of several processes is killed, the others end with a :class:`LostProcessError`, one line, in place of whatever
    the library says that they exchange messages by.

    Args:
        path: the checkpoint that is saved. None: ``checkpoints/last.ckpt`` in the trainer's ``default_root_dir``.
        advice: how to continue, for the end of the line that tells of the checkpoint.
    """

    def __init__(self, path: Optional[Union[str, Path]] = None, advice: str = "") -> None:
        self.path = path
        self.advice = advice
        self._received = 0
        self._requeue: Any = None  # Lightning's handler
        self._requeue_signal = 0
        self._stopped = False

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Come after all others, so that what they do in an iteration is done."""
        everything = connected(trainer)
        everything.callbacks = [c for c in everything.callbacks if c is not self] + [self]
        self._received, self._stopped = 0, False

    @override
    def on_sanity_check_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Take the place of Lightning's handlers."""
        self._take_over(trainer)

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Take the place of Lightning's handlers, and go on in the right epoch."""
        self._take_over(trainer)
        begin_next_epoch(trainer)

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal came and no validation follows."""
        received = self._agree(trainer)
        if received and not run_ends(trainer) and not validation_follows(trainer):
            self._stop(trainer, received)

    @override
    def on_validation_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            received = self._agree(trainer)
            if received and not run_ends(trainer):
                self._stop(trainer, received)

    @override
    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        """Kill the processes that this one launched.

        Raises:
            LostProcessError: in place of the exception, if it comes from the end of another process.
        """
        # By name, since `lightning.pytorch` and `pytorch_lightning` have one each.
        launcher: Any = trainer.strategy.launcher
        lost = trainer.world_size > 1 and is_lost_connection(exception)
        who = "another process"
        if type(launcher).__name__ == "_SubprocessScriptLauncher" and not self._stopped:
            who = _first_ended(launcher.procs) if lost else who
            launcher.kill(signal.SIGKILL)
            for process in launcher.procs:
                process.wait()
            # Lightning watches the list, and would kill this process before it has said why.
            launcher.procs.clear()
        if lost:
            said = f"{who} of this run has ended, which can't go on without it after iteration {trainer.global_step}"
            raise LostProcessError("; ".join(filter(None, (said, self.advice)))) from exception

    def _take_over(self, trainer: "pl.Trainer") -> None:
        """Hold the signals from now on; Lightning puts back what was there before the run when it ends."""
        if threading.current_thread() is not threading.main_thread():
            return
        connector = trainer._signal_connector
        if connector.received_sigterm:  # while Lightning's handlers were there
            connector.received_sigterm, self._received = False, signal.SIGTERM
        held: list[int] = [signal.SIGTERM, signal.SIGINT]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            held.append(signal.SIGHUP)
        environment: Any = trainer._accelerator_connector.cluster_environment
        if getattr(environment, "auto_requeue", False):  # SLURM's
            self._requeue, self._requeue_signal = connector._slurm_sigusr_handler_fn, int(environment.requeue_signal)
            held.append(self._requeue_signal)
        for signum in held:
            signal.signal(signum, self._hold)

    def _hold(self, signum: int, frame: Optional[FrameType]) -> None:
        if signum == self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signum

    def _agree(self, trainer: "pl.Trainer") -> int:
        """Return the signal that any process received, the same in all; 0 for none."""
        if trainer.world_size == 1:
            return self._received
        received = torch.tensor(int(self._received), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max"))

    def _stop(self, trainer: "pl.Trainer", received: int) -> NoReturn:
        if received == self._requeue_signal:
            self._requeue(received, None)
            remedy = "the job is requeued"
        elif connected(trainer).fast_dev_run:
            remedy = "nothing is saved by fast_dev_run"
        else:
            path = self.path or Path(trainer.default_root_dir) / LAST_CHECKPOINT
            trainer.save_checkpoint(path, weights_only=False)
            remedy = "; ".join(filter(None, (f"saved {path}", self.advice)))
        self._stopped = True
        if trainer.is_global_zero:
            log.info(f"stopped by {signal.Signals(received).name} at iteration {trainer.global_step}; {remedy}")
            if received == signal.SIGINT:
                raise SystemExit(INTERRUPTED)
        # The others end with 0, or Lightning would take them for failed and kill the first one.
        raise SIGTERMException


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error of a message to other processes says that one of them is gone."""
    # NCCL's have a class; gloo's are told by what the system, and gloo itself, call a connection without other end.
    said = ("Connection closed by peer", os.strerror(errno.ECONNRESET), os.strerror(errno.EPIPE))
    kinds = (torch.distributed.DistBackendError, torch.distributed.DistNetworkError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and any(text in str(error) for text in said))


def _first_ended(processes: Sequence["subprocess.Popen[bytes]"]) -> str:
    """Return which launched process has ended, and how; it may be a moment until the system tells."""
    for number, process in enumerate(processes, 1):
        with suppress(subprocess.TimeoutExpired):
            status = process.wait(timeout=1)
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            return f"process {number} ({how})"
    return "another process"
