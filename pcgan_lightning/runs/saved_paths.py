"""Paths in checkpoints: only the files of a callback's own folder are taken over from the state that it saved."""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Union

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

log = logging.getLogger("lightning.pytorch")

# What Lightning's ModelCheckpoint reads as paths, and removes when a better checkpoint is there.
_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path", "_last_checkpoint_saved")
_SCORES = "best_k_models"


def is_checkpoint_in(path: Any, folder: Union[str, Path, None]) -> bool:
    """Return whether a path is, or would be, a plain ``*.ckpt`` file in a folder or below, with no link out of it."""
    if not isinstance(path, str) or folder is None or "://" in path or not path.endswith(".ckpt"):
        return False
    try:
        own, file = Path(folder).resolve(), Path(path)
        # Below it as well: names of metrics, and so of files that are called by them, may have a slash.
        inside = own in file.resolve().parents and own in (file.parent / "x").resolve().parents
        return inside and (file.is_file() or not os.path.lexists(file))
    except (OSError, ValueError, RuntimeError):  # a name too long, with a zero byte, or a link to itself
        return False


def drop_foreign_paths(checkpoint: Mapping[str, Any], callbacks: Iterable[Any]) -> None:
    """Drop the paths out of the saved states of callbacks that are no checkpoints of their own folders.

    To be called before the callbacks load their states.

    Args:
        checkpoint: its content, which is changed.
        callbacks: of the Trainer, set up, so that those which write checkpoints know their ``dirpath``.
    """
    states = checkpoint.get("callbacks")
    if not isinstance(states, dict):
        return
    folders = {callback.state_key: getattr(callback, "dirpath", None) for callback in callbacks}
    # Lightning also looks a state up by the class, as old releases saved it.
    folders |= {type(callback): getattr(callback, "dirpath", None) for callback in callbacks}
    for key, state in states.items():
        if isinstance(state, Mapping):
            states[key] = without_foreign_paths(state, folders.get(key))


def without_foreign_paths(state: Mapping[str, Any], folder: Union[str, Path, None]) -> dict[str, Any]:
    """Return a callback's saved state without the paths that are no checkpoints in its folder; one line tells of them.

    Args:
        state: as ``state_dict`` gave it; ``dirpath`` stays, since it is only compared with the callback's own.
        folder: of the callback's checkpoints; None for a callback that writes none.
    """
    dropped: list[str] = []
    kept = {name: _kept(name, value, folder, dropped) for name, value in state.items()}
    scores = kept.get(_SCORES)
    if scores is not None:
        # Lightning looks the worst of them up among them.
        known = isinstance(scores, dict) and (not scores or kept.get("kth_best_model_path", "") in {"", *scores})
        kept[_SCORES] = {k: v for k, v in scores.items() if isinstance(v, Tensor)} if known else {}
        if not kept[_SCORES] and "kth_best_model_path" in kept:
            kept["kth_best_model_path"] = ""
    if dropped:
        where = "a callback without a folder" if folder is None else folder
        more = f" and {len(dropped) - 1} more" if len(dropped) > 1 else ""
        rank_zero_only(log.warning)(f"the checkpoint names files outside {where}, left alone: {dropped[0]}{more}")
    return kept


def _kept(name: Any, value: Any, folder: Union[str, Path, None], dropped: list[str]) -> Any:
    """Return a value of a state, with an empty text in the place of foreign paths, and without them as keys."""
    if name == "dirpath":
        return value
    if name in _PATHS or _is_path(value):
        if value in ("", None) or is_checkpoint_in(value, folder):
            return value
        dropped.append(_shown(value))
        return ""
    if isinstance(value, Mapping):
        foreign = [k for k in value if (name == _SCORES or _is_path(k)) and not is_checkpoint_in(k, folder)]
        dropped += map(_shown, foreign)
        return {k: _kept(k, v, folder, dropped) for k, v in value.items() if k not in foreign}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_kept(None, v, folder, dropped) for v in value)
    return value


def _is_path(value: Any) -> bool:
    """Return whether a value can only be a path: a metric's name may have a slash, but is not absolute."""
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str):
        return isinstance(value, os.PathLike)
    parts = {*PurePosixPath(value).parts, *PureWindowsPath(value).parts}
    absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    return absolute or "://" in value or value.startswith("~") or ".." in parts or value.endswith(".ckpt")


def _shown(value: Any, longest: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."
