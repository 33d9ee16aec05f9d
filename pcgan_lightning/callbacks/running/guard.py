"""A guard over everything in training that must stay finite."""

import logging
from pathlib import Path
from typing import Any, Literal, Optional

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least, require_one_of
from pcgan_lightning.callbacks.running.ledger import Ledger
from pcgan_lightning.callbacks.running.restore import (
    checkpoint_callbacks,
    latest_checkpoint,
    restore_state,
    update_checkpoint,
)
from pcgan_lightning.callbacks.running.watched import WatchedTensors
from pcgan_lightning.callbacks.targets import completed_iterations, connected

_log = logging.getLogger(__name__)


class NonFiniteError(ValueError):
    """Something in training is NaN or infinite; the message names the first tensor that was.

    Attributes:
        checkpoint: the last good one, None if there is none yet.
    """

    def __init__(self, message: str, checkpoint: Optional[Path] = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


class NonFiniteGuard(Callback):
    r"""Stop, or go back to the last good checkpoint, when a number of the training is NaN or infinite.

    Looked at in every iteration, in the order in which they come about: every loss that is backpropagated, the
    gradients before every optimizer step; after the steps, their weights, the norms :math:`u^\top W v` that PC-layers
    divide by (an inverse that is infinite counts as well), and floating-point buffers. The first that was not finite
    is named, such as ``gradient of discriminator.conv1.weight at iteration 17``. The extremes of a tensor decide, not
    a sum or norm of it, which for large finite values may overflow. Weights that no optimizer holds, averages of others
    or constant, are looked at only when the measurements are read.

    Nothing waits for an accelerator in between: what was measured stays on the device, and is read every
    `every_n_steps` iterations, in those in which another callback measures (its ``every_n_steps``), at the end of an
    epoch, and before any checkpoint is written. What a checkpoint is about to hold is looked at as well: the module's
    ``state_dict``, and the states and learning rates of the optimizers, which a gradient whose square overflows makes
    infinite while the weights stay finite. So no checkpoint holds any of these that is not finite. (The states of
    callbacks may: the best score of a ``ModelCheckpoint`` begins at infinity.) For checkpoints of weights alone, of
    whose writing Lightning tells no callback, it is read in every iteration. With several processes all stop in the
    same iteration, with the same message, whichever had the number.

    Works with manual and automatic optimization. Under a loss scale (``precision="16-mixed"``), gradients may be
    infinite by design and their step is left out; so losses and gradients are not looked at then, only the rest. Put
    it before callbacks that refuse what is not finite.

    Args:
        action: "stop" raises :class:`NonFiniteError`, which names the tensor and the last checkpoint. "restore" brings
            networks, optimizers, averages, schedulers and the states of callbacks back to the last checkpoint that this
            run wrote or started from, with a warning. Data, latents, whatever else a module keeps by its
            ``on_save_checkpoint``, and the count of iterations go on, so that the same numbers do not come again, and
            no logged iteration twice.
        every_n_steps: iterations (training batches) between readings. Default: 50, as Lightning reads what it logs.
        restores: how often a run, resumed ones included, goes back before it stops; at least 1.

    Raises:
        ValueError: for arguments out of range.
        NonFiniteError: in training, to stop it.
    """

    def __init__(self, action: Literal["stop", "restore"] = "stop", every_n_steps: int = 50, restores: int = 3) -> None:
        require_one_of(("stop", "restore"), action=action)
        require_at_least(1, every_n_steps=every_n_steps, restores=restores)
        self.action = action
        self.every_n_steps = every_n_steps
        self.restores = restores
        self.restored = 0
        self._failure: Optional[NonFiniteError] = None
        self._ledger = Ledger()
        self._watched: WatchedTensors = None  # type: ignore[assignment]  # made at the start of training
        self._losses = 0  # of this iteration
        self._looks_at_gradients = True
        self._intervals: set[int] = set()  # of all callbacks, in iterations

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        # Now PC-layers and averages are in place.
        self._watched = WatchedTensors(pl_module, trainer.optimizers)
        self._failure = None
        self._ledger = Ledger()
        self._losses = 0
        self._looks_at_gradients = getattr(trainer.precision_plugin, "scaler", None) is None
        intervals = (getattr(callback, "every_n_steps", None) for callback in connected(trainer).callbacks)
        self._intervals = {n for n in intervals if isinstance(n, int)}
        if any(getattr(callback, "save_weights_only", False) for callback in checkpoint_callbacks(trainer)):
            self._intervals = {1}

    @override
    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        self._losses = 0

    @override
    def on_before_backward(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", loss: Tensor) -> None:
        self._losses += 1
        if self._looks_at_gradients:
            losses = {str(self._losses): loss.detach()}
            self._ledger.measure("loss {} of iteration {}", losses, completed_iterations(trainer))

    @override
    def on_before_optimizer_step(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", optimizer: Optimizer
    ) -> None:
        if self._looks_at_gradients:
            gradients = self._watched.gradients(optimizer)
            self._ledger.measure("gradient of {} at iteration {}", gradients, completed_iterations(trainer))

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        iteration, watched = completed_iterations(trainer), self._watched
        norms = watched.norms()
        self._ledger.measure("weight {} at iteration {}", watched.weights_beside(norms), iteration)
        if norms is not None:
            self._ledger.keep("singular value of layer {} at iteration {}", watched.layers, norms, iteration)
        self._ledger.measure("buffer {} at iteration {}", watched.buffers(), iteration)
        if any(iteration % interval == 0 for interval in self._intervals):
            self.check(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        # Before anything takes the epoch, or the run, for finished.
        self.check(trainer, pl_module)

    @override
    def on_save_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        if self._failure is not None:
            raise self._failure
        if self.check(trainer, pl_module):
            update_checkpoint(trainer, checkpoint)
        if self._watched is None:
            return
        saved = self._watched.saved(checkpoint, trainer.strategy.root_device)
        self._ledger.measure("saved {} at iteration {}", saved, completed_iterations(trainer))
        if self.check(trainer, pl_module):
            update_checkpoint(trainer, checkpoint)

    def check(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> bool:
        """Read what was measured since the last time; return whether something was not finite and is restored.

        Raises:
            NonFiniteError: if something was not finite and is not to be restored, or cannot be.
        """
        if not self._ledger:
            return False
        others = self._watched.other_weights
        self._ledger.measure("weight {} by iteration {}", others, completed_iterations(trainer))
        found = self._ledger.close(trainer)
        if found is None:
            return False
        path = latest_checkpoint(trainer)
        if self.action == "stop" or path is None or self.restored >= self.restores:
            self._failure = self._error(found, path)
            raise self._failure
        restore_state(trainer, pl_module, path, self)
        self.restored += 1
        if trainer.is_global_zero:
            _log.warning(
                "%s is not finite: back to %s, time %d of at most %d; data and iterations go on",
                *(found, path, self.restored, self.restores),
            )
        return True

    def _error(self, found: str, path: Optional[Path]) -> NonFiniteError:
        stops = "training stops" + (f" after {self.restored} restores" if self.restored else "")
        if path is None:
            advice = "no checkpoint was written yet, begin again with smaller steps"
        else:
            advice = f"the last good checkpoint is {path}, continue from it with smaller steps"
            advice += "" if self.action == "restore" else " or with the guard's action 'restore'"
        return NonFiniteError(f"{found} is not finite, {stops}: {advice}", path)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"restored": self.restored}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict["restored"]
