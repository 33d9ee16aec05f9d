"""`pcgan fit` and Lightning's other subcommands, and those of the classifier."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override

# Imported for their names: a config may say `class_path: GAN` without the package's path.
from pcgan_lightning import callbacks, data, games, losses, metrics, modules, networks, optim  # noqa: F401
from pcgan_lightning.cli.fit import PCGANCLI, SaveRunConfig
from pcgan_lightning.runs import check_classes

CLASSIFIER = (modules.Classifier, data.LabelledImageDataModule)


class ClassifierCLI(LightningCLI):
    """LightningCLI that builds classes only."""

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        check_classes(self.config[self.config.subcommand], owners=CLASSIFIER)


def train() -> None:
    """Call the subcommand that stands in ``sys.argv``."""
    with _expected_mistakes():
        PCGANCLI(
            modules.TwoPlayerModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveRunConfig,
            parser_kwargs=_parser_kwargs(PCGANCLI, "pcgan", "Train GANs."),
        )


def train_classifier() -> None:
    """Call the subcommand that stands in ``sys.argv`` after ``classifier``."""
    sys.argv[:2] = ["pcgan classifier"]
    description = "Train a classifier whose features score images."
    with _expected_mistakes():
        ClassifierCLI(
            *CLASSIFIER,
            auto_configure_optimizers=False,
            save_config_callback=None,
            parser_kwargs=_parser_kwargs(ClassifierCLI, "pcgan classifier", description),
        )


@contextmanager
def _expected_mistakes() -> Iterator[None]:
    """Make ValueErrors of Lightning's mistakes, and say by which arguments a run goes on."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except callbacks.NonFiniteError as error:
        if error.checkpoint is None:
            raise
        advice = "--ckpt_path last continues, --guard.action=restore lets it go back by itself"
        raise ValueError(f"{error} ({advice})") from error


def _parser_kwargs(cli: type[LightningCLI], program: str, description: str) -> dict[str, Any]:
    """Return what makes parsers raise instead of printing a page of usage."""
    # Subcommands take over that nothing may be abbreviated: a misspelt argument must not pass for another one.
    subcommands = {name: {"exit_on_error": False} for name in cli.subcommands()}
    return {
        "prog": program,
        "description": description,
        "exit_on_error": False,
        "allow_abbrev": False,
        **subcommands,
    }
