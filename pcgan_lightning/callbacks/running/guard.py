"""A guard over everything in training that must stay finite."""

import copy
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.optimizer import Optimizer

from pcgan_lightning.callbacks.targets import check_interval, completed_iterations
from pcgan_lightning.runs import read_checkpoint
from pcgan_lightning.spectra import Preconditioner, original_parameters, original_weight, preconditioners

_log = logging.getLogger(__name__)

_NOWHERE = 2**62  # a position behind all others


class NonFiniteError(ValueError):
    """Something in training is NaN or infinite; the message names the first tensor that was."""


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
    epoch, and before any checkpoint is written. So no checkpoint holds a number that is not finite. For checkpoints
    of weights alone, of whose writing Lightning tells no callback, it is read in every iteration. With several
    processes all stop in the same iteration, with the same message, whichever had the number.

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
        if action not in ("stop", "restore"):
            raise ValueError(f"argument `action` must be 'stop' or 'restore', got {action!r}")
        if restores < 1:
            raise ValueError(f"argument `restores` must be at least 1, got {restores}")
        self.action = action
        self.every_n_steps = check_interval(every_n_steps)
        self.restores = restores
        self.restored = 0
        self._failure: Optional[NonFiniteError] = None
        self._measurements: list[tuple[str, Sequence[str], int, Tensor]] = []  # pattern, names, iteration, extremes

    # ------------------------------------------------------------------ what is looked at, and when

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Find the names of all tensors, when PC-layers and averages are in place."""
        self._failure = None
        self._measurements = []
        self._losses = 0
        self._scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        parameters = {name: p for name, p in original_parameters(pl_module).items() if not _exact(p)}
        self._names = {id(p): name for name, p in parameters.items()}
        self._layers = {
            n: (p, original_weight(pl_module.get_submodule(n))) for n, p in preconditioners(pl_module).items()
        }
        held = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
        normalized = {id(weight) for _, weight in self._layers.values()}
        self._weights = {name: p for name, p in parameters.items() if id(p) in held}
        self._plain_weights = {name: p for name, p in self._weights.items() if id(p) not in normalized}
        self._other_weights = {name: p for name, p in parameters.items() if id(p) not in held}
        vectors = {id(vector) for pc_layer, _ in self._layers.values() for vector in (pc_layer.u, pc_layer.v)}
        # The owner and its key, since modules may put a new tensor in a buffer's place. The singular vectors are looked
        # at by the norm that they make.
        self._buffers = [
            (f"{path}.{key}" if path else key, owner, key)
            for path, owner in pl_module.named_modules()
            for key, buffer in owner.named_buffers(recurse=False)
            if not _exact(buffer) and id(buffer) not in vectors
        ]
        others = (getattr(c, "every_n_steps", None) for c in trainer.callbacks)
        self._intervals = {n for n in others if isinstance(n, int)}
        if any(getattr(c, "save_weights_only", False) for c in _checkpoint_callbacks(trainer)):
            self._intervals = {1}

    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Count the losses of an iteration anew."""
        self._losses = 0

    def on_before_backward(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", loss: Tensor) -> None:
        """Look at a loss."""
        self._losses += 1
        if not self._scaled:
            self._measure(trainer, "loss {} of iteration {}", {str(self._losses): loss.detach()})

    def on_before_optimizer_step(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", optimizer: Optimizer
    ) -> None:
        """Look at the gradients that an optimizer is about to use."""
        if self._scaled:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = {
            self._names.get(id(p)) or f"the optimizer's parameter {number}": p.grad
            for number, p in enumerate(parameters)
            if p.grad is not None
        }
        self._measure(trainer, "gradient of {} at iteration {}", gradients)

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at what the steps made, and read the measurements at the interval."""
        norms, weights = self._norms(), self._weights
        # A norm that is finite was made of finite weights. Only a CPU can tell at once without being waited for.
        if norms is not None and norms.is_cpu and norms.isfinite().all():
            weights = self._plain_weights
        self._measure(trainer, "weight {} at iteration {}", weights)
        if norms is not None:
            self._keep(trainer, "singular value of layer {} at iteration {}", list(self._layers), norms)
        buffers = {
            name: buffer for name, owner, key in self._buffers if (buffer := owner._buffers.get(key)) is not None
        }
        self._measure(trainer, "buffer {} at iteration {}", buffers)
        iteration = completed_iterations(trainer)
        if any(iteration % interval == 0 for interval in self._intervals):
            self.check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Read the measurements, before anything takes the epoch, or the run, for finished."""
        self.check(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        """Read the measurements before anything is written; what was restored replaces what was to be saved."""
        if self._failure is not None:
            raise self._failure
        if self.check(trainer, pl_module):
            strategy, precision = trainer.strategy, trainer.precision_plugin
            checkpoint["state_dict"] = strategy.lightning_module_state_dict()
            checkpoint["optimizer_states"] = [strategy.optimizer_state(o) for o in trainer.optimizers]
            checkpoint["lr_schedulers"] = [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]
            checkpoint["callbacks"] = {c.state_key: s for c in trainer.callbacks if (s := c.state_dict())}
            if state := precision.state_dict():
                checkpoint[type(precision).__qualname__] = state

    @torch.no_grad()
    def _measure(self, trainer: "pl.Trainer", pattern: str, tensors: Mapping[str, Tensor]) -> None:
        tensors = {n: _real(t) if t.is_sparse or t.is_complex() else t for n, t in tensors.items()}
        tensors = {n: t for n, t in tensors.items() if t.numel()}
        if tensors:
            self._keep(trainer, pattern, list(tensors), extremes(list(tensors.values())))

    def _keep(self, trainer: "pl.Trainer", pattern: str, names: Sequence[str], values: Tensor) -> None:
        self._measurements.append((pattern, names, completed_iterations(trainer), values))

    @torch.no_grad()
    def _norms(self) -> Optional[Tensor]:
        """Return what the PC-layers divide by and its inverse, ``[2, n]``."""
        if not self._layers:
            return None
        norms = torch.stack([_norm_estimate(*layer) for layer in self._layers.values()])
        return torch.stack([norms, norms.reciprocal()])

    # ------------------------------------------------------------------ reading, and what follows

    def check(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> bool:
        """Read what was measured since the last time; return whether something was not finite and is restored.

        Raises:
            NonFiniteError: if something was not finite and is not to be restored, or cannot be.
        """
        found = self._first_not_finite(trainer)
        if found is None:
            return False
        path = _last_checkpoint(trainer)
        if self.action == "stop" or path is None or self.restored >= self.restores:
            self._failure = self._error(found, path)
            raise self._failure
        self._restore(trainer, pl_module, path)
        self.restored += 1
        if trainer.is_global_zero:
            _log.warning(
                "%s is not finite: back to %s, time %d of at most %d; data and iterations go on",
                *(found, path, self.restored, self.restores),
            )
        return True

    def _first_not_finite(self, trainer: "pl.Trainer") -> Optional[str]:
        if not self._measurements:
            return None
        self._measure(trainer, "weight {} by iteration {}", self._other_weights)
        measurements, self._measurements = self._measurements, []
        finite = torch.cat([values for *_, values in measurements], dim=1).isfinite().all(dim=0)
        # Of equal entries argmin returns the first.
        position = torch.where(finite.all(), _NOWHERE, finite.int().argmin())
        if trainer.world_size == 1:
            return _name(measurements, int(position))
        own = position.clone()
        first = trainer.strategy.reduce(position, reduce_op="min")
        if int(first) == _NOWHERE:
            return None
        owner = torch.where(own == first, trainer.global_rank, _NOWHERE)
        owner = int(trainer.strategy.reduce(owner, reduce_op="min"))
        name = _name(measurements, int(own))
        return trainer.strategy.broadcast(f"{name} (process {owner})", src=owner)

    def _error(self, found: str, path: Optional[Path]) -> NonFiniteError:
        stops = "training stops" + (f" after {self.restored} restores" if self.restored else "")
        if path is None:
            advice = "no checkpoint was written yet, begin again with smaller steps"
        else:
            advice = f"the last good checkpoint is {path}, continue from it (--ckpt_path last) with smaller steps"
            advice += "" if self.action == "restore" else " or --guard.action=restore"
        return NonFiniteError(f"{found} is not finite, {stops}: {advice}")

    def _restore(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", path: Path) -> None:
        content = read_checkpoint(path)
        trainer.strategy.load_model_state_dict(content, strict=pl_module.strict_loading)
        trainer.strategy.load_optimizer_state_dict(content)
        for config, state in zip(trainer.lr_scheduler_configs, content["lr_schedulers"], strict=True):
            config.scheduler.load_state_dict(state)
        precision = type(trainer.precision_plugin).__qualname__
        if precision in content:
            trainer.precision_plugin.load_state_dict(content[precision])
        saving = _checkpoint_callbacks(trainer)
        for callback in trainer.callbacks:
            # What checkpoints remember is the files that are there; they are there still.
            if callback is not self and callback not in saving:
                callback.on_load_checkpoint(trainer, pl_module, content)
                state = content.get("callbacks", {}).get(callback.state_key)
                if state:
                    callback.load_state_dict(copy.deepcopy(state))
        # An iteration that accumulates must not begin with them.
        pl_module.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return how often this run went back."""
        return {"restored": self.restored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's count."""
        self.restored = state_dict["restored"]


def extremes(tensors: Sequence[Tensor]) -> Tensor:
    """Return bounds of real tensors' entries, ``[2, n]``, both finite if and only if all entries of a tensor are.

    No entry is added to another, so that no finite ones can overflow.
    """
    if tensors[0].is_cuda:  # one kernel for all; on CPUs torch's infinity norm is the slowest way
        return torch.stack(torch._foreach_norm(tensors, ord=math.inf)).expand(2, -1)
    if len(tensors) == 1 and tensors[0].numel() == 1:  # a loss
        return tensors[0].clone().view(1, 1).expand(2, 1)
    pairs = [torch.aminmax(t) for t in tensors]
    return torch.stack([p.min for p in pairs] + [p.max for p in pairs]).view(2, -1)


def _exact(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are whole, and finite as such."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def _real(tensor: Tensor) -> Tensor:
    """Return the entries of a sparse or complex tensor as real ones; both parts must be finite."""
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _norm_estimate(pc_layer: Preconditioner, weight: Tensor) -> Tensor:
    """Return what a PC-layer divides by, the ordinary kind of matrix in half as many operations."""
    u, v, layout = pc_layer.u, pc_layer.v, pc_layer.layout
    if layout.groups == 1 and not layout.transposed and u.dtype == weight.dtype:
        return torch.dot(u[0], torch.mv(weight.flatten(1), v[0]))
    return pc_layer.spectral_norm(pc_layer.matrices(weight))


def _name(measurements: Iterable[tuple[str, Sequence[str], int, Tensor]], position: int) -> Optional[str]:
    """Return the name of the tensor at a position in the order of all measurements."""
    for pattern, names, iteration, _ in measurements:
        if position < len(names):
            return pattern.format(names[position], iteration)
        position -= len(names)
    return None


def _checkpoint_callbacks(trainer: "pl.Trainer") -> list[Any]:
    # By what they have, since `lightning.pytorch` and `pytorch_lightning` have a class each.
    return [callback for callback in trainer.callbacks if hasattr(callback, "best_model_path")]


def _last_checkpoint(trainer: "pl.Trainer") -> Optional[Path]:
    """Return the latest whole checkpoint that this run wrote or started from; every process gets the same."""
    paths = [trainer.ckpt_path]
    for callback in _checkpoint_callbacks(trainer):
        if not getattr(callback, "save_weights_only", False):
            keys = ("_last_checkpoint_saved", "last_model_path", "best_model_path")
            paths += [getattr(callback, key, None) for key in keys]
    files = {Path(path) for path in paths if path and Path(path).is_file()}
    return trainer.strategy.broadcast(max(files, key=lambda path: path.stat().st_mtime, default=None))
