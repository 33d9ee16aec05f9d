"""Options of optimizers that a run which goes on from a checkpoint has changed."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from pcgan_lightning.arguments import import_path

# A group's entries that are no options, or say how to compute and not what.
_NOT_COMPARED = ("params", "param_names", "initial_lr", "capturable", "differentiable", "foreach", "fused")

Asked = list[dict[str, Any]]


def options_of(optimizer: Optimizer) -> Asked:
    """Return the classes and options of a fresh optimizer and of those within it, as a checkpoint may hold them."""
    return [
        {"class_path": import_path(type(one)), "groups": [_options(group) for group in one.param_groups]}
        for one in _with_inner(optimizer)
    ]


def check_changes(player: str, former: Asked, now: Asked) -> None:
    """Refuse options with which an optimizer can't use a checkpoint's state.

    Raises:
        ValueError: naming the option.
    """
    kinds = [[one["class_path"] for one in asked] for asked in (former, now)]
    rule = f"argument `{player}_optimizer` must be the checkpoint's"
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{rule}, {' with '.join(kinds[0])}, whose state no other can use, got {' with '.join(kinds[1])}"
        )
    for old, new in zip(former, now, strict=True):
        if len(old["groups"]) != len(new["groups"]):
            raise ValueError(f"{rule} with {len(old['groups'])} groups of parameters, got {len(new['groups'])}")
        for _, key, was, value in _changes(old, new):
            # There is no state yet for what is switched on.
            if isinstance(value, bool) or (key == "momentum" and not (was and value)):
                raise ValueError(f"{rule} with {key}={was}, on which its state depends, got {value}")


def apply_changes(optimizer: Optimizer, schedulers: Sequence[Any], former: Asked, now: Asked) -> None:
    """Let options that differ from those that the checkpoint's run asked for have their new values.

    To be called when the checkpoint's state is loaded. Under a scheduler a learning rate is the base of all that come.

    Args:
        optimizer: with the options of the checkpoint.
        schedulers: of all optimizers.
        former: what the checkpoint's run asked for.
        now: what this one asks for.
    """
    for one, old, new in zip(_with_inner(optimizer), former, now, strict=True):
        for number, key, was, value in _changes(old, new):
            group = one.param_groups[number]
            if key != "lr":
                group[key] = value
                continue
            rate = value * float(group["lr"]) / was if "initial_lr" in group and was else value
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
            for scheduler in _schedulers_of(one, schedulers):
                group["initial_lr"] = scheduler.base_lrs[number] = value


def _options(group: dict[str, Any]) -> dict[str, Any]:
    plain = {key: float(v) if isinstance(v, Tensor) else v for key, v in group.items() if key not in _NOT_COMPARED}
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
    return {key: v for key, v in plain.items() if isinstance(v, (bool, int, float, str, tuple, type(None)))}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[int, str, Any, Any]]:
    """Yield the group, the name, and both values of each option that differs."""
    for number, (former, now) in enumerate(zip(old["groups"], new["groups"], strict=True)):
        for key, value in now.items():
            if key in former and former[key] != value:
                yield number, key, former[key], value


def _with_inner(optimizer: Optimizer) -> list[Optimizer]:
    return [optimizer, *getattr(optimizer, "inner", {}).values()]


def _schedulers_of(optimizer: Optimizer, schedulers: Sequence[Any]) -> Iterator[Any]:
    """Yield an optimizer's schedulers, and those that they consist of."""
    for scheduler in schedulers:
        if getattr(scheduler, "optimizer", None) is optimizer:
            if hasattr(scheduler, "base_lrs"):
                yield scheduler
            yield from _schedulers_of(optimizer, getattr(scheduler, "_schedulers", ()))
