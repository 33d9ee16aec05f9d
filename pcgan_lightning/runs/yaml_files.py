"""Configurations as text: YAML that can only be data, and small enough to be written out."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

# Of a file with all its aliases written out; the longest config of this package has a few hundred.
MAXIMUM_ENTRIES = 100_000
# Parts of Python's library whose types are values of arguments, such as an interval of time.
_TYPES = {"builtins", "collections", "datetime", "functools", "pathlib", "typing"}
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEFAULT_LOAD = get_loader("yaml")


def distrust_configs() -> None:
    """Let every parser of this process refuse what :func:`check_yaml` does, and build classes only where one is due.

    Without this, jsonargparse would build whatever class a config names where an argument has no type. Nothing of
    Python's own library is imported by a value, but for the types that may be one.
    """
    denied = sorted(sys.stdlib_module_names - _TYPES)
    set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=denied)
    set_loader("yaml", _load_for_parser, exceptions=(yaml.YAMLError,))


def _load_for_parser(text: str) -> Any:
    check_yaml(text)
    return _DEFAULT_LOAD(text)


def load_yaml(text: str) -> Any:
    """Return what a YAML text says, which :func:`check_yaml` finds nothing wrong with; the one way to read YAML.

    Raises:
        ValueError: in one line, for what is no YAML, or refused.
    """
    try:
        check_yaml(text)
        return yaml.load(text, Loader=_YAML_LOADER)
    except (ValueError, yaml.YAMLError) as error:  # a date may be none
        raise ValueError("; ".join(line.strip() for line in str(error).splitlines())) from error


def read_yaml(path: Path, argument: str) -> Any:
    """Return what a YAML file says.

    Args:
        path: the file.
        argument: whose value the path is, for the message.

    Raises:
        ValueError: naming the file, as :func:`load_yaml` does.
    """
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"argument `{argument}` must be a readable YAML file, got {path}: {error}") from error


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
        content = load_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{rule}, got {path}: {error}") from error
    if not isinstance(content, dict) or not content:
        found = "empty" if content in (None, {}) else f"a {type(content).__name__}"
        raise ValueError(f"{rule}, got {path}, which is {found}")
