"""The command `pcgan`: which subcommand is called, and one line for every mistake."""

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override

# Imported for their names: a config may say `class_path: GAN` without the package's path.
from pcgan_lightning import callbacks, data, games, losses, metrics, modules, networks, optim  # noqa: F401
from pcgan_lightning.cli.compare import compare
from pcgan_lightning.cli.evaluate import evaluate
from pcgan_lightning.cli.fit import PCGANCLI, SaveRunConfig
from pcgan_lightning.cli.generate import generate
from pcgan_lightning.report import report
from pcgan_lightning.runs import check_classes, check_config_file, distrust_configs

FUNCTIONS: dict[str, Callable[..., None]] = {"evaluate": evaluate, "generate": generate}
COMMANDS = (*LightningCLI.subcommands(), *FUNCTIONS, "compare", "report", "classifier")
# Of all others, which may be mistakes of ours, the line tells the type and how to see more.
EXPECTED_ERRORS = (ArgumentError, ValueError, OSError, ModuleNotFoundError, MisconfigurationException)
CLASSIFIER = (modules.Classifier, data.LabelledImageDataModule)
# Some parsers repeat whole configurations.
LONGEST_LINE = 1500


class ClassifierCLI(LightningCLI):
    """LightningCLI that builds classes only."""

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        check_classes(self.config[self.config.subcommand], owners=CLASSIFIER)


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
            sys.exit(_report(str(error), hint=_advice(error)))
        sys.exit(_report(f"{type(error).__name__}: {error}", hint=" (--debug shows where)"))


def _run() -> None:
    """Call what the arguments name."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if not command.startswith("-") and command not in COMMANDS:
        raise ValueError(f"argument `command` must be one of {', '.join(COMMANDS)}, got {command or 'none'}")
    distrust_configs()
    for path in _config_files(sys.argv[2:]):
        check_config_file(path)
    if command in FUNCTIONS:
        _call(command)
    elif command == "report":
        _call_with_paths(report, "runs", "run folders of `pcgan fit`", sys.argv[2:])
    elif command == "compare":
        own, further = _split(sys.argv[2:])
        usage = "configurations of `pcgan fit`; arguments after -- go to each of them"
        _call_with_paths(compare, "configs", usage, own, arguments=further)
    elif command == "classifier":
        sys.argv[:2] = ["pcgan classifier"]
        description = "Train a classifier whose features score images."
        ClassifierCLI(
            *CLASSIFIER,
            auto_configure_optimizers=False,
            save_config_callback=None,
            parser_kwargs=_parser_kwargs(ClassifierCLI, "pcgan classifier", description),
        )
    else:
        description = (
            "Train GANs. Further commands: pcgan compare, generate, evaluate, report, classifier; each has --help."
        )
        PCGANCLI(
            modules.TwoPlayerModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveRunConfig,
            parser_kwargs=_parser_kwargs(PCGANCLI, "pcgan", description),
        )


def _call(command: str) -> None:
    """Call one of the functions with its arguments from the command line."""
    parser = ArgumentParser(prog=f"pcgan {command}", exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of arguments")
    parser.add_function_arguments(FUNCTIONS[command], as_positional=True, sub_configs=True)
    config = parser.parse_args(sys.argv[2:])
    check_classes(config)
    arguments = parser.instantiate_classes(config).as_dict()
    FUNCTIONS[command](**{name: value for name, value in arguments.items() if name != "config"})


def _call_with_paths(function: Callable[..., None], name: str, usage: str, said: list[str], **given: Any) -> None:
    """Call a function of several paths with its arguments from the command line."""
    parser = ArgumentParser(prog=f"pcgan {function.__name__}", exit_on_error=False)
    parser.add_argument(name, nargs="+", type=Path, help=usage)
    parser.add_function_arguments(function, skip={name, *given})
    function(**parser.parse_args(said).as_dict(), **given)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after ``--``."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _advice(error: Exception) -> str:
    """Return by which arguments a run goes on after an error, empty for one that has no such way."""
    if isinstance(error, callbacks.NonFiniteError) and error.checkpoint is not None:
        return " (--ckpt_path last continues, --guard.action=restore lets it go back by itself)"
    return ""


def _config_files(arguments: list[str]) -> list[Path]:
    """Return the files of all ``--config FILE`` and ``--config=FILE``."""
    pairs = [a.split("=", 1) for a in arguments if a.startswith("--config=")]
    pairs += [list(pair) for pair in itertools.pairwise(arguments) if pair[0] == "--config"]
    return [Path(path) for _, path in pairs if not path.lstrip().startswith("{")]


def _parser_kwargs(cli: type[LightningCLI], program: str, description: str) -> dict[str, Any]:
    """Return what makes parsers raise instead of printing a page of usage."""
    subcommands = {name: {"exit_on_error": False} for name in cli.subcommands()}
    return {"prog": program, "description": description, "exit_on_error": False, **subcommands}


def _report(message: str, hint: str = "") -> int:
    """Print an error as one line and return the exit status."""
    # jsonargparse tells of every type that it tried, and repeats whole configurations.
    noise = r"Does not validate|Subtypes:|Errors:$|Expected a <class 'NoneType'>|Given value type:|Given value: N"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    said = "; ".join(line for line in lines if line and not re.match(noise, line)).replace(":;", ":")
    said = said if len(said) <= LONGEST_LINE else f"{said[:LONGEST_LINE]} ..."
    print(f"pcgan: error: {said}{hint}", file=sys.stderr)
    return 1
