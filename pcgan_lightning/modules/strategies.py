"""Which of Lightning's strategies train exactly; all others are refused before training, by what they do."""

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl

_RULE = "argument `strategy` of the trainer must be 'auto' or 'ddp', with which each process keeps"


def check_whole_networks(trainer: "pl.Trainer") -> None:
    """Refuse a strategy that divides networks among processes, as FSDP, DeepSpeed and tensor parallelism do.

    Raises:
        ValueError: naming it.
    """
    strategy = trainer.strategy
    # What has to take a module apart loads a checkpoint only after that.
    if strategy.restore_checkpoint_after_setup or not _is_a(strategy, "SingleDeviceStrategy", "DDPStrategy"):
        raise ValueError(f"{_RULE} the whole networks, got {type(strategy).__name__}, which may divide them")


def check_strategy(trainer: "pl.Trainer") -> None:
    """Refuse a strategy with which the process that called ``fit`` does not have the whole trained networks.

    Besides those that divide networks, these are for a fit the strategies whose processes are forked or spawned from
    the calling one (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``). What those have trained stays with them, but for
    weights whose names the calling process knows, among which are no PC-layers and no averages.

    Raises:
        ValueError: naming it.
    """
    check_whole_networks(trainer)
    launcher = trainer.strategy.launcher
    if _is_a(launcher, "_MultiProcessingLauncher") and trainer.state.fn in (None, "fit"):  # None: not begun yet
        how = getattr(launcher, "_start_method", "function")
        raise ValueError(f"{_RULE} what it has trained, got one that starts processes by {how!r}, which take it along")


def check_plain_ddp(trainer: "pl.Trainer") -> None:
    """Refuse what changes how ``ddp`` exchanges gradients: the games do that by themselves, and it would do nothing.

    Raises:
        ValueError: naming it.
    """
    strategy = trainer.strategy
    names = ("ddp_comm_hook", "ddp_comm_state", "ddp_comm_wrapper")
    found = {name: getattr(strategy, f"_{name}", None) for name in names}
    found["static_graph"] = getattr(strategy, "_ddp_kwargs", {}).get("static_graph") or None
    for name, value in found.items():
        if value is not None:
            raise ValueError(
                f"argument `{name}` of the strategy must be left out, since games exchange their gradients by "
                f"themselves, got {getattr(value, '__name__', value)}"
            )


def check_optimizers(optimizers: Iterable[Any], argument: str = "optimizer") -> None:
    """Refuse optimizers that are divided among processes, as torch's ``ZeroRedundancyOptimizer``.

    Each process then updates other weights before they are exchanged, so that PC-layers, whose singular vectors follow
    an update at once, drift apart.

    Raises:
        ValueError: naming its class.
    """
    for optimizer in optimizers:
        if hasattr(optimizer, "consolidate_state_dict"):  # which gathers the parts of its state
            raise ValueError(
                f"argument `{argument}` must hold its whole state in each process, got {type(optimizer).__name__}, "
                "which divides it"
            )


def _is_a(thing: object, *names: str) -> bool:
    """Return whether a thing is of one of Lightning's classes: its two packages have one each of the same name."""
    return any(kind.__name__ in names for kind in type(thing).__mro__)
