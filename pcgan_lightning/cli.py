"""The command `pcgan`: train, evaluate and sample from configuration files."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from typing import Any, Optional

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

# Imported for their names: a config may say `class_path: GAN` without the package's path.
from pcgan_lightning import callbacks, data, games, losses, metrics, modules, networks, optim  # noqa: F401
from pcgan_lightning.callbacks import GANProgressBar, Preconditioning, SampleGridLogger, ScoreLogger, SpectrumLogger
from pcgan_lightning.checkpoints import read_checkpoint
from pcgan_lightning.evaluate import evaluate
from pcgan_lightning.generate import generate
from pcgan_lightning.report import report
from pcgan_lightning.runs import CONFIG_FILE, RunCSVLogger, RunRecord, check_unused, last_checkpoint, unused_path
from pcgan_lightning.trust import check_classes, check_config_file, check_hyper_parameters, distrust_configs

FUNCTIONS = {"evaluate": evaluate, "generate": generate}
COMMANDS = (*LightningCLI.subcommands(), *FUNCTIONS, "report", "classifier")
# Of all others, which may be mistakes of ours, the line tells the type and how to see more.
EXPECTED_ERRORS = (ArgumentError, ValueError, OSError, ModuleNotFoundError, MisconfigurationException)
# Some parsers repeat whole configurations.
LONGEST_LINE = 1500

LOGGER_PACKAGES = {
    "CometLogger": ("comet_ml",),
    "MLFlowLogger": ("mlflow",),
    "NeptuneLogger": ("neptune",),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "WandbLogger": ("wandb",),
}
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-4, "betas": [0.0, 0.9]}}
DEFAULTS = {
    "model": {
        "class_path": "GAN",
        "init_args": {
            "loss": {"class_path": "HingeLoss"},
            "generator_optimizer": ADAM,
            "discriminator_optimizer": ADAM,
        },
    },
    "data": {"class_path": "ImageDataModule"},
    "checkpoint.every_n_train_steps": 1000,
    "checkpoint.filename": "iteration_{step:07d}",
    "checkpoint.auto_insert_metric_name": False,
}


class PCGANCLI(LightningCLI):
    """LightningCLI with a run folder and the package's callbacks as top-level keys.

    ``run_dir`` is where a fit leaves everything: the resolved ``config.yaml``, ``metrics.csv``, ``checkpoints/``,
    ``samples/``, ``spectra/``. A folder that holds a run is refused, unless that run is continued with
    ``--ckpt_path last`` or a checkpoint of the folder.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``run_dir`` and the callbacks that every run has."""
        parser.add_argument("--run_dir", type=str, default="runs/pcgan", help="Folder of everything a fit writes.")
        parser.add_subclass_arguments(Preconditioning, "preconditioning", required=False, fail_untyped=False)
        parser.callback_keys.append("preconditioning")
        parser.add_subclass_arguments(ScoreLogger, "scores", required=False)
        parser.callback_keys.append("scores")
        parser.add_lightning_class_args(SpectrumLogger, "spectrum")
        parser.add_lightning_class_args(SampleGridLogger, "samples")
        parser.add_lightning_class_args(GANProgressBar, "progress")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(DEFAULTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse a damaged checkpoint and functions in the place of classes before anything is built."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_classes(config)
        _check_numbers(config)
        if self.config.subcommand == "fit" and Path(config.run_dir).is_file():
            raise FileExistsError(f"argument `run_dir` must be a folder, got the file {config.run_dir}")
        if config.get("ckpt_path") not in (None, "", "last"):
            _check_checkpoint(Path(config.ckpt_path), self.config.subcommand)

    def _parse_ckpt_path(self) -> None:
        # Lightning lets a checkpoint's hyperparameters replace the configuration. A fit is what was asked for, and the
        # module refuses a checkpoint that does not fit; an evaluation needs no configuration beside its checkpoint.
        if self.config.subcommand != "fit":
            super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """Settle the run folder, and refuse one that is taken, before anything is built."""
        config = self.config[self.subcommand]
        # The saved configuration is what was asked for, so that it serves for another run folder as well.
        self.save_config_kwargs = {"requested": config.clone()}
        folder, checkpoint = Path(config.run_dir), config.get("ckpt_path")
        if checkpoint == "last":
            config.ckpt_path = checkpoint = str(last_checkpoint(folder))
            _check_checkpoint(Path(checkpoint), self.subcommand)
        if self.subcommand == "fit":
            if not checkpoint or folder.resolve() not in Path(checkpoint).resolve().parents:
                check_unused(folder)
            config.trainer.default_root_dir = str(folder)
            _send_logs_to(folder, config.trainer)
        elif config.trainer.logger is None:
            config.trainer.logger = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the callbacks of this subcommand."""
        configured = {key: self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys}
        if self.subcommand != "fit":
            configured = {"preconditioning": configured["preconditioning"]}
        trainer_config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        if trainer_config.get("enable_progress_bar") is False or trainer_config.get("barebones"):
            configured.pop("progress", None)
        if trainer_config.get("enable_checkpointing") is False:
            configured.pop("checkpoint", None)
        chosen = [c for c in configured.values() if c is not None]
        if self.subcommand == "fit":
            chosen.append(RunRecord())
        return self._instantiate_trainer(trainer_config, chosen)

    def after_fit(self) -> None:
        """Save the final state, whatever the interval of checkpoints."""
        if not self.trainer.fast_dev_run and self.trainer.checkpoint_callback is not None:
            self.trainer.save_checkpoint(Path(self.trainer.default_root_dir) / "checkpoints" / "last.ckpt")


class SaveRunConfig(SaveConfigCallback):
    """Save the resolved configuration in the run folder and hand it to the loggers; a continued run keeps both.

    Args:
        parser: the parser of the subcommand.
        config: the configuration with all loggers and folders in place; not saved.
        requested: the configuration as it was asked for.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, requested: Namespace) -> None:
        super().__init__(parser, requested)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing yet: what fails before training must not claim the folder."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, all in one file whatever pieces it was composed from."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, unused_path(folder / CONFIG_FILE), skip_none=False, multifile=False)
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the configuration to the loggers as hyperparameters."""
        for logger in trainer.loggers:
            if not isinstance(logger, RunCSVLogger):  # the folder has it already
                logger.log_hyperparams({"config": self.parser.dump(self.config, skip_none=False)})


class ClassifierCLI(LightningCLI):
    """LightningCLI that builds classes only."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse functions in the place of classes."""
        super().parse_arguments(parser, args)
        check_classes(self.config[self.config.subcommand])


def _check_numbers(config: Namespace) -> None:
    """Refuse what Lightning takes without a word, or refuses without its name."""
    if config.trainer.max_steps == 0 or config.trainer.max_steps < -1:
        raise ValueError(f"argument `max_steps` must be positive, or -1 for no limit, got {config.trainer.max_steps}")
    seed = config.seed_everything
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"argument `seed_everything` must be in 0..{2**32 - 1}, got {seed}")


def _check_checkpoint(path: Path, subcommand: str = "fit") -> None:
    """Refuse a file that is no whole checkpoint of a game of this package, or that holds too little to go on from."""
    if not path.is_file():
        raise FileNotFoundError(f"argument `ckpt_path` must be a checkpoint file or 'last', got {path}")
    content = read_checkpoint(path)
    needed = ("pytorch-lightning_version", "global_step")
    needed += ("loops", "optimizer_states", "lr_schedulers") if subcommand == "fit" else ()
    rule = f"argument `ckpt_path` must be a checkpoint of this package, got {path}"
    for name in needed:
        if name not in content:
            raise ValueError(f"{rule}: it lacks {name!r}")
    check_hyper_parameters(content, modules.TwoPlayerModule, rule)


def _send_logs_to(folder: Path, trainer: Namespace) -> None:
    """Give a fit `metrics.csv`, and the configured loggers without a folder of their own the run folder."""
    if trainer.logger is False or trainer.fast_dev_run:
        return
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    loggers = [logger for logger in loggers if logger not in (None, True)]
    for logger in loggers:
        _check_package(logger.class_path.rpartition(".")[2])
        if logger.init_args.get("save_dir") in (None, "."):
            logger.init_args["save_dir"] = str(folder)
    own = Namespace(
        class_path=f"{RunCSVLogger.__module__}.{RunCSVLogger.__qualname__}",
        init_args=Namespace(save_dir=str(folder)),
    )
    trainer.logger = [own, *loggers]


def _check_package(logger: str) -> None:
    """Say what to install for a logger of Lightning's; the parser would only say that it is no valid logger."""
    packages = LOGGER_PACKAGES.get(logger, ())
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        raise ModuleNotFoundError(
            f"argument `trainer.logger` {logger} needs the package {packages[0]}, which is not installed: "
            f"pip install {packages[0]}"
        )


def main(arguments: Optional[list[str]] = None) -> None:
    """Run the command; expected mistakes end in one line and a non-zero status, ``--debug`` shows the traceback."""
    if arguments is not None:
        sys.argv[1:] = arguments
    debug = "--debug" in sys.argv
    sys.argv[1:] = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        command = sys.argv[1] if len(sys.argv) > 1 else ""
        if not command.startswith("-") and command not in COMMANDS:
            raise ValueError(f"argument `command` must be one of {', '.join(COMMANDS)}, got {command or 'none'}")
        distrust_configs()
        for path in _config_files(sys.argv[2:]):
            check_config_file(path)
        if command in FUNCTIONS:
            parser = ArgumentParser(prog=f"pcgan {command}", exit_on_error=False)
            parser.add_argument("--config", action=ActionConfigFile, help="YAML file of arguments")
            parser.add_function_arguments(FUNCTIONS[command], as_positional=True, sub_configs=True)
            config = parser.parse_args(sys.argv[2:])
            check_classes(config)
            arguments = parser.instantiate_classes(config).as_dict()
            FUNCTIONS[command](**{name: value for name, value in arguments.items() if name != "config"})
        elif command == "report":
            parser = ArgumentParser(prog="pcgan report", exit_on_error=False)
            parser.add_argument("runs", nargs="+", type=Path, help="run folders of `pcgan fit`")
            parser.add_function_arguments(report, skip={"runs"})
            report(**parser.parse_args(sys.argv[2:]).as_dict())
        elif command == "classifier":
            sys.argv[:2] = ["pcgan classifier"]
            ClassifierCLI(
                modules.Classifier,
                data.LabelledImageDataModule,
                auto_configure_optimizers=False,
                save_config_callback=None,
                parser_kwargs=_parser_kwargs("pcgan classifier", "Train a classifier whose features score images."),
            )
        else:
            PCGANCLI(
                modules.TwoPlayerModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                save_config_callback=SaveRunConfig,
                parser_kwargs=_parser_kwargs(
                    "pcgan",
                    "Train GANs. Further commands: pcgan generate, evaluate, report, classifier; each has --help.",
                ),
            )
    except Exception as error:
        if debug:
            raise
        if isinstance(error, EXPECTED_ERRORS) and str(error):
            sys.exit(_report(str(error)))
        sys.exit(_report(f"{type(error).__name__}: {error}", hint=" (--debug shows where)"))


def _config_files(arguments: list[str]) -> list[Path]:
    """Return the files of all ``--config FILE`` and ``--config=FILE``."""
    pairs = [a.split("=", 1) for a in arguments if a.startswith("--config=")]
    pairs += [list(pair) for pair in itertools.pairwise(arguments) if pair[0] == "--config"]
    return [Path(path) for _, path in pairs if not path.lstrip().startswith("{")]


def _parser_kwargs(program: str, description: str) -> dict[str, Any]:
    """Return what makes parsers raise instead of printing a page of usage."""
    subcommands = {name: {"exit_on_error": False} for name in LightningCLI.subcommands()}
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


if __name__ == "__main__":
    main()
