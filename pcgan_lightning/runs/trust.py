"""What a config or a checkpoint may name: classes of the kinds that are asked for, and nothing that is just called."""

import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from jsonargparse.typing import Path
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

INSTANTIATORS = tuple(f"{package}.cli.instantiate_module" for package in ("lightning.pytorch", "pytorch_lightning"))
# Where Lightning finds the arguments of a module in a checkpoint: today's key, and those of old releases.
HYPER_PARAMETERS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, "hparams", "module_arguments")
_PACKAGE = __name__.partition(".")[0]


def check_classes(config: Any, *kinds: type, owners: Iterable[type] = ()) -> None:
    """Refuse whatever would be called that is no class, in a parsed configuration that is about to be built.

    jsonargparse itself checks that a class is of the kind that its place needs, where that place has a type; it also
    takes functions, and calls them. Whatever can be called and is no class is refused, under any key, but for the
    defaults of the constructors that the configuration names.

    Args:
        config: mappings, ``Namespace`` and lists, as parsed.
        *kinds: where given, all classes must be of one of these, or derived from a class of this package.
        owners: further classes of which the configuration holds arguments, without naming them.

    Raises:
        ValueError: naming the key and what was found there.
    """
    entries = list(_entries(config))
    named = [_named_class(value, key, kinds) for key, value in entries if key.rpartition(".")[2] == "class_path"]
    defaults = [default for kind in (*owners, *named) for default in _defaults(kind)]
    for key, value in entries:
        # Paths as jsonargparse has them can be called too, and return their text.
        harmless = not callable(value) or isinstance(value, (type, Path))
        if not harmless and not any(value is default for default in defaults):
            origin = value if hasattr(value, "__qualname__") else type(value)
            name = f"{origin.__module__}.{origin.__qualname__}"
            raise ValueError(f"argument `{key}` must name a class, got {name}, which is none")


def _named_class(path: Any, key: str, kinds: tuple[type, ...]) -> type:
    """Return the class that an import path names, of one of some kinds or of this package."""
    found = _import(path, key)
    if not isinstance(found, type):
        raise ValueError(f"argument `{key}` must name a class, got {path}, which is none")
    own = any(base.__module__.partition(".")[0] == _PACKAGE for base in found.__mro__)
    if kinds and not own and not issubclass(found, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"argument `{key}` must name a class derived from {names}, got {path}")
    return found


def _defaults(kind: type) -> Iterator[Any]:
    """Yield the defaults of a class's constructor, and of those that it may hand its arguments on to."""
    base: Any  # subclasses may have other constructors, which mypy warns of
    for base in kind.__mro__:
        if inspect.isfunction(base.__init__):
            yield from (parameter.default for parameter in inspect.signature(base.__init__).parameters.values())


def check_hyper_parameters(content: Mapping[str, Any], base: type, origin: str) -> None:
    """Refuse a checkpoint whose arguments make Lightning call anything but the constructors of fitting classes.

    Args:
        content: of the checkpoint.
        base: what its module must be.
        origin: where it came from, for the message.

    Raises:
        ValueError: naming the entry and what was found there.
    """
    try:
        for name in HYPER_PARAMETERS:
            _check_arguments(name, content.get(name, {}), base)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


def _check_arguments(name: str, arguments: Any, base: type) -> None:
    if not isinstance(arguments, Mapping):
        raise ValueError(f"its `{name}` must be a mapping, got {type(arguments).__name__}")
    instantiator, path = arguments.get("_instantiator"), arguments.get("_class_path")
    if instantiator is not None and instantiator not in INSTANTIATORS:
        raise ValueError(f"its `_instantiator` must be {INSTANTIATORS[0]}, got {instantiator}")
    if path is not None:
        found = _import(path, "_class_path")
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ValueError(f"its `_class_path` must name a {base.__name__}, got {path}")
    check_classes(arguments, nn.Module, Optimizer, LRScheduler)


def _entries(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all leaves of nested mappings and lists, with their dotted keys."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, Mapping):
        for name, value in config.items():
            # Between an argument and those of its class stands a key that nobody types.
            yield from _entries(value, key if name == "init_args" else f"{key}.{name}" if key else str(name))
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _entries(value, key)
    else:
        yield key, config


def _import(path: Any, key: str) -> Any:
    """Return what an import path names; a module of Python itself is no place for such a class, and not imported."""
    if not isinstance(path, str) or "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"argument `{key}` must be an import path, got {path!r}")
    if path.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"argument `{key}` must not name anything of Python's own library, got {path}")
    try:
        return pkgutil.resolve_name(path)
    except Exception as error:  # the import of a foreign module may fail in any way
        raise ValueError(f"argument `{key}` must be the import path of a class, got {path}: {error}") from error
