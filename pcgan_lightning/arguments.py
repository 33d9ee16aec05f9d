"""Arguments of constructors: checked in one form, and recorded for checkpoints."""

import inspect
import math
import sys
from collections.abc import Collection
from typing import Any, Optional

from typing_extensions import Self


class RecordsArguments:
    """Keeps the constructor's arguments, defaults included, as ``init_args``; checkpoints build the object from them.

    Attributes:
        init_args: argument name -> value; what ``**kwargs`` took stands among the others.

    Example:
        >>> class Loss(RecordsArguments):
        ...     def __init__(self, weight=10.0):
        ...         self.weight = weight
        >>> Loss().init_args
        {'weight': 10.0}
    """

    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record, before the constructor can change anything."""
        instance = super().__new__(cls)
        try:
            # Of the constructor, not of the class: where a class has none, that would be the one of this method.
            bound = inspect.signature(cls.__init__).bind(instance, *args, **kwargs)
        except TypeError:  # the constructor itself says what is wrong; copies are made without arguments
            return instance
        bound.apply_defaults()
        recorded: dict[str, Any] = {}
        for name, parameter in list(bound.signature.parameters.items())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                recorded |= bound.arguments[name]
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                recorded[name] = bound.arguments[name]
        object.__setattr__(instance, "init_args", recorded)
        return instance


def import_path(kind: type) -> str:
    """Return the shortest import path of a class, which stays the same when its file moves within a package.

    Example:
        >>> from torch.optim import Adam
        >>> Adam.__module__, import_path(Adam)
        ('torch.optim.adam', 'torch.optim.Adam')
    """
    parts = kind.__module__.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        found: Any = sys.modules.get(package)
        for name in kind.__qualname__.split("."):
            found = getattr(found, name, None)
        if found is kind:
            return f"{package}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def require_at_least(least: float, **arguments: Optional[float]) -> None:
    """Refuse values below `least` by their arguments' names; None stands for an argument that was not given.

    Raises:
        ValueError: naming argument, rule and value.

    Example:
        >>> require_at_least(1, count=0)
        Traceback (most recent call last):
        ValueError: argument `count` must be at least 1, got 0
    """
    for name, value in arguments.items():
        if value is not None and not value >= least:
            raise ValueError(f"argument `{name}` must be at least {least}, got {value}")


def require_positive(**arguments: Optional[float]) -> None:
    """Refuse values that are not above 0; see :func:`require_at_least`."""
    for name, value in arguments.items():
        if value is not None and not value > 0:
            raise ValueError(f"argument `{name}` must be positive, got {value}")


def require_not_negative(**arguments: Optional[float]) -> None:
    """Refuse values below 0, and infinite ones; see :func:`require_at_least`."""
    for name, value in arguments.items():
        if value is not None and not value >= 0:
            raise ValueError(f"argument `{name}` must not be negative, got {value}")
        if value == math.inf:
            raise ValueError(f"argument `{name}` must be finite, got {value}")


def require_one_of(allowed: Collection[Any], **arguments: Any) -> None:
    """Refuse values that are none of `allowed`; see :func:`require_at_least`."""
    for name, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"argument `{name}` must be one of {', '.join(map(str, allowed))}, got {value!r}")
