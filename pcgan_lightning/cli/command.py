"""The command `pcgan`: which subcommand is called, and one line for every mistake."""

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

from pcgan_lightning import __version__
from pcgan_lightning.runs import check_config_file, distrust_configs

# What a command needs is imported where it is called: torch and Lightning alone take several seconds, which nobody
# should wait for a page of help or a mistyped argument.
COMMANDS = {
    "fit": "train a GAN, or go on with a run",
    "validate": "both players' losses on held-out images",
    "test": "the same by another name, as Lightning has it",
    "predict": "the discriminator's scores of images",
    "evaluate": "score a checkpoint: FID, inception score, KID, precision and recall, or modes",
    "generate": "images from a checkpoint",
    "compare": "train several configurations side by side, and write one page over them",
    "report": "write one page that compares runs",
    "classifier": "train a classifier whose features score images",
}
HELP = """usage: pcgan COMMAND ...

Train GANs whose discriminators are preconditioned.

commands, each with --help:
{commands}

options:
  -h, --help     show this page
  --version      show the version
  --debug        with a command: show the traceback of a mistake
"""
# Of all others, which may be mistakes of ours, the line tells the type and how to see more.
EXPECTED_ERRORS = (ArgumentError, ValueError, OSError, ModuleNotFoundError)
# Some parsers repeat whole configurations.
LONGEST_LINE = 1500


def main(arguments: Optional[list[str]] = None) -> None:
    """Run the command; expected mistakes end in one line and a non-zero status, ``--debug`` shows the traceback."""
    if arguments is not None:
        sys.argv[1:] = arguments
    debug = "--debug" in sys.argv
    sys.argv[1:] = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        _run()
    except Exception as error:
        if debug:
            raise
        if isinstance(error, EXPECTED_ERRORS) and str(error):
            sys.exit(_report(str(error)))
        sys.exit(_report(f"{type(error).__name__}: {error}", hint=" (--debug shows where)"))


def _run() -> None:
    """Call what the arguments name."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if not command.startswith("-") and command not in COMMANDS:
        raise ValueError(f"argument `command` must be one of {', '.join(COMMANDS)}, got {command or 'none'}")
    if command in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:14} {what}" for name, what in COMMANDS.items())), end="")
        return
    if command == "--version":
        print(f"pcgan {__version__}")
        return
    distrust_configs()
    for path in _config_files(sys.argv[2:]):
        check_config_file(path)
    if command == "evaluate":
        from pcgan_lightning.cli.evaluate import evaluate

        _call(evaluate, builds_classes=True)
    elif command == "generate":
        from pcgan_lightning.cli.generate import generate

        _call(generate)
    elif command == "report":
        from pcgan_lightning.report import report

        _call_with_paths(report, "runs", "run folders of `pcgan fit`", sys.argv[2:])
    elif command == "compare":
        from pcgan_lightning.cli.compare import compare

        own, further = _split(sys.argv[2:])
        usage = "configurations of `pcgan fit`; arguments after -- go to each of them"
        _call_with_paths(compare, "configs", usage, own, arguments=further)
    else:
        from pcgan_lightning.cli.training import train, train_classifier

        train_classifier() if command == "classifier" else train()


def _call(function: Callable[..., None], builds_classes: bool = False) -> None:
    """Call a function with its arguments from the command line."""
    parser = ArgumentParser(prog=f"pcgan {function.__name__}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of arguments")
    parser.add_function_arguments(function, as_positional=True, sub_configs=True)
    config = parser.parse_args(sys.argv[2:])
    if builds_classes:
        from pcgan_lightning.runs import check_classes

        check_classes(config)
    arguments = parser.instantiate_classes(config).as_dict()
    function(**{name: value for name, value in arguments.items() if name != "config"})


def _call_with_paths(function: Callable[..., None], name: str, usage: str, said: list[str], **given: Any) -> None:
    """Call a function of several paths with its arguments from the command line."""
    parser = ArgumentParser(prog=f"pcgan {function.__name__}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument(name, nargs="+", type=Path, help=usage)
    parser.add_function_arguments(function, skip={name, *given})
    function(**parser.parse_args(said).as_dict(), **given)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after ``--``."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _config_files(arguments: list[str]) -> list[Path]:
    """Return the files of all ``--config FILE`` and ``--config=FILE``."""
    pairs = [a.split("=", 1) for a in arguments if a.startswith("--config=")]
    pairs += [list(pair) for pair in itertools.pairwise(arguments) if pair[0] == "--config"]
    return [Path(path) for _, path in pairs if not path.lstrip().startswith("{")]


def _report(message: str, hint: str = "") -> int:
    """Print an error as one line and return the exit status."""
    # jsonargparse tells of every type that it tried, and repeats whole configurations.
    noise = r"Does not validate|Subtypes:|Errors:$|Expected a <class 'NoneType'>|Given value type:|Given value: N"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    said = "; ".join(line for line in lines if line and not re.match(noise, line)).replace(":;", ":")
    said = said if len(said) <= LONGEST_LINE else f"{said[:LONGEST_LINE]} ..."
    print(f"pcgan: error: {said}{hint}", file=sys.stderr)
    return 1
