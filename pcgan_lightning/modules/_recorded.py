"""Modules whose checkpoints tell what they are made of, and are read without trust."""

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import lightning.pytorch as pl
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor
from typing_extensions import Self, override

from pcgan_lightning.arguments import import_path
from pcgan_lightning.runs import (
    HYPER_PARAMETERS,
    check_hyper_parameters,
    drop_foreign_paths,
    read_checkpoint,
    read_yaml,
)

_REMEDY = "; a run is continued with the config.yaml of its folder"


class RecordedModule(pl.LightningModule):
    """A LightningModule that ``load_from_checkpoint(path)`` makes anew without any further argument."""

    def record(self, objects: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Keep the constructor's arguments in the checkpoint.

        Args:
            objects: arguments that are recorded by import path and arguments where they tell them (``init_args``, as
                all networks and losses of this package do); others must be passed to ``load_from_checkpoint`` again.
            arguments: all others, by value, or like the objects.
        """
        if _given_hyperparameters.get() is not None:
            self.save_hyperparameters()  # from the command line, Lightning knows the whole configuration
            return
        described = {n: _describe(o) for n, o in {**objects, **arguments}.items() if hasattr(o, "init_args")}
        self.save_hyperparameters(
            {
                **arguments,
                **described,
                "_class_path": import_path(type(self)),
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
            }
        )

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let no callback, Lightning's own included, take over a path out of its folder."""
        if self._trainer is not None:
            drop_foreign_paths(checkpoint, self.trainer.callbacks)  # type: ignore[attr-defined]

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: Optional[bool] = None,
        weights_only: Optional[bool] = None,
        **kwargs: Any,
    ) -> Self:
        """Lightning's, for files that are whole, and that name nothing to call but classes of a fitting kind.

        Args:
            checkpoint_path: a file, or an open one.
            map_location: see Lightning's method, as for all further arguments.
            hparams_file: YAML or CSV file of arguments.
            strict: whether the names of all weights must fit.
            weights_only: has no effect: it is always true.
            **kwargs: arguments in place of the checkpoint's.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or names anything else.
        """
        content = read_checkpoint(checkpoint_path, argument="checkpoint_path")
        check_hyper_parameters(content, cls, f"argument `checkpoint_path`, {checkpoint_path}", given=kwargs)
        if hparams_file is not None and Path(hparams_file).suffix in (".yml", ".yaml"):
            arguments = {HYPER_PARAMETERS[0]: read_yaml(Path(hparams_file), "hparams_file")}
            check_hyper_parameters(arguments, cls, f"argument `hparams_file`, {hparams_file}", given=kwargs)
        known = inspect.signature(pl.LightningModule.load_from_checkpoint).parameters
        safe = {"weights_only": True} if "weights_only" in known else {}
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, **safe, **kwargs)


def check_same_architecture(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint's state whose entries or shapes are not those of a module.

    Raises:
        ValueError: naming the first entry that differs.
    """
    different = sorted(own.keys() ^ saved.keys())
    if different:
        owner = "the checkpoint" if different[0] in saved else "this model"
        raise ValueError(
            f"the checkpoint must be of this model's architecture, but {different[0]!r} is only in {owner}{_REMEDY}"
        )
    for name, value in own.items():
        shapes = [tuple(v.shape) if isinstance(v, Tensor) else None for v in (saved[name], value)]
        if shapes[0] != shapes[1] and not name.endswith("_extra_state"):
            raise ValueError(
                f"the checkpoint must be of this model's architecture, but {name!r} has shape {shapes[0]} there "
                f"and {shapes[1]} here{_REMEDY}"
            )


def _describe(value: Any) -> dict[str, Any]:
    arguments = {n: _describe(a) if hasattr(a, "init_args") else copy.deepcopy(a) for n, a in value.init_args.items()}
    return {"class_path": import_path(type(value)), "init_args": arguments}
