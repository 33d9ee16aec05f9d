"""Compilation, memory order and matrix precision for an accelerator, without changes to the networks."""

from collections.abc import Sequence
from typing import Any, Literal, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from pcgan_lightning.callbacks.targets import Target, resolve_target

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Acceleration(Callback):
    """Compile the networks, and order their memory as an accelerator's convolutions like it.

    The modules stay the same objects with the same parameters, so that checkpoints, averages and PC-layers do not
    notice. A PC-layer is compiled with its network; a new polynomial compiles it anew, once for each combination of
    degrees. Combine with ``Trainer(precision="bf16-mixed")``: singular vectors and polynomials stay in float32.

    Args:
        compile_mode: of ``torch.compile``; ``"reduce-overhead"`` records CUDA graphs. None: do not compile.
        backend: of ``torch.compile``.
        channels_last: whether convolutions of images run in the order [N, H, W, C].
        matmul_precision: of float32 products, for ``torch.set_float32_matmul_precision``; "high" lets them use
            TensorFloat-32, "highest" does not.
        targets: the networks: dotted names in the LightningModule, or functions of it.

    Raises:
        ValueError: at setup, for a target that is missing, or compilation with a gradient penalty, ConOpt or JARE.
    """

    def __init__(
        self,
        compile_mode: Optional[CompileMode] = "default",
        backend: str = "inductor",
        channels_last: bool = True,
        matmul_precision: Literal["highest", "high", "medium"] = "high",
        targets: Sequence[Target] = ("generator", "discriminator"),
    ) -> None:
        self.compile_mode = compile_mode
        self.backend = backend
        self.channels_last = channels_last
        self.matmul_precision = matmul_precision
        self.targets = tuple(targets)
        self._former_precision: Optional[str] = None
        self._hooks: list[RemovableHandle] = []

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a wrong target before anything runs."""
        for target in self.targets:
            resolve_target(pl_module, target)
        method, penalty = getattr(pl_module, "method", None), getattr(pl_module, "penalty", None)
        twice = penalty if penalty is not None else method if getattr(method, "twice_differentiated", False) else None
        if self.compile_mode is not None and twice is not None:
            raise ValueError(
                f"argument `compile_mode` must be None with {type(twice).__name__}, which needs second derivatives "
                f"that compiled networks lack, got {self.compile_mode!r}"
            )

    @override
    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Order and compile, when all PC-layers are on and a checkpoint is loaded."""
        self._former_precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.matmul_precision)
        for network in (resolve_target(pl_module, target) for target in self.targets):
            if self.channels_last:
                network.to(memory_format=torch.channels_last)
                self._hooks.append(network.register_forward_pre_hook(_channels_last))
            if self.compile_mode is not None:
                _allow_recompilation()
                mode = {} if self.compile_mode == "default" else {"mode": self.compile_mode}
                network.compile(backend=self.backend, **mode)

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Order a resumed optimizer's state like its weights: fused optimizers go by memory, not by index."""
        for optimizer in trainer.optimizers:
            for weight, state in optimizer.state.items():
                state.update({key: _ordered_like(weight, value) for key, value in state.items()})

    @override
    def on_save_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        """Save the optimizers' states in the usual order, for runs without this callback."""
        for saved in checkpoint["optimizer_states"]:
            saved["state"] = {
                number: {key: v.contiguous() if isinstance(v, Tensor) else v for key, v in state.items()}
                for number, state in saved["state"].items()
            }

    @override
    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Give back torch's precision of products, and leave the networks' inputs alone."""
        if self._former_precision is not None:
            torch.set_float32_matmul_precision(self._former_precision)
            self._former_precision = None
        while self._hooks:
            self._hooks.pop().remove()

    @override
    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Let CUDA graphs reuse the last iteration's memory."""
        if self.compile_mode is not None:
            torch.compiler.cudagraph_mark_step_begin()


def _channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # The weights alone do not decide the order: those of PC-layers are made anew, in the usual one.
    return tuple(
        x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.dim() == 4 else x for x in inputs
    )


def _ordered_like(weight: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != weight.shape or value.stride() == weight.stride():
        return value
    return torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _allow_recompilation() -> None:
    """Let APC switch often: past torch's limit of 8, a network would silently run uncompiled."""
    config = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # its names in newer and older torch
        if hasattr(config, name):
            setattr(config, name, max(256, getattr(config, name)))
