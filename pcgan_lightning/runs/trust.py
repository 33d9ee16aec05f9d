"""What a config or a checkpoint may name: classes of the kinds that are asked for, and nothing that is just called."""

import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from jsonargparse.typing import Path
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pcgan_lightning.games import DualingMethod, GameMethod
from pcgan_lightning.losses import AdversarialLoss, DiscriminatorPenalty

INSTANTIATORS = tuple(f"{package}.cli.instantiate_module" for package in ("lightning.pytorch", "pytorch_lightning"))
# Where Lightning finds the arguments of a module in a checkpoint: today's key, and those of old releases.
HYPER_PARAMETERS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, "hparams", "module_arguments")
_PACKAGE = __name__.partition(".")[0]
_KINDS = (nn.Module, Optimizer, LRScheduler, AdversarialLoss, DiscriminatorPenalty, GameMethod, DualingMethod)
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
# Texts in a checkpoint that can be no path, address, import path or configuration.
_WORDS = re.compile(r"[\w+\-, ]*")


def check_classes(config: Any, owners: Iterable[type] = ()) -> None:
    """Refuse whatever would be called that is no class, in a parsed configuration that is about to be built.

    jsonargparse itself checks that a class is of the kind that its place needs, where that place has a type; it also
    takes functions, and calls them. Whatever can be called and is no class is refused, under any key, but for the
    defaults of the constructors that the configuration names.

    Args:
        config: mappings, ``Namespace`` and lists, as parsed.
        owners: further classes of which the configuration holds arguments, without naming them.

    Raises:
        ValueError: naming the key and what was found there.
    """
    entries = list(_entries(config))
    named = [_named_class(value, key) for key, value in entries if key.rpartition(".")[2] == "class_path"]
    defaults = [default for kind in (*owners, *named) for default in _defaults(kind)]
    for key, value in entries:
        # Paths as jsonargparse has them can be called too, and return their text.
        harmless = not callable(value) or isinstance(value, (type, Path))
        if not harmless and not any(value is default for default in defaults):
            raise ValueError(f"argument `{key}` must name a class, got {_name(value)}, which is none")


def _name(value: Any) -> str:
    origin = value if hasattr(value, "__qualname__") else type(value)
    return f"{origin.__module__}.{origin.__qualname__}"


def _named_class(path: Any, key: str) -> type:
    """Return the class that an import path in a configuration names, which was imported when it was parsed."""
    _check_import_path(path, key)
    try:
        found = pkgutil.resolve_name(path)
    except Exception as error:  # the import of a foreign module may fail in any way
        raise ValueError(f"argument `{key}` must be the import path of a class, got {path}: {error}") from error
    if not isinstance(found, type):
        raise ValueError(f"argument `{key}` must name a class, got {path}, which is none")
    return found


def _defaults(kind: type) -> Iterator[Any]:
    """Yield the defaults of a class's constructor, and of those that it may hand its arguments on to."""
    base: Any  # subclasses may have other constructors, which mypy warns of
    for base in kind.__mro__:
        if inspect.isfunction(base.__init__):
            yield from (parameter.default for parameter in inspect.signature(base.__init__).parameters.values())


def check_hyper_parameters(
    content: Mapping[str, Any], base: type, origin: str, given: Collection[str] = (), built: bool = True
) -> None:
    """Refuse a checkpoint whose arguments are more than data: numbers, plain words, and classes of fitting kinds.

    Networks, losses, penalties, methods, optimizers and schedulers may be named, of this package or of a module that
    this process has imported already: nothing is imported because of what a checkpoint says, beside this package. A
    text that may be a path, an address or a configuration is refused, so that no constructor opens what it names.

    Args:
        content: of the checkpoint.
        base: what its module must be.
        origin: where it came from, for the message.
        given: names of the arguments that others take the place of.
        built: whether a module will be made of the arguments; where none is, texts may be anything.

    Raises:
        ValueError: naming the entry and what was found there.
    """
    try:
        if callable(content.get(LightningModule.CHECKPOINT_HYPER_PARAMS_TYPE)):
            raise ValueError(f"its `{LightningModule.CHECKPOINT_HYPER_PARAMS_TYPE}` must be a name")
        for name in HYPER_PARAMETERS:
            _check_arguments(name, content.get(name, {}), base, given, built)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


def _check_arguments(name: str, arguments: Any, base: type, given: Collection[str], built: bool) -> None:
    if not isinstance(arguments, Mapping):
        raise ValueError(f"its `{name}` must be a mapping, got {type(arguments).__name__}")
    instantiator, path = arguments.get("_instantiator"), arguments.get("_class_path")
    if instantiator is not None and instantiator not in INSTANTIATORS:
        raise ValueError(f"its `_instantiator` must be {INSTANTIATORS[0]}, got {_shown(instantiator)}")
    if path is not None:
        _known_class(path, "_class_path", (base,))
    rest = {k: v for k, v in arguments.items() if k not in ("_instantiator", "_class_path", *given)}
    for key, value in _entries(rest):
        if key.rpartition(".")[2] == "class_path":
            _known_class(value, key, _KINDS)
        elif callable(value):
            raise ValueError(f"argument `{key}` must name a class, got {_name(value)}, which is none")
        elif isinstance(value, (bytes, os.PathLike)):
            raise ValueError(f"argument `{key}` must be a number or a text in a checkpoint, got {_shown(value)}")
        # A word may be the name of a file as well, which a constructor would open.
        elif built and isinstance(value, str) and (not _WORDS.fullmatch(value) or os.path.isfile(value)):
            _known_class(value, key, _KINDS)


def _known_class(path: Any, key: str, kinds: tuple[type, ...]) -> type:
    """Return the class that an import path in a checkpoint names, without importing anything beside this package."""
    _check_import_path(path, key)
    package, *names = path.split(".")
    hidden = package == _PACKAGE and any(name == "cli" or name.startswith("__") for name in names)
    try:
        found = pkgutil.resolve_name(path) if package == _PACKAGE and not hidden else _imported(path)
    except Exception:  # of this package's optional parts
        found = None
    if found is None:
        rule = "must name a class whose module this process has imported already"
        raise ValueError(f"argument `{key}` {rule}, got {_shown(path)}; if you trust it, import it first")
    if not isinstance(found, type) or not issubclass(found, kinds):
        names = [kind.__name__ for kind in kinds]
        raise ValueError(f"argument `{key}` must name a class derived from {', '.join(names)}, got {_shown(path)}")
    return found


def _imported(path: str) -> Any:
    """Return what an import path names in the modules that are there; None without any, or where it names nothing."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:length]))
        if found is not None:
            for name in parts[length:]:
                # Not getattr: modules may import others when they are asked for a name.
                found = inspect.getattr_static(found, name, None)
            return found
    return None


def _shown(value: Any, longest: int = 100) -> str:
    text = value if isinstance(value, str) and _IMPORT_PATH.fullmatch(value) else repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


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


def _check_import_path(path: Any, key: str) -> None:
    """Refuse what is no import path, or one of Python itself, which is no place for such a class."""
    if not isinstance(path, str) or not _IMPORT_PATH.fullmatch(path):
        raise ValueError(f"argument `{key}` must be a plain word or an import path, got {_shown(path)}")
    if path.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"argument `{key}` must not name anything of Python's own library, got {_shown(path)}")
