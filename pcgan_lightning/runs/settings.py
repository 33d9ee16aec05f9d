"""Settings that differ from those of the checkpoint that a run goes on from, and what becomes of each."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

SETTINGS = "run_settings"  # a checkpoint's entry, in JSON
# What is about the call, and not about the training.
NOT_COMPARED = ("config", "ckpt_path", "run_dir")

_TAKES_EFFECT = "takes effect from here on"
_REFUSED = "is refused"
# What those of a run had before there was such a setting.
_EARLIER = {"preconditioning.scale": "unit"}
_REMAINS = "has no effect, the checkpoint's "

# The first pattern that matches a setting says what becomes of its change.
_OUTCOMES = (
    ("seed_everything", f"{_REMAINS}random numbers go on"),
    ("threads", f"{_TAKES_EFFECT}, and sums may be rounded otherwise than before"),
    ("model.class_path", _REFUSED),
    ("model.*_scheduler.total_iterations", _TAKES_EFFECT),  # of LinearDecay, which leaves it out of its state
    ("model.*_scheduler.class_path", _REFUSED),
    ("model.*_scheduler.*", f"{_REMAINS}schedule goes on"),
    ("model.*_scheduler", _REFUSED),
    ("model.*_optimizer*.class_path", _REFUSED),
    *((f"model.*_optimizer*.{flag}", _REFUSED) for flag in ("amsgrad", "centered", "maximize", "nesterov")),
    *(
        (f"model.*_optimizer*.{flag}", f"{_REMAINS}way of computing goes on")
        for flag in ("capturable", "differentiable", "foreach", "fused")
    ),
    ("model.*_optimizer*", _TAKES_EFFECT),
    ("model.generator*.initialization", f"{_REMAINS}weights go on"),
    ("model.discriminator*.initialization", f"{_REMAINS}weights go on"),
    *((f"model.discriminator_{name}", _TAKES_EFFECT) for name in ("first", "steps")),
    ("model.generator_steps", _TAKES_EFFECT),
    *((f"model.{player}{rest}", _REFUSED) for player in ("generator", "discriminator") for rest in ("", ".*")),
    ("model.*", _TAKES_EFFECT),
    ("data.seed", f"{_REMAINS}order of the data goes on"),
    ("data.*", _TAKES_EFFECT),
    ("preconditioning.scale", _REFUSED),
    ("preconditioning", "takes effect where it is put on; the checkpoint's PC-layers stay where it is left out"),
    *((f"{key}.*", _TAKES_EFFECT) for key in ("trainer", "preconditioning", "scores", "checkpoint", "progress")),
    *((f"{key}.*", _TAKES_EFFECT) for key in ("guard", "collapse", "spectrum", "samples")),
    ("scores", _TAKES_EFFECT),
)
_UNKNOWN = "is another one than the checkpoint's, and may have no effect"


class Difference(NamedTuple):
    """A setting that is not the checkpoint's.

    Attributes:
        name: dotted.
        former: its value in the checkpoint.
        now: its value now.
        outcome: what becomes of it, as the end of a sentence.
    """

    name: str
    former: Any
    now: Any
    outcome: str

    @property
    def refused(self) -> bool:
        """Whether a run can't go on with it."""
        return self.outcome == _REFUSED

    def __str__(self) -> str:
        name = self.name.encode("unicode_escape").decode()  # it may be a stranger's, as the checkpoint
        former, now = _brief(self.former), _brief(self.now)
        if self.refused:
            return f"argument `{name}` must stay the checkpoint's in a run that goes on, {former}, got {now}"
        return f"setting `{name}`, {former} in the checkpoint and {now} now, {self.outcome}"


def compare_settings(former: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return all settings that differ, in the order in which they stand.

    Args:
        former: nested settings of the run that wrote the checkpoint.
        now: those of the run that goes on from it.
    """
    found = _differences(former, now)
    return [Difference(name, a, b, outcome(name)) for name, a, b in found if name not in NOT_COMPARED]


def outcome(name: str) -> str:
    """Return what becomes of a changed setting."""
    return next((said for pattern, said in _OUTCOMES if fnmatchcase(name, pattern)), _UNKNOWN)


def _differences(former: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if not (isinstance(former, Mapping) and isinstance(now, Mapping)):
        if former is None:
            former = _EARLIER.get(name)
        if former != now:
            yield name, former, now
        return
    if former.get("class_path") != now.get("class_path"):  # whose arguments are others as well
        yield f"{name}.class_path", former.get("class_path"), now.get("class_path")
        return
    for key in dict.fromkeys([*former, *now]):
        # Between an argument and those of its class stands a key that nobody types.
        inner = name if key in ("init_args", "dict_kwargs") and name else f"{name}.{key}" if name else str(key)
        yield from _differences(former.get(key), now.get(key), inner)


def _brief(value: Any) -> str:
    text = repr(value.get("class_path", "{...}") if isinstance(value, Mapping) else value)
    return text if len(text) <= 100 else f"{text[:97]}..."
