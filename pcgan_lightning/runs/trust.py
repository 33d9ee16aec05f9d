"""What a config or a checkpoint may name: classes of the kinds that are asked for, and nothing that is just called."""

import pkgutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

INSTANTIATORS = tuple(f"{package}.cli.instantiate_module" for package in ("lightning.pytorch", "pytorch_lightning"))
# Where Lightning finds the arguments of a module in a checkpoint: today's key, and those of old releases.
HYPER_PARAMETERS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, "hparams", "module_arguments")
# Of a file with all its aliases written out; the longest config of this package has a few hundred.
MAXIMUM_ENTRIES = 100_000
# Ends of the names of arguments that may be functions, in Python but not in a config.
CALLABLES = ("optimizer", "_scheduler", "layers", "sample", "target", "targets", "losses")
_PACKAGE = __name__.partition(".")[0]
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEFAULT_LOAD = get_loader("yaml")


def distrust_configs() -> None:
    """Let every parser of this process refuse what :func:`check_yaml` does, and build classes only where one is due.

    Without this, jsonargparse would build whatever class a config names where an argument has no type.
    """
    set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=[])
    set_loader("yaml", load_yaml, exceptions=(yaml.YAMLError,))


def load_yaml(text: str) -> Any:
    """Return what a YAML text says, which :func:`check_yaml` finds nothing wrong with."""
    check_yaml(text)
    return _DEFAULT_LOAD(text)


def check_yaml(text: str) -> None:
    """Refuse a YAML text with a key given twice, an alias of itself, or aliases that multiply into a giant.

    Raises:
        yaml.YAMLError: naming the key or the reason.
    """
    try:
        root = yaml.compose(text, Loader=_YAML_LOADER)
        size = _expanded_size(root, {}) if root is not None else 0
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    if size > MAXIMUM_ENTRIES:
        raise yaml.YAMLError(f"it has more than {MAXIMUM_ENTRIES:,} entries, its aliases written out")


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of nodes with all aliases written out; `sizes` has those of the nodes seen, 0 while inside."""
    if id(node) not in sizes:
        sizes[id(node)] = 0
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            for key, count in Counter(keys).items():
                if count > 1:
                    raise yaml.YAMLError(f"the key {key!r} is given twice (line {node.start_mark.line + 1} and below)")
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    if not sizes[id(node)]:
        raise yaml.YAMLError(f"the alias in line {node.start_mark.line + 1} is within what it stands for")
    return sizes[id(node)]


def check_config_file(path: Path) -> None:
    """Refuse a configuration file that can't be one, before it meets a parser, whose message would not name it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no YAML mapping, or :func:`check_yaml` refuses it.
    """
    rule = "argument `config` must be a YAML file of arguments"
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which does not exist"
        raise FileNotFoundError(f"{rule}, got {path}, {what}")
    try:
        text = path.read_text(encoding="utf-8")
        check_yaml(text)
        content = yaml.load(text, Loader=_YAML_LOADER)
    except (ValueError, yaml.YAMLError) as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines())
        raise ValueError(f"{rule}, got {path}: {reason}") from error
    if not isinstance(content, dict) or not content:
        found = "empty" if content in (None, {}) else f"a {type(content).__name__}"
        raise ValueError(f"{rule}, got {path}, which is {found}")


def check_classes(config: Any, *kinds: type) -> None:
    """Refuse whatever would be called that is no class, in a parsed configuration that is about to be built.

    jsonargparse itself checks that a class is of the kind that its place needs, where that place has a type; it also
    takes functions, and calls them.

    Args:
        config: mappings, ``Namespace`` and lists, as parsed.
        *kinds: where given, all classes must be of one of these, or derived from a class of this package.

    Raises:
        ValueError: naming the key and what was found there.
    """
    for key, value in _entries(config):
        if key.rpartition(".")[2] == "class_path":
            found = _import(value, key)
            if not isinstance(found, type):
                raise ValueError(f"argument `{key}` must name a class, got {value}, which is none")
            own = any(base.__module__.partition(".")[0] == _PACKAGE for base in found.__mro__)
            if kinds and not own and not issubclass(found, kinds):
                names = ", ".join(kind.__name__ for kind in kinds)
                raise ValueError(f"argument `{key}` must name a class derived from {names}, got {value}")
        elif key.endswith(CALLABLES) and callable(value) and not isinstance(value, type):
            named = value if hasattr(value, "__qualname__") else type(value)
            name = f"{named.__module__}.{named.__qualname__}"
            if not name.endswith("<lambda>"):  # those are our defaults
                raise ValueError(f"argument `{key}` must name a class, got {name}, which is none")


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
