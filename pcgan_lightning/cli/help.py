"""The page of `pcgan fit --help`: this package's arguments by purpose, those of Lightning's Trainer on request."""

import re
import sys
import textwrap
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Optional

EXAMPLES = {
    "a small GAN on digits, in a few minutes": "--config configs/quickstart.yaml",
    "other parts, and another length": (
        "--config configs/quickstart.yaml --run_dir runs/mine --preconditioning=FixedPreconditioning "
        "--preconditioning.degree=7 --model.loss=WassersteinLoss --trainer.max_steps=5000"
    ),
    "go on with an interrupted run": "--config runs/quickstart/config.yaml --ckpt_path last",
}
# Title -> option, or group of options with a star, -> what is said of it; None for the first sentence of its own help.
SECTIONS: dict[str, dict[str, Optional[str]]] = {
    "The run": {
        "--config": "YAML file of these arguments; others replace what it says",
        "--run_dir": "folder of everything that is written",
        "--ckpt_path": '"last": go on with the run in that folder, or begin it; a file: start from that checkpoint',
        "--seed_everything": "seed of all randomness; true: drawn at random",
        "--print_config": "show what all this resolves to, and stop",
    },
    "What is trained": {
        "--model": "GAN, SimultaneousGAN or DualingGAN. `--model.help=GAN` explains its arguments, such as "
        "--model.loss, and `--model.generator.help=ResNetGenerator` those of a part",
        "--data": "ImageDataModule, MixtureOfGaussians, StackedDigits, or one of your own; `--data.help=CLASS`",
        "--preconditioning": "FixedPreconditioning, AdaptivePreconditioning or SVDParametrization; "
        "`--preconditioning.help=CLASS`",
    },
    "How long, where and how": {
        "--trainer.max_steps": "iterations, each with one turn of both players; -1: no limit",
        "--trainer.accelerator": "auto, cpu, gpu, ...",
        "--trainer.devices": "how many, or which",
        "--trainer.precision": "32-true, bf16-mixed, ...",
        "--trainer.val_check_interval": "iterations between validations",
        "--trainer.logger": "WandbLogger, TensorBoardLogger, ... beside metrics.csv",
        "--trainer.callbacks": "further callbacks, such as BalanceLogger or Acceleration",
        "--trainer.fast_dev_run": "a trial of one iteration that leaves nothing",
    },
    "What is measured": {"--scores": "ScoreLogger; `--scores.help=ScoreLogger`", "--spectrum.*": None},
    "What is shown": {"--samples.*": None, "--progress.*": None},
    "What is saved": {
        "--checkpoint.every_n_train_steps": "iterations between checkpoints",
        "--checkpoint.save_top_k": "how many are kept; -1: all",
        "--checkpoint.monitor": "logged value by which the best are kept, such as a score; none: the latest are",
        "--checkpoint.mode": "min or max, which of its values is the best",
    },
    "What watches over it": {"--guard.*": None, "--collapse.*": None},
}
WIDTH, COLUMN = 110, 36


def show_help(parsers: Mapping[str, ArgumentParser]) -> None:
    """Print what ``--help`` or ``--help-all`` after a subcommand asks for, and end; return where neither is asked for.

    Args:
        parsers: of the subcommands.
    """
    command, flags = "".join(sys.argv[1:2]), {*sys.argv[2:]}
    if command not in parsers or not flags & {"-h", "--help", "--help-all"}:
        return
    if "--help-all" in flags:
        parsers[command].print_help()
    else:
        print("\n".join(_page(command, parsers[command])))
    sys.exit()


def _page(command: str, parser: ArgumentParser) -> Iterator[str]:
    """Yield the lines of the short help."""
    yield f"usage: pcgan {command} [--config FILE] [--ARGUMENT VALUE ...]"
    for purpose, arguments in EXAMPLES.items():
        yield f"\n# {purpose}"
        yield from textwrap.wrap(f"pcgan {command} {arguments}", WIDTH - 4, subsequent_indent="    ")
    for title, contents in SECTIONS.items():
        yield f"\n{title}:"
        for option, text in contents.items():
            for action in parser._actions:
                if _is_named(action, option):
                    yield from _lines(action, text)
    yield f"\nAll arguments, those of Lightning's Trainer too: pcgan {command} --help-all"


def _is_named(action: Action, option: str) -> bool:
    """Return whether an argument is that option, or of that group."""
    if option.endswith("*"):
        return any(name.startswith(option[:-1]) and not name.endswith(".help") for name in action.option_strings)
    return option in action.option_strings


def _lines(action: Action, text: Optional[str]) -> Iterator[str]:
    """Yield one argument's lines: its name, what it is, its default where that is short."""
    name = next(name for name in action.option_strings if name.startswith("--"))
    own = re.sub(r":\w+:`(\w+)`", r"\1", action.help or "")  # marks of a docstring
    said = " ".join((text or re.split(r"(?<!e\.g)[.;:](?:\s|$)", own, maxsplit=1)[0]).split())
    default = str(action.default).lower() if isinstance(action.default, bool) else action.default
    if default not in (None, "", SUPPRESS) and isinstance(default, (str, int, float)):
        said += f" (default: {default})"
    first, *others = textwrap.wrap(said, WIDTH - COLUMN)
    yield f"  {name:{COLUMN - 2}}{first}" if len(name) < COLUMN - 3 else f"  {name}\n{'':{COLUMN}}{first}"
    yield from (f"{'':{COLUMN}}{line}" for line in others)
